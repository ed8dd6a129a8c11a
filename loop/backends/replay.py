"""A recording as a world: it shows what had been seen at a time, and keeps what is asked of it. A
policy can decide again on what was recorded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from loop.actuator import Limits
from loop.controller import Controller, ControllerSettings
from loop.data import FixedData
from loop.errors import BackendError, SpecError
from loop.policies.sped import SpedPolicy
from loop.records import snapshot_of
from loop.types import Change, CycleRecord, Mode, Snapshot
from twin.datafile import shown

if TYPE_CHECKING:
    from loop.ports import Policy
    from loop.spec import SystemData


class ReplayBackend:
    """Shows of *snapshots* the latest one at the time it was brought to; at first that is the
    earliest.

    Changes are kept in `asked` and change nothing: what was seen was seen.
    """

    name = "replay"

    def __init__(self, snapshots: Iterable[Snapshot]) -> None:
        self.asked: list[tuple[Change, ...]] = []
        self._snapshots = sorted(snapshots, key=lambda snapshot: snapshot.now_s)
        self._now_s = self._snapshots[0].now_s if self._snapshots else 0.0

    def advance(self, now_s: float) -> None:
        """Bring the recording to *now_s*; a driver does so before each cycle."""
        self._now_s = now_s

    def observe(self) -> Snapshot:
        """Return the latest snapshot at the time. Raise BackendError before the first one."""
        count = bisect_right(self._snapshots, self._now_s, key=lambda snapshot: snapshot.now_s)
        if count == 0:
            raise BackendError(
                f"the recording has no snapshot at or before {self._now_s:g} s", phase="observe"
            )
        return self._snapshots[count - 1]

    def apply(self, changes: Sequence[Change]) -> None:
        """Keep *changes*."""
        self.asked.append(tuple(changes))


def replay(
    lines: Iterable[Mapping[str, Any]], policy: Policy, data: SystemData
) -> Iterator[CycleRecord]:
    """Yield for each of *lines*, the cycles of cycles.jsonl in their order, the record of *policy*
    deciding on what was seen then. It remembers from cycle to cycle as it would live.

    What was seen is not what *policy* would have brought about: each decision stands alone, within
    the bounds and at the speed that the lines tell of. Cycles that saw nothing are left out. Raise
    SpecError at a line that is no record of a cycle.
    """
    seen = [(line, _seen(line, number)) for number, line in enumerate(lines, start=1)]
    backend = ReplayBackend(snapshot for _, snapshot in seen if snapshot is not None)
    # A file that was written on with may begin with lines of before, which tell of no settings.
    telling = next((line for line, _ in seen if "speed" in line), {})
    settings = _settings(telling, {line.get("mode") for line, _ in seen})
    if settings.speed != 1.0:
        policy = SpedPolicy(policy=policy, speed=settings.speed)
    controller = Controller(
        backend=backend, policy=policy, data=FixedData(data), clock=_StillClock(), settings=settings
    )
    for line, snapshot in seen:
        if snapshot is None:
            continue
        backend.advance(snapshot.now_s)
        # One that was asked for advice, or did not lead, has left no trace in the policy.
        aside = line.get("mode") == "advise" and not line.get("paused")
        mode: Mode | None = "advise" if aside and settings.mode != "advise" else None
        record = controller.cycle(snapshot.now_s, mode=mode)
        yield replace(record, cycle=line["cycle"], ts=line["ts"])


def _settings(line: Mapping[str, Any], modes: Collection[object]) -> ControllerSettings:
    """Return the settings of a controller, by the first *line* that tells them. *modes* are those
    of all lines: any cycle of a controller that acts may have been advice.
    """
    own: Mode = "export" if "export" in modes else "act" if modes != {"advise"} else "advise"
    return ControllerSettings(
        mode=own,
        limits=Limits(step_up_max=line.get("stepUp"), step_down_max=line.get("stepDown")),
        budget_usd_per_h=line.get("budgetUsdPerH"),
        speed=line.get("speed") or 1.0,
    )


# What a row of a server has under these names; what else there is, is only repeated.
_TEXTS = ("name", "class", "model", "currentAccelerator")
_SOURCES = ("loadSource", "percentilesSource")
_COUNTS = (*("wanted", "ready", "starting", "pending", "draining", "currentMaxBatch"),)
_FIGURES = (
    *("running", "waiting", "backlog", "kvUsage"),
    *("rpm", "throughput", "avgInTok", "avgOutTok", "itl", "ttft", "outputTps", "percentilesAgeS"),
    *("latestRpm", "latestS"),
    *("reporting", "loadAgeS", "sampleAgeS", "startUpS", "queuedPromptTokens", "preemptions"),
    "waitingPods",
    *("prefixCacheHitShare", "fetchedPromptShare"),
    *("minReplicas", "maxReplicas", "gpusPerReplica", "graceS"),
)
_WHOLE = {*_COUNTS, "minReplicas", "maxReplicas", "gpusPerReplica"}
_FLAGS = ("pooled", "batchFixed", "acceleratorFixed")
_MAPS = ("percentiles", "gpusReachable", "missing", "hold")
_FIGURE_MAX = 1e9
# What a line tells of the world and of the loop as a whole: the least of each.
_OF_ALL = {"windowS": 1e-9, "scrapeIntervalS": 0.0, "speed": 1e-9, "budgetUsdPerH": 0.0}
_STEPS = ("stepUp", "stepDown")


def _check_line(line: Mapping[str, Any], place: str) -> None:
    """Raise SpecError if *line* has something else than a record under a name of its own."""
    for name, least in (*_OF_ALL.items(), *((step, 1) for step in _STEPS)):
        value = line.get(name)
        if value is None:
            continue
        kinds = int if name in _STEPS else int | float
        number = isinstance(value, kinds) and not isinstance(value, bool)
        if not number or not least <= value <= _FIGURE_MAX:
            what = "a whole number" if name in _STEPS else "a number"
            raise _fail(line, place, name, f"{what} >= {least:g} and <= {_FIGURE_MAX:g}")
    if not isinstance(line.get("mode"), str | None):
        raise _fail(line, place, "mode", "a text")
    if not isinstance(line.get("policyOptions"), Mapping | None):
        raise _fail(line, place, "policyOptions", "an object {…}")
    most, shared = line.get("capacityMax") or {}, line.get("sharedGpus") or []
    if not (isinstance(most, Mapping) and all(map(_is_count, most.values()))):
        raise _fail(line, place, "capacityMax", "GPUs by type")
    if not (isinstance(shared, list) and all(map(_is_shared, shared))):
        raise _fail(line, place, "sharedGpus", "objects with type, servers and count")
    capacity = line.get("capacity") or []
    if not (isinstance(capacity, list) and all(map(_is_capacity, capacity))):
        raise _fail(line, place, "capacity", "objects with type, available, used and seen")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _FIGURE_MAX


def _is_shared(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    names = value.get("servers")
    told = isinstance(value.get("type"), str) and _is_count(value.get("count"))
    return told and isinstance(names, list) and all(isinstance(name, str) for name in names)


def _is_capacity(value: object) -> bool:
    if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
        return False
    return not value.get("seen") or (_is_count(value.get("available")) and _is_count(value["used"]))


def _fail(told: Mapping[str, Any], place: str, name: str, expected: str) -> SpecError:
    return SpecError(f"{place}: {name}: expected {expected}, found {shown(told[name])}")


def _check(row: Mapping[str, Any], place: str) -> None:
    """Raise SpecError if *row*, a server of a cycle, has something else under a name than a record
    has.
    """
    fail = partial(_fail, row, place)
    for name in (*_TEXTS, *_SOURCES):
        value = row[name] if name in _TEXTS else row.get(name) or ""
        if not isinstance(value, str):
            raise fail(name, "a text")
    for name in (*_COUNTS, *_FIGURES):
        value = row[name] if name in _COUNTS else row.get(name)
        if value is None and name not in _COUNTS:
            continue
        # Clocks may differ: an age may be less than nothing.
        least = -_FIGURE_MAX if name.endswith("AgeS") else 0.0
        kinds, what = (int, "a whole number") if name in _WHOLE else (int | float, "a number")
        number = isinstance(value, kinds) and not isinstance(value, bool)
        if not number or not least <= row[name] <= _FIGURE_MAX:
            raise fail(name, f"{what} >= {least:g} and <= {_FIGURE_MAX:g}")
    for name in _FLAGS:
        if not isinstance(row.get(name), bool | None):
            raise fail(name, "true or false")
    for name in _MAPS:
        if not isinstance(row.get(name), Mapping | None):
            raise fail(name, "an object {…}")


class _StillClock:
    """A clock that stands still: how long it took then is not how long it takes now."""

    def now_s(self) -> float:
        """Return no time."""
        return 0.0


def _seen(line: Mapping[str, Any], number: int) -> Snapshot | None:
    """Return what was seen in the cycle of *line*, None if nothing was."""
    try:
        _check_line(line, f"line {number}")
        if line["failedPhase"] in {"observe", "program"}:
            return None
        for row in line["servers"]:
            _check(row, f"line {number}: {shown(row['name'])}")
        return snapshot_of(line)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise SpecError(
            f"line {number}: expected the record of a cycle, found one without {problem}"
        ) from None
