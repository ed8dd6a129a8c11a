"""What stands in a report beside timelines: tables and charts as plain data; static/charts.js draws
each by its `kind`. Labels carry the units, null is "not known".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Figure = float | None
Figures = Sequence[Figure]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Texts; the first *labels* columns say what a row is of, the others are figures."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1
    kind: str = "table"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Lines of text."""

    title: str
    lines: Sequence[str]
    kind: str = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A mean over seeds: cost [$/h] and attainment [%], each with the ends of its interval. bound
    says that it is no policy but a bound: the clairvoyant, static peak.
    """

    series: str
    text: str
    x: float
    y: float
    x_low: Figure = None
    x_high: Figure = None
    y_low: Figure = None
    y_high: Figure = None
    bound: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CostChart:
    """Attainment against cost; front are the places in *points* of those that nobody beats in
    both, the cheapest first.
    """

    title: str
    points: Sequence[Point]
    front: Sequence[int]
    kind: str = "cost"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """A metric over the control period (columns) and the disturbance alpha (rows), with the ends of
    its intervals. low and high are the ends of the colour scale, which maps of one metric share.
    """

    title: str
    unit: str
    periods_s: Sequence[float]
    alphas: Sequence[float]
    values: Sequence[Figures]
    lows: Sequence[Figures]
    highs: Sequence[Figures]
    low: float
    high: float
    kind: str = "heat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One line of a chart."""

    name: str
    x: Sequence[float]
    y: Figures
    bound: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Lines over one axis; steps says that a value holds until the next, from_zero that differences
    are told as parts of the whole.
    """

    title: str
    x_title: str
    y_title: str
    curves: Sequence[Curve]
    x_log: bool = False
    steps: bool = False
    from_zero: bool = True
    kind: str = "lines"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One colour of stacked bars, by the names of the bars."""

    name: str
    meaning: str
    values: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Stacked bars, a name each."""

    title: str
    unit: str
    names: Sequence[str]
    parts: Sequence[Part]
    kind: str = "bars"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A difference of two in pairs of equal seeds, with the ends of its interval."""

    name: str
    mean: float
    low: Figure = None
    high: Figure = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """Differences of one metric. An interval that holds 0 may be chance."""

    title: str
    unit: str
    rows: Sequence[Difference]
    kind: str = "differences"


Item = Table | Note | CostChart | HeatMap | Lines | Bars | Differences


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What one directory gives beside timelines: wide items below each other, charts side by
    side.
    """

    title: str
    about: str
    items: Sequence[Item]
