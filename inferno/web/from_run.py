"""The files of a run as a timeline: rates, latencies and misses of every request, every pod, and
what its cycles saw and decided. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from experiments.columns import MINUTE_S, Columns, Floats, Window, by_server, select
from experiments.run_files import RunRecords
from experiments.scores.changes import Desired
from experiments.scores.costs import PRICE
from experiments.scores.misses import judged
from experiments.scores.verdicts import LEFT_OUT, MET, measured_latencies_ms, target_columns
from experiments.timeline import fleet_timeline, minute_timeline, replica_timeline
from inferno.web.from_records import timeline_of_records
from inferno.web.timeline import (
    Counts,
    Figures,
    Fleet,
    GpuCounts,
    Latencies,
    PercentileTarget,
    Replicas,
    ServerTimeline,
    Span,
    Timeline,
    Traffic,
)

POINTS_MAX = 720  # of a line: more are not told apart, and make the page large


def timeline_of_run(records: RunRecords, summary: Mapping[str, Any], *, title: str) -> Timeline:
    """Return the timeline of the run of *records*, with the scores of its *summary*."""
    loop = timeline_of_records(records.cycles, title=title, origin="run")
    seen = {server.name: server for server in loop.servers}
    minutes = minute_timeline(
        records.requests, records.targets, names=records.names, end_s=records.end_s
    )
    width_s = bin_s(records.end_s)
    requests = by_server(records.requests, len(records.names))
    servers = []
    for index, name in enumerate(records.names):
        scores, target = summary["servers"][name], records.targets[index]
        base = seen.get(name) or ServerTimeline(name=name)
        servers.append(
            replace(
                base,
                slo_ttft_ms=(target.slo_ttft_ms or None) if target else None,
                slo_itl_ms=(target.slo_itl_ms or None) if target else None,
                slo_tps=(target.slo_tps or None) if target else None,
                slo_percentiles=[
                    PercentileTarget(
                        latency=one.latency, percentile=one.percentile, limit_ms=one.limit_ms
                    )
                    for one in (target.percentiles if target else ())
                ],
                attainment=scores["attainment"] if target else None,
                cost_usd_per_h=scores["cost_usd_per_h"],
                traffic=_traffic(requests[index], end_s=records.end_s, width_s=width_s),
                replicas=_replicas(
                    select(records.pods, records.pods["server"] == index),
                    records.desired.get(name, []),
                    end_s=records.end_s,
                ),
                missed=_missed(select(minutes, minutes["server"] == name)),
            )
        )
    return replace(
        loop,
        started="",
        end_s=records.end_s,
        attainment=summary["attainment"],
        cost_usd_per_h=summary["cost_usd_per_h"],
        fleet=_fleet(records, loop.fleet, width_s=width_s),
        servers=servers,
    )


def bin_s(duration_s: float) -> float:
    """Return how many seconds one point of a line stands for: whole minutes, at most POINTS_MAX."""
    return MINUTE_S * max(1, math.ceil(duration_s / MINUTE_S / POINTS_MAX))


def _edges_s(end_s: float, width_s: float) -> Floats:
    return np.append(np.arange(0.0, end_s, width_s), end_s)


def _middles_s(edges_s: Floats) -> list[float]:
    """Return where a figure of a stretch is drawn: at its begin a line would run ahead of what it
    shows, and end before the run does.
    """
    middles: list[float] = ((edges_s[:-1] + edges_s[1:]) / 2.0).tolist()
    return middles


def _traffic(own: Columns, *, end_s: float, width_s: float) -> Traffic:
    edges_s = _edges_s(end_s, width_s)
    cell = np.searchsorted(edges_s, own["arrival_s"], side="right") - 1
    counts = np.bincount(cell, minlength=edges_s.size - 1)
    ttft_ms, itl_ms = measured_latencies_ms(own)
    return Traffic(
        t_s=_middles_s(edges_s),
        rate_rpm=(counts / (np.diff(edges_s) / MINUTE_S)).tolist(),
        ttft_ms=_latencies(ttft_ms, cell, cells=edges_s.size - 1),
        itl_ms=_latencies(itl_ms, cell, cells=edges_s.size - 1),
    )


def _latencies(values: Floats, cell: Any, *, cells: int) -> Latencies:
    known = np.isfinite(values)
    groups = pd.Series(values[known]).groupby(cell[known])
    if not known.any():
        return Latencies()
    return Latencies(
        **{
            name: _figures(column.reindex(range(cells)))
            for name, column in (
                ("mean", groups.mean()),
                ("p50", groups.quantile(0.5)),
                ("p95", groups.quantile(0.95)),
            )
        }
    )


def _figures(column: pd.Series[float]) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in column]


def _replicas(pods: Columns, desired: Sequence[Desired], *, end_s: float) -> Replicas:
    """Return the counts of each accelerator at the instants at which any of them moves."""
    names = dict.fromkeys([*(one.accelerator for one in desired), *pods["accelerator"].tolist()])
    frames = {}
    for name in names:
        own = select(pods, pods["accelerator"] == name)
        asked = [one if one.accelerator == name else replace(one, replicas=0) for one in desired]
        alone = {**own, "server": np.zeros(own["asked_s"].size, dtype=np.int64)}
        frames[name] = replica_timeline(alone, {"": asked}, names=[""], end_s=end_s)
    if not frames:
        return Replicas()
    t_s = np.unique(np.concatenate([frame["t_s"] for frame in frames.values()]))
    return Replicas(
        t_s=t_s.tolist(),
        by_accelerator=[
            Counts(
                accelerator=name,
                wanted=_held(frame, "wanted", t_s),
                ready=_held(frame, "ready", t_s),
                starting=_held(frame, "starting", t_s),
            )
            for name, frame in frames.items()
        ],
    )


def _held(frame: Columns, column: str, t_s: Floats) -> list[float]:
    place = np.searchsorted(frame["t_s"], t_s, side="right") - 1
    found: list[float] = frame[column][np.maximum(place, 0)].tolist()
    return found


def _missed(minutes: Columns) -> list[Span]:
    """Return the minutes that missed a target, adjoining ones as one span."""
    starts = minutes["start_s"][minutes["violated"]].tolist()
    ends = (minutes["start_s"] + minutes["length_s"])[minutes["violated"]].tolist()
    if not starts:
        return []
    firsts = [n for n in range(len(starts)) if n == 0 or ends[n - 1] != starts[n]]
    return [
        Span(start_s=starts[first], end_s=ends[after - 1])
        for first, after in pairwise([*firsts, len(starts)])
    ]


def _fleet(records: RunRecords, seen: Fleet, *, width_s: float) -> Fleet:
    """Return what pods held and cost, from each instant at which that moves, the backlog that
    cycles have *seen*, and the share of requests within target.
    """
    held = fleet_timeline(records.pods, end_s=records.end_s)
    t_s = np.unique(np.concatenate([held["t_s"], np.asarray(seen.t_s, dtype=float)]))
    available = {one.type: one.available for one in seen.gpus}
    priced = not np.isnan(held[PRICE]).any()
    share = _attainment(records, width_s=width_s)
    return Fleet(
        t_s=t_s.tolist(),
        gpus=[
            GpuCounts(
                type=kind,
                used=_held(held, kind, t_s),
                available=_last_seen(seen.t_s, available.get(kind, ()), t_s),
            )
            for kind in dict.fromkeys([*available, *held])
            if kind in held and kind not in ("t_s", PRICE)
        ],
        # Runs of older versions have no prices beside their pods: then what was wanted is shown.
        cost_usd_per_h=_held(held, PRICE, t_s)
        if priced
        else _last_seen(seen.t_s, seen.cost_usd_per_h, t_s),
        backlog=_last_seen(seen.t_s, seen.backlog, t_s),
        attainment_t_s=_middles_s(_edges_s(records.end_s, width_s)),
        attainment=share,
        attainment_of="requests",
    )


def _last_seen(at_s: Sequence[float], values: Figures, t_s: Floats) -> list[float | None]:
    """Return the last of *values* that is known at each instant, None before the first."""
    place = (np.searchsorted(np.asarray(at_s), t_s, side="right") - 1).tolist()
    return [values[one] if one >= 0 and values else None for one in place]


def _attainment(records: RunRecords, *, width_s: float) -> list[float | None]:
    window = Window(start_s=0.0, end_s=records.end_s)
    edges_s = _edges_s(records.end_s, width_s)
    count, met = np.zeros((2, edges_s.size - 1), dtype=np.int64)
    aimed = target_columns(records.targets).any_set
    for own, verdict in judged(records.requests, records.targets, window):
        here = aimed[own["server"]]
        scored, verdicts = select(own, here), verdict[here]
        cell = np.searchsorted(edges_s, scored["arrival_s"], side="right") - 1
        count += np.bincount(cell[verdicts != LEFT_OUT], minlength=count.size)
        met += np.bincount(cell[verdicts == MET], minlength=met.size)
    return [m / n if n else None for m, n in zip(met.tolist(), count.tolist(), strict=True)]
