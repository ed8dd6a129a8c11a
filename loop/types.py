"""The values that go round the loop: Snapshot, Decision, Change, CycleRecord. Frozen; no behaviour
beyond look-ups.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, ValuesView
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Literal, NamedTuple

from loop.replacing import replace, same_in
from loop.spec import Load, SystemData
from twin.frozen import made_quickly
from twin.spec import CapacityView, GaugeSample, Pool

__all__ = [
    "Bounds",
    "CapacityView",
    "Change",
    "CycleRecord",
    "Decision",
    "FailedPhase",
    "GaugeSample",
    "Load",
    "Mode",
    "OfPools",
    "OlderViews",
    "PodPhase",
    "PodView",
    "Pool",
    "ServerView",
    "Snapshot",
    "Target",
    "Timing",
    "Trigger",
    "Views",
    "Why",
    "WarningKind",
    "WhyKind",
    "ages_of",
    "has_as_many_pods",
    "known_older",
    "one_pool",
    "only_older",
    "only_pods_differ",
    "only_replicas_differ",
]

PodPhase = Literal["pending", "starting", "ready", "draining"]
# act: ask the world for what is decided; export: show it in a metric, for somebody else who scales
# by that; advise: only say it.
Mode = Literal["act", "export", "advise"]
Trigger = Literal["period", "invoke"]
# Where a warning came up: in the data files, in what was seen, in the reading of it, in the
# decision, in what was asked of the world, or in the reporting of the record.
WarningKind = Literal["data", "observe", "estimate", "decide", "apply", "report"]
FailedPhase = Literal["", "observe", "decide", "apply", "program"]


class OfPools:
    """Pools as one: the flat view that records, labels and messages of a server have."""

    __slots__ = ()

    pools: tuple[Pool, ...]

    @property
    def accelerator(self) -> str:
        """Return the accelerator, joined by + if there are several; "" if none is named."""
        if len(self.pools) == 1:  # nearly always, and it is asked for all the time
            return self.pools[0].accelerator
        return "+".join(pool.accelerator for pool in self.pools)

    @property
    def replicas(self) -> int:
        """Return the replicas of all pools."""
        if len(self.pools) == 1:
            return self.pools[0].replicas
        return sum(pool.replicas for pool in self.pools)

    @property
    def max_batch(self) -> int:
        """Return the largest batch of a replica; 0 if none is named."""
        if len(self.pools) == 1:
            return self.pools[0].max_batch
        return max((pool.max_batch for pool in self.pools), default=0)


def one_pool(*, accelerator: str, replicas: int, max_batch: int) -> tuple[Pool, ...]:
    """Return the pools of a server that has one."""
    return (Pool(accelerator=accelerator, replicas=replicas, max_batch=max_batch),)


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class PodView:
    """One pod as last scraped. since_s: when it entered its phase; created_s: when it was asked for
    [s of the run]. Its own rate and latencies are None if it does not report them.

    sample_age_s is how old its gauges are (None: it was never sampled, they mean nothing);
    unknown_gauges are those of them that it did not tell, or not of all its engines; restarts
    how often its containers came up again. queued_prompt_tokens wait, kv_tokens_used are in its KV
    cache (None: this world does not tell).
    """

    name: str
    phase: PodPhase
    since_s: float
    created_s: float
    accelerator: str
    max_batch: int
    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    rate_rpm: float | None = None
    completions_rpm: float | None = None
    ttft_ms: float | None = None
    itl_ms: float | None = None
    sample_age_s: float | None = None
    unknown_gauges: tuple[str, ...] = ()
    restarts: int | None = None
    queued_prompt_tokens: int | None = None
    kv_tokens_used: int | None = None


class Latest(NamedTuple):
    """What came in the last part of a window, length_s long."""

    rate_rpm: float
    length_s: float


LATEST_PART = 0.25  # of a window, at least: of less, chance tells more than the load does

MissingKind = Literal[
    "unschedulable",  # no node takes the pod
    "not-scheduled",  # nobody has looked for a node yet
    "image",  # its image cannot be had
    "crash",  # its containers end again and again
    "probe",  # a probe has not succeeded
    "unready",  # it was ready, and a probe does not succeed any more
    "starting",
    "not-made",  # there is no pod, and the cluster says why: a quota, say
    "not-yet",  # there is no pod, and nothing says why
    "node",  # its node does not tell any more
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Replicas that are wanted and not ready: count of wanted, for waited_s at most, and why.

    given_up is how many of them the plan reckons with no longer.
    """

    count: int
    wanted: int
    waited_s: float
    kind: MissingKind
    text: str
    given_up: int = 0


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class ServerView(OfPools):
    """What is seen of one server. Replica counts are facts; figures that nobody measured yet are
    None.

    pools are what was last asked for; starting counts pods that hold units but are not ready;
    pending those without units. load is the demand at the router, latest what of it came in the
    last part of the window (None: nobody tells); completions_rpm what was finished; running,
    waiting, kv_usage (0..1, mean over ready pods) are the gauges of the last scrape; backlog is the
    requests that wait for a pod that stays, at the router and in pods (waiting: in all pods).
    reporting is how many ready pods load was summed over; None if load is of the whole server, as a
    router sees it. replicas_min and replicas_max are bounds that the world sets for this server
    (None: no upper one).

    load_source is where the load comes from (prometheus, pods, labels, router …; "" if there is
    none), load_age_s how old its newest sample is (None: it has no age), sample_age_s how old the
    gauges are (None: nobody sampled them, they mean nothing). cache_hit_share is the
    share of the prompt tokens that were found in the prefix cache, fetched_share that of the others
    which are computed elsewhere and fetched, if these are nearly all (decode pods; None: not so, or
    nobody knows). gpus_per_replica is how many
    GPUs a replica has on any accelerator (None: as many as the accelerator needs). batch_fixed,
    accelerator_fixed: that stays as it is, whatever is decided. gpus_reachable
    are the GPUs of each type that its pods can be put on (None: all there are). hold is why
    nothing may be asked for this server, whatever a policy decides (None: it may). grace_s is how
    long a pod that ends has for the answers in it (None: as long as it takes). percentiles_ms are
    p50, p90, p95 and p99 of "ttft", "itl", "e2e" and "queue", as far as this world tells,
    percentiles_source who told them ("": nobody), percentiles_age_s how old their newest sample
    is. missing are the
    replicas that do not come (None: all are there, or this world does not tell). gauges are
    the samples of the window, oldest first (none: this world keeps the latest only).
    unknown_gauges are those of running, waiting and kv_usage that some pods did not tell: what they
    say is what the others did.

    pooled tells whether a router gives each request to the replica that has the fewest, so that
    replicas share what comes (False: not, or nobody knows).

    start_up_s is how long its pods took from when they were asked for to ready (None: none did).
    queued_prompt_tokens are those of the requests that wait, preemptions how many requests lost
    their place in the KV cache within the window (None: this world does not tell). waiting_pods:
    in how many pods, of those that stay, something waits (None: this world does not tell).
    """

    name: str
    model: str
    service_class: str
    pools: tuple[Pool, ...]
    ready: int
    starting: int = 0
    pending: int = 0
    draining: int = 0
    load: Load | None = None
    latest: Latest | None = None
    completions_rpm: float | None = None
    ttft_ms: float | None = None
    itl_ms: float | None = None
    percentiles_ms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    percentiles_source: str = ""
    percentiles_age_s: float | None = None
    output_tps: float | None = None
    running: int = 0
    waiting: int = 0
    backlog: int = 0
    kv_usage: float = 0.0
    reporting: int | None = None
    replicas_min: int = 0
    replicas_max: int | None = None
    load_source: str = ""
    load_age_s: float | None = None
    sample_age_s: float | None = None
    cache_hit_share: float | None = None
    fetched_share: float | None = None
    gpus_per_replica: int | None = None
    batch_fixed: bool = False
    accelerator_fixed: bool = False
    gpus_reachable: Mapping[str, int] | None = None
    hold: Why | None = None
    grace_s: float | None = None
    missing: Missing | None = None
    pooled: bool = False
    start_up_s: float | None = None
    queued_prompt_tokens: int | None = None
    preemptions: int | None = None
    waiting_pods: int | None = None
    unknown_gauges: tuple[str, ...] = ()
    gauges: tuple[GaugeSample, ...] = ()
    pods: tuple[PodView, ...] = ()

    @property
    def wanted(self) -> int:
        """Return how many replicas were last asked for."""
        return self.replicas

    @property
    def asleep(self) -> bool:
        """Tell whether it has no replicas, and nobody tells whether requests come to it."""
        if self.load is not None:  # nearly always, and it is asked for in each cycle
            return False
        pods = self.ready or self.starting or self.pending or self.draining
        return not (self.wanted or pods or self.backlog)

    @property
    def types(self) -> frozenset[str] | None:
        """Return the types of the GPUs that its pods can be put on (None: any)."""
        if self.gpus_reachable is None:
            return None
        return frozenset(kind for kind, count in self.gpus_reachable.items() if count > 0)


