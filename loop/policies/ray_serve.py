"""Ray Serve's autoscaler as a policy: ongoing requests over a look-back against a target per
replica, and what is decided must stay decided for a while before it is done.

Restated from ray/serve of Ray 2.60.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

from loop.policies.kpa import samples_of
from loop.policies.replicas import (
    NO_BATCH,
    NOT_SAMPLED,
    Answer,
    Choice,
    Options,
    ReplicaBounds,
    decide_each,
    not_told,
    sampled,
)
from loop.types import Decision, ServerView, Snapshot, Why, WhyKind

if TYPE_CHECKING:
    from loop.spec import SystemData

REPORT_S = 10.0
RECORD_SHARE = 0.2  # of the look-back
LAST_MIN_S = 1e-3  # of the last point, which holds until now
SLACK_S = 1e-6  # clocks count in fractions that are not exact
POINTS_A_SECOND = 100  # times of points are rounded to hundredths of a second
Aggregation = Literal["mean", "max", "min"]
Point = tuple[float, float]
Series = Sequence[Point]


# -- demand


def merged(series: Sequence[Series]) -> list[Point]:
    """Return the total of gauges over time, each of which holds until its next point."""
    active = [one for one in series if one]
    if len(active) == 1:
        return list(active[0])
    latest, total = [0.0] * len(active), 0.0
    steps: list[Point] = []
    events = heapq.merge(
        *([(at_s, index, value) for at_s, value in one] for index, one in enumerate(active))
    )
    for at_s, index, value in events:
        before, latest[index] = latest[index], value
        if value == before:
            continue
        total += value - before
        # Half goes up, as C rounds: Python's round takes the even neighbour.
        step = (math.floor(at_s * POINTS_A_SECOND + 0.5) / POINTS_A_SECOND, total)
        if steps and steps[-1][0] == step[0]:
            steps[-1] = step
        else:
            steps.append(step)
    return steps


def time_weighted_mean(
    steps: Series,
    *,
    begin_s: float | None = None,
    end_s: float | None = None,
    last_s: float = 1.0,
) -> float | None:
    """Return the mean of a step function from *begin_s* (None: its first point) to *end_s* (None:
    *last_s* after its last point); None if there is no time between.
    """
    if not steps:
        return None
    begin_s = steps[0][0] if begin_s is None else begin_s
    end_s = steps[-1][0] + last_s if end_s is None else end_s
    if end_s <= begin_s:
        return None
    area, value, since_s = 0.0, 0.0, begin_s
    for at_s, next_value in steps:
        if at_s >= end_s:
            break
        if at_s > begin_s:
            area += value * (at_s - since_s)
            since_s = at_s
        value = next_value
    return (area + value * (end_s - since_s)) / (end_s - begin_s)


def aggregated(
    series: Sequence[Series], aggregation: Aggregation = "mean", *, last_s: float = 1.0
) -> float | None:
    """Return the demand from gauges, from when each of them has a point; from the first change of
    the total if it never changes after that.
    """
    steps = merged(series)
    if not steps:
        return None
    begin_s = max(one[0][0] for one in series if one)
    # Times are rounded: before the first one nothing is known, which is not zero.
    begin_s = steps[0][0] if begin_s > steps[-1][0] else max(begin_s, steps[0][0])
    if aggregation == "mean":
        return time_weighted_mean(steps, begin_s=begin_s, last_s=last_s)
    values = [value for at_s, value in steps if at_s >= begin_s]
    return max(values) if aggregation == "max" else min(values)


# -- from demand to replicas


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The autoscaling_config of a deployment."""

    target_ongoing_requests: float = 2.0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    downscale_to_zero_delay_s: float | None = None
    upscaling_factor: float = 1.0
    downscaling_factor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A direction that decisions have had since_s; 0 is none."""

    direction: int = 0
    since_s: float = 0.0


NONE_PENDING = Pending()


def scaled(desired: float, *, current: int, config: Config) -> int:
    """Return *desired* after the scaling factors: a part of the way from *current*, all of it from
    zero.
    """
    if current == 0:
        return math.ceil(desired)
    way = desired - current
    factor = config.upscaling_factor if way > 0 else config.downscaling_factor
    replicas = math.ceil(current + factor * way)
    # A small factor must not stop the last steps down.
    if math.ceil(desired) < current and replicas == current:
        replicas -= 1
    return replicas


def delayed(
    desired: int, *, target: int, config: Config, pending: Pending, now_s: float
) -> tuple[int, Pending]:
    """Return *target*, or *desired* once that was wanted in the same direction for its delay."""
    if desired == target:
        return target, NONE_PENDING
    direction = 1 if desired > target else -1
    delay_s = config.upscale_delay_s
    if direction < 0:
        delay_s = config.downscale_delay_s
        if target > 1:
            # The last replica goes by itself, after a delay of its own.
            desired = max(1, desired)
        elif config.downscale_to_zero_delay_s is not None:
            delay_s = config.downscale_to_zero_delay_s
    since_s = pending.since_s if pending.direction == direction else now_s
    if now_s - since_s + SLACK_S >= delay_s:
        return max(desired, 0), NONE_PENDING
    return target, Pending(direction=direction, since_s=since_s)


def decided(
    demand: float,
    *,
    current: int,
    target: int,
    config: Config,
    pending: Pending,
    now_s: float,
    desired: float | None = None,
) -> tuple[int, Pending]:
    """Return the replicas before bounds: *current* run, *target* were asked for. *desired* is what
    a policy of one's own says in the place of demand / target_ongoing_requests.
    """
    if current == 0 and demand > 0:
        return max(math.ceil(config.upscaling_factor), target), pending
    wanted = desired
    if wanted is None:
        wanted = target
        if current:
            # In the order of the original: a last digit decides over a whole replica.
            wanted = current * (demand / (config.target_ongoing_requests * current))
    replicas = max(scaled(wanted, current=current, config=config), 0)
    if current == 0 and replicas > 0:
        # What starts is waited for: no delay is counted meanwhile, and none is forgotten.
        return replicas, pending
    return delayed(
        replicas,
        target=target,
        config=config,
        pending=pending,
        now_s=now_s,
    )


# -- the policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What the policy remembers of one server: the points of the look-back, and what is pending."""

    points: tuple[Point, ...] = ()
    pending: Pending = NONE_PENDING


