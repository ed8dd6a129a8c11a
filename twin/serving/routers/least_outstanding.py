"""The replica with the fewest requests in flight."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from math import inf
from typing import Any, cast

import numpy as np

from twin.engine.compiled.columns import LEAST_OUTSTANDING
from twin.engine.compiled.visit import NO_DRAWS
from twin.engine.port import Engine
from twin.engine.written_out import WrittenOut
from twin.request import Request
from twin.serving.routers.port import Plan, Route, Router

# Below so many replicas a look at all of them is faster than an order that has to be kept; and for
# a stretch of so few requests an order is not worth making.
ORDER_REPLICAS, ORDER_REQUESTS = 64, 32


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
        return Order(replicas).route(self)

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


class Order:
    """The replicas by their requests in flight, and by when the next of these ends, kept over a
    stretch.

    Places in the list stand for the replicas. A look at all of them for each request becomes one at
    those at which something may have ended, and a search among those with the fewest. Where it is
    known when a request ends, the replica is not even advanced then, but when it is chosen the next
    time: each look at one of many finds it out of the caches.
    """

    __slots__ = ("_counts", "_due", "_due_s", "_ends_s", "_levels", "_replicas", "_then_s", "_told")

    def __init__(self, replicas: Sequence[Engine]) -> None:
        self._replicas = replicas
        self._told = all(isinstance(replica, WrittenOut) for replica in replicas)
        for replica in replicas if self._told else ():
            cast("WrittenOut", replica).foresee()
        self._counts = [replica.outstanding for replica in replicas]
        # By requests in flight, the places of the replicas that have so many, in order.
        self._levels: list[list[int]] = [[] for _ in range(max(self._counts) + 1)]
        for place, count in enumerate(self._counts):
            self._levels[count].append(place)
        # No request ends before ends_s; if then_s is later, one does at ends_s, and no other before
        # then_s.
        self._ends_s = [replica.next_boundary_s for replica in replicas]
        self._then_s = self._ends_s.copy()
        # One entry a replica counts, that of due_s, which is not later than ends_s; others are left
        # over.
        self._due_s = self._ends_s.copy()
        self._due = [(due_s, place) for place, due_s in enumerate(self._due_s)]
        heapify(self._due)

    # Both functions have what they need in their variables: there is a call of them for each
    # request.

    def route(self, router: LeastOutstanding) -> Route:
        """Return what chooses as LeastOutstanding.route does."""
        replicas, counts, levels, told = self._replicas, self._counts, self._levels, self._told
        due, due_s, ends_s, then_s = self._due, self._due_s, self._ends_s, self._then_s
        pass_ends = self._passing()
        given, first, places, fewest = -1, 0, levels[0], min(counts)

        def route(_request: Request, now_s: float) -> Engine:
            nonlocal given, first, places, fewest
            if given >= 0:
                # What became of the replica chosen last: it has the request, or refused it.
                replica: Any = replicas[given]
                count = replica.outstanding
                if count != counts[given]:
                    counts[given] = count
                    del places[first]
                    if count == len(levels):
                        levels.append([])
                    insort(levels[count], given)
                if told:
                    ends_s[given] = end_s = replica.quiet_until_s
                    then_s[given] = replica.then_until_s
                else:
                    ends_s[given] = then_s[given] = end_s = replica.next_boundary_s
                if end_s < due_s[given]:
                    due_s[given] = end_s
                    heappush(due, (end_s, given))
            if due[0][0] < now_s:
                fewest = pass_ends(now_s, fewest)
            places = levels[fewest]
            while not places:
                fewest += 1
                places = levels[fewest]
            first = bisect_left(places, router._start)
            if first == len(places):
                first = 0
            given = places[first]
            router._start = given + 1
            return replicas[given]

        return route

    def _passing(self) -> Callable[[float, int], int]:
        """Return what lets all requests end that end before *now_s*, and returns the fewest in
        flight, if before they were *fewest*.
        """
        replicas, counts, levels, told = self._replicas, self._counts, self._levels, self._told
        due, due_s, ends_s, then_s = self._due, self._due_s, self._ends_s, self._then_s

        def pass_ends(now_s: float, fewest: int) -> int:
            time_s, place = due[0]
            while time_s < now_s:
                if time_s != due_s[place]:
                    heappop(due)
                    time_s, place = due[0]
                    continue
                next_s = ends_s[place]
                if next_s == time_s:
                    before = count = counts[place]
                    next_s = then_s[place]
                    if next_s > time_s:
                        count -= 1
                    else:
                        replica: Any = replicas[place]
                        replica.advance(now_s, inclusive=False)
                        count = replica.outstanding
                        next_s = replica.quiet_until_s if told else replica.next_boundary_s
                        then_s[place] = replica.then_until_s if told else next_s
                    ends_s[place] = next_s
                    if count != before:
                        counts[place] = count
                        places = levels[before]
                        del places[bisect_left(places, place)]
                        insort(levels[count], place)
                        if count < fewest:  # noqa: PLR1730, min is a call
                            fewest = count
                due_s[place] = next_s
                heapreplace(due, (next_s, place))
                time_s, place = due[0]
            return fewest

        return pass_ends
