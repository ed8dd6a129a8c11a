"""Work: how many requests of mean tokens a request of others is."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.optimizer.front import OptimizerSettings, optimize
from loop.optimizer.rules.ours import OURS
from loop.optimizer.solution import Solution
from loop.policies.slo import SloPolicy
from loop.policies.slo.case import UNIT_FROM
from loop.policies.slo.demand import Memory, counted_in, remember
from loop.policies.slo.work import FAR, LEFT, LONGER, POWER_MAX, SHORTER, TIMES_MAX, Unit, units
from loop.spec import Allocation, SystemData
from loop.testing.fakes import server_data, server_view, system
from loop.types import CapacityView, Load, ServerView, Snapshot

UNIT = Unit(
    accelerator="H100",
    in_tokens=1000.0,
    out_tokens=200.0,
    in_powers=(0.8, 1.0),
    out_powers=(0.3, 0.5),
)
SETTINGS = OptimizerSettings(rules=OURS)
LOAD = Load(rate_rpm=600.0, in_tokens=2000.0, out_tokens=256.0)
tokens = st.floats(1.0, 1e5)


@given(tokens, tokens, st.floats(0.0, 1e4))
def test_longer_requests_are_more_work_within_bounds(
    in_tokens: float, out_tokens: float, count: float
) -> None:
    """And what few requests say counts for less."""
    times = UNIT.times(in_tokens, out_tokens, count=count)
    assert 1.0 / TIMES_MAX <= times <= TIMES_MAX
    assert UNIT.times(2.0 * in_tokens, out_tokens, count=count) >= times
    assert UNIT.times(in_tokens, 2.0 * out_tokens, count=count) >= times
    assert abs(math.log(times)) <= abs(math.log(UNIT.times(in_tokens, out_tokens))) + 1e-9


def test_a_request_like_the_unit_is_one() -> None:
    """And one without tokens, which nobody has seen end."""
    assert UNIT.times(1000.0, 200.0) == 1.0
    assert UNIT.times(0.0, 200.0) == UNIT.times(1000.0, 0.0) == 1.0
    assert UNIT.times(2000.0, 200.0) == pytest.approx(2.0**LEFT)


def test_a_unit_stands_for_what_is_near_it() -> None:
    """Mean tokens wander a little; another accelerator is another unit."""
    near = 1000.0 * math.exp(0.9 * FAR)
    assert UNIT.near("H100", near, 200.0)
    assert not UNIT.near("A100", near, 200.0)
    assert not UNIT.near("H100", 1000.0 * math.exp(1.1 * FAR), 200.0)
    assert not UNIT.near("H100", 1000.0, 200.0 * math.exp(-1.1 * FAR))


def allowed_rpm(load: Load) -> float:
    """Return what a replica can take of requests like *load*."""
    current = Allocation(accelerator="H100", replicas=2, max_batch=64, load=load)
    server = server_data(current=current, keep_accelerator=True)
    found = optimize(replace(system(), servers={"s1": server}), SETTINGS)
    return found.allocations["s1"].rate_max_rpm


def test_powers_are_what_the_optimizer_says_of_longer_requests() -> None:
    """Whatever GPUs there are, and how few the server may have."""
    current = Allocation(accelerator="H100", replicas=2, max_batch=64, load=LOAD)
    server = server_data(current=current, max_replicas=1)
    scarce = replace(system(), capacity={"H100": 0, "A100": 0})
    unit = units(scarce, {"s1": server}, ask=partial(optimize), settings=SETTINGS)["s1"]
    for place, times in enumerate((SHORTER, LONGER)):
        prompts = allowed_rpm(replace(LOAD, in_tokens=times * LOAD.in_tokens))
        answers = allowed_rpm(replace(LOAD, out_tokens=times * LOAD.out_tokens))
        assert allowed_rpm(LOAD) / prompts == pytest.approx(times ** unit.in_powers[place])
        assert allowed_rpm(LOAD) / answers == pytest.approx(times ** unit.out_powers[place])
        assert 0.1 < unit.in_powers[place] < POWER_MAX
        assert 0.1 < unit.out_powers[place] < POWER_MAX


def test_of_an_accelerator_that_no_data_know_requests_are_counted_as_they_are() -> None:
    """Nothing can be asked of it."""
    current = Allocation(accelerator="TPU", replicas=2, max_batch=64, load=LOAD)
    server = server_data(current=current)
    unit = units(system(), {"s1": server}, ask=partial(optimize), settings=SETTINGS)["s1"]
    assert (unit.in_powers, unit.out_powers, unit.chance) == ((0.0, 0.0), (0.0, 0.0), 1.0)


def test_another_unit_is_the_same_load() -> None:
    """What was seen in the old one is told in the new one: nothing has happened."""
    view = server_view(load=replace(LOAD, in_tokens=1500.0, out_tokens=200.0))
    before, after = Memory(unit=UNIT, replica_rpm=100.0), Memory()
    for step in range(20):
        (before,) = remember(
            {view.name: before}, {view.name: view}, {}, now_s=30.0 * step, window_s=60.0
        ).values()
    after = counted_in(before, replace(UNIT, in_tokens=1500.0))
    times = UNIT.times(1500.0, 200.0)
    assert after.replica_rpm == pytest.approx(100.0 / times)
    assert after.history.rates.values == pytest.approx(
        [value / times for value in before.history.rates.values]
    )
    assert before.history.bank is not None
    assert after.history.bank is not None
    assert after.history.bank.level == pytest.approx(before.history.bank.level / times)
    assert after.history.bank.level_var == pytest.approx(before.history.bank.level_var / times**2)


def replicas(*views: ServerView) -> list[int]:
    """Return how many replicas `slo` wants at each of *views*, half a minute apart."""
    policy = SloPolicy()
    room = {kind: CapacityView(type=kind, total=40, used=0) for kind in ("H100", "A100")}
    state, made = policy.start(), []
    for step, view in enumerate(views):
        seen = Snapshot(now_s=30.0 * step, servers={"s1": view}, capacity=room, window_s=60.0)
        decision, state = policy.decide(seen, system(), state)
        made.append(decision.targets["s1"].replicas)
    return made


def test_longer_prompts_get_more_replicas_as_more_requests_do() -> None:
    """Within two minutes, though the mean tokens of the last ten have hardly moved."""

    def view(in_tokens: float) -> ServerView:
        load = replace(LOAD, in_tokens=in_tokens, rate_rpm=1200.0)
        return server_view(load=load, wanted=4, ready=4)

    made = replicas(*[view(2000.0)] * 2 * UNIT_FROM, *[view(5000.0)] * 4)
    assert max(made[UNIT_FROM:-4]) <= made[UNIT_FROM] + 1
    assert made[-1] >= 1.4 * made[-5]


@pytest.mark.parametrize(("source", "counted"), [("router", True), ("labels", False)])
def test_the_work_of_loads_that_labels_tell_is_not_counted(source: str, counted: bool) -> None:
    """They are what they are told to be, and the optimizer is not asked for it."""
    policy, view = SloPolicy(), server_view(load=LOAD, load_source=source)
    state = policy.start()
    for step in range(UNIT_FROM + 2):
        seen = Snapshot(now_s=30.0 * step, servers={"s1": view}, window_s=60.0)
        _, state = policy.decide(seen, system(), state)
    assert (state["s1"].unit is not None) == counted


@pytest.mark.costly
def test_who_is_beyond_arithmetic_keeps_nobody_from_another_unit() -> None:
    """An overflow of one server used to leave the work of all uncounted."""

    def sizes(data: SystemData, settings: OptimizerSettings) -> Solution:
        if "4/odd" in data.servers:
            raise FloatingPointError("overflow encountered in multiply")
        return optimize(data, settings)

    policy = SloPolicy(optimize=sizes)
    state, views = policy.start(), [server_view(load=LOAD), server_view("odd", load=LOAD)]
    for step in range(UNIT_FROM + 2):
        seen = Snapshot(now_s=30.0 * step, servers={view.name: view for view in views})
        _, state = policy.decide(seen, system(), state)
    assert state["odd"].unit is None
    assert state["s1"].unit is not None
