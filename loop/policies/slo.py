"""The Inferno optimizer as a policy: the cheapest allocation that meets the objectives under the
load estimated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import get_args

from loop.errors import SpecError
from loop.optimizer.front import SizingCache, optimize
from loop.optimizer.rules import OptimizerSettings, SolverName
from loop.optimizer.rules.go_today import GO_TODAY
from loop.optimizer.rules.ours import OURS
from loop.optimizer.solution import Assignment, Solution
from loop.policies.ask import Optimize, beyond_arithmetic, exact_figures, within_reach
from loop.policies.demand import (
    NOTHING,
    Asked,
    Demand,
    Horizon,
    Memories,
    Memory,
    counted_in,
    demanded,
    remember,
    waiting_rpm,
)
from loop.policies.moves import DWELL_S, KNOWN_S, Move, pays, settling
from loop.policies.room import (
    FreeGpus,
    held_targets,
    leftover_targets,
    without,
    woken_targets,
)
from loop.policies.work import units
from loop.policies.worth import Worth
from loop.replacing import replace
from loop.spec import Allocation, ServerData, SystemData, cost_cents_per_h
from loop.types import (
    Decision,
    Load,
    ServerView,
    Snapshot,
    Target,
    Why,
    one_pool,
)

# a present max batch up to so many times the wanted one stays: it is no smaller, and a change is a
# patch
ROOMY = 2
UNKNOWN = Why(kind="held-unknown", text="the load is not known")
DEFAULTS = OptimizerSettings(rules=OURS)


NO_SOLUTION = Solution(allocations={}, unserved={}, total_cost=0.0, total_value=0.0)
# What a request that meets its targets is worth [cents] if the class does not say, by priority.
MET_CENTS = {1: 1.0, 2: 0.8, 3: 0.6}
MET_CENTS_LOWEST = 0.5
WINDOW_S = 60.0  # of the metrics, where the world does not tell
START_UP_S = 120.0  # of a pod, where nobody knows
# Samples after which work is counted by tokens: the first answers that end are the shortest.
UNIT_FROM = 8
TOKENS_STEP = 1.02  # mean tokens are sized for in such steps, so that a sizing can be used again


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """What is to be decided: held are the servers that nothing may be asked for, woken those that
    get their first replica; system has the margins of all classes.
    """

    snapshot: Snapshot
    data: SystemData
    demands: Mapping[str, Demand]
    system: SystemData
    memories: Mapping[str, Memory]
    held: Mapping[str, Why]
    woken: Mapping[str, Target]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A solution, the system that it is of, and the servers that nothing in it can serve."""

    system: SystemData
    solution: Solution
    infeasible: Mapping[str, Why]

    @property
    def short(self) -> list[str]:
        """Return the servers for which only GPUs are missing."""
        return [name for name, why in self.solution.unserved.items() if why.kind == "capacity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SloPolicy:
    """Sizes for targets of (1 - headroom) · SLO, and for what waits: backlog / drain_s is added to
    the rate, but of what waits in pods no more than these can do.

    drain_s 0 leaves the backlog alone. hysteresis: how much a change must save, and how much load
    may pass what the present replicas sustain, before a server is changed. prefix_cache_trust: how
    much of the measured share of cached prompt tokens sizing relies on. percentile: the share of
    requests that shall meet their targets, in the place of what the classes say. compat: as the
    existing optimizer, without headroom, draining and prefix cache. optimize: None is the optimizer
    of this process. Raise SpecError for an option that cannot be.
    """

    solver: SolverName = DEFAULTS.solver
    headroom: float = DEFAULTS.headroom
    percentile: float | None = None
    drain_s: float = 60.0
    hysteresis: float = DEFAULTS.hysteresis
    prefix_cache_trust: float = 0.0
    compat: bool = False
    forecasts: bool = True
    down_s: float = 300.0
    optimize: Optimize | None = None
    name: str = "slo"
    tick_s: float = 30.0
    cache: SizingCache = field(default_factory=SizingCache, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.solver not in get_args(SolverName):
            raise SpecError(
                f"policy {self.name}: solver: expected {' or '.join(get_args(SolverName))}, found "
                f"{self.solver!r}"
            )
        self._check("headroom", self.headroom, below=1.0)
        if self.percentile is not None:
            self._check("percentile", self.percentile, below=1.0)
        self._check("drain_s", self.drain_s, below=math.inf)
        self._check("down_s", self.down_s, below=math.inf)
        self._check("hysteresis", self.hysteresis, below=math.inf)
        self._check("prefix_cache_trust", self.prefix_cache_trust, below=math.inf)
        if self.prefix_cache_trust > 1.0:
            raise SpecError(
                f"policy {self.name}: prefix_cache_trust: expected a number from 0 to 1, found "
                f"{self.prefix_cache_trust!r}"
            )
        for option, value in (("compat", self.compat), ("forecasts", self.forecasts)):
            if not isinstance(value, bool):
                raise SpecError(
                    f"policy {self.name}: {option}: expected true or false, found {value!r}"
                )

    def start(self) -> Memories:
        """Return that nothing is remembered of any server."""
        return NOTHING

    def decide(
        self, snapshot: Snapshot, data: SystemData, state: Memories
    ) -> tuple[Decision, Memories]:
        """Return what every server should have; what cannot be decided is held, and stops nobody
        else.

        Held are servers whose load is not known, and those that no accelerator can serve. If only
        GPUs are missing, margins are given up from the lowest class; then a server keeps of what it
        has as much as the others leave, highest class first. A server without replicas, whose load
        nobody can know but for the requests that wait, begins with one replica.
        """
        demands, memories = self._demands(snapshot, data, state)
        # Whom nothing may be asked for keeps its GPUs, as the servers do whose load is not known.
        unknown = {
            name: view.hold or UNKNOWN
            for name, view in snapshot.servers.items()
            if view.load is None or view.hold is not None
        }
        system = self._system(snapshot, data, demands)
        case = _Case(
            snapshot=snapshot,
            data=data,
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
        free = self._within_capacity(case, partial(self._find, case))
        found, moved = self._settle(case, free)
        for name, one in found.solution.allocations.items():
            memory = memories[name]
            moved_s = snapshot.now_s if name in moved else memory.moved_s
            if memory.replica_rpm != one.rate_max_rpm or memory.moved_s != moved_s:
                memory = replace(memory, replica_rpm=one.rate_max_rpm, moved_s=moved_s)
                memories[name] = memory
        return self._decision(case, found, moved), memories

    def _decision(self, case: _Case, found: _Found, moved: Mapping[str, int]) -> Decision:
        """Return what is found as targets; GPUs go to held servers first, leftovers come last.
        *moved* servers have so many replicas at least until the new ones are ready.
        """
        held, gpus_left = {**case.held, **found.infeasible}, FreeGpus(found.system)
        targets = held_targets(gpus_left, held, case.snapshot)
        for name, target in case.woken.items():
            more = target.replicas - case.snapshot.servers[name].wanted
            gpus_left.take(name, target.accelerator, more)
            targets[name] = target
        allocations = found.solution.allocations
        for name, one in allocations.items():
            gpus_left.take(name, one.accelerator, one.replicas)
        for name, one in allocations.items():
            extra = max(0, self._kept(case, name, moved) - one.replicas)
            room = gpus_left.room(name, one.accelerator)
            extra = extra if room is None else min(extra, room)
            gpus_left.take(name, one.accelerator, extra)
            targets[name] = _target(
                one,
                found.system,
                case.demands.get(name),
                replicas=one.replicas + extra,
                max_batch=self._max_batch(one, found.system),
            )
        short = {name: why for name, why in found.solution.unserved.items() if name not in targets}
        targets |= leftover_targets(gpus_left, short)
        return Decision(targets=targets, unserved={**found.infeasible, **short})

    def _kept(self, case: _Case, name: str, moved: Mapping[str, int]) -> int:
        """Return how many replicas *name* keeps at least, as it moves or has moved just now."""
        view = case.snapshot.servers[name]
        if name in moved:
            return moved[name]
        moved_s, start_up_s = case.memories[name].moved_s, _start_up_s(case.data, view)
        if self.compat or self.hysteresis == 0.0:
            return 0
        now_s = case.snapshot.now_s
        still = settling(view, moved_s=moved_s, start_up_s=start_up_s, now_s=now_s)
        return view.wanted if still else 0

    def _demands(
        self, snapshot: Snapshot, data: SystemData, state: Memories
    ) -> tuple[dict[str, Demand], dict[str, Memory]]:
        """Return what each server of known load is to be sized for, and what is remembered."""
        now_s, window_s = snapshot.now_s, snapshot.window_s or WINDOW_S
        memories = remember(state, snapshot.servers, now_s=now_s, window_s=window_s)
        if not self.forecasts or self.compat:
            return {}, memories
        memories |= self._counted(snapshot, data, memories)
        asked = {}
        for name, view in snapshot.servers.items():
            load = _measured(view)
            if load is None:
                continue
            worth = Worth(
                replica_cents_per_h=_replica_cents_per_h(data, view),
                met_cents=_met_cents(data, view),
            )
            horizon = Horizon(
                lead_s=window_s / 2.0 + self.tick_s + _start_up_s(data, view),
                window_s=window_s,
                down_s=self.down_s,
                drain_s=self.drain_s,
            )
            asked[name] = Asked(view, load, worth, horizon)
        found, known = demanded(memories, asked, now_s=now_s)
        return found, {**memories, **known}

    def _counted(
        self, snapshot: Snapshot, data: SystemData, memories: Mapping[str, Memory]
    ) -> dict[str, Memory]:
        """Return the memories of the servers whose work is counted in another unit from now on: a
        request of their mean tokens of today. Of an optimizer that does not say what a replica can
        take, nothing is known of work.
        """
        servers = {}
        for name, view in snapshot.servers.items():
            memory, load = memories[name], _measured(view)
            seen = load is not None and memory.tokens_weight > 0.0 and memory.replica_rpm > 0.0
            if not seen or len(memory.history.rates.values) < UNIT_FROM:
                continue
            assert load is not None
            tokens = memory.in_tokens, memory.out_tokens
            if memory.unit is None or not memory.unit.near(view.accelerator, *tokens):
                rate_rpm = max(view.wanted * memory.replica_rpm, load.rate_rpm, 1.0)
                mean = Load(rate_rpm=rate_rpm, in_tokens=tokens[0], out_tokens=tokens[1])
                servers[name] = self._server(view, data, _in_steps(mean))
        if not servers:
            return {}
        ask = self.optimize or exact_figures(partial(optimize, cache=self.cache))
        try:
            found = units(data, servers, ask=ask, settings=self._settings())
        except ArithmeticError:
            return {}
        return {name: counted_in(memories[name], unit) for name, unit in found.items()}

    def _within_capacity(self, case: _Case, find: Callable[[SystemData], _Found]) -> _Found:
        """Return what is found with the margins that there are GPUs for.

        If GPUs are missing without any margin, nobody has one; else the lowest classes go without.
        """
        servers = case.snapshot.servers
        priorities = {case.data.priority(servers[name].service_class) for name in case.demands}

        def bare(lowest: int) -> _Found:
            return find(self._system(case.snapshot, case.data, case.demands, bare_from=lowest))

        found = find(case.system)
        if not found.short or not priorities:
            return found
        least = bare(0)
        if least.short:
            return least
        for lowest in sorted(priorities, reverse=True)[:-1]:
            found = bare(lowest)
            if not found.short:
                return found
        return least

    def _find(self, case: _Case, system: SystemData) -> _Found:
        """Return the solution of *system*, wherever that puts anybody."""
        solution, infeasible = self._solve(system, case.snapshot, case.held, case.woken)
        return _Found(system=system, solution=solution, infeasible=infeasible)

    def _settle(self, case: _Case, found: _Found) -> tuple[_Found, dict[str, int]]:
        """Return what is *found* without the moves that do not pay, and who moves with how many
        replicas.

        If less is served where everybody stays, the fewest moves are made with which as much is
        served as with all of them.
        """
        if self.compat or self.hysteresis == 0.0 or not _movers(found):
            return found, {}
        home = self._staying(case, found, found.system.servers)
        if _missed_cents(case, found) < _missed_cents(case, home):
            found = self._fewest_moves(case, found, home)
            movers = _movers(found)
            return found, {name: self._move(case, found, home, name).replicas for name in movers}
        # Where some stay, others may have to move for them: these are looked at in turn.
        stayers: set[str] = set()
        while True:
            moves = {name: self._move(case, found, home, name) for name in _movers(found)}
            now_s, saving_min = case.snapshot.now_s, self.hysteresis / 2.0
            stopped = {
                name
                for name, move in moves.items()
                if name not in stayers and not pays(move, now_s=now_s, saving_min=saving_min)
            }
            if not stopped:
                return found, {name: move.replicas for name, move in moves.items()}
            stayers |= stopped
            found = self._staying(case, found, stayers)

    def _move(self, case: _Case, found: _Found, home: _Found, name: str) -> Move:
        """Return the move of *name* that is *found*; it would have what it has at *home* else."""
        go, view = found.solution.allocations[name], case.snapshot.servers[name]
        return Move(
            view=view,
            go=go,
            stay=home.solution.allocations.get(name),
            start_up_s=_start_up_s(case.data, view, go.accelerator),
            moved_s=case.memories[name].moved_s,
            known_s=_known_s(case, name),
            rate_rpm=_rate_rpm(found.system.servers[name]),
        )

    def _fewest_moves(self, case: _Case, found: _Found, home: _Found) -> _Found:
        """Return what is *found* with as few of the moves as serve as much: who has moved lately
        stays if anybody may, then who would move at the highest price. Who is served at *home*, if
        only in part, stays until its load has been seen for a while.
        """
        now_s, allocations, movers = case.snapshot.now_s, found.solution.allocations, _movers(found)

        def reluctance(name: str) -> tuple[bool, float, str]:
            moved_s = case.memories[name].moved_s
            lately = moved_s is not None and now_s - moved_s < DWELL_S
            return not lately, -allocations[name].cost_cents_per_h, name

        new = {
            name
            for name in movers
            if name in home.solution.allocations and _known_s(case, name) < KNOWN_S
        }
        stayers = (found.system.servers.keys() - set(movers)) | new
        best = self._staying(case, found, stayers) if new else found
        least = _missed_cents(case, best)
        for name in sorted(set(movers) - new, key=reluctance):
            fewer = self._staying(case, found, stayers | {name})
            if _missed_cents(case, fewer) <= least:
                stayers, best = stayers | {name}, fewer
        return best

    def _staying(self, case: _Case, found: _Found, names: Iterable[str]) -> _Found:
        """Return what is found with *names* on the accelerators that they have, with the margins
        that there are GPUs for then; the same servers can be served as in what was *found*.
        """
        ask = self._optimizer(case.snapshot)

        def find(system: SystemData) -> _Found:
            stay = {name: replace(system.servers[name], keep_accelerator=True) for name in names}
            kept = replace(system, servers={**system.servers, **stay})
            rest = without(kept, {**case.held, **found.infeasible}, case.woken)
            solution = ask(rest, self._settings()) if rest.servers else NO_SOLUTION
            return _Found(system=kept, solution=solution, infeasible=found.infeasible)

        return self._within_capacity(case, find)

    def _settings(self) -> OptimizerSettings:
        return OptimizerSettings(
            solver=self.solver,
            headroom=self.headroom,
            hysteresis=self.hysteresis,
            rules=GO_TODAY if self.compat else OURS,
        )

    def _optimizer(self, snapshot: Snapshot) -> Optimize:
        ask: Optimize = self.optimize or exact_figures(partial(optimize, cache=self.cache))
        return within_reach(ask, snapshot)

    def _solve(
        self,
        system: SystemData,
        snapshot: Snapshot,
        unknown: Mapping[str, Why],
        woken: Mapping[str, Target],
    ) -> tuple[Solution, dict[str, Why]]:
        """Return the solution, and which servers nothing can serve, with the reason.

        These hold GPUs that the others must not be given, so if there are any the rest is solved
        again.
        """
        settings, ask = self._settings(), self._optimizer(snapshot)
        beyond: dict[str, Why] = {}
        rest = without(system, unknown, woken)
        try:
            solution = ask(rest, settings) if rest.servers else NO_SOLUTION
        except ArithmeticError:
            beyond = beyond_arithmetic(ask, rest, settings)
            rest = without(system, {**unknown, **beyond}, woken)
            solution = ask(rest, settings) if rest.servers else NO_SOLUTION
        infeasible = {
            name: why for name, why in solution.unserved.items() if why.kind != "capacity"
        }
        if infeasible:
            rest = without(system, {**unknown, **beyond, **infeasible}, woken)
            solution = ask(rest, settings) if rest.servers else NO_SOLUTION
        return solution, {**beyond, **infeasible}

    def _max_batch(self, found: Assignment, system: SystemData) -> int:
        """Return the max batch to ask for: the present one if it is large enough, and not far too
        large.
        """
        current = system.servers[found.server].current
        stays = (
            not self.compat
            and self.hysteresis > 0.0
            and found.accelerator == current.accelerator
            and found.max_batch <= current.max_batch <= ROOMY * found.max_batch
        )
        return current.max_batch if stays else found.max_batch

    def _system(
        self,
        snapshot: Snapshot,
        data: SystemData,
        demands: Mapping[str, Demand],
        *,
        bare_from: int | None = None,
    ) -> SystemData:
        """Return *data* with the servers and, if the world knows it, the capacity of *snapshot*.
        Classes of priority *bare_from* and lower have no margin.
        """
        capacity = data.capacity
        if snapshot.capacity is not None:
            capacity = {kind: view.total for kind, view in snapshot.capacity.items()}
        most = snapshot.capacity_max
        capacity = {kind: min(count, most.get(kind, count)) for kind, count in capacity.items()}
        servers = {}
        for name, view in snapshot.servers.items():
            found = demands.get(name)
            load = self._demand(view)
            if found is not None:
                bare = bare_from is not None and data.priority(view.service_class) >= bare_from
                load = _in_steps(found.least if bare else found.load)
            servers[name] = self._server(view, data, load)
        classes = data.classes
        if self.percentile is not None:
            classes = {
                name: replace(one, percentile=self.percentile) for name, one in classes.items()
            }
        return replace(data, servers=servers, capacity=capacity, classes=classes)

    def _server(self, view: ServerView, data: SystemData, load: Load | None) -> ServerData:
        """Return *view* as the optimizer is to know it; the data files add what no label says."""
        base = data.servers.get(view.name) or ServerData(name=view.name, model=view.model)
        cost = cost_cents_per_h(
            data, model=view.model, accelerator=view.accelerator, replicas=view.wanted
        )
        return replace(
            base,
            model=view.model,
            service_class=view.service_class,
            min_replicas=max(base.min_replicas, view.replicas_min),
            gpus_per_replica=view.gpus_per_replica,
            types=view.types,
            cached_tokens=self._cached_tokens(view, base),
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
        as far as that is trusted to stay so.
        """
        if self.compat or view.load is None or view.cache_hit_share is None:
            return 0.0 if self.compat else base.cached_tokens
        return self.prefix_cache_trust * view.cache_hit_share * view.load.in_tokens

    def _demand(self, view: ServerView) -> Load | None:
        """Return the load to size for: what comes, and what waits."""
        if view.load is None or self.compat or self.drain_s == 0:
            return view.load
        waits_rpm = waiting_rpm(view, drain_s=self.drain_s)
        return replace(view.load, rate_rpm=view.load.rate_rpm + waits_rpm)

    def _check(self, option: str, value: float, *, below: float) -> None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0.0 <= value < below:
            bound = f" and < {below:g}" if below < math.inf else ""
            raise SpecError(
                f"policy {self.name}: {option}: expected a number >= 0{bound}, found {value!r}"
            )


def _measured(view: ServerView) -> Load | None:
    """Return the load of *view* if it was measured. Labels tell what it is to be: there is nothing
    to be foreseen or waited for.
    """
    return None if view.load_source.startswith("labels") else view.load


def _missed_cents(case: _Case, found: _Found) -> float:
    """Return what the requests are worth that more come of than the replicas *found* can take, of
    all servers without margins [cents/min]. Those that may wait count as the least that others are
    worth: without GPUs they wait for ever.
    """
    missed = 0.0
    for name, server in found.system.servers.items():
        one = found.solution.allocations.get(name)
        served_rpm = one.replicas * one.rate_max_rpm if one is not None else 0.0
        value = _met_cents(case.data, case.snapshot.servers[name]) or MET_CENTS_LOWEST
        asked = case.demands.get(name)
        rate_rpm = _rate_rpm(server) if asked is None else asked.least.rate_rpm
        missed += value * max(0.0, rate_rpm - served_rpm)
    return missed


def _rate_rpm(server: ServerData) -> float:
    """Return the rate that *server* is sized for, 0 if it is not known."""
    return 0.0 if server.current.load is None else server.current.load.rate_rpm


def _known_s(case: _Case, name: str) -> float:
    """Return for how long the load of *name* has been seen; for ever if it was told."""
    if case.snapshot.servers[name].load_source.startswith("labels"):
        return math.inf
    return case.snapshot.now_s - case.memories[name].history.rates.start_s


def _movers(found: _Found) -> list[str]:
    """Return the servers that would move from one accelerator to another."""
    servers = found.system.servers
    return [
        name
        for name, one in found.solution.allocations.items()
        if one.replicas > 0
        and servers[name].current.replicas > 0
        and one.accelerator != servers[name].current.accelerator
    ]


def _replica_cents_per_h(data: SystemData, view: ServerView) -> float:
    """Return what one replica costs where the server is; 0 if the data do not know."""
    cost = cost_cents_per_h(data, model=view.model, accelerator=view.accelerator, replicas=1)
    return cost or 0.0


def _met_cents(data: SystemData, view: ServerView) -> float:
    """Return what a request within its targets is worth to have room for, by its class or by that's
    priority; 0 if there is a target for throughput only: what waits is done a little later.
    """
    target = data.target(service_class=view.service_class, model=view.model)
    if target is not None and not (target.slo_ttft_ms or target.slo_itl_ms or target.percentiles):
        return 0.0
    entry = data.classes.get(view.service_class)
    if entry is not None and entry.value_per_met_request_cents is not None:
        return entry.value_per_met_request_cents
    return MET_CENTS.get(data.priority(view.service_class), MET_CENTS_LOWEST)


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


def _in_steps(load: Load) -> Load:
    """Return *load* with its tokens rounded to steps."""

    def stepped(tokens: float) -> float:
        if tokens <= 1.0:
            return tokens
        return float(TOKENS_STEP ** round(math.log(tokens) / math.log(TOKENS_STEP)))

    return replace(load, in_tokens=stepped(load.in_tokens), out_tokens=stepped(load.out_tokens))


def _target(
    found: Assignment,
    system: SystemData,
    asked: Demand | None,
    *,
    replicas: int,
    max_batch: int,
) -> Target:
    load = system.servers[found.server].current.load
    demand: dict[str, object] = {"demandRpm": load.rate_rpm} if load is not None else {}
    if asked is not None:
        demand["forecast"] = asked.forecast.method
    return Target(
        server=found.server,
        pools=one_pool(accelerator=found.accelerator, replicas=replicas, max_batch=max_batch),
        cost_cents_per_h=found.cost_cents_per_h * replicas / max(found.replicas, 1),
        itl_ms=found.itl_ms,
        ttft_ms=found.ttft_ms,
        rho=found.rho,
        why=replace(found.why, details={**found.why.details, **demand}),
    )
