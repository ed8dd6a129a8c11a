"""A server that gave nothing to any constant, predicted by data sheets alone: Llama-3-8B on an A100
of 40 GB, four loads of a minute each; for experiments.validation.validate.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from experiments.config import SAMPLE_DATA
from twin.fit.datasheet import SEQUENCE_MS, estimate, read_accelerators
from twin.fit.model_config import read_model
from twin.fit.points import OperatingPoint, operate

OUTSIDE = SAMPLE_DATA / "validation" / "outside.csv"
STAGE_S = 60.0
# What vLLM 0.11 takes on such a GPU, which plans an iteration after the other.
MAX_BATCH, TOKEN_BUDGET = 256, 2048
# ShareGPT's requests; that they vary matters once some wait for others.
TOKEN_CV = 1.1
SEEDS = range(1, 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A load, the mean latencies measured [ms], and by how much the predicted ones are off."""

    rate_rps: float
    ttft_ms: float
    e2e_ms: float
    ttft_error: float
    e2e_error: float


def outside() -> None:
    """Print how each load is predicted."""
    for seen in predicted():
        print(
            f"outside, Llama-3-8B on an A100 of 40 GB, data sheets alone: {seen.rate_rps:.3g} "
            f"requests/s: E2E {seen.e2e_ms:.0f} ms {seen.e2e_error:+.1%}, TTFT {seen.ttft_ms:.1f} "
            f"ms {seen.ttft_error:+.1%}"
        )


def predicted() -> Iterator[Seen]:
    """Yield each load, measured and predicted by the twin."""
    found = estimate(
        read_model(SAMPLE_DATA / "models" / "llama-3.1-8b.json"),
        read_accelerators(SAMPLE_DATA / "datasheets" / "accelerators.json")["A100-40GB"],
        max_batch=MAX_BATCH,
        token_budget=TOKEN_BUDGET,
    )
    with OUTSIDE.open(encoding="utf-8", newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    for row in rows:
        point = OperatingPoint(
            rate_rps=row["rate_rps"],
            input_tokens=row["in_tokens"],
            output_tokens=row["out_tokens"],
            token_cv=TOKEN_CV,
            duration_s=STAGE_S,
            is_drained=True,
        )
        steady = [
            operate(
                point,
                latency_model=replace(found.latency_model, sequence_ms=SEQUENCE_MS),
                max_batch=MAX_BATCH,
                token_budget=TOKEN_BUDGET,
                kv_tokens=found.kv_tokens,
                overhead_ms=found.overhead_ms,
                requests=int(row["requests"]) + 2,  # the whole stage
                seed=seed,
            )
            for seed in SEEDS
        ]
        ttft_ms = 1e3 * float(np.mean([each.ttft_s for each in steady]))
        e2e_ms = 1e3 * float(np.mean([each.e2e_s for each in steady]))
        yield Seen(
            rate_rps=row["rate_rps"],
            ttft_ms=row["ttft_ms"],
            e2e_ms=row["e2e_ms"],
            ttft_error=ttft_ms / row["ttft_ms"] - 1.0,
            e2e_error=e2e_ms / row["e2e_ms"] - 1.0,
        )
