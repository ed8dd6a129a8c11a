"""The system that the verbs of the optimizer service build up: a frozen value, and functions from
one to the next.

A verb that sets or adds replaces what has the same name and deletes nothing. Where services differ
(optimizer_habits), the caller says how.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from loop.errors import LoopError
from loop.schema.models import (
    AcceleratorCount,
    AcceleratorData,
    AcceleratorSpec,
    AllocationData,
    CapacityData,
    Message,
    ModelAcceleratorPerfData,
    ModelData,
    ModelTarget,
    OptimizerData,
    OptimizerSpec,
    ServerData,
    ServerSpec,
    ServiceClassData,
    ServiceClassSpec,
    SystemSpec,
)
from loop.schema.parsing import Json, read
from loop.schema.reading import merged_classes, priority

Value = TypeVar("Value")
NOTHING: Json = {}
PerfByAccelerator = Mapping[str, ModelAcceleratorPerfData]


class VerbError(LoopError):
    """A verb asks for what cannot be done: *status* is that of HTTP."""

    def __init__(self, line: str, *, status: int) -> None:
        super().__init__(line)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """All that has been said: accelerators, GPUs by type, models' rows by accelerator, classes and
    servers by name.

    desired is what servers shall have by the optimizer's answers, in the words of the wire; it
    stands before what was said of them. assigned are those that the last answer gave something.
    """

    accelerators: Mapping[str, AcceleratorSpec] = field(default_factory=dict)
    capacity: Mapping[str, AcceleratorCount] = field(default_factory=dict)
    models: Mapping[str, PerfByAccelerator] = field(default_factory=dict)
    classes: Mapping[str, ServiceClassSpec] = field(default_factory=dict)
    servers: Mapping[str, ServerSpec] = field(default_factory=dict)
    desired: Mapping[str, Json] = field(default_factory=dict)
    assigned: frozenset[str] = frozenset()


def system_of(spec: SystemSpec) -> System:
    """Return the system of a message that holds a whole one."""
    rows = spec.model_data.models
    return set_perf(
        System(
            accelerators={row.name: row for row in spec.accelerator_data.accelerators},
            capacity={row.type: row for row in spec.capacity_data.count},
            classes=merged_classes({}, spec.service_class_data.service_classes),
            servers={row.name: row for row in spec.server_data.servers},
        ),
        rows,
    )


def spec_of(system: System, flags: OptimizerSpec) -> SystemSpec:
    """Return the message that holds all of *system*. Its parts have been checked, each when it
    came.
    """
    rows = [row for rows in system.models.values() for row in rows.values()]
    classes = list(system.classes.values())
    return SystemSpec.model_construct(
        accelerator_data=AcceleratorData.model_construct(
            accelerators=list(system.accelerators.values())
        ),
        capacity_data=CapacityData.model_construct(count=list(system.capacity.values())),
        model_data=ModelData.model_construct(models=rows),
        service_class_data=ServiceClassData.model_construct(service_classes=classes),
        server_data=ServerData.model_construct(servers=list(system.servers.values())),
        optimizer_data=OptimizerData.model_construct(optimizer=flags),
    )


@dataclass(frozen=True, slots=True)
class Shelf:
    """What a system keeps of one kind by name: under *kept*; *missing* is the line for a name that
    is not there, *gone* that for one to be removed.
    """

    kept: str
    key: str
    missing: str
    gone: str = ""

    def all(self, system: System) -> list[Any]:
        """Return all of it."""
        return list(getattr(system, self.kept).values())

    def get(self, system: System, name: str) -> Any:
        """Return the one of that name."""
        return find(getattr(system, self.kept), name, self.missing)

    def put(self, system: System, rows: Iterable[Message]) -> System:
        """Take in *rows*."""
        new = {getattr(row, self.key): row for row in rows}
        return self._with(system, {**getattr(system, self.kept), **new})

    def drop(self, system: System, name: str) -> System:
        """Forget the one of that name."""
        found = getattr(system, self.kept)
        find(found, name, self.gone or self.missing)
        return self._with(system, without(found, name))

    def _with(self, system: System, found: Mapping[str, Any]) -> System:
        changes: dict[str, Any] = {self.kept: found}
        return replace(system, **changes)


ACCELERATORS = Shelf("accelerators", "name", "accelerator {} not found")
CAPACITY = Shelf("capacity", "type", "capacity for {} not found", "accelerator type {} not found")
MODELS = Shelf("models", "name", "model {} not found")
CLASSES = Shelf("classes", "name", "service class {} not found")
SERVERS = Shelf("servers", "name", "server {} not found")


def get_capacities(system: System) -> CapacityData:
    """Return how many GPUs there are, by type."""
    return CapacityData.model_construct(count=CAPACITY.all(system))


# --- Models and their rows ------------------------------------------------------------------------


def get_model(system: System, name: str) -> ModelData:
    """Return the rows of a model."""
    return ModelData.model_construct(models=list(MODELS.get(system, name).values()))


def set_perf(system: System, rows: Iterable[ModelAcceleratorPerfData]) -> System:
    """Take in how models perform; one that is new is added."""
    models = dict(system.models)
    for row in rows:
        models[row.name] = {**models.get(row.name, {}), row.acc: row}
    return replace(system, models=models)


def add_perf(system: System, rows: Sequence[ModelAcceleratorPerfData]) -> System:
    """Take in how models that are there perform."""
    for row in rows:
        MODELS.get(system, row.name)
    return set_perf(system, rows)


def add_model(system: System, name: str, *, keeps: bool) -> System:
    """Add a model without rows. One that is there keeps its rows if *keeps*, else it loses them."""
    rows: PerfByAccelerator = system.models.get(name, {}) if keeps else {}
    return replace(system, models={**system.models, name: rows})


def get_perf(system: System, name: str, accelerator: str) -> ModelAcceleratorPerfData:
    """Return how a model performs on an accelerator."""
    rows: PerfByAccelerator = MODELS.get(system, name)
    return find(rows, accelerator, "accelerator {} not found")


def remove_perf(system: System, name: str, accelerator: str) -> System:
    """Forget how a model performs on an accelerator."""
    get_perf(system, name, accelerator)
    rows = without(system.models[name], accelerator)
    return replace(system, models={**system.models, name: rows})


# --- Classes and their targets --------------------------------------------------------------------


def add_class(system: System, name: str, asked: int, *, keeps: bool) -> System:
    """Add a service class of a priority, without targets. One that is there keeps its targets if
    *keeps*, else it loses them.
    """
    known = system.classes if keeps else without(system.classes, name)
    added = ServiceClassSpec(name=name, priority=asked)
    return replace(system, classes=merged_classes(known, [added]))


def get_classes(system: System) -> ServiceClassData:
    """Return all service classes."""
    return ServiceClassData.model_construct(service_classes=CLASSES.all(system))


def set_classes(system: System, rows: Iterable[ServiceClassSpec]) -> System:
    """Take in service classes, as merged_classes does."""
    return replace(system, classes=merged_classes(system.classes, rows))


def add_targets(system: System, spec: ServiceClassSpec, *, corrects: bool) -> System:
    """Take in targets of a class that is there and has that priority. corrects: the priority may
    be absent, and is compared as it would be kept; else as it was sent.
    """
    known: ServiceClassSpec = CLASSES.get(system, spec.name)
    asked = priority(spec.priority) if corrects else spec.priority
    said = "priority" in spec.model_fields_set or not corrects
    if said and asked != known.priority:
        raise VerbError(
            f"inconsistent specs: svcName={spec.name} ; svcPrio={spec.priority}", status=400
        )
    added = spec.model_copy(update={"priority": known.priority})
    return replace(system, classes=merged_classes(system.classes, [added]))


def get_target(system: System, name: str, model: str) -> ModelTarget:
    """Return the target of a model in a class."""
    known: ServiceClassSpec = CLASSES.get(system, name)
    targets = {target.model: target for target in known.model_targets}
    return find(targets, model, "model {} not found")


def remove_target(system: System, name: str, model: str) -> System:
    """Forget the target of a model in a class."""
    get_target(system, name, model)
    known = system.classes[name]
    rest = [target for target in known.model_targets if target.model != model]
    left = known.model_copy(update={"model_targets": rest})
    return replace(system, classes={**system.classes, name: left})


# --- Servers and what they desire -----------------------------------------------------------------


def set_servers(system: System, rows: Iterable[ServerSpec]) -> System:
    """Take in servers."""
    new = {row.name: row for row in rows}
    return replace(
        system,
        servers={**system.servers, **new},
        desired={name: row for name, row in system.desired.items() if name not in new},
        assigned=system.assigned - new.keys(),
    )


def get_server(system: System, name: str) -> ServerSpec:
    """Return a server, with what it desires."""
    server: ServerSpec = SERVERS.get(system, name)
    return server.model_copy(update={"desired_alloc": _desired(system, server)})


def get_servers(system: System) -> ServerData:
    """Return all servers, each with what it desires."""
    return ServerData.model_construct(servers=[get_server(system, each) for each in system.servers])


def _desired(system: System, server: ServerSpec) -> AllocationData:
    row = system.desired.get(server.name)
    if row is None:
        return server.desired_alloc
    allocation = read(AllocationData, row, source=server.name)
    # In a message null is absent; here it is a latency without bound, to be shown as it was
    # answered.
    figures = {"itl_average": "itlAverage", "ttft_average": "ttftAverage"}
    unbounded = {name: None for name, key in figures.items() if row.get(key, 0.0) is None}
    return allocation.model_copy(update=unbounded)


def with_desired(system: System, rows: Mapping[str, Json], *, unserved_keeps: bool) -> System:
    """Write down what the optimizer gave each server. One that got nothing desires nothing if it
    will keep what it has (apply_desired), else what it did.
    """
    known = dict.fromkeys(system.servers, NOTHING) if unserved_keeps else system.desired
    return replace(system, desired={**known, **rows}, assigned=frozenset(rows))


def apply_desired(system: System, *, unserved_keeps: bool) -> System:
    """Make what every server desires what it has, with its load.

    unserved_keeps: a server that the optimizer gave nothing keeps what it has; else it loses it,
    and its load.
    """
    servers = {
        name: server.model_copy(update={"current_alloc": _desired(system, server)})
        for name, server in system.servers.items()
        if name in system.assigned or not unserved_keeps
    }
    return replace(system, servers={**system.servers, **servers})


# --- By name --------------------------------------------------------------------------------------


def find(values: Mapping[str, Value], name: str, missing: str) -> Value:
    """Return what *values* have of that name. Raise VerbError with the line *missing* if
    nothing.
    """
    if name not in values:
        raise VerbError(missing.format(name), status=404)
    return values[name]


def without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return all of *values* but that name."""
    return {key: value for key, value in values.items() if key != name}
