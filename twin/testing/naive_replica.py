"""The oracle: one replica that steps every iteration in SimPy, written plainly. Frozen: slow and
obvious on purpose.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Generator
from fractions import Fraction
from math import ceil, floor, nan

import simpy

from twin.engine.kv_cache import kv_block_count, kv_blocks
from twin.engine.latency import iteration_ms
from twin.engine.telemetry import ITL_BOUNDS_S, LATENCY_BOUNDS_S, TTFT_BOUNDS_S, ReplicaReading
from twin.request import Request
from twin.spec import AdmissionRule, LatencyModel, Scheduling

# SimPy priorities of simultaneous events: the batch of an instant is decided after everything that
# arrives at it.
CONTROL, ARRIVAL, BOUNDARY, SCRAPE = 0, 1, 2, 3


class Alarm(simpy.Event):
    """An event after *delay* with a *priority* among those of its instant."""

    def __init__(self, env: simpy.Environment, *, delay: float, priority: int) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None
        env.schedule(self, priority=priority, delay=delay)  # type: ignore[arg-type] # any integer works


class Job:
    """A request in the replica: tokens generated, tokens whose KV is held, blocks held, tokens of
    this iteration.
    """

    __slots__ = (
        "admitted",
        "blocks",
        "chunk",
        "context",
        "decoding",
        "generated",
        "last_token_s",
        "names",
        "request",
    )

    def __init__(self, request: Request) -> None:
        self.request = request
        self.generated = 0
        # With speculative decoding by the fraction: a step adds tokens as they come on the mean.
        self.context: int | Fraction = 0
        self.blocks = 0
        self.chunk: int | Fraction = 0
        self.decoding = False
        self.admitted = False
        self.last_token_s = nan
        self.names: list[int] = []

    @property
    def has_named_answer(self) -> bool:
        """Tell whether there are more names than the prompt has blocks."""
        prompt = -(-self.request.prompt_tokens // self.request.block_tokens)
        return len(self.request.blocks) > prompt


class CachedBlocks:
    """The blocks of the prompt's part that one name stands for: who uses them, and up to which
    token of the prompt they reach.
    """

    def __init__(self, *, end: int, blocks: int) -> None:
        self.end, self.blocks, self.users = end, blocks, 1


class Histogram:
    """A histogram with a sum, as a Prometheus client keeps it."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.count = 0
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.buckets[bisect_left(self.bounds, value)] += 1
        self.count += 1
        self.sum += value


