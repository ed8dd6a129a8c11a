"""A minimal system as the JSON objects of its data files, and a writer that changes some of
them.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

FILES: dict[str, dict[str, Any]] = {
    "accelerator-data.json": {
        "accelerators": [
            {
                "name": "H100",
                "type": "H100",
                "multiplicity": 1,
                "memSize": 80,
                "memBW": 3350,
                "cost": 300,
            },
            {
                "name": "2xH100",
                "type": "H100",
                "multiplicity": 2,
                "memSize": 160,
                "memBW": 6700,
                "cost": 600,
            },
        ]
    },
    "model-data.json": {
        "models": [
            {
                "name": "small",
                "acc": accelerator,
                "accCount": 1,
                "maxBatchSize": 64,
                "atTokens": 512,
                "perfParms": {"alpha": 6.5, "beta": 0.02, "gamma": 0.00005},
            }
            for accelerator in ("H100", "2xH100")
        ]
    },
    "serviceclass-data.json": {
        "serviceClasses": [
            {
                "name": "Premium",
                "priority": 1,
                "modelTargets": [{"model": "small", "slo-itl": 30, "slo-ttft": 500}],
            },
            {
                "name": "Free",
                "priority": 3,
                "modelTargets": [{"model": "small", "slo-itl": 90, "slo-ttft": 2000}],
            },
        ]
    },
    "optimizer-data.json": {"optimizer": {"unlimited": False, "saturationPolicy": "RoundRobin"}},
    "capacity-data.json": {"count": [{"type": "H100", "count": 8}]},
    "server-data.json": {
        "servers": [
            {
                "name": name,
                "class": service_class,
                "model": "small",
                "minNumReplicas": 1,
                "currentAlloc": {
                    "accelerator": "H100",
                    "numReplicas": 2,
                    "maxBatch": 32,
                    "cost": 600,
                    "load": {"arrivalRate": 120, "avgInTokens": 256, "avgOutTokens": 512},
                },
            }
            for name, service_class in (("a", "Premium"), ("b", "Free"))
        ]
    },
}


def files() -> dict[str, dict[str, Any]]:
    """Return the objects, to be changed at will."""
    return copy.deepcopy(FILES)


def write(directory: Path, objects: dict[str, dict[str, Any]] | None = None) -> Path:
    """Write *objects* (default: the minimal system) as files of *directory* and return it."""
    for name, obj in (FILES if objects is None else objects).items():
        (directory / name).write_text(json.dumps(obj))
    return directory


def message(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the {"system": …} message of the same data."""
    keys = {
        "accelerator-data.json": "acceleratorData",
        "model-data.json": "modelData",
        "serviceclass-data.json": "serviceClassData",
        "optimizer-data.json": "optimizerData",
        "capacity-data.json": "capacityData",
        "server-data.json": "serverData",
    }
    return {"system": {keys[name]: obj for name, obj in objects.items()}}
