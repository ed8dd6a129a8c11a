"""`inferno twin serve`: the twin as a cluster, behind a Kubernetes API of its own."""

from __future__ import annotations

import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event

from inferno.cli.command import EXIT_OK, Command
from inferno.cli.runs import add_data_option
from inferno.cli.service import (
    add_service_options,
    door_of,
    listen_well,
    service_arguments,
    start_logs,
)

TEXT = """\
Run the twin in real time (or faster) behind a Kubernetes API of its own, for
kubectl, Prometheus and any controller; http://127.0.0.1:8001 shows it in a
browser.

  inferno twin serve --manifests yamls/workload --speed 10
  export KUBECONFIG=out/twin.kubeconfig
  kubectl get deployments -n infer
  inferno controller 10 false --backend kube --speed 10
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument("action", choices=("serve",), help="what to do")
    add_data_option(parser)
    parser.add_argument(
        "--manifests", type=Path, metavar="DIR", help="create what its YAML files describe"
    )
    parser.add_argument(
        "--faults", type=Path, metavar="FILE", help="faults to suffer from (docs/twin-api.md)"
    )
    parser.add_argument(
        "--tokens", type=Path, metavar="FILE", help="who may do what, by token (docs/twin-api.md)"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=8001, help="port to listen on (default 8001)")
    add_service_options(parser)
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
        metavar="FILE",
        help="where to write it (default out/twin.kubeconfig)",
    )


def _run(options: Namespace) -> int:
    from experiments.config import shipped
    from experiments.world import build_cluster_spec
    from inferno.web.live import History, Stream, WithPage
    from inferno.web.twin_page import SeenTwin, WithTimeline
    from inferno.worlds.world import check_speed, data_directory
    from loop.backends.kube.arguments import batch_size
    from loop.clocks import MonotonicClock, date_now
    from loop.schema.reading import read_system
    from loop.services.logs import log
    from loop.services.serving import serve
    from loop.settings import read_settings, service_url
    from twin.kube.apiserver.app import create_app
    from twin.kube.cluster import CONTROL_PATH, TOKEN, start_twin
    from twin.kube.files import read_token_file, write_kubeconfig
    from twin.spec import SpecError

    check_speed(options.speed)
    if options.seed < 0:
        raise SpecError(f"seed: expected a whole number >= 0, found {options.seed}")
    settings = read_settings(arguments={"data_path": options.data, **service_arguments(options)})
    directory = data_directory(settings)
    notes: list[str] = []
    data = read_system(directory, warn=notes.append)
    spec, world_notes = build_cluster_spec(data, directory)
    # With a file only its tokens count: the kubeconfig has the first of them.
    token = next(iter(read_token_file(options.tokens)), TOKEN) if options.tokens else TOKEN
    cluster = start_twin(
        spec,
        clock=MonotonicClock(speed=options.speed).now_s,
        start=date_now(),
        batch_of=batch_size,  # the world and the loop read command lines alike
        address=f"{options.host}:{options.port}",
        speed=options.speed,
        seed=options.seed,
        manifests=None if options.manifests is None else shipped(options.manifests),
        faults=options.faults,
        tokens=options.tokens,
    )
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(closing(each)) for each in listen_well(options.host, options.port)
        ]
        url = service_url(options.host, sockets[0].getsockname()[1])
        cluster.address = url.removeprefix("http://")
        write_kubeconfig(options.kubeconfig, url, token=token)
        start_logs("twin", options, settings)
        log("listening", f"export KUBECONFIG={options.kubeconfig}", fields={"url": url})
        for note in dict.fromkeys([*notes, *world_notes]):
            log("note", f"note: {note}", level=logging.WARNING)
        history, stopped = History(), Event()
        seen = SeenTwin(cluster, history, data=data, speed=options.speed)
        stream = Stream(history, title="the twin", closed=stopped.is_set)
        app = create_app(cluster.server, seen, cluster.faults, control=CONTROL_PATH)

        def stop() -> None:
            stopped.set()
            cluster.stop()

        serve(
            WithPage(WithTimeline(app, cluster, stream), "twin.html"),
            sockets,
            on_stop=stop,
            door=door_of(settings, options.host),
        )
    return EXIT_OK


COMMAND = Command(
    name="twin",
    summary="the twin as a cluster: twin serve",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
