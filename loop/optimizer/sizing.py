"""From objectives to replicas: sizes every (server, accelerator) pair at once. Chooses nothing; the
solvers do.

Formulas: the existing optimizer's (queue-analysis and CreateAllocation). Where it is wrong ours
differs, unless compat is set: docs/optimizer.md lists how.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from loop.optimizer.catalog import Catalog, Pairs, make_catalog, make_pairs
from loop.optimizer.model.chain import Floats, Ints, Rows
from loop.optimizer.model.queueing import (
    RATE_MAX_SHARE,
    TOKEN_BUDGET,
    Model,
    ReplicaColumns,
    analyze,
    make_model,
)
from loop.optimizer.model.rates import TOLERANCE, Targets, blocks, highest_rates
from loop.optimizer.table import (
    BAD_LOAD,
    GOOD,
    ITL_SHORT,
    NO_LAW,
    NO_MEMORY,
    ONE_STATE,
    TARGET_SHORT,
    TOO_MANY,
    TTFT_SHORT,
    CandidateTable,
    OptimizerSettings,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loop.spec import ServerData, SystemData

Bools = NDArray[np.bool_]
Limit = tuple[
    float, float, float, float
]  # highest rate, best attainable ITL and TTFT, index into rates.BINDING

ROUNDING = 1e-9  # a number of replicas this little above a whole one is that one
MS_PER_MIN = 60_000.0
NO_LOAD = -1  # in place of what binds
BATCH_LIMIT = (
    1 << 20
)  # no batch is looked at beyond this, whatever is asked: each of its states takes memory


class SizingCache:
    """Highest rates by their inputs, at most *limit* of them; the oldest half goes when it is
    full.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._found: dict[bytes, Limit] = {}

    def __len__(self) -> int:
        return len(self._found)

    def get(self, keys: list[bytes]) -> list[Limit | None]:
        """Return what is known of each key."""
        return [self._found.get(key) for key in keys]

    def put(self, keys: list[bytes], values: list[Limit]) -> None:
        """Remember values by key."""
        self._found.update(zip(keys, values, strict=True))
        if len(self._found) > self._limit:
            self._found = dict(list(self._found.items())[-self._limit // 2 :])


def size_all(
    data: SystemData,
    settings: OptimizerSettings,
    *,
    servers: Sequence[ServerData],
    cache: SizingCache,
) -> CandidateTable:
    """Return the candidates of *servers* at the load of their current allocation, good ones and
    others.
    """
    catalog = make_catalog(data)
    pairs = make_pairs(data, catalog, settings, servers=servers)
    sized = _start(pairs, settings)
    _size_idle(sized, settings)
    busy = np.flatnonzero(~sized.idle & (sized.verdict == GOOD))
    if len(busy):
        _size_busy(sized, busy, settings, cache)
    unit_costs = _unit_cost(sized, catalog)
    cost = unit_costs * sized.replicas
    value = transition_value(
        pairs.said, accelerator=sized.accelerator, replicas=sized.replicas, cost=cost
    )
    return CandidateTable(
        servers=tuple(server.name for server in servers),
        priority=np.array(
            [data.priority(server.service_class or "Free") for server in servers], dtype=np.int64
        ),
        start=pairs.start,
        accelerators=catalog.names,
        types=catalog.types,
        capacity=np.array([data.capacity.get(name, 0) for name in catalog.types], dtype=np.int64),
        problem=pairs.problem,
        server=pairs.server,
        accelerator=sized.accelerator,
        type=np.where(sized.accelerator < 0, -1, catalog.type[pairs.accelerator]),
        units=np.where(
            sized.accelerator < 0,
            0,
            pairs.latency_model["count"].astype(np.int64) * catalog.multiplicity[pairs.accelerator],
        ),
        columns=_replica_columns(sized, settings),
        wanted_batch=sized.wanted_batch,
        replicas=sized.replicas,
        unit_costs=unit_costs,
        cost=cost,
        value=value,
        score=_score(sized, cost, value, settings),
        itl=sized.itl,
        ttft=sized.ttft,
        rho=sized.rho,
        rate_max=sized.rate_max,
        limit=sized.limit,
        binding=sized.binding,
        verdict=sized.verdict,
        best_itl=sized.best_itl,
        best_ttft=sized.best_ttft,
        need=sized.need,
        said=pairs.said,
    )


@dataclass(slots=True)
class _Sized:
    """The pairs with what is found out about them, column by column."""

    pairs: Pairs
    idle: Bools
    accelerator: Ints
    wanted_batch: Ints
    batch: Ints
    replicas: Ints
    verdict: Ints
    need: Floats
    itl: Floats
    ttft: Floats
    rho: Floats
    rate_max: Floats
    limit: Floats
    binding: Ints
    best_itl: Floats
    best_ttft: Floats


def _start(pairs: Pairs, settings: OptimizerSettings) -> _Sized:
    """Return the pairs with their batch, and a verdict on those that cannot be sized."""
    latency_model, said = pairs.latency_model, pairs.said
    rows = len(pairs.server)
    idle = (said["rate"] == 0.0) | (said["out"] == 0.0)
    verdict = np.zeros(rows, dtype=np.int64)
    derived = latency_model["batch"] * latency_model["at_tokens"] // np.maximum(said["out"], 1.0)
    batch = np.where(
        said["batch"] > 0.0,
        said["batch"],
        np.where(idle, latency_model["batch"], np.maximum(derived, 1.0)),
    )
    wanted = np.minimum(batch, float(BATCH_LIMIT))
    batch = wanted
    if not settings.compat:
        # Memory holds the prompt and, on average over its life, half of the output of every running
        # request.
        room = np.floor(
            latency_model["kv_tokens"] / np.maximum(said["in"] + said["out"] / 2.0, 1.0)
        )
        verdict[~idle & (room < 1.0)] = NO_MEMORY
        batch = np.maximum(np.minimum(np.minimum(batch, room), settings.max_batch_cap), 1.0)
    verdict[
        ~idle & (latency_model["alpha"] + latency_model["beta"] + latency_model["gamma"] <= 0.0)
    ] = NO_LAW
    verdict[(said["rate"] < 0.0) | (said["in"] < 0.0) | (said["out"] < 0.0)] = BAD_LOAD
    return _Sized(
        pairs=pairs,
        idle=idle,
        accelerator=pairs.accelerator.copy(),
        wanted_batch=wanted.astype(np.int64),
        batch=batch.astype(np.int64),
        replicas=said["least"].astype(np.int64),
        verdict=verdict,
        need=np.where(idle, 0.0, _need(said, settings)),
        itl=np.zeros(rows),
        ttft=np.zeros(rows),
        rho=np.zeros(rows),
        rate_max=np.zeros(rows),
        limit=np.zeros(rows),
        binding=np.full(rows, NO_LOAD),
        best_itl=np.zeros(rows),
        best_ttft=np.zeros(rows),
    )


def _need(said: dict[str, Floats], settings: OptimizerSettings) -> Floats:
    """Return the rate that the replicas of a server must take together [requests/ms].

    The original forgets the load where there is a TPS target; ours serves the load: output tokens
    at the lower of the target and the demand (semantics of slo-tps) come with it, and the target's
    margin bounds the rate of a replica.
    """
    rate = said["rate"] / MS_PER_MIN
    if not settings.compat:
        return rate
    return np.where(said["tps"] > 0.0, said["tps"] / np.maximum(said["out"], 1.0) / 1000.0, rate)


def _size_idle(sized: _Sized, settings: OptimizerSettings) -> None:
    """Size the pairs without load: the least replicas, or nothing at all (accelerator -1)."""
    latency_model, said, idle = sized.pairs.latency_model, sized.pairs.said, sized.idle
    if not idle.any():
        return
    base = latency_model["alpha"] + latency_model["beta"]
    batch = sized.batch.astype(np.float64)
    if settings.compat:
        itl, ttft = base, base + latency_model["gamma"] * batch
        span = ttft + latency_model["alpha"] + latency_model["beta"] * batch
        rate_max = np.divide(batch, span, out=np.zeros_like(batch), where=span > 0.0)
    else:
        itl = base + latency_model["gamma"] * (said["in"] + said["out"] / 2.0)
        ttft = (
            latency_model["alpha"]
            + (latency_model["beta"] + latency_model["gamma"]) * said["in"]
            + itl
        )
        rate_max = np.zeros_like(batch)
    nothing = idle & (said["least"] == 0.0)
    for column, found in ((sized.itl, itl), (sized.ttft, ttft), (sized.rate_max, rate_max)):
        column[idle] = np.where(nothing, 0.0, found)[idle]
    sized.accelerator[nothing] = -1
    sized.batch[nothing] = 0


def _size_busy(sized: _Sized, busy: Rows, settings: OptimizerSettings, cache: SizingCache) -> None:
    """Size the pairs with load: highest rate of a replica, replicas, latencies at the load each
    then gets.
    """
    columns = _replica_columns(sized, settings).take(busy)
    targets = _targets(sized, busy, columns, settings)
    share = RATE_MAX_SHARE if settings.compat else settings.utilisation_max
    models = [
        (rows, make_model(columns.take(rows), share=share)) for rows in blocks(columns.max_batch)
    ]
    limits = _limits(models, columns, targets, cache, share=share, stepwise=settings.compat)
    rate = limits[:, 0].copy()
    sized.best_itl[busy], sized.best_ttft[busy] = limits[:, 1], limits[:, 2]
    sized.limit[busy] = np.nan_to_num(rate)
    sized.verdict[busy] = _verdicts(limits, targets, columns, settings)
    sized.binding[busy] = limits[:, 3].astype(np.int64)
    good = sized.verdict[busy] == GOOD
    if settings.compat:
        for rows, model in models:
            rate[rows] = _after_loss(model, rate[rows])
    sized.rate_max[busy] = np.where(good, rate, 0.0)
    full = np.empty(len(busy))
    for rows, model in models:
        full[rows] = model.rate_max
    sized.replicas[busy] = _replicas(sized, busy, full, settings)
    sized.verdict[busy[good & (sized.replicas[busy] > settings.replicas_cap)]] = (
        GOOD if settings.compat else TOO_MANY
    )
    each = sized.need[busy] / np.maximum(sized.replicas[busy], 1)
    for rows, model in models:
        here = busy[rows]
        found = analyze(model, np.where(good[rows], each[rows], model.rate_min))
        for column, figures in (
            (sized.itl, found.itl),
            (sized.ttft, found.ttft),
            (sized.rho, found.rho),
        ):
            column[here] = np.where(good[rows], figures, 0.0)


def _replica_columns(sized: _Sized, settings: OptimizerSettings) -> ReplicaColumns:
    latency_model, said = sized.pairs.latency_model, sized.pairs.said
    queue = said["queue"]
    if not settings.compat:
        queue = np.where(queue > 0.0, queue, np.inf)
    return ReplicaColumns(
        latency_model["alpha"],
        latency_model["beta"],
        latency_model["gamma"],
        said["in"],
        np.maximum(said["out"], 1.0),
        sized.batch,
        queue,
        np.full(len(queue), float(TOKEN_BUDGET)),
    )


def _targets(
    sized: _Sized, busy: Rows, columns: ReplicaColumns, settings: OptimizerSettings
) -> Targets:
    goal = 1.0 if settings.compat else 1.0 - settings.headroom
    said = sized.pairs.said
    bounded = np.isfinite(columns.max_queue) & (not settings.compat)
    loss = np.where(bounded, settings.loss_max, 0.0)
    return Targets(said["itl"][busy] * goal, said["ttft"][busy] * goal, said["tps"][busy], loss)


def _limits(
    models: list[tuple[Rows, Model]],
    columns: ReplicaColumns,
    targets: Targets,
    cache: SizingCache,
    *,
    share: float,
    stepwise: bool,
) -> Floats:
    """Return a Limit per row, remembered or searched for."""
    keys = _keys(columns, targets, share=share, stepwise=stepwise)
    known = cache.get(keys)
    limits = np.array([entry or (0.0, 0.0, 0.0, 0.0) for entry in known])
    unknown = np.array([entry is None for entry in known])
    for rows, model in models:
        new = np.flatnonzero(unknown[rows])
        if len(new):
            here = rows[new]
            part = model if len(new) == len(rows) else model.take(new)
            found = highest_rates(part, targets.take(here), stepwise=stepwise)
            limits[here] = np.stack(
                [found.rate, found.itl_floor, found.ttft_floor, found.binding], axis=1
            )
    new = np.flatnonzero(unknown)
    cache.put(
        [keys[i] for i in new.tolist()], [(a, b, c, d) for a, b, c, d in limits[new].tolist()]
    )
    return limits


def _keys(
    columns: ReplicaColumns, targets: Targets, *, share: float, stepwise: bool
) -> list[bytes]:
    """Return one key per row from all that its highest rate depends on."""
    parts = [getattr(columns, name) for name in ReplicaColumns.__slots__]
    parts += [targets.itl, targets.ttft, targets.tps, targets.loss]
    parts += [np.full(len(columns), share), np.full(len(columns), float(stepwise))]
    table = np.stack(parts, axis=1).astype(np.float64)
    keys: list[bytes] = table.view(f"V{table.shape[1] * 8}").ravel().tolist()
    return keys


def _verdicts(
    limits: Floats, targets: Targets, columns: ReplicaColumns, settings: OptimizerSettings
) -> Ints:
    """Return why the rows without a rate have none."""
    rate, best_itl, best_ttft, _ = limits.T
    itl = (targets.itl > 0.0) & (best_itl > targets.itl * (1.0 + TOLERANCE))
    ttft = (targets.ttft > 0.0) & (best_ttft > targets.ttft * (1.0 + TOLERANCE))
    # One place and no queue: the original calls the model invalid.
    one_state = settings.compat & (columns.max_batch + columns.max_queue == 1.0)
    verdict: Ints = np.select(
        [one_state, ~np.isnan(rate), itl, ttft],
        [ONE_STATE, GOOD, ITL_SHORT, TTFT_SHORT],
        TARGET_SHORT,
    )
    return verdict


def _after_loss(model: Model, rate: Floats) -> Floats:
    """Return what is served of *rate*.

    The original counts replicas by that, and so offers each replica more than the rate that meets
    the targets.
    """
    return analyze(model, np.where(np.isnan(rate), model.rate_min, rate)).throughput


def _replicas(sized: _Sized, busy: Rows, full: Floats, settings: OptimizerSettings) -> Ints:
    """Return how many replicas take the load; the present number where it is within the band of
    that.

    Replicas that stay may take more than they should by the band, but never more than *full*
    [requests/ms] each, the most that a full batch should serve: beyond that the queue grows without
    end.
    """
    said, need = sized.pairs.said, sized.need[busy]
    rate_max = np.where(sized.rate_max[busy] > 0.0, sized.rate_max[busy], np.inf)
    least = said["least"][busy]
    share = need / rate_max
    if settings.compat:
        return np.maximum(np.ceil(share), least).astype(np.int64)
    wanted = np.maximum(np.ceil(share * (1.0 - ROUNDING)), np.maximum(least, 1.0))
    now = np.where(
        said["accelerator"][busy] == sized.accelerator[busy], said["replicas"][busy], 0.0
    )
    if settings.band > 0.0:
        fewest = np.ceil(np.maximum(share / (1.0 + settings.band), need / full) * (1.0 - ROUNDING))
        most = np.ceil(share * (1.0 + settings.band) * (1.0 - ROUNDING))
        stay = (now >= np.maximum(fewest, least)) & (now <= np.maximum(most, least)) & (now > 0.0)
        wanted = np.where(stay, now, wanted)
    return wanted.astype(np.int64)


def _unit_cost(sized: _Sized, catalog: Catalog) -> Floats:
    """Return the cost of one replica of each pair [cents/h]."""
    cost: Floats = catalog.cost[sized.pairs.accelerator] * sized.pairs.latency_model["count"]
    return np.where(sized.accelerator < 0, 0.0, cost)


def transition_value(
    said: dict[str, Floats], *, accelerator: Ints, replicas: Ints, cost: Floats
) -> Floats:
    """Return cost with the penalty of a transition from what *said* tells there is.

    Nothing changes: 0. The same accelerator: the difference of cost. Another: 0.1 of both costs on
    top.
    """
    same = said["accelerator"] == accelerator
    unchanged = same & (said["replicas"] == replicas)
    saving = cost - said["cost"]
    return np.where(unchanged, 0.0, np.where(same, saving, saving + 0.1 * (cost + said["cost"])))


def _score(sized: _Sized, cost: Floats, value: Floats, settings: OptimizerSettings) -> Floats:
    """Return what a solver makes least: value or cost; with a band, a move to another accelerator
    has to save more.
    """
    score = value if settings.objective == "value" else cost
    if settings.compat or settings.band == 0.0:
        return score
    said = sized.pairs.said
    moved = (
        (said["accelerator"] >= 0)
        & (said["replicas"] > 0.0)
        & (said["accelerator"] != sized.accelerator)
    )
    return score + np.where(moved, settings.band * said["cost"], 0.0)
