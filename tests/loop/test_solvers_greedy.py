"""The greedy solver by hand-made cases: order, ties, best effort; the golden files hold it to the
original.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from loop.optimizer.solvers.greedy import fill_left_over, solve_greedy
from loop.optimizer.table import Choice, Problem


def problem(
    options: Sequence[tuple[int, int, int, float]],
    *,
    capacity: list[int] | None,
    priority: Sequence[int] = (1, 1, 1),
) -> Problem:
    """Return a problem of rows (server, type, replicas, score), one GPU a replica, given best
    first.
    """
    count = max(option[0] for option in options) + 1
    return Problem(
        names=[f"s{i}" for i in range(count)],
        priority=list(priority[:count]),
        options=[
            [row for row, option in enumerate(options) if option[0] == i] for i in range(count)
        ],
        type=[option[1] for option in options],
        units=[1] * len(options),
        replicas=[option[2] for option in options],
        score=[option[3] for option in options],
        capacity=capacity,
    )


def chosen(asked: Problem, **how: object) -> dict[int, tuple[int, int]]:
    """Return (row, replicas) by server."""
    answer = solve_greedy(asked, **how)  # type: ignore[arg-type]
    return {i: (choice.row, choice.replicas) for i, choice in sorted(answer.choices.items())}


def test_who_would_lose_most_by_waiting_goes_first() -> None:
    """Two want the same two GPUs; the second choice of one is far dearer."""
    asked = problem(
        [(0, 0, 2, 10.0), (0, 1, 2, 15.0), (1, 0, 2, 10.0), (1, 1, 2, 90.0)], capacity=[2, 2]
    )
    assert chosen(asked) == {0: (1, 2), 1: (2, 2)}


def test_a_higher_class_goes_first_whatever_it_loses() -> None:
    """Priority is strict."""
    asked = problem(
        [(0, 0, 2, 10.0), (0, 1, 2, 15.0), (1, 0, 2, 10.0), (1, 1, 2, 90.0)],
        capacity=[2, 2],
        priority=(1, 2),
    )
    assert chosen(asked) == {0: (0, 2), 1: (3, 2)}


def test_an_only_option_goes_first() -> None:
    """Who has no alternative loses everything by waiting."""
    asked = problem([(0, 0, 2, 10.0), (0, 1, 2, 90.0), (1, 0, 2, 10.0)], capacity=[2, 2])
    assert chosen(asked) == {0: (1, 2), 1: (2, 2)}


def test_soft_priority_weighs_what_is_lost() -> None:
    """The optimizer of mid 2025: a lower class goes first where it loses more than its weight makes
    up for.
    """
    options = [(0, 0, 2, 10.0), (0, 1, 2, 15.0), (1, 0, 2, 10.0), (1, 1, 2, 90.0)]
    asked = problem(options, capacity=[2, 2], priority=(1, 2))
    assert chosen(replace(asked, weight=[1.5, 1.25])) == {0: (1, 2), 1: (2, 2)}


BOTH = [(0, 0, 4, 40.0), (1, 0, 4, 50.0), (2, 0, 3, 60.0)]


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("None", {}),
        ("PriorityExhaustive", {2: (2, 2)}),
        ("RoundRobin", {1: (1, 1), 2: (2, 1)}),
        ("unknown", {}),
    ],
)
def test_best_effort_by_policy(policy: str, wanted: dict[int, tuple[int, int]]) -> None:
    """Two GPUs for servers that want three and more: the order is by score, the largest first."""
    asked = problem(BOTH, capacity=[2])
    assert chosen(asked, saturation_policy=policy) == wanted


def test_round_robin_stays_within_a_class_where_it_says_so() -> None:
    """PriorityRoundRobin serves the higher class first; RoundRobin mixes classes, if parts wait for
    all.
    """
    asked = problem([(0, 0, 4, 40.0), (1, 0, 4, 50.0)], capacity=[3], priority=(1, 2))
    assert chosen(asked, saturation_policy="PriorityRoundRobin", delayed_best_effort=True) == {
        0: (0, 3)
    }
    assert chosen(asked, saturation_policy="RoundRobin", delayed_best_effort=True) == {
        0: (0, 2),
        1: (1, 1),
    }


def test_early_best_effort_eats_what_a_lower_class_could_have_had_whole() -> None:
    """By default parts come before lower classes; delayed, they come when all have been tried."""
    asked = problem([(0, 0, 4, 40.0), (1, 0, 2, 50.0)], capacity=[3], priority=(1, 2))
    early = chosen(asked, saturation_policy="PriorityExhaustive")
    late = chosen(asked, saturation_policy="PriorityExhaustive", delayed_best_effort=True)
    assert early == {0: (0, 3)}
    assert late == {0: (0, 1), 1: (1, 2)}


def test_what_is_left_is_shared_among_the_left_over() -> None:
    """Parts beside choices that another solver made."""
    asked = problem(BOTH, capacity=[6])
    filled = fill_left_over(asked, {0: Choice(0, 4)}, saturation_policy="RoundRobin")
    assert filled == {0: Choice(0, 4), 1: Choice(1, 1), 2: Choice(2, 1)}
    unlimited = replace(asked, capacity=None)
    assert fill_left_over(unlimited, {0: Choice(0, 4)}, saturation_policy="RoundRobin") == {
        0: Choice(0, 4)
    }


def test_unlimited_capacity_needs_no_order() -> None:
    """Each takes its first option."""
    assert chosen(problem(BOTH, capacity=None)) == {0: (0, 4), 1: (1, 4), 2: (2, 3)}
