"""`inferno controller`: the control loop, live, over the world that --backend names."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from inferno.cli.command import EXIT_OK, Command, Extensible, Parser
from inferno.cli.policies import add_budget_option
from inferno.cli.runs import add_data_option
from inferno.cli.service import (
    add_service_options,
    listen_well,
    serve_app,
    service_arguments,
    start_logs,
)
from inferno.worlds import http, kube, sim
from inferno.worlds.kube_options import cluster_arguments

if TYPE_CHECKING:
    from inferno.web.live import History
    from inferno.worlds.world import Worlds
    from loop.backends.kube.lease import Lease
    from loop.controller import Controller, ControllerSettings
    from loop.ports import Cycles
    from loop.services.controller_metrics import ControllerMetrics
    from loop.settings import Settings
    from loop.types import CycleRecord

PERIOD_MIN_S = 1.0  # of a world whose time passes as ours

TEXT = """\
Run the control loop every PERIOD seconds and whenever /invoke is called
(PERIOD 0: only then); http://localhost:3300 shows it in a browser. --backend
says over which world:

  sim   the twin, in real time or faster (default)
  kube  the managed Deployments of a cluster
  http  a collector, an optimizer and an actuator that run as services

or module:Name, a world of your own (docs/loop.md).
Each world has options of its own: inferno controller --backend kube --help

  inferno controller 60 false --backend sim --speed 20
  inferno controller 60 false --backend kube --mode advise
  curl http://localhost:3300/invoke
  curl -X POST -d '{"mode": "advise"}' http://localhost:3300/invoke
  curl -X POST http://localhost:3300/pause        ask for nothing until /resume
"""

WORLDS: Mapping[str, Worlds] = MappingProxyType({"sim": sim, "kube": kube, "http": http})


def _add_arguments(parser: Parser, arguments: Sequence[str]) -> None:
    parser.add_argument(
        "period",
        nargs="?",
        metavar="PERIOD",
        help="seconds between cycles ($INFERNO_CONTROL_PERIOD, else 60)",
    )
    parser.add_argument(
        "dynamic",
        nargs="?",
        metavar="DYNAMIC",
        help="true: read all files at each cycle ($INFERNO_CONTROL_DYNAMIC, else false)",
    )
    _add_backend(parser)
    parser.add_argument(
        "--mode",
        choices=("act", "export", "advise"),
        default="act",
        help="advise: decide, and change nothing; export: decide on replicas, and show them in the "
        "metric inferno_desired_replicas, for an autoscaler that scales by it (default act)",
    )
    add_data_option(parser)
    parser.add_argument("--host", help="address to listen on ($CONTROLLER_HOST, else localhost)")
    parser.add_argument("--port", help="port to listen on ($CONTROLLER_PORT, else 3300)")
    add_service_options(parser)
    parser.add_argument(
        "--records", type=Path, metavar="FILE", help="append each record to FILE, a JSON line each"
    )
    parser.add_argument(
        "--step-up",
        type=int,
        metavar="N",
        help="most replicas that a server gains in a cycle (default: no bound)",
    )
    parser.add_argument(
        "--step-down",
        type=int,
        metavar="N",
        help="most replicas that a server loses in a cycle (default: no bound)",
    )
    add_budget_option(parser)
    name = _backend(arguments)
    worlds = WORLDS.get(name) or _own_worlds(name, parser)
    worlds.add_options(parser)
    parser.set_defaults(worlds=worlds)


def _add_backend(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        choices=Extensible("world", tuple(WORLDS)),
        default="sim",
        help="which world (default sim)",
    )


def _own_worlds(name: str, parser: Parser) -> Worlds:
    """Return what somebody's own *name* means. Leave with exit code 2 if it means no world."""
    from twin.registry import resolve
    from twin.spec import SpecError

    try:
        found: Any = resolve(name, kind="world", known=WORLDS)
    except SpecError as problem:
        parser.error(str(problem))
    if not (hasattr(found, "add_options") and hasattr(found, "open_world")):
        parser.error(f"{name[:60]}: expected add_options and open_world (docs/loop.md), found none")
    return cast("Worlds", found() if isinstance(found, type) else found)


def _backend(arguments: Sequence[str]) -> str:
    """Return the world that *arguments* name: its options are known only then."""
    first = Parser(prog="inferno controller", add_help=False, allow_abbrev=False)
    _add_backend(first)
    backend, _others = first.parse_known_args(arguments)
    return str(backend.backend)


def _foreign(options: Namespace) -> Mapping[str, str]:
    """Return, by option of the other worlds, which ones those are."""
    owners: dict[str, list[str]] = {}
    for name, world in WORLDS.items():
        parser = Parser(add_help=False)
        world.add_options(parser)
        for option in parser.options():
            owners.setdefault(option, []).append(f"--backend {name}")
    return {
        option: f"belongs to {' and '.join(names)}, and this is --backend {options.backend}"
        for option, names in owners.items()
    }


