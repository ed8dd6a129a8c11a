"""CycleRecord ⇄ one line of strict JSON (docs/loop.md names the fields); the writing to files is
the caller's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from loop.actuator import planned
from loop.json_text import is_plain, quick_text
from loop.spec import cost_cents_per_h, gpus
from loop.types import (
    CapacityView,
    Latest,
    Load,
    Missing,
    ServerView,
    SharedGpus,
    Snapshot,
    Why,
    one_pool,
)

if TYPE_CHECKING:
    from loop.spec import SloTarget, SystemData
    from loop.types import Change, CycleRecord, Target

Line = dict[str, Any]
GAUGE_KEYS = (("running", "running"), ("waiting", "waiting"), ("kv_usage", "kvUsage"))


def record_line(record: CycleRecord) -> Line:
    """Return *record* as one JSON object: what is not known is null, and no figure is NaN or
    infinite.
    """
    plain = _plain(_line(record))
    assert isinstance(plain, dict)
    return plain


def _line(record: CycleRecord) -> Line:
    """Return *record* as an object whose figures are as they were found."""
    desired = {} if record.seen is None else planned(record.seen, record.changes)
    servers, internals = _servers(record, desired), _internals(record, desired)
    rows = {"servers": servers, "internals": internals}
    return head(record) | rows | tail(record, allocated(record, desired))


def head(record: CycleRecord) -> Line:
    """Return what a line tells before it comes to the servers."""
    seen = record.seen
    return {
        "ts": record.ts,
        "t_s": record.now_s,
        "cycle": record.cycle,
        "trigger": record.trigger,
        "mode": record.mode,
        "paused": record.paused or None,
        "backend": record.backend,
        "policy": record.policy,
        "policyOptions": record.policy_options,
        "speed": record.speed,
        "stepUp": record.bounds.step_up,
        "stepDown": record.bounds.step_down,
        "budgetUsdPerH": record.bounds.budget_usd_per_h,
        "windowS": seen.window_s if seen else None,
        "scrapeIntervalS": seen.scrape_interval_s if seen else None,
        "applied": record.applied,
        "error": record.error,
        "failedPhase": record.failed_phase,
        "traceback": record.traceback,
        "warnings": record.warnings,
        "warningKinds": record.warning_kinds,
    }


def tail(record: CycleRecord, taken: Mapping[str, int]) -> Line:
    """Return what a line tells behind them; *taken* are the GPUs that are allocated."""
    seen = record.seen
    return {
        "capacity": _capacity(record, taken),
        "capacityMax": (dict(seen.capacity_max) or None) if seen else None,
        "sharedGpus": (list(map(_shared, seen.shared_gpus)) or None) if seen else None,
        "totalCost": record.total_cost_cents_per_h,
        "timing": {
            "collectMs": record.timing.collect_ms,
            "optimizeMs": record.timing.optimize_ms,
            "actuateMs": record.timing.actuate_ms,
            "totalMs": record.timing.total_ms,
        },
    }


def record_text(record: CycleRecord) -> str:
    """Return *record* as one line of text, without the line's end."""
    line = _line(record)
    return text_of(line, plain=all(is_plain(row["details"]) for row in line["internals"]))


def text_of(line: Line, *, plain: bool = True) -> str:
    """Return *line* as text. *plain*: it is of the types of JSON alone; what policies put into the
    details may be of any.
    """
    text = quick_text(line) if plain else None
    if text is not None:
        return text
    try:
        # Nearly all lines can be written as they are, and to look at every figure takes as long.
        return _ENCODER.encode(line)
    except (TypeError, ValueError):
        return _ENCODER.encode(_plain(line))


# A line is a tree: there are no circles to look for.
_ENCODER = json.JSONEncoder(
    allow_nan=False, ensure_ascii=False, check_circular=False, separators=(",", ":")
)


def held_servers(record: CycleRecord) -> dict[str, str]:
    """Return why nothing is asked of which servers: the kind of the reason, by name."""
    if record.estimated is None or record.decision is None:
        return {}
    held: dict[str, str] = {}
    for name, view in record.estimated.servers.items():
        target = record.decision.targets.get(name)
        if record.paused or view.hold is not None:
            held[name] = view.hold.kind if view.hold is not None else "paused"
        elif target is None:
            held[name] = "undecided"
        elif is_held(target):
            held[name] = target.why.kind
    return held


