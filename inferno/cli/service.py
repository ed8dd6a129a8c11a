"""What the commands that serve share: who may ask, logs as loud as wanted, and an application until
it is told to stop.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from fastapi import FastAPI

    from loop.services.door import DoorSettings
    from loop.settings import Settings

NOTHING: Mapping[str, object] = MappingProxyType({})


def add_service_options(parser: ArgumentParser) -> None:
    """Add the options that say for whom a service is open, and how it logs."""
    add_log_option(parser)
    parser.add_argument(
        "--allowed-host",
        action="append",
        metavar="NAME",
        help="answer requests for this host name too, * for any ($INFERNO_ALLOWED_HOSTS)",
    )


def add_log_option(parser: ArgumentParser) -> None:
    """Add the option that says in which form a command logs."""
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        metavar="FORM",
        help="log lines as text or json ($INFERNO_LOG_FORMAT, else text at a terminal)",
    )


def service_arguments(options: Namespace) -> dict[str, str | None]:
    """Return what of *options* wins over the environment, for read_settings."""
    return {
        "allowed_hosts": ",".join(options.allowed_host) if options.allowed_host else None,
        "log_format": options.log_format,
    }


def door_of(settings: Settings, host: str) -> DoorSettings:
    """Return the door of a service that listens on *host*."""
    from loop.services.door import DoorSettings, own_names

    names = own_names(
        host,
        service=settings.service_name,
        namespace=settings.pod_namespace,
        pod_ip=settings.pod_ip,
        others=settings.allowed_hosts,
    )
    return DoorSettings(hosts=names)


def start_logs(service: str, options: Namespace, settings: Settings) -> None:
    """Log as *service* in the form of *settings*: warnings only with -q, the details too with
    -v.
    """
    import logging

    from loop.services.logs import set_up_logs

    level = logging.WARNING if options.quiet else logging.INFO
    level = logging.DEBUG if options.verbose else level
    set_up_logs(service, level=level, form=settings.log_format)


def listen_well(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets. From then on SIGTERM ends the program with success."""
    from loop.services.serving import end_well_on_signals, listen

    end_well_on_signals()
    return listen(host, port)


def serve_app(
    app: FastAPI,
    sockets: Sequence[socket.socket],
    *,
    settings: Settings,
    host: str,
    verb: str,
    about: Mapping[str, object] = NOTHING,
    notes: Iterable[str] = (),
    page: str = "",
) -> None:
    """Say where *app* can be reached and, of each of *notes*, what the data leave open; serve until
    SIGINT or SIGTERM comes. *page* is the file of inferno/web/static to show at `/`.
    """
    import logging

    from inferno.web.live import WithPage
    from loop.services.logs import log, log_listening
    from loop.services.serving import serve

    log_listening(host, sockets, verb=verb, about=about)
    for note in dict.fromkeys(notes):
        log("note", f"note: {note}", level=logging.WARNING)
    shown = WithPage(app, page) if page else app
    serve(shown, sockets, on_stop=app.state.stop, door=door_of(settings, host))
