"""Runs an application on a host and port until it is told to stop; listening fails early, with one
line.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import uvicorn

from loop.errors import LoopError

if TYPE_CHECKING:
    from types import FrameType

    from fastapi import FastAPI

BACKLOG = 128


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
    if not sockets or (problem is not None and problem.errno == errno.EADDRINUSE):
        for each in sockets:
            each.close()
        raise LoopError(f"cannot listen on {host}:{port}: {problem}") from problem
    return sockets


class Service(uvicorn.Server):
    """A server that ends well within a second: *on_stop* releases the requests that wait, then open
    ones are cut.
    """

    def __init__(self, app: FastAPI, *, on_stop: Callable[[], object]) -> None:
        config = uvicorn.Config(
            app,
            # What it has to say goes where the program's own logs go (services/logs.py), and in
            # their form.
            log_config=None,
            log_level="warning",
            access_log=False,
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


def serve(app: FastAPI, sockets: Sequence[socket.socket], *, on_stop: Callable[[], object]) -> None:
    """Serve *app* on *sockets* in this thread until SIGINT or SIGTERM comes."""
    Service(app, on_stop=on_stop).run(sockets=list(sockets))


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
