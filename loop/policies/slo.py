"""The Inferno optimizer as a policy: the cheapest allocation that meets the objectives under the
load estimated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, get_args

import numpy as np

from loop.errors import SpecError
from loop.optimizer.front import SizingCache, optimize
from loop.optimizer.rules import OptimizerSettings, SolverName
from loop.optimizer.rules.go_today import GO_TODAY
from loop.optimizer.rules.ours import OURS
from loop.optimizer.solution import Assignment, Solution
from loop.spec import Allocation, ServerData, SystemData, cost_cents_per_h, gpus
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


NOTHING = Solution(allocations={}, unserved={}, total_cost=0.0, total_value=0.0)


class Optimize(Protocol):
    """What finds the allocation: the optimizer of this process, or a service."""

    def __call__(self, data: SystemData, settings: OptimizerSettings) -> Solution:
        """Return what each server of *data* should have. Raise BackendError, of phase decide, if it
        cannot be asked.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SloPolicy:
    """Sizes for targets of (1 - headroom) · SLO, and for what waits: backlog / drain_s is added to
    the rate.

    drain_s 0 leaves the backlog alone. hysteresis: how much a change must save, and how much load
    may pass what the present replicas sustain, before a server is changed. prefix_cache_trust: how
    much of the measured share of cached prompt tokens sizing relies on. compat: as the existing
    optimizer, without headroom, draining and prefix cache. optimize: None is the optimizer of this
    process. Raise SpecError for an option that cannot be.
    """

    solver: SolverName = DEFAULTS.solver
    headroom: float = DEFAULTS.headroom
    drain_s: float = 120.0
    hysteresis: float = DEFAULTS.hysteresis
    prefix_cache_trust: float = 0.0
    compat: bool = False
    optimize: Optimize | None = None
    name: str = "slo"
    tick_s: float = 60.0

    def __post_init__(self) -> None:
        if self.solver not in get_args(SolverName):
            raise SpecError(
                f"policy {self.name}: solver: expected {' or '.join(get_args(SolverName))}, found "
                f"{self.solver!r}"
            )
        self._check("headroom", self.headroom, below=1.0)
        self._check("drain_s", self.drain_s, below=math.inf)
        self._check("hysteresis", self.hysteresis, below=math.inf)
        self._check("prefix_cache_trust", self.prefix_cache_trust, below=math.inf)
        if self.prefix_cache_trust > 1.0:
            raise SpecError(
                f"policy {self.name}: prefix_cache_trust: expected a number from 0 to 1, found "
                f"{self.prefix_cache_trust!r}"
            )
        if not isinstance(self.compat, bool):
            raise SpecError(
                f"policy {self.name}: compat: expected true or false, found {self.compat!r}"
            )

    def start(self) -> None:
        """Return no state: the present allocation is in the snapshot."""

    def decide(self, snapshot: Snapshot, data: SystemData, state: None) -> tuple[Decision, None]:  # noqa: ARG002 the port
        """Return what every server should have; what cannot be decided is held, and stops nobody
        else.

        Held are servers whose load is not known, and those that no accelerator can serve. If only
        GPUs are missing, a server keeps of what it has as much as the others leave, highest class
        first. A server without replicas, whose load nobody can know but for the requests that wait,
        begins with one replica.
        """
        system = self._system(snapshot, data)
        # Whom nothing may be asked for keeps its GPUs, as the servers do whose load is not known.
        unknown = {
            name: view.hold or UNKNOWN
            for name, view in snapshot.servers.items()
            if view.load is None or view.hold is not None
        }
        woken = _woken(system, snapshot, unknown)
        solution, infeasible = self._solve(system, snapshot, unknown, woken)
        held, gpus_left = {**unknown, **infeasible}, _Free(system)
        targets = _held(gpus_left, held, snapshot)
        for name, target in woken.items():
            gpus_left.take(name, target.accelerator, target.replicas)
            targets[name] = target
        for name, found in solution.allocations.items():
            gpus_left.take(name, found.accelerator, found.replicas)
            targets[name] = _target(found, system, max_batch=self._max_batch(found, system))
        short = {name: why for name, why in solution.unserved.items() if name not in targets}
        targets |= _leftovers(gpus_left, short)
        return Decision(targets=targets, unserved={**infeasible, **short}), None

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
        settings = OptimizerSettings(
            solver=self.solver,
            headroom=self.headroom,
            hysteresis=self.hysteresis,
            rules=GO_TODAY if self.compat else OURS,
        )
        ask: Optimize = self.optimize or _exact_figures(partial(optimize, cache=SizingCache()))
        ask = _within_reach(ask, snapshot)
        beyond: dict[str, Why] = {}
        rest = _without(system, unknown, woken)
        try:
            solution = ask(rest, settings) if rest.servers else NOTHING
        except ArithmeticError:
            beyond = _beyond_arithmetic(ask, rest, settings)
            rest = _without(system, {**unknown, **beyond}, woken)
            solution = ask(rest, settings) if rest.servers else NOTHING
        infeasible = {
            name: why for name, why in solution.unserved.items() if why.kind != "capacity"
        }
        if infeasible:
            rest = _without(system, {**unknown, **beyond, **infeasible}, woken)
            solution = ask(rest, settings) if rest.servers else NOTHING
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

    def _system(self, snapshot: Snapshot, data: SystemData) -> SystemData:
        """Return *data* with the servers and, if the world knows it, the capacity of *snapshot*."""
        capacity = data.capacity
        if snapshot.capacity is not None:
            capacity = {kind: view.total for kind, view in snapshot.capacity.items()}
        most = snapshot.capacity_max
        capacity = {kind: min(count, most.get(kind, count)) for kind, count in capacity.items()}
        servers = {name: self._server(view, data) for name, view in snapshot.servers.items()}
        return replace(data, servers=servers, capacity=capacity)

    def _server(self, view: ServerView, data: SystemData) -> ServerData:
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
            current=Allocation(
                accelerator=view.accelerator,
                replicas=view.wanted,
                max_batch=view.max_batch,
                cost_cents_per_h=cost,
                itl_ms=view.itl_ms or 0.0,
                ttft_ms=view.ttft_ms or 0.0,
                load=self._demand(view),
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
        """Return the load to size for: what comes, and what waits spread over drain_s."""
        if view.load is None or self.compat or self.drain_s == 0:
            return view.load
        return replace(view.load, rate_rpm=view.load.rate_rpm + 60.0 * view.backlog / self.drain_s)

    def _check(self, option: str, value: float, *, below: float) -> None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0.0 <= value < below:
            bound = f" and < {below:g}" if below < math.inf else ""
            raise SpecError(
                f"policy {self.name}: {option}: expected a number >= 0{bound}, found {value!r}"
            )


def _within_reach(ask: Optimize, snapshot: Snapshot) -> Optimize:
    """Return *ask* giving no server more GPUs of a type than its pods can be put on, whatever there
    is of it: it gets others if these serve it whole, else as many as it can have.
    """

    def over(solution: Solution, data: SystemData) -> dict[str, tuple[str, int]]:
        """Return the type and the replicas that there is room for, by server."""
        found = {}
        for name, one in solution.allocations.items():
            reach = snapshot.servers[name].gpus_reachable
            model, accelerator = data.servers[name].model, one.accelerator
            each = gpus(data, model=model, accelerator=accelerator, replicas=1)
            if reach is not None and each is not None:
                room = reach.get(each[0], 0) // each[1]
                if room < one.replicas:
                    found[name] = each[0], room
        return found

    def bounded(data: SystemData, settings: OptimizerSettings) -> Solution:
        first = ask(data, settings)
        beyond = over(first, data)
        if not beyond:
            return first
        narrow = {
            name: replace(
                data.servers[name],
                types=(snapshot.servers[name].types or frozenset()) - {kind},
            )
            for name, (kind, _) in beyond.items()
        }
        second = ask(replace(data, servers={**data.servers, **narrow}), settings)
        bad = over(second, data).keys() | (beyond.keys() - second.allocations.keys())
        cut = {
            name: _cut(first.allocations[name], beyond[name][1])
            for name in beyond
            if name in bad and beyond[name][1] > 0
        }
        if not cut:
            return second
        free = _Free(data)
        for name, one in cut.items():
            free.take(name, one.accelerator, one.replicas)
        others = {**data.servers, **narrow}
        rest = {name: one for name, one in others.items() if name not in cut}
        third = ask(replace(data, servers=rest, capacity=free.count), settings) if rest else NOTHING
        return replace(third, allocations={**third.allocations, **cut})

    return bounded


def _cut(found: Assignment, replicas: int) -> Assignment:
    """Return as many *replicas* of what was *found* as there is room for."""
    text = f"capacity: {replicas} of {found.replicas} replicas can be put anywhere"
    (pool,) = found.pools
    return replace(
        found,
        pools=(replace(pool, replicas=replicas),),
        cost_cents_per_h=found.cost_cents_per_h * replicas / found.replicas,
        itl_ms=None,
        ttft_ms=None,
        rho=None,
        why=Why(kind="capacity", text=f"{text}; {found.why.text}", details=found.why.details),
    )


def _exact_figures(ask: Optimize) -> Optimize:
    """Return *ask* raising an ArithmeticError for figures that are beyond arithmetic, of which
    numpy by itself makes others: a count of replicas that is none would go round the loop.
    """

    def checked(data: SystemData, settings: OptimizerSettings) -> Solution:
        with np.errstate(divide="raise", over="raise", invalid="raise"):
            return ask(data, settings)

    return checked


def _beyond_arithmetic(
    ask: Optimize, system: SystemData, settings: OptimizerSettings
) -> dict[str, Why]:
    """Return the servers whose figures no arithmetic can size, found by sizing each alone."""
    found = {}
    for name, server in system.servers.items():
        try:
            ask(replace(system, servers={name: server}), settings)
        except ArithmeticError as error:
            load = server.current.load
            found[name] = Why(kind="infeasible", text=f"its load cannot be sized ({error}): {load}")
    return found


class _Free:
    """The GPUs of each type that are not given away yet."""

    def __init__(self, system: SystemData) -> None:
        self.system = system
        self.count = dict(system.capacity)

    def take(self, server: str, accelerator: str, replicas: int) -> str:
        """Give GPUs to replicas of *server*; return what to tell of it if there are not as many."""
        taken = gpus(
            self.system,
            model=self.system.servers[server].model,
            accelerator=accelerator,
            replicas=replicas,
        )
        if taken is None:
            return ""
        kind, count = taken
        room = self.count.get(kind, 0)
        self.count[kind] = max(0, room - count)
        if count <= room or self.system.optimizer.unlimited:
            return ""
        return f"its {count} {kind} exceed the capacity, which has {room} left"

    def keep(self, servers: Iterable[str]) -> None:
        """Give each of *servers* what it has."""
        for name in servers:
            current = self.system.servers[name].current
            self.take(name, current.accelerator, current.replicas)

    def room(self, server: str, accelerator: str) -> int | None:
        """Return how many replicas of *server* fit in; None if the data do not know."""
        model = self.system.servers[server].model
        each = gpus(self.system, model=model, accelerator=accelerator, replicas=1)
        return self.count.get(each[0], 0) // each[1] if each is not None else None

    def by_class(self, names: Iterable[str]) -> list[str]:
        """Return *names*, highest class first."""
        servers, priority = self.system.servers, self.system.priority
        return sorted(names, key=lambda name: (priority(servers[name].service_class), name))


def _without(system: SystemData, held: Iterable[str], woken: Mapping[str, Target]) -> SystemData:
    """Return what is left to decide: the servers that are not *held*, and the GPUs that these
    leave.
    """
    free, held = _Free(system), set(held)
    free.keep(held)
    for name, target in woken.items():
        free.take(name, target.accelerator, target.replicas)
    servers = {name: server for name, server in system.servers.items() if name not in held}
    return replace(system, servers=servers, capacity=free.count)


def _woken(system: SystemData, snapshot: Snapshot, unknown: Iterable[str]) -> dict[str, Target]:
    """Return a target of one replica for each server that has none while requests wait, as far
    as the held servers leave GPUs.

    Without one the tokens of these requests are never counted, and the load is never known.
    """
    free, targets = _Free(system), {}
    free.keep(unknown)
    for name in free.by_class(unknown):
        view = snapshot.servers[name]
        if view.wanted > 0 or view.backlog == 0 or view.hold is not None:
            continue
        if free.room(name, view.accelerator) == 0 and not system.optimizer.unlimited:
            continue
        free.take(name, view.accelerator, 1)
        targets[name] = Target(
            server=name,
            pools=one_pool(accelerator=view.accelerator, replicas=1, max_batch=view.max_batch),
            why=Why(
                kind="bound",
                text=f"{view.backlog} requests wait, and nothing is known of them: one replica "
                "begins",
            ),
        )
    return targets


def _held(free: _Free, held: Mapping[str, Why], snapshot: Snapshot) -> dict[str, Target]:
    """Return targets that change nothing for the servers *held*, whose GPUs are given away
    first.
    """
    targets = {}
    for name in free.by_class(held):
        view, why = snapshot.servers[name], held[name]
        beyond = free.take(name, view.accelerator, view.wanted)
        parts = [part for part in ("held", why.text, beyond) if part]
        targets[name] = Target(
            server=name,
            pools=view.pools,
            why=replace(why, text="; ".join(parts)),
            held=True,
            cost_cents_per_h=free.system.servers[name].current.cost_cents_per_h,
        )
    return targets


def _target(found: Assignment, system: SystemData, *, max_batch: int) -> Target:
    load = system.servers[found.server].current.load
    demand = {"demandRpm": load.rate_rpm} if load is not None else {}
    return Target(
        server=found.server,
        pools=one_pool(accelerator=found.accelerator, replicas=found.replicas, max_batch=max_batch),
        cost_cents_per_h=found.cost_cents_per_h,
        itl_ms=found.itl_ms,
        ttft_ms=found.ttft_ms,
        rho=found.rho,
        why=replace(found.why, details={**found.why.details, **demand}),
    )


def _leftovers(free: _Free, short: Mapping[str, Why]) -> dict[str, Target]:
    """Return for the servers *short* of GPUs as many of their present replicas as the others leave
    GPUs for.
    """
    targets = {}
    for name in free.by_class(short):
        current = free.system.servers[name].current
        room = free.room(name, current.accelerator)
        replicas = current.replicas if room is None else min(current.replicas, room)
        free.take(name, current.accelerator, replicas)
        targets[name] = Target(
            server=name,
            pools=one_pool(
                accelerator=current.accelerator,
                replicas=replicas,
                max_batch=current.max_batch,
            ),
            why=Why(
                kind="capacity",
                text=f"{short[name].text}; keeps {replicas} of {current.replicas} replicas",
            ),
        )
    return targets
