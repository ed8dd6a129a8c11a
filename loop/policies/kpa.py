"""Knative's pod autoscaler (KPA) as a policy: concurrency of the whole over two windows, and a
panic if the short one doubles what there is.

Restated from pkg/autoscaler of Knative Serving.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from loop.policies.replicas import (
    NO_BATCH,
    NOT_SAMPLED,
    Answer,
    Choice,
    Options,
    ReplicaBounds,
    decide_each,
    in_flight,
    not_told,
    sampled,
)
from loop.replacing import replace
from loop.types import Decision, GaugeSample, ServerView, Snapshot, Why

if TYPE_CHECKING:
    from loop.spec import SystemData

TICK_S = 2.0
TARGET_MIN = 0.01
PRECISION = 1e6  # digits that an average has
HELD_S = 60.0  # a gauge that is not sampled anew tells no longer what is
WEIGHT_MIN, WEIGHT_PRECISION = 0.2, 0.9999


# -- averages over a window


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """Sums per *granularity_s* of what was recorded within *window_s*.

    The average is over the seconds from the first to the last record, so that a young revision is
    not diluted; gaps between are zero. *weighted* counts the newest most. begun and latest are
    numbers of buckets.
    """

    window_s: float
    granularity_s: float = 1.0
    weighted: bool = False
    sums: Mapping[int, float] = field(default_factory=dict)
    begun: int | None = None
    latest: int | None = None

    @property
    def size(self) -> int:
        """Return of how many buckets the window is."""
        return math.ceil(self.window_s / self.granularity_s)

    def record(self, at_s: float, value: float) -> Buckets:
        """Return these with *value* added at *at_s*; what is older than the window is ignored."""
        number = self._number(at_s)
        sums, begun, latest = dict(self.sums), self.begun, self.latest
        if begun is None or latest is None:
            begun = latest = number
        elif number != latest:
            if number * self.granularity_s + self.window_s <= latest * self.granularity_s:
                return self
            begun = min(begun, number)
            if number > latest:
                if (number - latest) * self.granularity_s >= self.window_s:
                    # Nothing came for a whole window: it begins again.
                    begun, sums = number, {}
                latest = number
        sums[number] = sums.get(number, 0.0) + value
        oldest = latest - self.size
        sums = {at: total for at, total in sums.items() if at > oldest}
        return replace(self, sums=sums, begun=begun, latest=latest)

    def resized(self, window_s: float) -> Buckets:
        """Return these for another window, with what fits into it."""
        if window_s == self.window_s or self.latest is None:
            return replace(self, window_s=window_s)
        begun = self.latest - self.size + 1
        other = replace(self, window_s=window_s, begun=begun)
        kept = {at: total for at, total in self.sums.items() if at > self.latest - other.size}
        return replace(other, sums=kept)

    def empty(self, now_s: float) -> bool:
        """Tell whether nothing was recorded within the window."""
        if self.latest is None:
            return True
        return (self._number(now_s) - self.latest) * self.granularity_s > self.window_s

    def average(self, now_s: float) -> float:
        """Return the average at *now_s*, 0 if there is none."""
        if self.latest is None or self.begun is None or self.empty(now_s):
            return 0.0
        silent = max(self._number(now_s) - self.latest, 0)
        if self.weighted:
            return self._weighted(silent)
        if silent * self.granularity_s >= self.window_s:
            return 0.0
        first = self.latest + silent - self.size
        total = sum(value for at, value in self.sums.items() if at > first)
        count = min(self.latest - self.begun + 1, self.size - silent)
        return math.floor(total / count * PRECISION) / PRECISION

    def _weighted(self, silent: int) -> float:
        assert self.latest is not None
        decay = decay_of(self.size)
        weight, total = decay * math.pow(1 - decay, silent), 0.0
        for back in range(self.size - silent):
            total += self.sums.get(self.latest - back, 0.0) * weight
            weight *= 1 - decay
        return total

    def _number(self, at_s: float) -> int:
        return math.floor(at_s / self.granularity_s)


def decay_of(buckets: int) -> float:
    """Return the weight of the newest of so many buckets in a weighted average."""
    return max(1.0 - math.pow(1.0 - WEIGHT_PRECISION, 1.0 / buckets), WEIGHT_MIN)


# -- the target


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetDefaults:
    """What a cluster says where a revision says nothing."""

    concurrency: float = 100.0
    concurrency_share: float = 0.7
    rps: float = 200.0
    utilization: float = 0.7


SHIPPED = TargetDefaults()


def resolve_target(
    metric: Literal["concurrency", "rps"],
    *,
    container_concurrency: float = 0.0,
    target: float | None = None,
    utilization: float | None = None,
    defaults: TargetDefaults = SHIPPED,
) -> tuple[float, float]:
    """Return what a replica is to have, and what it can have."""
    if metric == "rps":
        total, share = defaults.rps, defaults.utilization
    else:
        total = container_concurrency or defaults.concurrency
        share = defaults.concurrency_share
    if target is not None:
        total = target
        if metric == "concurrency" and container_concurrency:
            total = min(target, container_concurrency)
    share = share if utilization is None else utilization
    return max(total * share, TARGET_MIN), total


# -- one decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The settings of one autoscaler; target and total are per replica."""

    target: float
    total: float
    burst_capacity: float = 211.0
    panic_threshold: float = 2.0
    up_rate: float = 1000.0
    down_rate: float = 2.0
    stable_window_s: float = 60.0
    scale_down_delay_s: float = 0.0
    activation_scale: int = 1
    reachable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Panic:
    """What an autoscaler remembers between decisions: since when it panics, the most that it wanted
    since, and what it wanted lately, by the number of the tick, largest first.
    """

    since_s: float | None = None
    most: int = 0
    lately: tuple[tuple[int, int], ...] = ()


