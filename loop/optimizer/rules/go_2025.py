"""The rules of the Go optimizer of mid 2025 (v0.1.0), for messages of that time (--compat-early).

A request has one length K, of tokens generated one an iteration: n requests at once are served at n
/ (K·(alpha + beta·n)), at most 10·N in the system for a batch of N. Targets are slo-itl (S / K),
slo-ttw (mean wait at most slo-ttw / -ln 0.05, so that an exponential wait keeps it in 95 % of
cases) and slo-tps. Priority is soft: it weighs what waiting would cost. What the others call TTFT
is the mean wait here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from loop.optimizer.catalog import make_catalog, make_pairs
from loop.optimizer.model import Floats, Ints
from loop.optimizer.model.queueing import (
    RATE_MAX_SHARE,
    RATE_MIN_SHARE,
    Metrics,
    Model,
    ReplicaColumns,
    analyze,
    make_chain,
)
from loop.optimizer.model.rates import Targets, blocks, highest_rates
from loop.optimizer.rules.go_today import GO_TODAY, STEPWISE
from loop.optimizer.table import (
    GOOD,
    ITL_SHORT,
    NO_LATENCY_MODEL,
    TARGET_SHORT,
    CandidateTable,
    Means,
    Sized,
    make_table,
)
from loop.spec import OptimizerData
from loop.types import Why

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loop.optimizer.cache import SizingCache
    from loop.optimizer.catalog import Pairs
    from loop.optimizer.model import Rows
    from loop.optimizer.rules import OptimizerSettings
    from loop.optimizer.table import Problem
    from loop.spec import ServerData, SystemData

QUEUE_PER_BATCH = 9  # the system holds ten batches, one of them in service
WAIT_MARGIN = -math.log(0.05)


def flags(given: OptimizerData) -> OptimizerData:
    """Return the one flag that counts: neither parts nor several accelerators are known."""
    return OptimizerData(unlimited=given.unlimited)


@np.errstate(under="ignore")
def size(
    data: SystemData,
    settings: OptimizerSettings,
    *,
    servers: Sequence[ServerData],
    cache: SizingCache,  # noqa: ARG001 the rules' port: nobody asks so often that it would pay
) -> CandidateTable:
    """Return the candidates of *servers*; the ttft column holds the mean wait."""
    catalog = make_catalog(data)
    pairs = make_pairs(data, catalog, settings.rules, servers=servers)
    perf, asked = pairs.perf, pairs.asked
    length = asked.out_tokens
    count = len(pairs.server)
    able = (perf.alpha + perf.beta > 0.0) & (length > 0.0) & (asked.rate_rpm > 0.0)
    batch = np.maximum(pairs.batch_by_tokens, 1.0)
    columns = _columns(pairs, batch.astype(np.int64))
    wait = np.array([_wait_target(data, server) for server in servers])[pairs.server]
    targets = Targets(asked.slo_itl, wait, asked.slo_tps, np.zeros(count))
    need = settings.rules.need(asked)
    found = _Found(
        rate=np.zeros(count),
        itl=np.zeros(count),
        wait=np.zeros(count),
        rho=np.zeros(count),
        best_itl=np.zeros(count),
        binding=np.zeros(count, dtype=np.int64),
    )
    good = np.flatnonzero(able)
    for part in blocks(columns.max_batch[good]):
        rows = good[part]
        model = _model(columns.take(rows), length[rows])
        _search(found, model, targets.take(rows), need, rows)
    verdict = np.where(able, GOOD, NO_LATENCY_MODEL)
    verdict = np.where(able & (found.rate == 0.0), _missed(found, targets), verdict)
    sized = Sized(
        accelerator=pairs.accelerator,
        columns=columns,
        wanted_batch=columns.max_batch,
        replicas=np.ceil(need / np.where(found.rate > 0.0, found.rate, np.inf)).astype(np.int64),
        means=Means(found.itl, found.wait, found.rho),
        rate_max=found.rate,
        limit=found.rate,
        binding=found.binding,
        verdict=verdict,
        best_itl=found.best_itl,
        best_ttft=np.zeros(count),
        percentile=asked.percentile,
        need=need,
    )
    return make_table(data, catalog, pairs, sized, servers=servers)


def _columns(pairs: Pairs, batch: Ints) -> ReplicaColumns:
    """Return the replicas in the words of the later model: no prompt, and nothing read of
    a KV cache.
    """
    none = np.zeros(len(batch))
    return ReplicaColumns(
        pairs.perf.alpha,
        pairs.perf.beta,
        none,
        none,
        # With the iteration of the prefill, as many as the early model counts.
        np.maximum(pairs.asked.out_tokens - 1.0, 0.0),
        batch,
        QUEUE_PER_BATCH * batch.astype(np.float64),
        np.full(len(batch), np.inf),
        none,
        none,
        np.ones(len(batch)),
        none,
        none,
        none,
        np.ones(len(batch)),
        np.ones(len(batch)),
        none,
        none,
        none,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """What is found out about each row, written to row by row; rate 0 if no rate meets the
    targets. rho is the share of time in which there is any request.
    """

    rate: Floats
    itl: Floats
    wait: Floats
    rho: Floats
    best_itl: Floats
    binding: Ints


def _wait_target(data: SystemData, server: ServerData) -> float:
    target = data.target(service_class=server.service_class, model=server.model)
    return target.slo_ttw_ms / WAIT_MARGIN if target else 0.0


def _model(columns: ReplicaColumns, length: Floats) -> Model:
    """Return the chain of the early service rates as a Model; of its columns only alpha and the
    length are used.
    """
    states = np.arange(1, int(columns.max_batch.max()) + 1, dtype=np.float64)[None, :]
    times = length[:, None] * (columns.alpha[:, None] + columns.beta[:, None] * states)
    rows = np.arange(len(columns))
    return Model(
        columns=columns,
        chunks=None,
        prefill=np.zeros(len(columns)),
        delta=columns.beta,
        steady=np.ones(len(columns), dtype=np.bool_),
        chain=make_chain(times, max_batch=columns.max_batch, max_queue=columns.max_queue),
        rate_min=RATE_MIN_SHARE / times[:, 0],
        rate_max=RATE_MAX_SHARE * columns.max_batch / times[rows, columns.max_batch - 1],
    )


def _figures(found: Metrics) -> Floats:
    """Return service time, wait and nothing: the early targets are on these."""
    return np.stack([found.response - found.wait, found.wait, np.zeros_like(found.wait)])


def _search(found: _Found, model: Model, targets: Targets, need: Floats, rows: Rows) -> None:
    length = model.columns.out_tokens + 1.0
    wanted = replace(targets, itl=targets.itl * length)
    limits = highest_rates(model, wanted, search=STEPWISE, figures=_figures)
    found.best_itl[rows] = limits.itl_floor / length
    rate = np.nan_to_num(limits.rate)
    each = need[rows] / np.maximum(np.ceil(need[rows] / np.where(rate > 0.0, rate, np.inf)), 1.0)
    seen = analyze(model, np.where(rate > 0.0, each, model.rate_min))
    found.rate[rows] = rate
    found.itl[rows] = (seen.response - seen.wait) / length
    found.wait[rows] = seen.wait
    found.rho[rows] = 1.0 - seen.idle
    found.binding[rows] = limits.binding


def _missed(found: _Found, targets: Targets) -> Ints:
    return np.where((targets.itl > 0.0) & (found.best_itl > targets.itl), ITL_SHORT, TARGET_SHORT)


def by_name(table: CandidateTable, rows: Rows) -> Floats:  # noqa: ARG001 the rules' port
    """Return that nothing but names decides between options of equal value: so they fell when a
    control loop of that time was recorded.
    """
    return np.zeros(len(rows))


def soft_priority(priority: Sequence[int]) -> list[float]:
    """Return how much what a server would lose by waiting counts."""
    return [1.0 + 1.0 / (1.0 + each) for each in priority]


def why_unserved(
    table: CandidateTable,
    problem: Problem,
    i: int,
    left: Sequence[int],  # noqa: ARG001 the rules' port
    settings: OptimizerSettings,  # noqa: ARG001 the rules' port
) -> Why:
    """Return why server *i* has nothing, in few words: more were never said."""
    if problem.options[i]:
        return Why(kind="capacity", text="capacity")
    none = Why(kind="infeasible", text="no accelerator meets its targets")
    return table.problem.get(table.servers[i], none)


GO_2025 = replace(
    GO_TODAY,
    name="go-2025",
    flags=flags,
    size=size,
    tie_break=by_name,
    weight=soft_priority,
    why_unserved=why_unserved,
)
