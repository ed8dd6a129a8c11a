"""The rules of the Kubernetes HorizontalPodAutoscaler (autoscaling/v2, as of 1.36): from pods and
their metrics to a proposal, and from proposals to replicas; pure.

Restated from pkg/controller/podautoscaler of Kubernetes. Metrics are whole milli-units there, and
here: cuts of divisions are part of the rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from loop.replacing import replace

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1

Phase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]
Condition = Literal[
    "DesiredWithinRange",
    "TooFewReplicas",
    "TooManyReplicas",
    "ScaleUpLimit",
    "ScaleDownLimit",
]


class MetricError(Exception):
    """A metric from which no proposal can be made: one line that says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredPod:
    """One pod as the controller knows it. value is its metric [milli-units], None if nothing came;
    request what it asks for of a resource [milli-units], None if it names none.

    ready is its condition, None if it has none, since ready_since_s (None: since ever).
    """

    name: str
    phase: Phase = "Running"
    ready: bool | None = True
    deleting: bool = False
    started_s: float | None = None
    ready_since_s: float | None = None
    value: int | None = None
    sampled_s: float = 0.0
    window_s: float = 60.0
    request: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far a ratio may be from 1 before anything is proposed."""

    down: float = 0.1
    up: float = 0.1

    def holds(self, ratio: float) -> bool:
        """Tell whether *ratio* is as good as 1."""
        return 1.0 - self.down <= ratio <= 1.0 + self.up


NO_TOLERANCE_GIVEN = Tolerance()


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How long the CPU of a pod that starts is not to be trusted [s]."""

    cpu_initialization_s: float = 300.0
    initial_readiness_s: float = 30.0


AS_SHIPPED = Start()


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What one metric proposes, and the figures that it was made from: mean of a pod
    [milli-units] and, of a utilisation, percent.
    """

    replicas: int
    usage: int = 0
    utilization: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Pods by what their sample is worth; ready is a count."""

    ready: int
    unready: frozenset[str]
    missing: frozenset[str]
    ignored: frozenset[str]


def group_pods(pods: Sequence[MeteredPod], *, cpu: bool, now_s: float, start: Start) -> Groups:
    """Return which samples count. Only of CPU a pod that is not ready is left out."""
    ready, unready, missing, ignored = 0, set(), set(), set()
    for pod in pods:
        if pod.deleting or pod.phase == "Failed":
            ignored.add(pod.name)
        elif pod.phase == "Pending":
            unready.add(pod.name)
        elif pod.value is None:
            missing.add(pod.name)
        elif cpu and _starts(pod, now_s=now_s, start=start):
            unready.add(pod.name)
        else:
            ready += 1
    return Groups(
        ready=ready,
        unready=frozenset(unready),
        missing=frozenset(missing),
        ignored=frozenset(ignored),
    )


def _starts(pod: MeteredPod, *, now_s: float, start: Start) -> bool:
    """Tell whether the CPU of *pod* is that of its start."""
    if pod.ready is None or pod.started_s is None:
        return True
    since_s = -math.inf if pod.ready_since_s is None else pod.ready_since_s
    if pod.started_s + start.cpu_initialization_s > now_s:
        # One whole window of the metric has to lie after the pod became ready.
        return not pod.ready or pod.sampled_s < since_s + pod.window_s
    return not pod.ready and pod.started_s + start.initial_readiness_s > since_s


