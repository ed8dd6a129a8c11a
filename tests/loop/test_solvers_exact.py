"""The exact solver against all choices one by one, and what it promises at any size."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.systems import synthetic_system
from loop.optimizer.front import SizingCache
from loop.optimizer.model import Rows
from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.ours import OURS
from loop.optimizer.sizing import size_all
from loop.optimizer.solvers.core import (
    Columns,
    Effort,
    Floats,
    Group,
    Program,
    linear_prices,
    minimise,
)
from loop.optimizer.solvers.deadline import TimeLimit
from loop.optimizer.solvers.exact import LARGE, LARGE_GAP, solve_exact
from loop.optimizer.solvers.greedy import solve_greedy
from loop.optimizer.solvers.nearby import all_but_one, only_best
from loop.optimizer.solvers.prices import best_prices
from loop.optimizer.table import CandidateTable, Choice, Problem, make_problem
from tests.loop.brute_force import best_rank, fits, rank
from tests.parts import first


@st.composite
def problems(draw: st.DrawFn, servers: int = 5, options: int = 3) -> Problem:
    """Return a problem with few servers and options on three types."""
    count = draw(st.integers(1, servers))
    rows: list[list[int]] = []
    kinds: list[int] = []
    units: list[int] = []
    replicas: list[int] = []
    score: list[float] = []
    for _ in range(count):
        mine = list(range(len(kinds), len(kinds) + draw(st.integers(0, options))))
        for _ in mine:
            kinds.append(draw(st.integers(0, 2)))
            units.append(draw(st.sampled_from([1, 2, 4])))
            replicas.append(draw(st.integers(1, 3)))
            score.append(float(draw(st.integers(-50, 300))))
        rows.append(sorted(mine, key=score.__getitem__))
    return Problem(
        names=[f"s{i}" for i in range(count)],
        priority=draw(st.lists(st.sampled_from([1, 2, 100]), min_size=count, max_size=count)),
        options=rows,
        type=kinds,
        units=units,
        replicas=replicas,
        score=score,
        capacity=draw(st.lists(st.integers(0, 12), min_size=3, max_size=3)),
    )


@pytest.mark.slow
@given(problem=problems())
def test_exact_is_the_best_of_all_choices(problem: Problem) -> None:
    """As many servers as can be by priority, then the least score: every choice of a small problem
    is looked at.
    """
    answer = solve_exact(problem)
    found = dict(answer.choices)
    assert fits(problem, found)
    missed, score = best_rank(problem)
    assert rank(problem, found)[0] == missed
    assert rank(problem, found)[1] == pytest.approx(score)
    assert answer.optimal
    assert answer.gap == 0.0


@pytest.mark.slow
@given(problem=problems(servers=8))
def test_exact_is_never_worse_than_greedy(problem: Problem) -> None:
    """It is the default because of this."""
    exact, greedy = (
        rank(problem, dict(solve(problem).choices)) for solve in (solve_exact, solve_greedy)
    )
    assert exact[0] <= greedy[0]
    if exact[0] == greedy[0]:
        assert exact[1] <= greedy[1] + 1e-6


@pytest.mark.slow
@given(problem=problems(), kind=st.integers(0, 2), more=st.integers(1, 8))
def test_more_capacity_is_never_worse(problem: Problem, kind: int, more: int) -> None:
    """More GPUs of any type only add choices."""
    assert problem.capacity is not None
    capacity = list(problem.capacity)
    capacity[kind] += more
    before, after = (
        rank(given, dict(solve_exact(given).choices))
        for given in (problem, replace(problem, capacity=capacity))
    )
    assert after[0] <= before[0]
    if after[0] == before[0]:
        assert after[1] <= before[1] + 1e-6


@pytest.mark.slow
@given(problem=problems(), scale=st.sampled_from([1e-3, 7.0, 1e4]))
def test_the_unit_of_cost_does_not_matter(problem: Problem, scale: float) -> None:
    """Cents or euros: the same servers at the same score."""
    scaled = replace(problem, score=[score * scale for score in problem.score])
    first, second = (dict(solve_exact(given).choices) for given in (problem, scaled))
    assert rank(problem, first)[0] == rank(problem, second)[0]
    assert rank(problem, first)[1] == pytest.approx(rank(problem, second)[1])


@pytest.mark.slow
@given(problem=problems(), order=st.randoms(use_true_random=False))
def test_the_order_of_the_servers_does_not_matter(problem: Problem, order: object) -> None:
    """A message with the same servers in another order gets the same answer, ties included."""
    places = list(range(len(problem.names)))
    order.shuffle(places)  # type: ignore[attr-defined]
    turned = replace(
        problem,
        names=[problem.names[i] for i in places],
        priority=[problem.priority[i] for i in places],
        options=[problem.options[i] for i in places],
    )
    first = {problem.names[i]: choice for i, choice in solve_exact(problem).choices.items()}
    second = {turned.names[i]: choice for i, choice in solve_exact(turned).choices.items()}
    assert first == second


@pytest.mark.parametrize("places", list(permutations(range(3))))
def test_who_goes_without_does_not_depend_on_the_order_of_the_servers(
    places: tuple[int, ...],
) -> None:
    """Where it costs the same, and the greedy solution to begin with depends on it."""
    names, options = ["a", "b", "c"], [[0, 1], [2], [3]]
    problem = Problem(
        names=[names[i] for i in places],
        priority=[1, 1, 1],
        options=[options[i] for i in places],
        type=[0, 0, 1, 1],
        units=[1, 1, 1, 1],
        replicas=[1, 1, 1, 2],
        score=[0.0] * 4,
        capacity=[0, 2],
    )
    assert [problem.names[i] for i in solve_exact(problem).choices] == ["c"]


def synthetic_table(servers: int, share: float) -> CandidateTable:
    """Return the candidates of a synthetic system of *servers* servers."""
    data = synthetic_system(servers=servers, share=share, seed=7)
    return size_all(
        data,
        OptimizerSettings(rules=OURS),
        servers=list(data.servers.values()),
        cache=SizingCache(),
    )


def large_problem(servers: int, share: float) -> Problem:
    """Return a synthetic problem of *servers* servers."""
    table = synthetic_table(servers, share)
    return make_problem(table, capacity=table.capacity.tolist(), tie_break=OURS.tie_break)


def test_what_decides_between_equal_options_is_asked_of_those_that_are_looked_at() -> None:
    """Latencies of all that cost as much took a thirtieth of an hour of cycles, and where there is
    room for the best of all servers, nobody looks beyond the two best.
    """
    table = synthetic_table(8, 0.9)
    table = replace(table, score=np.floor(table.score / 500.0))
    asked: list[int] = []

    def tie_break(table: CandidateTable, rows: Rows) -> Floats:
        asked.append(len(rows))
        return OURS.tie_break(table, rows)

    whole = make_problem(table, capacity=None, tie_break=tie_break)
    problem = make_problem(table, capacity=None, tie_break=tie_break, first=2)
    assert asked[0] > asked[1] > 0
    assert [rows[:2] for rows in problem.options] == [rows[:2] for rows in whole.options]
    assert [sorted(rows) for rows in problem.options] == [sorted(rows) for rows in whole.options]


@pytest.mark.parametrize("share", [0.4, 0.9])
@pytest.mark.costly
def test_a_scarce_system_of_a_hundred_servers_is_proven_optimal(share: float) -> None:
    """No system that a person looks after is too large for a proof."""
    problem = large_problem(100, share)
    answer = solve_exact(problem)
    assert answer.optimal
    assert fits(problem, dict(answer.choices))


@pytest.mark.slow
def test_a_large_system_is_solved_to_a_proven_gap() -> None:
    """Without a time limit the answer must not depend on the speed of the machine, so it stops at a
    gap.
    """
    problem = large_problem(500, 0.8)
    answer = solve_exact(problem)
    assert sum(len(rows) for rows in problem.options) > LARGE
    assert answer.gap is not None
    assert answer.gap <= LARGE_GAP
    greedy = rank(problem, dict(solve_greedy(problem).choices))
    assert rank(problem, dict(answer.choices)) < greedy


@pytest.mark.costly
def test_no_time_at_all_still_gives_an_answer() -> None:
    """A time limit returns the best found, and says that there may be better."""
    problem = large_problem(100, 0.5)
    answer = solve_exact(problem, deadline=TimeLimit(1e-6, time.thread_time).begin())
    assert answer.choices
    assert fits(problem, dict(answer.choices))
    assert not answer.optimal
    assert "more servers may be possible" in answer.note


@pytest.mark.slow
def test_a_time_limit_ends_the_search_and_what_is_found_without_one_comes_first() -> None:
    """A tenth of the time that a large system takes made it take ten times as long, for fewer
    servers.
    """
    problem = random_problem(servers=400, types=7)
    assert sum(len(rows) for rows in problem.options) > LARGE
    quick, greedy = solve_exact(problem), solve_greedy(problem)
    looks = 0

    def each_look_takes_a_second() -> float:
        nonlocal looks
        looks += 1
        return float(looks)

    for limit_s in (1.0, 4.0, 25.0):
        looks = 0
        limit = TimeLimit(limit_s, each_look_takes_a_second)
        answer = solve_exact(problem, deadline=limit.begin())
        assert looks < limit_s + 40.0
        assert rank(problem, dict(answer.choices)) <= rank(problem, dict(greedy.choices))
        assert answer.gap is not None
    assert rank(problem, dict(answer.choices)) <= rank(problem, dict(quick.choices))


def random_problem(*, servers: int, types: int) -> Problem:
    """Return one in which each server has an option of each type, and GPUs are short."""
    rng, rows = np.random.default_rng(3), servers * types
    gpus = rng.integers(1, 9, rows)
    return Problem(
        names=[f"s{i:03d}" for i in range(servers)],
        priority=rng.integers(1, 3, servers).tolist(),
        options=[list(range(i * types, (i + 1) * types)) for i in range(servers)],
        type=list(range(types)) * servers,
        units=[1] * rows,
        replicas=gpus.tolist(),
        score=(gpus * rng.uniform(0.8, 1.2, rows)).tolist(),
        capacity=[int(0.2 * gpus.sum() / types**2)] * types,
    )


def test_unlimited_capacity_gives_everybody_the_best_option() -> None:
    """There is nothing to share."""
    problem = replace(large_problem(20, 1.0), capacity=None)
    answer = solve_exact(problem)
    assert answer.optimal
    assert {i: choice.row for i, choice in answer.choices.items()} == {
        i: rows[0] for i, rows in enumerate(problem.options)
    }


def test_nobody_to_serve_is_an_answer() -> None:
    """An empty message, or one in which no server can be sized."""
    empty = Problem(
        names=[], priority=[], options=[], type=[], units=[], replicas=[], score=[], capacity=[4]
    )
    assert solve_exact(empty).choices == {}
    assert solve_exact(replace(empty, names=["a"], priority=[1], options=[[]])).choices == {}


@pytest.mark.slow
def test_the_bound_is_below_every_choice() -> None:
    """A gap is proven by it: with gap the answer may be worse than the best, but never by more."""
    problem = large_problem(200, 1.0)
    best = solve_exact(problem)
    rough = solve_exact(problem, gap=0.02)
    least, found = (
        sum(problem.score[c.row] for c in answer.choices.values()) for answer in (best, rough)
    )
    assert best.optimal
    assert rough.gap is not None
    assert found * (1.0 - rough.gap) <= least + 1e-6
    assert found <= least * 1.02 + 1e-6


def test_musts_that_cannot_be_met_have_no_solution() -> None:
    """Two servers that both need the only GPU."""
    program = Program(
        owner=np.array([0, 1]),
        gpus=np.array([1.0, 1.0]),
        type=np.array([0, 0]),
        capacity=np.array([1.0]),
        must=np.array([True, True]),
    )
    assert minimise(program, np.array([1.0, 2.0]), Effort(time_limit_s=5.0)) is None
    one = minimise(
        replace(program, must=np.array([False, True])),
        np.array([1.0, 2.0]),
        Effort(time_limit_s=5.0),
    )
    assert one is not None
    assert one.taken.tolist() == [1]


def test_what_is_found_near_the_best_options_is_what_highs_finds() -> None:
    """Most shortages end with a few servers elsewhere: no solver is asked then, nor missed."""
    rng, asked, found = np.random.default_rng(5), 0, 0
    while asked < 30:
        program, cost = near_enough(rng)
        first = np.concatenate([[True], program.owner[1:] != program.owner[:-1]])
        used = np.bincount(program.type[first], program.gpus[first], len(program.capacity))
        if (used <= program.capacity).all():
            continue
        asked += 1
        taken = only_best(program, cost)
        if taken is not None:
            best = minimise(program, cost, Effort(time_limit_s=60.0))
            assert best is not None
            assert taken.tolist() == best.taken.tolist()
            found += 1
    assert found >= 10


def test_who_goes_without_is_found_near_the_best_options() -> None:
    """Where servers can be nowhere else and there is one too many, as when all are to stay."""
    rng, found = np.random.default_rng(6), 0
    for _ in range(80):
        count = int(rng.integers(3, 8))
        options = rng.choice([1, 1, 1, 3], count)
        kinds = [3 * i + k for i in range(count) for k in range(options[i])]
        cost = np.sort(rng.integers(1, 900, (count, 3))).ravel()[kinds].astype(np.float64)
        gpus = rng.integers(1, 4, len(kinds)).astype(np.float64)
        owner = np.repeat(np.arange(count), options)
        type_ = np.where(options[owner] > 1, np.array(kinds) % 3, owner % 3)
        first = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1]]))
        need = np.bincount(type_[first], gpus[first], 3)
        program = Program(
            owner=owner,
            gpus=gpus,
            type=type_,
            capacity=np.maximum(need - rng.integers(0, 2, 3), 0.0),
            must=np.ones(count, dtype=np.bool_),
        )
        problem = Problem(
            names=[f"s{i}" for i in range(count)],
            priority=rng.integers(1, 4, count).tolist(),
            options=[np.flatnonzero(owner == i).tolist() for i in range(count)],
            type=type_.tolist(),
            units=[1] * len(owner),
            replicas=gpus.astype(int).tolist(),
            score=cost.tolist(),
            capacity=program.capacity.astype(int).tolist(),
        )
        taken = all_but_one(program, cost, np.array(problem.priority))
        if taken is not None:
            choices = {int(owner[k]): Choice(int(k), problem.replicas[k]) for k in taken}
            assert fits(problem, choices)
            assert rank(problem, choices) == best_rank(problem)
            found += 1
    assert found >= 20


def near_enough(rng: np.random.Generator) -> tuple[Program, Floats]:
    """Return a program of which some types have fewer GPUs than the best options need."""
    count = rng.integers(1, 6, int(rng.integers(2, 25)))
    owner = np.repeat(np.arange(len(count)), count)
    # Some costs are equal: then no choice is the only best one.
    cost = np.where(rng.random(len(owner)) < 0.1, 50.0, rng.uniform(0.0, 300.0, len(owner)))
    order = np.lexsort((cost, owner))
    kinds, gpus = rng.integers(0, 3, len(owner)), rng.integers(1, 9, len(owner)).astype(np.float64)
    first = np.concatenate([[True], owner[1:] != owner[:-1]])
    need = np.bincount(kinds[first], gpus[first], 3)
    program = Program(
        owner=owner,
        gpus=gpus,
        type=kinds,
        capacity=np.floor(need * rng.uniform(0.8, 1.2, 3)) + 1.0,
        must=np.ones(len(count), dtype=np.bool_),
    )
    return program, cost[order]


def test_of_two_equal_choices_none_is_the_only_best() -> None:
    """The solver decides between them, as it did."""
    program = Program(
        owner=np.array([0, 0, 1, 1]),
        gpus=np.ones(4),
        type=np.array([0, 1, 0, 1]),
        capacity=np.array([1.0, 1.0]),
        must=np.ones(2, dtype=np.bool_),
    )
    assert only_best(program, np.array([1.0, 2.0, 1.0, 2.0])) is None
    taken = only_best(program, np.array([1.0, 2.0, 1.0, 3.0]))
    assert taken is not None
    assert taken.tolist() == [1, 2]


@pytest.mark.parametrize("seed", first(10, range(40)))
def test_prices_that_are_searched_for_bound_as_those_of_the_linear_program(seed: int) -> None:
    """A large system has no linear program: its bound must be as good, and no solution be called
    impossible that is not.
    """
    rng = np.random.default_rng(seed)
    servers, kinds = int(rng.integers(2, 40)), int(rng.integers(1, 6))
    owner = np.repeat(np.arange(servers), rng.integers(1, 5, servers))
    must = rng.random(servers) < rng.choice([0.0, 0.5, 1.0])
    optional = np.flatnonzero(~must)
    program = Program(
        owner=owner,
        gpus=rng.integers(0, 5, len(owner)).astype(float),
        type=rng.integers(0, kinds, len(owner)),
        capacity=rng.integers(0, 2 * servers, kinds).astype(float),
        must=must,
        groups=(Group(optional, int(rng.integers(0, len(optional) + 1))),),
    )
    columns = Columns.of(program, rng.choice([0.0, 1.0, 50.0]) * rng.normal(1.0, 2.0, len(owner)))
    searched, solved = best_prices(columns), linear_prices(columns)
    assert (searched is None) == (solved is None)
    if searched is not None and solved is not None:
        bounds = [bound(columns, prices) for prices in (searched, solved)]
        assert bounds[0] == pytest.approx(bounds[1], rel=1e-5, abs=1e-6)


def bound(columns: Columns, prices: Floats) -> float:
    """Return the bound of the least cost at *prices*."""
    priced = columns.priced(prices)
    best = [priced[columns.owner == server].min() for server in range(columns.servers)]
    return float(sum(best) - prices @ columns.limit)
