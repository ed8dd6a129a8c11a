"""What slo remembers of servers of which nothing has changed changes no decision."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from loop.controller import Controller
from loop.data import FixedData
from loop.drivers import SimDriver
from loop.policies.slo import SloPolicy
from loop.policies.slo.demand import Memories, Memory
from loop.spec import SystemData
from loop.testing.fakes import ManualClock, server_view, system
from loop.types import Decision, Load, ServerView, Snapshot, only_older
from tests.loop.sim_worlds import sim_world


@dataclass(frozen=True, slots=True, kw_only=True)
class Twice:
    """Asks slo, and one like it that has not been asked before; they must say the same, and so must
    one that does not know what was decided last, of servers that have only grown older since.
    """

    slo: SloPolicy = field(default_factory=SloPolicy)
    quiet: list[int] = field(default_factory=list)
    decided: list[Decision] = field(default_factory=list)
    seen: list[dict[str, ServerView]] = field(default_factory=list)
    name: str = "twice"
    tick_s: float = 1.0

    def start(self) -> Memories:
        """Return what slo begins with."""
        return self.slo.start()

    def decide(
        self, snapshot: Snapshot, data: SystemData, state: Memories
    ) -> tuple[Decision, Memories]:
        """Return what both decide."""
        before = {name: one.demanded for name, one in state.items()}
        decision, after = self.slo.decide(snapshot, data, state)
        stood = bool(self.decided) and decision is self.decided[-1]
        if not stood:
            self.seen.append(dict(snapshot.servers))
        then = self.seen[-1]
        if all(only_older(view, then[name]) for name, view in snapshot.servers.items()):
            known = dict(state) if stood else state
            anew, _ = replace(self.slo).decide(snapshot, data, known)
            assert decision == anew
        self.decided.append(decision)
        now = {name: one.demanded for name, one in after.items()}
        self.quiet.append(sum(now[name] is one for name, one in before.items() if one))
        return decision, after


@pytest.mark.costly
@pytest.mark.parametrize(
    ("period_s", "until_s", "quiet", "stood"),
    [
        pytest.param(1.0, 400.5, 600, 300, id="a cycle a second"),
        pytest.param(3.0, 700.0, 250, 120, id="until loads have been seen for long"),
    ],
)
def test_what_is_remembered_is_what_would_be_found_anew(
    period_s: float, until_s: float, quiet: int, stood: int
) -> None:
    """A cycle a second sees nothing new of most servers, and must not miss a demand given up, nor
    that a load has been seen for long.
    """
    world, policy = sim_world(alpha=0.5, actuation_s=7.0), Twice()
    loop = Controller(
        backend=world.backend,
        policy=policy,
        data=FixedData(world.data),
        clock=ManualClock(step_s=0.01),
    )
    driver = SimDriver(world.env, loop, period_s=period_s)
    world.env.run(until=until_s)
    assert (
        len(
            {
                record.decision.targets["s1"].replicas
                for record in driver.records[60:]
                if record.decision
            }
        )
        > 1
    )
    assert sum(policy.quiet) > quiet, "of half of what was asked nothing was new"
    decided = policy.decided
    assert sum(one is other for one, other in pairwise(decided)) > stood, "decisions stood"


def test_what_was_decided_does_not_stand_for_a_time_before() -> None:
    """A clock that is set back: replicas that come still, of the last move, would be taken away."""
    data, slo = replace(system(), servers={}), SloPolicy(tick_s=1.0)
    load = Load(rate_rpm=300.0, in_tokens=512.0, out_tokens=128.0)
    view = server_view(load=load, wanted=4, ready=3, starting=1, start_up_s=40.0)
    state: Memories = {"s1": Memory(moved_s=1000.0)}
    found = []
    for now_s in (1040.0, 1071.0, 1102.0, 1121.0, 1122.0, 1123.0, 1115.0):
        snapshot = Snapshot(now_s=now_s, servers={"s1": view}, window_s=60.0)
        decision, state = slo.decide(snapshot, data, state)
        found.append(decision)
    assert found[-2] is found[-3], "it stood"
    assert [each.targets["s1"].replicas for each in found[-3:]] == [1, 1, 4]


def test_what_replicas_turn_out_to_take_counts_when_something_new_is_seen() -> None:
    """Each decision finds another rate that a replica takes: a loop that looks every second would
    decide again and again, with nothing new seen. The first time it matters at once.
    """
    data, slo = replace(system(), servers={}), SloPolicy(tick_s=1.0)
    load = Load(rate_rpm=900.0, in_tokens=512.0, out_tokens=128.0)
    view = server_view(load=load, wanted=4, ready=4)

    def sized_by(now_s: float, view: ServerView, state: Memories) -> tuple[float, Memories]:
        _, after = slo.decide(
            Snapshot(now_s=now_s, servers={"s1": view}, window_s=60.0), data, state
        )
        foreseen = after["s1"].foreseen
        assert foreseen is not None
        return foreseen.asked[-1], after

    first_rpm, state = sized_by(1000.0, view, {})
    replica_rpm = state["s1"].replica_rpm
    assert first_rpm == 0.0 < replica_rpm, "it was not known what a replica takes"
    assert sized_by(1001.0, view, state)[0] == replica_rpm, "now it is"
    _, state = sized_by(1001.0, view, state)
    state = {"s1": replace(state["s1"], replica_rpm=0.5 * replica_rpm)}
    assert sized_by(1002.0, view, state)[0] == replica_rpm, "nothing new is seen"
    sampled = replace(view, load=replace(load))
    assert sized_by(1002.0, sampled, state)[0] == 0.5 * replica_rpm, "a sample is new"
