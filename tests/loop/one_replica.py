"""One replica of the twin at a rate: what share of its requests meets its targets; and cases to ask
it of, sampled from the data of a system.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from loop.optimizer.front import SizingCache
from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.ours import OURS
from loop.optimizer.sizing import MS_PER_MIN, size_all
from loop.optimizer.table import GOOD
from loop.spec import Allocation, Perf, ServerData, SloTarget, SystemData
from loop.types import Load
from twin.arrivals import token_counts
from twin.engine.port import make_engine
from twin.request import Request
from twin.spec import EngineSpec

WARM_UP = 0.1  # of the requests
LONGEST_WAITS = 50  # that a run lasts at least


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model on an accelerator under a mix of tokens, and the rate that a replica is allowed."""

    perf: Perf
    target: SloTarget
    percentile: float
    server: ServerData
    max_batch: int
    rate_max_rpm: float


def sampled(
    data: SystemData, rng: np.random.Generator, batches: tuple[int, ...] = (0, 256)
) -> Iterator[Case]:
    """Yield cases without end: pairs of *data*, a class, tokens and one of *batches* (0: as the
    data say), but for those that can meet their targets at no rate.
    """
    rows = sorted(data.perf.values(), key=lambda row: (row.model, row.accelerator))
    while True:
        perf = rows[rng.integers(len(rows))]
        classes = [
            one
            for one in data.classes.values()
            if (target := one.targets.get(perf.model)) is not None
            and max(target.slo_itl_ms, target.slo_ttft_ms) > 0.0
        ]
        in_tokens = round(math.exp(rng.uniform(math.log(64), math.log(3000))))
        out_tokens = round(math.exp(rng.uniform(math.log(16), math.log(800))))
        batch = int(rng.choice(batches))
        if not classes:
            continue
        chosen = classes[rng.integers(len(classes))]
        load = Load(rate_rpm=60.0, in_tokens=in_tokens, out_tokens=out_tokens)
        server = ServerData(
            name="s",
            model=perf.model,
            service_class=chosen.name,
            keep_accelerator=True,
            max_batch=batch,
            current=Allocation(accelerator=perf.accelerator, load=load),
        )
        case = allowed(data, server)
        if case is not None:
            yield case


def allowed(data: SystemData, server: ServerData) -> Case | None:
    """Return *server* on its present accelerator with the rate that a replica is allowed; None if
    it cannot be sized for the percentile of its class.
    """
    alone = replace(data, servers={server.name: server})
    settings = OptimizerSettings(rules=OURS)
    table = size_all(alone, settings, servers=[server], cache=SizingCache())
    percentile = data.percentile(server.service_class)
    if not len(table.verdict) or table.verdict[0] != GOOD or table.percentile[0] < percentile:
        return None
    target = data.target(service_class=server.service_class, model=server.model)
    assert target is not None
    return Case(
        perf=data.perf[server.model, server.current.accelerator],
        target=target,
        percentile=percentile,
        server=server,
        max_batch=int(table.columns.max_batch[0]),
        rate_max_rpm=float(table.rate_max[0]) * MS_PER_MIN,
    )


def share_met(case: Case, *, rate_rpm: float, requests: int, seed: int) -> float:
    """Return the share of *requests* arriving at *rate_rpm* that meet both targets.

    There are more of them where so many are over before a queue as long as the target allows could
    build up.
    """
    perf, target, load = case.perf, case.target, case.server.current.load
    assert load is not None
    longest_s = max(target.slo_ttft_ms, 1000.0) / 1000.0
    requests = max(requests, int(rate_rpm / 60.0 * LONGEST_WAITS * longest_s))
    spec = EngineSpec(
        model=perf.model,
        accelerator=perf.accelerator,
        latency_model=perf.latency_model,
        overhead_ms=perf.overhead_ms,
        scheduling=perf.scheduling,
        kv_tokens=perf.kv_tokens,
    )
    ended: list[Request] = []
    engine = make_engine(
        spec,
        max_batch=case.max_batch,
        queue_max=None,
        on_finish=lambda request, _finish_s: ended.append(request),
    )
    rng_arrivals, rng_in, rng_out = (
        np.random.default_rng(one) for one in np.random.SeedSequence(seed).spawn(3)
    )
    times = np.cumsum(_gaps(rng_arrivals, requests, case.server.arrival_cv)) * 60.0 / rate_rpm
    cv = case.server.token_cv
    prompts, answers = (
        token_counts(rng, requests, mean=mean, distribution="lognormal", cv=cv).tolist()
        for rng, mean in ((rng_in, load.in_tokens), (rng_out, load.out_tokens))
    )
    first = int(WARM_UP * requests)
    for number, (at_s, prompt, answer) in enumerate(
        zip(times.tolist(), prompts, answers, strict=True)
    ):
        request = Request(prompt_tokens=prompt, output_tokens=answer, arrival_s=at_s, id=number)
        engine.submit(request, at_s)
    engine.advance(math.inf, inclusive=False)
    met = sum(_is_met(request, target) for request in ended if request.id >= first)
    return met / (requests - first)


def _gaps(rng: np.random.Generator, count: int, cv: float) -> np.ndarray:
    if cv == 1.0:
        return rng.standard_exponential(count)
    return rng.standard_gamma(1.0 / cv**2, count) * cv**2


def _is_met(request: Request, target: SloTarget) -> bool:
    ttft_ms = 1000.0 * (request.first_token_s - request.arrival_s)
    later = request.output_tokens - 1
    itl_ms = 1000.0 * (request.last_token_s - request.first_token_s) / later if later else 0.0
    return not (0.0 < target.slo_ttft_ms < ttft_ms or 0.0 < target.slo_itl_ms < itl_ms)
