"""Random worlds at the edges of what can be set: samples every second, windows without an end,
memory for less than a prompt, no queue, answers of one token, and crashes in the midst of it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import numpy as np
import simpy

from twin.kernel import ARRIVAL, CONTROL, LOAD, at
from twin.request import Request, RequestBatch
from twin.serving.cluster import Cluster
from twin.spec import ClusterSpec, Delay, LatencyModel, Pool, Server, World
from twin.testing.worlds import spec_of

END_S = 60.0
REQUESTS = 120
EXPECTED, USERS = ("s", "t"), "users"


def played_oddly(seed: int, *, expected: bool = True, compiled: bool = False) -> list[object]:
    """Return what came of the world of *seed*: its requests *expected*, or submitted at their
    instants.
    """
    rng = Random(seed)
    spec, env = _spec(rng), simpy.Environment()
    cluster = Cluster(env, spec, seed=np.random.SeedSequence(seed), compiled=compiled)
    for index, server in enumerate(EXPECTED):
        batch = _requests(np.random.default_rng((seed, index)), spec.world.scrape_interval_s)
        cut = rng.randrange(REQUESTS)
        if expected:
            # Two at once, and one that comes as late as it may.
            for part, known_s in ((slice(cut), 0.0), (slice(cut, None), batch.times_s[cut])):
                one = RequestBatch(
                    times_s=batch.times_s[part],
                    prompt_tokens=batch.prompt_tokens[part],
                    output_tokens=batch.output_tokens[part],
                )
                if len(one):
                    expect = partial(cluster.expect, server, one)
                    at(env, float(known_s), priority=LOAD, action=expect)
        else:
            for request in batch.requests(server):
                submit = partial(cluster.submit, request)
                at(env, request.arrival_s, priority=ARRIVAL, action=submit)
    ended = _ask_again_and_again(env, cluster, rng)
    seen: list[object] = []
    _act_at_times(env, cluster, rng)
    look_s = rng.choice([0.5, 7.0, 13.0, 29.0])
    for t_s in np.arange(look_s, END_S, look_s).tolist():
        at(env, t_s, priority=CONTROL, action=lambda: seen.append(str(cluster.snapshot())))
    env.run(until=END_S)
    seen.append(str(cluster.snapshot()))
    unfinished = cluster.unfinished()
    cluster.record_unfinished()
    frame, pods = cluster.requests.frame(), cluster.pods.frame()
    order = np.lexsort((frame["id"], frame["server"]))
    return [
        *seen,
        ended,
        [(one.id, one.generated, one.preemptions, one.admitted) for one in unfinished],
        {name: column[order].tobytes() for name, column in frame.items()},
        {name: str(column.tolist()) for name, column in pods.items()},
    ]


def _spec(rng: Random) -> ClusterSpec:
    model = rng.choice(
        [
            LatencyModel(alpha_ms=250.0, beta_ms=0.0, gamma_ms=0.0),
            LatencyModel(alpha_ms=0.0, beta_ms=31.0, gamma_ms=0.7),
            LatencyModel(alpha_ms=97.3, beta_ms=1.7, gamma_ms=0.013, sequence_ms=19.0),
            LatencyModel(alpha_ms=51.1, beta_ms=2.3, gamma_ms=0.11, launch_ms=40.0, p=1.3),
            LatencyModel(alpha_ms=91.0, beta_ms=9.3, gamma_ms=1.1, p=8.0, attention=0.01),
            LatencyModel(
                alpha_ms=140.0, beta_ms=2.1, gamma_ms=0.02, experts_ms=110.0, experts_idle=0.75
            ),
        ]
    )
    interval_s = rng.choice([0.5, 1.0, 1.0, 4.0, 9.7])
    servers = [
        Server(
            name=name,
            model=name,
            pool=Pool(accelerator="A", replicas=rng.randint(0, 4), max_batch=rng.choice([1, 3, 9])),
            queue_max=rng.choice([None, 0, 0, 1, 5]),
            router=rng.choice(["least_outstanding", "round_robin", "random", "prefix_aware"]),
            crash_rate_per_h=rng.choice([0.0, 400.0]),
            crash_policy=rng.choice(["requeue", "fail"]),
            max_batch_change=rng.choice(["live", "rolling"]),
            prefix_share=rng.choice([None, 0.0, 0.99]),
        )
        for name in (*EXPECTED, USERS)
    ]
    spec = spec_of(
        *servers,
        capacity={"A": 12, "B": 4},
        latency_model=model,
        start_up=Delay(mean_s=rng.choice([0.3, 1.0, 6.0]), cv=rng.choice([0.0, 0.5])),
        kv_tokens=rng.choice([None, 16, 40, 64, 130, 400]),
        world=World(
            scrape_interval_s=interval_s,
            window_s=rng.choice([0.3, interval_s, 10.0, 600.0]),
            drain_timeout_s=rng.choice([None, 0.0, 3.0]),
            actuation_delay=Delay(mean_s=rng.choice([0.0, 2.0]), cv=0.3),
        ),
    )
    changes: dict[str, Any] = {
        "overhead_ms": rng.choice([0.0, 250.0]),
        "scheduling": rng.choice(["sync", "async"]),
        "prefix_share": rng.choice([0.0, 0.5, 1.0]),
        "block_size": rng.choice([1, 7, 16]),
        "max_num_batched_tokens": rng.choice([9, 10, 30, 8192]),
        "admission": rng.choice(["chunk", "full_prompt"]),
        "tokens_per_step": rng.choice([1.0, 1.0, 1.0, 1.0, 1.5]),
    }
    engines = {key: replace(engine, **changes) for key, engine in spec.engines.items()}
    return replace(spec, engines=engines)


def _requests(rng: np.random.Generator, interval_s: float) -> RequestBatch:
    kind = rng.integers(3)
    if kind == 0:  # right at the scrapes, several of them at once
        steps = int(END_S / interval_s)
        times_s = np.sort(rng.integers(0, steps, REQUESTS)) * interval_s
    elif kind == 1:
        times_s = np.sort(rng.integers(0, int(4 * END_S), REQUESTS)) / 4.0
    else:  # all in a few seconds
        times_s = np.sort(18.0 + 5.0 * rng.random(REQUESTS))
    longest = int(rng.choice([2, 30, 200]))
    return RequestBatch(
        times_s=times_s.astype(np.float64),
        prompt_tokens=rng.integers(1, rng.choice([2, 60, 300]), REQUESTS),
        output_tokens=rng.integers(1, longest, REQUESTS),
    )


def _ask_again_and_again(
    env: simpy.Environment, cluster: Cluster, rng: Random
) -> list[tuple[int, float]]:
    """Have a few users wait for their answers; return what ended when."""
    ended: list[tuple[int, float]] = []
    sizes = Random(rng.random())

    def ask(now_s: float) -> None:
        cluster.submit(
            Request(
                server=USERS,
                arrival_s=now_s,
                prompt_tokens=sizes.randint(1, 50),
                output_tokens=sizes.choice([1, 2, 40]),
            )
        )

    def again(request: Request, end_s: float) -> None:
        ended.append((request.id, end_s))
        next_s = max(end_s, env.now) + sizes.choice([0.25, 1.0])
        at(env, next_s, priority=ARRIVAL, action=partial(ask, next_s))

    cluster.watch(USERS, again)
    for number in range(rng.choice([0, 1, 6])):
        at(env, 0.25 * number, priority=ARRIVAL, action=partial(ask, 0.25 * number))
    return ended


def _act_at_times(env: simpy.Environment, cluster: Cluster, rng: Random) -> None:
    interval_s = cluster.spec.world.scrape_interval_s
    steps = int(END_S / interval_s)
    for _ in range(rng.choice([3, 12])):
        # Half of it at instants of scrapes, which come after it.
        t_s = rng.randrange(1, steps) * interval_s if rng.random() < 0.5 else rng.random() * END_S
        at(env, t_s, priority=CONTROL, action=partial(_act, rng, cluster))


def _act(rng: Random, cluster: Cluster) -> None:
    act, name = rng.random(), rng.choice([*EXPECTED, USERS])
    deployment = cluster.server(name)
    if act < 0.5:
        pool = Pool(
            accelerator=rng.choice(["A", "A", "B", "2xA"]),
            replicas=rng.choice([0, 1, 2, 5]),
            max_batch=rng.choice([1, 2, 9]),
        )
        cluster.scale(name, pool)
    elif act < 0.8:
        ready = [pod for pod in deployment.pods if pod.phase == "ready"]
        if ready:
            pod = rng.choice(ready)
            if rng.random() < 0.5:
                deployment.crash(pod)
            else:
                deployment.evict([pod])
    elif act < 0.9:
        cluster.set_capacity("A", rng.randint(0, 12))
    else:
        cluster.fail_node("A", rng.randint(1, 3))
        cluster.set_capacity("A", 12)
