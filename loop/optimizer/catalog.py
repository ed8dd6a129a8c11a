"""From SystemData to columns: every pair of a server and an accelerator that has data for its
model. Sizes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from loop.optimizer.model import Floats, Ints, Rows
from loop.types import Load, Why
from twin.frozen import made_quickly

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from loop.spec import Perf, ServerData, SystemData

NO_LOAD = Load(rate_rpm=0.0, in_tokens=0.0, out_tokens=0.0)
NO_ACCELERATOR, UNKNOWN_ACCELERATOR = -1, -2


@made_quickly
@dataclass(frozen=True, slots=True)
class PerfColumns:
    """What the data say of a model on an accelerator, a row each.

    alpha [ms], beta, gamma [ms/token]: latency model as a sum, all that the Go optimizers know; of
    ours alpha is fixed in truth, of which launch [ms] stands alone in a soft roofline with the
    exponent p, and experts [ms] · unread^n is saved by an iteration of n tokens; attention: by
    which share of beta a token of a prompt takes longer for each before it; sequence [ms]: what the
    host does for each request of an iteration; overhead [ms]:
    what a request spends outside the engine; ahead: iterations that it plans in advance; per_step:
    tokens that a step adds to an answer; acc_count: accelerators of a replica; max_batch [requests]
    was seen at requests of at_tokens [output tokens]; kv_tokens: KV cache of a replica [tokens],
    inf if it is not limited.
    """

    alpha: Floats
    beta: Floats
    gamma: Floats
    fixed: Floats
    launch: Floats
    p: Floats
    experts: Floats
    unread: Floats
    attention: Floats
    sequence: Floats
    overhead: Floats
    ahead: Floats
    per_step: Floats
    acc_count: Floats
    max_batch: Floats
    at_tokens: Floats
    kv_tokens: Floats

    @classmethod
    def of(cls, found: Sequence[Perf]) -> Self:
        """Return the columns of *found*."""
        models = [perf.latency_model for perf in found]
        return cls(
            np.array([perf.alpha_ms for perf in found], dtype=np.float64),
            np.array([perf.beta_ms for perf in found], dtype=np.float64),
            np.array([perf.gamma_ms for perf in found], dtype=np.float64),
            np.array([model.alpha_ms for model in models], dtype=np.float64),
            np.array([model.launch_ms for model in models], dtype=np.float64),
            np.array([model.p for model in models], dtype=np.float64),
            np.array([model.experts_ms for model in models], dtype=np.float64),
            np.array([model.experts_idle for model in models], dtype=np.float64),
            np.array([model.attention for model in models], dtype=np.float64),
            np.array([model.sequence_ms for model in models], dtype=np.float64),
            np.array([perf.overhead_ms for perf in found], dtype=np.float64),
            np.array([perf.scheduling == "async" for perf in found], dtype=np.float64),
            np.array([perf.tokens_per_step for perf in found], dtype=np.float64),
            np.array([max(perf.acc_count, 1) for perf in found], dtype=np.float64),
            np.array([perf.max_batch for perf in found], dtype=np.float64),
            np.array([perf.at_tokens for perf in found], dtype=np.float64),
            np.array(
                [np.inf if perf.kv_tokens is None else perf.kv_tokens for perf in found],
                dtype=np.float64,
            ),
        )

    def take(self, rows: Rows) -> Self:
        """Return the given rows."""
        return type(self)(*(getattr(self, name)[rows] for name in PerfColumns.__slots__))


@made_quickly
@dataclass(frozen=True, slots=True)
class ServerColumns:
    """What the data say of servers, a row each.

    rate_rpm [requests/min], in_tokens and out_tokens: load; cached: of in_tokens, those that count
    as found in the prefix cache; held: of the KV cache, what each request of a batch is to have (0:
    what its tokens need); token_cv: coefficient of variation of both; dispersion: of
    arrivals, variance of counts over their mean; pooled: 1 where replicas share what comes, else 0;
    max_batch [requests] (0: not fixed); max_queue [requests]; least, most: how many replicas it
    must and may have (inf: any number); slo_itl and slo_ttft [ms], slo_tps [tokens/s] (0: not set);
    percentile: the share of requests that shall meet both latencies; what it has now: accelerator
    (index into the catalog, or NO_ACCELERATOR, UNKNOWN_ACCELERATOR), replicas, batch_now
    [requests], cost [cents/h].
    """

    rate_rpm: Floats
    in_tokens: Floats
    out_tokens: Floats
    cached: Floats
    held: Floats
    token_cv: Floats
    dispersion: Floats
    pooled: Floats
    max_batch: Floats
    max_queue: Floats
    least: Floats
    most: Floats
    slo_itl: Floats
    slo_ttft: Floats
    slo_tps: Floats
    percentile: Floats
    accelerator: Floats
    replicas: Floats
    batch_now: Floats
    cost: Floats

    def take(self, rows: Rows) -> Self:
        """Return the given rows."""
        return type(self)(*(getattr(self, name)[rows] for name in ServerColumns.__slots__))


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """What the system knows of accelerators and models; made once per call.

    names and types are sorted; index says where a name is. By accelerator index: type (index into
    types), multiplicity [GPUs], cost [cents/h]. perf: all rows of the data, sorted by accelerator
    within a model; models has the rows of each, accelerator the accelerator index of each row.
    """

    names: tuple[str, ...]
    index: Mapping[str, int]
    types: tuple[str, ...]
    type: Ints
    multiplicity: Ints
    cost: Floats
    perf: PerfColumns
    accelerator: Ints
    models: dict[str, Rows]


def make_catalog(data: SystemData) -> Catalog:
    """Return the catalog of *data*. Rows of the data for accelerators that do not exist are left
    out.
    """
    names = tuple(sorted(data.accelerators))
    index = {name: i for i, name in enumerate(names)}
    units = [data.accelerators[name] for name in names]
    types = tuple(sorted({unit.type for unit in units} | set(data.capacity)))
    type_index = {name: i for i, name in enumerate(types)}
    rows = sorted((model, index[name]) for model, name in data.perf if name in index)
    models: dict[str, list[int]] = {}
    for k, (model, _) in enumerate(rows):
        models.setdefault(model, []).append(k)
    return Catalog(
        names=names,
        index=index,
        types=types,
        type=np.array([type_index[unit.type] for unit in units], dtype=np.int64),
        multiplicity=np.array([unit.multiplicity for unit in units], dtype=np.int64),
        cost=np.array([unit.cost_cents_per_h for unit in units], dtype=np.float64),
        perf=PerfColumns.of([data.perf[model, names[i]] for model, i in rows]),
        accelerator=np.array([i for _, i in rows], dtype=np.int64),
        models={model: np.array(found, dtype=np.intp) for model, found in models.items()},
    )


@made_quickly
@dataclass(frozen=True, slots=True)
class Pairs:
    """Every (server, accelerator) pair, one row each; rows of a server are neighbours, start[i] is
    its first.

    perf and asked are what the data say of the model on the accelerator and of the server. problem
    says why a server has no rows.
    """

    server: Ints
    start: Ints
    accelerator: Ints
    perf: PerfColumns
    asked: ServerColumns
    problem: dict[str, Why]

    @property
    def batch_by_tokens(self) -> Floats:
        """Return the requests of the length asked for that make as many tokens as were seen
        together on the accelerator.
        """
        tokens = np.maximum(self.asked.out_tokens, 1.0)
        return self.perf.max_batch * self.perf.at_tokens // tokens


class DataRules(Protocol):
    """What the rules of an optimizer say about data: their first steps (rules.Rules)."""

    @property
    def absent_load(self) -> Load | None:
        """Return what a server is sized for of which no load is known; None: it is not sized."""
        ...

    @property
    def present_cost(self) -> Callable[[SystemData, ServerData], float]:
        """Return what says the cost of what a server has [cents/h]."""
        ...

    @property
    def perf(self) -> Callable[[PerfColumns], PerfColumns]:
        """Return what reads the data of a model on an accelerator."""
        ...

    @property
    def asked(self) -> Callable[[ServerColumns], ServerColumns]:
        """Return what reads the data of a server."""
        ...


def make_pairs(
    data: SystemData, catalog: Catalog, rules: DataRules, *, servers: Sequence[ServerData]
) -> Pairs:
    """Return the pairs of *servers*, with the load of their current allocation."""
    problem: dict[str, Why] = {}
    none = np.zeros(0, dtype=np.intp)
    rows: list[Rows] = [none]
    for server in servers:
        found = _rows_of(data, rules, catalog, server)
        if isinstance(found, Why):
            problem[server.name] = found
            found = none
        rows.append(found)
    counts = np.array([len(found) for found in rows[1:]], dtype=np.int64)
    owner = np.repeat(np.arange(len(servers)), counts)
    perf_rows = np.concatenate(rows)
    return Pairs(
        server=owner,
        start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        accelerator=catalog.accelerator[perf_rows],
        perf=rules.perf(catalog.perf.take(perf_rows)),
        asked=rules.asked(_server_columns(data, rules, catalog, servers, owner)),
        problem=problem,
    )


def _rows_of(
    data: SystemData, rules: DataRules, catalog: Catalog, server: ServerData
) -> Rows | Why:
    """Return the rows of the catalog that may serve *server*, or why there are none."""
    name = server.service_class or "Free"
    if name not in data.classes:
        return Why(kind="infeasible", text=f"no service class {name!r}")
    if data.target(service_class=name, model=server.model) is None:
        text = f"no target for model {server.model!r} in service class {name!r}"
        return Why(kind="infeasible", text=text)
    if server.model not in catalog.models:
        text = f"no perf data of model {server.model!r} on any accelerator"
        return Why(kind="infeasible", text=text)
    if server.current.load is None and rules.absent_load is None:
        return Why(kind="held-unknown", text="no load is known")
    rows = catalog.models[server.model]
    if server.keep_accelerator and server.current.accelerator:
        kept = server.current.accelerator
        rows = rows[catalog.accelerator[rows] == _index(catalog, kept)]
        if not len(rows):
            text = f"no perf data of model {server.model!r} on {kept!r}, which it must keep"
            return Why(kind="infeasible", text=text)
    if server.gpus_per_replica is not None:
        gpus = catalog.multiplicity[catalog.accelerator[rows]] * catalog.perf.acc_count[rows]
        rows = rows[gpus == server.gpus_per_replica]
        if not len(rows):
            text = (
                f"no perf data of model {server.model!r} on an accelerator of "
                f"{server.gpus_per_replica} GPUs, which its pods ask for"
            )
            return Why(kind="infeasible", text=text)
    if server.types is not None:
        there = np.array([kind in server.types for kind in catalog.types], dtype=np.bool_)
        rows = rows[there[catalog.type[catalog.accelerator[rows]]]]
        if not len(rows):
            found = ", ".join(sorted(server.types)) or "none"
            text = f"no GPUs that its pods can be put on serve model {server.model!r}: {found}"
            return Why(kind="capacity", text=text)
    return rows


def _index(catalog: Catalog, accelerator: str) -> int:
    # No accelerator at all is that of the candidate of no load; an unknown one equals nothing.
    if not accelerator:
        return NO_ACCELERATOR
    return catalog.index.get(accelerator, UNKNOWN_ACCELERATOR)


def _server_columns(
    data: SystemData,
    rules: DataRules,
    catalog: Catalog,
    servers: Sequence[ServerData],
    owner: Rows,
) -> ServerColumns:
    """Return what the data say of servers[owner[k]] in row k."""
    loads = [server.current.load or rules.absent_load or NO_LOAD for server in servers]
    targets = [
        data.target(service_class=server.service_class or "Free", model=server.model)
        for server in servers
    ]

    figures: dict[str, Sequence[float]] = {
        "rate_rpm": [load.rate_rpm for load in loads],
        "in_tokens": [load.in_tokens for load in loads],
        "out_tokens": [load.out_tokens for load in loads],
        "cached": [
            min(server.cached_tokens, load.in_tokens)
            for server, load in zip(servers, loads, strict=True)
        ],
        "held": [server.held_tokens for server in servers],
        "token_cv": [server.token_cv for server in servers],
        "dispersion": [server.dispersion for server in servers],
        "pooled": [server.pooled for server in servers],
        "max_batch": [server.max_batch for server in servers],
        "max_queue": [server.max_queue for server in servers],
        "least": [server.min_replicas for server in servers],
        "most": [
            math.inf if server.max_replicas is None else server.max_replicas for server in servers
        ],
        "slo_itl": [target.slo_itl_ms if target else 0.0 for target in targets],
        "slo_ttft": [target.slo_ttft_ms if target else 0.0 for target in targets],
        "slo_tps": [target.slo_tps if target else 0.0 for target in targets],
        "percentile": [data.percentile(server.service_class or "Free") for server in servers],
        "accelerator": [_index(catalog, server.current.accelerator) for server in servers],
        "replicas": [server.current.replicas for server in servers],
        "batch_now": [server.current.max_batch for server in servers],
        "cost": [rules.present_cost(data, server) for server in servers],
    }
    # One array and one look-up for all: an array a column took a tenth of sizing a small system.
    table = np.array(list(figures.values()), dtype=np.float64)[:, owner]
    return ServerColumns(**dict(zip(figures, np.ascontiguousarray(table), strict=True)))
