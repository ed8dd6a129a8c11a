"""The data directory that an import begins with: its rows by what they are of. What a cluster tells
replaces what they say; all else of them stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loop.schema.reading import read_system
from twin.datafile import read_json

Row = Mapping[str, Any]

KEYS = {
    key.lower(): key
    for key in (
        *("name", "acc", "model", "type", "count", "accelerators", "models", "serviceClasses"),
        *("servers", "engines", "modelTargets", "multiplicity", "cost", "accCount", "perfParms"),
        *("kvTokens", "startUp", "currentAlloc"),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A data directory, as its files have it. models and engines are by model and accelerator."""

    name: str
    accelerators: Mapping[str, Row] = field(default_factory=dict)
    models: Mapping[tuple[str, str], Row] = field(default_factory=dict)
    classes: Mapping[str, Row] = field(default_factory=dict)
    servers: Mapping[str, Row] = field(default_factory=dict)
    capacity: Mapping[str, int] = field(default_factory=dict)
    optimizer: Row = field(default_factory=dict)
    engines: Mapping[tuple[str, str], Row] = field(default_factory=dict)
    twin: Row = field(default_factory=dict)

    @property
    def types(self) -> frozenset[str]:
        """Return the types of its GPUs."""
        return frozenset(row["type"] for row in self.accelerators.values())

    def in_twin(self, server: str) -> Row:
        """Return what its twin-data.json says of *server*."""
        rows: Iterable[Row] = self.twin.get("servers") or ()
        return next((row for row in rows if row.get("name") == server), {})


def read_base(directory: Path) -> Base:
    """Return the data in *directory*. Raise SpecError if they are no system."""
    read_system(directory)  # So that its rows are known to be whole.
    twin = _read(directory / "twin-data.json") if (directory / "twin-data.json").exists() else {}
    servers = _rows(directory, "server", "servers") if _has(directory, "server") else []
    capacity = _rows(directory, "capacity", "count")
    return Base(
        name=str(directory),
        accelerators={row["name"]: row for row in _rows(directory, "accelerator", "accelerators")},
        models={(row["name"], row["acc"]): row for row in _rows(directory, "model", "models")},
        classes={row["name"]: row for row in _rows(directory, "serviceclass", "serviceClasses")},
        servers={row["name"]: row for row in servers},
        capacity={row["type"]: row["count"] for row in capacity},
        optimizer=_read(directory / "optimizer-data.json"),
        engines={(row["model"], row["acc"]): row for row in twin.get("engines") or ()},
        twin=twin,
    )


def _has(directory: Path, of: str) -> bool:
    return (directory / f"{of}-data.json").exists()


def _rows(directory: Path, of: str, key: str) -> list[Row]:
    found: list[Row] = _read(directory / f"{of}-data.json")[key]
    return found


def _read(path: Path) -> Row:
    found: Row = _as_written(read_json(path))
    return found


def _as_written(value: Any) -> Any:
    """Return *value* with the keys that are used here written as docs/data.md writes them: readers
    do not tell cases apart.
    """
    if isinstance(value, Mapping):
        return {KEYS.get(key.lower(), key): _as_written(one) for key, one in value.items()}
    return [_as_written(one) for one in value] if isinstance(value, list) else value
