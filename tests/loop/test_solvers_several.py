"""Several accelerators per server: against all numbers of replicas one by one."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.optimizer.front import optimize
from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.ours import OURS
from loop.optimizer.solvers.deadline import TimeLimit
from loop.optimizer.solvers.several import CHANGE, SeveralProblem, solve_several
from loop.optimizer.table import Problem
from loop.replacing import replace
from tests.loop.small_systems import server, small_system


@st.composite
def problems(draw: st.DrawFn) -> SeveralProblem:
    """Return one or two servers with two options each, on two types."""
    servers = draw(st.integers(1, 2))
    count = 2 * servers
    whole = st.integers(1, 40)
    now = np.zeros(count, dtype=np.int64)
    for i in range(servers):
        now[2 * i + draw(st.integers(0, 1))] = draw(st.integers(0, 3))
    unit_cost = np.array([float(draw(whole)) for _ in range(count)])
    return SeveralProblem(
        problem=Problem(
            names=[f"s{i}" for i in range(servers)],
            priority=draw(st.lists(st.sampled_from([1, 2]), min_size=servers, max_size=servers)),
            options=[[2 * i, 2 * i + 1] for i in range(servers)],
            type=[0, 1] * servers,
            units=[draw(st.integers(1, 2)) for _ in range(count)],
            replicas=[1] * count,
            score=unit_cost.tolist(),
            capacity=draw(st.lists(st.integers(0, 8), min_size=2, max_size=2)),
        ),
        rate=np.array([draw(st.integers(1, 9)) / 1000.0 for _ in range(count)]),
        unit_cost=unit_cost,
        now=now,
        need=np.array([draw(st.integers(1, 20)) / 1000.0 for _ in range(servers)]),
        least=np.array([draw(st.integers(0, 2)) for _ in range(servers)]),
        present_cost=np.array(
            [float((unit_cost * now)[2 * i : 2 * i + 2].sum()) for i in range(servers)]
        ),
    )


def best(several: SeveralProblem, *, by_cost: bool) -> tuple[tuple[int, ...], float]:
    """Return servers missed by priority and the least total of the best numbers of replicas, all
    tried.
    """
    problem = several.problem
    assert problem.capacity is not None
    levels = sorted(set(problem.priority))
    most = [problem.capacity[problem.type[k]] // problem.units[k] for k in range(len(problem.type))]
    found = []
    for replicas in itertools.product(*(range(limit + 1) for limit in most)):
        used = [0, 0]
        for k, number in enumerate(replicas):
            used[problem.type[k]] += number * problem.units[k]
        if any(use > room for use, room in zip(used, problem.capacity, strict=True)):
            continue
        total, missed = 0.0, dict.fromkeys(levels, 0)
        for i, priority in enumerate(problem.priority):
            mine = slice(2 * i, 2 * i + 2)
            numbers = np.array(replicas[mine])
            if not numbers.any():
                missed[priority] += 1
            elif (
                numbers @ several.rate[mine] < several.need[i] - 1e-12
                or numbers.sum() < several.least[i]
            ):
                break
            total += float(numbers @ several.unit_cost[mine])
            if not by_cost:
                total += CHANGE * float(
                    np.abs(numbers - several.now[mine]) @ several.unit_cost[mine]
                )
        else:
            found.append((tuple(missed.values()), total))
    return min(found)


@pytest.mark.slow
@given(several=problems(), by_cost=st.booleans())
def test_several_is_the_best_of_all_numbers(several: SeveralProblem, *, by_cost: bool) -> None:
    """Cost, and in the value a tenth of the cost of every unit taken up or given back."""
    answer = solve_several(several, by_cost=by_cost, time_limit_s=None, gap=0.0)
    problem = several.problem
    levels = sorted(set(problem.priority))
    missed = tuple(
        sum(p == level and i not in answer.parts for i, p in enumerate(problem.priority))
        for level in levels
    )
    total = 0.0
    for i in range(len(problem.names)):
        numbers = np.zeros(2, dtype=np.int64)
        for part in answer.parts.get(i, ()):
            numbers[part.row - 2 * i] = part.replicas
        mine = slice(2 * i, 2 * i + 2)
        changed = CHANGE * float(np.abs(numbers - several.now[mine]) @ several.unit_cost[mine])
        cost = float(numbers @ several.unit_cost[mine])
        total += cost if by_cost else cost + changed
        if i in answer.parts:
            assert answer.value[i] == pytest.approx(cost + changed)
    wanted = best(several, by_cost=by_cost)
    assert missed == wanted[0]
    assert total == pytest.approx(wanted[1])


def test_two_accelerators_together_can_cost_less_than_one() -> None:
    """The leftover GPUs of a type too small for the whole load are of use."""
    data = small_system(
        server(rpm=9000.0),
        itl_ms=60.0,
        capacity={"H100": 100, "A100": 3, "L4": 0},
        heterogeneous=True,
    )
    one = small_system(server(rpm=9000.0), itl_ms=60.0, capacity={"H100": 100, "A100": 3, "L4": 0})
    several, single = (optimize(given, OptimizerSettings(rules=OURS)) for given in (data, one))
    found = several.allocations["s"]
    assert several.total_cost < single.total_cost
    assert len(found.pools) > 1
    assert found.replicas == sum(pool.replicas for pool in found.pools)
    assert found.cost_cents_per_h == pytest.approx(sum(found.pool_costs))
    assert found.value == pytest.approx(1.1 * found.cost_cents_per_h)
    assert found.itl_ms is not None
    assert found.itl_ms <= 60.0


def test_several_lists_who_cannot_be_served() -> None:
    """A server without room blocks nobody; one without load needs nothing."""
    data = small_system(
        server("big", rpm=90_000.0, service_class="Free"),
        server("small", rpm=60.0),
        server("idle", rpm=0.0),
        capacity={"H100": 2, "A100": 2, "L4": 2},
        heterogeneous=True,
    )
    answer = optimize(data, OptimizerSettings(rules=OURS))
    assert set(answer.allocations) == {"small", "idle"}
    assert answer.unserved["big"].text.startswith("capacity: ")
    assert answer.allocations["idle"].replicas == 0


def test_greedy_knows_one_accelerator_per_server() -> None:
    """The flag is the exact solver's, as it was the integer program's of the original."""
    data = small_system(server(rpm=9000.0), heterogeneous=True)
    assert (
        optimize(data, OptimizerSettings(rules=OURS, solver="greedy")).allocations["s"].pool_costs
        == ()
    )


def test_without_time_servers_have_what_greedy_gives_them() -> None:
    """A limit of a millisecond served nobody."""
    data = small_system(server(rpm=1000.0), itl_ms=60.0)
    data = replace(
        data,
        servers={f"s{i}": server(f"s{i}", rpm=1000.0 + 50.0 * i) for i in range(30)},
        capacity=dict.fromkeys(data.capacity, 15),
        optimizer=replace(data.optimizer, heterogeneous=True),
    )
    hurried = OptimizerSettings(rules=OURS, time_limit=TimeLimit(1e-6, time.thread_time))
    found = optimize(data, hurried)
    greedy = optimize(data, OptimizerSettings(rules=OURS, solver="greedy"))
    assert len(found.allocations) >= len(greedy.allocations) > 0
    assert not found.optimal
    assert "within the time limit" in found.note
