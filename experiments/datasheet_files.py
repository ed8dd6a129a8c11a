"""Rows of a data directory that follow from data sheets, before anything is measured. Pure."""

from __future__ import annotations

import re
from typing import Any

from twin.fit.datasheet import SEQUENCE_MS, Accelerator, DataSheetModel, Dtype, estimate
from twin.fit.model_config import ModelFacts
from twin.spec import AdmissionRule, Scheduling, SpecError

TP_SIZES = (1, 2, 4, 8)
BATCH_MAX = 256
TOKEN_BUDGET = 8192
ASYNC_SINCE, WHOLE_SINCE = (0, 15), (0, 19)  # of vLLM
# A replica that holds fewer mean requests than this is no server: more GPUs are taken.
REQUESTS_MIN = 8
START_UP_S, LOAD_GB_PER_S = 45.0, 1.0
START_UP_CV = 0.15

Json = dict[str, Any]
Tokens = tuple[float, float]


def scheduling_of(vllm: str | None) -> Scheduling:
    """Return how this version of vLLM plans its iterations; None is a current one."""
    return "async" if _is_since(vllm, ASYNC_SINCE) else "sync"


def admission_of(vllm: str | None) -> AdmissionRule:
    """Return for what of a prompt this version of vLLM wants memory before it begins."""
    return "full_prompt" if _is_since(vllm, WHOLE_SINCE) else "chunk"


def _is_since(vllm: str | None, first: tuple[int, int]) -> bool:
    """Tell whether this version of vLLM is *first* or a later one; None is a current one."""
    if vllm is None:
        return True
    found = re.match(r"v?(\d+)\.(\d+)", vllm)
    if found is None:
        raise SpecError(f"vllm: expected a version such as 0.15, found {vllm[:60]!r}")
    major, minor = map(int, found.groups())
    return (major, minor) >= first


def smallest_engine(
    model: ModelFacts,
    accelerator: Accelerator,
    count: int,
    *,
    tokens: Tokens,
    dtype: Dtype | None,
) -> DataSheetModel | None:
    """Return the engine with the fewest GPUs, *count* at most, that serves some requests of
    *tokens* at once, and whose GPUs can share the heads of the model; None if none does.
    """
    for tp in TP_SIZES:
        if tp <= count and model.is_split_by(tp):
            engine = estimate(
                model,
                accelerator,
                tp=tp,
                dtype=dtype,
                max_batch=BATCH_MAX,
                token_budget=TOKEN_BUDGET,
            )
            if engine.kv_tokens >= REQUESTS_MIN * sum(tokens):
                return engine
    return None


def accelerator_row(accelerator: Accelerator, *, name: str = "", gpus: int = 1) -> Json:
    """Return an accelerator of so many GPUs; *name* "": that of the data sheet."""
    full = gpus * accelerator.power_w
    return {
        "name": name or accelerator.name,
        "type": accelerator.name,
        "multiplicity": gpus,
        "memSize": gpus * accelerator.memory_gb,
        "memBW": gpus * accelerator.bandwidth_gbs,
        "power": {
            "idle": round(0.15 * full, 1),
            "full": full,
            "midPower": round(0.8 * full, 1),
            "midUtil": 0.6,
        },
        "cost": gpus * accelerator.price_cents,
    }


def max_batch_of(engine: DataSheetModel, tokens: Tokens) -> int:
    """Return how many requests of *tokens* a replica holds, within what engines allow."""
    return int(min(engine.kv_tokens // sum(tokens), BATCH_MAX))


def perf_parms(engine: DataSheetModel, scheduling: Scheduling | None = None) -> Json:
    """Return the latency model under the names of model-data.json; with how the engine plans, if
    that is told, and what follows from it.
    """
    model = engine.latency_model
    found: Json = {
        "alpha": round(model.alpha_ms, 4),
        "beta": float(f"{model.beta_ms:.4g}"),
        "gamma": float(f"{model.gamma_ms:.4g}"),
    }
    if model.experts_ms:
        found |= {"expertsMs": round(model.experts_ms, 4)}
        found |= {"expertsIdle": round(model.experts_idle, 6)}
    if model.attention:
        found |= {"attention": float(f"{model.attention:.4g}")}
    if scheduling == "sync":
        found |= {"sequenceMs": SEQUENCE_MS}
    if scheduling is not None:
        found |= {"scheduling": scheduling}
    return found


def model_row(engine: DataSheetModel, tokens: Tokens, scheduling: Scheduling) -> Json:
    """Return the row of model-data.json."""
    return {
        "name": engine.model.name,
        "acc": engine.accelerator.name,
        "accCount": engine.tp,
        "maxBatchSize": max_batch_of(engine, tokens),
        "atTokens": max(int(tokens[1]), 1),
        "perfParms": perf_parms(engine, scheduling),
    }


def engine_row(engine: DataSheetModel, *, admission: AdmissionRule | None = None) -> Json:
    """Return the row of twin-data.json; *admission* None: what the twin takes by itself."""
    return {
        "model": engine.model.name,
        "acc": engine.accelerator.name,
        "kvTokens": engine.kv_tokens,
        "blockSize": 16,
        "maxNumBatchedTokens": TOKEN_BUDGET,
        **({} if admission is None else {"admission": admission}),
        "startUp": start_up_row(engine),
    }


def start_up_row(engine: DataSheetModel) -> Json:
    """Return how long a replica takes to start: its weights have to be read."""
    mean_s = START_UP_S + engine.weights_gb / LOAD_GB_PER_S
    return {"meanS": round(mean_s, 1), "cv": START_UP_CV}
