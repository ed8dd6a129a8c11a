"""Times between tokens of servers of two to eight GPUs, by how many users each ask again at once:
what tells the exchange between GPUs, for experiments.validation.datasheet_constants.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from experiments.config import SAMPLE_DATA
from twin.fit.datasheet import SEQUENCE_MS, Accelerator, Constants, Dtype, estimate
from twin.fit.model_config import ModelFacts, read_model
from twin.spec import LatencyModel

LOOPS = SAMPLE_DATA / "validation" / "concurrency.csv"
ACCELERATOR = "H100"  # of all of them
# Small experts in four bits are no example for other models: they are predicted only.
ONLY_PREDICTED = ("gpt-oss-120b",)
DTYPES: Mapping[str, Dtype] = {"bf16": "bf16", "fp8": "fp8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """So many *users* of a server, and the mean time between two tokens [ms] that they saw."""

    model: ModelFacts
    dtype: Dtype | None
    tp: int
    is_sync: bool
    users: int
    prompt: int
    output: int
    itl_ms: float
    ttft_ms: float


def read_loops() -> list[Loop]:
    """Return the loops that are shipped."""
    models: dict[str, ModelFacts] = {}
    loops = []
    with LOOPS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name = row["model"]
            if name not in models:
                models[name] = read_model(SAMPLE_DATA / "models" / f"{name}.json")
            loops.append(
                Loop(
                    model=models[name],
                    dtype=DTYPES.get(row["dtype"]),
                    tp=int(row["gpus"]),
                    is_sync=row["scheduling"] == "sync",
                    users=int(row["concurrency"]),
                    prompt=int(row["in_tokens"]),
                    output=int(row["out_tokens"]),
                    itl_ms=float(row["tpot_ms"]),
                    ttft_ms=float(row["ttft_ms"]),
                )
            )
    return loops


def predict_itl(
    loops: Sequence[Loop], accelerator: Accelerator, constants: Constants
) -> list[float]:
    """Return the mean iteration of each of *loops* [ms], in closed form: each user decodes, and of
    as many prompts one is computed a round.
    """
    models: dict[tuple[str, int], LatencyModel] = {}
    found = []
    for loop in loops:
        server = (loop.model.name, loop.tp)
        if server not in models:
            models[server] = estimate(
                loop.model, accelerator, tp=loop.tp, dtype=loop.dtype, constants=constants
            ).latency_model
        found.append(_iteration_ms(loop, models[server]))
    return found


def _iteration_ms(loop: Loop, latency_model: LatencyModel) -> float:
    model = replace(latency_model, sequence_ms=SEQUENCE_MS if loop.is_sync else 0.0)
    late = 1.0 + model.attention * loop.prompt / 2.0
    tokens = loop.users * (1.0 + late * loop.prompt / loop.output)
    context = loop.users * (loop.prompt + loop.output / 2.0)
    saved_ms = model.experts_ms * model.experts_idle**tokens if model.experts_ms else 0.0
    return (
        model.alpha_ms
        - saved_ms
        + model.beta_ms * tokens
        + model.gamma_ms * context
        + model.sequence_ms * loop.users
    )
