"""What a cluster tells of its servers, model, GPUs, batch size, replicas and start-up, and what it
does not tell. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from experiments.datasheet_files import BATCH_MAX, TOKEN_BUDGET, scheduling_of
from loop.backends.kube.arguments import (
    BATCH_ARGUMENTS,
    TENSOR_PARALLEL,
    command_words,
    text_of,
    value_of,
)
from loop.backends.kube.gpus import GPU_RESOURCES
from loop.backends.kube.labels import MANAGED
from loop.backends.kube.nodes import Node, read_node
from loop.backends.kube.read import Server, each_read
from loop.backends.kube.scheduling import obstacle
from loop.backends.kube.views import start_up_s
from loop.types import Load
from twin.spec import Scheduling, SpecError

Json = Mapping[str, Any]

# How vLLM and SGLang are told how many tokens an iteration may compute.
BUDGET_ARGUMENTS = ("--max-num-batched-tokens", "--chunked-prefill-size")
SERVED_ARGUMENT = "--served-model-name"
MODEL_ARGUMENTS = ("--model", "--model-path", "--model-id")
# What a line of Facts.unknown is of. A data directory that is begun with tells some of these.
GPUS, BATCH, BUDGET = "how many GPUs a replica has", "the batch size", "the tokens of an iteration"
RUNS_ON, START_UP, VERSION = (
    "what it runs on",
    "how long a pod takes to start",
    "the version of its engine",
)
_UNITS = re.compile(r"(\d+)x(.+)", re.IGNORECASE)
_VLLM_IMAGE = re.compile(r"vllm[^:@]*:v?(\d+\.\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One server as the cluster tells of it. accelerator is the name of what a replica runs on:
    *gpus* GPUs of *type*. load is that of its labels. None: not told.
    """

    name: str
    place: str
    service_class: str
    model: str
    accelerator: str
    type: str
    gpus: int
    replicas: int
    max_batch: int
    token_budget: int
    start_up_s: float | None
    kv_tokens: int | None
    scheduling: Scheduling | None
    replicas_min: int
    replicas_max: int | None
    load: Load | None = None
    unknown: tuple[str, ...] = ()


def selected(deployments: Iterable[Json], selector: str) -> list[Json]:
    """Return those of *deployments* whose labels *selector* (key=value, or key, with commas)
    names, as if they were managed. Raise SpecError if it is none.
    """
    wanted = {}
    for part in selector.split(","):
        key, equals, value = part.strip().partition("=")
        if not key:
            raise SpecError(f"select: expected key=value, found {selector[:60]!r}")
        wanted[key] = value if equals else None
    found: list[Json] = []
    for obj in deployments:
        meta = obj.get("metadata") or {}
        labels = meta.get("labels") or {}
        if all(key in labels and value in (None, labels[key]) for key, value in wanted.items()):
            found.append({**obj, "metadata": {**meta, "labels": {**labels, MANAGED: "true"}}})
    return found


def read_nodes(nodes: Iterable[Json], *, types: Collection[str], told: list[str]) -> list[Node]:
    """Return the GPUs of *nodes*; a line is added to *told* for a node that cannot be read."""

    def read_one(obj: Json) -> list[Node]:
        return read_node(obj, types=types)

    return [node for found in each_read(nodes, read_one, kind="node", told=told) for node in found]


def places_of(pod_spec: Json, nodes: Iterable[Json]) -> frozenset[str]:
    """Return the names of the *nodes* that pods of *pod_spec* may be put on; those that cannot be
    read are none of them, and `read_nodes` tells of them.
    """

    def read_one(obj: Json) -> str:
        name: str = obj["metadata"]["name"]
        return "" if obstacle(pod_spec, obj, tolerated=GPU_RESOURCES) else name

    return frozenset(filter(None, each_read(nodes, read_one, kind="node", told=[])))


