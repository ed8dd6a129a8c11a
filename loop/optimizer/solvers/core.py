"""Choose at most one option per server at least cost within capacity: a linear relaxation, then its
core by HiGHS.

The relaxation has one row per server and few others (GPU types, counts of served servers), so it
leaves few servers undecided and its bound is close. Prices of the few rows tell the regret of every
option: how much the bound rises if it is taken. Options of high regret are left out; when the best
solution is known to be within some distance of the bound, those with more regret than that cannot
be part of a better one (reduced-cost fixing), and what is left is solved to the end. So the answer
is exact, and the integer program small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

# SciPy's solvers take half a second to import: a service listens before it needs them.
if TYPE_CHECKING:
    import scipy.sparse as sp

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CORE_EXTRA = 150  # options in the first core besides one per server
TIMED_OUT = 1  # scipy's word for a limit reached
EPSILON = 1e-9  # relative: two costs this close are equal


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
    must: NDArray[np.bool_]
    groups: tuple[Group, ...] = ()


class OutOfTimeError(Exception):
    """The time limit was reached before anything was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The options taken, their cost, and a bound below which no solution is; proven: the cost is
    the least.
    """

    taken: Ints
    cost: float
    bound: float
    proven: bool


@dataclass(frozen=True, slots=True)
class _Matrix:
    """The rows of a program: columns are its options, then one per server that may go without (1:
    it does).

    few: capacity by type, then the groups, with few_bounds above; servers: each has an option or
    goes without.
    """

    few: sp.csc_array
    few_bounds: Floats
    servers: sp.csc_array
    optional: Ints

    @classmethod
    def of(cls, program: Program) -> _Matrix:
        import scipy.sparse as sp

        options, types, count = len(program.owner), len(program.capacity), len(program.must)
        columns = np.arange(options)
        optional = np.flatnonzero(~program.must)
        gpus = sp.csc_array(
            (program.gpus, (program.type, columns)), shape=(types, options + len(optional))
        )
        without = np.zeros((len(program.groups), options + len(optional)))
        for row, group in zip(without, program.groups, strict=True):
            row[options:] = np.isin(optional, group.servers)
        owners = np.concatenate([program.owner, optional])
        ones = (np.ones(len(owners)), (owners, np.arange(len(owners))))
        bounds = np.concatenate([program.capacity, [group.missed for group in program.groups]])
        return cls(
            sp.csc_array(sp.vstack([gpus, sp.csc_array(without)])) if len(without) else gpus,
            bounds,
            sp.csc_array(ones, shape=(count, len(owners))),
            optional,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How hard to look: gap, the relative distance from the bound that is good enough; seconds;
    nodes of one tree.

    thorough: look among all options before saying that there is no solution, else among the likely
    ones only.
    """

    gap: float = 0.0
    time_limit_s: float
    nodes: int | None = None
    thorough: bool = True


def minimise(
    program: Program, cost: Floats, effort: Effort, *, known: Ints | None = None
) -> Found | None:
    """Return the options of least total *cost*, or None if the musts cannot all be met.

    known: options of some solution of much the same program; they are always looked at, so that it
    is not lost. Raise OutOfTimeError if a thorough search ended without either; one that is not
    thorough then returns None.
    """
    matrix = _Matrix.of(program)
    found = _relax(program, matrix, cost)
    if found is None:
        return None
    bound, regret = found.bound, found.regret
    reach = _reach(regret, count=len(program.must) + CORE_EXTRA)
    widened = False
    always = np.zeros(len(cost), dtype=np.bool_)
    always[known if known is not None else []] = True
    while True:
        kept = np.flatnonzero((regret <= reach) | always)
        everything = len(kept) == len(regret)
        part = _solve(matrix, cost, kept, effort)
        if part.taken is None:
            if everything and not part.timed_out:
                return None
            if effort.thorough and part.timed_out:
                raise OutOfTimeError
            if everything or (widened and not effort.thorough):
                return None
            reach, widened = _reach(regret, count=2 * len(kept)), True
            continue
        total = float(cost[part.taken].sum())
        # What is left out costs its regret, what was kept cannot be below the part's own bound.
        lower = min(total, max(bound, min(part.bound, bound + reach)))
        near = max(abs(total), 1e-9)
        proven = total - lower <= EPSILON * near
        if proven or everything or part.timed_out or total - lower <= effort.gap * near:
            return Found(
                taken=part.taken, cost=total, bound=total if proven else lower, proven=proven
            )
        reach = total - bound