def at_begin(ready: int, *, now_s: float) -> Panic:
    """Return the memory of an autoscaler that begins with *ready* replicas: it panics, so that it
    does not reduce what it knows nothing of yet.
    """
    return Panic(since_s=now_s if ready > 1 else None, most=ready)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A decision: the replicas, and how many more requests at once there is room for beside the
    burst that is to be taken (below 0 an activator buffers them).
    """

    replicas: int
    excess: int
    memory: Panic


def scale(
    spec: Spec, memory: Panic, *, stable: float, panic: float, ready: int, now_s: float
) -> Scale:
    """Return the decision on averages of the whole over the stable and the panic window."""
    base = max(1.0, float(ready))
    most = math.ceil(spec.up_rate * base)
    least = math.floor(base / spec.down_rate) if spec.reachable else 0
    raw_stable, raw_panic = math.ceil(stable / spec.target), math.ceil(panic / spec.target)
    wanted_stable = min(max(raw_stable, least), most)
    wanted_panic = min(max(raw_panic, least), most)
    if spec.activation_scale > 1:
        if raw_stable > 0:
            wanted_stable = max(wanted_stable, spec.activation_scale)
        if raw_panic > 0:
            wanted_panic = max(wanted_panic, spec.activation_scale)
    since_s, highest = memory.since_s, memory.most
    if raw_panic / base >= spec.panic_threshold:
        since_s = now_s
    elif since_s is not None and since_s + spec.stable_window_s < now_s:
        since_s, highest = None, 0
    replicas = wanted_stable
    if since_s is not None:
        highest = replicas = max(highest, wanted_stable, wanted_panic)
    lately = memory.lately
    if spec.scale_down_delay_s > 0 and spec.reachable:
        lately = _lately(lately, replicas, spec.scale_down_delay_s, now_s=now_s)
        replicas = lately[0][1]
    return Scale(
        replicas=replicas,
        excess=_excess(spec, ready=ready, panic=panic),
        memory=Panic(since_s=since_s, most=highest, lately=lately),
    )


def _lately(
    lately: tuple[tuple[int, int], ...], replicas: int, delay_s: float, *, now_s: float
) -> tuple[tuple[int, int], ...]:
    """Return what was wanted within the delay and not less than what was wanted after it."""
    tick, length = math.floor(now_s / TICK_S), math.ceil(delay_s / TICK_S)
    kept = tuple((at, one) for at, one in lately if one > replicas and at > tick - length)
    return (*kept, (tick, replicas))


def _excess(spec: Spec, *, ready: int, panic: float) -> int:
    if spec.burst_capacity == 0:
        return 0
    if spec.burst_capacity < 0:
        return -1
    return math.floor(ready * spec.total - spec.burst_capacity - panic)


# -- the policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What the policy remembers of one server."""

    stable: Buckets
    panic: Buckets
    memory: Panic
    newest: GaugeSample | None = None
    idle_since_s: float | None = None


