"""Best effort class by class: a higher class gets a part before a lower one gets anything."""

from __future__ import annotations

from collections.abc import Sequence

from loop.optimizer.rules.go_today import first_with_room
from loop.optimizer.solvers.exact import solve_exact, solve_grouped
from loop.optimizer.solvers.greedy import largest_share
from loop.optimizer.table import Choice, PickPart, Problem


def problem(
    options: Sequence[tuple[int, int, int, float]], *, capacity: list[int], priority: list[int]
) -> Problem:
    """Return a problem of rows (server, type, replicas, score), one GPU a replica."""
    return Problem(
        names=[f"s{i}" for i in range(len(priority))],
        priority=priority,
        options=[
            [row for row, option in enumerate(options) if option[0] == i]
            for i in range(len(priority))
        ],
        type=[option[1] for option in options],
        units=[1] * len(options),
        replicas=[option[2] for option in options],
        score=[option[3] for option in options],
        capacity=capacity,
    )


def grouped(
    asked: Problem, *, policy: str = "PriorityRoundRobin", pick_part: PickPart = largest_share
) -> dict[int, Choice]:
    """Return the choices."""
    return dict(solve_grouped(asked, saturation_policy=policy, pick_part=pick_part).choices)


def test_who_is_short_gets_a_part_before_a_lower_class_gets_all() -> None:
    """A Premium server in trouble must not lose the GPUs it has because Free ones fit whole."""
    asked = problem([(0, 0, 10, 10.0), (1, 0, 4, 4.0)], capacity=[8], priority=[1, 100])
    assert grouped(asked) == {0: Choice(0, 8)}
    assert grouped(asked, policy="None") == {1: Choice(1, 4)}


def test_the_gpus_that_a_part_leaves_go_to_the_next_class() -> None:
    """A second type is of no use to the first server, and must not be left idle."""
    asked = problem(
        [(0, 0, 10, 10.0), (1, 1, 4, 4.0), (2, 0, 1, 1.0)], capacity=[8, 5], priority=[1, 50, 100]
    )
    assert grouped(asked) == {0: Choice(0, 8), 1: Choice(1, 4)}


def test_a_part_is_of_the_option_that_serves_most() -> None:
    """The cheaper option has room for one replica of ten, the other for nine."""
    asked = problem([(0, 0, 10, 10.0), (0, 1, 10, 20.0)], capacity=[1, 9], priority=[1])
    assert grouped(asked) == {0: Choice(1, 9)}
    assert grouped(asked, pick_part=first_with_room) == {0: Choice(0, 1)}


def test_where_all_can_be_served_it_is_the_exact_answer() -> None:
    """Best effort must cost nothing where nobody is short."""
    asked = problem(
        [(0, 0, 3, 3.0), (0, 1, 2, 4.0), (1, 0, 2, 2.0)], capacity=[4, 4], priority=[1, 100]
    )
    assert grouped(asked) == dict(solve_exact(asked).choices) == {0: Choice(1, 2), 1: Choice(2, 2)}
