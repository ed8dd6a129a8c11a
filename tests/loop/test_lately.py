"""What slo remembers of servers of which nothing has changed changes no decision."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

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
    decided: list[Decision] = field(default_factory=list)
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
        self.decided.append(decision)
        now = self.slo.lately.demanded
        self.quiet.append(sum(now.get(name) is one for name, one in before.items()))
        return decision, after


@pytest.mark.costly
@pytest.mark.parametrize(
    ("period_s", "until_s", "quiet", "stood"),
    [
        pytest.param(1.0, 400.5, 400, 200, id="a cycle a second"),
        pytest.param(3.0, 700.0, 40, 15, id="until loads have been seen for long"),
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
