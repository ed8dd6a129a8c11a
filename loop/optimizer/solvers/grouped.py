"""The exact solver with best effort: who cannot be served whole gets a part before a lower class
gets anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from loop.optimizer.solvers.exact import solve_exact
from loop.optimizer.solvers.greedy import fill_left_over, largest_share
from loop.optimizer.solvers.problem import Answer, Choice, PickPart, Problem


def solve_grouped(
    problem: Problem,
    *,
    saturation_policy: str,
    pick_part: PickPart = largest_share,
    time_limit_s: float | None = None,
    gap: float = 0.0,
) -> Answer:
    """Return the exact answer class by class, highest first, with parts by the saturation policy
    after each.

    Where everybody can be served this is solve_exact, and one solution of it; else one more for
    each class that is short, with time_limit_s each. gap and optimal are those of the last of them.
    """
    fixed: dict[int, Choice] = {}
    rest = problem
    while True:
        answer = solve_exact(rest, time_limit_s=time_limit_s, gap=gap)
        short = [i for i, rows in enumerate(rest.options) if rows and i not in answer.choices]
        if not short:
            return replace(answer, choices={**fixed, **answer.choices})
        level = min(problem.priority[i] for i in short)
        fixed |= {i: choice for i, choice in answer.choices.items() if problem.priority[i] <= level}
        upper = _classes(problem, to=level)
        fixed = fill_left_over(
            upper, fixed, saturation_policy=saturation_policy, pick_part=pick_part
        )
        rest = _classes(_without(problem, fixed), after=level)
        if not any(rest.options):
            return replace(answer, choices=fixed)


def _classes(problem: Problem, *, after: float = -math.inf, to: float = math.inf) -> Problem:
    """Return *problem* with options for the priorities in (after, to] only."""
    pairs = zip(problem.priority, problem.options, strict=True)
    return replace(
        problem, options=[rows if after < priority <= to else [] for priority, rows in pairs]
    )


def _without(problem: Problem, taken: Mapping[int, Choice]) -> Problem:
    """Return *problem* with the capacity that *taken* leaves."""
    assert problem.capacity is not None, "who is short is short of capacity"
    left = list(problem.capacity)
    for choice in taken.values():
        if problem.units[choice.row]:
            left[problem.type[choice.row]] -= problem.units[choice.row] * choice.replicas
    return replace(problem, capacity=left)
