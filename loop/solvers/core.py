"""Choose at most one option per server at least cost within capacity: a linear relaxation, then its core by HiGHS.

The relaxation has one row per server and few others (card types, counts of served servers), so it leaves few servers
undecided and its bound is close. Prices of the few rows tell the regret of every option: how much the bound rises if it
is taken. Options of high regret are left out; when the best solution is known to be within some distance of the bound,
those with more regret than that cannot be part of a better one (reduced-cost fixing), and what is left is solved to the
end. So the answer is exact, and the integer program small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CORE_EXTRA = 150  # options in the first core besides one per server
TIMED_OUT = 1  # scipy's word for a limit reached
EPSILON = 1e-9  # relative: two costs this close are equal


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Options k of servers owner[k] that take cards[k] of type[k]; servers where must is true need exactly one.

    rows and bounds: further rows (few) with rows · x <= bounds, besides those of capacity.
    """

    owner: Ints
    cards: Floats
    type: Ints
    capacity: Floats
    must: NDArray[np.bool_]
    rows: Floats
    bounds: Floats


class OutOfTimeError(Exception):
    """The time limit was reached before anything was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The options taken, their cost, and a bound below which no solution is; proven: the cost is the least."""

    taken: Ints
    cost: float
    bound: float
    proven: bool


@dataclass(frozen=True, slots=True)
class _Matrix:
    """The rows of a program over all its options: capacity and further rows, then one per server."""

    few: sp.csr_array
    few_bounds: Floats
    servers: sp.csr_array

    @classmethod
    def of(cls, program: Program) -> _Matrix:
        count = len(program.owner)
        columns = np.arange(count)
        cards = sp.csr_array((program.cards, (program.type, columns)), shape=(len(program.capacity), count))
        servers = sp.csr_array((np.ones(count), (program.owner, columns)), shape=(len(program.must), count))
        few = sp.csr_array(sp.vstack([cards, sp.csr_array(program.rows)])) if len(program.rows) else cards
        return cls(few, np.concatenate([program.capacity, program.bounds]), servers)


def minimise(program: Program, cost: Floats, *, time_limit_s: float, gap: float = 0.0) -> Found | None:
    """Return the options of least total *cost*, or None where the musts cannot all be met.

    gap: relative distance from the bound that is good enough. Raise OutOfTimeError where the time ended without either.
    """
    matrix = _Matrix.of(program)
    relaxed = _relax(program, matrix, cost)
    if relaxed is None:
        return None
    bound, regret = relaxed
    reach = _reach(regret, count=len(program.must) + CORE_EXTRA)
    while True:
        kept = np.flatnonzero(regret <= reach)
        everything = len(kept) == len(regret)
        part = _solve(program, matrix, cost, kept, time_limit_s=time_limit_s, gap=gap)
        if part.taken is None:
            if part.timed_out:
                raise OutOfTimeError
            if everything:
                return None
            reach = _reach(regret, count=2 * len(kept))
            continue
        total = float(cost[part.taken].sum())
        # What is left out costs its regret, what was kept cannot be below the part's own bound.
        lower = min(total, max(bound, min(part.bound, bound + reach)))
        near = max(abs(total), 1e-9)
        proven = total - lower <= EPSILON * near
        if proven or everything or part.timed_out or total - lower <= gap * near:
            return Found(taken=part.taken, cost=total, bound=total if proven else lower, proven=proven)
        reach = total - bound


def relaxed_least(program: Program, cost: Floats) -> float:
    """Return a cost below which no choice is (inf where there is no choice): that of options that may be split."""
    relaxed = _relax(program, _Matrix.of(program), cost)
    return relaxed[0] if relaxed else float("inf")


def _relax(program: Program, matrix: _Matrix, cost: Floats) -> tuple[float, Floats] | None:
    """Return the least cost where options may be split, and each option's regret; None where there is no solution."""
    optional = ~program.must
    equal, ones = None, None
    if program.must.any():
        equal, ones = matrix.servers[program.must], np.ones(int(program.must.sum()))
    rows, bounds = matrix.few, matrix.few_bounds
    if optional.any():
        rows = sp.csr_array(sp.vstack([rows, matrix.servers[optional]]))
        bounds = np.concatenate([bounds, np.ones(int(optional.sum()))])
    result = linprog(  # type: ignore[call-overload] # its stubs know no sparse rows
        cost, A_ub=rows, b_ub=bounds, A_eq=equal, b_eq=ones, bounds=(0, None), method="highs"
    )
    if result.x is None:
        return None
    prices = result.ineqlin.marginals[: len(matrix.few_bounds)]
    priced = cost - matrix.few.T @ prices
    best = np.where(program.must, np.inf, 0.0)
    np.minimum.at(best, program.owner, priced)
    # The bound by these prices holds whatever the solver's tolerance was.
    bound = float(best[np.isfinite(best)].sum() + prices @ matrix.few_bounds)
    return min(bound, float(result.fun)), priced - best[program.owner]


def _reach(regret: Floats, *, count: int) -> float:
    """Return the regret within which *count* options lie."""
    if count >= len(regret):
        return float("inf")
    return float(np.partition(regret, count)[count])


@dataclass(frozen=True, slots=True)
class _Part:
    """The best choice found among some options (None: none), and a bound below which none of these options' is."""

    taken: Ints | None
    bound: float
    timed_out: bool


def _solve(
    program: Program, matrix: _Matrix, cost: Floats, kept: NDArray[np.intp], *, time_limit_s: float, gap: float
) -> _Part:
    """Return the best choice among the options *kept*."""
    scale = float(np.abs(cost[kept]).max(initial=0.0)) or 1.0
    constraints = [
        LinearConstraint(matrix.few[:, kept], -np.inf, matrix.few_bounds),
        LinearConstraint(matrix.servers[:, kept], program.must.astype(np.float64), 1.0),
    ]
    result = milp(
        cost[kept] / scale,
        integrality=np.ones(len(kept), dtype=np.int64),
        bounds=Bounds(0.0, 1.0),
        constraints=constraints,
        options={"time_limit": time_limit_s, "mip_rel_gap": gap / 2.0},
    )
    timed_out = result.status == TIMED_OUT
    if result.x is None:
        return _Part(None, float("inf"), timed_out)
    bound = float(result.mip_dual_bound) * scale
    return _Part(kept[result.x > 0.5].astype(np.int64), bound, timed_out)
