"""What holds of every cycle, whatever the policy decides and whatever is seen: the invariants, as
properties.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.controller import Controller
from loop.data import FixedData
from loop.policies import make_policy, policy_names
from loop.policies.slo import SloPolicy
from loop.policies.static import StaticPolicy
from loop.ports import Policy
from loop.spec import SystemData
from loop.testing.fakes import FakeBackend, ManualClock, server_view, system, target
from loop.types import CycleRecord, Decision, Load, ServerView, Snapshot, Target

NAMES = ("s1", "s2", "s3")
ACCELERATORS = ("", "H100", "2xA100")

loads = st.none() | st.builds(
    Load,
    rate_rpm=st.sampled_from([0.0, 30.0, 900.0, 9000.0]),
    in_tokens=st.sampled_from([0.0, 512.0]),
    out_tokens=st.sampled_from([0.0, 256.0]),
)


@st.composite
def views(draw: st.DrawFn, name: str) -> ServerView:
    """Return any server, also one whose labels say little."""
    wanted, low = draw(st.integers(0, 5)), draw(st.integers(0, 3))
    return server_view(
        name,
        model=draw(st.sampled_from(["llama_8b", "unheard_of"])),
        service_class=draw(st.sampled_from(["Premium", "Free", "Nobody"])),
        accelerator=draw(st.sampled_from(ACCELERATORS)),
        max_batch=draw(st.sampled_from([0, 64])),
        wanted=wanted,
        ready=draw(st.integers(0, wanted)),
        load=draw(loads),
        running=draw(st.sampled_from([0, 0, 50, 200])),
        itl_ms=draw(st.sampled_from([None, 20.0])),
        ttft_ms=draw(st.sampled_from([None, 200.0])),
        backlog=draw(st.sampled_from([0, 40])),
        replicas_min=low,
        replicas_max=draw(st.none() | st.integers(low, 6)),
    )


worlds = st.tuples(*map(views, NAMES))
capacities = st.none() | st.fixed_dictionaries(
    {"H100": st.integers(0, 8), "A100": st.integers(0, 8)}
)


@dataclass(frozen=True)
class Scripted:
    """A policy that decides what it was made with: anything at all."""

    targets: tuple[Target, ...]
    name: str = "scripted"
    tick_s: float = 60.0

    def start(self) -> None:
        """Remember nothing."""

    def decide(self, snapshot: Snapshot, data: SystemData, state: None) -> tuple[Decision, None]:  # noqa: ARG002 the port
        """Return the script."""
        return Decision(targets={each.server: each for each in self.targets}), None


targets = st.builds(
    target,
    server=st.sampled_from(NAMES),
    accelerator=st.sampled_from(ACCELERATORS),
    replicas=st.integers(0, 9),
    max_batch=st.sampled_from([0, 16, 64]),
    held=st.booleans(),
)
policies: st.SearchStrategy[Policy] = st.one_of(
    st.just(StaticPolicy()),
    st.just(SloPolicy()),
    st.just(SloPolicy(solver="greedy", hysteresis=0.0)),
    st.just(SloPolicy(solver="greedy", compat=True)),
    st.sampled_from(policy_names()).map(make_policy),
    st.builds(Scripted, st.lists(targets, max_size=4).map(tuple)),
)


def cycle(
    seen: tuple[ServerView, ...], policy: Policy, capacity: dict[str, int] | None
) -> CycleRecord:
    """Return the record of one acting cycle."""
    loop = Controller(
        backend=FakeBackend(seen, capacity=capacity),
        policy=policy,
        data=FixedData(system()),
        clock=ManualClock(),
    )
    record = loop.cycle(60.0)
    assert not record.failed, record.error
    return record


@given(seen=worlds, policy=policies, capacity=capacities)
def test_nothing_is_asked_for_a_held_server(
    seen: tuple[ServerView, ...], policy: Policy, capacity: dict[str, int] | None
) -> None:
    """Held means no change; so does to be absent from the decision."""
    record = cycle(seen, policy, capacity)
    assert record.decision is not None
    for change in record.changes:
        assert not record.decision.targets[change.server].held


@given(seen=worlds, policy=policies, capacity=capacities)
def test_no_more_is_taken_than_bounds_allow(
    seen: tuple[ServerView, ...], policy: Policy, capacity: dict[str, int] | None
) -> None:
    """Who sets a minimum means it, whoever decides; a held server that is below it is told of."""
    record = cycle(seen, policy, capacity)
    asked = {change.server: change.replicas for change in record.changes}
    for view in seen:
        if view.name in asked:
            assert asked[view.name] >= view.replicas_min
            assert view.replicas_max is None or asked[view.name] <= view.replicas_max
        elif view.wanted < view.replicas_min:
            line = f"{view.name}: stays at {view.wanted} replicas, below its minimum"
            assert any(warning.startswith(line) for warning in record.warnings)


@given(seen=worlds, policy=policies, capacity=capacities)
def test_an_unknown_load_never_takes_replicas_away(
    seen: tuple[ServerView, ...], policy: Policy, capacity: dict[str, int] | None
) -> None:
    """Nothing is known is not zero is known: a gap of the metrics must not end a server."""
    record = cycle(seen, policy, capacity)
    assert record.estimated is not None
    before = {view.name: view for view in seen}
    for change in record.changes:
        if record.estimated.servers[change.server].load is None:
            view = before[change.server]
            assert change.replicas >= view.wanted
            assert view.wanted == 0 or change.accelerator == view.accelerator


@given(
    seen=worlds,
    policy=st.sampled_from([SloPolicy(), SloPolicy(solver="greedy", compat=True), StaticPolicy()]),
    capacity=capacities,
)
def test_our_policies_ask_for_zero_only_on_known_idleness_or_for_want_of_gpus(
    seen: tuple[ServerView, ...], policy: Policy, capacity: dict[str, int] | None
) -> None:
    """No arrivals must be known, or no GPU left by higher classes, and the server must allow it."""
    record = cycle(seen, policy, capacity)
    assert record.estimated is not None
    assert record.decision is not None
    for change in record.changes:
        if change.replicas == 0:
            view = record.estimated.servers[change.server]
            assert view.load is not None
            assert view.replicas_min == 0
            idle, barred = view.load.rate_rpm == 0.0, view.replicas_max == 0
            assert idle or barred or change.server in record.decision.unserved


def explained(view: ServerView) -> bool:
    """Tell whether the load may explain what runs, by Little's law and a margin of two."""
    if view.load is None or view.itl_ms is None or view.ttft_ms is None:
        return False
    served_s = (view.ttft_ms + view.itl_ms * max(view.load.out_tokens - 1, 0)) / 1000
    return view.running <= 2.0 * view.load.rate_rpm / 60 * served_s + 4


