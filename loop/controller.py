"""One cycle of the loop: observe, estimate, decide, plan, apply. It never waits, and knows no
thread and no SimPy.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import index
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex

from loop.actuator import (
    Limits,
    below_minimum,
    cut_answers,
    plan,
    planned,
    replicas_only,
    shut_out,
    with_holds,
    with_room_for_what_runs,
    with_sleepers,
    with_upper_bounds,
    within_shared,
)
from loop.budget import within_budget
from loop.collector import CollectorSettings, Estimates, Reading, collect, collect_again
from loop.errors import BackendError, PausedError, RefusedError, SpecError
from loop.policies.registry import options_told
from loop.replacing import replace
from loop.spec import ServerData, cost_cents_per_h
from loop.types import (
    Bounds,
    Change,
    CycleRecord,
    Decision,
    Mode,
    ServerView,
    Snapshot,
    Target,
    Timing,
    Trigger,
    Why,
    known_older,
)
from twin.datafile import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from loop.ports import Backend, Clock, Data, Epoch, Policy
    from loop.spec import SystemData
    from twin.spec import Pool

# What `ts` counts from in a simulated world.
SIMULATED_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Pause:
    """The switch by which people stop the loop from acting, without stopping the loop. Any thread
    may turn it, and any may ask.
    """

    def __init__(self) -> None:
        self._reason = ""

    def pause(self, reason: str) -> None:
        """Let nothing be asked of the world from now on; *reason* is told in each record."""
        assert reason, "a pause has a reason"
        self._reason = reason

    def resume(self) -> None:
        """Let the loop act again."""
        self._reason = ""

    def reason(self) -> str:
        """Return why the loop may not act; "" if it may."""
        return self._reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """mode "advise" decides and explains, and never acts; "export" decides on replicas alone, for
    somebody else who scales by the metric. budget_usd_per_h is what all servers together may cost
    (None: anything). epoch is the date at now_s = 0. Of a twin *speed* seconds pass in one of the
    loop; the policy knows, this is for the records.
    """

    mode: Mode = "act"
    limits: Limits = field(default_factory=Limits)
    budget_usd_per_h: float | None = None
    collector: CollectorSettings = field(default_factory=CollectorSettings)
    epoch: datetime = SIMULATED_EPOCH
    speed: float = 1.0

    @property
    def bounds(self) -> Bounds:
        """Return what may change in a cycle, and what all may cost, as records tell it."""
        return Bounds(
            step_up=self.limits.step_up_max,
            step_down=self.limits.step_down_max,
            budget_usd_per_h=self.budget_usd_per_h,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Memory:
    """What one cycle leaves to the next; replaced as a whole, so that a failed cycle leaves nothing
    half-done.
    """

    estimates: Estimates
    policy_state: Any


class _Look(NamedTuple):
    """What was made of a look at the world, and by which data."""

    system: SystemData
    seen: Snapshot
    reading: Reading

    def is_like(self, seen: Snapshot, estimates: Estimates, system: SystemData) -> bool:
        """Tell whether nothing else is made of *seen*: no server is any other but for its age, as
        far as that is said.
        """
        return (
            system is self.system
            and estimates is self.reading.estimates
            and not self.reading.warnings
            and known_older(seen.servers, self.seen.servers)
        )


class _Told(NamedTuple):
    """What a policy knew of *servers* besides, by which data."""

    servers: Mapping[str, ServerView]
    system: SystemData
    known: SystemData


class _Planned(NamedTuple):
    """What became of what a policy *asked* for, and what that depends on."""

    asked: Decision
    targets: Mapping[str, Target]  # a copy: somebody's policy may fill the same mapping anew
    snapshot: Snapshot
    system: SystemData
    decision: Decision
    changes: tuple[Change, ...]
    cost_cents_per_h: float
    lines: tuple[str, ...]

    def is_of(self, asked: Decision, snapshot: Snapshot, system: SystemData) -> bool:
        """Tell whether the same becomes of what is *asked* for now: no server is any other but for
        its age, as far as that is said.
        """
        before = self.snapshot
        return (
            asked is self.asked
            and asked.targets == self.targets
            and system is self.system
            and known_older(snapshot.servers, before.servers)
            and snapshot.capacity_max == before.capacity_max
            and snapshot.shared_gpus == before.shared_gpus
        )


class Controller:
    """Runs cycles over one backend with one policy. Make it with good data: SpecError otherwise.

    *epoch*, if any, dates the records instead of that of the settings: it follows a clock that is
    set.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        policy: Policy,
        data: Data,
        clock: Clock,
        settings: ControllerSettings | None = None,
        pause: Pause | None = None,
        epoch: Epoch | None = None,
    ) -> None:
        self._backend = backend
        self._policy = policy
        self._policy_options = options_told(policy)
        self._data = data
        self._clock = clock
        self._settings = settings or ControllerSettings()
        self._pause = pause or Pause()
        self._epoch = epoch
        self._memory = _Memory(estimates={}, policy_state=policy.start())
        self._look: _Look | None = None
        self._told: _Told | None = None
        self._planned: _Planned | None = None
        self._cycles = 0
        self._beyond: set[str] = set()
        self._unheard: set[str] = set()
        reading = data.load()
        refuse(reading.system)
        self._system = reading.system
        self._told_at_start = reading.warnings

    def cycle(
        self,
        now_s: float,
        *,
        trigger: Trigger = "period",
        mode: Mode | None = None,
        learns: bool = False,
    ) -> CycleRecord:
        """Run one cycle at *now_s* and return what happened; a failure of the world or of the data
        is in the record.

        *mode* may make one cycle of a controller that acts or exports advise, not the reverse. Such
        a cycle leaves no trace in the state of the policy, unless it *learns*: of a controller that
        stands by, so that it knows the load when it takes over. Errors of the programmer are
        raised, and leave the controller as it was.
        """
        clock, start_s = self._clock, self._clock.now_s()
        moved = self._epoch.compare() if self._epoch else ""
        record = self._blank(now_s, trigger=trigger, mode=mode)
        record = record.warned("observe", [moved] if moved else [])
        record, memory = self._see(record, self._memory)
        seen_s = clock.now_s()
        if not record.failed:
            record, memory = self._decide(record, memory)
        decided_s = clock.now_s()
        if not record.failed:
            record = self._act(record)
        end_s = clock.now_s()
        own = record.mode == self._settings.mode or record.paused or learns
        if own and record.decision is not None:
            self._memory = memory
        self._cycles = record.cycle
        timing = Timing(
            collect_ms=1000 * (seen_s - start_s),
            optimize_ms=1000 * (decided_s - seen_s),
            actuate_ms=1000 * (end_s - decided_s),
            total_ms=1000 * (end_s - start_s),
        )
        return replace(record, timing=timing)

    def failure(
        self,
        now_s: float,
        *,
        error: Exception,
        trigger: Trigger = "period",
        mode: Mode | None = None,
    ) -> CycleRecord:
        """Return the record of a cycle that *error*, an error of the programmer, has ended."""
        record = self._blank(now_s, trigger=trigger, mode=mode)
        self._cycles = record.cycle
        line = f"{type(error).__name__}: {_one_line(error)}"
        trace = "".join(traceback.format_exception(error))
        return replace(record, error=line, failed_phase="program", traceback=trace)

    def _blank(self, now_s: float, *, trigger: Trigger, mode: Mode | None) -> CycleRecord:
        own, epoch = self._settings.mode, self._epoch
        return CycleRecord(
            cycle=self._cycles + 1,
            now_s=now_s,
            ts=timestamp(epoch.date if epoch else self._settings.epoch, now_s),
            trigger=trigger,
            mode="advise" if mode == "advise" else own,
            backend=self._backend.name,
            policy=self._policy.name,
            policy_options=self._policy_options,
            speed=self._settings.speed,
            bounds=self._settings.bounds,
        )

    def _see(self, record: CycleRecord, memory: _Memory) -> tuple[CycleRecord, _Memory]:
        """Read the data and the world. Bad data are recorded, and the last good ones stand in."""
        record = self._read_data(record)
        try:
            seen = self._backend.observe()
        except BackendError as error:
            return _failed(record, error), memory
        last = self._look
        if last is not None and last.is_like(seen, memory.estimates, self._system):
            reading, unheard = collect_again(seen, last.seen, last.reading), list[str]()
        else:
            reading, unheard = self._read(seen, memory.estimates), self._unheard_of(seen)
        # A mean moves towards what is seen, even if that stays as it is.
        whole = self._settings.collector.smoothing == 1.0
        self._look = _Look(self._system, seen, reading) if whole else None
        estimated = with_upper_bounds(reading.snapshot, self._system)
        record = replace(record, seen=seen, estimated=estimated)
        record = record.warned("observe", seen.warnings)
        record = record.warned("estimate", reading.warnings)
        record = record.warned("data", self._beyond_capacity(seen))
        record = record.warned("data", unheard)
        record = _paused(record, self._pause.reason() or seen.paused)
        return record, replace(memory, estimates=reading.estimates)

    def _read(self, seen: Snapshot, estimates: Estimates) -> Reading:
        expected = {
            name: server.current.load
            for name, server in self._system.servers.items()
            if server.current.load is not None
        }
        return collect(seen, estimates, settings=self._settings.collector, expected=expected)

    def _beyond_capacity(self, seen: Snapshot) -> list[str]:
        """Return a line for each type of which the data promise more GPUs than there are; once, and
        again if one of the figures changes.
        """
        if not seen.capacity_source or seen.capacity is None:
            return []
        found = {kind: view.total for kind, view in seen.capacity.items()}
        lines = {
            f"capacity: the data say {told} {kind}, the {seen.capacity_source} have "
            f"{found.get(kind, 0)}: these count"
            for kind, told in self._system.capacity.items()
            if told > found.get(kind, 0)
        }
        fresh, self._beyond = sorted(lines - self._beyond), lines
        return fresh

    def _unheard_of(self, seen: Snapshot) -> list[str]:
        """Return a line for each server whose model or class the data do not know: a policy that
        sizes holds it. Once, and again if it is another one.
        """
        known = {
            "model": {model for model, _ in self._system.perf},
            "class": set(self._system.classes),
        }
        found = {
            f"{name}: the data know no {what} {told[:60]!r}{did_you_mean(told, known[what])}"
            for name, view in seen.servers.items()
            for what, told in (("model", view.model), ("class", view.service_class))
            if told and told not in known[what]
        }
        fresh, self._unheard = sorted(found - self._unheard), found
        return fresh

    def _read_data(self, record: CycleRecord) -> CycleRecord:
        warnings, self._told_at_start = self._told_at_start, ()
        reading = self._data.load()
        error = reading.error
        try:
            refuse(reading.system)
            self._system = reading.system
        except SpecError as problem:
            error = error or str(problem)
        record = replace(record, data=self._system, error=error)
        return record.warned("data", (*warnings, *reading.warnings))

    def _decide(self, record: CycleRecord, memory: _Memory) -> tuple[CycleRecord, _Memory]:
        assert record.estimated is not None
        try:
            decided = self._policy.decide(
                record.estimated, self._known(record.estimated), memory.policy_state
            )
            decision, state = _answer(decided, self._policy.name)
        except SpecError as error:
            return replace(record, error=str(error), failed_phase="decide"), memory
        except BackendError as error:
            return _failed(record, error), memory
        planned = self._plan(decision, record.estimated)
        record = replace(
            record.warned("decide", planned.lines),
            decision=planned.decision,
            changes=planned.changes,
            total_cost_cents_per_h=planned.cost_cents_per_h,
        )
        return record, replace(memory, policy_state=state)

    def _plan(self, decision: Decision, snapshot: Snapshot) -> _Planned:
        """Return what becomes of what a policy decided: the last plan, if nothing is new but that
        the servers are older.
        """
        last = self._planned
        if last is None or not last.is_of(decision, snapshot, self._system):
            last = self._planned = self._made(decision, snapshot)
        return last

    def _made(self, asked: Decision, snapshot: Snapshot) -> _Planned:
        decision = _in_whole_numbers(asked, self._policy.name)
        decision = with_sleepers(with_holds(decision, snapshot), snapshot)
        if self._settings.mode == "export":
            decision = replicas_only(decision, snapshot)
        budget = self._settings.budget_usd_per_h
        if budget is not None:
            # What runs in replicas that a policy gives up is paid for before anybody grows.
            decision = with_room_for_what_runs(decision, snapshot, self._system)
            decision = within_budget(
                decision,
                snapshot,
                self._system,
                budget_cents_per_h=100.0 * budget,
                limits=self._settings.limits,
            )
        decision = with_room_for_what_runs(decision, snapshot, self._system)
        decision = within_shared(decision, snapshot, self._system)
        changes = plan(decision, snapshot, limits=self._settings.limits)
        cost, unpriced = _total_cost(snapshot, changes, self._system)
        unseen = sorted(decision.targets.keys() - snapshot.servers.keys())
        lines = (
            *decision.notes,
            *(f"{name}: decided, but not seen: nothing is asked for" for name in unseen),
            *below_minimum(snapshot, changes),
            *shut_out(snapshot, changes),
            *cut_answers(snapshot, changes),
            *(
                f"{name}: nothing is asked for it: {view.hold.text}"
                for name, view in snapshot.servers.items()
                if view.hold is not None
            ),
            *(f"{name}: its cost is not known and not in the total" for name in unpriced),
        )
        targets, system = dict(asked.targets), self._system
        return _Planned(asked, targets, snapshot, system, decision, changes, cost, lines)

    def _known(self, snapshot: Snapshot) -> SystemData:
        """Return what the policy is to know: what it knew last, while servers are older only."""
        servers, system = snapshot.servers, self._system
        last = self._told
        if last is None or system is not last.system or not known_older(servers, last.servers):
            last = self._told = _Told(servers, system, self._with_fixed(snapshot))
        return last.known

    def _with_fixed(self, snapshot: Snapshot) -> SystemData:
        """Return the data with the batch of each server whose batch is fixed, and whose accelerator
        is; in mode "export", that every server stays on its accelerator, at its batch.
        """
        system, stays = self._system, self._settings.mode == "export"
        fixed = [
            (name, view)
            for name, view in snapshot.servers.items()
            if stays or view.batch_fixed or view.accelerator_fixed
        ]
        if not fixed:
            return system
        servers = dict(system.servers)
        for name, view in fixed:
            base = servers.get(name) or ServerData(name=name, model=view.model)
            servers[name] = replace(
                base,
                keep_accelerator=stays or view.accelerator_fixed or base.keep_accelerator,
                max_batch=(view.max_batch if stays or view.batch_fixed else 0) or base.max_batch,
            )
        return system if servers == system.servers else replace(system, servers=servers)

    def _act(self, record: CycleRecord) -> CycleRecord:
        # Who pauses the loop while it decides wants this cycle to change nothing either.
        record = _paused(record, self._pause.reason())
        if record.mode != "act":
            return record
        try:
            if record.changes:
                self._backend.apply(record.changes)
        except PausedError as pause:
            return _paused(record, str(pause))
        except RefusedError as refusal:
            return self._without(record, refusal.servers)
        except BackendError as error:
            return _failed(record, error)
        return replace(record, applied=True)

    def _without(self, record: CycleRecord, refused: Mapping[str, str]) -> CycleRecord:
        """Return *record* as that of a cycle that held the *refused* servers: they are as before,
        and the next cycle asks again.
        """
        decision, estimated = record.decision, record.estimated
        assert decision is not None
        assert estimated is not None
        targets = {
            name: target
            if name not in refused
            else replace(target, held=True, why=Why(kind="refused", text=refused[name]))
            for name, target in decision.targets.items()
        }
        changes = tuple(one for one in record.changes if one.server not in refused)
        cost, _ = _total_cost(estimated, changes, self._system)
        record = record.warned("apply", [f"{name}: {line}" for name, line in refused.items()])
        return replace(
            record,
            decision=replace(decision, targets=targets),
            changes=changes,
            total_cost_cents_per_h=cost,
            applied=True,
        )


