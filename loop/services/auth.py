"""Who may use a service: all, or those who send the bearer token, which is compared here and shown
to nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import TYPE_CHECKING

from loop.errors import LoopError, SpecError
from loop.services.answers import message

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from loop.settings import Settings

TokenSource = Callable[[], str]

PROBES = frozenset({"/healthz", "/readyz"})  # whoever probes has no token, and learns nothing else
TOKEN_BYTES_MAX = 16384


def token_source(settings: Settings) -> TokenSource | None:
    """Return what gives the token of *settings*, None if there is none. A file is read again for
    each request.

    Raise SpecError if the file holds no token now; what is returned raises LoopError if it
    holds none later.
    """
    path, text = settings.service_token_path, settings.service_token
    if path is None:
        return (lambda: text) if text else None
    try:
        _read_token(path)
    except LoopError as problem:
        raise SpecError(str(problem)) from None
    return lambda: _read_token(path)


class BearerAuth:
    """Answers 401 to requests without `Authorization: Bearer` and the token; 503 if nobody knows
    the token.
    """

    def __init__(self, app: ASGIApp, *, token: TokenSource) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in PROBES):
            await self._app(scope, receive, send)
            return
        try:
            known = self._token()
        except LoopError as problem:
            await message(503, str(problem))(scope, receive, send)
            return
        if _same(_sent(scope), known):
            await self._app(scope, receive, send)
            return
        headers = {"www-authenticate": "Bearer", "connection": "close"}
        await message(401, "expected the bearer token of this service", headers=headers)(
            scope, receive, send
        )


def _sent(scope: Scope) -> bytes:
    """Return the token that came with a request; nothing if none came, or several."""
    values = [value for key, value in scope["headers"] if key == b"authorization"]
    if len(values) != 1:
        return b""
    scheme, _, token = values[0].strip().partition(b" ")
    return bytes(token.strip()) if scheme.lower() == b"bearer" else b""


def _same(sent: bytes, known: str) -> bool:
    """Compare in a time that tells nothing of where they differ, nor of their lengths."""
    return bool(sent) and compare_digest(sha256(sent).digest(), sha256(known.encode()).digest())


def _read_token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            token = file.read(TOKEN_BYTES_MAX + 1).decode("ascii").strip()
    except OSError as error:
        raise LoopError(
            f"token file {path}: expected a readable file, found {error.strerror}"
        ) from None
    except UnicodeDecodeError:
        raise LoopError(f"token file {path}: expected ASCII text, found other bytes") from None
    if not token or len(token) > TOKEN_BYTES_MAX or not token.isprintable() or " " in token:
        raise LoopError(f"token file {path}: expected one token, found none, or more than that")
    return token
