"""`inferno actuator`: what the servers of a cluster should have, as a service."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from inferno.cli.command import EXIT_OK, Command
from inferno.cli.service import (
    add_service_options,
    listen_well,
    serve_app,
    service_arguments,
    start_logs,
)
from inferno.worlds.kube import Choices, open_cluster, wait_for_cluster
from inferno.worlds.kube_options import add_acting_options, add_cluster_options, cluster_arguments

if TYPE_CHECKING:
    from loop.settings import Settings

TEXT = """\
Serve POST /update: ask the managed Deployments of a cluster to have what the
message says.

  inferno actuator
  inferno actuator --absent zero      as the existing actuator does
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument(
        "--absent",
        choices=("hold", "zero"),
        default="hold",
        help="a server that the message gives nothing: hold it (default), or end its replicas",
    )
    parser.add_argument("--host", help="address to listen on ($ACTUATOR_HOST, else localhost)")
    parser.add_argument("--port", help="port to listen on ($ACTUATOR_PORT, else 3303)")
    add_service_options(parser)
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="data directory, for the types of accelerators that node selectors name and the GPUs "
        "of a replica "
        "($INFERNO_DATA_PATH, else none)",
    )
    add_cluster_options(parser)
    add_acting_options(parser)


def _run(options: Namespace) -> int:
    from loop.actors import Owner
    from loop.clocks import MonotonicClock
    from loop.services.actuator_app import make_actuator_app
    from loop.services.auth import token_source
    from loop.settings import read_settings

    settings = read_settings(
        arguments={
            "actuator_host": options.host,
            "actuator_port": options.port,
            **service_arguments(options),
            "data_path": options.data,
            **cluster_arguments(options),
        }
    )
    # It asks, and needs no figures.
    choices = Choices(
        metrics="labels",
        events=options.events,
        lease=options.lease,
        autoscalers=True,
        contest=options.contest,
        deletion_cost=options.deletion_cost,
    )
    wait_for_cluster(settings.kubeconfig, wait_s=options.wait, command="actuator")
    with ExitStack() as stack:
        notes: list[str] = []
        types, gpus = _accelerators(settings, notes)
        live = open_cluster(settings, choices, types=types, gpus=gpus, capacity={}, stack=stack)
        app = make_actuator_app(
            live.backend,
            Owner(clock=MonotonicClock()),
            absent=options.absent,
            token=token_source(settings),
            threads=[live.lease] if live.lease else [],
        )
        sockets = listen_well(settings.actuator_host, settings.actuator_port)
        start_logs("actuator", options, settings)
        serve_app(
            app,
            sockets,
            settings=settings,
            host=settings.actuator_host,
            verb="update",
            notes=notes,
        )
    return EXIT_OK


def _accelerators(
    settings: Settings, notes: list[str]
) -> tuple[Mapping[str, str], Mapping[tuple[str, str], int]]:
    """Return accelerator types by name and the GPUs of a replica, as far as the data say; add to
    *notes* what they leave open.
    """
    from loop.schema.reading import read_system
    from loop.spec import gpus_per_replica

    if settings.data_path is None:
        return {}, {}
    data = read_system(settings.data_path, warn=notes.append)
    return {name: unit.type for name, unit in data.accelerators.items()}, gpus_per_replica(data)


COMMAND = Command(
    name="actuator",
    summary="what servers should have, as a service",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
