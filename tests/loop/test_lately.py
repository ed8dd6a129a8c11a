"""What slo remembers of servers of which nothing has changed changes no decision."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from loop.controller import Controller
from loop.data import FixedData
from loop.drivers import SimDriver
from loop.policies.slo import SloPolicy
from loop.policies.slo.demand import Memories
from loop.spec import SystemData
from loop.testing.fakes import ManualClock
from loop.types import Decision, Snapshot
from tests.loop.sim_worlds import sim_world


@dataclass(frozen=True, slots=True, kw_only=True)
class Twice:
    """Asks slo, and one like it that has not been asked before; they must say the same."""

    slo: SloPolicy = field(default_factory=SloPolicy)
    quiet: list[int] = field(default_factory=list)
    name: str = "twice"
    tick_s: float = 1.0

    def start(self) -> Memories:
        """Return what slo begins with."""
        return self.slo.start()

    def decide(
        self, snapshot: Snapshot, data: SystemData, state: Memories
    ) -> tuple[Decision, Memories]:
        """Return what both decide."""
        before = dict(self.slo.lately.demanded)
        decision, after = self.slo.decide(snapshot, data, state)
        anew, _ = replace(self.slo).decide(snapshot, data, state)
        assert decision == anew
        now = self.slo.lately.demanded
        self.quiet.append(sum(now.get(name) is one for name, one in before.items()))
        return decision, after


@pytest.mark.costly
def test_what_is_remembered_of_a_server_is_what_would_be_found_anew() -> None:
    """A cycle a second sees nothing new of most servers, and must not miss a demand given up."""
    world, policy = sim_world(alpha=0.5, actuation_s=7.0), Twice()
    loop = Controller(
        backend=world.backend,
        policy=policy,
        data=FixedData(world.data),
        clock=ManualClock(step_s=0.01),
    )
    driver = SimDriver(world.env, loop, period_s=1.0)
    world.env.run(until=400.5)
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
    assert sum(policy.quiet) > 400, "of half of what was asked nothing was new"