def facts_of(
    server: Server,
    *,
    nodes: Sequence[Node],
    places: Collection[str] = (),
    models_told: Collection[str] = (),
    kv_tokens: int | None = None,
    vllm: str | None = None,
    speed: float = 1.0,
) -> Facts:
    """Return what is known of *server*. *places* are the nodes that its pods may be put on;
    models_told are what its engines call their models, kv_tokens what they say that their KV caches
    hold; *vllm*: its version, if the user says it. Dates of pods are those of a clock in whose
    second *speed* seconds of the cluster pass.
    """
    one = server.deployment
    containers = one.pod_spec.get("containers") or ()
    unknown: list[str] = []
    model = (
        one.model
        or _model(containers)
        or (next(iter(models_told)) if len(models_told) == 1 else "")
    )
    if not model:
        several = f" (its engines serve {', '.join(sorted(models_told))})" if models_told else ""
        unknown.append(f"which model it serves{several}: give it a label inferno.server.model")
    kind, gpus = _hardware(server, nodes, places, unknown)
    max_batch = one.max_batch or _first(containers, BATCH_ARGUMENTS)
    if not max_batch:
        unknown.append(f"{BATCH}: no label and no argument says it, {BATCH_MAX} is assumed")
    budget = _first(containers, BUDGET_ARGUMENTS)
    if not budget:
        unknown.append(f"{BUDGET}: no argument says them, {TOKEN_BUDGET} is assumed")
    took_s = started_in_s(server, speed=speed)
    if took_s is None:
        unknown.append(f"{START_UP}: none of its pods tells it")
    version = vllm or _version(containers)
    if version is None:
        unknown.append(f"{VERSION}, so how it plans its iterations")
    return Facts(
        name=server.name,
        place=one.place,
        service_class=one.service_class,
        model=model,
        accelerator=one.accelerator or (kind if gpus == 1 or not kind else f"{gpus}x{kind}"),
        type=kind,
        gpus=gpus,
        replicas=one.wanted,
        max_batch=max_batch or BATCH_MAX,
        token_budget=budget or TOKEN_BUDGET,
        start_up_s=took_s,
        kv_tokens=kv_tokens,
        scheduling=None if version is None else scheduling_of(version),
        replicas_min=one.bounds.replicas_min or 0,
        replicas_max=one.bounds.replicas_max,
        load=one.load,
        unknown=tuple(unknown),
    )


def started_in_s(server: Server, *, speed: float) -> float | None:
    """Return how long the pods of *server* took to start, in seconds of a cluster of that *speed*;
    None: none of them tells it.
    """
    took_s = start_up_s(server.pods)
    return None if took_s is None else took_s * speed


def _model(containers: Sequence[Json]) -> str:
    """Return the model that command lines of *containers* name, as clients do if they tell that; ""
    if none does.
    """
    return text_of(containers, SERVED_ARGUMENT) or loaded_model(containers)


def loaded_model(containers: Sequence[Json]) -> str:
    """Return the model that command lines of *containers* load, "" if none says it."""
    for argument in MODEL_ARGUMENTS:
        if found := text_of(containers, argument):
            return found
    for container in containers:
        words = command_words(container)
        for word, following in pairwise(words):
            if word == "serve" and not following.startswith("-"):
                return following
    return ""


def _hardware(
    server: Server, nodes: Sequence[Node], places: Collection[str], unknown: list[str]
) -> tuple[str, int]:
    """Return the type of the GPUs of a replica, and their number."""
    one = server.deployment
    limit = one.gpus
    resource = limit.resource if limit is not None else ""
    by_node = {node.name: node.type for node in nodes if resource in ("", node.resource)}
    kinds = sorted({by_node[pod.node] for pod in server.pods if pod.node in by_node})
    units = _UNITS.fullmatch(one.accelerator)
    named = units[2] if units else one.accelerator
    if named and (len(kinds) != 1 or named in {node.type for node in nodes}):
        kind = named
    else:
        kind = kinds[0] if len(kinds) == 1 else ""
    if not kind:
        where = f"on {', '.join(kinds)}" if kinds else "none of its pods runs on a node with GPUs"
        # One that is scaled to zero, or waits for GPUs, says where it would run.
        may = set() if kinds else {by_node[name] for name in places if name in by_node}
        if len(may) == 1:
            (kind,) = may
            where += f", {kind} is assumed: its pods may be put on no others"
        unknown.append(f"{RUNS_ON}: {where}")
    parallel = _first(one.pod_spec.get("containers") or (), TENSOR_PARALLEL)
    gpus = limit.count if limit is not None else int(units[1]) if units else parallel
    if not gpus:
        unknown.append(f"{GPUS}: its pods ask for none, 1 is assumed")
    return kind, gpus or 1


def _first(containers: Sequence[Json], arguments: Sequence[str]) -> int:
    found = (value_of(containers, argument) for argument in arguments)
    return next((value for value in found if value), 0)


def _version(containers: Sequence[Json]) -> str | None:
    for container in containers:
        if found := _VLLM_IMAGE.search(str(container.get("image") or "")):
            return found[1]
    return None
