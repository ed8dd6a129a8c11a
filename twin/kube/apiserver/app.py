"""The HTTP side of the API: a FastAPI application over an ApiServer, and the faults it meets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

from fastapi import FastAPI, Request
from starlette.responses import Response, StreamingResponse

from twin.kube.apiserver.errors import REASONS, ApiError
from twin.kube.apiserver.server import BODY_BYTES_MAX, ApiServer, Call, Reply

TICK_S = 0.05
"""How often the world is brought up to date, in seconds of the machine."""

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
Page = Callable[[], tuple[str, str]]


class Fault(Protocol):
    """A fault that one request meets: a delay, an answer with an error, or a cut connection."""

    @property
    def kind(self) -> str:
        """Return "delay", "error" or "drop"."""
        ...

    @property
    def delay_s(self) -> float:
        """Return how long the answer waits; a delay comes before an error or a drop."""
        ...

    @property
    def status(self) -> int:
        """Return the HTTP status of an error."""
        ...

    @property
    def retry_after_s(self) -> int | None:
        """Return after how long an error asks to be tried again, None if it does not say."""
        ...

    @property
    def after(self) -> bool:
        """Tell whether a dropped request is carried out before the connection breaks."""
        ...


class Faults(Protocol):
    """The faults in force."""

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        ...

    def for_request(
        self, now_s: float, *, verb: str, thing: str, namespace: str, name: str, path: str
    ) -> Sequence[Fault]:
        """Return the faults that this request meets, and count them."""
        ...


class World(Protocol):
    """What lives behind the API. All its methods are called in the thread of the event loop."""

    @property
    def now_s(self) -> float:
        """Return its time."""
        ...

    def advance(self) -> bool:
        """Come nearer to the present; tell whether it is reached."""
        ...

    def page(self, path: str) -> tuple[str, str] | None:
        """Return (media type, text) of a page outside the Kubernetes API, None where there is none
        at *path*.
        """
        ...

    def control(self, method: str, path: str, body: bytes) -> Any:
        """Do what an administrator asks of the world itself; return the answer. Raise ApiError
        where it cannot be.
        """
        ...


def create_app(server: ApiServer, world: World, faults: Faults, *, control: str) -> FastAPI:
    """Return the application. While it is served, it alone advances and reads *world*.

    Paths that begin with *control* steer the world itself; no fault strikes there.
    """

    handler = _Handler(server, world, faults, control=control)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        ticking = asyncio.create_task(handler.tick())
        yield
        ticking.cancel()
        with suppress(asyncio.CancelledError):
            await ticking

    app = FastAPI(
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.add_api_route("/{path:path}", handler.handle, methods=METHODS, response_class=Response)
    return app


class _Handler:
    def __init__(self, server: ApiServer, world: World, faults: Faults, *, control: str) -> None:
        self._control = control
        self._server = server
        self._world = world
        self._faults = faults
        self._failure: Exception | None = None

    async def tick(self) -> None:
        """Keep the world in the present. Once it has failed, every request fails with that
        reason.
        """
        try:
            while True:
                present = self._world.advance()
                # A world that is behind goes on at once, but lets requests in between.
                await asyncio.sleep(TICK_S if present else 0.0)
        except Exception as error:
            self._failure = error
            raise

    async def handle(self, request: Request) -> Response:
        """Answer *request*."""
        call = await _call(request)
        if call is None:
            return _failed(
                ApiError(413, "RequestEntityTooLarge", f"limit is {BODY_BYTES_MAX} bytes")
            )
        faults = self._suffered(call)
        for fault in faults:
            if fault.delay_s:
                await asyncio.sleep(fault.delay_s)
        for fault in faults:
            if fault.kind == "error":
                return _broken(fault)
        cut = next((fault for fault in faults if fault.kind == "drop"), None)
        if cut is not None and not cut.after:
            return _CutOff()
        response = self._respond(call)
        return response if cut is None else _CutOff()

    def _respond(self, call: Call) -> Response:
        if self._failure is not None:
            message = f"the world has stopped: {type(self._failure).__name__}: {self._failure}"
            return _failed(ApiError(500, "InternalError", message))
        try:
            if call.path.startswith(self._control):
                self._server.check_master(call)
                return _json(self._world.control(call.method, call.path, call.body), 200, {})
            page = self._world.page(call.path) if call.method in ("GET", "HEAD") else None
            if page is not None:
                return Response(page[1], media_type=page[0])
            return _replied(self._server.answer(call))
        except ApiError as error:
            return _failed(error)

    def _suffered(self, call: Call) -> Sequence[Fault]:
        if not self._faults or call.path.startswith(self._control):
            return []
        verb, thing, namespace, name = call.method.lower(), "", "", ""
        with suppress(ApiError):
            _, attributes = self._server.attributes(call)
            verb, thing, namespace, name = (
                attributes.verb,
                attributes.thing,
                attributes.namespace,
                attributes.name,
            )
        return self._faults.for_request(
            self._world.now_s,
            verb=verb,
            thing=thing,
            namespace=namespace,
            name=name,
            path=call.path,
        )


async def _call(request: Request) -> Call | None:
    """Read a request; None where its body is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            return None
    return Call(
        method=request.method,
        path=request.scope["path"].rstrip("/") or "/",
        query=dict(request.query_params),
        headers=dict(request.headers),
        body=bytes(body),
    )


def _replied(reply: Reply) -> Response:
    if reply.stream is not None:
        return StreamingResponse(_lines(reply.stream), media_type="application/json")
    if reply.data is not None:
        return Response(reply.data, media_type=reply.media_type)
    if reply.text is not None:
        return Response(reply.text, media_type="text/plain")
    headers = {}
    if reply.warnings:
        headers["Warning"] = ", ".join(f"299 - {json.dumps(line)}" for line in reply.warnings)
    text = json.dumps(reply.body, separators=(",", ":"))
    return Response(text, status_code=reply.code, media_type=reply.media_type, headers=headers)


def _failed(error: ApiError) -> Response:
    return _json(error.status(), error.code, {})


def _broken(fault: Fault) -> Response:
    reason = REASONS.get(fault.status, "Unknown")
    details = {} if fault.retry_after_s is None else {"retryAfterSeconds": fault.retry_after_s}
    error = ApiError(fault.status, reason, "a fault that was asked for", details=details)
    headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
    return _json(error.status(), fault.status, headers)


def _json(body: Any, code: int, headers: dict[str, str]) -> Response:
    text = json.dumps(body, separators=(",", ":"))
    return Response(text, status_code=code, media_type="application/json", headers=headers)


async def _lines(events: AsyncIterator[Any]) -> AsyncIterator[str]:
    async for event in events:
        yield json.dumps(event, separators=(",", ":")) + "\n"


class _CutOff(Response):
    """An answer whose connection breaks in the middle of it."""

    async def __call__(
        self,
        scope: MutableMapping[str, Any],  # noqa: ARG002 the signature of ASGI
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],  # noqa: ARG002 as above
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Promise more than is sent: the server then has no choice but to close the connection."""
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})
