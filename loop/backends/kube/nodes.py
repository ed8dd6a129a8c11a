"""The capacity of a cluster from its nodes: GPUs per accelerator type, less those that others
hold; pure.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from loop.backends.kube.gpus import GPU_RESOURCES, is_gpu, limits_of
from loop.backends.kube.gpus import count as as_count
from loop.backends.kube.labels import APPLY_NODE_SELECTOR, FOUND_MAX
from loop.backends.kube.read import Pod, Server, as_text, each_read
from loop.backends.kube.scheduling import obstacle
from loop.replacing import replace
from loop.types import CapacityView, SharedGpus
from twin.magnitudes import whole

Json = Mapping[str, Any]

# Which label tells the type of a node's GPUs: the first that it has.
TYPE_LABELS = (
    "inferno.accelerator.type",
    *(f"{gpu}.product" for gpu in GPU_RESOURCES),
    "amd.com/gpu.product-name",
    "gpu.intel.com/product",
    "cloud.google.com/gke-accelerator",
    "cloud.google.com/gke-tpu-accelerator",
    "k8s.amazonaws.com/accelerator",
    "karpenter.k8s.aws/instance-gpu-name",
    "gpu.nvidia.com/model",
)


# How GPUs are shared and cut (NVIDIA's device plugin and GPU operator, Google's and AMD's): a share
# or a slice is an accelerator of its own, never a whole one.
SHARES_LABELS = ("nvidia.com/gpu.replicas", "cloud.google.com/gke-max-shared-clients-per-gpu")
PARTITION_LABELS = (
    "cloud.google.com/gke-gpu-partition-size",
    "amd.com/gpu.compute-memory-partition",
)
UNCUT = "spx"  # a partition of all of a GPU
SHARED, SLICED = "-SHARED", "-MIG-"
SLICES = ("nvidia.com/mig-", "amd.com/")
# HAMi has as many shares of each GPU as it was told, and notes the GPUs that it has.
SPLIT_BY_HAMI = "hami.io/node-nvidia-register"
# By what else pods ask for the same devices: AWS has cores of them, and another name.
PARTS: Mapping[str, tuple[str, ...]] = {
    "aws.amazon.com/neuron": ("aws.amazon.com/neuroncore", "aws.amazon.com/neurondevice")
}
NODES_NAMED = 3
MEMORY_LABEL = "nvidia.com/gpu.memory"  # MiB; tells variants of one product name apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The GPUs of one kind that a node has. resource is what pods ask for to get them; open: new
    pods may be put on it. parts: how many there are of what else pods may ask for to get them.
    """

    name: str
    type: str
    gpus: int
    open: bool
    resource: str = GPU_RESOURCES[0]
    parts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A server as nodes see it: its pods, the spec of new ones, the resource of its GPUs ("": its
    pods ask for none), and the label by which the loop itself puts them on nodes ("": none).

    alone: of no two of its pods on one node; each has gpus. type: of the accelerator that it is
    said to have; replica_gpus: how many the data say that a replica of it has.
    """

    name: str
    pods: Sequence[Pod] = ()
    pod_spec: Json = field(default_factory=dict)
    resource: str = ""
    selector_key: str = ""
    alone: bool = False
    gpus: int = 0
    type: str = ""
    replica_gpus: int = 0

    @property
    def priority(self) -> int | None:
        """Return the priority of its new pods, before which pods of a lower one give way; None if
        they make nobody give way, or nothing tells: what is in force stands in pods alone. A
        template that names no class may be given one when a pod is let in.
        """
        class_name = self.pod_spec.get("priorityClassName")
        told = [
            pod
            for pod in self.pods
            if class_name is None or pod.spec.get("priorityClassName") == class_name
        ]
        if any(pod.spec.get("preemptionPolicy") == "Never" for pod in told):
            return None
        return min((pod.priority for pod in told), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """GPUs by type as the loop may plan with them. reachable: those that the pods of a server can
    be put on, by server, if these are not all; shared: those of which several must make do.
    most: of a type no more may be planned with, whatever its total (it holds no type: it may).
    warnings: what was found wrong; notes: what does not count, and why, to be told once.
    """

    by_type: Mapping[str, CapacityView]
    reachable: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    shared: tuple[SharedGpus, ...] = ()
    most: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def above_nodes(
    allowed: Mapping[str, int], capacity: Capacity, *, used: Collection[str]
) -> list[str]:
    """Return a line for each type of those *used* of which the data have *allowed* more GPUs than
    the nodes have: pods beyond those would wait for ever.
    """
    there = {kind: view.total for kind, view in capacity.by_type.items()}
    return [
        f"the data allow {allowed[kind]} {kind}, the nodes have {there.get(kind, 0)}"
        for kind in sorted(used & allowed.keys())
        if allowed[kind] > there.get(kind, 0)
    ]


def read_capacity(
    nodes: Iterable[Json],
    *,
    tenants: Sequence[Tenant],
    others: Iterable[Pod],
    types: Collection[str],
) -> Capacity:
    """Return the GPUs of the alive *nodes* that are not held by *others*; used is what the pods of
    *tenants* hold of them.

    Of a node that takes no pods, or none of ours, only the GPUs count that ours hold. GPUs of
    others count if these give way to pods of ours, for their priority is lower. GPUs that
    ours hold and no node shows are there: a device plugin is restarted, a node does not tell, or
    its GPUs come by claims. *types* are those that the data know; a product name holds the words of
    its type (A100-80GB in NVIDIA-A100-SXM4-80GB).
    """

    def read_one(obj: Json) -> list[tuple[Node, tuple[str, ...]]]:
        return [
            (node, tuple(_kept_off(obj, node, tenant) for tenant in tenants))
            for node in read_node(obj, types=types)
        ]

    strange: list[str] = []
    nodes = list(nodes)
    each = each_read(nodes, read_one, kind="node", told=strange)
    # A list that comes in parts may show an object twice.
    read = {(pair[0].name, pair[0].resource): pair for one in each for pair in one}.values()
    parts = {(node.name, part): node for node, _ in read for part in node.parts}
    by_tenant = [_held(tenant.pods, parts) for tenant in tenants]
    theirs: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for pod in others:
        for place, number in _held([pod], parts).items():
            theirs[place][pod.priority] += number
    sums = _Sums(
        reached=[defaultdict(int) for _ in tenants],
        priorities=[tenant.priority for tenant in tenants],
    )
    sums.notes += [line for one in each_read(nodes, _idle, kind="node", told=[]) for line in one]
    for node, obstacles in read:
        place = (node.name, node.resource)
        mine = [held.get(place, 0) for held in by_tenant]
        sums.add_node(node, obstacles, mine=mine, theirs=theirs[place], tenants=tenants)
    shown = {(node.name, node.resource) for node, _ in read if not types or node.type in types}
    for k, tenant in enumerate(tenants):
        sums.add(_unseen(tenant, shown), k, tenant)
    sums.notes += _elsewhere(tenants, [node for node, _ in read], types=types)
    unknown = sorted({node.type for node, _ in read if types and node.type not in types})
    return Capacity(
        by_type={
            kind: CapacityView(type=kind, total=sums.total[kind], used=sums.used[kind])
            for kind in sorted(sums.total)
        },
        reachable={
            tenant.name: reach
            for tenant, reach in zip(tenants, sums.reached, strict=True)
            if reach != sums.total
        },
        shared=_shared(sums.places, tenants),
        warnings=(
            *strange,
            *(f"nodes: the data know no accelerator of type {kind}" for kind in unknown),
        ),
        notes=tuple(sums.notes),
    )


def without_growth(
    capacity: Capacity,
    servers: Iterable[Server],
    *,
    spaces: Collection[str],
    types: Mapping[str, str],
    gpus: Mapping[tuple[str, str], int],
) -> Capacity:
    """Return *capacity* with no more to plan with than *servers* hold or ask for now: the pods of
    the namespaces *spaces* may hold the rest, and nobody has listed them. *types* and *gpus* as in
    `Shortages.look`.
    """
    asked: dict[str, int] = defaultdict(int)
    for server in servers:
        one = server.deployment
        each = one.gpus.count if one.gpus else gpus.get((one.model, one.accelerator), 0)
        asked[types.get(one.accelerator, one.accelerator)] += one.wanted * each
    lines = [
        f"nodes: nobody has listed the pods of namespace {space} yet, so nobody knows which GPUs "
        "they hold: the plan has no more than managed servers hold or ask for now"
        for space in spaces
    ]
    most = {kind: max(view.used, asked[kind]) for kind, view in capacity.by_type.items()}
    return replace(capacity, most=most, warnings=(*capacity.warnings, *lines))


def _yielding(
    theirs: Mapping[int, int],
    takes: Collection[int],
    priorities: Sequence[int | None],
    *,
    most: int,
) -> list[tuple[int, frozenset[int]]]:
    """Return how many GPUs of a node, *most* at most, their holders give up for pods of which
    tenants: by priority, *theirs* are these GPUs, and *takes* the tenants that the node takes.
    """
    found = []
    for priority, held in sorted(theirs.items()):
        by = frozenset(
            k for k in takes for mine in [priorities[k]] if mine is not None and mine > priority
        )
        if by and most > 0:
            found.append((min(held, most), by))
        most -= held
    return found


def _giving_way(
    node: Node, yielding: Sequence[tuple[int, frozenset[int]]], tenants: Sequence[Tenant]
) -> list[str]:
    """Return the line that says which GPUs of *node* count although others hold them, if any do."""
    count = sum(of for of, _ in yielding)
    if not count:
        return []
    for_whom = sorted({tenants[k].name for _, by in yielding for k in by})
    more = f" and {len(for_whom) - NODES_NAMED} more" if len(for_whom) > NODES_NAMED else ""
    return [
        f"nodes: {count} {node.type} of {node.name} count though others hold them: their pods have "
        f"a lower priority, and give way to those of {', '.join(for_whom[:NODES_NAMED])}{more}"
    ]


def _left_out(node: Node, *, closed: bool, held: int, why: Sequence[str]) -> list[str]:
    """Return the line that says why GPUs of *node* do not count, if they do not."""
    if not node.open and node.gpus > held:
        return [
            f"nodes: {node.gpus} {node.type} of {node.name} do not count, but for those that "
            "managed pods hold: it is cordoned, or being deleted"
        ]
    if closed:
        return [
            f"nodes: {node.gpus} {node.type} of {node.name} do not count: no server's pods can "
            f"be put there ({why[0]})"
        ]
    return []


def _elsewhere(
    tenants: Sequence[Tenant], nodes: Iterable[Node], *, types: Collection[str]
) -> list[str]:
    """Return lines about servers all of whose pods are settled on GPUs that their labels do not
    say: only labels were changed, and nothing moves the pods.
    """
    kinds: dict[str, set[str]] = defaultdict(set)
    for node in nodes:
        kinds[node.name].add(node.type)
    lines = []
    for tenant in tenants:
        settled = all(pod.phase == "ready" for pod in tenant.pods)
        there = {kind for pod in tenant.pods for kind in kinds[pod.node]}
        if tenant.type and settled and there <= set(types) and there and tenant.type not in there:
            found = ", ".join(sorted(there))
            lines.append(
                f"{tenant.name}: its label says {tenant.type}, and its pods are on {found}: the "
                "plan goes by the label; "
                + (
                    "the cluster has not moved them"
                    if tenant.selector_key
                    else f"the annotation {APPLY_NODE_SELECTOR} would move them"
                )
            )
    return lines


@dataclass(frozen=True, slots=True)
class _Unseen:
    """GPUs that pods hold and no node shows: how many, those of them that the pods ask for by a
    resource, and where.
    """

    count: int
    asked: int
    where: str


class _Place(NamedTuple):
    """GPUs of one node: how many, which tenants' new pods can be put there, what each holds."""

    type: str
    gpus: int
    takes: frozenset[int]
    held: Sequence[int]


