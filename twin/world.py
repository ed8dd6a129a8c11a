"""The world as data: what twin-data.json and a --truth file say, laid over the engines and servers
of the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TypeVar

from twin.arrivals import ARRIVAL_PROCESSES
from twin.datafile import Entry, read_entry
from twin.engine.kv_cache import KV_CACHES
from twin.engine.port import ENGINES
from twin.registry import named_in
from twin.serving.routers import ROUTERS
from twin.spec import (
    P_MAX,
    SCHEDULINGS,
    TOKENS_PER_STEP_MAX,
    Accelerator,
    ClusterSpec,
    Delay,
    EngineSpec,
    LatencyModel,
    Server,
    SpecError,
    World,
)

TWIN = "twin-data.json"
SCRAPE_MIN_S = 0.1  # a run that is sampled more often does not end
CV_MAX = 1000.0  # more is no load that anybody has, and squares of it are still numbers

Key = TypeVar("Key", str, tuple[str, str])
Value = TypeVar("Value", EngineSpec, Server)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """What the files read so far make of the world."""

    engines: Mapping[tuple[str, str], EngineSpec]
    servers: Mapping[str, Server]
    world: World


def read_cluster_spec(
    directory: Path,
    *,
    accelerators: Mapping[str, Accelerator],
    capacity: Mapping[str, int],
    engines: Mapping[tuple[str, str], EngineSpec],
    servers: Sequence[Server],
    truth: Path | None = None,
) -> tuple[ClusterSpec, tuple[str, ...]]:
    """Return the physical system and notes on it, a line each.

    engines and servers hold what the loop estimates, and this module's defaults for the rest.
    twin-data.json of *directory*, if it is there, and then *truth*, a file of the same schema,
    override them field by field. Raise SpecError at the first thing that is wrong.
    """
    layer = _Layer(
        engines=engines, servers={server.name: server for server in servers}, world=World()
    )
    notes: list[str] = []
    paths = [directory / TWIN] if (directory / TWIN).exists() else []
    for path in [*paths, truth] if truth else paths:
        entry = read_entry(path)
        layer = _overlay(entry, layer)
        notes += entry.warnings()
    spec = ClusterSpec(
        accelerators=accelerators,
        capacity=capacity,
        engines=layer.engines,
        servers=tuple(layer.servers.values()),
        world=layer.world,
    )
    _check(spec, directory)
    return spec, (*notes, *_unlimited_kv_cache(spec), *_over_capacity(spec))


def _overlay(file: Entry, layer: _Layer) -> _Layer:
    engine_rows = file.children("engines", required=False, label=("model", "acc"))
    server_rows = file.children("servers", required=False)
    world = file.child("world")
    return _Layer(
        engines=_laid_over(
            engine_rows,
            layer.engines,
            key=_pair,
            read=_engine,
            expected="a model and an accelerator of model-data.json",
        ),
        servers=_laid_over(
            server_rows,
            layer.servers,
            key=_name,
            read=_server,
            expected="a server of server-data.json",
        ),
        world=_world(world, layer.world) if world else layer.world,
    )


def _laid_over(
    rows: Sequence[Entry],
    known: Mapping[Key, Value],
    *,
    key: Callable[[Entry], Key],
    read: Callable[[Entry, Value], Value],
    expected: str,
) -> dict[Key, Value]:
    """Return *known* with the fields of *rows* in place of its own; a row must name one of *known*,
    once.
    """
    changed: dict[Key, Value] = {}
    for row in rows:
        name = key(row)
        field = "name" if isinstance(name, str) else "acc"
        if name not in known:
            raise row.fail(field, expected=expected, found=name)
        if name in changed:
            raise row.fail(field, expected="a name that no entry before it has", found=name)
        changed[name] = read(row, known[name])
    return {**known, **changed}


def _name(row: Entry) -> str:
    return row.text("name")


def _pair(row: Entry) -> tuple[str, str]:
    return row.text("model"), row.text("acc")


def _engine(row: Entry, engine: EngineSpec) -> EngineSpec:
    latency_model = row.child("perfParms")
    changed = replace(
        engine,
        latency_model=_latency_model(latency_model, engine.latency_model)
        if latency_model
        else engine.latency_model,
        overhead_ms=latency_model.number("overheadMs", at_least=0, default=engine.overhead_ms)
        if latency_model
        else engine.overhead_ms,
        scheduling=latency_model.choice("scheduling", SCHEDULINGS, default=engine.scheduling)
        if latency_model
        else engine.scheduling,
        kv_tokens=row.whole("kvTokens", at_least=1) if row.has("kvTokens") else engine.kv_tokens,
        block_size=row.whole("blockSize", at_least=1, default=engine.block_size),
        max_num_batched_tokens=row.whole(
            "maxNumBatchedTokens", at_least=1, default=engine.max_num_batched_tokens
        ),
        engine=named_in(row, "engine", kind="engine", known=ENGINES, default=engine.engine),
        kv_cache=named_in(
            row, "kvCache", kind="kv_cache", known=KV_CACHES, default=engine.kv_cache
        ),
        prefix_share=row.number("prefixShare", at_least=0, at_most=1, default=engine.prefix_share),
        tokens_per_step=row.number(
            "tokensPerStep", at_least=1, at_most=TOKENS_PER_STEP_MAX, default=engine.tokens_per_step
        ),
        admission=row.choice("admission", ("chunk", "full_prompt"), default=engine.admission),
        start_up=_delay(row, "startUp", engine.start_up),
    )
    if ceil(changed.tokens_per_step) > changed.max_num_batched_tokens:
        raise row.fail(
            "tokensPerStep",
            expected=f"at most maxNumBatchedTokens, {changed.max_num_batched_tokens}",
            found=changed.tokens_per_step,
        )
    return changed


def _latency_model(entry: Entry, known: LatencyModel) -> LatencyModel:
    alpha_ms = entry.number("alpha", at_least=0, default=known.alpha_ms)
    # An alpha of its own is a new sum of both, unless it is said how it is divided.
    launch_ms = entry.number("a", at_least=0, default=known.launch_ms)
    weights_ms = entry.number("w", at_least=0, default=max(alpha_ms - launch_ms, 0.0))
    divided = entry.has("a") or entry.has("w")
    if divided:
        alpha_ms = launch_ms + weights_ms
    else:
        launch_ms = min(launch_ms, alpha_ms)
    return LatencyModel(
        alpha_ms=alpha_ms,
        beta_ms=entry.number("beta", at_least=0, default=known.beta_ms),
        gamma_ms=entry.number("gamma", at_least=0, default=known.gamma_ms),
        launch_ms=launch_ms,
        p=entry.number("p", at_least=1, at_most=P_MAX, default=known.p),
        attention=entry.number("attention", at_least=0, at_most=1, default=known.attention),
        sequence_ms=entry.number("sequenceMs", at_least=0, default=known.sequence_ms),
        **_experts(entry, known, weights_ms=alpha_ms - launch_ms),
    )


def _experts(entry: Entry, known: LatencyModel, *, weights_ms: float) -> dict[str, float]:
    """Return what of the weights is experts; weights of their own have as large a part of them."""
    share = min(known.experts_ms / known.weights_ms, 1.0) if known.experts_ms else 0.0
    return {
        "experts_ms": entry.number(
            "expertsMs", at_least=0, at_most=weights_ms, default=share * weights_ms
        ),
        "experts_idle": entry.number(
            "expertsIdle", at_least=0, at_most=1, default=known.experts_idle
        ),
    }


def _server(row: Entry, server: Server) -> Server:
    return replace(
        server,
        queue_max=row.whole("queueMax", at_least=0) if row.has("queueMax") else server.queue_max,
        router=named_in(row, "router", kind="router", known=ROUTERS, default=server.router),
        prefix_share=row.number("prefixShare", at_least=0, at_most=1)
        if row.has("prefixShare")
        else server.prefix_share,
        token_distribution=row.choice(
            "tokenDistribution", ("fixed", "lognormal", "gamma"), default=server.token_distribution
        ),
        token_cv=row.number("tokenCv", at_least=0, at_most=CV_MAX, default=server.token_cv),
        arrivals=named_in(
            row,
            "arrivals",
            kind="arrival process",
            known=ARRIVAL_PROCESSES,
            default=server.arrivals,
        ),
        arrival_cv=row.number("arrivalCv", above=0, at_most=CV_MAX, default=server.arrival_cv),
        crash_rate_per_h=row.number(
            "crashRatePerHour", at_least=0, default=server.crash_rate_per_h
        ),
        crash_policy=row.choice("crashPolicy", ("requeue", "fail"), default=server.crash_policy),
        max_batch_change=row.choice(
            "maxBatchChange", ("live", "rolling"), default=server.max_batch_change
        ),
    )


def _world(entry: Entry, world: World) -> World:
    scrape_s = entry.number(
        "scrapeIntervalS", at_least=SCRAPE_MIN_S, default=world.scrape_interval_s
    )
    timeout = entry.has("drainTimeoutS")
    return World(
        scrape_interval_s=scrape_s,
        window_s=entry.number("windowS", at_least=scrape_s, default=world.window_s),
        actuation_delay=_delay(entry, "actuationDelay", world.actuation_delay),
        scheduling_delay=_delay(entry, "schedulingDelay", world.scheduling_delay),
        drain_timeout_s=entry.number("drainTimeoutS", above=0)
        if timeout
        else world.drain_timeout_s,
    )


def _delay(row: Entry, key: str, delay: Delay) -> Delay:
    entry = row.child(key)
    if entry is None:
        return delay
    return Delay(
        mean_s=entry.number("meanS", at_least=0, default=delay.mean_s),
        cv=entry.number("cv", at_least=0, at_most=CV_MAX, default=delay.cv),
    )


def _check(spec: ClusterSpec, directory: Path) -> None:
    for (model, accelerator), engine in spec.engines.items():
        if engine.latency_model.alpha_ms + engine.latency_model.beta_ms <= 0:
            raise SpecError(
                f"{directory}: {model} on {accelerator}: perfParms: expected alpha + beta > 0, "
                "found 0"
            )
        if engine.kv_tokens is not None and engine.kv_tokens < engine.block_size:
            raise SpecError(
                f"{directory}: {model} on {accelerator}: kvTokens: expected at least one block of "
                f"{engine.block_size} tokens, found {engine.kv_tokens}"
            )
    for server in spec.servers:
        accelerator = server.pool.accelerator
        if server.pool.replicas > 0 and (server.model, accelerator) not in spec.engines:
            known = (
                ", ".join(name for model, name in spec.engines if model == server.model) or "none"
            )
            raise SpecError(
                f"{directory}: server {server.name!r}: currentAlloc.accelerator: expected one that "
                f"{server.model} has data for "
                f"({known}), found {accelerator!r}"
            )


def _unlimited_kv_cache(spec: ClusterSpec) -> list[str]:
    pairs = [
        f"{model} on {accelerator}"
        for (model, accelerator), engine in spec.engines.items()
        if engine.kv_tokens is None
    ]
    if not pairs:
        return []
    more = len(pairs) - 1
    others = f" and {more} more pair{'s' if more > 1 else ''}" if more else ""
    return [f"{TWIN}: no kvTokens for {pairs[0]}{others}: KV cache is taken as unlimited there"]


def _over_capacity(spec: ClusterSpec) -> list[str]:
    """Return a line for every type of which the pods at t = 0 want more GPUs than there are: some
    will be pending.
    """
    wanted: dict[str, int] = {}
    for server in spec.servers:
        pool = server.pool
        if pool.replicas > 0:
            kind = spec.accelerators[pool.accelerator].type
            gpus = spec.gpus(model=server.model, accelerator=pool.accelerator)
            wanted[kind] = wanted.get(kind, 0) + pool.replicas * gpus
    return [
        f"capacity-data.json: {spec.capacity.get(kind, 0)} GPUs of {kind}, but the pods at the "
        f"start want {gpus}"
        for kind, gpus in wanted.items()
        if gpus > spec.capacity.get(kind, 0)
    ]
