"""Prices of a few rows that many servers share, by Lagrange: the bound that they give is made as
high as it can be.

The bound is concave in the prices, and made of planes: by how much demand exceeds the limits at
some prices is its slope there. Planes are collected (Kelley), and the highest point under all of
them is tried next, not too far from the best so far (a trust region): a plane says little of
prices that are far away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from loop.optimizer.solvers import Floats, Ints

ROUNDS_MAX = 250
CLOSE = 1e-7  # relative: as near as this the bound is as good as the highest
ENOUGH = 0.1  # of the promised rise, what a step must bring to be followed
RADIUS = 0.5  # of what the price of a row is about, to begin with
SHRINK = 0.7  # of the radius, if a step was not followed


class Shared(Protocol):
    """Choices of servers, as in solvers.core.Columns."""

    @property
    def owner(self) -> Ints:
        """Return the server of each."""
        ...

    @property
    def row(self) -> Ints:
        """Return the row of which each takes something, -1: of none."""
        ...

    @property
    def amount(self) -> Floats:
        """Return how much of it."""
        ...

    @property
    def cost(self) -> Floats:
        """Return what each costs."""
        ...

    @property
    def limit(self) -> Floats:
        """Return how much there is of each row."""
        ...


def best_prices(columns: Shared) -> Floats | None:
    """Return prices by row with nearly the highest bound; None if it rises without end: then there
    is no solution. If none are found in time, the best so far are returned.
    """
    demand, typical = _Demand.of(columns), _typical(columns)

    def plane(at: Floats) -> _Plane:
        value, slope = demand.bound(at * typical)
        return _Plane(value, slope * typical, at)

    best = plane(np.zeros(len(typical)))
    planes, radius = [best], RADIUS
    margin = CLOSE * (abs(demand.most) + float(typical @ columns.limit))
    for _ in range(ROUNDS_MAX):
        promised, at = _highest(planes, best, radius)
        if promised <= CLOSE * max(abs(best.value), 1e-9) * min(radius, 1.0):
            break
        tried = plane(at)
        planes.append(tried)
        if tried.value > demand.most + margin:
            return None
        if tried.value - best.value >= ENOUGH * promised:
            far = float(np.abs(at - best.at).max()) >= 0.99 * radius
            best, radius = tried, 2.0 * radius if far else radius
        else:
            radius *= SHRINK
    return best.at * typical


@dataclass(frozen=True, slots=True)
class _Demand:
    """What all servers take at given prices, each by its cheapest choice; choices by server.

    server is the number of a choice's server, start where those of each begin. most: no choices
    cost more than that in all.
    """

    server: Ints
    start: Ints
    row: Ints
    amount: Floats
    cost: Floats
    limit: Floats
    most: float

    @classmethod
    def of(cls, columns: Shared) -> _Demand:
        order = np.argsort(columns.owner, kind="stable")
        owner, cost = columns.owner[order], columns.cost[order]
        begins = np.diff(owner, prepend=-1) != 0
        start = np.flatnonzero(begins)
        return cls(
            server=np.cumsum(begins) - 1,
            start=start,
            row=columns.row[order],
            amount=columns.amount[order],
            cost=cost,
            limit=columns.limit,
            most=float(np.maximum.reduceat(cost, start).sum()),
        )

    def bound(self, prices: Floats) -> tuple[float, Floats]:
        """Return the bound at *prices*, and its slope there: what is wanted beyond the limits."""
        priced = self.cost + np.append(prices, 0.0)[self.row] * self.amount
        best = np.minimum.reduceat(priced, self.start)
        cheapest = np.flatnonzero(priced == best[self.server])
        # The first of equal ones.
        taken = cheapest[np.diff(self.server[cheapest], prepend=-1) != 0]
        wanted = np.bincount(self.row[taken] + 1, self.amount[taken], len(self.limit) + 1)[1:]
        return float(best.sum() - prices @ self.limit), wanted - self.limit


def _typical(columns: Shared) -> Floats:
    """Return what a unit of each row costs, about."""
    mean = max(float(np.abs(columns.cost).mean()), 1e-9)
    typical = np.full(len(columns.limit), mean)
    for row in range(len(typical)):
        here = (columns.row == row) & (columns.amount > 0.0)
        each = np.abs(columns.cost[here]) / columns.amount[here]
        if len(each) and each.max() > 0.0:
            typical[row] = max(float(np.median(each)), 1e-3 * mean)
    return typical


@dataclass(frozen=True, slots=True)
class _Plane:
    """The bound at some prices, and its slope there; prices in multiples of the typical ones."""

    value: float
    slope: Floats
    at: Floats


def _highest(planes: list[_Plane], best: _Plane, radius: float) -> tuple[float, Floats]:
    """Return by how much the bound can be above the *best* so far within *radius* of it, and where
    that may be: the highest point under all *planes*.
    """
    from scipy.optimize import linprog

    slopes = np.stack([plane.slope for plane in planes])
    offsets = np.array(
        [plane.value - best.value + plane.slope @ (best.at - plane.at) for plane in planes]
    )
    # HiGHS has absolute tolerances: steps are measured by the radius, and rises by what it brings.
    scale = max(float(np.abs(slopes).max()) * radius, 1e-300)
    count = len(best.at)
    lowest = np.maximum(-best.at / radius, -1.0)
    result = linprog(
        np.append(np.zeros(count), -1.0),
        A_ub=np.column_stack((-slopes * radius / scale, np.ones(len(planes)))),
        b_ub=offsets / scale,
        bounds=[*((low, 1.0) for low in lowest.tolist()), (None, None)],
        method="highs-ds",
    )
    if result.x is None:
        return 0.0, best.at
    return float(result.x[-1]) * scale, np.maximum(best.at + radius * result.x[:-1], 0.0)
