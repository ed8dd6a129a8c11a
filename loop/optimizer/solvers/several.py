"""The exact solver for several accelerators per server: whole replicas of each, as many as the load
needs together.

The integer program: n[k] replicas of option k (one per accelerator of a server), rate[k]·n[k]
summed at least what the server needs, GPUs within capacity. Value is cost + 0.1 · cost of the
units changed (taken up or given back). Servers come by priority as with one accelerator: as many as
possible of the highest class first, then least score.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loop.optimizer.solvers import Floats, Ints
from loop.optimizer.solvers.greedy import solve_greedy
from loop.optimizer.table import Choice, Problem
from loop.replacing import replace

# SciPy's solvers take half a second to import: a service listens before it needs them.
if TYPE_CHECKING:
    from scipy.optimize import LinearConstraint


CHANGE = 0.1  # share of the cost of a unit that it costs to take it up or to give it back
GAP = 1e-4
NO_LIMIT_S = 60.0
NOT_LOOKED = "one accelerator each: nothing better was found within the time limit"
SLACK = 1e-9  # relative: the rate of the replicas may miss the need by so little


@dataclass(frozen=True, slots=True, kw_only=True)
class SeveralProblem:
    """Problem with what parts need besides: by row, requests/ms a replica takes, its cost, replicas
    there are now.

    By server: need [requests/ms], least replicas, and present_cost of all it has now [cents/h].
    """

    problem: Problem
    rate: Floats
    unit_cost: Floats
    now: Ints
    need: Floats
    least: Ints
    present_cost: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class SeveralAnswer:
    """Parts by server index; a server that gets nothing is absent. gap as in Answer; value by
    server index.
    """

    parts: Mapping[int, tuple[Choice, ...]]
    value: Mapping[int, float]
    gap: float | None
    optimal: bool
    note: str = ""


def solve_several(
    several: SeveralProblem, *, by_cost: bool, time_limit_s: float | None, gap: float = GAP
) -> SeveralAnswer:
    """Return how many replicas of which options each server gets. by_cost: least cost instead of
    least value. Within *time_limit_s* no worse than one accelerator each, as greedy chooses them.
    """
    rows = _Rows.of(several)
    if not len(rows.row):
        return SeveralAnswer(parts={}, value={}, gap=0.0, optimal=True)
    limit = NO_LIMIT_S if time_limit_s is None else time_limit_s
    program = _Program(several, rows, by_cost=by_cost)
    able = np.unique(rows.owner)
    result = program.solve(
        least={int(i): 1.0 for i in able}, counts=[], time_limit_s=0.5 * limit, gap=gap
    )
    if result is None:
        result = _by_priority(several, program, able, time_limit_s=0.5 * limit, gap=gap)
    if time_limit_s is None and result is not None:
        return program.answer(result)
    choices = solve_greedy(several.problem).choices.values()
    one_each = replace(program.answer(program.of(choices)), gap=None, note=NOT_LOOKED)
    found = [one_each] if result is None else [program.answer(result), one_each]
    return min(found, key=program.rank)


def _by_priority(
    several: SeveralProblem, program: _Program, able: Ints, *, time_limit_s: float, gap: float
) -> _Result | None:
    """Return the best result if not all can be served: priority by priority, the highest
    first.
    """
    priority = np.array(several.problem.priority)
    levels = sorted(set(priority[able].tolist()))
    least: dict[int, float] = {}
    counts: list[tuple[Ints, float]] = []
    best: _Result | None = None
    for level in levels:
        here = able[priority[able] == level]
        share = time_limit_s / (2.0 * len(levels))
        most = program.most(here, least=least, counts=counts, time_limit_s=share)
        if most is None:
            break
        best, served = most
        if served == len(here):
            least |= {int(i): 1.0 for i in here}
        else:
            counts.append((here, float(served)))
    return (
        program.solve(least=least, counts=counts, time_limit_s=0.5 * time_limit_s, gap=gap) or best
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """The options worth considering: row in the table, server, GPUs of a replica, most replicas of
    use.
    """

    row: Ints
    owner: Ints
    gpus: Floats
    most: Floats

    @classmethod
    def of(cls, several: SeveralProblem) -> _Rows:
        problem = several.problem
        kept = []
        for i in sorted(range(len(problem.names)), key=problem.names.__getitem__):
            for row in problem.options[i]:
                gpus = problem.units[row]
                if gpus and (
                    problem.capacity is None or gpus <= problem.capacity[problem.type[row]]
                ):
                    whole = (
                        np.ceil(several.need[i] / several.rate[row])
                        if several.rate[row] > 0.0
                        else 0.0
                    )
                    kept.append((row, i, gpus, max(whole, float(several.least[i]))))
        table = np.array(kept, dtype=np.float64).reshape(-1, 4)
        return cls(
            table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2], table[:, 3]
        )


@dataclass(frozen=True, slots=True)
class _Result:
    """What the integer program said: replicas by option, the bound [cents/h], whether that is the
    least.
    """

    replicas: Ints
    bound: float
    optimal: bool
    score: float


class _Program:
    """The integer program: columns are replicas by option, units given back by option, and served
    or not by server.
    """

    def __init__(self, several: SeveralProblem, rows: _Rows, *, by_cost: bool) -> None:
        self.several, self.rows, self.by_cost = several, rows, by_cost
        self.servers = np.unique(rows.owner)
        index = {int(i): k for k, i in enumerate(self.servers)}
        self.owner = np.array([index[int(i)] for i in rows.owner])
        options, servers = len(rows.row), len(self.servers)
        self.now = several.now[rows.row].astype(np.float64)
        self.unit_cost = several.unit_cost[rows.row]
        self.rate = several.rate[rows.row]
        self.need = several.need[self.servers]
        self.columns = 2 * options + servers
        change = 0.0 if by_cost else CHANGE
        # |n - now| = n - now + 2·back, where back >= now - n is what is given back.
        self.cost = np.concatenate(
            [(1.0 + change) * self.unit_cost, 2.0 * change * self.unit_cost, np.zeros(servers)]
        )
        # What a server has of an accelerator that is no option is given back in any case.
        known = np.zeros(servers)
        np.add.at(known, self.owner, self.now * self.unit_cost)
        self.lost = np.where(known > 0.0, 0.0, CHANGE * several.present_cost[self.servers])
        self.constant = -change * float(self.now @ self.unit_cost)

    def solve(
        self,
        *,
        least: Mapping[int, float],
        counts: list[tuple[Ints, float]],
        time_limit_s: float,
        gap: float,
        cost: Floats | None = None,
    ) -> _Result | None:
        """Return the least cost at which servers in *least* are served and *counts* hold, or None
        if there is none.
        """
        from scipy.optimize import Bounds, milp

        options = len(self.rows.row)
        lower = np.zeros(self.columns)
        lower[2 * options + np.flatnonzero(np.isin(self.servers, list(least)))] = 1.0
        upper = np.concatenate([self.rows.most, self.now, np.ones(len(self.servers))])
        weights = self.cost if cost is None else cost
        scale = float(np.abs(weights).max()) or 1.0
        whole = np.concatenate([np.ones(options), np.zeros(options), np.ones(len(self.servers))])
        result = milp(
            weights / scale,
            integrality=whole.astype(np.int64),
            bounds=Bounds(lower, upper),
            constraints=[*self._constraints(), *self._counts(counts)],
            options={"time_limit": time_limit_s, "mip_rel_gap": gap},
        )
        if result.x is None:
            return None
        replicas = np.rint(result.x[:options]).astype(np.int64)
        return _Result(
            replicas,
            float(result.mip_dual_bound) * scale,
            result.status == 0,
            float(result.fun) * scale,
        )

    def most(
        self,
        here: Ints,
        *,
        least: Mapping[int, float],
        counts: list[tuple[Ints, float]],
        time_limit_s: float,
    ) -> tuple[_Result, int] | None:
        """Return a result that serves the most of the servers *here*, and how many that is."""
        weights = np.zeros(self.columns)
        weights[2 * len(self.rows.row) + np.flatnonzero(np.isin(self.servers, here))] = -1.0
        result = self.solve(
            least=least, counts=counts, time_limit_s=time_limit_s, gap=0.0, cost=weights
        )
        return None if result is None else (result, round(-result.score))

    def _constraints(self) -> list[LinearConstraint]:
        import scipy.sparse as sp
        from scipy.optimize import LinearConstraint

        several, rows = self.several, self.rows
        options, servers = len(rows.row), len(self.servers)
        here = np.arange(options)
        own = (self.owner, here)
        asked = self.need > 0.0
        scale = np.divide(1.0, self.need, out=np.zeros_like(self.need), where=asked)
        rates = sp.csr_array((self.rate * scale[self.owner], own), shape=(servers, options))
        ones = sp.csr_array((np.ones(options), own), shape=(servers, options))
        none = sp.csr_array((servers, options))
        least = np.maximum(several.least[self.servers], 1).astype(np.float64)
        back = sp.hstack(
            [sp.eye_array(options), sp.eye_array(options), sp.csr_array((options, servers))]
        )
        found = [
            # What the replicas take together covers the need of a server that is served; and there
            # are enough of them.
            LinearConstraint(
                sp.csr_array(sp.hstack([rates, none, sp.diags_array(-(1.0 - SLACK) * asked)])),
                0.0,
                np.inf,
            ),
            LinearConstraint(
                sp.csr_array(sp.hstack([ones, none, sp.diags_array(-least)])), 0.0, np.inf
            ),
            LinearConstraint(sp.csr_array(back), self.now, np.inf),
        ]
        problem = several.problem
        if problem.capacity is not None:
            kinds = np.array(problem.type)[rows.row]
            gpus = sp.csr_array(
                (rows.gpus, (kinds, here)), shape=(len(problem.capacity), self.columns)
            )
            found.append(
                LinearConstraint(gpus, -np.inf, np.array(problem.capacity, dtype=np.float64))
            )
        return found

    def _counts(self, counts: list[tuple[Ints, float]]) -> list[LinearConstraint]:
        from scipy.optimize import LinearConstraint

        found = []
        for here, count in counts:
            row = np.zeros((1, self.columns))
            row[0, 2 * len(self.rows.row) + np.flatnonzero(np.isin(self.servers, here))] = 1.0
            found.append(LinearConstraint(row, count, np.inf))
        return found

    def of(self, choices: Iterable[Choice]) -> _Result:
        """Return *choices* of one option each as a result, of which nothing is known."""
        replicas = np.zeros(len(self.rows.row), dtype=np.int64)
        place = {row: k for k, row in enumerate(self.rows.row.tolist())}
        for choice in choices:
            if choice.row in place:
                replicas[place[choice.row]] = choice.replicas
        return _Result(replicas, -math.inf, optimal=False, score=math.inf)

    def rank(self, answer: SeveralAnswer) -> tuple[list[int], float]:
        """Return what is less of the better answer: servers that go without, by priority, then what
        is made least.
        """
        priority = self.several.problem.priority
        served = [priority[i] for i in answer.parts]
        cost = self.several.unit_cost
        spent = [cost[one.row] * one.replicas for parts in answer.parts.values() for one in parts]
        total = float(sum(spent)) if self.by_cost else sum(answer.value.values())
        return [-served.count(level) for level in sorted(set(priority))], total

    def answer(self, result: _Result) -> SeveralAnswer:
        """Return the parts of the servers whose replicas cover their need."""
        parts: dict[int, list[Choice]] = {}
        for k, replicas in enumerate(result.replicas.tolist()):
            if replicas > 0:
                parts.setdefault(int(self.owner[k]), []).append(
                    Choice(int(self.rows.row[k]), replicas)
                )
        covered, cost, changed = (np.zeros(len(self.servers)) for _ in range(3))
        np.add.at(covered, self.owner, self.rate * result.replicas)
        np.add.at(cost, self.owner, self.unit_cost * result.replicas)
        np.add.at(changed, self.owner, self.unit_cost * np.abs(result.replicas - self.now))
        value = cost + CHANGE * changed
        served = [k for k in parts if covered[k] >= self.need[k] * (1.0 - 2.0 * SLACK)]
        total = float(cost.sum() if self.by_cost else value.sum())
        gap = max(0.0, total - result.bound - self.constant) / max(abs(total), 1e-9)
        return SeveralAnswer(
            parts={int(self.servers[k]): tuple(parts[k]) for k in served},
            value={int(self.servers[k]): float(value[k] + self.lost[k]) for k in served},
            gap=gap,
            optimal=result.optimal and gap <= 1e-9,
        )
