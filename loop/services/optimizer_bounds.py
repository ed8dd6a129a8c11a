"""What a request may not ask for in compat: batches whose sizing would take all memory (else they
are capped).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loop.errors import SpecError

if TYPE_CHECKING:
    from loop.spec import Perf, ServerData, SystemData

BATCH_MAX = 200_000  # states of a replica that are worked out one by one


def check_batches(data: SystemData) -> None:
    """Raise SpecError at the first server that would have a batch beyond BATCH_MAX on some
    accelerator.
    """
    rows: dict[str, list[Perf]] = {}
    for row in data.perf.values():
        rows.setdefault(row.model, []).append(row)
    for server in data.servers.values():
        for row in rows.get(server.model, ()):
            batch = _batch(server, row)
            if batch > BATCH_MAX:
                line = f"a batch of at most {BATCH_MAX} on {row.accelerator}, found {batch:.6g}"
                raise SpecError(f"body: server {server.name!r}: expected {line}")


def _batch(server: ServerData, row: Perf) -> float:
    tokens = server.current.load.out_tokens if server.current.load else 0.0
    return server.max_batch or row.max_batch * row.at_tokens / max(tokens, 1.0)
