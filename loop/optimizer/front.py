"""The front of the optimizer: sizes all servers, lets a solver choose, and says why. Pure: values
in, values out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from loop.optimizer.explain import explain, explain_several
from loop.optimizer.settings import OptimizerSettings
from loop.optimizer.sizing import SizingCache
from loop.optimizer.solution import Assignment, Solution
from loop.optimizer.solvers.exact import solve_exact, solve_grouped
from loop.optimizer.solvers.greedy import fill_left_over, solve_greedy
from loop.optimizer.solvers.problem import Answer, Problem, make_problem
from loop.optimizer.solvers.several import SeveralProblem, solve_several
from loop.types import Why, one_pool

if TYPE_CHECKING:
    from loop.optimizer.table import CandidateTable
    from loop.spec import OptimizerData, ServerData, SystemData

__all__ = ["Assignment", "OptimizerSettings", "SizingCache", "Solution", "optimize"]


def optimize(
    data: SystemData,
    settings: OptimizerSettings,
    *,
    held: frozenset[str] = frozenset(),
    cache: SizingCache | None = None,
) -> Solution:
    """Return what each server of *data* should have at the load of its current allocation.

    Servers in *held* keep what they have, and their GPUs are taken from capacity first. If these
    alone exceed it, the others plan with none, and the reason of the held ones says so. Servers
    that cannot be served are listed with the reason and block nobody. If the data say
    heterogeneous, the exact solver may give a server several accelerators (Assignment.pools).
    """
    rules = settings.rules
    settings, flags = rules.in_force(settings), rules.flags(data.optimizer)
    asked = [server for name, server in data.servers.items() if name not in held]
    kept = [server for name, server in data.servers.items() if name in held]
    table = rules.size(
        data, settings, servers=asked, cache=SizingCache() if cache is None else cache
    )
    left = {name: int(count) for name, count in zip(table.types, table.capacity, strict=True)}
    limited = not flags.unlimited
    allocations = _hold(data, settings, kept, left, limited=limited)
    problem = make_problem(
        table,
        capacity=[left[name] for name in table.types] if limited else None,
        tie_break=rules.tie_break(table),
    )
    if flags.heterogeneous and settings.solver == "exact":
        several = solve_several(
            _several(table, problem),
            by_cost=settings.objective == "cost",
            time_limit_s=settings.time_limit_s,
        )
        gap, optimal, note = several.gap, several.optimal, several.note
        chosen, unserved = explain_several(table, problem, several, settings)
    else:
        answer = _solve(problem, flags, settings)
        gap, optimal, note = answer.gap, answer.optimal, answer.note
        chosen, unserved = explain(table, problem, answer, settings)
    allocations.update(chosen)
    order = [name for name in data.servers if name in allocations]
    return Solution(
        allocations={name: allocations[name] for name in order},
        unserved=unserved,
        total_cost=sum(allocations[name].cost_cents_per_h for name in order),
        total_value=sum(allocations[name].value for name in order),
        gap=gap,
        optimal=optimal,
        note=note,
    )


def _solve(problem: Problem, flags: OptimizerData, settings: OptimizerSettings) -> Answer:
    """Return the answer of the solver that the settings name; servers left over get parts by the
    saturation policy.
    """
    pick_part = settings.rules.pick_part
    if settings.solver == "greedy":
        return solve_greedy(
            replace(problem, weight=settings.rules.weight(problem.priority)),
            saturation_policy=flags.saturation_policy,
            delayed_best_effort=flags.delayed_best_effort,
            pick_part=pick_part,
        )
    if flags.saturation_policy != "None" and not flags.delayed_best_effort:
        return solve_grouped(
            problem,
            saturation_policy=flags.saturation_policy,
            pick_part=pick_part,
            time_limit_s=settings.time_limit_s,
            gap=settings.gap,
        )
    answer = solve_exact(problem, time_limit_s=settings.time_limit_s, gap=settings.gap)
    filled = fill_left_over(
        problem, answer.choices, saturation_policy=flags.saturation_policy, pick_part=pick_part
    )
    return replace(answer, choices=filled)


def _hold(
    data: SystemData,
    settings: OptimizerSettings,
    kept: Sequence[ServerData],
    left: dict[str, int],
    *,
    limited: bool,
) -> dict[str, Assignment]:
    """Return the held servers as they are and take their GPUs from *left*, highest class first."""
    result = {}
    for server in sorted(kept, key=lambda server: data.priority(server.service_class)):
        current = server.current
        unit = data.accelerators.get(current.accelerator)
        perf = data.perf.get((server.model, current.accelerator))
        reason = "held"
        if limited and unit is not None and perf is not None:
            gpus = max(perf.acc_count, 1) * unit.multiplicity * current.replicas
            room = left.get(unit.type, 0)
            if gpus > room:
                reason = f"held: its {gpus} {unit.type} exceed the capacity, which has {room} left"
            # What is held beyond the capacity leaves nothing to others, and is taken from nobody.
            left[unit.type] = max(0, room - gpus)
        result[server.name] = Assignment(
            server=server.name,
            pools=one_pool(
                accelerator=current.accelerator,
                replicas=current.replicas,
                max_batch=current.max_batch,
            ),
            cost_cents_per_h=settings.rules.present_cost(data, server),
            value=0.0,
            itl_ms=None,
            ttft_ms=None,
            rho=None,
            rate_max_rpm=0.0,
            held=True,
            why=Why(kind="unchanged", text=reason),
        )
    return result


def _several(table: CandidateTable, problem: Problem) -> SeveralProblem:
    """Return what the solver for several accelerators needs to know besides *problem*."""
    count = len(table.servers)
    need, present, least = np.zeros(count), np.zeros(count), np.zeros(count, dtype=np.int64)
    need[table.server] = table.need
    present[table.server] = table.asked.cost
    least[table.server] = table.asked.least.astype(np.int64)
    here = (table.asked.accelerator == table.accelerator) & (table.accelerator >= 0)
    return SeveralProblem(
        problem=problem,
        rate=table.rate_max,
        unit_cost=table.unit_costs,
        now=np.where(here, table.asked.replicas, 0.0).astype(np.int64),
        need=need,
        least=least,
        present_cost=present,
    )
