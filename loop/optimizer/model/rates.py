"""The highest rate one replica sustains within its targets: bracketed root finding over many
replicas at once.

The rate lies in [0.001·mu(1), share·mu(N)]; a target is met exactly when the figure is within 1e-6
of it; a target below what the lowest rate gives is infeasible, above what the highest gives not
binding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loop.optimizer.model import Bools, Floats, Ints, Rows
from loop.optimizer.model.queueing import (
    RATE_MAX_SHARE,
    RATE_MIN_SHARE,
    Metrics,
    Model,
    analyze,
    work_per_iteration,
)
from twin.frozen import made_quickly

if TYPE_CHECKING:
    from loop.types import WhyKind

TOLERANCE = 1e-6  # relative, in the figure; at the ends of the range it decides what counts as met
STEPS_MAX = 100
BINDING: tuple[WhyKind, ...] = (
    "slo-itl",
    "slo-ttft",
    "loss",
    "slo-tps",
    "batch",
)  # batch: nothing but what a full batch serves
TPS_SHARE = 0.9  # with a TPS target the rate stays below this share of the highest one
BLOCK_CELLS = 1 << 16  # states worked on at once: half a megabyte stays in the cache of a core
BLOCK_WASTE = 1 << 14  # states of padding that cost as much as one more group
# The same of the estimate of tails: it is many calls with few states each, so few large groups.
TAIL_CELLS = 1 << 18

# The C library gives pieces as large as a block back to the system whenever they are freed, and
# page faults then take a tenth of an optimization. Once a larger piece was freed it keeps them (16
# MiB, of which not one page is touched). Importing SciPy does the same, by chance.
np.empty(1 << 21)


@made_quickly
@dataclass(frozen=True, slots=True)
class Targets:
    """What each row must meet: latencies [ms], TPS [tokens/s] and loss probability; 0 means not
    set.
    """

    itl: Floats
    ttft: Floats
    tps: Floats
    loss: Floats

    def take(self, rows: Rows) -> Targets:
        """Return the given rows."""
        return Targets(self.itl[rows], self.ttft[rows], self.tps[rows], self.loss[rows])

    def weights(self) -> Floats:
        """Return 1 / target of ITL, TTFT and loss by row, 0 if not set: figures times weights
        are ratios.
        """
        wanted = np.stack([self.itl, self.ttft, self.loss])
        return np.divide(1.0, wanted, out=np.zeros_like(wanted), where=wanted > 0.0)


@dataclass(frozen=True, slots=True)
class Limits:
    """The highest rate of each row [requests/ms], nan if a target cannot be met at any rate.

    itl_floor and ttft_floor are the best attainable latencies [ms], those at the lowest rate.
    binding says what keeps the rate from being higher: index into BINDING. share_best is the share
    of requests that meet their targets at the lowest rate, 1 if means are held to them.
    """

    rate: Floats
    itl_floor: Floats
    ttft_floor: Floats
    binding: Ints
    share_best: Floats

    def set(self, rows: Rows, found: Limits) -> None:
        """Take over what was *found* of the given rows."""
        for name in Limits.__slots__:
            getattr(self, name)[rows] = getattr(found, name)

    def rows(self) -> Floats:
        """Return the columns side by side."""
        columns = (self.rate, self.itl_floor, self.ttft_floor, self.binding, self.share_best)
        return np.stack(columns, axis=1)


def no_limits(count: int) -> Limits:
    """Return limits of so many rows, to be set."""
    rate, itl, ttft, share = np.zeros((4, count))
    return Limits(rate, itl, ttft, np.zeros(count, dtype=np.int64), share)


def blocks(
    sizes: Ints, *, cells_max: int = BLOCK_CELLS, waste_max: int = BLOCK_WASTE
) -> Iterator[Rows]:
    """Split rows into groups of similar size, of at most *cells_max* states and *waste_max* states
    of padding.
    """
    order = np.argsort(sizes, kind="stable")
    ranked = sizes[order] + 1
    start = 0
    while start < len(order):
        part = ranked[start : start + cells_max // int(ranked[start]) + 1]
        # Sizes rise, so the last row of a group says how wide all of it is.
        cells = part * np.arange(1, len(part) + 1)
        fits = (cells <= cells_max) & (cells - np.cumsum(part) <= waste_max)
        stop = start + max(1, int(np.argmin(fits)) if not fits.all() else len(part))
        yield order[start:stop]
        start = stop


def tail_blocks(sizes: Ints) -> Iterator[Rows]:
    """Split rows into groups of similar size for the estimate of tails."""
    return blocks(sizes, cells_max=TAIL_CELLS, waste_max=TAIL_CELLS)


def figures(metrics: Metrics) -> Floats:
    """Return ITL, TTFT and loss by row, in the order of Targets.weights."""
    return np.stack([metrics.itl, metrics.ttft, metrics.loss])


Figures = Callable[[Metrics], Floats]


# Where the root of a ratio lies: nowhere, as the target does not bind; at the lowest rate; inside
# the range; or nowhere, as the target cannot be met.
UNBOUND, LOWEST, INSIDE, IMPOSSIBLE = range(4)


def is_rising(low: Floats, high: Floats) -> Bools:
    """Tell which ratios rise with the rate, from those at both ends."""
    # A ratio that does not depend on the rate differs by rounding only: that is no fall.
    return low <= high * (1.0 + 1e-12)


def plain_ends(low: Floats, high: Floats) -> tuple[Ints, Bools]:
    """Return where each root lies, judged by the ratio at both ends of the range, and whether the
    ratio rises.

    A ratio that falls (the inter-token latency of a lone request, of which a longer prefill is
    taken off) is met everywhere or not surely.
    """
    rising = is_rising(low, high)
    met = np.abs(high - 1.0) <= TOLERANCE
    beyond = (low + high == 0.0) | np.where(rising, met | (high < 1.0), low <= 1.0 + TOLERANCE)
    lowest = (np.abs(low - 1.0) <= TOLERANCE) & rising & ~beyond
    verdict = np.where(
        lowest, LOWEST, np.where(beyond, UNBOUND, np.where(low > 1.0, IMPOSSIBLE, INSIDE))
    )
    return verdict, rising


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How a highest rate is searched for; its name tells it from others in a cache.

    ends: where each root lies, from the ratios at both ends. close: relative distance, in the
    figure, at which the search inside the range stops. settle: what the rate is made of, from the
    pressure (largest ratio at a rate), the model, the root and ln(pressure) there; None: the root.
    """

    name: str
    ends: Callable[[Floats, Floats], tuple[Ints, Bools]]
    close: float
    settle: Callable[[Callable[[Floats], Floats], Model, Floats, Floats], Floats] | None = None


