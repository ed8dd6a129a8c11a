"""Asking the optimizer, whatever it answers: within what the pods of a server can be put on, within
arithmetic, and without those whom nothing can serve.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from loop.optimizer.solution import Solution
from loop.policies.slo.room import FreeGpus, without
from loop.replacing import replace
from loop.spec import gpus
from loop.types import Why
from twin.frozen import made_quickly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loop.optimizer.rules import OptimizerSettings
    from loop.optimizer.solution import Assignment
    from loop.spec import SystemData
    from loop.types import Snapshot, Target

WITHIN_REACH = "replicasWithinReach"  # of details: there are GPUs, which the pods cannot be put on
NO_SOLUTION = Solution(allocations={}, unserved={}, total_cost=0.0, total_value=0.0)


class Optimize(Protocol):
    """What finds the allocation: the optimizer of this process, or a service."""

    def __call__(self, data: SystemData, settings: OptimizerSettings) -> Solution:
        """Return what each server of *data* should have. Raise BackendError, of phase decide, if it
        cannot be asked.
        """
        ...


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A solution, the system that it is of, the servers that nothing in it can serve, and those
    that it was not asked for as there are no GPUs for them.
    """

    system: SystemData
    solution: Solution
    infeasible: Mapping[str, Why]
    left_out: Mapping[str, Why] = field(default_factory=dict)

    @property
    def short(self) -> list[str]:
        """Return the servers asked for that get nothing, or less than they need, because GPUs are
        missing; not those whose pods cannot be put on more of them.
        """
        none = {name for name, why in self.solution.unserved.items() if why.kind == "capacity"}
        some = {
            name
            for name, one in self.solution.allocations.items()
            if one.why.kind == "capacity" and WITHIN_REACH not in one.why.details
        }
        return sorted((none - self.left_out.keys()) | some)


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What finds the allocation, how, and for whom it is not asked: those *held*. Some of these are
    *woken* and get more replicas, whose GPUs nobody else can have either. *left_out* are those for
    whom there are no GPUs. plain finds it wherever pods can be put.
    """

    ask: Optimize
    plain: Optimize
    settings: OptimizerSettings
    held: Mapping[str, Why]
    woken: Mapping[str, Target]
    left_out: Mapping[str, Why] = field(default_factory=dict)

    def solution(
        self, system: SystemData, infeasible: Mapping[str, Why], *, whole: bool = False
    ) -> Solution:
        """Return what the servers of *system* should have, but for those *infeasible*, too; whole:
        only that somebody is short, if not all can be served.
        """
        rest = self.rest(system, infeasible)
        settings = replace(self.settings, whole=True) if whole else self.settings
        found = self.ask(rest, settings) if rest.servers else NO_SOLUTION
        if not self.left_out:
            return found
        return replace(found, unserved={**found.unserved, **self.left_out})

    def found(self, system: SystemData, *, whole: bool = False) -> Found:
        """Return the solution of *system*, and which servers nothing can serve, with the reason.

        These hold GPUs that the others must not be given, so if there are any the rest is solved
        again.
        """
        infeasible: dict[str, Why] = {}
        try:
            solution = self.solution(system, infeasible, whole=whole)
        except ArithmeticError:
            infeasible = beyond_arithmetic(self.ask, self.rest(system, {}), self.settings)
            solution = self.solution(system, infeasible, whole=whole)
        unserved = solution.unserved.items()
        unservable = {name: why for name, why in unserved if why.kind != "capacity"}
        if unservable:
            infeasible |= unservable
            solution = self.solution(system, infeasible, whole=whole)
        return self.made(system, solution, infeasible)

    def made(self, system: SystemData, solution: Solution, infeasible: Mapping[str, Why]) -> Found:
        """Return what is found."""
        return Found(
            system=system, solution=solution, infeasible=infeasible, left_out=self.left_out
        )

    def explained(self, found: Found) -> Found:
        """Return what is *found* with its figures."""
        return replace(found, solution=self.solution(found.system, found.infeasible))

    def rest(self, system: SystemData, infeasible: Mapping[str, Why]) -> SystemData:
        """Return *system* with the servers that are asked for, and the GPUs that there are for
        these.
        """
        rest = without(system, {**self.held, **infeasible}, self.woken)
        if not self.left_out:
            return rest
        servers = {name: one for name, one in rest.servers.items() if name not in self.left_out}
        return replace(rest, servers=servers)


def within_reach(ask: Optimize, snapshot: Snapshot) -> Optimize:
    """Return *ask* giving no server more GPUs of a type than its pods can be put on, whatever there
    is of it: it gets others if these serve it whole, else as many as it can have.
    """

    if all(view.gpus_reachable is None for view in snapshot.servers.values()):
        return ask

    def over(solution: Solution, data: SystemData) -> dict[str, tuple[str, int]]:
        """Return the type and the replicas that there is room for, by server."""
        found = {}
        for name, one in solution.allocations.items():
            reach = snapshot.servers[name].gpus_reachable
            if reach is None:
                continue
            model, accelerator = data.servers[name].model, one.accelerator
            each = gpus(data, model=model, accelerator=accelerator, replicas=1)
            if each is not None:
                room = reach.get(each[0], 0) // each[1]
                if room < one.replicas:
                    found[name] = each[0], room
        return found

    def bounded(data: SystemData, settings: OptimizerSettings) -> Solution:
        # Where some are cut to their room, others find more GPUs than if all were served whole.
        settings = replace(settings, whole=False)
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
        free = FreeGpus(data)
        for name, one in cut.items():
            free.take(name, one.accelerator, one.replicas)
        others = {**data.servers, **narrow}
        rest = {name: one for name, one in others.items() if name not in cut}
        third = (
            ask(replace(data, servers=rest, capacity=free.count), settings)
            if rest
            else replace(first, allocations={}, unserved={})
        )
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
        why=Why(
            kind="capacity",
            text=f"{text}; {found.why.text}",
            details={**found.why.details, WITHIN_REACH: replicas},
        ),
    )


def exact_figures(ask: Optimize) -> Optimize:
    """Return *ask* raising an ArithmeticError for figures that are beyond arithmetic, of which
    numpy by itself makes others: a count of replicas that is none would go round the loop.
    """

    def checked(data: SystemData, settings: OptimizerSettings) -> Solution:
        with np.errstate(divide="raise", over="raise", invalid="raise"):
            return ask(data, settings)

    return checked


def beyond_arithmetic(
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
