"""Kubernetes' HorizontalPodAutoscaler as a policy: a metric of the pods, or one of the whole,
against its target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from loop.policies.hpa_rules import (
    INT32_MAX,
    SCALE_DOWN,
    SCALE_UP,
    Behavior,
    Bounds,
    Memory,
    MeteredPod,
    Outcome,
    Phase,
    Proposal,
    Rate,
    Rules,
    average_value_replicas,
    pods_replicas,
    reconcile,
    tolerance_of,
)
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
    of_pod,
    sampled,
    target_of,
    total_of,
)
from loop.types import Decision, PodPhase, PodView, ServerView, Snapshot, Why, WhyKind

if TYPE_CHECKING:
    from loop.spec import SystemData

MILLI = 1000
Form = Literal["pods", "external"]
State = Mapping[str, Memory]
NOTHING: State = MappingProxyType({})
BEGINNING = Memory()
Select = Literal["Max", "Min", "Disabled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HpaPolicy:
    """Scales so that a replica has *target* of *metric*: a share of its max batch for what is in
    flight or runs, a share of its KV cache, or so many requests that wait.

    form "pods": the mean of the pods, as the Pods metrics of an adapter; "external": the sum of the
    server with what waits at the router, as an External metric with AverageValue. max_replicas None
    is the server's own upper bound. scale_up_… and scale_down_… are spec.behavior, which is in
    force as soon as one of them is given, or *behavior* is true; the parts left out are as
    Kubernetes fills them in.
    """

    target: float = 0.6
    metric: Metric = "in_flight"
    form: Form = "pods"
    tolerance: float = 0.1
    min_replicas: int = 1
    max_replicas: int | None = None
    stabilization_s: float = 300.0
    behavior: bool = False
    scale_up_window_s: float | None = None
    scale_up_pods: int | None = None
    scale_up_percent: int | None = None
    scale_up_period_s: float = 15.0
    scale_up_select: Select = "Max"
    scale_up_tolerance: float | None = None
    scale_down_pods: int | None = None
    scale_down_percent: int | None = None
    scale_down_period_s: float = 15.0
    scale_down_select: Select = "Max"
    scale_down_tolerance: float | None = None
    name: str = "hpa"
    tick_s: float = 15.0
    samples_s: float | None = None
    rules: Behavior | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check = Options(self.name)
        check.number("target", self.target, low=0.0, above=True)
        check.one_of("metric", self.metric, METRICS)
        check.one_of("form", self.form, ("pods", "external"))
        check.number("tolerance", self.tolerance, low=0.0)
        check.whole("min_replicas", self.min_replicas, low=1)
        check.number("stabilization_s", self.stabilization_s, low=0.0)
        check.flag("behavior", self.behavior)
        if self.max_replicas is not None:
            check.whole("max_replicas", self.max_replicas, low=self.min_replicas)
        for name in ("scale_up_pods", "scale_up_percent", "scale_down_pods", "scale_down_percent"):
            if (value := getattr(self, name)) is not None:
                check.whole(name, value, low=1)
        if self.scale_up_window_s is not None:
            check.number("scale_up_window_s", self.scale_up_window_s, low=0.0)
        for name in ("scale_up_tolerance", "scale_down_tolerance"):
            if (value := getattr(self, name)) is not None:
                check.number(name, value, low=0.0)
        for name in ("scale_up_period_s", "scale_down_period_s"):
            check.number(name, getattr(self, name), low=0.0, above=True)
        for name in ("scale_up_select", "scale_down_select"):
            check.one_of(name, getattr(self, name), ("Max", "Min", "Disabled"))
        object.__setattr__(self, "rules", self._behavior())

    def _behavior(self) -> Behavior | None:
        parts = (
            self.scale_up_window_s,
            self.scale_up_pods,
            self.scale_up_percent,
            self.scale_down_pods,
            self.scale_down_percent,
            self.scale_up_tolerance,
            self.scale_down_tolerance,
        )
        selects = {self.scale_up_select, self.scale_down_select}
        if not self.behavior and selects == {"Max"} and all(part is None for part in parts):
            return None
        up = _rates(self.scale_up_pods, self.scale_up_percent, self.scale_up_period_s)
        down = _rates(self.scale_down_pods, self.scale_down_percent, self.scale_down_period_s)
        return Behavior(
            up=Rules(
                rates=up or SCALE_UP.rates,
                window_s=self.scale_up_window_s or 0.0,
                select=self.scale_up_select,
                tolerance=self.scale_up_tolerance,
            ),
            down=Rules(
                rates=down or SCALE_DOWN.rates,
                window_s=self.stabilization_s,
                select=self.scale_down_select,
                tolerance=self.scale_down_tolerance,
            ),
        )

    def start(self) -> State:
        """Return the state of a controller that has just begun."""
        return NOTHING

    def decide(self, snapshot: Snapshot, data: SystemData, state: State) -> tuple[Decision, State]:
        """Return what one sync makes of every server."""
        return decide_each(snapshot, data, state, self._rule)

    def _rule(
        self, view: ServerView, bounds: ReplicaBounds, state: Memory | None, now_s: float
    ) -> Answer[Memory]:
        memory = state or BEGINNING
        target = target_of(view, self.metric, self.target)
        if target is None:
            return Answer(choice=NO_BATCH, state=memory)
        if not sampled(view):
            return Answer(choice=NOT_SAMPLED, state=memory)
        outcome = reconcile(
            partial(self._propose, view, target),
            current=view.wanted,
            bounds=self._bounds(bounds),
            memory=memory,
            now_s=now_s,
            behavior=self.rules,
            down_window_s=self.stabilization_s,
        )
        # By pods it reckons with those that do not tell as the real one does: full on the way down.
        by_pods = self.form == "pods" and view.pods
        return Answer(
            choice=choice_of(outcome, self.metric, target),
            state=outcome.memory,
            goes_by=None if by_pods else self.metric,
        )

    def _bounds(self, bounds: ReplicaBounds) -> Bounds:
        highs = [high for high in (bounds.high, self.max_replicas) if high is not None]
        low = max(bounds.low, self.min_replicas)
        return Bounds(low=low, high=max(min(highs, default=INT32_MAX), low))

    def _propose(self, view: ServerView, target: float) -> Proposal:
        tolerance = tolerance_of(self.rules, usual=self.tolerance)
        goal = max(round(target * MILLI), 1)
        # A recording and a remote collector do not tell of single pods, but of their sum.
        if self.form == "pods" and view.pods:
            pods = [metered(pod, self.metric) for pod in view.pods]
            return pods_replicas(view.wanted, pods, target=goal, tolerance=tolerance)
        there = view.ready + view.starting + view.pending
        total = round(total_of(view, self.metric) * MILLI)
        return average_value_replicas(there, total, target=goal, tolerance=tolerance)


def _rates(pods: int | None, percent: int | None, period_s: float) -> tuple[Rate, ...]:
    rates = []
    if pods is not None:
        rates.append(Rate(kind="Pods", value=pods, period_s=period_s))
    if percent is not None:
        rates.append(Rate(kind="Percent", value=percent, period_s=period_s))
    return tuple(rates)


# The container of a pod that loads its model runs; the pod is only not ready.
PHASES: Mapping[PodPhase, Phase] = MappingProxyType(
    {"pending": "Pending", "starting": "Running", "ready": "Running", "draining": "Running"}
)


def metered(pod: PodView, metric: Metric) -> MeteredPod:
    """Return *pod* as the autoscaler knows it."""
    value = of_pod(pod, metric)
    return MeteredPod(
        name=pod.name,
        phase=PHASES[pod.phase],
        ready=pod.phase == "ready",
        deleting=pod.phase == "draining",
        value=None if value is None else round(value * MILLI),
    )


KINDS: Mapping[str, WhyKind] = MappingProxyType(
    {
        "TooFewReplicas": "bound",
        "TooManyReplicas": "bound",
        "ScaleUpLimit": "step-limit",
        "ScaleDownLimit": "step-limit",
    }
)


def choice_of(outcome: Outcome, metric: str, target: float) -> Choice | Why:
    """Return the choice of a sync with its reason; why nothing changes if it had none."""
    if outcome.error:
        return Why(kind="held-unknown", text=outcome.error)
    seen = outcome.proposal
    if seen is None:
        why = Why(kind="bound", text=f"{outcome.condition}: the metrics are not asked")
        return Choice(replicas=outcome.replicas, why=why)
    kind: WhyKind = KINDS.get(outcome.condition, "metric")
    text = f"{metric} {seen.usage / MILLI:g} a pod for {target:g}: {seen.replicas}"
    if outcome.stabilized != seen.replicas:
        kind = "stabilization" if kind == "metric" else kind
        text = f"{text}; {outcome.stabilized} by recent recommendations"
    if outcome.condition != "DesiredWithinRange":
        text = f"{text}; {outcome.condition}"
    details = {"proposal": seen.replicas, "usage": seen.usage / MILLI, "target": target}
    return Choice(replicas=outcome.replicas, why=Why(kind=kind, text=text, details=details))
