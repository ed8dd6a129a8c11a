"""The compiled estimate of tails finds what that of numpy finds."""

from __future__ import annotations

import numpy as np
import pytest

from loop.optimizer.model.queueing import ReplicaColumns
from loop.optimizer.model.steady import full_batch_rate
from loop.optimizer.model.tail import Tail, make_tail, rounded
from loop.optimizer.model.within import (
    compiled_estimate,
    is_compiled,
    latencies_at,
    looked,
    make_goals,
    shares_within,
)

ROWS = 120


def replicas(seed: int) -> Tail:
    """Return replicas of all kinds: sums and rooflines, one token and thousands, bounded queues,
    pools, cached prompts, plans ahead, bursts.
    """
    rng = np.random.default_rng(seed)

    def some(share: float, values: np.ndarray, other: float) -> np.ndarray:
        return np.where(rng.random(ROWS) < share, values, other)

    alpha = rng.uniform(3.0, 30.0, ROWS)
    p = some(0.5, rng.uniform(1.2, 6.0, ROWS), 1.0)
    prompts = np.exp(rng.uniform(0.0, 9.0, ROWS)).round()
    launch = np.where(p != 1.0, alpha * rng.random(ROWS), 0.0)
    return make_tail(
        ReplicaColumns(
            alpha,
            rng.uniform(0.005, 0.3, ROWS),
            rng.uniform(1e-6, 1e-4, ROWS),
            prompts,
            some(0.9, np.exp(rng.uniform(0.0, 7.0, ROWS)).round(), 1.0),
            rng.integers(1, 257, ROWS),
            some(0.3, rng.integers(0, 50, ROWS).astype(float), np.inf),
            np.full(ROWS, 2048.0),
            rng.uniform(0.0, 20.0, ROWS),
            launch,
            p,
            some(0.3, 0.4 * prompts, 0.0),
            rng.uniform(0.0, 2.0, ROWS),
            some(0.4, np.ones(ROWS), 0.0),
            some(0.3, rng.integers(1, 9, ROWS).astype(float), 1.0),
            some(0.4, rng.uniform(1.0, 9.0, ROWS), 1.0),
            some(0.4, (alpha - launch) * rng.uniform(0.1, 1.0, ROWS), 0.0),
            rng.uniform(0.5, 0.99, ROWS),
            np.where(p != 1.0, some(0.5, rng.uniform(0.01, 0.1, ROWS), 0.0), 0.0),
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_both_estimates_find_the_same(seed: int) -> None:
    """A plan must not hang on whether a compiler is installed."""
    pytest.importorskip("numba", reason="the compiled estimate needs the extra `fast`")
    tail, rng = replicas(seed), np.random.default_rng(seed + 100)
    rate = full_batch_rate(tail) * rng.uniform(0.01, 1.2, ROWS)
    ttft = np.where(rng.random(ROWS) < 0.9, rng.uniform(50.0, 3000.0, ROWS), 0.0)
    itl = np.where(rng.random(ROWS) < 0.9, tail.columns.alpha * rng.uniform(0.8, 6.0, ROWS), 0.0)
    goals = make_goals(tail, ttft=ttft, itl=itl)
    percentile = rng.uniform(0.5, 0.99, ROWS)
    near = (np.full(ROWS, 30.0), np.full(ROWS, 500.0))
    found = []
    for wanted in (False, True):
        with compiled_estimate(wanted=wanted):
            shares = shares_within(tail, rate, goals)
            late = latencies_at(looked(tail, near=near), rate, percentile)
        found.append((shares.ttft, shares.itl, shares.both, shares.lost, *late))
    assert not is_compiled()
    for plain, compiled in zip(*found, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-7, atol=1e-9)


def test_figures_are_rounded_far_below_what_is_right() -> None:
    """What differs in the last digit must be one figure, of any size, and what is none stay so."""
    values = np.array([0.0, 1e-300, 1.0 / 3.0, 12345.678, 1e300, np.inf, np.nan])
    found = rounded(values)
    np.testing.assert_allclose(found, values, rtol=2.0**-24)
    np.testing.assert_array_equal(rounded(values * (1.0 + 1e-13)), found)
