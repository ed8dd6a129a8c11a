"""The case that slo decides: the servers as they are seen, each with the load that it is to be
sized for, and with the margin that there are GPUs for. Pure but for the optimizer that is asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from loop.policies.slo.demand import (
    NEW,
    Asked,
    By,
    Demand,
    Demanded,
    Horizon,
    Memory,
    counted_in,
    demanded,
    remember,
    waiting_rpm,
)
from loop.policies.slo.lately import Lately
from loop.policies.slo.room import woken_targets
from loop.policies.slo.work import units
from loop.policies.slo.worth import worth_of
from loop.replacing import replace
from loop.spec import Allocation, ServerData, SystemData, cost_cents_per_h
from loop.types import Load, Why
from twin.frozen import made_quickly

if TYPE_CHECKING:
    from loop.optimizer.rules import OptimizerSettings
    from loop.policies.slo.ask import Found, Optimize
    from loop.policies.slo.crowd import Crowd
    from loop.types import ServerView, Snapshot, Target

UNKNOWN = Why(kind="held-unknown", text="the load is not known")
WINDOW_S = 60.0  # of the metrics, where the world does not tell
START_UP_S = 120.0  # of a pod, where nobody knows
# Samples after which work is counted by tokens: the first answers that end are the shortest.
UNIT_FROM = 8
MANY = 300  # servers, of which nobody looks at margins class by class
TOKENS_STEP = 1.02  # mean tokens are sized for in such steps, so that a sizing can be used again


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """What servers are sized for, as the options of slo say it."""

    compat: bool
    forecasts: bool
    percentile: float | None
    tick_s: float
    down_s: float
    drain_s: float
    prefix_cache_trust: float
    lately: Lately = field(default_factory=Lately, compare=False, repr=False)

    def system(
        self,
        snapshot: Snapshot,
        data: SystemData,
        demands: Mapping[str, Demand],
        *,
        bare_from: int | None = None,
        drains: bool = True,
        shares: Mapping[str, float] | None = None,
    ) -> SystemData:
        """Return *data* with the servers and, if the world knows it, the capacity of *snapshot*.
        Classes of priority *bare_from* and lower have no margin; unless *drains*, nobody has
        replicas for what waits. Servers that can have no more are sized for their *shares*
        [requests/min] at most.
        """
        capacity = data.capacity
        if snapshot.capacity is not None:
            capacity = {kind: view.total for kind, view in snapshot.capacity.items()}
        most = snapshot.capacity_max
        capacity = {kind: min(count, most.get(kind, count)) for kind, count in capacity.items()}
        servers = {}
        for name, view in snapshot.servers.items():
            found, most_rpm = demands.get(name), shares.get(name) if shares else None
            if found is None:
                servers[name] = self.server(view, data, _at_most(self._load(view), most_rpm))
                continue
            bare = bare_from is not None and data.priority(view.service_class) >= bare_from
            which = ("least" if bare else "load") if drains else "coming"
            made = self.lately.servers_of(view, found)
            server = made.get((which, most_rpm))
            if server is None:
                load = _at_most(_in_steps(getattr(found, which)), most_rpm)
                server = made[which, most_rpm] = self.server(view, data, load, found.crowd)
            servers[name] = server
        classes = data.classes
        if self.percentile is not None:
            classes = {
                name: replace(one, percentile=self.percentile) for name, one in classes.items()
            }
        return replace(data, servers=servers, capacity=capacity, classes=classes)

    def server(
        self, view: ServerView, data: SystemData, load: Load | None, full: Crowd | None = None
    ) -> ServerData:
        """Return *view* as the optimizer is to know it, its caches *full*; the data files add what
        no label says.
        """
        base = data.servers.get(view.name) or ServerData(name=view.name, model=view.model)
        cost = cost_cents_per_h(
            data, model=view.model, accelerator=view.accelerator, replicas=view.wanted
        )
        return replace(
            base,
            model=view.model,
            service_class=view.service_class,
            min_replicas=max(base.min_replicas, view.replicas_min),
            max_replicas=view.replicas_max,
            gpus_per_replica=view.gpus_per_replica,
            types=view.types,
            cached_tokens=self._cached_tokens(view, base),
            held_tokens=max(base.held_tokens, 0.0 if full is None else full.tokens_asked),
            # The margin of a forecast, which grows with the bursts that are seen, pays for them:
            # to size for them too costs as much as a wider margin, and brings no more.
            arrival_cv=1.0,
            pooled=base.pooled or view.pooled,
            current=Allocation(
                accelerator=view.accelerator,
                replicas=view.wanted,
                max_batch=view.max_batch,
                cost_cents_per_h=cost,
                itl_ms=view.itl_ms or 0.0,
                ttft_ms=view.ttft_ms or 0.0,
                load=load,
            ),
        )

    def _cached_tokens(self, view: ServerView, base: ServerData) -> float:
        """Return the tokens of a prompt that need no prefill: as many as were found in the cache,
        as far as that is trusted to stay so, or as are computed elsewhere, also for a new replica.
        """
        shares = view.cache_hit_share, view.fetched_share
        if self.compat or view.load is None or shares == (None, None):
            return 0.0 if self.compat else base.cached_tokens
        found, fetched = (share or 0.0 for share in shares)
        return max(self.prefix_cache_trust * found, fetched) * view.load.in_tokens

    def _load(self, view: ServerView) -> Load | None:
        """Return the load to size for: what comes, and what waits."""
        if view.load is None or self.compat or self.drain_s == 0:
            return view.load
        waits_rpm = waiting_rpm(view, drain_s=self.drain_s)
        return replace(view.load, rate_rpm=view.load.rate_rpm + waits_rpm)


class Find(Protocol):
    """What finds the allocation of a system. whole: the case is looked at in another way if anybody
    is short, so who has what need not be found then.
    """

    def __call__(self, system: SystemData, *, whole: bool = False) -> Found: ...


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is to be decided: held are the servers that nothing may be asked for, woken those that
    get their first replica; system has the margins of all classes. stays are filled with the
    servers of which somebody asks how long they have stayed: that is another answer each second;
    starts with those of which somebody asks how their pods start: of all others it is the same
    which of their pods are ready.
    """

    snapshot: Snapshot
    data: SystemData
    sizing: Sizing
    demands: Mapping[str, Demand]
    system: SystemData
    memories: Mapping[str, Memory]
    held: Mapping[str, Why]
    woken: Mapping[str, Target]
    shares: Mapping[str, float] = field(default_factory=dict)
    stays: set[str] = field(default_factory=set, compare=False)
    starts: set[str] = field(default_factory=set, compare=False)
    easy: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def sized(self, *, bare_from: int | None = None, drains: bool = True) -> SystemData:
        """Return the system with these margins, as `Sizing.system` does."""
        return self.sizing.system(
            self.snapshot,
            self.data,
            self.demands,
            bare_from=bare_from,
            drains=drains,
            shares=self.shares,
        )

    def within_capacity(self, find: Find) -> Found:
        """Return what is found with the margins that there are GPUs for.

        If GPUs are missing without any margin, nobody has one, and nobody any for what waits if
        they are missing for that; else the lowest classes go without. Of MANY servers nobody has
        any of these at once: each more that is looked at takes seconds, and margins come back.
        """
        servers = self.snapshot.servers
        priorities = {self.data.priority(servers[name].service_class) for name in self.demands}

        def bare(lowest: int) -> Found:
            return find(self.sized(bare_from=lowest), whole=True)

        many = len(servers) > MANY
        if many and self.shares:
            return find(self.sized(drains=False))
        found = find(self.sized() if self.shares else self.system, whole=bool(priorities))
        if not found.short or not priorities:
            return found
        least = None if many else bare(0)
        if least is None or least.short:
            return find(self.sized(drains=False))
        for lowest in sorted(priorities, reverse=True)[:-1]:
            found = bare(lowest)
            if not found.short:
                return found
        return least

    def share_rpm(self, name: str) -> tuple[float, float] | None:
        """Return how much of what comes *name* is sized for, and what comes [requests/min]; None if
        it is sized for all.
        """
        asked, load = self.demands.get(name), self.system.servers[name].current.load
        coming = asked.coming if asked is not None else load
        share_rpm = self.shares.get(name)
        if share_rpm is None or coming is None or share_rpm >= coming.rate_rpm:
            return None
        return share_rpm, coming.rate_rpm

    def known_s(self, name: str) -> float:
        """Return for how long the load of *name* has been seen; for ever if it was told."""
        if self.snapshot.servers[name].load_source.startswith("labels"):
            return math.inf
        return self.snapshot.now_s - self.memories[name].history.rates.start_s

    def stayed_s(self, name: str) -> float:
        """Return how long ago *name* moved to where it is; for ever if it has not."""
        moved_s = self.memories[name].moved_s
        if moved_s is not None:
            self.stays.add(name)
        return math.inf if moved_s is None else self.snapshot.now_s - moved_s

    def start_up_s(self, name: str, accelerator: str = "") -> float:
        """Return how long a new pod of *name* takes to be ready, there where it is or on
        *accelerator*.
        """
        self.starts.add(name)
        return _start_up_s(self.data, self.snapshot.servers[name], accelerator)


