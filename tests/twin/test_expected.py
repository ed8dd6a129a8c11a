"""What is expected to arrive and what is submitted at its instant are served alike, to the last
bit.
"""

from __future__ import annotations

from functools import partial
from random import Random

import numpy as np
import pytest
import simpy

from twin.engine.port import Engine
from twin.engine.replica import Replica
from twin.kernel import ARRIVAL, CONTROL, LOAD, at
from twin.request import Request, RequestBatch
from twin.serving.cluster import Cluster
from twin.serving.routers.least_outstanding import ORDER_REPLICAS, LeastOutstanding
from twin.spec import ClusterSpec, Delay, LatencyModel, Pool, Server, World
from twin.testing.worlds import spec_of

END_S = 240.0


@pytest.mark.parametrize("seed", range(12))
def test_expected_requests_are_served_as_submitted_ones(seed: int) -> None:
    """Servers do not influence each other between events, so each may be served by itself: but
    whoever looks at one, or changes it, has to find what came before.
    """
    assert _played(seed, expected=True) == _played(seed, expected=False)


def _played(seed: int, *, expected: bool) -> list[object]:
    rng = Random(seed)
    spec = _spec(rng)
    env = simpy.Environment()
    cluster = Cluster(env, spec, seed=np.random.SeedSequence(seed))
    for index, server in enumerate(spec.servers):
        batch = _requests(np.random.default_rng((seed, index)))
        if expected:
            at(env, 0.0, priority=LOAD, action=partial(cluster.expect, server.name, batch))
        else:
            for request in batch.requests(server.name):
                submit = partial(cluster.submit, request)
                at(env, request.arrival_s, priority=ARRIVAL, action=submit)
    seen: list[object] = []
    for t_s in np.arange(7.0, END_S, 7.0).tolist():
        at(env, t_s, priority=CONTROL, action=partial(_act, rng, cluster))
    for t_s in np.arange(5.0, END_S, 5.0).tolist():
        at(env, t_s, priority=CONTROL, action=lambda: seen.append(cluster.snapshot()))
    env.run(until=END_S)
    for request in cluster.unfinished():
        cluster.requests.add_unfinished(request)
    frame, pods = cluster.requests.frame(), cluster.pods.frame()
    order = np.lexsort((frame["id"], frame["server"]))
    assert len(set(frame["outcome"].tolist())) > 1
    return [
        *map(str, seen),
        {name: column[order].tobytes() for name, column in frame.items()},
        {name: str(column.tolist()) for name, column in pods.items()},
    ]


def _spec(rng: Random) -> ClusterSpec:
    return spec_of(
        *(
            Server(
                name=name,
                model=name,
                pool=Pool(accelerator="A", replicas=2, max_batch=4),
                queue_max=rng.choice([None, 3]),
                router=rng.choice(["least_outstanding", "round_robin", "random"]),
                crash_rate_per_h=rng.choice([0.0, 100.0]),
                crash_policy=rng.choice(["requeue", "fail"]),
                max_batch_change=rng.choice(["live", "rolling"]),
            )
            for name in ("s", "t")
        ),
        capacity={"A": 7, "B": 3},
        latency_model=LatencyModel(alpha_ms=250.0, beta_ms=0.0, gamma_ms=0.0),
        start_up=Delay(mean_s=10.0, cv=rng.choice([0.0, 0.5])),
        kv_tokens=400,
        world=World(scrape_interval_s=5.0, drain_timeout_s=rng.choice([None, 4.0])),
    )


def _requests(rng: np.random.Generator) -> RequestBatch:
    # On a grid of quarters of a second, as iterations are: events coincide.
    times_s = np.sort(rng.integers(0, int(4 * END_S), 400)) / 4.0
    return RequestBatch(
        times_s=times_s,
        prompt_tokens=rng.integers(1, 60, 400),
        output_tokens=rng.integers(1, 60, 400),
    )


def _act(rng: Random, cluster: Cluster) -> None:
    act, server = rng.random(), rng.choice(["s", "t"])
    if act < 0.7:
        pool = Pool(
            accelerator=rng.choice(["A", "A", "B"]),
            replicas=rng.randint(0, 4),
            max_batch=rng.choice([2, 4]),
        )
        cluster.scale(server, pool)
    elif act < 0.85:
        cluster.set_capacity("A", rng.randint(3, 8))
    else:
        cluster.fail_node("A", 1)
        cluster.set_capacity("A", 7)


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
        route = router.stretch(replicas, 100) if ordered else None
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
    return [chosen, finished]


def _replicas(rng: Random, finished: list[tuple[int, float]]) -> list[Engine]:
    return [_replica(finished) for _ in range(ORDER_REPLICAS + rng.randint(1, 30))]


def _replica(finished: list[tuple[int, float]]) -> Engine:
    return Replica(
        latency_model=LatencyModel(alpha_ms=250.0, beta_ms=0.0, gamma_ms=0.0),
        max_batch=2,
        queue_max=2,
        on_finish=lambda request, t_s: finished.append((request.id, t_s)),
    )
