"""Who is served where GPUs are short: as much as can be, by brute force."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest

from loop.optimizer.front import optimize
from loop.policies.slo import SloPolicy
from loop.policies.slo.ask import Asking
from loop.policies.slo.case import Case, Sizing, make_case
from loop.policies.slo.shares import _options, share_out
from loop.policies.slo.worth import in_time_share, met_share
from loop.spec import SystemData
from loop.testing.fakes import server_data, server_view, system
from loop.types import CapacityView, Load, ServerView, Snapshot
from tests.parts import first

SIZING = Sizing(
    compat=False,
    forecasts=False,
    percentile=None,
    tick_s=30.0,
    down_s=300.0,
    drain_s=0.0,
    prefix_cache_trust=0.0,
)


def scarce(rng: np.random.Generator, policy: str) -> tuple[Case, SystemData, Asking]:
    """Return a case of three servers and too few GPUs for them."""
    classes = rng.choice(["Premium", "Free"], size=3)
    views = {
        f"s{k}": server_view(
            f"s{k}",
            service_class=str(name),
            load=Load(
                rate_rpm=float(rng.uniform(600.0, 4000.0)), in_tokens=512.0, out_tokens=256.0
            ),
            accelerator=str(rng.choice(["H100", "2xA100"])),
            load_source="labels",
        )
        for k, name in enumerate(classes)
    }
    data = system(servers={name: server_data(name) for name in views})
    data = replace(data, optimizer=replace(data.optimizer, saturation_policy=policy))
    gpus = {
        kind: CapacityView(type=kind, total=int(rng.integers(1, 5)), used=0)
        for kind in ("H100", "A100")
    }
    seen = Snapshot(now_s=600.0, servers=views, capacity=gpus, window_s=60.0)
    ask, settings = partial(optimize), SloPolicy()._settings()
    case = make_case(seen, data, {}, asked={}, sizing=SIZING, ask=ask, settings=settings)
    asking = Asking(ask=ask, plain=ask, settings=settings, held={}, woken={})
    return case, asking.rest(case.sized(drains=False), {}), asking


@pytest.mark.parametrize("policy", ["RoundRobin", "PriorityRoundRobin"])
@pytest.mark.parametrize("seed", first(1, range(6)))
def test_as_much_is_met_as_can_be_class_by_class(seed: int, policy: str) -> None:
    """All numbers of replicas of all servers on all accelerators are tried."""
    case, coming, asking = scarce(np.random.default_rng(seed), policy)
    options, _ = _options(case, coming, asking=asking)
    names = sorted(options)

    def level(name: str) -> int:
        priority = case.data.priority(case.snapshot.servers[name].service_class)
        return 0 if policy == "RoundRobin" else priority

    best: tuple[float, ...] = ()
    for choice in product(*([None, *options[name]] for name in names)):
        used = dict.fromkeys(coming.capacity, 0)
        for one in choice:
            if one is not None:
                used[one.kind] += one.count
        if any(used[kind] > coming.capacity[kind] for kind in used):
            continue
        met = dict.fromkeys(sorted({level(name) for name in names}), 0.0)
        for name, one in zip(names, choice, strict=True):
            met[level(name)] += 0.0 if one is None else one.met
        best = max(best, tuple(met.values()))
    shares = share_out(case, coming, asking=asking)
    found = dict.fromkeys(sorted({level(name) for name in names}), 0.0)
    for name in names:
        if name in shares.left_out:
            continue
        load = coming.servers[name].current.load
        assert load is not None
        served_rpm = shares.rates_rpm.get(name, load.rate_rpm)
        moves = name in shares.movers
        here = coming.servers[name].current.accelerator
        found[level(name)] += max(
            one.met
            for one in options[name]
            if (one.accelerator != here) == moves
            and min(one.rate_rpm, load.rate_rpm) == pytest.approx(served_rpm, rel=1e-3)
        )
    for got, most in zip(found.values(), best, strict=True):
        assert got >= most - 2e-3 * abs(most) - 1.0


def decided(
    *views: ServerView, capacity: dict[str, int], data: SystemData | None = None
) -> dict[str, tuple[str, int]]:
    """Return what each of *views*, whose loads labels tell, gets of so many GPUs, in parts."""
    data = data or system()
    parts = replace(data.optimizer, saturation_policy="PriorityRoundRobin")
    gpus = {kind: CapacityView(type=kind, total=n, used=0) for kind, n in capacity.items()}
    told = {view.name: replace(view, load_source="labels") for view in views}
    policy = SloPolicy()
    decision, _ = policy.decide(
        Snapshot(now_s=60.0, servers=told, capacity=gpus, window_s=60.0),
        replace(data, optimizer=parts),
        policy.start(),
    )
    return {name: (one.accelerator, one.replicas) for name, one in decision.targets.items()}


@pytest.mark.parametrize("more", [False, True])
def test_who_gets_nothing_takes_nothing_from_the_others(more: bool) -> None:
    """Two share all GPUs, whether a third of a lower class asks for some or not."""
    load = Load(rate_rpm=9080.0, in_tokens=512.0, out_tokens=256.0)
    views = [
        server_view(name, load=load, wanted=10, ready=10, service_class="Premium")
        for name in ("a", "b")
    ]
    if more:
        low = replace(load, rate_rpm=6000.0)
        views.append(server_view("z", load=low, wanted=0, ready=0, service_class="Free"))
    found = decided(*views, capacity={"H100": 20, "A100": 0})
    assert (found["a"], found["b"]) == (("H100", 10), ("H100", 10))


@pytest.mark.parametrize("unlimited", [False, True])
def test_who_cannot_be_put_on_more_gpus_takes_none_from_the_others(unlimited: bool) -> None:
    """It is not for want of GPUs: without a bound nobody looks at how many there are, and a server
    of next to no load keeps its replica though it brings less than that costs.
    """
    load, data = Load(rate_rpm=6000.0, in_tokens=512.0, out_tokens=256.0), system()
    dear = {name: replace(one, cost_cents_per_h=3200.0) for name, one in data.accelerators.items()}
    found = decided(
        server_view("a", load=load, wanted=2, ready=2, gpus_reachable={"H100": 2}),
        server_view("z", load=load, wanted=7, ready=7),
        server_view("rare", load=replace(load, rate_rpm=0.1), service_class="Free", wanted=1),
        capacity={"H100": 4 if unlimited else 10, "A100": 0},
        data=replace(
            data, accelerators=dear, optimizer=replace(data.optimizer, unlimited=unlimited)
        ),
    )
    assert found == {"a": ("H100", 2), "z": ("H100", 7), "rare": ("H100", 1)}


def test_who_is_far_beyond_what_it_can_have_stands_behind_who_can_be_served() -> None:
    """A little too much is borne by some requests, much too much by all: then nothing is met with
    any number of replicas, and the GPUs serve others.
    """
    shares = [met_share(rate_rpm, 1000.0) for rate_rpm in (900.0, 1100.0, 1200.0, 1400.0)]
    assert shares == sorted(shares, reverse=True)
    assert (shares[0], shares[-1]) == (1.0, 0.0)
    assert met_share(1400.0, 1000.0, easy=2.0) > 0.5


@pytest.mark.parametrize("queued", ["a", "z"])
def test_a_long_queue_stands_behind_what_can_still_be_in_time(queued: str) -> None:
    """All that comes behind a queue is late until it is drained: replicas for half of two servers
    with queues meet nothing.
    """
    load = Load(rate_rpm=4000.0, in_tokens=512.0, out_tokens=256.0)
    views = {
        name: server_view(
            name, load=load, backlog=30_000 if name == queued else 0, load_source="labels"
        )
        for name in ("a", "z")
    }
    data = system(servers={name: server_data(name) for name in views})
    data = replace(data, optimizer=replace(data.optimizer, saturation_policy="PriorityRoundRobin"))
    whole = {"H100": CapacityView(type="H100", total=5, used=0)}
    seen = Snapshot(now_s=600.0, servers=views, capacity=whole, window_s=60.0)
    ask, settings = partial(optimize), SloPolicy()._settings()
    case = make_case(seen, data, {}, asked={}, sizing=SIZING, ask=ask, settings=settings)
    asking = Asking(ask=ask, plain=ask, settings=settings, held={}, woken={})
    shares = share_out(case, asking.rest(case.sized(drains=False), {}), asking=asking)
    assert shares.rates_rpm.keys() | shares.left_out.keys() == {queued}


def test_a_queue_that_is_drained_in_a_third_of_the_time_leaves_two_thirds_in_time() -> None:
    """Nothing that waits costs nothing, and what nothing drains makes all late."""
    assert in_time_share(100.0, 10.0, within_s=1800.0) == pytest.approx(2.0 / 3.0)
    assert in_time_share(0.0, -10.0, within_s=1800.0) == 1.0
    assert in_time_share(1.0, 0.0, within_s=1800.0) == 0.0
    assert in_time_share(1000.0, 10.0, within_s=1800.0) == 0.0