def make_case(
    snapshot: Snapshot,
    data: SystemData,
    state: Mapping[str, Memory],
    *,
    asked: Mapping[str, Target],
    sizing: Sizing,
    ask: Optimize,
    settings: OptimizerSettings,
) -> Case:
    """Return what is to be decided about the servers of *snapshot*, and what is remembered of them
    from now on; *asked* is what was decided last, and *ask* tells how much work their requests are.
    """
    demands, memories = _demands(
        snapshot, data, state, last=asked, sizing=sizing, ask=ask, settings=settings
    )
    # Whom nothing may be asked for keeps its GPUs, as the servers do whose load is not known.
    unknown = {
        name: view.hold or UNKNOWN
        for name, view in snapshot.servers.items()
        if view.load is None or view.hold is not None
    }
    system = sizing.system(snapshot, data, demands)
    return Case(
        snapshot=snapshot,
        data=data,
        sizing=sizing,
        demands=demands,
        system=system,
        memories=memories,
        held=unknown,
        woken=woken_targets(
            system,
            snapshot,
            unknown,
            for_long=_unknown_for_long(snapshot, memories),
        ),
    )


def basis(snapshot: Snapshot, data: SystemData, sizing: Sizing) -> By:
    """Return what demands depend on besides the servers of *snapshot*."""
    return By(data, sizing, snapshot.window_s or WINDOW_S)


