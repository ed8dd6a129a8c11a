"""What is known of too few GPUs spares work, and changes no answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loop.optimizer.solvers.exact import NOBODY, solve_exact, solve_grouped
from loop.optimizer.solvers.shortages import Needs, Shortages
from loop.optimizer.table import Answer, Problem
from tests.loop.test_solvers_exact import problems


def all_served(problem: Problem, answer: Answer) -> bool:
    """Tell whether each server that has an option got one."""
    return all(i in answer.choices for i, rows in enumerate(problem.options) if rows)


@settings(max_examples=60)
@given(
    problem=problems(),
    margins=st.lists(st.tuples(st.integers(0, 2), st.integers(-2, 2)), min_size=1, max_size=5),
)
def test_what_was_shown_of_others_changes_no_answer(
    problem: Problem, margins: list[tuple[int, int]]
) -> None:
    """A cycle asks for the same servers with more and less, of which most have no solution: what
    each says must not depend on those before.
    """
    shortages = Shortages()
    for more, fewer in margins:
        assert problem.capacity is not None
        asked = replace(
            problem,
            replicas=[replicas + more for replicas in problem.replicas],
            capacity=[max(0, count - fewer) for count in problem.capacity],
        )
        alone, again = solve_exact(asked), solve_exact(asked, shortages=shortages)
        assert again == alone
        assert solve_exact(asked, shortages=shortages) == alone
        whole = solve_exact(asked, whole=True, shortages=shortages)
        assert whole == alone if all_served(asked, alone) else not all_served(asked, whole)


def two_of_three() -> Problem:
    """Return three servers of one GPU each, on either of two types that have one: no type alone is
    too small, so a search has to show it.
    """
    return Problem(
        names=["a", "b", "c"],
        priority=[1, 1, 1],
        options=[[0, 1], [2, 3], [4, 5]],
        type=[0, 1] * 3,
        units=[1] * 6,
        replicas=[1] * 6,
        score=[1.0, 2.0] * 3,
        capacity=[1, 1],
    )


def test_a_shortage_is_known_of_those_that_need_no_less() -> None:
    """It is shown once, and holds for every larger margin, fewer GPUs and servers that stay."""
    problem, shortages = two_of_three(), Shortages()
    assert not shortages.shown(Needs.of(problem))
    assert solve_exact(problem, whole=True, shortages=shortages) is NOBODY
    staying = replace(problem, options=[[0], [2, 3], [4, 5]])
    others = (problem, staying, replace(problem, capacity=[1, 0]))
    assert all(shortages.shown(Needs.of(one)) for one in others)
    enough = (replace(problem, capacity=[2, 1]), replace(problem, options=[[], [2, 3], [4, 5]]))
    assert not any(shortages.shown(Needs.of(one)) for one in enough)


@pytest.mark.parametrize("policy", ["None", "RoundRobin"])
def test_a_part_is_not_all(policy: str) -> None:
    """Who asks whether all can be served whole must not be told so of one that gets a part."""
    problem = replace(two_of_three(), replicas=[1, 1, 1, 1, 2, 2], capacity=[2, 1])
    found = solve_grouped(problem, saturation_policy=policy, whole=True)
    assert found is NOBODY
    assert found != solve_grouped(problem, saturation_policy=policy)