# What only grows older between two samples.
AGES = ("percentiles_age_s", "load_age_s", "sample_age_s")
Ages = tuple[float | None, float | None, float | None]
_ages: Callable[[ServerView], Ages] = attrgetter(*AGES)
# What moves as pods come and go, and nothing else does.
_PHASES = ("ready", "starting", "pending", "draining", "start_up_s")
_kept = [each.name for each in fields(ServerView) if each.name not in {*AGES, "pods", "gauges"}]
# Load first: it differs most often.
_same_but_ages = same_in("load", *_kept)
_same_but_pods = same_in("load", *(name for name in _kept if name not in _PHASES))
_same_but_replicas = same_in("load", *(name for name in _kept if name not in {*_PHASES, "pools"}))
_as_many_pods = same_in(*_PHASES)


def only_older(view: ServerView, before: ServerView) -> bool:
    """Tell whether *view* is *before* some time later; its pods are not looked at. What does not
    change is the same object from one look to the next.
    """
    return _same_but_ages(view, before)


def only_pods_differ(view: ServerView, before: ServerView) -> bool:
    """Tell whether *view* is *before* some time later, but for pods that have come or gone."""
    return _same_but_pods(view, before)


def only_replicas_differ(view: ServerView, before: ServerView) -> bool:
    """Tell whether *view* is *before* some time later, but for its pools and the pods of these."""
    return _same_but_replicas(view, before)


