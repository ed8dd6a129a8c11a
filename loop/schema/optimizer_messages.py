"""POST /optimizeOne as JSON, ours ⇄ values of the loop: the question for a whole system, and the
answer to it; pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast, get_args

from pydantic import Field

from loop.optimizer.solution import Assignment, Solution
from loop.schema.messages import figure, wire_load, with_older_names
from loop.schema.models import AllocationData, Figure, Message, ServerSpec, written
from loop.schema.parsing import Json, read
from loop.spec import (
    SLO_PERCENTILE,
    TOKEN_CV,
    OptimizerData,
    Perf,
    ServerData,
    ServiceClass,
    SloTarget,
    SystemData,
)
from loop.types import ServerView, Why, WhyKind, one_pool
from twin.spec import SERVED_OVERHEAD_MS, Accelerator

Era = Literal["today", "early"]
NOTE_MAX = 200  # characters of a note of others that a record keeps


class Answered(AllocationData):
    """What a server shall have. Ours say why; those of mid 2025 give a wait in the place of a time
    to first token.
    """

    wait_average: Figure | None = None
    reason: str = ""
    reason_kind: str = ""
    details: Json = Field(default={})


class OptimizeAnswer(Message):
    """The answer of an optimizer. Ours name besides who gets nothing, and why, and note what else
    there is to tell of it.
    """

    allocations: dict[str, Answered]
    unallocated: dict[str, str] = Field(default={})
    unallocated_kinds: dict[str, str] = Field(default={})
    note: str = ""


def optimize_message(data: SystemData, servers: Iterable[Json], *, era: Era = "today") -> Json:
    """Return the question: *servers* of the wire in the system of *data*, but for the servers that
    *data* names.

    era "early": with the classes as optimizers of mid 2025 read them. All else is told in the words
    of both.
    """
    classes = _early_classes if era == "early" else _classes
    return {
        "system": {
            "acceleratorData": {
                "accelerators": [_accelerator(unit) for unit in data.accelerators.values()]
            },
            "modelData": {"models": [_perf(row) for row in data.perf.values()]},
            "serviceClassData": {"serviceClasses": classes(data.classes)},
            "serverData": {"servers": list(servers)},
            "optimizerData": {"optimizer": _flags(data.optimizer)},
            "capacityData": {
                "count": [{"type": kind, "count": count} for kind, count in data.capacity.items()]
            },
        }
    }


def server_row(server: ServerData, *, with_cost: bool) -> Json:
    """Return *server* as a server of the wire. Without its cost, as existing controllers say it."""
    now, load = server.current, server.current.load
    assert load is not None, f"{server.name}: the optimizer is asked for servers of known load"
    spec = ServerSpec(
        name=server.name,
        model=server.model,
        keep_accelerator=server.keep_accelerator,
        min_num_replicas=server.min_replicas,
        max_num_replicas=server.max_replicas,
        max_batch_size=server.max_batch,
        max_queue_size=server.max_queue,
        gpus_per_replica=server.gpus_per_replica,
        accelerator_types=None if server.types is None else sorted(server.types),
        cached_tokens=server.cached_tokens or None,
        held_tokens=server.held_tokens or None,
        token_cv=None if server.token_cv == TOKEN_CV else server.token_cv,
        arrival_cv=None if server.arrival_cv == 1.0 else server.arrival_cv,
        pooled=server.pooled or None,
        current_alloc=AllocationData(
            accelerator=now.accelerator,
            num_replicas=now.replicas,
            max_batch=now.max_batch,
            cost=figure(now.cost_cents_per_h) if with_cost else 0.0,
            itl_average=figure(now.itl_ms),
            ttft_average=figure(now.ttft_ms),
            load=wire_load(load, throughput_rpm=None),
        ),
    )
    row = with_older_names(written(spec) | {"class": server.service_class})
    # Existing readers refuse a fraction in the words of all; ours sizes by it.
    row["currentAlloc"]["load"] |= {"inTokens": load.in_tokens, "outTokens": load.out_tokens}
    return row


def shown_row(view: ServerView | None) -> Json:
    """Return what a question tells of a server, as it was seen, for its optimizer to show: nothing
    of one that nobody saw, which is asked about to compare.
    """
    if view is None:
        return {"whatIf": True}
    told = {"readyReplicas": view.ready, "loadAgeS": view.load_age_s}
    return {key: value for key, value in told.items() if value is not None}


def read_optimized(answer: object) -> Solution:
    """Return what an optimizer answered. Raise SpecError, one line, where it cannot be read."""
    found = read(OptimizeAnswer, answer, source="answer")
    allocations = {name: _assignment(name, each) for name, each in found.allocations.items()}
    total = sum(each.cost_cents_per_h for each in allocations.values())
    return Solution(
        allocations=allocations,
        unserved={
            name: Why(kind=_kind(found.unallocated_kinds.get(name, "")), text=text)
            for name, text in found.unallocated.items()
        },
        total_cost=total,
        total_value=total,
        note=found.note[:NOTE_MAX],
    )


def _assignment(name: str, found: Answered) -> Assignment:
    # If it is not said at all, the optimizer is an early one, and predicts something else.
    ttft_ms = found.ttft_average if "ttft_average" in found.model_fields_set else None
    waiting = {} if found.wait_average is None else {"waitAverage": found.wait_average}
    return Assignment(
        server=name,
        pools=one_pool(
            accelerator=found.accelerator,
            # In these messages an empty accelerator means no replicas.
            replicas=found.num_replicas if found.accelerator else 0,
            max_batch=found.max_batch,
        ),
        cost_cents_per_h=found.cost,
        value=found.cost,
        itl_ms=found.itl_average,
        ttft_ms=ttft_ms,
        rho=None,
        rate_max_rpm=_rate_max_rpm(found.details),
        why=Why(
            kind=_kind(found.reason_kind),
            text=found.reason,
            details={**found.details, **waiting},
        ),
    )


def _rate_max_rpm(details: Json) -> float:
    """Return what a replica can take, 0 if it is not said: existing optimizers never do."""
    said = details.get("rateMaxRpm")
    if not isinstance(said, int | float) or isinstance(said, bool) or not 0.0 <= said < math.inf:
        return 0.0
    return float(said)


def _kind(word: str) -> WhyKind:
    """Return the kind of reason that an answer names; existing optimizers name none."""
    return cast(WhyKind, word) if word in get_args(WhyKind) else "remote"


def _accelerator(unit: Accelerator) -> Json:
    # Existing readers take whole gigabytes and watts.
    return {
        "name": unit.name,
        "type": unit.type,
        "multiplicity": unit.multiplicity,
        "memSize": round(unit.memory_gb),
        "memBW": round(unit.memory_bandwidth_gbps),
        "power": {
            "idle": round(unit.power.idle_w),
            "full": round(unit.power.full_w),
            "midPower": round(unit.power.mid_w),
            "midUtil": unit.power.mid_utilisation,
        },
        "cost": unit.cost_cents_per_h,
    }


def _perf(row: Perf) -> Json:
    latency_model = {"alpha": row.alpha_ms, "beta": row.beta_ms}
    return {
        "name": row.model,
        "acc": row.accelerator,
        "accCount": row.acc_count,
        "maxBatchSize": row.max_batch,
        "atTokens": row.at_tokens,
        "perfParms": latency_model | {"gamma": row.gamma_ms} | _ours_alone(row),
        **latency_model,
        # Only ours reads it; without it the batch may be larger than the KV cache holds.
        **({} if row.kv_tokens is None else {"kvTokens": row.kv_tokens}),
    }


def _ours_alone(row: Perf) -> Json:
    """Return what only our own optimizer reads of a latency model, as far as it is not what it
    would assume.
    """
    assumed = {
        **{"a": None, "w": None, "p": 1.0, "expertsMs": 0.0, "expertsIdle": 0.0, "attention": 0.0},
        **{
            "sequenceMs": 0.0,
            "scheduling": "sync",
            "overheadMs": SERVED_OVERHEAD_MS,
            "tokensPerStep": 1.0,
        },
    }
    ours = (
        *(row.launch_ms, row.weights_ms, row.p, row.experts_ms, row.experts_idle, row.attention),
        *(row.sequence_ms, row.scheduling, row.overhead_ms, row.tokens_per_step),
    )
    return {
        key: value
        for (key, default), value in zip(assumed.items(), ours, strict=True)
        if value != default
    }


def _classes(classes: Mapping[str, ServiceClass]) -> list[Json]:
    return [
        {
            "name": one.name,
            "priority": one.priority,
            **_ours(one),
            "modelTargets": [
                {**_objectives(each), **_percentiles(each)} for each in one.targets.values()
            ],
        }
        for one in classes.values()
    ]


def _early_classes(classes: Mapping[str, ServiceClass]) -> list[Json]:
    return [
        {
            "name": one.name,
            "priority": one.priority,
            **_objectives(each),
            "slo-ttw": each.slo_ttw_ms,
        }
        for one in classes.values()
        for each in one.targets.values()
    ]


def _objectives(target: SloTarget) -> Json:
    return {
        "model": target.model,
        "slo-itl": target.slo_itl_ms,
        "slo-ttft": target.slo_ttft_ms,
        "slo-tps": target.slo_tps,
    }


def _percentiles(target: SloTarget) -> Json:
    """Return the bounds of percentiles, which the Go service ignores."""
    return {
        f"slo-{each.latency}-p{each.percentile:g}": each.limit_ms for each in target.percentiles
    }


def _ours(one: ServiceClass) -> Json:
    """Return what the Go service does not know of a class, and ignores."""
    given = {
        "slo-percentile": None if one.percentile == SLO_PERCENTILE else one.percentile,
        "valuePerMetRequest": one.value_per_met_request_cents,
    }
    return {key: value for key, value in given.items() if value is not None}


def _flags(flags: OptimizerData) -> dict[str, Any]:
    return {
        "unlimited": flags.unlimited,
        "heterogeneous": flags.heterogeneous,
        "milpSolver": False,
        "useCplex": False,
        "delayedBestEffort": flags.delayed_best_effort,
        "saturationPolicy": flags.saturation_policy,
    }
