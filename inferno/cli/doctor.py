"""`inferno doctor`: what is right and wrong with a cluster for the loop, one line each."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from inferno.cli.command import EXIT_FAILURE, EXIT_OK, Command
from inferno.cli.runs import add_data_option
from inferno.worlds.kube import Choices, make_source, wait_for_cluster
from inferno.worlds.kube_options import (
    add_acting_options,
    add_cluster_options,
    add_metrics_options,
    cluster_arguments,
    metrics_choices,
)

if TYPE_CHECKING:
    from loop.backends.kube.checkup import Finding, Permission

TEXT = """\
Look at a cluster as the control loop would, and say what is right (ok), what
the loop does without (note), and what has to be mended (wrong): the API server
and its permissions, the Deployments and their labels, their models, classes and
accelerators in the data, their metrics, and the GPUs. Take the options that the
controller is to have. It changes nothing; the exit code is 1 if anything is
wrong.

  inferno doctor --kubeconfig out/twin.kubeconfig
  inferno doctor --metrics prometheus --prometheus http://localhost:9090
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    add_data_option(parser)
    add_cluster_options(parser)
    add_metrics_options(parser)
    add_acting_options(parser)
    parser.add_argument(
        "--capacity",
        choices=("data", "nodes"),
        default="data",
        help="how many GPUs there are: as the data files say (default), or the nodes",
    )


def _run(options: Namespace) -> int:
    from inferno.worlds.world import data_directory
    from loop.backends.kube.checkup import Question, examine
    from loop.backends.kube.client import KubeClient, connect
    from loop.clocks import MonotonicClock, date_now
    from loop.schema.reading import read_system
    from loop.settings import read_settings

    settings = read_settings(arguments={"data_path": options.data, **cluster_arguments(options)})
    directory, notes = data_directory(settings), list[str]()
    data = read_system(directory, warn=notes.append)
    choices = Choices(**metrics_choices(options))
    wait_for_cluster(settings.kubeconfig, wait_s=options.wait, command="doctor")
    with ExitStack() as stack:
        client = KubeClient(partial(connect, settings.kubeconfig), clock=MonotonicClock())
        stack.callback(client.close)
        source = make_source(settings, choices, client, stack=stack)
        stack.callback(source.close)
        question = Question(
            data=data,
            namespaces=settings.namespaces,
            permissions=_permissions(options, pods=source.name == "pods"),
            pause_config_map=settings.pause_config_map,
            from_nodes=options.capacity == "nodes",
            labels_stand_in=choices.labels_stand_in,
            types={name: unit.type for name, unit in data.accelerators.items()},
        )
        found = examine(client, source, question, epoch_s=date_now().timestamp())
        return report(found, notes, quiet=options.quiet)


def report(findings: Iterable[Finding], notes: Sequence[str], *, quiet: bool) -> int:
    """Print *findings* as they come, those that are ok only unless *quiet*, and *notes* on the
    data; return the exit code.
    """
    counts = {"ok": 0, "note": 0, "wrong": 0}
    for finding in findings:
        counts[finding.level] += 1
        if not (quiet and finding.level == "ok"):
            print(finding.line, flush=True)
    for note in notes:
        counts["note"] += 1
        print(f"note   data: {note}")
    print(", ".join(f"{count} {level}" for level, count in counts.items()))
    return EXIT_FAILURE if counts["wrong"] else EXIT_OK


def _permissions(options: Namespace, *, pods: bool) -> tuple[Permission, ...]:
    """Return what the options need besides what every loop does."""
    asked: list[Permission] = []
    if options.capacity == "nodes":
        asked.append(("list", "", "nodes"))
    if options.events:
        asked.append(("create", "", "events"))
    if options.deletion_cost:
        asked.append(("patch", "", "pods"))
    if pods and options.pages == "proxy":
        asked.append(("get", "", "pods/proxy"))
    if options.lease:
        asked += [(verb, "coordination.k8s.io", "leases") for verb in ("get", "create", "update")]
    return tuple(asked)


COMMAND = Command(
    name="doctor",
    summary="what is right and wrong with a cluster for the loop",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
