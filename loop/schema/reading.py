"""From messages to SystemData: the data files of a directory, or the {"system": …} message (schema:
docs/data.md). The one way from the words of the Go components to ours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from loop.schema import models
from loop.schema.models import (
    PERCENTILE_TARGETS,
    PRIORITY_LOWEST,
    SATURATION_POLICIES,
    AcceleratorSpec,
    AllocationData,
    Level,
    Message,
    ModelAcceleratorPerfData,
    ModelTarget,
    OptimizerSpec,
    ServerLoad,
    ServerSpec,
    ServiceClassSpec,
    SystemSpec,
)
from loop.schema.parsing import Place, Warn, fail, read
from loop.schema.twin_data import with_twin_data
from loop.spec import (
    SLO_PERCENTILE,
    TOKEN_CV,
    Allocation,
    OptimizerData,
    PercentileTarget,
    Perf,
    ServerData,
    ServiceClass,
    SloTarget,
)
from loop.spec import SystemData as System
from loop.types import Load
from twin.datafile import read_json
from twin.spec import SERVED_OVERHEAD_MS, Accelerator, Power, SpecError

ACCELERATORS = "accelerator-data.json"
MODELS = "model-data.json"
CLASSES = "serviceclass-data.json"
OPTIMIZER = "optimizer-data.json"
CAPACITY = "capacity-data.json"
SERVERS = "server-data.json"
TWIN = "twin-data.json"

Read = TypeVar("Read", bound=Message)

POLICIES = {name.lower(): name for name in SATURATION_POLICIES}
ONCE = "a name that no entry before it has"


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a system, and where it stands: in a file, or below some keys of a message."""

    source: str
    root: Message
    at: Place = ()

    def fail(self, *at: str | int, expected: str, found: object) -> SpecError:
        """Return the error to raise for what stands at *at* in this part."""
        return fail(self.source, self.root, (*self.at, *at), expected=expected, found=found)


_PartOf = Callable[[str], _Part]


def read_system(directory: Path, *, warn: Warn | None = None) -> System:
    """Read the data files of *directory*; tell *warn* a line for everything that is not used.

    server-data.json and twin-data.json may be absent. Raise SpecError, one line, at the first thing
    that is wrong.
    """
    _require_directory(directory)
    unknown: list[str] = []

    def file(name: str, model: type[Read], *, optional: bool = False) -> Read:
        if optional and not (directory / name).exists():
            return model()
        obj = read_json(directory / name)
        return read(model, obj, source=str(directory / name), level="files", warn=unknown.append)

    spec = SystemSpec(
        accelerator_data=file(ACCELERATORS, models.AcceleratorData),
        model_data=file(MODELS, models.ModelData),
        service_class_data=file(CLASSES, models.ServiceClassData),
        optimizer_data=file(OPTIMIZER, models.OptimizerData),
        capacity_data=file(CAPACITY, models.CapacityData),
        server_data=file(SERVERS, models.ServerData, optional=True),
    )
    files = {
        "acceleratorData": _Part(str(directory / ACCELERATORS), spec.accelerator_data),
        "modelData": _Part(str(directory / MODELS), spec.model_data),
        "serviceClassData": _Part(str(directory / CLASSES), spec.service_class_data),
        "capacityData": _Part(str(directory / CAPACITY), spec.capacity_data),
        "serverData": _Part(str(directory / SERVERS), spec.server_data),
    }
    data = _checked(spec, files.__getitem__)
    whole = with_twin_data(data, directory / TWIN)
    if warn:
        for line in (*loose_ends(data), *unknown):
            warn(line)
    return whole


def read_capacity(directory: Path, *, warn: Warn | None = None) -> dict[str, int]:
    """Read capacity-data.json of *directory*: GPUs per accelerator type."""
    _require_directory(directory)
    file = directory / CAPACITY
    data = read(models.CapacityData, read_json(file), source=str(file), level="files", warn=warn)
    _require_once(
        _Part(str(file), data), "count", names=[row.type for row in data.count], field="type"
    )
    return {row.type: row.count for row in data.count}


