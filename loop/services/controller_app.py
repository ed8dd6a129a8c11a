"""The controller over HTTP: /invoke, /pause, /resume, /healthz, /readyz and /metrics. It asks the
driver's inbox and never the world.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastapi import Request
from starlette.responses import Response

from loop.controller import Pause
from loop.errors import SpecError, StoppedError
from loop.records import record_line
from loop.schema.answers import CycleLine, InvokeRequest, Paused
from loop.schema.models import Problem
from loop.services.answers import Json
from loop.services.scaffold import Health, create_app, stop_actor

if TYPE_CHECKING:
    from fastapi import FastAPI

    from loop.actors import WatchedBackend
    from loop.drivers import LiveDriver, ThreadInbox
    from loop.ports import Thread
    from loop.services.auth import TokenSource
    from loop.services.controller_metrics import ControllerMetrics
    from loop.types import Mode

BODY_BYTES_MAX = 2**20

INVOKED: dict[int | str, dict[str, Any]] = {
    200: {"model": CycleLine, "description": "The cycle went through"},
    503: {"model": CycleLine | Problem, "description": "It failed, or the controller stops"},
}
# Read by hand: an empty body asks for a cycle, too.
MAY_SAY_MODE = {
    "requestBody": {
        "content": {"application/json": {"schema": InvokeRequest.model_json_schema()}},
    }
}


def create_controller_app(
    driver: LiveDriver,
    inbox: ThreadInbox,
    *,
    metrics: ControllerMetrics,
    pause: Pause,
    timeout_s: float = 30.0,
    token: TokenSource | None = None,
    threads: Sequence[Thread] = (),
    watched: WatchedBackend | None = None,
) -> FastAPI:
    """Return the service over *driver*, which it starts and stops. An invoke waits for its cycle
    for *timeout_s*. *threads* are those without which the loop is as good as dead. A write
    to *watched* is given time at the end. Call app.state.stop() before the server ends.
    """

    def health() -> Health:
        overdue, concern = driver.overdue, metrics.concern
        ready = driver.healthy and not inbox.closed and not overdue and concern.ready
        error = overdue or (driver.last.error if driver.last else "") or concern.line
        alive = driver.alive and all(thread.alive for thread in threads)
        return Health(alive=alive, ready=ready, error=error)

    app = create_app(
        "controller",
        health=health,
        start=driver.start,
        stop=lambda: stop_actor(driver, watched),
        token=token,
        body_bytes_max=BODY_BYTES_MAX,
        registry=metrics.registry,
    )

    @app.get("/invoke", tags=["invoke"], operation_id="invoke_by_get", responses=INVOKED)
    @app.post(
        "/invoke",
        tags=["invoke"],
        operation_id="invoke_by_post",
        responses=INVOKED,
        openapi_extra=MAY_SAY_MODE,
    )
    async def invoke(request: Request) -> Response:
        """Run a cycle now, or share the next one, and answer with its record."""
        if request.url.query:
            # A mode that stands there would be overlooked, and a cycle that was to advise acts.
            raise SpecError(
                'query: expected none, as the body has the mode: {"mode": "advise"}; found '
                f"{request.url.query[:60]!r}"
            )
        mode = _mode(await request.body())
        if not driver.alive:
            raise StoppedError("the controller does not run")
        return await _invoke(inbox, mode=mode, timeout_s=timeout_s)

    @app.post("/pause", tags=["pause"], responses={200: {"model": Paused}})
    async def pause_loop() -> Response:
        """Let the loop look and decide, and ask nothing of the world until it is resumed."""
        pause.pause("POST /pause")
        return Json({"paused": True})

    @app.post("/resume", tags=["pause"], responses={200: {"model": Paused}})
    async def resume_loop() -> Response:
        """Let the loop act again, from the next cycle on."""
        pause.resume()
        return Json({"paused": False})

    return app


async def _invoke(inbox: ThreadInbox, *, mode: Mode, timeout_s: float) -> Response:
    try:
        # Cancelled by the timeout, the request leaves the inbox, unless its cycle has begun.
        record = await asyncio.wait_for(asyncio.wrap_future(inbox.ask(mode)), timeout_s)
    except TimeoutError:
        raise TimeoutError(f"no cycle ended within {timeout_s:g} s") from None
    return Json(record_line(record), status_code=503 if record.failed else 200)


def _mode(body: bytes) -> Mode:
    """Return the mode asked for: "act" if the body says nothing. Raise SpecError if it makes
    no sense.
    """
    if not body.strip():
        return "act"
    expected = 'expected nothing or {"mode": "act"} or {"mode": "advise"}'
    try:
        asked: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise SpecError(f"body: {expected}, found {len(body)} bytes that are not JSON") from None
    if asked in ({}, {"mode": "act"}):
        return "act"
    if asked == {"mode": "advise"}:
        return "advise"
    raise SpecError(f"body: {expected}, found {json.dumps(asked)[:100]}")