def _demands(
    snapshot: Snapshot,
    data: SystemData,
    state: Mapping[str, Memory],
    *,
    last: Mapping[str, Target],
    sizing: Sizing,
    ask: Optimize,
    settings: OptimizerSettings,
) -> tuple[dict[str, Demand], dict[str, Memory]]:
    """Return what each server of known load is to be sized for, and what is remembered."""
    by = basis(snapshot, data, sizing)
    now_s, window_s, seen = snapshot.now_s, by.window_s, snapshot.servers
    if not sizing.forecasts or sizing.compat:
        return {}, remember(state, seen, data.perf, now_s=now_s, window_s=window_s)
    sizing.lately.forget_all_but(seen)
    quiet = {}
    for name, view in seen.items():
        stands = state.get(name, NEW).demand_of(view, by, asked=last.get(name), now_s=now_s)
        if stands is not None:
            quiet[name] = stands
    views = {name: view for name, view in seen.items() if name not in quiet}
    memories = remember(state, views, data.perf, now_s=now_s, window_s=window_s)
    servers = _to_be_counted(views, data, memories, sizing)
    counted = units(data, servers, ask=ask, settings=settings) if servers else {}
    memories |= {name: counted_in(memories[name], unit) for name, unit in counted.items()}
    asked = {}
    for name, view in views.items():
        load = _measured(view)
        if load is None:
            continue
        start_up_s = _start_up_s(data, view)
        horizon = Horizon(
            lead_s=window_s / 2.0 + sizing.tick_s + start_up_s,
            start_up_s=start_up_s,
            window_s=window_s,
            down_s=sizing.down_s,
            drain_s=sizing.drain_s,
        )
        asked[name] = Asked(view, load, worth_of(data, view), horizon)
    demands, known = demanded(memories, asked, now_s=now_s)
    for name, demand in demands.items():
        view, memory = views[name], known[name]
        before = memory.demanded
        demands[name] = found = demand if before is None else before.again(view, by, demand)
        # In another unit what was seen is counted anew the next time.
        kept = None if name in counted else Demanded(view, by, found)
        known[name] = replace(memory, demanded=kept)
    demands, memories = {**quiet, **demands}, {**state, **memories, **known}
    return (
        {name: demands[name] for name in seen if name in demands},
        {name: memories[name] for name in seen},
    )


