"""From the history of servers to operating points: steady loads and their measured latencies; and
from histograms to percentiles of the whole past. Pure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from loop.signals.histograms import growth, percentiles_ms
from loop.signals.history import History, Stretch, blocks
from loop.signals.names import Names
from twin.fit.points import OperatingPoint
from twin.fit.request_csv import RequestRows

BLOCK_S = 600.0  # a load is taken as steady over so long
POINTS_MAX = 12  # of one fit
OF_A_SERVER_MAX = 5
POINTS_MIN = 3
# A replica that more requests wait for than this part of those that run is overloaded: what it
# shows follows from the past.
WAITING_MAX = 0.1
REQUESTS_MIN = 50  # of a point
# Tokens in and out whose ratio moves by more than this factor between the tenths of a history make
# points of their own.
MIX_MOVES = 1.3
# What a mean over many requests is trusted to: the simulation of a point has its own chance.
KNOWN_MIN, KNOWN_MAX = 0.02, 0.5
QUEUED = 20.0
# Latencies of which percentiles are written, and these.
LATENCIES, PERCENTILES = ("ttft", "itl", "e2e"), ("p50", "p95", "p99")

Bucket = tuple[Mapping[str, str], float]
Block = tuple[slice, Stretch]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A steady load of one replica, as measured over several stretches of a history together, of
    which latencies and rate are known.
    """

    server: str
    stretch: Stretch

    @property
    def ttft_ms(self) -> float:
        """Return the mean TTFT."""
        return _known(self.stretch.ttft_ms)

    @property
    def itl_ms(self) -> float:
        """Return the mean ITL."""
        return _known(self.stretch.itl_ms)

    @property
    def per_replica_rpm(self) -> float:
        """Return what one replica was asked for."""
        return _known(self.stretch.per_replica_rpm)

    @property
    def known_within(self) -> float:
        """Return how far off its means may be, as a share of themselves: by chance, and by queues,
        which are longer or shorter by more than their cause.
        """
        by_chance = 1.0 / math.sqrt(max(self.stretch.requests, 1.0))
        queued = self.stretch.waiting / max(self.stretch.running, 1e-9)
        return min(max(by_chance, QUEUED * queued, KNOWN_MIN), KNOWN_MAX)