def _paused(record: CycleRecord, reason: str) -> CycleRecord:
    """Return *record* as that of a cycle that must not act, if there is a *reason* for it and it
    would.
    """
    if not reason or record.mode == "advise":
        return record
    record = record.warned("decide", [f"paused: nothing is asked for: {reason}"])
    return replace(record, mode="advise", paused=reason)


def refuse(data: SystemData) -> None:
    """Raise SpecError for what the data may say and this loop cannot do."""
    if data.optimizer.heterogeneous:
        raise SpecError(
            "optimizer-data.json: heterogeneous: expected false (a server has one accelerator in "
            "this loop), found true"
        )


def timestamp(epoch: datetime, now_s: float) -> str:
    """Return the date *now_s* after *epoch*, as records carry it (UTC, milliseconds)."""
    date = epoch.astimezone(UTC) + timedelta(seconds=now_s)
    return date.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _total_cost(
    snapshot: Snapshot, changes: Iterable[Change], data: SystemData
) -> tuple[float, list[str]]:
    """Return the price of what is planned [cents/h], and the servers whose price the data do not
    know.
    """
    costs = {
        name: cost_cents_per_h(
            data,
            model=snapshot.servers[name].model,
            accelerator=desired.accelerator,
            replicas=desired.replicas,
        )
        for name, desired in planned(snapshot, changes).items()
    }
    known = [cost for cost in costs.values() if cost is not None]
    return sum(known), [name for name, cost in costs.items() if cost is None]


