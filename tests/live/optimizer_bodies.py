"""Bodies for the optimizer service: a small system, and many of it that differ in load and
capacity.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import httpx

Body = dict[str, Any]

SYSTEM: Body = {
    "acceleratorData": {
        "accelerators": [
            {"name": "A100", "type": "A100", "multiplicity": 1, "cost": 40.0},
            {"name": "2xA100", "type": "A100", "multiplicity": 2, "cost": 80.0},
            {"name": "G2", "type": "G2", "multiplicity": 1, "cost": 23.0},
        ]
    },
    "modelData": {
        "models": [
            {
                "name": "m",
                "acc": acc,
                "accCount": 1,
                "maxBatchSize": batch,
                "atTokens": 512,
                "perfParms": latency_model,
            }
            for acc, batch, latency_model in (
                ("A100", 64, {"alpha": 20.13, "beta": 0.087, "gamma": 0.0027}),
                ("2xA100", 64, {"alpha": 14.0, "beta": 0.06, "gamma": 0.0019}),
                ("G2", 76, {"alpha": 16.78, "beta": 0.073, "gamma": 0.0023}),
            )
        ]
    },
    "serviceClassData": {
        "serviceClasses": [
            {
                "name": "Premium",
                "priority": 1,
                "modelTargets": [{"model": "m", "slo-itl": 80, "slo-ttft": 1000}],
            },
            {
                "name": "Free",
                "priority": 9,
                "modelTargets": [{"model": "m", "slo-itl": 160, "slo-ttft": 4000}],
            },
        ]
    },
    "optimizerData": {"optimizer": {"unlimited": False, "saturationPolicy": "None"}},
    "capacityData": {"count": [{"type": "A100", "count": 64}, {"type": "G2", "count": 64}]},
}


def server(name: str = "s1", *, rpm: float = 60.0, **fields: Any) -> Body:
    """Return a server with a load."""
    load = {"arrivalRate": rpm, "throughput": 0, "avgInTokens": 128, "avgOutTokens": 512}
    return {
        "name": name,
        "class": "Premium",
        "model": "m",
        "currentAlloc": {"load": load},
        **fields,
    }


def body(*servers: Body, **parts: Any) -> Body:
    """Return a body of POST /optimizeOne."""
    system = copy.deepcopy(SYSTEM)
    system["serverData"] = {"servers": list(servers) or [server()]}
    return {"system": {**system, **parts}}


def many_bodies(count: int) -> list[Body]:
    """Return bodies that all have another answer; in some there is not room for every server."""
    rng = random.Random(7)
    bodies = []
    for index in range(count):
        servers = [
            server(
                f"s{k}",
                rpm=round(rng.uniform(20.0, 900.0), 3),
                **{"class": rng.choice(["Premium", "Free"])},
            )
            for k in range(rng.randint(1, 5))
        ]
        gpus = rng.choice([2, 8, 64])
        capacity = {
            "count": [{"type": "A100", "count": gpus}, {"type": "G2", "count": gpus + index}]
        }
        bodies.append(body(*servers, capacityData=capacity))
    return bodies


def fill(client: httpx.Client) -> None:
    """Build up the system of optimizer_bodies, with one server."""
    verbs = {
        "/setAccelerators": SYSTEM["acceleratorData"],
        "/setCapacities": SYSTEM["capacityData"],
        "/setModels": SYSTEM["modelData"],
        "/setServiceClasses": SYSTEM["serviceClassData"],
        "/setServers": {"servers": [server()]},
    }
    for path, content in verbs.items():
        assert client.post(path, json=content).status_code == 200, path
