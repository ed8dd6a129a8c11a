"""What a scraper sees of a cluster: samples of counters at the scrape interval, figures over a
window, vLLM's names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import ceil
from operator import add, sub
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from twin.engine.telemetry import (
    ITL_BOUNDS_S,
    LATENCY_BOUNDS_S,
    NO_COUNTED,
    TTFT_BOUNDS_S,
    Counted,
    Counters,
    ReplicaReading,
    Scraped,
    packed,
)
from twin.frozen import made_quickly
from twin.request import Request
from twin.spec import GaugeSample

_MS, _MINUTE_S = 1000.0, 60.0


@dataclass(slots=True)
class FinishedTotals:
    """Sums over the requests that one pod has finished: tokens, and the mean time per output token
    of each request, 0 for a request of one token, as vLLM counts it.
    """

    output_tokens: int = 0
    prompt_tokens: int = 0
    per_token_s: float = 0.0

    def add(self, request: Request) -> None:
        """Count *request*, which has just finished."""
        self.output_tokens += request.output_tokens
        self.prompt_tokens += request.prompt_tokens
        if request.output_tokens > 1:
            self.per_token_s += (request.last_token_s - request.first_token_s) / (
                request.output_tokens - 1
            )


class Arrivals(NamedTuple):
    """What came to the router of one server since the start of the run, rejected requests
    included.
    """

    requests: int = 0
    prompt_tokens: int = 0


class Sample(NamedTuple):
    """One line of a /metrics page."""

    name: str
    labels: Mapping[str, str]
    value: float


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class WindowFigures:
    """Figures of one server over the window before the last scrape; None if nothing happened
    that can be measured.

    rate_rpm counts arrivals at the router, in_tokens is their mean prompt; latest_rpm those of the
    last latest_s, a quarter of the window or since the scrape before. out_tokens is the mean
    output of requests that finished, since an output's length is known when it ends. output_tps
    counts every token generated. ITL is per token; its percentiles are those of steps over the mean
    number of tokens in one. percentiles_ms: of "ttft", "itl", "e2e" and "queue" each of
    PERCENTILES, as they come of the buckets of histograms; only of what was seen. preemptions are
    how many requests lost their place in the KV cache. prefix_hit_share: of the prompt tokens that
    were looked up in prefix caches, those found.
    """

    rate_rpm: float | None = None
    latest_rpm: float | None = None
    latest_s: float = 0.0
    in_tokens: float | None = None
    out_tokens: float | None = None
    completions_rpm: float | None = None
    ttft_ms: float | None = None
    itl_ms: float | None = None
    output_tps: float | None = None
    percentiles_ms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    preemptions: int | None = None
    prefix_hit_share: float | None = None


LATEST_PART = 0.25  # of a window: what came lately
PERCENTILES = (50, 90, 95, 99)
HISTOGRAMS: Mapping[str, Sequence[float]] = {
    "ttft": TTFT_BOUNDS_S,
    "itl": ITL_BOUNDS_S,
    "e2e": LATENCY_BOUNDS_S,
}
Buckets = npt.NDArray[np.int64]


def percentiles_ms(
    buckets: Buckets, histograms: Mapping[str, Sequence[float]] = HISTOGRAMS
) -> dict[str, dict[str, float]]:
    """Return the percentiles of each of *histograms*, whose *buckets* stand one after the other.

    Within a bucket the observations are taken as evenly spread, as Prometheus takes them; those
    beyond the last bound as at it.
    """
    return percentiles_of_all_ms(buckets[np.newaxis], histograms)[0]


def percentiles_of_all_ms(
    buckets: Buckets, histograms: Mapping[str, Sequence[float]]
) -> list[dict[str, dict[str, float]]]:
    """Return the percentiles of each row of *buckets*."""
    found: list[dict[str, dict[str, float]]] = [{} for _ in buckets]
    names = [f"p{p}" for p in PERCENTILES]
    begin = 0
    for name, bounds in histograms.items():
        counts = buckets[:, begin : begin + len(bounds) + 1]
        begin += len(bounds) + 1
        reached = np.cumsum(counts, axis=1)
        (seen,) = np.nonzero(reached[:, -1])
        counts, reached = counts[seen], reached[seen]
        edges = np.array([0.0, *bounds, bounds[-1]])
        ranks = reached[:, -1:] * np.array(PERCENTILES) / 100.0
        # The first bucket that reaches the rank.
        here = (reached[:, np.newaxis] < ranks[:, :, np.newaxis]).sum(axis=2)
        rows = np.arange(len(seen))[:, np.newaxis]
        own = counts[rows, here]
        share = (ranks - reached[rows, here] + own) / own
        values = edges[here] + share * (edges[here + 1] - edges[here])
        for row, ms in zip(seen.tolist(), (values * _MS).tolist(), strict=True):
            found[row][name] = dict(zip(names, ms, strict=True))
    return found


ALL_HISTOGRAMS: Mapping[str, Sequence[float]] = {**HISTOGRAMS, "queue": LATENCY_BOUNDS_S}


class PodSeries:
    """What was scraped of one life of a pod: its counters at the last scrape (None before the
    first) and its gauges.
    """

    __slots__ = (
        "counted",
        "counters",
        "kv_usage",
        "queued_prompt_tokens",
        "running",
        "scraped_s",
        "waiting",
    )

    def __init__(self) -> None:
        self.counters = Counters()
        # The buckets of all histograms, as last scraped.
        self.counted = NO_COUNTED
        self.scraped_s: float | None = None
        self.running = self.waiting = 0
        self.kv_usage = 0.0
        self.queued_prompt_tokens: int | None = None

    def scrape(self, scraped: Scraped, now_s: float) -> Growth:
        """Take in what was *scraped*; return how much it grew since the scrape before, or since the
        pod's start.
        """
        counters, counted, self.running, self.waiting, self.kv_usage = scraped
        growth = Growth(Counters._make(map(sub, counters, self.counters)), self.counted, counted)
        self.counters, self.counted, self.scraped_s = counters, counted, now_s
        return growth


def scraped_of(reading: ReplicaReading, *, finished_tokens: int) -> Scraped:
    """Return what a scraper keeps of *reading*, of a replica of which requests with so many output
    tokens have finished.
    """
    counters = Counters(
        reading.successes,
        finished_tokens,
        reading.prompt_tokens,
        reading.generation_tokens,
        reading.ttft_count,
        reading.ttft_sum_s,
        reading.itl_count,
        reading.itl_sum_s,
        reading.preemptions,
        reading.prefix_queries,
        reading.prefix_hits,
    )
    counted = packed(
        *reading.ttft_buckets, *reading.itl_buckets, *reading.e2e_buckets, *reading.queue_buckets
    )
    return Scraped(counters, counted, reading.running, reading.waiting, reading.kv_usage)


class Growth(NamedTuple):
    """What a scrape of a pod found new: how much its counters grew, and its buckets *before* and
    *now*, of which the difference is taken when somebody asks for it.
    """

    counters: Counters
    before: Counted = NO_COUNTED
    now: Counted = NO_COUNTED


class TableTotals(NamedTuple):
    """What was ever scraped of the replicas of a server that are rows of a table: counters, then
    buckets, and those of the queue times; and the sums of TTFT and ITL. Taken apart when it is
    asked for: of most scrapes nobody asks.
    """

    counted: Buckets
    sums_s: npt.NDArray[np.float64]


# Those of Counters that are no sums of times.
_COUNTERS = 9


class ServerSeries:
    """Samples of one server's counters as far back as a window reaches, and its gauges at the last
    scrape.

    Counters of pods are totals of what was ever scraped: what a pod did between its last scrape and
    its end is never seen. backlog counts the requests that wait, at the router and in pods;
    kv_usage is the mean over ready pods; gauges are what was read of them, oldest first.
    """

    def __init__(self, *, scrape_interval_s: float, window_s: float) -> None:
        # The tolerance keeps 0.3 / 0.1 at 3 intervals.
        intervals = max(ceil(window_s / scrape_interval_s - 1e-9), 1)
        kept = intervals + 1
        self._samples: deque[tuple[float, Arrivals, Counters | TableTotals]] = deque(maxlen=kept)
        self._samples.append((0.0, Arrivals(), Counters()))
        # By sample, what a table counted up to it, or the buckets of each pod before it and at it.
        self._counted: deque[TableTotals | Sequence[tuple[Counted, Counted]]] = deque(
            [()], maxlen=kept
        )
        self.gauges: deque[GaugeSample] = deque(maxlen=intervals + 1)
        self.running = self.waiting = self.backlog = 0
        self.kv_usage = 0.0
        self.queued_prompt_tokens: int | None = None
        # The figures of the window, until there is another sample.
        self._known: WindowFigures | None = None

    @property
    def scraped_s(self) -> float | None:
        """Return when the last scrape was, None before the first."""
        last_s = self._samples[-1][0]
        return last_s if last_s > 0.0 else None

    def add(self, now_s: float, arrivals: Arrivals, growths: Sequence[Growth]) -> None:
        """Append the sample of a scrape: the router's counters, and the growth of those of every
        pod that answered.
        """
        total = _counters(self._samples[-1][2])
        for growth in growths:
            # One after the other: `sum` of floats is another sum since Python 3.12.
            total = Counters._make(map(add, total, growth.counters))
        self._known = None
        self._samples.append((now_s, arrivals, total))
        self._counted.append([(growth.before, growth.now) for growth in growths])

    def add_totals(self, now_s: float, arrivals: Arrivals, totals: TableTotals) -> None:
        """Append the sample of a scrape whose totals were added up elsewhere."""
        self._known = None
        self._samples.append((now_s, arrivals, totals))
        self._counted.append(totals)

    def figures(self) -> WindowFigures:
        """Return the figures over the window before the last scrape: since the start, before there
        is a full one.
        """
        return window_figures([self])[0]

    def _growth(self) -> tuple[Buckets | int, list[Counted], list[Counted]]:
        """Return how much the histograms of a table grew over the window, and of each pod of which
        the buckets are kept, those at the beginning of the window and at its end.
        """
        begin, end = self._counted[0], self._counted[-1]
        if isinstance(begin, TableTotals) and isinstance(end, TableTotals):
            # A server that was served by a table from then to now was so between.
            return end.counted[_COUNTERS:] - begin.counted[_COUNTERS:], [], []
        grown: Buckets | int = 0
        # Of each pod, where what it counts now began: one scrape begins where another ended.
        began: dict[int, tuple[Counted, Counted]] = {}
        for earlier, later in pairwise(self._counted):
            if isinstance(later, TableTotals):
                grown = grown + later.counted[_COUNTERS:]
                if isinstance(earlier, TableTotals):
                    grown = grown - earlier.counted[_COUNTERS:]
                continue
            for before, now in later:
                first, _ = began.pop(id(before), (before, before))
                began[id(now)] = (first, now)
        return grown, [first for first, _ in began.values()], [last for _, last in began.values()]

    def _figures(self, percentiles: dict[str, dict[str, float]]) -> WindowFigures:
        begin_s, arrivals_then, first = self._samples[0]
        end_s, arrivals_now, last = self._samples[-1]
        if end_s == 0.0:
            return WindowFigures()
        then, now = _counters(first), _counters(last)
        length_s = end_s - begin_s
        latest_rpm, latest_s = self._latest(LATEST_PART * length_s)
        requests = arrivals_now.requests - arrivals_then.requests
        finished = now.successes - then.successes
        # An observation of the histogram is a step, which speculation lets add several tokens.
        steps = now.itl_count - then.itl_count
        tokens = (now.generation_tokens - now.ttft_count) - (
            then.generation_tokens - then.ttft_count
        )
        if tokens > steps:
            per_token = steps / tokens
            percentiles["itl"] = {p: ms * per_token for p, ms in percentiles["itl"].items()}
        return WindowFigures(
            rate_rpm=requests * _MINUTE_S / length_s,
            latest_rpm=latest_rpm,
            latest_s=latest_s,
            in_tokens=_mean(arrivals_now.prompt_tokens - arrivals_then.prompt_tokens, requests),
            out_tokens=_mean(now.finished_tokens - then.finished_tokens, finished),
            completions_rpm=finished * _MINUTE_S / length_s,
            ttft_ms=_mean(
                _MS * (now.ttft_sum_s - then.ttft_sum_s), now.ttft_count - then.ttft_count
            ),
            itl_ms=_mean(_MS * (now.itl_sum_s - then.itl_sum_s), tokens),
            output_tps=(now.generation_tokens - then.generation_tokens) / length_s,
            percentiles_ms=percentiles,
            preemptions=now.preemptions - then.preemptions,
            prefix_hit_share=_mean(
                now.prefix_hits - then.prefix_hits, now.prefix_queries - then.prefix_queries
            ),
        )

    def _latest(self, least_s: float) -> tuple[float | None, float]:
        """Return the rate since the last sample but those of the last *least_s*, and how long that
        is; None if it is all that there is.
        """
        end_s, now, _ = self._samples[-1]
        for k in range(len(self._samples) - 2, 0, -1):
            at_s, then, _ = self._samples[k]
            if (length_s := end_s - at_s) >= least_s - 1e-9:
                return (now.requests - then.requests) * _MINUTE_S / length_s, length_s
        return None, 0.0


def window_figures(series: Sequence[ServerSeries]) -> list[WindowFigures]:
    """Return the figures of each of *series*: those of a thousand servers together take a tenth of
    the time.
    """
    new = [one for one in series if one._known is None]
    if new:
        grown = _grown([one._growth() for one in new])
        percentiles = percentiles_of_all_ms(grown, ALL_HISTOGRAMS)
        for one, found in zip(new, percentiles, strict=True):
            one._known = one._figures(found)
    return [one._known for one in series if one._known is not None]


def _counters(totals: Counters | TableTotals) -> Counters:
    if isinstance(totals, Counters):
        return totals
    *counters, itl_count, preemptions, queries, hits = totals.counted[:_COUNTERS].tolist()
    ttft_s, itl_s = totals.sums_s.tolist()
    return Counters._make((*counters, ttft_s, itl_count, itl_s, preemptions, queries, hits))


def _grown(parts: Sequence[tuple[Buckets | int, list[Counted], list[Counted]]]) -> Buckets:
    """Return how much the histograms of each of several servers grew (ServerSeries._growth), with
    one look at the buckets of all.
    """
    grown = np.zeros((len(parts), len(NO_COUNTED) // 8), np.int64)
    owners = [row for row, (_, first, _) in enumerate(parts) for _ in first]
    if owners:
        first = b"".join([each for _, begun, _ in parts for each in begun])
        last = b"".join([each for _, _, ended in parts for each in ended])
        more = np.frombuffer(last, np.int64) - np.frombuffer(first, np.int64)
        np.add.at(grown, owners, more.reshape(len(owners), -1))
    for row, (of_table, _, _) in enumerate(parts):
        if not isinstance(of_table, int):
            grown[row] += of_table
    return grown


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None


METRIC_TYPES: Mapping[str, str] = {
    "vllm:num_requests_running": "gauge",
    "vllm:num_requests_waiting": "gauge",
    "vllm:kv_cache_usage_perc": "gauge",
    "vllm:num_preemptions_total": "counter",
    "vllm:request_success_total": "counter",
    "vllm:prompt_tokens_total": "counter",
    "vllm:prefix_cache_queries_total": "counter",
    "vllm:prefix_cache_hits_total": "counter",
    "vllm:generation_tokens_total": "counter",
    "vllm:spec_decode_num_drafts_total": "counter",
    "vllm:spec_decode_num_accepted_tokens_total": "counter",
    "vllm:time_to_first_token_seconds": "histogram",
    "vllm:inter_token_latency_seconds": "histogram",
    "vllm:e2e_request_latency_seconds": "histogram",
    "vllm:request_queue_time_seconds": "histogram",
    "vllm:request_generation_tokens": "histogram",
    "vllm:request_prompt_tokens": "histogram",
    "vllm:request_time_per_output_token_seconds": "histogram",
}
"""The metrics of a pod and their Prometheus types; those of a histogram are its family name."""


def exposition(
    reading: ReplicaReading, *, finished: FinishedTotals, labels: Mapping[str, str]
) -> Iterator[Sample]:
    """Yield the samples of one pod's /metrics page under vLLM's names, each with *labels*
    (model_name, pod, …).

    Lengths and times per token of requests are not kept in buckets: these histograms have only
    their last one. No request of the twin ends by its length or by its client.
    """
    for name, value in (
        ("vllm:num_requests_running", reading.running),
        ("vllm:num_requests_waiting", reading.waiting),
        ("vllm:kv_cache_usage_perc", reading.kv_usage),
        ("vllm:num_preemptions_total", reading.preemptions),
        ("vllm:prompt_tokens_total", reading.prompt_tokens),
        ("vllm:prefix_cache_queries_total", reading.prefix_queries),
        ("vllm:prefix_cache_hits_total", reading.prefix_hits),
        ("vllm:generation_tokens_total", reading.generation_tokens),
    ):
        yield Sample(name, labels, value)
    later = reading.generation_tokens - reading.ttft_count
    if later > reading.itl_count:
        # Speculative decoding: inter_token_latency is observed a step, and a step is a draft.
        yield Sample("vllm:spec_decode_num_drafts_total", labels, reading.itl_count)
        accepted = later - reading.itl_count
        yield Sample("vllm:spec_decode_num_accepted_tokens_total", labels, accepted)
    for reason, count in (("stop", reading.successes), ("length", 0), ("abort", 0)):
        yield Sample("vllm:request_success_total", {**labels, "finished_reason": reason}, count)
    for name, bounds_s, buckets, total_s in (
        (
            "vllm:time_to_first_token_seconds",
            TTFT_BOUNDS_S,
            reading.ttft_buckets,
            reading.ttft_sum_s,
        ),
        ("vllm:inter_token_latency_seconds", ITL_BOUNDS_S, reading.itl_buckets, reading.itl_sum_s),
        (
            "vllm:e2e_request_latency_seconds",
            LATENCY_BOUNDS_S,
            reading.e2e_buckets,
            reading.e2e_sum_s,
        ),
        (
            "vllm:request_queue_time_seconds",
            LATENCY_BOUNDS_S,
            reading.queue_buckets,
            reading.queue_sum_s,
        ),
        ("vllm:request_generation_tokens", (), (reading.successes,), finished.output_tokens),
        ("vllm:request_prompt_tokens", (), (reading.successes,), finished.prompt_tokens),
        (
            "vllm:request_time_per_output_token_seconds",
            (),
            (reading.successes,),
            finished.per_token_s,
        ),
    ):
        yield from _histogram(name, labels, bounds_s, buckets, total_s)


def _histogram(
    name: str,
    labels: Mapping[str, str],
    bounds: Sequence[float],
    buckets: Sequence[int],
    total: float,
) -> Iterator[Sample]:
    for bound, count in zip((*map(str, bounds), "+Inf"), accumulate(buckets), strict=True):
        yield Sample(f"{name}_bucket", {**labels, "le": bound}, count)
    yield Sample(f"{name}_sum", labels, total)
    yield Sample(f"{name}_count", labels, sum(buckets))