def _answer(decided: object, policy: str) -> tuple[Decision, object]:
    """Return what a policy decided; somebody's own may return something else."""
    if isinstance(decided, tuple) and len(decided) == 2 and isinstance(decided[0], Decision):
        return decided[0], decided[1]
    found = f"{decided!r}"[:60]
    raise TypeError(f"policy {policy}: expected decide to return a Decision and the state, {found}")


def _in_whole_numbers(decision: Decision, policy: str) -> Decision:
    """Return *decision* with NumPy's whole numbers as Python's. Raise TypeError for others."""
    made = {
        name: replace(
            target,
            pools=tuple(_whole_pool(pool, f"policy {policy}: {name}") for pool in target.pools),
        )
        for name, target in decision.targets.items()
        if not all(_is_whole(pool.replicas, pool.max_batch) for pool in target.pools)
    }
    return replace(decision, targets={**decision.targets, **made}) if made else decision


def _is_whole(replicas: int, max_batch: int) -> bool:
    return type(replicas) is int and type(max_batch) is int and replicas >= 0 and max_batch >= 0


def _whole_pool(pool: Pool, whose: str) -> Pool:
    return replace(
        pool,
        replicas=_whole(pool.replicas, f"{whose}: replicas"),
        max_batch=_whole(pool.max_batch, f"{whose}: max_batch"),
    )


def _whole(value: object, whose: str) -> int:
    if not isinstance(value, SupportsIndex) or index(value) < 0:
        raise TypeError(f"{whose}: expected a whole number >= 0, found {f'{value!r}'[:60]}")
    return index(value)


def _failed(record: CycleRecord, error: BackendError) -> CycleRecord:
    return replace(record, error=_one_line(error), failed_phase=error.phase)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
