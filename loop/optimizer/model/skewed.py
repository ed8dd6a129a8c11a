"""Distributions by their mean, variance and third cumulant: shifted lognormals, many at once.

Times of requests are sums of many small parts and a few large ones, none of them negative: they
lean to the right. A lognormal that is moved has any such skew, and its shares and quantiles are
closed forms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from loop.optimizer.model import Floats

# A skew of none would divide by zero; so little bends nothing.
SKEW_MIN, SKEW_MAX = 1e-3, 20.0


@dataclass(frozen=True, slots=True)
class Skewed:
    """A distribution in each cell: mean, variance and third cumulant."""

    mean: Floats
    variance: Floats
    third: Floats

    @classmethod
    def of_moments(cls, first: Floats, second: Floats, third: Floats) -> Skewed:
        """Return the distribution of these raw moments."""
        variance = np.maximum(second - first**2, 0.0)
        return cls(first, variance, third - 3.0 * first * second + 2.0 * first**3)

    @classmethod
    def stack(cls, parts: Sequence[Skewed]) -> Skewed:
        """Return *parts* along a new first axis: worked on together they cost one call each."""
        return cls(
            np.stack([part.mean for part in parts]),
            np.stack([part.variance for part in parts]),
            np.stack([part.third for part in parts]),
        )

    def moments(self) -> tuple[Floats, Floats, Floats]:
        """Return the raw moments."""
        second = self.variance + self.mean**2
        return self.mean, second, self.third + 3.0 * self.mean * self.variance + self.mean**3

    def plus(self, other: Skewed) -> Skewed:
        """Return the distribution of the sum with *other*, which is independent."""
        return Skewed(
            self.mean + other.mean, self.variance + other.variance, self.third + other.third
        )

    def within(self, bound: Floats) -> Floats:
        """Return the probability of at most *bound*."""
        deviation, bend, sigma = self._shape()
        stretched = 1.0 + (bound - self.mean) / deviation * bend
        inside = np.log(np.maximum(stretched, 1e-300))
        return np.where(stretched > 0.0, normal_share(inside / sigma + 0.5 * sigma), 0.0)

    def quantile(self, normal: Floats | float) -> Floats:
        """Return the value at the quantile at which a standard normal variable is *normal*."""
        deviation, bend, sigma = self._shape()
        found: Floats = self.mean + deviation * np.expm1(sigma * normal - 0.5 * sigma**2) / bend
        return found

    def _shape(self) -> tuple[Floats, Floats, Floats]:
        """Return the standard deviation, and of the lognormal its relative one and sigma."""
        deviation = np.sqrt(np.maximum(self.variance, 1e-18))
        skew = np.clip(self.third / deviation**3, SKEW_MIN, SKEW_MAX)
        # The skew of a lognormal of relative deviation b is b³ + 3b.
        bend = 2.0 * np.sinh(np.arcsinh(0.5 * skew) / 3.0)
        return deviation, bend, np.sqrt(np.log1p(bend**2))


_STANDARD = NormalDist()
# Beyond, the density of a standard normal variable is below the smallest number of full precision.
FARTHEST = 37.5


@np.errstate(under="ignore")
def normal_share(x: Floats) -> Floats:
    """Return the probability that a standard normal variable is at most *x*, to 1e-7.

    Abramowitz and Stegun 7.1.26: to load scipy.special takes longer than all sizing.
    """
    x = np.clip(x, -FARTHEST, FARTHEST)
    t = 1.0 / (1.0 + 0.231641888 * np.abs(x))
    series = t * (
        0.127414796 + t * (-0.142248368 + t * (0.710706871 + t * (-0.726576013 + t * 0.530702714)))
    )
    beyond = series * np.exp(-0.5 * x * x)
    return np.where(x > 0.0, 1.0 - beyond, beyond)


def normal_quantile(share: Floats) -> Floats:
    """Return where a standard normal variable has *share* below it."""
    shares: list[float] = share.tolist()
    # Rows share few percentiles.
    found = {each: _STANDARD.inv_cdf(each) for each in set(shares)}
    return np.array([found[each] for each in shares])
