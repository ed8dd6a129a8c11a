"""What stands while servers only grow older is what would be decided of them anew; what came of it
is no reason to decide again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from operator import and_

from loop.controller import Controller
from loop.data import FixedData
from loop.policies.slo import SloPolicy
from loop.policies.slo.demand import Memories
from loop.replacing import replace
from loop.spec import SystemData
from loop.testing.fakes import ManualClock, server_view, system
from loop.types import Decision, Load, ServerView, Snapshot, only_older
from tests.loop.sim_worlds import sim_world


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Decides as *policy* does, and asks one that has decided nothing before, but knows what sizing
    found, too; of servers that have only grown older since, it does not know what was decided last,
    either. same: whether each decision was the very one before; seen: of what it was decided.
    """

    policy: SloPolicy
    same: list[bool] = field(default_factory=list)
    seen: list[dict[str, ServerView]] = field(default_factory=list)
    pods: list[int] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    name: str = "checked"
    tick_s: float = 1.0

    def start(self) -> Memories:
        """Return what *policy* begins with."""
        return self.policy.start()

    def decide(
        self, snapshot: Snapshot, data: SystemData, state: Memories
    ) -> tuple[Decision, Memories]:
        """Return what *policy* decides."""
        decision, after = self.policy.decide(snapshot, data, state)
        same = bool(self.decisions) and decision is self.decisions[-1]
        views = dict(snapshot.servers)
        if not same:
            self.seen.append(views)
        if all(only_older(view, self.seen[-1][name]) for name, view in views.items()):
            anew, _ = SloPolicy(cache=self.policy.cache).decide(
                replace(snapshot, servers=views), data, dict(state) if same else state
            )
            assert decision == anew
        self.same.append(same)
        self.decisions.append(decision)
        self.pods.append(sum(len(view.pods) for view in views.values()))
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


def test_what_was_asked_for_is_no_news_as_it_comes() -> None:
    """The replicas that were asked for, and their pods, were a reason to decide again a second
    later, and each decision that changed something made two. What somebody else asks for is one.
    """
    data, slo = replace(system(), servers={}), SloPolicy(tick_s=1.0)
    load = Load(rate_rpm=900.0, in_tokens=512.0, out_tokens=128.0)
    view, state = server_view(load=load, wanted=4, ready=4), slo.start()

    def decided(now_s: float, view: ServerView) -> Decision:
        nonlocal state
        snapshot = Snapshot(now_s=now_s, servers={"s1": view}, window_s=60.0)
        decision, state = slo.decide(snapshot, data, state)
        return decision

    decided(1000.0, view)
    last = decided(1001.0, view)
    pools = last.targets["s1"].pools
    assert pools != view.pools
    less = replace(view, pools=pools, ready=pools[0].replicas, draining=2)
    assert decided(1002.0, less) is last
    assert decided(1003.0, replace(less, draining=0)) is last
    other = replace(view, pools=(replace(pools[0], replicas=6),), starting=2)
    assert decided(1004.0, other) is not last
