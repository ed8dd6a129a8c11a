"""Claims about emulator.walk: how a offered load is disturbed."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from emulator.walk import OfferedLoad, Walk, check_interval, step, step_plain, step_reverting
from twin.spec import SpecError

SURE = float(stats.norm.ppf(1 - 1e-4))
NOMINAL = OfferedLoad(rate_rpm=120.0, in_tokens=1000.0, out_tokens=400.0)

nominals = st.builds(
    OfferedLoad,
    rate_rpm=st.floats(0.0, 1e4),
    in_tokens=st.floats(1.0, 2e4),
    out_tokens=st.floats(1.0, 2e4),
)
walks = st.builds(
    Walk,
    kind=st.sampled_from(["plain", "reverting"]),
    alpha=st.floats(0.0, 1.0),
    theta=st.floats(0.0, 1.0),
)


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def scaled(point: OfferedLoad, factor: float) -> OfferedLoad:
    return OfferedLoad(
        rate_rpm=point.rate_rpm * factor,
        in_tokens=point.in_tokens * factor,
        out_tokens=point.out_tokens * factor,
    )


def figures(point: OfferedLoad) -> tuple[float, float, float]:
    return point.rate_rpm, point.in_tokens, point.out_tokens


def test_rate_input_and_output_draw_separately_and_in_that_order():
    """The order fixes what a seed means; a common draw would make every long prompt come with a
    high rate.
    """
    stepped = step_plain(NOMINAL, NOMINAL, NOMINAL, alpha=0.1, rng=rng(2))
    twin = rng(2)
    expected = [value + twin.normal(0.0, 0.1 * value) for value in figures(NOMINAL)]
    assert figures(stepped) == tuple(expected)


def test_a_plain_step_has_alpha_times_the_nominal_as_deviation_wherever_it_stands():
    """sigma = alpha · original value: it does not shrink when the load has wandered down."""
    low = OfferedLoad(rate_rpm=60.0, in_tokens=700.0, out_tokens=300.0)
    generator = rng(3)
    moves = np.array(
        [
            figures(step_plain(low, NOMINAL, NOMINAL, alpha=0.05, rng=generator))
            for _ in range(20_000)
        ]
    ) - figures(low)
    sigmas = 0.05 * np.array(figures(NOMINAL))
    assert np.all(np.abs(moves.mean(axis=0)) < SURE * sigmas / math.sqrt(len(moves)))
    assert np.all(
        np.abs(moves.std(axis=0, ddof=1) / sigmas - 1.0) < SURE / math.sqrt(2.0 * len(moves))
    )
    correlations = np.corrcoef(moves, rowvar=False)[np.triu_indices(3, 1)]
    assert np.all(np.abs(correlations) < SURE / math.sqrt(len(moves)))


@pytest.mark.slow
def test_a_plain_walk_spreads_with_the_root_of_its_steps():
    """It has no way back: after n steps the deviation is sqrt(n) · alpha · nominal (far from the
    clamps).
    """
    nominal = OfferedLoad(rate_rpm=1000.0, in_tokens=5000.0, out_tokens=5000.0)
    ends = []
    for seed in range(2000):
        generator, current = rng(seed), nominal
        for _ in range(16):
            current = step_plain(current, nominal, nominal, alpha=0.02, rng=generator)
        ends.append(current.rate_rpm)
    expected = 4.0 * 0.02 * 1000.0
    assert abs(np.std(ends, ddof=1) / expected - 1.0) < SURE / math.sqrt(2.0 * len(ends))


@pytest.mark.slow
def test_a_reverting_walk_stays_about_its_nominal():
    """Its stationary variance is (alpha · nominal)² / (1 - (1 - theta)²), and its mean the
    nominal.
    """
    generator, current, seen = rng(4), NOMINAL, []
    for number in range(60_000):
        current = step_reverting(current, NOMINAL, NOMINAL, alpha=0.08, theta=0.2, rng=generator)
        if number >= 50:
            seen.append(figures(current))
    values = np.array(seen) / figures(NOMINAL)
    variance = 0.08**2 / (1.0 - 0.8**2)
    # Correlation phi from step to step multiplies the variance of a mean by (1 + phi)/(1 - phi);
    # for squares, phi².
    mean_sigma = math.sqrt(variance * (1.0 + 0.8) / (1.0 - 0.8) / len(values))
    variance_sigma = variance * math.sqrt(2.0 * (1.0 + 0.64) / (1.0 - 0.64) / len(values))
    assert np.all(np.abs(values.mean(axis=0) - 1.0) < SURE * mean_sigma)
    assert np.all(np.abs(values.var(axis=0) - variance) < SURE * variance_sigma)


def test_a_reverting_walk_goes_theta_of_the_way_back():
    """Without noise the distance to the nominal shrinks by 1 - theta a step."""
    far = scaled(NOMINAL, 3.0)
    stepped = step_reverting(far, NOMINAL, NOMINAL, alpha=0.0, theta=0.25, rng=rng())
    assert figures(stepped) == pytest.approx(figures(scaled(NOMINAL, 2.5)))


@given(
    walk=walks,
    before=nominals,
    now=nominals,
    deviations=st.tuples(*[st.floats(0.0, 12.0)] * 3),
    seed=st.integers(0, 2**32),
)
def test_a_step_ends_within_the_clamps(
    walk: Walk, before: OfferedLoad, now: OfferedLoad, deviations, seed: int
):
    """No rate of zero or below, no prompt of a million tokens, whatever was drawn."""
    current = OfferedLoad(
        rate_rpm=before.rate_rpm * deviations[0],
        in_tokens=before.in_tokens * deviations[1],
        out_tokens=before.out_tokens * deviations[2],
    )
    stepped = step(walk, current, before, now, rng=rng(seed))
    if walk.kind == "plain":
        assert min(6.0, now.rate_rpm / 10.0) <= stepped.rate_rpm <= max(240.0, 2.0 * now.rate_rpm)
        for value, nominal in zip(figures(stepped)[1:], figures(now)[1:], strict=True):
            assert min(100.0, nominal) <= value <= max(10_000.0, nominal)
    else:
        for value, nominal in zip(figures(stepped), figures(now), strict=True):
            assert nominal / 10.0 <= value <= nominal * 10.0


@given(
    kind=st.sampled_from(["plain", "reverting"]), path=st.lists(nominals, min_size=2, max_size=10)
)
def test_with_alpha_zero_the_load_is_its_nominal_to_the_last_digit(kind, path: list[OfferedLoad]):
    """`steady` and shapes without disturbance must not drift by rounding over a day of steps."""
    walk, current, generator = Walk(kind=kind, alpha=0.0), path[0], rng()
    for before, now in pairwise(path):
        current = step(walk, current, before, now, rng=generator)
        assert current == now


@given(walk=walks, deviation=st.floats(0.5, 1.5), factor=st.floats(0.5, 1.5))
def test_the_current_load_moves_with_its_nominal(walk: Walk, deviation: float, factor: float):
    """When the nominal moves, the load first moves by the same ratio; the draw comes after."""
    here, there = scaled(NOMINAL, 1.0), scaled(NOMINAL, factor)
    moved = step(walk, scaled(NOMINAL, deviation), here, there, rng=rng(5))
    already_there = step(walk, scaled(there, deviation), there, there, rng=rng(5))
    assert figures(moved) == pytest.approx(figures(already_there), rel=1e-12)


def test_alpha_changes_the_size_of_a_draw_and_not_the_draw():
    """Runs of one seed at several alphas are comparable: the same shocks, scaled."""
    generators = [rng(6), rng(6), rng(6)]
    for _ in range(5):
        none, small, large = (
            step_plain(NOMINAL, NOMINAL, NOMINAL, alpha=alpha, rng=generator)
            for alpha, generator in zip((0.0, 0.01, 0.02), generators, strict=True)
        )
        assert none == NOMINAL
        assert large.rate_rpm - 120.0 == pytest.approx(2.0 * (small.rate_rpm - 120.0))


def test_a_load_that_comes_back_from_nothing_starts_at_its_nominal():
    """From a nominal of zero there is no ratio; a silent NaN here would stop every arrival of the
    run.
    """
    nothing = OfferedLoad(rate_rpm=0.0, in_tokens=1000.0, out_tokens=400.0)
    gone = step_plain(NOMINAL, NOMINAL, nothing, alpha=0.0, rng=rng())
    assert gone == nothing
    assert step_plain(gone, nothing, NOMINAL, alpha=0.0, rng=rng()) == NOMINAL


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Walk(alpha=1.5), r"alpha: expected a number in \[0, 1\], found 1.5"),
        (lambda: Walk(alpha=-0.1), r"alpha: expected a number in \[0, 1\], found -0.1"),
        (lambda: Walk(alpha=math.nan), r"alpha: expected a number in \[0, 1\], found nan"),
        (lambda: Walk(theta=2.0), r"theta: expected a number in \[0, 1\], found 2"),
        (lambda: Walk(kind="drunk"), "walk: expected one of plain, reverting, found 'drunk'"),  # type: ignore[arg-type]
        (lambda: check_interval(0.0), "interval: expected a number of seconds > 0, found 0"),
        (lambda: check_interval(-5.0), "interval: expected a number of seconds > 0, found -5"),
        (lambda: check_interval(math.inf), "interval: expected a number of seconds > 0, found inf"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(make, expected: str):
    """The command prints this line and ends with exit code 2."""
    with pytest.raises(SpecError, match=f"^{expected}$"):
        make()
