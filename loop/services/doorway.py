"""What every request to a service of REST verbs passes: how long its body is, whether we are still
open, its form.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

STOP_WAIT_S = 0.7  # a service ends within a second


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

    def close(self, *, wait_s: float = STOP_WAIT_S) -> bool:
        """Close, and wait for those inside, at most *wait_s*. Tell whether all are out."""
        with self._changed:
            self.closed = True
            return self._changed.wait_for(lambda: self.inside == 0, wait_s)


class Doorway:
    """Reads the body of a request, at most *body_bytes_max*; takes every body for JSON and forgives
    a last slash.
    """

    def __init__(self, app: ASGIApp, *, gate: Gate, body_bytes_max: int) -> None:
        self._app = app
        self._gate = gate
        self._body_bytes_max = body_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif not self._gate.enter():
            await refusal(503, "the service is stopping")(scope, receive, send)
        else:
            try:
                await self._serve(scope, receive, send)
            finally:
                self._gate.leave()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._read(scope, receive)
        if body is None:
            line = f"body: expected at most {self._body_bytes_max} bytes, found more"
            await refusal(413, line, headers={"connection": "close"})(scope, receive, send)
            return
        # curl says that it sends a form, and some say nothing: all that comes here is JSON.
        headers = [(key, value) for key, value in scope["headers"] if key != b"content-type"]
        asked = {
            **scope,
            "path": scope["path"].rstrip("/") or "/",
            "headers": [*headers, (b"content-type", b"application/json")],
        }
        first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return first.pop() if first else await receive()

        await self._app(asked, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body, or None where it is too long."""
        lengths = [value for key, value in scope["headers"] if key == b"content-length"]
        if any(value.isdigit() and int(value) > self._body_bytes_max for value in lengths):
            return None
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self._body_bytes_max:
                return None
            if not message.get("more_body", False):
                return bytes(body)


def refusal(status: int, line: str, *, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return the answer to a request that is refused, with its one line."""
    return JSONResponse({"message": line}, status_code=status, headers=headers)