@dataclass(slots=True, kw_only=True)
class _Sums:
    """What nodes and pods add up to: GPUs by type, those in use, those that each tenant reaches,
    and where they are; of tenants that have *priorities*.
    """

    reached: list[dict[str, int]]
    priorities: Sequence[int | None]
    total: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    used: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    places: list[_Place] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_node(
        self,
        node: Node,
        obstacles: Sequence[str],
        *,
        mine: Sequence[int],
        theirs: Counter[int],
        tenants: Sequence[Tenant],
    ) -> None:
        """Add the GPUs of *node*, of which each of *tenants* holds *mine*, and others *theirs*, by
        their priority. *obstacles* keep new pods of tenants off it.
        """
        free = max(node.gpus - theirs.total(), sum(mine))
        closed = bool(obstacles) and all(obstacles)
        takes = frozenset(k for k, why in enumerate(obstacles) if node.open and not why)
        yielding = _yielding(theirs, takes, self.priorities, most=node.gpus - free)
        yielded = sum(count for count, _ in yielding)
        self.total[node.type] += yielded + (free if node.open and not closed else sum(mine))
        self.used[node.type] += sum(mine)
        self.places.append(_Place(node.type, free, takes, mine))
        nobody = [0] * len(tenants)
        self.places += [_Place(node.type, count, by, nobody) for count, by in yielding]
        for k, (tenant, reach, held) in enumerate(zip(tenants, self.reached, mine, strict=True)):
            more = free - held if k in takes else 0
            more += sum(count for count, by in yielding if k in by)
            if tenant.alone and tenant.gpus:
                more = 0 if held else min(more, tenant.gpus)
            reach[node.type] += held + more
        self.notes += _giving_way(node, yielding, tenants)
        self.notes += _left_out(node, closed=closed, held=sum(mine), why=obstacles)

    def add(self, unseen: _Unseen, k: int, tenant: Tenant) -> None:
        """Add what the pods of *tenant*, the one at *k*, hold and no node shows."""
        if not unseen.count:
            return
        kind, reach = tenant.type, self.reached[k]
        self.total[kind] = max(self.total[kind] + unseen.asked, self.used[kind] + unseen.count)
        self.used[kind] += unseen.count
        reach[kind] = max(reach[kind] + unseen.asked, unseen.count)
        held = [unseen.count if of == k else 0 for of in range(len(self.reached))]
        self.places.append(_Place(kind, unseen.count, frozenset({k}), held))
        self.notes.append(
            f"nodes: pods of {tenant.name} run on {kind} that no node shows ({unseen.where}): what "
            "they hold counts, and no more"
        )


