"""Claims about the search: it finds minima that are smooth, stepped or spoilt by outliers, and
always the same one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from twin.fit.descent import best_shares, loss

Vector = npt.NDArray[np.float64]

TRUTH = np.array([0.55, 0.1, 0.3])


def slopes(rng: np.random.Generator, *, residuals: int) -> Vector:
    """Return how residuals grow with the shares: all positive, as times do."""
    return rng.uniform(1.0, 100.0, (residuals, len(TRUTH)))


@pytest.mark.parametrize("truth", [TRUTH, np.array([0.9, 0.05, 0.0]), np.array([0.2, 0.7, 0.2])])
def test_a_smooth_minimum_is_found_exactly_also_on_the_border(truth: Vector) -> None:
    """The easy case must be exact: a share of 0 is a legal answer."""
    grow = slopes(np.random.default_rng(1), residuals=60)
    found = best_shares(lambda shares: grow @ (shares - truth), count=3)
    np.testing.assert_allclose(found, truth, atol=1e-5)


def test_a_minimum_is_found_through_jumps() -> None:
    """A replay's times jump where events change places; small differences see no slope at all on
    such steps.
    """
    grow = slopes(np.random.default_rng(2), residuals=200)

    def residuals(shares: Vector) -> Vector:
        return np.round(grow @ shares) - np.round(grow @ TRUTH)

    np.testing.assert_allclose(best_shares(residuals, count=3), TRUTH, atol=0.02)


def test_a_few_wild_residuals_do_not_steer() -> None:
    """One request in ten preempted elsewhere must not move the latency model of the other nine."""
    rng = np.random.default_rng(3)
    grow = slopes(rng, residuals=100)
    wild = np.where(np.arange(100) % 10 == 0, rng.uniform(20.0, 60.0, 100), 0.0)
    found = best_shares(lambda shares: grow @ (shares - TRUTH) + wild, count=3)
    np.testing.assert_allclose(found, TRUTH, atol=0.01)


def test_the_search_repeats_itself() -> None:
    """Nothing in it is random, so a fit can be repeated from its log and limits alone."""
    grow = slopes(np.random.default_rng(4), residuals=50)

    def residuals(shares: Vector) -> Vector:
        return np.round(3.0 * (grow @ (shares - TRUTH)))

    first, second = (best_shares(residuals, count=3) for _ in range(2))
    assert first.tolist() == second.tolist()


def test_the_loss_is_nothing_at_zero_and_slow_far_out() -> None:
    """Its slow growth is what keeps outliers from steering."""
    assert loss(np.zeros(5)) == 0.0
    assert loss(np.array([1.0, -1.0])) == pytest.approx(2.0 * np.log(2.0))
    assert loss(np.array([1000.0])) < 2.0 * loss(np.array([32.0]))
