"""The front door of one server: counts every arrival, routes it to a ready replica, or keeps it
until there is one.

What is to come is known ahead of time, or submitted at its instant.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import simpy

from twin.engine.compiled.visit import NO_STRETCH, Stretch
from twin.engine.port import Engine
from twin.kernel import CONTROL, at
from twin.request import Request, RequestBatch, RequestLog
from twin.serving.routers import make_router
from twin.spec import Server

if TYPE_CHECKING:
    from twin.engine.compiled.table import ReplicaTable, TableReplica


STRETCH_MAX = 4096
"""Requests to one server, that are served together with those to others; more are by themselves."""
MADE_AT_ONCE = 512


class Gateway:
    """Requests that no pod can take yet wait in the backlog, without bound, in order of their
    arrival.

    arrivals and arrived_tokens (of prompts) count whatever came, queued and rejected requests
    included; requeued and failed count those that lost their pod.
    """

    def __init__(
        self,
        env: simpy.Environment,
        server: Server,
        index: int,
        *,
        requests: RequestLog,
        rng: np.random.Generator,
        backlog_max: int | None = None,
    ) -> None:
        self.backlog: deque[Request] = deque()
        self.arrivals = self.arrived_tokens = self.requeued = self.failed = 0
        self._backlog_max = inf if backlog_max is None else backlog_max
        self._env = env
        self._index = index
        self._name = server.name
        self._requests = requests
        self._requeue = server.crash_policy == "requeue"
        self._router = make_router(server.router, rng)
        self._route = self._router.route
        self._shut = False
        # For who follows each request: called when one ends without an answer, and when one was
        # given to a replica.
        self.ended: Callable[[Request, float], None] | None = None
        self.dispatched: Callable[[], None] | None = None
        self.replicas: list[Engine] = []
        # Where the replicas are rows of a table, it serves what is expected; prefixes by their
        # blocks it does not know, and whoever made it is asked to make other replicas.
        self.table: ReplicaTable | None = None
        self.leave_table: Callable[[], None] | None = None
        # What is to come, and how many of the first of these batches came already.
        self._expected: deque[RequestBatch] = deque()
        self._begun = 0
        self._next_s = inf

    def expect(self, requests: RequestBatch) -> None:
        """Let *requests* arrive at their instants; `arrive` takes them, and whoever looks at this
        server or changes it calls that first.
        """
        assert self.ended is None, "a server of which every end is watched is told of each arrival"
        if requests.blocks and self.table is not None:
            assert self.leave_table is not None
            self.leave_table()
        if not self._expected:
            self._next_s = float(requests.times_s[0])
        self._expected.append(requests)

    def arrive(self, until_s: float, *, inclusive: bool) -> None:
        """Take what was expected to arrive before *until_s*, and with *inclusive* at it."""
        side: Literal["left", "right"] = "right" if inclusive else "left"
        while self._next_s < until_s or (inclusive and self._next_s == until_s):
            batch = self._expected[0]
            begin, end = self._begun, int(batch.times_s.searchsorted(until_s, side))
            self._take(batch, begin, end)
            self._pass(batch, end)

    def _pass(self, batch: RequestBatch, end: int) -> None:
        """Note that of *batch*, the first that is expected, all before *end* have come."""
        if end == batch.times_s.size:
            self._expected.popleft()
            end = 0
        self._begun = end
        self._next_s = self._expected[0].times_s.item(end) if self._expected else inf

    def stretch(self, until_s: float) -> Stretch | None:
        """Return what comes by *until_s*, itself included, and count it as come: the caller lets
        the table serve it together with what comes to other servers, and says `resume`. None if it
        is to be taken by `arrive`.
        """
        if self.backlog or not self.replicas:
            return None
        if self._next_s > until_s:
            return NO_STRETCH
        parts, come, begin = [], 0, self._begun
        for batch in self._expected:
            end = int(batch.times_s.searchsorted(until_s, "right"))
            if end > begin:
                parts.append((batch, begin, end))
                come += end - begin
            if end < batch.times_s.size:
                break
            begin = 0
        plan = self._router.plan(come) if come <= STRETCH_MAX else None
        if plan is None:
            return None
        for batch, _, end in parts:
            self._pass(batch, end)
        number = self.arrivals
        self.arrivals += come
        (batch, begin, end), *more = parts
        return Stretch(batch, begin, end, number, plan, tuple(more))

    def resume(self, turn: int, prompt_tokens: int) -> None:
        """Go on with this place in the round, where the table ended; it served so many
        *prompt_tokens*.
        """
        self.arrived_tokens += prompt_tokens
        self._router.resume(turn)

    def _take(self, batch: RequestBatch, begin: int, end: int) -> None:
        """Take the requests of *batch* from *begin* to before *end*, between whose arrivals nothing
        else happens to this server.
        """
        if self._take_compiled(batch, begin, end):
            return
        ids = count(self.arrivals)
        self.arrivals += end - begin
        self.arrived_tokens += int(batch.prompt_tokens[begin:end].sum())
        waits = bool(self.backlog) or not self.replicas
        route = None if waits else self._router.stretch(self.replicas, end - begin)
        # Some at a time, so that those about to arrive are in the caches.
        for first in range(begin, end, MADE_AT_ONCE):
            last = min(first + MADE_AT_ONCE, end)
            requests = batch.requests(self._name, first, last, ids=ids, server_index=self._index)
            for request in requests:
                now_s = request.arrival_s
                if route is None:
                    self._keep(request, now_s)
                    continue
                reason = route(request, now_s).submit(request, now_s)
                if reason is not None:
                    self._reject(request, now_s, reason)

    def _take_compiled(self, batch: RequestBatch, begin: int, end: int) -> bool:
        """Let the compiled engine take them, if it can; tell whether it did."""
        if self.table is None or self.backlog or not self.replicas:
            return False
        plan = self._router.plan(end - begin)
        if plan is None:
            return False
        # With a table, all replicas are rows of it.
        replicas = cast("list[TableReplica]", self.replicas)
        stretch = Stretch(batch, begin, end, self.arrivals, plan)
        self.arrivals += end - begin
        self.resume(*self.table.serve(self._index, stretch, replicas))
        return True

    def submit(self, request: Request) -> None:
        """Take a request that arrives now: to a ready replica, or into the backlog until there is
        one. Number it for the records.
        """
        request.id = self.arrivals
        request.server_index = self._index
        self.arrivals += 1
        self.arrived_tokens += request.prompt_tokens
        if self.backlog or not self.replicas:
            self._keep(request, self._env.now)
            return
        self._dispatch(request, self._env.now)
        if self.dispatched is not None:
            self.dispatched()

    def _keep(self, request: Request, now_s: float) -> None:
        if len(self.backlog) < self._backlog_max:
            self.backlog.append(request)
        else:
            self._reject(request, now_s, "queue_full")

    def open(self, replica: Engine) -> None:
        """Route to *replica* from now on, and share the backlog with it."""
        self.replicas.append(replica)
        self._router.add(replica)
        if self.backlog:
            self._dispatch_soon()

    def close(self, replica: Engine) -> None:
        """Route nothing to *replica* any more."""
        index = self.replicas.index(replica)
        del self.replicas[index]
        self._router.remove(index)

    def take_back(self, requests: Sequence[Request]) -> None:
        """Find a new place for requests that their pod does not serve; they go before those that
        arrived later.
        """
        if self._shut:
            self._fail(requests, "server_removed")
        elif requests:
            self.backlog = deque(sorted((*requests, *self.backlog), key=arrival_order))
            self._dispatch_soon()

    def lose(self, requests: Sequence[Request], reason: str) -> None:
        """Queue again, or fail for *reason*, requests that were lost with their pod: as the server
        has it.
        """
        if self._requeue:
            self.requeued += len(requests)
            self.take_back(requests)
            return
        self._fail(requests, reason)

    def shut(self) -> None:
        """Fail what waits, and from now on whatever comes back: the server is being removed."""
        self._shut = True
        self._fail(tuple(self.backlog), "server_removed")
        self.backlog.clear()

    def _fail(self, requests: Sequence[Request], reason: str) -> None:
        self.failed += len(requests)
        for request in requests:
            self._requests.add_failed(request, self._env.now, reason)
            if self.ended is not None:
                self.ended(request, self._env.now)

    def _reject(self, request: Request, now_s: float, reason: str) -> None:
        self._requests.add_rejected(request, now_s, reason)
        if self.ended is not None:
            self.ended(request, now_s)

    def _dispatch_soon(self) -> None:
        # At this instant, but after the other pods that get ready or leave at it, so that all share
        # the work.
        at(self._env, self._env.now, priority=CONTROL, action=self._dispatch_backlog)

    def _dispatch_backlog(self) -> None:
        now_s = self._env.now
        while self.backlog and self.replicas:
            self._dispatch(self.backlog.popleft(), now_s)
        if self.dispatched is not None:
            self.dispatched()

    def _dispatch(self, request: Request, now_s: float) -> None:
        reason = self._route(request, self.replicas, now_s).submit(request, now_s)
        if reason is not None:
            self._reject(request, now_s, reason)


def arrival_order(request: Request) -> tuple[float, int]:
    """Return the key that sorts the requests of one server as they arrived."""
    return request.arrival_s, request.id
