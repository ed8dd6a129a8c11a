"""What is learnt of full KV caches in which requests lose their places, and what follows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loop.optimizer.cache import SizingCache
from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.ours import OURS
from loop.optimizer.sizing import size_all
from loop.policies.slo import SloPolicy
from loop.policies.slo.case import Sizing
from loop.policies.slo.crowd import KEPT_S, Crowd, batch_within, with_sample
from loop.spec import SystemData
from loop.testing.fakes import pod_view, server_view
from loop.types import Load, ServerView, Snapshot, one_pool
from tests.loop.small_systems import server, small_system

MODEL = server().model
PERFS = small_system(server(), kv_tokens=10_000).perf
SIZING = Sizing(
    compat=False,
    forecasts=True,
    percentile=None,
    tick_s=30.0,
    down_s=300.0,
    drain_s=60.0,
    prefix_cache_trust=0.0,
)
FULL = tuple(pod_view(f"p{i}", running=8, max_batch=12, kv_usage=0.96) for i in range(2))
EMPTY = pod_view("new", running=3, max_batch=12, kv_usage=0.05)
TOKENS = 1200.0  # that each of them holds
SEEN = Crowd(TOKENS, 100.0, 2, 100.0, 3000.0)
# Of the 120 s of both pods, 0.45 for so many times 1,200 tokens.
(BETA_MS,) = {perf.beta_ms for (_, accelerator), perf in PERFS.items() if accelerator == "H100"}
LOST = round(0.45 * 120_000.0 / (TOKENS * BETA_MS))


def seen(**fields: object) -> ServerView:
    """Return a server of two full pods that compute again for nearly half of their time."""
    told = {"model": MODEL, "preemptions": LOST, "running": 16, "pods": FULL, **fields}
    return server_view(**told)


def at(
    view: ServerView,
    *,
    known: Crowd | None = None,
    now_s: float = 100.0,
    mean_tokens: float = 3000.0,
) -> Crowd | None:
    """Return what is known after *view*."""
    return with_sample(known, view, PERFS, mean_tokens=mean_tokens, now_s=now_s, window_s=60.0)


def test_full_caches_in_which_work_is_lost_again_say_what_a_request_holds() -> None:
    """Once may be chance, and pods that have just begun say nothing of it."""
    view = seen(pods=(*FULL, EMPTY))
    once = at(view, now_s=70.0)
    assert once is not None
    assert once.tokens_asked == 0.0
    assert at(view, known=once) == Crowd(pytest.approx(TOKENS), 100.0, 2, 100.0, 3000.0)
    between = at(seen(preemptions=0), known=once)
    assert between is None


@pytest.mark.parametrize(
    "told",
    [
        {"preemptions": LOST // 2},
        {"preemptions": None},
        {"model": "unheard-of"},
        {"pods": (EMPTY,)},
        {"pods": ()},
        {"pods": tuple(replace(pod, unknown_gauges=("kv_usage",)) for pod in FULL)},
        {"pods": tuple(replace(pod, sample_age_s=None) for pod in FULL)},
        {"pods": tuple(replace(pod, phase="draining") for pod in FULL)},
        {"pods": tuple(replace(pod, max_batch=8) for pod in FULL)},
        {"pods": (*FULL, EMPTY, EMPTY)},
    ],
)
def test_nothing_is_learnt_of_few_losses_of_full_batches_or_of_what_nobody_told(
    told: dict[str, object],
) -> None:
    """What was known stays."""
    assert at(seen(**told)) is None
    assert at(seen(**told), known=SEEN, now_s=130.0) == replace(SEEN, samples=0)


def test_what_is_a_little_more_changes_nothing_and_more_does_after_a_while() -> None:
    """Another batch is a rollout. What was not seen for long is forgotten."""
    more = seen(pods=tuple(replace(pod, running=6) for pod in FULL))
    little = seen(pods=tuple(replace(pod, kv_usage=1.0) for pod in FULL))
    for view, now_s in ((little, 800.0), (more, 130.0)):
        assert at(view, known=SEEN, now_s=now_s) == replace(SEEN, samples=3, seen_s=now_s)
    assert at(more, known=SEEN, now_s=800.0) == Crowd(
        pytest.approx(1600.0), 800.0, 3, 800.0, 3000.0
    )
    quiet = replace(SEEN, samples=0)
    assert at(seen(preemptions=0), known=quiet, now_s=100.0 + KEPT_S) is quiet
    assert at(seen(preemptions=0), known=quiet, now_s=101.0 + KEPT_S) is None


def test_a_cut_batch_stays_for_as_long_as_requests_are_no_shorter() -> None:
    """That places are lost no more is no reason to try the larger batch again: each hour would have
    rollouts up and down.
    """
    known, quiet, hours_s = replace(SEEN, samples=0), seen(preemptions=0), 10_000.0
    for mean_tokens in (0.0, 2300.0, 5000.0):
        assert at(quiet, known=known, now_s=hours_s, mean_tokens=mean_tokens) is known
    assert at(quiet, known=known, now_s=hours_s, mean_tokens=2200.0) is None


def test_pods_of_several_accelerators_count_by_their_own_caches() -> None:
    """While a server moves, its old pods are those that are full."""
    perfs = {
        (model, accelerator): replace(perf, kv_tokens=30_000 if accelerator == "A100" else 10_000)
        for (model, accelerator), perf in PERFS.items()
    }
    view = seen(accelerator="A100")
    found = with_sample(SEEN, view, perfs, mean_tokens=3000.0, now_s=800.0, window_s=60.0)
    assert found is not None
    assert found.tokens == TOKENS


def test_a_batch_has_no_more_than_caches_were_seen_to_hold() -> None:
    """And at least one, wherever one fits."""
    data = small_system(server(), kv_tokens=10_000)
    assert set(batches(data, SEEN.tokens_asked)) == {6}
    assert set(batches(data, 20_000.0)) == {1}
    assert min(batches(data, 0.0)) > 8


def batches(data: SystemData, held: float) -> list[int]:
    """Return the largest batch that the optimizer looks at, by accelerator."""
    one = replace(data.servers["s"], held_tokens=held)
    table = size_all(data, OptimizerSettings(rules=OURS), servers=[one], cache=SizingCache())
    return [int(batch) for batch in table.columns.max_batch]


@example(held=1502.2, kv_tokens=22_533)  # 15 times as floats, a hair less by digits
@settings(max_examples=30)
@given(held=st.floats(20.0, 1e6), kv_tokens=st.integers(1000, 10**7))
def test_a_batch_of_what_is_held_is_as_large_for_the_policy(held: float, kv_tokens: int) -> None:
    """Else each cycle would ask for another one."""
    data = small_system(server(), kv_tokens=kv_tokens)
    one = data.servers["s"]
    within = batch_within(data, replace(one, held_tokens=held), "H100")
    free = batches(data, 0.0)
    assert batches(data, held) == [min(batch, within) for batch in free]
    assert batch_within(data, one, "H100") == math.inf


def test_a_batch_is_cut_once_and_the_record_says_why() -> None:
    """Tokens and loads vary, and with them the batch that is worth allowing: a cut batch is asked
    for until requests are shorter. What is remembered between samples changes nothing of it.
    """
    data = replace(small_system(kv_tokens=200_000), servers={})
    slo = SloPolicy()
    state, batch, batches = slo.start(), 64, []
    for tick in range(140):
        crowded = tick in range(40, 49)
        load = Load(rate_rpm=110.0 + tick % 7, in_tokens=2500.0 + 60.0 * (tick % 9), out_tokens=300)
        fields = {"model": MODEL, "load": load, "completions_rpm": 100.0}
        usage, lost = (0.98, 2000) if crowded else (0.5, 0)
        pods = tuple(pod_view(f"p{i}", running=49, kv_usage=usage) for i in range(2))
        view = server_view(max_batch=batch, preemptions=lost, pods=pods, **fields)
        snapshot = Snapshot(now_s=15.0 * tick, servers={"s1": view}, window_s=60.0)
        decision, after = slo.decide(snapshot, data, state)
        assert decision == replace(slo).decide(snapshot, data, state)[0]
        state, target = after, decision.targets["s1"]
        batch = target.pools[0].max_batch
        batches.append(batch)
        told = "requests of 4000 tokens lost their places in full KV caches" in target.why.text
        assert told == (batch < 64), (tick, target.why.text)
    assert set(batches[:40]) == {64}
    assert set(batches[48:]) == {40}
    fixed = replace(view, pools=one_pool(accelerator="H100", replicas=2, max_batch=64))
    fixed = replace(fixed, batch_fixed=True)
    decision, _ = slo.decide(replace(snapshot, servers={"s1": fixed}), data, state)
    assert decision.targets["s1"].pools[0].max_batch == 64, "what cannot be had is not asked for"


def test_what_the_data_say_holds_whatever_is_seen() -> None:
    """Caches that were full once, or for less, are no reason for a larger batch than that."""
    data = small_system(server(), kv_tokens=10_000)
    told = replace(data, servers={"s": replace(data.servers["s"], held_tokens=2000.0)})
    view = server_view("s", model=MODEL, pods=FULL)
    sized = [
        SIZING.server(view, told, view.load, full).held_tokens
        for full in (None, Crowd(0.0, 0.0, 1, 100.0), SEEN, replace(SEEN, tokens=4000.0))
    ]
    assert sized == [2000.0, 2000.0, 2000.0, 5000.0]
