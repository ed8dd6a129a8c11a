"""AIBrix' PodAutoscaler as a policy, APA and KPA, as it is implemented and as it is documented.

Restated from pkg/controller/podautoscaler of AIBrix, with the guard that since September 2026 keeps
it from asking for pods again while those that it asked for load. Three things differ between the
two: the cooldown takes the largest recommendation on the way up and the smallest on the way down,
where a cooldown does the reverse; a panic holds nothing, for its memory is never kept; and KPA
divides the mean of a pod by the target, where Knative divides the total.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from loop.policies.hpa_rules import Recommendation
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
    not_told,
    of_pod,
    sampled,
    target_of,
    total_of,
)
from loop.types import Decision, ServerView, Snapshot, Why, WhyKind

if TYPE_CHECKING:
    from loop.spec import SystemData

Algorithm = Literal["apa", "kpa"]
Mode = Literal["as_implemented", "as_documented"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How far a figure may be from its target, and by what factor replicas may change at once."""

    up_tolerance: float = 0.1
    down_tolerance: float = 0.1
    up: float = 2.0
    down: float = 2.0


def apa(current: int, *, mean: float, target: float, rates: Rates) -> int:
    """Return the replicas for a *mean* per pod; those that there are, for a target of nothing."""
    if target <= 0:
        return current
    ratio = mean / target
    if ratio > 1 + rates.up_tolerance:
        return min(math.ceil(current * ratio), math.ceil(rates.up * current))
    if ratio < 1 - rates.down_tolerance:
        return max(math.ceil(current * ratio), math.floor(current / rates.down))
    return current


def kpa(
    current: int,
    *,
    stable: float,
    panic: float,
    target: float,
    rates: Rates,
    panics: bool,
    most: int = 0,
    activation_scale: int = 1,
) -> int:
    """Return the replicas for figures over two windows. *most* is what a panic has wanted so
    far.
    """
    if target <= 0:
        return current

    def wanted(value: float) -> int:
        outside = value > target * (1 + rates.up_tolerance) or value < target * (
            1 - rates.down_tolerance
        )
        raw = math.ceil(value / target) if outside else current
        high = max(1, math.ceil(rates.up * current))
        bounded = min(max(raw, math.floor(current / rates.down)), high)
        return max(bounded, activation_scale) if bounded > 0 else bounded

    steady = wanted(stable)
    return max(steady, wanted(panic), most) if panics else steady


def guarded(
    proposal: int, *, current: int, ready: int, mean: float, target: float, algorithm: Algorithm
) -> int:
    """Return *proposal* while of *current* replicas only so many are *ready*, whose *mean* it was
    made of: the others count for nothing on the way up and for the target on the way down, and a
    direction never turns.
    """
    late = current - min(ready, current)
    if late == 0 or proposal == current or target <= 0:
        return proposal
    used = mean * (current - late)
    if proposal > current:
        # KPA takes the mean of a pod for what all of them need, here as elsewhere.
        needed = math.ceil((used if algorithm == "apa" else used / current) / target)
        return min(max(needed, current), proposal)
    return max(min(math.ceil((used + target * late) / target), current), proposal)


def cooled(
    proposal: int,
    *,
    current: int,
    recommendations: Sequence[Recommendation],
    now_s: float,
    up_s: float,
    down_s: float,
    mode: Mode,
) -> int:
    """Return *proposal* after the cooldown of its direction."""
    if proposal == current:
        return current
    rises = proposal > current
    window_s = up_s if rises else down_s
    recent = [one.replicas for one in recommendations if now_s - one.at_s < window_s]
    largest = rises == (mode == "as_implemented")
    found = (max if largest else min)([proposal, *recent])
    # What was wanted at a lower load delays the way up, and does not turn it.
    return max(found, current) if rises else found


