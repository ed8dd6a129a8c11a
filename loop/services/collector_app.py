"""The collector over HTTP: GET /collect answers with what is seen of all servers. It changes
nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from starlette.responses import Response

from loop.collector import NOTHING, CollectorSettings, Estimates, Reading, collect
from loop.schema.answers import Collection
from loop.schema.messages import Json as JsonObject
from loop.schema.messages import Place, collect_message
from loop.services.answers import Json
from loop.services.attainment import AttainmentGauge
from loop.services.logs import log
from loop.services.world_app import create_world_app

if TYPE_CHECKING:
    from fastapi import FastAPI

    from loop.actors import Owner
    from loop.ports import Backend
    from loop.services.auth import TokenSource
    from loop.services.world_metrics import WorldMetrics
    from loop.spec import SystemData
    from loop.types import Snapshot

Places = Callable[[], Mapping[str, Place]]
NOWHERE: Mapping[str, Place] = {}


def make_collector_app(
    backend: Backend,
    owner: Owner,
    *,
    places: Places = lambda: NOWHERE,
    data: SystemData | None = None,
    token: TokenSource | None = None,
    timeout_s: float = 60.0,
) -> FastAPI:
    """Return the service over *backend*, which only *owner* touches. *places* tells which objects
    the servers are; *data* has the targets that latencies are compared with for people.

    Call app.state.stop() before the server ends.
    """
    registry = CollectorRegistry()
    app, desk, metrics = create_world_app(
        "collector", owner, timeout_s=timeout_s, token=token, registry=registry
    )
    attainment = AttainmentGauge(registry, data) if data is not None else None
    collecting = Collecting(backend, places, metrics, attainment)

    @app.get(
        "/collect",
        tags=["collect"],
        response_model=None,
        responses={200: {"model": Collection}},
    )
    async def collect_now() -> Response:
        """Look at the world, and tell of every server what it has and what its load is."""
        return Json(await desk.ask(collecting.message))

    return app


class Collecting:
    """Looks, and rules on gaps by what was seen before. For one thread."""

    def __init__(
        self,
        backend: Backend,
        places: Places,
        metrics: WorldMetrics,
        attainment: AttainmentGauge | None,
    ) -> None:
        self._backend = backend
        self._places = places
        self._metrics = metrics
        self._attainment = attainment
        self._estimates: Estimates = NOTHING

    def message(self) -> JsonObject:
        """Return the answer to GET /collect. Raise BackendError if the world does not answer."""
        seen = self._backend.observe()
        reading = collect(seen, self._estimates, settings=CollectorSettings())
        self._estimates = reading.estimates
        self._show(seen, reading)
        return collect_message(seen, reading.snapshot, self._places())

    def _show(self, seen: Snapshot, reading: Reading) -> None:
        """Show and tell what an operator has to know of the world."""
        if self._attainment is not None:
            self._attainment.look(seen.servers)
        before = self._metrics.concern
        # Who asks decides; a server whose load is not known is told of as one to be held.
        asleep = reading.snapshot.asleep
        held = {
            name: "held-unknown"
            for name, view in reading.snapshot.servers.items()
            if view.load is None and name not in asleep
        }
        self._metrics.look(seen, desired=seen.servers, held=held, asleep=asleep, now_s=seen.now_s)
        self._metrics.warn(["observe"] * len(seen.warnings) + ["estimate"] * len(reading.warnings))
        concern = self._metrics.concern
        if concern.line and concern != before:
            log("concern", concern.line, level=logging.WARNING)
