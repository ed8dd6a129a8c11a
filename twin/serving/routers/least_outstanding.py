"""The replica with the fewest requests in flight."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from heapq import heapify, heappop, heappush, heapreplace
from math import inf
from operator import attrgetter
from typing import cast

import numpy as np

from twin.engine.compiled.columns import LEAST_OUTSTANDING
from twin.engine.compiled.visit import NO_DRAWS
from twin.engine.port import Engine
from twin.engine.written_out import WrittenOut
from twin.request import Request
from twin.serving.routers.port import Plan, Route, Router

# Below so many replicas a look at all of them is as fast as an order that has to be kept; and for a
# stretch of so few requests an order is not worth making.
ORDER_REPLICAS, ORDER_REQUESTS = 12, 4


class LeastOutstanding(Router):
    """The one with the fewest requests in flight; of equals, the next in the round after the one
    chosen last.

    The counts are those of this instant: a replica is advanced if something ended on it before now,
    which changes nothing but when that is computed.
    """

    __slots__ = ("_round", "_start")

    def __init__(self, _rng: np.random.Generator) -> None:
        # The list of replicas twice, so that a slice begins anywhere without a modulo per replica.
        self._round: list[Engine] = []
        self._start = 0

    def add(self, replica: Engine) -> None:
        self._round = [*self._round[: len(self._round) // 2], replica] * 2

    def remove(self, index: int) -> None:
        left = self._round[: len(self._round) // 2]
        del left[index]
        self._round = left * 2
        # Those after it move up: without this, the next of the round would be passed over.
        self._start -= index < self._start

    def route(self, request: Request, replicas: Sequence[Engine], now_s: float) -> Engine:
        if len(replicas) == 1:
            return replicas[0]
        return self._look_at_all(replicas)(request, now_s)

    def plan(self, requests: int) -> Plan | None:  # noqa: ARG002, all count alike
        return LEAST_OUTSTANDING, self._start, NO_DRAWS

    def resume(self, turn: int) -> None:
        self._start = turn

    def stretch(self, replicas: Sequence[Engine], requests: int) -> Route:
        if len(replicas) == 1:
            (only,) = replicas
            return lambda _request, _now_s: only
        if len(replicas) < ORDER_REPLICAS or requests < ORDER_REQUESTS:
            return self._look_at_all(replicas)
        return _Order(self, replicas).route

    def _look_at_all(self, replicas: Sequence[Engine]) -> Route:
        """Return `route` for *replicas* that stay the same."""
        count, twice = len(replicas), self._round

        def route(_request: Request, now_s: float) -> Engine:
            start = self._start if self._start < count else 0
            fewest = inf
            for replica in twice[start : start + count]:
                # Asked before the call: mostly nothing ended since the last look.
                if replica.next_boundary_s < now_s:
                    replica.advance(now_s, inclusive=False)
                if replica.outstanding < fewest:
                    fewest = replica.outstanding
                    chosen = replica
            self._start = replicas.index(chosen) + 1
            return chosen

        return route


class _Order:
    """The replicas by their requests in flight, and by when the next of these may end, kept over a
    stretch.

    Places in the list stand for the replicas. A look at all of them for each request becomes one at
    those at which something ended, and a search among those with the fewest. Other boundaries of a
    replica change no count: they wait until it is looked at, which thrashes the caches less often.
    """

    __slots__ = (
        "_by_count",
        "_counts",
        "_due",
        "_due_s",
        "_fewest",
        "_given",
        "_quiet_until_s",
        "_replicas",
        "_router",
    )

    def __init__(self, router: LeastOutstanding, replicas: Sequence[Engine]) -> None:
        self._router = router
        self._replicas = replicas
        self._counts = [replica.outstanding for replica in replicas]
        # By requests in flight, the places of the replicas that have so many, in order.
        self._by_count: dict[int, list[int]] = {}
        for place, count in enumerate(self._counts):
            self._by_count.setdefault(count, []).append(place)
        self._fewest = min(self._by_count)
        told = all(isinstance(replica, WrittenOut) for replica in replicas)
        self._quiet_until_s = attrgetter("quiet_until_s" if told else "next_boundary_s")
        for replica in replicas if told else ():
            cast("WrittenOut", replica).foresee()
        # One entry a replica counts, that of due_s, which is not later than the next end on it;
        # others are left over.
        self._due_s = [replica.next_boundary_s for replica in replicas]
        self._due = [(due_s, place) for place, due_s in enumerate(self._due_s)]
        heapify(self._due)
        self._given = -1

    def route(self, _request: Request, now_s: float) -> Engine:
        """Choose as LeastOutstanding.route does."""
        replicas, due = self._replicas, self._due
        if self._given >= 0:
            self._look_at_given()
        start = self._router._start if self._router._start < len(replicas) else 0
        if due[0][0] < now_s:
            self._advance(start, now_s)
        places = self._by_count[self._fewest]
        first = bisect_left(places, start)
        place = places[first] if first < len(places) else places[0]
        self._router._start = place + 1
        self._given = place
        return replicas[place]

    def _advance(self, start: int, now_s: float) -> None:
        """Advance the replicas on which something ended, in the order in which a look at all of
        them would: it is that of the records.
        """
        replicas, due, due_s = self._replicas, self._due, self._due_s
        quiet_until_s = self._quiet_until_s
        found: list[int] = []
        while due and due[0][0] < now_s:
            time_s, place = due[0]
            if time_s != due_s[place]:
                heappop(due)
                continue
            next_s = quiet_until_s(replicas[place])
            if next_s < now_s:
                found.append(place)
                heappop(due)
                due_s[place] = inf
            else:
                due_s[place] = next_s
                heapreplace(due, (next_s, place))
        if len(found) > 1:
            found.sort(key=lambda place: place if place >= start else place + len(replicas))
        for place in found:
            replica = replicas[place]
            replica.advance(now_s, inclusive=False)
            if replica.outstanding != self._counts[place]:
                self._move(place, replica.outstanding)
            due_s[place] = next_s = quiet_until_s(replica)
            heappush(due, (next_s, place))

    def _look_at_given(self) -> None:
        """Learn what became of the replica chosen last: it has the request, or refused it."""
        place = self._given
        replica = self._replicas[place]
        if replica.outstanding != self._counts[place]:
            self._move(place, replica.outstanding)
        next_s = self._quiet_until_s(replica)
        if next_s < self._due_s[place]:
            self._due_s[place] = next_s
            heappush(self._due, (next_s, place))

    def _move(self, place: int, count: int) -> None:
        before = self._counts[place]
        places = self._by_count[before]
        del places[bisect_left(places, place)]
        if not places:
            del self._by_count[before]
        self._counts[place] = count
        if count not in self._by_count:
            self._by_count[count] = [place]
        else:
            insort(self._by_count[count], place)
        if count < self._fewest:
            self._fewest = count
        elif not places and before == self._fewest:
            self._fewest = min(self._by_count)
