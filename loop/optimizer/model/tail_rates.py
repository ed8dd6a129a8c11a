"""The highest rate at which enough requests meet their targets: bracketed root finding over many
replicas at once.
"""

from __future__ import annotations

import numpy as np

from loop.optimizer.model.chain import Floats, Ints
from loop.optimizer.model.queueing import RATE_MAX_SHARE, RATE_MIN_SHARE
from loop.optimizer.model.rates import BINDING, TPS_SHARE, Limits, Targets
from loop.optimizer.model.steady import full_batch_rate
from loop.optimizer.model.tail import Tail
from loop.optimizer.model.within import Goals, lone_itl, lone_ttft, make_goals, shares_within

# The estimate is right to a hundredth of the rate and a bit more; beyond the rate the share falls
# steeply, so it errs on the side of too few requests.
SAFETY = 0.985
CLOSE = 1e-3  # relative, in the rate
# Over so small a range of rates the pressure is a straight line, if it has no jump in it.
STRAIGHT, JUMP = 0.05, 2.5
PRESSURE_MAX = 4.0
STEPS_MAX = 60
ITL, TTFT, LOSS, TPS, BATCH = range(len(BINDING))


def highest_rates_by_share(
    tail: Tail, targets: Targets, percentile: Floats, *, utilisation_max: float
) -> Limits:
    """Return the highest rate of each row at which a share of *percentile* of its requests meets
    both latencies, at most *utilisation_max* of what a full batch serves.

    The floors of the answer are the latencies of lone requests at that percentile.
    """
    full = full_batch_rate(tail)
    low, high = RATE_MIN_SHARE * _lone_rate(tail), utilisation_max * full
    by_tps = TPS_SHARE * RATE_MAX_SHARE * full
    slowed = (targets.tps > 0.0) & (by_tps < high)
    high = np.maximum(np.where(slowed, by_tps, high), low)
    rate, found = high.copy(), np.where(slowed, TPS, BATCH)
    goals = make_goals(tail, ttft=targets.ttft, itl=targets.itl)
    # The lowest rate is next to none: there the shares are those of lone requests.
    at_low = _pressure(1.0 - goals.lone, percentile)
    at_high, binding = _Search(tail, targets, goals, percentile).pressure(high)
    rate[at_low > 0.0] = np.nan
    rows = np.flatnonzero((at_low <= 0.0) & (at_high > 0.0))
    if len(rows):
        inner = _Search(tail.take(rows), targets.take(rows), goals.take(rows), percentile[rows])
        ends = (low[rows], high[rows])
        root, found[rows] = inner.run(ends, (at_low[rows], at_high[rows]), binding[rows])
        rate[rows] = np.maximum(SAFETY * root, low[rows])
    return Limits(rate, lone_itl(tail, percentile), lone_ttft(tail, percentile), found, goals.lone)


def _lone_rate(tail: Tail) -> Floats:
    """Return the rate at which a lone request after the other would be served."""
    one = np.ones(len(tail))
    rate: Floats = 1.0 / ((tail.decodes + 1.0) * tail.latencies.duration(one, tail.context))
    return rate


def _pressure(missed: Floats, percentile: Floats) -> Floats:
    """Return by how much too many requests miss their targets, in log odds.

    Far from the target the odds say nothing of where the root is.
    """
    with np.errstate(divide="ignore"):
        odds = np.log(missed / (1.0 - missed)) - np.log((1.0 - percentile) / percentile)
    pressure: Floats = np.clip(odds, -PRESSURE_MAX, PRESSURE_MAX)
    return pressure


class _Search:
    """Finds where the pressure is 0, all rows in step; rows that are done are put aside."""

    def __init__(self, tail: Tail, targets: Targets, goals: Goals, percentile: Floats) -> None:
        self.tail, self.targets, self.goals, self.percentile = tail, targets, goals, percentile

    def pressure(self, rate: Floats) -> tuple[Floats, Ints]:
        """Return by how much too many requests miss their targets or are lost, and what binds."""
        goals, loss = self.goals, self.targets.loss
        found = shares_within(self.tail, rate, goals)
        wanted = np.isfinite(goals.prefill) | np.isfinite(goals.itl)
        late = _pressure(np.where(wanted, 1.0 - found.both, 0.0), self.percentile)
        lost = np.divide(found.lost, loss, out=np.zeros_like(rate), where=loss > 0.0)
        with np.errstate(divide="ignore"):
            refused = np.clip(np.log(lost), -PRESSURE_MAX, PRESSURE_MAX)
        binding = np.where(found.itl < found.ttft, ITL, TTFT)
        return np.maximum(late, refused), np.where(refused > late, LOSS, binding)

    def run(
        self, ends: tuple[Floats, Floats], pressures: tuple[Floats, Floats], binding: Ints
    ) -> tuple[Floats, Ints]:
        """Return the highest rates that keep to the targets, and what binds just above.

        The straight line between the ends is followed, and every third step halves the range.
        """
        (low, high), (at_low, at_high) = ends, pressures
        root, found, rows = low.copy(), binding.copy(), np.arange(len(low))
        for step in range(STEPS_MAX):
            share = at_low / (at_low - at_high)
            smooth = (high - low <= STRAIGHT * high) & (at_high - at_low < JUMP)
            close = high - low <= CLOSE * high
            root[rows] = np.where(smooth, low + share * (high - low), low)
            found[rows] = binding
            left = np.flatnonzero(~(smooth | close))
            if not len(left):
                break
            if len(left) < len(rows):
                rows, low, high, binding = rows[left], low[left], high[left], binding[left]
                at_low, at_high, share = at_low[left], at_high[left], share[left]
                self.tail, self.targets = self.tail.take(left), self.targets.take(left)
                self.goals, self.percentile = self.goals.take(left), self.percentile[left]
            # A bit aside of the line, so that the root is soon between two points near it.
            aside = np.where(share < 0.5, 1.02, 0.98) * share
            way = 0.5 if step % 3 == 2 else np.clip(aside, 0.02, 0.98)
            middle = low + way * (high - low)
            pressure, bound = self.pressure(middle)
            met = pressure <= 0.0
            low, at_low = np.where(met, middle, low), np.where(met, pressure, at_low)
            high, at_high = np.where(met, high, middle), np.where(met, at_high, pressure)
            binding = np.where(met, binding, bound)
        return root, found
