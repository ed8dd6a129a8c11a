"""What every service has, whatever its verbs: a gate, the token, bounded bodies, errors in one
line, probes, metrics and a log of its requests.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.responses import Response

from loop.errors import BackendError, InboxFullError, PausedError, StoppedError
from loop.schema.answers import Alive, Ready
from loop.schema.models import Problem
from loop.services.answers import Json, add_error_answers, message
from loop.services.api_page import add_api_page
from loop.services.auth import BearerAuth, TokenSource
from loop.services.logs import RequestLog

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from loop.actors import Actor, WatchedBackend

BODY_BYTES_MAX = 16 * 2**20
# A service ends within a second: what it owns has 0.4 s to end, those inside hear of it in 0.2 s.
ACTOR_WAIT_S, GATE_WAIT_S = 0.4, 0.2
# A write that is cut may be done by half; Kubernetes gives five seconds in all.
WRITE_WAIT_S = 3.5

# What goes wrong in the world, and what is told of it. 503 and 429 mean: try again later.
STATUSES: Mapping[type[Exception], int] = {
    BackendError: 503,
    PausedError: 409,
    StoppedError: 503,
    InboxFullError: 429,
    TimeoutError: 504,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a service is. alive: a restart would not help it. ready: it can do what it is for.

    error: why it is not ready, or what went wrong last; None: nothing of the kind can happen.
    """

    alive: bool = True
    ready: bool = True
    error: str | None = None


def create_app(
    title: str,
    *,
    health: Callable[[], Health] = Health,
    start: Callable[[], object] | None = None,
    stop: Callable[[], object] | None = None,
    token: TokenSource | None = None,
    body_bytes_max: int = BODY_BYTES_MAX,
    statuses: Mapping[type[Exception], int] = STATUSES,
    compat: bool = False,
    registry: CollectorRegistry | None = None,
    **options: Any,
) -> FastAPI:
    """Return a service without verbs; *options* are FastAPI's.

    start, stop: what it owns begins with it and ends before it. token: what requests have to send.
    statuses: errors that are told with their own text. compat: errors as the Go components tell
    them. registry: what /metrics shows, else nothing but requests.

    Call app.state.stop() before the server ends: it lets nobody in any more, and waits a moment for
    those inside.
    """
    gate = Gate()
    registry = registry or CollectorRegistry()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if start is not None:
            start()
        yield

    app = Service(
        title=f"Inferno Twin: {title}",
        lifespan=lifespan,
        default_response_class=Json,
        redirect_slashes=False,
        # Theirs load scripts of a third party into the browser of an operator.
        docs_url=None,
        redoc_url=None,
        # For openapi.json: what is sent is compared before anything else (services/auth.py).
        dependencies=[Depends(HTTPBearer(auto_error=False))] if token is not None else None,
        **{"responses": {status: {"model": Problem} for status in (400, 413, 429, 503, 504)}}
        | options,
    )
    # The last one that is added is the first that a request meets.
    app.add_middleware(JsonBody, gate=gate, bytes_max=body_bytes_max)
    if token is not None:
        app.add_middleware(BearerAuth, token=token)
    app.add_middleware(RequestLog, registry=registry)
    add_error_answers(app, compat=compat, statuses=statuses)
    _add_probes(app, gate, health)

    @app.get("/metrics", include_in_schema=False)
    def show_metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    add_api_page(app)

    def stop_all(*, wait_s: float = GATE_WAIT_S) -> bool:
        if stop is not None:
            stop()
        return gate.close(wait_s=wait_s)

    app.state.gate, app.state.stop = gate, stop_all
    return app


class Service(FastAPI):
    """An application whose verbs are told by what they do, where FastAPI gives the names of our
    functions.
    """

    def openapi(self) -> dict[str, Any]:
        """Return the schema; it is made once."""
        if self.openapi_schema is None:
            verbs = [verb for path in super().openapi()["paths"].values() for verb in path.values()]
            for verb in verbs:
                told = " ".join(verb.pop("description", "").split())
                first, _, rest = told.partition(". ")
                verb["summary"] = first.removesuffix(".") or verb["summary"]
                if rest:
                    verb["description"] = rest
        return super().openapi()


def stop_actor(actor: Actor[Any], watched: WatchedBackend | None) -> None:
    """Stop *actor*; a write of *watched* that is in flight is given the time that it needs, within
    bounds.
    """
    ended = actor.stop(timeout_s=ACTOR_WAIT_S)
    if not ended and watched is not None and watched.writing:
        actor.stop(timeout_s=WRITE_WAIT_S)


def _add_probes(app: FastAPI, gate: Gate, health: Callable[[], Health]) -> None:
    @app.get("/healthz", tags=["probes"], responses={200: {"model": Alive}, 503: {"model": Alive}})
    def healthz() -> Response:
        """Tell whether a restart would help."""
        alive = health().alive
        return Json({"alive": alive}, status_code=200 if alive else 503)

    @app.get("/readyz", tags=["probes"], responses={200: {"model": Ready}, 503: {"model": Ready}})
    def readyz() -> Response:
        """Tell whether the service can do what it is for."""
        now = health()
        ready = now.alive and now.ready and not gate.closed
        last = {} if now.error is None else {"lastError": now.error}
        return Json({"ready": ready, **last}, status_code=200 if ready else 503)


class Gate:
    """Counts the requests inside, and lets no more in once it is closed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.inside = 0
        self.closed = False

    def enter(self) -> bool:
        """Let a request in, unless the gate is closed."""
        with self._changed:
            if not self.closed:
                self.inside += 1
            return not self.closed

    def leave(self) -> None:
        """Let a request out."""
        with self._changed:
            self.inside -= 1
            self._changed.notify_all()

    def close(self, *, wait_s: float) -> bool:
        """Close, and wait for those inside, at most *wait_s*. Tell whether all are out."""
        with self._changed:
            self.closed = True
            return self._changed.wait_for(lambda: self.inside == 0, wait_s)


class JsonBody:
    """Passes the gate and reads the body of a request, at most *bytes_max*; forgives
    a last slash.
    """

    def __init__(self, app: ASGIApp, *, gate: Gate, bytes_max: int) -> None:
        self._app = app
        self._gate = gate
        self._bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif not self._gate.enter():
            await message(503, "the service is stopping")(scope, receive, send)
        else:
            try:
                await self._serve(scope, receive, send)
            finally:
                self._gate.leave()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self._read(scope, receive)
        except EOFError:
            # The beginning of a body may be a sound message that says something else: nothing at
            # all asks for a cycle.
            return
        if body is None:
            line = f"body: expected at most {self._bytes_max} bytes, found more"
            await message(413, line, headers={"connection": "close"})(scope, receive, send)
            return
        # curl says that it sends a form, and some say nothing: all that comes here is JSON, which
        # body_of reads, from bytes.
        headers = [(key, value) for key, value in scope["headers"] if key != b"content-type"]
        asked = {
            **scope,
            "path": scope["path"].rstrip("/") or "/",
            "headers": [*headers, (b"content-type", b"application/octet-stream")],
        }
        first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return first.pop() if first else await receive()

        await self._app(asked, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body, None if it is too long. Raise EOFError if its sender goes away."""
        lengths = [value for key, value in scope["headers"] if key == b"content-length"]
        if any(value.isdigit() and int(value) > self._bytes_max for value in lengths):
            return None
        body = bytearray()
        while True:
            part = await receive()
            if part["type"] == "http.disconnect":
                raise EOFError
            body += part.get("body", b"")
            if len(body) > self._bytes_max:
                return None
            if not part.get("more_body", False):
                return bytes(body)
