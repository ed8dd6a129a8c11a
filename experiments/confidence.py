"""Means with confidence intervals over seeds (Student's t), and differences of policies paired by
seed. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean of *n* values and the half-width of its confidence interval (NaN where n < 2: nothing
    is known).
    """

    mean: float
    half_width: float
    n: int

    @property
    def low(self) -> float:
        """Return the lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Return the upper end of the interval."""
        return self.mean + self.half_width


def estimate(values: npt.ArrayLike, *, level: float = 0.95) -> Estimate:
    """Return the mean of *values* with its two-sided Student t interval; values that are not finite
    are left out.
    """
    given = np.asarray(values, dtype=float)
    known = given[np.isfinite(given)]
    if known.size == 0:
        return Estimate(mean=float("nan"), half_width=float("nan"), n=0)
    if known.size == 1:
        return Estimate(mean=float(known[0]), half_width=float("nan"), n=1)
    # A single run has no interval, and need not wait for SciPy.
    from scipy.special import stdtrit  # noqa: PLC0415 only where there is an interval

    quantile = float(stdtrit(known.size - 1, 0.5 + level / 2))
    half_width = quantile * float(known.std(ddof=1)) / float(np.sqrt(known.size))
    return Estimate(mean=float(known.mean()), half_width=half_width, n=int(known.size))


def paired_difference(
    results: pd.DataFrame,
    metric: str,
    *,
    first: str,
    second: str,
    by: Sequence[str] = (),
    level: float = 0.95,
) -> Estimate:
    """Return *second* − *first* of *metric*, both policies of *results*, paired by seed (and by the
    columns *by*).

    Pairing takes the chance that both share (arrivals and tokens of a seed) out of the difference;
    seeds that only one of them has are left out.
    """
    keys = [*by, "seed"]
    sides = [
        results[results["policy"] == policy].set_index(keys)[metric] for policy in (first, second)
    ]
    difference = (sides[1] - sides[0]).dropna()
    return estimate(difference, level=level)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean of *n* values with the ends of its confidence interval (NaN where n < 2)."""

    mean: float
    low: float
    high: float
    n: int

    def within(self, least: float, most: float) -> Interval:
        """Return this with ends that the quantity can have."""
        low, high = (float(np.clip(end, least, most)) for end in (self.low, self.high))
        return replace(self, low=low, high=high)


def estimate_share(values: npt.ArrayLike, *, level: float = 0.95) -> Interval:
    """Return the mean of shares (0..1) with an interval that stays within 0 and 1.

    The t interval is taken of the arcsine of the root, whose spread hardly depends on the share,
    and carried back; where all shares are one, so are both ends.
    """
    given = np.asarray(values, dtype=float)
    known = given[np.isfinite(given)]
    if known.size == 0:
        return Interval(mean=float("nan"), low=float("nan"), high=float("nan"), n=0)
    mean = float(known.mean())
    angles = estimate(np.arcsin(np.sqrt(np.clip(known, 0.0, 1.0))), level=level)
    low, high = (
        float(np.sin(np.clip(end, 0.0, np.pi / 2)) ** 2) for end in (angles.low, angles.high)
    )
    # The mean of the shares is a little below the share of the mean angle.
    return Interval(mean=mean, low=min(low, mean), high=max(high, mean), n=angles.n)


def estimate_score(values: npt.ArrayLike, *, share: bool, level: float = 0.95) -> Interval:
    """Return the mean of a score of runs, or of a *share*, with an interval of what it can be: no
    score is below 0.
    """
    if share:
        return estimate_share(values, level=level)
    found = estimate(values, level=level)
    return Interval(mean=found.mean, low=found.low, high=found.high, n=found.n).within(0.0, np.inf)


def paired_along(
    results: pd.DataFrame,
    metric: str,
    *,
    axis: str,
    first: object,
    second: object,
    level: float = 0.95,
) -> Interval:
    """Return *second* − *first* along *axis* (a column) of *metric*, in pairs of equal seeds; seeds
    that only one of them has are left out.
    """
    sides = [
        results[results[axis] == value].set_index("seed")[metric].astype(float)
        for value in (first, second)
    ]
    found = estimate((sides[1] - sides[0]).dropna(), level=level)
    return Interval(mean=found.mean, low=found.low, high=found.high, n=found.n)
