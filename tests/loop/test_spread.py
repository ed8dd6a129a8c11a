"""How a load varies within a window, as the requests in flight tell."""

from __future__ import annotations

import numpy as np
import pytest

from loop.policies.slo.forecast import Forecast
from loop.policies.slo.spread import Spread
from loop.policies.slo.worth import Worth
from loop.testing.fakes import server_view
from loop.types import Load

WINDOW_S = 60.0
LOAD = Load(rate_rpm=1200.0, in_tokens=500.0, out_tokens=100.0)
ITL_MS, TTFT_MS = 48.0, 200.0  # 5 s in flight, a hundred requests at a time


def learnt(
    level: float,
    *,
    seed: int,
    rate_rpm: float = LOAD.rate_rpm,
    share: float = 1.0,
    **fields: object,
) -> float:
    """Return what is learnt of an hour in which the load jumps between 1 - *level* and 1 + *level*
    of its mean within each window, and *share* of what is in flight is told.
    """
    rng, spread = np.random.default_rng(seed), Spread()
    for _ in range(120):
        counted = rng.poisson(rate_rpm)
        load = Load(rate_rpm=float(counted), in_tokens=500.0, out_tokens=100.0)
        now = rate_rpm / 12.0 * (1.0 + level * float(rng.choice([-1.0, 1.0])))
        told = {"itl_ms": ITL_MS, "ttft_ms": TTFT_MS, **fields}
        view = server_view(load=load, running=int(share * rng.poisson(now)), **told)
        spread = spread.with_sample(view, load, window_s=WINDOW_S)
    return spread.within


@pytest.mark.parametrize("rate_rpm", [30.0, 1200.0])
def test_a_poisson_load_varies_by_chance_only(rate_rpm: float) -> None:
    """However few its requests are."""
    assert all(learnt(0.0, seed=seed, rate_rpm=rate_rpm) == 0.0 for seed in range(10))


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_bursts_that_no_window_shows_are_seen_in_flight(level: float) -> None:
    """The deviation of a load of two levels is half their distance; queues bear some of it."""
    found = float(np.mean([learnt(level, seed=seed) for seed in range(10)]))
    assert 0.8 * level < found < 1.4 * level


@pytest.mark.parametrize(
    "told",
    [
        {"share": 0.0},
        {"share": 0.3},
        {"share": 3.0},
        {"itl_ms": None},
        {"sample_age_s": None},
        {"ttft_ms": 60000.0},
    ],
)
def test_gauges_that_do_not_fit_the_load_tell_nothing(told: dict[str, object]) -> None:
    """An engine without such a gauge, one of several that is asked, latencies of something else."""
    assert learnt(0.9, seed=1, **told) == 0.0  # type: ignore[arg-type]


def test_who_varies_within_a_window_has_more_replicas() -> None:
    """What is over capacity for a while is missed, though the window is not; beyond a bound more
    does not help.
    """
    found = Forecast(futures=np.full(100, 1000.0), method="filters", now=1000.0)
    worth = Worth(replica_cents_per_h=100.0, met_cents=1.0)
    rates = [
        worth.rate_rpm(found, replica_rpm=100.0, within=each) for each in (0.0, 0.15, 0.3, 2.0)
    ]
    assert rates[0] == 1000.0
    assert rates[0] < rates[1] < rates[2] == rates[3] < 2000.0


@pytest.mark.parametrize(("times", "told"), [(1.0, 1.0), (1.15, 1.0), (1.8, 1.8), (5.0, 2.0)])
def test_a_jump_is_known_before_the_window_shows_it(times: float, told: float) -> None:
    """What is a little more may be chance; what is far more, or stays, may be slow replicas."""
    rng, spread = np.random.default_rng(2), Spread()
    for _ in range(20):
        view = server_view(load=LOAD, running=int(rng.poisson(100)), itl_ms=ITL_MS, ttft_ms=TTFT_MS)
        spread = spread.with_sample(view, LOAD, window_s=WINDOW_S)
        assert spread.jump == 1.0
    now = server_view(load=LOAD, running=round(100 * times), itl_ms=ITL_MS, ttft_ms=TTFT_MS)
    after = spread.with_sample(now, LOAD, window_s=WINDOW_S)
    assert after.jump == pytest.approx(told)
    # Looks between samples see a window with more of the jump in it, and a fall is none.
    assert after.of_now(1.1 * LOAD.rate_rpm) == pytest.approx(max(1.0, told / 1.1))
    assert spread.of_now(0.5 * LOAD.rate_rpm) == 1.0
    assert after.without_sample().jump == 1.0
    for _ in range(5):
        after = after.with_sample(now, LOAD, window_s=WINDOW_S)
    assert after.jump == 1.0


def test_latencies_of_nothing_tell_of_no_jump() -> None:
    """An engine that has just begun may tell 0 ms: a division by what that means ended the loop."""
    rng, spread = np.random.default_rng(2), Spread()
    for _ in range(20):
        view = server_view(load=LOAD, running=int(rng.poisson(100)), itl_ms=ITL_MS, ttft_ms=TTFT_MS)
        spread = spread.with_sample(view, LOAD, window_s=WINDOW_S)
    now = server_view(load=LOAD, running=100, itl_ms=0.0, ttft_ms=None)
    assert spread.with_sample(now, LOAD, window_s=WINDOW_S).jump == 1.0
