"""KEDA as a policy: a poll that takes a server from zero and back to it, and an HPA on the total in
between.

Restated from pkg/scaling of KEDA.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

from loop.policies.hpa import MILLI, choice_of
from loop.policies.hpa_rules import Bounds, Memory, average_value_replicas, reconcile
from loop.policies.replicas import (
    METRICS,
    NO_BATCH,
    NOT_SAMPLED,
    Answer,
    Choice,
    Metric,
    Options,
    ReplicaBounds,
    decide_each,
    sampled,
    target_of,
    total_of,
)
from loop.types import Decision, ServerView, Snapshot, Why

if TYPE_CHECKING:
    from loop.spec import SystemData

Fallback = Literal["static", "current", "current_if_higher", "current_if_lower"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaler:
    """A ScaledObject: least is minReplicaCount, idle idleReplicaCount (None: there is none)."""

    least: int = 0
    idle: int | None = None
    cooldown_s: float = 300.0
    initial_cooldown_s: float = 0.0
    fallback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one poll knows of a scaler: whether any trigger is above its activation, whether one
    failed, when one was active last, and since when the scaler is there.
    """

    active: bool
    failed: bool = False
    active_s: float | None = None
    created_s: float = 0.0


def polled(current: int, seen: Seen, scaler: Scaler, *, now_s: float) -> int:
    """Return the replicas after a poll: only to and from zero, the idle count or the minimum."""
    if seen.active:
        idles = scaler.idle is not None and current < scaler.least
        return max(scaler.least, 1) if current == 0 or idles else current
    if seen.failed:
        return current
    ends = (scaler.idle is not None and current > scaler.idle) or (
        current > 0 and scaler.least == 0
    )
    if ends:
        cooled_s = scaler.cooldown_s
        since_s = seen.active_s
        if since_s is None:
            since_s, cooled_s = seen.created_s, scaler.initial_cooldown_s
        if since_s + cooled_s >= now_s:
            return current
        return scaler.least if scaler.idle is None else scaler.idle
    if scaler.idle is None and current < scaler.least:
        return scaler.least
    return current


def fallback_total(
    target: float, *, replicas: int, current: int, behavior: Fallback = "static"
) -> float:
    """Return the total that is reported for a trigger that has failed too often, so that the HPA
    comes to what the fallback wants.
    """
    wanted = {
        "static": replicas,
        "current": current,
        "current_if_higher": max(current, replicas),
        "current_if_lower": min(current, replicas),
    }[behavior]
    return target * wanted


# -- the policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What the policy remembers of one server."""

    created_s: float
    polled_s: float = -math.inf
    active_s: float | None = None
    failures: int = 0
    total: float = 0.0
    memory: Memory = field(default_factory=Memory)


