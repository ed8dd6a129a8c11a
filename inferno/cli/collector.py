"""`inferno collector`: what is seen of the servers of a cluster, as a service."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import ExitStack

from inferno.cli.command import EXIT_OK, Command
from inferno.cli.service import (
    add_service_options,
    listen_well,
    serve_app,
    service_arguments,
    start_logs,
)
from inferno.worlds.kube import Choices, open_cluster, wait_for_cluster
from inferno.worlds.kube_options import (
    add_cluster_options,
    add_metrics_options,
    cluster_arguments,
    metrics_choices,
)

TEXT = """\
Serve GET /collect: what the managed Deployments of a cluster have, and what
their load is.

  inferno collector
  inferno collector --metrics prometheus --prometheus http://localhost:9090
  curl http://localhost:3301/collect
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument("--host", help="address to listen on ($COLLECTOR_HOST, else localhost)")
    parser.add_argument("--port", help="port to listen on ($COLLECTOR_PORT, else 3301)")
    add_service_options(parser)
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="data directory, for the targets that /metrics compares latencies with "
        "($INFERNO_DATA_PATH, else none)",
    )
    add_cluster_options(parser)
    add_metrics_options(parser)


def _run(options: Namespace) -> int:
    from loop.actors import Owner
    from loop.clocks import MonotonicClock
    from loop.schema.reading import read_system
    from loop.services.auth import token_source
    from loop.services.collector_app import make_collector_app
    from loop.settings import read_settings

    settings = read_settings(
        arguments={
            "collector_host": options.host,
            "collector_port": options.port,
            **service_arguments(options),
            "data_path": options.data,
            **cluster_arguments(options),
        }
    )
    choices = Choices(
        **metrics_choices(options),
    )
    wait_for_cluster(settings.kubeconfig, wait_s=options.wait, command="collector")
    with ExitStack() as stack:
        notes: list[str] = []
        data = read_system(settings.data_path, warn=notes.append) if settings.data_path else None
        backend = open_cluster(
            settings, choices, types={}, gpus={}, capacity={}, stack=stack
        ).backend
        app = make_collector_app(
            backend,
            Owner(clock=MonotonicClock()),
            places=backend.places,
            data=data,
            token=token_source(settings),
        )
        sockets = listen_well(settings.collector_host, settings.collector_port)
        start_logs("collector", options, settings)
        serve_app(
            app,
            sockets,
            settings=settings,
            host=settings.collector_host,
            verb="collect",
            notes=notes,
        )
    return EXIT_OK


COMMAND = Command(
    name="collector",
    summary="what is seen of the servers, as a service",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
