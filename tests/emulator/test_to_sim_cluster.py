"""Claims about the load and the simulated cluster together: what is fed arrives, however the
cluster is controlled.
"""

from __future__ import annotations

import numpy as np
import simpy

from emulator.load import ServerLoad
from emulator.shapes import ramp
from emulator.to_sim import SimFeeder
from emulator.walk import OfferedLoad
from twin.kernel import CONTROL, at
from twin.request import Request
from twin.serving.cluster import Cluster
from twin.spec import Accelerator, ClusterSpec, Delay, EngineSpec, LatencyModel, Pool, Server

SPEC = ClusterSpec(
    accelerators={"A100": Accelerator(name="A100", type="A100", cost_cents_per_h=40.0)},
    capacity={"A100": 6},
    engines={
        ("llama_13b", "A100"): EngineSpec(
            model="llama_13b",
            accelerator="A100",
            latency_model=LatencyModel(alpha_ms=15.0, beta_ms=0.05, gamma_ms=1e-4),
            kv_tokens=20_000,
            start_up=Delay(mean_s=30.0),
        )
    },
    servers=tuple(
        Server(
            name=name,
            model="llama_13b",
            pool=Pool(accelerator="A100", replicas=1, max_batch=16),
            crash_rate_per_h=20.0,
        )
        for name in ("vllm-001", "vllm-002")
    ),
)
LOADS = tuple(
    ServerLoad(
        server=server.name,
        index=index,
        seed=5,
        nominal=OfferedLoad(rate_rpm=60.0, in_tokens=300.0, out_tokens=60.0),
        curve=ramp(factor=3.0, start_s=60.0, up_s=120.0, hold_s=0.0, down_s=60.0),
        arrival_cv=1.5,
    )
    for index, server in enumerate(SPEC.servers)
)

Rows = list[tuple[int, float, int, int]]


def arrived(*, period_s: float, replicas: tuple[int, ...]) -> tuple[Rows, SimFeeder]:
    """Run ten minutes in which every period both servers are scaled to the next of *replicas*;
    return what arrived.
    """
    env = simpy.Environment()
    cluster = Cluster(env, SPEC, seed=np.random.SeedSequence(5))
    feeder = SimFeeder(env, cluster.submit, LOADS, interval_s=60.0, until_s=600.0)
    for number in range(1, int(600.0 / period_s)):
        count = replicas[number % len(replicas)]

        def scale(count: int = count) -> None:
            for server in SPEC.servers:
                cluster.scale(server.name, Pool(accelerator="A100", replicas=count, max_batch=16))

        at(env, number * period_s, priority=CONTROL, action=scale)
    env.run(until=600.0)
    cluster.advance()
    frame = cluster.requests.frame()
    columns = [
        frame[name].tolist() for name in ("server", "arrival_s", "prompt_tokens", "output_tokens")
    ]
    rows = list(zip(*columns, strict=True))
    rows += [_row(request) for request in cluster.unfinished()]
    return sorted(rows), feeder


def _row(request: Request) -> tuple[int, float, int, int]:
    return request.server_index, request.arrival_s, request.prompt_tokens, request.output_tokens


def test_arrivals_and_sizes_are_the_same_under_every_control():
    """Scaled up, scaled to nothing and back, at another period, with crashes: the same requests,
    bit by bit.
    """
    steady, feeder = arrived(period_s=60.0, replicas=(1,))
    assert sum(offered.requests for offered in feeder.offered().values()) == len(steady)
    assert len(steady) > 1500
    assert arrived(period_s=60.0, replicas=(3, 0))[0] == steady
    assert arrived(period_s=25.0, replicas=(2, 1, 3))[0] == steady
