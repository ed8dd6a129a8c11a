"""The live page of the twin as a cluster: looks at it as its time passes, and streams what it saw
to administrators, as lines that a timeline can be made of (from_records.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from inferno.web.live import History, Line, Stream
from loop.spec import cost_cents_per_h
from twin.kube.apiserver.errors import ApiError
from twin.kube.apiserver.server import Call

if TYPE_CHECKING:
    from datetime import datetime

    from starlette.types import ASGIApp, Receive, Scope, Send

    from loop.spec import SystemData
    from twin.kube.cluster import TwinCluster
    from twin.serving.view import ClusterView, ServerState

LOOK_S = 5.0
"""How often the twin is looked at, in seconds of the machine."""

PATH = "/twin/timeline"

Json = Mapping[str, Any]

_NAME, _STATUS = "inferno.server.name", "inferno.server.status"


class SeenTwin:
    """The world of *cluster* for twin.kube.apiserver.app, which keeps in *history* what it is every
    LOOK_S; *data* say what is wanted of its servers.
    """

    def __init__(
        self, cluster: TwinCluster, history: History, *, data: SystemData, speed: float
    ) -> None:
        self._cluster = cluster
        self._history = history
        self._data = data
        self._speed = speed
        self._due_s = 0.0
        self._last: Line | None = None

    @property
    def now_s(self) -> float:
        """Return the time of the twin."""
        return self._cluster.now_s

    def advance(self) -> bool:
        """Come nearer to the present; tell whether it is reached."""
        present = self._cluster.advance()
        if self.now_s >= self._due_s:
            self._due_s = self.now_s + LOOK_S * self._speed
            self._look()
        return present

    def page(self, path: str) -> tuple[str, str] | None:
        """Return a page for Prometheus."""
        return self._cluster.page(path)

    def control(self, method: str, path: str, body: bytes) -> Any:
        """Do what an administrator asks."""
        return self._cluster.control(method, path, body)

    def _look(self) -> None:
        view, deployments = self._cluster.served()
        self._last = line_of_twin(
            view,
            deployments,
            self._data,
            date=self._cluster.dates.now(),
            live=self._speed == 1.0,
            before=self._last,
        )
        self._history.add(self._last)


class WithTimeline:
    """Answers PATH with *stream*, to administrators of *cluster*, and leaves all else to *app*."""

    def __init__(self, app: ASGIApp, cluster: TwinCluster, stream: Stream) -> None:
        self._app = app
        self._cluster = cluster
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("GET", PATH):
            await self._app(scope, receive, send)
            return
        headers = dict(Request(scope).headers)
        call = Call(method="GET", path=PATH, query={}, headers=headers, body=b"")
        try:
            self._cluster.server.check_master(call)
            response = self._stream.response()
        except ApiError as error:
            response = JSONResponse(error.status(), status_code=error.code)
        await response(scope, receive, send)


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
