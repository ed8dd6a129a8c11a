"""The Inferno optimizer as a policy: the cheapest allocation that meets the objectives under the
load estimated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import get_args

from loop.optimizer.front import SizingCache, optimize
from loop.optimizer.rules import OptimizerSettings, SolverName
from loop.optimizer.rules.go_today import GO_TODAY
from loop.optimizer.rules.ours import OURS
from loop.optimizer.solution import Assignment
from loop.policies.replicas import Options
from loop.policies.slo.ask import Asking, Found, Optimize, exact_figures, within_reach
from loop.policies.slo.case import Case, Sizing, basis, make_case
from loop.policies.slo.crowd import batch_within
from loop.policies.slo.demand import NOTHING, Memories
from loop.policies.slo.lately import Lately, Told
from loop.policies.slo.moves import next_turn_s, settle, settling
from loop.policies.slo.room import FreeGpus, held_targets, leftover_targets
from loop.policies.slo.shares import Shares, share_out
from loop.policies.slo.slowed import Slowed, paced
from loop.policies.slo.standing import Remembered, last_of, lasting
from loop.policies.slo.unreachable import grown_targets, growth
from loop.replacing import replace
from loop.spec import SystemData
from loop.types import FULL_CACHES, Decision, ServerView, Snapshot, Target, one_pool

__all__ = ["DEFAULTS", "SloPolicy"]

# a present max batch up to so many times the wanted one stays: it is no smaller, and a change is a
# patch
ROOMY = 2
DEFAULTS = OptimizerSettings(rules=OURS)
# Of the shares of what there is, what is tried until all of it fits.
TRIED = (1.0, 0.93, 0.86)


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
    tick_s: float = 20.0
    cache: SizingCache = field(default_factory=SizingCache, compare=False, repr=False)
    lately: Lately = field(init=False, default_factory=Lately, compare=False, repr=False)
    slowed: Slowed = field(init=False, default_factory=Slowed, compare=False, repr=False)

    def __post_init__(self) -> None:
        check = Options(self.name)
        check.one_of("solver", self.solver, get_args(SolverName))
        check.number("headroom", self.headroom, low=0.0, below=1.0)
        if self.percentile is not None:
            check.number("percentile", self.percentile, low=0.0, above=True, below=1.0)
        check.number("drain_s", self.drain_s, low=0.0)
        check.number("down_s", self.down_s, low=0.0)
        check.number("hysteresis", self.hysteresis, low=0.0)
        check.share("prefix_cache_trust", self.prefix_cache_trust)
        check.flag("compat", self.compat)
        check.flag("forecasts", self.forecasts)

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
        has as much as the others leave, and margins come back as far as GPUs reach, each highest
        class first. A server without replicas, whose load
        nobody can know but for the requests that wait, begins with one replica.
        """
        told, learns = data, self.forecasts and not self.compat
        if learns:
            data = self.slowed.data(told, state)
        last, sizing = last_of(state), self._sizing()
        if last is not None:
            if last.is_of(snapshot, data):
                return last.decision, state
            again = last.again(snapshot, basis(snapshot, data, sizing), state)
            if again is not None:
                return last.decision, again
        if learns:
            state = paced(state, snapshot, told)
        ask: Optimize = self.optimize or exact_figures(partial(optimize, cache=self.cache))
        # A service explains what it answers. Of our own solutions the one that is taken is.
        settings = replace(self._settings(), figures=self.optimize is not None)
        asked = {} if last is None else last.decision.targets
        case = make_case(
            snapshot, data, state, asked=asked, sizing=sizing, ask=ask, settings=settings
        )
        if last is not None and last.holds(case):
            return last.decision, Remembered(case.memories, last.standing(case))
        asking = Asking(
            ask=within_reach(ask, snapshot),
            plain=ask,
            settings=settings,
            held=case.held,
            woken=case.woken,
        )
        try:
            case, found, moved = self._settled(case, asking)
        except ArithmeticError:
            # Figures are beyond arithmetic: whose they are is found where all are asked for.
            asking = replace(asking, settings=self._settings())
            case, found, moved = self._settled(case, asking)
        memories = dict(case.memories)
        for name, one in found.solution.allocations.items():
            memory = memories[name]
            moved_s = snapshot.now_s if name in moved else memory.moved_s
            after = one.rate_max_rpm, moved_s, None
            if (memory.replica_rpm, memory.moved_s, memory.grown_from) != after:
                memories[name] = replace(
                    memory,
                    replica_rpm=one.rate_max_rpm,
                    moved_s=moved_s,
                    grown_from=None,
                    # What a replica takes, if it was not known, counts in the next cycle.
                    demanded=memory.demanded if memory.replica_rpm > 0.0 else None,
                )
        decision = self._decision(case, found, moved, asking=asking)
        if found.infeasible:
            memories |= growth(case, decision.targets, found.infeasible)
        case = replace(case, memories=memories)
        # A service may answer something else at any time.
        lasts = not moved and not case.stays and self.optimize is None
        last = lasting(case, decision, until_s=next_turn_s(case)) if lasts else None
        return decision, Remembered(memories, last)

    def _settled(self, case: Case, asking: Asking) -> tuple[Case, Found, dict[str, int]]:
        """Return the case with the shares of servers that can have no more, what is found, and who
        moves to it with how many replicas.
        """
        found, moved = case.within_capacity(asking.found), dict[str, int]()
        shares: Shares | None = None
        if found.short and not self.compat and not case.data.optimizer.unlimited:
            coming = asking.rest(case.sized(drains=False), found.infeasible)
            shares = share_out(case, coming, asking=asking)
            asking = replace(asking, left_out=shares.left_out)
            # A replica of few takes a little less than one of many: these shares are of many.
            for part in TRIED:
                rates = {name: part * rate_rpm for name, rate_rpm in shares.rates_rpm.items()}
                case = replace(case, shares=rates, easy=shares.easy)
                found = case.within_capacity(asking.found)
                if not found.short:
                    break
        if self._steady():
            found, moved = settle(
                case, found, asking=asking, hysteresis=self.hysteresis, shares=shares
            )
        if not asking.settings.figures:
            found = replace(asking, settings=self._settings()).explained(found)
        return case, found, moved

    def _decision(
        self, case: Case, found: Found, moved: Mapping[str, int], *, asking: Asking
    ) -> Decision:
        """Return what is found as targets; GPUs go to held servers first, leftovers come last,
        margins that were given up after them, and loads whose targets nothing meets at the end.
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
        replicas = {name: one.replicas for name, one in allocations.items()}

        def grown(name: str, wanted: int) -> None:
            accelerator, extra = allocations[name].accelerator, wanted - replicas[name]
            if extra <= 0:
                return
            room = gpus_left.room(name, accelerator)
            extra = extra if room is None else min(extra, room)
            gpus_left.take(name, accelerator, extra)
            replicas[name] += extra

        for name in allocations:
            grown(name, self._kept(case, name, moved))
        short = {
            name: why
            for name, why in found.solution.unserved.items()
            if name not in targets and name not in allocations
        }
        targets |= leftover_targets(gpus_left, short)
        for name in gpus_left.by_class(allocations):
            grown(name, _with_margin(case, allocations[name]))
        for name, one in allocations.items():
            asked = case.demands.get(name)
            load = found.system.servers[name].current.load
            what = Told(
                one,
                None if load is None else load.rate_rpm,
                None if asked is None else asked.forecast.method,
                case.share_rpm(name),
                replicas[name],
                self._max_batch(one, found.system, case.snapshot.servers[name]),
                asked.crowd.tokens if asked is not None and asked.crowd is not None else 0.0,
                case.memories[name].pace.slower or 1.0,
            )
            targets[name] = self._target(name, what)
        if found.infeasible and not self.compat:
            targets |= grown_targets(
                case,
                found.system,
                found.infeasible,
                free=gpus_left,
                ask=asking.plain,
                settings=asking.settings,
            )
        note = found.solution.note
        return Decision(
            targets=targets,
            unserved={**found.infeasible, **short},
            notes=(f"optimizer: {note}",) if note else (),
        )

    def _target(self, name: str, what: Told) -> Target:
        """Return *what* is found as a target: the last one, if that is what was found then."""
        last = self.lately.targets.get(name)
        if last is not None and last[0].found is what.found and last[0][1:] == what[1:]:
            return last[1]
        target = _target(what)
        self.lately.targets[name] = what, target
        return target

    def _kept(self, case: Case, name: str, moved: Mapping[str, int]) -> int:
        """Return how many replicas *name* keeps at least, as it moves or has moved just now."""
        if name in moved:
            return moved[name]
        if not self._steady():
            return 0
        view, moved_s = case.snapshot.servers[name], case.memories[name].moved_s
        if moved_s is None:
            return 0
        start_up_s, now_s = case.start_up_s(name), case.snapshot.now_s
        still = settling(view, moved_s=moved_s, start_up_s=start_up_s, now_s=now_s)
        return view.wanted if still else 0

    def _steady(self) -> bool:
        """Return whether small gains are left alone."""
        return not self.compat and self.hysteresis > 0.0

    def _sizing(self) -> Sizing:
        return Sizing(
            compat=self.compat,
            forecasts=self.forecasts,
            percentile=self.percentile,
            tick_s=self.tick_s,
            down_s=self.down_s,
            drain_s=self.drain_s,
            prefix_cache_trust=self.prefix_cache_trust,
            lately=self.lately,
        )

    def _settings(self) -> OptimizerSettings:
        return OptimizerSettings(
            solver=self.solver,
            headroom=self.headroom,
            hysteresis=self.hysteresis,
            rules=GO_TODAY if self.compat else OURS,
        )

    def _max_batch(self, found: Assignment, system: SystemData, view: ServerView) -> int:
        """Return the max batch to ask for: the present one if it is fixed, or large enough, and not
        far too large; as much of it as caches were seen to hold.
        """
        if view.batch_fixed and view.max_batch > 0:
            return view.max_batch
        server = system.servers[found.server]
        current = server.current
        stays = (
            self._steady()
            and found.accelerator == current.accelerator
            and found.max_batch <= current.max_batch <= ROOMY * found.max_batch
        )
        if not stays:
            return found.max_batch
        within = batch_within(system, server, found.accelerator)
        return current.max_batch if current.max_batch <= within else int(within)


def _with_margin(case: Case, one: Assignment) -> int:
    """Return how many replicas the load of the server of *one* needs with its margin; 0 if that is
    not known, or its pods cannot be put on all GPUs.
    """
    asked, view = case.demands.get(one.server), case.snapshot.servers[one.server]
    if asked is None or one.rate_max_rpm <= 0.0 or view.gpus_reachable is not None:
        return 0
    needed = math.ceil(asked.load.rate_rpm / one.rate_max_rpm * (1.0 - 1e-9))
    return needed if view.replicas_max is None else min(needed, view.replicas_max)


def _target(what: Told) -> Target:
    """Return *what* is found as a target."""
    found, replicas = what.found, what.replicas
    demand: dict[str, object] = {}
    if what.rate_rpm is not None:
        demand["demandRpm"] = what.rate_rpm
    if what.method is not None:
        demand["forecast"] = what.method
    why = found.why
    if what.held_tokens > 0.0:
        demand[FULL_CACHES] = what.held_tokens
        said = f"requests of {what.held_tokens:.0f} tokens lost their places in full KV caches"
        why = replace(why, text=f"{why.text}; {said}")
    if what.slower > 1.0:
        said = f"its replicas take {what.slower:.2f} times as long as the data say"
        why = replace(why, text=f"{why.text}; {said}")
    if what.share is not None:
        text = f"capacity: {what.share[0]:.0f} of {what.share[1]:.0f} requests/min; {why.text}"
        why = replace(why, kind="capacity", text=text)
    why = replace(why, details={**why.details, **demand})
    return Target(
        server=found.server,
        pools=one_pool(accelerator=found.accelerator, replicas=replicas, max_batch=what.max_batch),
        cost_cents_per_h=found.cost_cents_per_h * replicas / max(found.replicas, 1),
        itl_ms=found.itl_ms,
        ttft_ms=found.ttft_ms,
        rho=found.rho,
        why=why,
    )
