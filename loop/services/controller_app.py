"""The controller over HTTP: /invoke, /healthz, /readyz and /metrics. It asks the driver's inbox and
never the world.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from loop.errors import InboxFullError, SpecError, StoppedError
from loop.records import record_line
from loop.services.answers import add_error_answers, message
from loop.services.auth import TokenSource, require_token
from loop.services.doorway import Doorway, Gate
from loop.services.logs import log_requests

if TYPE_CHECKING:
    from loop.drivers import LiveDriver, ThreadInbox
    from loop.services.controller_metrics import ControllerMetrics
    from loop.types import Mode

BODY_BYTES_MAX = 2**20


def create_controller_app(
    driver: LiveDriver,
    inbox: ThreadInbox,
    *,
    metrics: ControllerMetrics,
    timeout_s: float = 30.0,
    token: TokenSource | None = None,
) -> FastAPI:
    """Return the service over *driver*, which it starts and stops. An invoke waits for its cycle
    for *timeout_s*.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        driver.start()
        yield
        if not inbox.closed:
            await asyncio.to_thread(driver.stop)

    app = FastAPI(title="Inferno Twin: controller", lifespan=lifespan, redirect_slashes=False)
    app.add_middleware(Doorway, gate=Gate(), body_bytes_max=BODY_BYTES_MAX)
    require_token(app, token)
    log_requests(app)
    add_error_answers(app, compat=False)

    @app.api_route("/invoke", methods=["GET", "POST"])
    async def invoke(request: Request) -> Response:
        try:
            mode = _mode(await request.body())
        except SpecError as problem:
            return _error(400, str(problem))
        return await _invoke(driver, inbox, mode=mode, timeout_s=timeout_s)

    @app.get("/healthz")
    async def healthz() -> Response:
        return JSONResponse({"alive": driver.alive}, status_code=200 if driver.alive else 503)

    @app.get("/readyz")
    async def readyz() -> Response:
        ready = driver.alive and driver.healthy and not inbox.closed
        answer = {"ready": ready, "lastError": driver.last.error if driver.last else ""}
        return JSONResponse(answer, status_code=200 if ready else 503)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return app


async def _invoke(
    driver: LiveDriver, inbox: ThreadInbox, *, mode: Mode, timeout_s: float
) -> Response:
    if not driver.alive:
        return _error(503, "the controller does not run")
    try:
        # Cancelled by the timeout, the request leaves the inbox, unless its cycle has begun.
        record = await asyncio.wait_for(asyncio.wrap_future(inbox.ask(mode)), timeout_s)
    except InboxFullError as problem:
        return _error(429, str(problem))
    except StoppedError as problem:
        return _error(503, str(problem))
    except TimeoutError:
        return _error(504, f"no cycle ended within {timeout_s:g} s")
    return JSONResponse(record_line(record), status_code=503 if record.failed else 200)


def _mode(body: bytes) -> Mode:
    """Return the mode asked for: "act" where the body says nothing. Raise SpecError where it makes
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


def _error(status: int, line: str) -> Response:
    return message(status, line)