class NaiveReplica:
    """One replica under a SimPy environment; the arguments are those of
    twin.engine.replica.Replica.
    """

    def __init__(
        self,
        env: simpy.Environment,
        *,
        latency_model: LatencyModel,
        overhead_ms: float = 0.0,
        scheduling: Scheduling = "sync",
        max_batch: int,
        max_num_batched_tokens: int = 8192,
        kv_tokens: int | None = None,
        block_size: int = 16,
        prefix_share: float = 0.0,
        tokens_per_step: float = 1.0,
        queue_max: int | None = None,
        admission: AdmissionRule = "chunk",
        on_finish: Callable[[Request, float], None] | None = None,
    ) -> None:
        self.env = env
        self.latency_model = latency_model
        self.overhead_s = overhead_ms / 1000.0
        self.plans_ahead = scheduling == "async"
        self.planned_s = 0.0
        self.max_batch = max_batch
        self.token_budget = max_num_batched_tokens
        self.block_size = block_size
        self.blocks = kv_block_count(kv_tokens, block_size)
        self.free = 10**12 if self.blocks is None else self.blocks
        self.prefix_share = prefix_share
        step = Fraction(round(100 * tokens_per_step), 100)
        # Whole steps are counted in whole numbers: the same sums, in a third of the time.
        self.step = step.numerator if step.denominator == 1 else step
        # What a decode takes of the token budget.
        self.seat = ceil(self.step)
        # In the order in which they were last used; those that nobody uses count as free.
        self.cached: dict[int, CachedBlocks] = {}
        self.prefix_queries = self.prefix_hits = 0
        self.queue_max = queue_max
        self.admission = admission
        self.on_finish = on_finish
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self.draining = False
        self.iterations = 0
        self.prompt_tokens = self.generation_tokens = self.successes = self.rejections = (
            self.preemptions
        ) = 0
        self.ttft, self.itl = Histogram(TTFT_BOUNDS_S), Histogram(ITL_BOUNDS_S)
        self.e2e, self.queue_time = Histogram(LATENCY_BOUNDS_S), Histogram(LATENCY_BOUNDS_S)
        self.wake = env.event()
        env.process(self.run())

    def run(self) -> Generator[simpy.Event, None, None]:
        while True:
            if not self.running and not self.waiting:
                self.wake = self.env.event()
                yield self.wake
                yield Alarm(self.env, delay=0.0, priority=BOUNDARY)
            elapsed_s = self.start_iteration()
            yield Alarm(self.env, delay=elapsed_s, priority=BOUNDARY)
            self.end_iteration(elapsed_s)

    def submit(self, request: Request) -> str | None:
        reason = None
        if self.draining:
            reason = "draining"
        elif self.queue_max is not None and len(self.waiting) >= self.queue_max:
            reason = "queue_full" if self.queue_max or not self.has_room(request) else None
        if (
            reason is None
            and self.blocks is not None
            and self.longest_context(request) > self.blocks * self.block_size
        ):
            reason = "never_fits"
        if reason is not None:
            self.rejections += 1
            return reason
        request.submitted_s = self.env.now
        self.waiting.append(Job(request))
        if not self.wake.triggered:
            self.wake.succeed()
        return None

    def longest_context(self, request: Request) -> int | Fraction:
        """Return the context of *request* after its last step, if that adds as much more than is
        left as any may.
        """
        more = self.step - Fraction(1, self.step.denominator)
        return request.prompt_tokens + request.output_tokens - 1 + more

    def has_room(self, request: Request) -> bool:
        """Tell whether *request* could run at once, beside what was taken before it."""
        prompts = [job.request.prompt_tokens + job.generated for job in self.waiting]
        needed = sum(kv_blocks(each, self.block_size) for each in [*prompts, request.prompt_tokens])
        return len(self.running) + len(self.waiting) < self.max_batch and needed <= self.free

    def start_iteration(self) -> float:
        budget = self.token_budget
        # Planned when the iteration before began; there is none to plan behind if nothing runs.
        seen_s = self.planned_s if self.plans_ahead and self.running else self.env.now
        self.planned_s = self.env.now
        preempted = False
        scheduled = 0
        while scheduled < len(self.running):
            job = self.running[scheduled]
            left = floor(job.request.prompt_tokens + job.generated - job.context)
            job.chunk = self.step if job.decoding else min(left, budget)
            needed = kv_blocks(ceil(job.context + job.chunk), self.block_size) - job.blocks
            while needed > self.free and scheduled < len(self.running):
                self.preempt(self.running.pop())
                preempted = True
            if scheduled == len(self.running):
                break
            job.blocks += needed
            self.take(needed)
            if not job.decoding:
                self.cache_prefix(job)
            budget -= max(ceil(job.chunk), self.seat)
            scheduled += 1
        while not preempted and self.waiting and len(self.running) < self.max_batch:
            job = self.waiting[0]
            if budget < self.seat or job.request.submitted_s > seen_s:
                break
            need = job.request.prompt_tokens + job.generated
            found, names = self.find_prefix(job)
            chunk = min(need - found, budget)
            # What others use is there already; what nobody uses leaves the free blocks.
            there = sum(self.cached[name].blocks for name in names if self.cached[name].users)
            asked = found + chunk if self.admission == "chunk" else need
            if kv_blocks(asked, self.block_size) - there > self.free:
                break
            self.waiting.popleft()
            if not job.admitted:
                job.admitted = True
                self.queue_time.observe(self.env.now - job.request.submitted_s)
                if job.request.blocks or self.prefix_share:
                    self.prefix_queries += job.request.prompt_tokens
                    self.prefix_hits += found
            job.chunk = chunk
            job.context = found
            job.names = names
            for name in names:
                self.cached[name].users += 1
            job.blocks = kv_blocks(found + chunk, self.block_size)
            self.take(job.blocks - there)
            self.cache_prefix(job)
            budget -= max(chunk, self.seat)
            self.running.append(job)
        kv_tokens = sum(job.context + job.chunk for job in self.running)
        # Each token of a prompt with each that comes before it.
        pairs = sum(
            job.context + place + 0.5
            for job in self.running
            if not job.decoding
            for place in range(int(job.chunk))
        )
        return (
            iteration_ms(
                self.latency_model,
                tokens=float(sum(job.chunk for job in self.running)),
                kv_tokens=float(kv_tokens),
                sequences=len(self.running),
                pairs=float(pairs),
            )
            / 1000.0
        )

    def take(self, blocks: int) -> None:
        """Take free blocks; the least recently used of those that nobody uses are evicted if no
        others are left.
        """
        self.free -= blocks
        if not self.cached or not blocks:
            return
        idle = {name: each for name, each in self.cached.items() if not each.users}
        for name, each in idle.items():
            if sum(one.blocks for one in idle.values() if one.users == 0) <= self.free:
                break
            each.users = -1
            del self.cached[name]

    def find_prefix(self, job: Job) -> tuple[int, list[int]]:
        """Return the tokens of *job* that are cached, and the names that lie within them."""
        request, size = job.request, self.block_size
        found, names = 0, []
        for index, name in enumerate(request.blocks):
            if name not in self.cached or index * request.block_tokens >= request.prompt_tokens:
                break
            names.append(name)
            end = self.cached[name].end
            found = min(end, request.prompt_tokens)
            if end < (index + 1) * request.block_tokens // size * size:
                break
        if not request.blocks:
            found = int(self.prefix_share * request.prompt_tokens)
        found = min(found, request.prompt_tokens + job.generated - 1) // size * size
        within = [name for name in names if self.cached[name].end <= found]
        return found, within

    def cache_prefix(self, job: Job) -> None:
        """Cache the blocks of the prompt that this iteration computes to their end."""
        request, step = job.request, job.request.block_tokens
        for index in range(len(job.names), len(request.blocks)):
            end = min((index + 1) * step, request.prompt_tokens)
            answer_follows = job.has_named_answer and end < (index + 1) * step
            if answer_follows or end > job.context + job.chunk or index * step >= end:
                break
            if not self.cache_block(job, index, end):
                break

    def cache_answer(self, job: Job) -> None:
        """Cache the blocks that the answer fills, all but its last token."""
        request, step = job.request, job.request.block_tokens
        computed = request.prompt_tokens + request.output_tokens - 1
        index = len(job.names)
        while job.has_named_answer and index < len(request.blocks):
            end = (index + 1) * step
            if end > computed or not self.cache_block(job, index, end):
                break
            index += 1

    def cache_block(self, job: Job, index: int, end: int) -> bool:
        """Cache what is named by the name at *index*, up to token *end*, unless it is cached."""
        name, size = job.request.blocks[index], self.block_size
        if name in self.cached:
            return False
        blocks = end // size - index * job.request.block_tokens // size
        self.cached[name] = CachedBlocks(end=end // size * size, blocks=blocks)
        job.names.append(name)
        return True

    def give_back(self, job: Job) -> None:
        """Free the blocks of *job* that nobody else uses."""
        self.free += job.blocks
        for name in reversed(job.names):
            each = self.cached[name]
            each.users -= 1
            if each.users:
                self.free -= each.blocks
            else:
                self.cached[name] = self.cached.pop(name)
        job.names = []

    def preempt(self, job: Job) -> None:
        self.give_back(job)
        job.blocks = job.context = 0
        job.decoding = False
        job.request.preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(job)

    def end_iteration(self, elapsed_s: float) -> None:
        self.iterations += 1
        for job in list(self.running):
            job.context += job.chunk
            if job.decoding or job.context == job.request.prompt_tokens + job.generated:
                self.emit(job, elapsed_s)

    def emit(self, job: Job, elapsed_s: float) -> None:
        request, now_s = job.request, self.env.now
        # A token more than those whose KV is held, and none more than were asked for.
        before = job.generated
        job.generated = min(floor(job.context) - request.prompt_tokens + 1, request.output_tokens)
        self.generation_tokens += job.generated - before
        if not before:
            request.first_token_s = now_s + self.overhead_s
            self.prompt_tokens += request.prompt_tokens
            self.ttft.observe(now_s + self.overhead_s - request.submitted_s)
        else:
            self.itl.observe(elapsed_s if job.decoding else now_s - job.last_token_s)
        job.decoding = True
        job.last_token_s = now_s
        if job.generated == request.output_tokens:
            self.running.remove(job)
            self.cache_answer(job)
            self.give_back(job)
            self.successes += 1
            self.e2e.observe(now_s + self.overhead_s - request.submitted_s)
            if self.on_finish is not None:
                self.on_finish(request, now_s)

    def set_max_batch(self, max_batch: int) -> None:
        self.max_batch = max_batch

    def drain(self) -> list[Request]:
        self.draining = True
        returned = [job.request for job in self.waiting if not job.admitted]
        self.waiting = deque(job for job in self.waiting if job.admitted)
        return returned

    def abort(self) -> list[Request]:
        """Lose everything; the iteration in progress runs out empty, so submit nothing
        afterwards.
        """
        lost = [job.request for job in [*self.running, *self.waiting]]
        self.running, self.waiting = [], deque()
        self.cached = {}
        self.free = 10**12 if self.blocks is None else self.blocks
        return lost

    def in_flight(self) -> list[tuple[int, int, int, float]]:
        """Return (id, generated, context, time of the last token) of what runs and then of what
        waits.
        """
        jobs = [*self.running, *self.waiting]
        return [
            (job.request.id, job.generated, floor(job.context), job.last_token_s) for job in jobs
        ]

    def read(self) -> ReplicaReading:
        return ReplicaReading(
            prompt_tokens=self.prompt_tokens,
            generation_tokens=self.generation_tokens,
            successes=self.successes,
            rejections=self.rejections,
            preemptions=self.preemptions,
            ttft_count=self.ttft.count,
            ttft_sum_s=self.ttft.sum,
            ttft_buckets=tuple(self.ttft.buckets),
            itl_count=self.itl.count,
            itl_sum_s=self.itl.sum,
            itl_buckets=tuple(self.itl.buckets),
            e2e_count=self.e2e.count,
            e2e_sum_s=self.e2e.sum,
            e2e_buckets=tuple(self.e2e.buckets),
            queue_count=self.queue_time.count,
            queue_sum_s=self.queue_time.sum,
            queue_buckets=tuple(self.queue_time.buckets),
            running=len(self.running),
            waiting=len(self.waiting),
            prefix_queries=self.prefix_queries,
            prefix_hits=self.prefix_hits,
            kv_usage=0.0 if self.blocks is None else (self.blocks - self.free) / self.blocks,
        )
