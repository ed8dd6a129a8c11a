"""POST /optimizeOne as JSON, ours ⇄ values of the loop: the question for a whole system, and the
answer to it; pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field

from loop.schema.models import AllocationData, Figure, Message
from loop.schema.parsing import Json, read
from loop.spec import OptimizerData, Perf, ServiceClass, SloTarget, SystemData
from loop.types import Decision, Target, Why, one_pool
from twin.spec import Accelerator

Era = Literal["today", "early"]


class Answered(AllocationData):
    """What a server shall have. Ours say why; those of mid 2025 give a wait in the place of a time
    to first token.
    """

    wait_average: Figure | None = None
    reason: str = ""
    details: Json = Field(default={})


class OptimizeAnswer(Message):
    """The answer of an optimizer. Ours name besides who gets nothing, and why."""

    allocations: dict[str, Answered]
    unallocated: dict[str, str] = Field(default={})


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


def read_optimized(answer: object) -> Decision:
    """Return what an optimizer answered. Raise SpecError, one line, where it cannot be read."""
    found = read(OptimizeAnswer, answer, source="answer")
    return Decision(
        targets={name: _target(name, each) for name, each in found.allocations.items()},
        unserved={
            name: Why(kind="capacity" if text.startswith("capacity") else "remote", text=text)
            for name, text in found.unallocated.items()
        },
    )


def _target(name: str, found: Answered) -> Target:
    # Where it is not said at all, the optimizer is an early one, and predicts something else.
    ttft_ms = found.ttft_average if "ttft_average" in found.model_fields_set else None
    waiting = {} if found.wait_average is None else {"waitAverage": found.wait_average}
    return Target(
        server=name,
        pools=one_pool(
            accelerator=found.accelerator,
            # In these messages an empty accelerator means no replicas.
            replicas=found.num_replicas if found.accelerator else 0,
            max_batch=found.max_batch,
        ),
        cost_cents_per_h=found.cost,
        itl_ms=found.itl_average,
        ttft_ms=ttft_ms,
        why=Why(kind="remote", text=found.reason, details={**found.details, **waiting}),
    )


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
        "perfParms": latency_model | {"gamma": row.gamma_ms},
        **latency_model,
    }


def _classes(classes: Mapping[str, ServiceClass]) -> list[Json]:
    return [
        {
            "name": one.name,
            "priority": one.priority,
            "modelTargets": [_objectives(each) for each in one.targets.values()],
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


def _flags(flags: OptimizerData) -> dict[str, Any]:
    return {
        "unlimited": flags.unlimited,
        "heterogeneous": flags.heterogeneous,
        "milpSolver": False,
        "useCplex": False,
        "delayedBestEffort": flags.delayed_best_effort,
        "saturationPolicy": flags.saturation_policy,
    }
