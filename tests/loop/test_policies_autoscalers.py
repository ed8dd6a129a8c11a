"""The baselines as policies: what they make of gauges over time, beside the rules that the
conformance tests hold.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from loop.errors import SpecError
from loop.policies import aibrix, forecasts, keda, make_policy
from loop.policies.hpa_rules import Recommendation
from loop.policies.kpa import samples_of
from loop.policies.ray_serve import NONE_PENDING, Config, decided
from loop.policies.slo import SloPolicy
from loop.ports import Policy
from loop.testing.fakes import pod_view, server_data, server_view, system
from loop.types import Decision, Load, PodView, ServerView, Snapshot, Target
from twin.spec import GaugeSample

BUSY = Load(rate_rpm=600.0, in_tokens=512.0, out_tokens=256.0)

See = Callable[[float, int], ServerView]


def played(policy: Policy, see: See, *, until_s: float, **data: object) -> list[Decision]:
    """Return the decisions of *policy* tick by tick on a world that becomes at once what is asked,
    where *see* tells what is seen at a time with so many replicas.
    """
    state, decisions, replicas = policy.start(), [], see(0.0, 1).wanted
    for number in range(1, int(until_s / policy.tick_s) + 1):
        now_s = number * policy.tick_s
        view = see(now_s, replicas)
        sight = Snapshot(now_s=now_s, servers={view.name: view})
        decision, state = policy.decide(sight, system(**data), state)
        replicas = decision.targets[view.name].replicas
        decisions.append(decision)
    return decisions


def replicas_of(decisions: Sequence[Decision]) -> list[int]:
    """Return what was wanted, decision by decision."""
    return [decision.targets["s1"].replicas for decision in decisions]


def under(in_flight: Callable[[float], int], **fields: object) -> See:
    """Return what is seen of a server with so many requests in flight, spread over its pods."""

    def see(now_s: float, replicas: int) -> ServerView:
        count = in_flight(now_s)
        each = [count // replicas + (i < count % replicas) for i in range(replicas)]
        pods = [pod_view(f"p{i}", running=one, sample_age_s=1.0) for i, one in enumerate(each)]
        shown = {"wanted": replicas, "ready": replicas, "load": BUSY, **fields}
        return server_view(running=count, pods=tuple(pods), sample_age_s=1.0, max_batch=10, **shown)

    return see


def burst(now_s: float) -> int:
    """Return 6 requests, and 60 from 300 s to 400 s."""
    return 60 if 300.0 <= now_s < 400.0 else 6


def test_hpa_goes_up_at_once_and_down_when_the_window_is_over() -> None:
    """Ten times the load is taken in doublings; five minutes without it are waited for."""
    found = replicas_of(played(make_policy("hpa"), under(burst), until_s=900.0))
    assert found[18:23] == [1, 4, 8, 10, 10]
    peak_end = int(400 / 15) - 1
    assert set(found[peak_end : peak_end + 19]) == {10}
    assert found[-1] == 1


def test_hpa_counts_pods_that_load_their_model_for_nothing_on_the_way_up() -> None:
    """It would ask for more each sync while they load, and end with twice of what it needs."""
    pods = [pod_view("a", running=30), pod_view("b", phase="starting", sample_age_s=None)]
    view = server_view(running=30, max_batch=10, wanted=2, ready=1, starting=1, pods=tuple(pods))
    policy = make_policy("hpa", target=1.0)
    decision, _ = policy.decide(
        Snapshot(now_s=15.0, servers={"s1": view}), system(), policy.start()
    )
    # 30 in flight of 10 a pod are three pods; the one that loads counts as an idle one of two.
    assert decision.targets["s1"].replicas == 3


def test_hpa_goes_by_the_sum_where_pods_are_not_told_one_by_one() -> None:
    """A recording keeps no pods: the decisions must not stop there."""
    see = under(burst)
    told = [see(now_s, 2) for now_s in (15.0, 315.0)]
    policy = make_policy("hpa")
    for view in told:
        without = replace(view, pods=(), backlog=0)
        sights = [Snapshot(now_s=15.0, servers={"s1": one}) for one in (view, without)]
        with_pods, blind = (policy.decide(one, system(), policy.start())[0] for one in sights)
        assert with_pods.targets["s1"].replicas == blind.targets["s1"].replicas


def test_hpa_takes_behaviour_as_soon_as_a_part_of_it_is_given() -> None:
    """spec.behavior bounds what a sync adds, and the window holds what is added."""
    slow = make_policy("hpa", scale_up_pods=1, scale_up_period_s=60.0)
    found = replicas_of(played(slow, under(burst), until_s=420.0))
    assert max(after - before for before, after in pairwise(found)) == 1
    assert max(found) == 3


def test_hpa_takes_a_tolerance_for_each_direction() -> None:
    """spec.behavior has one per direction; the other keeps the controller's."""
    view = under(lambda _now_s: 12)(15.0, 2)
    for option, wanted in (("scale_up_tolerance", 3), ("scale_down_tolerance", 2)):
        # 6 in flight a pod are 5 % more than 5.7.
        policy = make_policy("hpa", target=0.57, **{option: 0.01})
        sight = Snapshot(now_s=15.0, servers={"s1": view})
        decision, _ = policy.decide(sight, system(), policy.start())
        assert decision.targets["s1"].replicas == wanted, option


