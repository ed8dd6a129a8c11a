"""What is expected to arrive and what is submitted at its instant are served alike, to the last
bit.
"""

from __future__ import annotations

from functools import partial
from math import isnan
from random import Random

import numpy as np
import pytest
import simpy

from tests.parts import first
from tests.twin.fuzz_worlds import played
from tests.twin.odd_worlds import played_oddly
from twin.engine.port import Engine
from twin.engine.replica import Replica
from twin.kernel import ARRIVAL, CONTROL, LOAD, SCRAPE, at
from twin.request import Request, RequestBatch
from twin.serving.cluster import Cluster
from twin.serving.routers.least_outstanding import LeastOutstanding, Order
from twin.spec import LatencyModel, Pool, Server
from twin.testing.worlds import spec_of


@pytest.mark.parametrize("seed", first(4, range(12)))
def test_expected_requests_are_served_as_submitted_ones(seed: int) -> None:
    """Servers do not influence each other between events, so each may be served by itself: but
    whoever looks at one, or changes it, has to find what came before.
    """
    assert played(seed).results == played(seed, expected=False).results


@pytest.mark.parametrize("seed", first(2, range(12)))
def test_samples_that_are_taken_later_are_those_of_their_instants(seed: int) -> None:
    """Of what is expected, samples are taken when somebody looks, sometimes many at once; of what
    is submitted each is taken when its scrape is.
    """
    assert played_oddly(seed) == played_oddly(seed, expected=False)


def test_what_is_told_right_after_a_scrape_is_not_in_its_sample() -> None:
    """Though it arrives at that instant, and the sample is taken later."""
    env = simpy.Environment()
    server = Server(name="s", model="s", pool=Pool(accelerator="A", replicas=1, max_batch=8))
    slow = LatencyModel(alpha_ms=1000.0, beta_ms=0.0, gamma_ms=0.0)
    spec = spec_of(server, capacity={"A": 1}, latency_model=slow)
    cluster = Cluster(env, spec, seed=np.random.SeedSequence(1))
    scraped_s = spec.world.scrape_interval_s
    batch = RequestBatch(
        times_s=np.array([scraped_s, scraped_s + 1.0]),
        prompt_tokens=np.array([10, 10]),
        output_tokens=np.array([100, 100]),
    )
    env.run(until=scraped_s)
    at(env, scraped_s, priority=SCRAPE, action=partial(cluster.expect, "s", batch))
    env.run(until=2.5 * scraped_s)
    assert [one.running for one in cluster.snapshot().servers["s"].gauges] == [0, 2]


@pytest.mark.parametrize(("replicas", "router"), [(6, "round_robin"), (70, "least_outstanding")])
def test_the_idlest_pod_goes_whoever_looked_when(replicas: int, router: str) -> None:
    """Of pods that are as old as each other. Requests in flight were counted as of the last look,
    and a router looks at few of many replicas.
    """
    expected = _taken_away(replicas, router)
    assert len(set(expected)) > 1
    assert _taken_away(replicas, router, expected=False) == expected
    assert _taken_away(replicas, router, look=True) == expected


def _taken_away(
    replicas: int, router: str, *, expected: bool = True, look: bool = False
) -> list[float]:
    """Return when each pod was gone, -1 for those that stay, in three steps to a quarter of
    *replicas*.
    """
    env, rng, count = simpy.Environment(), np.random.default_rng(1), 30 * replicas
    server = Server(
        name="s",
        model="m",
        router=router,
        pool=Pool(accelerator="A", replicas=replicas, max_batch=8),
    )
    model = LatencyModel(alpha_ms=40.0, beta_ms=0.1, gamma_ms=0.001)
    spec = spec_of(server, capacity={"A": replicas}, latency_model=model)
    cluster = Cluster(env, spec, seed=np.random.SeedSequence(1))
    batch = RequestBatch(
        times_s=np.sort(rng.uniform(0.0, 60.0, count)),
        prompt_tokens=rng.integers(1, 50, count),
        output_tokens=rng.integers(1, 100, count),
    )
    if expected:
        at(env, 0.0, priority=LOAD, action=partial(cluster.expect, "s", batch))
    else:
        for request in batch.requests("s"):
            submit = partial(cluster.submit, request)
            at(env, request.arrival_s, priority=ARRIVAL, action=submit)
    for part, t_s in enumerate((13.3, 21.7, 41.1), start=1):
        left = Pool(accelerator="A", replicas=replicas - part * replicas // 4, max_batch=8)
        at(env, t_s, priority=CONTROL, action=partial(cluster.scale, "s", left))
        if look:
            at(env, t_s - 0.01, priority=CONTROL, action=cluster.advance)
    env.run(until=45.0)
    released_s: list[float] = cluster.pods.frame()["released_s"].tolist()
    return [-1.0 if isnan(t_s) else t_s for t_s in released_s]


@pytest.mark.parametrize("seed", range(4))
def test_an_order_of_replicas_makes_the_choices_of_a_look_at_all(seed: int) -> None:
    """With a thousand replicas a look at all of them would be most of the cost of a request."""
    assert _choices(seed, ordered=True) == _choices(seed, ordered=False)


def _choices(seed: int, *, ordered: bool) -> list[object]:
    rng = Random(seed)
    finished: list[tuple[int, float]] = []
    router, replicas = LeastOutstanding(np.random.default_rng(1)), _replicas(rng, finished)
    for replica in replicas:
        router.add(replica)
    chosen, now_s, number = [], 0.0, 0
    for _ in range(12):
        route = Order(replicas).route(router) if ordered else None
        for _ in range(rng.randint(1, 120)):
            now_s += rng.choice([0.0, 0.25, rng.random()])
            number += 1
            request = Request(
                id=number, prompt_tokens=9, output_tokens=rng.randint(1, 9), arrival_s=now_s
            )
            replica = (
                route(request, now_s)
                if route is not None
                else router.route(request, replicas, now_s)
            )
            chosen.append((replicas.index(replica), replica.submit(request, now_s)))
        # Between two stretches replicas change, and come and go.
        for replica in replicas:
            replica.advance(now_s, inclusive=True)
        gone = rng.randrange(len(replicas))
        del replicas[gone]
        router.remove(gone)
        new = _replica(finished)
        replicas.append(new)
        router.add(new)
    return [chosen, sorted(finished)]


def _replicas(rng: Random, finished: list[tuple[int, float]]) -> list[Engine]:
    return [_replica(finished) for _ in range(rng.randint(2, 40))]


def _replica(finished: list[tuple[int, float]]) -> Engine:
    return Replica(
        latency_model=LatencyModel(alpha_ms=250.0, beta_ms=0.0, gamma_ms=0.0),
        max_batch=2,
        queue_max=2,
        on_finish=lambda request, t_s: finished.append((request.id, t_s)),
    )
