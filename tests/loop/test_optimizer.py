"""The front of the optimizer: partial answers, held servers, hysteresis, best effort, and the
reasons of it all.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loop.optimizer.front import OptimizerSettings, SizingCache, Solution, optimize
from loop.optimizer.rules import Rules
from loop.optimizer.rules.go_today import GO_TODAY
from loop.optimizer.rules.ours import OURS
from loop.schema.reading import read_system
from loop.spec import Allocation, ServerData, SystemData
from loop.types import Load
from tests.loop.small_systems import CAPACITIES, server, several_servers, small_system

PLAIN = OptimizerSettings(rules=OURS, solver="greedy", hysteresis=0.0)
EXACT = OptimizerSettings(rules=OURS, solver="exact", hysteresis=0.0)


def gpus(data: SystemData, solution: Solution) -> dict[str, int]:
    """Return the GPUs that *solution* holds by type."""
    used: dict[str, int] = {}
    for found in solution.allocations.values():
        for pool in found.pools:
            if pool.accelerator:
                unit = data.accelerators[pool.accelerator]
                used[unit.type] = used.get(unit.type, 0) + unit.multiplicity * pool.replicas
    return used


@pytest.mark.costly
@pytest.mark.parametrize("rules", [OURS, GO_TODAY])
def test_what_was_asked_before_changes_no_answer(rules: Rules) -> None:
    """What is remembered saves time only, whatever came before, and in whatever order."""
    large = read_system(Path("benchmarks/data/large"))
    names = list(large.servers)
    how = OptimizerSettings(rules=rules, headroom=0.05)
    cache, rng = SizingCache(), np.random.default_rng(3)
    asked = [large]
    # Of few that move only these are sized, and explained.
    for most in (len(names), len(names), 3, 2, 1):
        before = asked[int(rng.integers(len(asked)))] if most > 3 else asked[-1]
        some = rng.permutation(names)[: int(rng.integers(1, most + 1))]
        asked.append(replace(before, servers={name: moved(before, name, rng) for name in some}))
    for data in [*asked, large]:
        assert optimize(data, how, cache=cache) == optimize(data, how)


@pytest.mark.costly
@settings(max_examples=10)
@given(servers=several_servers(most=3), data=st.data())
def test_who_stays_gets_the_same_if_it_was_asked_before_where_it_would_go(
    servers: list[ServerData], data: st.DataObject
) -> None:
    """What was found of all as they could move says what is found where some stay."""
    room = data.draw(st.sampled_from([8, 100]))
    free = small_system(*servers, capacity=dict.fromkeys(("H100", "A100", "L4"), room))
    there = [one.name for one in servers if one.current.accelerator] or list(free.servers)
    stay = data.draw(st.sets(st.sampled_from(there), min_size=1))
    kept = {name: replace(one, keep_accelerator=name in stay) for name, one in free.servers.items()}
    cache, bare = SizingCache(), replace(EXACT, figures=False)
    optimize(free, bare, cache=cache)
    for how in (bare, EXACT):
        asked = replace(free, servers=kept)
        assert optimize(asked, how, cache=cache) == optimize(asked, how)


def moved(data: SystemData, name: str, rng: np.random.Generator) -> ServerData:
    """Return a server of *data*, or the first one, with another rate, or other tokens too."""
    found = data.servers.get(name) or next(iter(data.servers.values()))
    load = found.current.load
    assert load is not None
    load = replace(
        load,
        rate_rpm=load.rate_rpm * rng.uniform(0.9, 1.1),
        in_tokens=load.in_tokens * rng.choice([1.0, 1.02]),
    )
    keep, pooled = rng.integers(2, size=2).astype(bool).tolist()
    current = replace(found.current, load=load)
    return replace(found, name=name, keep_accelerator=keep, pooled=pooled, current=current)


def test_the_same_input_has_the_same_answer_at_once() -> None:
    """A cycle asks again while nothing moved; what a caller changes in place is another input."""
    data = small_system(server(rpm=3000.0), itl_ms=60.0)
    cache = SizingCache()
    first = optimize(data, EXACT, cache=cache)
    again = replace(data, servers={name: replace(one) for name, one in data.servers.items()})
    assert optimize(again, EXACT, cache=cache) is first
    assert optimize(again, replace(EXACT, headroom=0.1), cache=cache) is not first
    servers = dict(data.servers)
    changed = replace(data, servers=servers)
    assert optimize(changed, EXACT, cache=cache) is first
    servers["s"] = replace(servers["s"], min_replicas=9)
    assert optimize(changed, EXACT, cache=cache).allocations["s"].replicas == 9


@pytest.mark.costly
@given(
    servers=several_servers(),
    capacity=CAPACITIES,
    solver=st.sampled_from(["greedy", "exact"]),
    policy=st.sampled_from(["None", "PriorityExhaustive", "PriorityRoundRobin", "RoundRobin"]),
    delayed=st.booleans(),
    several=st.booleans(),
)
def test_every_server_has_an_answer_within_capacity(
    servers: list[ServerData],
    capacity: dict[str, int],
    solver: str,
    policy: str,
    *,
    delayed: bool,
    several: bool,
) -> None:
    """An allocation or a reason, each exactly once; and never a GPU more than there is."""
    data = small_system(
        *servers,
        capacity=capacity,
        saturation_policy=policy,
        delayed_best_effort=delayed,
        heterogeneous=several,
    )
    solution = optimize(data, OptimizerSettings(rules=OURS, solver=solver))  # type: ignore[arg-type]
    assert sorted([*solution.allocations, *solution.unserved]) == sorted(data.servers)
    assert all(why.text for why in solution.unserved.values())
    assert all(count <= capacity[kind] for kind, count in gpus(data, solution).items())
    for name, found in solution.allocations.items():
        assert found.why.text
        assert found.replicas > 0 or data.servers[name].current.load == replace(
            data.servers[name].current.load or Load(rate_rpm=0.0, in_tokens=0.0, out_tokens=0.0),
            rate_rpm=0.0,
        )
    assert solution.total_cost == pytest.approx(
        sum(a.cost_cents_per_h for a in solution.allocations.values())
    )


@pytest.mark.slow
@given(servers=several_servers(), capacity=CAPACITIES, more=st.floats(1.0, 3.0))
def test_more_load_is_never_cheaper_to_serve(
    servers: list[ServerData], capacity: dict[str, int], more: float
) -> None:
    """From nothing: where the busier system is served whole, the quieter one is, and costs no
    more.
    """
    bare = [
        replace(
            one, current=Allocation(load=one.current.load), min_replicas=max(one.min_replicas, 0)
        )
        for one in servers
    ]
    busier = [
        replace(
            one,
            current=Allocation(
                load=replace(one.current.load, rate_rpm=one.current.load.rate_rpm * more)
            ),
        )
        for one in bare
        if one.current.load is not None
    ]
    quiet, busy = (
        optimize(small_system(*given, capacity=capacity), EXACT) for given in (bare, busier)
    )
    if not busy.unserved:
        assert not quiet.unserved
        assert quiet.total_cost <= busy.total_cost + 1e-6


@pytest.mark.slow
@given(servers=several_servers(), capacity=CAPACITIES, scale=st.sampled_from([2, 3]))
def test_the_size_of_a_gpu_does_not_matter(
    servers: list[ServerData], capacity: dict[str, int], scale: int
) -> None:
    """Counting half GPUs, with twice the multiplicity of each unit, is the same system."""
    data = small_system(*servers, capacity=capacity)
    halves = replace(
        data,
        accelerators={
            name: replace(unit, multiplicity=unit.multiplicity * scale)
            for name, unit in data.accelerators.items()
        },
        capacity={kind: count * scale for kind, count in capacity.items()},
    )
    for how in (PLAIN, EXACT):
        whole, half = optimize(data, how), optimize(halves, how)
        assert {name: (a.accelerator, a.replicas) for name, a in whole.allocations.items()} == {
            name: (a.accelerator, a.replicas) for name, a in half.allocations.items()
        }


@pytest.mark.slow
@given(servers=several_servers(), capacity=CAPACITIES, scale=st.sampled_from([0.01, 1.5, 100.0]))
def test_the_unit_of_cost_does_not_matter(
    servers: list[ServerData], capacity: dict[str, int], scale: float
) -> None:
    """Prices in another currency: the same allocation."""
    data = small_system(*servers, capacity=capacity)
    priced = replace(
        data,
        accelerators={
            name: replace(unit, cost_cents_per_h=unit.cost_cents_per_h * scale)
            for name, unit in data.accelerators.items()
        },
    )
    for how in (PLAIN, EXACT):
        found, other = optimize(data, how), optimize(priced, how)
        assert found.total_cost * scale == pytest.approx(other.total_cost)
        assert found.unserved.keys() == other.unserved.keys()


def test_a_server_that_cannot_be_served_blocks_nobody() -> None:
    """The original answers 404 for everybody, and its controller skips the cycle."""
    data = small_system(
        server("huge", rpm=500_000.0),
        server("odd", model="other"),
        server("fine"),
        capacity={"H100": 2, "A100": 2},
    )
    for how in (PLAIN, EXACT):
        answer = optimize(data, how)
        assert set(answer.allocations) == {"fine"}
        assert answer.unserved["huge"].text.startswith("capacity: ")
        assert answer.unserved["odd"].text.startswith("no target")
        assert answer.unserved["huge"].kind == "capacity"
        assert answer.unserved["odd"].kind == "infeasible"


def test_short_capacity_says_of_which_type_and_how_much() -> None:
    """The figure is what a user has to add: of the option that lacks least, beside what others
    hold.
    """
    data = small_system(
        server("first", rpm=600.0),
        server("second", rpm=6000.0, service_class="Free", keep_accelerator=True, now=("H100", 1)),
        capacity={"H100": 1, "A100": 0, "L4": 0},
    )
    answer = optimize(data, PLAIN)
    needed = optimize(replace(data, capacity={"H100": 99}), PLAIN).allocations["second"].replicas
    assert (
        answer.unserved["second"].text == f"capacity: {needed} H100 needed, 0 free, {needed} short"
    )


def test_an_allocation_says_why() -> None:
    """Binding target, rate and use of a replica, and the runner-up with its cost: a user can argue
    with that.
    """
    found = optimize(small_system(server(rpm=3000.0), itl_ms=9.0), PLAIN).allocations["s"]
    details = found.why.details
    assert details["binding"] == found.why.kind == "slo-itl"
    assert details["rateMaxRpm"] == pytest.approx(found.rate_max_rpm)
    assert details["utilisation"] == pytest.approx(3000.0 / (found.rate_max_rpm * found.replicas))
    runner_up = details["runnerUp"]
    assert isinstance(runner_up, dict)
    assert runner_up["cost"] >= found.cost_cents_per_h
    assert runner_up["accelerator"] != found.accelerator
    assert found.accelerator in found.why.text
    assert "bound by slo-itl" in found.why.text
    assert f"next {runner_up['replicas']} × {runner_up['accelerator']}" in found.why.text


@pytest.mark.parametrize(
    ("targets", "fields", "word"),
    [
        ({"itl_ms": 9.0}, {}, "slo-itl"),
        ({"ttft_ms": 60.0}, {"max_batch": 4}, "slo-ttft"),
        ({"itl_ms": 0.0, "ttft_ms": 0.0, "tps": 10.0}, {}, "slo-tps"),
        ({"itl_ms": 0.0, "ttft_ms": 0.0}, {}, "batch"),
        ({"itl_ms": 0.0, "ttft_ms": 0.0}, {"max_queue": 1}, "loss"),
    ],
)
def test_the_binding_target_has_its_name(
    targets: dict[str, float], fields: dict[str, int], word: str
) -> None:
    """It tells which target to loosen, or that a larger batch would help."""
    data = small_system(
        server(rpm=3000.0, now=("H100", 1), keep_accelerator=True, **fields), **targets
    )  # type: ignore[arg-type]
    assert optimize(data, PLAIN).allocations["s"].why.details["binding"] == word


def loads(first: float, *rest: float, hysteresis: float) -> list[int]:
    """Return the replicas that follow when a server sees these rates one after another."""
    now: tuple[str, int] = ("", 0)
    found = []
    for rpm in (first, *rest):
        answer = optimize(
            small_system(server(rpm=rpm, now=now, keep_accelerator=bool(now[0])), itl_ms=9.0),
            OptimizerSettings(rules=OURS, solver="greedy", hysteresis=hysteresis),
        )
        now = (answer.allocations["s"].accelerator, answer.allocations["s"].replicas)
        found.append(now[1])
    return found


@pytest.mark.costly
def test_load_that_wavers_within_the_hysteresis_changes_nothing() -> None:
    """Every change costs a start-up: what noise has once needed stays while it may come back."""
    rate = optimize(small_system(server(), itl_ms=9.0), PLAIN).allocations["s"].rate_max_rpm
    wavering = [7.0 * rate * (1.0 + 0.04 * math.sin(k)) for k in range(12)]
    assert len(set(loads(*wavering, hysteresis=0.0))) > 1
    assert loads(*wavering, hysteresis=0.1)[1:] == [8] * 11


def test_load_beyond_the_hysteresis_moves_the_replicas() -> None:
    """Up when it has to, and down when it pays."""
    up, peak, down = loads(3000.0, 6000.0, 1500.0, hysteresis=0.1)
    assert peak > up > down


def test_the_hysteresis_never_lets_replicas_take_more_than_they_should() -> None:
    """They would miss their targets: it is for what is given back."""
    base = small_system(server(now=("H100", 1), keep_accelerator=True), itl_ms=0.0, ttft_ms=0.0)
    rate = optimize(base, PLAIN).allocations["s"].rate_max_rpm
    busy = small_system(
        server(rpm=2.02 * rate, now=("H100", 2), keep_accelerator=True), itl_ms=0.0, ttft_ms=0.0
    )
    assert (
        optimize(busy, OptimizerSettings(rules=OURS, solver="greedy", hysteresis=0.2))
        .allocations["s"]
        .replicas
        == 3
    )


def test_a_move_to_another_accelerator_has_to_save_more_than_the_hysteresis() -> None:
    """Penalty and hysteresis together; without them the cheapest wins."""
    here = server(rpm=300.0, now=("H100", 1))
    free = optimize(small_system(server(rpm=300.0), itl_ms=60.0), PLAIN).allocations["s"]
    assert free.accelerator != "H100"
    stay = optimize(
        small_system(here, itl_ms=60.0),
        OptimizerSettings(rules=OURS, solver="greedy", hysteresis=1.0),
    ).allocations["s"]
    assert (stay.accelerator, stay.replicas, stay.value) == ("H100", 1, 0.0)
    move = optimize(small_system(here, itl_ms=60.0), replace(PLAIN, objective="cost")).allocations[
        "s"
    ]
    assert move.accelerator == free.accelerator


@pytest.mark.parametrize(
    ("rpm", "most", "found"),
    [(200.0, None, ("L4", 3)), (200.0, 2, ("A100", 1)), (1200.0, 1, ("A100", 2))],
)
def test_who_may_have_few_replicas_has_larger_ones(
    rpm: float, most: int | None, found: tuple[str, int]
) -> None:
    """Three small ones were wanted, and one was cut. Who cannot be served by so few anywhere is
    sized as if it might have more: who asks cuts that.
    """
    data = small_system(server(rpm=rpm, max_replicas=most), itl_ms=60.0, ttft_ms=2000.0)
    one = optimize(data, EXACT).allocations["s"]
    assert (one.accelerator, one.replicas) == found


def test_of_bounds_that_exclude_each_other_the_upper_one_holds() -> None:
    """Everything seemed to need too many, and more than either bound was the answer."""
    data = small_system(server(rpm=200.0, min_replicas=5, max_replicas=2), itl_ms=60.0)
    one = optimize(data, EXACT).allocations["s"]
    assert one.replicas <= 2


def test_the_go_optimizer_knows_no_most_replicas() -> None:
    """What is not in its messages must not change what is as it answers."""
    compatible = OptimizerSettings(rules=GO_TODAY, solver="greedy")
    found = [
        optimize(small_system(server(rpm=200.0, max_replicas=most), itl_ms=60.0), compatible)
        for most in (None, 1)
    ]
    assert found[0] == found[1]


def test_who_finds_no_room_on_larger_ones_has_what_it_may_of_the_small_ones() -> None:
    """It got nothing at all beside a hundred free ones."""
    data = small_system(server(rpm=200.0, max_replicas=2), itl_ms=60.0, ttft_ms=2000.0)
    free = optimize(replace(data, servers={"s": server(rpm=200.0)}), EXACT).allocations["s"]
    scarce = replace(data, capacity={"L4": 100, "A100": 0, "H100": 0})
    solution = optimize(scarce, EXACT)
    assert solution.unserved == {}
    one = solution.allocations["s"]
    assert (one.accelerator, one.replicas) == ("L4", 3)
    assert (one.itl_ms, one.ttft_ms) == (free.itl_ms, free.ttft_ms)


def test_the_objective_cost_ignores_what_there_is() -> None:
    """For planning, where nothing runs yet."""
    data = small_system(server(rpm=3000.0, now=("L4", 40)), itl_ms=60.0)
    value, cost = (
        optimize(data, replace(EXACT, objective=objective)) for objective in ("value", "cost")
    )
    assert cost.total_cost <= value.total_cost
    assert value.total_value <= cost.total_value


def test_parts_report_the_latencies_of_the_parts() -> None:
    """The original reports those of the whole, which the replicas that there are do not reach."""
    data = small_system(
        server(rpm=6000.0), capacity={"H100": 2}, itl_ms=9.0, saturation_policy="PriorityExhaustive"
    )
    part = optimize(data, PLAIN).allocations["s"]
    whole = optimize(replace(data, capacity={"H100": 100}), PLAIN).allocations["s"]
    compat = optimize(data, OptimizerSettings(solver="greedy", rules=GO_TODAY)).allocations["s"]
    assert part.replicas == 2 < whole.replicas
    assert part.itl_ms is not None
    assert whole.itl_ms is not None
    assert part.itl_ms > whole.itl_ms
    assert part.why.details["replicasWanted"] == whole.replicas
    assert part.why.kind == "capacity"
    assert part.why.text.startswith(f"capacity: 2 of {whole.replicas} replicas")
    assert compat.itl_ms is not None
    assert compat.itl_ms <= 9.0


def test_parts_in_overload_have_no_mean_time_to_first_token() -> None:
    """The queue grows for ever: no figure would be true."""
    data = small_system(server(rpm=90_000.0), capacity={"H100": 1}, saturation_policy="RoundRobin")
    found = optimize(data, PLAIN).allocations["s"]
    assert found.replicas == 1
    assert found.ttft_ms is None
    assert found.itl_ms is not None


def test_a_server_with_a_fixed_batch_keeps_it() -> None:
    """maxBatchSize of the data is an order; else the smallest batch worth allowing is chosen."""
    told, free = (
        optimize(small_system(server(max_batch=batch), itl_ms=9.0), PLAIN).allocations["s"]
        for batch in (60, 0)
    )
    assert told.max_batch == 60
    assert free.max_batch < 60


def test_a_smaller_batch_serves_the_load_within_the_targets() -> None:
    """Sized anew with the batch that was chosen, the same replicas take nearly the same rate."""
    data = small_system(server(rpm=3000.0), itl_ms=9.0)
    found = optimize(data, PLAIN).allocations["s"]
    assert found.max_batch < found.why.details["maxBatchAllowed"]  # type: ignore[operator]
    told = small_system(server(rpm=3000.0, max_batch=found.max_batch), itl_ms=9.0)
    again = optimize(told, PLAIN).allocations["s"]
    assert again.replicas == found.replicas
    assert again.rate_max_rpm >= 0.97 * found.rate_max_rpm
    largest = optimize(data, replace(PLAIN, near_peak=0.0)).allocations["s"]
    assert largest.max_batch == found.why.details["maxBatchAllowed"]


def test_the_present_batch_stays_while_it_is_nearly_the_smallest() -> None:
    """A change of the batch is a change too."""
    fresh = optimize(small_system(server(rpm=3000.0), itl_ms=9.0), PLAIN).allocations["s"]
    for batch, stays in (
        (fresh.max_batch + 3, True),
        (fresh.max_batch - 3, False),
        (3 * fresh.max_batch, False),
    ):
        one = server(rpm=3000.0)
        now = Allocation(
            accelerator=fresh.accelerator,
            replicas=fresh.replicas,
            max_batch=batch,
            load=one.current.load,
        )
        data = small_system(replace(one, current=now), itl_ms=9.0)
        found = optimize(data, OptimizerSettings(rules=OURS, solver="greedy")).allocations["s"]
        assert (found.max_batch == batch) == stays


def test_unlimited_gives_each_the_best_whatever_the_capacity() -> None:
    """For planning what to buy."""
    data = small_system(server("a", rpm=9000.0), server("b"), capacity={}, unlimited=True)
    for how in (PLAIN, EXACT):
        assert not optimize(data, how).unserved


def test_compat_is_the_original_whatever_the_other_settings() -> None:
    """Headroom, hysteresis, caps: a comparison must not hang on them."""
    data = small_system(server(rpm=3000.0, now=("A100", 3)), itl_ms=9.0)
    plain = optimize(data, OptimizerSettings(rules=GO_TODAY))
    other = optimize(
        data,
        OptimizerSettings(
            rules=GO_TODAY, headroom=0.5, hysteresis=0.9, replicas_cap=1, max_batch_cap=2
        ),
    )
    assert plain.allocations["s"] == other.allocations["s"]


def test_an_empty_system_has_an_empty_answer() -> None:
    """The first request of a controller whose cluster has no server yet."""
    for how in (PLAIN, EXACT, OptimizerSettings(rules=GO_TODAY)):
        answer = optimize(small_system(), how)
        assert (answer.allocations, answer.unserved, answer.total_cost) == ({}, {}, 0.0)