State = Mapping[str, Kept]
NOTHING: State = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class KedaPolicy:
    """Scales so that a replica has *target* of *metric*, counted over the whole server with what
    waits at the router.

    A trigger is active above *activation* (of the metric, not of its share). fallback_replicas,
    if it is given, is what a server gets after failure_threshold syncs of the HPA without a metric.
    """

    target: float = 0.6
    metric: Metric = "in_flight"
    activation: float = 0.0
    polling_s: float = 30.0
    cooldown_s: float = 300.0
    initial_cooldown_s: float = 0.0
    idle_replicas: int | None = None
    max_replicas: int = 100
    use_cached_metrics: bool = False
    fallback_replicas: int | None = None
    fallback_behavior: Fallback = "static"
    failure_threshold: int = 3
    stabilization_s: float = 300.0
    name: str = "keda"
    tick_s: float = 15.0
    samples_s: float | None = None

    def __post_init__(self) -> None:
        check = Options(self.name)
        check.one_of("metric", self.metric, METRICS)
        check.one_of("fallback_behavior", self.fallback_behavior, get_args(Fallback))
        check.number("target", self.target, low=0.0, above=True)
        check.number("polling_s", self.polling_s, low=0.0, above=True)
        for name in ("activation", "cooldown_s", "initial_cooldown_s", "stabilization_s"):
            check.number(name, getattr(self, name), low=0.0)
        check.whole("max_replicas", self.max_replicas, low=1)
        check.whole("failure_threshold", self.failure_threshold, low=0)
        check.flag("use_cached_metrics", self.use_cached_metrics)
        for name in ("idle_replicas", "fallback_replicas"):
            if (value := getattr(self, name)) is not None:
                check.whole(name, value, low=0)

    def start(self) -> State:
        """Return the state of an operator that has just begun."""
        return NOTHING

    def decide(self, snapshot: Snapshot, data: SystemData, state: State) -> tuple[Decision, State]:
        """Return what one sync of the HPA, and a poll if it is due, make of every server."""
        return decide_each(snapshot, data, state, self._rule)

    def _rule(
        self, view: ServerView, bounds: ReplicaBounds, state: Kept | None, now_s: float
    ) -> Answer[Kept]:
        kept = state or Kept(created_s=now_s)
        target = target_of(view, self.metric, self.target)
        if target is None:
            return Answer(choice=NO_BATCH, state=kept)
        due = now_s - kept.polled_s >= self.polling_s
        failed = not sampled(view)
        total = kept.total
        if due or not self.use_cached_metrics:
            total = 0.0 if failed else total_of(view, self.metric)
        if due:
            active_s = now_s if total > self.activation and not failed else kept.active_s
            kept = replace(kept, polled_s=now_s, active_s=active_s, total=total)
        # The HPA's questions are what is counted, and it asks nothing of a server at zero.
        asked = view.wanted > 0
        kept = replace(kept, failures=(kept.failures + asked) if failed else 0)
        scaler = Scaler(
            least=bounds.low,
            idle=self.idle_replicas,
            cooldown_s=self.cooldown_s,
            initial_cooldown_s=self.initial_cooldown_s,
            fallback=self.fallback_replicas is not None,
        )
        seen = Seen(
            active=total > self.activation and not failed,
            failed=failed,
            active_s=kept.active_s,
            created_s=kept.created_s,
        )
        current = view.wanted
        replicas = polled(current, seen, scaler, now_s=now_s) if due else current
        if replicas != current or current == 0:
            activity = "active" if seen.active else "not active"
            why = Why(
                kind="no-load" if replicas == 0 else "metric",
                text=f"the trigger is {activity}: {self.metric} {total:g}",
            )
            choice = Choice(replicas=replicas, why=why)
            return Answer(choice=choice, state=kept, goes_by=self.metric)
        if failed:
            if self.fallback_replicas is None or kept.failures <= self.failure_threshold:
                return Answer(choice=NOT_SAMPLED, state=kept)
            total = fallback_total(
                target,
                replicas=self.fallback_replicas,
                current=current,
                behavior=self.fallback_behavior,
            )
        return self._scaled(view, kept, bounds, (target, total), now_s)

    def _scaled(
        self,
        view: ServerView,
        kept: Kept,
        bounds: ReplicaBounds,
        figures: tuple[float, float],
        now_s: float,
    ) -> Answer[Kept]:
        """Return what the HPA makes of a server that has replicas."""
        target, total = figures
        low = max(bounds.low, 1)
        high = min(self.max_replicas, self.max_replicas if bounds.high is None else bounds.high)
        there = view.ready + view.starting + view.pending
        outcome = reconcile(
            lambda: average_value_replicas(
                there, round(total * MILLI), target=max(round(target * MILLI), 1)
            ),
            current=view.wanted,
            bounds=Bounds(low=low, high=max(high, low)),
            memory=kept.memory,
            now_s=now_s,
            down_window_s=self.stabilization_s,
        )
        choice = choice_of(outcome, self.metric, target)
        return Answer(
            choice=choice, state=replace(kept, memory=outcome.memory), goes_by=self.metric
        )