def sleeping_servers(record: CycleRecord) -> list[str]:
    """Return the servers that are asleep by the decision."""
    targets = record.decision.targets if record.decision is not None else {}
    return [name for name, target in targets.items() if target.why.kind == "asleep"]


def is_held(target: Target) -> bool:
    """Tell whether *target* leaves a server as it is although more might be asked for it. One that
    is asleep waits for people, and for no data.
    """
    return target.held and target.why.kind != "asleep"


def snapshot_of(line: Mapping[str, Any]) -> Snapshot:
    """Return what was seen in the cycle of *line*, but for single pods and the GPUs in use, which
    lines do not keep.

    The line must be one of this module's, of a cycle whose observe succeeded.
    """
    servers = {row["name"]: _view(row) for row in line["servers"]}
    known = [row for row in line["capacity"] if row["seen"]]
    capacity = {
        row["type"]: CapacityView(type=row["type"], total=row["available"], used=row["used"])
        for row in known
    }
    return Snapshot(
        now_s=line["t_s"],
        servers=servers,
        capacity=capacity if known else None,
        capacity_max=line.get("capacityMax") or {},
        shared_gpus=tuple(
            SharedGpus(type=one["type"], servers=frozenset(one["servers"]), count=one["count"])
            for one in line.get("sharedGpus") or ()
        ),
        window_s=line.get("windowS"),
        scrape_interval_s=line.get("scrapeIntervalS"),
    )


def _shared(gpus_of: SharedGpus) -> Line:
    servers = sorted(gpus_of.servers)
    return {"type": gpus_of.type, "servers": servers, "count": gpus_of.count}


def _servers(record: CycleRecord, desired: Mapping[str, Change]) -> list[Line]:
    if record.seen is None:
        return []
    estimated = record.estimated.servers if record.estimated else {}
    targets = record.decision.targets if record.decision else {}
    unserved = record.decision.unserved if record.decision else {}
    return [
        server_row(
            view,
            estimated.get(name),
            record.data,
            target=targets.get(name),
            unserved=unserved.get(name),
            desired=desired[name],
        )
        for name, view in record.seen.servers.items()
    ]


def server_row(
    view: ServerView,
    estimated: ServerView | None,
    data: SystemData | None,
    *,
    target: Target | None,
    unserved: Why | None,
    desired: Change,
) -> Line:
    """Return what a line tells of one server."""
    return (
        _seen(view)
        | _estimated(estimated)
        | _objectives(data, view)
        | _decided(data, view, desired)
        | _explained(target, desired, unserved)
    )


def _seen(view: ServerView) -> Line:
    load, unknown = view.load, view.unknown_gauges
    return {
        "name": view.name,
        "class": view.service_class,
        "model": view.model,
        "rpm": load.rate_rpm if load else None,
        "throughput": view.completions_rpm,
        "avgInTok": (load.in_tokens or None) if load else None,
        "avgOutTok": (load.out_tokens or None) if load else None,
        "itl": view.itl_ms,
        "ttft": view.ttft_ms,
        "percentiles": dict(view.percentiles_ms) or None,
        "percentilesSource": view.percentiles_source or None,
        "percentilesAgeS": view.percentiles_age_s,
        "outputTps": view.output_tps,
        "currentAccelerator": view.accelerator,
        "currentMaxBatch": view.max_batch,
        "wanted": view.wanted,
        "ready": view.ready,
        "starting": view.starting,
        "pending": view.pending,
        "draining": view.draining,
        "running": None if "running" in unknown else view.running,
        "waiting": None if "waiting" in unknown else view.waiting,
        "backlog": None if "waiting" in unknown else view.backlog,
        "kvUsage": None if "kv_usage" in unknown else view.kv_usage,
        "reporting": view.reporting,
        "latestRpm": view.latest.rate_rpm if view.latest else None,
        "latestS": view.latest.length_s if view.latest else None,
        "loadSource": view.load_source or None,
        "loadAgeS": view.load_age_s,
        "sampleAgeS": view.sample_age_s,
        "startUpS": view.start_up_s,
        "pooled": view.pooled,
        "queuedPromptTokens": view.queued_prompt_tokens,
        "preemptions": view.preemptions,
        "waitingPods": view.waiting_pods,
        "prefixCacheHitShare": view.cache_hit_share,
        "fetchedPromptShare": view.fetched_share,
        "minReplicas": view.replicas_min,
        "maxReplicas": view.replicas_max,
        "gpusPerReplica": view.gpus_per_replica,
        "batchFixed": view.batch_fixed,
        "acceleratorFixed": view.accelerator_fixed,
        "gpusReachable": view.gpus_reachable and dict(view.gpus_reachable),
        "missing": _missing(view.missing),
        "graceS": view.grace_s,
        "hold": {"kind": view.hold.kind, "text": view.hold.text} if view.hold else None,
    }


