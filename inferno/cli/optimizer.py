"""`inferno optimizer`: the optimizer as a service."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from inferno.cli.command import EXIT_OK, Command
from inferno.cli.service import (
    add_service_options,
    listen_well,
    serve_app,
    service_arguments,
    start_logs,
)
from inferno.cli.solver_options import add_solver_options, rules_of, time_limit_of

TEXT = """\
Serve POST /optimizeOne, and with --stateful every verb of the existing
optimizer; /docs shows them all.

  inferno optimizer
  inferno optimizer --stateful --compat     in the place of the existing one
  curl -X POST -d @system.json http://localhost:3302/optimizeOne
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument(
        "--stateful", action="store_true", help="keep a system, and serve the verbs that change it"
    )
    add_solver_options(parser)
    parser.add_argument("--host", help="address to listen on ($INFERNO_HOST, else localhost)")
    parser.add_argument("--port", help="port to listen on ($INFERNO_PORT, else 3302)")
    add_service_options(parser)


def _run(options: Namespace) -> int:
    from loop.errors import SpecError
    from loop.optimizer.rules import OptimizerSettings
    from loop.optimizer.rules.ours import OURS
    from loop.services.auth import token_source
    from loop.services.optimizer_app import make_optimizer_app
    from loop.settings import read_settings

    settings = read_settings(
        arguments={
            "optimizer_host": options.host,
            "optimizer_port": options.port,
            **service_arguments(options),
        }
    )
    if options.stateful and options.compat_early:
        raise SpecError(
            "--stateful: expected without --compat-early, whose service has /optimizeOne only, "
            "found both"
        )
    rules = rules_of(options)
    app = make_optimizer_app(
        settings=OptimizerSettings(
            solver=options.solver or ("exact" if rules is OURS else "greedy"),
            rules=rules,
            objective=options.objective,
            time_limit=time_limit_of(options),
        ),
        stateful=options.stateful,
        token=token_source(settings),
    )
    sockets = listen_well(settings.optimizer_host, settings.optimizer_port)
    start_logs("optimizer", options, settings)
    serve_app(app, sockets, settings=settings, host=settings.optimizer_host, verb="optimizeOne")
    return EXIT_OK


COMMAND = Command(
    name="optimizer",
    summary="the optimizer as a service",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