def relaxed(program: Program, cost: Floats) -> tuple[float, Floats]:
    """Return a cost below which no choice is (inf if there is none), and what the GPUs of each
    option are worth.

    Both are those of options that may be split: the second is the price of capacity in units of
    *cost*.
    """
    matrix = _Matrix.of(program)
    found = _relax(program, matrix, cost)
    if found is None:
        return float("inf"), np.zeros(len(cost))
    return found.bound, found.priced - cost


@dataclass(frozen=True, slots=True)
class _Relaxed:
    """The least cost if options may be split; by option, cost with the price of its GPUs, and
    regret.
    """

    bound: float
    priced: Floats
    regret: Floats


def _relax(program: Program, matrix: _Matrix, cost: Floats) -> _Relaxed | None:
    """Return what the program costs if options may be split, or None if there is no
    solution.
    """
    from scipy.optimize import linprog

    result = linprog(  # type: ignore[call-overload] # its stubs know no sparse rows
        np.concatenate([cost, np.zeros(len(matrix.optional))]),
        A_ub=matrix.few,
        b_ub=matrix.few_bounds,
        A_eq=matrix.servers,
        b_eq=np.ones(len(program.must)),
        bounds=(0, None),
        method="highs",
    )
    if result.x is None:
        return None
    prices = result.ineqlin.marginals
    priced = -(matrix.few.T @ prices)
    priced[: len(cost)] += cost
    best = np.full(len(program.must), np.inf)
    np.minimum.at(best, program.owner, priced[: len(cost)])
    np.minimum.at(best, matrix.optional, priced[len(cost) :])
    # The bound by these prices holds whatever the solver's tolerance was.
    bound = float(best.sum() + prices @ matrix.few_bounds)
    mine = priced[: len(cost)]
    return _Relaxed(min(bound, float(result.fun)), mine, mine - best[program.owner])


def _reach(regret: Floats, *, count: int) -> float:
    """Return the regret within which *count* options lie."""
    if count >= len(regret):
        return float("inf")
    return float(np.partition(regret, count)[count])


@dataclass(frozen=True, slots=True)
class _Part:
    """The best choice found among some options (None: none), and a bound below which none of these
    options' is.
    """

    taken: Ints | None
    bound: float
    timed_out: bool


def _solve(matrix: _Matrix, cost: Floats, kept: NDArray[np.intp], effort: Effort) -> _Part:
    """Return the best choice among the options *kept*."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    columns = np.concatenate([kept, len(cost) + np.arange(len(matrix.optional))])
    # HiGHS has absolute tolerances; with the largest cost at 1 they mean the same in any currency.
    scale = float(np.abs(cost[kept]).max(initial=0.0)) or 1.0
    options: Any = {"time_limit": effort.time_limit_s, "mip_rel_gap": effort.gap / 2.0}
    if effort.nodes is not None:
        options["node_limit"] = effort.nodes
    result = milp(
        np.concatenate([cost[kept] / scale, np.zeros(len(matrix.optional))]),
        integrality=np.ones(len(columns), dtype=np.int64),
        bounds=Bounds(0.0, 1.0),
        constraints=[
            LinearConstraint(matrix.few[:, columns], -np.inf, matrix.few_bounds),
            LinearConstraint(matrix.servers[:, columns], 1.0, 1.0),
        ],
        options=options,
    )
    timed_out = result.status == TIMED_OUT
    if result.x is None:
        return _Part(None, float("inf"), timed_out)
    bound = float(result.mip_dual_bound) * scale
    return _Part(kept[result.x[: len(kept)] > 0.5].astype(np.int64), bound, timed_out)
