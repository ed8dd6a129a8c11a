"""Operating points: a server at a steady load, with the mean latencies that were measured there or
that the twin's replica gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from twin.arrivals import round_fairly
from twin.fit.served import Served, served
from twin.request import RequestBatch
from twin.spec import EngineSpec, LatencyModel, Scheduling, SpecError

# Requests of a simulated point, of which the first part only fills the server.
REQUESTS, WARM_UP = 300, 0.25
# What runs at once is to have changed so often.
ROUNDS, REQUESTS_MAX = 4, 3000
PART = 16  # requests that follow each other, whose lengths are spread over what is possible
# Users who ask for as much each would ask in step for ever: what came in one iteration would end in
# one. On real servers they fall out of step, as no client is as quick as another.
APART = 0.05
ALONE_S = 60.0  # in which any prompt is computed where no other is
BLOCKS_MAX = 2**20  # names of the blocks of one prompt, so that prompts share none


Latency = Literal["ttft", "itl", "e2e"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentile:
    """The *percent*-th percentile (0..100) of a latency over requests; of "itl" it is that of the
    requests' mean times between two tokens.
    """

    latency: Latency
    percent: float
    value_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """A load: Poisson arrivals at a rate, or so many users who each ask again at once.

    spread is how far the tokens of a request lie around their means, uniformly: 0.5 is ± 50 %.
    token_cv is their coefficient of variation instead, where they vary as those of the twin's
    servers do (twin.arrivals.token_counts). With is_even the arrivals are evenly spaced; else
    burstiness is the shape of the gamma distribution of their gaps, as vLLM calls it: below 1 they
    come in bursts, at 1 at random, and above more and more evenly. distinct
    is how many different prompts there are; None: no two are alike. The engine then needs a prefix
    cache to notice; with is_warm it has served each of them before. With duration_s the server was
    empty at first, and what ended from settle_s on until then was measured: the filling of a server
    whose answers take minutes is a good part of a run; with is_drained all that came until
    duration_s was measured to its end. prefix_share is the part of each prompt that the prefix
    cache holds, where nobody names prompts that are alike.
    With requests so many were measured, from an empty server on and each to its end: users all ask
    at once at first, and that is a good part of a short run. Without, the server is full of them.
    tells_median: the TTFT that was measured is the median, not the mean. percentiles were measured
    besides. known_within is how far off the measured means may be, as a share of themselves; None:
    as far as a single request's.
    """

    rate_rps: float | None = None
    users: int | None = None
    input_tokens: float
    output_tokens: float
    spread: float = 0.0
    token_cv: float | None = None
    is_even: bool = False
    burstiness: float = 1.0
    distinct: int | None = None
    is_warm: bool = False
    prefix_share: float = 0.0
    duration_s: float | None = None
    settle_s: float = 0.0
    is_drained: bool = False
    requests: int | None = None
    percentiles: tuple[Percentile, ...] = ()
    tells_median: bool = False
    known_within: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """What clients see at a point: TTFT mean and median, time between two tokens over all tokens
    and over requests, mean and 99th percentile of E2E [s]; and percentiles, as many as the point
    has, in their order.
    """

    ttft_s: float
    ttft_median_s: float
    itl_s: float
    itl_request_s: float
    e2e_s: float
    e2e_p99_s: float
    percentiles_s: tuple[float, ...] = ()


def operate(
    point: OperatingPoint,
    *,
    latency_model: LatencyModel,
    max_batch: int,
    token_budget: int,
    kv_tokens: int | None = None,
    block_size: int = 16,
    scheduling: Scheduling = "sync",
    overhead_ms: float = 0.0,
    tokens_per_step: float = 1.0,
    queue_max: int | None = None,
    seed: int = 1,
    requests: int = REQUESTS,
    warm_up: float = WARM_UP,
) -> Steady:
    """Return what clients see at *point*, by a simulation that is the same for the same seed.

    Only of what is served: with *queue_max* an open loop may lose requests. The first of the
    *requests*, a share of *warm_up*, only fill the server, unless the point says how many count.
    """

    if point.requests is not None:
        requests = min(point.requests, REQUESTS_MAX)
    if point.users is None and not point.rate_rps:
        raise SpecError("an operating point: expected a rate > 0 or users, found neither")
    spec = EngineSpec(
        model="",
        accelerator="",
        latency_model=latency_model,
        overhead_ms=overhead_ms,
        tokens_per_step=tokens_per_step,
        scheduling=scheduling,
        max_num_batched_tokens=token_budget,
        kv_tokens=kv_tokens,
        block_size=block_size,
        prefix_share=point.prefix_share,
    )
    batch = _batch(point, seed, requests, block_size)
    found = served(batch, spec, max_batch=max_batch, queue_max=queue_max, users=point.users)
    if point.is_warm:
        found = found.without_first(point.distinct or 0)
    kept = _measured(point, found, requests=requests, warm_up=warm_up)
    ttft_s = (found.first_token_s - found.arrival_s)[kept]
    e2e_s = (found.last_token_s - found.arrival_s)[kept]
    gaps = found.output_tokens[kept] - 1
    several = gaps > 0
    each_s = {"ttft": ttft_s, "e2e": e2e_s, "itl": (e2e_s - ttft_s)[several] / gaps[several]}
    return Steady(
        ttft_s=float(ttft_s.mean()),
        ttft_median_s=float(np.median(ttft_s)),
        itl_s=float((e2e_s - ttft_s).sum() / gaps.sum()) if several.any() else 0.0,
        itl_request_s=float(each_s["itl"].mean()) if several.any() else 0.0,
        e2e_s=float(e2e_s.mean()),
        e2e_p99_s=float(np.percentile(e2e_s, 99)),
        percentiles_s=tuple(
            float(np.percentile(each_s[one.latency], one.percent))
            if len(each_s[one.latency])
            else 0.0
            for one in point.percentiles
        ),
    )


def filling(point: OperatingPoint, e2e_s: float) -> int:
    """Return how many requests are to be simulated of *point*, where one takes so long: until those
    that came first have ended a server is not full.
    """
    at_once = (point.rate_rps or 0.0) * e2e_s
    return round(min(max(ROUNDS * at_once, REQUESTS), REQUESTS_MAX))


def _whole_run(point: OperatingPoint, *, requests: int) -> bool:
    """Tell whether a run of so many *requests* is all that was measured."""
    return (
        point.rate_rps is not None
        and point.duration_s is not None
        and point.rate_rps * point.duration_s <= requests
    )


def _measured(
    point: OperatingPoint, found: Served, *, requests: int, warm_up: float
) -> slice | NDArray[np.bool_]:
    """Return which of *found* count: all that ended in time, or those of a full server."""
    count = len(found.arrival_s)
    if point.requests is not None:
        # Of a longer run than is simulated, as many of the first users as there would be beside so
        # many others.
        share = 1.0 - min(requests / point.requests, 1.0)
        return slice(round(min(point.users or 0, count - 1) * share), None)
    if point.users is not None:
        # The last round runs with fewer and fewer beside it.
        count = max(count - point.users, 1)
    if point.duration_s is not None and _whole_run(point, requests=requests):
        ended_s = found.last_token_s
        ended = (ended_s >= point.settle_s) & (ended_s <= point.duration_s)
        return slice(None) if point.is_drained or not ended.any() else ended
    return slice(int(count * warm_up), count)


# A fit holds the same points a hundred times.
@lru_cache(maxsize=256)
def _batch(point: OperatingPoint, seed: int, requests: int, block_size: int) -> RequestBatch:
    """Return the requests that come to *point*: their tokens, and when they come of themselves."""
    rng = np.random.default_rng(seed)
    count = requests
    if point.users is not None:
        if point.requests is None:
            count = max(requests, ROUNDS * point.users)
        times_s = np.zeros(count)
    else:
        assert point.rate_rps
        if point.duration_s is not None and _whole_run(point, requests=requests):
            count = max(round(point.rate_rps * point.duration_s), 1)
        gaps = _gaps(point, rng, count)
        # Scaled, so that a short simulation has the rate that was asked for.
        times_s = np.cumsum(gaps) * count / gaps.sum() / point.rate_rps
    means = (point.input_tokens, point.output_tokens)
    spread = max(point.spread, APART) if (point.users or 1) > 1 else point.spread
    if point.token_cv is not None and point.users is None:
        prompts, answers = (_lengths(rng, count, mean=mean, cv=point.token_cv) for mean in means)
        return RequestBatch(times_s=times_s, prompt_tokens=prompts, output_tokens=answers)
    prompts, answers = (_spread(rng, count, mean=mean, spread=spread) for mean in means)
    if point.users is not None and point.users > 1 and point.requests is None:
        # What is left of those that a full server holds when one begins to look.
        first = slice(point.users)
        prompts[first] = 1
        answers[first] = np.maximum(answers[first] * _shares(rng, count)[first], 1.0)
    blocks: list[range] = []
    if point.distinct is not None:
        names = rng.integers(point.distinct, size=count)
        blocks = [
            range(name * BLOCKS_MAX, name * BLOCKS_MAX - (-prompt // block_size))
            for name, prompt in zip(names.tolist(), prompts.tolist(), strict=True)
        ]
    batch = RequestBatch(
        times_s=times_s,
        prompt_tokens=prompts,
        output_tokens=answers,
        blocks=blocks,
        block_tokens=block_size,
    )
    return _after_each_prompt(batch, point) if point.is_warm else batch


def _gaps(point: OperatingPoint, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return the gaps between arrivals, in units of the mean one."""
    if point.is_even:
        return np.ones(count)
    if point.burstiness == 1.0:
        return rng.exponential(1.0, count)
    return rng.gamma(point.burstiness, 1.0 / point.burstiness, count)


