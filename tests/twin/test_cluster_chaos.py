"""Random scaling, crashes, node failures, capacity and arrivals all at once, with the checkers
watching every event.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from twin.kernel import CONTROL, at
from twin.serving.cluster import Cluster
from twin.spec import Delay, LatencyModel, Pool, Server, World
from twin.testing.checkers import Watch, check_counts, check_truth
from twin.testing.worlds import arrive, cluster_of, spec_of

END_S = 900.0


def _server(name: str, rng: np.random.Generator) -> Server:
    return Server(
        name=name,
        model=name,
        pool=Pool(
            accelerator=str(rng.choice(["A", "2xA", "B"])),
            replicas=int(rng.integers(0, 4)),
            max_batch=int(rng.integers(1, 5)),
        ),
        queue_max=None if rng.random() < 0.7 else int(rng.integers(1, 10)),
        router=rng.choice(["round_robin", "random", "least_outstanding"]),
        crash_rate_per_h=float(rng.choice([0.0, 20.0])),
        crash_policy=rng.choice(["requeue", "fail"]),
        max_batch_change=rng.choice(["live", "rolling"]),
    )


def _chaotic(seed: int) -> Watch:
    """Build a world in which everything happens, much of it at the same whole seconds."""
    rng = np.random.default_rng(seed)
    servers = [_server(f"s{index}", rng) for index in range(int(rng.integers(1, 4)))]
    world = World(
        actuation_delay=Delay(
            mean_s=float(rng.choice([0.0, 5.0])), cv=float(rng.choice([0.0, 1.0]))
        ),
        scheduling_delay=Delay(mean_s=float(rng.choice([0.0, 2.0]))),
        drain_timeout_s=None if rng.random() < 0.7 else 1.0,
    )
    spec = spec_of(
        *servers,
        capacity={"A": int(rng.integers(2, 9)), "B": int(rng.integers(0, 5))},
        latency_model=LatencyModel(
            alpha_ms=20.0, beta_ms=float(rng.choice([0.0, 0.1])), gamma_ms=0.001
        ),
        start_up=Delay(
            mean_s=float(rng.choice([0.0, 10.0, 60.0])), cv=float(rng.choice([0.0, 0.5]))
        ),
        kv_tokens=None if rng.random() < 0.5 else 400,
        world=world,
    )
    env, cluster = cluster_of(spec, seed=seed)
    for t_s in rng.integers(1, int(END_S), size=int(rng.integers(5, 60))).tolist():
        at(env, float(t_s), priority=CONTROL, action=_random_action(cluster, rng))
    for server in servers:
        times_s = rng.uniform(0.0, END_S, size=int(rng.integers(0, 500)))
        whole = rng.random(times_s.size) < 0.3
        for t_s in np.where(whole, np.round(times_s), times_s).tolist():
            prompt, output = int(rng.integers(1, 120)), int(rng.integers(1, 200))
            arrive(env, cluster, [t_s], server=server.name, prompt=prompt, output=output)
    return Watch(env=env, cluster=cluster, tick_s=7.5)


def _random_action(cluster: Cluster, rng: np.random.Generator) -> partial[None]:
    kind, type_ = rng.random(), str(rng.choice(["A", "B"]))
    if kind < 0.8:
        name = str(rng.choice([server.name for server in cluster.spec.servers]))
        return partial(
            cluster.scale,
            name,
            Pool(
                accelerator=str(rng.choice(["A", "2xA", "B"])),
                replicas=int(rng.integers(0, 6)),
                max_batch=int(rng.integers(1, 5)),
            ),
        )
    if kind < 0.9:
        return partial(cluster.set_capacity, type_, int(rng.integers(0, 10)))
    return partial(cluster.fail_node, type_, int(rng.integers(1, 4)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "block", [0, 1, *(pytest.param(block, marks=pytest.mark.fuzz) for block in (2, 3))]
)
def test_nothing_is_lost_served_twice_or_over_capacity_in_a_chaotic_world(block: int) -> None:
    """A change, a crash or a lost node may come at any point of any change; the invariants may not
    depend on which.
    """
    ended: set[str] = set()
    finished = 0
    for seed in range(20 * block, 20 * block + 20):
        watch = _chaotic(seed)
        try:
            watch.run(END_S)
            check_truth(watch.cluster, END_S)
            check_counts(watch)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        ended |= {life.end for life in watch.cluster.pods.lives}
        finished += len(watch.cluster.requests)
    assert {
        "withdrawn",
        "scaled_down",
        "drained",
        "drain_timeout",
        "crash",
        "node_loss",
    } <= ended, "the chaos is too tame"
    assert finished > 1000
