"""The highest rate one replica sustains within its targets: bracketed root finding over many replicas at once.

Semantics of the original's Size: the rate lies in [0.001·mu(1), 0.999·mu(N)]; a target is met exactly when the figure
is within 1e-6 of it; a target below what the lowest rate gives is infeasible, above what the highest gives not binding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loop.queueing import Floats, Metrics, Model, Rows, analyze, work_per_iteration

Bools = NDArray[np.bool_]

TOLERANCE = 1e-6  # relative, in the figure; at the ends of the range it decides what counts as met
CLOSE = 1e-8  # relative, in the figure: where a search inside the range stops
STEPS_MAX = 100
TPS_SHARE = 0.9  # with a TPS target the rate stays below this share of the highest one
BLOCK_CELLS = 1 << 16  # states worked on at once: half a megabyte stays in the cache of a core


@dataclass(frozen=True, slots=True)
class Targets:
    """What each row must meet: latencies [ms], TPS [tokens/s] and loss probability; 0 means not set."""

    itl: Floats
    ttft: Floats
    tps: Floats
    loss: Floats

    def take(self, rows: Rows) -> Targets:
        """Return the given rows."""
        return Targets(self.itl[rows], self.ttft[rows], self.tps[rows], self.loss[rows])

    def where(self, kept: list[Bools]) -> Targets:
        """Return the targets of latency and loss that are kept, in the order itl, ttft, loss, where given."""
        itl, ttft = (np.where(keep, value, 0.0) for keep, value in zip(kept, (self.itl, self.ttft), strict=False))
        return Targets(itl, ttft, self.tps, np.where(kept[2], self.loss, 0.0) if len(kept) > 2 else self.loss)

    def only(self, name: str) -> Targets:
        """Return the targets without all but one of them."""
        none = np.zeros_like(self.itl)
        return Targets(**{key: getattr(self, key) if key == name else none for key in ("itl", "ttft", "tps", "loss")})


@dataclass(frozen=True, slots=True)
class Limits:
    """The highest rate of each row [requests/ms], nan where a target cannot be met at any rate.

    itl_floor and ttft_floor are the best attainable latencies [ms], those at the lowest rate.
    """

    rate: Floats
    itl_floor: Floats
    ttft_floor: Floats


def blocks(sizes: NDArray[np.int64]) -> Iterator[Rows]:
    """Split rows into groups of similar size (so that padding is small) of about BLOCK_CELLS states."""
    order = np.argsort(sizes, kind="stable")
    ranked = sizes[order]
    start = 0
    while start < len(order):
        # The largest of a group is at the right of it, so look ahead from the left with the size found there.
        count = max(1, BLOCK_CELLS // int(ranked[start] + 1))
        stop = min(len(order), start + count)
        stop = max(start + 1, min(stop, start + BLOCK_CELLS // int(ranked[stop - 1] + 1)))
        widest = int(np.searchsorted(ranked, 1.5 * ranked[start] + 8, side="right"))
        if stop - start > 64:
            stop = max(start + 64, min(stop, widest))
        yield order[start:stop]
        start = stop


def ratios(metrics: Metrics, targets: Targets) -> list[Floats]:
    """Return figure / target for each latency and the loss; 0 where the target is not set."""
    with np.errstate(divide="ignore", invalid="ignore"):
        result = [
            np.where(targets.itl > 0.0, metrics.itl / targets.itl, 0.0),
            np.where(targets.ttft > 0.0, metrics.ttft / targets.ttft, 0.0),
        ]
        if targets.loss.any():
            result.append(np.where(targets.loss > 0.0, metrics.loss / targets.loss, 0.0))
    return result


def highest_rates(model: Model, targets: Targets, *, stepwise: bool = False) -> Limits:
    """Return the highest rate at which each row meets all its targets.

    *stepwise*: return the rate at which the original's bisection stops instead (the first of its steps whose figure is
    within 1e-6 of the target; far from the root where the figure hardly depends on the rate).
    """
    low, high = analyze(model, model.rate_min), analyze(model, model.rate_max)
    rate = np.where(targets.tps > 0.0, TPS_SHARE * model.rate_max, model.rate_max)
    at_low, at_high = ratios(low, targets), ratios(high, targets)
    ends = [_ends(lowest, highest) for lowest, highest in zip(at_low, at_high, strict=True)]
    for verdict, _ in ends:
        rate = np.where(verdict == IMPOSSIBLE, np.nan, rate)
        rate = np.where(verdict == LOWEST, np.minimum(rate, model.rate_min), rate)
    possible = ~np.isnan(rate)
    inside = [possible & (verdict == INSIDE) for verdict, _ in ends]
    # Ratios that rise without jumps are searched together: the largest is the first to reach its target. The others
    # are searched one by one, as the original does everywhere.
    together = np.logical_or.reduce(inside) & model.steady
    for wanted, (_, rising) in zip(inside, ends, strict=True):
        together &= ~wanted | rising
    binding = targets.where(inside)
    at_low, at_high = ratios(low, binding), ratios(high, binding)
    _lower(rate, model, binding, at_low, at_high, rows=np.flatnonzero(together), smooth=True, stepwise=stepwise)
    for i, (name, wanted) in enumerate(zip(("itl", "ttft", "loss"), inside, strict=False)):
        rows = np.flatnonzero(wanted & ~together)
        _lower(
            rate,
            model,
            binding.only(name),
            at_low[i : i + 1],
            at_high[i : i + 1],
            rows=rows,
            smooth=False,
            stepwise=stepwise,
        )
    return Limits(rate, low.itl, low.ttft)


FREE, LOWEST, INSIDE, IMPOSSIBLE = range(4)


def _ends(low: Floats, high: Floats) -> tuple[Floats, Bools]:
    """Return where the root lies, judged by the ratio at both ends of the range, and whether the ratio rises."""
    rising = low <= high * (1.0 + 1e-12)
    beyond = np.where(rising, high < 1.0, high > 1.0) | (np.abs(high - 1.0) <= TOLERANCE) | (low + high == 0.0)
    before = np.where(rising, low > 1.0, low < 1.0)
    verdict = np.select(
        [(low + high > 0.0) & (np.abs(low - 1.0) <= TOLERANCE), beyond, before], [LOWEST, FREE, IMPOSSIBLE], INSIDE
    )
    return verdict.astype(np.float64), rising


def _lower(
    rate: Floats,
    model: Model,
    targets: Targets,
    at_low: list[Floats],
    at_high: list[Floats],
    *,
    rows: Rows,
    smooth: bool,
    stepwise: bool,
) -> None:
    """Lower *rate* of the given rows to where the largest of their ratios is 1."""
    if not len(rows):
        return
    low, high = np.maximum.reduce(at_low)[rows], np.maximum.reduce(at_high)[rows]
    search = _Search(model.take(rows), targets.take(rows))
    found = search.interpolate(low, high, stepwise=stepwise) if smooth else search.bisect(rising=low < high)
    rate[rows] = np.minimum(rate[rows], found)


class _Search:
    """Finds the rate at which the largest ratio is 1, all rows in step; rows that are done are put aside."""

    def __init__(self, model: Model, targets: Targets) -> None:
        self.model, self.targets = model, targets

    def bisect(self, *, rising: Bools) -> Floats:
        """Halve the range of rates until the ratio is within TOLERANCE of 1, or the range is exhausted."""
        model, targets = self.model, self.targets
        low, high, rows = model.rate_min, model.rate_max, np.arange(len(rising))
        rate = low.copy()
        for _ in range(STEPS_MAX):
            middle = 0.5 * (low + high)
            over = _pressure(analyze(model, middle), targets) - 1.0
            rate[rows] = middle
            above = (over > 0.0) == rising
            low, high = np.where(above, low, middle), np.where(above, middle, high)
            left = np.flatnonzero(np.abs(over) > TOLERANCE)
            if not len(left):
                break
            rows, low, high, rising = rows[left], low[left], high[left], rising[left]
            model, targets = model.take(left), targets.take(left)
        return rate

    def interpolate(self, at_low: Floats, at_high: Floats, *, stepwise: bool) -> Floats:
        """Search by Chandrupatla's method (inverse quadratic interpolation, else halving), for ratios without jumps.

        It works on ln(ratio) over the batch that the fluid limit has at the rate, x = rate·tau(x), where the figures
        are nearly straight lines.
        """
        model, targets = self.model, self.targets
        fixed, slope = _fluid(model)
        a, b = (rate * fixed / (1.0 - rate * slope) for rate in (model.rate_min, model.rate_max))
        with np.errstate(divide="ignore"):
            fa, fb = np.log(at_low), np.log(at_high)
        root, over, rows = np.full(len(a), np.nan), np.zeros(len(a)), np.arange(len(a))
        share = np.clip(np.where(np.isfinite(fa + fb), fa / (fa - fb), 0.5), 0.02, 0.98)
        for _ in range(STEPS_MAX):
            x = a + share * (b - a)
            rate = x / (fixed + slope * x)
            f = np.log(_pressure(analyze(model, rate), targets))
            same = np.sign(f) == np.sign(fa)
            c, fc = np.where(same, a, b), np.where(same, fa, fb)
            b, fb = np.where(same, b, a), np.where(same, fb, fa)
            a, fa = x, f
            root[rows], over[rows] = rate, f
            left = np.flatnonzero((np.abs(f) > CLOSE) & (np.abs(b - a) > 1e-14 * np.abs(a)))
            if not len(left):
                break
            rows, model, targets = rows[left], model.take(left), targets.take(left)
            fixed, slope = fixed[left], slope[left]
            a, b, fa, fb = a[left], b[left], fa[left], fb[left]
            share = _share((a, b, c[left]), (fa, fb, fc[left]))
        return self._step_of_bisection(root, over) if stepwise else root

    def _step_of_bisection(self, root: Floats, over: Floats) -> Floats:
        """Return where a bisection that stops within TOLERANCE of the target would stop.

        *over* is ln(ratio) at *root*; with the slope there it tells which rates are within the tolerance.
        """
        near = root * (1.0 + 1e-3)
        slope = (np.log(_pressure(analyze(self.model, near), self.targets)) - over) / (near - root)
        slope = np.maximum(slope, 1e-300)
        root, reach = root - over / slope, TOLERANCE / slope
        low, high = self.model.rate_min.copy(), self.model.rate_max.copy()
        middle = 0.5 * (low + high)
        for _ in range(STEPS_MAX):
            on = np.abs(middle - root) > reach
            if not on.any():
                break
            low, high = np.where(on & (middle < root), middle, low), np.where(on & (middle >= root), middle, high)
            middle = np.where(on, 0.5 * (low + high), middle)
        return middle


def _pressure(metrics: Metrics, targets: Targets) -> Floats:
    """Return the largest ratio of a figure to its target."""
    pressure: Floats = np.maximum.reduce(ratios(metrics, targets))
    return pressure


def _fluid(model: Model) -> tuple[Floats, Floats]:
    """Return the fixed part of tau(x) and its slope; (1, 0), so that x is the rate, where there is no fixed part."""
    columns = model.columns
    chunks = np.ones(len(columns)) if model.chunks is None else model.chunks[:, 0]
    fixed = (chunks + columns.out_tokens) * columns.alpha
    slope = (chunks + columns.out_tokens) * work_per_iteration(columns, chunks)
    return np.where(fixed > 0.0, fixed, 1.0), np.where(fixed > 0.0, slope, 0.0)


def _share(points: tuple[Floats, Floats, Floats], values: tuple[Floats, Floats, Floats]) -> Floats:
    """Return the share of the way from a to b to try next: interpolated where Chandrupatla's test trusts it, else half.

    a is the last point, b the one on the other side of the root, c the one before.
    """
    a, b, c = points
    fa, fb, fc = values
    with np.errstate(all="ignore"):
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        trusted = (phi**2 < xi) & ((1.0 - phi) ** 2 < 1.0 - xi)
        share = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
    return np.clip(np.where(trusted & np.isfinite(share), share, 0.5), 1e-9, 1.0 - 1e-9)
