"""The rows of each data file, from JSON entries to frozen data; whether names of two files fit is
not seen here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import TypeVar

from loop.spec import Allocation, OptimizerData, Perf, ServerData, ServiceClass, SloTarget
from loop.types import Load
from twin.datafile import Entry
from twin.spec import Accelerator, Power

Row = TypeVar("Row")
Key = TypeVar("Key", bound=Hashable)

SATURATION_POLICIES = ("None", "PriorityExhaustive", "PriorityRoundRobin", "RoundRobin")
PRIORITY_LOWEST = 100


def accelerators(file: Entry) -> dict[str, Accelerator]:
    """Read accelerator-data.json, by name."""
    rows = file.children("accelerators")
    return _unique(
        rows, [_accelerator(row) for row in rows], key=lambda accelerator: accelerator.name
    )


def _accelerator(row: Entry) -> Accelerator:
    name = row.text("name")
    return Accelerator(
        name=name,
        type=row.text("type", default=name),
        multiplicity=max(row.whole("multiplicity", at_least=1, default=1), 1),
        cost_cents_per_h=row.number("cost", at_least=0),
        memory_gb=row.number("memSize", at_least=0, default=0),
        memory_bandwidth_gbps=row.number("memBW", at_least=0, default=0),
        power=_power(row.child("power")),
    )


def _power(entry: Entry | None) -> Power:
    if entry is None:
        return Power()
    return Power(
        idle_w=entry.number("idle", at_least=0, default=0),
        full_w=entry.number("full", at_least=0, default=0),
        mid_w=entry.number("midPower", at_least=0, default=0),
        mid_utilisation=entry.number("midUtil", at_least=0, at_most=1, default=0),
    )


def perf(file: Entry) -> dict[tuple[str, str], Perf]:
    """Read model-data.json, by (model, accelerator)."""
    rows = file.children("models", label=("name", "acc"))
    return _unique(
        rows, [_perf_row(row) for row in rows], key=lambda perf: (perf.model, perf.accelerator)
    )


def _perf_row(row: Entry) -> Perf:
    model, accelerator = row.text("name"), row.text("acc")
    latency_model = row.child("perfParms")
    # Files from before 2025-09 hold alpha and beta in the row itself, of a latency model without
    # gamma.
    early = latency_model is None and (row.has("alpha") or row.has("beta"))
    if latency_model is None and not early and not row.lenient:
        raise row.fail("perfParms", expected="an object {alpha, beta, gamma}", found=None)
    figures = latency_model or row
    perf = Perf(
        model=model,
        accelerator=accelerator,
        acc_count=max(row.whole("accCount", at_least=1, default=1), 1),
        max_batch=row.whole("maxBatchSize", at_least=1),
        at_tokens=row.whole("atTokens", at_least=1),
        alpha_ms=figures.number("alpha", at_least=0),
        beta_ms=figures.number("beta", at_least=0),
        gamma_ms=0.0 if early else figures.number("gamma", at_least=0),
    )
    if not row.lenient and perf.alpha_ms + perf.beta_ms == 0:
        raise figures.fail("alpha", expected="alpha + beta > 0 (an iteration takes time)", found=0)
    return perf


def classes(file: Entry) -> dict[str, ServiceClass]:
    """Read serviceclass-data.json, by name: nested rows, or flat ones from before 2025-09."""
    rows = file.children("serviceClasses")
    if any(row.has("model") for row in rows):
        return _flat_classes(rows)
    return _unique(rows, [_class(row) for row in rows], key=lambda entry: entry.name)


def _class(row: Entry) -> ServiceClass:
    targets = row.children("modelTargets", required=False, label=("model",))
    return ServiceClass(
        name=row.text("name"),
        priority=_priority(row),
        targets=_unique(
            targets, [_target(target) for target in targets], key=lambda target: target.model
        ),
    )


def _flat_classes(rows: Sequence[Entry]) -> dict[str, ServiceClass]:
    """Read rows from before 2025-09: one per class and model, {name, priority, model, slo-…}."""
    classes: dict[str, ServiceClass] = {}
    for row in rows:
        name, priority, target = row.text("name"), _priority(row), _target(row)
        entry = classes.get(name, ServiceClass(name=name, priority=priority))
        if not row.lenient and entry.priority != priority:
            raise row.fail(
                "priority", expected=f"{entry.priority} as in the rows before", found=priority
            )
        if not row.lenient and target.model in entry.targets:
            raise row.fail(
                "model", expected="a model that the class has no row for yet", found=target.model
            )
        classes[name] = replace(entry, targets={**entry.targets, target.model: target})
    return classes


def _priority(row: Entry) -> int:
    priority = row.whole("priority", at_least=1, at_most=PRIORITY_LOWEST, default=PRIORITY_LOWEST)
    return priority if 1 <= priority <= PRIORITY_LOWEST else PRIORITY_LOWEST


def _target(row: Entry) -> SloTarget:
    waiting_ms = row.number("slo-ttw", at_least=0, default=0)
    return SloTarget(
        model=row.text("model"),
        slo_itl_ms=row.number("slo-itl", at_least=0, default=0),
        # Waiting is a part of the time to first token: what is said of the older target bounds the
        # newer one.
        slo_ttft_ms=row.number("slo-ttft", at_least=0, default=waiting_ms),
        slo_tps=row.number("slo-tps", at_least=0, default=0),
        slo_ttw_ms=waiting_ms,
    )


def optimizer(file: Entry) -> OptimizerData:
    """Read optimizer-data.json, with or without its "optimizer" wrapper."""
    flags = file.child("optimizer") or file
    flags.ignore("milpSolver", "useCplex")  # accepted and ignored by the existing optimizer too
    return OptimizerData(
        unlimited=flags.flag("unlimited"),
        heterogeneous=flags.flag("heterogeneous"),
        saturation_policy=flags.choice("saturationPolicy", SATURATION_POLICIES, default="None"),
        delayed_best_effort=flags.flag("delayedBestEffort"),
    )


def capacity(file: Entry) -> dict[str, int]:
    """Read capacity-data.json: GPUs per accelerator type."""
    rows = file.children("count", label=("type",))
    counts = [(row.text("type"), row.whole("count", at_least=0)) for row in rows]
    return dict(_unique(rows, counts, key=lambda pair: pair[0], field="type").values())


def servers(file: Entry, *, check: Callable[[Entry, ServerData], None]) -> dict[str, ServerData]:
    """Read server-data.json, by name; *check* each server with its entry, so that an error can name
    its place.
    """
    rows = file.children("servers")
    servers = [_server(row) for row in rows]
    for row, server in zip(rows, servers, strict=True):
        check(row, server)
    return _unique(rows, servers, key=lambda server: server.name)


def _server(row: Entry) -> ServerData:
    row.ignore("desiredAlloc")  # what the optimizer said last; the services echo it
    return ServerData(
        name=row.text("name"),
        model=row.text("model"),
        service_class=row.text("class", default="Free"),
        keep_accelerator=row.flag("keepAccelerator"),
        min_replicas=row.whole("minNumReplicas", at_least=0, default=0),
        max_batch=row.whole("maxBatchSize", at_least=0, default=0),
        max_queue=row.whole("maxQueueSize", at_least=0, default=0),
        current=_allocation(row.child("currentAlloc")),
    )


def _allocation(entry: Entry | None) -> Allocation:
    if entry is None:
        return Allocation()
    entry.ignore("waitAverage")
    return Allocation(
        accelerator=entry.text("accelerator", default=""),
        replicas=entry.whole("numReplicas", at_least=0, default=0),
        max_batch=entry.whole("maxBatch", at_least=0, default=0),
        cost_cents_per_h=entry.number("cost", at_least=0) if entry.has("cost") else None,
        itl_ms=entry.number("itlAverage", at_least=0, default=0),
        ttft_ms=entry.number("ttftAverage", at_least=0, default=0),
        load=_load(entry.child("load")),
    )


def _load(entry: Entry | None) -> Load | None:
    if entry is None:
        return None
    entry.ignore("throughput")
    # Before 2025-09 a request had one length, of tokens generated one an iteration: that is the
    # output of today.
    early = next((key for key in ("avgLength", "numTokens") if entry.has(key)), None)
    length = entry.number(early, at_least=0) if early else None
    return Load(
        rate_rpm=entry.number("arrivalRate", at_least=0),
        in_tokens=entry.number("avgInTokens", at_least=0, default=None if length is None else 0),
        out_tokens=entry.number("avgOutTokens", at_least=0, default=length),
    )


def kv_tokens(file: Entry) -> dict[tuple[str, str], int]:
    """Return what twin-data.json says of KV cache; the rest of that file is the world's and read
    by twin/world.py.
    """
    rows = file.children("engines", required=False, label=("model", "acc"))
    return {
        (row.text("model"), row.text("acc")): row.whole("kvTokens", at_least=1)
        for row in rows
        if row.has("kvTokens")
    }


def _unique(
    rows: Sequence[Entry], values: Sequence[Row], *, key: Callable[[Row], Key], field: str = "name"
) -> dict[Key, Row]:
    """Return *values* by key, the last of equal ones where that is lenient; else a key may be there
    once.
    """
    found: dict[Key, Row] = {}
    for row, value in zip(rows, values, strict=True):
        if key(value) in found and not row.lenient:
            raise row.fail(field, expected="a name that no entry before it has", found=key(value))
        found[key(value)] = value
    return found