def resource_replicas(
    current: int,
    pods: Sequence[MeteredPod],
    *,
    target_percent: int,
    tolerance: Tolerance = NO_TOLERANCE_GIVEN,
    cpu: bool = True,
    now_s: float = 0.0,
    start: Start = AS_SHIPPED,
) -> Proposal:
    """Return the proposal of a resource: its usage as percent of what pods request. Raise
    MetricError.
    """
    if not pods:
        raise MetricError("no pods returned by selector while calculating replica count")
    groups = group_pods(pods, cpu=cpu, now_s=now_s, start=start)
    usages = _samples(pods, without=groups.ignored | groups.unready)
    if not usages:
        raise MetricError("did not receive metrics for targeted pods (pods might be unready)")
    lacking = [pod.name for pod in pods if pod.request is None]
    if lacking:
        raise MetricError(f"missing request in pod {lacking[0]}")
    requests = {pod.name: pod.request or 0 for pod in pods}

    def ratio(values: Mapping[str, int]) -> tuple[float, Proposal]:
        known = [name for name in values if name in requests]
        asked = sum(requests[name] for name in known)
        if asked == 0:
            raise MetricError("no metrics returned matched known pods")
        used = sum(values[name] for name in known)
        percent = used * 100 // asked
        seen = Proposal(replicas=current, usage=used // len(known), utilization=percent)
        return percent / target_percent, seen

    # A pod that may be using all that it asked for must not be taken away on a guess.
    share = max(100, target_percent)
    return _propose(
        current,
        usages,
        groups,
        ratio=ratio,
        at_most=lambda name: requests[name] * share // 100,
        tolerance=tolerance,
    )


def pods_replicas(
    current: int,
    pods: Sequence[MeteredPod],
    *,
    target: int,
    tolerance: Tolerance = NO_TOLERANCE_GIVEN,
) -> Proposal:
    """Return the proposal of a metric that each pod has, AverageValue *target* [milli-units]. Raise
    MetricError.
    """
    if not pods:
        raise MetricError("no pods returned by selector while calculating replica count")
    groups = group_pods(pods, cpu=False, now_s=0.0, start=AS_SHIPPED)
    usages = _samples(pods, without=groups.ignored | groups.unready)
    if not usages:
        raise MetricError("did not receive metrics for targeted pods (pods might be unready)")

    def ratio(values: Mapping[str, int]) -> tuple[float, Proposal]:
        mean = sum(values.values()) // len(values)
        return mean / target, Proposal(replicas=current, usage=mean)

    return _propose(
        current, usages, groups, ratio=ratio, at_most=lambda _name: target, tolerance=tolerance
    )


def value_replicas(
    current: int,
    total: int,
    *,
    ready: int,
    target: int,
    tolerance: Tolerance = NO_TOLERANCE_GIVEN,
) -> Proposal:
    """Return the proposal of one figure for the whole (Object or External), Value *target*; *ready*
    are the pods that run and are ready.
    """
    ratio = total / target
    if current == 0:
        return Proposal(replicas=min(math.ceil(ratio), INT32_MAX), usage=total)
    if tolerance.holds(ratio):
        return Proposal(replicas=current, usage=total)
    return Proposal(replicas=min(math.ceil(ratio * ready), INT32_MAX), usage=total)


def average_value_replicas(
    status: int, total: int, *, target: int, tolerance: Tolerance = NO_TOLERANCE_GIVEN
) -> Proposal:
    """Return the proposal of one figure for the whole (Object or External), AverageValue *target*;
    *status* are the replicas that there are.
    """
    ratio = total / (target * status) if status else math.inf
    usage = -(-total // status) if status else 0
    if total >= INT64_MAX:
        # A sum that has run over stays what it is, however many share it.
        usage = INT64_MAX
    replicas = status if tolerance.holds(ratio) else min(-(-total // target), INT32_MAX)
    return Proposal(replicas=replicas, usage=usage)


def saturating_sum(values: Sequence[int]) -> int:
    """Return the sum of *values* as the controller has it: of 64 bits."""
    return min(sum(values), INT64_MAX)


def _samples(pods: Sequence[MeteredPod], *, without: frozenset[str]) -> dict[str, int]:
    return {
        pod.name: pod.value for pod in pods if pod.value is not None and pod.name not in without
    }


def _propose(
    current: int,
    usages: Mapping[str, int],
    groups: Groups,
    *,
    ratio: Callable[[Mapping[str, int]], tuple[float, Proposal]],
    at_most: Callable[[str], int],
    tolerance: Tolerance,
) -> Proposal:
    """Return the proposal from the samples that count, and from what those that do not may hide:
    a change never goes further than the worst case of them allows.
    """
    first, seen = ratio(usages)
    rises_unready = bool(groups.unready) and first > 1.0
    if not rises_unready and not groups.missing:
        if tolerance.holds(first):
            return seen
        return replace(seen, replicas=math.ceil(first * groups.ready))
    filled = dict(usages)
    if first < 1.0:
        filled |= {name: at_most(name) for name in groups.missing}
    elif first > 1.0:
        filled |= dict.fromkeys(groups.missing, 0)
    if rises_unready:
        filled |= dict.fromkeys(groups.unready, 0)
    second, _ = ratio(filled)
    if tolerance.holds(second) or (first - 1.0) * (second - 1.0) < 0.0:
        return seen
    replicas = math.ceil(second * len(filled))
    if (second < 1.0 and replicas > current) or (second > 1.0 and replicas < current):
        return seen
    return replace(seen, replicas=replicas)


def largest(proposals: Sequence[Proposal | MetricError], *, current: int) -> Proposal:
    """Return the largest of several metrics' proposals. Raise the first error if all failed, or if
    some did and the rest would scale down.
    """
    errors = [one for one in proposals if isinstance(one, MetricError)]
    valid = [one for one in proposals if isinstance(one, Proposal)]
    best = max(valid, key=lambda one: one.replicas, default=None)
    if best is None or (errors and best.replicas < current):
        raise errors[0] if errors else MetricError("no metric is given")
    return best


# -- from a proposal to replicas


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So many pods, or percent, may be added or removed within a period."""

    kind: Literal["Pods", "Percent"]
    value: int
    period_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """One direction of `behavior`: of its rates the one that allows most (Max) or least (Min).

    tolerance None is that of the whole controller.
    """

    rates: tuple[Rate, ...]
    window_s: float = 0.0
    select: Literal["Max", "Min", "Disabled"] = "Max"
    tolerance: float | None = None


SCALE_UP = Rules(
    rates=(
        Rate(kind="Pods", value=4, period_s=15.0),
        Rate(kind="Percent", value=100, period_s=15.0),
    )
)
SCALE_DOWN = Rules(rates=(Rate(kind="Percent", value=100, period_s=15.0),), window_s=300.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Behavior:
    """spec.behavior, with the parts that are left out as the API fills them in."""

    up: Rules = SCALE_UP
    down: Rules = SCALE_DOWN


def tolerance_of(behavior: Behavior | None, *, usual: float = 0.1) -> Tolerance:
    """Return the tolerance that *behavior* gives each direction, *usual* where it gives none."""
    if behavior is None:
        return Tolerance(down=usual, up=usual)
    up, down = behavior.up.tolerance, behavior.down.tolerance
    return Tolerance(down=usual if down is None else down, up=usual if up is None else up)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """A proposal that was made at_s."""

    replicas: int
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A change of so many replicas, at_s."""

    change: int
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the controller remembers of one autoscaler."""

    recommendations: tuple[Recommendation, ...] = ()
    ups: tuple[Event, ...] = ()
    downs: tuple[Event, ...] = ()
    begun: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The replicas that an autoscaler may ask for."""

    low: int = 1
    high: int = INT32_MAX


def stabilized(
    proposal: int, recommendations: Sequence[Recommendation], *, now_s: float, window_s: float
) -> tuple[int, tuple[Recommendation, ...]]:
    """Return the largest recommendation of the window, and the log with this one; without
    `behavior`.
    """
    best, old = proposal, None
    for index, one in enumerate(recommendations):
        if now_s - one.at_s > window_s:
            old = index
        else:
            best = max(best, one.replicas)
    return best, _logged(recommendations, proposal, now_s=now_s, old=old)


def stabilized_by(
    proposal: int,
    recommendations: Sequence[Recommendation],
    *,
    current: int,
    now_s: float,
    up_s: float,
    down_s: float,
) -> tuple[int, tuple[Recommendation, ...]]:
    """Return *current* moved into what the recommendations of both windows have in common, and the
    log with this one; with `behavior`.
    """
    low = high = proposal
    old = None
    for index, one in enumerate(recommendations):
        age_s = now_s - one.at_s
        if age_s < up_s:
            low = min(low, one.replicas)
        if age_s < down_s:
            high = max(high, one.replicas)
        if age_s > up_s and age_s > down_s:
            old = index
    log = _logged(recommendations, proposal, now_s=now_s, old=old)
    # Up to the lowest first, then down to the highest: the second wins, as in the original.
    return min(max(current, low), high), log


def _logged(
    recommendations: Sequence[Recommendation], proposal: int, *, now_s: float, old: int | None
) -> tuple[Recommendation, ...]:
    """Return the log with *proposal*, in the place of an old one if there is one."""
    entry = Recommendation(replicas=proposal, at_s=now_s)
    log = list(recommendations)
    if old is None:
        log.append(entry)
    else:
        log[old] = entry
    return tuple(log)


def limited(proposal: int, *, current: int, bounds: Bounds) -> tuple[int, Condition]:
    """Return *proposal* within the bounds, and at most doubled (or 4) at once; without
    `behavior`.
    """
    at_once = max(2 * current, 4)
    if proposal < bounds.low:
        return bounds.low, "TooFewReplicas"
    if proposal > min(bounds.high, at_once):
        return (
            (at_once, "ScaleUpLimit") if bounds.high > at_once else (bounds.high, "TooManyReplicas")
        )
    return proposal, "DesiredWithinRange"


def limited_by(
    proposal: int, *, current: int, bounds: Bounds, behavior: Behavior, memory: Memory, now_s: float
) -> tuple[int, Condition]:
    """Return *proposal* within the bounds and the rates of *behavior*."""
    if proposal > current:
        rates = max(up_limit(current, rules=behavior.up, memory=memory, now_s=now_s), current)
        most = min(bounds.high, rates)
        if proposal > most:
            return most, "ScaleUpLimit" if bounds.high > rates else "TooManyReplicas"
    elif proposal < current:
        rates = min(down_limit(current, rules=behavior.down, memory=memory, now_s=now_s), current)
        least = max(bounds.low, rates)
        if proposal < least:
            return least, "ScaleDownLimit" if bounds.low < rates else "TooFewReplicas"
    return proposal, "DesiredWithinRange"


def up_limit(current: int, *, rules: Rules, memory: Memory, now_s: float) -> int:
    """Return how many replicas the rates allow at most."""
    if rules.select == "Disabled":
        return current
    allowed = []
    for rate in rules.rates:
        start = _at_begin(current, memory, period_s=rate.period_s, now_s=now_s)
        more = start + rate.value
        if rate.kind == "Percent":
            more = math.ceil(start * (1 + rate.value / 100))
        allowed.append(more)
    return min(allowed) if rules.select == "Min" else max(allowed)


def down_limit(current: int, *, rules: Rules, memory: Memory, now_s: float) -> int:
    """Return how many replicas the rates leave at least."""
    if rules.select == "Disabled":
        return current
    left = []
    for rate in rules.rates:
        start = _at_begin(current, memory, period_s=rate.period_s, now_s=now_s)
        less = start - rate.value
        if rate.kind == "Percent":
            less = math.trunc(start * (1 - rate.value / 100))
        left.append(less)
    return max(left) if rules.select == "Min" else min(left)


def _at_begin(current: int, memory: Memory, *, period_s: float, now_s: float) -> int:
    """Return how many replicas there were when the period began."""
    return (
        current
        - changed(memory.ups, period_s=period_s, now_s=now_s)
        + changed(memory.downs, period_s=period_s, now_s=now_s)
    )


def changed(events: Sequence[Event], *, period_s: float, now_s: float) -> int:
    """Return by how many replicas *events* changed within the period."""
    return sum(event.change for event in events if now_s - event.at_s < period_s)


def with_event(
    events: Sequence[Event], change: int, *, rules: Rules, now_s: float
) -> tuple[Event, ...]:
    """Return *events* with one more, in the place of one that no rate looks back to, if any."""
    longest_s = max((rate.period_s for rate in rules.rates), default=0.0)
    entry = Event(change=change, at_s=now_s)
    old = [index for index, event in enumerate(events) if now_s - event.at_s > longest_s]
    if not old:
        return (*events, entry)
    return (*events[: old[-1]], entry, *events[old[-1] + 1 :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a reconcile decides. proposal is None where no metric was looked at; error says why
    nothing changes.
    """

    replicas: int
    memory: Memory
    proposal: Proposal | None = None
    stabilized: int | None = None
    condition: Condition = "DesiredWithinRange"
    error: str = ""


def reconcile(
    propose: Callable[[], Proposal],
    *,
    current: int,
    bounds: Bounds,
    memory: Memory,
    now_s: float,
    behavior: Behavior | None = None,
    down_window_s: float = 300.0,
) -> Outcome:
    """Return what becomes of *current* replicas. *propose* asks the metrics and may raise
    MetricError; it is not asked outside the bounds.
    """
    if not memory.begun:
        # A controller that has just begun knows no past: it takes the present for recommended.
        known = memory.recommendations or (Recommendation(replicas=current, at_s=now_s),)
        memory = replace(memory, recommendations=known, begun=True)
    if current == 0 and bounds.low != 0:
        return Outcome(replicas=0, memory=memory, error="disabled: it has zero replicas")
    if current > bounds.high:
        memory = _with_change(memory, bounds.high - current, behavior=behavior, now_s=now_s)
        return Outcome(replicas=bounds.high, memory=memory, condition="TooManyReplicas")
    if current < bounds.low:
        memory = _with_change(memory, bounds.low - current, behavior=behavior, now_s=now_s)
        return Outcome(replicas=bounds.low, memory=memory, condition="TooFewReplicas")
    try:
        proposal = propose()
    except MetricError as error:
        return Outcome(replicas=current, memory=memory, error=str(error))
    if behavior is None:
        steady, log = stabilized(
            proposal.replicas, memory.recommendations, now_s=now_s, window_s=down_window_s
        )
        replicas, condition = limited(steady, current=current, bounds=bounds)
    else:
        steady, log = stabilized_by(
            proposal.replicas,
            memory.recommendations,
            current=current,
            now_s=now_s,
            up_s=behavior.up.window_s,
            down_s=behavior.down.window_s,
        )
        replicas, condition = limited_by(
            steady,
            current=current,
            bounds=bounds,
            behavior=behavior,
            memory=memory,
            now_s=now_s,
        )
    memory = replace(memory, recommendations=log)
    return Outcome(
        replicas=replicas,
        memory=_with_change(memory, replicas - current, behavior=behavior, now_s=now_s),
        proposal=proposal,
        stabilized=steady,
        condition=condition,
    )


def _with_change(memory: Memory, change: int, *, behavior: Behavior | None, now_s: float) -> Memory:
    """Return *memory* with a change; only `behavior` looks at changes."""
    if behavior is None or change == 0:
        return memory
    if change > 0:
        return replace(memory, ups=with_event(memory.ups, change, rules=behavior.up, now_s=now_s))
    downs = with_event(memory.downs, -change, rules=behavior.down, now_s=now_s)
    return replace(memory, downs=downs)
