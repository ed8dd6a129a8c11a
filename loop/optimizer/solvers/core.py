"""Choose at most one option per server at least cost within capacity: a relaxation, then its core
by HiGHS.

The relaxation has one row per server and few others (GPU types, counts of served servers), so it
leaves few servers undecided and its bound is close. Prices of the few rows tell the regret of every
option: how much the bound rises if it is taken. Options of high regret are left out; when the best
solution is known to be within some distance of the bound, those with more regret than that cannot
be part of a better one (reduced-cost fixing), and what is left is solved to the end. So the answer
is exact, and the integer program small.

Prices need not be the best ones for any of that to hold: a bound and regrets follow from all. So a
large system has no linear program of its size; its few prices are searched for (Lagrange).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loop.optimizer.solvers import Bools, Floats, Ints
from loop.optimizer.solvers.deadline import Deadline
from loop.optimizer.solvers.prices import best_prices

CORE_EXTRA = 150  # options in the first core besides one per server
WIDER = 8  # times as many when nothing is found among them
TIMED_OUT = 1  # scipy's word for a limit reached
TIE = 1e-6  # of what a choice costs on the mean: regrets below are those of ties
EPSILON = 1e-9  # relative: two costs this close are equal
LARGE = 4000  # options from which on prices are searched for
NOTHING = -1  # the row of an option that takes nothing


@dataclass(frozen=True, slots=True)
class Group:
    """Servers of which at most *missed* may go without an option."""

    servers: Ints
    missed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Options k of servers owner[k] that take GPUs[k] of type[k]; servers whose must is true need
    exactly one.

    groups bound how many of the other servers go without; a server is in one of them at most.
    """

    owner: Ints
    gpus: Floats
    type: Ints
    capacity: Floats
    must: Bools
    groups: tuple[Group, ...] = ()