def test_kpa_panics_in_a_burst_and_leaves_with_the_window() -> None:
    """Two seconds of a burst are enough for the short window, and the panic outlives it."""
    decisions = played(make_policy("kpa"), under(burst), until_s=600.0)
    found = replicas_of(decisions)
    at_300, at_306, at_470 = (int(at_s / 2) - 1 for at_s in (300, 306, 470))
    assert found[at_300 - 1] == 1
    assert found[at_306] >= 4
    assert decisions[at_306].targets["s1"].why.kind == "panic"
    assert found[at_470] == 1


def test_kpa_rounds_half_a_second_of_its_short_window_up() -> None:
    """As Go does; Python's round takes the even neighbour, 12 s of 12.5."""
    policy = make_policy("kpa", stable_window_s=125.0)
    view = under(lambda _now_s: 6)(2.0, 1)
    _, state = policy.decide(Snapshot(now_s=2.0, servers={"s1": view}), system(), policy.start())
    assert state["s1"].panic.window_s == 13.0


@pytest.mark.parametrize("interval_s", [0.5, 1.0, 2.0, 15.0])
def test_kpa_reads_the_same_concurrency_however_often_pods_are_sampled(interval_s: float) -> None:
    """A second without a sample counted as one without requests: on a cluster that scrapes every
    15 s a fifteenth of them was seen.
    """

    def see(now_s: float, _replicas: int) -> ServerView:
        taken = [k * interval_s for k in range(1, int(now_s / interval_s) + 1)]
        sampled = {"gauges": tuple(GaugeSample(at_s, 48, 2) for at_s in taken[-120:])}
        latest = {"sample_age_s": now_s - taken[-1] if taken else None}
        told = sampled if interval_s < 1.0 else {}
        return server_view(running=48, backlog=2, load=BUSY, max_batch=10, **told, **latest)

    decision = played(make_policy("kpa"), see, until_s=200.0)[-1].targets["s1"]
    assert decision.replicas == 8
    assert decision.why.details == {"stable": 50.0, "panic": 50.0}


def test_samples_of_the_window_are_taken_once() -> None:
    """A sample that is counted twice would be two."""
    gauges = tuple(GaugeSample(float(at_s), at_s, 0) for at_s in range(1, 6))
    view = server_view(gauges=gauges)
    assert [one.at_s for one in samples_of(view, now_s=6.0, after_s=3.0)] == [4.0, 5.0]
    latest = server_view(running=3, backlog=2, sample_age_s=4.0)
    assert samples_of(latest, now_s=10.0, after_s=5.0) == [GaugeSample(6.0, 3, 2)]
    assert samples_of(latest, now_s=10.0, after_s=6.0) == []


@pytest.mark.parametrize(("interval_s", "ongoing"), [(12.0, 60.0), (50.0, 40.0)])
def test_ray_serve_lets_the_last_gauge_hold_until_now(interval_s: float, ongoing: float) -> None:
    """It counted for one interval of the twin; and gauges that are rarer than the look-back is long
    held the server.
    """

    def see(now_s: float, _replicas: int) -> ServerView:
        age_s = now_s % interval_s or interval_s
        count = 40 if now_s - age_s < 160.0 else 80
        return server_view(running=count, load=BUSY, max_batch=10, sample_age_s=age_s)

    decision = played(make_policy("ray_serve"), see, until_s=180.0)[-1].targets["s1"]
    # Of the last 30 s: of 156 s and of 168 s, or of 150 s only.
    assert decision.why.details == {"ongoing": ongoing}