def parse_system(
    obj: object, *, source: str, level: Level = "files", warn: Warn | None = None
) -> System:
    """Read the message {"system": {"acceleratorData": {…}, …}}, with or without its wrapper.

    level: below "files", of equal names the last counts, and a server may name what does not exist
    (it then has no candidate).
    """
    message = read(models.SystemData, obj, source=source, level=level, warn=warn)
    return meant_system(message, source=source, level=level)


def meant_system(message: models.SystemData, *, source: str, level: Level) -> System:
    """Return what *message*, read on that level, means. Raise SpecError if names do not fit."""
    if level != "files":
        return system_data(message.spec)
    wrapper: Place = ("system",) if message.system else ()
    return _checked(message.spec, lambda key: _Part(source, message, (*wrapper, key)))


def system_data(spec: SystemSpec) -> System:
    """Return what *spec* says in our words. Of equal names the last counts; targets of a class that
    stand in several rows are taken together.
    """
    classes = merged_classes({}, spec.service_class_data.service_classes)
    rows = spec.model_data.models
    return System(
        accelerators={row.name: _accelerator(row) for row in spec.accelerator_data.accelerators},
        perf={(row.name, row.acc): _perf(row) for row in rows},
        classes={name: _class(row) for name, row in classes.items()},
        servers={row.name: _server(row) for row in spec.server_data.servers},
        optimizer=_flags(spec.optimizer_data.flags),
        capacity={row.type: row.count for row in spec.capacity_data.count},
    )


def merged_classes(
    known: Mapping[str, ServiceClassSpec], rows: Iterable[ServiceClassSpec]
) -> dict[str, ServiceClassSpec]:
    """Return *known* with the priorities of *rows*, and their targets beside those of models that
    *rows* do not name.
    """
    merged = dict(known)
    for row in rows:
        before = merged.get(row.name)
        targets = before.model_targets if before else []
        by_model = {target.model: target for target in (*targets, *row.model_targets)}
        update: dict[str, object] = {
            "priority": priority(row.priority),
            "model_targets": list(by_model.values()),
        }
        for name in ("slo_percentile", "value_per_met_request") if before else ():
            if getattr(row, name) is None:
                update[name] = getattr(before, name)
        merged[row.name] = row.model_copy(update=update)
    return merged


def priority(said: int) -> int:
    """Return the priority that *said* means: what is out of range is the lowest."""
    return said if 1 <= said <= PRIORITY_LOWEST else PRIORITY_LOWEST


def _accelerator(row: AcceleratorSpec) -> Accelerator:
    power = row.power
    return Accelerator(
        name=row.name,
        type=row.type or row.name,
        multiplicity=max(row.multiplicity, 1),
        cost_cents_per_h=row.cost,
        memory_gb=row.mem_size,
        memory_bandwidth_gbps=row.mem_bw,
        power=Power(
            idle_w=power.idle,
            full_w=power.full,
            mid_w=power.mid_power,
            mid_utilisation=power.mid_util,
        ),
    )


def _perf(row: ModelAcceleratorPerfData) -> Perf:
    latency_model = row.perf_parms
    return Perf(
        model=row.name,
        accelerator=row.acc,
        acc_count=max(row.acc_count, 1),
        max_batch=row.max_batch_size,
        at_tokens=row.at_tokens,
        alpha_ms=latency_model.alpha,
        beta_ms=latency_model.beta,
        gamma_ms=latency_model.gamma,
        launch_ms=latency_model.a,
        weights_ms=latency_model.w,
        scheduling="async" if (latency_model.scheduling or "").lower() == "async" else "sync",
        p=max(1.0, latency_model.p or 1.0),
        experts_ms=latency_model.experts_ms or 0.0,
        experts_idle=latency_model.experts_idle or 0.0,
        attention=latency_model.attention or 0.0,
        sequence_ms=latency_model.sequence_ms or 0.0,
        overhead_ms=SERVED_OVERHEAD_MS
        if latency_model.overhead_ms is None
        else latency_model.overhead_ms,
        tokens_per_step=max(1.0, latency_model.tokens_per_step or 1.0),
        kv_tokens=row.kv_tokens,
    )