def _unseen(tenant: Tenant, shown: Collection[tuple[str, str]]) -> _Unseen:
    """Return what the pods of *tenant* hold beside what is *shown* by node and resource.

    A pod that is being deleted gives it up; one on a node that is gone is deleted in its time.
    """
    asked = unasked = 0
    showing, nodes = {node for node, _ in shown}, set[str]()
    for pod in tenant.pods:
        if not (tenant.type and pod.node and pod.phase in ("ready", "starting")):
            continue
        held = pod_gpus(pod)
        more = sum(count for of, count in held.items() if (pod.node, of) not in shown)
        claimed = 0 if held or pod.node in showing else tenant.replica_gpus
        asked, unasked = asked + more, unasked + claimed
        if more or claimed:
            nodes.add(pod.node)
    where = ", ".join(sorted(nodes)[:NODES_NAMED])
    more_nodes = len(nodes) - NODES_NAMED
    if more_nodes > 0:
        where += f" and {more_nodes} more"
    return _Unseen(asked + unasked, asked, where)


def _shared(places: Sequence[_Place], tenants: Sequence[Tenant]) -> tuple[SharedGpus, ...]:
    """Return of which GPUs several *tenants*, but not all, must make do: of the places of each of
    them, those whose places these are, or fewer.
    """
    found = []
    for kind in sorted({place.type for place in places}):
        of_kind = [place for place in places if place.type == kind]
        reach = [
            frozenset(i for i, place in enumerate(of_kind) if k in place.takes)
            for k in range(len(tenants))
        ]
        for inside in sorted(set(reach), key=sorted):
            group = [k for k in range(len(tenants)) if reach[k] and reach[k] <= inside]
            if len(group) < 2 or len(inside) == len(of_kind):
                continue
            count = sum(
                place.gpus - (sum(place.held) - sum(place.held[k] for k in group))
                if i in inside
                else sum(place.held[k] for k in group)
                for i, place in enumerate(of_kind)
            )
            names = frozenset(tenants[k].name for k in group)
            found.append(SharedGpus(type=kind, servers=names, count=count))
    return tuple(found)


