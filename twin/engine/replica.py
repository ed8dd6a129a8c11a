"""The event-compressed engine: a replica that is advanced from one change of its batch to the next.

Iterations are not stepped one by one. Between two changes of the batch the decodes run as one
segment whose length in time and in KV blocks has a closed form; only iterations that prefill or
preempt are events of their own. So a request costs a handful of events, however long its output.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from heapq import heapify, heappop, heappush
from math import ceil, inf, nextafter

from twin.engine.kv_cache import KvCacheFactory, make_kv_cache
from twin.engine.latency import (
    CHORD_MAX,
    boundaries_before,
    duration_s,
    iteration_ms,
    pairs_twice,
    segment_s,
)
from twin.engine.prefix_cache import PrefixCache
from twin.engine.telemetry import (
    ITL_ABOVE_S,
    ITL_BOUNDS_S,
    LATENCY_BOUNDS_S,
    ReplicaReading,
    ReplicaTelemetry,
    Scraped,
    Seen,
    add_progression,
)
from twin.request import Request
from twin.spec import AdmissionRule, EngineSpec, LatencyModel, Scheduling

# The heap of finishes holds (iteration of the last token, ticket) as one int: comparing ints is
# several times as fast as comparing tuples, and needs no allocation.
TICKET_BITS = 32
TICKET_MASK = (1 << TICKET_BITS) - 1


def _tell_nobody(_request: Request, _finish_s: float) -> None:
    """Let a request finish unnoticed."""


class Replica:
    """A server process with one accelerator unit; see twin.engine.port.Engine for what it promises.

    In front is the waiting queue, behind it the batch, and of the batch the segment in progress.
    steps counts the events processed.
    """

    # More than thirty attributes would lose the fast path of instance dictionaries; slots have no
    # such limit, and gave 8 %.
    __slots__ = (
        "_ahead",
        "_alpha_s",
        "_beta_s",
        "_block_units",
        "_c0_s",
        "_c1_s",
        "_curved",
        "_decodes",
        "_duration_s",
        "_finishes",
        "_full_prompt",
        "_gamma_s",
        "_iteration",
        "_kv",
        "_kv_units",
        "_length",
        "_longest",
        "_max_batch",
        "_next_ticket",
        "_offset_sum",
        "_on_finish",
        "_overhead_s",
        "_pair_s",
        "_partial",
        "_prefills",
        "_prefix_share",
        "_prefixes",
        "_queue_max",
        "_running",
        "_seat",
        "_seen_s",
        "_sequence_s",
        "_start_s",
        "_step",
        "_token_budget",
        "_unit",
        "_waiting",
        "draining",
        "next_boundary_s",
        "outstanding",
        "steps",
        "telemetry",
    )

    def __init__(
        self,
        *,
        latency_model: LatencyModel,
        overhead_ms: float = 0.0,
        scheduling: Scheduling = "sync",
        max_batch: int,
        max_num_batched_tokens: int = 8192,
        kv_tokens: int | None = None,
        block_size: int = 16,
        kv_cache: str | KvCacheFactory = "counted",
        prefix_share: float = 0.0,
        tokens_per_step: float = 1.0,
        queue_max: int | None = None,
        admission: AdmissionRule = "chunk",
        on_finish: Callable[[Request, float], None] = _tell_nobody,
    ) -> None:
        """Make an idle replica. kv_tokens None is a KV cache without bounds, queue_max None an
        unbounded queue.

        *on_finish* is called with (request, finish_s) while the replica is advanced, so finish_s
        may be long past for a caller that waits for it; it may submit at finish_s.
        """
        assert max_batch >= 1, f"max_batch must be >= 1, got {max_batch}"
        assert queue_max is None or queue_max >= 0, f"queue_max must be >= 0, got {queue_max}"
        # Others ask the model; the plain sum is written out below, a call would cost more.
        self._curved = None if latency_model.is_plain else latency_model
        # Contexts and blocks are counted in units, so many a token, for a step of speculative
        # decoding adds tokens by the fraction. Without it a unit is a token, and a step is one.
        mean = Fraction(round(100 * tokens_per_step), 100)
        self._unit, self._step = mean.denominator, mean.numerator
        assert self._step >= self._unit, f"tokens_per_step must be >= 1, got {tokens_per_step}"
        # What a decode takes of the token budget.
        self._seat = ceil(mean)
        assert max_num_batched_tokens >= self._seat, (
            f"max_num_batched_tokens must be >= {self._seat}, got {max_num_batched_tokens}"
        )
        self._alpha_s = latency_model.alpha_ms / 1000.0
        self._beta_s = latency_model.beta_ms / 1000.0 / self._unit
        self._gamma_s = latency_model.gamma_ms / 1000.0 / self._unit
        self._pair_s = latency_model.beta_ms / 1000.0 * latency_model.attention
        self._sequence_s = latency_model.sequence_ms / 1000.0
        # A client waits for it, the next iteration does not: it is in no boundary.
        self._overhead_s = overhead_ms / 1000.0
        # Iterations that are planned before the one that is to begin: what arrives waits for them.
        self._ahead = int(scheduling == "async")
        self._max_batch = max_batch
        # It may not change while requests run: that decodes never starve rests on it.
        self._token_budget = max_num_batched_tokens
        self._kv = make_kv_cache(
            kv_cache,
            kv_tokens=None if kv_tokens is None else kv_tokens * self._unit,
            block_size=block_size * self._unit,
        )
        # Copies of what never changes: one look-up less in every event.
        self._kv_units = self._kv.tokens
        self._block_units = self._kv.block_size
        # The tokens of the longest request that fits alone; its last step may add more than was
        # left to generate.
        fitting = self._kv_units - self._step + 1
        self._longest = inf if fitting == inf else fitting // self._unit
        self._prefix_share = prefix_share
        self._prefixes = PrefixCache(self._kv, block_size=block_size, share=prefix_share)
        self._queue_max = inf if queue_max is None else queue_max
        self._full_prompt = admission == "full_prompt"
        self._on_finish = on_finish
        self.telemetry = ReplicaTelemetry()
        self.draining = False
        self.steps = self._next_ticket = self._iteration = 0
        self._clear()

    @classmethod
    def of_spec(
        cls,
        spec: EngineSpec,
        *,
        max_batch: int,
        queue_max: int | None,
        on_finish: Callable[[Request, float], None],
    ) -> Replica:
        """Return an idle replica of *spec*."""
        return cls(
            latency_model=spec.latency_model,
            overhead_ms=spec.overhead_ms,
            scheduling=spec.scheduling,
            max_batch=max_batch,
            max_num_batched_tokens=spec.max_num_batched_tokens,
            kv_tokens=spec.kv_tokens,
            block_size=spec.block_size,
            kv_cache=spec.kv_cache,
            prefix_share=spec.prefix_share,
            tokens_per_step=spec.tokens_per_step,
            queue_max=queue_max,
            admission=spec.admission,
            on_finish=on_finish,
        )

    def _clear(self) -> None:
        self._waiting: deque[Request] = deque()
        # Running requests by ticket, in admission order: decodes, and at the end at most one
        # partial prefill.
        self._running: dict[int, Request] = {}
        self._partial: Request | None = None
        # Of the decodes: their number, the sum of their contexts less what iterations added to each
        # since the first, and (iteration of the last token, ticket) as one int.
        self._decodes = 0
        self._offset_sum = 0
        self._finishes: list[int] = []
        # The segment in progress: it began at start_s, has length iterations (0: none), and
        # prefills these chunks.
        self._start_s = 0.0
        self._length = 0
        self._c0_s = 0.0
        self._c1_s = 0.0
        self._duration_s = 0.0
        self._prefills: list[tuple[Request, int]] = []
        # The plan of the next iteration knows what was submitted up to then.
        self._seen_s = inf
        self.outstanding = 0
        self.next_boundary_s = inf
        self._kv.clear()
        self._prefixes.clear()

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
        # Asked here, too: the call costs more than the comparison, and mostly nothing is due.
        if self.next_boundary_s < now_s:
            self.advance(now_s, inclusive=False)
        waiting = self._waiting
        reason = None
        if self.draining:
            reason = "draining"
        elif len(waiting) >= self._queue_max and not self._room(request, now_s):
            reason = "queue_full"
        elif request.prompt_tokens + request.output_tokens - 1 > self._longest:
            # It would preempt itself for ever. The last token generated is never written to the KV
            # cache.
            reason = "never_fits"
        if reason is not None:
            self.telemetry.rejections += 1
            return reason
        request.submitted_s = now_s
        # Only the first in the queue can end a segment early. Behind others it changes nothing: the
        # head is blocked by the batch or by the KV cache, free blocks only fall until the next
        # finish, and the head is never skipped.
        if self._length > 1 and not waiting and len(self._running) < self._max_batch:
            self._truncate(now_s, self._ahead)
        waiting.append(request)
        self.outstanding += 1
        if self.next_boundary_s == inf:
            # Not begun here: every submission of this instant is to be seen by the first iteration.
            self.next_boundary_s = now_s
        return None

    def _room(self, request: Request, now_s: float) -> bool:
        """Tell whether, though nothing may wait, *request* has a place in the batch, and blocks for
        its prompt, beside what runs and what was taken since the last boundary.
        """
        if self._queue_max or len(self._running) + len(self._waiting) >= self._max_batch:
            return False
        held = self._blocks_held(self._iterations_before(now_s))
        unit, size = self._unit, self._block_units
        if self._partial is not None and not self._prefills:
            # Between two iterations (who was told of an end asks), or in one of decodes alone.
            held += -(-self._partial.context * unit // size)
        coming = sum(
            -(-(each.prompt_tokens + each.generated) * unit // size)
            for each in (*self._waiting, request)
        )
        return held + coming <= self._kv.blocks

    def advance(self, until_s: float, *, inclusive: bool) -> None:
        """Process every boundary before *until_s*, and with *inclusive* those at it."""
        # One comparison for both kinds: the next float up makes < of <=.
        if inclusive:
            until_s = nextafter(until_s, inf)
        while (t := self.next_boundary_s) < until_s:
            self.steps += 1
            if self._length:
                self._complete(t)
            self._begin(t)

    def read(self, now_s: float) -> ReplicaReading:
        """Return what a scrape at *now_s* sees. Needs an advance to *now_s* inclusively; changes
        nothing.
        """
        return self.telemetry.reading(**self._seen(now_s))

    def scraped(self, now_s: float) -> Scraped:
        """Return what a scraper keeps of `read`: it takes half the time."""
        return self.telemetry.scraped(**self._seen(now_s))

    def _seen(self, now_s: float) -> Seen:
        assert self.next_boundary_s > now_s, (
            f"read at {now_s}, but a boundary at {self.next_boundary_s} is not processed"
        )
        # A scrape reads into the segment and must not cut it: results would depend on the scrape
        # interval in their last digits.
        done = self._iterations_before(nextafter(now_s, inf))
        segment = None
        if done:
            c0_s, c1_s = self._c0_s, self._c1_s
            segment = (self._decodes, done, c0_s, c1_s, duration_s(done, c0_s, c1_s))
        return {
            "running": len(self._running),
            "waiting": len(self._waiting),
            "kv_usage": self._kv.usage(self._blocks_held(done)) if self._length else 0.0,
            "segment": segment,
            "generated": self._generated(done) if self._step > self._unit else None,
        }

    @property
    def queued_prompt_tokens(self) -> int:
        """Return the prompt tokens of the requests that wait, as of the last advance."""
        return sum([request.prompt_tokens for request in self._waiting])

    def cached_tokens(self, request: Request) -> int:
        """Return how many tokens of *request* the prefix cache holds, as of the last advance."""
        return self._prefixes.cached_tokens(request)

    def set_max_batch(self, max_batch: int, now_s: float) -> None:
        """Let the next scheduling decision use *max_batch*; lowering it preempts nobody."""
        assert max_batch >= 1, f"max_batch must be >= 1, got {max_batch}"
        self.advance(now_s, inclusive=False)
        # Lowered, it only holds up admission, which no segment waits for. Raised, it may let the
        # head of the queue in at the next boundary.
        raised = max_batch > self._max_batch
        self._max_batch = max_batch
        if raised and self._waiting and self._length > 1 and len(self._running) < max_batch:
            self._truncate(now_s, 0)

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
            self.telemetry.decoded(self._decodes, done, c0_s, c1_s, duration_s(done, c0_s, c1_s))
        lost = [*self._running.values(), *self._waiting]
        if self._step > self._unit:
            self.telemetry.ended_tokens += self._generated(done)
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
        # What is prefilling keeps its own figures; those of decodes follow from their offsets.
        last_token_s = self._start_s + duration_s(done, self._c0_s, self._c1_s)
        prefilling = {request.ticket for request, _ in self._prefills}
        g = (self._iteration + done) * self._step
        for ticket, request in self._running.items():
            if ticket not in prefilling:
                request.context = (request.context_offset + g) // self._unit
                request.generated = request.context - request.prompt_tokens + 1
                request.last_token_s = last_token_s
        return [*self._running.values(), *self._waiting]

    # -- the batch from boundary to boundary

    def _generated(self, done: int) -> int:
        """Return the tokens that the requests in flight have generated, *done* iterations into the
        segment.
        """
        prefilling = {request.ticket for request, _ in self._prefills}
        g = (self._iteration + done) * self._step
        return sum(request.generated for request in self._waiting) + sum(
            request.generated
            if ticket in prefilling
            else (request.context_offset + g) // self._unit - request.prompt_tokens + 1
            for ticket, request in self._running.items()
        )

    def _iterations_before(self, now_s: float) -> int:
        """Return how many iterations of the segment in progress ended strictly before *now_s*."""
        if self._length <= 1:
            return 0
        return boundaries_before(now_s, self._start_s, self._c0_s, self._c1_s)

    def _truncate(self, now_s: float, ahead: int) -> None:
        """End the segment in progress at its first boundary at or after *now_s*, or so many
        iterations later.
        """
        start_s, c0_s, c1_s = self._start_s, self._c0_s, self._c1_s
        k = boundaries_before(now_s, start_s, c0_s, c1_s) + 1 + ahead
        if k < self._length:
            self._length = k
            self._duration_s = duration = k * c0_s + c1_s * (k * (k - 1) // 2)
            self.next_boundary_s = start_s + duration

    def _blocks_held(self, done: int) -> int:
        """Return the blocks held by the iteration in progress, *done* iterations into the
        segment.
        """
        unit, size = self._unit, self._block_units
        held = self._used_after(done + 1)
        for request, chunk in self._prefills:
            held += -(-(request.context + chunk) * unit // size)
        return held

    def _used_after(self, iterations: int) -> int:
        """Return the blocks that the decodes hold so many *iterations* after the last boundary."""
        n, g = self._decodes, (self._iteration + iterations) * self._step
        return self._kv.used(g, n, self._offset_sum + n * g)

    def _complete(self, t: float) -> None:
        """Book the segment that ends at *t*."""
        k = self._length
        if self._ahead:
            # Planned when the last iteration began.
            self._seen_s = self._start_s + duration_s(k - 1, self._c0_s, self._c1_s)
        g = self._iteration = self._iteration + k
        n = self._decodes
        ended: list[Request] = []
        if n:
            if self._prefixes.idle_blocks and not self._prefills:
                # Nothing is free as little as at the end of a segment: what grew took it.
                self._prefixes.trim(self._kv.blocks - self._used_after(0))
            # ReplicaTelemetry.decoded written out: nearly always all gaps are in one bucket.
            telemetry, c0_s = self.telemetry, self._c0_s
            last = bisect_left(ITL_BOUNDS_S, c0_s + self._c1_s * (k - 1))
            telemetry.itl_sum_s += n * self._duration_s
            if c0_s > ITL_ABOVE_S[last]:
                telemetry.itl_buckets[last] += n * k
            else:
                add_progression(telemetry.itl_buckets, n, k, c0_s, self._c1_s)
            # All keys of iteration g are below the smallest key of the next one.
            due = (g + 1) << TICKET_BITS
            finishes = self._finishes
            while finishes and finishes[0] < due:
                request = self._running.pop(heappop(finishes) & TICKET_MASK)
                self._decodes -= 1
                offset = request.context_offset
                self._offset_sum -= offset
                self._kv.leave(offset)
                ended.append(request)
        if self._prefills:
            self._complete_prefills(t, ended)
        if ended:
            # Told when all is booked: who asks again at once finds the room that there is.
            self._length = 0
            for request in ended:
                if request.blocks:
                    self._prefixes.end(request)
            for request in ended:
                self._finish(request, t)

    def _complete_prefills(self, t: float, ended: list[Request]) -> None:
        unit, step = self._unit, self._step
        telemetry = self.telemetry
        self._partial = None
        for request, chunk in self._prefills:
            context = request.context = request.context + chunk
            made = request.generated
            if context < request.prompt_tokens + made:
                self._partial = request
                continue
            # A preempted request computes its prompt and what it generated anew; its next token is
            # late, not first.
            if made:
                telemetry.late_token(t - request.last_token_s)
            else:
                request.first_token_s = seen_s = t + self._overhead_s
                telemetry.first_token(seen_s - request.submitted_s, request.prompt_tokens)
            request.generated = made = made + 1
            left = request.output_tokens - made
            if not left:
                del self._running[request.ticket]
                ended.append(request)
                continue
            g = self._iteration
            offset = request.context_offset = context * unit - g * step
            self._decodes += 1
            self._offset_sum += offset
            # The step that makes the last token; those of one step come off the heap in admission
            # order.
            last = g - -left * unit // step
            heappush(self._finishes, last << TICKET_BITS | request.ticket)
            self._kv.join(offset)
        self._prefills = []

    def _finish(self, request: Request, t: float) -> None:
        request.generated = request.output_tokens
        request.last_token_s = seen_s = t + self._overhead_s
        self.outstanding -= 1
        # ReplicaTelemetry.finished written out.
        telemetry, e2e_s = self.telemetry, seen_s - request.submitted_s
        telemetry.ended_tokens += request.output_tokens
        telemetry.e2e_sum_s += e2e_s
        telemetry.e2e_buckets[bisect_left(LATENCY_BOUNDS_S, e2e_s)] += 1
        self._on_finish(request, t)

    def _begin(self, t: float) -> None:
        """Decide what runs from *t* on."""
        if self._ahead and not self._running:
            # Nothing in progress to plan behind.
            self._seen_s = inf
        waiting = self._waiting
        may_prefill = self._partial is not None or (
            waiting and len(self._running) < self._max_batch
        )
        preempted = False
        if may_prefill:
            begun = self._begin_prefill(t)
            if begun:
                return
            preempted = begun is None
        n = self._decodes
        if not n:
            assert not self._waiting, "an idle replica must be able to admit the head of its queue"
            self._length = 0
            self.next_boundary_s = inf
            return
        # The decodes run on alone, to the next finish or to the end of the KV cache. A waiting head
        # need not be asked again before that, see submit.
        g, grown = self._iteration, n * self._step
        k = (self._finishes[0] >> TICKET_BITS) - g
        # What the next iteration reads: all contexts, with what it adds.
        read = self._offset_sum + grown * (g + 1)
        if may_prefill:
            if preempted or waiting[0].submitted_s > self._seen_s:
                # It came after the plan of this iteration, and is in that of the next.
                k = 1
            elif waiting[0].blocks and self._prefixes.idle_blocks:
                k = min(k, self._until_eviction())
        # A bound that is cheap: if every decode had one more block than it needs, and it still
        # fits, the exact count need not be asked for.
        if read + grown * (k - 1) + n * (self._block_units - 1) > self._kv_units:
            k = min(k, self._iterations_left())
            if not k:
                self._preempt(t, free=self._kv.blocks - self._used_after(0), partial=0)
                k, n = 1, self._decodes
                grown = n * self._step
                read = self._offset_sum + grown * (g + 1)
        if self._curved is None:
            c0 = self._alpha_s + self._beta_s * grown + self._gamma_s * read + self._sequence_s * n
            c1 = self._gamma_s * grown
        else:
            unit = self._unit
            k = min(k, CHORD_MAX)
            c0, c1 = segment_s(
                self._curved, tokens=grown / unit, kv_tokens=read / unit, sequences=n, k=k
            )
        self._length = k
        self._start_s = t
        self._c0_s = c0
        self._c1_s = c1
        # duration_s written out: a call would be a tenth of this event.
        self._duration_s = duration = k * c0 + c1 * (k * (k - 1) // 2)
        self.next_boundary_s = t + duration

    def _iterations_left(self) -> int:
        """Return for how many iterations the free blocks last the decodes."""
        n, g = self._decodes, self._iteration * self._step
        return self._kv.iterations_left(g, n, self._offset_sum + n * g) // self._step

    def _until_eviction(self) -> int:
        """Return after how many iterations a head that is blocked by the KV cache is to be asked
        again: when the first block is evicted, for then less of its prompt may be cached, and less
        of it asks for room at once.
        """
        kv, idle = self._kv, self._prefixes.idle_blocks
        # As if what nobody uses could not be freed.
        kv.share(-idle)
        k = self._iterations_left()
        kv.share(idle)
        return max(k, 1)

    def _begin_prefill(self, t: float) -> bool | None:
        """Begin one iteration that continues a partial prefill and admits from the queue; False if
        nothing can prefill, None if a partial prefill or the decodes ran out of blocks and somebody
        was preempted: that iteration admits nobody.
        """
        n, unit, size = self._decodes, self._unit, self._block_units
        decoding = n * self._step
        left = self._token_budget - n * self._seat
        computed, read = decoding, self._offset_sum + decoding * (self._iteration + 1)
        # A lower bound of the units in blocks that are free after the decodes took theirs; the
        # exact count is asked for only if it fails.
        free = self._kv_units - read - n * (size - 1)
        exact = False
        # A partial prefill goes first. There is at most one, last in the running list: it took all
        # that was left of the budget.
        prefills: list[tuple[Request, int]] = []
        partial = self._partial
        taken = pairs = 0
        if partial is not None:
            chunk = min(partial.prompt_tokens + partial.generated - partial.context, left)
            after = partial.context + chunk
            taken = -(-after * unit // size)
            left -= max(chunk, self._seat)
            computed += chunk * unit
            read += after * unit
            pairs = pairs_twice(partial.context, chunk)
            prefills.append((partial, chunk))
        if free < taken * size:
            free, exact = self._free_after_decodes(), True
            if free < taken * size:
                self._preempt_for_prefill(t, taken)
                return None
        prefixes = self._prefixes
        if prefixes.idle_blocks:
            # What runs goes on first, and evicts what nobody uses.
            if not exact:
                free, exact = self._free_after_decodes(), True
            prefixes.trim(free // size - taken)
        if partial is not None and partial.blocks:
            prefixes.add(partial, after)
        waiting = self._waiting
        if waiting and left >= self._seat and len(self._running) < self._max_batch:
            added = self._admit(t, prefills, free, exact=exact, taken=taken, left=left)
            computed += added[0] * unit
            read += added[1] * unit
            pairs += added[2]
        if not prefills:
            return False
        self._prefills = prefills
        self._length = 1
        self._start_s = t
        self._c0_s = self._duration_s = duration = (
            self._alpha_s
            + self._beta_s * computed
            + self._gamma_s * read
            + self._pair_s * (0.5 * pairs)
            + self._sequence_s * (n + len(prefills))
            if self._curved is None
            else iteration_ms(
                self._curved,
                tokens=computed / unit,
                kv_tokens=read / unit,
                sequences=n + len(prefills),
                pairs=0.5 * pairs,
            )
            / 1000.0
        )
        self._c1_s = 0.0
        self.next_boundary_s = t + duration
        return True

    def _admit(
        self,
        t: float,
        prefills: list[tuple[Request, int]],
        free: float,
        *,
        exact: bool,
        taken: int,
        left: int,
    ) -> tuple[int, int, int]:
        """Admit from the queue as long as places, blocks and tokens last: so many units are in
        *free* blocks (*exact*, or at least), of which *taken* blocks are spoken for; *left* tokens
        may be computed. Append who computes how many to *prefills*; return the sums of these, of
        their contexts afterwards, and of their pairs_twice.
        """
        unit, size, seat, prefixes = self._unit, self._block_units, self._seat, self._prefixes
        computed = read = pairs = 0
        gained = 0  # blocks that this iteration shares, which an exact count includes
        running, waiting, max_batch = self._running, self._waiting, self._max_batch
        # First come, first served: a head that does not fit holds up those behind it.
        while waiting and left >= seat and len(running) < max_batch:
            request = waiting[0]
            if request.submitted_s > self._seen_s:
                break
            need = request.prompt_tokens + request.generated
            blocks = request.blocks
            cached = shared = 0
            if blocks or self._prefix_share:
                cached = prefixes.cached_tokens(request)
                shared = prefixes.shared_blocks(request, cached)
            chunk = need - cached if need - cached < left else left
            after = cached + chunk
            mine = -(-after * unit // size) - shared
            asked = -(-need * unit // size) - shared if self._full_prompt else mine
            if (asked + taken) * size > free:
                if not exact:
                    free, exact = self._free_after_decodes() - gained * size, True
                if (asked + taken) * size > free:
                    break
            waiting.popleft()
            if not request.admitted:
                request.admitted = True
                self.telemetry.admitted(t - request.submitted_s)
                if blocks or self._prefix_share:
                    self.telemetry.looked_up(request.prompt_tokens, found=cached)
            ticket = request.ticket = self._next_ticket
            self._next_ticket = ticket + 1
            running[ticket] = request
            # What is cached is context at once: held, and read by every iteration.
            request.context = request.cached_tokens = cached
            prefills.append((request, chunk))
            taken += mine
            # A request of a token or two takes the seat that it decodes on.
            left -= chunk if chunk > seat else seat
            computed += chunk
            read += after
            # pairs_twice written out, as a request may cost no call more.
            pairs += chunk * (cached + after)
            if blocks:
                gained += shared
                prefixes.use(request, cached)
            if prefixes.idle_blocks:
                prefixes.trim(free // size - taken)
            if blocks:
                prefixes.add(request, after)
        return computed, read, pairs

    def _free_after_decodes(self) -> float:
        """Return the units in blocks that are free after the decodes took those of the next
        iteration; negative if they lack.
        """
        return (self._kv.blocks - self._used_after(1)) * self._block_units

    def _demand(self) -> int:
        """Return the new blocks that the decodes ask for in the next iteration."""
        if self._step == 1:
            return self._kv.demand(self._iteration)
        return self._used_after(1) - self._used_after(0)

    def _preempt_for_prefill(self, t: float, taken: int) -> None:
        free = self._kv.blocks - self._used_after(0)
        if self._partial is not None:
            held = -(-self._partial.context * self._unit // self._block_units)
            free -= held
            taken -= held
        self._preempt(t, free=free, partial=taken)

    def _left_before_lack(self, free: float, partial: int) -> float:
        """Return what is left of *free* blocks when the first that lacks some asks for its own."""
        g, size = self._iteration * self._step, self._block_units
        for request in self._running.values():
            if request is self._partial:
                need = partial
            else:
                context = request.context_offset + g
                need = -(-(context + self._step) // size) + (-context // size)
            if need > free:
                break
            free -= need
        return free

    def _preempt(self, t: float, *, free: float, partial: int) -> None:
        """Take the most recently admitted requests out of the batch until the blocks that the
        others ask for are free; a partial prefill, which is the last, asks for *partial*.
        """
        # The victims of one iteration are the shortest suffix of the admission order that frees
        # enough, so no walk over the batch is needed; the dictionary has that order for free.
        kv = self._kv
        g, unit, size = self._iteration * self._step, self._unit, self._block_units
        demand = self._demand()
        while demand + partial > free:
            if self._prefixes.idle_blocks:
                self._prefixes.trim(self._left_before_lack(free, partial))
            _, victim = self._running.popitem()
            if victim is self._partial:
                self._partial = None
                partial = 0
                free += -(-victim.context * unit // size)
            else:
                context = victim.context_offset + g
                kv.leave(victim.context_offset)
                free += -(-context // size)
                self._decodes -= 1
                self._offset_sum -= victim.context_offset
                victim.generated = context // unit - victim.prompt_tokens + 1
                victim.last_token_s = t
                demand = self._demand()
            if victim.blocks:
                free -= self._prefixes.release(victim.ticket)
            victim.context = 0
            victim.preemptions += 1
            self.telemetry.preemptions += 1
            self._waiting.appendleft(victim)
        self._prefixes.trim(free - demand)
        # O(n), and rare enough below a tenth preempted; a heap with holes would cost every finish.
        self._finishes = [key for key in self._finishes if key & TICKET_MASK in self._running]
        heapify(self._finishes)