SMOOTH = Search(name="smooth", ends=plain_ends, close=TOLERANCE)


@np.errstate(under="ignore")
def highest_rates(
    model: Model, targets: Targets, *, search: Search = SMOOTH, figures: Figures = figures
) -> Limits:
    """Return the highest rate at which each row meets all its targets, of what *figures* makes of
    the metrics.
    """
    low, high = figures(analyze(model, model.rate_min)), figures(analyze(model, model.rate_max))
    weights = targets.weights()
    with np.errstate(over="ignore"):  # a target of next to nothing is missed beyond measure
        ratios = low * weights, high * weights
    verdict, rising = search.ends(*ratios)
    by_tps = TPS_SHARE * RATE_MAX_SHARE * model.chain.service_full
    slowed = (targets.tps > 0.0) & (by_tps < model.rate_max)
    limits = _Limited(np.where(slowed, by_tps, model.rate_max), np.where(slowed, 3, 4))
    for i, at_once in enumerate(verdict == LOWEST):
        limits.lower(np.flatnonzero(at_once), model.rate_min, i)
    limits.rate[(verdict == IMPOSSIBLE).any(axis=0)] = np.nan
    inside = (verdict == INSIDE) & ~np.isnan(limits.rate)
    weights = np.where(inside, weights, 0.0)
    # Ratios that rise without jumps are searched together: the largest is the first to reach its
    # target. The others are searched one by one.
    together = inside.any(axis=0) & model.steady & (rising | ~inside).all(axis=0)
    rows = np.flatnonzero(together)
    if len(rows):
        run = _Run(model.take(rows), weights[:, rows], figures)
        found, which = run.interpolate(low[:, rows], high[:, rows], search)
        limits.lower(rows, found, which)
    for i, wanted in enumerate(inside & ~together):
        rows = np.flatnonzero(wanted)
        if len(rows):
            alone = np.zeros((len(weights), len(rows)))
            alone[i] = weights[i, rows]
            limits.lower(
                rows, _Run(model.take(rows), alone, figures).bisect(rising=rising[i, rows]), i
            )
    return Limits(limits.rate, low[0], low[1], limits.binding, np.ones_like(limits.rate))