def _kept_off(obj: Json, node: Node, tenant: Tenant) -> str:
    """Return why new pods of *tenant* get none of the GPUs of *node*, which *obj* tells of; nothing
    if they do.
    """
    if tenant.resource and tenant.resource != node.resource:
        return f"pods ask for {tenant.resource}, and these are {node.resource}"
    return obstacle(
        tenant.pod_spec,
        obj,
        ignore_labels={tenant.selector_key},
        tolerated=[key for key in (*GPU_RESOURCES, node.resource) if _lets_on(tenant, key)],
    )


def _lets_on(tenant: Tenant, resource: str) -> bool:
    """Tell whether the API server has pods tolerate a taint of the name of their *resource*, by
    those that there are: where it does, they say so.
    """
    told = [pod.spec["tolerations"] for pod in tenant.pods if pod.spec.get("tolerations")]
    return not told or any(one.get("key") == resource for of_pod in told for one in of_pod)


def _idle(obj: Json) -> list[str]:
    """Return why GPUs that the node *obj* has cannot be had, if the node itself is why."""
    name, status = obj["metadata"]["name"], obj.get("status") or {}
    has, open_ = _gpus(status.get("capacity") or {}), status.get("allocatable")
    if not _ready(status):
        has = has | _gpus(open_ or {})
        return [f"nodes: {has.total()} GPUs of {name} do not count: it is not ready"] if has else []
    lost = has - _gpus(open_) if open_ is not None else Counter[str]()
    return [
        f"nodes: {count} {resource} of {name} do not count: they are not allocatable (does the "
        "device plugin run?)"
        for resource, count in lost.items()
    ]