@given(seen=worlds, policy=policies, capacity=capacities)
def test_what_runs_in_the_pods_keeps_its_room(
    seen: tuple[ServerView, ...], policy: Policy, capacity: dict[str, int] | None
) -> None:
    """Answers longer than the window, clients that give up: a reduction would end what runs."""
    record = cycle(seen, policy, capacity)
    before = {view.name: view for view in seen}
    for change in record.changes:
        view = before[change.server]
        high = view.replicas_max if view.replicas_max is not None else change.replicas
        batch = min((size for size in (change.max_batch, view.max_batch) if size), default=0)
        moved_on_a_known_load = change.accelerator != view.accelerator and explained(view)
        if batch and not moved_on_a_known_load:
            needed = -(-view.running // batch)
            assert change.replicas >= min(needed, view.wanted, max(high, view.replicas_min))
        if view.running or view.backlog:
            assert change.replicas > 0 or view.wanted == 0 or high == 0


@pytest.mark.parametrize("policy", [SloPolicy(), StaticPolicy()], ids=["slo", "static"])
def test_a_server_without_an_accelerator_label_keeps_its_replicas(policy: Policy) -> None:
    """Nobody says what its pods run on: that is no reason to end them."""
    bare = server_view(accelerator="", wanted=3, ready=3, load=None, replicas_min=2)
    assert cycle((bare,), policy, None).changes == ()
