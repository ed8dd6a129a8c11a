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
        return snapshot_of(line)
    except (KeyError, TypeError) as problem:
        raise SpecError(
            f"line {number}: expected the record of a cycle, found one without {problem}"
        ) from None
