"""A bound to how long a request may take in all, whatever the other side sends.

The timeouts of HTTP clients are per read. A head that drips a byte a second, or says "100 Continue"
for ever, runs into none of them; so when the time is over the connection is shut down under it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

GRACE_S = 0.2
# What httpx calls it when a connection is there, the last behind a proxy.
OPENED = (
    *("connection.connect_tcp.complete", "connection.start_tls.complete"),
    "proxy.start_tls.complete",
)


class Deadline:
    """Ends the connections that it watches as soon as the time is over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: list[socket.socket] = []
        self._ended = False  # nothing is watched any more
        self.over = False  # the time is

    def watch(self, connection: socket.socket | None) -> None:
        """Shut *connection* down when the time is over; at once if it is."""
        with self._lock:
            if connection is not None and not self._ended:
                self._watched.append(connection)
        if self.over:
            self.expire()

    def expire(self) -> None:
        """Note that the time is over."""
        with self._lock:
            if self._ended:
                return
            self.over = True
            for connection in self._watched:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Watch nothing any more: others may use the connections from now on."""
        with self._lock:
            self._ended = True


_CURRENT = threading.local()


@contextmanager
def within(total_s: float) -> Iterator[Deadline]:
    """Give a deadline in *total_s* to the requests that this thread makes meanwhile.

    A client's own time-out of as long comes first where the other side is silent.
    """
    deadline = Deadline()
    timer = threading.Timer(total_s + GRACE_S, deadline.expire)
    timer.daemon = True
    timer.start()
    _CURRENT.deadline = deadline
    try:
        yield deadline
    finally:
        _CURRENT.deadline = None
        deadline.end()
        timer.cancel()


def watch(connection: socket.socket | None) -> None:
    """Let the deadline of this thread, if it has one, end *connection*."""
    deadline: Deadline | None = getattr(_CURRENT, "deadline", None)
    if deadline is not None:
        deadline.watch(connection)


def watch_opened(event: str, info: dict[str, object]) -> None:
    """Watch the connections that httpx opens: its extension "trace" calls this."""
    if event in OPENED:
        tell = getattr(info["return_value"], "get_extra_info", None)
        watch(tell("socket") if tell is not None else None)
