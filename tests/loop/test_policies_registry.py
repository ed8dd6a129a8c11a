"""Policies by name, and the baseline that moves nothing."""

from __future__ import annotations

import pytest

from loop.errors import SpecError
from loop.policies import make_policy, policy_names
from loop.types import Snapshot
from tests.fakes import server_view, system


@pytest.mark.parametrize("name", policy_names())
def test_every_policy_answers_for_every_server_it_is_shown(name: str) -> None:
    """The port: a target or a hold for each, a name that is the word after --policy, a tick."""
    policy = make_policy(name)
    seen = Snapshot(
        now_s=60.0,
        servers={view.name: view for view in (server_view("a"), server_view("b", load=None))},
    )
    state = policy.start()
    decision, _ = policy.decide(seen, system(), state)
    again, _ = policy.decide(seen, system(), state)
    assert decision == again, "the same state and the same snapshot must give the same decision"
    assert set(decision.targets) == {"a", "b"}
    assert policy.name == name
    assert policy.tick_s > 0


@pytest.mark.parametrize("name", policy_names())
def test_a_world_without_servers_is_no_error(name: str) -> None:
    """A namespace may be empty for a while."""
    policy = make_policy(name)
    decision, _ = policy.decide(Snapshot(now_s=0.0, servers={}), system(), policy.start())
    assert decision.targets == {}


def test_the_static_policy_keeps_what_is_wanted_and_not_what_is_ready() -> None:
    """Replicas that start are wanted; to keep only the ready ones would take them away."""
    policy = make_policy("static")
    view = server_view(wanted=4, ready=1, starting=3)
    decision, _ = policy.decide(Snapshot(now_s=0.0, servers={"s1": view}), system(), policy.start())
    target = decision.targets["s1"]
    assert (target.replicas, target.accelerator, target.max_batch, target.held) == (
        4,
        "H100",
        64,
        True,
    )


def test_an_unknown_policy_is_answered_with_the_known_ones() -> None:
    """The user must see the right word at once."""
    with pytest.raises(SpecError, match=r"policy: expected one of .*slo, static.*, found 'slow'"):
        make_policy("slow")


def test_an_unknown_option_is_answered_with_the_known_ones() -> None:
    """A misspelt option that is ignored would be an experiment about something else."""
    with pytest.raises(
        SpecError, match=r"policy slo: expected options: one of .*headroom.*; found 'headrom'"
    ):
        make_policy("slo", headrom=0.2)
    with pytest.raises(SpecError, match="policy static: expected options: none; found 'headroom'"):
        make_policy("static", headroom=0.2)


def test_a_policy_with_options_has_them() -> None:
    """The option must reach the policy it was given to."""
    assert make_policy("slo", headroom=0.25) != make_policy("slo")
