"""A bank of Kalman filters over each load: each follows a level with a slope that dies away, and
they differ in how much a load may move and how much of what is seen is chance. Pure. The banks of
many loads are reckoned together, and what is found of each is the same alone.

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

from twin.frozen import made_quickly

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# What a level and its slope move by in a step, as shares of what it usually is, from a load that
# stays to one that may be anything next; how much of its way to its mean it goes back; and the
# logarithm of the weight before anything is seen: a wild load has to show that it is.
MOVES = (
    (0.002, 0.0, 0.0, 0.0),
    (0.02, 0.0, 0.0, 0.0),
    (0.06, 0.0, 0.0, -1.0),
    (0.2, 0.0, 0.0, -3.0),
    (0.35, 0.0, 0.0, -4.0),
    (0.3, 0.0, 0.1, -3.0),
    (0.005, 0.003, 0.0, 0.0),
    (0.01, 0.01, 0.0, -1.0),
    (0.03, 0.03, 0.0, -2.0),
)
# How much a window has more or less than its level, as a share of what that usually is, beside what
# counting adds; and the logarithm of the first weight.
BURSTS = ((0.0, 0.0), (0.1, -1.0), (0.3, -3.0), (1.0, -6.0))
SLOPE_LEFT = 0.93  # of a slope after a step (Gardner & McKenzie 1985)
WILD = 0.2  # a load that moves by so much in a step may be anything next
WEIGHT_KEPT = 0.94  # of the logarithm of a weight, after a step
WEIGHT_MIN = -12.0  # the logarithm of the least weight, where the greatest is 1
# Of what a load usually is, and of what counting is by, after a step. What a load that wanders
# moves by is a share of the first: where it is low, it rises again as far as it fell.
USUAL_KEPT, LEVEL_KEPT = 0.9, 0.8
MEAN_KEPT = 0.98  # of the weight of a sample in the mean that a load goes back to
OVERLAP = (
    1.5  # the variance of counts of windows that share half of their time, to independent ones
)
FIRST_LEVEL, FIRST_SLOPE = 0.02, 0.005  # how far a load may be from its first sample, as a share

# Loads rise farther than they fall: what may come is lognormal above a floor so far below zero, as
# a share of what the load usually is. Bursts about a level are hardly so. LEAST is how far a load
# is above its floor at least.
FLOOR, FLOOR_BURSTS, LEAST = 0.5, 6.0, 0.05
POINTS = 9  # equally likely points of each filter
FUTURES = 48
NEGLIGIBLE = 1e-3  # a share of the weights

_LEVEL_MOVES = np.array([level for level, _, _, _ in MOVES for _ in BURSTS])
_SLOPE_MOVES = np.array([slope for _, slope, _, _ in MOVES for _ in BURSTS])
_RETURNS = np.array([back for _, _, back, _ in MOVES for _ in BURSTS])
_STAYS = 1.0 - _RETURNS
_BURSTS = np.array([burst for _ in MOVES for burst, _ in BURSTS])
_FLOORS = FLOOR + FLOOR_BURSTS * _BURSTS
_WILD = _LEVEL_MOVES >= WILD
_FIRST_WEIGHTS = np.array(
    [of_move + of_burst for _, _, _, of_move in MOVES for _, of_burst in BURSTS]
)
_NORMAL = np.array([NormalDist().inv_cdf((rank + 0.5) / POINTS) for rank in range(POINTS)])
_RANKS = (np.arange(FUTURES) + 0.5) / FUTURES


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """What the levels and slopes of all filters do in a step, arrays of one value a filter: so much
    of a slope is added to the level, and left of it; and the variances and the covariance that
    moves add, as shares of the square of what the load usually is.
    """

    added: Floats
    left: Floats
    level_var: Floats
    cov: Floats
    slope_var: Floats

    @classmethod
    def of(cls, *, halves: bool) -> Moves:
        """Return the moves of loads seen over windows that overlap by half (*halves*), or not."""
        kept, at_once = np.full(len(_BURSTS), SLOPE_LEFT), _SLOPE_MOVES == 0.0
        whole, none = _LEVEL_MOVES**2, np.zeros(len(_BURSTS))
        if not halves:
            return cls(kept, kept, whole, none, _SLOPE_MOVES**2)
        # What a level moves by, a window shows half of now, and the other half a step later: that
        # is a slope of one step. A load that has a slope of its own goes on.
        half = np.where(at_once, 0.25 * whole, 0.0)
        return cls(
            added=np.where(at_once, 1.0, kept),
            left=np.where(at_once, 0.0, kept),
            level_var=np.where(at_once, half, whole),
            cov=half,
            slope_var=np.where(at_once, half, _SLOPE_MOVES**2),
        )


_MOVES = {halves: Moves.of(halves=halves) for halves in (False, True)}


@made_quickly
@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """What each filter estimates of a load [any unit], arrays of one value a filter: its level, its
    slope a step, their variances and covariance, and the logarithm of its weight. typical is the
    level that counting is by, usual the one that moves and bursts are shares of; mean is that of
    the samples, by their weights, whose sum is counted.
    """

    level: Floats
    slope: Floats
    level_var: Floats
    level_slope_cov: Floats
    slope_var: Floats
    weight: Floats
    typical: float
    usual: float
    mean: float
    counted: float

    @property
    def columns(self) -> tuple[Floats, ...]:
        """Return the arrays."""
        return (
            self.level,
            self.slope,
            self.level_var,
            self.level_slope_cov,
            self.slope_var,
            self.weight,
        )

    def scaled(self, times: float) -> Bank:
        """Return the bank of so many *times* the load."""
        twice = times * times
        return Bank(
            self.level * times,
            self.slope * times,
            self.level_var * twice,
            self.level_slope_cov * twice,
            self.slope_var * twice,
            self.weight,
            self.typical * times,
            self.usual * times,
            self.mean * times,
            self.counted,
        )


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
        usual=typical,
        mean=value,
        counted=1.0,
    )


@np.errstate(under="ignore")
def followed(
    banks: Sequence[Bank],
    values: Sequence[float],
    *,
    steps: int,
    counting: Sequence[float],
    halves: bool = False,
) -> list[Bank]:
    """Return the estimates of each load so many *steps* later, after it was seen as that of
    *values*, whose variance by counting alone is that of *counting*. halves: each was seen over a
    window of two steps.
    """
    moves = _MOVES[halves]
    level, slope, level_var, cov, slope_var, weight = (
        np.array(parts) for parts in zip(*(bank.columns for bank in banks), strict=True)
    )
    # Powers by Python and not by numpy: they differ in the last digit now and then.
    scale = _column([bank.usual**2 for bank in banks])
    back = _RETURNS * _column([bank.mean for bank in banks])
    for _ in range(steps):
        level = _STAYS * level + moves.added * slope + back
        further = _STAYS * cov + moves.added * slope_var
        level_var = _STAYS * (_STAYS * level_var + moves.added * cov) + (
            moves.added * further + scale * moves.level_var
        )
        cov = moves.left * further + scale * moves.cov
        slope, slope_var = moves.left * slope, moves.left**2 * slope_var + scale * moves.slope_var
    typical = [
        max(LEVEL_KEPT * bank.typical + (1.0 - LEVEL_KEPT) * value, 1.0)
        for bank, value in zip(banks, values, strict=True)
    ]
    usual = [
        max(USUAL_KEPT * bank.usual + (1.0 - USUAL_KEPT) * value, 1.0)
        for bank, value in zip(banks, values, strict=True)
    ]
    counted = [MEAN_KEPT * bank.counted + 1.0 for bank in banks]
    mean = [
        bank.mean + (value - bank.mean) / count
        for bank, value, count in zip(banks, values, counted, strict=True)
    ]
    error = _column(values) - level
    expected = level_var + _column(counting) + (_BURSTS * _column(usual)) ** 2
    gain, slope_gain = level_var / expected, cov / expected
    likely = -0.5 * (error * error / expected + np.log(expected))
    weight = WEIGHT_KEPT * weight + likely
    columns = (
        level + gain * error,
        slope + slope_gain * error,
        level_var * (1.0 - gain),
        cov * (1.0 - gain),
        slope_var - slope_gain * cov,
        np.maximum(weight - weight.max(axis=1, keepdims=True), WEIGHT_MIN),
    )
    return [Bank(*each) for each in zip(*columns, typical, usual, mean, counted, strict=True)]


def _column(values: Sequence[float]) -> Floats:
    return np.array(values, dtype=np.float64)[:, None]


@made_quickly
@dataclass(frozen=True, slots=True)
class Ahead:
    """What a *bank* says of so many *steps* later: FUTURES equally likely loads, each >= 0, lowest
    first; and its mean level now, how much a window has more or less than that beside what counting
    adds, as a share, and how likely its wildest moves are.
    """

    bank: Bank
    steps: int
    futures: Floats
    now: float
    bursts: float
    wild: float


@np.errstate(under="ignore")
def ahead(banks: Sequence[Bank], steps: Sequence[int], *, halves: Sequence[bool]) -> list[Ahead]:
    """Return what each bank says of so many *steps* later: of the level, with the bursts about it
    and without what counting adds. *halves*: which were seen over windows of two steps.
    """
    if not banks:
        return []
    level, slope, level_var, cov, slope_var, weight = (
        np.array(parts) for parts in zip(*(bank.columns for bank in banks), strict=True)
    )
    shares = np.exp(weight)
    shares = shares / shares.sum(axis=1, keepdims=True)
    reaches, moved, stays = zip(
        *map(_reached, steps, [_MOVES[each] for each in halves]), strict=True
    )
    reach, stay = np.array(reaches), np.array(stays)
    scale = _column([bank.usual**2 for bank in banks])
    variance = stay * (stay * level_var + 2.0 * reach * cov) + reach * reach * slope_var
    variance = variance + scale * (np.array(moved) + _BURSTS**2)
    back = (1.0 - stay) * _column([bank.mean for bank in banks])
    deviation = np.sqrt(variance)[:, None, :]
    middle = (stay * level + reach * slope + back)[:, None, :]
    # Filters of next to no weight come last, and are cut off; those of none anywhere are left out.
    kept = shares > NEGLIGIBLE
    some = np.flatnonzero(kept.any(axis=0))
    usual = _column([bank.usual for bank in banks])[:, :, None]
    points = _skewed(deviation[:, :, some], middle[:, :, some], _FLOORS[some] * usual, usual)
    points = np.where(kept[:, None, some], points, np.inf).reshape(len(banks), -1)
    order = np.argsort(points, axis=1, kind="stable")
    points = np.take_along_axis(points, order, axis=1)
    each = np.take_along_axis(np.tile(shares[:, some], POINTS), order, axis=1)
    middles = np.cumsum(each, axis=1) - 0.5 * each
    found = []
    for k, count in enumerate((POINTS * kept.sum(axis=1)).tolist()):
        below = middles[k, :count] / each[k, :count].sum()
        futures = np.maximum(np.interp(_RANKS, below, points[k, :count]), 0.0)
        now = max(0.0, float(shares[k] @ level[k]))
        bursts, wild = float(shares[k] @ _BURSTS), float(shares[k] @ _WILD)
        found.append(Ahead(banks[k], steps[k], futures, now, bursts, wild))
    return found


def _skewed(deviation: Floats, middle: Floats, floor: Floats, usual: Floats) -> Floats:
    """Return POINTS equally likely points about each *middle*: lognormal ones above -*floor*, with
    that as their median. *usual*: what the load usually is.
    """
    above = np.maximum(middle + floor, LEAST * usual)
    wide = np.sqrt(np.log1p((deviation / above) ** 2))
    found: Floats = above * np.exp(_NORMAL[:, None] * wide) - floor
    return found


@lru_cache(maxsize=64)
def _reached(steps: int, moves: Moves) -> tuple[Floats, Floats, Floats]:
    """Return how far a slope of 1 leads by each filter in so many *steps*, what variance its
    *moves* add on the way, as a share of the square of what the load usually is, and how much of
    what a level is off its mean is left.
    """
    reach, left, stay = np.zeros(len(_BURSTS)), np.ones(len(_BURSTS)), np.ones(len(_BURSTS))
    moved, cov, slope_var = (np.zeros(len(_BURSTS)) for _ in range(3))
    for _ in range(steps):
        reach, left = _STAYS * reach + moves.added * left, moves.left * left
        stay = _STAYS * stay
        further = _STAYS * cov + moves.added * slope_var
        moved = _STAYS * (_STAYS * moved + moves.added * cov) + (
            moves.added * further + moves.level_var
        )
        cov, slope_var = (
            moves.left * further + moves.cov,
            moves.left**2 * slope_var + moves.slope_var,
        )
    return reach, moved, stay
