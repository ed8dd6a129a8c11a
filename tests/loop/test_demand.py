"""What a server is sized for: the future of its load, what waits, and a margin by its worth."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from loop.policies.slo.demand import (
    TWICE,
    Asked,
    Demand,
    Horizon,
    Memory,
    demanded,
    remember,
    waiting_rpm,
)
from loop.policies.slo.forecast import Forecast
from loop.policies.slo.worth import QUANTILE_MAX, QUANTILE_MIN, UNSURE_MORE, Worth
from loop.testing.fakes import server_view
from loop.types import Latest, Load, ServerView

LOAD = Load(rate_rpm=600.0, in_tokens=500.0, out_tokens=100.0)
WORTH = Worth(replica_cents_per_h=200.0, met_cents=0.5)
HORIZON = Horizon(lead_s=120.0, start_up_s=60.0, window_s=60.0, down_s=120.0, drain_s=120.0)


def follow(*views: ServerView, horizon: Horizon = HORIZON, worth: Worth = WORTH) -> list[Demand]:
    """Return what each of *views*, half a minute apart, is to be sized for."""
    memory, made = Memory(replica_rpm=100.0), []
    for step, view in enumerate(views):
        assert view.load is not None
        now_s = 30.0 * step
        memory = remembered(memory, view, now_s=now_s)
        asked = {view.name: Asked(view, view.load, worth, horizon)}
        found, after = demanded({view.name: memory}, asked, now_s=now_s)
        memory = after[view.name]
        made.append(found[view.name])
    return made


def remembered(memory: Memory, view: ServerView, *, now_s: float) -> Memory:
    """Return what is remembered of one server."""
    (found,) = remember(
        {view.name: memory}, {view.name: view}, {}, now_s=now_s, window_s=HORIZON.window_s
    ).values()
    return found


def at(rate_rpm: float, **fields: float) -> ServerView:
    """Return the view of a server with so many requests a minute, and pods for them."""
    return server_view(wanted=20, load=replace(LOAD, rate_rpm=rate_rpm), **fields)


def test_a_steady_load_is_sized_for_with_a_small_margin() -> None:
    """At most by one replica: there is nothing to be careful of but what nobody has seen yet."""
    last = follow(*[at(600.0)] * 60)[-1]
    assert 600.0 <= last.load.rate_rpm <= 700.0
    assert last.least.rate_rpm == pytest.approx(600.0)


def test_a_rising_load_is_sized_for_where_it_will_be() -> None:
    """Pods that are asked for now meet the load of then."""
    last = follow(*[at(600.0)] * 20, *[at(600.0 + 60.0 * step) for step in range(10)])[-1]
    assert last.load.rate_rpm > 1140.0 + 120.0


@pytest.mark.parametrize(("itl_ms", "felt_rpm"), [(10.0, 800.0), (2400.0, 600.0)])
def test_a_load_is_felt_over_as_long_as_its_requests_are_in_flight(
    itl_ms: float, felt_rpm: float
) -> None:
    """Of a load that goes up and down every two minutes, requests that run for four never feel what
    it goes up to, and those of a second always do.
    """
    up_and_down = [at(rate, itl_ms=itl_ms) for rate in ([400.0] * 4 + [800.0] * 4) * 8]
    middles = [one.least.rate_rpm for one in follow(*up_and_down)[-32:]]
    assert middles == pytest.approx([felt_rpm] * len(middles), rel=0.1)


def test_how_long_requests_run_is_a_mean_of_what_is_known() -> None:
    """One pod that hung for a minute made slo look ten minutes back for half an hour."""
    memory, seen = Memory(), [None, None, 50.0, 1e6, *[50.0] * 3, None, math.inf]
    for step, itl_ms in enumerate(seen):
        memory = remembered(memory, at(600.0, itl_ms=itl_ms), now_s=30.0 * step)
        assert memory.runs_s < HORIZON.window_s
    assert memory.runs_s > 5.0


def test_a_load_that_begins_is_felt_as_it_comes() -> None:
    """However long its requests run: of the time before there is nothing in flight to come."""
    slow = {"itl_ms": 2400.0}
    made = follow(*[at(5.0, **slow)] * 20, at(300.0, **slow), *[at(600.0, **slow)] * 6)
    assert [one.least.rate_rpm for one in made[-5:]] == pytest.approx([600.0] * 5, rel=0.02)


def test_requests_in_flight_tell_of_a_jump_that_the_window_does_not_show_yet() -> None:
    """The rate of a window tells it half a minute later, and pods take their time anyway."""
    told = {"ready": 20, "itl_ms": 48.0, "ttft_ms": 200.0}  # 5 s in flight, fifty at a time
    calm = [at(600.0, running=50, **told)] * 20
    before, after = follow(*calm, at(600.0, running=90, **told))[-2:]
    assert before.least.rate_rpm == pytest.approx(600.0, rel=0.05)
    assert after.least.rate_rpm == pytest.approx(1080.0)
    assert after.load.rate_rpm >= 1080.0


def test_a_load_that_jumped_far_is_no_burst_while_it_stays() -> None:
    """To its forecast seven times as much is a burst, which is over before pods are ready, until it
    has seen it for minutes.
    """
    rng = np.random.default_rng(3)
    calm = [(rate, rate) for rate in 100.0 * rng.uniform(0.6, 1.4, 40)]
    up = [(rate, 700.0) for rate in (250.0, 550.0, 700.0, 700.0, 700.0)]
    few = server_view(wanted=2)  # what serves the load now is asked for in any case
    views = [
        replace(few, load=replace(LOAD, rate_rpm=rate), latest=Latest(lately, 15.0))
        for rate, lately in [*calm, *up]
    ]
    least = [one.least.rate_rpm for one in follow(*views)][-len(up) :]
    assert all(each >= rate for each, (rate, _) in zip(least, up, strict=True))


@pytest.mark.parametrize(
    ("ready", "ahead_rpm"),
    [
        pytest.param(10, 242.0, id="340 a minute beyond what pods can do, drained in 1.4"),
        pytest.param(2, 200.0, id="no more than these pods can do"),
        pytest.param(20, 0.0, id="pods that can do it all"),
        pytest.param(0, 0.0, id="nobody knows what none can do"),
    ],
)
def test_what_will_wait_until_pods_are_ready_is_foreseen_of_a_jump(
    ready: int, ahead_rpm: float
) -> None:
    """Pods that are asked for when it waits come a start-up later, and it waits for that long."""
    few = server_view(wanted=6, ready=ready)
    views = [
        replace(few, load=replace(LOAD, rate_rpm=rate), latest=Latest(lately, 15.0))
        for rate, lately in [(600.0, 600.0)] * 20 + [(900.0, 1200.0)]
    ]
    last = follow(*views)[-1]
    assert last.coming.rate_rpm == pytest.approx(1200.0)
    # 300 requests in a quarter of a minute: it may be as many more as that counts wrong.
    waits_rpm = last.least.rate_rpm - last.coming.rate_rpm
    assert waits_rpm == pytest.approx(ahead_rpm, abs=5.0)
    assert last.load.rate_rpm >= 1338.0 + waits_rpm
    assert follow(*views[:-1])[-1].least.rate_rpm == pytest.approx(600.0)


def test_a_jump_before_a_gap_says_nothing_after_it() -> None:
    """Nor do surprises count on: what is seen then is the first of its kind."""
    told = {"ready": 20, "itl_ms": 48.0, "ttft_ms": 200.0}
    memory = Memory(replica_rpm=100.0)
    for step, running in enumerate([50] * 20 + [90]):
        memory = remembered(memory, at(600.0, running=running, **told), now_s=30.0 * step)
    assert memory.spread.jump > 1.0
    memory = remembered(memory, server_view(load=None), now_s=630.0)
    assert (memory.spread.jump, memory.spread.surprises) == (1.0, 0)


def test_a_demand_stays_for_down_s() -> None:
    """Pods that end now would be missed if the load came back before others are ready."""
    falls = [at(600.0)] * 10 + [at(60.0)] * 10
    held = [found.load.rate_rpm for found in follow(*falls)]
    assert min(held[:13]) >= 600.0
    gone = [found.load.rate_rpm for found in follow(*falls, horizon=replace(HORIZON, down_s=30.0))]
    assert gone[12] < held[12]


def test_what_was_asked_for_before_keeps_what_is_there_and_gets_no_more() -> None:
    """Where GPUs were short it was asked for in vain. They are free once the load has gone."""
    busy, quiet = (
        server_view(wanted=6, load=replace(LOAD, rate_rpm=rate_rpm)) for rate_rpm in (1200.0, 60.0)
    )
    waves = [*[busy] * 4, *[quiet] * 4] * 5  # which come back, so that demands are held
    horizon = replace(HORIZON, down_s=600.0)
    rates = [found.load.rate_rpm for found in follow(*waves, *[quiet] * 12, horizon=horizon)]
    assert rates[35:41] == pytest.approx([1200.0] * 6)
    assert rates[41:45] == pytest.approx([600.0] * 4)
    assert max(rates[45:]) < 100.0


@pytest.mark.parametrize(
    ("deviation_rpm", "least", "most"),
    [pytest.param(60.0, 0, 10, id="varies a little"), pytest.param(300.0, 25, 39, id="in bursts")],
)
def test_what_varies_a_little_is_followed_and_bursts_are_held(
    deviation_rpm: float, least: int, most: int
) -> None:
    """To hold for a few per cent more costs more than to ask for the pods again."""
    rng = np.random.default_rng(7)
    views = [at(max(0.0, float(rate))) for rate in rng.normal(600.0, deviation_rpm, 60)]
    horizon = replace(HORIZON, down_s=300.0)
    rates = [found.load.rate_rpm for found in follow(*views, horizon=horizon)][20:]
    same = sum(rate == before for before, rate in pairwise(rates))
    assert least <= same <= most


def test_a_demand_in_bursts_stays_though_the_load_has_gone() -> None:
    """It goes up and down at random: what was there a moment ago may be there in another."""
    rng = np.random.default_rng(6)
    wild = [at(max(0.0, float(rate))) for rate in rng.normal(600.0, 250.0, 60)]
    horizon = replace(HORIZON, down_s=300.0)
    rates = [found.load.rate_rpm for found in follow(*wild, *[at(300.0)] * 8, horizon=horizon)]
    assert min(rates[60:65]) >= 800.0
    sure = follow(*[at(600.0)] * 60, *[at(300.0)] * 8, horizon=horizon)
    assert sure[64].load.rate_rpm < 700.0


@pytest.mark.parametrize("backlog", [0, 60, 1200])
def test_what_waits_is_added_and_never_part_of_the_margin(backlog: int) -> None:
    """It is there already: a class that gives up its margin still drains its queue."""
    last = follow(*[at(600.0, backlog=backlog)] * 20)[-1]
    assert last.least.rate_rpm == pytest.approx(600.0 + backlog / 2.0)
    assert last.load.rate_rpm >= last.least.rate_rpm


@pytest.mark.parametrize("replica_rpm", [0.0, 100.0])
def test_what_waits_in_pods_counts_for_no_more_than_these_can_do(replica_rpm: float) -> None:
    """New pods take what comes, never what is in others: at the start of a loop over pods with a
    queue of minutes 17 were asked for where three are of use.
    """
    busy = server_view(ready=1, waiting=1000, backlog=1000, completions_rpm=40.0)
    assert waiting_rpm(busy, drain_s=60.0, replica_rpm=replica_rpm) == max(40.0, replica_rpm)
    outside = replace(busy, backlog=1500)
    assert waiting_rpm(outside, drain_s=60.0) == 500.0 + 40.0
    assert waiting_rpm(replace(busy, waiting=10, backlog=10), drain_s=60.0) == 10.0
    assert waiting_rpm(replace(busy, completions_rpm=None), drain_s=60.0) == 1000.0


def test_a_queue_counts_for_the_pods_that_have_it() -> None:
    """One pod was flooded before the others were there: once forty of these stood idle beside it
    for half an hour, as many as would have drained its queue.
    """
    view = server_view(wanted=40, ready=40, waiting=900, backlog=900, waiting_pods=1)
    assert waiting_rpm(view, drain_s=60.0, replica_rpm=10.0) == TWICE * 10.0
    # Queues everywhere are everybody's; a short one is soon over; and nobody may tell.
    assert waiting_rpm(replace(view, waiting_pods=40), drain_s=60.0, replica_rpm=10.0) == 400.0
    few = replace(view, waiting=7, backlog=7)
    assert waiting_rpm(few, drain_s=60.0, replica_rpm=10.0) == 7.0
    assert waiting_rpm(replace(view, waiting_pods=None), drain_s=60.0, replica_rpm=10.0) == 400.0


def test_tokens_are_means_over_requests() -> None:
    """What ends in a quiet window are the longest answers of the busy one before it."""
    busy = server_view(load=Load(rate_rpm=600.0, in_tokens=500.0, out_tokens=100.0))
    quiet = server_view(load=Load(rate_rpm=6.0, in_tokens=500.0, out_tokens=2000.0))
    found = follow(*[busy, quiet] * 10)[-1].load
    assert 100.0 < found.out_tokens < 130.0


def test_nothing_is_learnt_from_a_load_that_is_not_known() -> None:
    """It is no zero; only since when it is not known is remembered."""
    memory = remembered(Memory(), at(600.0), now_s=0.0)
    found = remembered(memory, server_view(load=None), now_s=30.0)
    assert found == replace(memory, unknown_s=30.0)
    assert remembered(found, server_view(load=None), now_s=60.0) == found


@pytest.mark.parametrize("spread", [0.05, 0.5, 3.0])
def test_a_margin_is_what_its_misses_would_cost(spread: float) -> None:
    """Dear requests and cheap replicas are reasons for more of them; the middle is always there."""
    futures = np.linspace(600.0, 600.0 * (1.0 + spread), 41)
    found = Forecast(futures=futures, method="filters", now=600.0)
    rates = [
        Worth(replica_cents_per_h=200.0, met_cents=met).rate_rpm(found, replica_rpm=100.0)
        for met in (0.0, 0.01, 0.1, 1.0, 100.0)
    ]
    assert rates == sorted(rates)
    assert rates[0] >= found.middle
    assert rates[-1] > futures[-1] / 1.3 - 100.0
    more = 1.0 + UNSURE_MORE * found.unsure
    assert rates[-1] - found.middle <= more * (futures[-1] + 100.0 - found.middle)
    dear = Worth(replica_cents_per_h=2000.0, met_cents=1.0).rate_rpm(found, replica_rpm=100.0)
    assert dear <= rates[3]


def test_a_load_that_nobody_knows_gets_more_of_what_it_may_be() -> None:
    """Where it has gone it stays, so that a queue grows until further pods are ready."""
    worth = Worth(replica_cents_per_h=200.0, met_cents=1.0)
    rates, able = np.array([1000.0, 1100.0, 1160.0]), np.array([1000.0])
    missed = [worth.missed_rpm(rates, able, unsure=each) for each in (0.0, 0.5, 1.0)]
    assert all(one[0] == 0.0 for one in missed)
    assert missed[0][1] < missed[1][1] < missed[2][1] < 1100.0
    assert missed[0][2] < missed[1][2] < missed[2][2] == 1160.0
    futures = np.linspace(900.0, 1250.0, 41)  # close together: only its moves make it unsure
    found = [
        worth.rate_rpm(
            Forecast(futures=futures, method="filters", now=1000.0, wild=wild, bursts=bursts),
            replica_rpm=20.0,
        )
        for wild, bursts in ((0.0, 0.0), (0.5, 0.3), (0.5, 0.0))
    ]
    # A burst is over before; a load that strays may go further than it ever did.
    assert found[0] < found[1] < futures[-1] < found[2]


def test_many_replicas_have_more_of_the_margin_that_pays() -> None:
    """A few are seldom just full; of many, whole replicas leave next to nothing over."""
    futures = np.linspace(600.0, 1200.0, 41)
    found = Forecast(futures=futures, method="filters", now=900.0)
    margins = [
        Worth(replica_cents_per_h=200.0 / each, met_cents=100.0).rate_rpm(
            found, replica_rpm=900.0 / each
        )
        - found.middle
        for each in (3, 10, 40)
    ]
    assert 0.0 < margins[0] < margins[1] < margins[2]
    assert found.middle + margins[2] <= futures[-1]


def test_the_quantile_is_the_critical_ratio_within_bounds() -> None:
    """A replica at 200 cents an hour that saves 60 requests a minute at a cent each."""
    assert Worth(replica_cents_per_h=200.0, met_cents=1.0).quantile(60.0) == pytest.approx(
        1.0 - 200.0 / 3600.0
    )
    assert Worth(replica_cents_per_h=200.0, met_cents=0.0).quantile(60.0) == QUANTILE_MIN
    assert Worth(replica_cents_per_h=0.0, met_cents=1.0).quantile(60.0) == QUANTILE_MAX


def test_bursts_by_the_clock_have_no_margin_for_what_varies_within_a_window() -> None:
    """They begin somewhere within one, which is no burst within it; so they cost a seventh more."""
    waves = [2000.0 if step % 20 < 4 else 500.0 for step in range(200)]
    told = {"ready": 40, "itl_ms": 48.0, "ttft_ms": 200.0}  # 5 s in flight
    plain = [at(rate, running=round(rate / 12.0), **told) for rate in waves]
    off = [
        at(rate, running=round(rate / 12.0 * (0.5 + step % 2)), **told)
        for step, rate in enumerate(waves)
    ]
    calm, restless = (follow(*views)[-1] for views in (plain, off))
    assert calm.forecast.method == restless.forecast.method == "season"
    assert restless.load.rate_rpm == pytest.approx(calm.load.rate_rpm, rel=0.02)
