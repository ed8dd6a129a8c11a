"""The capacity of a cluster from its nodes: GPUs per accelerator type, less those that others
hold; pure.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loop.backends.kube.arguments import GPU_RESOURCES, count, limits_of
from loop.backends.kube.read import Pod, Server, each_read
from loop.backends.kube.scheduling import obstacle
from loop.types import CapacityView

Json = Mapping[str, Any]

# Which label tells the type of a node's GPUs: the first that it has.
TYPE_LABELS = (
    "inferno.accelerator.type",
    *(f"{gpu}.product" for gpu in GPU_RESOURCES),
    "amd.com/gpu.product-name",
    "cloud.google.com/gke-accelerator",
)


# How GPUs are shared and cut (NVIDIA's device plugin and GPU operator): a share or a slice is
# an accelerator of its own, never a whole one.
SHARES_LABEL = "nvidia.com/gpu.replicas"
SHARED, SLICED = "-SHARED", "-MIG-"
MEMORY_LABEL = "nvidia.com/gpu.memory"  # MiB; tells variants of one product name apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node with GPUs. open: new pods of ours may be put on it; why_not: if not, why."""

    name: str
    type: str
    gpus: int
    open: bool
    why_not: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """GPUs by type as the loop may plan with them; warnings: what was found wrong; notes: what does
    not count, and why, to be told once.
    """

    by_type: Mapping[str, CapacityView]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_capacity(
    nodes: Iterable[Json],
    *,
    ours: Iterable[Pod],
    others: Iterable[Pod],
    types: Collection[str],
    templates: Sequence[Json] = (),
    selector_keys: Collection[str] = (),
) -> Capacity:
    """Return the GPUs of the alive *nodes* that are not held by *others*; used is what *ours* hold
    of them.

    Of a node that takes no pods, or none of ours, only the GPUs count that ours hold. *templates*
    are the pod specs of our servers (none: any node will do), *selector_keys* the labels by which
    the loop itself puts them on nodes. *types* are those that the data know; a product name holds
    the words of its type (A100-80GB in NVIDIA-A100-SXM4-80GB).
    """

    def read_one(obj: Json) -> Node | None:
        node = read_node(obj, types=types)
        if node is None:
            return None
        why_not = _kept_off(obj, templates, selector_keys)
        return replace(node, open=node.open and not why_not, why_not=why_not)

    strange: list[str] = []
    found = each_read(nodes, read_one, kind="node", told=strange)
    read = [node for node in found if node is not None]
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
        warnings=(
            *strange,
            *(f"nodes: the data know no accelerator of type {kind}" for kind in unknown),
        ),
        notes=tuple(
            f"nodes: {node.gpus} {node.type} of {node.name} do not count: no server's pods can be "
            f"put there ({node.why_not})"
            for node in read
            if node.why_not
        ),
    )


def _kept_off(node: Json, templates: Sequence[Json], selector_keys: Collection[str]) -> str:
    """Return why no pod of *templates* can be put on *node*; nothing if one of them can."""
    why_not = ""
    for template in templates:
        why_not = obstacle(template, node, ignore_labels=selector_keys, tolerated=GPU_RESOURCES)
        if not why_not:
            return ""
    return why_not


def read_node(obj: Json, *, types: Collection[str]) -> Node | None:
    """Return the node *obj*; None if it has no GPUs or is not alive."""
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    gpus = _gpus(status.get("allocatable") or status.get("capacity") or {})
    ready = {one.get("type"): one.get("status") for one in status.get("conditions") or ()}.get(
        "Ready"
    )
    if gpus == 0 or ready != "True":
        return None
    labels = meta.get("labels") or {}
    product = next((labels[key] for key in TYPE_LABELS if labels.get(key)), "")
    return Node(
        name=meta["name"],
        type=_type(product, labels, types) or "unknown",
        gpus=gpus,
        open=not spec.get("unschedulable"),
    )