def _class(row: ServiceClassSpec) -> ServiceClass:
    return ServiceClass(
        name=row.name,
        priority=row.priority,
        percentile=_percentile(row),
        value_per_met_request_cents=row.value_per_met_request,
        targets={target.model: _target(target) for target in row.model_targets},
    )


def _percentile(row: ServiceClassSpec) -> float:
    """Return the share of requests that shall meet the targets; what can be none is not said."""
    said = row.slo_percentile
    return said if said is not None and 0.0 < said < 1.0 else SLO_PERCENTILE


def _target(row: ModelTarget) -> SloTarget:
    return SloTarget(
        model=row.model,
        slo_itl_ms=row.slo_itl,
        slo_ttft_ms=row.slo_ttft,
        slo_tps=row.slo_tps,
        slo_ttw_ms=row.slo_ttw,
        percentiles=tuple(_percentile_targets(row)),
    )


def _percentile_targets(row: ModelTarget) -> Iterator[PercentileTarget]:
    for latency, percentile in PERCENTILE_TARGETS:
        limit_ms = getattr(row, f"slo_{latency}_p{percentile}")
        if limit_ms:
            yield PercentileTarget(latency=latency, percentile=percentile, limit_ms=limit_ms)


def _flags(row: OptimizerSpec) -> OptimizerData:
    return OptimizerData(
        unlimited=row.unlimited,
        heterogeneous=row.heterogeneous,
        saturation_policy=POLICIES.get(row.saturation_policy.lower(), "None"),
        delayed_best_effort=row.delayed_best_effort,
    )


def _server(row: ServerSpec) -> ServerData:
    return ServerData(
        name=row.name,
        model=row.model,
        service_class=row.service_class or "Free",
        keep_accelerator=row.keep_accelerator,
        min_replicas=row.min_num_replicas,
        max_replicas=row.max_num_replicas,
        max_batch=row.max_batch_size,
        max_queue=row.max_queue_size,
        gpus_per_replica=row.gpus_per_replica,
        types=None if row.accelerator_types is None else frozenset(row.accelerator_types),
        cached_tokens=row.cached_tokens or 0.0,
        held_tokens=row.held_tokens or 0.0,
        token_cv=TOKEN_CV if row.token_cv is None else row.token_cv,
        arrival_cv=1.0 if row.arrival_cv is None else row.arrival_cv,
        pooled=bool(row.pooled),
        current=_allocation(row.current_alloc),
    )


def _allocation(row: AllocationData) -> Allocation:
    said = row.model_fields_set
    return Allocation(
        accelerator=row.accelerator,
        replicas=row.num_replicas,
        max_batch=row.max_batch,
        cost_cents_per_h=row.cost if "cost" in said else None,
        # A latency without bound is null: it is not known as a figure.
        itl_ms=row.itl_average or 0.0,
        ttft_ms=row.ttft_average or 0.0,
        load=_load(row.load) if "load" in said else None,
    )


def _load(row: ServerLoad) -> Load:
    return Load(
        rate_rpm=row.arrival_rate,
        in_tokens=row.avg_in_tokens if row.in_tokens is None else row.in_tokens,
        out_tokens=row.avg_out_tokens if row.out_tokens is None else row.out_tokens,
    )


def _require_directory(directory: Path) -> None:
    if not directory.is_dir():
        raise SpecError(f"{directory}: expected a directory of data files, found none")


def _checked(spec: SystemSpec, part: _PartOf) -> System:
    """Return what *spec* says, where all names fit. Raise SpecError at the first that does not."""
    accelerators = [row.name for row in spec.accelerator_data.accelerators]
    _require_once(part("acceleratorData"), "accelerators", names=accelerators)
    rows = spec.model_data.models
    _check_latency_models(rows, part("modelData"))
    _require_once(part("modelData"), "models", names=[(row.name, row.acc) for row in rows])
    _check_classes(spec.service_class_data.service_classes, part("serviceClassData"))
    types = [row.type for row in spec.capacity_data.count]
    _require_once(part("capacityData"), "count", names=types, field="type")
    data = system_data(spec)
    servers = spec.server_data.servers
    _check_servers(servers, data, part("serverData"))
    _require_once(part("serverData"), "servers", names=[row.name for row in servers])
    return data