@pytest.mark.parametrize("seed", range(20))
def test_ray_serve_decides_the_same_every_ten_seconds_as_every_tenth_of_one(seed: int) -> None:
    """Gauges come every 10 s and the delays are multiples of it: the iterations between change
    nothing, and need not be run.
    """
    rng = np.random.default_rng(seed)
    config = Config(target_ongoing_requests=4.0, upscale_delay_s=30.0, downscale_delay_s=60.0)
    demands = [float(rng.choice([0, 3, 9, 30])) for _ in range(60)]

    def run(step: int) -> list[int]:
        replicas, pending, found = 1, NONE_PENDING, list[int]()
        for tick in range(0, 100 * len(demands), step):
            demand = demands[tick // 100]
            replicas, pending = decided(
                demand,
                current=max(replicas, 1),
                target=max(replicas, 1),
                config=config,
                pending=pending,
                now_s=tick / 10,
            )
            if tick % 100 == 0:
                found.append(replicas)
        return found

    assert run(100) == run(1)


def test_ray_serve_waits_for_a_decision_to_last() -> None:
    """A burst that is shorter than the delay moves nothing."""
    for length_s, most in ((10.0, 2), (60.0, 15)):

        def demand(now_s: float, length_s: float = length_s) -> int:
            return 60 if 300.0 <= now_s < 300.0 + length_s else 6

        found = replicas_of(played(make_policy("ray_serve"), under(demand), until_s=600.0))
        assert 2 <= max(found) <= most
        assert (max(found) > 2) == (length_s > 30.0)


def test_keda_takes_a_server_to_zero_after_its_cooldown_and_back_at_a_poll() -> None:
    """Zero is a poll's business: the HPA between knows no zero."""
    scaler = keda.Scaler(cooldown_s=300.0)

    def poll(current: int, seen: keda.Seen, now_s: float, one: keda.Scaler = scaler) -> int:
        return keda.polled(current, seen, one, now_s=now_s)

    idle = keda.Seen(active=False, active_s=100.0)
    assert poll(0, keda.Seen(active=True), 0.0) == 1
    assert poll(3, keda.Seen(active=True), 0.0) == 3
    assert poll(1, idle, 400.0) == 1
    assert poll(1, idle, 401.0) == 0
    assert poll(1, keda.Seen(active=False, failed=True, active_s=0.0), 900.0) == 1
    assert poll(1, idle, 900.0, keda.Scaler(least=1)) == 1
    assert poll(0, idle, 900.0, keda.Scaler(least=2)) == 2
    assert poll(5, idle, 900.0, keda.Scaler(least=2, idle=0)) == 0
    assert poll(0, keda.Seen(active=True), 900.0, keda.Scaler(least=2, idle=0)) == 2
    never = keda.Seen(active=False, created_s=50.0)
    assert poll(1, never, 50.0, keda.Scaler(initial_cooldown_s=10.0)) == 1
    assert poll(1, never, 61.0, keda.Scaler(initial_cooldown_s=10.0)) == 0


def test_keda_falls_back_to_what_is_told_once_the_metric_fails() -> None:
    """The HPA is told a total that comes to the fallback."""
    policy = make_policy("keda", fallback_replicas=4, failure_threshold=3)
    view = server_view(sample_age_s=None, max_batch=10)
    state, found = policy.start(), []
    for number in range(1, 9):
        sight = Snapshot(now_s=15.0 * number, servers={"s1": view})
        decision, state = policy.decide(sight, system(), state)
        found.append(decision.targets["s1"].replicas)
    # Counted is what the HPA is told each 15 s, not the poll of 30 s.
    assert found == [2, 2, 2, 4, 4, 4, 4, 4]
    totals = [
        keda.fallback_total(6.0, replicas=4, current=7, behavior=behavior)
        for behavior in ("static", "current", "current_if_higher", "current_if_lower")
    ]
    assert totals == [24.0, 42.0, 42.0, 24.0]


def test_aibrix_cools_down_the_wrong_way_round_unless_it_is_told_otherwise() -> None:
    """What is implemented takes the lowest of the window on the way down; what is documented keeps
    the highest. On the way up it waits, and goes no lower than what there is: it took replicas away
    while the load rose.
    """
    log = [Recommendation(replicas=count, at_s=0.0) for count in (3, 6)]

    def cooled(proposal: int, mode: aibrix.Mode) -> int:
        return aibrix.cooled(
            proposal,
            current=5,
            recommendations=log,
            now_s=60.0,
            up_s=300.0,
            down_s=300.0,
            mode=mode,
        )

    assert [cooled(4, mode) for mode in ("as_implemented", "as_documented")] == [3, 6]
    assert [cooled(7, mode) for mode in ("as_implemented", "as_documented")] == [7, 5]
    assert cooled(5, "as_implemented") == 5


def test_aibrix_waits_for_the_pods_that_it_asked_for() -> None:
    """The one that is ready stays full, and says so at each resync: the number doubled at each,
    up to the bound. Since September 2026 those that load count for nothing (its PR 2671).
    """

    def full(now_s: float, replicas: int) -> ServerView:
        ready = pod_view("p0", kv_usage=1.0, sample_age_s=1.0)
        late = {"wanted": replicas, "ready": 1, "starting": replicas - 1, "load": BUSY}
        return server_view(pods=(ready,), sample_age_s=1.0, max_batch=10, kv_usage=1.0, **late)

    assert set(
        replicas_of(played(make_policy("aibrix", metric="kv", target=0.5), full, until_s=120.0))
    ) == {2}


@pytest.mark.parametrize("name", ["aibrix", "ray_serve", "keda", "hpa"])
def test_a_bound_of_the_policy_stops_it(name: str) -> None:
    """A server without `maxNumReplicas` would take whatever there is."""
    crowd = under(lambda _now_s: 400)
    found = replicas_of(played(make_policy(name, max_replicas=5), crowd, until_s=300.0))
    assert max(found) == found[-1] == 5


def test_aibrix_goes_by_the_mean_of_its_window() -> None:
    """APA takes the mean of three minutes, as KPA does where it does not panic; it was given the
    gauges of the moment, and followed their noise: 360 changes an hour on a quiet day.
    """

    def waves(now_s: float, replicas: int) -> ServerView:
        usage = 0.9 if round(now_s / 10.0) % 2 else 0.1
        pods = tuple(pod_view(f"p{i}", kv_usage=usage, sample_age_s=1.0) for i in range(replicas))
        seen = {"wanted": replicas, "ready": replicas, "load": BUSY, "kv_usage": usage}
        return server_view(pods=pods, sample_age_s=1.0, max_batch=10, **seen)

    found = replicas_of(
        played(make_policy("aibrix", metric="kv", target=0.5), waves, until_s=600.0)
    )
    assert set(found[30:]) == {found[-1]}


def test_wva_adds_one_at_a_time_and_none_while_one_starts() -> None:
    """It would add one every interval of the start-up."""
    policy = make_policy("wva")
    full = pod_view("a", kv_usage=0.9, waiting=9)
    view = server_view(wanted=1, ready=1, pods=(full,))
    starting = replace(view, pools=(replace(view.pools[0], replicas=2),), starting=1)
    found = [
        policy.decide(Snapshot(now_s=15.0, servers={"s1": one}), system(), policy.start())[0]
        for one in (view, starting)
    ]
    assert replicas_of(found) == [2, 2]


@pytest.mark.parametrize("name", ["aibrix", "wva"])
def test_pods_that_nobody_has_sampled_yet_are_neither_idle_nor_full(name: str) -> None:
    """A router's figures are there before the first of a pod that has just begun: aibrix took two
    of three away for it, and wva asked for a fourth.
    """
    pods = tuple(pod_view(f"p{i}", sample_age_s=None) for i in range(3))
    view = server_view(wanted=3, ready=3, load=BUSY, pods=pods, max_batch=10, sample_age_s=5.0)
    found = replicas_of(played(make_policy(name), lambda *_seen: view, until_s=60.0))
    assert set(found) == {3}


def test_wva_goes_by_the_peak_of_the_last_minute() -> None:
    """The original asks for max_over_time[1m]. By the latest gauges a replica was taken away as
    soon as a queue was gone, and came back with the next.
    """

    def queue(now_s: float, _replicas: int) -> ServerView:
        waits = 9 if now_s <= 15.0 else 0
        pods = tuple(pod_view(name, waiting=waits, sample_age_s=1.0) for name in "abc")
        return server_view(wanted=3, ready=3, load=BUSY, pods=pods)

    assert replicas_of(played(make_policy("wva"), queue, until_s=75.0)) == [4, 4, 4, 4, 2]


def test_dynamo_plans_for_the_expected_requests_and_steps_by_load() -> None:
    """Throughput decides every interval; load moves by one replica, and not while one starts."""
    planner = make_policy("dynamo", predictor="constant")
    heavy = replace(BUSY, rate_rpm=60_000.0)
    found = played(planner, under(burst, load=heavy), until_s=400.0)
    assert replicas_of(found) == [9, 17]
    assert found[0].targets["s1"].why.kind == "step-limit"
    loads = make_policy("dynamo", optimization_target="throughput")
    assert loads.tick_s == 5.0
    pods = tuple(pod_view(f"p{i}", kv_tokens_used=90, queued_prompt_tokens=20) for i in range(2))
    data = system()
    perf = {key: replace(one, kv_tokens=100) for key, one in data.perf.items()}
    view = server_view(pods=pods)
    for seen, replicas in ((view, 3), (replace(view, starting=1), 2)):
        sight = Snapshot(now_s=5.0, servers={"s1": seen})
        decision, _ = loads.decide(sight, replace(data, perf=perf), loads.start())
        assert decision.targets["s1"].replicas == replicas


def test_dynamo_plans_first_when_its_first_interval_is_over() -> None:
    """With load scaling it planned at its first tick, of a traffic of five seconds."""
    policy = make_policy("dynamo", load_scaling=True, predictor="constant")
    see = under(lambda _now_s: 1, load=replace(BUSY, rate_rpm=60_000.0))
    found = replicas_of(played(policy, see, until_s=180.0))
    assert (max(found[:-1]), found[-1]) == (1, 9)
    # A state may be copied, also one that holds nothing yet.
    sight = Snapshot(now_s=5.0, servers={"s1": server_view(max_batch=0, load=BUSY)})
    _, state = policy.decide(sight, system(), policy.start())
    later = Snapshot(now_s=10.0, servers={"s1": see(10.0, 1)})
    decision, _ = policy.decide(later, system(), deepcopy(dict(state)))
    assert decision.targets["s1"].replicas == 1


@pytest.mark.parametrize(
    ("kv_tokens", "wanted", "draining", "replicas"),
    [
        (40, 2, 1, 2),  # what ends is waited for: its load comes to the others
        (40, 3, 0, 1),  # those that are ready have enough to spare, also for one that starts
        (55, 3, 0, 2),  # one less would be full: what starts is not needed, what is ready is
        (90, 3, 0, 3),  # what starts is waited for
        (120, 3, 0, 3),
        (120, 2, 0, 3),
    ],
)
def test_dynamo_by_load_may_call_off_what_starts_and_waits_for_what_ends(
    kv_tokens: int, wanted: int, draining: int, replicas: int
) -> None:
    """It took away one more every 5 s while those before still ended, and called nothing off. As
    the planner itself decides, of the same 20,000 random states.
    """
    data = system()
    perf = {key: replace(one, kv_tokens=100) for key, one in data.perf.items()}
    pods = tuple(pod_view(f"p{i}", kv_tokens_used=kv_tokens) for i in range(2))
    started = {"wanted": wanted, "ready": 2, "starting": wanted - 2, "draining": draining}
    view = server_view(pods=pods, load=BUSY, **started)
    policy = make_policy("dynamo", optimization_target="throughput")
    sight = Snapshot(now_s=5.0, servers={"s1": view})
    decision, _ = policy.decide(sight, replace(data, perf=perf), policy.start())
    assert decision.targets["s1"].replicas == replicas


def test_dynamo_plans_nothing_of_an_interval_of_which_nobody_tells() -> None:
    """It went on asking for what it expected of the intervals before."""
    heavy, unknown = (
        under(lambda _now_s: 1, load=load) for load in (replace(BUSY, rate_rpm=60_000.0), None)
    )
    found = played(
        make_policy("dynamo", predictor="constant"),
        lambda now_s, replicas: (heavy if now_s < 200.0 else unknown)(now_s, replicas),
        until_s=400.0,
    )
    assert replicas_of(found) == [9, 9]


def test_dynamo_estimates_by_load_what_the_next_request_would_meet() -> None:
    """As its planner does: what is cached is not computed, the next request is there, and so are
    the prompts that come between; of what waits the survivors of one less have their part.
    """
    loads = make_policy("dynamo", throughput_scaling=False, load_scaling=True, ttft_ms=30.0)
    pods = tuple(
        pod_view(f"p{i}", running=10, waiting=2, kv_tokens_used=5000, queued_prompt_tokens=1000)
        for i in range(2)
    )
    # 756 of 1,512 tokens with 10 that decode, of 5,000 in the cache: 6.49 + 16.78 + 0.25 ms. One
    # iteration of 11, with 10 tokens of prompts and 5,640 in the cache: 6.49 + 0.46 + 0.28 ms.
    text = "TTFT 24 ms, ITL 7.2 ms estimated at worst"
    # With one less 22 of 35 ms are the queue's: more than 80 % of what 13 ms leave of 30.
    for ttft_ms, replicas in ((30.0, 2), (45.0, 1)):
        view = server_view(pods=pods, load=BUSY, cache_hit_share=0.5, wanted=2, ready=2)
        sight = Snapshot(now_s=5.0, servers={"s1": view})
        decision, _ = replace(loads, ttft_ms=ttft_ms).decide(sight, system(), loads.start())
        assert decision.targets["s1"].replicas == replicas
        assert decision.targets["s1"].why.text == text


def test_dynamo_counts_the_tokens_that_a_step_adds() -> None:
    """Two a step are half the ITL, and nearly twice the requests; they were left out."""
    data = system()
    twice = replace(
        data, perf={key: replace(one, tokens_per_step=2.0) for key, one in data.perf.items()}
    )
    pods = (pod_view(running=10, kv_tokens_used=5000),)
    view = server_view(pods=pods, load=BUSY, wanted=1, ready=1)
    sight = Snapshot(now_s=180.0, servers={"s1": view})
    loads = make_policy("dynamo", throughput_scaling=False, load_scaling=True)
    planner = make_policy("dynamo", predictor="constant")
    texts, rates = [], []
    for known in (data, twice):
        by_load, _ = loads.decide(sight, known, loads.start())
        texts.append(by_load.targets["s1"].why.text)
        planned, _ = planner.decide(sight, known, planner.start())
        rates.append(planned.targets["s1"].why.details["replicaRps"])
    # 20 tokens of prompts come in an iteration of 11, and 40 where two tokens of each go out.
    assert [text.split(", ")[1] for text in texts] == [
        "ITL 7.4 ms estimated at worst",
        "ITL 3.9 ms estimated at worst",
    ]
    assert 1.6 < rates[1] / rates[0] < 2.0


def test_dynamo_tells_at_the_start_that_a_package_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was told in the records only, five intervals later, and the run held what it had."""
    monkeypatch.setitem(sys.modules, "prophet", None)
    with pytest.raises(SpecError, match=r"^predictor prophet: expected the package prophet, found"):
        make_policy("dynamo", predictor="prophet")


def test_dynamo_asks_for_no_more_while_replicas_start() -> None:
    """A target on top of what starts is what scales up twice; less is done at once."""
    planner = make_policy("dynamo", predictor="constant")
    heavy, light = (replace(BUSY, rate_rpm=rate_rpm) for rate_rpm in (60_000.0, 1.0))
    for load, replicas in ((heavy, 4), (light, 1)):
        sight = Snapshot(
            now_s=0.0, servers={"s1": server_view(wanted=4, ready=2, starting=2, load=load)}
        )
        decision, _ = planner.decide(sight, system(), planner.start())
        assert decision.targets["s1"].replicas == replicas


def test_dynamo_keeps_to_limits_that_an_operator_gives() -> None:
    """At a limit something is done, where those that are shipped wait until it is passed."""
    loads = make_policy(
        "dynamo",
        optimization_target="load",
        decode_scale_up_kv_rate=80.0,
        decode_scale_down_kv_rate=30.0,
    )
    data = system()
    perf = {key: replace(one, kv_tokens=100) for key, one in data.perf.items()}
    for used, replicas in ((80, 3), (79, 2), (30, 1), (31, 2)):
        pods = tuple(
            pod_view(f"p{i}", kv_tokens_used=used, queued_prompt_tokens=0) for i in range(2)
        )
        sight = Snapshot(now_s=5.0, servers={"s1": server_view(pods=pods)})
        decision, _ = loads.decide(sight, replace(data, perf=perf), loads.start())
        assert decision.targets["s1"].replicas == replicas
    for options in ({}, {"decode_scale_up_kv_rate": 20.0, "decode_scale_down_kv_rate": 30.0}):
        with pytest.raises(SpecError, match="decode_scale"):
            make_policy("dynamo", optimization_target="load", **options)


def test_predictive_is_ahead_of_slo_while_the_load_rises() -> None:
    """What it is for: the replicas of a minute from now are asked for now."""

    def rising(now_s: float, replicas: int) -> ServerView:
        load = replace(BUSY, rate_rpm=600.0 + 20.0 * now_s)
        return server_view(wanted=replicas, ready=replicas, load=load)

    predictive = make_policy("predictive", headroom=0.0)
    plain = SloPolicy(headroom=0.0, forecasts=False, tick_s=predictive.tick_s)
    runs = [replicas_of(played(policy, rising, until_s=480.0)) for policy in (predictive, plain)]
    pairs = list(zip(*runs, strict=True))
    assert all(early >= late for early, late in pairs)
    assert any(early > late for early, late in pairs)


def test_through_hpa_holds_what_slo_gives_up_for_the_window() -> None:
    """An exported number passes an autoscaler that has a window of its own."""

    def falling(now_s: float, replicas: int) -> ServerView:
        load = replace(BUSY, rate_rpm=5000.0 if now_s < 120.0 else 600.0)
        return server_view(wanted=replicas, ready=replicas, load=load)

    found = replicas_of(played(make_policy("through_hpa"), falling, until_s=900.0))
    high = max(found)
    assert high > 2
    # The first sync has nothing to go by: what is wanted then has yet to be scraped.
    assert found[:2] == [1, 4]
    assert found[int(350 / 15)] == high
    assert found[-1] < high


def test_static_peak_sizes_once() -> None:
    """It is the bound of those who do not scale."""
    nominal = server_data("s1")
    data = {"servers": {"s1": replace(nominal, current=replace(nominal.current, load=BUSY))}}
    found = {
        peak: replicas_of(
            played(make_policy("static_peak", peak=peak), under(burst), until_s=600.0, **data)
        )
        for peak in (1.0, 8.0)
    }
    assert all(len(set(replicas)) == 1 for replicas in found.values())
    assert found[8.0][0] > found[1.0][0]


def test_forecasts_follow_what_they_are_made_for() -> None:
    """A line goes on, a season comes again, a constant stays, and nothing is below zero."""
    line = [10.0 + 5.0 * i for i in range(12)]
    assert forecasts.predicted("arima", line) == pytest.approx(70.0, rel=0.02)
    assert forecasts.predicted("kalman", line) == pytest.approx(70.0, rel=0.1)
    assert forecasts.predicted("constant", line) == 65.0
    assert forecasts.predicted("arima", [50.0, 40.0, 30.0, 20.0, 10.0, 0.0]) == 0.0
    times_s = [60.0 * i for i in range(12)]
    assert forecasts.holt(times_s, line, ahead_s=60.0) == pytest.approx(70.0, rel=0.1)
    wave = [100.0 + 50.0 * np.sin(2 * np.pi * at_s / 360.0) for at_s in times_s]
    expected = forecasts.seasonal(times_s, wave, ahead_s=60.0, season_s=360.0)
    assert expected == pytest.approx(100.0, rel=0.02)
    assert forecasts.seasonal(times_s, wave, ahead_s=60.0, season_s=3600.0) is None
    with pytest.raises(SpecError, match="expected the package prophet"):
        forecasts.predicted("prophet", line)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("hpa", "target", 0),
        ("hpa", "metric", "cpu"),
        ("hpa", "scale_up_select", "Most"),
        ("hpa", "scale_down_tolerance", -0.1),
        ("kpa", "panic_threshold", 0.5),
        ("kpa", "stable_window_s", 0.5),
        ("kpa", "panic_window_share", 1.5),
        ("dynamo", "scale_down_sensitivity", 80),
        ("keda", "max_replicas", 0),
        ("ray_serve", "aggregation", "sum"),
        ("aibrix", "mode", "right"),
        ("wva", "kv_cache_threshold", "x"),
        ("dynamo", "predictor", "oracle"),
        ("dynamo", "load_scaling", 1),
        ("predictive", "forecast", "guess"),
        ("through_hpa", "tolerance", -1.0),
        ("static_peak", "peak", 0.0),
        ("hpa", "target", float("inf")),
        ("slo", "headroom", 1.0),
        ("slo", "prefix_cache_trust", 1.5),
        ("slo", "solver", "oracle"),
    ],
)
def test_an_option_that_cannot_be_is_one_line(name: str, option: str, value: object) -> None:
    """It is said at the start, with what was expected."""
    with pytest.raises(SpecError, match=f"policy {name}: {option}: expected .*, found"):
        make_policy(name, **{option: value})


def test_bounds_of_an_hpa_that_cross_are_one_line() -> None:
    """Kubernetes refuses them; ours took the lower one and said nothing."""
    with pytest.raises(SpecError, match="max_replicas: expected a whole number >= 3, found 2"):
        make_policy("hpa", min_replicas=3, max_replicas=2)


BY_GAUGES = {
    **{name: make_policy(name) for name in ("hpa", "keda", "kpa", "ray_serve", "aibrix", "wva")},
    "dynamo": make_policy("dynamo", throughput_scaling=False, load_scaling=True),
}


@pytest.mark.parametrize("policy", BY_GAUGES.values(), ids=BY_GAUGES)
@pytest.mark.parametrize("seen_one_by_one", [True, False], ids=["pods", "sum"])
def test_a_gauge_that_no_pod_tells_takes_no_replicas_away(
    policy: Policy, seen_one_by_one: bool
) -> None:
    """An engine without this metric seemed idle: busy servers were taken down to one replica. Nor
    does it grow for ever.
    """
    unknown = ("running", "waiting", "kv_usage")
    pods = tuple(pod_view(f"p{i}", unknown_gauges=unknown) for i in range(4))
    blind = server_view(
        wanted=4,
        ready=4,
        load=BUSY,
        unknown_gauges=unknown,
        pods=pods if seen_one_by_one else (),
    )
    decisions = played(policy, lambda _now_s, _replicas: blind, until_s=1200.0)
    assert set(replicas_of(decisions)) == {4}
    why = decisions[-1].targets["s1"].why
    assert why.kind in ("held-unknown", "unchanged") or "not all of its pods tell" in why.text


@pytest.mark.parametrize("name", ["keda", "kpa", "ray_serve"])
def test_what_some_pods_tell_is_enough_for_more(name: str) -> None:
    """The sum over those that tell is the least that there can be."""
    pods = (pod_view("a", running=40), pod_view("b", unknown_gauges=("running", "waiting")))
    view = server_view(
        running=40, max_batch=10, load=BUSY, unknown_gauges=("running", "waiting"), pods=pods
    )
    policy = make_policy(name)
    decisions = played(policy, lambda _now_s, _replicas: view, until_s=8 * policy.tick_s)
    target = decisions[-1].targets["s1"]
    assert target.replicas > 2
    assert "not all of its pods tell running and waiting" in target.why.text


def one_tells_its_cache(_now_s: float, replicas: int) -> ServerView:
    """Return what is seen where one pod is nearly full, and no other tells its KV cache."""
    unknown = ("kv_usage",)
    others = [pod_view(f"p{i}", running=1, unknown_gauges=unknown) for i in range(1, replicas)]
    return server_view(
        wanted=replicas,
        ready=replicas,
        load=BUSY,
        running=39 + replicas,
        kv_usage=0.9,
        replicas_max=30,
        unknown_gauges=unknown if others else (),
        pods=(pod_view("p0", running=40, kv_usage=0.9), *others),
    )


@pytest.mark.parametrize("seen_one_by_one", [True, False], ids=["pods", "sum"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("aibrix", {}),
        ("aibrix", {"algorithm": "kpa"}),
        ("aibrix", {"algorithm": "kpa", "mode": "as_documented"}),
        ("hpa", {"form": "external"}),
        ("keda", {}),
    ],
)
def test_a_full_cache_does_not_speak_for_those_that_nobody_tells(
    name: str, options: dict[str, object], seen_one_by_one: bool
) -> None:
    """Its share times all pods grew with each pod that was added: up to the bound, for good."""

    def see(now_s: float, replicas: int) -> ServerView:
        view = one_tells_its_cache(now_s, replicas)
        return view if seen_one_by_one else replace(view, pods=())

    policy = make_policy(name, metric="kv", target=0.5, **options)
    found = replicas_of(played(policy, see, until_s=600.0))
    # It has 0.9 for 0.5, which is enough for a second one where it is alone.
    assert found[-1] == 2
    for wanted in (2, 4):
        view = see(0.0, wanted)
        decisions = played(policy, lambda _now_s, _replicas, view=view: view, until_s=600.0)
        assert set(replicas_of(decisions)) == {wanted}


BY_SATURATION = {
    "wva": make_policy("wva"),
    "dynamo": make_policy("dynamo", optimization_target="latency"),
}


def next_of(policy: Policy, *pods: PodView) -> Target:
    """Return what *policy* wants of a server with these pods."""
    unknown = {gauge for pod in pods for gauge in pod.unknown_gauges}
    count = len(pods)
    view = server_view(
        wanted=count, ready=count, load=BUSY, unknown_gauges=tuple(sorted(unknown)), pods=pods
    )
    sight, data = Snapshot(now_s=600.0, servers={"s1": view}), system()
    perf = {key: replace(one, kv_tokens=100_000) for key, one in data.perf.items()}
    decision, _ = policy.decide(sight, replace(data, perf=perf), policy.start())
    return decision.targets["s1"]


@pytest.mark.parametrize("policy", BY_SATURATION.values(), ids=BY_SATURATION)
def test_an_engine_without_a_kv_gauge_is_scaled_by_its_queue(policy: Policy) -> None:
    """Some engines never have that gauge: their servers were held with any queue, for good."""
    full = pod_view("p", running=64, waiting=50, unknown_gauges=("kv_usage",))
    idle = pod_view("p", unknown_gauges=("kv_usage",))
    for pod, wanted in ((full, 5), (idle, 4)):
        target = next_of(policy, *(replace(pod, name=f"p{i}") for i in range(4)))
        assert target.replicas == wanted
        assert "not all of its pods tell kv_usage" in target.why.text


@pytest.mark.parametrize(("max_gpus", "more"), [(-1, True), (1, False)])
def test_dynamo_reaches_what_throughput_asks_for_without_a_kv_gauge(
    max_gpus: int, more: bool
) -> None:
    """Its engines seemed to have room to spare, and were held below that for good. A budget that is
    exceeded takes none of them away.
    """

    def see(now_s: float, replicas: int) -> ServerView:
        unknown = ("kv_usage",)
        count = replicas if now_s else 2
        pods = tuple(pod_view(f"p{i}", running=1, unknown_gauges=unknown) for i in range(count))
        return server_view(
            wanted=count,
            ready=count,
            load=replace(BUSY, rate_rpm=20_000.0),
            unknown_gauges=unknown,
            pods=pods,
        )

    policy = make_policy("dynamo", load_scaling=True, predictor="constant", max_gpus=max_gpus)
    decisions = played(policy, see, until_s=200.0)
    assert min(replicas_of(decisions)) >= 2
    assert (max(replicas_of(decisions)) > 2) is more
    assert decisions[-1].targets["s1"].why.kind == "held-unknown"


def test_wva_goes_by_the_pods_that_tell_where_these_are_most() -> None:
    """One silent pod of four held three full ones; and one full pod among silent ones must not ask
    for more for good.
    """
    policy = make_policy("wva")
    silent = pod_view("s", unknown_gauges=("running", "waiting", "kv_usage"))
    full, idle = pod_view("f", kv_usage=0.99, waiting=50), pod_view("i")

    def wanted(*pods: PodView) -> int:
        named = (replace(pod, name=f"p{i}") for i, pod in enumerate(pods))
        return next_of(policy, *named).replicas

    assert wanted(full, full, full, silent) == 5
    assert wanted(full, full, silent, silent) == 4
    assert wanted(idle, idle, idle, silent) == 4
    assert wanted(idle, idle, idle, idle) == 3
    no_cache = replace(idle, unknown_gauges=("kv_usage",))
    assert wanted(full, no_cache, no_cache, no_cache) == 4


def test_aibrix_takes_no_more_away_for_what_it_made_of_silent_pods() -> None:
    """The cooldown chose the number that had seemed to be enough while half of the pods told
    nothing: 5 of 10, where 9 were wanted.
    """

    def see(now_s: float, replicas: int) -> ServerView:
        count = replicas if now_s else 10
        silent, kv = (count // 2, 0.5) if now_s < 40.0 else (0, 0.44)
        told = [pod_view(f"p{i}", kv_usage=kv) for i in range(silent, count)]
        others = [pod_view(f"p{i}", unknown_gauges=("kv_usage",)) for i in range(silent)]
        return server_view(
            wanted=count,
            ready=count,
            load=BUSY,
            unknown_gauges=("kv_usage",) if silent else (),
            pods=(*others, *told),
        )

    assert replicas_of(
        played(make_policy("aibrix", metric="kv", target=0.5), see, until_s=40.0)
    ) == [10, 10, 10, 9]


@pytest.mark.parametrize("name", ["keda", "kpa"])
def test_a_server_whose_running_requests_nobody_tells_is_not_known_to_be_idle(name: str) -> None:
    """Its last replica was ended under the answers in it."""
    idle = replace(BUSY, rate_rpm=0.0)
    view = server_view(wanted=1, ready=1, load=idle, unknown_gauges=("running",))
    decisions = played(make_policy(name), lambda _now_s, _replicas: view, until_s=1200.0)
    assert set(replicas_of(decisions)) == {1}
