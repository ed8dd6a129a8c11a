"""The bound of replicas that a server may have, held in an answer that nobody cuts afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loop.replacing import replace
from twin.spec import Pool

if TYPE_CHECKING:
    from loop.optimizer.solution import Assignment, Solution
    from loop.spec import SystemData


def within_most(solution: Solution, data: SystemData) -> Solution:
    """Return *solution*, which was found with OptimizerSettings.bounded, with no more replicas of a
    server than it may have: of several accelerators they are counted together. What so few do with
    a load that needs more has no estimate.
    """
    allocations = {
        name: _within(found, data.servers[name].max_replicas)
        for name, found in solution.allocations.items()
    }
    return replace(
        solution,
        allocations=allocations,
        total_cost=sum(found.cost_cents_per_h for found in allocations.values()),
        total_value=sum(found.value for found in allocations.values()),
    )


def _within(found: Assignment, most: int | None) -> Assignment:
    told = found.why.details.get("replicasWanted")
    wanted = told if isinstance(told, int) else found.replicas
    if most is None or wanted <= most:
        return found
    pools, costs, left = list[Pool](), list[float](), most
    for pool, cost in zip(found.pools, found.pool_costs or (found.cost_cents_per_h,), strict=True):
        replicas = min(pool.replicas, left)
        if replicas > 0:
            pools.append(replace(pool, replicas=replicas))
            costs.append(cost * replicas / pool.replicas)
        left -= replicas
    text = f"maxNumReplicas: {most} of {wanted} replicas; {found.why.text}"
    return replace(
        found,
        pools=tuple(pools),
        pool_costs=tuple(costs) if found.pool_costs else (),
        cost_cents_per_h=sum(costs),
        value=found.value - found.cost_cents_per_h + sum(costs),
        itl_ms=None,
        ttft_ms=None,
        rho=None,
        why=replace(found.why, text=text),
    )
