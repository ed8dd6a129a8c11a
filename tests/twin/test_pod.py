"""The life of a pod, its log, and the delays of the world."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from twin.chance import ACTUATION, CRASH, START_UP, draw_s, node_generator, server_generator
from twin.serving.pod import Pod, PodLife, PodLog
from twin.spec import Delay, EngineSpec, LatencyModel

ENGINE = EngineSpec(
    model="m", accelerator="A", latency_model=LatencyModel(alpha_ms=1.0, beta_ms=0.0, gamma_ms=0.0)
)


def _life() -> PodLife:
    return PodLife(pod="s-0", server=3, accelerator="4xA", type="A", gpus=4, asked_s=10.0)


def test_the_log_has_a_row_for_every_life_and_a_restart_begins_one() -> None:
    """Cost is integrated over these rows: a crash must neither end nor double the GPUs that are
    held.
    """
    log = PodLog()
    life = _life()
    log.add(life)
    life.granted_s, life.ready_s, life.released_s, life.end = 12.0, 70.0, 100.0, "crash"
    log.add(life.restarted(100.0))
    frame = log.frame()
    assert frame["pod"].tolist() == ["s-0", "s-0"]
    assert frame["end"].tolist() == ["crash", ""]
    assert (frame["server"].tolist(), frame["gpus"].tolist()) == ([3, 3], [4, 4])
    assert frame["granted_s"].tolist() == [12.0, 100.0]
    assert frame["released_s"][0] == frame["asked_s"][1] == 100.0
    assert np.isnan(frame["ready_s"][1])
    assert frame["server"].dtype == np.int16


def test_an_empty_log_has_all_columns() -> None:
    """A run without any pod must be scored like any other."""
    frame = PodLog().frame()
    assert {column.shape for column in frame.values()} == {(0,)}
    assert {
        "server",
        "accelerator",
        "gpus",
        "asked_s",
        "granted_s",
        "ready_s",
        "draining_s",
        "released_s",
    } <= set(frame)


def test_time_never_goes_back_in_a_life() -> None:
    """Such a mistake would otherwise show only as a negative cost."""
    pod = Pod(engine=ENGINE, max_batch=1, life=_life())
    pod.enter("starting", 12.0)
    with pytest.raises(AssertionError, match=r"s-0: time went back from 12\.0 to 11\.0"):
        pod.enter("ready", 11.0)


def test_a_delay_without_spread_is_its_mean_and_draws_nothing() -> None:
    """Runs with fixed delays stay the same whatever else is drawn."""
    rng = np.random.default_rng(1)
    state = rng.bit_generator.state
    assert draw_s(Delay(mean_s=42.0), rng) == 42.0
    assert draw_s(Delay(mean_s=0.0, cv=1.0), rng) == 0.0
    assert rng.bit_generator.state == state


@pytest.mark.parametrize("cv", [0.2, 1.0, 2.0])
def test_a_delay_with_spread_is_gamma_with_that_mean_and_cv(cv: float) -> None:
    """Kolmogorov-Smirnov against the gamma distribution, at a level that a right generator misses
    once in 1000.
    """
    rng = np.random.default_rng(3)
    drawn = [draw_s(Delay(mean_s=60.0, cv=cv), rng) for _ in range(2000)]
    assert stats.kstest(drawn, stats.gamma(cv**-2, scale=60.0 * cv**2).cdf).pvalue > 1e-3


def test_every_purpose_of_every_server_has_its_own_generator() -> None:
    """Otherwise one more crash of one server would move the start-up of another, and paired runs
    would not be pairs.
    """
    seed = np.random.SeedSequence(5)
    generators = [
        server_generator(seed, index, purpose)
        for index in (0, 1)
        for purpose in (START_UP, CRASH, ACTUATION)
    ]
    draws = {generator.random() for generator in [*generators, node_generator(seed)]}
    assert len(draws) == 7
    assert server_generator(seed, 1, CRASH).random() == server_generator(seed, 1, CRASH).random()
