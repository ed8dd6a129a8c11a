"""A recording as a world: it shows what had been seen at a time, and keeps what is asked of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from loop.errors import BackendError
from loop.types import Change, Snapshot


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
