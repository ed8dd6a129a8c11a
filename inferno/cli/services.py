"""The commands that serve one part of the loop: arguments in, a service until it is told to
stop.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from inferno.cli.world_services import add_world_commands
from loop.errors import SpecError
from loop.optimizer.table import OptimizerSettings
from loop.services.auth import token_source
from loop.services.logs import log_listening, set_up_logs
from loop.services.optimizer_app import make_optimizer_app
from loop.services.serving import listen, serve
from loop.settings import read_settings

EXIT_OK = 0

AddCommand = Callable[..., argparse.ArgumentParser]


def add_commands(add: AddCommand) -> None:
    """Add the commands of this package; *add*(name, run, summary, text) makes a parser for one."""
    _add_optimizer(add)
    add_world_commands(add)


def _add_optimizer(add: AddCommand) -> None:
    parser = add(
        "optimizer",
        _optimizer,
        "the optimizer as a service",
        """\
Serve POST /optimizeOne, and with --stateful every verb of the existing optimizer; /docs shows them all.

  inferno optimizer
  inferno optimizer --stateful --compat      in the place of the existing one, answer for answer
  curl -X POST -d @system.json http://localhost:3302/optimizeOne
""",
    )
    parser.add_argument(
        "--stateful", action="store_true", help="keep a system, and serve the verbs that change it"
    )
    parser.add_argument(
        "--solver", choices=("greedy", "exact"), help="default exact; greedy with --compat"
    )
    parser.add_argument(
        "--compat", action="store_true", help="size, choose and answer as the Go optimizer does"
    )
    parser.add_argument(
        "--compat-early", action="store_true", help="as the Go optimizer of mid 2025 did"
    )
    parser.add_argument(
        "--objective", choices=("value", "cost"), default="value", help="least value or least cost"
    )
    parser.add_argument(
        "--time-limit", type=float, metavar="S", help="give the best found after so many seconds"
    )
    parser.add_argument("--host", help="address to listen on ($INFERNO_HOST, else localhost)")
    parser.add_argument("--port", help="port to listen on ($INFERNO_PORT, else 3302)")


def _optimizer(options: argparse.Namespace) -> int:
    told = read_settings(arguments={"optimizer_host": options.host, "optimizer_port": options.port})
    if options.stateful and options.compat_early:
        raise SpecError(
            "--stateful: expected without --compat-early, whose service has /optimizeOne only, "
            "found both"
        )
    if options.time_limit is not None and not options.time_limit > 0:
        raise SpecError(f"time-limit: expected a number of seconds > 0, found {options.time_limit}")
    compat = options.compat or options.compat_early
    settings = OptimizerSettings(
        solver=options.solver or ("greedy" if compat else "exact"),
        compat=compat,
        objective=options.objective,
        time_limit_s=options.time_limit,
    )
    app = make_optimizer_app(
        settings=settings,
        stateful=options.stateful,
        early=options.compat_early,
        token=token_source(told),
    )
    sockets = listen(told.optimizer_host, told.optimizer_port)
    set_up_logs("optimizer")
    log_listening(told.optimizer_host, sockets, verb="optimizeOne")
    serve(app, sockets, on_stop=app.state.stop)
    return EXIT_OK
