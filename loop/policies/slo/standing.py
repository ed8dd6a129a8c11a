"""What was decided last, and stands as long as nothing new is seen. A pure cache: every answer is
the same with it and without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loop.types import only_older

if TYPE_CHECKING:
    from loop.policies.slo.case import Case
    from loop.types import Decision, Snapshot


class Standing:
    """The last decision, if it stands."""

    def __init__(self) -> None:
        self._last: _Decided | None = None

    def of(self, case: Case) -> Decision | None:
        """Return what is decided of *case*, if that is known."""
        last = self._last
        return last.decision if last is not None and last.holds(case) else None

    def keep(self, case: Case, decision: Decision, *, until_s: float) -> None:
        """Remember that *decision* is that of *case*; it stands until *until_s* at most."""
        self._last = _Decided(case, decision, until_s)

    def drop(self) -> None:
        """Forget the last one."""
        self._last = None


class _Decided(NamedTuple):
    """What was decided of a case, and until when that holds if nothing new is seen."""

    case: Case
    decision: Decision
    until_s: float

    def holds(self, case: Case) -> bool:
        """Tell whether it is what is to be decided of *case*: all that is demanded is the same, of
        the same views, or nothing is and the views are only older. Of a time before nobody knows.
        """
        last, now, then = self.case, case.snapshot, self.case.snapshot
        return (
            then.now_s <= now.now_s < self.until_s
            and case.data is last.data
            and list(now.servers) == list(then.servers)
            and now.window_s == then.window_s
            and _totals(now) == _totals(then)
            and now.capacity_max == then.capacity_max
            and case.held == last.held
            and case.woken == last.woken
            and all(
                case.memories[name] is last.memories[name]
                and case.demands.get(name) is last.demands.get(name)
                and (name in case.demands or only_older(view, then.servers[name]))
                for name, view in now.servers.items()
            )
        )


def _totals(snapshot: Snapshot) -> dict[str, int] | None:
    if snapshot.capacity is None:
        return None
    return {kind: view.total for kind, view in snapshot.capacity.items()}
