"""The system that the verbs of the optimizer service build up: a frozen value, and functions from
one to the next.

A verb that sets or adds replaces what has the same name and deletes nothing. compat: as the
existing service does, where that is otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from loop.errors import LoopError
from loop.schema.rows import PRIORITY_LOWEST
from loop.schema.wire import (
    AcceleratorCount,
    AcceleratorSpec,
    AllocationData,
    ModelAcceleratorPerfData,
    ModelTarget,
    OptimizerSpec,
    ServerSpec,
    ServiceClassSpec,
    SystemSpec,
    given,
)

Value = TypeVar("Value")
PerfByAccelerator = Mapping[str, ModelAcceleratorPerfData]


class VerbError(LoopError):
    """A verb cannot be obeyed: *status* is that of HTTP."""

    def __init__(self, line: str, *, status: int) -> None:
        super().__init__(line)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """All that has been said: accelerators, GPUs by type, models' rows by accelerator, classes and
    servers by name.

    assigned are the servers whose desired allocation is an answer of the optimizer.
    """

    accelerators: Mapping[str, AcceleratorSpec] = field(default_factory=dict)
    capacity: Mapping[str, int] = field(default_factory=dict)
    models: Mapping[str, PerfByAccelerator] = field(default_factory=dict)
    classes: Mapping[str, ServiceClassSpec] = field(default_factory=dict)
    servers: Mapping[str, ServerSpec] = field(default_factory=dict)
    assigned: frozenset[str] = frozenset()


def system_of(spec: SystemSpec) -> System:
    """Return the system of a message that holds a whole one."""
    system = set_accelerators(System(), spec.accelerator_data.accelerators)
    system = set_capacities(system, spec.capacity_data.count)
    system = set_perf(system, spec.model_data.models)
    system = set_classes(system, spec.service_class_data.service_classes)
    return set_servers(system, spec.server_data.servers)


def message_of(system: System, flags: OptimizerSpec) -> dict[str, Any]:
    """Return the message that holds all of *system*."""
    return {
        "system": {
            "acceleratorData": {
                "accelerators": [given(each) for each in system.accelerators.values()]
            },
            "capacityData": {
                "count": [{"type": name, "count": count} for name, count in system.capacity.items()]
            },
            "modelData": {
                "models": [given(row) for rows in system.models.values() for row in rows.values()]
            },
            "serviceClassData": {
                "serviceClasses": [given(each) for each in system.classes.values()]
            },
            "serverData": {"servers": [given(each) for each in system.servers.values()]},
            "optimizerData": {"optimizer": given(flags)},
        }
    }


def set_accelerators(system: System, specs: Iterable[AcceleratorSpec]) -> System:
    """Take in accelerators."""
    return replace(
        system, accelerators={**system.accelerators, **{spec.name: spec for spec in specs}}
    )


def get_accelerator(system: System, name: str) -> AcceleratorSpec:
    """Return an accelerator."""
    return _get(system.accelerators, name, f"accelerator {name} not found")


def remove_accelerator(system: System, name: str) -> System:
    """Forget an accelerator."""
    get_accelerator(system, name)
    return replace(system, accelerators=_without(system.accelerators, name))


def set_capacities(system: System, counts: Iterable[AcceleratorCount]) -> System:
    """Take in how many GPUs there are of types."""
    return replace(
        system, capacity={**system.capacity, **{each.type: each.count for each in counts}}
    )


def get_capacity(system: System, kind: str) -> AcceleratorCount:
    """Return how many GPUs of a type there are."""
    return AcceleratorCount(
        type=kind, count=_get(system.capacity, kind, f"capacity for {kind} not found")
    )


def remove_capacity(system: System, kind: str) -> System:
    """Forget the GPUs of a type."""
    _get(system.capacity, kind, f"accelerator type {kind} not found")
    return replace(system, capacity=_without(system.capacity, kind))


def set_perf(system: System, rows: Iterable[ModelAcceleratorPerfData]) -> System:
    """Take in how models perform; one that is new is added."""
    models = dict(system.models)
    for row in rows:
        models[row.name] = {**models.get(row.name, {}), row.acc: row}
    return replace(system, models=models)


def get_model(system: System, name: str) -> PerfByAccelerator:
    """Return the rows of a model by accelerator."""
    return _get(system.models, name, f"model {name} not found")


def add_model(system: System, name: str, *, compat: bool) -> System:
    """Add a model without rows. One that is there keeps its rows; in compat it loses them."""
    rows: PerfByAccelerator = {} if compat else system.models.get(name, {})
    return replace(system, models={**system.models, name: rows})


def remove_model(system: System, name: str) -> System:
    """Forget a model and its rows."""
    get_model(system, name)
    return replace(system, models=_without(system.models, name))


def get_perf(system: System, name: str, accelerator: str) -> ModelAcceleratorPerfData:
    """Return how a model performs on an accelerator."""
    return _get(get_model(system, name), accelerator, f"accelerator {accelerator} not found")


def add_perf(system: System, row: ModelAcceleratorPerfData) -> System:
    """Take in how a model that is there performs on an accelerator."""
    get_model(system, row.name)
    return set_perf(system, [row])


def remove_perf(system: System, name: str, accelerator: str) -> System:
    """Forget how a model performs on an accelerator."""
    get_perf(system, name, accelerator)
    return replace(
        system, models={**system.models, name: _without(system.models[name], accelerator)}
    )


def set_classes(system: System, specs: Iterable[ServiceClassSpec]) -> System:
    """Take in service classes: their priority, and their targets beside those of models that are
    not named.
    """
    classes = dict(system.classes)
    for spec in specs:
        known = classes.get(spec.name, ServiceClassSpec(name=spec.name))
        classes[spec.name] = _with_targets(known, spec.model_targets, priority=spec.priority)
    return replace(system, classes=classes)


def get_class(system: System, name: str) -> ServiceClassSpec:
    """Return a service class."""
    return _get(system.classes, name, f"service class {name} not found")


def add_class(system: System, name: str, priority: int, *, compat: bool) -> System:
    """Add a service class without targets. One that is there keeps its targets; in compat it loses
    them.
    """
    if compat:
        system = replace(system, classes=_without(system.classes, name))
    return set_classes(system, [ServiceClassSpec(name=name, priority=priority)])


def remove_class(system: System, name: str) -> System:
    """Forget a service class."""
    get_class(system, name)
    return replace(system, classes=_without(system.classes, name))


def add_targets(system: System, spec: ServiceClassSpec, *, compat: bool) -> System:
    """Take in targets of a class that is there and has that priority (compat: compared with it as
    it was sent).
    """
    known = get_class(system, spec.name)
    asked = spec.priority if compat else _priority(spec.priority)
    if asked != known.priority and (compat or "priority" in spec.model_fields_set):
        raise VerbError(
            f"inconsistent specs: svcName={spec.name} ; svcPrio={spec.priority}", status=400
        )
    return replace(
        system,
        classes={
            **system.classes,
            spec.name: _with_targets(known, spec.model_targets, priority=known.priority),
        },
    )


def get_target(system: System, name: str, model: str) -> ModelTarget:
    """Return the target of a model in a class."""
    targets = {target.model: target for target in get_class(system, name).model_targets}
    return _get(targets, model, f"model {model} not found")


def remove_target(system: System, name: str, model: str) -> System:
    """Forget the target of a model in a class."""
    get_target(system, name, model)
    known = system.classes[name]
    rest = [target for target in known.model_targets if target.model != model]
    return replace(
        system, classes={**system.classes, name: known.model_copy(update={"model_targets": rest})}
    )


def set_servers(system: System, specs: Iterable[ServerSpec]) -> System:
    """Take in servers."""
    new = {spec.name: spec for spec in specs}
    return replace(system, servers={**system.servers, **new}, assigned=system.assigned - new.keys())


def get_server(system: System, name: str) -> ServerSpec:
    """Return a server."""
    return _get(system.servers, name, f"server {name} not found")


def remove_server(system: System, name: str) -> System:
    """Forget a server."""
    get_server(system, name)
    return replace(system, servers=_without(system.servers, name))


def with_desired(
    system: System, allocations: Mapping[str, AllocationData], *, compat: bool
) -> System:
    """Write down what the optimizer gave each server. One that got nothing desires nothing; in
    compat, what it did.
    """
    servers = {
        name: server.model_copy(update={"desired_alloc": allocations.get(name, AllocationData())})
        for name, server in system.servers.items()
        if name in allocations or not compat
    }
    return replace(system, servers={**system.servers, **servers}, assigned=frozenset(allocations))


def apply_desired(system: System, *, compat: bool) -> System:
    """Make what every server desires what it has, with its load.

    A server that the optimizer gave nothing keeps what it has; in compat it loses it, and its load.
    """
    servers = {
        name: server.model_copy(update={"current_alloc": server.desired_alloc})
        for name, server in system.servers.items()
        if compat or name in system.assigned
    }
    return replace(system, servers={**system.servers, **servers})


def _with_targets(
    known: ServiceClassSpec, targets: Iterable[ModelTarget], *, priority: int
) -> ServiceClassSpec:
    merged = {target.model: target for target in (*known.model_targets, *targets)}
    return known.model_copy(
        update={"priority": _priority(priority), "model_targets": list(merged.values())}
    )


def _priority(priority: int) -> int:
    return priority if 1 <= priority <= PRIORITY_LOWEST else PRIORITY_LOWEST


def _get(values: Mapping[str, Value], name: str, missing: str) -> Value:
    if name not in values:
        raise VerbError(missing, status=404)
    return values[name]


def _without(values: Mapping[str, Value], name: str) -> dict[str, Value]:
    return {key: value for key, value in values.items() if key != name}
