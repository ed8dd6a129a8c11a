"""Claims about twin.arrivals: the warped unit process, and token counts that keep their mean."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from tests.parts import first
from twin.arrivals import ArrivalStream, round_fairly, token_counts
from twin.chance import draw_s
from twin.spec import Delay

SURE = float(
    stats.norm.ppf(1 - 1e-4)
)  # a two-sided bound that a right programme breaks once in 5,000 seeds


def stream(seed: int = 1, cv: float = 1.0) -> ArrivalStream:
    return ArrivalStream(np.random.default_rng(seed), cv=cv)


def test_a_variation_whose_square_is_no_number_is_none() -> None:
    """It would divide by 0 in the middle of a run."""
    for cv in (1e-320, 1e-200, 1e-160, 1e-12):
        assert list(stream(cv=cv).until(0.0, 9.0, 2.0)) == list(stream(cv=0.0).until(0.0, 9.0, 2.0))
        assert draw_s(Delay(mean_s=5.0, cv=cv), np.random.default_rng(1)) == 5.0
        for distribution in ("gamma", "lognormal"):
            counts = token_counts(
                np.random.default_rng(1), 4, mean=9.0, distribution=distribution, cv=cv
            )
            assert list(counts) == [9, 9, 9, 9]


def test_a_constant_rate_gives_a_poisson_process():
    """Exponential gaps of the right mean: what M/M/1 and every queueing formula of the project
    assume.
    """
    times = stream().until(0.0, 20_000.0, 2.0)
    assert abs(len(times) - 40_000) < SURE * math.sqrt(40_000)
    assert stats.kstest(np.diff(times) * 2.0, "expon").pvalue > 0.01
    counts = np.histogram(times, bins=np.arange(0.0, 20_001.0, 10.0))[0]
    dispersion = counts.var(ddof=1) / counts.mean()
    assert abs(dispersion - 1.0) < SURE * math.sqrt(2.0 / (len(counts) - 1))


@pytest.mark.parametrize(
    ("rate0", "rate1"), [(0.0, 4.0), (4.0, 0.0), (1.0, 3.0), (3.0, 3.0 + 1e-12)]
)
def test_a_linear_rate_is_followed_within_the_call(rate0: float, rate1: float):
    """Ramps must not become stairs: given their number, the instants have the cumulated rate as
    distribution.
    """
    length = 10_000.0
    times = stream(seed=2).until(50.0, 50.0 + length, rate0, rate1)
    expected = 0.5 * (rate0 + rate1) * length
    assert abs(len(times) - expected) < SURE * math.sqrt(expected)
    part = (times - 50.0) / length
    cumulated = (rate0 * part + 0.5 * (rate1 - rate0) * part**2) / (0.5 * (rate0 + rate1))
    assert stats.kstest(cumulated, "uniform").pvalue > 0.01


@given(
    cuts=st.lists(st.floats(0.0, 100.0), max_size=8),
    cv=st.sampled_from([0.0, 0.4, 1.0, 2.5]),
    rate=st.floats(0.0, 30.0),
    slope=st.floats(0.0, 1.0),
)
@example(
    cuts=[], cv=2.5, rate=30.0, slope=1.0
)  # two close arrivals once changed places in the last digit
@pytest.mark.costly
def test_how_the_time_is_cut_does_not_move_an_arrival(
    cuts: list[float], cv: float, rate: float, slope: float
):
    """A unit process through the cumulated rate: the reason why no policy and no period can shift
    the load.
    """

    def rate_at(t_s: float) -> float:
        return rate + slope * t_s

    whole = stream(seed=3, cv=cv).until(0.0, 100.0, rate_at(0.0), rate_at(100.0))
    edges = [0.0, *sorted(cuts), 100.0]
    cut = stream(seed=3, cv=cv)
    parts = [cut.until(a, b, rate_at(a), rate_at(b)) for a, b in pairwise(edges)]
    for (a, b), part in zip(pairwise(edges), parts, strict=True):
        assert np.all((part >= a) & (part < b))
    joined = np.concatenate(parts)
    assert np.all(np.diff(joined) >= 0.0)
    # An arrival within a rounding error of the end may fall on either side of it.
    common = min(len(joined), len(whole))
    assert abs(len(joined) - len(whole)) <= 1
    np.testing.assert_allclose(joined[:common], whole[:common], atol=1e-6, rtol=0)


def test_silence_costs_no_arrival():
    """A rate of zero stops the unit process: what would have come then comes when the rate is
    back.
    """
    paused, plain = stream(seed=4), stream(seed=4)
    before = paused.until(0.0, 10.0, 5.0)
    assert len(paused.until(10.0, 500.0, 0.0)) == 0
    after = paused.until(500.0, 510.0, 5.0)
    np.testing.assert_allclose(
        np.concatenate((before, after - 490.0)), plain.until(0.0, 20.0, 5.0), atol=1e-9
    )


@pytest.mark.parametrize("cv", [0.3, 2.0])
def test_gamma_gaps_have_the_coefficient_of_variation_asked_for(cv: float):
    """Burstiness is the one figure that a gamma-renewal load is chosen for."""
    gaps = np.diff(stream(seed=5, cv=cv).until(0.0, 50_000.0, 1.0))
    shape = 1.0 / cv**2
    assert stats.kstest(gaps, "gamma", args=(shape, 0.0, cv**2)).pvalue > 0.01
    # The variance of a sample standard deviation: (m4 - s^4) / (4 n s^2), with m4 of the gamma
    # distribution.
    m4 = (3.0 + 6.0 / shape) * cv**4
    sigma = math.sqrt((m4 - cv**4) / (4.0 * len(gaps) * cv**2))
    assert abs(gaps.std() / gaps.mean() - cv) < SURE * (sigma + cv * cv / math.sqrt(len(gaps)))


@pytest.mark.parametrize("cv", first(1, [1.0, 0.0, 0.3, 3.0]))
def test_the_process_is_stationary_from_its_first_instant(cv: float):
    """Without the first gap's own distribution, a bursty run begins with a burst: 27 servers at
    once, in every run.
    """
    counts = np.array([len(stream(seed=seed, cv=cv).until(0.0, 2.3, 1.0)) for seed in range(4000)])
    assert abs(counts.mean() - 2.3) < SURE * counts.std(ddof=1) / math.sqrt(len(counts))


def test_cv_zero_is_evenly_spaced():
    """The limit D of M/D/1's cousin D/D/1, with a phase of its own per server."""
    gaps = np.diff(stream(cv=0.0).until(0.0, 100.0, 3.0))
    np.testing.assert_allclose(gaps, 1.0 / 3.0, rtol=1e-9)


