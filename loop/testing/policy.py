"""What every policy must do, as a suite for pytest: subclass it and say which policy.

class TestMine(PolicyContract):
    @pytest.fixture
    def policy(self) -> Policy:
        return MyPolicy(...)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from loop.ports import Policy
from loop.testing.fakes import pod_view, server_data, server_view, system
from loop.types import Decision, Load, ServerView, Snapshot

IDLE = Load(rate_rpm=0.0, in_tokens=512.0, out_tokens=256.0)
BUSY = Load(rate_rpm=900.0, in_tokens=512.0, out_tokens=256.0)
# What a policy may meet: each kind of server that a world has shown, alone and together.
KINDS = {
    "steady": server_view("steady"),
    "busy": server_view("busy", load=BUSY, backlog=40, running=60, waiting=30),
    "idle": server_view("idle", load=IDLE),
    "unknown load": server_view("dark", load=None),
    "no pods": server_view("off", wanted=0, ready=0, load=IDLE),
    "requests wait and no pod runs": server_view("asleep", wanted=0, ready=0, load=None, backlog=5),
    "starting": server_view("young", wanted=4, ready=1, starting=3),
    "unknown model": server_view("odd", model="unheard_of"),
    "unknown class": server_view("odd", service_class="Nobody"),
    "unknown accelerator": server_view("odd", accelerator="abacus"),
    "a lower bound": server_view("kept", load=IDLE, wanted=3, ready=3, replicas_min=2),
    "never sampled": server_view("new", sample_age_s=None),
    "pods seen one by one": server_view(
        "seen",
        load=BUSY,
        running=100,
        waiting=20,
        backlog=20,
        kv_usage=0.5,
        pods=(pod_view("a", running=60, waiting=20), pod_view("b", running=40, kv_usage=0.4)),
    ),
    "pods that are not ready": server_view(
        "mixed",
        wanted=4,
        ready=1,
        starting=1,
        pending=1,
        draining=1,
        pods=(
            pod_view("a", running=64, waiting=9),
            pod_view("b", phase="starting", sample_age_s=None),
            pod_view("c", phase="pending", sample_age_s=None),
            pod_view("d", phase="draining"),
        ),
    ),
}


def seen(*views: ServerView, now_s: float = 60.0) -> Snapshot:
    """Return the snapshot of *views*."""
    return Snapshot(now_s=now_s, servers={view.name: view for view in views})


def decided(policy: Policy, snapshots: Sequence[Snapshot], **data: Any) -> list[Decision]:
    """Return the decisions of *policy* on *snapshots*, from its start."""
    state, decisions = policy.start(), []
    for snapshot in snapshots:
        decision, state = policy.decide(snapshot, system(**data), state)
        decisions.append(decision)
    return decisions


each_kind = pytest.mark.parametrize("view", KINDS.values(), ids=KINDS)


class PolicyContract:
    """What every policy must do, whatever it is after."""

    @pytest.fixture
    def policy(self) -> Policy:
        """Make the policy under test; a subclass says how."""
        raise NotImplementedError("a subclass defines the fixture policy")

    def test_it_says_its_name_and_its_period(self, policy: Policy) -> None:
        """Records carry the name; the tick is the period when no other is given."""
        assert policy.name
        assert policy.tick_s > 0

    def test_a_world_without_servers_is_no_error(self, policy: Policy) -> None:
        """A namespace may be empty for a while."""
        assert decided(policy, [seen()])[0].targets == {}

    def test_every_server_is_answered_for(self, policy: Policy) -> None:
        """One server that nothing can be decided of must stop nobody else."""
        views = {view.name: view for view in KINDS.values()}
        (decision,) = decided(policy, [seen(*views.values())])
        assert set(decision.targets) == set(views)

    def test_a_server_of_the_files_that_the_world_does_not_have_is_not_decided(
        self, policy: Policy
    ) -> None:
        """It would take GPUs from servers that exist."""
        (decision,) = decided(policy, [seen(server_view())], servers={"gone": server_data("gone")})
        assert set(decision.targets) == {"s1"}

    @each_kind
    def test_a_server_is_given_a_target_that_can_be_asked_for(
        self, policy: Policy, view: ServerView
    ) -> None:
        """A server that is left out keeps what it has, and nobody reads why."""
        (decision,) = decided(policy, [seen(view)])
        assert set(decision.targets) == {view.name}
        target = decision.targets[view.name]
        assert target.server == view.name
        assert target.replicas >= 0
        assert target.replicas == 0 or target.accelerator

    @each_kind
    def test_the_same_sight_and_state_give_the_same_decision(
        self, policy: Policy, view: ServerView
    ) -> None:
        """A recorded run is replayed from them; a clock or chance in a policy would show here."""
        sights = [seen(view, now_s=60.0 * i) for i in range(1, 4)]
        assert decided(policy, sights) == decided(policy, sights)

    @each_kind
    def test_a_held_server_has_what_it_had(self, policy: Policy, view: ServerView) -> None:
        """Held means no change; a target that differs would be shown as a decision and never be
        asked for.
        """
        target = decided(policy, [seen(view)])[0].targets[view.name]
        if target.held:
            assert target.accelerator == view.accelerator
            assert target.replicas == view.wanted

    @pytest.mark.parametrize("load", [IDLE, BUSY, None], ids=["idle", "busy", "unknown"])
    def test_a_lower_bound_of_the_world_is_kept(self, policy: Policy, load: Load | None) -> None:
        """Put on afterwards, it would take GPUs that had been given to others."""
        view = server_view(load=load, replicas_min=2)
        assert decided(policy, [seen(view)])[0].targets["s1"].replicas >= 2

    def test_an_unknown_load_takes_nothing_away(self, policy: Policy) -> None:
        """Missing data are no zero load."""
        sights = [seen(server_view(load=None), now_s=60.0 * i) for i in range(1, 11)]
        assert {one.targets["s1"].replicas for one in decided(policy, sights)} == {2}

    def test_the_state_it_returns_can_be_used_twice(self, policy: Policy) -> None:
        """Replay and what-if go on from one state in several ways."""
        first = seen(server_view(load=BUSY))
        _, state = policy.decide(first, system(), policy.start())
        later = replace(first, now_s=120.0)
        once, _ = policy.decide(later, system(), state)
        policy.decide(replace(seen(server_view(load=IDLE)), now_s=120.0), system(), state)
        again, _ = policy.decide(later, system(), state)
        assert once == again

    def test_what_it_decided_stays_as_it_was(self, policy: Policy) -> None:
        """A record is not written anew for a target that is the same object: what is changed in it
        later is not told.
        """
        state, decisions, told = policy.start(), [], []
        for number in range(1, 5):
            sight = seen(*KINDS.values(), now_s=60.0 * number)
            decision, state = policy.decide(sight, system(), state)
            decisions.append(decision)
            told.append(repr(decision))
        assert list(map(repr, decisions)) == told
