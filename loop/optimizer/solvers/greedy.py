"""The greedy solver: servers by priority and by what waiting would cost them; each takes its best
option that fits.

The existing optimizer's algorithm, with its random ties decided by name. What it cannot place may
get a part of what it asks for, by the saturation policy.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from loop.optimizer.table import SCORE_DIGITS, Answer, Choice, PickPart, Problem

# of the largest share: an option that serves so much is good enough, and the cheapest such is taken
NEARLY = 0.8
LAST_DELTA = math.inf  # what an option without an alternative is worth


def largest_share(problem: Problem, left: Sequence[int], i: int) -> int | None:
    """Return the best option of server *i* of those that can serve nearly as much of the load as
    any, or None if there is no room for a replica of any.
    """
    shares = {
        row: min(left[problem.type[row]] // problem.units[row] / problem.replicas[row], 1.0)
        for row in problem.options[i]
        if problem.units[row]
    }
    most = max(shares.values(), default=0.0)
    return next(
        (row for row, share in shares.items() if share > 0.0 and share >= NEARLY * most), None
    )


def solve_greedy(
    problem: Problem,
    *,
    saturation_policy: str = "None",
    delayed_best_effort: bool = False,
    pick_part: PickPart = largest_share,
) -> Answer:
    """Return what each server gets. Servers that get nothing are absent.

    delayed_best_effort: parts are given when all servers have been tried, else after each group of
    equal priority. pick_part: of which option a part is taken.
    """
    if problem.capacity is None:
        first = {
            i: Choice(rows[0], problem.replicas[rows[0]])
            for i, rows in enumerate(problem.options)
            if rows
        }
        return Answer(choices=first)
    greedy = _Greedy(problem, pick_part=pick_part)
    able = [i for i, rows in enumerate(problem.options) if rows]
    able.sort(key=lambda i: problem.priority[i])
    if delayed_best_effort or problem.weight is not None:
        greedy.fill(greedy.place(able), saturation_policy)
    else:
        for _, group in groupby(able, key=lambda i: problem.priority[i]):
            greedy.fill(greedy.place(group), saturation_policy)
    return Answer(choices=greedy.choices)


def fill_left_over(
    problem: Problem,
    choices: Mapping[int, Choice],
    *,
    saturation_policy: str,
    pick_part: PickPart = largest_share,
) -> dict[int, Choice]:
    """Return *choices* with parts for servers that have none, of the capacity left, by the
    saturation policy.
    """
    if problem.capacity is None:
        return dict(choices)
    greedy = _Greedy(problem, pick_part=pick_part)
    for i, choice in choices.items():
        greedy.choices[i] = choice
        greedy.left[problem.type[choice.row]] -= problem.units[choice.row] * choice.replicas
    leftover = [i for i, rows in enumerate(problem.options) if rows and i not in choices]
    greedy.fill(sorted(leftover, key=lambda i: problem.priority[i]), saturation_policy)
    return greedy.choices


class _Greedy:
    """The state of one run: what is left of each type, and the choices so far."""

    def __init__(self, problem: Problem, *, pick_part: PickPart) -> None:
        assert problem.capacity is not None, "unlimited capacity needs no greedy run"
        self.problem = problem
        self.pick = pick_part
        self.left = list(problem.capacity)
        self.choices: dict[int, Choice] = {}

    def place(self, servers: Iterable[int]) -> list[int]:
        """Give servers whole options, those that would lose most by waiting first; return those
        left over, in order.
        """
        problem, left = self.problem, self.left
        queue = [self._entry(i, 0) for i in servers]
        heapq.heapify(queue)
        leftover = []
        while queue:
            *_, i, position = queue[0]
            row = problem.options[i][position]
            gpus = problem.units[row] * problem.replicas[row]
            kind = problem.type[row]
            if gpus == 0 or left[kind] >= gpus:
                heapq.heappop(queue)
                left[kind] -= gpus
                self.choices[i] = Choice(row, problem.replicas[row])
            elif position + 1 < len(problem.options[i]):
                heapq.heapreplace(queue, self._entry(i, position + 1))
            else:
                heapq.heappop(queue)
                leftover.append(i)
        return leftover

    def _entry(self, i: int, position: int) -> tuple[int, float, float, int, int]:
        """Return what orders server *i* while it tries its option *position*: least first."""
        rows, score = self.problem.options[i], self.problem.score
        here = score[rows[position]]
        # Rounded as scores are, so that equal differences are a tie in any currency.
        delta = (
            round(score[rows[position + 1]] - here, SCORE_DIGITS)
            if position + 1 < len(rows)
            else LAST_DELTA
        )
        if self.problem.weight is None:
            return self.problem.priority[i], -delta, -here, i, position
        weight = self.problem.weight[i]
        return 0, -delta * weight, -here * weight, i, position

    def fill(self, leftover: Sequence[int], saturation_policy: str) -> None:
        """Give servers that found no whole option a part of one, by the saturation policy."""
        if saturation_policy == "PriorityExhaustive":
            self._exhaust(leftover)
        elif saturation_policy == "RoundRobin":
            self._take_turns(leftover)
        elif saturation_policy == "PriorityRoundRobin":
            for _, group in groupby(leftover, key=lambda i: self.problem.priority[i]):
                self._take_turns(list(group))

    def _exhaust(self, leftover: Sequence[int]) -> None:
        """Give each server as much as it can have of its best option that has room for a
        replica.
        """
        for i in leftover:
            row = self.pick(self.problem, self.left, i)
            if row is not None:
                units, kind = self.problem.units[row], self.problem.type[row]
                replicas = min(self.left[kind] // units, self.problem.replicas[row])
                self.left[kind] -= replicas * units
                self.choices[i] = Choice(row, replicas)

    def _take_turns(self, leftover: Sequence[int]) -> None:
        """Give the servers a replica each in turn, of the first option that had room when they were
        first asked.
        """
        chosen: dict[int, int] = {}
        active = list(leftover)
        while active:
            still = []
            for i in active:
                row = chosen.get(i)
                if row is None:
                    row = self.pick(self.problem, self.left, i)
                    if row is None:
                        continue
                    chosen[i] = row
                    self.choices[i] = Choice(row, 0)
                units, kind, taken = (
                    self.problem.units[row],
                    self.problem.type[row],
                    self.choices[i].replicas,
                )
                if self.left[kind] >= units and taken < self.problem.replicas[row]:
                    self.left[kind] -= units
                    self.choices[i] = Choice(row, taken + 1)
                    still.append(i)
            active = still
