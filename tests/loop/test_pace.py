"""How much slower replicas are than the data say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loop.policies.slo.demand import Memory
from loop.policies.slo.pace import KEPT_S, SAMPLES_MAX, SAMPLES_MIN, Pace
from loop.policies.slo.slowed import Slowed
from loop.spec import Perf, SystemData
from loop.testing.fakes import server_view
from loop.types import Load, ServerView

# Eight requests run in each of two replicas: 16 requests/s of 50 tokens that take 20 ms each.
PERF = Perf(
    model="llama_8b", accelerator="H100", alpha_ms=10.0, beta_ms=0.1, gamma_ms=0.008, max_batch=64
)
VIEW = server_view(
    ready=2,
    itl_ms=20.0,
    completions_rpm=960.0,
    load=Load(rate_rpm=960.0, in_tokens=100.0, out_tokens=50.0),
)
# 10 + 0.1 · 8 · (1 + 100 / 50) + 0.008 · 8 · (100 + 50 / 2) = 20.4
ESTIMATED_MS = 20.4


def seen(view: ServerView, perf: Perf = PERF, *, samples: int, bursty: float = 0.0) -> Pace:
    pace = Pace()
    for _ in range(samples):
        pace = pace.with_sample(view, perf, bursty=bursty, now_s=0.0)
    return pace


def test_what_tokens_take_is_compared_at_the_requests_that_run() -> None:
    """By Little's law: with twice as many running, longer iterations are no surprise."""
    pace = seen(VIEW, samples=1)
    assert pace.ratios == pytest.approx((20.0 / ESTIMATED_MS,))


@pytest.mark.parametrize(("times", "slower"), [(0.5, 1.0), (1.0, 1.0), (1.24, 1.24), (9.0, 3.0)])
def test_slower_replicas_are_known_after_four_minutes(times: float, slower: float) -> None:
    """What is a little slower is chance, and nothing is made of faster ones."""
    perf = replace(
        PERF,
        alpha_ms=PERF.alpha_ms * 20.0 / ESTIMATED_MS / times,
        beta_ms=PERF.beta_ms * 20.0 / ESTIMATED_MS / times,
        gamma_ms=PERF.gamma_ms * 20.0 / ESTIMATED_MS / times,
    )
    assert seen(VIEW, perf, samples=SAMPLES_MIN - 1).slower is None
    pace = seen(VIEW, perf, samples=SAMPLES_MAX + 5)
    assert pace.slower == pytest.approx(slower)
    assert len(pace.ratios) == SAMPLES_MAX


@pytest.mark.parametrize(
    "view",
    [
        replace(VIEW, starting=1),
        replace(VIEW, draining=1),
        replace(VIEW, ready=1),
        replace(VIEW, preemptions=3),
        replace(VIEW, itl_ms=None),
        replace(VIEW, completions_rpm=2.0),
    ],
    ids=["starting", "draining", "short", "computed twice", "not told", "few answers"],
)
def test_nothing_is_learnt_where_latencies_tell_of_something_else(view: ServerView) -> None:
    """Of these one cannot tell the replicas from what happens to them."""
    assert seen(view, samples=SAMPLES_MAX).ratios == ()


def test_nothing_is_learnt_of_a_load_in_bursts() -> None:
    """Its tokens are made while many run, and its mean says that few do."""
    assert seen(VIEW, samples=SAMPLES_MAX, bursty=0.5).ratios == ()


def test_the_pace_stays_until_that_of_another_accelerator_is_known() -> None:
    """Data that are wrong of one are mostly wrong of all."""
    slow = Pace("llama_8b", "H100", (1.5,) * SAMPLES_MIN, 1.5)
    there = slow.with_sample(server_view(accelerator="A100"), None, bursty=0.0, now_s=0.0)
    assert (there.accelerator, there.ratios, there.slower) == ("A100", (), 1.5)
    other = slow.with_sample(server_view(model="llama_70b"), None, bursty=0.0, now_s=0.0)
    assert other.slower is None


def test_what_was_slow_is_slow_when_nobody_is_on_it() -> None:
    """Taken for right again, two servers went back to it and away every ten minutes."""
    there = server_view(accelerator="A100")
    slow = Pace("llama_8b", "H100", (1.5,) * SAMPLES_MIN, 1.5)
    moved = slow.with_sample(there, None, bursty=0.0, now_s=0.0)
    right = replace(moved, ratios=(1.0,) * SAMPLES_MIN, slower=1.0)
    perf = {("llama_8b", name): replace(PERF, accelerator=name) for name in ("H100", "A100")}
    data = SystemData(accelerators={}, perf=perf, classes={}, servers={}, capacity={})
    found = Slowed().data(data, {"s1": Memory(pace=right)})
    assert [one.alpha_ms for one in found.perf.values()] == [15.0, 10.0]
    back = right.with_sample(server_view(accelerator="H100"), None, bursty=0.0, now_s=0.0)
    assert (back.slower, back.elsewhere[-1]) == (1.5, ("A100", 1.0, 0.0))


def test_what_was_slow_is_tried_again_a_day_later() -> None:
    """A neighbour that was noisy for an hour kept a server off the cheapest GPUs for good."""
    slow = Pace("llama_8b", "H100", (1.5,) * SAMPLES_MIN, 1.5)
    there = server_view(accelerator="A100")
    moved = slow.with_sample(there, None, bursty=0.0, now_s=100.0)
    assert moved.elsewhere == (("H100", 1.5, 100.0),)
    assert moved.with_sample(there, None, bursty=0.0, now_s=KEPT_S) is moved
    later = moved.with_sample(there, None, bursty=0.0, now_s=KEPT_S + 101.0)
    assert (moved.slower, later.slower, later.elsewhere) == (1.5, None, ())


def test_rows_take_as_long_as_was_seen() -> None:
    """Those that nobody of the model is on, as long as on the best that it is on."""
    rows = [("llama_8b", "H100"), ("llama_8b", "A100"), ("llama_8b", "L40S"), ("llama_70b", "H100")]
    perf = {key: replace(PERF, model=key[0], accelerator=key[1]) for key in rows}
    data = SystemData(accelerators={}, perf=perf, classes={}, servers={}, capacity={})
    slowed = Slowed()
    right = {"s1": Memory(pace=Pace("llama_8b", "H100", (), 1.0))}
    assert slowed.data(data, {}) is data
    assert slowed.data(data, right) is data
    wrong = {
        "s1": Memory(pace=Pace("llama_8b", "H100", (), 2.0)),
        "s2": Memory(pace=Pace("llama_8b", "A100", (), 1.5)),
    }
    found = slowed.data(data, wrong)
    assert [found.perf[key].alpha_ms for key in rows] == [20.0, 15.0, 15.0, 10.0]
    assert found.perf["llama_8b", "H100"].gamma_ms == 0.016
    assert slowed.data(data, dict(wrong)) is found
