"""The engine of `inferno optimize`: a {"system": …} message in, the allocation in the wire's words
out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from loop.optimizer.bounds import within_most
from loop.optimizer.front import optimize
from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.go_2025 import GO_2025
from loop.optimizer.rules.ours import OURS
from loop.schema import models
from loop.schema.models import Figure, Level, Message, Name
from loop.schema.parsing import read
from loop.schema.reading import loose_ends, meant_system
from twin.spec import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from loop.optimizer.rules import Objective, Rules, SolverName
    from loop.optimizer.solution import Assignment, Solution
    from loop.optimizer.solvers.deadline import TimeLimit
    from loop.schema.parsing import Warn
    from loop.spec import Perf, ServerData, SystemData
    from loop.types import Load

    Look = Callable[[SystemData, Solution], object]

BATCH_MAX = 200_000  # states of a replica that are worked out one by one


class EarlyLoad(Message):
    """The load of a server in mid 2025: arrivals [requests/min], tokens of a request, and
    variations that mean nothing. It is told again in the answer.
    """

    arrival_rate: Figure = 0.0
    avg_length: Figure = 0.0
    arrival_cov: Figure = Field(default=0.0, alias="arrivalCOV")
    service_cov: Figure = Field(default=0.0, alias="serviceCOV")


class EarlyAllocation(Message):
    """What a server has; only its load is of use here."""

    load: EarlyLoad = Field(default_factory=EarlyLoad)


class EarlyServer(Message):
    """A server of a message of mid 2025."""

    name: Name
    current_alloc: EarlyAllocation = Field(default_factory=EarlyAllocation)


class EarlyServerData(Message):
    """All servers."""

    servers: list[EarlyServer] = Field(default=[])


class EarlySystemSpec(Message):
    """A system, of which only the servers are of use here."""

    server_data: EarlyServerData = Field(default_factory=EarlyServerData)


class EarlySystemData(EarlySystemSpec):
    """A system: flat, or in its wrapper."""

    system: EarlySystemSpec | None = None


def optimize_json(
    obj: object,
    *,
    solver: SolverName | None = None,
    rules: Rules = OURS,
    objective: Objective = "value",
    time_limit: TimeLimit | None = None,
    source: str = "system",
    warn: Warn | None = None,
    look: Look | None = None,
) -> dict[str, Any]:
    """Return {"allocations": …, "unallocated": {server: reason}, "totalCost": …} for the message
    *obj*.

    rules: by those of the Go optimizer the message is read as leniently as it reads it, and by
    those of mid 2025 the answer is in the words of that time. solver: None is the exact one (mid
    2025: the greedy one, as it was). *warn* is told a line for what is not used and what cannot be,
    *look* what was asked and found. Raise SpecError, one line, where the message is wrong.
    """
    level: Level = "files" if rules is OURS else "go"
    message = read(models.SystemData, obj, source=source, level=level, warn=warn)
    data = meant_system(message, source=source, level=level)
    if warn and rules is OURS:
        for line in loose_ends(data):
            warn(f"{source}: {line}")
    if rules is not OURS:
        check_batches(data, source=source)
    settings = OptimizerSettings(
        solver=solver or ("greedy" if rules is GO_2025 else "exact"),
        rules=rules,
        objective=objective,
        time_limit=time_limit,
        bounded=rules is OURS,
    )
    loads = _early_loads(obj, source=source) if rules is GO_2025 else None
    solution = optimize(data, settings)
    if rules is OURS:
        solution = within_most(solution, data)
    if look is not None:
        look(data, solution)
    if loads is not None:
        return _early_json(solution, loads)
    said = throughputs(message.spec.server_data)
    return solution_json(solution, data, throughputs=said, explain=rules is OURS)


def throughputs(servers: models.ServerData) -> dict[str, float]:
    """Return the throughput that is said of each server [requests/min]: it is echoed, and means
    nothing.
    """
    return {row.name: row.current_alloc.load.throughput for row in servers.servers}


def check_batches(data: SystemData, *, source: str) -> None:
    """Raise SpecError at the first server that would have a batch beyond BATCH_MAX on some
    accelerator: by the rules of the existing optimizer its sizing would take all memory.
    """
    rows: dict[str, list[Perf]] = {}
    for row in data.perf.values():
        rows.setdefault(row.model, []).append(row)
    for server in data.servers.values():
        for row in rows.get(server.model, ()):
            batch = _batch(server, row)
            if batch > BATCH_MAX:
                line = f"a batch of at most {BATCH_MAX} on {row.accelerator}, found {batch:.6g}"
                raise SpecError(f"{source}: server {server.name!r}: expected {line}")


def _batch(server: ServerData, row: Perf) -> float:
    tokens = server.current.load.out_tokens if server.current.load else 0.0
    return server.max_batch or row.max_batch * row.at_tokens / max(tokens, 1.0)


def solution_json(
    solution: Solution, data: SystemData, *, throughputs: Mapping[str, float], explain: bool
) -> dict[str, Any]:
    """Return *solution* in the words of the wire; explain: with reasons and how far it may be from
    the best.
    """
    answer: dict[str, Any] = {
        "allocations": {
            name: allocation_json(
                found,
                load=data.servers[name].current.load,
                throughput=throughputs.get(name, 0.0),
                explain=explain,
            )
            for name, found in solution.allocations.items()
        },
        "unallocated": {name: why.text for name, why in solution.unserved.items()},
        "totalCost": solution.total_cost,
    }
    if explain:
        answer |= {
            "unallocatedKinds": {name: why.kind for name, why in solution.unserved.items()},
            "totalValue": solution.total_value,
            "gap": solution.gap,
            "optimal": solution.optimal,
        }
    if solution.note:
        answer["note"] = solution.note
    return answer


def allocation_json(
    found: Assignment, *, load: Load | None, throughput: float, explain: bool
) -> dict[str, Any]:
    """Return one allocation in the words of the wire. A wait without bound is null."""
    answer: dict[str, Any] = {
        "accelerator": found.accelerator,
        "numReplicas": found.replicas,
        "maxBatch": found.max_batch,
        "cost": found.cost_cents_per_h,
        "itlAverage": found.itl_ms,
        "ttftAverage": found.ttft_ms,
        "load": {
            "arrivalRate": load.rate_rpm if load else 0.0,
            "throughput": throughput,
            "avgInTokens": _whole(load.in_tokens) if load else 0,
            "avgOutTokens": _whole(load.out_tokens) if load else 0,
        },
    }
    if found.pool_costs:
        answer["parts"] = [
            {
                "accelerator": pool.accelerator,
                "numReplicas": pool.replicas,
                "maxBatch": pool.max_batch,
                "cost": cost,
            }
            for pool, cost in zip(found.pools, found.pool_costs, strict=True)
        ]
    if explain or found.pool_costs:
        answer["value"] = found.value
    if explain:
        answer |= {
            "reason": found.why.text,
            "reasonKind": found.why.kind,
            "details": dict(found.why.details),
        }
    return answer


def _early_loads(obj: object, *, source: str) -> dict[str, Any]:
    """Return the load of each server of *obj* as it is to be told again."""
    early = read(EarlySystemData, obj, source=source)
    rows = (early.system or early).server_data.servers
    return {row.name: models.written(row.current_alloc.load) for row in rows}


def _early_json(solution: Solution, loads: Mapping[str, Any]) -> dict[str, Any]:
    """Return *solution* in the words of mid 2025: a wait in place of the time to first token."""
    return {
        "allocations": {
            name: {
                "accelerator": found.accelerator,
                "numReplicas": found.replicas,
                "maxBatch": found.max_batch,
                "cost": found.cost_cents_per_h,
                "itlAverage": found.itl_ms,
                "waitAverage": found.ttft_ms,
                "load": loads[name],
            }
            for name, found in solution.allocations.items()
        },
        "unallocated": {name: why.text for name, why in solution.unserved.items()},
        "totalCost": solution.total_cost,
    }


def _whole(tokens: float) -> float | int:
    return int(tokens) if tokens.is_integer() else tokens
