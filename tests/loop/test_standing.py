"""What stands while servers only grow older is what would be decided of them anew."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from operator import and_
from typing import Any

from loop.controller import Controller
from loop.data import FixedData
from loop.policies.slo import SloPolicy
from loop.replacing import replace
from loop.spec import SystemData
from loop.testing.fakes import ManualClock
from loop.types import Decision, Snapshot
from tests.loop.sim_worlds import sim_world


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Decides as *policy* does, and asks one that has decided nothing before, but knows what sizing
    found, too. same: whether each decision was the very one before; pods: how many there were.
    """

    policy: SloPolicy
    same: list[bool] = field(default_factory=list)
    pods: list[int] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    name: str = "checked"
    tick_s: float | None = None

    def start(self) -> Any:
        """Return what *policy* begins with."""
        return self.policy.start()

    def decide(
        self, snapshot: Snapshot, data: SystemData, state: object
    ) -> tuple[Decision, object]:
        """Return what *policy* decides."""
        decision, after = self.policy.decide(snapshot, data, state)
        seen = replace(snapshot, servers=dict(snapshot.servers))
        anew, _ = SloPolicy(cache=self.policy.cache).decide(seen, data, state)
        assert decision == anew
        self.same.append(bool(self.decisions) and decision is self.decisions[-1])
        self.decisions.append(decision)
        self.pods.append(sum(len(view.pods) for view in snapshot.servers.values()))
        return decision, after


def test_what_stands_is_what_is_decided_anew() -> None:
    """A loop that looks every second decides a few times a minute, and takes the last decision
    without a look at any server else: for one of them that does not stand, nobody would know.
    """
    world = sim_world(alpha=0.5, rate_rpm=2400.0, start_up_s=7.5)
    policy = Checked(policy=SloPolicy())
    loop = Controller(
        backend=world.backend,
        policy=policy,
        data=FixedData(world.data),
        clock=ManualClock(step_s=0.001),
    )
    for step in range(1, 80):
        world.env.run(until=float(step) + 0.25)
        loop.cycle(float(step) + 0.25)
    assert 40 < sum(policy.same) < 75
    gone = [now < last for last, now in pairwise(policy.pods)]
    assert any(map(and_, gone, policy.same[1:])), "nothing stood while pods came and went"
