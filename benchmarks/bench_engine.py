"""The speed of the compiled engine against the plain one: one replica, everything on.

KV limit, records, scrapes every 15 s, overhead, a share of cached prefixes, asynchronous
scheduling; Poisson arrivals of 128 input and 512 output tokens at a mean batch of about 24, as in
bench_replica. Samples are taken once a minute, as where a controller looks so often. Runs of both
are interleaved and the minima of CPU time compared.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from time import process_time
from typing import Any

import numpy as np

from benchmarks.bench_replica import (
    AMPLE,
    LONG,
    MAX_BATCH,
    MODEL,
    PROMPT,
    SCRAPE_S,
    TIGHT,
    Workload,
    figure,
)
from twin.engine.compiled.columns import LEAST_OUTSTANDING
from twin.engine.compiled.table import ReplicaTable
from twin.engine.compiled.visit import Stretch, Visit
from twin.engine.written_out import WrittenOut
from twin.request import RequestBatch, RequestLog
from twin.spec import EngineSpec

ROUNDS = 15
PLAIN, COMPILED = 2_000, 20_000
TOGETHER = 4  # scrapes whose samples are taken at once
SUM = EngineSpec(
    model="m",
    accelerator="A",
    latency_model=MODEL,
    overhead_ms=8.0,
    prefix_share=0.3,
    scheduling="async",
)
ROOFLINE = replace(SUM, latency_model=replace(MODEL, launch_ms=1.5, p=2.5))
# With a third of the prompt cached, as much memory as preempts 2 to 5 %.
SHORT_OF_MEMORY = replace(TIGHT, kv_tokens=14_400)


def figures() -> Iterator[dict[str, Any]]:
    """Yield the figures; the first run of all compiles, and counts for nothing."""
    cases = {
        "plain": (SUM, AMPLE, False),
        "fast": (SUM, AMPLE, True),
        "roofline": (ROOFLINE, AMPLE, True),
        "plain_tight": (SUM, SHORT_OF_MEMORY, False),
        "tight": (SUM, SHORT_OF_MEMORY, True),
        "long": (SUM, LONG, True),
    }
    best = dict.fromkeys(cases, inf)
    for _ in range(ROUNDS):
        for name, (spec, workload, compiled) in cases.items():
            cpu_s, log = measured(spec, workload, compiled=compiled)
            best[name] = min(best[name], cpu_s)
            if name == "tight":
                share = float(np.mean(log.frame()["preemptions"] > 0))
                assert 0.02 <= share <= 0.05, f"2 to 5 % should be preempted, got {share:.3f}"
    yield figure("engine_fast_vs_plain", best["plain"] / best["fast"], "ratio")
    yield figure("engine_fast_requests_per_cpu_s", 1.0 / best["fast"], "requests/s")
    yield figure("engine_fast_roofline_requests_per_cpu_s", 1.0 / best["roofline"], "requests/s")
    yield figure("fast_output_length_ratio", best["long"] / best["fast"], "ratio")
    yield figure("fast_kv_tight_vs_plain", best["plain_tight"] / best["tight"], "ratio")


def measured(spec: EngineSpec, workload: Workload, *, compiled: bool) -> tuple[float, RequestLog]:
    """Run a replica over its arrivals; return the CPU time of a request, and the records."""
    count = COMPILED if compiled else PLAIN
    gaps_s = np.random.default_rng(1).exponential(1.0 / workload.rate_rps, count)
    batch = RequestBatch(
        times_s=np.cumsum(gaps_s),
        prompt_tokens=np.full(count, PROMPT),
        output_tokens=np.full(count, workload.output),
    )
    scrapes_s = np.arange(SCRAPE_S, batch.times_s[-1], SCRAPE_S)
    ends = [*np.searchsorted(batch.times_s, scrapes_s, side="right").tolist(), count]
    steps = list(zip([0, *ends[:-1]], ends, [*scrapes_s.tolist(), inf], strict=True))
    log = RequestLog()
    run = _compiled if compiled else _plain
    gc.collect()
    before_s = process_time()
    run(replace(spec, kv_tokens=workload.kv_tokens), batch, steps, log)
    log.frame()
    return (process_time() - before_s) / count, log


Steps = list[tuple[int, int, float]]


def _plain(spec: EngineSpec, batch: RequestBatch, steps: Steps, log: RequestLog) -> None:
    replica = WrittenOut.of_spec(
        spec, max_batch=MAX_BATCH, queue_max=None, on_finish=log.add_finished
    )
    for begin, end, until_s in steps:
        for request in batch.requests("s", begin, end):
            replica.submit(request, request.arrival_s)
        replica.advance(until_s, inclusive=until_s < inf)
        if until_s < inf:
            replica.scraped(until_s)


def _compiled(spec: EngineSpec, batch: RequestBatch, steps: Steps, log: RequestLog) -> None:
    table = ReplicaTable(records=log)
    replica = table.add(spec, server="s", index=0, max_batch=MAX_BATCH, queue_max=None)
    route = (LEAST_OUTSTANDING, 0, np.empty(0))
    scraped, (last, end, _) = steps[:-1], steps[-1]
    for first in range(0, len(scraped), TOGETHER):
        some = scraped[first : first + TOGETHER]
        begin, upto = some[0][0], some[-1][1]
        visit = Visit(0, Stretch(batch, begin, upto, begin, route), [replica], [replica])
        table.sample([visit], [until_s for _, _, until_s in some])
    table.serve(0, Stretch(batch, last, end, last, route), [replica])
    replica.advance(inf, inclusive=False)
