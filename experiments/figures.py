"""How figures look and are saved (colours, sizes, deterministic files), and the drawing of replica
timelines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from experiments.output import whole_file
from experiments.scores.costs import PRICE

# Okabe and Ito's palette: told apart with every common form of colour blindness.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
SERIES = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK, YELLOW)
# A type of GPU has the same colour in every figure, report and page: these, as in look.js.
GPU_COLOURS = (
    *(BLUE, ORANGE, GREEN, PURPLE, SKY, "#882255"),
    *("#999933", "#332288", "#44AA99", "#AA4499", "#DDCC77", "#661100"),
)
GPUS = ("H100", "L40S", "MI250", "A100", "L4", "G2", "MI300X", "H200", "MI210", "B200")
GREY = "#666666"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_PANEL_IN = (5.0, 1.9)
_HEAD_IN, _FOOT_IN = 0.6, 0.6
# Of a panel: what stands left of its axes and below them, and the axes.
_LEFT_IN, _GAP_IN, _WIDE_IN, _HIGH_IN, _TICK_IN = 0.55, 0.25, 3.75, 1.42, 0.05
PANELS_MAX = 60
"""Servers that a figure shows; of more nobody sees one."""


def our_style() -> AbstractContextManager[None]:
    """Give the settings under which figures are made, drawn and saved."""
    return mpl.rc_context(
        {
            "font.size": 9,
            "axes.titlesize": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.hashsalt": "inferno",  # the ids in an SVG are random without it
            "svg.fonttype": "none",
        }
    )


def new_figure(*, width_in: float, height_in: float, automatic: bool = True) -> Figure:
    """Return an empty figure in our style, without the global state of pyplot; its layout is found
    or left to you.
    """
    with our_style():
        return Figure(figsize=(width_in, height_in), layout="constrained" if automatic else None)


def save_figure(figure: Figure, stem: Path, *, svg: bool = False) -> list[Path]:
    """Write *figure* as PNG, and if asked as SVG beside it, each whole or not at all; equal figures
    give equal bytes. An SVG of many panels takes longer than all else that a run writes.
    """
    metadata: dict[str, dict[str, Any]] = {"png": {"Software": None}}
    if svg:
        metadata["svg"] = {"Date": None, "Creator": None}
    written = []
    for kind, notes in metadata.items():
        target = stem.with_suffix(f".{kind}")
        with whole_file(target) as part, our_style():
            figure.savefig(part, format=kind, dpi=120, metadata=notes)
        figure.set_layout_engine("none")  # found once, it serves both files
        written.append(target)
    return written


Spells = Sequence[tuple[float, float, str]]


def draw_timelines(
    counts: pd.DataFrame,
    minutes: pd.DataFrame,
    fleet: pd.DataFrame,
    *,
    titles: Mapping[str, str],
    heading: str,
    accelerators: Mapping[str, Spells],
) -> Figure:
    """Draw the fleet over all columns, then one panel per server of *titles* (by name, in order)
    from the frames and the accelerator_spells (by server) of `experiments.timeline`; of more than
    PANELS_MAX those that missed most minutes.

    All panels are marks on one page, and what looks alike is one mark: axes of its own for each
    would take several times as long as all that they show.
    """
    if len(titles) > PANELS_MAX:
        heading += f" ({PANELS_MAX} of {len(titles)} servers, those that missed most minutes)"
        missed = minutes.groupby("server")["violated"].sum()
        most = sorted(titles, key=lambda name: -missed[name])[:PANELS_MAX]
        titles = {name: title for name, title in titles.items() if name in most}
    columns = 1 if len(titles) <= 2 else 2 if len(titles) <= 8 else 3
    rows = 1 + math.ceil(len(titles) / columns)
    width_in, height_in = _PANEL_IN[0] * columns, _PANEL_IN[1] * rows + _HEAD_IN + _FOOT_IN
    figure = new_figure(width_in=width_in, height_in=height_in, automatic=False)
    with our_style():
        page = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0.0, width_in), ylim=(0.0, height_in))
        page.set_axis_off()
        marks = _Marks(page)
        by_name = (dict(iter(frame.groupby("server", sort=False))) for frame in (counts, minutes))
        counts_of, minutes_of = by_name
        whole = _Panel(
            left_in=_LEFT_IN,
            bottom_in=height_in - _HEAD_IN - _PANEL_IN[1] + _GAP_IN,
            wide_in=(columns - 1) * _PANEL_IN[0] + _WIDE_IN,
            lowest=False,
        )
        _draw_fleet(marks, whole, fleet)
        for number, (name, title) in enumerate(titles.items(), start=columns):
            row, column = divmod(number, columns)
            panel = _Panel(
                left_in=column * _PANEL_IN[0] + _LEFT_IN,
                bottom_in=height_in - _HEAD_IN - (row + 1) * _PANEL_IN[1] + _GAP_IN,
                # The last of its column tells the time.
                lowest=number >= len(titles),
            )
            _draw_server(marks, panel, counts_of[name], minutes_of[name], title=title)
            _write_accelerators(marks, panel, accelerators.get(name, ()))
        marks.draw()
        figure.suptitle(heading, fontsize=11, y=1 - 0.12 / height_in, verticalalignment="top")
        figure.legend(handles=_timeline_legend(), loc="lower center", ncols=5, frameon=False)
    return figure


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    """Where on the page [in] a server is drawn."""

    left_in: float
    bottom_in: float
    lowest: bool
    wide_in: float = _WIDE_IN

    def x_in(self, t_s: Any, end_s: float) -> Any:
        """Return where instants of a run that ends at *end_s* are."""
        return self.left_in + self.wide_in * np.asarray(t_s, dtype=float) / end_s

    def y_in(self, values: Any, top: float) -> Any:
        """Return where values on an axis from 0 to *top* are."""
        return self.bottom_in + _HIGH_IN * np.asarray(values, dtype=float) / top


class _Marks:
    """Areas, lines and words on a page, gathered by how they look."""

    def __init__(self, page: Axes) -> None:
        self._page = page
        self._areas: dict[tuple[str, float], list[Any]] = {}
        self._lines: dict[tuple[str, float, Any], list[Any]] = {}

    def area(self, x_in: Any, low_in: Any, high_in: Any, *, color: str, alpha: float) -> None:
        """Fill between two lines."""
        outline = np.column_stack(
            (np.concatenate((x_in, x_in[::-1])), np.concatenate((high_in, low_in[::-1])))
        )
        self._areas.setdefault((color, alpha), []).append(outline)

    def line(
        self, x_in: Any, y_in: Any, *, color: str, width: float, dashes: Any = "solid"
    ) -> None:
        """Draw a line."""
        self._lines.setdefault((color, width, dashes), []).append(np.column_stack((x_in, y_in)))

    def word(self, x_in: float, y_in: float, text: str, **how: Any) -> None:
        """Write *text*."""
        self._page.text(x_in, y_in, text, **how)

    def draw(self) -> None:
        """Put areas and lines on the page, the first that were gathered below."""
        for (color, alpha), outlines in self._areas.items():
            self._page.add_collection(
                PolyCollection(outlines, facecolors=color, alpha=alpha, linewidths=0),
                autolim=False,
            )
        for (color, width, dashes), lines in self._lines.items():
            self._page.add_collection(
                LineCollection(lines, colors=color, linewidths=width, linestyles=[dashes]),
                autolim=False,
            )


def _draw_server(
    marks: _Marks, panel: _Panel, counts: pd.DataFrame, minutes: pd.DataFrame, *, title: str
) -> None:
    """Draw wanted, ready and starting replicas (left), the arrival rate (right), and spans over
    violated minutes.
    """
    end_s = float(counts["t_s"].max())
    violated = minutes[minutes["violated"]]
    bottom_in, top_in = panel.bottom_in, panel.bottom_in + _HIGH_IN
    for begin_s, length_s in zip(violated["start_s"], violated["length_s"], strict=True):
        span_in = panel.x_in([begin_s, begin_s + length_s], end_s)
        marks.area(span_in, [bottom_in] * 2, [top_in] * 2, color=PURPLE, alpha=0.4)
    ready, wanted = counts["ready"].to_numpy(), counts["wanted"].to_numpy()
    present = ready + counts["starting"].to_numpy()
    top = 1.15 * max(1.0, float(wanted.max()), float(present.max()))
    x_in = _steps(panel.x_in(counts["t_s"], end_s), shift=1)
    ready_in, present_in, wanted_in = (
        _steps(panel.y_in(values, top), shift=0) for values in (ready, present, wanted)
    )
    marks.area(x_in, np.full(x_in.size, bottom_in), ready_in, color=SKY, alpha=0.35)
    marks.area(x_in, ready_in, present_in, color=ORANGE, alpha=1.0)
    marks.line(x_in, ready_in, color=BLUE, width=1.8)
    marks.line(x_in, wanted_in, color=BLACK, width=1.0, dashes=(0, (3, 1.5)))
    rate_top = 1.15 * max(1.0, float(minutes["rate_rpm"].max()))
    middle_s = minutes["start_s"] + minutes["length_s"] / 2
    marks.line(
        panel.x_in(middle_s, end_s),
        panel.y_in(minutes["rate_rpm"], rate_top),
        color=VERMILLION,
        width=1.0,
    )
    axes = (
        _Axis(top=top, label="replicas", whole=True),
        _Axis(top=rate_top, label="req/min", color=VERMILLION),
    )
    _draw_frame(marks, panel, *axes, end_s=end_s, title=title)


def _draw_fleet(marks: _Marks, panel: _Panel, fleet: pd.DataFrame) -> None:
    """Draw the GPUs that are held, by type (left), and what they cost (right)."""
    end_s = float(fleet["t_s"].max())
    types = [name for name in fleet.columns if name not in ("t_s", PRICE) and fleet[name].any()]
    held = np.cumsum([np.zeros(len(fleet)), *(fleet[kind].to_numpy() for kind in types)], axis=0)
    top = 1.15 * max(1.0, float(held[-1].max()))
    x_in = _steps(panel.x_in(fleet["t_s"], end_s), shift=1)
    edges_in = [_steps(panel.y_in(values, top), shift=0) for values in held]
    high_in = panel.bottom_in + _HIGH_IN
    key_in = panel.left_in + 0.5
    for number, (kind, color) in enumerate(gpu_colours(types).items()):
        # Types beyond the colours are lighter ones of the same.
        alpha = 0.45 if number < len(GPU_COLOURS) else 0.2
        marks.area(x_in, edges_in[number], edges_in[number + 1], color=color, alpha=alpha)
        box_in = np.array([key_in, key_in + 0.15])
        low_in = np.full(2, high_in + 0.08)
        marks.area(box_in, low_in, low_in + 0.1, color=color, alpha=alpha)
        marks.word(key_in + 0.2, high_in + 0.07, kind, ha="left", va="bottom", fontsize=8)
        key_in += 0.4 + 0.07 * len(kind)
    axes = [_Axis(top=top, label="GPUs held", whole=True)]
    if not fleet[PRICE].isna().any():
        cost_top = 1.15 * max(1e-9, float(fleet[PRICE].max()))
        cost_in = _steps(panel.y_in(fleet[PRICE], cost_top), shift=0)
        marks.line(x_in, cost_in, color=VERMILLION, width=1.2)
        axes.append(_Axis(top=cost_top, label="$ an hour", color=VERMILLION))
    _draw_frame(marks, panel, *axes, end_s=end_s, title="fleet")


def gpu_colours(types: Sequence[str]) -> dict[str, str]:
    """Return the colour of each of *types*: that of its place in GPUS, whatever stands beside it. A
    type that is not there gets one of those left by its name, or the next if that is taken here.
    """
    found = {kind: GPU_COLOURS[GPUS.index(kind)] for kind in types if kind in GPUS}
    left = len(GPU_COLOURS) - len(GPUS)
    for kind in sorted(set(types) - found.keys()):
        first = len(GPUS) + crc32(kind.encode()) % left
        order = [*GPU_COLOURS[first:], *GPU_COLOURS[:first]]
        found[kind] = next((one for one in order if one not in found.values()), order[0])
    return {kind: found[kind] for kind in types}


def _write_accelerators(marks: _Marks, panel: _Panel, spells: Spells) -> None:
    """Write the accelerator of each spell where it begins, if there is room for it."""
    if not spells:
        return
    end_s = spells[-1][1]
    low_in, high_in = panel.bottom_in, panel.bottom_in + _HIGH_IN
    for begin_s, until_s, name in spells:
        x_in = panel.x_in([begin_s, until_s], end_s)
        if begin_s > 0.0:
            marks.line([x_in[0]] * 2, [low_in, high_in], color=GREY, width=0.8, dashes=(0, (1, 2)))
        if x_in[1] - x_in[0] >= 0.06 * (len(name) + 1):
            marks.word(x_in[0] + 0.03, low_in + 0.03, name, fontsize=7, va="bottom")


def _steps(values: Any, *, shift: int) -> Any:
    """Return *values* as the corners of steps: each holds until the next."""
    return np.repeat(values, 2)[shift : len(values) * 2 - 1 + shift]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """What a vertical axis from 0 to *top* measures; *whole*: in whole numbers."""

    top: float
    label: str
    color: str = BLACK
    whole: bool = False


def _draw_frame(marks: _Marks, panel: _Panel, *axes: _Axis, end_s: float, title: str) -> None:
    """Draw the axes of a panel, left and right, with what they measure."""
    left, bottom = panel.left_in, panel.bottom_in
    right, high = left + panel.wide_in, bottom + _HIGH_IN
    marks.line([left, left, right], [high, bottom, bottom], color=BLACK, width=0.8)
    middle = bottom + _HIGH_IN / 2
    places = ((left, -1, "right", 0.38), (right, 1, "left", 0.45))
    for axis, (at, side, align, away_in) in zip(axes, places, strict=False):
        marks.line([at, at], [high, bottom], color=BLACK, width=0.8)
        whole = MaxNLocator(nbins=4, integer=True, min_n_ticks=2)
        for value in _ticks(whole if axis.whole else MaxNLocator(nbins=4), axis.top):
            y_in = float(panel.y_in(value, axis.top))
            marks.line([at, at + side * _TICK_IN], [y_in] * 2, color=axis.color, width=0.8)
            away = at + side * 1.8 * _TICK_IN
            marks.word(away, y_in, f"{value:g}", color=axis.color, ha=align, va="center")
        marks.word(
            at + side * away_in,
            middle,
            axis.label,
            color=axis.color,
            rotation=90,
            ha="center",
            va="center",
        )
    for value in _ticks(MaxNLocator(nbins=8, steps=[1, 2, 2.5, 5, 10]), end_s / 60.0):
        x_in = float(panel.x_in(60.0 * value, end_s))
        marks.line([x_in] * 2, [bottom, bottom - _TICK_IN], color=BLACK, width=0.8)
        if panel.lowest:
            marks.word(x_in, bottom - 1.8 * _TICK_IN, f"{value:g}", ha="center", va="top")
    if panel.lowest:
        marks.word(left + panel.wide_in / 2, bottom - 0.22, "time [min]", ha="center", va="top")
    marks.word(left, high + 0.07, title, ha="left", va="bottom", fontsize=8)


def _ticks(locator: MaxNLocator, most: float) -> list[float]:
    return [float(value) for value in locator.tick_values(0.0, most) if 0.0 <= value <= most]


def _timeline_legend() -> list[Line2D | Patch]:
    return [
        Line2D([], [], color=BLACK, linewidth=1.0, linestyle=(0, (3, 1.5)), label="wanted"),
        Patch(facecolor=SKY, edgecolor=BLUE, alpha=0.6, label="ready"),
        Patch(color=ORANGE, label="starting"),
        Line2D([], [], color=VERMILLION, linewidth=1.0, label="arrivals, cost (right axes)"),
        Patch(color=PURPLE, alpha=0.4, label="minute in which a target was missed"),
    ]
