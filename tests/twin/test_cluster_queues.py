"""Where theory knows the answer: replicas of max batch 1 behind a router are queues of known
kinds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy import optimize

from twin.spec import Pool, Server
from twin.testing.checkers import check_counts, check_truth, watched
from twin.testing.worlds import arrive, cluster_of, spec_of

pytestmark = pytest.mark.slow

ITERATION_S = 0.01
OUTPUT = 50
SERVICE_S = OUTPUT * ITERATION_S
REQUESTS, WARM_UP, RUNS = 5000, 500, 6


def _fixed(rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
    return np.full(count, OUTPUT)


def _geometric(rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
    return rng.geometric(1.0 / OUTPUT, count)


def _mean_waits_s(
    router: str, replicas: int, rho: float, outputs: Callable[..., npt.NDArray[np.int64]]
) -> npt.NDArray[np.float64]:
    """Return the mean wait for a replica [s] of each of a few runs at utilisation *rho* of every
    replica.
    """
    means = []
    for seed in range(RUNS):
        server = Server(
            name="s",
            model="m",
            pool=Pool(accelerator="A", replicas=replicas, max_batch=1),
            router=router,
        )
        env, cluster = cluster_of(spec_of(server, capacity={"A": replicas}), seed=seed)
        rng = np.random.default_rng([seed, 77])
        times_s = np.cumsum(rng.exponential(SERVICE_S / (rho * replicas), REQUESTS))
        for t_s, output in zip(times_s.tolist(), outputs(rng, REQUESTS).tolist(), strict=True):
            arrive(env, cluster, [t_s], output=output)
        env.run(until=float(times_s[-1]))
        cluster.advance()
        frame = cluster.requests.frame()
        chosen = (frame["id"] >= WARM_UP) & (frame["id"] < REQUESTS - 100)
        # The first token comes one iteration after the wait ends.
        means.append(
            float((frame["first_token_s"] - frame["arrival_s"])[chosen].mean()) - ITERATION_S
        )
    return np.array(means)


def _agrees(means_s: npt.NDArray[np.float64], expected_s: float) -> bool:
    """Tell whether *expected_s* is within four standard errors of the runs, with one percent for
    the finite runs.
    """
    error_s = float(means_s.std(ddof=1) / np.sqrt(means_s.size))
    return abs(float(means_s.mean()) - expected_s) < 4.0 * error_s + 0.01 * expected_s


@pytest.mark.parametrize("rho", [0.3, 0.7])
def test_random_routing_splits_poisson_arrivals_into_independent_md1_queues(rho: float) -> None:
    """Pollaczek-Khinchine: with fixed service times the mean wait is rho · service / (2 (1 − rho))
    at every replica.
    """
    expected_s = rho * SERVICE_S / (2.0 * (1.0 - rho))
    assert _agrees(_mean_waits_s("random", 3, rho, _fixed), expected_s)


def test_random_routing_with_geometric_outputs_is_the_discrete_cousin_of_mm1() -> None:
    """Pollaczek-Khinchine with the second moment of a geometric service time: λ E[S²] / (2 (1 −
    rho)).
    """
    rho = 0.6
    second_moment = ITERATION_S**2 * (2.0 * OUTPUT**2 - OUTPUT)
    expected_s = (rho / SERVICE_S) * second_moment / (2.0 * (1.0 - rho))
    assert _agrees(_mean_waits_s("random", 3, rho, _geometric), expected_s)


def test_round_robin_gives_each_replica_erlang_arrivals() -> None:
    """Every second of Poisson arrivals is Erlang-2: the G/M/1 formula with root sigma = A*(mu (1 −
    sigma)).

    Output lengths are geometric, the service nearly exponential: two percent are left to that.
    """
    rho = 0.6
    mu = 1.0 / SERVICE_S

    def gap(sigma: float) -> float:
        rate = 2.0 * rho * mu
        return (rate / (rate + mu * (1.0 - sigma))) ** 2 - sigma

    sigma = optimize.brentq(gap, 0.0, 0.999)
    means_s = _mean_waits_s("round_robin", 2, rho, _geometric)
    expected_s = sigma / (mu * (1.0 - sigma))
    error_s = means_s.std(ddof=1) / np.sqrt(means_s.size)
    assert abs(means_s.mean() - expected_s) < 4.0 * error_s + 0.02 * expected_s


def test_least_outstanding_waits_longer_than_one_queue_and_far_shorter_than_random() -> None:
    """Joining the shortest queue lies between M/M/c (Erlang C) and c separate M/M/1, much nearer to
    the first.
    """
    rho, c = 0.7, 3
    a = rho * c
    terms = [a**k / float(np.prod(range(1, k + 1))) for k in range(c)]
    last = a**c / float(np.prod(range(1, c + 1))) / (1.0 - rho)
    one_queue_s = last / (sum(terms) + last) * SERVICE_S / (c * (1.0 - rho))
    separate_s = rho * SERVICE_S / (1.0 - rho)
    wait_s = _mean_waits_s("least_outstanding", c, rho, _geometric).mean()
    assert one_queue_s < wait_s < one_queue_s + 0.3 * (separate_s - one_queue_s)


def test_requests_inside_are_rate_times_stay_in_a_whole_cluster() -> None:
    """Requests inside, counted at ticks, are the arrival rate times the time that each spends
    inside: two measurements that share nothing but the run. At every tick the count is that of
    the records exactly."""
    server = Server(name="s", model="m", pool=Pool(accelerator="A", replicas=3, max_batch=8))
    other = Server(name="t", model="m", pool=Pool(accelerator="B", replicas=0, max_batch=8))
    env, cluster, watch = watched(
        spec_of(server, other, capacity={"A": 3, "B": 1}, kv_tokens=2000), tick_s=0.5
    )
    rng = np.random.default_rng(11)
    end_s = 300.0
    for name, rate_rps in (("s", 6.0), ("t", 0.1)):
        count = int(rng.poisson(rate_rps * end_s))
        for t_s, output in zip(
            rng.uniform(0.0, end_s, count).tolist(), _geometric(rng, count).tolist(), strict=True
        ):
            arrive(env, cluster, [t_s], server=name, prompt=60, output=4 * output)
    watch.run(end_s)
    check_truth(cluster, end_s)
    check_counts(watch)
    frame = cluster.requests.frame()
    inside_s = float((frame["finish_s"] - frame["arrival_s"]).sum())
    inside_s += sum(end_s - request.arrival_s for request in cluster.unfinished())
    counted = np.array([inside for _, inside in watch.counted])
    assert counted.mean() == pytest.approx(inside_s / end_s, rel=0.02)
    assert counted.max() > 20
