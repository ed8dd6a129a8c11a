"""The capacity of a cluster from its nodes: GPUs per accelerator type, less those that others
hold; pure.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from loop.backends.kube.read import Pod
from loop.types import CapacityView

Json = Mapping[str, Any]

# The resources that are GPUs.
CARDS = (
    "nvidia.com/gpu",
    "amd.com/gpu",
    "habana.ai/gaudi",
    "gpu.intel.com/i915",
    "gpu.intel.com/xe",
    "ibm.com/aiu_pf",
)
# Which label tells the type of a node's cards: the first that it has.
TYPE_LABELS = (
    "inferno.accelerator.type",
    *(f"{gpu}.product" for gpu in CARDS),
    "amd.com/gpu.product-name",
    "cloud.google.com/gke-accelerator",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node with GPUs. open: it takes pods; a node that is not alive has no GPUs at all."""

    name: str
    type: str
    gpus: int
    open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """GPUs by type as the loop may plan with them, and what was found wrong."""

    by_type: Mapping[str, CapacityView]
    warnings: tuple[str, ...] = ()


def read_capacity(
    nodes: Iterable[Json], *, ours: Iterable[Pod], others: Iterable[Pod], types: Collection[str]
) -> Capacity:
    """Return the GPUs of the alive *nodes* that are not held by *others*; used is what *ours* hold
    of them.

    Of a node that takes no pods only the GPUs count that ours hold. *types* are those that the
    data know; a product name holds its type as a word (A100 in NVIDIA-A100-SXM4-80GB).
    """
    read = [node for node in (read_node(obj, types=types) for obj in nodes) if node is not None]
    mine, theirs = _held(ours), _held(others)
    total: dict[str, int] = defaultdict(int)
    used: dict[str, int] = defaultdict(int)
    for node in read:
        held = mine.get(node.name, 0)
        free = max(node.gpus - theirs.get(node.name, 0), held)
        total[node.type] += free if node.open else held
        used[node.type] += held
    unknown = sorted({node.type for node in read if types and node.type not in types})
    return Capacity(
        by_type={
            kind: CapacityView(type=kind, total=total[kind], used=used[kind])
            for kind in sorted(total)
        },
        warnings=tuple(f"nodes: the data know no accelerator of type {kind}" for kind in unknown),
    )


def read_node(obj: Json, *, types: Collection[str]) -> Node | None:
    """Return the node *obj*; None where it has no GPUs or is not alive."""
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    gpus = _gpus(status.get("allocatable") or status.get("capacity") or {})
    ready = {one.get("type"): one.get("status") for one in status.get("conditions") or ()}.get(
        "Ready"
    )
    if gpus == 0 or ready != "True":
        return None
    labels = meta.get("labels") or {}
    told = next((labels[key] for key in TYPE_LABELS if labels.get(key)), "")
    return Node(
        name=meta["name"],
        type=known_type(told, types) or "unknown",
        gpus=gpus,
        open=not spec.get("unschedulable"),
    )


def known_type(product: str, types: Collection[str]) -> str:
    """Return which of *types* a *product* is: the one of its name, or that is a word of it; else
    the product itself.
    """
    if product in types:
        return product
    words = {word.lower() for word in re.split(r"[^A-Za-z0-9.]+", product)}
    return next(
        (
            kind
            for kind in sorted(types, key=lambda kind: (-len(kind), kind))
            if kind.lower() in words
        ),
        product,
    )


def pod_gpus(pod: Pod) -> int:
    """Return the GPUs that a pod holds or waits for."""
    return sum(
        _gpus((container.get("resources") or {}).get("limits") or {})
        for container in pod.spec.get("containers") or ()
    )


def _held(pods: Iterable[Pod]) -> dict[str, int]:
    held: dict[str, int] = defaultdict(int)
    for pod in pods:
        if pod.node:
            held[pod.node] += pod_gpus(pod)
    return held


def _gpus(resources: Json) -> int:
    return sum(_count(resources.get(name, 0)) for name in CARDS)


def _count(quantity: object) -> int:
    """Return a count of GPUs; a quantity that is none (GPUs have no fractions) counts for
    nothing.
    """
    text = str(quantity)
    return int(text) if text.isascii() and text.isdigit() else 0
