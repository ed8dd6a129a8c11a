"""From what the loop estimates to the world that it will meet: SystemData and twin-data.json make a
ClusterSpec.
"""

from __future__ import annotations

from pathlib import Path

from loop.schema.reading import SERVERS
from loop.spec import Perf, ServerData, SystemData
from twin.spec import ClusterSpec, EngineSpec, Pool, Server, SpecError
from twin.world import TWIN, read_cluster_spec


def build_cluster_spec(
    system: SystemData, directory: Path, *, truth: Path | None = None
) -> tuple[ClusterSpec, tuple[str, ...]]:
    """Return the physical system of *directory* and notes on it, a line each (unknown keys, KV
    memory not given, …).

    The latency models of the truth are the estimate's unless twin-data.json or the file *truth* has
    others. A server starts with the pods of its currentAlloc. Raise SpecError where there is no
    server or a file is wrong.
    """
    if not system.servers:
        raise SpecError(f"{directory / SERVERS}: expected at least one server, found none")
    spec, notes = read_cluster_spec(
        directory,
        accelerators=system.accelerators,
        capacity=system.capacity,
        engines={
            key: _engine(perf)
            for key, perf in system.perf.items()
            if perf.accelerator in system.accelerators
        },
        servers=[_server(server, system) for server in system.servers.values()],
        truth=truth,
    )
    return spec, (*notes, *_too_long(system, spec))


def _too_long(system: SystemData, spec: ClusterSpec) -> list[str]:
    """Return a line for each server whose mean request does not fit the KV cache of a replica: most
    of its requests would be rejected there.
    """
    lines = []
    for server in system.servers.values():
        load = server.current.load
        if load is None:
            continue
        tokens = load.in_tokens + load.out_tokens
        small = [
            f"{accelerator} ({engine.kv_tokens:,})"
            for (model, accelerator), engine in spec.engines.items()
            if model == server.model
            and engine.kv_tokens is not None
            and tokens - 1 > engine.kv_tokens // engine.block_size * engine.block_size
        ]
        if small:
            lines.append(
                f"{TWIN}: server {server.name!r}: its requests of {tokens:,.0f} tokens do not fit "
                f"the KV cache (kvTokens) of {', '.join(small)}: they will be rejected there"
            )
    return lines


def _engine(perf: Perf) -> EngineSpec:
    return EngineSpec(
        model=perf.model,
        accelerator=perf.accelerator,
        acc_count=perf.acc_count,
        latency_model=perf.latency_model,
        overhead_ms=perf.overhead_ms,
        tokens_per_step=perf.tokens_per_step,
        scheduling=perf.scheduling,
    )


def _server(server: ServerData, system: SystemData) -> Server:
    return Server(
        name=server.name,
        model=server.model,
        service_class=server.service_class,
        pool=Pool(
            accelerator=server.current.accelerator,
            replicas=server.current.replicas if server.current.accelerator else 0,
            max_batch=_max_batch_at_start(server, system),
        ),
    )


def _max_batch_at_start(server: ServerData, system: SystemData) -> int:
    """Return the max batch in force at t = 0: the current one, else the server's own, else that of
    the model's data.
    """
    given = server.current.max_batch or server.max_batch
    perf = system.perf.get((server.model, server.current.accelerator))
    if given or perf is None:
        return max(given, 1)
    load = server.current.load
    if load is None or load.out_tokens < 1:
        return max(perf.max_batch, 1)
    return max(int(perf.max_batch * perf.at_tokens // load.out_tokens), 1)
