"""What the collector and the actuator have in common: probes, a door, one owner of the world,
errors in one line.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from loop.errors import BackendError, InboxFullError, StoppedError
from loop.schema.wire import Problem
from loop.services.answers import Json, add_error_answers, message
from loop.services.auth import TokenSource, require_token
from loop.services.doorway import Doorway, Gate
from loop.services.logs import log, log_requests
from loop.services.owner import Owner

Answer = TypeVar("Answer")

BODY_BYTES_MAX = 16 * 2**20
FAILURES_READY_MAX = 2  # failures in a row that a ready service may have
OWNER_WAIT_S, GATE_WAIT_S = 0.4, 0.2  # a service ends within a second


class WorldDesk:
    """Asks the owner of the world, and remembers whether that goes well."""

    def __init__(self, owner: Owner, *, timeout_s: float) -> None:
        self._owner = owner
        self._timeout_s = timeout_s
        self._failures = 0
        self.last_error = ""

    @property
    def healthy(self) -> bool:
        """Tell whether one of the last three requests went through, or there were not yet three."""
        return self._failures <= FAILURES_READY_MAX

    async def ask(self, act: Callable[[], Answer]) -> Answer:
        """Return the answer to *act*, which only the owner may do. Raise BackendError, and what
        Owner.answer does.
        """
        try:
            answer = await self._owner.answer(act, timeout_s=self._timeout_s)
        except (BackendError, TimeoutError) as problem:
            self._failures += 1
            self.last_error = str(problem) or f"no answer within {self._timeout_s:g} s"
            raise
        self._failures, self.last_error = 0, ""
        return answer


def make_world_app(
    title: str, owner: Owner, *, timeout_s: float, token: TokenSource | None
) -> tuple[FastAPI, WorldDesk]:
    """Return a service without verbs, and what its verbs ask.

    app.state.stop() stops the owner, waits a moment for those inside to hear of it, and lets nobody
    in any more.
    """
    gate, desk = Gate(), WorldDesk(owner, timeout_s=timeout_s)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        owner.start()
        yield

    app = FastAPI(
        title=f"Inferno Twin: {title}",
        lifespan=lifespan,
        default_response_class=Json,
        redirect_slashes=False,
        responses={status: {"model": Problem} for status in (400, 413, 429, 503, 504)},
    )
    app.add_middleware(Doorway, gate=gate, body_bytes_max=BODY_BYTES_MAX)
    require_token(app, token)
    log_requests(app)
    add_error_answers(app, compat=False)
    _add_world_errors(app, timeout_s=timeout_s)
    app.state.gate = gate

    def stop() -> None:
        owner.stop(timeout_s=OWNER_WAIT_S)
        gate.close(wait_s=GATE_WAIT_S)

    app.state.stop = stop

    @app.get("/healthz", tags=["probes"])
    def healthz() -> Response:
        return Json({"alive": owner.alive}, status_code=200 if owner.alive else 503)

    @app.get("/readyz", tags=["probes"])
    def readyz() -> Response:
        ready = owner.alive and desk.healthy and not gate.closed
        return Json(
            {"ready": ready, "lastError": desk.last_error}, status_code=200 if ready else 503
        )

    return app, desk


def _add_world_errors(app: FastAPI, *, timeout_s: float) -> None:
    def answer(status: int, line: str) -> Response:
        log(line, {"status": status}, level=logging.WARNING)
        return message(status, line)

    @app.exception_handler(BackendError)
    async def answer_world(_request: Request, problem: BackendError) -> Response:
        return answer(503, " ".join(str(problem).split()))

    @app.exception_handler(StoppedError)
    async def answer_stop(_request: Request, problem: StoppedError) -> Response:
        return answer(503, str(problem))

    @app.exception_handler(InboxFullError)
    async def answer_full(_request: Request, problem: InboxFullError) -> Response:
        return answer(429, str(problem))

    @app.exception_handler(TimeoutError)
    async def answer_late(_request: Request, _problem: TimeoutError) -> Response:
        return answer(504, f"the world did not answer within {timeout_s:g} s")
