"""The Workload Variant Autoscaler of llm-d as a policy: its saturation analysis V1, from the KV
cache and the queue of each replica.

Restated from the analyzer of llm-d's workload-variant-autoscaler. There, variants of a model share
its requests; here each server has its own, so that each is a model of one variant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from loop.policies.replicas import (
    NO_PODS,
    NOT_SAMPLED,
    Answer,
    Choice,
    Metric,
    Options,
    ReplicaBounds,
    decide_each,
    not_told,
    of_pod,
    sampled,
)
from loop.types import Decision, PodView, ServerView, Snapshot, Why

if TYPE_CHECKING:
    from loop.spec import SystemData

GAUGES: tuple[Metric, Metric] = ("kv", "waiting")
REPLICAS_FOR_LESS = 2  # with fewer that are not saturated none is taken away
PEAK_S = 60.0  # the original asks Prometheus for max_over_time(...[1m]) of both gauges of each pod


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """When a replica is saturated, and how much must be spare."""

    kv_cache: float = 0.80
    queue_length: float = 5.0
    kv_spare: float = 0.10
    queue_spare: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """What one replica tells; what it does not is None, and counts as saturated."""

    variant: str
    kv_usage: float | None
    queue: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What is spare over the replicas that are not saturated, and what follows."""

    replicas: int
    not_saturated: int
    spare_kv: float
    spare_queue: float
    kv_mean: float
    kv_most: float
    scale_up: bool
    scale_down_safe: bool


def analyzed(replicas: Sequence[Replica], thresholds: Thresholds) -> Analysis:
    """Return the analysis of all replicas of a model."""
    spare_kv = spare_queue = 0.0
    count = 0
    for one in replicas:
        if one.kv_usage is None or one.queue is None:
            continue
        if one.kv_usage < thresholds.kv_cache and one.queue < thresholds.queue_length:
            count += 1
            spare_kv += thresholds.kv_cache - one.kv_usage
            spare_queue += thresholds.queue_length - one.queue
    if count:
        spare_kv, spare_queue = spare_kv / count, spare_queue / count
    known = [one.kv_usage for one in replicas if one.kv_usage is not None]
    return Analysis(
        replicas=len(replicas),
        not_saturated=count,
        spare_kv=spare_kv,
        spare_queue=spare_queue,
        kv_mean=sum(known) / len(known) if known else 0.0,
        kv_most=max(known, default=0.0),
        scale_up=bool(replicas)
        and (spare_kv < thresholds.kv_spare or spare_queue < thresholds.queue_spare),
        scale_down_safe=_safe(count, spare_kv, spare_queue, thresholds),
    )


