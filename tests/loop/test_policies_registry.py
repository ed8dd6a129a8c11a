"""Policies by name, and the baseline that moves nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from loop.errors import SpecError
from loop.policies import make_policy, policy_names
from loop.policies.registry import options_told
from loop.policies.through_hpa import ThroughHpaPolicy
from loop.ports import Policy
from loop.spec import SystemData
from loop.testing.fakes import server_view, system
from loop.testing.policy import PolicyContract
from loop.types import Decision, Snapshot

STEPS = np.arange(3)


@pytest.mark.parametrize("name", policy_names())
class TestKnown(PolicyContract):
    """Every policy that the command knows."""

    @pytest.fixture
    def policy(self, name: str) -> Policy:
        """Return it as the command makes it when no option is given."""
        return make_policy(name)

    def test_its_name_is_the_word_after_policy(self, policy: Policy, name: str) -> None:
        """Whoever reads a record must be able to run it again."""
        assert policy.name == name


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


def test_the_policy_behind_an_hpa_is_an_option_like_others() -> None:
    """--policy through_hpa --set policy=wva, as the docs have it, was a traceback."""
    behind = make_policy("through_hpa", policy="wva", tolerance=0.2)
    assert isinstance(behind, ThroughHpaPolicy)
    assert behind.policy.name == "wva"
    assert options_told(behind) == {"policy": "wva", "tolerance": 0.2}
    no_policy = "policy through_hpa: policy: expected a policy, found int without name"
    for wrong, line in (("nope", r"expected one of aibrix"), (3, no_policy)):
        with pytest.raises(SpecError, match=line):
            make_policy("through_hpa", policy=wrong)


@pytest.mark.parametrize(
    ("name", "option", "wrong", "line"),
    [
        ("slo", "drain_s", 10**400, r"expected at most 1e\+12, found 1000"),
        ("hpa", "target", 1e308, r"expected at most 1e\+12, found 1e\+308"),
        ("through_hpa", "policy", None, "expected a policy, found NoneType"),
    ],
)
def test_an_option_that_no_decision_can_bear_is_refused(
    name: str, option: str, wrong: object, line: str
) -> None:
    """Each cycle of the run ended in a traceback instead."""
    with pytest.raises(SpecError, match=rf"policy {name}: {option}: {line}"):
        make_policy(name, **{option: wrong})


def test_a_policy_with_options_has_them() -> None:
    """The option must reach the policy it was given to."""
    assert make_policy("slo", headroom=0.25) != make_policy("slo")


class Strange:
    """Somebody's own, with NumPy's numbers as defaults, which compare to no truth."""

    name = "strange"
    tick_s: Any = np.int64(10)

    def __init__(self, steps: object = STEPS, gain: object = STEPS) -> None:
        self.steps, self.gain = steps, gain

    def start(self) -> None:
        """Remember nothing."""

    def decide(self, _snapshot: Snapshot, _data: SystemData, _state: None) -> tuple[Decision, None]:
        """Decide nothing."""
        return Decision(targets={}), None


def test_options_are_told_whatever_somebody_has_as_a_default() -> None:
    """An option in the place of an array ended the run in a traceback, and a period that is one of
    NumPy's numbers was refused.
    """
    own = Strange(gain=2)
    assert make_policy(own) is own
    assert options_told(own) == {"gain": 2}
