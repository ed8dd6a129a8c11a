"""The commands for a cluster without one: twin serve stands in for it, emulator moves the load of
either.
"""

from __future__ import annotations

import argparse
import logging
import math
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from emulator.to_cluster import ClusterEmulator, Disturbance, connect
from emulator.walk import Walk
from experiments.config import RunConfig
from experiments.world import build_cluster_spec
from loop.backends.http_client import service_url
from loop.clocks import MonotonicClock, date_now
from loop.schema.reading import read_system
from loop.services.logs import log, set_up_logs
from loop.services.serving import listen, serve
from loop.settings import read_settings
from twin.kube.apiserver.app import create_twin_app
from twin.kube.cluster import TOKEN, start_twin
from twin.kube.files import read_token_file, write_kubeconfig
from twin.spec import SpecError

EXIT_OK, EXIT_FAILURE = 0, 1

AddCommand = Callable[..., argparse.ArgumentParser]


def add_commands(add: AddCommand) -> None:
    """Add these commands; *add*(name, run, summary, text) makes a parser for one."""
    _add_twin(add)
    _add_emulator(add)


def _add_twin(add: AddCommand) -> None:
    parser = add(
        "twin",
        _twin,
        "the twin as a cluster: twin serve",
        """\
Run the twin in real time (or faster) behind a Kubernetes API of its own, for kubectl, Prometheus and any controller.

  inferno twin serve --manifests yamls/workload --speed 10 --kubeconfig out/twin.kubeconfig
  KUBECONFIG=out/twin.kubeconfig kubectl get deployments -n infer
  KUBECONFIG=out/twin.kubeconfig inferno controller 60 false --backend kube
""",
    )
    parser.add_argument("action", choices=("serve",), help="what to do")
    parser.add_argument(
        "--data", help="data directory ($INFERNO_DATA_PATH, else sample-data/large)"
    )
    parser.add_argument(
        "--manifests", type=Path, metavar="DIR", help="create what its YAML files describe"
    )
    parser.add_argument(
        "--faults", type=Path, metavar="FILE", help="faults to suffer from (see docs/twin-api.md)"
    )
    parser.add_argument(
        "--tokens",
        type=Path,
        metavar="FILE",
        help="who may do what, by token (see docs/twin-api.md)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=8001, help="port to listen on (default 8001)")
    parser.add_argument(
        "--speed", type=float, default=1.0, help="simulated seconds per second (default 1)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="everything random follows from it (default 1)"
    )
    parser.add_argument(
        "--kubeconfig",
        type=Path,
        default=Path("out/twin.kubeconfig"),
        help="where to write it (out/twin.kubeconfig)",
    )


def _twin(options: argparse.Namespace) -> int:
    if not (math.isfinite(options.speed) and options.speed > 0):
        raise SpecError(f"speed: expected a number > 0, found {options.speed}")
    directory = read_settings(arguments={"data_path": options.data}).data_path or RunConfig().data
    spec, _notes = build_cluster_spec(read_system(directory), directory)
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(closing(each)) for each in listen(options.host, options.port)
        ]
        url = service_url(options.host, sockets[0].getsockname()[1])
        cluster = start_twin(
            spec,
            clock=MonotonicClock(speed=options.speed).now_s,
            start=date_now(),
            address=url.removeprefix("http://"),
            speed=options.speed,
            seed=options.seed,
            manifests=options.manifests,
            faults=options.faults,
            tokens=options.tokens,
        )
        # With a file only its tokens count: the kubeconfig has the first of them.
        token = next(iter(read_token_file(options.tokens)), TOKEN) if options.tokens else TOKEN
        write_kubeconfig(options.kubeconfig, url, token=token)
        print(
            f"inferno twin: {url}; export KUBECONFIG={options.kubeconfig}",
            file=sys.stderr,
            flush=True,
        )
        serve(
            create_twin_app(cluster.server, cluster, cluster.faults), sockets, on_stop=cluster.stop
        )
    return EXIT_OK


def _add_emulator(add: AddCommand) -> None:
    parser = add(
        "emulator",
        _emulator,
        "disturb the load of managed Deployments",
        """\
Every INTERVAL seconds move the load labels of all managed Deployments at random: by a normal step with mean 0 and
standard deviation ALPHA · original value. The originals are kept in labels, and --restore puts them back.

  inferno emulator 60 0.5
  inferno emulator --restore
""",
    )
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
    parser.add_argument(
        "--namespace", help="these only, separated by commas ($WATCH_NAMESPACE, else all)"
    )
    parser.add_argument(
        "--kubeconfig", help="which cluster ($KUBECONFIG, else the pod's own or the default)"
    )
    parser.add_argument(
        "--restore", action="store_true", help="put the original loads back, and end"
    )


def _emulator(options: argparse.Namespace) -> int:
    told = read_settings(
        arguments={
            "load_interval_s": options.interval,
            "load_alpha": options.alpha,
            "namespaces": options.namespace,
            "kubeconfig": options.kubeconfig,
        }
    )
    if options.seed < 0:
        raise SpecError(f"seed: expected a whole number >= 0, found {options.seed}")
    set_up_logs("emulator")
    stopped = threading.Event()
    emulator = ClusterEmulator(
        connect(told.kubeconfig),
        walk=Walk(kind=options.walk, alpha=told.load_alpha, theta=options.theta),
        seed=options.seed,
        namespaces=told.namespaces,
        stopped=stopped,
    )
    if options.restore:
        done = emulator.restore()
        _report(done)
        return EXIT_FAILURE if done.problems else EXIT_OK
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    emulator.run(interval_s=told.load_interval_s, now_s=MonotonicClock().now_s, report=_report)
    return EXIT_OK


def _report(done: Disturbance) -> None:
    for name, point in done.written.items():
        load = (
            f"{point.rate_rpm:.0f} rpm, {point.in_tokens:.0f} tokens in, {point.out_tokens:.0f} out"
        )
        log(f"{name}: {load}", {"server": name})
    for line in done.problems:
        log(f"problem: {line}", level=logging.WARNING)