def _safe(count: int, spare_kv: float, spare_queue: float, thresholds: Thresholds) -> bool:
    """Tell whether enough is spare once one replica's load is on the others."""
    if count < REPLICAS_FOR_LESS:
        return False
    factor = count / (count - 1)
    kv = thresholds.kv_cache - (thresholds.kv_cache - spare_kv) * factor
    queue = thresholds.queue_length - (thresholds.queue_length - spare_queue) * factor
    return kv >= thresholds.kv_spare and queue >= thresholds.queue_spare


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One variant of a model. desired is what was asked for last, 0 if nothing was."""

    name: str
    cost: float
    current: int
    desired: int = 0
    pending: int = 0

    @property
    def changes(self) -> bool:
        """Tell whether it is on its way to something."""
        return self.pending > 0 or self.desired not in (0, self.current)


def targets(
    variants: Sequence[Variant], *, scale_up: bool, scale_down_safe: bool
) -> dict[str, int]:
    """Return the replicas of each variant: one more of the cheapest, one less of the dearest, or
    none while any of them changes.
    """
    found = {one.name: one.current for one in variants}
    if any(one.changes for one in variants):
        return {one.name: one.desired or one.current for one in variants}
    if scale_up and variants:
        cheapest = min(variants, key=lambda one: (one.cost, one.name))
        found[cheapest.name] += 1
    elif scale_down_safe:
        several = [one for one in variants if one.current > 1]
        if several:
            dearest = max(several, key=lambda one: (one.cost, one.name))
            found[dearest.name] -= 1
    return found


# -- the policy


class Sample(NamedTuple):
    """What one scrape of a pod found; None is what the pod did not tell."""

    at_s: float
    kv_usage: float | None
    queue: float | None


Samples = Mapping[str, tuple[Sample, ...]]  # of the last minute, by pod
State = Mapping[str, Samples]  # by server
NOTHING: State = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class WvaPolicy:
    """Adds or removes one replica at a time, by what is spare of KV cache and queue at the peak of
    the last minute.
    """

    kv_cache_threshold: float = 0.80
    queue_length_threshold: float = 5.0
    kv_spare_trigger: float = 0.10
    queue_spare_trigger: float = 3.0
    name: str = "wva"
    tick_s: float = 15.0
    samples_s: float | None = None

    def __post_init__(self) -> None:
        check = Options(self.name)
        for name in (
            "kv_cache_threshold",
            "queue_length_threshold",
            "kv_spare_trigger",
            "queue_spare_trigger",
        ):
            check.number(name, getattr(self, name), low=0.0, above=True)

    def start(self) -> State:
        """Return the state of a controller that has seen no pod yet."""
        return NOTHING

    def decide(self, snapshot: Snapshot, data: SystemData, state: State) -> tuple[Decision, State]:
        """Return what one interval makes of every server."""
        return decide_each(snapshot, data, state, self._rule)

    def _rule(
        self,
        view: ServerView,
        bounds: ReplicaBounds,  # noqa: ARG002 the port
        state: Samples | None,
        now_s: float,
    ) -> Answer[Samples]:
        seen = _with_samples(state or {}, view.pods, now_s=now_s)
        if not sampled(view):
            return Answer(choice=NOT_SAMPLED, state=seen)
        untold = not_told(view, "kv") or not_told(view, "waiting")
        ready = [pod for pod in view.pods if pod.phase == "ready"]
        if not ready and view.ready > 0:
            return Answer(choice=untold or NO_PODS, state=seen)
        # The original knows no pod of which it has no series yet.
        telling = [pod for pod in ready if (_tells(pod) if untold else pod.name in seen)]
        if ready and not telling:
            return Answer(choice=untold or NOT_SAMPLED, state=seen)
        if untold and 2 * len(telling) <= len(ready):
            # A few that are saturated would ask for more for good where no new one tells.
            return Answer(choice=untold, state=seen)
        replicas = [_replica(view.name, seen.get(pod.name, ())) for pod in telling]
        thresholds = Thresholds(
            kv_cache=self.kv_cache_threshold,
            queue_length=self.queue_length_threshold,
            kv_spare=self.kv_spare_trigger,
            queue_spare=self.queue_spare_trigger,
        )
        found = analyzed(replicas, thresholds)
        variant = Variant(
            name=view.name,
            cost=0.0,
            current=view.wanted,
            pending=max(view.wanted - view.ready, view.starting + view.pending),
        )
        wanted = targets(
            [variant],
            scale_up=found.scale_up,
            scale_down_safe=found.scale_down_safe and not untold,
        )
        text = (
            f"{found.not_saturated} of {found.replicas} replicas are not saturated at the "
            f"peak of the last minute, with {found.spare_kv:.2f} of the KV cache and "
            f"{found.spare_queue:.1f} requests spare"
        )
        if variant.changes:
            text = f"{text}; replicas are on their way"
        if untold:
            text = f"{text}; {untold.text}"
        why = Why(kind="unchanged" if wanted[view.name] == view.wanted else "metric", text=text)
        return Answer(choice=Choice(replicas=wanted[view.name], why=why), state=seen)


def _tells(pod: PodView) -> bool:
    """Tell whether *pod* tells its KV cache or its queue."""
    return any(of_pod(pod, metric) is not None for metric in GAUGES)


def _with_samples(before: Samples, pods: Sequence[PodView], *, now_s: float) -> Samples:
    """Return the samples of the last minute of the *pods* that there are."""
    found: dict[str, tuple[Sample, ...]] = {}
    for pod in pods:
        kept = tuple(one for one in before.get(pod.name, ()) if one.at_s > now_s - PEAK_S)
        if pod.sample_age_s is not None:
            at_s = now_s - pod.sample_age_s
            kv_usage, queue = (of_pod(pod, metric) for metric in GAUGES)
            if not kept or at_s > kept[-1].at_s:
                kept = (*kept, Sample(at_s, kv_usage, queue))
        if kept:
            found[pod.name] = kept
    return found


def _replica(variant: str, samples: Sequence[Sample]) -> Replica:
    """Return the peak of a pod's *samples*. Of one that was sampled, a gauge that it never tells is
    0: engines may never have it, and it is judged by the other.
    """
    if not samples:
        return Replica(variant=variant, kv_usage=None, queue=None)
    return Replica(
        variant=variant,
        kv_usage=max((one.kv_usage for one in samples if one.kv_usage is not None), default=0.0),
        queue=max((one.queue for one in samples if one.queue is not None), default=0.0),
    )
