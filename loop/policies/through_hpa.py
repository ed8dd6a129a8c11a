"""Any policy behind an HPA: what it wants is an External metric, and a HorizontalPodAutoscaler
with AverageValue 1 makes replicas of it, as where operators export a desired number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from loop.policies.hpa import MILLI
from loop.policies.hpa_rules import (
    INT32_MAX,
    Bounds,
    Memory,
    MetricError,
    Outcome,
    Proposal,
    Tolerance,
    average_value_replicas,
    reconcile,
)
from loop.policies.replicas import Answer, Choice, Options, ReplicaBounds, decide_each
from loop.policies.slo import SloPolicy
from loop.spec import ServerData
from loop.types import Decision, ServerView, Snapshot, Target, Why, WhyKind

if TYPE_CHECKING:
    from loop.ports import Policy
    from loop.spec import SystemData


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is remembered: of the policy behind, when it decided last and what, and of the HPA by
    server.
    """

    inner: Any
    decided_s: float = -math.inf
    decision: Decision = field(default_factory=lambda: Decision(targets={}))
    memories: Mapping[str, Memory] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughHpaPolicy:
    """Gives what *policy* wants to an HPA. It chooses replicas only: servers keep accelerator and
    max batch, and a target of zero is one replica.
    """

    policy: Policy = field(default_factory=SloPolicy)
    tolerance: float = 0.1
    stabilization_s: float = 300.0
    min_replicas: int = 1
    name: str = "through_hpa"
    tick_s: float = 15.0

    def __post_init__(self) -> None:
        check = Options(self.name)
        check.number("tolerance", self.tolerance, low=0.0)
        check.number("stabilization_s", self.stabilization_s, low=0.0)
        check.whole("min_replicas", self.min_replicas, low=1)

    @property
    def samples_s(self) -> float | None:
        """Return the samples that the policy behind needs."""
        return getattr(self.policy, "samples_s", None)

    @property
    def load_window_s(self) -> float | None:
        """Return the window of the load that the policy behind needs."""
        return getattr(self.policy, "load_window_s", None)

    def start(self) -> Kept:
        """Return the state before the first sync."""
        return Kept(inner=self.policy.start())

    def decide(self, snapshot: Snapshot, data: SystemData, state: Kept) -> tuple[Decision, Kept]:
        """Return what one sync makes of what the policy behind wanted by the sync before: what it
        exports is scraped before the HPA can ask for it.
        """
        wanted = state.decision.targets
        if snapshot.now_s - state.decided_s >= self.policy.tick_s:
            decision, inner = self.policy.decide(snapshot, _staying(snapshot, data), state.inner)
            state = replace(state, inner=inner, decided_s=snapshot.now_s, decision=decision)

        def rule(
            view: ServerView, bounds: ReplicaBounds, memory: Memory | None, now_s: float
        ) -> Answer[Memory]:
            return self._rule(view, wanted.get(view.name), bounds, memory or Memory(), now_s)

        decision, memories = decide_each(snapshot, data, state.memories, rule)
        decision = replace(decision, unserved=state.decision.unserved)
        return decision, replace(state, memories=memories)

    def _rule(
        self,
        view: ServerView,
        target: Target | None,
        bounds: ReplicaBounds,
        memory: Memory,
        now_s: float,
    ) -> Answer[Memory]:
        low = max(bounds.low, self.min_replicas)

        def propose() -> Proposal:
            if target is None or target.held:
                raise MetricError(target.why.text if target else "nothing is decided for it")
            there = view.ready + view.starting + view.pending
            tolerance = Tolerance(down=self.tolerance, up=self.tolerance)
            return average_value_replicas(
                there, target.replicas * MILLI, target=MILLI, tolerance=tolerance
            )

        outcome = reconcile(
            propose,
            current=view.wanted,
            bounds=Bounds(low=low, high=INT32_MAX if bounds.high is None else bounds.high),
            memory=memory,
            now_s=now_s,
            down_window_s=self.stabilization_s,
        )
        return Answer(choice=_choice(outcome, target), state=outcome.memory)


def _choice(outcome: Outcome, target: Target | None) -> Choice | Why:
    if outcome.error or target is None:
        return Why(kind="held-unknown", text=outcome.error or "nothing is decided for it")
    kind: WhyKind = "bound"
    if outcome.proposal is not None:
        kind = target.why.kind
        if outcome.replicas != target.replicas:
            kind = "stabilization"
    text = f"{target.replicas} wanted ({target.why.text}), {outcome.replicas} by the HPA"
    details = {**target.why.details, "policyReplicas": target.replicas}
    return Choice(replicas=outcome.replicas, why=Why(kind=kind, text=text, details=details))


def _staying(snapshot: Snapshot, data: SystemData) -> SystemData:
    """Return *data* in which every server stays on its accelerator, at its batch."""
    servers = dict(data.servers)
    for name, view in snapshot.servers.items():
        base = servers.get(name) or ServerData(name=name, model=view.model)
        servers[name] = replace(
            base, keep_accelerator=True, max_batch=view.max_batch or base.max_batch
        )
    return replace(data, servers=servers)
