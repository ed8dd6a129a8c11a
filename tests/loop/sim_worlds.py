"""A small twin with load for tests of the loop: two servers on two types of GPUs, requests fed by
the emulator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import simpy

from emulator.load import ServerLoad
from emulator.to_sim import SimFeeder
from emulator.walk import OfferedLoad, Walk
from loop.backends.sim import Metrics, SimBackend
from loop.spec import SystemData
from loop.testing.fakes import system
from twin.serving.cluster import Cluster
from twin.spec import ClusterSpec, Delay, EngineSpec, LatencyModel, Pool, Server, World


@dataclass(frozen=True, slots=True, kw_only=True)
class SimWorldParts:
    """A twin and what moves it."""

    env: simpy.Environment
    cluster: Cluster
    feeder: SimFeeder
    backend: SimBackend
    data: SystemData


def sim_world(
    *,
    metrics: Metrics = "measured",
    rate_rpm: float = 240.0,
    alpha: float = 0.3,
    start_up_s: float = 30.0,
    actuation_s: float = 0.0,
    seed: int = 1,
) -> SimWorldParts:
    """Return a fresh twin at t = 0 with s1 (Premium, 2 x H100) and s2 (Free, 1 x 2xA100)."""
    data, env = system(), simpy.Environment()
    spec = ClusterSpec(
        accelerators=data.accelerators,
        capacity=data.capacity,
        engines={
            (perf.model, perf.accelerator): EngineSpec(
                model=perf.model,
                accelerator=perf.accelerator,
                latency_model=LatencyModel(
                    alpha_ms=perf.alpha_ms, beta_ms=perf.beta_ms, gamma_ms=perf.gamma_ms
                ),
                start_up=Delay(mean_s=start_up_s),
            )
            for perf in data.perf.values()
        },
        servers=(
            Server(
                name="s1",
                model="llama_8b",
                service_class="Premium",
                pool=Pool(accelerator="H100", replicas=2, max_batch=64),
            ),
            Server(
                name="s2",
                model="llama_8b",
                service_class="Free",
                pool=Pool(accelerator="2xA100", replicas=1, max_batch=48),
            ),
        ),
        world=World(actuation_delay=Delay(mean_s=actuation_s)),
    )
    cluster = Cluster(env, spec, seed=np.random.SeedSequence(seed))
    loads = [
        ServerLoad(
            server=server.name,
            index=index,
            seed=seed,
            nominal=OfferedLoad(rate_rpm=rate_rpm, in_tokens=512.0, out_tokens=128.0),
            walk=Walk(alpha=alpha),
        )
        for index, server in enumerate(spec.servers)
    ]
    feeder = SimFeeder(env, cluster.submit, loads, interval_s=60.0)
    backend = SimBackend(cluster, metrics=metrics, offered_loads=feeder.offered_loads)
    return SimWorldParts(env=env, cluster=cluster, feeder=feeder, backend=backend, data=data)