State = Mapping[str, Kept]
NOTHING: State = MappingProxyType({})
EMPTY = Kept()


@dataclass(frozen=True, slots=True, kw_only=True)
class RayServePolicy:
    """Scales so that a replica has *target* of its max batch ongoing, by default a half as in Ray's
    examples of LLMs.

    Handles record five times in the look-back, and report every 10 s. Decisions are made when
    reports come: between two of them little changes but the delays, which are whole multiples of
    that.
    """

    target: float = 0.5
    look_back_period_s: float = 30.0
    aggregation: Aggregation = "mean"
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    downscale_to_zero_delay_s: float | None = None
    upscaling_factor: float = 1.0
    downscaling_factor: float = 1.0
    min_replicas: int = 1
    max_replicas: int = 100
    name: str = "ray_serve"
    tick_s: float = REPORT_S

    def __post_init__(self) -> None:
        check = Options(self.name)
        check.one_of("aggregation", self.aggregation, get_args(Aggregation))
        for name in ("target", "look_back_period_s", "upscaling_factor", "downscaling_factor"):
            check.number(name, getattr(self, name), low=0.0, above=True)
        check.number("upscale_delay_s", self.upscale_delay_s, low=0.0)
        check.number("downscale_delay_s", self.downscale_delay_s, low=0.0)
        if self.downscale_to_zero_delay_s is not None:
            check.number("downscale_to_zero_delay_s", self.downscale_to_zero_delay_s, low=0.0)
        check.whole("min_replicas", self.min_replicas, low=0)
        check.whole("max_replicas", self.max_replicas, low=max(self.min_replicas, 1))

    @property
    def samples_s(self) -> float | None:
        """Return how often handles record what is ongoing."""
        return min(RECORD_SHARE * self.look_back_period_s, REPORT_S)

    def start(self) -> State:
        """Return the state of a controller that has just begun."""
        return NOTHING

    def decide(self, snapshot: Snapshot, data: SystemData, state: State) -> tuple[Decision, State]:
        """Return what one step of the control loop makes of every deployment."""
        return decide_each(snapshot, data, state, self._rule)

    def _rule(
        self,
        view: ServerView,
        bounds: ReplicaBounds,  # noqa: ARG002 the port
        state: Kept | None,
        now_s: float,
    ) -> Answer[Kept]:
        kept = state or EMPTY
        if not sampled(view):
            return Answer(choice=NOT_SAMPLED, state=kept)
        if view.max_batch <= 0:
            return Answer(choice=NO_BATCH, state=kept)
        after_s = kept.points[-1][0] if kept.points else -math.inf
        new = samples_of(view, now_s=now_s, after_s=after_s)
        points = (*kept.points, *((one.at_s, float(one.running + one.waiting)) for one in new))
        # Where pods are scraped less often than that, the last gauge is what is known.
        begin_s = now_s - self.look_back_period_s
        points = tuple(one for one in points if one[0] > begin_s) or points[-1:]
        last_s = max(now_s - points[-1][0], LAST_MIN_S) if points else LAST_MIN_S
        demand = aggregated([points], self.aggregation, last_s=last_s)
        if demand is None:
            return Answer(choice=NOT_SAMPLED, state=replace(kept, points=points))
        config = self._config(self.target * view.max_batch)
        replicas, pending = decided(
            demand,
            current=view.ready,
            target=view.wanted,
            config=config,
            pending=kept.pending,
            now_s=now_s,
        )
        replicas = min(max(replicas, self.min_replicas), self.max_replicas)
        kind: WhyKind = "metric" if pending == NONE_PENDING else "stabilization"
        text = (
            f"{demand:g} ongoing of late for {config.target_ongoing_requests:g} a replica: "
            f"{demand / config.target_ongoing_requests:.2f}"
        )
        if pending != NONE_PENDING:
            text = f"{text}, wanted for {now_s - pending.since_s:g} s"
        why = Why(kind=kind, text=text, details={"ongoing": demand})
        choice = Choice(replicas=replicas, why=why)
        if not_told(view, "in_flight"):
            # Less than there was, it is enough for more, and nothing to remember.
            kept = replace(kept, pending=pending if pending.direction > 0 else NONE_PENDING)
            return Answer(choice=choice, state=kept, goes_by="in_flight")
        return Answer(choice=choice, state=Kept(points=points, pending=pending))

    def _config(self, target: float) -> Config:
        return Config(
            target_ongoing_requests=target,
            upscale_delay_s=self.upscale_delay_s,
            downscale_delay_s=self.downscale_delay_s,
            downscale_to_zero_delay_s=self.downscale_to_zero_delay_s,
            upscaling_factor=self.upscaling_factor,
            downscaling_factor=self.downscaling_factor,
        )
