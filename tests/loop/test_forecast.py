"""Forecasts of a load: what they cover at what cost on loads of every kind, and what they hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.policies.forecast import (
    SAMPLES_MAX,
    STEP_S,
    Series,
    forecast,
    poisson_noise,
    season_steps,
)

LEAD_S = 150.0
AHEAD = round(LEAD_S / STEP_S)
HOUR = np.arange(120) * STEP_S


def shapes() -> dict[str, np.ndarray]:
    """Return two hours of rates [requests/min] of several kinds."""
    rng = np.random.default_rng(3)
    two = np.arange(240) * STEP_S
    walk = [1.0]
    for _ in range(119):
        walk.append(walk[-1] + 0.2 * (1.0 - walk[-1]) + rng.normal(0.0, 0.1))
    return {
        "steady": np.full(240, 100.0),
        "day": 100.0 * (1.0 + 0.6 * np.sin(2.0 * np.pi * two / 3600.0)),
        "ramp": 100.0 * np.interp(two, [3600.0, 4500.0, 5400.0, 6300.0], [1.0, 2.5, 2.5, 1.0]),
        "walk": 100.0 * np.repeat(np.maximum(walk, 0.1), 2),
        "bursts": 100.0 * np.where(two % 600.0 < 90.0, 4.0, 1.0),
    }


def foreseen(truth: np.ndarray, quantile: float) -> tuple[np.ndarray, np.ndarray]:
    """Return what is planned for at each moment that has a future, and that future, from counts of
    a Poisson process; the first twenty minutes are for learning.
    """
    rng = np.random.default_rng(4)
    series, planned = Series(), []
    for step, rate in enumerate(truth):
        seen = float(rng.poisson(rate))
        series = series.with_sample(seen, now_s=STEP_S * step)
        noise = poisson_noise(seen, 60.0)
        found = forecast(series, lead_s=LEAD_S, quantile=quantile, noise=noise)
        planned.append(found.at(quantile))
    return np.array(planned)[40:-AHEAD], truth[40 + AHEAD :]


@pytest.mark.parametrize(
    ("shape", "covered_min", "over_max"),
    [
        ("steady", 0.85, 1.2),
        ("day", 0.85, 1.35),
        ("ramp", 0.8, 1.25),
        ("walk", 0.75, 1.35),
        ("bursts", 0.9, 1.6),
    ],
)
def test_a_quantile_of_nine_tenths_covers_about_that(
    shape: str, covered_min: float, over_max: float
) -> None:
    """Without planning for twice the load everywhere."""
    planned, future = foreseen(shapes()[shape], 0.9)
    assert np.mean(planned >= 0.98 * future) >= covered_min
    assert planned.mean() <= over_max * future.mean()


def test_bursts_that_come_back_are_foreseen() -> None:
    """Who only looks at the present is late at each of them."""
    planned, future = foreseen(shapes()["bursts"], 0.9)
    bursts = future > 200.0
    last_hour = np.arange(len(future)) >= len(future) - 120
    assert np.mean(planned[bursts & last_hour] >= 360.0) >= 0.9
    assert planned[~bursts].mean() < 260.0


def test_a_season_is_the_first_lag_at_which_a_load_comes_back() -> None:
    """Noise has none, and neither has a load that has not come back yet."""
    rng = np.random.default_rng(5)
    bursts = np.where(np.arange(200) % 20 < 3, 4.0, 1.0)
    assert season_steps(bursts + rng.normal(0.0, 0.2, 200)) == 20
    assert season_steps(rng.normal(1.0, 0.2, 200)) == 0
    assert season_steps(np.linspace(1.0, 2.0, 200)) == 0
    assert season_steps(bursts[:30]) == 0


def test_a_rise_is_followed_before_errors_have_shown_it() -> None:
    """Five samples that rise by a tenth each are no noise at this rate."""
    steady = [600.0] * 20
    rising = [660.0, 720.0, 780.0, 840.0, 900.0]
    series = Series(0.0, tuple(steady + rising))
    found = forecast(series, lead_s=LEAD_S, quantile=0.9, noise=poisson_noise(900.0, 60.0))
    assert found.method.startswith("trend")
    assert found.middle > 1000.0


@given(
    values=st.lists(st.floats(0.0, 1e6), min_size=1, max_size=60),
    lead_s=st.floats(1.0, 900.0),
    quantile=st.floats(0.5, 0.99),
    noise=st.floats(0.0, 1e4),
)
def test_a_forecast_is_a_load(
    values: list[float], lead_s: float, quantile: float, noise: float
) -> None:
    """Finite and not negative, whatever came before."""
    found = forecast(Series(0.0, tuple(values)), lead_s=lead_s, quantile=quantile, noise=noise)
    assert 0.0 <= found.middle < np.inf
    assert 0.0 <= found.at(quantile) < np.inf
    assert list(found.futures) == sorted(found.futures)


def test_a_series_has_one_sample_a_step_and_forgets_the_oldest() -> None:
    """Cycles may come at any time: the newest reading counts, and fills a gap before it."""
    series = Series()
    for now_s in (0.0, 10.0, 29.0, 30.0, 45.0, 150.0):
        series = series.with_sample(now_s, now_s=now_s)
    assert series.values == (29.0, 45.0, 150.0, 150.0, 150.0, 150.0)
    for step in range(6, 2 * SAMPLES_MAX):
        series = series.with_sample(float(step), now_s=STEP_S * step)
    assert len(series.values) == SAMPLES_MAX
    assert (series.values[-1], series.next_s) == (2 * SAMPLES_MAX - 1.0, STEP_S * 2 * SAMPLES_MAX)
    anew = series.with_sample(1.0, now_s=series.next_s + STEP_S * 10 * SAMPLES_MAX)
    assert anew.values == (1.0,)
