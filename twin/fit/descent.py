"""Minimisation of a robust loss over a few shares >= 0, when the residuals jump: they come from a
discrete simulation.

A gradient from small differences sees the jumps, not the slope. Here the slope is a plane through
the residuals of all points tried within a radius, which shrinks. Nothing is random: the same
residuals give the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

Vector = npt.NDArray[np.float64]
Residuals = Callable[[Vector], Vector]

DIVISIONS = 6  # parts into which the whole is divided between the shares to make starts
SCALES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1)  # of the whole itself
STARTS, APART = 6, 0.12  # how many starts to descend from, and how much two of them differ at least
FINALISTS = 2  # descents to go on with
ROUNDS, RADIUS, SHRINK = 6, 0.1, 0.6  # of a first descent
ROUNDS_FINAL, RADIUS_FINAL, SHRINK_FINAL = 25, 0.05, 0.7
ROUNDS_NEAR, ROUNDS_BRIEF = 8, 4  # of a search that begins near its end
SCALES_NEAR = (0.7, 0.8, 0.9, 1.0, 1.12, 1.25, 1.4)  # of the whole where it begins
RADIUS_MIN = 1e-4
POLISH_EVALUATIONS, POLISH_NEAR = 100, 40


def loss(residuals: Vector) -> float:
    """Cauchy's loss: what a few residuals say against all the others hardly counts."""
    return float(np.log1p(residuals**2).sum())


def best_shares(
    residuals: Residuals, *, count: int, start: Vector | None = None, is_brief: bool = False
) -> Vector:
    """Return the *count* shares, each >= 0, whose residuals have the least loss found.

    Without *start* the shares are taken to be together about 1, and the search begins all over
    that space; with it, the search begins there only, which takes a tenth of the time, and a third
    of that if it is to be brief.
    """

    def cost(shares: Vector) -> float:
        return loss(residuals(shares))

    if start is None:
        first = [
            _descend(residuals, each, rounds=ROUNDS, radius=RADIUS, shrink=SHRINK)
            for each in _starts(cost, count=count)
        ]
        finalists = sorted(first, key=cost)[:FINALISTS]
    else:
        finalists = [min((scale * start for scale in SCALES_NEAR), key=cost)]
    near = ROUNDS_BRIEF if is_brief else ROUNDS_NEAR
    rounds = ROUNDS_FINAL if start is None else near
    final = [
        _descend(residuals, each, rounds=rounds, radius=RADIUS_FINAL, shrink=SHRINK_FINAL)
        for each in finalists
    ]
    best = min(final, key=cost)
    if is_brief:
        return best
    polished = minimize(
        cost,
        best,
        method="Nelder-Mead",
        bounds=[(0.0, None)] * count,
        options={
            "maxfev": POLISH_EVALUATIONS if start is None else POLISH_NEAR,
            "initial_simplex": np.vstack([best, best + 0.01 * np.diag(np.maximum(best, 0.2))]),
            "xatol": 1e-6,
            "fatol": 1e-7,
        },
    )
    shares: Vector = polished.x
    return shares


def _starts(cost: Callable[[Vector], float], *, count: int) -> Sequence[Vector]:
    """Return the best few of a grid over all ways to divide the whole, not near each other."""
    parts = [
        np.array(parts)
        for parts in product(range(DIVISIONS), repeat=count)
        if sum(parts) == DIVISIONS - 1
    ]
    divisions = [(part + 1.0 / count) / DIVISIONS for part in parts]
    ranked = sorted(
        (cost(scale * division), scale, tuple(division))
        for division in divisions
        for scale in SCALES
    )
    chosen: list[tuple[float, Vector]] = []
    for _, scale, division in ranked:
        if len(chosen) < STARTS and all(
            np.abs(other - division).max() > APART for _, other in chosen
        ):
            chosen.append((scale, np.array(division)))
    return [scale * division for scale, division in chosen]


def _descend(
    residuals: Residuals, start: Vector, *, rounds: int, radius: float, shrink: float
) -> Vector:
    """Return the best point met on the way down from *start*."""
    corners = 0.8 * np.array(list(product((-1.0, 1.0), repeat=len(start))))
    star = 1.3 * np.vstack([np.eye(len(start)), -np.eye(len(start))])
    points = [start]
    values = [residuals(start)]
    losses = [loss(values[0])]

    def attempt(point: Vector) -> None:
        points.append(np.maximum(point, 0.0))
        values.append(residuals(points[-1]))
        losses.append(loss(values[-1]))

    for turn in range(rounds):
        centre = points[int(np.argmin(losses))]
        for direction in star if turn % 2 else corners:
            attempt(centre + radius * direction)
        centre = points[int(np.argmin(losses))]
        near = [
            index
            for index, point in enumerate(points)
            if np.abs(point - centre).max() <= 1.5 * radius
        ]
        moves = np.array([points[index] for index in near]) - centre
        attempt(
            centre + _step(moves, np.array([values[index] for index in near]), longest=2.0 * radius)
        )
        if losses[-1] > min(losses):
            radius = max(radius * shrink, RADIUS_MIN)
    return points[int(np.argmin(losses))]


def _step(moves: Vector, values: Vector, *, longest: float) -> Vector:
    """Return the Gauss-Newton step on the plane through *values*, residuals after *moves* (one a
    row).
    """
    design = np.column_stack([np.ones(len(moves)), moves])
    plane = np.linalg.pinv(design) @ values
    here, slopes = plane[0], plane[1:]
    weights = 1.0 / (1.0 + here**2)  # those that the loss gives
    curvature = (slopes * weights) @ slopes.T + 1e-9 * np.eye(len(slopes))
    step: Vector = -np.linalg.lstsq(curvature, slopes @ (weights * here), rcond=None)[0]
    length = float(np.abs(step).max())
    return step * min(1.0, longest / length) if length > 0.0 else step
