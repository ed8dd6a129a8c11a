"""What the policies that choose replicas only share: who is held, which bounds hold, and how the
gauges of pods become one metric; pure.

They keep accelerator and max batch, and know nothing of GPUs: what does not fit stays pending, as
it does where these autoscalers run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar, get_args

from loop.errors import SpecError
from loop.replacing import replace
from loop.spec import cost_cents_per_h
from loop.types import Decision, PodView, ServerView, Snapshot, Target, Why, one_pool

if TYPE_CHECKING:
    from loop.spec import SystemData

S = TypeVar("S")

Metric = Literal["in_flight", "running", "waiting", "kv"]
METRICS: tuple[Metric, ...] = get_args(Metric)
GAUGES_OF: Mapping[Metric, tuple[str, ...]] = MappingProxyType(
    {
        "in_flight": ("running", "waiting"),
        "running": ("running",),
        "waiting": ("waiting",),
        "kv": ("kv_usage",),
    }
)
NOT_SAMPLED = Why(kind="held-unknown", text="nobody has sampled its pods yet")
NO_BATCH = Why(kind="held-unknown", text="its max batch is not known, so nor is a share of it")
NO_PODS = Why(kind="held-unknown", text="its pods are not seen one by one")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaBounds:
    """The replicas that a server may have (high None: any number)."""

    low: int = 0
    high: int | None = None

    def clamp(self, replicas: int) -> int:
        """Return *replicas* within the bounds; the lower one wins."""
        high = replicas if self.high is None else min(replicas, self.high)
        return max(high, self.low)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How many replicas a rule wants, and why."""

    replicas: int
    why: Why


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[S]):
    """What a rule makes of one server: a choice, or why it is held; and what it remembers. goes_by:
    the metric of which the sum or the mean over its pods made the choice.
    """

    choice: Choice | Why
    state: S
    goes_by: Metric | None = None


class Rule(Protocol[S]):
    """How one server is scaled."""

    def __call__(
        self, view: ServerView, bounds: ReplicaBounds, state: S | None, now_s: float, /
    ) -> Answer[S]:
        """Return the answer for *view*; state is None at first."""
        ...


def decide_each(
    snapshot: Snapshot, data: SystemData, state: Mapping[str, S], rule: Rule[S]
) -> tuple[Decision, Mapping[str, S]]:
    """Return what *rule* wants of each server, within what is allowed to any policy.

    Held is a server for which nothing may be asked, one without an accelerator, and one of which
    the rule would take something away, while its load is not known, or not all of the metric that
    the rule goes by. Zero is for servers of which zero arrivals are known, and in which nothing
    runs or waits.
    """
    targets: dict[str, Target] = {}
    after: dict[str, S] = {}
    for name, view in snapshot.servers.items():
        bounds = bounds_of(view, data)
        answer = rule(view, bounds, state.get(name), snapshot.now_s)
        if untold := not_told(view, answer.goes_by):
            answer = _at_least(answer, view, untold, before=state.get(name))
        after[name] = answer.state
        targets[name] = _target(view, answer.choice, bounds, data)
    return Decision(targets=targets), after


def _at_least(answer: Answer[S], view: ServerView, untold: Why, *, before: S | None) -> Answer[S]:
    """Return *answer* where its metric is *untold* by some pods. What the others tell is the least
    that there can be: enough for more replicas, not for less.
    """
    choice = answer.choice
    if not isinstance(choice, Choice):
        return answer
    if choice.replicas < view.wanted:
        return Answer(choice=untold, state=answer.state if before is None else before)
    why = replace(choice.why, text=f"{choice.why.text}; {untold.text}")
    return replace(answer, choice=replace(choice, why=why))


def bounds_of(view: ServerView, data: SystemData) -> ReplicaBounds:
    """Return the bounds of a server: those of the world, and those of the data."""
    told = data.servers.get(view.name)
    return ReplicaBounds(
        low=max(view.replicas_min, told.min_replicas if told else 0), high=view.replicas_max
    )


def held(view: ServerView, why: Why) -> Target:
    """Return the target of a server that keeps what it has."""
    return Target(server=view.name, pools=view.pools, why=why, held=True)


def _target(
    view: ServerView, choice: Choice | Why, bounds: ReplicaBounds, data: SystemData
) -> Target:
    if view.hold is not None:
        return held(view, view.hold)
    if isinstance(choice, Why):
        return held(view, choice)
    if not view.accelerator:
        return held(view, Why(kind="unchanged", text="it names no accelerator"))
    replicas, why = bounds.clamp(choice.replicas), choice.why
    if replicas != choice.replicas:
        why = Why(kind="bound", text=f"{why.text}; {replicas} is its bound", details=why.details)
    if replicas == 0 and view.wanted > 0 and not _known_idle(view):
        replicas = 1
        why = Why(kind="in-flight", text=f"{why.text}; one stays: it is not known to be idle")
    if view.load is None and replicas < view.wanted:
        # Missing data are no reason to take anything away.
        return held(view, Why(kind="held-unknown", text="the load is not known"))
    return Target(
        server=view.name,
        pools=one_pool(accelerator=view.accelerator, replicas=replicas, max_batch=view.max_batch),
        why=why,
        cost_cents_per_h=cost_cents_per_h(
            data, model=view.model, accelerator=view.accelerator, replicas=replicas
        ),
    )


