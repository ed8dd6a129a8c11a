"""The highest rate at which enough requests meet their targets: bracketed root finding over many
replicas at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loop.optimizer.model import Bools, Floats, Ints, Rows
from loop.optimizer.model.queueing import RATE_MIN_SHARE
from loop.optimizer.model.rates import BINDING, Limits, Targets
from loop.optimizer.model.steady import full_batch_rate
from loop.optimizer.model.tail import Tail, rounded
from loop.optimizer.model.within import Goals, lone_itl, lone_ttft, make_goals, shares_within
from twin.frozen import made_quickly

# The estimate is right to a hundredth of the rate and a bit more; beyond the rate the share falls
# steeply, so it errs on the side of too few requests.
SAFETY = 0.985
CLOSE = 1e-3  # relative, in the rate
# Over so small a range of rates the pressure is a straight line, if it has no jump in it.
STRAIGHT, JUMP = 0.05, 2.5
PRESSURE_MAX = 4.0
STEPS_MAX = 60
# A range is divided at these shares of it, first and then again and again: highest rates mostly lie
# in its upper half.
FIRST, EVEN = 0.75, 0.5
FEW = 24  # rows for which a call costs more than to look some divisions ahead
AHEAD = 3  # so many
NEAR = (1.0, 0.97, 1.03)  # where about a guess the root may be
ITL, TTFT, LOSS, TPS, BATCH = range(len(BINDING))


@np.errstate(under="ignore")
def highest_rates_by_share(
    tail: Tail,
    targets: Targets,
    percentile: Floats,
    *,
    utilisation_max: float,
    guess: Floats,
) -> Limits:
    """Return the highest rate of each row at which a share of *percentile* of its requests meets
    both latencies, at most *utilisation_max* of what a full batch serves.

    The floors of the answer are the latencies of lone requests at that percentile. *guess* says
    near which rate to look (nan: nobody knows); it makes the search shorter, and no answer another.
    """
    full = full_batch_rate(tail)
    low, high = RATE_MIN_SHARE * _lone_rate(tail), utilisation_max * full
    high = np.maximum(high, low)
    rate, found = high.copy(), np.where(targets.tps > 0.0, TPS, BATCH)
    goals = make_goals(tail, ttft=targets.ttft, itl=targets.itl)
    # The lowest rate is next to none: there the shares are those of lone requests.
    at_low = _pressure(1.0 - goals.lone, percentile)
    rate[at_low > 0.0] = np.nan
    search = _Search(tail, targets, goals, percentile)
    some = np.flatnonzero(at_low <= 0.0)
    if len(some):
        if not np.isnan(guess[some]).all():
            search.foresee(some, (low[some], high[some]), guess[some] / SAFETY)
        elif len(some) <= FEW:
            search.look_ahead(some, (low[some], high[some]), FIRST)
        at_high, binding = search.pressure(high[some], some)
        beyond = at_high > 0.0
        rows = some[beyond]
    if len(some) and beyond.any():
        ends = _Ends(low[rows], high[rows], at_low[rows], at_high[beyond], binding[beyond])
        root, found[rows] = search.run(rows, ends)
        rate[rows] = np.maximum(SAFETY * root, low[rows])
    rate = rounded(rate)
    return Limits(rate, lone_itl(tail, percentile), lone_ttft(tail, percentile), found, goals.lone)


def _lone_rate(tail: Tail) -> Floats:
    """Return the rate at which a lone request after the other would be served."""
    one = np.ones(len(tail))
    rate: Floats = 1.0 / ((tail.decodes + 1.0) * tail.latencies.duration(one, tail.context, one))
    return rate


def _pressure(missed: Floats, percentile: Floats) -> Floats:
    """Return by how much too many requests miss their targets, in log odds.

    Far from the target the odds say nothing of where the root is.
    """
    with np.errstate(divide="ignore"):
        odds = np.log(missed / (1.0 - missed)) - np.log((1.0 - percentile) / percentile)
    pressure: Floats = np.clip(odds, -PRESSURE_MAX, PRESSURE_MAX)
    return pressure


@made_quickly
@dataclass(frozen=True, slots=True)
class _Ends:
    """Between which rates a root lies, the pressure at both, and what binds at the higher one."""

    low: Floats
    high: Floats
    at_low: Floats
    at_high: Floats
    binding: Ints

    def take(self, rows: Rows) -> _Ends:
        """Return the given rows."""
        return _Ends(
            self.low[rows],
            self.high[rows],
            self.at_low[rows],
            self.at_high[rows],
            self.binding[rows],
        )

    def within(self, rate: Floats, pressure: Floats, binding: Ints) -> _Ends:
        """Return the half in which the root lies, by the pressure at a rate between."""
        met = pressure <= 0.0
        return _Ends(
            np.where(met, rate, self.low),
            np.where(met, self.high, rate),
            np.where(met, pressure, self.at_low),
            np.where(met, self.at_high, pressure),
            np.where(met, self.binding, binding),
        )


class _Search:
    """Finds where the pressure is 0, all rows in step; rows that are done are put aside."""

    def __init__(self, tail: Tail, targets: Targets, goals: Goals, percentile: Floats) -> None:
        self.tail, self.targets, self.goals, self.percentile = tail, targets, goals, percentile
        self._known: dict[tuple[int, float], tuple[float, int]] = {}

    def look_ahead(self, rows: Rows, ends: tuple[Floats, Floats], share: float) -> None:
        """Find the pressures at the upper ends, and at all rates between that the next divisions
        may ask for: which these are does not depend on what is found.
        """
        rates, parts = [ends[1]], [ends]
        for _ in range(AHEAD):
            middles = [_divided(*part, share) for part in parts]
            rates += middles
            parts = [
                half
                for (low, high), middle in zip(parts, middles, strict=True)
                for half in ((low, middle), (middle, high))
            ]
            share = EVEN
        self._remember(np.concatenate(rates), np.tile(rows, len(rates)))

    def foresee(self, rows: Rows, ends: tuple[Floats, Floats], guess: Floats) -> None:
        """Find the pressures at the upper ends, and at all rates that a search asks for whose root
        is near *guess*.
        """
        rates, many = [ends[1]], [rows]
        for near in NEAR:
            low, high = ends
            share, open_, root = FIRST, np.flatnonzero(~np.isnan(guess)), guess * near
            while len(open_):
                rate = _divided(low, high, share)
                rates.append(rate[open_])
                many.append(rows[open_])
                met = rate <= root
                low, high = np.where(met, rate, low), np.where(met, high, rate)
                open_ = open_[(high - low)[open_] > STRAIGHT * high[open_]]
                share = EVEN
        self._remember(np.concatenate(rates), np.concatenate(many))

    def _remember(self, rate: Floats, rows: Rows) -> None:
        """Find what is not known yet of the pressures at the rates of *rows*."""
        order = np.lexsort((rate, rows))
        rate, rows = rate[order], rows[order]
        new = ~self._known_of(rate, rows)
        new[1:] &= (rate[1:] != rate[:-1]) | (rows[1:] != rows[:-1])
        rate, rows = rate[new], rows[new]
        if not len(rows):
            return
        found = (column.tolist() for column in self._find(rate, rows))
        keys = zip(rows.tolist(), rate.tolist(), strict=True)
        self._known.update(zip(keys, zip(*found, strict=True), strict=True))

    def _known_of(self, rate: Floats, rows: Rows) -> Bools:
        known = self._known
        if not known:
            return np.zeros(len(rows), dtype=np.bool_)
        keys = zip(rows.tolist(), rate.tolist(), strict=True)
        return np.array([key in known for key in keys], dtype=np.bool_)

    def pressure(self, rate: Floats, rows: Rows) -> tuple[Floats, Ints]:
        """Return by how much too many requests of *rows* miss their targets or are lost, and what
        binds.
        """
        self._remember(rate, rows)
        keys = zip(rows.tolist(), rate.tolist(), strict=True)
        pressure, binding = np.array([self._known[key] for key in keys]).T
        return pressure, binding.astype(np.int64)

    def _find(self, rate: Floats, rows: Rows) -> tuple[Floats, Ints]:
        goals, loss = self.goals.take(rows), self.targets.loss[rows]
        found = shares_within(self.tail.take(rows), rate, goals)
        wanted = np.isfinite(goals.prefill) | np.isfinite(goals.itl)
        late = _pressure(np.where(wanted, 1.0 - found.both, 0.0), self.percentile[rows])
        lost = np.divide(found.lost, loss, out=np.zeros_like(rate), where=loss > 0.0)
        with np.errstate(divide="ignore"):
            refused = np.clip(np.log(lost), -PRESSURE_MAX, PRESSURE_MAX)
        binding = np.where(found.itl < found.ttft, ITL, TTFT)
        return np.maximum(late, refused), np.where(refused > late, LOSS, binding)

    def run(self, rows: Rows, ends: _Ends) -> tuple[Floats, Ints]:
        """Return the highest rates of *rows* that keep to the targets, and what binds just above:
        the range is divided until the pressure is a straight line in it.
        """
        root, found, here = ends.low.copy(), ends.binding.copy(), np.arange(len(rows))
        for step in range(STEPS_MAX):
            width = ends.high - ends.low
            way = ends.at_low / (ends.at_low - ends.at_high)
            smooth = (width <= STRAIGHT * ends.high) & (ends.at_high - ends.at_low < JUMP)
            root[here] = np.where(smooth, ends.low + way * width, ends.low)
            found[here] = ends.binding
            left = np.flatnonzero(~(smooth | (width <= CLOSE * ends.high)))
            if not len(left):
                break
            here, ends = here[left], ends.take(left)
            share = EVEN if step else FIRST
            rate = _divided(ends.low, ends.high, share)
            if step:
                new = np.flatnonzero(~self._known_of(rate, rows[here]))
                # A call for some is a chance for all of them, unless they are many.
                some = np.arange(len(here)) if len(new) and len(here) <= FEW else new
                if 0 < len(some) <= FEW:
                    self.look_ahead(rows[here[some]], (ends.low[some], ends.high[some]), share)
            ends = ends.within(rate, *self.pressure(rate, rows[here]))
        return root, found


def _divided(low: Floats, high: Floats, share: float) -> Floats:
    """Return the rates that divide the ranges at *share*."""
    return low + share * (high - low)
