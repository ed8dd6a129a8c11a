"""Small clusters for tests: two types of GPUs, one model on three accelerators, everything else as
asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import simpy

from twin.kernel import ARRIVAL, at
from twin.request import Request
from twin.serving.cluster import Cluster
from twin.spec import Accelerator, ClusterSpec, Delay, EngineSpec, LatencyModel, Server, World

ACCELERATORS = {
    "A": Accelerator(name="A", type="A", cost_cents_per_h=100.0),
    "2xA": Accelerator(name="2xA", type="A", multiplicity=2, cost_cents_per_h=200.0),
    "B": Accelerator(name="B", type="B", cost_cents_per_h=150.0),
}
MODEL = LatencyModel(alpha_ms=10.0, beta_ms=0.0, gamma_ms=0.0)
START_UP = Delay(mean_s=60.0)
WORLD = World()


def spec_of(
    *servers: Server,
    capacity: Mapping[str, int],
    latency_model: LatencyModel = MODEL,
    start_up: Delay = START_UP,
    kv_tokens: int | None = None,
    world: World = WORLD,
) -> ClusterSpec:
    """Return a system in which every model of *servers* runs on every accelerator."""
    engines = {
        (server.model, name): EngineSpec(
            model=server.model,
            accelerator=name,
            latency_model=latency_model,
            start_up=start_up,
            kv_tokens=kv_tokens,
        )
        for server in servers
        for name in ACCELERATORS
    }
    return ClusterSpec(
        accelerators=ACCELERATORS, capacity=capacity, engines=engines, servers=servers, world=world
    )


def cluster_of(spec: ClusterSpec, *, seed: int = 1) -> tuple[simpy.Environment, Cluster]:
    """Return a fresh environment and the cluster in it."""
    env = simpy.Environment()
    return env, Cluster(env, spec, seed=np.random.SeedSequence(seed))


def arrive(
    env: simpy.Environment,
    cluster: Cluster,
    times_s: Sequence[float],
    *,
    server: str = "s",
    prompt: int = 1,
    output: int,
) -> None:
    """Have a request arrive at each of *times_s*."""
    for t_s in times_s:
        request = Request(server=server, arrival_s=t_s, prompt_tokens=prompt, output_tokens=output)
        at(env, t_s, priority=ARRIVAL, action=partial(cluster.submit, request))