def _require_once(
    part: _Part, *at: str | int, names: Sequence[Hashable], field: str = "name"
) -> None:
    seen: set[Hashable] = set()
    for index, name in enumerate(names):
        if name in seen:
            raise part.fail(*at, index, field, expected=ONCE, found=name)
        seen.add(name)


def _check_latency_models(rows: Iterable[ModelAcceleratorPerfData], part: _Part) -> None:
    for index, row in enumerate(rows):
        if row.perf_parms.alpha + row.perf_parms.beta == 0:
            expected = "alpha + beta > 0 (an iteration takes time)"
            at = ("models", index, "perfParms", "alpha")
            raise part.fail(*at, expected=expected, found=0)


def _check_classes(rows: Sequence[ServiceClassSpec], part: _Part) -> None:
    """Today a class has one row. Rows of before, one for a class and model, must agree."""
    if not any(row.model for row in rows):
        _require_once(part, "serviceClasses", names=[row.name for row in rows])
    first: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    for index, row in enumerate(rows):
        at = ("serviceClasses", index)
        agreed = first.setdefault(row.name, priority(row.priority))
        if priority(row.priority) != agreed:
            expected = f"{agreed} as in the rows before"
            raise part.fail(*at, "priority", expected=expected, found=row.priority)
        if row.slo_percentile is not None and not 0.0 < row.slo_percentile < 1.0:
            expected = "a share above 0 and below 1, such as 0.95"
            raise part.fail(*at, "slo-percentile", expected=expected, found=row.slo_percentile)
        if (row.name, row.model) in seen:
            expected = "a model that the class has no row for yet"
            raise part.fail(*at, "model", expected=expected, found=row.model)
        seen.add((row.name, row.model))
        names = [target.model for target in row.model_targets]
        _require_once(part, *at, "modelTargets", names=names, field="model")


def _check_servers(rows: Iterable[ServerSpec], data: System, part: _Part) -> None:
    """Raise SpecError at the first server that names a class, a model or an accelerator that is not
    in *data*.
    """
    known: dict[str, Collection[str]] = {
        "class": data.classes,
        "model": {model for model, _ in data.perf},
        "accelerator": data.accelerators,
    }
    for index, row in enumerate(rows):
        at = ("servers", index)
        service_class, accelerator = row.service_class or "Free", row.current_alloc.accelerator
        if service_class not in known["class"]:
            expected = _one_of(known["class"])
            raise part.fail(*at, "class", expected=expected, found=service_class)
        if row.model not in known["model"]:
            raise part.fail(*at, "model", expected=_one_of(known["model"]), found=row.model)
        if accelerator and accelerator not in known["accelerator"]:
            below = ("currentAlloc", "accelerator")
            raise part.fail(*at, *below, expected=_one_of(known["accelerator"]), found=accelerator)


def _one_of(names: Collection[str]) -> str:
    return "one of " + ", ".join(sorted(names)) if names else "a name, but none is defined"


def loose_ends(data: System) -> list[str]:
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
    without: dict[str, list[str]] = {}
    for accelerator in data.accelerators.values():
        if not data.capacity.get(accelerator.type) and not data.optimizer.unlimited:
            without.setdefault(accelerator.type, []).append(accelerator.name)
    lines += [
        f"{CAPACITY}: there are no GPUs of type {kind!r}: nothing can run on {', '.join(names)}"
        for kind, names in without.items()
    ]
    lines += [
        f"{SERVERS}: {server.name!r} cannot be sized: class {server.service_class!r} has no target "
        f"for {server.model!r}"
        for server in data.servers.values()
        if data.target(service_class=server.service_class, model=server.model) is None
    ]
    lines += [
        f"{SERVERS}: {server.name!r}: minNumReplicas {server.min_replicas} is not kept: "
        f"maxNumReplicas is {server.max_replicas}"
        for server in data.servers.values()
        if server.max_replicas is not None and server.max_replicas < server.min_replicas
    ]
    return lines
