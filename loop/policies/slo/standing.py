"""What was decided last, and stands as long as nothing new is seen. A pure cache: every answer is
the same with it and without.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from loop.policies.slo.moves import MOMENT_S
from loop.types import has_as_many_pods, known_older, only_older

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loop.policies.slo.case import Case
    from loop.policies.slo.demand import Memory
    from loop.spec import SystemData
    from loop.types import Decision, ServerView, Snapshot


class Standing:
    """The last decision, if it stands."""

    def __init__(self) -> None:
        self._last: _Decided | None = None
        self._stood: _Decided | None = None  # the case in which it was found to stand

    def again(
        self, snapshot: Snapshot, data: SystemData, memories: Mapping[str, Memory]
    ) -> Decision | None:
        """Return what is decided of *snapshot* if that is known without a look at any server: it
        stood when all were looked at, and they are said to have grown older only.
        """
        stood = self._stood
        known = stood is not None and stood.is_of(snapshot, data, memories)
        return stood.decision if stood is not None and known else None

    def of(self, case: Case) -> Decision | None:
        """Return what is decided of *case*, if that is known."""
        last = self._last
        if last is None or not last.holds(case):
            return None
        self._stand(case)
        return last.decision

    def keep(self, case: Case, decision: Decision, *, until_s: float) -> None:
        """Remember that *decision* is that of *case*; it stands until *until_s* at most."""
        self._last, self._stood = _Decided(case, decision, until_s), None
        # Where nothing was learnt of any server since its demand was found, it is found again.
        if case.sizing.lately.knows_all(case.memories):
            self._stand(case)

    def _stand(self, case: Case) -> None:
        """Let the last decision stand for all that is *case* some time later."""
        assert self._last is not None, "there is one"
        # Who is held may be woken, as time goes on.
        if not case.held:
            until_s = min(self._last.until_s, _next_sample_s(case))
            self._stood = self._last._replace(case=case, until_s=until_s)

    def drop(self) -> None:
        """Forget the last one."""
        self._last = self._stood = None


class _Decided(NamedTuple):
    """What was decided of a case, and until when that holds if nothing new is seen."""

    case: Case
    decision: Decision
    until_s: float

    def holds(self, case: Case) -> bool:
        """Tell whether it is what is to be decided of *case*: all that is demanded is the same, of
        views that differ in pods only that nobody has asked for, or nothing is and the views are
        only older. Of a time before nobody knows.
        """
        last, now, then = self.case, case.snapshot, self.case.snapshot
        return (
            self._is_like(now)
            and case.data is last.data
            and list(now.servers) == list(then.servers)
            and case.held == last.held
            and case.woken == last.woken
            and all(
                case.memories[name] is last.memories[name]
                and case.demands.get(name) is last.demands.get(name)
                and self._stays(name, view, demanded=name in case.demands)
                for name, view in now.servers.items()
            )
        )

    def _stays(self, name: str, view: ServerView, *, demanded: bool) -> bool:
        then = self.case.snapshot.servers[name]
        if not demanded:
            return only_older(view, then)
        return name not in self.case.starts or has_as_many_pods(view, then)

    def is_of(self, snapshot: Snapshot, data: SystemData, memories: Mapping[str, Memory]) -> bool:
        """Tell whether it is of *snapshot* without a look at any server: the same servers are said
        to be older only, and all that is remembered of them is the same.
        """
        return (
            known_older(snapshot.servers, self.case.snapshot.servers)
            and self._is_like(snapshot)
            and data is self.case.data
            and memories is self.case.memories
        )

    def _is_like(self, now: Snapshot) -> bool:
        """Tell whether it is a decision of the time of *now*, and nothing but servers is new."""
        then = self.case.snapshot
        return (
            then.now_s <= now.now_s < self.until_s
            and now.window_s == then.window_s
            and now.capacity_max == then.capacity_max
            and _totals(now) == _totals(then)
        )


def _next_sample_s(case: Case) -> float:
    """Return when the first sample of a load or of a demand is due."""
    due_s = (
        series.next_s
        for memory in case.memories.values()
        for series in (memory.history.rates, memory.demands)
    )
    return min(due_s, default=math.inf) - MOMENT_S


def _totals(snapshot: Snapshot) -> dict[str, int] | None:
    if snapshot.capacity is None:
        return None
    return {kind: view.total for kind, view in snapshot.capacity.items()}
