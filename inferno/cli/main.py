"""The `inferno` command: it parses, wires the live world, says where things went, and turns errors
into exit codes.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NoReturn, TextIO

import simpy

from experiments.config import RunConfig
from experiments.run import start_world
from experiments.sources import read_sources
from inferno.cli.cluster import add_commands as add_cluster
from inferno.cli.fit import add_commands as add_fit
from inferno.cli.optimize import add_commands as add_parts
from inferno.cli.runs import add_commands as add_experiments
from inferno.cli.runs import add_policy_options
from inferno.cli.services import add_commands as add_services
from inferno.worlds.kube import add_cluster_options, cluster_arguments, open_cluster
from loop.actuator import Limits
from loop.backends.http import HttpBackend
from loop.backends.http_client import ServiceClient, service_url
from loop.backends.http_policy import remote_policy
from loop.backends.kube.lease import Lease, LedController
from loop.backends.sim import SimBackend, SimWorld
from loop.clocks import MonotonicClock, date_now
from loop.controller import SIMULATED_EPOCH, Controller, ControllerSettings
from loop.data import DataSource
from loop.drivers import LiveDriver, ThreadInbox
from loop.errors import LoopError
from loop.policies import make_policy
from loop.ports import Backend, Cycles, Policy
from loop.records import record_text
from loop.services.auth import token_source
from loop.services.controller_app import create_controller_app
from loop.services.controller_metrics import ControllerMetrics
from loop.services.logs import log_cycle, log_listening, set_up_logs
from loop.services.serving import listen, serve
from loop.settings import Settings, read_settings
from loop.types import CycleRecord
from twin.spec import SpecError

EXIT_OK, EXIT_FAILURE, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130

SERVICE_TIMEOUT_S = 30.0

Command = Callable[[argparse.Namespace], int]
AddCommand = Callable[..., argparse.ArgumentParser]

EXAMPLES = """\
examples:
  inferno sim --scenario disturbed --alpha 0.5 --period 60 --out out/one
  inferno sweep --alpha 0.1,0.3,0.5 --period 30,60,120 --seeds 3 --out out/grid
  inferno plot out/grid
  inferno controller 60 false --backend sim --speed 20     then: curl http://localhost:3300/invoke
  inferno optimize system.json --solver exact

Each command explains itself: inferno COMMAND --help
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 success, 1 failure, 2 bad input (one clear line),
    130 interrupted.
    """
    options = _parser().parse_args(arguments)
    command: Command = options.run_command
    try:
        return command(options)
    except SpecError as error:
        print(f"inferno {options.command}: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except LoopError as error:
        print(f"inferno {options.command}: {error}", file=sys.stderr)
        return EXIT_FAILURE
    except BrokenPipeError:
        # The reader of our output went away (| head): not an error, but Python must not complain at
        # exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except KeyboardInterrupt:
        print(f"inferno {options.command}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line: its usage is a --help away."""

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2."""
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="inferno",
        description=(
            "Try an autoscaling policy for LLM servers on a digital twin, then run the "
            "same loop live."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = partial(_add, commands)
    for add_commands in (
        add_experiments,
        add_parts,
        add_fit,
        _add_controller,
        add_services,
        add_cluster,
    ):
        add_commands(add)
    return parser


def _add(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    run: Command,
    summary: str,
    text: str = "",
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=text or summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run_command=run)
    return parser


# --- controller: the live loop --------------------------------------------------------------------


def _add_controller(add: AddCommand) -> None:
    parser = add(
        "controller",
        _controller,
        "the loop, live; serves /invoke",
        """\
Run the control loop every PERIOD seconds and whenever /invoke is called (PERIOD 0: only then). --backend says over
which world: sim, the twin in wall-clock time or faster; kube, the managed Deployments of a cluster; http, a collector,
an optimizer and an actuator that run as services.

  inferno controller 60 false --backend sim --speed 20
  inferno controller 60 false --backend kube --mode advise
  curl http://localhost:3300/invoke
  curl -X POST -d '{"mode": "advise"}' http://localhost:3300/invoke      decide and explain, change nothing
