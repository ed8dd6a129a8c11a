"""`inferno adopt`: labels for a Deployment that the loop is to manage."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from inferno.cli.command import EXIT_OK, Command
from inferno.cli.runs import add_data_option, print_notes
from inferno.worlds.kube import wait_for_cluster
from inferno.worlds.kube_options import add_kubeconfig_option, add_wait_option

if TYPE_CHECKING:
    from loop.backends.kube.adoption import Adoption
    from loop.backends.kube.client import KubeClient

ATTEMPTS = 5  # of a write: the status of a new Deployment changes all the time
BY_ITS_CONTROLLER = "deployment.kubernetes.io/"
KINDS = ("deployment", "deployments", "deploy", "deployment.apps")

TEXT = """\
Show the labels by which the control loop manages a Deployment, and write them.
The accelerator is read from the nodes of its pods and the GPUs that they ask
for, the batch size from the arguments of its engine. From then on a controller
that acts scales it: look with --dry-run first.

  inferno adopt deployment/chat --model llama_13b --class Premium --dry-run
  inferno adopt deployment/chat --model llama_13b --class Premium -n infer
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument("deployment", metavar="deployment/NAME", help="which one")
    parser.add_argument("--model", required=True, help="its model, as the data files call it")
    parser.add_argument(
        "--class", dest="service_class", required=True, metavar="NAME", help="its service class"
    )
    parser.add_argument(
        "--accelerator",
        default="",
        metavar="NAME",
        help="what its pods run on (default: as their nodes and their GPUs say)",
    )
    parser.add_argument(
        "-n", "--namespace", default="default", metavar="NAME", help="where it is (default default)"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the labels, and write nothing")
    add_data_option(parser)
    add_kubeconfig_option(parser)
    add_wait_option(parser)


def _run(options: Namespace) -> int:
    from inferno.worlds.world import data_directory
    from loop.backends.kube.client import KubeClient, connect
    from loop.clocks import MonotonicClock
    from loop.schema.reading import read_system
    from loop.settings import read_settings

    name = _name(options.deployment)
    settings = read_settings(
        arguments={"data_path": options.data, "kubeconfig": options.kubeconfig}
    )
    notes: list[str] = []
    data = read_system(data_directory(settings), warn=notes.append)
    print_notes(notes, quiet=options.quiet)
    wait_for_cluster(settings.kubeconfig, wait_s=options.wait, command="adopt")
    with ExitStack() as stack:
        client = KubeClient(partial(connect, settings.kubeconfig), clock=MonotonicClock())
        stack.callback(client.close)
        _adopt(client, options, name=name, data=data)
    return EXIT_OK


def _adopt(client: KubeClient, options: Namespace, *, name: str, data: Any) -> None:
    from loop.backends.kube.adoption import adoption
    from loop.backends.kube.client import ApiError
    from loop.backends.kube.read import read_deployment, read_pod
    from loop.errors import SpecError

    space = options.namespace
    obj = client.deployment(space, name)
    one = read_deployment(obj)
    pods, nodes = [], []
    if not options.accelerator:
        try:
            read = [read_pod(pod, epoch_s=0.0) for pod in client.pods(space)]
            pods, nodes = [pod for pod in read if pod is not None], client.nodes()
        except ApiError as error:
            raise SpecError(
                f"{one.place}: expected --accelerator, since the cluster does not show where its "
                f"pods run: {error}"
            ) from error
    found = adoption(
        one,
        data,
        model=options.model,
        service_class=options.service_class,
        accelerator=options.accelerator,
        pods=pods,
        nodes=nodes,
    )
    _show(found, obj)
    if options.dry_run:
        print(f"{one.place}: nothing was written (--dry-run)")
        return
    metadata = {"labels": dict(found.labels), "annotations": dict(found.annotations)}
    if all(told.items() <= (obj["metadata"].get(k) or {}).items() for k, told in metadata.items()):
        print(f"{one.place}: labelled already; nothing was written")
        return
    _write(client, obj, metadata)
    print(f"{one.place}: labelled; the loop manages it")


def _write(client: KubeClient, obj: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write labels and annotations to the Deployment *obj*. Whoever changes it between the look and
    the write is told of, and nothing is written over; that its status moves is no change of it.
    """
    from loop.backends.kube.client import CONFLICT, ApiError
    from loop.backends.kube.patches import MANAGER

    for attempt in range(ATTEMPTS):
        place = {key: obj["metadata"][key] for key in ("uid", "resourceVersion")}
        space, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
        try:
            body = {"metadata": {**metadata, **place}}
            client.patch_deployment(space, name, body, manager=MANAGER)
            return
        except ApiError as error:
            now = client.deployment(space, name) if error.status == CONFLICT else obj
            if now is obj or _said(now) != _said(obj) or attempt == ATTEMPTS - 1:
                raise
            obj = now


def _said(obj: Mapping[str, Any]) -> tuple[object, ...]:
    meta = obj["metadata"]
    # What its controller notes there is no change of it either.
    notes = {
        key: value
        for key, value in (meta.get("annotations") or {}).items()
        if not key.startswith(BY_ITS_CONTROLLER)
    }
    return meta["uid"], meta.get("generation"), meta.get("labels"), notes


def _show(found: Adoption, obj: Mapping[str, Any]) -> None:
    for kind, told in (("label", found.labels), ("annotation", found.annotations)):
        before = obj["metadata"].get(f"{kind}s") or {}
        for key, value in told.items():
            was = before.get(key)
            change = (
                ""
                if was == value
                else f"  (was {was or 'empty'})"
                if was is not None
                else "  (new)"
            )
            print(f"{kind} {key}: {value}{change}")
    for note in found.notes:
        print(f"note: {note}")


def _name(text: str) -> str:
    """Return the name in deployment/NAME. Raise SpecError if it is something else."""
    from loop.errors import SpecError

    kind, slash, name = text.partition("/")
    if not (slash and name and kind in KINDS):
        raise SpecError(f"expected deployment/NAME, found {text[:60]!r}")
    return name


COMMAND = Command(
    name="adopt",
    summary="labels for a Deployment that the loop is to manage",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
