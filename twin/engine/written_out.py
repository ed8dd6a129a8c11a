"""The steps of twin.engine.replica in one function, with all that changes in its local variables:
for speed alone. It decides nothing by itself; to read how a replica works, read that file.

Python spends most of a step on looking up attributes and on calls. A generator keeps its variables
from one call to the next, so here a step needs few of either. What is rare (a prompt in parts,
memory that runs out) is left to the methods of Replica, for which the variables are put back.
Results are equal to the last bit: tests play random scripts to both.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Generator
from heapq import heappop, heappush
from math import inf, nextafter, sqrt
from typing import Any

from twin.engine.kv_cache import BlockTable
from twin.engine.latency import CHORD_MAX, iteration_ms, segment_s
from twin.engine.replica import TICKET_BITS, TICKET_MASK, Replica
from twin.engine.telemetry import (
    ITL_ABOVE_S,
    ITL_BOUNDS_S,
    LATENCY_BOUNDS_S,
    TTFT_BOUNDS_S,
    ReplicaReading,
    Scraped,
    add_progression,
)
from twin.request import Request
from twin.spec import EngineSpec

_ITL_UPTO_S = (*ITL_BOUNDS_S, inf)
NEARLY = 1.0 - 1e-6

Flow = Generator[str | None, float | None, None]


def covers(spec: EngineSpec, *, queue_max: int | None) -> bool:
    """Tell whether a replica of *spec* can be a WrittenOut: a step is a token, the KV cache is one
    of ours, and what does not fit at once may wait.
    """
    return spec.tokens_per_step == 1.0 and spec.kv_cache == "counted" and queue_max != 0


class WrittenOut(Replica):
    """A Replica that is advanced by one function; for specs that `covers` names."""

    __slots__ = (
        "_arrived",
        "_by_flow",
        "_foresees",
        "_named",
        "_step_on",
        "quiet_until_s",
        "then_until_s",
    )

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._foresees, self.quiet_until_s, self.then_until_s = False, inf, inf
        self._arrived: Request | None = None
        # Not while somebody is told of an end: who may submit at once, in the midst of a step. All
        # that Replica.submit does then is to put the request in the queue. And not after a request
        # whose blocks have names, which are shared: all further steps are Replica's.
        self._by_flow = True
        self._named = False
        flow = self._flow()
        next(flow)
        self._step_on: Callable[[float | None], str | None] = flow.send

    def submit(self, request: Request, now_s: float) -> str | None:
        """Take *request* as Replica does."""
        if request.blocks:
            self._settle()
            self._named, self._by_flow = True, False
        if self._by_flow:
            self._arrived = request
            reason = self._step_on(now_s)
            if self._arrived is None:
                return reason
            self._arrived = None
        reason = super().submit(request, now_s)
        self.quiet_until_s = self.then_until_s = self.next_boundary_s
        return reason

    def advance(self, until_s: float, *, inclusive: bool) -> None:
        """Process every boundary as Replica does."""
        if inclusive:
            until_s = nextafter(until_s, inf)
        if self._by_flow and self.next_boundary_s < until_s:
            self._step_on(until_s)
        if not self._by_flow:
            super().advance(until_s, inclusive=False)
            self.quiet_until_s = self.then_until_s = self.next_boundary_s

    def foresee(self) -> None:
        """Keep from now on, as long as there are only submits and advances, until when no request
        ends that is there by now (quiet_until_s). If then_until_s is later, one ends at that
        instant, and no other one before then_until_s.
        """
        self._foresees = True
        self.quiet_until_s = self.then_until_s = self.next_boundary_s

    def _settle(self) -> None:
        """Put the variables of the function back into self, which is then up to date."""
        if self._by_flow:
            self._step_on(None)

    # Whoever looks at it or changes it sees it settled.

    def read(self, now_s: float) -> ReplicaReading:
        """Return what Replica.read does."""
        self._settle()
        return super().read(now_s)

    def scraped(self, now_s: float) -> Scraped:
        """Return what Replica.scraped does."""
        self._settle()
        return super().scraped(now_s)

    def set_max_batch(self, max_batch: int, now_s: float) -> None:
        """Do what Replica.set_max_batch does."""
        self.advance(now_s, inclusive=False)
        self._settle()
        super().set_max_batch(max_batch, now_s)

    def drain(self, now_s: float) -> list[Request]:
        """Do what Replica.drain does."""
        self.advance(now_s, inclusive=False)
        self._settle()
        return super().drain(now_s)

    def abort(self, now_s: float) -> list[Request]:
        """Do what Replica.abort does."""
        self.advance(now_s, inclusive=False)
        self._settle()
        return super().abort(now_s)

    def in_flight(self, now_s: float) -> list[Request]:
        """Return what Replica.in_flight does."""
        self._settle()
        return super().in_flight(now_s)

    def _flow(self) -> Flow:
        """Advance to each instant that is sent, take in the request that arrives then, and yield
        why not; put all variables back for a None, and for good when somebody who was told of an
        end has submitted named blocks: what is left to do until then is Replica's.
        """
        alpha_s, beta_s, gamma_s = self._alpha_s, self._beta_s, self._gamma_s
        pair_s, sequence_s, overhead_s = self._pair_s, self._sequence_s, self._overhead_s
        curved, ahead, longest = self._curved, self._ahead, self._longest
        queue_max, budget, full_prompt = self._queue_max, self._token_budget, self._full_prompt
        share, cached_tokens = self._prefix_share, self._prefixes.cached_tokens
        kv, kv_units, size = self._kv, float(self._kv_units), self._block_units
        table, short = kv if isinstance(kv, BlockTable) else None, size - 1
        on_finish, telemetry = self._on_finish, self.telemetry
        ttft_buckets, itl_buckets = telemetry.ttft_buckets, telemetry.itl_buckets
        e2e_buckets, queue_buckets = telemetry.e2e_buckets, telemetry.queue_buckets
        # Whole numbers that times are multiplied with are floats here: they are exact, and Python
        # multiplies two floats five times as fast as a float and an int.
        size_less_1, size_less_2 = size - 1.0, size - 2.0
        soon_s, bounded = LATENCY_BOUNDS_S[0], queue_max < inf
        foreseeable = curved is None and not (ahead or share or pair_s)
        ended: list[Request] = []
        until_s = yield None
        while True:
            while until_s is None:
                until_s = yield None
            # Out of self.
            next_s, start_s, duration = self.next_boundary_s, self._start_s, self._duration_s
            c0_s, c1_s, length = self._c0_s, self._c1_s, float(self._length)
            n, g = float(self._decodes), float(self._iteration)
            contexts = self._offset_sum + n * g
            running, waiting, finishes = self._running, self._waiting, self._finishes
            prefills, partial, seen_s = self._prefills, self._partial, self._seen_s
            max_batch, ticket, steps = self._max_batch, self._next_ticket, self.steps
            draining = self.draining
            soonest = float(finishes[0] >> TICKET_BITS) if finishes else inf
            ttft_s, itl_s = telemetry.ttft_sum_s, telemetry.itl_sum_s
            e2e_s, queue_s = telemetry.e2e_sum_s, telemetry.queue_sum_s
            prompts, ended_tokens = telemetry.prompt_tokens, telemetry.ended_tokens
            # Of gaps of decodes alone, and of those with a prefill between: the bucket of the last
            # ones, its bounds, and what is to be added to it.
            bucket, above_s, upto_s, gaps = 0, inf, inf, 0.0
            wide, wide_above_s, wide_upto_s, wide_gaps = 0, inf, inf, 0.0
            # Of those who waited, mostly all are in the first bucket.
            soon = 0
            while until_s is not None:
                while next_s < until_s:
                    t = next_s
                    steps += 1
                    # Replica._complete
                    if prefills:
                        # An iteration that took c0.
                        if ahead:
                            seen_s = start_s
                        g += 1.0
                        if n:
                            itl_s += n * duration
                            contexts += n
                            if wide_above_s < c0_s <= wide_upto_s:
                                wide_gaps += n
                            else:
                                itl_buckets[wide] += int(wide_gaps)
                                wide, wide_gaps = bisect_left(ITL_BOUNDS_S, c0_s), n
                                wide_above_s, wide_upto_s = ITL_ABOVE_S[wide], _ITL_UPTO_S[wide]
                    elif length:
                        if ahead:
                            k = length - 1.0
                            seen_s = start_s + (k * c0_s + c1_s * (k * (k - 1.0) * 0.5))
                        g += length
                        itl_s += n * duration
                        contexts += n * length
                        gap_s = c0_s + c1_s * (length - 1.0)
                        if above_s < c0_s <= gap_s <= upto_s:
                            gaps += n * length
                        else:
                            itl_buckets[bucket] += int(gaps)
                            bucket, gaps = bisect_left(ITL_BOUNDS_S, gap_s), 0.0
                            above_s, upto_s = ITL_ABOVE_S[bucket], _ITL_UPTO_S[bucket]
                            if above_s < c0_s:
                                gaps = n * length
                            else:
                                add_progression(itl_buckets, int(n), int(length), c0_s, c1_s)
                    while soonest <= g:
                        request = running.pop(heappop(finishes) & TICKET_MASK)
                        soonest = float(finishes[0] >> TICKET_BITS) if finishes else inf
                        offset = request.context_offset
                        n -= 1.0
                        contexts -= offset + g
                        if table is not None:
                            residue = -offset % size
                            table.counts[residue] -= 1
                            table.residue_sum -= residue
                        ended.append(request)
                    # Replica._complete_prefills
                    if prefills:
                        partial = None
                        whole = int(g)
                        for request, chunk in prefills:
                            context = request.context = request.context + chunk
                            made = request.generated
                            prompt = request.prompt_tokens
                            if context < prompt + made:
                                partial = request
                                continue
                            if made:
                                late_s = t - request.last_token_s
                                itl_s += late_s
                                itl_buckets[bisect_left(ITL_BOUNDS_S, late_s)] += 1
                            else:
                                request.first_token_s = token_s = t + overhead_s
                                token_s -= request.submitted_s
                                prompts += prompt
                                ttft_s += token_s
                                ttft_buckets[bisect_left(TTFT_BOUNDS_S, token_s)] += 1
                            request.generated = made = made + 1
                            left = request.output_tokens - made
                            if not left:
                                del running[request.ticket]
                                ended.append(request)
                                continue
                            offset = request.context_offset = context - whole
                            n += 1.0
                            contexts += context
                            last = whole + left
                            heappush(finishes, last << TICKET_BITS | request.ticket)
                            if last < soonest:
                                soonest = float(last)
                            if table is not None:
                                residue = -offset % size
                                table.counts[residue] += 1
                                table.residue_sum += residue
                        prefills = []
                    # Replica._finish
                    if ended:
                        # As Replica.submit would find it, with nothing to cut short or to pass.
                        self.next_boundary_s, self._length, self._by_flow = t, 0, False
                        for request in ended:
                            request.generated = output = request.output_tokens
                            request.last_token_s = token_s = t + overhead_s
                            self.outstanding -= 1
                            ended_tokens += output
                            token_s -= request.submitted_s
                            e2e_s += token_s
                            e2e_buckets[bisect_left(LATENCY_BOUNDS_S, token_s)] += 1
                            on_finish(request, t)
                        self._by_flow = not self._named
                        ended.clear()
                        if ahead and not running:
                            seen_s = inf
                        if self._named:
                            break
                    # Replica._begin
                    if partial is not None:
                        break
                    read = contexts + n
                    may_prefill = waiting and len(running) < max_batch
                    if may_prefill:
                        # Replica._begin_prefill
                        free = kv_units - read - n * size_less_1
                        if free < 0.0:
                            break
                        exact, taken, tokens = False, 0, budget - len(running)
                        computed, after_s, pairs = n, read, 0
                        # Replica._admit
                        while waiting and tokens > 0 and len(running) < max_batch:
                            request = waiting[0]
                            if request.submitted_s > seen_s:
                                break
                            need = request.prompt_tokens + request.generated
                            cached = cached_tokens(request) if share else 0
                            chunk = need - cached if need - cached < tokens else tokens
                            context = cached + chunk
                            mine = (context + short) // size
                            asked = (need + short) // size if full_prompt else mine
                            if (asked + taken) * size > free:
                                if not exact:
                                    exact = True
                                    held = kv.used(int(g) + 1, int(n), int(read))
                                    free = (kv.blocks - held) * size
                                if (asked + taken) * size > free:
                                    break
                            waiting.popleft()
                            if not request.admitted:
                                request.admitted = True
                                waited_s = t - request.submitted_s
                                queue_s += waited_s
                                if waited_s <= soon_s:
                                    soon += 1
                                else:
                                    queue_buckets[bisect_left(LATENCY_BOUNDS_S, waited_s)] += 1
                                if share:
                                    telemetry.looked_up(request.prompt_tokens, found=cached)
                            request.ticket = ticket
                            running[ticket] = request
                            ticket += 1
                            request.context = request.cached_tokens = cached
                            prefills.append((request, chunk))
                            taken += mine
                            tokens -= chunk
                            computed += chunk
                            after_s += context
                            if pair_s:
                                pairs += chunk * (cached + context)
                        if prefills:
                            length, start_s, c1_s = 1.0, t, 0.0
                            if curved is None:
                                c0_s = alpha_s + beta_s * computed + gamma_s * after_s
                                if pair_s:
                                    c0_s += pair_s * (0.5 * pairs)
                                if sequence_s:
                                    c0_s += sequence_s * (n + len(prefills))
                            else:
                                c0_s = iteration_ms(
                                    curved,
                                    tokens=computed,
                                    kv_tokens=after_s,
                                    sequences=int(n) + len(prefills),
                                    pairs=0.5 * pairs,
                                )
                                c0_s /= 1000.0
                            duration = c0_s
                            next_s = t + duration
                            continue
                    if not n:
                        length, next_s = 0.0, inf
                        continue
                    k = soonest - g
                    if may_prefill and waiting[0].submitted_s > seen_s:
                        k = 1.0
                    if read + n * (k + size_less_2) > kv_units:
                        k = min(k, kv.iterations_left(int(g), int(n), int(contexts)))
                        if not k:
                            break
                    if curved is None:
                        c0_s = alpha_s + beta_s * n + gamma_s * read
                        if sequence_s:
                            c0_s += sequence_s * n
                        c1_s = gamma_s * n
                    else:
                        k = min(k, CHORD_MAX)
                        c0_s, c1_s = segment_s(
                            curved, tokens=n, kv_tokens=read, sequences=int(n), k=int(k)
                        )
                    length, start_s = k, t
                    duration = k * c0_s + c1_s * (k * (k - 1.0) * 0.5)
                    next_s = t + duration
                else:
                    # Replica.submit
                    reason = None
                    arrived = self._arrived
                    if arrived is not None:
                        self._arrived = None
                        if draining:
                            reason = "draining"
                        elif bounded and len(waiting) >= queue_max:
                            reason = "queue_full"
                        elif arrived.prompt_tokens + arrived.output_tokens - 1 > longest:
                            reason = "never_fits"
                        if reason is None:
                            arrived.submitted_s = until_s
                            if length > 1.0 and not waiting and len(running) < max_batch:
                                # Replica._truncate, twin.engine.latency.boundaries_before
                                k, spent = 1.0, c0_s
                                if start_s + c0_s < until_s:
                                    d = until_s - start_s
                                    a = 0.5 * c1_s
                                    b = c0_s - a
                                    root = 2.0 * d / (b + sqrt(b * b + 4.0 * a * d))
                                    k = root // 1.0 + 1.0
                                    spent = k * c0_s + c1_s * (k * (k - 1.0) * 0.5)
                                    while start_s + spent < until_s:
                                        k += 1.0
                                        spent = k * c0_s + c1_s * (k * (k - 1.0) * 0.5)
                                    # A root is exact to far less than a hundredth: only near a
                                    # boundary it may be the one before.
                                    while k - root > 0.99 and k > 1.0:
                                        one_less = k - 1.0
                                        before = c1_s * (one_less * (k - 2.0) * 0.5)
                                        before += one_less * c0_s
                                        if start_s + before < until_s:
                                            break
                                        k, spent = one_less, before
                                if ahead:
                                    k += 1.0
                                    spent = k * c0_s + c1_s * (k * (k - 1.0) * 0.5)
                                if k < length:
                                    length, duration = k, spent
                                    next_s = start_s + spent
                            waiting.append(arrived)
                            self.outstanding += 1
                            if next_s == inf:
                                next_s = until_s
                        else:
                            telemetry.rejections += 1
                    self.next_boundary_s, self.steps = next_s, steps
                    if self._foresees:
                        # None ends before the next boundary; what follows are the simple cases.
                        quiet_s = then_s = next_s
                        own, k = inf, 0.0
                        if not foreseeable or partial is not None:
                            pass
                        elif waiting:
                            at_g = g + length
                            if soonest > at_g and len(waiting) == 1 and not prefills:
                                # None ends until the next boundary; then the prompt that waits is
                                # computed in one iteration.
                                request = waiting[0]
                                made = request.generated
                                needed = float(request.prompt_tokens + made)
                                read = contexts + n * length + n
                                if (
                                    n + needed <= budget
                                    and n < max_batch
                                    and read + n * size_less_1 + needed + size <= kv_units
                                ):
                                    iteration_s = alpha_s + beta_s * (n + needed)
                                    iteration_s += gamma_s * (read + needed)
                                    if sequence_s:
                                        iteration_s += sequence_s * (n + 1.0)
                                    first_s = next_s + iteration_s
                                    own = request.output_tokens - made + at_g
                                    at_g += 1.0
                        elif prefills:
                            # One prompt is in work, which is computed as a whole.
                            request, chunk = prefills[0]
                            made = request.generated
                            needed = float(request.prompt_tokens + made)
                            if len(prefills) == 1 and request.context + chunk >= needed:
                                first_s, read = next_s, contexts + n
                                own = request.output_tokens - made + g
                                at_g = g + 1.0
                        elif g + length == soonest:
                            # One ends at the next boundary.
                            at_g, at_n, read, k = g, n, contexts + n, length
                        if own < inf:
                            at_n = n + 1.0
                            read += n + needed + 1.0
                            k = (soonest if soonest < own else own) - at_g
                        if k > 0.0 and read + at_n * (k + size_less_2) <= kv_units:
                            if own < inf:
                                each_s = alpha_s + beta_s * at_n + gamma_s * read
                                if sequence_s:
                                    each_s += sequence_s * at_n
                                more_s = gamma_s * at_n
                                quiet_s = first_s + (k * each_s + more_s * (k * (k - 1.0) * 0.5))
                            # The second to end has so many more iterations to go, each of which
                            # takes longer than it would without contexts.
                            if own < soonest:
                                more = soonest - own
                            else:
                                more = own - soonest
                                if more and len(finishes) > 1:
                                    last = finishes[1]
                                    if len(finishes) > 2 and finishes[2] < last:
                                        last = finishes[2]
                                    more = min(more, (last >> TICKET_BITS) - soonest)
                            then_s = quiet_s
                            if at_n == 1.0:
                                then_s = inf
                            elif read + at_n * (k + more + size_less_2) <= kv_units:
                                least_s = alpha_s + (beta_s + sequence_s) * (at_n - 1.0)
                                then_s += NEARLY * more * least_s
                        self.quiet_until_s, self.then_until_s = quiet_s, then_s
                    until_s = yield reason
                    continue
                break
            # Back into self.
            self.next_boundary_s, self._start_s, self._duration_s = next_s, start_s, duration
            self._c0_s, self._c1_s, self._length = c0_s, c1_s, int(length)
            self._decodes, self._iteration = int(n), int(g)
            self._offset_sum = int(contexts - n * g)
            self._prefills, self._partial, self._seen_s = prefills, partial, seen_s
            self._next_ticket, self.steps = ticket, steps
            telemetry.ttft_sum_s, telemetry.itl_sum_s = ttft_s, itl_s
            telemetry.e2e_sum_s, telemetry.queue_sum_s = e2e_s, queue_s
            telemetry.prompt_tokens, telemetry.ended_tokens = prompts, ended_tokens
            itl_buckets[bucket] += int(gaps)
            itl_buckets[wide] += int(wide_gaps)
            queue_buckets[0] += soon
            if until_s is not None:
                self._begin(t)
            if not self._by_flow:
                yield None
