"""Limits in which a replica is a textbook queue: M/D/1, M/M/1, M/M/c and M/M/1/K, within confidence
intervals.

With beta = gamma = 0 an iteration always takes alpha, so a request of o output tokens is served for
o·alpha whatever runs beside it, max_batch is the number of servers, and a geometric o of large mean
is an exponential service time. The unit is one mean service time: one second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import factorial, inf, log, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from twin.engine.replica import Replica
from twin.request import Request, RequestLog
from twin.spec import LatencyModel

pytestmark = pytest.mark.slow

RUNS, REQUESTS, WARM_UP = 40, 4000, 500

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Queue:
    """A queue with Poisson arrivals: its servers, load per server, and whether service is
    exponential or constant.
    """

    servers: int = 1
    rho: float
    mean_tokens: int
    exponential: bool = True
    queue_max: int | None = None

    @property
    def rate(self) -> float:
        return self.rho * self.servers

    @property
    def alpha_s(self) -> float:
        return 1.0 / self.mean_tokens


M_M_1 = Queue(rho=0.6, mean_tokens=1000)


@cache
def simulate(queue: Queue, seed: int) -> tuple[dict[str, npt.NDArray[Any]], float]:
    """Return the columns of one run after its warm-up, and the mean number in the system as seen
    once a second.
    """
    rng = np.random.default_rng([seed, queue.servers, queue.mean_tokens])
    log_of_requests = RequestLog()
    replica = Replica(
        latency_model=LatencyModel(alpha_ms=1000.0 * queue.alpha_s, beta_ms=0.0, gamma_ms=0.0),
        max_batch=queue.servers,
        queue_max=queue.queue_max,
        on_finish=log_of_requests.add_finished,
    )
    arrivals_s = np.cumsum(rng.exponential(1.0 / queue.rate, REQUESTS))
    tokens = (
        rng.geometric(queue.alpha_s, REQUESTS)
        if queue.exponential
        else [queue.mean_tokens] * REQUESTS
    )
    seen, next_look_s = [], float(arrivals_s[WARM_UP])
    for number, (now_s, output_tokens) in enumerate(zip(arrivals_s.tolist(), tokens, strict=True)):
        while next_look_s < now_s:
            replica.advance(next_look_s, inclusive=True)
            seen.append(replica.outstanding)
            next_look_s += 1.0
        request = Request(
            id=number, prompt_tokens=1, output_tokens=int(output_tokens), arrival_s=now_s
        )
        reason = replica.submit(request, now_s)
        if reason is not None:
            log_of_requests.add_rejected(request, now_s, reason)
    replica.advance(inf, inclusive=True)
    frame = log_of_requests.frame()
    late = frame["id"] >= WARM_UP
    return {name: column[late] for name, column in frame.items()}, float(np.mean(seen))


def confidence(
    queue: Queue, figure: Callable[[dict[str, npt.NDArray[Any]]], float]
) -> tuple[float, float]:
    """Return mean and 99 % half-width of *figure* over independent runs."""
    values = [figure(simulate(queue, seed)[0]) for seed in range(RUNS)]
    half_width = stats.t.ppf(0.995, RUNS - 1) * np.std(values, ddof=1) / sqrt(RUNS)
    return float(np.mean(values)), float(half_width)


def wait_s(queue: Queue) -> Callable[[dict[str, npt.NDArray[Any]]], float]:
    """Return the mean time in the queue: the first token comes one iteration after the
    admission.
    """
    return lambda frame: float(np.mean(frame["first_token_s"] - frame["arrival_s"])) - queue.alpha_s


def erlang_c(servers: int, rho: float) -> float:
    """Return the probability to wait in an M/M/c queue."""
    load = servers * rho
    waiting = load**servers / factorial(servers) / (1 - rho)
    return waiting / (sum(load**k / factorial(k) for k in range(servers)) + waiting)


@pytest.mark.parametrize("rho", [0.5, 0.7])
def test_fixed_lengths_one_at_a_time_are_an_m_d_1_queue(rho: float) -> None:
    """Pollaczek and Khinchine: W = rho / (2·(1 - rho)) service times."""
    queue = Queue(rho=rho, mean_tokens=10, exponential=False)
    mean, half_width = confidence(queue, wait_s(queue))
    expected = rho / (2 * (1 - rho))
    assert half_width < 0.05 * expected
    assert abs(mean - expected) < half_width


def test_geometric_lengths_one_at_a_time_are_an_m_m_1_queue() -> None:
    """W = rho / (1 - rho) service times."""
    mean, half_width = confidence(M_M_1, wait_s(M_M_1))
    expected = M_M_1.rho / (1 - M_M_1.rho)
    assert half_width < 0.05 * expected
    assert abs(mean - expected) < half_width


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_times_in_an_m_m_1_queue_are_exponential(share: float) -> None:
    """Not only the mean: the time in the system is exponential with rate 1 - rho, so its quantiles
    are known.
    """
    mean, half_width = confidence(
        M_M_1, lambda frame: float(np.quantile(frame["finish_s"] - frame["arrival_s"], share))
    )
    expected = -log(1 - share) / (1 - M_M_1.rho)
    assert half_width < 0.05 * expected
    assert abs(mean - expected) < half_width


@pytest.mark.parametrize(("servers", "rho"), [(4, 0.7), (8, 0.75)])
def test_a_batch_with_constant_iterations_is_an_m_m_c_queue(servers: int, rho: float) -> None:
    """Erlang's C: W = C / (c·(1 - rho)). Admission waits for a boundary, 0.05 % of a service
    here.
    """
    queue = Queue(servers=servers, rho=rho, mean_tokens=1000)
    mean, half_width = confidence(queue, wait_s(queue))
    expected = erlang_c(servers, rho) / (servers * (1 - rho))
    assert half_width < 0.1 * expected
    assert abs(mean - expected) < half_width


def test_a_bounded_queue_loses_what_an_m_m_1_k_queue_loses() -> None:
    """With K places, (1 - rho)·rho^K / (1 - rho^(K+1)) of the arrivals find no place."""
    queue = Queue(rho=0.9, mean_tokens=1000, queue_max=3)
    places = 4
    mean, half_width = confidence(queue, lambda frame: float(np.mean(frame["outcome"] == 1)))
    expected = (1 - queue.rho) * queue.rho**places / (1 - queue.rho ** (places + 1))
    assert half_width < 0.04 * expected
    assert abs(mean - expected) < half_width


@pytest.mark.parametrize("exponential", [True, False])
def test_no_queue_at_all_is_an_erlang_loss_system(exponential: bool) -> None:
    """Erlang's B, whatever the distribution of the lengths: what finds no place is lost."""
    queue = Queue(servers=5, rho=0.8, mean_tokens=1000, exponential=exponential, queue_max=0)
    mean, half_width = confidence(queue, lambda frame: float(np.mean(frame["outcome"] == 1)))
    load = queue.servers * queue.rho
    weights = [load**k / factorial(k) for k in range(queue.servers + 1)]
    expected = weights[-1] / sum(weights)
    assert half_width < 0.04 * expected
    assert abs(mean - expected) < half_width


@pytest.mark.parametrize("queue", [M_M_1, Queue(servers=8, rho=0.75, mean_tokens=1000)])
def test_requests_inside_are_rate_times_stay_in_equilibrium(queue: Queue) -> None:
    """L = lambda·W, with L sampled from the count that routers use and W taken from the log."""
    gaps = []
    for seed in range(RUNS):
        frame, mean_seen = simulate(queue, seed)
        span_s = frame["arrival_s"].max() - frame["arrival_s"].min()
        served_per_s = len(frame["id"]) / span_s
        gaps.append(
            mean_seen / (served_per_s * float(np.mean(frame["finish_s"] - frame["arrival_s"]))) - 1
        )
    half_width = stats.t.ppf(0.995, RUNS - 1) * np.std(gaps, ddof=1) / sqrt(RUNS)
    assert half_width < 0.01
    assert abs(float(np.mean(gaps))) < half_width
