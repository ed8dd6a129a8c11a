"""Asks one of the other services: JSON there, JSON back, within a time; whatever goes wrong is a
BackendError.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import httpx

from loop.backends.deadline import Deadline, watch_opened, within
from loop.backends.fetch import ASKED_PACKED, public_trust, unpacked
from loop.errors import BackendError, LoopError, PausedError, Phase, RefusedError
from twin.datafile import without_halves

ANSWER_BYTES_MAX = 64 * 2**20
LINE_MAX = 300
PAUSED = 409  # how an actuator answers that may ask nothing of its world

Tokens = Callable[[], str]


class ServiceClient:
    """One service at *url*. An answer has *timeout_s* to come, from the first byte sent to the last
    one received.

    *token* gives the bearer token, read anew for each request. A request is made once: the next
    cycle repeats it.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        timeout_s: float,
        token: Tokens | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._name = name
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._token = token
        # A connection per request: those kept open between two cycles are closed by the other side
        # meanwhile. Proxies of the environment are for what is outside; the services of a loop
        # stand side by side.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(
            verify=public_trust(),
            timeout=timeout_s,
            trust_env=False,
            limits=limits,
            transport=transport,
        )

    def close(self) -> None:
        """Close what is open."""
        self._client.close()

    def get(self, verb: str, *, phase: Phase) -> Any:
        """Return the answer to GET *verb*. Raise BackendError of *phase* if there is none, or no
        good one.
        """
        return self._ask("GET", verb, None, phase=phase)

    def post(self, verb: str, body: object, *, phase: Phase) -> Any:
        """Return the answer to POST *verb* with *body*. Raise as get does."""
        return self._ask("POST", verb, json.dumps(body, allow_nan=False).encode(), phase=phase)

    def _ask(self, method: str, verb: str, body: bytes | None, *, phase: Phase) -> Any:
        def fail(line: str) -> NoReturn:
            text = " ".join(line.split())[:LINE_MAX]
            raise BackendError(f"{self._name} {self._url}/{verb}: {text}", phase=phase) from None

        headers = dict(ASKED_PACKED)
        if body is not None:
            headers["content-type"] = "application/json"
        try:
            if self._token is not None:
                headers["authorization"] = f"Bearer {self._token()}"
            status, text = self._exchange(method, verb, body, headers)
        except httpx.TimeoutException:
            fail(f"no answer within {self._timeout_s:g} s")
        except (httpx.HTTPError, httpx.InvalidURL) as problem:
            fail(f"no answer: {problem or type(problem).__name__}")
        except (_TooMuchError, LoopError) as problem:
            fail(str(problem))
        if status == PAUSED:
            raise PausedError(_said(text)[:LINE_MAX])
        if refused := _refused(status, text):
            raise RefusedError(_said(text)[:LINE_MAX], servers=refused)
        if status != httpx.codes.OK:
            fail(f"{status} {_said(text)}")
        try:
            return _read(text)
        except (ValueError, RecursionError):
            fail(f"expected JSON, found {text[:60]!r}")

    def _exchange(
        self, method: str, verb: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        text = bytearray()
        with (
            _whole_within(self._timeout_s) as deadline,
            self._client.stream(
                method,
                f"{self._url}/{verb}",
                content=body,
                headers=headers,
                extensions={"trace": watch_opened},
            ) as answer,
        ):
            for part in unpacked(answer):
                text += part
                if len(text) > ANSWER_BYTES_MAX:
                    raise _TooMuchError(
                        f"expected an answer of at most {ANSWER_BYTES_MAX} bytes, found more"
                    )
            if deadline.over:
                raise httpx.ReadTimeout("")
        return answer.status_code, bytes(text)


@contextmanager
def _whole_within(total_s: float) -> Iterator[Deadline]:
    """Give the requests made meanwhile a deadline, and say so if it ended one."""
    with within(total_s) as deadline:
        try:
            yield deadline
        except httpx.TransportError as error:
            if deadline.over:
                raise _TooMuchError(f"no whole answer within {total_s:g} s") from error
            raise


class _TooMuchError(Exception):
    """An answer is too long, or takes too long."""


def _said(text: bytes) -> str:
    """Return why a service refused: its message, else the begin of what it said."""
    try:
        said = _read(text)
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict) and isinstance(said.get("message"), str):
        return str(said["message"])
    return text[:100].decode("utf-8", errors="replace")


def _refused(status: int, text: bytes) -> dict[str, str]:
    """Return why single servers took no change, if that is all that went wrong."""
    if status != httpx.codes.SERVICE_UNAVAILABLE:
        return {}
    try:
        said = _read(text)
    except (ValueError, RecursionError):
        return {}
    refused = said.get("refused") if isinstance(said, dict) else None
    if not isinstance(refused, dict):
        return {}
    return {str(name): " ".join(str(line).split())[:LINE_MAX] for name, line in refused.items()}


def _read(text: bytes) -> Any:
    return without_halves(json.loads(text, parse_constant=_refuse), text.decode("utf-8", "replace"))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