@dataclass(frozen=True, slots=True)
class _Limited:
    """The rates found so far and what binds them."""

    rate: Floats
    binding: Ints

    def lower(self, rows: Rows, rate: Floats, which: Ints | int) -> None:
        """Take *rate* of the given rows, by *which* target, if it is lower."""
        if len(rows):
            found = rate if len(rate) == len(rows) else rate[rows]
            lower = found < self.rate[rows]
            self.binding[rows] = np.where(lower, which, self.binding[rows])
            self.rate[rows] = np.where(lower, found, self.rate[rows])


class _Run:
    """Finds the rate at which the largest ratio is 1, all rows in step; rows that are done are put
    aside.
    """

    def __init__(self, model: Model, weights: Floats, figures: Figures) -> None:
        self.model, self.weights, self.figures = model, weights, figures

    def bisect(self, *, rising: Bools) -> Floats:
        """Halve the range of rates until the ratio is within TOLERANCE of 1, or the range is
        exhausted.
        """
        model, weights = self.model, self.weights
        low, high, rows = model.rate_min, model.rate_max, np.arange(len(rising))
        rate = low.copy()
        for _ in range(STEPS_MAX):
            middle = 0.5 * (low + high)
            over = self._pressure(model, middle, weights) - 1.0
            rate[rows] = middle
            above = (over > 0.0) == rising
            low, high = np.where(above, low, middle), np.where(above, middle, high)
            left = np.flatnonzero(np.abs(over) > TOLERANCE)
            if not len(left):
                break
            rows, low, high, rising = rows[left], low[left], high[left], rising[left]
            model, weights = model.take(left), weights[:, left]
        return rate

    def interpolate(self, at_low: Floats, at_high: Floats, search: Search) -> tuple[Floats, Ints]:
        """Search by Chandrupatla's method (inverse quadratic interpolation, else halving), for
        ratios without jumps.

        Return the rates and which figure is the largest there. It works on ln(ratio) over the batch
        that the fluid limit has at the rate, x = rate·tau(x), where the figures are nearly straight
        lines.
        """
        model, weights = self.model, self.weights
        fixed, slope = _fluid(model)
        a, b = (rate * fixed / (1.0 - rate * slope) for rate in (model.rate_min, model.rate_max))
        with np.errstate(divide="ignore"):
            fa, fb = np.log(at_low * weights), np.log(at_high * weights)
        # Never at an end: a step of no length would leave the other end where it is for ever.
        share = np.clip(_secant(fa, fb)[0], 0.02, 0.98)
        root, over, rows = np.full(len(a), np.nan), np.zeros(len(a)), np.arange(len(a))
        which = np.zeros(len(a), dtype=np.int64)
        for _ in range(STEPS_MAX):
            x = a + share * (b - a)
            rate = x / (fixed + slope * x)
            with np.errstate(divide="ignore"):
                f = np.log(self.figures(analyze(model, rate)) * weights)
            largest = f.argmax(axis=0)
            f_max = f[largest, np.arange(len(x))]
            same = (f_max > 0.0) == (fa.max(axis=0) > 0.0)
            c, fc = np.where(same, a, b), np.where(same, fa, fb)
            b, fb = np.where(same, b, a), np.where(same, fb, fa)
            a, fa = x, f
            root[rows], over[rows], which[rows] = rate, f_max, largest
            # A ratio that never comes so close ends its search when the range is down to rounding.
            left = np.flatnonzero(
                (np.abs(f_max) > search.close) & (np.abs(b - a) > 1e-14 * np.abs(a))
            )
            if not len(left):
                break
            if len(left) < len(rows):
                rows, model, weights = rows[left], model.take(left), weights[:, left]
                fixed, slope = fixed[left], slope[left]
                a, b, c, fa, fb, fc = (
                    a[left],
                    b[left],
                    c[left],
                    fa[:, left],
                    fb[:, left],
                    fc[:, left],
                )
            share = _share((a, b, c), (fa, fb, fc))
        if search.settle is None:
            return root, which
        whole, wanted = self.model, self.weights
        return search.settle(
            lambda rate: self._pressure(whole, rate, wanted), whole, root, over
        ), which

    def _pressure(self, model: Model, rate: Floats, weights: Floats) -> Floats:
        """Return the largest ratio of a figure to its target."""
        pressure: Floats = (self.figures(analyze(model, rate)) * weights).max(axis=0)
        return pressure