def has_as_many_pods(view: ServerView, before: ServerView) -> bool:
    """Tell whether *view* has as many pods in each phase as *before*, and these start as fast."""
    return _as_many_pods(view, before)


class Views(dict[str, ServerView]):
    """The views of one look at a world, by server; *since* is the same object from one look to the
    next as long as they only grow older. What is made of them tells nothing of the kind.
    """

    __slots__ = ("since",)

    def __init__(self, views: Mapping[str, ServerView], since: object) -> None:
        super().__init__(views)
        self.since = since


class OlderViews(Mapping[str, ServerView]):
    """The views of *before* some time later: what *make* returns, when somebody asks for one. Of
    most looks of a loop that looks every second nobody does. *ages* returns those of each.
    """

    __slots__ = ("_before", "_make", "_views", "ages")

    def __init__(
        self,
        before: Views,
        *,
        make: Callable[[], Mapping[str, ServerView]],
        ages: Callable[[], Iterable[Ages]],
    ) -> None:
        self._before, self._make, self.ages = before, make, ages
        self._views: Mapping[str, ServerView] | None = None

    @property
    def since(self) -> object:
        """Return what the views before say."""
        return self._before.since

    @property
    def _all(self) -> Mapping[str, ServerView]:
        if self._views is None:
            self._views = self._make()
        return self._views

    def __getitem__(self, name: str) -> ServerView:
        return self._all[name]

    def __contains__(self, name: object) -> bool:
        return name in self._before

    def __iter__(self) -> Iterator[str]:
        return iter(self._before)

    def __len__(self) -> int:
        return len(self._before)

    # All together: those of Mapping ask for one by one.
    def items(self) -> ItemsView[str, ServerView]:
        """Return the names and the views."""
        return self._all.items()

    def values(self) -> ValuesView[ServerView]:
        """Return the views."""
        return self._all.values()

    # As of the dict that a look with news has: a policy of one's own may take it for one.
    def __repr__(self) -> str:
        return repr(dict(self._all))

    def __or__(self, other: Mapping[str, ServerView]) -> dict[str, ServerView]:
        return {**self._all, **other}

    def copy(self) -> dict[str, ServerView]:
        """Return them as a dict."""
        return dict(self._all)