def _type(product: str, labels: Mapping[str, str], types: Collection[str]) -> str:
    """Return the type of a node's GPUs: a product of the data, or what the node calls them."""
    shares = labels.get(SHARES_LABEL, "1")
    if shares.isascii() and shares.isdigit() and int(shares) > 1 and SHARED not in product:
        product += SHARED
    memory = labels.get(MEMORY_LABEL, "")
    if memory.isascii() and memory.isdigit():
        return known_type(product, types, memory_gb=round(int(memory) / 1024))
    return known_type(product, types)


def known_type(product: str, types: Collection[str], *, memory_gb: int | None = None) -> str:
    """Return which of *types* a *product* is: the one of its name, or the one most words of which
    are words of it; else the product itself. Slices and shares are only what they are called.
    """
    if product in types or SLICED in product or product.endswith(SHARED):
        return product
    words = _words(product)
    if memory_gb is not None:
        words |= {f"{size}gb" for size in range(memory_gb - 1, memory_gb + 2)}
    fitting = [kind for kind in types if _words(kind) <= words]
    return min(fitting, key=lambda kind: (-len(_words(kind)), -len(kind), kind), default=product)


def _words(name: str) -> set[str]:
    return {word.lower() for word in re.split(r"[^A-Za-z0-9.]+", name) if word}


def pod_gpus(pod: Pod) -> int:
    """Return the GPUs that a pod holds or waits for: those of its containers and of init
    containers that go on beside them (sidecars); other init containers come before them, beside
    the sidecars that began earlier.
    """
    sidecars = most_before = 0
    for container in pod.spec.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            sidecars += _limits(container)
        else:
            most_before = max(most_before, sidecars + _limits(container))
    beside = sum(_limits(container) for container in pod.spec.get("containers") or ())
    return max(sidecars + beside, most_before)


def _limits(container: Json) -> int:
    return _gpus(limits_of(container))


def _held(pods: Iterable[Pod]) -> dict[str, int]:
    held: dict[str, int] = defaultdict(int)
    for pod in pods:
        if pod.node:
            held[pod.node] += pod_gpus(pod)
    return held


def _gpus(resources: Json) -> int:
    return sum(count(resources.get(name, 0)) for name in GPU_RESOURCES)


RETRY = 3.0  # after so many times the wait in vain, more is asked for again


class Shortages:
    """Remembers of which types pods have waited for GPUs in vain, for *give_up_s*.

    As long as it does, the plan has no more of them than were held. Without a memory the loop would
    ask, give up and ask again for ever.
    """

    def __init__(self, *, give_up_s: float) -> None:
        self._give_up_s = give_up_s
        self._most: dict[str, tuple[int, float]] = {}  # GPUs that were held, until when it counts

    def look(
        self,
        servers: Iterable[Server],
        *,
        types: Mapping[str, str],
        gpus: Mapping[tuple[str, str], int],
        now_s: float,
    ) -> dict[str, int]:
        """Return the GPUs that can be had at most, by type, from what the pods of *servers* tell
        now. *types* are by accelerator, *gpus* of a replica by (model, accelerator).
        """
        held: dict[str, int] = defaultdict(int)
        short = set()
        for server in servers:
            one = server.deployment
            kind = types.get(one.accelerator, one.accelerator)
            each = gpus.get((one.model, one.accelerator), 0)
            for pod in server.pods:
                if pod.node:
                    held[kind] += pod_gpus(pod) or each
                elif (
                    pod.trouble is not None
                    and pod.trouble.kind == "unschedulable"
                    and now_s - pod.unready_s >= self._give_up_s
                ):
                    short.add(kind)
        for kind in short - {""}:
            self._most[kind] = (held[kind], now_s + RETRY * self._give_up_s)
        self._most = {
            kind: (max(most, held[kind]), until_s)
            for kind, (most, until_s) in self._most.items()
            if now_s < until_s
        }
        return {kind: most for kind, (most, _) in sorted(self._most.items())}