def _missing(missing: Missing | None) -> Line | None:
    if missing is None:
        return None
    return {
        "count": missing.count,
        "wanted": missing.wanted,
        "waitedS": missing.waited_s,
        "kind": missing.kind,
        "text": missing.text,
        "givenUp": missing.given_up,
    }


def _missing_of(line: Line | None) -> Missing | None:
    if line is None:
        return None
    return Missing(
        count=line["count"],
        wanted=line["wanted"],
        waited_s=line["waitedS"],
        kind=line["kind"],
        text=line["text"],
        given_up=line["givenUp"],
    )


def _latest_of(row: Mapping[str, Any]) -> Latest | None:
    rate_rpm, length_s = row.get("latestRpm"), row.get("latestS")
    return None if rate_rpm is None or length_s is None else Latest(rate_rpm, length_s)


def _view(row: Mapping[str, Any]) -> ServerView:
    """Return the inverse of _seen."""
    load = None
    if row["rpm"] is not None:
        load = Load(
            rate_rpm=row["rpm"],
            in_tokens=row["avgInTok"] or 0.0,
            out_tokens=row["avgOutTok"] or 0.0,
        )
    return ServerView(
        name=row["name"],
        model=row["model"],
        service_class=row["class"],
        pools=one_pool(
            accelerator=row["currentAccelerator"],
            replicas=row["wanted"],
            max_batch=row["currentMaxBatch"],
        ),
        ready=row["ready"],
        starting=row["starting"],
        pending=row["pending"],
        draining=row["draining"],
        load=load,
        latest=_latest_of(row),
        completions_rpm=row["throughput"],
        ttft_ms=row["ttft"],
        itl_ms=row["itl"],
        percentiles_ms=row.get("percentiles") or {},
        percentiles_source=row.get("percentilesSource") or "",
        percentiles_age_s=row.get("percentilesAgeS"),
        output_tps=row["outputTps"],
        running=row["running"] or 0,
        waiting=row["waiting"] or 0,
        backlog=row["backlog"] or 0,
        kv_usage=row["kvUsage"] or 0.0,
        unknown_gauges=tuple(gauge for gauge, key in GAUGE_KEYS if row[key] is None),
        reporting=row["reporting"],
        replicas_min=row.get("minReplicas") or 0,
        replicas_max=row.get("maxReplicas"),
        load_source=row.get("loadSource") or "",
        load_age_s=row.get("loadAgeS"),
        sample_age_s=row.get("sampleAgeS"),
        start_up_s=row.get("startUpS"),
        pooled=row.get("pooled", False),
        queued_prompt_tokens=row.get("queuedPromptTokens"),
        preemptions=row.get("preemptions"),
        waiting_pods=row.get("waitingPods"),
        cache_hit_share=row.get("prefixCacheHitShare"),
        fetched_share=row.get("fetchedPromptShare"),
        gpus_per_replica=row.get("gpusPerReplica"),
        batch_fixed=row.get("batchFixed", False),
        accelerator_fixed=row.get("acceleratorFixed", False),
        gpus_reachable=row.get("gpusReachable"),
        missing=_missing_of(row.get("missing")),
        grace_s=row.get("graceS"),
        hold=Why(**row["hold"]) if row.get("hold") else None,
    )


def _estimated(view: ServerView | None) -> Line:
    load = view.load if view else None
    return {
        "believedSource": (view.load_source or None) if view else None,
        "believedRpm": load.rate_rpm if load else None,
        "believedInTok": (load.in_tokens or None) if load else None,
        "believedOutTok": (load.out_tokens or None) if load else None,
    }


