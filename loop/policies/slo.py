"""The Inferno optimizer as a policy: the cheapest allocation that meets the objectives under the
load estimated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

from loop.cost import cost_cents_per_h, gpus
from loop.errors import SpecError
from loop.optimizer.front import SizingCache, optimize
from loop.optimizer.rules.go_today import GO_TODAY
from loop.optimizer.rules.ours import OURS
from loop.optimizer.settings import OptimizerSettings, SolverName
from loop.spec import Allocation, ServerData, SystemData
from loop.types import Decision, Load, ServerView, Snapshot, Target, Why, one_pool

if TYPE_CHECKING:
    from loop.optimizer.front import Assignment, Solution

# a present max batch up to so many times the wanted one stays: it is no smaller, and a change is a
# patch
ROOMY = 2
UNKNOWN = Why(kind="held-unknown", text="the load is not known")
DEFAULTS = OptimizerSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class SloPolicy:
    """Sizes for targets of (1 - headroom) · SLO, and for what waits: backlog / drain_s is added to
    the rate.

    drain_s 0 leaves the backlog alone. band: how much a change must save, and how much load may
    pass what the present replicas sustain, before a server is changed. compat: as the existing
    optimizer, without headroom and draining. Raise SpecError for an option that cannot be.
    """

    solver: SolverName = DEFAULTS.solver
    headroom: float = DEFAULTS.headroom
    drain_s: float = 120.0
    band: float = DEFAULTS.band
    compat: bool = False
    name: str = "slo"
    tick_s: float = 60.0

    def __post_init__(self) -> None:
        if self.solver not in get_args(SolverName):
            raise SpecError(
                f"policy slo: solver: expected {' or '.join(get_args(SolverName))}, found "
                f"{self.solver!r}"
            )
        _check("headroom", self.headroom, below=1.0)
        _check("drain_s", self.drain_s, below=math.inf)
        _check("band", self.band, below=math.inf)
        if not isinstance(self.compat, bool):
            raise SpecError(f"policy slo: compat: expected true or false, found {self.compat!r}")

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
        unknown = frozenset(
            name for name, server in system.servers.items() if server.current.load is None
        )
        system, woken = _wake(system, snapshot, unknown)
        solution, infeasible = self._solve(system, held=unknown)
        targets = {
            name: _target(found, system, max_batch=self._max_batch(found, system))
            for name, found in solution.allocations.items()
        }
        targets |= {
            name: replace(targets[name], why=_held(why, targets[name].why))
            for name, why in {**dict.fromkeys(unknown, UNKNOWN), **infeasible}.items()
        }
        targets |= {
            name: replace(targets[name], held=False, why=why) for name, why in woken.items()
        }
        short = {name: why for name, why in solution.unserved.items() if name not in targets}
        targets |= _leftovers(system, solution, short)
        return Decision(targets=targets, unserved={**infeasible, **short}), None

    def _solve(
        self, system: SystemData, *, held: frozenset[str]
    ) -> tuple[Solution, dict[str, Why]]:
        """Return the solution, and whom nothing can serve, with the reason.

        These hold GPUs that the others must not be given, so where there are any the rest is
        solved again.
        """
        settings = OptimizerSettings(
            solver=self.solver,
            headroom=self.headroom,
            band=self.band,
            rules=GO_TODAY if self.compat else OURS,
        )
        cache = SizingCache()
        solution = optimize(system, settings, held=held, cache=cache)
        infeasible = {
            name: why for name, why in solution.unserved.items() if why.kind != "capacity"
        }
        if infeasible:
            solution = optimize(system, settings, held=held | infeasible.keys(), cache=cache)
        return solution, infeasible

    def _max_batch(self, found: Assignment, system: SystemData) -> int:
        """Return the max batch to ask for: the present one where it is large enough, and not far
        too large.
        """
        current = system.servers[found.server].current
        stays = (
            not self.compat
            and self.band > 0.0
            and found.accelerator == current.accelerator
            and found.max_batch <= current.max_batch <= ROOMY * found.max_batch
        )
        return current.max_batch if stays else found.max_batch

    def _system(self, snapshot: Snapshot, data: SystemData) -> SystemData:
        """Return *data* with the servers and, where the world knows it, the capacity of
        *snapshot*.
        """
        capacity = data.capacity
        if snapshot.capacity is not None:
            capacity = {kind: view.total for kind, view in snapshot.capacity.items()}
        servers = {name: self._server(view, data) for name, view in snapshot.servers.items()}
        return replace(data, servers=servers, capacity=capacity)

    def _server(self, view: ServerView, data: SystemData) -> ServerData:
        """Return *view* as the optimizer is told of it; the data files add what no label says."""
        told = data.servers.get(view.name)
        base = told or ServerData(name=view.name, model=view.model)
        cost = cost_cents_per_h(
            data, model=view.model, accelerator=view.accelerator, replicas=view.wanted
        )
        return replace(
            base,
            model=view.model,
            service_class=view.service_class,
            min_replicas=max(base.min_replicas, view.replicas_min),
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

    def _demand(self, view: ServerView) -> Load | None:
        """Return the load to size for: what comes, and what waits spread over drain_s."""
        if view.load is None or self.compat or self.drain_s == 0:
            return view.load
        return replace(view.load, rate_rpm=view.load.rate_rpm + 60.0 * view.backlog / self.drain_s)


def _wake(
    system: SystemData, snapshot: Snapshot, unknown: frozenset[str]
) -> tuple[SystemData, dict[str, Why]]:
    """Return *system* with one replica for each server that has none and where requests wait, as
    far as the held servers leave GPUs, and why.

    Without one the tokens of these requests are never counted, and the load is never known.
    """
    waiting = {
        name: view.backlog
        for name, view in snapshot.servers.items()
        if name in unknown and view.wanted == 0 and view.backlog > 0
    }
    left = dict(system.capacity)
    for name in unknown:
        current = system.servers[name].current
        _take(left, system, name, current.accelerator, current.replicas)
    servers, woken = dict(system.servers), {}
    for name in _by_class(system, waiting):
        server = servers[name]
        accelerator = server.current.accelerator
        if _room(left, system, name, accelerator) == 0 and not system.optimizer.unlimited:
            continue
        _take(left, system, name, accelerator, 1)
        servers[name] = replace(server, current=replace(server.current, replicas=1))
        woken[name] = Why(
            kind="bound",
            text=f"{waiting[name]} requests wait, and nothing is known of them: one replica begins",
        )
    return replace(system, servers=servers), woken


def _target(found: Assignment, system: SystemData, *, max_batch: int) -> Target:
    load = system.servers[found.server].current.load
    demand = {"demandRpm": load.rate_rpm} if load is not None and not found.held else {}
    return Target(
        server=found.server,
        pools=one_pool(accelerator=found.accelerator, replicas=found.replicas, max_batch=max_batch),
        cost_cents_per_h=found.cost_cents_per_h,
        itl_ms=found.itl_ms,
        ttft_ms=found.ttft_ms,
        rho=found.rho,
        held=found.held,
        why=replace(found.why, details={**found.why.details, **demand}),
    )


def _leftovers(
    system: SystemData, solution: Solution, short: Mapping[str, Why]
) -> dict[str, Target]:
    """Return for the servers *short* of GPUs as many of their present replicas as the others leave
    GPUs for.
    """
    left = dict(system.capacity)
    for found in solution.allocations.values():
        _take(left, system, found.server, found.accelerator, found.replicas)
    targets = {}
    for name in _by_class(system, short):
        current = system.servers[name].current
        room = _room(left, system, name, current.accelerator)
        replicas = current.replicas if room is None else min(current.replicas, room)
        _take(left, system, name, current.accelerator, replicas)
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


def _by_class(system: SystemData, names: Iterable[str]) -> list[str]:
    """Return *names*, highest class first."""
    return sorted(
        names, key=lambda name: (system.priority(system.servers[name].service_class), name)
    )


def _room(left: Mapping[str, int], system: SystemData, server: str, accelerator: str) -> int | None:
    """Return how many replicas of *server* fit in the GPUs *left*; None if the data do not know."""
    each = gpus(system, model=system.servers[server].model, accelerator=accelerator, replicas=1)
    return max(left.get(each[0], 0), 0) // each[1] if each is not None else None


def _take(
    left: dict[str, int], system: SystemData, server: str, accelerator: str, replicas: int
) -> None:
    taken = gpus(
        system, model=system.servers[server].model, accelerator=accelerator, replicas=replicas
    )
    if taken is not None:
        kind, count = taken
        left[kind] = left.get(kind, 0) - count


def _held(why: Why, found: Why) -> Why:
    """Return *why* a server is held, with what the optimizer says of it."""
    parts = dict.fromkeys(part for part in ("held", why.text, found.text) if part)
    return replace(why, text="; ".join(parts))


def _check(option: str, value: float, *, below: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < below:
        bound = f" and < {below:g}" if below < math.inf else ""
        raise SpecError(f"policy slo: {option}: expected a number >= 0{bound}, found {value!r}")