# -- the policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What the policy remembers of one server: the means of a pod over time, what it recommended,
    and the most that a panic wanted.
    """

    means: tuple[tuple[float, float], ...] = ()
    recommendations: tuple[Recommendation, ...] = ()
    most: int = 0


State = Mapping[str, Kept]
NOTHING: State = MappingProxyType({})
EMPTY = Kept()


@dataclass(frozen=True, slots=True, kw_only=True)
class AibrixPolicy:
    """Scales so that a pod has *target* of *metric* on the mean of the stable window: by default of
    its max batch. The examples of AIBrix have half of the KV cache.

    max_replicas: its PodAutoscaler must name one.
    """

    algorithm: Algorithm = "apa"
    mode: Mode = "as_implemented"
    metric: Metric = "running"
    target: float = 0.6
    up_tolerance: float = 0.1
    down_tolerance: float = 0.1
    max_scale_up_rate: float = 2.0
    max_scale_down_rate: float = 2.0
    scale_up_cooldown_s: float = 0.0
    scale_down_cooldown_s: float = 300.0
    stable_window_s: float = 180.0
    panic_window_s: float = 60.0
    panic_threshold: float = 2.0
    min_replicas: int = 1
    max_replicas: int = 100
    name: str = "aibrix"
    tick_s: float = 10.0
    samples_s: float | None = 1.0

    def __post_init__(self) -> None:
        check = Options(self.name)
        check.one_of("algorithm", self.algorithm, ("apa", "kpa"))
        check.one_of("mode", self.mode, ("as_implemented", "as_documented"))
        check.one_of("metric", self.metric, METRICS)
        for name in ("target", "stable_window_s", "panic_window_s", "panic_threshold"):
            check.number(name, getattr(self, name), low=0.0, above=True)
        for name in ("max_scale_up_rate", "max_scale_down_rate"):
            check.number(name, getattr(self, name), low=1.0, above=True)
        for name in (
            "up_tolerance",
            "down_tolerance",
            "scale_up_cooldown_s",
            "scale_down_cooldown_s",
        ):
            check.number(name, getattr(self, name), low=0.0)
        check.whole("min_replicas", self.min_replicas, low=0)
        check.whole("max_replicas", self.max_replicas, low=max(self.min_replicas, 1))

    def start(self) -> State:
        """Return the state of a controller that has just begun."""
        return NOTHING

    def decide(self, snapshot: Snapshot, data: SystemData, state: State) -> tuple[Decision, State]:
        """Return what one resync makes of every server."""
        return decide_each(snapshot, data, state, self._rule)

    def _rule(
        self, view: ServerView, bounds: ReplicaBounds, state: Kept | None, now_s: float
    ) -> Answer[Kept]:
        kept = state or EMPTY
        target, current = target_of(view, self.metric, self.target), view.wanted
        if target is None:
            return Answer(choice=NO_BATCH, state=kept)
        if not sampled(view):
            return Answer(choice=NOT_SAMPLED, state=kept)
        low = max(bounds.low, self.min_replicas)
        high = self.max_replicas if bounds.high is None else min(self.max_replicas, bounds.high)
        limits = ReplicaBounds(low=low, high=high)
        if current == 0 and low > 0:
            return Answer(
                choice=Why(kind="unchanged", text="disabled: it has zero replicas"), state=kept
            )
        if limits.clamp(current) != current:
            why = Why(kind="bound", text="outside of its bounds: the metrics are not asked")
            return Answer(choice=Choice(replicas=limits.clamp(current), why=why), state=kept)
        mean = self._mean(view)
        if mean is None:
            return Answer(choice=not_told(view, self.metric) or NOT_SAMPLED, state=kept)
        known = tuple(one for one in kept.means if now_s - one[0] < self.stable_window_s)
        untold = not_told(view, self.metric) is not None
        # The least that there can be now, and means of all pods, are no one series.
        kept = replace(kept, means=(*(() if untold else known), (now_s, mean)))
        stable = sum(value for _, value in kept.means) / len(kept.means)
        if self.algorithm == "apa":
            proposal = apa(current, mean=stable, target=target, rates=self._rates())
            used, panics = stable, False
        else:
            proposal, used, panics, kept = self._kpa(view, target, stable, kept, now_s)
        if not self._by_totals:
            proposal = guarded(
                proposal,
                current=current,
                ready=view.ready,
                mean=used,
                target=target,
                algorithm=self.algorithm,
            )
        replicas = cooled(
            proposal,
            current=current,
            recommendations=kept.recommendations,
            now_s=now_s,
            up_s=self.scale_up_cooldown_s,
            down_s=self.scale_down_cooldown_s,
            mode=self.mode,
        )
        longest_s = max(self.scale_up_cooldown_s, self.scale_down_cooldown_s)
        log = tuple(one for one in kept.recommendations if now_s - one.at_s < longest_s)
        if not (untold and proposal < current):
            # Less, for silent pods that count as empty, is nothing that the cooldown may choose.
            log = (*log, Recommendation(replicas=proposal, at_s=now_s))
        kept = replace(kept, recommendations=log)
        if untold:
            kept = replace(kept, means=known)
        kind: WhyKind = "panic" if panics else "metric"
        text = f"{self.metric} {used:g} a pod for {target:g}, {mean:g} now: {proposal}"
        if replicas != proposal:
            kind, text = "stabilization", f"{text}; {replicas} by the cooldown"
        why = Why(kind=kind, text=text, details={"usage": used, "proposal": proposal})
        choice = Choice(replicas=limits.clamp(replicas), why=why)
        return Answer(choice=choice, state=kept, goes_by=self.metric)

    @property
    def _by_totals(self) -> bool:
        # Of Knative the original is told in totals, in which new pods change nothing.
        return self.algorithm == "kpa" and self.mode == "as_documented"

    def _kpa(
        self, view: ServerView, target: float, stable: float, kept: Kept, now_s: float
    ) -> tuple[int, float, bool, Kept]:
        recent = [value for at_s, value in kept.means if now_s - at_s < self.panic_window_s]
        panic = sum(recent) / len(recent)
        panics = stable <= 0 or panic / stable > self.panic_threshold
        documented = self.mode == "as_documented"
        pods = max(view.ready, 1) if self._by_totals else 1
        proposal = kpa(
            view.wanted,
            stable=stable * pods,
            panic=panic * pods,
            target=target,
            rates=self._rates(),
            panics=panics,
            most=kept.most if documented else 0,
        )
        most = max(kept.most, proposal) if panics and documented else 0
        return proposal, panic if panics else stable, panics, replace(kept, most=most)

    def _mean(self, view: ServerView) -> float | None:
        ready = [pod for pod in view.pods if pod.phase == "ready"]
        values = [value for pod in ready if (value := of_pod(pod, self.metric)) is not None]
        if values:
            # Those that do not tell are no fuller for what the others are: they count as empty, and
            # nothing is taken away.
            return sum(values) / len(ready if not_told(view, self.metric) else values)
        if not_told(view, self.metric) or view.pods:
            return None
        return total_of(view, self.metric) / max(view.ready, 1)

    def _rates(self) -> Rates:
        return Rates(
            up_tolerance=self.up_tolerance,
            down_tolerance=self.down_tolerance,
            up=self.max_scale_up_rate,
            down=self.max_scale_down_rate,
        )
