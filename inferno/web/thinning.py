"""A long timeline with no more points than can be told apart. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from itertools import pairwise

from inferno.web.timeline import (
    Counts,
    Decision,
    Figures,
    Fleet,
    GpuCounts,
    Latencies,
    Replicas,
    ServerTimeline,
    State,
    Timeline,
    Traffic,
)

POINTS_MAX = 720  # of a line
UNCHANGED_MAX = 360  # decisions of a server that changed nothing
# Of all servers together: of a thousand each gets less.
ALL_POINTS, ALL_UNCHANGED = 60_000, 20_000
POINTS_MIN = 60

Reduce = Callable[[list[float]], float]


def thinned(timeline: Timeline) -> Timeline:
    """Return *timeline* with at most POINTS_MAX points a line, fewer where there are very many
    servers: means of rates, the worst of latencies and backlogs. Counts of replicas lose nothing,
    nor do decisions that changed something.
    """
    servers = max(len(timeline.servers), 1)
    points = min(POINTS_MAX, max(POINTS_MIN, ALL_POINTS // servers))
    unchanged = min(UNCHANGED_MAX, ALL_UNCHANGED // servers)
    return replace(
        timeline,
        fleet=_fleet(timeline.fleet),
        servers=[_server(server, points, unchanged) for server in timeline.servers],
    )


def _server(server: ServerTimeline, points: int, unchanged: int) -> ServerTimeline:
    return replace(
        server,
        traffic=_traffic(server.traffic, points),
        replicas=_replicas(server.replicas),
        state=_state(server.state, points),
        decisions=_decisions(server.decisions, unchanged),
    )


def _groups(count: int, points: int) -> list[tuple[int, int]]:
    size = -(-count // points)
    edges = [*range(0, count, max(size, 1)), count]
    return list(pairwise(edges))


def _reduced(values: Figures, groups: Sequence[tuple[int, int]], reduce: Reduce) -> Figures:
    if not values:
        return values
    known = [[value for value in values[first:last] if value is not None] for first, last in groups]
    return [reduce(group) if group else None for group in known]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _last(values: list[float]) -> float:
    return values[-1]


def _traffic(traffic: Traffic, points: int) -> Traffic:
    groups = _groups(len(traffic.t_s), points)
    return Traffic(
        t_s=[traffic.t_s[first] for first, _ in groups],
        rate_rpm=_reduced(traffic.rate_rpm, groups, _mean),
        ttft_ms=_latencies(traffic.ttft_ms, groups),
        itl_ms=_latencies(traffic.itl_ms, groups),
    )


def _latencies(latencies: Latencies, groups: Sequence[tuple[int, int]]) -> Latencies:
    return Latencies(
        **{
            one.name: _reduced(getattr(latencies, one.name), groups, max)
            for one in fields(latencies)
        }
    )


def _state(state: State, points: int) -> State:
    groups = _groups(len(state.t_s), points)
    return State(
        t_s=[state.t_s[first] for first, _ in groups],
        backlog=_reduced(state.backlog, groups, max),
        kv_cache=_reduced(state.kv_cache, groups, max),
    )


def _replicas(replicas: Replicas) -> Replicas:
    """Return the instants at which a count moves, the first and the last: a line of steps is the
    same.
    """
    pools = replicas.by_accelerator
    columns = [values for pool in pools for values in (pool.wanted, pool.ready, pool.starting)]
    end = len(replicas.t_s) - 1
    kept = [
        place
        for place in range(end + 1)
        if place in (0, end) or any(values[place] != values[place - 1] for values in columns)
    ]
    return Replicas(
        t_s=[replicas.t_s[place] for place in kept],
        by_accelerator=[
            Counts(
                accelerator=pool.accelerator,
                wanted=[pool.wanted[place] for place in kept],
                ready=[pool.ready[place] for place in kept],
                starting=[pool.starting[place] for place in kept],
            )
            for pool in pools
        ],
    )


def _decisions(decisions: Sequence[Decision], most: int) -> Sequence[Decision]:
    unchanged = [place for place, one in enumerate(decisions) if not one.changed]
    step = -(-len(unchanged) // max(most, 1))
    kept = set(unchanged[:: max(step, 1)])
    return [one for place, one in enumerate(decisions) if one.changed or place in kept]


def _fleet(fleet: Fleet) -> Fleet:
    groups = _groups(len(fleet.t_s), POINTS_MAX)
    scored = _groups(len(fleet.attainment_t_s), POINTS_MAX)
    return replace(
        fleet,
        t_s=[fleet.t_s[first] for first, _ in groups],
        gpus=[
            GpuCounts(
                type=one.type,
                used=_reduced(one.used, groups, max),
                available=_reduced(one.available, groups, _last),
            )
            for one in fleet.gpus
        ],
        cost_usd_per_h=_reduced(fleet.cost_usd_per_h, groups, _mean),
        backlog=_reduced(fleet.backlog, groups, max),
        attainment_t_s=[fleet.attainment_t_s[first] for first, _ in scored],
        attainment=_reduced(fleet.attainment, scored, _mean),
    )