def _ready(status: Json) -> bool:
    return any(
        one.get("type") == "Ready" and one.get("status") == "True"
        for one in status.get("conditions") or ()
    )


def read_node(obj: Json, *, types: Collection[str]) -> list[Node]:
    """Return the GPUs of the node *obj* by kind; none if it has none or is not alive."""
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    if not _ready(status):
        return []
    labels = {key: as_text(value) for key, value in (meta.get("labels") or {}).items()}
    if noted := as_text((meta.get("annotations") or {}).get(SPLIT_BY_HAMI) or ""):
        labels.setdefault(f"{GPU_RESOURCES[0]}.count", str(noted.count("GPU-")))
    resources = status.get("allocatable") or status.get("capacity") or {}
    for resource, quantity in resources.items():
        if is_gpu(resource) and whole(str(quantity)) is None:
            raise ValueError(f"{resource}: expected a count, found {str(quantity)[:FOUND_MAX]}")
    found = _gpus(resources)
    return [
        Node(
            name=as_text(meta["name"]),
            type=_type(resource, count, labels, types) or "unknown",
            gpus=count,
            open=not spec.get("unschedulable") and not meta.get("deletionTimestamp"),
            resource=resource,
            parts={
                part: number
                for part in PARTS.get(resource, ())
                if (number := as_count(resources.get(part))) > 0
            },
        )
        for resource, count in found.items()
    ]


def _product(resource: str, labels: Mapping[str, str]) -> str:
    """Return what a node calls the GPUs of *resource*. Where whole GPUs and slices are mixed each
    resource has a label; a share that is called so has none.
    """
    own = labels.get(f"{resource}.product")
    product = own or next((labels[key] for key in TYPE_LABELS if labels.get(key)), "")
    part = next((labels[key] for key in PARTITION_LABELS if labels.get(key)), UNCUT)
    if not part.lower().startswith(UNCUT) and SLICED not in product:
        product += f"{SLICED}{part}"
    if own:
        return product
    part = next((resource.removeprefix(of) for of in SLICES if resource.startswith(of)), UNCUT)
    if resource not in GPU_RESOURCES and not part.startswith(UNCUT) and SLICED not in product:
        return f"{product or 'GPU'}{SLICED}{part}"
    if resource.endswith(".shared") and SHARED not in product:
        return f"{product or 'GPU'}{SHARED}"
    return product


