"""From JSON to SystemData: the data files of a directory, or the {"system": …} message (schema:
docs/data.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from loop.schema import rows
from loop.spec import OptimizerData, ServerData, SystemData
from twin.datafile import Entry, read_entry
from twin.spec import SpecError

Warn = Callable[[str], None]

ACCELERATORS = "accelerator-data.json"
MODELS = "model-data.json"
CLASSES = "serviceclass-data.json"
OPTIMIZER = "optimizer-data.json"
CAPACITY = "capacity-data.json"
SERVERS = "server-data.json"
TWIN = "twin-data.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """The entries that make a system; None where there is none."""

    accelerators: Entry | None
    models: Entry | None
    classes: Entry | None
    optimizer: Entry | None
    capacity: Entry | None
    servers: Entry | None
    twin: Entry | None = None

    def present(self) -> Iterable[Entry]:
        """Return the entries that are there."""
        parts = (
            self.accelerators,
            self.models,
            self.classes,
            self.optimizer,
            self.capacity,
            self.servers,
        )
        return [part for part in parts if part is not None]


def _drop(_line: str) -> None:
    """Take a warning of a caller that wants none."""


def read_system(directory: Path, *, warn: Warn = _drop) -> SystemData:
    """Read the data files of *directory*; tell *warn* a line for everything that is kept out.

    server-data.json and twin-data.json may be absent. Raise SpecError, one line, at the first thing
    that is wrong.
    """
    _require_directory(directory)
    parts = _Parts(
        accelerators=read_entry(directory / ACCELERATORS),
        models=read_entry(directory / MODELS),
        classes=read_entry(directory / CLASSES),
        optimizer=read_entry(directory / OPTIMIZER),
        capacity=read_entry(directory / CAPACITY),
        servers=_read_optional(directory / SERVERS),
        twin=_read_optional(directory / TWIN),
    )
    return _system(parts, warn=warn)


def read_capacity(directory: Path, *, warn: Warn = _drop) -> dict[str, int]:
    """Read capacity-data.json of *directory*: GPUs per accelerator type."""
    _require_directory(directory)
    entry = read_entry(directory / CAPACITY)
    capacity = rows.capacity(entry)
    _tell(entry.warnings(), warn)
    return capacity


def parse_system(
    obj: object, *, source: str, lenient: bool = False, warn: Warn = _drop
) -> SystemData:
    """Read the message {"system": {"acceleratorData": {…}, …}}, with or without its wrapper.

    lenient: as the existing Go optimizer reads it. What is absent is zero or empty, ranges are not
    checked, of equal names the last counts, and a server may name what does not exist (it then has
    no candidate).
    """
    outer = Entry(obj, source=source, lenient=lenient)
    system = (outer.child("system") if outer.has("system") or lenient else outer) or outer
    parts = _Parts(
        accelerators=system.child("acceleratorData"),
        models=system.child("modelData"),
        classes=system.child("serviceClassData"),
        optimizer=system.child("optimizerData"),
        capacity=system.child("capacityData"),
        servers=system.child("serverData"),
    )
    for part in ("acceleratorData", "modelData", "serviceClassData"):
        if not lenient and not system.has(part):
            raise system.fail(part, expected="an object {…}", found=None)
    data = _system(parts, warn=_drop)
    _tell(outer.warnings(), warn)
    return data


def _require_directory(directory: Path) -> None:
    if not directory.is_dir():
        raise SpecError(f"{directory}: expected a directory of data files, found none")


def _read_optional(path: Path) -> Entry | None:
    return read_entry(path) if path.exists() else None


def _tell(lines: Iterable[str], warn: Warn) -> None:
    for line in lines:
        warn(line)


def _system(parts: _Parts, *, warn: Warn) -> SystemData:
    kv_tokens = rows.kv_tokens(parts.twin) if parts.twin else {}
    perf = rows.perf(parts.models) if parts.models else {}
    static = SystemData(
        accelerators=rows.accelerators(parts.accelerators) if parts.accelerators else {},
        perf={key: replace(row, kv_tokens=kv_tokens.get(key)) for key, row in perf.items()},
        classes=rows.classes(parts.classes) if parts.classes else {},
        optimizer=rows.optimizer(parts.optimizer) if parts.optimizer else OptimizerData(),
        capacity=rows.capacity(parts.capacity) if parts.capacity else {},
    )
    servers = (
        rows.servers(parts.servers, check=partial(_check_names, static)) if parts.servers else {}
    )
    data = replace(static, servers=servers)
    if not any(entry.lenient for entry in parts.present()):
        _tell(_loose_ends(data), warn)
    for entry in parts.present():
        _tell(entry.warnings(), warn)
    return data


def _check_names(data: SystemData, row: Entry, server: ServerData) -> None:
    """Raise SpecError where *server* names a class, a model or an accelerator that is not in
    *data*.
    """
    if row.lenient:
        return
    models = {model for model, _ in data.perf}
    accelerator = server.current.accelerator
    if server.service_class not in data.classes:
        raise row.fail("class", expected=_one_of(data.classes), found=server.service_class)
    if server.model not in models:
        raise row.fail("model", expected=_one_of(models), found=server.model)
    if accelerator and accelerator not in data.accelerators:
        raise row.fail(
            "currentAlloc.accelerator", expected=_one_of(data.accelerators), found=accelerator
        )


def _one_of(names: Iterable[str]) -> str:
    return "one of " + ", ".join(sorted(names)) if names else "a name, but none is defined"


def _loose_ends(data: SystemData) -> list[str]:
    """Return a line for what no server can use: it may be meant so, or be a slip of the pen."""
    models = {model for model, _ in data.perf}
    types = {accelerator.type for accelerator in data.accelerators.values()}
    lines = [
        f"{MODELS}: {model!r} on {name!r} is not used: no such accelerator"
        for model, name in data.perf
        if name not in data.accelerators
    ]
    for entry in data.classes.values():
        unknown = [model for model in entry.targets if model not in models]
        lines += [
            f"{CLASSES}: {entry.name!r}: target of {model!r} is not used: no such model"
            for model in unknown
        ]
    lines += [
        f"{CAPACITY}: {kind!r} is not used: no accelerator has that type"
        for kind in data.capacity
        if kind not in types
    ]
    lines += [
        f"{SERVERS}: {server.name!r} cannot be sized: class {server.service_class!r} has no target "
        f"for {server.model!r}"
        for server in data.servers.values()
        if data.target(service_class=server.service_class, model=server.model) is None
    ]
    return lines
