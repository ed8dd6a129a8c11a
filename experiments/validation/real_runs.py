"""The autoscaled servers of llm-inferno/control-loop (vLLM 0.21, Qwen2.5-14B, H100): each pod's
latencies, and the replicas that a whole run asks for; for experiments.validation.validate.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from experiments.config import SAMPLE_DATA, RunConfig
from experiments.run import run
from twin.fit.points import OperatingPoint, operate
from twin.spec import LatencyModel, Scheduling

PODS = SAMPLE_DATA / "validation" / "pods.csv"
CLIENT = SAMPLE_DATA / "validation" / "client.csv"
CYCLES = SAMPLE_DATA / "validation" / "cycles.csv"

KV_TOKENS, TOKEN_BUDGET = 226_992, 8192
# How run16 was measured (vllm-server-evaluator of llm-inferno/server-sim): load comes to an idle
# server for 30 s, and each request counts, to its end. A collection took 41.0 s, as the longest
# answers take 11.
WINDOW_S = 30.0
POD_SEEDS = range(1, 6)

RUN_SEEDS = (1, 2, 3, 4)
PERIOD_S = 120.0
NOMINAL_RPM, IN_TOKENS, OUT_TOKENS = 250, 1024, 512
# Offered rates and tokens lie about their nominal values with a coefficient of variation of
# 0.105; a walk with theta 0.2 has alpha / 0.6 of it.
SCENARIO = """
name: run17
alpha: 0.063
interval_s: 60
walk: {kind: reverting, theta: 0.2}
load:
  - shape: {kind: ramp, factor: 5, start_s: 600, up_s: 360, hold_s: 360, down_s: 240}
