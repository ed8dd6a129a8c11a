"""The speed and the size of one replica, against the plain per-iteration one of the tests.

Both are driven by the same SimPy processes: Poisson arrivals of 128 input and 512 output tokens at
a mean batch of about 24, a scrape every 15 s, a KV limit, a log of all requests. Many short runs
are interleaved and their minima of CPU time are compared, for a busy machine then disturbs the
ratios little.
"""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from math import inf
from time import process_time
from typing import Any

import numpy as np
import simpy

from twin.engine.written_out import WrittenOut
from twin.request import Request, RequestLog
from twin.spec import LatencyModel
from twin.testing.naive_replica import NaiveReplica

# Llama-3.1-8B on an H100 (published fit); one request beside 23 others takes about 3.9 s.
MODEL = LatencyModel(alpha_ms=6.49, beta_ms=0.0219, gamma_ms=4.96e-5)
MAX_BATCH = 64
PROMPT = 128
SCRAPE_S = 15.0
ROUNDS, FAST_RUNS_PER_ROUND = 12, 4
REQUESTS_NAIVE, REQUESTS = 300, 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Arrivals at a rate that keeps the mean batch at 24, before a KV cache of kv_tokens."""

    output: int = 512
    rate_rps: float = 6.2
    kv_tokens: int = 41_408


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run: CPU per request, events processed, and what the log says."""

    cpu_s: float
    steps: float
    log: RequestLog


AMPLE = Workload()
TIGHT = Workload(kv_tokens=14_400)
LONG = Workload(output=1024, rate_rps=3.03)


def figures() -> Iterator[dict[str, Any]]:
    """Yield the figures that concern one replica."""
    best: dict[str, Measured] = {}
    slow = (("naive", run_naive, AMPLE), ("naive_tight", run_naive, TIGHT))
    fast = (
        ("fast", run_fast, AMPLE),
        ("fast_tight", run_fast, TIGHT),
        ("fast_long", run_fast, LONG),
    )
    for name, run, workload in (slow + fast * FAST_RUNS_PER_ROUND) * ROUNDS:
        measured = run(workload)
        best[name] = min(best.get(name, measured), measured, key=lambda one: one.cpu_s)
    check_workload(best)
    ours = best["fast"]
    yield figure("twin_vs_naive", best["naive"].cpu_s / ours.cpu_s, "ratio")
    yield figure(
        "twin_vs_naive_kv_tight", best["naive_tight"].cpu_s / best["fast_tight"].cpu_s, "ratio"
    )
    yield figure("steps_per_request", ours.steps, "steps")
    yield figure("output_length_ratio", best["fast_long"].cpu_s / ours.cpu_s, "ratio")
    yield figure("bytes_per_request", ours.log.nbytes / len(ours.log), "bytes")
    yield figure("requests_per_cpu_s", 1.0 / ours.cpu_s, "requests/s")


def figure(name: str, value: float, unit: str) -> dict[str, Any]:
    """Return one line of the output, to four digits."""
    return {"name": name, "value": float(f"{value:.4g}"), "unit": unit}


def check_workload(best: dict[str, Measured]) -> None:
    """Stop if the runs are not those that the figures are defined for."""
    for name in ("fast", "fast_long"):
        frame = best[name].log.frame()
        batch = np.sum(frame["finish_s"] - frame["arrival_s"]) / np.max(frame["finish_s"])
        assert 23 <= batch <= 25, f"{name}: the mean batch should be about 24, got {batch:.1f}"
    preempted = float(np.mean(best["fast_tight"].log.frame()["preemptions"] > 0))
    assert 0.02 <= preempted <= 0.05, f"2 to 5 % should be preempted, got {100 * preempted:.1f} %"


def run_fast(workload: Workload) -> Measured:
    """Run the twin's replica, advanced only when it is asked."""
    env = simpy.Environment()
    log = RequestLog()
    replica = WrittenOut(
        latency_model=MODEL,
        max_batch=MAX_BATCH,
        kv_tokens=workload.kv_tokens,
        on_finish=log.add_finished,
    )
    gaps_s = draw_gaps(workload, REQUESTS)

    def arrive() -> Generator[simpy.Event, None, None]:
        for number, gap_s in enumerate(gaps_s):
            yield env.timeout(gap_s)
            request = Request(
                id=number, prompt_tokens=PROMPT, output_tokens=workload.output, arrival_s=env.now
            )
            replica.submit(request, env.now)

    def scrape() -> Generator[simpy.Event, None, None]:
        while True:
            yield env.timeout(SCRAPE_S)
            replica.advance(env.now, inclusive=True)
            replica.read(env.now)

    env.process(scrape())
    arrivals = env.process(arrive())
    gc.collect()
    before_s = process_time()
    env.run(until=arrivals)
    replica.advance(inf, inclusive=True)
    cpu_s = process_time() - before_s
    return Measured(cpu_s=cpu_s / REQUESTS, steps=replica.steps / REQUESTS, log=log)


def run_naive(workload: Workload) -> Measured:
    """Run the plain replica of the tests on the first of the same arrivals."""
    env = simpy.Environment()
    log = RequestLog()
    naive = NaiveReplica(
        env,
        latency_model=MODEL,
        max_batch=MAX_BATCH,
        kv_tokens=workload.kv_tokens,
        on_finish=log.add_finished,
    )
    gaps_s = draw_gaps(workload, REQUESTS)[:REQUESTS_NAIVE]

    def arrive() -> Generator[simpy.Event, None, None]:
        for number, gap_s in enumerate(gaps_s):
            yield env.timeout(gap_s)
            request = Request(
                id=number, prompt_tokens=PROMPT, output_tokens=workload.output, arrival_s=env.now
            )
            naive.submit(request)

    def scrape() -> Generator[simpy.Event, None, None]:
        while len(log) < REQUESTS_NAIVE:
            yield env.timeout(SCRAPE_S)
            naive.read()

    env.process(scrape())
    env.process(arrive())
    gc.collect()
    before_s = process_time()
    env.run()
    cpu_s = process_time() - before_s
    return Measured(cpu_s=cpu_s / REQUESTS_NAIVE, steps=naive.iterations / REQUESTS_NAIVE, log=log)


def draw_gaps(workload: Workload, count: int) -> list[float]:
    """Return the times between *count* Poisson arrivals, the same in every round."""
    gaps: list[float] = (
        np.random.default_rng(1).exponential(1.0 / workload.rate_rps, count).tolist()
    )
    return gaps
