"""The exact solver: one option per server, as many servers as possible by priority, then least score.

Lexicographic: first the number of servers served of the highest priority, then of the next, …, then the total score.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from loop.solvers.core import Found, OutOfTimeError, Program, minimise, relaxed_least
from loop.solvers.greedy import solve_greedy
from loop.solvers.problem import Answer, Choice, Problem

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LARGE = 2500  # options from which on a system without a time limit is solved to LARGE_GAP
LARGE_GAP = 1e-3
ROUGH_GAP = 0.05  # where only the number of servers counts
NO_LIMIT_S = 600.0


def solve_exact(problem: Problem, *, time_limit_s: float | None = None, gap: float = 0.0) -> Answer:
    """Return who gets what. Servers that get nothing are absent.

    gap: relative distance of the score from the least that is good enough. time_limit_s: when it is reached the best
    found stands, with its gap; None: no limit worth naming, but a large system is solved to LARGE_GAP only, so that
    the answer is quick and does not depend on the speed of the machine.
    """
    if problem.capacity is None:
        first = {i: Choice(rows[0], problem.replicas[rows[0]]) for i, rows in enumerate(problem.options) if rows}
        return Answer(choices=first, gap=0.0, optimal=True)
    options = _options(problem)
    if not len(options.row):
        return Answer(choices={}, gap=0.0, optimal=True)
    if time_limit_s is None:
        time_limit_s = NO_LIMIT_S
        gap = max(gap, LARGE_GAP) if len(options.row) > LARGE else gap
    search = _Search(problem, options, time_limit_s=time_limit_s, gap=gap)
    return search.all_served() or search.by_priority()


@dataclass(frozen=True, slots=True)
class _Options:
    """The options worth considering: row in the table, server, cards and score of each."""

    row: Ints
    owner: Ints
    cards: NDArray[np.float64]
    score: NDArray[np.float64]


def _options(problem: Problem) -> _Options:
    """Return the options that fit the capacity and are not beaten: another of the same type, no dearer, no larger."""
    assert problem.capacity is not None, "unlimited capacity leaves nothing to solve"
    kept: list[tuple[int, int, int]] = []
    # Servers in the order of their names: the answer must not depend on the order in which they were given.
    for i in sorted(range(len(problem.names)), key=problem.names.__getitem__):
        smallest: dict[int, int] = {}
        for row in problem.options[i]:
            kind, cards = problem.type[row], problem.units[row] * problem.replicas[row]
            room = problem.capacity[kind] if cards else 0
            if cards <= room and cards < smallest.get(kind, cards + 1):
                smallest[kind] = cards
                kept.append((row, i, cards))
    table = np.array(kept, dtype=np.int64).reshape(-1, 3)
    score = np.array([problem.score[row] for row in table[:, 0]], dtype=np.float64)
    return _Options(table[:, 0], table[:, 1], table[:, 2].astype(np.float64), score)


def _program(problem: Problem, options: _Options, *, must: NDArray[np.bool_]) -> Program:
    assert problem.capacity is not None
    kinds = np.array(problem.type, dtype=np.int64)[options.row]
    return Program(
        owner=options.owner,
        cards=options.cards,
        type=np.maximum(kinds, 0),  # no type at all takes no cards
        capacity=np.array(problem.capacity, dtype=np.float64),
        must=must,
        rows=np.zeros((0, len(options.row))),
        bounds=np.zeros(0),
    )


class _Search:
    """One run: who can be served, by priority, and what is spent on it."""

    def __init__(self, problem: Problem, options: _Options, *, time_limit_s: float, gap: float) -> None:
        self.problem, self.options = problem, options
        self.able = np.zeros(len(problem.names), dtype=np.bool_)
        self.able[options.owner] = True
        self.priority = np.array(problem.priority, dtype=np.int64)
        self.levels = sorted(set(self.priority[self.able].tolist()))
        self.time_limit_s, self.gap = time_limit_s, gap

    def all_served(self) -> Answer | None:
        """Return the best answer that serves every server that has an option, or None where there is none."""
        everyone = _program(self.problem, self.options, must=self.able)
        try:
            found = self._least(everyone, final=True)
        except OutOfTimeError:
            return None
        return None if found is None else _answer(self.problem, self.options, found)

    def by_priority(self) -> Answer:
        """Return the answer where not all can be served: as many as possible, priority by priority."""
        program = _program(self.problem, self.options, must=np.zeros_like(self.able))
        best: Found | None = None
        for level in self.levels:
            here = self.able & (self.priority == level)
            try:
                program, best = self._most(program, here, final=level == self.levels[-1])
            except OutOfTimeError:
                return self._late(best)
        assert best is not None, "a system with options has an answer"
        return _answer(self.problem, self.options, best)

    def _late(self, best: Found | None) -> Answer:
        """Return what was found before the time ended: what the greedy solver finds where that is nothing."""
        note = "time limit: more servers may be possible"
        if best is None:
            return replace(solve_greedy(self.problem), note=note)
        return replace(_answer(self.problem, self.options, best), optimal=False, gap=None, note=note)

    def _most(self, program: Program, here: Bools, *, final: bool) -> tuple[Program, Found]:
        """Return *program* held to serve the most servers of *here*, and a solution of it.

        The relaxation says how many there can be at most; a solution with that many, least score in mind, is found
        sooner than one that is only asked to be numerous. Where there is none, one fewer is tried.
        """
        whole = replace(program, must=program.must | here)
        found = self._least(whole, final=final)
        if found is not None:
            return whole, found
        served = here[self.options.owner].astype(np.float64)
        most = min(int(-relaxed_least(program, -served) + 1e-6), int(here.sum()))
        for count in range(most, -1, -1):
            rows = np.vstack([program.rows, -served])
            some = replace(program, rows=rows, bounds=np.append(program.bounds, -float(count)))
            found = self._least(some, final=final)
            if found is not None:
                return some, found
        raise AssertionError("to serve nobody of a class is always possible")

    def _least(self, program: Program, *, final: bool) -> Found | None:
        share = self.time_limit_s * (0.8 if final else 0.2 / len(self.levels))
        return minimise(program, self.options.score, time_limit_s=share, gap=self.gap if final else ROUGH_GAP)


def _answer(problem: Problem, options: _Options, found: Found) -> Answer:
    rows = options.row[found.taken].tolist()
    owners = options.owner[found.taken].tolist()
    choices = {i: Choice(row, problem.replicas[row]) for i, row in zip(owners, rows, strict=True)}
    _check(problem, choices.values())
    cost = float(options.score[found.taken].sum())
    gap = 0.0 if found.proven else max(0.0, cost - found.bound) / max(abs(cost), 1e-9)
    return Answer(choices=choices, gap=gap, optimal=found.proven)


def _check(problem: Problem, choices: Iterable[Choice]) -> None:
    """Assert that the choices hold no more cards than there are."""
    used: dict[int, int] = {}
    for choice in choices:
        kind = problem.type[choice.row]
        used[kind] = used.get(kind, 0) + problem.units[choice.row] * choice.replicas
    assert problem.capacity is not None
    assert all(kind < 0 or cards <= problem.capacity[kind] for kind, cards in used.items()), "capacity exceeded"