def _to_be_counted(
    views: Mapping[str, ServerView],
    data: SystemData,
    memories: Mapping[str, Memory],
    sizing: Sizing,
) -> dict[str, ServerData]:
    """Return the servers whose work is to be counted in another unit from now on: a request of
    their mean tokens of today. Of an optimizer that does not say what a replica can take, nothing
    is known of work.
    """
    servers = {}
    for name, view in views.items():
        memory, load = memories[name], _measured(view)
        seen = load is not None and memory.tokens_weight > 0.0 and memory.replica_rpm > 0.0
        if not seen or len(memory.history.rates.values) < UNIT_FROM:
            continue
        assert load is not None
        tokens = memory.in_tokens, memory.out_tokens
        if memory.unit is None or not memory.unit.near(view.accelerator, *tokens):
            rate_rpm = max(view.wanted * memory.replica_rpm, load.rate_rpm, 1.0)
            mean = Load(rate_rpm=rate_rpm, in_tokens=tokens[0], out_tokens=tokens[1])
            servers[name] = sizing.server(view, data, _in_steps(mean), memory.crowd)
    return servers


def _measured(view: ServerView) -> Load | None:
    """Return the load of *view* if it was measured. Labels tell what it is to be: there is nothing
    to be foreseen or waited for.
    """
    return None if view.load_source.startswith("labels") else view.load


def _start_up_s(data: SystemData, view: ServerView, accelerator: str = "") -> float:
    """Return how long a new pod takes to be ready: on the present accelerator as it was seen, else
    as the data say.
    """
    if view.start_up_s is not None and accelerator in ("", view.accelerator):
        return view.start_up_s
    perf = data.perf.get((view.model, accelerator or view.accelerator))
    known = perf.start_up_s if perf is not None else None
    return START_UP_S if known is None else known


def _unknown_for_long(snapshot: Snapshot, memories: Mapping[str, Memory]) -> set[str]:
    """Return the servers of whose load nothing has been known for a whole window, and whose gauges
    are of this window.
    """
    window_s = snapshot.window_s or WINDOW_S
    found = set()
    for name, view in snapshot.servers.items():
        unknown_s = memories[name].unknown_s
        sampled = view.sample_age_s is not None and view.sample_age_s <= window_s
        if sampled and unknown_s is not None and unknown_s <= snapshot.now_s - window_s:
            found.add(name)
    return found


def _at_most(load: Load | None, rate_rpm: float | None) -> Load | None:
    """Return *load*, but no more than *rate_rpm* of it."""
    if load is None or rate_rpm is None:
        return load
    return replace(load, rate_rpm=min(load.rate_rpm, rate_rpm))


def _in_steps(load: Load) -> Load:
    """Return *load* with its tokens rounded to steps."""
    return Load(
        rate_rpm=load.rate_rpm,
        in_tokens=_stepped(load.in_tokens),
        out_tokens=_stepped(load.out_tokens),
    )


@lru_cache(maxsize=4096, typed=True)  # means are those of the last cycle, mostly
def _stepped(tokens: float) -> float:
    if tokens <= 1.0:
        return tokens
    return float(TOKENS_STEP ** round(math.log(tokens) / math.log(TOKENS_STEP)))
