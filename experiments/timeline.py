"""The data behind the replica timelines, as columns: counts of pods over time, and the minutes of
each server. Pure; no drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from experiments.columns import Column, Columns, Floats, Window, select
from experiments.requests import Requests
from experiments.scores.changes import Desired
from experiments.scores.costs import PRICE
from experiments.scores.minutes import minute_table
from loop.spec import SloTarget


def replica_timeline(
    pods: Columns, desired: Mapping[str, Sequence[Desired]], *, names: Sequence[str], end_s: float
) -> dict[str, Column]:
    """Return wanted, ready, starting, pending and draining replicas of each server from each
    instant t_s on.

    Columns: server, t_s, wanted, ready, starting, pending, draining; one row per server and instant
    at which a count moves, with rows at 0 and *end_s*, so a step plot (`where="post"`) of it is
    exact.
    """
    columns = ("t_s", "wanted", "ready", "starting", "pending", "draining")
    parts = [
        _server_timeline(select(pods, pods["server"] == index), desired.get(name, ()), end_s=end_s)
        for index, name in enumerate(names)
    ]
    counts = [part["t_s"].size for part in parts]
    return {
        "server": np.repeat(np.array(names, dtype=object), counts),
        **{name: np.concatenate([part[name] for part in parts]) for name in columns},
    }


def minute_timeline(
    requests: Columns | Requests,
    targets: Sequence[SloTarget | None],
    *,
    names: Sequence[str],
    end_s: float,
) -> dict[str, Column]:
    """Return arrival rate, mean latencies and whether the targets were violated, by server and
    minute of the run.

    Columns: server, start_s, length_s, rate_rpm, ttft_ms, itl_ms, output_tps, violated. Warm-up is
    drawn too.
    """
    table = minute_table(requests, targets, Window(start_s=0.0, end_s=end_s))
    minutes = table.start_s.size
    return {
        "server": np.repeat(np.array(names, dtype=object), minutes),
        "start_s": np.tile(table.start_s, len(names)),
        "length_s": np.tile(table.length_s, len(names)),
        "rate_rpm": table.rate_rpm.ravel(),
        "ttft_ms": table.ttft_ms.ravel(),
        "itl_ms": table.itl_ms.ravel(),
        "output_tps": table.output_tps.ravel(),
        "violated": (table.counted & ~table.met).ravel(),
    }


def fleet_timeline(pods: Columns, *, end_s: float) -> dict[str, Column]:
    """Return the GPUs that pods hold by type, and what they cost [$/h], from each instant on.

    Columns: t_s, one a type in the order of their names, and PRICE (NaN if the pods have none);
    rows as in `replica_timeline`.
    """
    granted_s, released_s = (
        np.where(np.isnan(pods[name]), np.inf, pods[name]) for name in ("granted_s", "released_s")
    )
    # A pod that is withdrawn before it is granted holds nothing.
    released_s = np.where(np.isfinite(granted_s), released_s, np.inf)
    instants = np.concatenate([granted_s, released_s, [0.0, end_s]])
    t_s = np.unique(instants[(instants >= 0.0) & (instants <= end_s)])

    def held(weights: Floats) -> Floats:
        begun = _running_sum(granted_s, weights, t_s)
        found: Floats = begun - _running_sum(released_s, weights, t_s)
        return found

    columns: dict[str, Column] = {"t_s": t_s}
    for kind in sorted(set(pods["type"].tolist())):
        columns[kind] = held(pods["gpus"] * (pods["type"] == kind))
    # Sums of prices of pods that came and went: what is left of them is a rounding error.
    columns[PRICE] = np.round(held(pods[PRICE]), 6) if PRICE in pods else np.full(t_s.size, np.nan)
    return columns


def accelerator_spells(
    desired: Sequence[Desired], *, end_s: float
) -> list[tuple[float, float, str]]:
    """Return from when until when which accelerator was wanted."""
    moved = [now for old, now in pairwise(desired) if old.accelerator != now.accelerator]
    starts = [*desired[:1], *moved]
    ends = [*(one.t_s for one in starts[1:]), end_s]
    return [(one.t_s, end, one.accelerator) for one, end in zip(starts, ends, strict=False)]


def _running_sum(at_s: Floats, weights: Floats, t_s: Floats) -> Floats:
    """Return the sum of *weights* of what is not after each of *t_s*."""
    order = np.argsort(at_s, kind="stable")
    sums = np.concatenate(([0.0], np.cumsum(weights[order])))
    found: Floats = sums[np.searchsorted(at_s[order], t_s, side="right")]
    return found


def _server_timeline(
    pods: Columns, desired: Sequence[Desired], *, end_s: float
) -> dict[str, Column]:
    never = np.full(pods["asked_s"].shape, np.inf)
    asked_s, granted_s, ready_s, draining_s, released_s = (
        np.where(np.isnan(pods[name]), never, pods[name])
        for name in ("asked_s", "granted_s", "ready_s", "draining_s", "released_s")
    )
    # A pod may be taken back before it is ready, or before it is granted: each phase ends with the
    # next that comes.
    leaves_s = np.minimum(draining_s, released_s)
    spans = {
        "pending": (asked_s, np.minimum(granted_s, leaves_s)),
        "starting": (granted_s, np.minimum(ready_s, leaves_s)),
        "ready": (ready_s, leaves_s),
        "draining": (draining_s, released_s),
    }
    asked_s = np.array([one.t_s for one in desired], dtype=float)
    instants = np.concatenate(
        [asked_s, *(edge for span in spans.values() for edge in span), [0.0, end_s]]
    )
    t_s = np.unique(instants[(instants >= 0.0) & (instants <= end_s)])
    counts = {name: _count_open(t_s, begin, end) for name, (begin, end) in spans.items()}
    return {"t_s": t_s, "wanted": _step_values(t_s, asked_s, desired), **counts}


def _count_open(t_s: Floats, begin_s: Floats, end_s: Floats) -> npt.NDArray[np.int64]:
    """Return how many of the spans [begin, end) are open at each instant."""
    real = begin_s < end_s
    begun = np.searchsorted(np.sort(begin_s[real]), t_s, side="right")
    ended = np.searchsorted(np.sort(end_s[real]), t_s, side="right")
    return (begun - ended).astype(np.int64)


def _step_values(t_s: Floats, asked_s: Floats, desired: Sequence[Desired]) -> npt.NDArray[np.int64]:
    if not desired:
        return np.zeros(t_s.size, dtype=np.int64)
    replicas = np.array([one.replicas for one in desired], dtype=np.int64)
    return replicas[np.maximum(np.searchsorted(asked_s, t_s, side="right") - 1, 0)]