def _shares(resource: str, gpus: int, labels: Mapping[str, str]) -> bool:
    """Tell whether the GPUs of *resource* are shares: a label says so, or there are more of them
    than the node says that it has (a device plugin that splits them).
    """
    there = whole(labels.get(f"{resource}.count", ""))
    shares = max(whole(labels.get(key, "")) or 1 for key in SHARES_LABELS)
    return shares > 1 or (there is not None and gpus > there > 0)


def _type(resource: str, gpus: int, labels: Mapping[str, str], types: Collection[str]) -> str:
    """Return the type of a node's GPUs: a product of the data, or what the node calls them."""
    product = _product(resource, labels)
    if SHARED not in product and _shares(resource, gpus, labels):
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


def pod_gpus(pod: Pod) -> Counter[str]:
    """Return the GPUs that a pod holds or waits for, by resource: those of its containers and of
    init containers that go on beside them (sidecars); other init containers come before them,
    beside the sidecars that began earlier.
    """
    return _asked(pod, _gpus)


def _asked(pod: Pod, told: Callable[[Json], Counter[str]]) -> Counter[str]:
    """Return what a pod holds of those of its resources that are *told*."""
    containers = pod.spec.get("containers") or []
    before = pod.spec.get("initContainers") or []
    if len(containers) == 1 and not before:
        return told(limits_of(containers[0]))
    sidecars, most_before, beside = Counter[str](), Counter[str](), Counter[str]()
    for container in before:
        if container.get("restartPolicy") == "Always":
            sidecars += told(limits_of(container))
        else:
            most_before |= sidecars + told(limits_of(container))
    for container in containers:
        beside += told(limits_of(container))
    return (sidecars + beside) | most_before


def _held(pods: Iterable[Pod], parts: Mapping[tuple[str, str], Node]) -> Counter[tuple[str, str]]:
    """Return the GPUs that *pods* hold, by node and resource. *parts* are those that may be asked
    for otherwise, by node and resource: a GPU of which a part is held is held.
    """
    held = Counter[tuple[str, str]]()
    for pod in pods:
        if not pod.node:
            continue
        held.update({(pod.node, of): number for of, number in pod_gpus(pod).items()})
        for part, number in _asked(pod, _parts).items() if parts else ():
            if (node := parts.get((pod.node, part))) is not None:
                held[pod.node, node.resource] += -(-number * node.gpus // node.parts[part])
    return held


def _parts(resources: Json) -> Counter[str]:
    named = {part for of in PARTS.values() for part in of}
    return Counter({name: as_count(of) for name, of in resources.items() if name in named})


def _gpus(resources: Json) -> Counter[str]:
    return Counter(
        {
            name: number
            for name, quantity in resources.items()
            if is_gpu(name) and (number := as_count(quantity)) > 0
        }
    )


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
        unlisted: Collection[str] = (),
    ) -> dict[str, int]:
        """Return the GPUs that can be had at most, by type, from what the pods of *servers* tell
        now; those of *unlisted* namespaces, as they were seen before, do not tell that they wait.
        *types* are by accelerator, *gpus* of a replica by (model, accelerator).
        """
        servers = list(servers)
        short = {
            types.get(one.accelerator, one.accelerator)
            for server in servers
            for one in [server.deployment]
            for pod in server.pods
            if pod.trouble is not None and pod.trouble.lacks_gpus and not pod.node
            if one.namespace not in unlisted and now_s - pod.unready_s >= self._give_up_s
        } - {""}
        # Nearly always nobody waits, and nobody has to know who holds what.
        held: dict[str, int] = defaultdict(int)
        for server in servers if short or self._most else ():
            one = server.deployment
            kind = types.get(one.accelerator, one.accelerator)
            each = gpus.get((one.model, one.accelerator), 0)
            held[kind] += sum(pod_gpus(pod).total() or each for pod in server.pods if pod.node)
        for kind in short:
            self._most[kind] = (held[kind], now_s + RETRY * self._give_up_s)
        self._most = {
            kind: (max(most, held[kind]), until_s)
            for kind, (most, until_s) in self._most.items()
            if now_s < until_s
        }
        return {kind: most for kind, (most, _) in sorted(self._most.items())}
