"""What twin-data.json tells the loop: KV caches, start-up, what prefix caches hold, and how lengths
and arrivals vary. The rest of that file is the world's (twin/world.py).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from loop.schema.models import Figure, Message, Whole
from loop.schema.parsing import read
from loop.spec import SystemData
from twin.datafile import read_json

Key = TypeVar("Key", bound=Hashable)


class TwinDelay(Message):
    """A delay of twin-data.json."""

    mean_s: Figure | None = None


class TwinEngine(Message):
    """What twin-data.json says of KV cache, steps and start-up."""

    model: str = ""
    acc: str = ""
    kv_tokens: Whole | None = None
    tokens_per_step: Figure | None = None
    prefix_share: Figure | None = None
    start_up: TwinDelay | None = None
    label = ("model", "acc")


class TwinServer(Message):
    """What twin-data.json says of a server's requests."""

    name: str = ""
    prefix_share: Figure | None = None
    token_distribution: str = ""
    token_cv: Figure | None = None
    arrival_cv: Figure | None = None


class TwinData(Message):
    """The rows of twin-data.json that the loop knows of."""

    engines: list[TwinEngine] = Field(default=[])
    servers: list[TwinServer] = Field(default=[])


def with_twin_data(data: SystemData, path: Path) -> SystemData:
    """Return *data* with what twin-data.json at *path* says, if there is one. Raise SpecError, one
    line, if it says what cannot be.
    """
    if not path.exists():
        return data
    known = read(TwinData, read_json(path), source=str(path))
    kv_tokens = {
        (row.model, row.acc): row.kv_tokens for row in known.engines if row.kv_tokens is not None
    }
    start_up_s = {
        (row.model, row.acc): row.start_up.mean_s
        for row in known.engines
        if row.start_up is not None
    }
    token_cv = {row.name: cv for row in known.servers if (cv := _token_cv(row)) is not None}
    arrival_cv = {row.name: row.arrival_cv for row in known.servers if row.arrival_cv is not None}
    per_step = {
        (row.model, row.acc): max(1.0, row.tokens_per_step)
        for row in known.engines
        if row.tokens_per_step is not None
    }
    own_share = _first_told((row.name, row.prefix_share) for row in known.servers)
    engine_share = _first_told(((row.model, row.acc), row.prefix_share) for row in known.engines)
    perf = {
        key: replace(
            row,
            kv_tokens=kv_tokens.get(key, row.kv_tokens),
            tokens_per_step=per_step.get(key, row.tokens_per_step),
            start_up_s=start_up_s.get(key),
        )
        for key, row in data.perf.items()
    }
    servers = {
        name: replace(
            server,
            token_cv=token_cv.get(name, server.token_cv),
            arrival_cv=arrival_cv.get(name, server.arrival_cv),
            # The cached part of its prompts: its own, else that of its engine.
            prefix_share=own_share.get(
                name, engine_share.get((server.model, server.current.accelerator), 0.0)
            ),
        )
        for name, server in data.servers.items()
    }
    return replace(data, perf=perf, servers=servers)


def _first_told(shares: Iterable[tuple[Key, float | None]]) -> dict[Key, float]:
    found: dict[Key, float] = {}
    for key, share in shares:
        if share is not None:
            found.setdefault(key, share)
    return found


def _token_cv(row: TwinServer) -> float | None:
    """Return the coefficient of variation that *row* says, None if it says none."""
    return 0.0 if row.token_distribution.lower() == "fixed" else row.token_cv
