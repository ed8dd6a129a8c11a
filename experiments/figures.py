"""How figures look and are saved (colours, sizes, deterministic files), and the drawing of replica
timelines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from experiments.output import whole_file

# Okabe and Ito's palette: told apart with every common form of colour blindness.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
SERIES = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK, YELLOW)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_PANEL_IN = (5.0, 1.9)
_HEAD_IN, _FOOT_IN = 0.6, 0.8


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


def draw_timelines(
    counts: pd.DataFrame, minutes: pd.DataFrame, *, titles: Mapping[str, str], heading: str
) -> Figure:
    """Draw one panel per server of *titles* (by name, in order) from the frames of
    `experiments.timeline`.
    """
    columns = 1 if len(titles) <= 2 else 2 if len(titles) <= 8 else 3
    rows = math.ceil(len(titles) / columns)
    width_in, height_in = _PANEL_IN[0] * columns, _PANEL_IN[1] * rows + _HEAD_IN + _FOOT_IN
    figure = new_figure(width_in=width_in, height_in=height_in, automatic=False)
    # Margins in inches: a layout found by trial takes half a minute for thirty panels.
    figure.subplots_adjust(
        left=0.55 / width_in,
        right=1 - 0.7 / width_in,
        bottom=_FOOT_IN / height_in,
        top=1 - _HEAD_IN / height_in,
        wspace=0.33,
        hspace=0.32,
    )
    with our_style():
        grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
        for ax, (name, title) in zip(grid.flat, titles.items(), strict=False):
            draw_server(
                ax,
                counts[counts["server"] == name],
                minutes[minutes["server"] == name],
                title=title,
            )
        for ax in list(grid.flat)[len(titles) :]:
            ax.set_axis_off()
        for ax in grid[-1]:
            ax.set_xlabel("time [min]")
        figure.suptitle(heading, fontsize=11, y=1 - 0.12 / height_in, verticalalignment="top")
        figure.legend(handles=_timeline_legend(), loc="lower center", ncols=5, frameon=False)
    return figure


def draw_server(ax: Axes, counts: pd.DataFrame, minutes: pd.DataFrame, *, title: str) -> None:
    """Draw wanted, ready and starting replicas (left), the arrival rate (right), and spans over
    violated minutes.
    """
    violated = minutes[minutes["violated"]]
    spans = list(zip(violated["start_s"] / 60.0, violated["length_s"] / 60.0, strict=True))
    full_height = ax.get_xaxis_transform()
    ax.broken_barh(
        spans, (0, 1), transform=full_height, color=PURPLE, alpha=0.4, linewidth=0, zorder=0
    )
    t_min = counts["t_s"] / 60.0
    present = counts["ready"] + counts["starting"]
    ax.fill_between(
        t_min, counts["ready"], step="post", color=SKY, alpha=0.35, linewidth=0, zorder=1
    )
    ax.step(t_min, counts["ready"], where="post", color=BLUE, linewidth=1.8, zorder=2)
    ax.fill_between(
        t_min, counts["ready"], present, step="post", color=ORANGE, linewidth=0, zorder=1
    )
    ax.step(
        t_min,
        counts["wanted"],
        where="post",
        color=BLACK,
        linewidth=1.0,
        linestyle=(0, (3, 1.5)),
        zorder=3,
    )
    top = max(1.0, float(counts["wanted"].max()), float(present.max()))
    ax.set_ylim(0, top * 1.15)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, min_n_ticks=2))
    ax.set_ylabel("replicas")
    ax.set_title(title, loc="left")
    ax.set_xlim(0, float(t_min.max()))
    rate = ax.twinx()
    rate.spines["right"].set_visible(True)
    rate.plot(
        (minutes["start_s"] + minutes["length_s"] / 2) / 60.0,
        minutes["rate_rpm"],
        color=VERMILLION,
        linewidth=1.0,
    )
    rate.set_ylim(0, max(1.0, float(minutes["rate_rpm"].max())) * 1.15)
    rate.set_ylabel("req/min", color=VERMILLION)
    rate.yaxis.set_major_locator(MaxNLocator(nbins=4))
    rate.tick_params(axis="y", colors=VERMILLION)


def _timeline_legend() -> list[Line2D | Patch]:
    return [
        Line2D([], [], color=BLACK, linewidth=1.0, linestyle=(0, (3, 1.5)), label="wanted"),
        Patch(facecolor=SKY, edgecolor=BLUE, alpha=0.6, label="ready"),
        Patch(color=ORANGE, label="starting"),
        Line2D([], [], color=VERMILLION, linewidth=1.0, label="arrivals (right axis)"),
        Patch(color=PURPLE, alpha=0.4, label="minute in which a target was missed"),
    ]