def _after_each_prompt(batch: RequestBatch, point: OperatingPoint) -> RequestBatch:
    """Return *batch* after one short answer to each of its prompts, one after the other."""
    assert point.distinct is not None, "a server is warm of prompts that are alike"
    assert point.users is None, "users all ask at once"
    assert point.duration_s is None, "its load comes after the first minutes"
    prompt = max(round(point.input_tokens), 1)
    count = -(-prompt // batch.block_tokens)
    firsts = [range(name * BLOCKS_MAX, name * BLOCKS_MAX + count) for name in range(point.distinct)]
    return RequestBatch(
        times_s=np.concatenate(
            (np.arange(point.distinct) * ALONE_S, batch.times_s + point.distinct * ALONE_S)
        ),
        prompt_tokens=np.concatenate((np.full(point.distinct, prompt), batch.prompt_tokens)),
        output_tokens=np.concatenate((np.ones(point.distinct, np.int64), batch.output_tokens)),
        blocks=[*firsts, *batch.blocks],
        block_tokens=batch.block_tokens,
    )


def _spread(
    rng: np.random.Generator, count: int, *, mean: float, spread: float
) -> NDArray[np.int64]:
    """Return lengths within that share of *mean*, spread evenly."""
    values = np.rint(mean * (1.0 + spread * (2.0 * _shares(rng, count) - 1.0)))
    return np.maximum(values, 1.0).astype(np.int64)


def _shares(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return numbers in 0..1, one of each part of it among any PART that follow each other: the
    median of a few hundred drawn ones is off by some percent, and that of forty by a tenth.
    """
    rounds = [rng.permutation(PART) for _ in range(-(-count // PART))]
    return (np.concatenate(rounds)[:count] + rng.uniform(size=count)) / PART


def _lengths(rng: np.random.Generator, count: int, *, mean: float, cv: float) -> NDArray[np.int64]:
    """Return lengths as token_counts draws them, in any order, but one of each part of their
    distribution: the mean of a few hundred drawn ones would be off by some percent.
    """
    rest = max(mean, 1.0) - 1.0
    if not rest:
        return np.ones(count, dtype=np.int64)
    sigma = math.sqrt(math.log1p((cv * mean / rest) ** 2))
    normal = NormalDist()
    shares = [normal.inv_cdf((place + 0.5) / count) for place in range(count)]
    values = np.exp(sigma * rng.permutation(shares))
    return 1 + round_fairly(rng, values * (rest / values.mean()))
