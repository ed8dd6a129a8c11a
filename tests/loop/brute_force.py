"""All choices of a small problem, one by one: the oracle of the exact solvers."""

from __future__ import annotations

import itertools

from loop.optimizer.table import Choice, Problem

Rank = tuple[tuple[int, ...], float]


def rank(problem: Problem, choices: dict[int, Choice]) -> Rank:
    """Return what an answer is judged by, less is better: servers missed by priority, then
    score.
    """
    levels = sorted(set(problem.priority))
    missed = tuple(
        sum(p == level and i not in choices for i, p in enumerate(problem.priority))
        for level in levels
    )
    return missed, sum(problem.score[choice.row] for choice in choices.values())


def fits(problem: Problem, choices: dict[int, Choice]) -> bool:
    """Tell whether *choices* hold no more GPUs than there are."""
    if problem.capacity is None:
        return True
    used = dict.fromkeys(range(len(problem.capacity)), 0)
    for choice in choices.values():
        if problem.units[choice.row]:
            used[problem.type[choice.row]] += problem.units[choice.row] * choice.replicas
    return all(used[kind] <= gpus for kind, gpus in enumerate(problem.capacity))


def best_rank(problem: Problem) -> Rank:
    """Return the rank of the best choice of at most one whole option per server."""
    found = []
    for picks in itertools.product(*([None, *rows] for rows in problem.options)):
        choices = {
            i: Choice(row, problem.replicas[row]) for i, row in enumerate(picks) if row is not None
        }
        if fits(problem, choices):
            found.append(rank(problem, choices))
    return min(found)
