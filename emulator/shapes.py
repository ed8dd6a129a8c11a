"""How a nominal load moves: curves of a multiplier over time, and what they are built from: named
shapes, and phases. Pure.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

DAY_S = 86_400.0


class Segment(NamedTuple):
    """A stretch of time over which a quantity goes linearly from *start* to *end*."""

    t0_s: float
    t1_s: float
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A multiplier >= 0 over time: straight lines between knots (time [s], value); a time given
    twice is a jump.

    The first knot is at 0. After the last one the curve repeats, or stays where it is.
    """

    knots: tuple[tuple[float, float], ...]
    repeat: bool = False
    _times: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        times = tuple(time for time, _ in self.knots)
        assert times[0] == 0.0, f"the first knot must be at 0, got {times[0]}"
        assert all(a <= b for a, b in pairwise(times)), f"the times of knots must ascend: {times}"
        assert all(0.0 <= value < math.inf for _, value in self.knots), (
            f"values must be finite and >= 0: {self.knots}"
        )
        assert not self.repeat or times[-1] > 0.0, "a curve that repeats needs a length"
        object.__setattr__(self, "_times", times)

    def at(self, t_s: float) -> float:
        """Return the multiplier at *t_s*; at a jump, the value after it."""
        if len(self.knots) == 1:
            return self.knots[0][1]
        return next(self._pieces(t_s)).start

    def mean(self, t0_s: float, t1_s: float) -> float:
        """Return the mean multiplier over [t0_s, t1_s)."""
        area = sum(0.5 * (s.start + s.end) * (s.t1_s - s.t0_s) for s in self.segments(t0_s, t1_s))
        return area / (t1_s - t0_s)

    def first_change_s(self) -> float | None:
        """Return when it first leaves the value it begins with [s]; None: never."""
        for (t_s, value), (_, later) in pairwise(self.knots):
            if later != value:
                return t_s
        return None

    def segments(self, t0_s: float, t1_s: float) -> list[Segment]:
        """Cut [t0_s, t1_s) at the knots; the pieces follow each other without gaps."""
        if len(self.knots) == 1:
            return [Segment(t0_s, t1_s, self.knots[0][1], self.knots[0][1])]
        pieces: list[Segment] = []
        for piece in self._pieces(t0_s):
            if piece.t1_s >= t1_s:
                pieces.append(_cut(piece, piece.t0_s, t1_s))
                break
            pieces.append(piece)
        return pieces

    def _pieces(self, t0_s: float) -> Iterator[Segment]:
        """Yield the pieces from *t0_s* on, each from the end of the one before.

        Pieces are placed by their knots, never found again from a time: a jump cannot be missed by
        a rounding error.
        """
        now_s = t0_s
        length_s = self._times[-1]
        cycle = int(t0_s // length_s) if self.repeat else 0
        first = max(bisect_right(self._times, t0_s - cycle * length_s) - 1, 0)
        while True:
            shift_s = cycle * length_s
            # By index: a load of a week, minute by minute, has 20,000 knots to copy a tail of.
            for k in range(first, len(self.knots) - 1):
                (a_s, start), (b_s, end) = self.knots[k], self.knots[k + 1]
                piece = Segment(shift_s + a_s, shift_s + b_s, start, end)
                if piece.t1_s > max(now_s, piece.t0_s):
                    yield _cut(piece, now_s, piece.t1_s)
                    now_s = piece.t1_s
            if not self.repeat:
                break
            cycle, first = cycle + 1, 0
        last = self.knots[-1][1]
        yield Segment(now_s, math.inf, last, last)


def _cut(piece: Segment, t0_s: float, t1_s: float) -> Segment:
    if piece.start == piece.end:
        return Segment(t0_s, t1_s, piece.start, piece.end)
    slope = (piece.end - piece.start) / (piece.t1_s - piece.t0_s)
    start = piece.start if t0_s == piece.t0_s else piece.start + slope * (t0_s - piece.t0_s)
    end = piece.end if t1_s == piece.t1_s else piece.start + slope * (t1_s - piece.t0_s)
    return Segment(t0_s, t1_s, max(start, 0.0), max(end, 0.0))


_CONSTANT = Curve(((0.0, 1.0),))


def constant() -> Curve:
    """Return the curve that stays at 1."""
    return _CONSTANT


def ramp(*, factor: float, start_s: float, up_s: float, hold_s: float, down_s: float) -> Curve:
    """Return a curve that goes linearly from 1 to *factor*, holds, and goes back to 1."""
    top_s = start_s + up_s
    fall_s = top_s + hold_s
    return Curve(
        ((0.0, 1.0), (start_s, 1.0), (top_s, factor), (fall_s, factor), (fall_s + down_s, 1.0))
    )


def steps(levels: Sequence[tuple[float, float]]) -> Curve:
    """Return a curve that jumps to each value at its time [s]; before the first it is 1. Times
    ascend.
    """
    knots = [(0.0, 1.0)]
    for time_s, value in levels:
        knots += [(time_s, knots[-1][1]), (time_s, value)]
    return Curve(tuple(knots))


def burst(*, factor: float, start_s: float, length_s: float, every_s: float | None = None) -> Curve:
    """Return a curve at 1 that jumps to *factor* at *start_s* for *length_s*; with *every_s*, once
    in each such period.

    start_s + length_s <= every_s.
    """
    end_s = start_s + length_s
    knots = ((0.0, 1.0), (start_s, 1.0), (start_s, factor), (end_s, factor), (end_s, 1.0))
    return Curve(knots) if every_s is None else Curve((*knots, (every_s, 1.0)), repeat=True)


def diurnal(
    *, low: float, high: float, peak_hour: float, start_hour: float, compression: float = 1.0
) -> Curve:
    """Return a day as a cosine between *low* and *high* with its top at *peak_hour*, over and over.

    The run starts at *start_hour* of the day; *compression* 24 makes a day last one hour. The curve
    is drawn with a knot every five minutes of its day, which is within 1e-4 of the cosine's range.
    """
    knots_a_day = 288
    knots = []
    for i in range(knots_a_day + 1):
        angle = 2.0 * math.pi * ((start_hour - peak_hour) / 24.0 + i / knots_a_day)
        value = 0.5 * (high + low) + 0.5 * (high - low) * math.cos(angle)
        knots.append((i * DAY_S / (knots_a_day * compression), max(value, 0.0)))
    return Curve(tuple(knots), repeat=True)


_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|h|m|s))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Go linearly, over *duration_s* > 0, to *ratio* times the value at the phase's start; None
    holds for ever.
    """

    duration_s: float | None
    ratio: float = 1.0


def phases_curve(phases: Sequence[Phase]) -> Curve:
    """Chain *phases* from a multiplier of 1; after the last one the multiplier stays.

    Only the last phase may be without a duration: it holds, and its ratio is not used.
    """
    knots = [(0.0, 1.0)]
    for phase in phases:
        if phase.duration_s is None:
            assert phase is phases[-1], "only the last phase may be endless"
            break
        time_s, value = knots[-1]
        knots.append((time_s + phase.duration_s, value * phase.ratio))
    return Curve(tuple(knots))


def duration_s(text: str) -> float | None:
    """Return the seconds of a duration such as "1h30m" or "90s"; None if *text* is none."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))
