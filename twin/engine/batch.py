"""The batch of one replica from boundary to boundary: decode segments, prefill iterations,
preemption; no queue rules.

Iterations are not stepped one by one. Between two changes of the batch the decodes run as one
segment whose length in time and in KV blocks has a closed form; only iterations that prefill or
preempt are events of their own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import inf, nextafter

from twin.engine.kv_cache import ResidueTable
from twin.engine.latency import kv_block_count
from twin.engine.segment import boundaries_before, duration_s
from twin.engine.telemetry import ReplicaTelemetry
from twin.request import Request
from twin.spec import AdmissionRule, LatencyModel

_TICKET_BITS = 32
_TICKET_MASK = (1 << _TICKET_BITS) - 1
_UNLIMITED = 1 << 60


class BatchEngine:
    """The waiting queue in front, the batch behind it, and the segment in progress.

    next_boundary_s is the next instant at which there is something to process, inf when idle.
    outstanding is the number of requests held, waiting or running. Both, and every other figure,
    are current as of the last advance. steps counts the events processed.
    """

    # More than thirty attributes would lose the fast path of instance dictionaries; slots do not
    # mind.
    __slots__ = (
        "_alpha_s",
        "_beta_s",
        "_c0_s",
        "_c1_s",
        "_context_sum",
        "_decodes",
        "_duration_s",
        "_finishes",
        "_full_prompt",
        "_gamma_s",
        "_iteration",
        "_kv",
        "_length",
        "_max_batch",
        "_next_ticket",
        "_on_finish",
        "_partial",
        "_prefills",
        "_running",
        "_start_s",
        "_token_budget",
        "_waiting",
        "next_boundary_s",
        "outstanding",
        "steps",
        "telemetry",
    )

    def __init__(
        self,
        *,
        latency_model: LatencyModel,
        max_batch: int,
        max_num_batched_tokens: int,
        kv_tokens: int | None,
        block_size: int,
        admission: AdmissionRule,
        on_finish: Callable[[Request, float], None] | None,
        telemetry: ReplicaTelemetry,
    ) -> None:
        assert max_batch >= 1, f"max_batch must be >= 1, got {max_batch}"
        assert max_num_batched_tokens >= 1, (
            f"max_num_batched_tokens must be >= 1, got {max_num_batched_tokens}"
        )
        self._alpha_s = latency_model.alpha_ms / 1000.0
        self._beta_s = latency_model.beta_ms / 1000.0
        self._gamma_s = latency_model.gamma_ms / 1000.0
        self._max_batch = max_batch
        self._token_budget = max_num_batched_tokens
        blocks = kv_block_count(kv_tokens, block_size)
        self._kv = None if blocks is None else ResidueTable(blocks=blocks, block_size=block_size)
        self._full_prompt = admission == "full_prompt"
        self._on_finish = on_finish
        self.telemetry = telemetry
        self.steps = 0
        self._next_ticket = 0
        self._iteration = 0
        self._clear()

    def _clear(self) -> None:
        self._waiting: deque[Request] = deque()
        # Running requests by ticket, in admission order: decodes, and at the end at most one
        # partial prefill.
        self._running: dict[int, Request] = {}
        self._partial: Request | None = None
        # Of the decodes: their number, the sum of their contexts, and (iteration of the last token,
        # ticket) as one int.
        self._decodes = 0
        self._context_sum = 0
        self._finishes: list[int] = []
        # The segment in progress: it began at start_s, has length iterations (0: none), and
        # prefills these chunks.
        self._start_s = 0.0
        self._length = 0
        self._c0_s = 0.0
        self._c1_s = 0.0
        self._duration_s = 0.0
        self._prefills: list[tuple[Request, int]] = []
        self.outstanding = 0
        self.next_boundary_s = inf
        if self._kv is not None:
            self._kv.clear()

    def advance(self, until_s: float, *, inclusive: bool) -> None:
        """Process every boundary before *until_s*, and with *inclusive* those at it."""
        if inclusive:
            until_s = nextafter(until_s, inf)
        while (t := self.next_boundary_s) < until_s:
            self.steps += 1
            if self._length:
                self._complete(t)
            self._begin(t)

    def _iterations_before(self, now_s: float) -> int:
        """Return how many iterations of the segment in progress ended strictly before *now_s*."""
        if self._length <= 1:
            return 0
        return boundaries_before(now_s, start_s=self._start_s, c0_s=self._c0_s, c1_s=self._c1_s)

    def _truncate(self, now_s: float) -> None:
        """End the segment in progress at its first boundary at or after *now_s*."""
        k = self._iterations_before(now_s) + 1
        if k < self._length:
            self._length = k
            self._duration_s = duration_s(k, self._c0_s, self._c1_s)
            self.next_boundary_s = self._start_s + self._duration_s

    def _blocks_held(self, done: int) -> int:
        """Return the blocks held by the iteration in progress, *done* iterations into the
        segment.
        """
        kv = self._kv
        assert kv is not None
        ahead = done + 1
        n = self._decodes
        held = kv.used(self._iteration + ahead, n, self._context_sum + n * ahead)
        for request, chunk in self._prefills:
            held += -(-(request.context + chunk) // kv.block_size)
        return held

    def _complete(self, t: float) -> None:
        """Book the segment that ends at *t*."""
        k = self._length
        g = self._iteration = self._iteration + k
        n = self._decodes
        if n:
            self._context_sum += n * k
            self.telemetry.decoded(
                n, k, c0_s=self._c0_s, c1_s=self._c1_s, duration_s=self._duration_s
            )
            finishes = self._finishes
            due = (g + 1) << _TICKET_BITS
            while finishes and finishes[0] < due:
                request = self._running.pop(heappop(finishes) & _TICKET_MASK)
                self._decodes -= 1
                self._context_sum -= request.prompt_tokens + request.output_tokens - 1
                if self._kv is not None:
                    self._kv.leave(request.context_offset)
                self._finish(request, t)
        if self._prefills:
            self._complete_prefills(t)

    def _complete_prefills(self, t: float) -> None:
        g = self._iteration
        telemetry = self.telemetry
        self._partial = None
        for request, chunk in self._prefills:
            context = request.context + chunk
            request.context = context
            prompt = request.prompt_tokens
            if context < prompt + request.generated:
                self._partial = request
                continue
            if request.generated:
                telemetry.late_token(t - request.last_token_s)
            else:
                request.first_token_s = t
                telemetry.first_token(t - request.submitted_s, prompt)
            request.generated += 1
            left = request.output_tokens - request.generated
            if not left:
                del self._running[request.ticket]
                self._finish(request, t)
                continue
            offset = request.context_offset = context - g
            self._decodes += 1
            self._context_sum += context
            heappush(self._finishes, (g + left) << _TICKET_BITS | request.ticket)
            if self._kv is not None:
                self._kv.join(offset)
        self._prefills = []

    def _finish(self, request: Request, t: float) -> None:
        request.generated = request.output_tokens
        request.last_token_s = t
        self.outstanding -= 1
        self.telemetry.finished(t - request.submitted_s)
        if self._on_finish is not None:
            self._on_finish(request, t)

    def _begin(self, t: float) -> None:
        """Decide what runs from *t* on."""
        may_prefill = self._partial is not None or (
            self._waiting and len(self._running) < self._max_batch
        )
        if may_prefill and self._begin_prefill(t):
            return
        n = self._decodes
        if not n:
            assert not self._waiting, "an idle replica must be able to admit the head of its queue"
            self._length = 0
            self.next_boundary_s = inf
            return
        g = self._iteration
        context_sum = self._context_sum
        k = (self._finishes[0] >> _TICKET_BITS) - g
        kv = self._kv
        # While every decode could fill its last block and more, the KV cache need not be looked
        # at.
        if kv is not None and context_sum + n * (k + kv.block_size - 1) > kv.tokens:
            k = min(k, kv.iterations_left(g, n, context_sum))
            if not k:
                self._preempt(t, free=kv.blocks - kv.used(g, n, context_sum), demand=kv.demand(g))
                k, n, context_sum = 1, self._decodes, self._context_sum
        self._begin_segment(t, k, n, context_sum)

    def _begin_segment(self, t: float, k: int, n: int, context_sum: int) -> None:
        c0 = self._alpha_s + self._beta_s * n + self._gamma_s * (context_sum + n)
        c1 = self._gamma_s * n
        self._length = k
        self._start_s = t
        self._c0_s = c0
        self._c1_s = c1
        self._duration_s = duration = k * c0 + c1 * (k * (k - 1) // 2)
        self.next_boundary_s = t + duration

    def _begin_prefill(self, t: float) -> bool:
        """Begin one iteration that continues a partial prefill and admits from the queue; False if
        nothing can prefill.

        An iteration that has to preempt admits nobody, and is begun here too where a partial
        prefill or the decodes run out of blocks.
        """
        n, context_sum = self._decodes, self._context_sum
        left = self._token_budget - n
        kv = self._kv
        size = 1 if kv is None else kv.block_size
        # A lower bound of the blocks free after the decodes took theirs; the exact count is asked
        # for only if it fails.
        free = _UNLIMITED if kv is None else (kv.tokens - context_sum - n * size) // size
        exact = kv is None
        prefills: list[tuple[Request, int]] = []
        computed, read = n, context_sum + n
        partial = self._partial
        taken = 0
        if partial is not None:
            chunk = min(partial.prompt_tokens + partial.generated - partial.context, left)
            after = partial.context + chunk
            taken = -(-after // size)
            left -= chunk
            computed += chunk
            read += after
            prefills.append((partial, chunk))
        if not exact and free < taken:
            free, exact = self._free_after_decodes(), True
            if free < taken:
                self._preempt_for_prefill(t, taken)
                return True
        running, waiting, max_batch = self._running, self._waiting, self._max_batch
        while waiting and left > 0 and len(running) < max_batch:
            request = waiting[0]
            need = request.prompt_tokens + request.generated
            chunk = need if need < left else left
            asked = -(-(need if self._full_prompt else chunk) // size)
            if asked > free - taken:
                if not exact:
                    free, exact = self._free_after_decodes(), True
                if asked > free - taken:
                    break
            waiting.popleft()
            if not request.admitted:
                request.admitted = True
                self.telemetry.admitted(t - request.submitted_s)
            ticket = request.ticket = self._next_ticket
            self._next_ticket = ticket + 1
            running[ticket] = request
            prefills.append((request, chunk))
            taken += -(-chunk // size)
            left -= chunk
            computed += chunk
            read += chunk
        if not prefills:
            return False
        self._prefills = prefills
        self._length = 1
        self._start_s = t
        self._c0_s = self._duration_s = (
            self._alpha_s + self._beta_s * computed + self._gamma_s * read
        )
        self._c1_s = 0.0
        self.next_boundary_s = t + self._duration_s
        return True

    def _free_after_decodes(self) -> int:
        """Return the blocks that are free after the decodes took those of the next iteration;
        negative if they lack.
        """
        kv = self._kv
        assert kv is not None
        n = self._decodes
        return kv.blocks - kv.used(self._iteration + 1, n, self._context_sum + n)

    def _preempt_for_prefill(self, t: float, taken: int) -> None:
        kv = self._kv
        assert kv is not None
        free = kv.blocks - kv.used(self._iteration, self._decodes, self._context_sum)
        demand = kv.demand(self._iteration)
        if self._partial is not None:
            held = -(-self._partial.context // kv.block_size)
            free -= held
            demand += taken - held
        self._preempt(t, free=free, demand=demand)
        self._begin_segment(t, 1, self._decodes, self._context_sum)

    def _preempt(self, t: float, *, free: int, demand: int) -> None:
        """Take the most recently admitted requests out of the batch until the others' *demand* of
        blocks is free.
        """
        kv = self._kv
        assert kv is not None
        g, size = self._iteration, kv.block_size
        while demand > free:
            _, victim = self._running.popitem()
            if victim is self._partial:
                self._partial = None
                free += -(-victim.context // size)
                demand = kv.demand(g)
            else:
                context = victim.context_offset + g
                kv.leave(victim.context_offset)
                free += -(-context // size)
                demand = kv.demand(g)
                self._decodes -= 1
                self._context_sum -= context
                victim.generated = context - victim.prompt_tokens + 1
                victim.last_token_s = t
            victim.context = 0
            victim.preemptions += 1
            self.telemetry.preemptions += 1
            self._waiting.appendleft(victim)
        self._finishes = [key for key in self._finishes if key & _TICKET_MASK in self._running]
        heapify(self._finishes)
