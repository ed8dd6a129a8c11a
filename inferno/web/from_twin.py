"""The twin as a cluster, as lines that a timeline can be made of (from_records.py): what is served,
what Deployments ask for, and why as far as they say so. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loop.spec import cost_cents_per_h

if TYPE_CHECKING:
    from datetime import datetime

    from loop.spec import SystemData
    from twin.serving.view import ClusterView, ServerState

Line = Mapping[str, Any]
Json = Mapping[str, Any]

_NAME, _STATUS = "inferno.server.name", "inferno.server.status"


def line_of_twin(
    view: ClusterView,
    deployments: Mapping[str, Json],
    data: SystemData,
    *,
    date: datetime,
    live: bool,
    before: Line | None,
) -> Line:
    """Return the line of *view*, at *date*; *before* is the one before it. *live*: the twin's time
    passes as ours, so that instants are dates.
    """
    then = {row["name"]: row for row in before["servers"]} if before else {}
    rows: dict[str, Line] = {}
    for server, state in view.servers.items():
        if server not in deployments:
            continue
        metadata = deployments[server]["metadata"]
        name = (metadata.get("labels") or {}).get(_NAME) or metadata["name"]
        if name in rows:
            name = f"{metadata['namespace']}/{metadata['name']}"
        rows[name] = _row(name, state, metadata, data, then.get(name))
    costs = [row["cost"] for row in rows.values() if row["cost"] is not None]
    return {
        "ts": date.isoformat(),
        "t_s": view.now_s,
        "backend": "twin" if live else "sim",
        "applied": True,
        "error": "",
        "warnings": [],
        "servers": list(rows.values()),
        "capacity": [
            {"type": name, "available": one.total, "used": one.used}
            for name, one in view.capacity.items()
        ],
        "totalCost": sum(costs),
    }


def _row(
    name: str, state: ServerState, metadata: Json, data: SystemData, then: Line | None
) -> Line:
    asked, window = state.desired, state.window
    target = data.target(service_class=state.service_class, model=state.model)
    return {
        "name": name,
        "class": state.service_class,
        "model": state.model,
        "rpm": window.rate_rpm,
        "itl": window.itl_ms,
        "ttft": window.ttft_ms,
        "percentiles": {key: dict(value) for key, value in window.percentiles_ms.items()},
        "currentAccelerator": then["accelerator"] if then else asked.accelerator,
        "wanted": then["replicas"] if then else asked.replicas,
        "ready": state.ready,
        "starting": state.starting + state.pending,
        "backlog": state.backlog,
        "kvUsage": state.kv_usage,
        "hold": None,
        "sloItl": (target.slo_itl_ms or None) if target else None,
        "sloTtft": (target.slo_ttft_ms or None) if target else None,
        "sloTps": (target.slo_tps or None) if target else None,
        "accelerator": asked.accelerator,
        "replicas": asked.replicas,
        "cost": cost_cents_per_h(
            data, model=state.model, accelerator=asked.accelerator, replicas=asked.replicas
        ),
        "held": False,
        "reason": _why(metadata, accelerator=asked.accelerator, replicas=asked.replicas),
        "reasonKind": "",
        "unserved": None,
    }


def _why(metadata: Json, *, accelerator: str, replicas: int) -> str:
    """Return why the loop asked for what a Deployment asks for; else who set the number."""
    try:
        told = json.loads((metadata.get("annotations") or {}).get(_STATUS, ""))
        if (told["accelerator"], told["replicas"]) == (accelerator, replicas):
            return str(told["reason"])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # It is anybody's annotation.
    owners = [
        one["manager"]
        for one in metadata.get("managedFields") or ()
        if "f:replicas" in (one.get("fieldsV1") or {}).get("f:spec", {})
    ]
    return f"asked for by {owners[-1]}" if owners else ""
