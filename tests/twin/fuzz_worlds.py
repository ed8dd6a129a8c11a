"""Random worlds in which everything happens to a server: what comes of them, however played."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from random import Random

import numpy as np
import simpy

from twin.kernel import ARRIVAL, CONTROL, LOAD, at
from twin.request import Outcome, RequestBatch
from twin.serving.cluster import Cluster
from twin.spec import ClusterSpec, Delay, LatencyModel, Pool, Server, World
from twin.testing.worlds import spec_of

END_S = 120.0
REQUESTS = 160

MIXTURE = LatencyModel(
    alpha_ms=140.0, beta_ms=2.1, gamma_ms=0.02, experts_ms=110.0, experts_idle=0.75, attention=0.004
)


@dataclass(kw_only=True)
class Played:
    """What came of a world, and which of the rare things happened in it."""

    results: list[object]
    features: set[str]


def played(seed: int, *, expected: bool = True, compiled: bool = False, crowd: int = 1) -> Played:
    """Play the world of *seed*: its requests *expected*, or submitted at their instants; *crowd*
    times as many replicas, requests and GPUs.
    """
    rng = Random(seed)
    spec = _spec(rng, crowd)
    env = simpy.Environment()
    cluster = Cluster(env, spec, seed=np.random.SeedSequence(seed), compiled=compiled)
    for index, server in enumerate(spec.servers):
        batch = _requests(np.random.default_rng((seed, index)), REQUESTS * crowd)
        if expected:
            at(env, 0.0, priority=LOAD, action=partial(cluster.expect, server.name, batch))
        else:
            for request in batch.requests(server.name):
                submit = partial(cluster.submit, request)
                at(env, request.arrival_s, priority=ARRIVAL, action=submit)
    seen: list[object] = []
    for t_s in np.arange(7.0, END_S, 7.0).tolist():
        at(env, t_s, priority=CONTROL, action=partial(_act, rng, cluster, crowd))
    for t_s in np.arange(10.0, END_S, 10.0).tolist():
        at(env, t_s, priority=CONTROL, action=lambda: seen.append(str(cluster.snapshot())))
    env.run(until=END_S)
    unfinished = cluster.unfinished()
    made = zip(*cluster.record_unfinished(), strict=True)
    held = [(one.server_index, one.id, one.generated) for one in unfinished]
    assert sorted(tuple(map(int, line)) for line in made) == sorted(held)
    frame, pods = cluster.requests.frame(), cluster.pods.frame()
    order = np.lexsort((frame["id"], frame["server"]))
    engine = next(iter(spec.engines.values()))
    results: list[object] = [
        *seen,
        [(one.id, one.generated, one.preemptions, one.admitted) for one in unfinished],
        {name: column[order].tobytes() for name, column in frame.items()},
        {name: str(column.tolist()) for name, column in pods.items()},
    ]
    features = {
        "preemption": frame["preemptions"].any(),
        "drain": np.isfinite(pods["draining_s"]).any(),
        "crash": (pods["end"] == "crash").any(),
        "requeue": any(deployment.gateway.requeued for deployment in cluster.deployments),
        "prefix hit": engine.prefix_share > 0.0,
        "rejection": (frame["outcome"] == Outcome.REJECTED).any(),
    }
    return Played(results=results, features={name for name, met in features.items() if met})


def _spec(rng: Random, crowd: int) -> ClusterSpec:
    # On a grid of quarters of a second events coincide; elsewhere sums of floats are put to test.
    model = rng.choice(
        [
            LatencyModel(alpha_ms=250.0, beta_ms=0.0, gamma_ms=0.0),
            LatencyModel(
                alpha_ms=97.3, beta_ms=1.7, gamma_ms=0.013, attention=0.003, sequence_ms=9.0
            ),
            LatencyModel(
                alpha_ms=151.1, beta_ms=2.3, gamma_ms=0.11, launch_ms=40.0, p=2.6, sequence_ms=7.0
            ),
            MIXTURE,
        ]
    )
    crash_policy = rng.choice(["requeue", "requeue", "fail"])
    spec = spec_of(
        *(
            Server(
                name=name,
                model=name,
                pool=Pool(accelerator="A", replicas=2 * crowd, max_batch=rng.choice([2, 4, 9])),
                queue_max=rng.choice([None, None, 0, 3]),
                router=rng.choice(["least_outstanding", "round_robin", "random"]),
                crash_rate_per_h=rng.choice([0.0, 60.0, 200.0]),
                crash_policy=crash_policy,
                max_batch_change=rng.choice(["live", "rolling"]),
            )
            for name in ("s", "t")
        ),
        capacity={"A": 7 * crowd, "B": 3 * crowd},
        latency_model=model,
        start_up=Delay(mean_s=6.0, cv=rng.choice([0.0, 0.5])),
        kv_tokens=rng.choice([None, 130, 180, 400]),
        world=World(
            scrape_interval_s=rng.choice([2.5, 5.0, 7.1]),
            drain_timeout_s=rng.choice([None, None, 4.0]),
        ),
    )
    changes = {
        "overhead_ms": rng.choice([0.0, 8.0]),
        "scheduling": rng.choice(["sync", "async"]),
        "prefix_share": rng.choice([0.0, 0.3, 0.9]),
        "block_size": rng.choice([1, 3, 16]),
        "max_num_batched_tokens": rng.choice([17, 64, 8192]),
        "admission": rng.choice(["chunk", "full_prompt"]),
    }
    engines = {key: replace(engine, **changes) for key, engine in spec.engines.items()}
    return replace(spec, engines=engines)


def _requests(rng: np.random.Generator, count: int) -> RequestBatch:
    times_s = np.sort(rng.integers(0, int(4 * END_S), count)) / 4.0
    if rng.random() < 0.5:
        times_s = np.sort(times_s + rng.random(count))
    return RequestBatch(
        times_s=times_s,
        prompt_tokens=rng.integers(1, 60, count),
        output_tokens=rng.integers(1, 60, count),
    )


def _act(rng: Random, cluster: Cluster, crowd: int) -> None:
    act, server = rng.random(), rng.choice(["s", "t"])
    if act < 0.8:
        pool = Pool(
            accelerator=rng.choice(["A", "A", "B"]),
            replicas=rng.randint(0, 4) * crowd,
            max_batch=rng.choice([2, 4, 20]),
        )
        cluster.scale(server, pool)
    elif act < 0.9:
        cluster.set_capacity("A", rng.randint(3, 8) * crowd)
    else:
        cluster.fail_node("A", 1)
        cluster.set_capacity("A", 7 * crowd)
