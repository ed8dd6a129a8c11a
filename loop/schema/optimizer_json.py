"""The engine of `inferno optimize`: a {"system": …} message in, the allocation in the wire's words
out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loop.optimizer.front import optimize
from loop.optimizer.rules.go_2025 import GO_2025
from loop.optimizer.rules.ours import OURS
from loop.optimizer.settings import OptimizerSettings
from loop.schema.reading import parse_system
from twin.datafile import Entry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loop.optimizer.rules import Rules
    from loop.optimizer.settings import Objective, SolverName
    from loop.optimizer.solution import Assignment, Solution
    from loop.spec import SystemData
    from loop.types import Load


def optimize_json(
    obj: object,
    *,
    solver: SolverName | None = None,
    rules: Rules = OURS,
    objective: Objective = "value",
    time_limit_s: float | None = None,
    source: str = "system",
) -> dict[str, Any]:
    """Return {"allocations": …, "unallocated": {server: reason}, "totalCost": …} for the message
    *obj*.

    rules: by those of the Go optimizer the message is read as leniently as it reads it, and by
    those of mid 2025 the answer is in the words of that time. solver: None is the exact one (mid
    2025: the greedy one, as it was). Raise SpecError, one line, where the message is wrong.
    """
    data = parse_system(obj, source=source, lenient=rules is not OURS)
    settings = OptimizerSettings(
        solver=solver or ("greedy" if rules is GO_2025 else "exact"),
        rules=rules,
        objective=objective,
        time_limit_s=time_limit_s,
    )
    solution = optimize(data, settings)
    if rules is GO_2025:
        return _early_json(solution, data)
    return solution_json(solution, data, throughputs=read_throughputs(obj), explain=rules is OURS)


def read_throughputs(obj: object) -> dict[str, float]:
    """Return the throughput that the message gives for each server [requests/min]: it is echoed,
    and means nothing.
    """
    outer = Entry(obj, source="system", lenient=True)
    system = outer.child("system") or outer
    servers = system.child("serverData")
    found = {}
    for row in servers.children("servers") if servers else ():
        current = row.child("currentAlloc")
        load = current.child("load") if current else None
        if load is not None:
            found[row.text("name")] = load.number("throughput", default=0.0)
    return found


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
        answer |= {"reason": found.why.text, "details": dict(found.why.details)}
    return answer


def _early_json(solution: Solution, data: SystemData) -> dict[str, Any]:
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
                "load": _early_load(data.servers[name].current.load),
            }
            for name, found in solution.allocations.items()
        },
        "unallocated": {name: why.text for name, why in solution.unserved.items()},
        "totalCost": solution.total_cost,
    }


def _early_load(load: Load | None) -> dict[str, float]:
    return {"arrivalRate": load.rate_rpm, "avgLength": _whole(load.out_tokens)} if load else {}


def _whole(tokens: float) -> float | int:
    return int(tokens) if tokens.is_integer() else tokens
