"""The highest rate at which enough requests meet their targets: bracketed root finding over many
replicas at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loop.optimizer.model.chain import Floats, Ints, Rows
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
# Two rates are tried at once: first these shares of the range, then about the root of the straight
# line between the ends, as far from it as ABOUT of the range, or NARROW of the rate if it is more.
FIRST, EVEN = (0.6, 0.85), (1.0 / 3.0, 2.0 / 3.0)
ABOUT, NARROW = 0.15, 0.02
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
    rate[at_low > 0.0] = np.nan
    search = _Search(tail, targets, goals, percentile)
    some = np.flatnonzero(at_low <= 0.0)
    if len(some):
        at_high, binding = search.pressure(high[some], some)
        beyond = at_high > 0.0
        rows = some[beyond]
    if len(some) and beyond.any():
        ends = _Ends(low[rows], high[rows], at_low[rows], at_high[beyond], binding[beyond])
        root, found[rows] = search.run(rows, ends)
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
        """Return the narrower ends by the pressures at a rising row of rates between these."""
        over = pressure > 0.0
        first = np.where(over.any(axis=1), over.argmax(axis=1), over.shape[1])[:, None]
        rates = np.column_stack((self.low, rate, self.high))
        pressures = np.column_stack((self.at_low, pressure, self.at_high))
        bindings = np.column_stack((self.binding, binding, self.binding))
        return _Ends(
            np.take_along_axis(rates, first, axis=1)[:, 0],
            np.take_along_axis(rates, first + 1, axis=1)[:, 0],
            np.take_along_axis(pressures, first, axis=1)[:, 0],
            np.take_along_axis(pressures, first + 1, axis=1)[:, 0],
            np.take_along_axis(bindings, first + 1, axis=1)[:, 0],
        )


class _Search:
    """Finds where the pressure is 0, all rows in step; rows that are done are put aside."""

    def __init__(self, tail: Tail, targets: Targets, goals: Goals, percentile: Floats) -> None:
        self.tail, self.targets, self.goals, self.percentile = tail, targets, goals, percentile

    def pressure(self, rate: Floats, rows: Rows) -> tuple[Floats, Ints]:
        """Return by how much too many requests of *rows* miss their targets or are lost, and what
        binds.
        """
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
        """Return the highest rates of *rows* that keep to the targets, and what binds just above.

        Two rates are tried at once, as a call costs more than a few rows. Every third time, and in
        a short range with a jump in it, they divide the range in equal parts.
        """
        root, found, here = ends.low.copy(), ends.binding.copy(), np.arange(len(rows))
        for step in range(STEPS_MAX):
            width = ends.high - ends.low
            share = ends.at_low / (ends.at_low - ends.at_high)
            smooth = (width <= STRAIGHT * ends.high) & (ends.at_high - ends.at_low < JUMP)
            root[here] = np.where(smooth, ends.low + share * width, ends.low)
            found[here] = ends.binding
            left = np.flatnonzero(~(smooth | (width <= CLOSE * ends.high)))
            if not len(left):
                break
            here, ends = here[left], ends.take(left)
            ways = _ways(ends, width[left], share[left], step)
            rate = ends.low[:, None] + ways * width[left, None]
            pressure, binding = self.pressure(rate.ravel(), np.repeat(rows[here], rate.shape[1]))
            ends = ends.within(rate, pressure.reshape(rate.shape), binding.reshape(rate.shape))
        return root, found


def _ways(ends: _Ends, width: Floats, share: Floats, step: int) -> Floats:
    """Return the rates to try, as shares of the range; two a row, rising, and never at an end."""
    if step == 0:
        return np.broadcast_to(FIRST, (len(width), 2))
    aside = np.maximum(ABOUT, NARROW * ends.high / width)
    about = np.clip(share[:, None] + aside[:, None] * [-1.0, 1.0], [0.02, 0.04], [0.96, 0.98])
    even = (width <= STRAIGHT * ends.high) | (step % 3 == 0)
    return np.where(even[:, None], EVEN, about)