State = Mapping[str, Kept]
NOTHING: State = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class KpaPolicy:
    """Scales so that a replica has *target_utilization* of its max batch in flight.

    panic_window_share is the short window as a part of the long one. A server goes to zero, if its
    bound allows it, after *scale_to_zero_grace_s* without requests in the stable window.
    """

    target_utilization: float = 0.7
    stable_window_s: float = 60.0
    panic_window_share: float = 0.1
    panic_threshold: float = 2.0
    max_scale_up_rate: float = 1000.0
    max_scale_down_rate: float = 2.0
    scale_down_delay_s: float = 0.0
    activation_scale: int = 1
    scale_to_zero_grace_s: float = 30.0
    weighted: bool = False
    name: str = "kpa"
    tick_s: float = TICK_S
    samples_s: float | None = 1.0

    def __post_init__(self) -> None:
        check = Options(self.name)
        check.number("target_utilization", self.target_utilization, low=0.0, above=True)
        # A window that is shorter than a bucket is always empty.
        check.number("stable_window_s", self.stable_window_s, low=1.0)
        check.share("panic_window_share", self.panic_window_share)
        for name in ("panic_threshold", "max_scale_up_rate", "max_scale_down_rate"):
            check.number(name, getattr(self, name), low=1.0, above=True)
        for name in ("scale_down_delay_s", "scale_to_zero_grace_s"):
            check.number(name, getattr(self, name), low=0.0)
        check.whole("activation_scale", self.activation_scale, low=1)
        check.flag("weighted", self.weighted)

    def start(self) -> State:
        """Return the state of an autoscaler that has just begun."""
        return NOTHING

    def decide(self, snapshot: Snapshot, data: SystemData, state: State) -> tuple[Decision, State]:
        """Return what one tick makes of every server."""
        return decide_each(snapshot, data, state, self._rule)

    def _rule(
        self, view: ServerView, bounds: ReplicaBounds, state: Kept | None, now_s: float
    ) -> Answer[Kept]:
        kept = state or self._begin(view, now_s)
        if not sampled(view):
            return Answer(choice=NOT_SAMPLED, state=kept)
        before = kept
        after_s = -math.inf if kept.newest is None else kept.newest.at_s
        kept = _recorded(kept, samples_of(view, now_s=now_s, after_s=after_s), now_s=now_s)
        if view.max_batch <= 0:
            return Answer(choice=NO_BATCH, state=kept)
        target, total = resolve_target(
            "concurrency",
            container_concurrency=float(view.max_batch),
            utilization=self.target_utilization,
        )
        if kept.stable.empty(now_s):
            return Answer(choice=NOT_SAMPLED, state=kept)
        stable, panic = kept.stable.average(now_s), kept.panic.average(now_s)
        found = scale(
            self._spec(target, total),
            kept.memory,
            stable=stable,
            panic=panic,
            ready=view.ready,
            now_s=now_s,
        )
        idle_s = None
        if found.replicas == 0:
            idle_s = now_s if kept.idle_since_s is None else kept.idle_since_s
        kept = replace(kept, memory=found.memory, idle_since_s=idle_s)
        choice = self._choice(found, kept, bounds, (stable, panic), now_s)
        if not_told(view, "in_flight"):
            # Less than there was, it is enough for more, and nothing to remember.
            return Answer(choice=choice, state=before, goes_by="in_flight")
        return Answer(choice=choice, state=kept)

    def _choice(
        self,
        found: Scale,
        kept: Kept,
        bounds: ReplicaBounds,
        averages: tuple[float, float],
        now_s: float,
    ) -> Choice:
        stable, panic = averages
        panics = found.memory.since_s is not None
        text = f"{stable:g} in flight over the window, {panic:g} of late: {found.replicas}"
        replicas, idle_s = found.replicas, kept.idle_since_s
        may_end = replicas == 0 and bounds.low == 0 and idle_s is not None
        if may_end and now_s - (idle_s or 0.0) < self.scale_to_zero_grace_s:
            replicas, text = 1, f"{text}; one stays for {self.scale_to_zero_grace_s:g} s"
        why = Why(
            kind="panic" if panics else "no-load" if replicas == 0 else "metric",
            text=f"{text}; in panic" if panics else text,
            details={"stable": stable, "panic": panic},
        )
        return Choice(replicas=replicas, why=why)

    def _begin(self, view: ServerView, now_s: float) -> Kept:
        # Half a second goes up, as Go rounds: Python's round takes the even neighbour.
        panic_s = max(math.floor(self.stable_window_s * self.panic_window_share + 0.5), 1)
        return Kept(
            stable=Buckets(window_s=self.stable_window_s, weighted=self.weighted),
            panic=Buckets(window_s=panic_s, weighted=self.weighted),
            memory=at_begin(view.ready, now_s=now_s),
        )

    def _spec(self, target: float, total: float) -> Spec:
        return Spec(
            target=target,
            total=total,
            panic_threshold=self.panic_threshold,
            up_rate=self.max_scale_up_rate,
            down_rate=self.max_scale_down_rate,
            stable_window_s=self.stable_window_s,
            scale_down_delay_s=self.scale_down_delay_s,
            activation_scale=self.activation_scale,
        )


def samples_of(view: ServerView, *, now_s: float, after_s: float) -> list[GaugeSample]:
    """Return the samples of a server that are younger than *after_s*; of a world that keeps none,
    the latest gauges.
    """
    if view.gauges:
        return [sample for sample in view.gauges if sample.at_s > after_s]
    at_s = now_s - (view.sample_age_s or 0.0)
    if at_s <= after_s:
        return []
    return [GaugeSample(at_s, view.running, in_flight(view) - view.running)]


def _recorded(kept: Kept, samples: Sequence[GaugeSample], *, now_s: float) -> Kept:
    """Return *kept* with the concurrency of each second before *now_s*. A gauge holds until it is
    sampled anew: a second without a record counts as one without requests.
    """
    stable, panic, newest = kept.stable, kept.panic, kept.newest
    first = newest or next(iter(samples), None)
    if first is None:
        return kept
    coming, end = deque(samples), math.ceil(now_s)
    begin = math.floor(first.at_s) if stable.latest is None else stable.latest + 1
    for second in range(max(begin, end - stable.size), end):
        while coming and coming[0].at_s < second + 1:
            newest = coming.popleft()
        if newest is not None and second - newest.at_s < HELD_S:
            concurrency = float(newest.running + newest.waiting)
            stable = stable.record(float(second), concurrency)
            panic = panic.record(float(second), concurrency)
    return replace(kept, stable=stable, panic=panic, newest=samples[-1] if samples else newest)
