"""What routing costs: eight replicas behind a least-outstanding router against one, at the same
load per replica; and a request to a thousand.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from time import process_time
from typing import Any

import numpy as np
import simpy

from twin.kernel import ARRIVAL, at
from twin.request import Request, RequestBatch
from twin.serving.cluster import Cluster
from twin.spec import Accelerator, ClusterSpec, EngineSpec, LatencyModel, Pool, Server

PROMPT, OUTPUT, MAX_BATCH, KV_TOKENS = 128, 512, 256, 60_000
# Llama-3.1-8B on an H100; at this rate the mean batch of a replica is 24.
MODEL = LatencyModel(alpha_ms=6.49, beta_ms=0.0219, gamma_ms=4.96e-5)
RATE_RPS = 6.25
REQUESTS = 4000
ROUNDS = 25
REPLICAS = 8
MANY_REPLICAS, MANY = 1000, 100_000


def figures() -> Iterator[dict[str, Any]]:
    """Yield `routing_ratio`: CPU per request with eight replicas over that with one, minima of
    interleaved rounds.
    """
    loads = {replicas: _arrivals(replicas) for replicas in (1, REPLICAS)}
    best_s = dict.fromkeys(loads, float("inf"))
    for _ in range(ROUNDS):
        for replicas, times_s in loads.items():
            best_s[replicas] = min(best_s[replicas], _cpu_s(replicas, times_s))
    yield {
        "name": "routing_ratio",
        "value": round(best_s[REPLICAS] / best_s[1], 3),
        "unit": "ratio",
    }
    for name, compiled in (("", True), ("_plain", False)):
        _us_per_request(compiled=compiled, requests=1000)  # compiles
        least = min(_us_per_request(compiled=compiled, requests=MANY) for _ in range(3))
        yield {
            "name": f"replicas_1000_us_per_request{name}",
            "value": round(least, 3),
            "unit": "us",
        }


def _us_per_request(*, compiled: bool, requests: int) -> float:
    """Return the CPU of a request that is expected by one server of a thousand replicas [us]."""
    env = simpy.Environment()
    cluster = Cluster(env, _spec(MANY_REPLICAS), seed=np.random.SeedSequence(1), compiled=compiled)
    rng = np.random.default_rng(1)
    times_s = np.cumsum(rng.exponential(1.0 / (RATE_RPS * MANY_REPLICAS), requests))
    sizes = (np.full(requests, PROMPT), np.full(requests, OUTPUT))
    batch = RequestBatch(times_s=times_s, prompt_tokens=sizes[0], output_tokens=sizes[1])
    gc.collect()
    begin_s = process_time()
    cluster.expect("s", batch)
    env.run(until=times_s[-1])
    cluster.advance()
    return 1e6 * (process_time() - begin_s) / requests


def _arrivals(replicas: int) -> Sequence[float]:
    rng = np.random.default_rng(1)
    times_s: list[float] = np.cumsum(
        rng.exponential(1.0 / (RATE_RPS * replicas), REQUESTS)
    ).tolist()
    return times_s


def _cpu_s(replicas: int, times_s: Sequence[float]) -> float:
    """Return the CPU of bringing a cluster over all arrivals [s]; as many requests, whatever the
    replicas.
    """
    env = simpy.Environment()
    cluster = Cluster(env, _spec(replicas), seed=np.random.SeedSequence(1))
    due = iter(times_s)

    def arrive() -> None:
        cluster.submit(
            Request(server="s", arrival_s=env.now, prompt_tokens=PROMPT, output_tokens=OUTPUT)
        )
        await_next()

    def await_next() -> None:
        at_s = next(due, None)
        if at_s is not None:
            at(env, at_s, priority=ARRIVAL, action=arrive)

    gc.collect()
    begin_s = process_time()
    await_next()
    env.run(until=times_s[-1])
    cluster.advance()
    return process_time() - begin_s


def _spec(replicas: int) -> ClusterSpec:
    server = Server(
        name="s",
        model="m",
        pool=Pool(accelerator="A", replicas=replicas, max_batch=MAX_BATCH),
        router="least_outstanding",
    )
    return ClusterSpec(
        accelerators={"A": Accelerator(name="A", type="A", cost_cents_per_h=100.0)},
        capacity={"A": replicas},
        engines={
            ("m", "A"): EngineSpec(
                model="m", accelerator="A", latency_model=MODEL, kv_tokens=KV_TOKENS
            )
        },
        servers=(server,),
    )
