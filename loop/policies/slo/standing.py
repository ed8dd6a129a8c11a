"""The last decision, which stands as long as nothing new is seen: what comes of it is nothing new.
Part of what slo remembers, so that what it decides follows from that.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, NamedTuple

from loop.policies.slo.demand import Memory
from loop.policies.slo.moves import MOMENT_S
from loop.replacing import same_in
from loop.types import has_as_many_pods, known_older, only_older

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loop.policies.slo.case import Case
    from loop.policies.slo.demand import By
    from loop.spec import SystemData
    from loop.types import Decision, ServerView, Snapshot

# What was demanded is compared as such: of other pods it may have been the same.
_same_but_demanded = same_in(*(each.name for each in fields(Memory) if each.name != "demanded"))


class Remembered(dict[str, Memory]):
    """What is remembered of each server, and the last decision, if it may stand."""

    __slots__ = ("last",)

    def __init__(self, memories: Mapping[str, Memory], last: Decided | None) -> None:
        super().__init__(memories)
        self.last = last


def last_of(memories: Mapping[str, Memory]) -> Decided | None:
    """Return the last decision by *memories*, if it may stand."""
    return memories.last if isinstance(memories, Remembered) else None


class Decided(NamedTuple):
    """What was decided of a case, and until when that holds if nothing new is seen. stood: what was
    seen when all servers were looked at, and it stood (None: they are to be looked at in any case);
    sample_s: when a sample is due after that.
    """

    case: Case
    decision: Decision
    until_s: float
    stood: Snapshot | None = None
    sample_s: float = math.inf

    def is_of(self, snapshot: Snapshot, data: SystemData) -> bool:
        """Tell whether it is of *snapshot* without a look at any server."""
        stood = self._stood_until(snapshot, data)
        return stood is not None and known_older(snapshot.servers, stood.servers)

    def again(
        self, snapshot: Snapshot, by: By, memories: Mapping[str, Memory]
    ) -> Remembered | None:
        """Return what is remembered if it is of *snapshot*, as nothing new is seen of any server
        by the *memories* that it stood with; None if more is to be looked at.
        """
        stood, servers = self._stood_until(snapshot, by.data), snapshot.servers
        if stood is None or list(servers) != list(stood.servers):
            return None
        targets, now_s = self.decision.targets, snapshot.now_s
        for name, view in servers.items():
            asked = targets.get(name)
            if memories[name].demand_of(view, by, asked=asked, now_s=now_s) is None:
                return None
        return Remembered(memories, self._replace(stood=snapshot))

    def _stood_until(self, now: Snapshot, data: SystemData) -> Snapshot | None:
        """Return what was seen when it stood, if only servers can be new since."""
        stood = self.stood
        if stood is None or data is not self.case.data or not self._is_like(now):
            return None
        return stood if stood.now_s <= now.now_s < self.sample_s else None

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
                _same_but_demanded(case.memories[name], last.memories[name])
                and case.demands.get(name) is last.demands.get(name)
                and self._stays(name, view, case)
                for name, view in now.servers.items()
            )
        )

    def _stays(self, name: str, view: ServerView, case: Case) -> bool:
        last, then = self.case, self.case.snapshot.servers[name]
        if name not in case.demands:
            return only_older(view, then)
        stands = case.memories[name].demanded is last.memories[name].demanded is not None
        return stands or name not in last.starts or has_as_many_pods(view, then)

    def standing(self, case: Case) -> Decided:
        """Return it as it stands for all that is *case* some time later."""
        # Who is held may be woken, as time goes on.
        if case.held:
            return self._replace(stood=None)
        return self._replace(stood=case.snapshot, sample_s=_next_sample_s(case))

    def _is_like(self, now: Snapshot) -> bool:
        """Tell whether it is a decision of the time of *now*, and nothing but servers is new."""
        then = self.case.snapshot
        return (
            then.now_s <= now.now_s < self.until_s
            and now.window_s == then.window_s
            and now.capacity_max == then.capacity_max
            and _totals(now) == _totals(then)
        )


def lasting(case: Case, decision: Decision, *, until_s: float) -> Decided:
    """Return *decision* as that of *case*; it stands until *until_s* at most."""
    found, demands = Decided(case, decision, until_s), case.demands
    # Where all that was demanded is remembered, the same is demanded again.
    remembered = all(
        memory.demanded is not None and memory.demanded.demand is demands.get(name)
        for name, memory in case.memories.items()
    )
    return found.standing(case) if remembered else found


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
