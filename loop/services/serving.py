"""Runs an application on a host and port until it is told to stop: behind its door, with bounded
connections. Listening fails early, with one line.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from loop.errors import LoopError
from loop.services.door import Door, DoorSettings
from loop.services.logs import log

if TYPE_CHECKING:
    from types import FrameType

    from starlette.types import ASGIApp

# asyncio accepts so many connections before it looks at the first of them: a burst of them must fit
# in the files that are left.
BACKLOG = 32
FILES_KEPT = 2 * BACKLOG  # for all that is not a connection to us
# A connection that is cut leaves its task behind for a moment: while they are replaced there are
# more of those than of connections, and uvicorn refuses requests by the larger number.
TASKS_PER_CONNECTION = 2


def listen(host: str, port: int) -> list[socket.socket]:
    """Return a listening socket for every address of *host* (port 0: one socket, on any free port).

    Raise LoopError, one line, if there is none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise LoopError(f"cannot listen on {host}:{port}: {error}") from error
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    sockets: list[socket.socket] = []
    problem: OSError | None = None
    for family, address in addresses[:1] if port == 0 else addresses:
        try:
            sockets.append(_bind(family, address))
        except OSError as error:
            problem = error
    # An address of a family that the machine does not have is no reason to fail; a port that is
    # taken is.
    is_taken = problem is not None and problem.errno == errno.EADDRINUSE
    if not sockets or is_taken:
        for each in sockets:
            each.close()
        todo = " (another program has it: give another --port)" if is_taken else ""
        raise LoopError(f"cannot listen on {host}:{port}: {problem}{todo}") from problem
    return sockets


def connections_max(wanted: int) -> int:
    """Return how many connections a service may have: fewer than *wanted* if the process may open
    few files.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return wanted
    return max(4, min(wanted, files - FILES_KEPT, files // 2))


class Connection(H11Protocol):
    """A connection that has to send the head of each request in time.

    When there are too many, the one gives way that has owed the rest of a request for longest, so
    that slow clients cannot keep probes out; then one that is kept open, then the oldest request
    that is being answered.
    """

    _waiting: asyncio.TimerHandle | None = None  # for the head of a request
    _since_s = 0.0  # when the request began, or the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let the connection in, and close another one if there are too many."""
        super().connection_made(transport)
        self._since_s = self.loop.time()
        self._wait()
        assert self.limit_concurrency is not None
        if len(self.connections) < self.limit_concurrency // TASKS_PER_CONNECTION:
            return
        others = cast("set[Connection]", self.connections)
        log("connection-closed", f"{len(others)} connections: one is closed", level=logging.WARNING)
        min(others - {self}, key=lambda each: each.turn_to_go).cut()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._wait_no_longer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in bytes; what they do not complete has to come in time."""
        if self.is_idle and self._waiting is None:
            # Not again while a body comes: a byte now and then buys no time.
            self._since_s = self.loop.time()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._wait_no_longer()
        elif self._waiting is None and self.is_idle:
            self._wait()

    @property
    def is_idle(self) -> bool:
        """Tell whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def turn_to_go(self) -> tuple[int, float]:
        """Return a key by which connections are sorted: the least gives way first."""
        owes = self._waiting is not None or self.conn.their_state is h11.SEND_BODY
        return 0 if owes else 1 if self.is_idle else 2, self._since_s

    def cut(self) -> None:
        """End the connection at once, whatever waits to be sent."""
        self._wait_no_longer()
        self.connections.discard(self)
        self.transport.abort()

    def _wait(self) -> None:
        door = cast("Door", self.app)
        self._waiting = self.loop.call_later(door.settings.head_timeout_s, self.cut)

    def _wait_no_longer(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class Service(uvicorn.Server):
    """A server that ends well within a second: *on_stop* releases the requests that wait, then open
    ones are cut. *door* bounds what may come in.
    """

    def __init__(
        self, app: ASGIApp, *, on_stop: Callable[[], object], door: DoorSettings | None = None
    ) -> None:
        door = door or DoorSettings()
        config = uvicorn.Config(
            Door(app, door),
            # What it has to say goes where the program's own logs go (services/logs.py), and in
            # their form.
            log_config=None,
            log_level="warning",
            access_log=False,
            http=Connection,
            ws="none",
            backlog=BACKLOG,
            limit_concurrency=TASKS_PER_CONNECTION * connections_max(door.connections_max),
            proxy_headers=False,
            timeout_graceful_shutdown=0.1,  # type: ignore[arg-type] # seconds to wait; whole ones are too coarse
        )
        super().__init__(config)
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 the signature of a signal handler
        """Stop on a signal, and do not raise it again afterwards: a service that was told to stop
        has succeeded.
        """
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Release those who wait, then stop serving."""
        await asyncio.to_thread(self._on_stop)
        await super().shutdown(sockets)


def serve(
    app: ASGIApp,
    sockets: Sequence[socket.socket],
    *,
    on_stop: Callable[[], object],
    door: DoorSettings | None = None,
) -> None:
    """Serve *app* behind a door on *sockets* in this thread until SIGINT or SIGTERM comes."""
    Service(app, on_stop=on_stop, door=door).run(sockets=list(sockets))


def end_well_on_signals() -> None:
    """Let SIGTERM end this program with success from now on, also before and after it serves.

    Call in the main thread, before listening: whoever sees the port open may send the signal.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def _bind(family: int, address: tuple[object, ...]) -> socket.socket:
    # Without the protocol's name asyncio leaves Nagle's algorithm on, and every answer takes 40 ms.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