@pytest.mark.parametrize("distribution", ["fixed", "lognormal", "gamma"])
@pytest.mark.parametrize(
    ("mean", "cv"), [(1.0, 0.5), (1.3, 0.5), (2.4, 0.8), (7.5, 1.5), (512.25, 0.5), (2048.0, 1.0)]
)
def test_token_counts_keep_their_mean_and_are_at_least_one(distribution, mean: float, cv: float):
    """Offered tokens decide the replicas: a bias of half a token is 20 % where outputs are
    short.
    """
    counts = token_counts(
        np.random.default_rng(6), 200_000, mean=mean, distribution=distribution, cv=cv
    )
    assert counts.dtype == np.int64
    assert counts.min() >= 1
    assert abs(counts.mean() - mean) <= SURE * counts.std(ddof=1) / math.sqrt(len(counts))


@pytest.mark.parametrize("distribution", ["lognormal", "gamma"])
def test_token_counts_have_their_coefficient_of_variation(distribution):
    """The spread of sizes is what makes queues of equal load differ."""
    counts = token_counts(
        np.random.default_rng(7), 400_000, mean=300.0, distribution=distribution, cv=0.7
    )
    spread = counts.std(ddof=1)
    m4 = ((counts - counts.mean()) ** 4).mean()
    sigma = math.sqrt((m4 - spread**4) / (4.0 * len(counts))) / spread
    assert abs(spread / 300.0 - 0.7) < SURE * sigma / 300.0 + 1e-3


def test_lognormal_and_gamma_counts_have_those_distributions():
    """A mean and a deviation do not tell a lognormal from a gamma; the tail does, and tails fill KV
    memory.
    """
    rng = np.random.default_rng(8)
    logs = np.log(token_counts(rng, 5_000, mean=4000.0, distribution="lognormal", cv=0.5))
    assert stats.kstest((logs - logs.mean()) / logs.std(), "norm").pvalue > 0.01
    gammas = token_counts(rng, 5_000, mean=4000.0, distribution="gamma", cv=0.5)
    assert stats.kstest(gammas, "gamma", args=(4.0, 0.0, 1000.0)).pvalue > 0.01


def test_whole_fixed_counts_are_exact_and_a_mean_below_one_counts_as_one():
    """Fixed tokens are used where the twin must agree with a formula to the digit."""
    rng = np.random.default_rng(9)
    assert set(token_counts(rng, 1000, mean=512.0, distribution="fixed", cv=0.5)) == {512}
    assert set(token_counts(rng, 1000, mean=300.0, distribution="gamma", cv=0.0)) == {300}
    assert set(token_counts(rng, 1000, mean=0.2, distribution="lognormal", cv=0.5)) == {1}


@given(values=st.lists(st.floats(0.0, 1e6), min_size=1, max_size=20))
def test_fair_rounding_moves_to_a_neighbour_and_leaves_integers(values: list[float]):
    """Rounding may choose only between the two integers around a value."""
    exact = np.array(values)
    rounded = round_fairly(np.random.default_rng(10), exact)
    assert np.all((rounded == np.floor(exact)) | (rounded == np.ceil(exact)))
