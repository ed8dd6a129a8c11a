"""The optimizer of mid 2025 (optimizer v0.1.0), for messages of that time: --compat-early.

A request has one length K, of tokens generated one an iteration: n requests at once are served at n
/ (K·(alpha + beta·n)), at most 10·N in the system for a batch of N. Targets are slo-itl (S / K),
slo-ttw (mean wait at most slo-ttw / -ln 0.05, so that an exponential wait keeps it in 95 % of
cases) and slo-tps. Priority is soft: it weighs what waiting would cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from loop.optimizer.catalog import make_catalog, make_pairs
from loop.optimizer.model.chain import Floats, make_chain
from loop.optimizer.model.queueing import (
    RATE_MAX_SHARE,
    RATE_MIN_SHARE,
    Metrics,
    Model,
    ReplicaColumns,
    analyze,
)
from loop.optimizer.model.rates import Targets, blocks, highest_rates
from loop.optimizer.sizing import MS_PER_MIN, transition_value
from loop.optimizer.solvers.exact import solve_exact
from loop.optimizer.solvers.greedy import solve_greedy
from loop.optimizer.solvers.problem import Answer, make_problem
from loop.optimizer.table import (
    GOOD,
    ITL_SHORT,
    NO_LAW,
    TARGET_SHORT,
    CandidateTable,
    OptimizerSettings,
)

if TYPE_CHECKING:
    from loop.optimizer.model.chain import Rows
    from loop.spec import SystemData

QUEUE_PER_BATCH = 9  # the system holds ten batches, one of them in service
WAIT_MARGIN = -math.log(0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyAllocation:
    """What one server gets. wait_ms is the mean wait, rho the share of time in which there is any
    request.
    """

    accelerator: str
    replicas: int
    max_batch: int
    cost_cents_per_h: float
    value: float
    itl_ms: float
    wait_ms: float
    rho: float
    rate_max_rpm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlySolution:
    """Allocations by server name, and why the others have none."""

    allocations: dict[str, EarlyAllocation]
    unserved: dict[str, str]
    total_cost: float


def optimize_early(data: SystemData, settings: OptimizerSettings) -> EarlySolution:
    """Return what each server of *data* should have, by the model and (solver greedy) the order of
    mid 2025.
    """
    table = size_early(data)
    capacity = None if data.optimizer.unlimited else table.capacity.tolist()
    # Equal values go by name, not by latency: so they fell when a control loop of that time was
    # recorded.
    problem = make_problem(replace(table, itl=np.zeros_like(table.itl)), capacity=capacity)
    if settings.solver == "greedy":
        weight = [1.0 + 1.0 / (1.0 + priority) for priority in problem.priority]
        answer: Answer = solve_greedy(replace(problem, weight=weight))
    else:
        answer = solve_exact(problem, time_limit_s=settings.time_limit_s, gap=settings.gap)
    allocations = {
        table.servers[i]: early_allocation(table, answer.choices[i].row)
        for i in sorted(answer.choices)
    }
    unserved = {
        name: "capacity"
        if problem.options[i]
        else table.problem.get(name, "no accelerator meets its targets")
        for i, name in enumerate(table.servers)
        if name not in allocations
    }
    total = sum(found.cost_cents_per_h for found in allocations.values())
    return EarlySolution(allocations=allocations, unserved=unserved, total_cost=total)


def early_allocation(table: CandidateTable, row: int) -> EarlyAllocation:
    """Return row *row* of an early table, whose ttft column holds the wait."""
    found = table.candidate(row)
    return EarlyAllocation(
        accelerator=found.accelerator,
        replicas=found.replicas,
        max_batch=found.max_batch,
        cost_cents_per_h=found.cost_cents_per_h,
        value=found.value,
        itl_ms=found.itl_ms,
        wait_ms=found.ttft_ms,
        rho=found.rho,
        rate_max_rpm=found.rate_max_rpm,
    )


def size_early(data: SystemData) -> CandidateTable:
    """Return the candidates of all servers by the early model; the ttft column holds the mean
    wait.
    """
    servers = list(data.servers.values())
    catalog = make_catalog(data)
    pairs = make_pairs(data, catalog, OptimizerSettings(compat=True), servers=servers)
    latency_model, said = pairs.latency_model, pairs.said
    length = said["out"]
    count = len(pairs.server)
    verdict = np.where(
        (latency_model["alpha"] + latency_model["beta"] > 0.0)
        & (length > 0.0)
        & (said["rate"] > 0.0),
        GOOD,
        NO_LAW,
    )
    batch = np.maximum(
        latency_model["batch"] * latency_model["at_tokens"] // np.maximum(length, 1.0), 1.0
    ).astype(np.int64)
    columns = ReplicaColumns(
        latency_model["alpha"],
        latency_model["beta"],
        np.zeros(count),
        np.zeros(count),
        np.maximum(
            length - 1.0, 0.0
        ),  # with the iteration of the prefill, as many as the early model counts
        batch,
        QUEUE_PER_BATCH * batch.astype(np.float64),
        np.full(count, np.inf),
    )
    wait = np.array([_wait_target(data, server.service_class, server.model) for server in servers])[
        pairs.server
    ]
    targets = Targets(said["itl"], wait, said["tps"], np.zeros(count))
    with_tps = said["tps"] / (1000.0 * np.maximum(length, 1.0))
    need = np.where(said["tps"] > 0.0, with_tps, said["rate"] / MS_PER_MIN)
    sized = _Sized(*(np.zeros(count) for _ in range(5)))
    good = np.flatnonzero(verdict == GOOD)
    for part in blocks(batch[good]):
        rows = good[part]
        model = _model(columns.take(rows), length[rows])
        _size(sized, model, targets.take(rows), need, rows)
    verdict = np.where((verdict == GOOD) & (sized.rate == 0.0), _missed(sized, targets), verdict)
    replicas = np.ceil(need / np.where(sized.rate > 0.0, sized.rate, np.inf)).astype(np.int64)
    unit_costs = catalog.cost[pairs.accelerator] * latency_model["count"]
    cost = unit_costs * replicas
    value = transition_value(said, accelerator=pairs.accelerator, replicas=replicas, cost=cost)
    return CandidateTable(
        servers=tuple(server.name for server in servers),
        priority=np.array(
            [data.priority(server.service_class) for server in servers], dtype=np.int64
        ),
        start=pairs.start,
        accelerators=catalog.names,
        types=catalog.types,
        capacity=np.array([data.capacity.get(name, 0) for name in catalog.types], dtype=np.int64),
        problem=pairs.problem,
        server=pairs.server,
        accelerator=pairs.accelerator,
        type=catalog.type[pairs.accelerator],
        units=latency_model["count"].astype(np.int64) * catalog.multiplicity[pairs.accelerator],
        columns=columns,
        wanted_batch=batch,
        replicas=replicas,
        unit_costs=unit_costs,
        cost=cost,
        value=value,
        score=value,
        itl=sized.itl,
        ttft=sized.wait,
        rho=sized.rho,
        rate_max=sized.rate,
        limit=sized.rate,
        binding=np.zeros(count, dtype=np.int64),
        verdict=verdict,
        best_itl=sized.best_itl,
        best_ttft=np.zeros(count),
        need=need,
        said=said,
    )


@dataclass(slots=True)
class _Sized:
    """What is found out about each row; rate 0 where no rate meets the targets."""

    rate: Floats
    itl: Floats
    wait: Floats
    rho: Floats
    best_itl: Floats


def _wait_target(data: SystemData, service_class: str, model: str) -> float:
    target = data.target(service_class=service_class, model=model)
    return target.slo_ttw_ms / WAIT_MARGIN if target else 0.0


def _model(columns: ReplicaColumns, length: Floats) -> Model:
    """Return the chain of the early service rates as a Model; of its columns only alpha and the
    length are used.
    """
    states = np.arange(1, int(columns.max_batch.max()) + 1, dtype=np.float64)[None, :]
    times = length[:, None] * (columns.alpha[:, None] + columns.beta[:, None] * states)
    rows = np.arange(len(columns))
    return Model(
        columns=columns,
        chunks=None,
        prefill=np.zeros(len(columns)),
        delta=columns.beta,
        steady=np.ones(len(columns), dtype=np.bool_),
        chain=make_chain(times, max_batch=columns.max_batch, max_queue=columns.max_queue),
        rate_min=RATE_MIN_SHARE / times[:, 0],
        rate_max=RATE_MAX_SHARE * columns.max_batch / times[rows, columns.max_batch - 1],
    )


def _figures(found: Metrics) -> Floats:
    """Return service time, wait and nothing: the early targets are on these."""
    return np.stack([found.response - found.wait, found.wait, np.zeros_like(found.wait)])


def _size(sized: _Sized, model: Model, targets: Targets, need: Floats, rows: Rows) -> None:
    length = model.columns.out_tokens + 1.0
    wanted = replace(targets, itl=targets.itl * length)
    limits = highest_rates(model, wanted, stepwise=True, figures=_figures)
    sized.best_itl[rows] = limits.itl_floor / length
    rate = np.nan_to_num(limits.rate)
    each = need[rows] / np.maximum(np.ceil(need[rows] / np.where(rate > 0.0, rate, np.inf)), 1.0)
    found = analyze(model, np.where(rate > 0.0, each, model.rate_min))
    sized.rate[rows] = rate
    sized.itl[rows] = (found.response - found.wait) / length
    sized.wait[rows] = found.wait
    sized.rho[rows] = 1.0 - found.idle


def _missed(sized: _Sized, targets: Targets) -> Floats:
    return np.where((targets.itl > 0.0) & (sized.best_itl > targets.itl), ITL_SHORT, TARGET_SHORT)