def _known_idle(view: ServerView) -> bool:
    if view.load is None or view.load.rate_rpm > 0.0 or in_flight(view) > 0:
        return False
    # Labels may tell of a server none of whose pods is asked: they count then.
    return not sampled(view) or not_told(view, "running") is None


# -- metrics


def not_told(view: ServerView | PodView, metric: Metric | None) -> Why | None:
    """Return why *metric* is not known of all of a server or pod; None if it is."""
    gauges = GAUGES_OF[metric] if metric is not None else ()
    unknown = " and ".join(gauge for gauge in gauges if gauge in view.unknown_gauges)
    if not unknown:
        return None
    return Why(kind="held-unknown", text=f"not all of its pods tell {unknown}")


def in_flight(view: ServerView) -> int:
    """Return the requests of a server that run and wait, in pods and at the router."""
    return view.running + max(view.backlog, view.waiting)


def sampled(view: ServerView) -> bool:
    """Tell whether the gauges of a server mean anything."""
    return view.sample_age_s is not None


def total_of(view: ServerView, metric: Metric) -> float:
    """Return a metric of the whole server; of the KV cache the sum of the pods' shares. Where some
    pods do not tell it, it is the sum of those that do: the least that there can be.
    """
    if metric == "running":
        return float(view.running)
    if metric == "waiting":
        return float(max(view.backlog, view.waiting))
    if metric == "kv":
        return _caches(view)
    return float(in_flight(view))


def _caches(view: ServerView) -> float:
    if not not_told(view, "kv"):
        return view.kv_usage * view.ready
    # The mean is of those that tell: by the number of all it would speak for the others, too.
    there = [pod for pod in view.pods if pod.phase in ("ready", "starting")]
    told = [share for pod in there if (share := of_pod(pod, "kv")) is not None]
    # Where pods are not seen one by one a mean is that of one at least.
    return sum(told) if view.pods else view.kv_usage


def of_pod(pod: PodView, metric: Metric) -> float | None:
    """Return a metric of one pod; None if it was not sampled, or did not tell it."""
    if pod.sample_age_s is None or not_told(pod, metric) is not None:
        return None
    if metric == "running":
        return float(pod.running)
    if metric == "waiting":
        return float(pod.waiting)
    if metric == "kv":
        return pod.kv_usage
    return float(pod.running + pod.waiting)


def target_of(view: ServerView, metric: Metric, share: float) -> float | None:
    """Return what one replica is to have of *metric*: *share* of its max batch for what runs, of
    its cache for the KV cache, and so many requests for what waits. None if it cannot be told.
    """
    if metric in ("kv", "waiting"):
        return share
    return share * view.max_batch if view.max_batch > 0 else None


# -- options


@dataclass(frozen=True, slots=True)
class Options:
    """The checks of a policy's options, with its name in front of what is wrong."""

    policy: str

    def number(
        self,
        name: str,
        value: object,
        *,
        low: float,
        above: bool = False,
        below: float = math.inf,
    ) -> None:
        """Raise SpecError unless *value* is a finite number, *low* or more (*above*: more), and
        less than *below*.
        """
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (low < value if above else low <= value) or not value < below:  # type: ignore[operator]
            sign = ">" if above else ">="
            bound = f" and < {below:g}" if below < math.inf else ""
            raise self._error(name, f"a number {sign} {low:g}{bound}", value)

    def share(self, name: str, value: object) -> None:
        """Raise SpecError unless *value* is a number from 0 to 1."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0.0 <= value <= 1.0:  # type: ignore[operator]
            raise self._error(name, "a number from 0 to 1", value)

    def whole(self, name: str, value: object, *, low: int) -> None:
        """Raise SpecError unless *value* is a whole number, *low* or more."""
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise self._error(name, f"a whole number >= {low}", value)

    def one_of(self, name: str, value: object, known: tuple[str, ...]) -> None:
        """Raise SpecError unless *value* is one of *known*."""
        if value not in known:
            raise self._error(name, f"one of {', '.join(known)}", value)

    def flag(self, name: str, value: object) -> None:
        """Raise SpecError unless *value* is true or false."""
        if not isinstance(value, bool):
            raise self._error(name, "true or false", value)

    def _error(self, name: str, expected: str, value: object) -> SpecError:
        return SpecError(f"policy {self.policy}: {name}: expected {expected}, found {value!r}")
