"""One replica as its owner sees it: submit, advance, read, change, drain, abort. No clock of its
own and no SimPy.

It is pulled: its state is that of the last boundary it was advanced over, whatever the time
outside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf, nextafter

from twin.engine.batch import BatchEngine
from twin.engine.segment import duration_s
from twin.engine.telemetry import ReplicaReading, ReplicaTelemetry
from twin.request import Request
from twin.spec import AdmissionRule, LatencyModel


class Replica(BatchEngine):
    """A server process with one accelerator unit, advanced by whoever owns the time.

    Calls come in order of time; of those at one instant: control actions (set_max_batch, drain,
    abort), submissions, then advance(inclusive=True) and read. What was not advanced yet
    (next_boundary_s before the time of the call) is processed first. Looking never changes a
    result: neither reads nor extra advances do.
    """

    __slots__ = ("_queue_max", "draining")

    def __init__(
        self,
        *,
        latency_model: LatencyModel,
        max_batch: int,
        max_num_batched_tokens: int = 8192,
        kv_tokens: int | None = None,
        block_size: int = 16,
        queue_max: int | None = None,
        admission: AdmissionRule = "chunk",
        on_finish: Callable[[Request, float], None] | None = None,
        telemetry: ReplicaTelemetry | None = None,
    ) -> None:
        """Make an idle replica. kv_tokens None means unlimited memory, queue_max None an unbounded
        queue.

        *on_finish* is called with (request, finish_s) while the replica is advanced, so finish_s
        may be long past for whoever waits for it; it may submit at finish_s.
        """
        assert queue_max is None or queue_max >= 1, f"queue_max must be >= 1, got {queue_max}"
        super().__init__(
            latency_model=latency_model,
            max_batch=max_batch,
            max_num_batched_tokens=max_num_batched_tokens,
            kv_tokens=kv_tokens,
            block_size=block_size,
            admission=admission,
            on_finish=on_finish,
            telemetry=ReplicaTelemetry() if telemetry is None else telemetry,
        )
        self._queue_max = queue_max
        self.draining = False

    @property
    def running(self) -> int:
        """Requests in the batch, those being prefilled included."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests in the queue, preempted ones included."""
        return len(self._waiting)

    @property
    def max_batch(self) -> int:
        """The largest number of requests that may run together."""
        return self._max_batch

    def submit(self, request: Request, now_s: float) -> str | None:
        """Take *request* into the queue, or return why not: "draining", "queue_full" or
        "never_fits".
        """
        if self.next_boundary_s < now_s:
            self.advance(now_s, inclusive=False)
        waiting = self._waiting
        reason = None
        if self.draining:
            reason = "draining"
        elif self._queue_max is not None and len(waiting) >= self._queue_max:
            reason = "queue_full"
        elif (
            self._kv is not None
            and request.prompt_tokens + request.output_tokens - 1 > self._kv.tokens
        ):
            # It would preempt itself for ever. The last token generated is never written to the KV
            # memory.
            reason = "never_fits"
        if reason is not None:
            self.telemetry.rejections += 1
            return reason
        request.submitted_s = now_s
        if self._length > 1 and not waiting and len(self._running) < self._max_batch:
            self._truncate(now_s)
        waiting.append(request)
        self.outstanding += 1
        if self.next_boundary_s == inf:
            # Not begun here: every submission of this instant is to be seen by the first iteration.
            self.next_boundary_s = now_s
        return None

    def read(self, now_s: float) -> ReplicaReading:
        """Return what a scrape at *now_s* sees. Needs an advance to *now_s* inclusively; changes
        nothing.
        """
        assert self.next_boundary_s > now_s, (
            f"read at {now_s}, but a boundary at {self.next_boundary_s} is not processed"
        )
        done = self._iterations_before(nextafter(now_s, inf))
        segment = None
        if done:
            c0_s, c1_s = self._c0_s, self._c1_s
            segment = (self._decodes, done, c0_s, c1_s, duration_s(done, c0_s, c1_s))
        usage = 0.0
        if self._kv is not None and self._length:
            usage = self._blocks_held(done) / self._kv.blocks
        return self.telemetry.reading(
            running=len(self._running), waiting=len(self._waiting), kv_usage=usage, segment=segment
        )

    def set_max_batch(self, max_batch: int, now_s: float) -> None:
        """Let the next scheduling decision use *max_batch*; lowering it preempts nobody."""
        assert max_batch >= 1, f"max_batch must be >= 1, got {max_batch}"
        self.advance(now_s, inclusive=False)
        raised = max_batch > self._max_batch
        self._max_batch = max_batch
        if raised and self._waiting and self._length > 1 and len(self._running) < max_batch:
            self._truncate(now_s)

    def drain(self, now_s: float) -> list[Request]:
        """Refuse new requests from now on and hand back those that never ran, in their order.

        Preempted ones stay and are served. The replica is drained when outstanding is 0.
        """
        self.advance(now_s, inclusive=False)
        self.draining = True
        returned = [request for request in self._waiting if not request.admitted]
        self._waiting = deque(request for request in self._waiting if request.admitted)
        self.outstanding -= len(returned)
        if not self.outstanding:
            self.next_boundary_s = inf
        return returned

    def abort(self, now_s: float) -> list[Request]:
        """Crash: lose all that is in flight and return it in order of admission, restarted, ready
        to be queued again.

        Tokens that were emitted before *now_s* stay counted.
        """
        self.advance(now_s, inclusive=False)
        done = self._iterations_before(now_s)
        if done:
            c0_s, c1_s = self._c0_s, self._c1_s
            self.telemetry.decoded(
                self._decodes, done, c0_s=c0_s, c1_s=c1_s, duration_s=duration_s(done, c0_s, c1_s)
            )
        lost = [*self._running.values(), *self._waiting]
        for request in lost:
            request.restart()
        self._clear()
        return lost

    def in_flight(self, now_s: float) -> list[Request]:
        """Return what runs and what waits, in that order, as it stands at *now_s*.

        Needs an advance to *now_s* inclusively. Brings generated, context and last_token_s of
        decodes up to date.
        """
        done = self._iterations_before(nextafter(now_s, inf))
        last_token_s = self._start_s + duration_s(done, self._c0_s, self._c1_s)
        prefilling = {request.ticket for request, _ in self._prefills}
        for ticket, request in self._running.items():
            if ticket not in prefilling:
                request.context = request.context_offset + self._iteration + done
                request.generated = request.context - request.prompt_tokens + 1
                request.last_token_s = last_token_s
        return [*self._running.values(), *self._waiting]