def _run(options: Namespace) -> int:
    from inferno.web.live import History, Stream
    from loop.actors import WatchedBackend
    from loop.clocks import MonotonicClock
    from loop.controller import Controller
    from loop.drivers import LiveDriver, ThreadInbox
    from loop.services.auth import token_source
    from loop.services.controller_app import create_controller_app
    from loop.services.controller_metrics import ControllerMetrics

    settings = _settings(options)
    _check_period(settings.period_s, options.speed if options.backend == "sim" else 1.0)
    bounds = _bounds(options)
    with ExitStack() as stack:
        world = options.worlds.open_world(settings, options, stack)
        watched = WatchedBackend(world.backend)
        alone = Controller(
            backend=watched,
            policy=world.policy,
            data=world.data,
            clock=MonotonicClock(),
            settings=replace(bounds, epoch=world.epoch, speed=world.twin_speed),
            pause=world.pause,
            epoch=world.wall,
        )
        controller = _led(alone, world.lease) if world.lease else alone
        metrics = ControllerMetrics(speed=world.twin_speed)
        inbox, history = ThreadInbox(), History()
        sockets = listen_well(settings.controller_host, settings.controller_port)
        records = stack.enter_context(Records(options.records)) if options.records else None
        driver = LiveDriver(
            controller,
            period_s=settings.period_s,
            clock=world.clock,
            inbox=inbox,
            speed=world.speed,
            advance=world.advance,
            keep=records.add if records else None,
            on_record=partial(_report, metrics=metrics, history=history),
        )
        app = create_controller_app(
            driver,
            inbox,
            metrics=metrics,
            pause=world.pause,
            token=token_source(settings),
            threads=[world.lease] if world.lease else [],
            watched=watched,
        )
        title = f"controller over {options.backend}, {options.mode}"
        stream = Stream(history, title=title, closed=lambda: inbox.closed)
        app.add_api_route("/timeline", stream.response, include_in_schema=False)
        start_logs("controller", options, settings)
        serve_app(
            app,
            sockets,
            settings=settings,
            host=settings.controller_host,
            verb="invoke",
            notes=world.notes,
            about=_about(options, settings.period_s, speed=world.speed),
            page="controller.html",
        )
    return EXIT_OK


def _settings(options: Namespace) -> Settings:
    """Return the settings: what *options* say, else the environment."""
    from loop.settings import read_settings

    return read_settings(
        arguments={
            "period_s": options.period,
            "dynamic": options.dynamic,
            "controller_host": options.host,
            "controller_port": options.port,
            **service_arguments(options),
            "data_path": options.data,
            **cluster_arguments(options),
        }
    )


def _about(options: Namespace, period_s: float, *, speed: float) -> dict[str, object]:
    """Return what the first line of the log tells; a period of 0 has no first cycle of its own."""
    first = {"firstCycleInS": round(period_s / speed, 1)} if period_s else {}
    return {"backend": options.backend, "mode": options.mode, "periodS": period_s, **first}


def _led(alone: Controller, lease: Lease) -> Cycles:
    """Return the controller that acts only while it holds *lease*."""
    from loop.backends.kube.lease import LedController

    return LedController(alone, lease)


def _bounds(options: Namespace) -> ControllerSettings:
    """Return the settings with what may change in a cycle, and what everything may cost."""
    from experiments.config import check_budget
    from loop.actuator import Limits
    from loop.controller import ControllerSettings
    from loop.errors import SpecError

    for name, step in (("step-up", options.step_up), ("step-down", options.step_down)):
        if step is not None and step < 1:
            raise SpecError(f"{name}: expected a whole number >= 1, found {step}")
    check_budget(options.budget_usd_per_h)
    return ControllerSettings(
        mode=options.mode,
        limits=Limits(step_up_max=options.step_up, step_down_max=options.step_down),
        budget_usd_per_h=options.budget_usd_per_h,
    )


def _check_period(period_s: float, speed: float) -> None:
    """Raise SpecError for a period so short that the loop would ask its world without a pause."""
    from loop.errors import SpecError

    shortest_s = PERIOD_MIN_S if not speed > 1 else PERIOD_MIN_S / 1000 * speed
    if 0 < period_s < shortest_s:
        raise SpecError(
            f"PERIOD: expected a number of seconds >= {shortest_s:g}, or 0 for cycles on "
            f"/invoke only, found {period_s:g}"
        )


def _report(record: CycleRecord, *, metrics: ControllerMetrics, history: History) -> None:
    """Count the cycle, keep it for the live page, and log what it did."""
    from loop.records import record_line
    from loop.services.logs import log_cycle

    metrics.observe(record)
    history.add(record_line(record))
    log_cycle(record, concern=metrics.concern.line)


class Records:
    """The file to which one controller adds its records, a line each: whole lines, whatever the
    disk does. Others may read it meanwhile.
    """

    def __init__(self, path: Path) -> None:
        from loop.errors import SpecError

        try:
            # Without a buffer: what could not be written would be tried again at the end.
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise SpecError(
                f"{path}: expected a file that can be written, found {error.strerror}"
            ) from None
        if not self._is_ours():
            self._file.close()
            raise SpecError(
                f"{path}: expected a file that no other process writes, found one that a "
                "controller adds its records to: give each --records of its own"
            )

    def _is_ours(self) -> bool:
        """Lock the file; tell whether no other controller has. The lock goes with its process,
        however that ends.
        """
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            return True  # several may well write to a terminal, a pipe or /dev/null
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # some file systems of networks have no locks
        return True

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._file.close()

    def add(self, record: CycleRecord) -> None:
        """Add *record*. Raise OSError, and leave the file as it was, if that cannot be."""
        from loop.records import record_text

        line = f"{record_text(record)}\n".encode()
        end = self._file.seek(0, os.SEEK_END)
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(end)
            error.filename = self._file.name  # the warning is to say which disk
            raise


COMMAND = Command(
    name="controller",
    summary="the control loop, live; serves /invoke",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
    foreign=_foreign,
)