class OutOfTimeError(Exception):
    """The time was over before anything was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The options taken, their cost, and a bound below which no solution is; proven: the cost is
    the least.
    """

    taken: Ints
    cost: float
    bound: float
    proven: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How hard to look: gap, the relative distance from the bound that is good enough; seconds and
    nodes of one tree; until when.

    thorough: look among all options before saying that there is no solution, else among the likely
    ones only.
    """

    gap: float = 0.0
    time_limit_s: float
    nodes: int | None = None
    thorough: bool = True
    deadline: Deadline | None = None

    @property
    def left_s(self) -> float:
        """Return how long one tree may take."""
        if self.deadline is None:
            return self.time_limit_s
        return min(self.time_limit_s, self.deadline.left_s)


@dataclass(frozen=True, slots=True)
class Columns:
    """The choices of a program: its options, then going without for each server that may. Each
    server takes one of its own.

    amount is what a choice takes of one of few rows (NOTHING: of none): GPUs of its type, or one of
    those of its group who may go without. options is how many of the choices are options.
    """

    owner: Ints
    row: Ints
    amount: Floats
    cost: Floats
    limit: Floats
    options: int
    servers: int

    @classmethod
    def of(cls, program: Program, cost: Floats) -> Columns:
        """Return the choices of *program*, of which options have *cost*."""
        optional = np.flatnonzero(~program.must)
        group = np.full(len(program.must), NOTHING)
        for number, each in enumerate(program.groups):
            group[each.servers] = len(program.capacity) + number
        return cls(
            owner=np.concatenate([program.owner, optional]),
            row=np.concatenate([program.type, group[optional]]),
            amount=np.concatenate([program.gpus, np.ones(len(optional))]),
            cost=np.concatenate([cost, np.zeros(len(optional))]),
            limit=np.concatenate([program.capacity, [each.missed for each in program.groups]]),
            options=len(cost),
            servers=len(program.must),
        )

    def priced(self, prices: Floats) -> Floats:
        """Return the cost of each with the price of what it takes."""
        found: Floats = self.cost + np.append(prices, 0.0)[self.row] * self.amount
        return found


def minimise(
    program: Program, cost: Floats, effort: Effort, *, known: Ints | None = None
) -> Found | None:
    """Return the options of least total *cost*, or None if the musts cannot all be met.

    known: options of some solution of much the same program; they are always looked at, so that it
    is not lost. Raise OutOfTimeError if a thorough search ended without either; one that is not
    thorough then returns None.
    """
    if effort.left_s <= 0.0:
        _give_up(effort)
        return None
    columns = Columns.of(program, cost)
    found = _relax(columns)
    if found is None:
        return None
    bound, regret = found.bound, found.regret
    extra = CORE_EXTRA
    reach = _reach(found, extra)
    always = _choices(columns, known)
    while True:
        kept = np.flatnonzero((regret <= reach) | always)
        everything = len(kept) == len(regret)
        part = _solve(columns, kept, effort, bound=bound)
        timed_out = part.timed_out or effort.left_s <= 0.0
        if part.taken is None:
            if everything and not part.timed_out:
                return None
            if timed_out and (effort.thorough or effort.left_s <= 0.0):
                _give_up(effort)
                return None
            if everything or (extra > CORE_EXTRA and not effort.thorough):
                return None
            extra *= WIDER
            reach = _reach(found, extra)
            continue
        total = float(cost[part.taken].sum())
        # What is left out costs its regret, what was kept cannot be below the part's own bound.
        lower = min(total, max(bound, min(part.bound, bound + reach)))
        near = max(abs(total), 1e-9)
        proven = total - lower <= EPSILON * near
        if proven or everything or timed_out or total - lower <= effort.gap * near:
            return Found(
                taken=part.taken, cost=total, bound=total if proven else lower, proven=proven
            )
        reach = total - bound


def _give_up(effort: Effort) -> None:
    """Raise OutOfTimeError if *effort* is thorough: nothing found must not be taken for a proof."""
    if effort.thorough:
        raise OutOfTimeError


def relaxed(program: Program, cost: Floats) -> float:
    """Return a cost below which no choice is; inf if there is none."""
    found = _relax(Columns.of(program, cost))
    return float("inf") if found is None else found.bound


def _choices(columns: Columns, known: Ints | None) -> Bools:
    """Return which choices the options *known* are, going without of the other servers included;
    none if none are known.
    """
    chosen = np.zeros(len(columns.cost), dtype=np.bool_)
    if known is not None:
        chosen[known] = True
        served = np.zeros(columns.servers, dtype=np.bool_)
        served[columns.owner[known]] = True
        chosen[columns.options :] = ~served[columns.owner[columns.options :]]
    return chosen


@dataclass(frozen=True, slots=True)
class _Relaxed:
    """A bound of the least cost; by choice, cost with the price of what it takes, and regret."""

    bound: float
    priced: Floats
    regret: Floats


def _relax(columns: Columns) -> _Relaxed | None:
    """Return what the program costs if choices may be split, or None if there is no solution."""
    find = best_prices if len(columns.cost) > LARGE else linear_prices
    prices = find(columns)
    if prices is None:
        return None
    priced = columns.priced(prices)
    best = np.full(columns.servers, np.inf)
    np.minimum.at(best, columns.owner, priced)
    # The bound by these prices holds whatever the tolerance was with which they were found.
    bound = float(best.sum() - prices @ columns.limit)
    return _Relaxed(bound, priced, priced - best[columns.owner])


def linear_prices(columns: Columns) -> Floats | None:
    """Return the prices of the rows in the linear relaxation, or None if it has no solution."""
    from scipy.optimize import linprog

    few, servers = _rows(columns, np.arange(len(columns.cost)))
    result = linprog(
        columns.cost,
        A_ub=few,
        b_ub=columns.limit,
        A_eq=servers,
        b_eq=np.ones(columns.servers),
        bounds=(0, None),
        method="highs",
    )
    return None if result.x is None else np.maximum(-result.ineqlin.marginals, 0.0)


def _rows(columns: Columns, kept: NDArray[np.intp]) -> tuple[Any, Any]:
    """Return the few rows, and those of the servers, with a column for each choice *kept*."""
    import scipy.sparse as sp

    here, row = np.arange(len(kept)), columns.row[kept]
    takes = row != NOTHING
    few = sp.csc_array(
        (columns.amount[kept][takes], (row[takes], here[takes])),
        shape=(len(columns.limit), len(kept)),
    )
    ones = (np.ones(len(kept)), (columns.owner[kept], here))
    return few, sp.csc_array(ones, shape=(columns.servers, len(kept)))


def _reach(found: _Relaxed, extra: int) -> float:
    """Return the regret within which *extra* choices lie besides those that are nearly the best of
    their server: prices are such that many are.
    """
    regret = found.regret
    near = TIE * float(np.abs(found.priced).mean())
    count = int((regret <= near).sum()) + extra
    if count >= len(regret):
        return float("inf")
    return max(near, float(np.partition(regret, count)[count]))


@dataclass(frozen=True, slots=True)
class _Part:
    """The best choice found among some options (None: none), and a bound below which none of these
    options' is.
    """

    taken: Ints | None
    bound: float
    timed_out: bool


def _solve(columns: Columns, kept: NDArray[np.intp], effort: Effort, *, bound: float) -> _Part:
    """Return the best choice among those *kept*; *bound*: of all."""
    count = np.bincount(columns.owner[kept], minlength=columns.servers)
    if not count.all():
        return _Part(None, float("inf"), timed_out=False)
    only = count[columns.owner[kept]] == 1
    fixed, free = kept[only], kept[~only]
    used = np.bincount(
        columns.row[fixed] + 1, columns.amount[fixed], minlength=len(columns.limit) + 1
    )
    left, cost = columns.limit - used[1:], float(columns.cost[fixed].sum())
    if (left < 0.0).any():
        return _Part(None, float("inf"), timed_out=False)
    if not len(free):
        return _Part(fixed[fixed < columns.options], cost, timed_out=False)
    part = _solve_free(columns, free, left, effort, share=_share(bound, cost))
    if part.taken is None:
        return part
    taken = np.sort(np.concatenate([fixed, part.taken]))
    return _Part(taken[taken < columns.options], cost + part.bound, part.timed_out)


def _share(bound: float, fixed: float) -> float:
    """Return how much larger a relative gap may be of what is not *fixed* of the *bound*."""
    return max(abs(bound) / max(abs(bound - fixed), 1e-9 * abs(bound), 1e-9), 1e-3)


def _solve_free(
    columns: Columns, free: NDArray[np.intp], left: Floats, effort: Effort, *, share: float
) -> _Part:
    """Return the best choice among those *free*, within what is *left* of the few rows."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    cost = columns.cost[free]
    # HiGHS has absolute tolerances; with the largest cost at 1 they mean the same in any currency.
    scale = float(np.abs(cost).max(initial=0.0)) or 1.0
    options: Any = {
        "time_limit": effort.left_s,
        "mip_rel_gap": min(effort.gap / 2.0 * share, 1.0e9),
    }
    if effort.nodes is not None:
        options["node_limit"] = effort.nodes
    few, servers = _rows(columns, free)
    result = milp(
        cost / scale,
        integrality=np.ones(len(free), dtype=np.int64),
        bounds=Bounds(0.0, 1.0),
        constraints=[
            LinearConstraint(few, -np.inf, left),
            LinearConstraint(servers[np.unique(columns.owner[free])], 1.0, 1.0),
        ],
        options=options,
    )
    timed_out = result.status == TIMED_OUT
    if result.x is None:
        return _Part(None, float("inf"), timed_out)
    bound = float(result.mip_dual_bound) * scale
    return _Part(free[result.x > 0.5].astype(np.int64), bound, timed_out)
