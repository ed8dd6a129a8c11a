"""A bank of Kalman filters over one load: each follows a level with a slope that dies away, and
they differ in how much a load may move and how much of what is seen is chance. Pure.

The weight of each is how likely it found what came (Bayesian model averaging with forgetting:
Raftery, Kárný & Ettler 2010). A steady load is so averaged over many minutes, a jump is followed
within a few samples, and a load that comes in bursts is known as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from loop.replacing import replace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# What a level and its slope move by in a step, as shares of the level, from a load that stays to
# one that may be anything next; and the logarithm of the weight before anything is seen: a wild
# load has to show that it is.
MOVES = (
    (0.002, 0.0, 0.0),
    (0.02, 0.0, 0.0),
    (0.06, 0.0, -1.0),
    (0.2, 0.0, -3.0),
    (0.005, 0.003, 0.0),
    (0.01, 0.01, -1.0),
    (0.03, 0.03, -2.0),
)
# How much a window has more or less than its level, as a share of that, beside what counting adds;
# and the logarithm of the first weight.
BURSTS = ((0.0, 0.0), (0.1, -1.0), (0.3, -3.0), (1.0, -6.0))
SLOPE_LEFT = 0.9  # of a slope after a step (Gardner & McKenzie 1985)
WEIGHT_KEPT = 0.94  # of the logarithm of a weight, after a step
WEIGHT_MIN = -12.0  # the logarithm of the least weight, where the greatest is 1
LEVEL_KEPT = 0.8  # of the level that moves and chance are shares of, after a step
OVERLAP = (
    1.5  # the variance of counts of windows that share half of their time, to independent ones
)
FIRST_LEVEL, FIRST_SLOPE = 0.02, 0.005  # how far a load may be from its first sample, as a share

POINTS = 9  # equally likely points of each filter
FUTURES = 48
NEGLIGIBLE = 1e-3  # a share of the weights

_LEVEL_MOVES = np.array([level for level, _, _ in MOVES for _ in BURSTS])
_SLOPE_MOVES = np.array([slope for _, slope, _ in MOVES for _ in BURSTS])
_BURSTS = np.array([burst for _ in MOVES for burst, _ in BURSTS])
_FIRST_WEIGHTS = np.array([of_move + of_burst for _, _, of_move in MOVES for _, of_burst in BURSTS])
_NORMAL = np.array([NormalDist().inv_cdf((rank + 0.5) / POINTS) for rank in range(POINTS)])
_RANKS = (np.arange(FUTURES) + 0.5) / FUTURES


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bank:
    """What each filter estimates of a load [any unit], arrays of one value a filter: its level, its
    slope a step, their variances and covariance, and the logarithm of its weight. typical is the
    level that moves and chance are shares of.
    """

    level: Floats
    slope: Floats
    level_var: Floats
    level_slope_cov: Floats
    slope_var: Floats
    weight: Floats
    typical: float

    @property
    def shares(self) -> Floats:
        """Return the weights as shares; the sum is 1."""
        shares = np.exp(self.weight)
        found: Floats = shares / shares.sum()
        return found

    @property
    def now(self) -> float:
        """Return the mean level."""
        return max(0.0, float(self.shares @ self.level))

    @property
    def bursts(self) -> float:
        """Return how much a window has more or less than the level, as a share of that, beside what
        counting adds.
        """
        return float(self.shares @ _BURSTS)


def first(value: float, *, counting: float) -> Bank:
    """Return the estimates from one sample; counting is its variance by counting alone."""
    typical = max(value, 1.0)
    count = len(_BURSTS)
    return Bank(
        level=np.full(count, value),
        slope=np.zeros(count),
        level_var=counting + (_BURSTS * typical) ** 2 + (FIRST_LEVEL * typical) ** 2,
        level_slope_cov=np.zeros(count),
        slope_var=np.full(count, (FIRST_SLOPE * typical) ** 2),
        weight=_FIRST_WEIGHTS,
        typical=typical,
    )


def a_step_later(bank: Bank) -> Bank:
    """Return the estimates of the next step, before it is seen."""
    left, scale = SLOPE_LEFT, bank.typical**2
    slope_var = left * left * bank.slope_var
    moved = 2.0 * left * bank.level_slope_cov + slope_var + scale * _LEVEL_MOVES**2
    return replace(
        bank,
        level=bank.level + left * bank.slope,
        slope=left * bank.slope,
        level_var=bank.level_var + moved,
        level_slope_cov=left * bank.level_slope_cov + slope_var,
        slope_var=slope_var + scale * _SLOPE_MOVES**2,
    )


def seen(bank: Bank, value: float, *, counting: float) -> Bank:
    """Return the estimates after *value*, whose variance by counting alone is *counting*."""
    typical = max(LEVEL_KEPT * bank.typical + (1.0 - LEVEL_KEPT) * value, 1.0)
    error = value - bank.level
    expected = bank.level_var + counting + (_BURSTS * typical) ** 2
    gain, slope_gain = bank.level_var / expected, bank.level_slope_cov / expected
    likely = -0.5 * (error * error / expected + np.log(expected))
    weight = WEIGHT_KEPT * bank.weight + likely
    return Bank(
        level=bank.level + gain * error,
        slope=bank.slope + slope_gain * error,
        level_var=bank.level_var * (1.0 - gain),
        level_slope_cov=bank.level_slope_cov * (1.0 - gain),
        slope_var=bank.slope_var - slope_gain * bank.level_slope_cov,
        weight=np.maximum(weight - weight.max(), WEIGHT_MIN),
        typical=typical,
    )


def futures(bank: Bank, steps: int) -> Floats:
    """Return FUTURES equally likely loads so many *steps* later, each >= 0, lowest first: the
    level, with the bursts about it and without what counting adds.
    """
    reach, moved = _ahead(steps)
    shares = bank.shares
    kept = shares > NEGLIGIBLE
    variance = (
        bank.level_var
        + 2.0 * reach * bank.level_slope_cov
        + reach * reach * bank.slope_var
        + bank.typical**2 * (moved + _BURSTS**2)
    )[kept]
    middle = (bank.level + reach * bank.slope)[kept]
    points = np.multiply.outer(_NORMAL, np.sqrt(variance)) + middle
    each = np.broadcast_to(shares[kept], points.shape).ravel()
    values = points.ravel()
    order = np.argsort(values, kind="stable")
    values, each = values[order], each[order]
    below = (np.cumsum(each) - 0.5 * each) / each.sum()
    found: Floats = np.maximum(np.interp(_RANKS, below, values), 0.0)
    return found


@lru_cache(maxsize=64)
def _ahead(steps: int) -> tuple[float, Floats]:
    """Return how far a slope of 1 leads in so many *steps*, and what variance the moves of each
    filter add on the way, as a share of the square of the level.
    """
    reach, moved = 0.0, np.zeros(len(_BURSTS))
    for _ in range(steps):
        # A slope that moves now leads on for the steps that are left: reach, as it is by now.
        moved = moved + _LEVEL_MOVES**2 + (reach * _SLOPE_MOVES) ** 2
        reach = SLOPE_LEFT * (1.0 + reach)
    return reach, moved