def _fluid(model: Model) -> tuple[Floats, Floats]:
    """Return the fixed part of tau(x) and its slope; (1, 0), so that x is the rate, if there is
    no fixed part.
    """
    columns = model.columns
    chunks = np.ones(len(columns)) if model.chunks is None else model.chunks[:, 0]
    fixed = (chunks + columns.out_tokens) * columns.alpha
    slope = (chunks + columns.out_tokens) * work_per_iteration(columns, chunks)
    if columns.curved:
        # The chord of tau between a lone request and a full batch, which bound the rates.
        lone, full = RATE_MIN_SHARE / model.rate_min, columns.max_batch / model.chain.service_full
        rise = (full - lone) / np.maximum(columns.max_batch - 1.0, 1.0)
        fixed = np.where(columns.p == 1.0, fixed, lone - rise)
        slope = np.where(columns.p == 1.0, slope, rise)
    return np.where(fixed > 0.0, fixed, 1.0), np.where(fixed > 0.0, slope, 0.0)


def _secant(fa: Floats, fb: Floats) -> tuple[Floats, Ints]:
    """Return the share of the way from a to b where the first of the figures is 0 on a straight
    line, and which it is.

    A root of the largest figure lies between: only a figure of opposite signs at the ends may be
    it. Each figure is drawn by itself, for the largest of several has kinks.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = fa / (fa - fb)
    shares[np.isnan(shares)] = 0.5  # infinitely far below at one end
    up = fb.max(axis=0) > 0.0
    shares = np.where(up, np.where(fb > 0.0, shares, np.inf), np.where(fa > 0.0, -shares, np.inf))
    first = shares.argmin(axis=0)
    return np.abs(shares[first, np.arange(len(first))]), first


def _share(points: tuple[Floats, Floats, Floats], values: tuple[Floats, Floats, Floats]) -> Floats:
    """Return the share of the way from a to b to try next: interpolated where Chandrupatla's test
    trusts it, else half.

    a is the last point, b the one on the other side of the root, c the one before; a row of values
    per figure.
    """
    a, b, c = points
    _, first = _secant(values[0], values[1])
    fa, fb, fc = (value[first, np.arange(len(a))] for value in values)
    with np.errstate(all="ignore"):
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        trusted = (phi**2 < xi) & ((1.0 - phi) ** 2 < 1.0 - xi)
        share = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (
            fc - fb
        )
    return np.clip(np.where(trusted & np.isfinite(share), share, 0.5), 1e-9, 1.0 - 1e-9)