def points_of(histories: Sequence[tuple[str, History]]) -> list[Point]:
    """Return operating points of servers that run the same engine, from light to heavy."""
    each = max(POINTS_MAX // max(len(histories), 1), 2)
    found = []
    for server, history in histories:
        for steady in _groups(history, count=min(each, OF_A_SERVER_MAX)):
            stretch = _together(history, steady)
            if stretch is not None and stretch.requests >= REQUESTS_MIN:
                found.append(Point(server=server, stretch=stretch))
    return found


def _together(history: History, steady: Sequence[Block]) -> Stretch | None:
    """Return what was measured over *steady* together. TTFT is the median of theirs: a queue of a
    minute, as a KV cache without room makes it once in hours, is the greater part of a mean.
    """
    mask = np.zeros(history.steps, dtype=bool)
    for where, _ in steady:
        mask[where] = True
    stretch = history.over(mask)
    if stretch is None:
        return None
    return replace(stretch, ttft_ms=float(np.median([_known(each.ttft_ms) for _, each in steady])))


def _known(value: float | None) -> float:
    """Return a figure that whoever chose the stretch has looked at."""
    assert value is not None
    return value


def rows_of(points: Sequence[Point], *, source: str, token_cv: float) -> RequestRows:
    """Return *points* as a table for a fit; *token_cv* is how lengths vary about their means."""
    tokens_in = np.array([each.stretch.load.in_tokens for each in points])
    tokens_out = np.array([each.stretch.load.out_tokens for each in points])
    ttft_s = np.array([each.ttft_ms / 1e3 for each in points])
    itl_s = np.array([each.itl_ms / 1e3 for each in points])
    output = np.maximum(np.rint(tokens_out), 1).astype(np.int64)
    return RequestRows(
        source=source,
        line=np.arange(1, len(points) + 1, dtype=np.int64),
        queued_s=np.zeros(len(points)),
        first_token_s=ttft_s,
        last_token_s=ttft_s + (output - 1) * itl_s,
        input_tokens=np.maximum(np.rint(tokens_in), 1).astype(np.int64),
        output_tokens=output,
        place="point",
        points=tuple(operating_point(each, token_cv=token_cv) for each in points),
    )


def operating_point(point: Point, *, token_cv: float) -> OperatingPoint:
    """Return the load of *point* for a simulation of one replica."""
    return OperatingPoint(
        rate_rps=point.per_replica_rpm / 60.0,
        input_tokens=point.stretch.load.in_tokens,
        output_tokens=point.stretch.load.out_tokens,
        token_cv=token_cv,
        prefix_share=point.stretch.prefix_share or 0.0,
        known_within=point.known_within,
    )


def steady_blocks(history: History) -> list[Block]:
    """Return the stretches over which all is known, nobody is overloaded and no pod came or
    went.
    """
    found = []
    for where in blocks(history, length_s=BLOCK_S):
        pods, stretch = history.pods[where], history.over(where)
        if (
            stretch is not None
            and pods.min() == pods.max() > 0.0
            and not history.spread[where].any()
            and stretch.ttft_ms
            and stretch.itl_ms
            and stretch.per_replica_rpm
            and stretch.load.in_tokens > 0.0
            and stretch.load.out_tokens > 1.0
            and stretch.waiting <= WAITING_MAX * stretch.running
        ):
            found.append((where, stretch))
    return found


def _groups(history: History, *, count: int) -> list[list[Block]]:
    """Return the steady blocks of *history* that are alike: by what runs, and by the mix of tokens
    if that moves.
    """
    steady = steady_blocks(history)
    if not steady:
        return []
    mixes = np.array([each.load.in_tokens / each.load.out_tokens for _, each in steady])
    low, high = np.percentile(mixes, (10, 90))
    parts = [np.arange(len(steady))]
    if high > MIX_MOVES * low and count >= 4:
        middle = float(np.median(mixes))
        parts = [np.flatnonzero(mixes <= middle), np.flatnonzero(mixes > middle)]
        count //= 2
    running = np.array([each.running for _, each in steady])
    groups = []
    for part in parts:
        ordered = part[np.argsort(running[part], kind="stable")]
        for chosen in np.array_split(ordered, min(count, len(ordered)) or 1):
            groups.append([steady[place] for place in chosen.tolist()])
    return groups


def measured_percentiles(
    before: Iterable[Bucket],
    now: Iterable[Bucket],
    names: Names,
    *,
    zeros: Collection[str] = (),
) -> dict[str, dict[str, float]]:
    """Return the percentiles [ms] of each latency of one server over a past, by the labels and
    values of its buckets *before* it and at its end; empty if it has none. What was not there
    before began at 0, and so did what has less now. Nothing but *zeros* was observed of some.
    """
    first, last = (_histograms(buckets, names) for buckets in (before, now))
    grown: dict[str, dict[int, list[Mapping[float, float]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for (metric, own), found in last.items():
        latency, rank = names.buckets[metric]
        then = first.get((metric, own))
        grown[latency][rank].append(growth([then, found]) if then else found)
    return {
        latency: {key: told[key] for key in PERCENTILES}
        for latency in LATENCIES
        if latency in grown
        and latency not in zeros
        # The name that counts first, as where the loop reads them.
        and (told := percentiles_ms(grown[latency][min(grown[latency])]))
    }


def _histograms(
    buckets: Iterable[Bucket], names: Names
) -> dict[tuple[str, tuple[tuple[str, str], ...]], dict[float, float]]:
    """Return *buckets* by bound, of each histogram: its metric and its other labels."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], dict[float, float]] = defaultdict(dict)
    for labels, value in buckets:
        metric = labels.get("__name__", "")
        if metric not in names.buckets:
            continue
        try:
            bound = float(labels.get("le", ""))
        except ValueError:
            continue
        own = tuple(sorted(item for item in labels.items() if item[0] != "le"))
        found[metric, own][bound] = value
    return found
