"""The highest rate one replica sustains within its targets: bracketed root finding over many
replicas at once.

Semantics of the original's Size: the rate lies in [0.001·mu(1), 0.999·mu(N)]; a target is met
exactly when the figure is within 1e-6 of it; a target below what the lowest rate gives is
infeasible, above what the highest gives not binding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loop.optimizer.model.chain import Floats, Ints, Rows
from loop.optimizer.model.queueing import (
    RATE_MAX_SHARE,
    Metrics,
    Model,
    analyze,
    work_per_iteration,
)

Bools = NDArray[np.bool_]

TOLERANCE = 1e-6  # relative, in the figure; at the ends of the range it decides what counts as met
CLOSE = 1e-8  # relative, in the figure: where a search inside the range stops
STEPS_MAX = 100
BINDING = (
    "slo-itl",
    "slo-ttft",
    "loss",
    "slo-tps",
    "batch",
)  # batch: nothing but what a full batch serves
TPS_SHARE = 0.9  # with a TPS target the rate stays below this share of the highest one
BLOCK_CELLS = 1 << 16  # states worked on at once: half a megabyte stays in the cache of a core
BLOCK_WASTE = 1 << 14  # states of padding that cost as much as one more group


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
        """Return 1 / target of ITL, TTFT and loss by row, 0 where not set: figures times weights
        are ratios.
        """
        wanted = np.stack([self.itl, self.ttft, self.loss])
        return np.divide(1.0, wanted, out=np.zeros_like(wanted), where=wanted > 0.0)


@dataclass(frozen=True, slots=True)
class Limits:
    """The highest rate of each row [requests/ms], nan where a target cannot be met at any rate.

    itl_floor and ttft_floor are the best attainable latencies [ms], those at the lowest rate.
    binding says what keeps the rate from being higher: index into BINDING.
    """

    rate: Floats
    itl_floor: Floats
    ttft_floor: Floats
    binding: Ints


def blocks(sizes: NDArray[np.int64]) -> Iterator[Rows]:
    """Split rows into groups of similar size, of at most BLOCK_CELLS states and BLOCK_WASTE states
    of padding.
    """
    order = np.argsort(sizes, kind="stable")
    ranked = sizes[order] + 1
    start = 0
    while start < len(order):
        part = ranked[start : start + BLOCK_CELLS // int(ranked[start]) + 1]
        # Sizes rise, so the last row of a group says how wide all of it is.
        cells = part * np.arange(1, len(part) + 1)
        fits = (cells <= BLOCK_CELLS) & (cells - np.cumsum(part) <= BLOCK_WASTE)
        stop = start + max(1, int(np.argmin(fits)) if not fits.all() else len(part))
        yield order[start:stop]
        start = stop


def figures(metrics: Metrics) -> Floats:
    """Return ITL, TTFT and loss by row, in the order of Targets.weights."""
    return np.stack([metrics.itl, metrics.ttft, metrics.loss])


Figures = Callable[[Metrics], Floats]


def highest_rates(
    model: Model, targets: Targets, *, stepwise: bool = False, figures: Figures = figures
) -> Limits:
    """Return the highest rate at which each row meets all its targets, of what *figures* makes of
    the metrics.

    *stepwise*: return the rate at which the original's bisection stops instead (the first of its
    steps whose figure is within 1e-6 of the target; far from the root where the figure hardly
    depends on the rate).
    """
    low, high = figures(analyze(model, model.rate_min)), figures(analyze(model, model.rate_max))
    weights = targets.weights()
    verdict, rising = _ends(low * weights, high * weights, mirrored=stepwise)
    by_tps = TPS_SHARE * RATE_MAX_SHARE * model.chain.service_full
    slowed = (targets.tps > 0.0) & (by_tps < model.rate_max)
    limits = _Limited(np.where(slowed, by_tps, model.rate_max), np.where(slowed, 3, 4))
    for i, at_once in enumerate(verdict == LOWEST):
        limits.lower(np.flatnonzero(at_once), model.rate_min, i)
    limits.rate[(verdict == IMPOSSIBLE).any(axis=0)] = np.nan
    inside = (verdict == INSIDE) & ~np.isnan(limits.rate)
    weights = np.where(inside, weights, 0.0)
    # Ratios that rise without jumps are searched together: the largest is the first to reach its
    # target. The others are searched one by one, as the original does everywhere.
    together = inside.any(axis=0) & model.steady & (rising | ~inside).all(axis=0)
    rows = np.flatnonzero(together)
    if len(rows):
        search = _Search(model.take(rows), weights[:, rows], figures)
        found, which = search.interpolate(low[:, rows], high[:, rows], stepwise=stepwise)
        limits.lower(rows, found, which)
    for i, wanted in enumerate(inside & ~together):
        rows = np.flatnonzero(wanted)
        if len(rows):
            alone = np.zeros((len(weights), len(rows)))
            alone[i] = weights[i, rows]
            limits.lower(
                rows, _Search(model.take(rows), alone, figures).bisect(rising=rising[i, rows]), i
            )
    return Limits(limits.rate, low[0], low[1], limits.binding)


@dataclass(frozen=True, slots=True)
class _Limited:
    """The rates found so far and what binds them."""

    rate: Floats
    binding: Ints

    def lower(self, rows: Rows, rate: Floats, which: Ints | int) -> None:
        """Take *rate* of the given rows, by *which* target, where it is lower."""
        if len(rows):
            found = rate if len(rate) == len(rows) else rate[rows]
            lower = found < self.rate[rows]
            self.binding[rows] = np.where(lower, which, self.binding[rows])
            self.rate[rows] = np.where(lower, found, self.rate[rows])


FREE, LOWEST, INSIDE, IMPOSSIBLE = range(4)


def _ends(low: Floats, high: Floats, *, mirrored: bool) -> tuple[NDArray[np.intp], Bools]:
    """Return where each root lies, judged by the ratio at both ends of the range, and whether the
    ratio rises.

    A ratio that falls (the inter-token latency of a lone request, of which a longer prefill is
    taken off) is met everywhere or not surely. The original's search mirrors its tests there, and
    calls infeasible what is always met.
    """
    rising = low <= high * (1.0 + 1e-12)
    unset = low + high == 0.0
    met = np.abs(high - 1.0) <= TOLERANCE
    beyond = unset | met | np.where(rising, high < 1.0, high > 1.0)
    before = np.where(rising, low > 1.0, low < 1.0)
    lowest = np.abs(low - 1.0) <= TOLERANCE
    if not mirrored:
        beyond = unset | np.where(rising, met | (high < 1.0), low <= 1.0 + TOLERANCE)
        before = low > 1.0
        lowest &= rising & ~beyond
    verdict = np.where(lowest, LOWEST, np.where(beyond, FREE, np.where(before, IMPOSSIBLE, INSIDE)))
    return verdict, rising


class _Search:
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

    def interpolate(
        self, at_low: Floats, at_high: Floats, *, stepwise: bool
    ) -> tuple[Floats, Ints]:
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
        share = np.clip(_secant(fa, fb)[0], 0.02, 0.98)
        root, over, rows = np.full(len(a), np.nan), np.zeros(len(a)), np.arange(len(a))
        which = np.zeros(len(a), dtype=np.int64)
        close = CLOSE if stepwise else TOLERANCE
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
            left = np.flatnonzero((np.abs(f_max) > close) & (np.abs(b - a) > 1e-14 * np.abs(a)))
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
        return (self._step_of_bisection(root, over) if stepwise else root), which

    def _step_of_bisection(self, root: Floats, over: Floats) -> Floats:
        """Return where a bisection that stops within TOLERANCE of the target would stop.

        *over* is ln(ratio) at *root*; with the slope there it tells which rates are within the
        tolerance.
        """
        near = root * (1.0 + 1e-3)
        slope = (np.log(self._pressure(self.model, near, self.weights)) - over) / (near - root)
        slope = np.maximum(slope, 1e-300)
        root, reach = root - over / slope, TOLERANCE / slope
        low, high = self.model.rate_min.copy(), self.model.rate_max.copy()
        middle = 0.5 * (low + high)
        for _ in range(STEPS_MAX):
            on = np.abs(middle - root) > reach
            if not on.any():
                break
            low, high = (
                np.where(on & (middle < root), middle, low),
                np.where(on & (middle >= root), middle, high),
            )
            middle = np.where(on, 0.5 * (low + high), middle)
        return middle

    def _pressure(self, model: Model, rate: Floats, weights: Floats) -> Floats:
        """Return the largest ratio of a figure to its target."""
        pressure: Floats = (self.figures(analyze(model, rate)) * weights).max(axis=0)
        return pressure


def _fluid(model: Model) -> tuple[Floats, Floats]:
    """Return the fixed part of tau(x) and its slope; (1, 0), so that x is the rate, where there is
    no fixed part.
    """
    columns = model.columns
    chunks = np.ones(len(columns)) if model.chunks is None else model.chunks[:, 0]
    fixed = (chunks + columns.out_tokens) * columns.alpha
    slope = (chunks + columns.out_tokens) * work_per_iteration(columns, chunks)
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
