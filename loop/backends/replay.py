"""A recording as a world: it shows what had been seen at a time, and keeps what is asked of it. A
policy can decide again on what was recorded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from loop.controller import Controller
from loop.data import FixedData
from loop.errors import BackendError, SpecError
from loop.records import snapshot_of
from loop.types import Change, CycleRecord, Snapshot
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

    What was seen is not what *policy* would have brought about: each decision stands alone. Cycles
    that saw nothing are left out. Raise SpecError at a line that is no record of a cycle.
    """
    seen = [(line, _seen(line, number)) for number, line in enumerate(lines, start=1)]
    backend = ReplayBackend(snapshot for _, snapshot in seen if snapshot is not None)
    controller = Controller(
        backend=backend, policy=policy, data=FixedData(data), clock=_StillClock()
    )
    for line, snapshot in seen:
        if snapshot is None:
            continue
        backend.advance(snapshot.now_s)
        record = controller.cycle(snapshot.now_s)
        yield replace(record, cycle=line["cycle"], ts=line["ts"])


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
    *("prefixCacheHitShare", "minReplicas", "maxReplicas", "gpusPerReplica", "graceS"),
)
_MAPS = ("percentiles", "gpusReachable", "missing", "hold")
_FIGURE_MAX = 1e9


def _check(row: Mapping[str, Any], place: str) -> None:
    """Raise SpecError if *row*, a server of a cycle, has something else under a name than a record
    has.
    """

    def fail(name: str, expected: str) -> SpecError:
        return SpecError(f"{place}: {name}: expected {expected}, found {shown(row[name])}")

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
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not least <= row[name] <= _FIGURE_MAX:
            raise fail(name, f"a number >= {least:g} and <= {_FIGURE_MAX:g}")
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
        if line["failedPhase"] in {"observe", "program"}:
            return None
        for row in line["servers"]:
            _check(row, f"line {number}: {shown(row['name'])}")
        return snapshot_of(line)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise SpecError(
            f"line {number}: expected the record of a cycle, found one without {problem}"
        ) from None
