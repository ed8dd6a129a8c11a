"""The fast replica against the naive one: the same requests, the same times, the same counters."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from twin.spec import LatencyModel
from twin.testing.naive_replica import ARRIVAL, SCRAPE
from twin.testing.replica_scripts import (
    Script,
    differences,
    make_script,
    play_replica,
    with_conversations,
    with_prefixes,
)


@pytest.mark.parametrize("seed", range(120))
def test_a_random_script_gives_the_times_of_the_naive_replica(seed: int) -> None:
    """The fast-forward may change the speed and nothing else: times and sums to 1e-9, everything
    else exactly.
    """
    assert differences(make_script(seed), rel=1e-9) == []


@pytest.mark.parametrize("grid", ["integer", "dyadic"])
@pytest.mark.parametrize("seed", range(120))
def test_coinciding_events_come_out_in_the_same_order_to_the_last_bit(seed: int, grid: Any) -> None:
    """On a grid arrivals, actions, boundaries and scrapes tie all the time, and sums are exact:
    nothing may differ.
    """
    assert differences(make_script(seed, grid), rel=0.0) == []


@pytest.mark.parametrize("seed", range(40))
def test_rounded_coefficients_differ_at_most_in_the_bucket_of_a_time_on_a_bound(
    seed: int,
) -> None:
    """With round coefficients a time may lie on the bound of a bucket, and its last digit
    decides.
    """
    buckets = {"itl_buckets", "ttft_buckets", "e2e_buckets", "queue_buckets"}
    assert differences(make_script(seed, "coarse"), rel=1e-9, ignore=buckets) == []


@pytest.mark.parametrize("grid", ["none", "integer", "dyadic"])
@pytest.mark.parametrize("seed", range(80))
def test_plans_made_ahead_are_those_of_the_naive_replica(seed: int, grid: Any) -> None:
    """An arrival that truncates a segment an iteration too early or too late would shift all that
    comes after it.
    """
    script = make_script(seed, grid)
    ahead = replace(script, replica={**script.replica, "scheduling": "async"})
    assert differences(ahead, rel=1e-9 if grid == "none" else 0.0) == []


@pytest.mark.parametrize("grid", ["none", "integer", "dyadic"])
@pytest.mark.parametrize("seed", range(120))
def test_shared_prefixes_are_held_and_evicted_as_in_the_naive_replica(seed: int, grid: Any) -> None:
    """The fast one never moves a block: what it says of sharing and eviction must be what counting
    them says.
    """
    script = with_prefixes(make_script(seed, grid), seed)
    assert differences(script, rel=1e-9 if grid == "none" else 0.0) == []


@pytest.mark.parametrize("grid", ["none", "integer", "dyadic"])
@pytest.mark.parametrize("seed", range(60))
def test_the_blocks_of_answers_are_those_of_the_naive_replica(seed: int, grid: Any) -> None:
    """A conversation goes on with the answer: what was generated is found, whole blocks of it."""
    script = with_conversations(make_script(seed, grid), seed)
    assert differences(script, rel=1e-9 if grid == "none" else 0.0) == []


@pytest.mark.parametrize(("grid", "seed"), [("none", 43), ("none", 350), ("integer", 381)])
def test_a_blocked_head_is_asked_again_when_its_prefix_is_evicted(seed: int, grid: Any) -> None:
    """Less of its prompt is cached then, so less of it asks for room at once, and it may fit though
    the free blocks are fewer.
    """
    script = with_prefixes(make_script(seed, grid), seed)
    assert differences(script, rel=1e-9 if grid == "none" else 0.0) == []


@pytest.mark.parametrize("grid", ["none", "dyadic"])
@pytest.mark.parametrize("seed", range(75))
def test_steps_of_several_tokens_are_those_of_the_naive_replica(seed: int, grid: Any) -> None:
    """Blocks, finishes and preemptions come by the fraction of a token; with plans made ahead, with
    prefixes, and without.
    """
    script = make_script(seed, grid)
    if seed % 3 == 1:
        script = with_prefixes(script, seed)
    several = {
        "tokens_per_step": (1.5, 2.25, 3.0, 5.0, 1.75)[seed % 5]
        if grid == "dyadic"
        else (1.3, 2.6, 2.0, 1.07, 4.81)[seed % 5],
        "max_num_batched_tokens": max(5, script.replica["max_num_batched_tokens"]),
        "scheduling": "async" if seed % 4 == 2 else "sync",
    }
    drafting = replace(script, replica={**script.replica, **several})
    assert differences(drafting, rel=1e-9 if grid == "none" else 0.0) == []


@pytest.mark.parametrize("grid", ["none", "dyadic"])
@pytest.mark.parametrize("seed", range(60))
def test_a_loss_system_loses_what_the_naive_replica_loses(seed: int, grid: Any) -> None:
    """Who is taken depends on the blocks in use at the instant of the arrival."""
    script = make_script(seed, grid)
    lossy = replace(script, replica={**script.replica, "queue_max": 0})
    assert differences(lossy, rel=1e-9 if grid == "none" else 0.0) == []


@pytest.mark.parametrize("seed", range(40))
def test_a_share_of_each_prompt_is_cached_as_in_the_naive_replica(seed: int) -> None:
    """It is context without being computed, and held by each request."""
    script = make_script(seed, "dyadic")
    cached = replace(script, replica={**script.replica, "prefix_share": 0.7})
    assert differences(cached, rel=0.0) == []


@pytest.mark.parametrize("scheduling", ["sync", "async"])
@pytest.mark.parametrize("seed", range(40))
def test_a_mixture_of_experts_takes_as_long_as_in_the_naive_replica(
    seed: int, scheduling: str
) -> None:
    """A segment computes as many tokens in each iteration, so its closed form stays exact."""
    script = make_script(seed)
    mixed = replace(
        script.replica["latency_model"], alpha_ms=9.0, experts_ms=7.0, experts_idle=0.75
    )
    changed = {"latency_model": mixed, "scheduling": scheduling}
    assert differences(replace(script, replica={**script.replica, **changed}), rel=1e-9) == []


@pytest.mark.parametrize("tokens_per_step", [1.0, 1.7])
@pytest.mark.parametrize("seed", range(40))
def test_the_host_is_as_busy_as_in_the_naive_replica(seed: int, tokens_per_step: float) -> None:
    """With each request of an iteration once: however many tokens a step adds, whoever prefills,
    and without those that were preempted just before.
    """
    script = make_script(seed)
    model = replace(script.replica["latency_model"], sequence_ms=0.3)
    changed = {
        "latency_model": model,
        "tokens_per_step": tokens_per_step,
        "max_num_batched_tokens": max(2, script.replica["max_num_batched_tokens"]),
    }
    assert differences(replace(script, replica={**script.replica, **changed}), rel=1e-9) == []


@pytest.mark.parametrize("scheduling", ["sync", "async"])
@pytest.mark.parametrize("seed", range(40))
def test_long_prompts_take_as_long_as_in_the_naive_replica(seed: int, scheduling: str) -> None:
    """Each token with each before it, in whatever chunks, from the cache or again after a
    preemption.
    """
    script = make_script(seed)
    model = replace(script.replica["latency_model"], beta_ms=0.2, attention=0.05)
    changed = {"scheduling": scheduling, "prefix_share": 0.4 * (seed % 2)}
    assert (
        differences(
            replace(script, replica={**script.replica, **changed, "latency_model": model}),
            rel=1e-9,
        )
        == []
    )


@pytest.mark.parametrize("seed", range(20))
def test_the_overhead_is_in_what_clients_see_as_in_the_naive_replica(seed: int) -> None:
    """It is in TTFT and E2E, by the same figure, and in no boundary."""
    script = make_script(seed)
    late = replace(script, replica={**script.replica, "overhead_ms": 8.0})
    assert differences(late, rel=1e-9) == []
    assert play_replica(late).ended == play_replica(script).ended


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kv_tokens", "budget"), [(15_300, 8192), (12_500, 8192), (15_300, 100), (41_408, 300)]
)
def test_a_run_of_realistic_size_gives_the_times_of_the_naive_replica(
    kv_tokens: int, budget: int
) -> None:
    """Errors of rounding or of bookkeeping that grow with the length of a run would show here,
    preempting or not.
    """
    rng = Random(kv_tokens + budget)
    events: list[tuple[float, int, str, Any]] = []
    t = 0.0
    for number in range(350):
        t += rng.expovariate(6.1)
        events.append((t, ARRIVAL, "submit", (number, 128, 512)))
    events += [(15.0 * i, SCRAPE, "read", None) for i in range(int(t / 15))]
    replica = {
        "latency_model": LatencyModel(alpha_ms=6.49, beta_ms=0.0219, gamma_ms=4.96e-5),
        "max_batch": 64,
        "max_num_batched_tokens": budget,
        "kv_tokens": kv_tokens,
    }
    script = Script(replica=replica, events=tuple(sorted(events, key=lambda event: event[:2])))
    assert differences(script, rel=1e-9) == []


@pytest.mark.slow
def test_the_scripts_reach_every_corner() -> None:
    """An oracle proves nothing about what its scripts never do."""
    preempting = rejecting_full = rejecting_large = handing_back = losing = requeueing = 0
    for seed in range(120):
        outcome = play_replica(make_script(seed))
        ways = [how for how, _ in outcome.ended.values()]
        preempting += outcome.readings[-1].preemptions > 0
        requeueing += max(outcome.preemptions.values()) > 1
        rejecting_full += "queue_full" in ways
        rejecting_large += "never_fits" in ways
        handing_back += "handed_back" in ways
        losing += "lost" in ways
    assert min(preempting, rejecting_full, rejecting_large, handing_back) >= 10
    assert min(losing, requeueing) >= 5


@pytest.mark.parametrize("seed", range(60))
def test_looking_changes_nothing(seed: int) -> None:
    """If a scrape split a segment, results would depend on the scrape interval in their last
    digits.
    """
    script = make_script(seed)
    unseen = replace(script, events=tuple(event for event in script.events if event[2] != "read"))
    seen, blind = play_replica(script), play_replica(unseen)
    assert seen.ended == blind.ended
    assert seen.order == blind.order
    assert str(seen.first_token_s) == str(blind.first_token_s)
    assert seen.readings[-1] == blind.readings[-1]
