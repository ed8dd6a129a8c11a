"""The commands collector and actuator: arguments in, a service over a cluster until it is told to
stop.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from inferno.worlds.kube import METRICS, add_cluster_options, cluster_arguments, open_cluster
from loop.drivers import Owner
from loop.errors import SpecError
from loop.schema.reading import read_system
from loop.services.actuator_app import make_actuator_app
from loop.services.auth import token_source
from loop.services.collector_app import make_collector_app
from loop.services.logs import log_listening, set_up_logs
from loop.services.serving import listen, serve
from loop.settings import Settings, read_settings

if TYPE_CHECKING:
    from fastapi import FastAPI

EXIT_OK = 0

AddCommand = Callable[..., argparse.ArgumentParser]


def add_world_commands(add: AddCommand) -> None:
    """Add these commands; *add*(name, run, summary, text) makes a parser for one."""
    _add_collector(add)
    _add_actuator(add)


def _add_collector(add: AddCommand) -> None:
    parser = add(
        "collector",
        _collector,
        "what is seen of the servers, as a service",
        """\
Serve GET /collect: what the managed Deployments of a cluster have, and what their load is.

  inferno collector
  inferno collector --metrics prometheus --prometheus http://localhost:9090
  curl http://localhost:3301/collect
""",
    )
    parser.add_argument(
        "--metrics",
        choices=METRICS,
        help="where the load comes from (Prometheus where its address is known, else pods)",
    )
    _add_common(parser, variables="COLLECTOR", port=3301)


def _add_actuator(add: AddCommand) -> None:
    parser = add(
        "actuator",
        _actuator,
        "what servers shall have, as a service",
        """\
Serve POST /update: ask the managed Deployments of a cluster to have what the message says.

  inferno actuator
  inferno actuator --absent zero      end who is given nothing, as the existing one does
""",
    )
    parser.add_argument(
        "--absent",
        choices=("hold", "zero"),
        default="hold",
        help="what becomes of who is given nothing (default hold)",
    )
    _add_common(parser, variables="ACTUATOR", port=3303)


def _add_common(parser: argparse.ArgumentParser, *, variables: str, port: int) -> None:
    parser.add_argument("--host", help=f"address to listen on (${variables}_HOST, else localhost)")
    parser.add_argument("--port", help=f"port to listen on (${variables}_PORT, else {port})")
    parser.add_argument(
        "--data",
        help="data directory, for the types of accelerators ($INFERNO_DATA_PATH, else none)",
    )
    parser.add_argument(
        "--speed", type=float, default=1.0, help="how fast the twin as a cluster runs (default 1)"
    )
    add_cluster_options(parser)


def _collector(options: argparse.Namespace) -> int:
    told = _told(options, "collector")
    with ExitStack() as stack:
        backend = open_cluster(
            told, options, types=_types(told, options), metrics=options.metrics, stack=stack
        ).backend
        app = make_collector_app(backend, Owner(), places=backend.places, token=token_source(told))
        _serve(app, "collector", host=told.collector_host, port=told.collector_port, verb="collect")
    return EXIT_OK


def _actuator(options: argparse.Namespace) -> int:
    told = _told(options, "actuator")
    with ExitStack() as stack:
        # It asks, and needs no figures.
        backend = open_cluster(
            told, options, types=_types(told, options), metrics="labels", stack=stack
        ).backend
        app = make_actuator_app(backend, Owner(), absent=options.absent, token=token_source(told))
        _serve(app, "actuator", host=told.actuator_host, port=told.actuator_port, verb="update")
    return EXIT_OK


def _told(options: argparse.Namespace, service: str) -> Settings:
    return read_settings(
        arguments={
            f"{service}_host": options.host,
            f"{service}_port": options.port,
            "data_path": options.data,
            **cluster_arguments(options),
        }
    )


def _types(told: Settings, options: argparse.Namespace) -> Mapping[str, str]:
    """Return accelerator types by name, as far as anybody says: only nodes and node selectors have
    to do with them.
    """
    if told.data_path is None:
        if options.capacity == "nodes":
            raise SpecError(
                "capacity: expected a data directory, whose types nodes are asked for, found none"
            )
        return {}
    return {name: unit.type for name, unit in read_system(told.data_path).accelerators.items()}


def _serve(app: FastAPI, service: str, *, host: str, port: int, verb: str) -> None:
    sockets = listen(host, port)
    set_up_logs(service)
    log_listening(host, sockets, verb=verb)
    serve(app, sockets, on_stop=app.state.stop)
