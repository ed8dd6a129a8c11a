"""Intervals over seeds are Student's t, and policies are compared on equal seeds."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from experiments.confidence import estimate, paired_difference


def test_the_interval_is_students_t() -> None:
    """Three seeds need 4.303 standard errors, not 1.96: with few seeds the difference decides."""
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert found.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert (found.low, found.high) == pytest.approx(
        (2.0 - found.half_width, 2.0 + found.half_width)
    )


def test_one_value_has_no_interval_and_unknown_values_are_left_out() -> None:
    """A width of zero would claim certainty."""
    assert math.isnan(estimate([5.0]).half_width)
    assert estimate([math.nan, 4.0, 6.0]).mean == 5.0
    assert math.isnan(estimate([]).mean)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    """95 % of intervals over 5 seeds must hold the true mean (within 3 standard errors of 2000
    trials).
    """
    rng = np.random.default_rng(7)
    covered = sum(
        found.low <= 10.0 <= found.high
        for found in (estimate(rng.normal(10, 3, 5)) for _ in range(2000))
    )
    assert abs(covered / 2000 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 2000)


def test_pairing_removes_what_the_seeds_share() -> None:
    """Seeds differ by 100 and policies by 1: unpaired intervals hide the difference, paired ones
    show it.
    """
    rows = [
        {"policy": policy, "seed": seed, "cost": 100.0 * seed + extra + 0.01 * seed * extra}
        for policy, extra in (("slo", 0.0), ("static", 1.0))
        for seed in range(1, 6)
    ]
    found = paired_difference(pd.DataFrame(rows), "cost", first="slo", second="static")
    assert found.mean == pytest.approx(1.03)
    assert found.low > 0.9
    assert found.n == 5


def test_seeds_of_one_policy_only_are_left_out_of_the_pairs() -> None:
    """A failed run must not shift the difference."""
    rows = [{"policy": "slo", "seed": 1, "cost": 5.0}, {"policy": "static", "seed": 1, "cost": 7.0}]
    rows.append({"policy": "static", "seed": 2, "cost": 900.0})
    assert paired_difference(pd.DataFrame(rows), "cost", first="slo", second="static").mean == 2.0
