"""From SystemData to columns: every pair of a server and an accelerator that has data for its
model. Sizes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loop.optimizer.model.chain import Floats, Ints

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loop.optimizer.table import OptimizerSettings
    from loop.spec import ServerData, SystemData

LAW = ("alpha", "beta", "gamma", "count", "batch", "at_tokens", "kv_tokens")
SAID = (
    "rate",
    "in",
    "out",
    "batch",
    "queue",
    "least",
    "itl",
    "ttft",
    "tps",
    "accelerator",
    "replicas",
    "batch_now",
    "cost",
)


@dataclass(frozen=True, slots=True)
class Catalog:
    """What the system knows of accelerators and models, as arrays; made once per call."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    type: Ints
    multiplicity: Ints
    cost: Floats
    latency_models: dict[
        str, tuple[Ints, Floats]
    ]  # by model: accelerator indices; rows (alpha, beta, gamma, count, batch, at, kv)


def make_catalog(data: SystemData) -> Catalog:
    names = tuple(sorted(data.accelerators))
    index = {name: i for i, name in enumerate(names)}
    types = tuple(
        sorted(
            {accelerator.type for accelerator in data.accelerators.values()} | set(data.capacity)
        )
    )
    type_index = {name: i for i, name in enumerate(types)}
    units = [data.accelerators[name] for name in names]
    rows: dict[str, list[tuple[int, tuple[float, ...]]]] = {}
    for (model, name), perf in data.perf.items():
        if name in index:
            kv = np.inf if perf.kv_tokens is None else float(perf.kv_tokens)
            latency_model = (
                perf.alpha_ms,
                perf.beta_ms,
                perf.gamma_ms,
                max(perf.acc_count, 1),
                perf.max_batch,
                perf.at_tokens,
                kv,
            )
            rows.setdefault(model, []).append((index[name], latency_model))
    latency_models = {}
    for model, found in rows.items():
        found.sort()
        latency_models[model] = (
            np.array([i for i, _ in found], dtype=np.int64),
            np.array([latency_model for _, latency_model in found]),
        )
    return Catalog(
        names=names,
        types=types,
        type=np.array([type_index[unit.type] for unit in units], dtype=np.int64),
        multiplicity=np.array([unit.multiplicity for unit in units], dtype=np.int64),
        cost=np.array([unit.cost_cents_per_h for unit in units]),
        latency_models=latency_models,
    )


@dataclass(frozen=True, slots=True)
class Pairs:
    """Every (server, accelerator) pair, one row each; rows of a server are neighbours, start[i] is
    its first.

    latency_model holds the columns of LAW, said those of SAID: what the server's data say (rates in
    req/min, latencies in ms; accelerator is the index of the present one, -1 for none, -2 for one
    that does not exist). problem says why a server has no rows.
    """

    server: Ints
    start: Ints
    accelerator: Ints
    latency_model: dict[str, Floats]
    said: dict[str, Floats]
    problem: dict[str, str]


def make_pairs(
    data: SystemData,
    catalog: Catalog,
    settings: OptimizerSettings,
    *,
    servers: Sequence[ServerData],
) -> Pairs:
    """Return the pairs of *servers*, with the load of their current allocation."""
    problem: dict[str, str] = {}
    accelerators: list[Ints] = []
    latency_models: list[Floats] = []
    said: list[tuple[float, ...]] = []
    for server in servers:
        found = _rows_of(data, settings, catalog, server)
        if isinstance(found, str):
            problem[server.name] = found
            found = np.zeros(0, dtype=np.int64), np.zeros((0, len(LAW)))
        accelerators.append(found[0])
        latency_models.append(found[1])
        said.append(_said(data, settings, catalog, server))
    counts = np.array([len(rows) for rows in accelerators], dtype=np.int64)
    owner = np.repeat(np.arange(len(servers)), counts)
    by_row = np.array(said, dtype=np.float64).reshape(-1, len(SAID))[owner].T
    latency_model = np.concatenate([*latency_models, np.zeros((0, len(LAW)))]).T
    return Pairs(
        server=owner,
        start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        accelerator=np.concatenate([*accelerators, np.zeros(0, dtype=np.int64)]),
        latency_model=dict(zip(LAW, np.ascontiguousarray(latency_model), strict=True)),
        said=dict(zip(SAID, np.ascontiguousarray(by_row), strict=True)),
        problem=problem,
    )


def _rows_of(
    data: SystemData, settings: OptimizerSettings, catalog: Catalog, server: ServerData
) -> tuple[Ints, Floats] | str:
    """Return the accelerators that may serve *server* and their latency models, or why there are
    none.
    """
    name = server.service_class or "Free"
    if name not in data.classes:
        return f"no service class {name!r}"
    if data.target(service_class=name, model=server.model) is None:
        return f"no target for model {server.model!r} in service class {name!r}"
    if server.model not in catalog.latency_models:
        return f"no perf data of model {server.model!r} on any accelerator"
    if server.current.load is None and not settings.compat:
        return "no load is known"
    accelerators, latency_models = catalog.latency_models[server.model]
    if server.keep_accelerator and server.current.accelerator:
        kept = server.current.accelerator
        here = np.flatnonzero(
            accelerators == (catalog.names.index(kept) if kept in catalog.names else -1)
        )
        if not len(here):
            return f"no perf data of model {server.model!r} on {kept!r}, which it must keep"
        return accelerators[here], latency_models[here]
    return accelerators, latency_models


def _said(
    data: SystemData, settings: OptimizerSettings, catalog: Catalog, server: ServerData
) -> tuple[float, ...]:
    """Return the columns of SAID for a server."""
    current, load = server.current, server.current.load
    target = data.target(service_class=server.service_class or "Free", model=server.model)
    rate, tokens_in, tokens_out = (
        (load.rate_rpm, load.in_tokens, load.out_tokens) if load else (0.0, 0.0, 0.0)
    )
    itl, ttft, tps = (
        (target.slo_itl_ms, target.slo_ttft_ms, target.slo_tps) if target else (0.0, 0.0, 0.0)
    )
    # No accelerator at all is -1, as it is for the candidate of no load; an unknown one equals
    # nothing.
    now = -1 if not current.accelerator else -2
    if current.accelerator in data.accelerators:
        now = catalog.names.index(current.accelerator)
    return (
        rate,
        tokens_in,
        tokens_out,
        server.max_batch,
        server.max_queue,
        server.min_replicas,
        itl,
        ttft,
        tps,
        now,
        current.replicas,
        current.max_batch,
        present_cost(data, server, settings),
    )


def present_cost(data: SystemData, server: ServerData, settings: OptimizerSettings) -> float:
    """Return the cost of what *server* has [cents/h]: as given, or else by the prices of the
    accelerators.

    The existing collector sends 0 for it, so a 0 beside replicas counts as not given; in compat it
    is taken as said.
    """
    current = server.current
    given = current.cost_cents_per_h or 0.0
    if settings.compat or given > 0.0:
        return given
    unit = data.accelerators.get(current.accelerator)
    perf = data.perf.get((server.model, current.accelerator))
    if unit is None or perf is None:
        return 0.0
    return unit.cost_cents_per_h * max(perf.acc_count, 1) * current.replicas