""",
    )
    parser.add_argument(
        "period", nargs="?", metavar="PERIOD", help="seconds between cycles (default 60)"
    )
    parser.add_argument(
        "dynamic",
        nargs="?",
        metavar="DYNAMIC",
        help="true: read all files each cycle (default false)",
    )
    parser.add_argument(
        "--backend",
        choices=("sim", "kube", "http"),
        default="sim",
        help="which world (default sim)",
    )
    parser.add_argument(
        "--mode", choices=("act", "advise"), default="act", help="advise: decide, change nothing"
    )
    parser.add_argument(
        "--data", help="data directory ($INFERNO_DATA_PATH, else sample-data/large)"
    )
    parser.add_argument(
        "--policy", default="slo", help="what decides (default slo; with http the optimizer does)"
    )
    parser.add_argument(
        "--metrics",
        choices=("measured", "prometheus", "pods", "labels"),
        help=(
            "what the loop sees: sim: measured (default) or labels; kube: prometheus, pods or "
            "labels"
        ),
    )
    parser.add_argument("--host", help="address to listen on ($CONTROLLER_HOST, else localhost)")
    parser.add_argument("--port", help="port to listen on ($CONTROLLER_PORT, else 3300)")
    parser.add_argument(
        "--records", type=Path, metavar="FILE", help="append each record to FILE as a JSON line"
    )
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        help="simulated seconds per second, also of a twin as a cluster (default 1)",
    )
    parser.add_argument("--scenario", default="disturbed", help="sim: the load (default disturbed)")
    parser.add_argument("--alpha", type=float, help="sim: disturbance, 0 to 1")
    parser.add_argument("--interval", type=float, help="sim: seconds between disturbances")
    parser.add_argument("--seed", type=int, default=1, help="sim: the seed (default 1)")
    parser.add_argument(
        "--step-up", type=int, metavar="N", help="replicas that a server gains per cycle at most"
    )
    parser.add_argument(
        "--step-down", type=int, metavar="N", help="replicas that a server loses per cycle at most"
    )
    add_cluster_options(parser)
    add_policy_options(parser)


@dataclass(frozen=True, slots=True, kw_only=True)
class _World:
    """What a controller runs over: a backend, and whose time passes how fast."""

    backend: Backend
    policy: Policy
    data: DataSource
    clock: MonotonicClock
    epoch: datetime = SIMULATED_EPOCH
    speed: float = 1.0
    advance: Callable[[float], None] | None = None
    lease: Lease | None = None


def _controller(options: argparse.Namespace) -> int:
    told = read_settings(
        arguments={
            "period_s": options.period,
            "dynamic": options.dynamic,
            "controller_host": options.host,
            "controller_port": options.port,
            "data_path": options.data,
            **cluster_arguments(options),
        }
    )
    limits = _limits(options)
    with ExitStack() as stack:
        world = _WORLDS[options.backend](told, options, stack)
        alone = Controller(
            backend=world.backend,
            policy=world.policy,
            data=world.data,
            clock=MonotonicClock(),
            settings=ControllerSettings(mode=options.mode, limits=limits, epoch=world.epoch),
        )
        controller: Cycles = LedController(alone, world.lease) if world.lease else alone
        metrics, inbox = ControllerMetrics(), ThreadInbox()
        sockets = listen(told.controller_host, told.controller_port)
        records = stack.enter_context(_open_records(options.records)) if options.records else None
        driver = LiveDriver(
            controller,
            period_s=told.period_s,
            clock=world.clock,
            inbox=inbox,
            speed=world.speed,
            advance=world.advance,
            on_record=partial(_report, metrics=metrics, records=records),
        )
        app = create_controller_app(driver, inbox, metrics=metrics, token=token_source(told))
        set_up_logs("controller")
        about = {"backend": options.backend, "mode": options.mode, "periodS": told.period_s}
        log_listening(told.controller_host, sockets, verb="invoke", about=about)
        serve(app, sockets, on_stop=app.state.stop)
    return EXIT_OK


def _limits(options: argparse.Namespace) -> Limits:
    for name, step in (("step-up", options.step_up), ("step-down", options.step_down)):
        if step is not None and step < 1:
            raise SpecError(f"{name}: expected a whole number >= 1, found {step}")
    return Limits(step_up_max=options.step_up, step_down_max=options.step_down)


def _sim_world(told: Settings, options: argparse.Namespace, _stack: ExitStack) -> _World:
    if not (math.isfinite(options.speed) and options.speed > 0):
        raise SpecError(f"speed: expected a number > 0, found {options.speed}")
    if options.metrics not in (None, "measured", "labels"):
        raise SpecError(
            f"metrics: expected measured or labels with --backend sim, found {options.metrics}"
        )
    sources = read_sources(
        RunConfig(
            data=_data_path(told),
            scenario=options.scenario,
            policy=options.policy,
            seed=options.seed,
            disturbance_alpha=options.alpha,
            interval_s=options.interval,
            policy_options=tuple(sorted(options.policy_options)),
        )
    )
    env = simpy.Environment()
    cluster, feeder = start_world(env, sources, until_s=None)
    return _World(
        backend=SimBackend(
            cluster, metrics=options.metrics or "measured", offered_loads=feeder.offered_loads
        ),
        policy=sources.policy,
        data=DataSource(sources.config.data, dynamic=told.dynamic),
        clock=MonotonicClock(speed=options.speed),
        speed=options.speed,
        advance=SimWorld(env).advance,
    )


def _kube_world(told: Settings, options: argparse.Namespace, stack: ExitStack) -> _World:
    data = DataSource(_data_path(told), dynamic=told.dynamic)
    types = {name: unit.type for name, unit in data.static().accelerators.items()}
    live = open_cluster(told, options, types=types, metrics=options.metrics, stack=stack)
    return _World(
        backend=live.backend,
        policy=make_policy(options.policy, **dict(options.policy_options)),
        data=data,
        clock=live.clock,
        epoch=live.epoch,
        lease=live.lease,
    )


def _http_world(told: Settings, options: argparse.Namespace, stack: ExitStack) -> _World:
    clock, token = MonotonicClock(), token_source(told)
    places = {
        "collector": service_url(told.collector_host, told.collector_port),
        "optimizer": service_url(told.optimizer_host, told.optimizer_port),
        "actuator": service_url(told.actuator_host, told.actuator_port),
    }
    clients = {
        name: ServiceClient(name, url, timeout_s=SERVICE_TIMEOUT_S, token=token)
        for name, url in places.items()
    }
    for client in clients.values():
        stack.callback(client.close)
    return _World(
        backend=HttpBackend(
            collector=clients["collector"], actuator=clients["actuator"], clock=clock
        ),
        policy=remote_policy(clients["optimizer"], **dict(options.policy_options)),
        data=DataSource(_data_path(told), dynamic=told.dynamic),
        clock=clock,
        epoch=date_now(),
    )


_WORLDS = {"sim": _sim_world, "kube": _kube_world, "http": _http_world}


def _data_path(told: Settings) -> Path:
    return told.data_path or RunConfig().data


def _report(record: CycleRecord, *, metrics: ControllerMetrics, records: TextIO | None) -> None:
    """Count the cycle, log what it did, and keep its record where the user wants it."""
    metrics.observe(record)
    log_cycle(record)
    if records:
        print(record_text(record), file=records, flush=True)


def _open_records(path: Path) -> TextIO:
    try:
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise SpecError(
            f"{path}: expected a file that can be written, found {error.strerror}"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
