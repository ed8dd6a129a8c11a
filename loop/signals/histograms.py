"""From the buckets of histograms to percentiles of latencies; pure.

Buckets are cumulative, as engines show them: how many observations were no larger than each bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import inf

import numpy as np

Buckets = Mapping[float, float]  # by upper bound; that of all observations is infinite

PERCENTILES = (50, 90, 95, 99)
MS = 1000.0
# Observations that a histogram has more than its own count grew by: more came before the window.
EXCESS_FACTOR, EXCESS_MIN = 3.0, 10.0


def growth(snapshots: Sequence[Buckets]) -> Buckets:
    """Return by how much a histogram has grown over *snapshots*, oldest first; over a restart what
    it has counted since.
    """
    if not any(_all(later) < _all(earlier) for earlier, later in pairwise(snapshots)):
        return _difference(snapshots[-1], snapshots[0])
    steps = [
        later if _all(later) < _all(earlier) else _difference(later, earlier)
        for earlier, later in pairwise(snapshots)
    ]
    return {bound: sum(step.get(bound, 0.0) for step in steps) for bound in snapshots[-1]}


def plausible(histograms: Iterable[Buckets], told: float | None) -> bool:
    """Tell whether *histograms* of one pod can have grown so, when their counts have grown by
    *told* (None: it was not told) as series by series is known: else observations of before are
    among them.
    """
    return told is None or sum(map(_all, histograms)) <= EXCESS_FACTOR * told + EXCESS_MIN


def percentiles_ms(histograms: Iterable[Buckets], *, scale: float = 1.0) -> dict[str, float]:
    """Return the percentiles of *histograms* of seconds together, times *scale*; none if nothing
    was observed, or there is but the bucket of everything.

    Within a bucket observations are taken as evenly spread, as Prometheus takes them; those beyond
    the last bound as at it. Histograms of several bounds (two versions of an engine) are added up
    at all of them.
    """
    columns = [column for one in histograms if (column := _column(one)) is not None]
    bounds = np.unique(np.concatenate([own for own, _ in columns])) if columns else np.zeros(0)
    if not len(bounds):
        return {}
    reached = sum(
        np.interp(bounds, np.concatenate(([0.0], own)), np.concatenate(([0.0], counts[:-1])))
        for own, counts in columns
    )
    total = sum(float(counts[-1]) for _, counts in columns)
    edges = np.concatenate(([0.0], bounds))
    counts = np.concatenate(([0.0], reached))
    found = {}
    for percentile in PERCENTILES:
        rank = total * percentile / 100.0
        at = int(np.searchsorted(counts, rank, side="left"))
        if at >= len(counts):
            value = edges[-1]
        else:
            at = max(at, 1)
            share = (rank - counts[at - 1]) / (counts[at] - counts[at - 1])
            value = edges[at - 1] + share * (edges[at] - edges[at - 1])
        found[f"p{percentile}"] = float(value) * MS * scale
    return found


def _column(one: Buckets) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the finite bounds, and the observations up to each and in all; None without any."""
    bounds = sorted(one)
    if not bounds:
        return None
    # A scrape is no instant: a bucket may have been read before one that is inside it.
    counts = np.maximum.accumulate([max(one[bound], 0.0) for bound in bounds])
    if not counts[-1] > 0.0:
        return None
    if bounds[-1] == inf:
        return np.array(bounds[:-1]), counts
    return np.array(bounds), np.append(counts, counts[-1])


def _all(one: Buckets) -> float:
    return one.get(inf, max(one.values(), default=0.0))


def _difference(later: Buckets, earlier: Buckets) -> Buckets:
    return {bound: count - earlier.get(bound, 0.0) for bound, count in later.items()}