def known_older(views: Mapping[str, ServerView], before: Mapping[str, ServerView]) -> bool:
    """Tell whether *views* are said to be those of *before* some time later; no is no answer."""
    told = (Views, OlderViews)
    return isinstance(views, told) and isinstance(before, told) and views.since is before.since


def ages_of(views: Mapping[str, ServerView]) -> Iterable[Ages]:
    """Return the ages of each of *views*, in the order of AGES."""
    return views.ages() if isinstance(views, OlderViews) else map(_ages, views.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedGpus:
    """The GPUs of one type of which *servers* can use these and no others, count in all."""

    type: str
    servers: frozenset[str]
    count: int


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One observation of the world at now_s. capacity is None if the world does not know it.

    warnings are lines about what was seen and is not as it should be; they go into the record.
    paused is why nothing may be asked of this world at all ("": it may).
    source_error: why the source of metrics as a whole told nothing; "" if it answered.
    capacity_source is who tells the capacity instead of the data ("nodes").
    window_s is how far back figures look, scrape_interval_s how often pods are sampled (None: it is
    not known).
    capacity_max are the GPUs of a type that can be had at most, whatever the capacity says: pods
    have waited for more in vain, or nobody knows who holds them. shared_gpus: of which GPUs several
    servers must make do.
    """

    now_s: float
    servers: Mapping[str, ServerView]
    capacity: Mapping[str, CapacityView] | None = None
    warnings: tuple[str, ...] = ()
    paused: str = ""
    source_error: str = ""
    capacity_max: Mapping[str, int] = field(default_factory=dict)
    shared_gpus: tuple[SharedGpus, ...] = ()
    capacity_source: str = ""
    window_s: float | None = None
    scrape_interval_s: float | None = None

    @property
    def asleep(self) -> frozenset[str]:
        """Return the servers without replicas of which only pods could tell whether requests come.
        While the source of metrics is away that is known of none.
        """
        if self.source_error:
            return frozenset()
        return frozenset(name for name, view in self.servers.items() if view.asleep)


WhyKind = Literal[
    "slo-itl",  # this target binds: a replica takes no more within it
    "slo-ttft",
    "slo-tps",
    "batch",  # a full batch serves no more
    "loss",  # more requests would be turned away than the bounded queue may
    "capacity",  # only GPUs are missing
    "infeasible",  # no accelerator can meet the targets, whatever the capacity
    "no-load",  # zero arrivals are known
    "held-unknown",  # the load is not known, so nothing changes
    "asleep",  # it has no replicas, so that nobody can tell its load: it stays so, and is not held
    "in-flight",  # what runs in the pods needs the replicas
    "bound",  # a minimum or maximum of replicas decided
    "paused",  # people have said that nothing is to be asked for it
    "not-coming",  # as many replicas as are ready do not come: no more are asked for there
    "rival",  # somebody else decides on the same server
    "refused",  # the world takes no change of this server
    "hysteresis",  # a change would not pay
    "metric",  # a metric of the pods against its target
    "stabilization",  # a recent recommendation holds it
    "step-limit",  # a limit of one change at a time
    "panic",  # the load of the last seconds: nothing is taken away
    "forecast",  # the load that is expected
    "budget",  # only the money for it is missing
    "unchanged",  # the policy keeps what there is on purpose
    "remote",  # another optimizer decided and gave no reason of a known kind
]


# Of the details of a Why: how many tokens each request of a batch is to have, for caches are full.
FULL_CACHES = "fullCacheTokens"


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Why something was decided: *kind* for programs, *text* for people, *details* for the record.

    No code reads the words of *text*.
    """

    kind: WhyKind
    text: str = ""
    details: Mapping[str, object] = field(default_factory=dict)


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Target(OfPools):
    """What a policy wants of one server, and why.

    held: nothing is asked for, the server keeps what it has (no data, or nothing can be decided).
    Predictions are None if the policy makes none.
    """

    server: str
    pools: tuple[Pool, ...]
    why: Why
    held: bool = False
    cost_cents_per_h: float | None = None
    itl_ms: float | None = None
    ttft_ms: float | None = None
    rho: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Targets by server name; a server absent from it is held. unserved: which servers cannot be
    served, and why; notes: what else is to be told of how it was found.
    """

    targets: Mapping[str, Target]
    unserved: Mapping[str, Why] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Change(OfPools):
    """What one server is to become: absolute, so that applying it twice does no harm."""

    server: str
    pools: tuple[Pool, ...]
    why: Why


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long each phase of a cycle took [ms], by the Clock of the controller."""

    collect_ms: float = 0.0
    optimize_ms: float = 0.0
    actuate_ms: float = 0.0
    total_ms: float = 0.0


class Bounds(NamedTuple):
    """The most replicas that a server gains and loses in a cycle, and the most that all servers
    together may cost (None: no bound).
    """

    step_up: int | None = None
    step_down: int | None = None
    budget_usd_per_h: float | None = None


NO_BOUNDS = Bounds()


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class CycleRecord:
    """Everything one cycle saw, estimated, decided and did: the only product of the loop.

    seen is what observe returned, estimated is the collector's reading of it (smoothed, gaps ruled
    on), data what the policy knew besides; None when the cycle did not come so far. changes are
    what was asked of the world, or in mode "advise" what would have been.

    paused is why an acting controller did not act; its mode is then "advise".

    failed_phase says where the cycle stopped, "" when it went through; "program" is an error of the
    programmer, with its traceback. error is one line; a cycle that went through has one when it had
    to use the last good data. warning_kinds has the kind of each of warnings.

    policy_options are those of the policy that are not as shipped. speed is how many seconds pass
    in the world in one of now_s (other than 1 for a twin only), and bounds is what may change in a
    cycle at most, and what all may cost.
    """

    cycle: int
    now_s: float
    ts: str
    trigger: Trigger
    mode: Mode
    backend: str
    policy: str
    policy_options: Mapping[str, object] = field(default_factory=dict)
    speed: float = 1.0
    bounds: Bounds = NO_BOUNDS
    seen: Snapshot | None = None
    estimated: Snapshot | None = None
    data: SystemData | None = None
    decision: Decision | None = None
    changes: tuple[Change, ...] = ()
    applied: bool = False
    total_cost_cents_per_h: float = 0.0
    timing: Timing = field(default_factory=Timing)
    error: str = ""
    failed_phase: FailedPhase = ""
    traceback: str = ""
    paused: str = ""
    warnings: tuple[str, ...] = ()
    warning_kinds: tuple[WarningKind, ...] = ()

    @property
    def failed(self) -> bool:
        """Tell whether the cycle stopped before its end."""
        return self.failed_phase != ""

    def warned(self, kind: WarningKind, lines: Iterable[str]) -> CycleRecord:
        """Return the record with warnings more, all of one *kind*."""
        more = tuple(lines)
        if not more:
            return self
        return replace(
            self,
            warnings=(*self.warnings, *more),
            warning_kinds=(*self.warning_kinds, *([kind] * len(more))),
        )
