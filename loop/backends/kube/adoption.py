"""What makes a Deployment one that the loop manages: its labels, read from its pods and their nodes
as far as they tell; pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from loop.backends.kube import labels as names
from loop.backends.kube.arguments import BATCH_ARGUMENTS, batch_of
from loop.backends.kube.checkup import data_finding
from loop.backends.kube.nodes import read_node
from loop.backends.kube.patches import gpu_text
from loop.backends.kube.read import Deployment, Pod, assign
from loop.errors import SpecError
from loop.signals.models import matched_model
from loop.spec import gpus_per_replica

if TYPE_CHECKING:
    from loop.spec import SystemData

Json = Mapping[str, Any]

# How vLLM, SGLang and TGI are told the most requests that run at a time.


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """Labels and annotations to write, and what to say of them."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    notes: tuple[str, ...] = ()


def adoption(
    one: Deployment,
    data: SystemData,
    *,
    model: str,
    service_class: str,
    accelerator: str,
    pods: Iterable[Pod],
    nodes: Iterable[Json],
) -> Adoption:
    """Return what is to be written to *one*. *accelerator* "": the one of the nodes on which *pods*
    run, of as many GPUs as they ask for. Raise SpecError for what the data do not know, or if that
    accelerator cannot be told.
    """
    known = matched_model((model,), {name for name, _ in data.perf}) or model
    one = replace(
        one, model=known, service_class=service_class, accelerator=accelerator, problem=""
    )
    _refuse_unknown(one, data)
    mine, _ = assign([one], pods)
    found = accelerator or _accelerator(
        one, data, pods=mine.get((one.namespace, one.name), []), nodes=nodes
    )
    notes = _refuse_unknown(replace(one, accelerator=found), data)
    labels = {names.MANAGED: "true", names.CLASS: service_class, names.ACCELERATOR: found}
    annotations = {}
    if names.value_problem(model):
        annotations[names.MODEL_ID] = model
    else:
        labels[names.MODEL] = model
    for key, value in labels.items():
        if problem := names.value_problem(value):
            raise SpecError(f"{one.place}: label {key}: {problem}")
    containers = one.pod_spec.get("containers") or ()
    batch = batch_of(containers)
    if batch is not None:
        labels[names.MAX_BATCH] = str(batch[1])
        notes.append(
            f"annotation {names.APPLY_MAX_BATCH}: {batch[0]} lets the loop change that argument"
        )
    elif not one.max_batch:
        notes.append(
            f"none of {', '.join(BATCH_ARGUMENTS)} is among the arguments: label "
            f"{names.MAX_BATCH} says how many requests a replica runs at a time"
        )
    return Adoption(labels=labels, annotations=annotations, notes=tuple(notes))


def _refuse_unknown(one: Deployment, data: SystemData) -> list[str]:
    """Raise SpecError if *data* do not know what *one* names; return what they lack besides."""
    finding = data_finding(one, data)
    if finding.level == "wrong":
        raise SpecError(f"{one.place}: {finding.text}")
    return [finding.text] if finding.level == "note" else []


def _accelerator(
    one: Deployment,
    data: SystemData,
    *,
    pods: Sequence[Pod],
    nodes: Iterable[Json],
) -> str:
    """Return the accelerator of the data on which *pods* run. Raise SpecError if there is not
    exactly one.
    """
    types = frozenset(unit.type for unit in data.accelerators.values())
    read = [read_node(obj, types=types) for obj in nodes]
    resource = one.gpus.resource if one.gpus is not None else ""
    by_node = {
        node.name: node.type
        for of_node in read
        for node in of_node
        if resource in ("", node.resource)
    }
    kinds = sorted({by_node[pod.node] for pod in pods if pod.node in by_node})
    if len(kinds) != 1:
        where = f"they run on {', '.join(kinds)}" if kinds else "none runs on a node with GPUs"
        raise SpecError(
            f"{one.place}: expected --accelerator, since its pods do not tell it: {where}"
        )
    asked = one.gpus.count if one.gpus is not None else None
    gpus = gpus_per_replica(data)
    fitting = [
        name
        for (of, name), count in gpus.items()
        if of == one.model and data.accelerators[name].type == kinds[0] and asked in (None, count)
    ]
    if len(fitting) != 1:
        how_many = f", {gpu_text(asked)} a pod" if asked else ""
        known = f"know {', '.join(sorted(fitting))}" if fitting else "know none for this model"
        raise SpecError(
            f"{one.place}: expected --accelerator: its pods run on {kinds[0]}{how_many}, of "
            f"which the data {known}"
        )
    return fitting[0]