"""
SEARCHED_MAX_BATCH = 128  # of an arm that searches it

Row = Mapping[str, str]


def client_overhead_ms(latency_model: LatencyModel) -> float:
    """Return what the client of run16 spends outside an engine, 0 at least: by its requests to
    another model, of which *latency_model* was fitted elsewhere.

    That client is written in Go and sends numbers of tokens; those of sweeps send text, which is to
    be templated and tokenised, and are written in Python.
    """
    outside_ms = []
    # The engine of the sweep planned synchronously, this one does not wait for the host.
    latency_model = replace(latency_model, sequence_ms=0.0)
    for row in _rows(CLIENT):
        one = {**row, "rate_rpm": str(float(row["throughput_rpm"]) / float(row["replicas"]))}
        # By its version, 0.21.
        _, error = _pod(one, latency_model, overhead_ms=0.0, scheduling="async")
        outside_ms.append(-error * float(row["ttft_ms"]))
    found = float(np.mean(outside_ms))
    deviation = float(np.std(outside_ms)) / len(outside_ms) ** 0.5
    print(
        f"client of run16, by {len(outside_ms)} rows of Llama-3.1-8B: {found:+.1f} ms outside the "
        f"engine (standard error {deviation:.1f})"
    )
    return max(0.0, found)


def pods(
    latency_model: LatencyModel, *, overhead_ms: float, scheduling: Scheduling, overhead_of: str
) -> None:
    """Print how the latencies of the pods are predicted by a model fitted elsewhere, with the
    overhead of some client.
    """
    errors = np.array(
        [
            _pod(row, latency_model, overhead_ms=overhead_ms, scheduling=scheduling)
            for row in _rows(PODS)
        ]
    )
    itl, ttft = np.abs(errors).mean(axis=0)
    itl_bias, ttft_bias = errors.mean(axis=0)
    print(
        f"pods of run16, overhead of {overhead_of}: {len(errors)} unsaturated rows, ITL MAPE "
        f"{itl:.1%} (mean error {itl_bias:+.1%}), TTFT MAPE {ttft:.1%} ({ttft_bias:+.1%})"
    )


def _pod(
    row: Row, latency_model: LatencyModel, *, overhead_ms: float, scheduling: Scheduling
) -> tuple[float, float]:
    """Return the relative errors of ITL and TTFT, by the mean over POD_SEEDS: a window of 30 s
    holds some hundred requests.
    """
    point = OperatingPoint(
        rate_rps=float(row["rate_rpm"]) / 60.0,
        input_tokens=float(row["in_tokens"]),
        output_tokens=float(row["out_tokens"]),
        spread=0.5,
        duration_s=WINDOW_S,
        is_drained=True,
    )
    seen = [
        operate(
            point,
            latency_model=latency_model,
            max_batch=int(row["max_batch"]),
            token_budget=TOKEN_BUDGET,
            kv_tokens=KV_TOKENS,
            scheduling=scheduling,
            overhead_ms=overhead_ms,
            queue_max=0,
            seed=seed,
            requests=1000,
        )
        for seed in POD_SEEDS
    ]
    # The mean over requests of each one's own mean.
    itl_ms = 1e3 * float(np.mean([each.itl_request_s for each in seen]))
    ttft_ms = 1e3 * float(np.mean([each.ttft_s for each in seen]))
    return itl_ms / float(row["itl_ms"]) - 1.0, ttft_ms / float(row["ttft_ms"]) - 1.0


def runs(latency_model: LatencyModel, *, overhead_ms: float, scheduling: Scheduling) -> None:
    """Print the peak replicas of each arm of run17, recorded and on the twin."""
    arms: dict[str, list[Row]] = defaultdict(list)
    for row in _rows(CYCLES):
        arms[row["arm"]].append(row)
    truth = {
        "a": latency_model.launch_ms,
        "w": latency_model.weights_ms,
        "beta": latency_model.beta_ms,
        "gamma": latency_model.gamma_ms,
        "p": latency_model.p,
        "overheadMs": overhead_ms,
        "scheduling": scheduling,
    }
    for arm, rows in arms.items():
        with TemporaryDirectory() as folder:
            peaks = _peaks(rows, truth, Path(folder))
        recorded = max(int(row["replicas_decided"]) for row in rows)
        print(
            f"run17, {arm}: peak of {recorded} replicas recorded, {np.mean(peaks):.2f} on the twin "
            f"(seeds {', '.join(map(str, peaks))})"
        )


def _peaks(rows: Sequence[Row], truth: Mapping[str, Any], folder: Path) -> list[int]:
    for name, content in _data(rows, truth).items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    scenario = folder / "run17.yaml"
    scenario.write_text(SCENARIO, encoding="utf-8")
    peaks = []
    for seed in RUN_SEEDS:
        result = run(
            RunConfig(
                data=folder,
                scenario=str(scenario),
                period_s=PERIOD_S,
                hours=len(rows) * PERIOD_S / 3600.0,
                seed=seed,
                metrics="labels",
                # The run was decided by the Go optimizer, which saw the offered load.
                policy_options=(("compat", True),),
            )
        )
        peaks.append(max(row["replicas"] for line in result.cycles for row in line["servers"]))
    return peaks


def _data(rows: Sequence[Row], truth: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data directory of an arm: the latency model that its optimizer was given, and the
    *truth* of the twin.
    """
    batches = {int(row["max_batch_decided"]) for row in rows}
    max_batch = batches.pop() if len(batches) == 1 else SEARCHED_MAX_BATCH
    load = {"arrivalRate": NOMINAL_RPM, "avgInTokens": IN_TOKENS, "avgOutTokens": OUT_TOKENS}
    now = {
        "accelerator": "H100",
        "numReplicas": int(rows[0]["replicas_observed"]),
        "maxBatch": max_batch,
        "load": load,
    }
    return {
        "accelerator-data.json": {
            "accelerators": [{"name": "H100", "type": "H100", "multiplicity": 1, "cost": 75}]
        },
        "capacity-data.json": {"count": [{"type": "H100", "count": 8}]},
        "model-data.json": {
            "models": [
                {
                    "name": "qwen",
                    "acc": "H100",
                    "accCount": 1,
                    "maxBatchSize": max_batch,
                    "atTokens": OUT_TOKENS,
                    "perfParms": {
                        "alpha": 10.645377,
                        "beta": 0.041760195,
                        "gamma": 5.770509e-05,
                    },
                }
            ]
        },
        "serviceclass-data.json": {
            "serviceClasses": [
                {
                    "name": "Bronze",
                    "priority": 2,
                    "modelTargets": [{"model": "qwen", "slo-itl": 20, "slo-ttft": 1500}],
                }
            ]
        },
        "optimizer-data.json": {
            "optimizer": {"unlimited": False, "saturationPolicy": "PriorityRoundRobin"}
        },
        "server-data.json": {
            "servers": [
                {
                    "name": "qwen",
                    "class": "Bronze",
                    "model": "qwen",
                    "minNumReplicas": 1,
                    "currentAlloc": now,
                }
            ]
        },
        "twin-data.json": _twin_data(truth),
    }


def _twin_data(truth: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "engines": [
            {
                "model": "qwen",
                "acc": "H100",
                "kvTokens": KV_TOKENS,
                "maxNumBatchedTokens": TOKEN_BUDGET,
                "perfParms": truth,
            }
        ],
        # A request that finds no place is lost; tokens are within ± 50 % of their mean.
        "servers": [{"name": "qwen", "queueMax": 0, "tokenDistribution": "gamma", "tokenCv": 0.29}],
        "world": {"windowS": 60},
    }


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
