"""What the commands that serve share: logs as loud as wanted, and an application until it is told
to stop.
"""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from loop.services.logs import NO_FIELDS, log, log_listening, set_up_logs
from loop.services.serving import serve

if TYPE_CHECKING:
    import socket

    from fastapi import FastAPI


def start_logs(service: str, options: Namespace) -> None:
    """Log as *service*: warnings only with -q, the details too with -v."""
    level = logging.WARNING if options.quiet else logging.INFO
    set_up_logs(service, level=logging.DEBUG if options.verbose else level)


def serve_app(
    app: FastAPI,
    sockets: Sequence[socket.socket],
    *,
    host: str,
    verb: str,
    about: Mapping[str, object] = NO_FIELDS,
    notes: Iterable[str] = (),
) -> None:
    """Say where *app* can be reached and, of each of *notes*, what the data leave open; serve until
    SIGINT or SIGTERM comes.
    """
    log_listening(host, sockets, verb=verb, about=about)
    for note in dict.fromkeys(notes):
        log(f"note: {note}", level=logging.WARNING)
    serve(app, sockets, on_stop=app.state.stop)
