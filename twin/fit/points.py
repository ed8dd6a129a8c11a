"""Operating points: a server at a steady load, with the mean latencies that were measured there or
that the twin's replica gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from twin.arrivals import round_fairly
from twin.engine.replica import Replica
from twin.request import Request
from twin.spec import LatencyModel, Scheduling, SpecError

# Requests of a simulated point, of which the first part only fills the server.
REQUESTS, WARM_UP = 300, 0.25
# A closed loop needs several rounds of its users.
ROUNDS = 4
PART = 16  # requests that follow each other, whose lengths are spread over what is possible
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
    servers do (twin.arrivals.token_counts). With is_even the arrivals are evenly spaced. distinct
    is how many different prompts there are; None: no two are alike. The engine then needs a prefix
    cache to notice. With duration_s the server was empty at first, and what ended from settle_s on
    until then was measured: the filling of a server whose answers take minutes is a good part of a
    run; with is_drained all that came until duration_s was measured to its end. prefix_share is the
    part of each prompt that the prefix cache holds, where nobody names prompts that are alike.
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
    distinct: int | None = None
    prefix_share: float = 0.0
    duration_s: float | None = None
    settle_s: float = 0.0
    is_drained: bool = False
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


Make = Callable[[Callable[[Request, float], None]], Replica]


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
    *requests*, a share of *warm_up*, only fill the server.
    """

    def make(on_finish: Callable[[Request, float], None]) -> Replica:
        return Replica(
            latency_model=latency_model,
            overhead_ms=overhead_ms,
            tokens_per_step=tokens_per_step,
            scheduling=scheduling,
            max_batch=max_batch,
            max_num_batched_tokens=token_budget,
            kv_tokens=kv_tokens,
            block_size=block_size,
            prefix_share=point.prefix_share,
            queue_max=queue_max,
            on_finish=on_finish,
        )

    rng = np.random.default_rng(seed)
    if point.users is not None:
        served = _closed(
            point, make, rng, requests=max(requests, ROUNDS * point.users), block_size=block_size
        )
    elif point.rate_rps:
        served = _open(point, make, seed=seed, requests=requests, block_size=block_size)
    else:
        raise SpecError("an operating point: expected a rate > 0 or users, found neither")
    kept = _measured(point, served, requests=requests, warm_up=warm_up)
    ttft_s = np.array([request.first_token_s - request.arrival_s for request in kept])
    e2e_s = np.array([request.last_token_s - request.arrival_s for request in kept])
    gaps = np.array([request.output_tokens - 1 for request in kept])
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


def _whole_run(point: OperatingPoint, *, requests: int) -> bool:
    """Tell whether a run of so many *requests* is all that was measured."""
    return (
        point.rate_rps is not None
        and point.duration_s is not None
        and point.rate_rps * point.duration_s <= requests
    )


def _measured(
    point: OperatingPoint, served: Sequence[Request], *, requests: int, warm_up: float
) -> Sequence[Request]:
    """Return those of *served* that count: all that ended in time, or those of a full server."""
    if point.duration_s is not None and _whole_run(point, requests=requests):
        if point.is_drained:
            return served
        ended = [each for each in served if point.settle_s <= each.last_token_s <= point.duration_s]
        return ended or served
    return served[int(len(served) * warm_up) :]


def _drawn(
    point: OperatingPoint, rng: np.random.Generator, count: int, *, block_size: int
) -> list[dict[str, Any]]:
    """Return the tokens and blocks of *count* requests."""
    prompts, answers = (
        np.maximum(np.rint(mean * (1.0 + point.spread * (2.0 * shares - 1.0))), 1.0).astype(int)
        for mean in (point.input_tokens, point.output_tokens)
        for shares in [_shares(rng, count)]
    )
    names = [0] * count
    if point.distinct is not None:
        names = rng.integers(point.distinct, size=count).tolist()
    return [
        {
            "prompt_tokens": prompt,
            "output_tokens": output,
            "blocks": ()
            if point.distinct is None
            else range(name * BLOCKS_MAX, name * BLOCKS_MAX - (-prompt // block_size)),
        }
        for prompt, output, name in zip(prompts.tolist(), answers.tolist(), names, strict=True)
    ]


def _shares(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return numbers in 0..1, one of each part of it among any PART that follow each other: the
    median of a few hundred drawn ones is off by some percent, and that of forty by a tenth.
    """
    rounds = [rng.permutation(PART) for _ in range(-(-count // PART))]
    return (np.concatenate(rounds)[:count] + rng.uniform(size=count)) / PART


def _open(
    point: OperatingPoint, make: Make, *, seed: int, requests: int, block_size: int
) -> list[Request]:
    assert point.rate_rps
    replica = make(_nothing)
    if point.duration_s is not None and _whole_run(point, requests=requests):
        requests = max(round(point.rate_rps * point.duration_s), 1)
    served = []
    for index, drawn in enumerate(_arrivals(point, seed, requests, block_size)):
        request = Request(id=index, block_tokens=block_size, **drawn)
        if replica.submit(request, request.arrival_s) is None:
            served.append(request)
    replica.advance(inf, inclusive=False)
    return served


# A fit holds the same points a hundred times.
@lru_cache(maxsize=256)
def _arrivals(
    point: OperatingPoint, seed: int, requests: int, block_size: int
) -> tuple[Mapping[str, Any], ...]:
    """Return the requests of an open loop: when they come, and their tokens."""
    assert point.rate_rps
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1.0, requests) if not point.is_even else np.ones(requests)
    # Scaled, so that a short simulation has the rate that was asked for.
    arrivals = (np.cumsum(gaps) * requests / gaps.sum() / point.rate_rps).tolist()
    if point.token_cv is None:
        drawn = _drawn(point, rng, requests, block_size=block_size)
        return tuple(
            {"arrival_s": arrival_s, **each}
            for arrival_s, each in zip(arrivals, drawn, strict=True)
        )
    prompts, answers = (
        _lengths(rng, requests, mean=mean, cv=point.token_cv).tolist()
        for mean in (point.input_tokens, point.output_tokens)
    )
    return tuple(
        {"arrival_s": arrival_s, "prompt_tokens": prompt, "output_tokens": output}
        for arrival_s, prompt, output in zip(arrivals, prompts, answers, strict=True)
    )


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


def _closed(
    point: OperatingPoint, make: Make, rng: np.random.Generator, *, requests: int, block_size: int
) -> list[Request]:
    assert point.users
    served: list[Request] = []
    drawn = _drawn(point, rng, max(requests, point.users), block_size=block_size)

    def ask(now_s: float) -> None:
        index = len(served)
        request = Request(id=index, arrival_s=now_s, block_tokens=block_size, **drawn[index])
        served.append(request)
        replica.submit(request, now_s)

    def again(_request: Request, finish_s: float) -> None:
        if len(served) < requests:
            ask(finish_s)

    replica = make(again)
    for _ in range(point.users):
        ask(0.0)
    replica.advance(inf, inclusive=False)
    # The last round runs with fewer and fewer beside it.
    return served[: max(len(served) - point.users, 1)]


def _nothing(_request: Request, _finish_s: float) -> None:
    """Do nothing."""