def _objectives(data: SystemData | None, view: ServerView) -> Line:
    target: SloTarget | None = None
    if data is not None:
        target = data.target(service_class=view.service_class, model=view.model)
    # 0 means "not set" in the data files; here null does.
    return {
        "sloItl": (target.slo_itl_ms or None) if target else None,
        "sloTtft": (target.slo_ttft_ms or None) if target else None,
        "sloTps": (target.slo_tps or None) if target else None,
    }


def _decided(data: SystemData | None, view: ServerView, desired: Change) -> Line:
    cost = None
    if data is not None:
        cost = cost_cents_per_h(
            data, model=view.model, accelerator=desired.accelerator, replicas=desired.replicas
        )
    return {
        "accelerator": desired.accelerator,
        "replicas": desired.replicas,
        "maxBatch": desired.max_batch,
        "cost": cost,
    }


def _explained(target: Target | None, desired: Change, unserved: Why | None) -> Line:
    """Return why: a server that is absent from the decision is held."""
    return {
        "policyReplicas": target.replicas if target else desired.replicas,
        "held": is_held(target) if target else True,
        "reason": target.why.text if target else "",
        "reasonKind": target.why.kind if target else "",
        "unserved": unserved.text if unserved else None,
        "predictedItl": target.itl_ms if target else None,
        "predictedTtft": target.ttft_ms if target else None,
        "predictedRho": target.rho if target else None,
    }


def _internals(record: CycleRecord, planned_of: Mapping[str, Change]) -> list[Line]:
    if record.seen is None or record.data is None:
        return []
    targets = record.decision.targets if record.decision else {}
    return [
        model_row(record.data, record.seen.servers[name], targets.get(name), desired)
        for name, desired in planned_of.items()
    ]


def model_row(data: SystemData, view: ServerView, target: Target | None, desired: Change) -> Line:
    """Return the latency model that was estimated of one server where it is to run, and the figures
    behind its decision.
    """
    perf = data.perf.get((view.model, desired.accelerator))
    return {
        "name": view.name,
        "model": view.model,
        "accelerator": desired.accelerator,
        "alpha": perf.alpha_ms if perf else None,
        "beta": perf.beta_ms if perf else None,
        "gamma": perf.gamma_ms if perf else None,
        "details": target.why.details if target is not None else {},
    }


def capacity_rows(record: CycleRecord) -> list[Line]:
    """Return per accelerator type the GPUs there are (available), that the decision takes
    (allocated), in use.
    """
    desired = {} if record.seen is None else planned(record.seen, record.changes)
    return _capacity(record, allocated(record, desired))


def _capacity(record: CycleRecord, taken: Mapping[str, int]) -> list[Line]:
    if record.data is None:
        return []
    seen = record.seen.capacity if record.seen else None
    totals = (
        {kind: view.total for kind, view in seen.items()}
        if seen is not None
        else dict(record.data.capacity)
    )
    return [
        {
            "type": kind,
            "allocated": taken.get(kind, 0),
            "available": totals.get(kind, 0),
            "used": seen[kind].used if seen and kind in seen else None,
            "seen": seen is not None and kind in seen,
        }
        for kind in [*totals, *(kind for kind in taken if kind not in totals)]
    ]


def allocated(record: CycleRecord, planned_of: Mapping[str, Change]) -> dict[str, int]:
    """Return the GPUs by type that the servers of *record* take as it is planned."""
    taken: dict[str, int] = {}
    if record.seen is None or record.data is None:
        return taken
    for name, desired in planned_of.items():
        model = record.seen.servers[name].model
        held = gpus(
            record.data, model=model, accelerator=desired.accelerator, replicas=desired.replicas
        )
        if held is not None:
            kind, count = held
            taken[kind] = taken.get(kind, 0) + count
    return taken


def _plain(value: object) -> object:
    """Return *value* in the types of JSON; a figure that JSON cannot write becomes null."""
    # Nearly all values are of these types to the letter, and there are thousands in a record:
    # questions to the abstract types below cost five times as much.
    kind = type(value)
    if value is None or kind is str or kind is bool or kind is int:
        return value
    if kind is float:
        return value if math.isfinite(value) else None  # type: ignore[arg-type]
    if kind is dict:
        return {str(key): _plain(item) for key, item in value.items()}  # type: ignore[attr-defined]
    if kind is list or kind is tuple:
        return [_plain(item) for item in value]  # type: ignore[attr-defined]
    if isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    return str(value)
