"""How figures look and are saved: colours, sizes, deterministic files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from experiments.output import whole_file
from twin.spec import SpecError

# What draws is imported by the functions that draw: a page or a table needs the colours alone.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with every common form of colour blindness.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
# Policies, causes and types of GPUs have the same colours in figures and on pages (look.js).
SERIES = (
    *(BLUE, ORANGE, GREEN, PURPLE, SKY, "#882255"),
    *("#999933", "#332288", "#44AA99", "#AA4499", "#DDCC77", "#661100"),
)
GPUS = ("H100", "L40S", "MI250", "A100", "L4", "G2", "MI300X", "H200", "MI210", "B200")
GREY = "#666666"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# A thirteenth policy has the first colour again: its line is dashed (as in charts.js), its marker
# empty.
DASHES = ("-", "--", ":", "-.")

WIDTH_IN_MIN, WIDTH_IN_MAX = 2.5, 40.0


def our_style() -> AbstractContextManager[None]:
    """Give the settings under which figures are made, drawn and saved."""
    import matplotlib as mpl

    return mpl.rc_context(
        {
            "font.size": 9,
            "axes.titlesize": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.hashsalt": "inferno",  # the ids in an SVG are random without it
            "svg.fonttype": "none",
            "text.parse_math": False,  # a server may be named with dollar signs
        }
    )


def new_figure(*, width_in: float, height_in: float, automatic: bool = True) -> Figure:
    """Return an empty figure in our style, without the global state of pyplot; its layout is found
    or left to you.
    """
    from matplotlib.figure import Figure

    with our_style():
        return Figure(figsize=(width_in, height_in), layout="constrained" if automatic else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How figures are drawn and written: as SVG beside PNG, and for a page of so many inches, at
    whose width letters are as large as its text; width_in None: for a screen.
    """

    svg: bool = False
    width_in: float | None = None

    def __post_init__(self) -> None:
        """Raise SpecError for a width that no page has."""
        if self.width_in is not None and not WIDTH_IN_MIN <= self.width_in <= WIDTH_IN_MAX:
            raise SpecError(
                f"width: expected {WIDTH_IN_MIN:g} to {WIDTH_IN_MAX:g} inches, "
                f"found {self.width_in:g}"
            )


SCREEN = Form()


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """An empty figure of panels, in rows, and where its legend goes."""

    figure: Figure
    columns: int
    rows: int
    legend: Mapping[str, Any]


def grid_of(
    panels: int,
    *,
    panel_in: tuple[float, float],
    beside_in: float,
    above_in: float = 0.3,
    keys: int = 0,
    form: Form,
    columns_max: int = 3,
    narrowest_in: float = 2.6,
) -> Grid:
    """Return a figure of so many *panels*. For a screen each is *panel_in* large, and beside them
    *beside_in* is left for a legend; on a page it stands below, if there are *keys*.
    """
    if form.width_in is None:
        columns = min(panels, columns_max)
        rows = -(-panels // columns)
        width_in = panel_in[0] * columns + beside_in
        legend: dict[str, Any] = {"loc": "outside right center"}
        below_in = 0.0
    else:
        columns = max(min(panels, columns_max, int(form.width_in / narrowest_in)), 1)
        rows = -(-panels // columns)
        width_in = form.width_in
        beside = max(int(width_in / 1.2), 1)
        legend = {"loc": "outside lower center", "ncols": beside}
        below_in = 0.2 * -(-keys // beside)
    figure = new_figure(width_in=width_in, height_in=panel_in[1] * rows + above_in + below_in)
    return Grid(figure=figure, columns=columns, rows=rows, legend=legend)


def save_figure(figure: Figure, stem: Path, form: Form = SCREEN) -> list[Path]:
    """Write *figure* as PNG, and if asked as SVG beside it, each whole or not at all; equal figures
    give equal bytes. An SVG of many panels takes longer than all else that a run writes.
    """
    metadata: dict[str, dict[str, Any]] = {"png": {"Software": None}}
    if form.svg:
        metadata["svg"] = {"Date": None, "Creator": None}
    dpi = 120 if form.width_in is None else 300
    written = []
    for kind, notes in metadata.items():
        target = stem.with_suffix(f".{kind}")
        with whole_file(target) as part, our_style(), warnings.catch_warnings():
            # A box stands for a letter that the font lacks, as names in other scripts have them.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(part, format=kind, dpi=dpi, metadata=notes)
        figure.set_layout_engine("none")  # found once, it serves both files
        written.append(target)
    return written


def colour_of(place: int) -> str:
    """Return the colour of the policy at *place*."""
    return SERIES[place % len(SERIES)]


def dash_of(place: int) -> str:
    """Return the dash of the line of the policy at *place*, where another has its colour."""
    return DASHES[place // len(SERIES) % len(DASHES)]


def is_filled(place: int) -> bool:
    """Return whether the marker of the policy at *place* is filled: every other one of a colour."""
    return place // len(SERIES) % 2 == 0


def span_of(means: Any, lows: Any, highs: Any, *, most: float) -> tuple[float, float]:
    """Return the part of an axis to show of *means* with bars from *lows* to *highs*, none of them
    below 0 or above *most*: all means, and their bars as far as these do not drown the differences.
    Bars that reach further are cut by the frame, where it can be seen.
    """
    known = np.isfinite(means)
    if not means[known].any():  # no figure, or no more than 0
        return 0.0, 1.0
    means, lows, highs = means[known], lows[known], highs[known]
    room = max(float(np.ptp(means)), 0.05 * float(means.max()), 1e-9)
    low = max(float(np.nanmin([means, lows])), float(means.min()) - room)
    high = min(float(np.nanmax([means, highs])), float(means.max()) + room)
    # The interval of a few seeds reaches further than a share or a cost can be.
    low, high = max(low - 0.1 * room, 0.0), min(high, most)
    return low, high + 0.1 * min(room, high - low)


def gpu_colours(types: Sequence[str]) -> dict[str, str]:
    """Return the colour of each of *types*: that of its place in GPUS, whatever stands beside it. A
    type that is not there gets one of those left by its name, or the next if that is taken here.
    """
    found = {kind: SERIES[GPUS.index(kind)] for kind in types if kind in GPUS}
    left = len(SERIES) - len(GPUS)
    for kind in sorted(set(types) - found.keys()):
        first = len(GPUS) + crc32(kind.encode()) % left
        order = [*SERIES[first:], *SERIES[:first]]
        found[kind] = next((one for one in order if one not in found.values()), order[0])
    return {kind: found[kind] for kind in types}
