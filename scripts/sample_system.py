"""Write sample-data/large: a system of 27 servers whose latency models, KV caches and start-up
times follow from the data sheets of sample-data (inferno model) or from the two measured fits.

    python scripts/sample_system.py          # says what changed
    python scripts/sample_system.py --check  # exit 1 if the files differ

The constants are kept as they were when the system was made: results stay comparable while what is
known of accelerators grows. What is chosen and not derived (loads, objectives, GPU counts) stands
in the tables below; sample-data/README.md says why.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log2
from pathlib import Path
from typing import Any

from loop.optimizer.front import OptimizerSettings, optimize
from loop.optimizer.rules.ours import OURS
from loop.schema.reading import parse_system
from loop.spec import SystemData
from twin.fit.datasheet import (
    Accelerator,
    Constants,
    DataSheetModel,
    estimate,
    read_accelerators,
)
from twin.fit.model_config import read_model

SAMPLES = Path(__file__).resolve().parent.parent / "sample-data"
CONSTANTS = Constants(
    weights=1.154,
    layer_ms=0.0374,
    exchange_ms=0.0213,
    compute=1.467,
    kv=1.068,
    overhead_ms=7.92,
    link=0.0,
)
MAX_NUM_SEQS = 256
TOKEN_BUDGET = 8192
# A replica must hold so many requests of so many tokens; where it does not, it takes more GPUs.
REQUESTS_MIN, REQUEST_TOKENS = 8, 2048
# GPUs whose memory the weights would fill to less than this are kept for larger models.
SHARE_MIN = 0.2
START_UP_S, LOAD_GB_PER_S, START_UP_CV = 45.0, 1.0, 0.15
SEVERAL_GPUS_DEARER = 1.02  # for the interconnect

# Type here: its name in the table of data sheets.
TYPES = {
    "L4": "L4",
    "L40S": "L40S",
    "A100": "A100",
    "H100": "H100",
    "H200": "H200",
    "B200": "B200",
    "MI210": "MI210",
    "MI250": "MI250",
    "MI300X": "MI300X",
    "G2": "Gaudi2",
}
# GPUs of each type in the system, and the sizes that a replica may have.
COUNTS = {
    "L4": 48,
    "L40S": 44,
    "A100": 80,
    "H100": 80,
    "H200": 44,
    "B200": 12,
    "MI210": 32,
    "MI250": 20,
    "MI300X": 96,
    "G2": 16,
}
SIZES = {
    "L4": (1, 4),
    "L40S": (1, 4),
    "A100": (1, 4),
    "H100": (1, 2, 4),
    "H200": (1, 2),
    "B200": (1,),
    "MI210": (1,),
    "MI250": (1, 2),
    "MI300X": (1,),
    "G2": (1, 4),
}
# Model here: its config in sample-data/models.
MODELS = {
    "llama_7b": "llama-2-7b",
    "llama_13b": "llama-2-13b",
    "llama_70b": "llama-3.1-70b",
    "Llama-3.1-8B": "llama-3.1-8b",
    "Qwen2.5-14B": "qwen2.5-14b",
    "Qwen3-32B": "qwen3-32b",
    "mistral_7b": "mistral-7b-v0.3",
    "mixtral_8_7b": "mixtral-8x7b",
    "granite_20b": "granite-20b-code",
}
# Fitted to measurements of real servers: alpha, beta, gamma.
FITTED = {
    ("Llama-3.1-8B", "H100"): (6.49, 0.0219, 4.96e-5),
    ("Qwen2.5-14B", "H100"): (10.645, 0.04176, 5.77e-5),
}
FITTED_KV = {("Qwen2.5-14B", "H100"): 226_992}

# Priority, what a met request is worth [cents], objectives of small and of large models: ITL and
# TTFT [ms]. Batch has tokens per second, by model.
CLASSES = {
    "Premium": (1, 1.0, (40, 1000), (60, 2000)),
    "Bronze": (2, 0.8, (80, 2000), (120, 4000)),
    "Batch": (3, 0.6, None, None),
    "Free": (4, 0.5, (150, 5000), (200, 8000)),
}
LARGE_MODELS = ("llama_70b", "mixtral_8_7b", "Qwen3-32B", "granite_20b")
BATCH_TPS = {"Llama-3.1-8B": 2500, "Qwen2.5-14B": 2000, "Qwen3-32B": 600}
PERCENTILE = 0.95

# Class, model: requests/min and mean tokens in and out.
LOADS: Mapping[tuple[str, str], tuple[int, int, int]] = {
    ("Premium", "Llama-3.1-8B"): (360, 4096, 1024),
    ("Premium", "Qwen2.5-14B"): (180, 4096, 1024),
    ("Premium", "llama_13b"): (180, 1024, 512),
    ("Premium", "llama_7b"): (180, 1024, 512),
    ("Premium", "mistral_7b"): (120, 4096, 512),
    ("Premium", "llama_70b"): (60, 4096, 1024),
    ("Premium", "mixtral_8_7b"): (240, 4096, 1024),
    ("Premium", "Qwen3-32B"): (90, 6144, 1024),
    ("Premium", "granite_20b"): (300, 6144, 384),
    ("Bronze", "Llama-3.1-8B"): (360, 4096, 768),
    ("Bronze", "Qwen2.5-14B"): (180, 4096, 768),
    ("Bronze", "llama_13b"): (240, 1024, 512),
    ("Bronze", "llama_7b"): (180, 1024, 512),
    ("Bronze", "mistral_7b"): (180, 4096, 512),
    ("Bronze", "llama_70b"): (90, 4096, 768),
    ("Bronze", "mixtral_8_7b"): (240, 4096, 768),
    ("Bronze", "Qwen3-32B"): (120, 4096, 1024),
    ("Bronze", "granite_20b"): (300, 6144, 384),
    ("Free", "Llama-3.1-8B"): (360, 2048, 768),
    ("Free", "Qwen2.5-14B"): (240, 2048, 768),
    ("Free", "llama_13b"): (180, 1024, 512),
    ("Free", "llama_7b"): (150, 1024, 512),
    ("Free", "mistral_7b"): (120, 1024, 768),
    ("Free", "granite_20b"): (240, 4096, 384),
    ("Batch", "Llama-3.1-8B"): (120, 8192, 2048),
    ("Batch", "Qwen2.5-14B"): (90, 8192, 2048),
    ("Batch", "Qwen3-32B"): (45, 8192, 2048),
}
KEEPS = {"Free-mistral_7b": "L4"}

Json = dict[str, Any]


def _constants(gpus: int) -> Constants:
    """Return CONSTANTS for so many GPUs of a replica: then two took as long to exchange as four."""
    longer = (1.0 + log2(gpus)) / 2.0 if gpus > 1 else 1.0
    return replace(CONSTANTS, exchange_ms=CONSTANTS.exchange_ms / longer)


def written() -> dict[str, Json]:
    """Return the content of each file, by name."""
    sheets = {
        name: replace(sheet, reached=None)
        for name, sheet in read_accelerators(SAMPLES / "datasheets" / "accelerators.json").items()
    }
    engines = list(_engines(sheets))
    files = {
        "accelerator-data.json": {
            "accelerators": [
                _accelerator(sheets[TYPES[kind]], kind, size)
                for size in (1, 2, 4)
                for kind in TYPES
                if size in SIZES[kind]
            ]
        },
        "capacity-data.json": {
            "count": [{"type": kind, "count": count} for kind, count in COUNTS.items()]
        },
        "model-data.json": {"models": [_model_row(*engine) for engine in engines]},
        "optimizer-data.json": {
            "optimizer": {
                "unlimited": False,
                "saturationPolicy": "PriorityRoundRobin",
                "delayedBestEffort": False,
            }
        },
        "serviceclass-data.json": {"serviceClasses": [_class(name) for name in CLASSES]},
        "twin-data.json": {
            "engines": [_engine_row(*engine) for engine in engines],
            "servers": [
                {"name": f"Batch-{model}", "tokenDistribution": "fixed", "tokenCv": 0}
                for model in BATCH_TPS
            ]
            + [{"name": name, "arrivalCv": 1.5} for name in _names() if name.startswith("Free-")],
            "world": {
                "scrapeIntervalS": 15,
                "windowS": 60,
                "actuationDelay": {"meanS": 1},
                "schedulingDelay": {"meanS": 2, "cv": 0.5},
            },
        },
    }
    files["server-data.json"] = {"servers": _servers(files)}
    return files


def _names() -> list[str]:
    return [f"{service_class}-{model}" for service_class, model in LOADS]


def _engines(
    sheets: Mapping[str, Accelerator],
) -> Sequence[tuple[str, str, int, DataSheetModel]]:
    """Return model, accelerator, accelerators of a replica and what the data sheets say, for each
    pair that fits.
    """
    found = []
    for model, config in MODELS.items():
        facts = read_model(SAMPLES / "models" / f"{config}.json")
        for size in (1, 2, 4):
            for kind in TYPES:
                if size not in SIZES[kind]:
                    continue
                for count in (1, 2, 4):
                    gpus = count * size
                    if gpus > 4 or (count > 1 and gpus in SIZES[kind]):
                        continue  # that size has a name of its own
                    engine = estimate(
                        facts,
                        sheets[TYPES[kind]],
                        tp=gpus,
                        max_batch=MAX_NUM_SEQS,
                        token_budget=TOKEN_BUDGET,
                        constants=_constants(gpus),
                    )
                    memory_gb = gpus * sheets[TYPES[kind]].memory_gb
                    if engine.weights_gb < SHARE_MIN * memory_gb:
                        break  # more GPUs would be filled even less
                    if engine.kv_tokens >= REQUESTS_MIN * REQUEST_TOKENS:
                        found.append((model, _unit(kind, size), count, engine))
                        break
    return found


def _unit(kind: str, size: int) -> str:
    return kind if size == 1 else f"{size}x{kind}"


def _accelerator(sheet: Accelerator, kind: str, size: int) -> Json:
    full = round(size * sheet.power_w)
    return {
        "name": _unit(kind, size),
        "type": kind,
        "multiplicity": size,
        "memSize": round(size * sheet.memory_gb),
        "memBW": round(size * sheet.bandwidth_gbs),
        "power": {
            "idle": round(0.15 * full),
            "full": full,
            "midPower": round(0.8 * full),
            "midUtil": 0.6,
        },
        "cost": _short(size * sheet.price_cents * (SEVERAL_GPUS_DEARER if size > 1 else 1.0)),
    }


def _short(value: float) -> float | int:
    value = round(value, 1)
    return int(value) if value == int(value) else value


def _row(row: Json) -> str:
    """Return *row* on one line, or with its lists below it."""
    lists = [key for key, value in row.items() if isinstance(value, list)]
    if not lists:
        return "    " + json.dumps(row)
    head = json.dumps({key: value for key, value in row.items() if key not in lists})[:-1]
    for key in lists:
        inner = ",\n".join("      " + json.dumps(each) for each in row[key])
        head += f', "{key}": [\n{inner}\n    ]'
    return "    " + head + "}"


def text(content: Json) -> str:
    """Return the JSON text of a file: a line for each row."""
    parts = []
    for key, value in content.items():
        if isinstance(value, list):
            rows = ",\n".join(map(_row, value))
            parts.append(f'  "{key}": [\n{rows}\n  ]')
        else:
            parts.append(f'  "{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(arguments: Sequence[str]) -> int:
    """Write what differs, or only say what does."""
    folder = SAMPLES / "large"
    differing = [
        (folder / name, text(content))
        for name, content in written().items()
        if not (folder / name).exists() or (folder / name).read_text() != text(content)
    ]
    for path, content in differing:
        sys.stdout.write(f"{path}\n")
        if "--check" not in arguments:
            path.write_text(content)
    return 1 if differing and "--check" in arguments else 0


def _model_row(model: str, unit: str, count: int, engine: DataSheetModel) -> Json:
    sheet = engine.latency_model
    alpha, beta, gamma = FITTED.get((model, unit), (sheet.alpha_ms, sheet.beta_ms, sheet.gamma_ms))
    return {
        "name": model,
        "acc": unit,
        "accCount": count,
        "maxBatchSize": MAX_NUM_SEQS,
        "atTokens": 512,
        "perfParms": {
            "alpha": round(alpha, 3),
            "beta": float(f"{beta:.4g}"),
            "gamma": float(f"{gamma:.3g}"),
        },
    }


def _engine_row(model: str, unit: str, _count: int, engine: DataSheetModel) -> Json:
    return {
        "model": model,
        "acc": unit,
        "kvTokens": FITTED_KV.get((model, unit), engine.kv_tokens),
        "blockSize": 16,
        "maxNumBatchedTokens": TOKEN_BUDGET,
        "startUp": {
            "meanS": round(START_UP_S + engine.weights_gb / LOAD_GB_PER_S, 1),
            "cv": START_UP_CV,
        },
    }


def _class(name: str) -> Json:
    priority, value, small, large = CLASSES[name]
    targets: list[Json] = []
    for service_class, model in LOADS:
        if service_class != name:
            continue
        limits = large if model in LARGE_MODELS else small
        if limits is None:
            targets.append({"model": model, "slo-tps": BATCH_TPS[model]})
            continue
        itl, ttft = limits
        targets.append(
            {
                "model": model,
                "slo-itl": itl,
                "slo-ttft": ttft,
                "slo-itl-p95": itl,
                "slo-ttft-p95": ttft,
            }
        )
    return {
        "name": name,
        "priority": priority,
        "slo-percentile": PERCENTILE,
        "valuePerMetRequest": value,
        "modelTargets": targets,
    }


def _servers(files: Mapping[str, Json]) -> list[Json]:
    """Return the servers, each with what the greedy optimizer gives it at its nominal load."""
    rows: dict[str, Json] = {}
    for (service_class, model), (rpm, tokens_in, tokens_out) in LOADS.items():
        name = f"{service_class}-{model}"
        load = {"arrivalRate": rpm, "avgInTokens": tokens_in, "avgOutTokens": tokens_out}
        rows[name] = {
            "name": name,
            "class": service_class,
            "model": model,
            "keepAccelerator": name in KEEPS,
            "minNumReplicas": 1,
            "maxBatchSize": MAX_NUM_SEQS,
            "currentAlloc": {"accelerator": KEEPS.get(name, ""), "load": load},
        }
    for name, one in optimize(system_of(files, list(rows.values())), GREEDY).allocations.items():
        rows[name]["currentAlloc"] = {
            "accelerator": one.accelerator,
            "numReplicas": one.replicas,
            "maxBatch": one.max_batch,
            "cost": _short(one.cost_cents_per_h),
            "load": rows[name]["currentAlloc"]["load"],
        }
    return list(rows.values())


GREEDY = OptimizerSettings(rules=OURS, solver="greedy")


def system_of(files: Mapping[str, Json], servers: Sequence[Json]) -> SystemData:
    """Return the system of the files with *servers*."""
    parts = {
        "acceleratorData": files["accelerator-data.json"],
        "modelData": _with_kv(files),
        "serviceClassData": files["serviceclass-data.json"],
        "optimizerData": files["optimizer-data.json"],
        "capacityData": files["capacity-data.json"],
        # As twin-data.json has it: requests of Batch have fixed lengths.
        "serverData": {
            "servers": [
                {**row, "tokenCv": 0} if row["class"] == "Batch" else row for row in servers
            ]
        },
    }
    return parse_system({"system": parts}, source="sample-data/large")


def _with_kv(files: Mapping[str, Json]) -> Json:
    """Return the rows of the models, each with its KV cache."""
    engines = files["twin-data.json"]["engines"]
    rows = files["model-data.json"]["models"]
    return {
        "models": [
            {**row, "kvTokens": engine["kvTokens"]}
            for row, engine in zip(rows, engines, strict=True)
        ]
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
