"""`inferno emulator`: disturbs the load of managed Deployments."""

from __future__ import annotations

import signal
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from inferno.cli.command import EXIT_FAILURE, EXIT_OK, Command
from inferno.cli.service import add_log_option, start_logs
from inferno.worlds.kube import wait_for_cluster
from inferno.worlds.kube_options import add_cluster_options

if TYPE_CHECKING:
    from emulator.to_cluster import Disturbance

TEXT = """\
Every INTERVAL seconds move the load labels of all managed Deployments at
random: by a normal step with mean 0 and standard deviation ALPHA · original
value. The originals are kept in labels, and --restore puts them back.

  inferno emulator 60 0.5
  inferno emulator --restore
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument(
        "interval", nargs="?", help="seconds between disturbances ($INFERNO_LOAD_INTERVAL, else 60)"
    )
    parser.add_argument(
        "alpha", nargs="?", help="disturbance, 0 to 1 ($INFERNO_LOAD_ALPHA, else 0.5)"
    )
    parser.add_argument(
        "--walk",
        choices=("plain", "reverting"),
        default="plain",
        help="how it moves (default plain)",
    )
    parser.add_argument(
        "--theta", type=float, default=0.2, help="pull of the reverting walk (default 0.2)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="everything random follows from it (default 1)"
    )
    add_cluster_options(parser)
    add_log_option(parser)
    parser.add_argument(
        "--restore", action="store_true", help="put the original loads back, and end"
    )


def _run(options: Namespace) -> int:
    from emulator.to_cluster import ClusterEmulator
    from emulator.walk import Walk
    from inferno.worlds.emulated import EmulatedDeployments
    from loop.backends.kube.client import KubeClient, connect
    from loop.clocks import MonotonicClock
    from loop.errors import SpecError
    from loop.settings import read_settings

    settings = read_settings(
        arguments={
            "load_interval_s": options.interval,
            "load_alpha": options.alpha,
            "namespaces": options.namespace,
            "kubeconfig": options.kubeconfig,
            "log_format": options.log_format,
        }
    )
    if options.seed < 0:
        raise SpecError(f"seed: expected a whole number >= 0, found {options.seed}")
    walk = Walk(kind=options.walk, alpha=settings.load_alpha, theta=options.theta)
    wait_for_cluster(settings.kubeconfig, wait_s=options.wait, command="emulator")
    start_logs("emulator", options, settings)
    stopped, clock = threading.Event(), MonotonicClock()
    client = KubeClient(partial(connect, settings.kubeconfig), clock=clock)
    emulator = ClusterEmulator(
        EmulatedDeployments(client),
        walk=walk,
        seed=options.seed,
        namespaces=settings.namespaces,
        stopped=stopped,
    )
    if options.restore:
        done = emulator.restore()
        _report(done)
        return EXIT_FAILURE if done.problems else EXIT_OK

    def stop(*_: object) -> None:
        # Closing ends a pause before another attempt, too.
        stopped.set()
        client.close()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    emulator.run(interval_s=settings.load_interval_s, now_s=clock.now_s, report=_report)
    return EXIT_OK


def _report(done: Disturbance) -> None:
    import logging

    from loop.services.logs import log

    for name, point in done.written.items():
        load = (
            f"{point.rate_rpm:.0f} rpm, {point.in_tokens:.0f} tokens in, {point.out_tokens:.0f} out"
        )
        log("load", f"{name}: {load}", {"server": name})
    for line in done.problems:
        log("load-failed", line, level=logging.WARNING)


COMMAND = Command(
    name="emulator",
    summary="disturb the load of managed Deployments",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
