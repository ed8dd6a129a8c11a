"""The door of everything we serve, the twin included: for which names it answers, what a browser
may send, and how long and how large bodies may be. It knows no verbs.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from loop.services.answers import message
from loop.services.logs import log

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Probes and scrapes change nothing, tell nothing that is secret, and come by addresses that nobody
# here knows: the first part of their paths.
OPEN = frozenset({"healthz", "livez", "readyz", "metrics"})
ANY_HOST = "*"
# A browser takes 0.0.0.0 for this machine, and a page of any site may name it.
NO_NAMES = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 they are refused


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorSettings:
    """hosts: names beside those of the machine for which requests may be meant, "*" for all.

    head_timeout_s, body_timeout_s: how long the head and the body of a request may take. bytes_max:
    how many bytes of bodies may be under way at a time, in all requests together. connections_max:
    how many clients may be connected.
    """

    hosts: frozenset[str] = frozenset()
    head_timeout_s: float = 10.0
    body_timeout_s: float = 20.0
    bytes_max: int = 64 * 2**20
    connections_max: int = 256


class Door:
    """Lets requests in to *app*.

    A page of some other site that is open in the browser of an operator can send requests to
    services on the operator's machine, and by a name that changes its address (DNS rebinding) even
    read the answers. The first shows in Origin or Sec-Fetch-Site, the second in Host.
    """

    def __init__(self, app: ASGIApp, settings: DoorSettings) -> None:
        self._app = app
        self._settings = settings
        self._bytes = 0  # of bodies of all requests under way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if line := self._why_not(scope):
            fields = {"path": scope["path"]}
            log("refused", f"refused: {line}", fields, level=logging.WARNING)
            await message(403, line, headers={"connection": "close"})(scope, receive, send)
            return
        passage = _Passage(self, scope, receive, send)
        try:
            await self._app(scope, passage.receive, passage.send)
        except ClientDisconnect:
            pass  # Whoever asked has gone: nobody is left to be told.
        except Exception:
            if not passage.refused:
                raise
        finally:
            self._bytes -= passage.bytes

    def take(self, count: int) -> bool:
        """Count *count* further bytes under way. False: they are too many, and are not counted."""
        if self._bytes + count > self._settings.bytes_max:
            return False
        self._bytes += count
        return True

    @property
    def settings(self) -> DoorSettings:
        """Return the bounds."""
        return self._settings

    def _why_not(self, scope: Scope) -> str:
        """Return why a request is refused, nothing if it is not."""
        if scope["path"].strip("/").split("/")[0] in OPEN:
            return ""
        headers = {key: value.decode("latin-1") for key, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not self._is_ours(host_name(host), scope):
            return (
                f"host: expected a name of this service, found {host[:60]!r} "
                "(--allowed-host adds names)"
            )
        site = headers.get(b"sec-fetch-site", "none")
        if site not in {"none", "same-origin"}:
            return f"sec-fetch-site: expected none or same-origin, found {site[:60]!r}"
        origin = headers.get(b"origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return f"origin: expected this service or none, found {origin[:60]!r}"
        return ""

    def _is_ours(self, name: str, scope: Scope) -> bool:
        hosts = self._settings.hosts
        if ANY_HOST in hosts or name in hosts or name == "localhost":
            return True
        with suppress(ValueError):
            address = ip_address(name)
            # The address that the connection was made to cannot be anybody else's.
            return address.is_loopback or name == (scope.get("server") or ("",))[0]
        return False


class _Passage:
    """The way of one request: what comes in is counted and timed, and after a refusal nothing of
    the application's goes out.
    """

    def __init__(self, door: Door, scope: Scope, receive: Receive, send: Send) -> None:
        self.refused = False
        self.bytes = 0
        self._door = door
        self._receive = receive
        self._send = send
        self._whole = not _has_body(scope)  # the body has come
        self._answering = False
        self._end_s = asyncio.get_running_loop().time() + door.settings.body_timeout_s

    async def receive(self) -> Message:
        """Return the next part of the body; "disconnected" once the request is refused."""
        if self.refused:
            return {"type": "http.disconnect"}
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._end_s):
                part = await self._receive()
        except TimeoutError:
            seconds = self._door.settings.body_timeout_s
            return await self._refuse(408, f"body: expected within {seconds:g} s, found a part")
        size = len(part.get("body", b""))
        if not self._door.take(size):
            return await self._refuse(503, "too many bytes are under way: try again later")
        self.bytes += size
        self._whole = not part.get("more_body", False)
        return part

    async def send(self, part: Message) -> None:
        """Send a part of the answer, unless the request was refused."""
        if self.refused:
            return
        if part["type"] == "http.response.start" and not self._whole:
            # Else the server would go on to read what nobody wants, for as long as it comes.
            headers = [each for each in part.get("headers", ()) if each[0] != b"connection"]
            part = {**part, "headers": [*headers, (b"connection", b"close")]}
        self._answering = True
        await self._send(part)

    async def _refuse(self, status: int, line: str) -> Message:
        self.refused = True
        log("refused", f"refused: {line}", {"status": status}, level=logging.WARNING)
        if not self._answering:
            answer = message(status, line, headers={"connection": "close"})
            await answer({"type": "http", "method": "POST"}, self._receive, self._send)
        return {"type": "http.disconnect"}


def _has_body(scope: Scope) -> bool:
    return any(
        key == b"transfer-encoding" or (key == b"content-length" and value.strip(b"0 ") != b"")
        for key, value in scope["headers"]
    )


def host_name(host: str) -> str:
    """Return the name or the address in a Host header, without its port; "" if it is none."""
    if host.startswith("["):
        name, _, port = host[1:].partition("]")
        if port and not port.startswith(":"):
            return ""
        port = port[1:]
    else:
        name, _, port = host.partition(":")
    # What stands behind a colon and is no port may be the name that was really asked for.
    return name.lower().rstrip(".") if port.isdecimal() or not port else ""


def own_names(
    host: str,
    *,
    service: str = "",
    namespace: str = "",
    pod_ip: str = "",
    others: Iterable[str] = (),
) -> frozenset[str]:
    """Return the names for which a service that listens on *host* answers, beside those of the
    loopback and the addresses of the machine.

    Beyond the loopback: the machine's name and, in a cluster, those of its pod and its Service.
    """
    names = {*others, host}
    if not _is_loopback(host):
        names |= {socket.gethostname(), pod_ip}
        if service:
            names.add(service)
            if namespace:
                full = f"{service}.{namespace}"
                names |= {full, f"{full}.svc", f"{full}.svc.cluster.local"}
    return frozenset(name.lower().rstrip(".") for name in names) - NO_NAMES


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
