"""Cumulative counters and histograms of one replica, as vLLM keeps them, and the reading that a
scrape takes.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from math import inf
from struct import Struct
from typing import NamedTuple, TypedDict

from twin.frozen import made_quickly

TTFT_BOUNDS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
"""Upper bounds of vllm:time_to_first_token_seconds."""

ITL_BOUNDS_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
"""Upper bounds of vllm:inter_token_latency_seconds."""

ITL_ABOVE_S = (-inf, *ITL_BOUNDS_S)
"""What each bucket of it lies above."""

LATENCY_BOUNDS_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0),
    *(40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
"""Upper bounds of vllm:e2e_request_latency_seconds and vllm:request_queue_time_seconds."""


Counted = bytes
"""The buckets of TTFT, ITL, end-to-end and queue times, packed: a tuple takes more than twice the
memory.
"""

_COUNTED = Struct(f"{len(TTFT_BOUNDS_S) + len(ITL_BOUNDS_S) + 2 * len(LATENCY_BOUNDS_S) + 4}q")
NO_COUNTED: Counted = bytes(_COUNTED.size)
packed = _COUNTED.pack


class Counters(NamedTuple):
    """Counters of one pod since its start. finished_tokens: output tokens of the requests that
    finished.
    """

    successes: int = 0
    finished_tokens: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    ttft_count: int = 0
    ttft_sum_s: float = 0.0
    itl_count: int = 0
    itl_sum_s: float = 0.0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0


class Scraped(NamedTuple):
    """Of a reading, what a scraper keeps: counters, buckets, and the gauges."""

    counters: Counters
    counted: Counted
    running: int
    waiting: int
    kv_usage: float


Segment = tuple[int, int, float, float, float]
"""(n, k, c0, c1, duration) of iterations that are over and not yet counted."""


class Seen(TypedDict):
    """What is read of a replica beside its counters: gauges, the segment, and the tokens of what is
    in flight (None if a step is a token).
    """

    running: int
    waiting: int
    kv_usage: float
    segment: Segment | None
    generated: int | None


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReading:
    """What a scrape of one replica sees: counters since its start, and gauges of the iteration in
    progress.

    A histogram is (count, sum, buckets); buckets counts the observations per bucket, not cumulated,
    with one more entry than there are bounds, for those beyond the last. prompt_tokens are counted
    at a request's first token. TTFT, end-to-end and queue times run from the submission to this
    replica: a server cannot know when a client began to wait elsewhere. TTFT and end-to-end times
    hold the overhead, for servers take them in front of the engine. ITL counts one gap per
    step of a request after its first token; a step is a token, but with speculative decoding.
    kv_usage is 0..1, 0 for unlimited memory. prefix_queries are the
    prompt tokens that were looked up in the prefix cache, prefix_hits those found; both 0 where
    nothing is known of prefixes.
    """

    prompt_tokens: int
    generation_tokens: int
    successes: int
    rejections: int
    preemptions: int
    ttft_count: int
    ttft_sum_s: float
    ttft_buckets: tuple[int, ...]
    itl_count: int
    itl_sum_s: float
    itl_buckets: tuple[int, ...]
    e2e_count: int
    e2e_sum_s: float
    e2e_buckets: tuple[int, ...]
    queue_count: int
    queue_sum_s: float
    queue_buckets: tuple[int, ...]
    running: int
    waiting: int
    kv_usage: float
    prefix_queries: int = 0
    prefix_hits: int = 0

    @property
    def tokens_per_step(self) -> float:
        """Return how many tokens a step of a request added after its first, 1 before there was a
        step.
        """
        later = self.generation_tokens - self.ttft_count
        return later / self.itl_count if self.itl_count else 1.0


class ReplicaTelemetry:
    """The counters behind a ReplicaReading, current as of the last boundary that the replica
    processed.

    What a histogram counts is counted nowhere else: those that finished are those of e2e_buckets.
    """

    __slots__ = (
        "e2e_buckets",
        "e2e_sum_s",
        "ended_tokens",
        "itl_buckets",
        "itl_sum_s",
        "preemptions",
        "prefix_hits",
        "prefix_queries",
        "prompt_tokens",
        "queue_buckets",
        "queue_sum_s",
        "rejections",
        "ttft_buckets",
        "ttft_sum_s",
    )

    def __init__(self) -> None:
        self.prompt_tokens = 0
        # What requests that ended had generated.
        self.ended_tokens = 0
        self.rejections = 0
        self.preemptions = 0
        self.prefix_queries = 0
        self.prefix_hits = 0
        self.ttft_sum_s = 0.0
        self.itl_sum_s = 0.0
        self.e2e_sum_s = 0.0
        self.queue_sum_s = 0.0
        self.ttft_buckets = [0] * (len(TTFT_BOUNDS_S) + 1)
        self.itl_buckets = [0] * (len(ITL_BOUNDS_S) + 1)
        self.e2e_buckets = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self.queue_buckets = [0] * (len(LATENCY_BOUNDS_S) + 1)

    def admitted(self, waited_s: float) -> None:
        """Count the first admission of a request."""
        self.queue_sum_s += waited_s
        self.queue_buckets[bisect_left(LATENCY_BOUNDS_S, waited_s)] += 1

    def looked_up(self, prompt_tokens: int, *, found: int) -> None:
        """Count a prompt of which so many tokens were *found* in the prefix cache."""
        self.prefix_queries += prompt_tokens
        self.prefix_hits += found

    def first_token(self, ttft_s: float, prompt_tokens: int) -> None:
        """Count the first token of a request."""
        self.prompt_tokens += prompt_tokens
        self.ttft_sum_s += ttft_s
        self.ttft_buckets[bisect_left(TTFT_BOUNDS_S, ttft_s)] += 1

    def late_token(self, gap_s: float) -> None:
        """Count the token that ends the recomputation of a preempted request."""
        self.itl_sum_s += gap_s
        self.itl_buckets[bisect_left(ITL_BOUNDS_S, gap_s)] += 1

    def finished(self, e2e_s: float, output_tokens: int) -> None:
        """Count the end of a request."""
        self.ended_tokens += output_tokens
        self.e2e_sum_s += e2e_s
        self.e2e_buckets[bisect_left(LATENCY_BOUNDS_S, e2e_s)] += 1

    def decoded(self, n: int, k: int, c0_s: float, c1_s: float, duration_s: float) -> None:
        """Count a step of *n* requests in each of *k* iterations that take c0, c0 + c1, …,
        together *duration_s*.
        """
        self.itl_sum_s += n * duration_s
        add_progression(self.itl_buckets, n, k, c0_s, c1_s)

    def reading(
        self,
        *,
        running: int,
        waiting: int,
        kv_usage: float,
        segment: Segment | None,
        generated: int | None = None,
    ) -> ReplicaReading:
        """Return the counters with the gauges given; *segment* is not yet counted, *generated* the
        tokens of what is in flight, None if a step is a token.
        """
        itl_sum_s, itl_buckets = self._itl(segment)
        # Each step after a first token ends a gap.
        first_tokens, gaps = sum(self.ttft_buckets), sum(itl_buckets)
        successes = sum(self.e2e_buckets)
        return ReplicaReading(
            prompt_tokens=self.prompt_tokens,
            generation_tokens=(
                first_tokens + gaps if generated is None else self.ended_tokens + generated
            ),
            successes=successes,
            rejections=self.rejections,
            preemptions=self.preemptions,
            ttft_count=first_tokens,
            ttft_sum_s=self.ttft_sum_s,
            ttft_buckets=tuple(self.ttft_buckets),
            itl_count=gaps,
            itl_sum_s=itl_sum_s,
            itl_buckets=tuple(itl_buckets),
            e2e_count=successes,
            e2e_sum_s=self.e2e_sum_s,
            e2e_buckets=tuple(self.e2e_buckets),
            queue_count=sum(self.queue_buckets),
            queue_sum_s=self.queue_sum_s,
            queue_buckets=tuple(self.queue_buckets),
            running=running,
            waiting=waiting,
            kv_usage=kv_usage,
            prefix_queries=self.prefix_queries,
            prefix_hits=self.prefix_hits,
        )

    def scraped(
        self,
        *,
        running: int,
        waiting: int,
        kv_usage: float,
        segment: Segment | None,
        generated: int | None,
    ) -> Scraped:
        """Return what a scraper keeps of `reading`."""
        itl_sum_s, itl_buckets = self._itl(segment)
        first_tokens, gaps = sum(self.ttft_buckets), sum(itl_buckets)
        counters = Counters(
            sum(self.e2e_buckets),
            self.ended_tokens,
            self.prompt_tokens,
            first_tokens + gaps if generated is None else self.ended_tokens + generated,
            first_tokens,
            self.ttft_sum_s,
            gaps,
            itl_sum_s,
            self.preemptions,
            self.prefix_queries,
            self.prefix_hits,
        )
        counted = packed(*self.ttft_buckets, *itl_buckets, *self.e2e_buckets, *self.queue_buckets)
        return Scraped(counters, counted, running, waiting, kv_usage)

    def _itl(self, segment: Segment | None) -> tuple[float, list[int]]:
        """Return sum and buckets of ITL, those of *segment* included."""
        if segment is None:
            return self.itl_sum_s, self.itl_buckets
        n, k, c0_s, c1_s, duration = segment
        buckets = self.itl_buckets.copy()
        add_progression(buckets, n, k, c0_s, c1_s)
        return self.itl_sum_s + n * duration, buckets


def add_progression(buckets: list[int], n: int, k: int, c0_s: float, c1_s: float) -> None:
    """Add *n* observations of each of the *k* gaps c0, c0 + c1, c0 + 2·c1, … to an ITL
    histogram.
    """
    bucket = bisect_left(ITL_BOUNDS_S, c0_s)
    last = bisect_left(ITL_BOUNDS_S, c0_s + c1_s * (k - 1))
    done = 0
    while bucket < last:
        upto = min(k, int((ITL_BOUNDS_S[bucket] - c0_s) / c1_s) + 1)
        buckets[bucket] += n * (upto - done)
        done = upto
        bucket += 1
    buckets[bucket] += n * (k - done)
