"""The best choice if it is near the best option of every server: a few servers leave theirs, for a
type that has too few GPUs. Pure, and much quicker than to load and ask HiGHS.

Choices are tried from the cheapest on (uniform-cost search). Where a type has too few GPUs, any
choice that fits has some server there with fewer of them; so each of these servers is tried with
each such option, and nothing that fits is left out. A choice costs no less than the part of it
that is fixed, with the best options of all others: so the first one that fits is the best.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np

from loop.replacing import replace

if TYPE_CHECKING:
    from loop.optimizer.solvers import Floats, Ints
    from loop.optimizer.solvers.core import Program

Fixed = tuple[tuple[int, int], ...]  # options by server

STEPS_MAX = 40  # choices that are looked at
CHANGES_MAX = 4  # a type that lacks more GPUs than so many servers can leave is not tried
# Two costs this close, as a share of the largest, are equal to HiGHS: between them others decide.
EQUAL = 1e-5


def only_best(program: Program, cost: Floats) -> Ints | None:
    """Return the options, one of each server that has any, of the least total *cost*; those of a
    server are neighbours in *program*, cheapest first.

    None if that is not found in a few steps, or another choice costs as much.
    """
    search = _Search(program, cost)
    return search.run() if search.hopeful() else None


def all_but_one(program: Program, cost: Floats, priority: Ints) -> Ints | None:
    """Return the options, as `only_best` does, where one server has to go without: servers all of
    whose options are of one type need more of it than there is. One of them that has their lowest
    *priority* is left out (1 is the highest): one of a higher priority counts for more, and to
    leave out any other server does not help.

    None if it is not found so, or another choice is as good.
    """
    need = np.zeros(len(program.capacity))
    sole: list[tuple[int, int, float]] = []
    for server in np.unique(program.owner).tolist():
        own = program.owner == server
        (kind, *others), least = set(program.type[own].tolist()), float(program.gpus[own].min())
        if not others and least > 0.0:
            need[kind] += least
            sole.append((server, kind, least))
    short = np.flatnonzero(need > program.capacity)
    if len(short) != 1:
        return None
    there = [(server, least) for server, kind, least in sole if kind == short[0]]
    lowest = max(int(priority[server]) for server, _ in there)
    lack = float(need[short[0]] - program.capacity[short[0]])
    equal = EQUAL * float(np.abs(cost).max())
    totals: list[tuple[float, Ints]] = []
    for server, least in there:
        if priority[server] == lowest and least >= lack:
            kept = np.flatnonzero(program.owner != server)
            part = replace(
                program,
                owner=program.owner[kept],
                gpus=program.gpus[kept],
                type=program.type[kept],
            )
            taken = only_best(part, cost[kept]) if len(kept) else kept
            if taken is None:
                return None
            totals.append((float(cost[kept[taken]].sum()), kept[taken]))
    totals.sort(key=lambda one: one[0])
    if not totals or (len(totals) > 1 and totals[1][0] - totals[0][0] <= equal):
        return None
    return totals[0][1]


class _Search:
    """Fixed options by server are a choice, with the best options of the others."""

    def __init__(self, program: Program, cost: Floats) -> None:
        owner = program.owner
        first = np.concatenate([[True], owner[1:] != owner[:-1]])
        best = np.flatnonzero(first)
        self.best: dict[int, int] = dict(zip(owner[best].tolist(), best.tolist(), strict=True))
        ends = [*best[1:].tolist(), len(owner)]
        self.options = {
            server: range(start, end)
            for (server, start), end in zip(self.best.items(), ends, strict=True)
        }
        self.regret = (cost - cost[best][np.cumsum(first) - 1]).tolist()
        self.equal = EQUAL * float(np.abs(cost).max())
        self.type, self.gpus = program.type.tolist(), program.gpus.tolist()
        self.left = program.capacity.tolist()
        for k in self.best.values():
            self.left[self.type[k]] -= self.gpus[k]

    def hopeful(self) -> bool:
        """Tell whether each type has enough GPUs if a few servers leave it."""
        largest = [0.0] * len(self.left)
        for k in self.best.values():
            largest[self.type[k]] = max(largest[self.type[k]], self.gpus[k])
        pairs = zip(self.left, largest, strict=True)
        return all(left + CHANGES_MAX * most >= 0.0 for left, most in pairs)

    def run(self) -> Ints | None:
        """Return the best choice, if it is found and the only one."""
        waiting: list[tuple[float, Fixed]] = [(0.0, ())]
        seen: set[Fixed] = {()}
        found: Fixed | None = None
        least = 0.0
        for _ in range(STEPS_MAX):
            if not waiting or (found is not None and waiting[0][0] > least + self.equal):
                return self._only(found)
            spent, fixed = heapq.heappop(waiting)
            lacking = self._lacking(fixed)
            if lacking is None:
                if found is not None:
                    return None
                found, least = fixed, spent
                continue
            for change in self._leaving(lacking, dict(fixed)):
                child = tuple(sorted((*fixed, change)))
                if child not in seen:
                    seen.add(child)
                    heapq.heappush(waiting, (spent + self.regret[change[1]], child))
        return None

    def _lacking(self, fixed: Fixed) -> int | None:
        """Return a type that has too few GPUs for a choice, None if it fits."""
        left = self.left.copy()
        for server, k in fixed:
            left[self.type[self.best[server]]] += self.gpus[self.best[server]]
            left[self.type[k]] -= self.gpus[k]
        return next((kind for kind, gpus in enumerate(left) if gpus < 0.0), None)

    def _leaving(self, kind: int, fixed: dict[int, int]) -> list[tuple[int, int]]:
        """Return the options by which a server that is not *fixed* has fewer GPUs of *kind*."""
        return [
            (server, k)
            for server, own in self.best.items()
            if server not in fixed and self.type[own] == kind
            for k in self.options[server]
            if self.type[k] != kind or self.gpus[k] < self.gpus[own]
        ]

    def _only(self, fixed: Fixed | None) -> Ints | None:
        """Return a choice as options; None if a server may as well have another one."""
        if fixed is None:
            return None
        taken = {**self.best, **dict(fixed)}
        for server, options in self.options.items():
            if server in dict(fixed):
                continue
            if any(k != taken[server] and self.regret[k] <= self.equal for k in options):
                return None
        return np.array(sorted(taken.values()), dtype=np.int64)
