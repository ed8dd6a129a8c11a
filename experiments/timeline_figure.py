"""The drawing of replica timelines: a page of panels, the fleet above its servers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from experiments.columns import Columns, Floats, rows_of, select
from experiments.figures import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PURPLE,
    SCREEN,
    SERIES,
    SKY,
    VERMILLION,
    Form,
    gpu_colours,
    new_figure,
    our_style,
)
from experiments.scores.costs import PRICE

_PANEL_IN = (5.0, 1.9)
_HEAD_IN, _FOOT_IN = 0.6, 0.6
# Of a panel: what stands left of its axes and below them, and the axes.
_LEFT_IN, _GAP_IN, _WIDE_IN, _HIGH_IN, _TICK_IN = 0.55, 0.25, 3.75, 1.42, 0.05
# Of a panel on a page of a given width: what stands right of its axes, and how narrow it may be.
_RIGHT_IN, _NARROWEST_IN = 0.62, 3.0
_NUMBERS_IN = 0.2  # of a time axis
_CHARACTER_IN, _LINE_IN = 0.072, 0.14  # of a title, of wide letters
PANELS_MAX = 60
"""Servers that a figure shows; of more nobody sees one."""
# Of a run of more minutes the rate is drawn of several taken together: chance from one to the next
# would blur it.
_POINTS_MAX = 300
_HOURS_FROM_S = 5 * 3600.0  # the time axis of a longer run tells hours
_HOUR_STEPS = (1, 2, 3, 6, 12, 24, 48, 72, 168)

Spells = Sequence[tuple[float, float, str]]


def draw_timelines(
    counts: Columns,
    minutes: Columns,
    fleet: Columns,
    *,
    titles: Mapping[str, str],
    heading: str,
    accelerators: Mapping[str, Spells],
    form: Form = SCREEN,
) -> Figure:
    """Draw the fleet over all columns, then one panel per server of *titles* (by name, in order)
    from the columns and the accelerator_spells (by server) of `experiments.timeline`; of more than
    PANELS_MAX those that missed most minutes.

    All panels are marks on one page, and what looks alike is one mark: axes of its own for each
    would take several times as long as all that they show.
    """
    counts_of, minutes_of = _by_name(counts), _by_name(minutes)
    if len(titles) > PANELS_MAX:
        heading += f" ({PANELS_MAX} of {len(titles)} servers, those that missed most minutes)"
        most = sorted(titles, key=lambda name: -minutes_of[name]["violated"].sum())[:PANELS_MAX]
        titles = {name: title for name, title in titles.items() if name in most}
    sheet = _sheet(titles, fleet, heading=heading, width_in=form.width_in)
    columns, height_in = sheet.columns, sheet.height_in
    figure = new_figure(width_in=sheet.width_in, height_in=height_in, automatic=False)
    with our_style():
        page = figure.add_axes(
            (0.0, 0.0, 1.0, 1.0), xlim=(0.0, sheet.width_in), ylim=(0.0, height_in)
        )
        page.set_axis_off()
        marks = _Marks(page)
        whole = _Panel(
            left_in=_LEFT_IN,
            bottom_in=height_in - sheet.head_in - _PANEL_IN[1] + _GAP_IN,
            wide_in=(columns - 1) * sheet.panel_in + sheet.wide_in,
            lowest=False,
            numbered=columns > 1,
        )
        _draw_fleet(marks, whole, fleet)
        for number, (name, title) in enumerate(titles.items(), start=columns):
            row, column = divmod(number, columns)
            panel = _Panel(
                left_in=column * sheet.panel_in + _LEFT_IN,
                bottom_in=height_in - sheet.fleet_in - row * sheet.row_in + _GAP_IN,
                wide_in=sheet.wide_in,
                # The last of its column tells the time.
                lowest=number >= len(titles),
                numbered=number >= len(titles),
            )
            lines = _wrapped(title, sheet.panel_in - _LEFT_IN)
            _draw_server(marks, panel, counts_of[name], minutes_of[name], title=lines)
            _write_accelerators(marks, panel, accelerators.get(name, ()))
        marks.draw()
        figure.suptitle(
            _wrapped(heading, sheet.width_in),
            fontsize=11 if form.width_in is None else 9,
            y=1 - 0.12 / height_in,
            verticalalignment="top",
        )
        figure.legend(
            handles=_timeline_legend(), loc="lower center", ncols=sheet.keys, frameon=False
        )
    return figure


def _by_name(columns: Columns) -> dict[str, Columns]:
    """Return the rows of each server; they stand together."""
    server = columns["server"]
    begins = [0, *(np.flatnonzero(server[1:] != server[:-1]) + 1).tolist(), server.size]
    return {server[begin]: rows_of(columns, begin, end) for begin, end in pairwise(begins)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sheet:
    """How a page is divided [in]: panels of a column, their axes, the rows of servers, and what
    stands above and below; keys is how many of the legend stand beside each other.
    """

    columns: int
    panel_in: float
    wide_in: float
    row_in: float
    head_in: float
    foot_in: float
    rows: int
    keys: int

    @property
    def width_in(self) -> float:
        """Return the width of the page."""
        return self.columns * self.panel_in

    @property
    def fleet_in(self) -> float:
        """Return how far down the fleet reaches: beside other columns its minutes are as wide as
        several of theirs, so that they have numbers of their own.
        """
        return self.head_in + _PANEL_IN[1] + (_NUMBERS_IN if self.columns > 1 else 0.0)

    @property
    def height_in(self) -> float:
        """Return the height of the page, the panel of the fleet with it."""
        return self.fleet_in + self.rows * self.row_in + self.foot_in


def _sheet(
    titles: Mapping[str, str], fleet: Columns, *, heading: str, width_in: float | None
) -> _Sheet:
    columns = 1 if len(titles) <= 2 else 2 if len(titles) <= 8 else 3
    panel_in, wide_in = _PANEL_IN[0], _WIDE_IN
    if width_in is not None:
        # Letters stay as large as they are: what does not fit beside stands below.
        columns = max(min(columns, int(width_in / _NARROWEST_IN)), 1)
        panel_in = width_in / columns
        wide_in = panel_in - _LEFT_IN - _RIGHT_IN
    width_in = columns * panel_in
    lines = max(len(_wrapped(title, panel_in - _LEFT_IN).splitlines()) for title in titles.values())
    keys = max(min(5, int(width_in / 2.1)), 1)
    key_lines = _key_places(_types(fleet), (columns - 1) * panel_in + wide_in)[-1:]
    above = len(_wrapped(heading, width_in).splitlines()) + (key_lines[0][1] if key_lines else 0)
    return _Sheet(
        columns=columns,
        panel_in=panel_in,
        wide_in=wide_in,
        row_in=_PANEL_IN[1] + _LINE_IN * (lines - 1),
        head_in=_HEAD_IN + 1.2 * _LINE_IN * (above - 1),
        foot_in=_FOOT_IN + 0.18 * (math.ceil(5 / keys) - 1),
        rows=math.ceil(len(titles) / columns),
        keys=keys,
    )


def _wrapped(text: str, width_in: float) -> str:
    """Return *text* in lines that *width_in* has room for."""
    # A figure stays beside its unit: wrap breaks at no space but the plain one.
    kept = text.replace("$ ", "$\N{NO-BREAK SPACE}").replace(" %", "\N{NO-BREAK SPACE}%")
    lines = wrap(kept, max(int(width_in / _CHARACTER_IN), 10))
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ") or text


def _types(fleet: Columns) -> list[str]:
    """Return the types of GPUs that were held."""
    return [name for name in fleet if name not in ("t_s", PRICE) and fleet[name].any()]


def _key_places(types: Sequence[str], width_in: float) -> list[tuple[float, int]]:
    """Return where the key of each of *types* begins: how far right of the axis, and on which line,
    the first being the lowest.
    """
    found, at_in, line = [], 0.5, 0
    for kind in types:
        long_in = 0.4 + 0.07 * len(kind)
        if at_in > 0.5 and at_in + long_in - 0.15 > width_in + _RIGHT_IN:
            at_in, line = 0.5, line + 1
        found.append((at_in, line))
        at_in += long_in
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    """Where on the page [in] a server is drawn. numbered: its time axis has numbers; lowest: and
    says what they are.
    """

    left_in: float
    bottom_in: float
    lowest: bool
    numbered: bool
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
    marks: _Marks, panel: _Panel, counts: Columns, minutes: Columns, *, title: str
) -> None:
    """Draw wanted, ready and starting replicas (left), the arrival rate (right), and spans over
    violated minutes.
    """
    end_s = float(counts["t_s"].max())
    violated = select(minutes, minutes["violated"])
    bottom_in, top_in = panel.bottom_in, panel.bottom_in + _HIGH_IN
    for begin_s, length_s in zip(violated["start_s"], violated["length_s"], strict=True):
        span_in = panel.x_in([begin_s, begin_s + length_s], end_s)
        marks.area(span_in, [bottom_in] * 2, [top_in] * 2, color=PURPLE, alpha=0.4)
    ready, wanted = counts["ready"], counts["wanted"]
    present = ready + counts["starting"]
    top = 1.15 * max(1.0, float(wanted.max()), float(present.max()))
    x_in = _steps(panel.x_in(counts["t_s"], end_s), shift=1)
    ready_in, present_in, wanted_in = (
        _steps(panel.y_in(values, top), shift=0) for values in (ready, present, wanted)
    )
    marks.area(x_in, np.full(x_in.size, bottom_in), ready_in, color=SKY, alpha=0.35)
    marks.area(x_in, ready_in, present_in, color=ORANGE, alpha=1.0)
    marks.line(x_in, ready_in, color=BLUE, width=1.8)
    marks.line(x_in, wanted_in, color=BLACK, width=1.0, dashes=(0, (3, 1.5)))
    middle_s, rate_rpm = rate_points(minutes)
    rate_top = 1.15 * max(1.0, float(rate_rpm.max()))
    marks.line(
        panel.x_in(middle_s, end_s), panel.y_in(rate_rpm, rate_top), color=VERMILLION, width=1.0
    )
    axes = (
        _Axis(top=top, label="replicas", whole=True),
        _Axis(top=rate_top, label="req/min", color=VERMILLION),
    )
    _draw_frame(marks, panel, *axes, end_s=end_s, title=title)


def rate_points(minutes: Columns) -> tuple[Floats, Floats]:
    """Return the middles [s] of the *minutes* and their rates [requests/min]; of many, those of as
    many stretches as are drawn.
    """
    start_s, length_s, rate_rpm = (minutes[name] for name in ("start_s", "length_s", "rate_rpm"))
    first = np.arange(0, start_s.size, max(math.ceil(start_s.size / _POINTS_MAX), 1))
    long_s = np.add.reduceat(length_s, first)
    return start_s[first] + long_s / 2, np.add.reduceat(rate_rpm * length_s, first) / long_s


def _draw_fleet(marks: _Marks, panel: _Panel, fleet: Columns) -> None:
    """Draw the GPUs that are held, by type (left), and what they cost (right)."""
    end_s = float(fleet["t_s"].max())
    types = _types(fleet)
    nothing = np.zeros(fleet["t_s"].size)
    held = np.cumsum([nothing, *(fleet[kind] for kind in types)], axis=0)
    top = 1.15 * max(1.0, float(held[-1].max()))
    x_in = _steps(panel.x_in(fleet["t_s"], end_s), shift=1)
    edges_in = [_steps(panel.y_in(values, top), shift=0) for values in held]
    places = _key_places(types, panel.wide_in)
    for number, (kind, color) in enumerate(gpu_colours(types).items()):
        # Types beyond the colours are lighter ones of the same.
        alpha = 0.45 if number < len(SERIES) else 0.2
        marks.area(x_in, edges_in[number], edges_in[number + 1], color=color, alpha=alpha)
        key_in = panel.left_in + places[number][0]
        high_in = panel.bottom_in + _HIGH_IN + 1.2 * _LINE_IN * places[number][1]
        box_in = np.array([key_in, key_in + 0.15])
        low_in = np.full(2, high_in + 0.08)
        marks.area(box_in, low_in, low_in + 0.1, color=color, alpha=alpha)
        marks.word(key_in + 0.2, high_in + 0.07, kind, ha="left", va="bottom", fontsize=8)
    axes = [_Axis(top=top, label="GPUs held", whole=True)]
    if not np.isnan(fleet[PRICE]).any():
        cost_top = 1.15 * max(1e-9, float(fleet[PRICE].max()))
        cost_in = _steps(panel.y_in(fleet[PRICE], cost_top), shift=0)
        marks.line(x_in, cost_in, color=VERMILLION, width=1.2)
        axes.append(_Axis(top=cost_top, label="$ an hour", color=VERMILLION))
    _draw_frame(marks, panel, *axes, end_s=end_s, title="fleet")


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
    unit_s, unit, instants = time_ticks(end_s, many=min(8, int(panel.wide_in / 0.42)))
    for value in instants:
        x_in = float(panel.x_in(unit_s * value, end_s))
        marks.line([x_in] * 2, [bottom, bottom - _TICK_IN], color=BLACK, width=0.8)
        if panel.numbered:
            marks.word(x_in, bottom - 1.8 * _TICK_IN, f"{value:g}", ha="center", va="top")
    if panel.lowest:
        marks.word(left + panel.wide_in / 2, bottom - 0.22, f"time [{unit}]", ha="center", va="top")
    marks.word(left, high + 0.07, title, ha="left", va="bottom", fontsize=8)


def time_ticks(end_s: float, *, many: int) -> tuple[float, str, Sequence[float]]:
    """Return the unit [s] of a time axis to *end_s*, its name, and *many* steps at most."""
    if end_s <= _HOURS_FROM_S:
        return 60.0, "min", _ticks(MaxNLocator(nbins=many, steps=[1, 2, 2.5, 5, 10]), end_s / 60.0)
    end_h = end_s / 3600.0
    step_h = next((step for step in _HOUR_STEPS if end_h / step <= many), math.ceil(end_h / many))
    return 3600.0, "h", np.arange(0.0, end_h + 1e-9, step_h).tolist()


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
