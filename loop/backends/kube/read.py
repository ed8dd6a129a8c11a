"""From what an API server lists, as raw JSON, to Deployments, their pods and the servers they make;
pure.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from loop.backends.kube import labels as names
from loop.backends.kube.arguments import (
    batch_of,
    begins_engine,
    command_words,
    engines_of,
    unread_batch,
    value_of,
)
from loop.backends.kube.gpus import (
    GpuLimit,
    engine_containers,
    gpu_limit,
    gpu_limits,
    limits_of,
    side_by_side,
)
from loop.backends.kube.labels import Bounds
from loop.backends.kube.objects import Object, Remembered, parsed
from loop.backends.kube.scheduling import KEEPS_OFF, keeps_apart, obstacle, selects
from loop.backends.kube.trouble import TEXT_MAX, Trouble, trouble_of
from loop.replacing import replace
from loop.signals.pods import ScrapedPod, ScrapedServer, owns
from loop.types import Load, PodPhase
from twin.magnitudes import REPLICAS_MAX, whole

Json = Mapping[str, Any]
Read = TypeVar("Read")

# What an object that is not as an API server makes it raises while it is read.
STRANGE = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
FINISHED = ("Succeeded", "Failed")
MODEL_ID_MAX = 253  # an annotation may be 256 KiB, and each record and metric names the model
# Whoever writes anything else into the annotation wants a pause.
NOT_PAUSED = ("", "false", "no", "off", "0")
METRICS_PORT = 8000
GRACE_S = 30.0  # of a pod whose template says nothing
PORT_MAX = 65_535
METRICS_PATH = "/metrics"
# Where trtllm-serve shows its own: at /metrics it hands out statistics in JSON, each of them once.
_TENSORRT, TENSORRT_PATH = re.compile(r"(?<![\w.-])trtllm-serve(?!\S)"), "/prometheus/metrics"
_PORT_OF_METRICS = re.compile(r"(?:https?-)?metrics(?:-?\d+)?|https?(?:-?\d+)?")
_PORT_OF_PROBES = re.compile(r"health|probe|live|ready|status|admin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One managed Deployment as listed. problem is the first thing that is wrong with its labels
    and annotations.

    replica_failure is why the cluster cannot make its pods, if it says so. rollout_paused: a change
    of its template replaces no pods. leaving: it is being deleted, and makes no pods any more.

    claim is the name that it asks for, server the one that it has: with its namespace where others
    claim the same. max_batch 0 and accelerator "": no label says. version is its resourceVersion;
    pod_spec its template's spec, pod_labels its labels. apart: no two of its pods can be on one
    node. recreated: a change of its template ends all its pods before it makes new ones. unread:
    lines about keys that look like the loop's own and are none. batch_fixed: the argument that
    tells the engine its batch size, which the loop must not change, whatever is decided: nobody has
    said that it may, or all pods would end at once. maker: kind and name of what looks after it.
    """

    namespace: str
    name: str
    uid: str
    version: str
    created: str
    generation: int
    observed: int
    managed: bool
    claim: str
    server: str
    model: str
    service_class: str
    accelerator: str
    max_batch: int
    wanted: int
    load: Load | None
    bounds: Bounds
    annotations: Mapping[str, str]
    selector: Json
    pod_spec: Json
    pod_labels: Mapping[str, str]
    apart: bool
    field_owners: Sequence[Json]
    rollout_paused: bool = False
    recreated: bool = False
    leaving: bool = False
    replica_failure: str = ""
    replica_failure_since: str = ""
    problem: str = ""
    unread: tuple[str, ...] = ()
    batch_fixed: str = ""
    maker: tuple[str, str] | None = None

    @property
    def place(self) -> str:
        """Return namespace/name, as people write it."""
        return f"{self.namespace}/{self.name}"

    @property
    def paused(self) -> bool:
        """Tell whether people have said that nothing is to be asked for it."""
        return self.annotations.get(names.PAUSED, "").strip().lower() not in NOT_PAUSED

    @property
    def grace_s(self) -> float:
        """Return how long a pod that is deleted has before it is killed."""
        told = self.pod_spec.get("terminationGracePeriodSeconds")
        return float(told) if isinstance(told, int) else GRACE_S

    @property
    def gpus(self) -> GpuLimit | None:
        """Return the GPUs that its pods ask for, in the container that serves."""
        container = self.annotations.get(names.APPLY_CONTAINER, "")
        return gpu_limit(self.pod_spec.get("containers") or (), container=container)

    @property
    def gpus_fixed(self) -> int | None:
        """Return the GPUs that a replica has whatever is decided; None if the loop may change them,
        or the pods ask for none.
        """
        asked = self.gpus
        return None if asked is None or self.applies_gpus else asked.count

    @property
    def applies_gpus(self) -> bool:
        """Tell whether the loop writes the number of GPUs to the pod template."""
        return self.annotations.get(names.APPLY_GPUS, "").strip().lower() == "true"

    @property
    def settled(self) -> bool:
        """Tell whether the cluster has taken note of the latest change of its specification."""
        return self.observed >= self.generation


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One pod that has not finished. since_s, created_s: seconds of the run; owner: its Deployment,
    "" if not told; others: something else than a Deployment looks after it. trouble: why it is not
    ready, since unready_s. end_s: when it is to have ended, if it was deleted. restarts: how often
    its containers came up again; restarts_s: when the only one with an engine did lately, as far as
    is told.
    """

    namespace: str
    name: str
    owner: str
    labels: Mapping[str, str]
    phase: PodPhase
    since_s: float
    created_s: float
    node: str
    started_s: float | None
    address: str
    metrics_ports: tuple[int, ...]
    metrics_path: str
    tls_ports: frozenset[int]
    spec: Json
    others: bool = False
    trouble: Trouble | None = None
    unready_s: float = 0.0
    end_s: float | None = None
    restarts: int = 0
    restarts_s: tuple[float, ...] = ()

    @property
    def priority(self) -> int:
        """Return what the cluster has made of its class of priority."""
        told = self.spec.get("priority")
        return told if isinstance(told, int) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A Deployment and its pods."""

    deployment: Deployment
    pods: tuple[Pod, ...] = ()

    @property
    def name(self) -> str:
        """Return the name by which the loop knows it."""
        return self.deployment.server

    def count(self, phase: PodPhase) -> int:
        """Return how many pods are in *phase*."""
        return sum(pod.phase == phase for pod in self.pods)


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """All servers by name, the pods that belong to none of them, and what was found wrong.
    unlisted: the namespaces that are shown as they were listed before, and why.
    """

    by_name: Mapping[str, Server]
    unowned: tuple[Pod, ...] = ()
    warnings: tuple[str, ...] = field(default=())
    unlisted: Mapping[str, str] = field(default_factory=dict)


def read_deployment(obj: Json) -> Deployment:
    """Return the Deployment *obj*; raise KeyError or TypeError where it is none."""
    meta, spec, status = obj["metadata"], obj["spec"], obj.get("status") or {}
    labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}
    load, load_problem = names.load_of(labels)
    max_batch, batch_problem = names.max_batch_of(labels)
    bounds, bounds_problem = names.bounds_of({**labels, **annotations})
    replicas = spec.get("replicas")
    if replicas is not None and not (isinstance(replicas, int) and 0 <= replicas <= REPLICAS_MAX):
        raise ValueError(f"replicas: expected a whole number up to {REPLICAS_MAX}")
    pod_spec = (spec.get("template") or {}).get("spec") or {}
    # A label of such a name is no less meant: who labels a server as paused wants it left alone.
    said = {key: labels[key] for key in names.ANNOTATIONS & labels.keys()} | annotations
    for text in (*labels.values(), *annotations.values()):
        if not isinstance(text, str):
            raise TypeError("a label or an annotation is no text")
    model_id = (said.get(names.MODEL_ID) or "").strip()
    model_problem = ""
    if len(model_id) > MODEL_ID_MAX:
        model_problem = (
            f"annotation {names.MODEL_ID}: expected at most {MODEL_ID_MAX} characters, found "
            f"{len(model_id)}"
        )
        model_id = ""
    failure, failure_since = _replica_failure(status)
    selector = spec.get("selector") or {}
    pod_labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    _look_through(pod_spec)
    selects(selector, pod_labels)
    _look_through_fields(meta.get("managedFields") or ())
    argument, batch = _batch(said, pod_spec)
    recreated = (spec.get("strategy") or {}).get("type") == "Recreate" and replicas != 0
    applied = bool(said.get(names.APPLY_MAX_BATCH, "").strip())
    # A number that nobody can read (a ConfigMap's, one of two branches) is in force all the same.
    fixed = bool(batch) and recreated if applied else bool(argument)
    return Deployment(
        namespace=as_text(meta["namespace"]),
        name=as_text(meta["name"]),
        uid=as_text(meta.get("uid") or ""),
        version=as_text(meta.get("resourceVersion") or ""),
        created=as_text(meta.get("creationTimestamp") or ""),
        generation=int(meta.get("generation") or 0),
        observed=int(status.get("observedGeneration") or 0),
        managed=labels.get(names.MANAGED) == "true",
        claim=labels.get(names.NAME) or meta["name"],
        server=labels.get(names.NAME) or meta["name"],
        model=model_id or labels.get(names.MODEL) or "",
        service_class=labels.get(names.CLASS) or names.CLASS_DEFAULT,
        accelerator=labels.get(names.ACCELERATOR) or "",
        max_batch=batch or max_batch,
        batch_fixed=argument if fixed else "",
        # Absent means one, the server's own default; zero is written out.
        wanted=1 if replicas is None else replicas,
        load=load,
        bounds=bounds,
        annotations=said,
        selector=selector,
        pod_spec=pod_spec,
        pod_labels=pod_labels,
        apart=keeps_apart(spec.get("template") or {}),
        field_owners=meta.get("managedFields") or (),
        rollout_paused=spec.get("paused") is True,
        recreated=recreated,
        leaving=bool(meta.get("deletionTimestamp")),
        replica_failure=failure,
        replica_failure_since=failure_since,
        problem=bounds_problem or batch_problem or load_problem or model_problem,
        unread=tuple(names.unread_keys(labels, annotations)),
        maker=_maker(meta),
    )


def _maker(meta: Json) -> tuple[str, str] | None:
    """Return the kind and the name of what looks after an object (an InferenceService, a
    VLLMRuntime, …), None if nothing does.
    """
    for owner in meta.get("ownerReferences") or ():
        if owner.get("controller"):
            return as_text(owner["kind"]), as_text(owner["name"])
    return None


def _look_through(pod_spec: Json) -> None:
    """Raise here what would be raised where *pod_spec* is looked at later, beside others: so it is
    its own object alone that is left alone.
    """
    containers = [*side_by_side(pod_spec), *(pod_spec.get("initContainers") or ())]
    gpu_limits(containers)
    for one in containers:
        command_words(one)
        limits_of(one).items()
        for port in one.get("ports") or ():
            port.get("containerPort")
        for variable in one.get("env") or ():
            variable.get("name")
    for taint in ({}, {"key": "any", "effect": KEEPS_OFF[0]}):
        labels = dict(pod_spec.get("nodeSelector") or {})
        place = {"name": pod_spec.get("nodeName") or "", "labels": labels}
        obstacle(pod_spec, {"metadata": place, "spec": {"taints": [taint]}})
    if not isinstance(pod_spec.get("terminationGracePeriodSeconds") or 0, int):
        raise TypeError("terminationGracePeriodSeconds is no whole number")


def _replica_failure(status: Json) -> tuple[str, str]:
    """Return why the cluster cannot make pods, and since which date; nothing if it can."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            text = " ".join(str(condition.get("message") or "").split())[:TEXT_MAX]
            return f"{condition.get('reason')}: {text}", condition.get("lastTransitionTime") or ""
    return "", ""


def as_text(value: object) -> str:
    """Return a *value* that is a text; raise TypeError otherwise."""
    if not isinstance(value, str):
        raise TypeError(f"expected a text, found {str(value)[: names.FOUND_MAX]}")
    return value


def _look_through_fields(entries: Iterable[Json]) -> None:
    """Raise what comes of managed fields that are none."""
    for entry in entries:
        fields = entry.get("fieldsV1") or {}
        (fields.get("f:spec") or {}).keys()
        ((fields.get("f:metadata") or {}).get("f:labels") or {}).keys()
        as_text(entry.get("manager") or "")
        as_text(entry.get("time") or "")


def batch_in_force(annotations: Mapping[str, str], pod_spec: Json) -> int | None:
    """Return the batch size in force in pods of *pod_spec*, as their command line tells it."""
    return _batch(annotations, pod_spec)[1]


def _batch(annotations: Mapping[str, str], pod_spec: Json) -> tuple[str, int | None]:
    """Return by which argument the engine in *pod_spec* is told its batch size, and how large it
    is (None: nobody knows).
    """
    containers = pod_spec.get("containers") or ()
    if argument := annotations.get(names.APPLY_MAX_BATCH, "").strip():
        container = annotations.get(names.APPLY_CONTAINER, "")
        batch = value_of(containers, argument, container=container)
        if batch is not None:
            batch *= engines_of(containers, argument, container=container)
        return argument, batch
    return batch_of(containers) or (unread_batch(containers), None)


def read_pod(obj: Json, *, epoch_s: float) -> Pod | None:
    """Return the pod *obj*, None where it has finished; *epoch_s* is the date of second 0 of the
    run [Unix time].
    """
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    if status.get("phase") in FINISHED:
        return None
    created = meta.get("creationTimestamp")
    phase, since = _phase(meta, spec, status)
    # A pod that was deleted names the end of its grace period.
    grace_s = (meta.get("deletionGracePeriodSeconds") or 0) if phase == "draining" else 0
    _look_through(spec)
    ports, path = _metrics(meta.get("annotations") or {}, spec)
    owner, labels = _owner(meta), meta.get("labels") or {}
    selects({"matchLabels": labels}, labels)
    return Pod(
        namespace=as_text(meta["namespace"]),
        name=as_text(meta["name"]),
        owner=owner,
        others=not owner
        and any(one.get("controller") for one in meta.get("ownerReferences") or ()),
        labels=labels,
        phase=phase,
        since_s=unix_s(since or created) - grace_s - epoch_s,
        created_s=unix_s(created) - epoch_s,
        node=as_text(spec.get("nodeName") or ""),
        started_s=_started_s(status, epoch_s=epoch_s),
        address=as_text(status.get("podIP") or ""),
        metrics_ports=ports,
        metrics_path=path,
        tls_ports=_tls_ports(meta.get("annotations") or {}, spec, ports),
        spec=spec,
        trouble=trouble_of(status) if phase in ("pending", "starting") else None,
        unready_s=unix_s(_unready_since(status) or created) - epoch_s,
        end_s=unix_s(since) - epoch_s if phase == "draining" else None,
        restarts=sum(
            int(one.get("restartCount") or 0) for one in status.get("containerStatuses") or ()
        ),
        restarts_s=_restarts_s(spec, status, epoch_s=epoch_s),
    )


def _unready_since(status: Json) -> str | None:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Ready" and condition.get("status") != "True":
            since: str | None = condition.get("lastTransitionTime")
            return since
    return None


@dataclass(frozen=True, slots=True)
class Memory:
    """What the latest lists told, for objects that stand in the next ones unchanged."""

    spaces: Remembered[str] = field(default_factory=Remembered)
    deployments: Remembered[Deployment] = field(default_factory=Remembered)
    pods: Remembered[Pod | None] = field(default_factory=Remembered)

    def namespaces(self, deployments: Iterable[Object]) -> list[str]:
        """Return the namespaces of *deployments*, each once."""
        reader = self.spaces.reader(namespace_of)
        found = set(each_read(deployments, reader, kind="Deployment", told=[]))
        return sorted(found - {""})


def read_servers(
    deployments: Iterable[Object],
    pods: Iterable[Object],
    *,
    epoch_s: float,
    memory: Memory | None = None,
) -> Servers:
    """Return the servers that managed *deployments* and *pods* make.

    An identity is namespace and name: Deployments of several namespaces that claim one name are
    servers of the names namespace/name. Of two in one namespace the older one is the server; the
    other is left alone, and told of. An object that cannot be read is told of, and stops nobody: a
    Deployment is left alone.
    """
    memory = memory or Memory()
    warnings: list[str] = []
    of_deployment = memory.deployments.reader(read_deployment)
    each = each_read(deployments, of_deployment, kind="Deployment", told=warnings)
    read = sorted(
        {(one.namespace, one.name): one for one in each}.values(),
        key=lambda one: (one.created, one.namespace, one.name),
    )
    spaces: dict[str, set[str]] = defaultdict(set)
    for one in read:
        if one.managed:
            spaces[one.claim].add(one.namespace)
    owners: dict[str, Deployment] = {}
    for claims in read:
        if not claims.managed:
            continue
        one = claims
        if len(spaces[claims.claim]) > 1:
            one = replace(claims, server=f"{claims.namespace}/{claims.claim}")
        first = owners.setdefault(one.server, one)
        if first is not one:
            warnings.append(
                f"{one.place}: left alone: {first.place} has its name {one.server} already"
            )
        elif one.problem:
            warnings.append(f"{one.server}: {one.problem}")
    of_pod = memory.pods.reader(partial(read_pod, epoch_s=epoch_s), how=epoch_s)
    found = each_read(pods, of_pod, kind="pod", told=warnings)
    # A list that comes in parts may show an object twice.
    alive = list({(pod.namespace, pod.name): pod for pod in found if pod is not None}.values())
    mine, unowned = assign(list(owners.values()), alive)
    by_name = {
        name: Server(deployment=one, pods=tuple(mine.get((one.namespace, one.name), ())))
        for name, one in sorted(owners.items())
    }
    return Servers(by_name=by_name, unowned=tuple(unowned), warnings=tuple(warnings))


def each_read(
    objects: Iterable[Any], reader: Callable[[Any], Read], *, kind: str, told: list[str]
) -> Iterator[Read]:
    """Yield what *reader* makes of each of *objects*; add a line to *told* for those that it cannot
    read.
    """
    for obj in objects:
        try:
            yield reader(obj)
        except STRANGE as error:
            told.append(
                f"{kind} {_label(obj)}: left alone: it is not as the API describes it "
                f"({type(error).__name__}: {str(error)[: names.FOUND_MAX]})"
            )


def left_alone_notes(objects: Iterable[Json]) -> list[str]:
    """Return a line for each of *objects* that has the label of what is managed and is left alone,
    for its kind or for what the label says.
    """

    def line(obj: Json) -> str:
        meta = obj["metadata"]
        where = f"{obj['kind']} {as_text(meta['namespace'])}/{as_text(meta['name'])}: left alone"
        if obj["kind"] != "Deployment":
            return f"{where}: label {names.MANAGED}: the loop looks after Deployments only"
        found = as_text(meta["labels"][names.MANAGED])[: names.FOUND_MAX]
        wanted = f'{where}: label {names.MANAGED}: expected "true" or "false"'
        return "" if found in ("true", "false") else f"{wanted}, found {found!r}"

    return list(filter(None, each_read(objects, line, kind="object", told=[])))


def namespace_of(obj: object) -> str:
    """Return the namespace of an object as listed; "" if it has none."""
    meta = obj.get("metadata") if isinstance(obj, Mapping) else None
    space = meta.get("namespace") if isinstance(meta, Mapping) else None
    return space if isinstance(space, str) else ""


def _label(obj: object) -> str:
    """Return how to name an object of which nothing is sure."""
    if isinstance(obj, bytes):
        try:
            obj = parsed(obj)
        except ValueError:
            obj = None
    meta = obj.get("metadata") if isinstance(obj, Mapping) else None
    parts = [meta.get(key) for key in ("namespace", "name")] if isinstance(meta, Mapping) else []
    return "/".join(str(part)[: names.FOUND_MAX] for part in parts if part) or "without a name"


def scraped(
    server: Server,
    *,
    reduced_s: float | None = None,
    unowned: Iterable[Pod] = (),
    known: Collection[str] = (),
) -> ScrapedServer:
    """Return *server* as a source of metrics is told of it, of which the loop took replicas away at
    *reduced_s*. *unowned* are pods of nobody, of which some may be named as those of *server*: who
    looks into what a pod does takes its labels away. *known* are the models of the data.
    """
    one = server.deployment
    namespace = one.namespace
    containers = side_by_side(one.pod_spec)
    return ScrapedServer(
        name=server.name,
        namespace=one.namespace,
        workload=one.name,
        reduced_s=reduced_s,
        released=frozenset(
            pod.name for pod in unowned if pod.namespace == namespace and owns(one.name, pod.name)
        ),
        engines=_engines(containers),
        models=frozenset({one.model} if one.model else known),
        containers={
            port["containerPort"]: str(container.get("name") or "")
            for container in containers
            for port in container.get("ports") or ()
            if isinstance(port.get("containerPort"), int)
        },
        pods=tuple(
            ScrapedPod(
                name=pod.name,
                namespace=pod.namespace,
                phase=pod.phase,
                since_s=pod.since_s,
                created_s=pod.created_s,
                started_s=pod.started_s,
                restarts_s=pod.restarts_s,
                address=pod.address,
                ports=pod.metrics_ports,
                path=pod.metrics_path,
                tls_ports=pod.tls_ports,
            )
            for pod in server.pods
        ),
    )


def assign(
    deployments: Sequence[Deployment], pods: Iterable[Pod]
) -> tuple[dict[tuple[str, str], list[Pod]], list[Pod]]:
    """Return the pods of every Deployment by its namespace and name, and the pods of nobody here.

    The name of a pod's ReplicaSet tells its Deployment; only where there is none do selectors have
    to be asked, which several Deployments may have in common. Who has another controller (a
    StatefulSet, a Rollout) is nobody's here, whatever its labels.
    """
    mine: dict[tuple[str, str], list[Pod]] = defaultdict(list)
    known = {(one.namespace, one.name) for one in deployments}
    spaces: dict[str, list[Deployment]] = defaultdict(list)
    for one in deployments:
        spaces[one.namespace].append(one)
    unowned = []
    for pod in pods:
        owner: str | None = pod.owner
        if not owner and not pod.others:
            owner = next(
                (one.name for one in spaces[pod.namespace] if selects(one.selector, pod.labels)),
                None,
            )
        key = (pod.namespace, owner or "")
        if key in known:
            mine[key].append(pod)
        else:
            unowned.append(pod)
    return mine, unowned


def _phase(meta: Json, spec: Json, status: Json) -> tuple[PodPhase, str | None]:
    """Return the phase of a pod, and when it entered it, where that is told."""
    if meta.get("deletionTimestamp"):
        return "draining", meta["deletionTimestamp"]
    conditions = {one.get("type"): one for one in status.get("conditions") or ()}
    ready, scheduled = conditions.get("Ready", {}), conditions.get("PodScheduled", {})
    if ready.get("status") == "True":
        return "ready", ready.get("lastTransitionTime")
    if spec.get("nodeName") or scheduled.get("status") == "True":
        return "starting", scheduled.get("lastTransitionTime")
    return "pending", None


def _owner(meta: Json) -> str:
    """Return the name of the Deployment: a ReplicaSet is named after it, with the hash of its
    template behind.
    """
    template_hash = (meta.get("labels") or {}).get("pod-template-hash")
    for reference in meta.get("ownerReferences") or ():
        if reference.get("controller") and reference.get("kind") == "ReplicaSet" and template_hash:
            owner: str = reference.get("name") or ""
            if owner.endswith(f"-{template_hash}"):
                return owner.removesuffix(f"-{template_hash}")
    return ""


def _engines(containers: Sequence[Json]) -> frozenset[str]:
    """Return the names of those of *containers* that run an engine: they have GPUs, or a command
    line that begins one (beside one that has GPUs an engine may use them without asking).
    """
    begun = (str(one.get("name") or "") for one in containers if begins_engine(one))
    return engine_containers(containers) | frozenset(begun)


def _metrics(annotations: Mapping[str, str], spec: Json) -> tuple[tuple[int, ...], str]:
    """Return the ports and the path of the metrics: the port annotated for Prometheus, else those
    that are named so; besides, the likeliest of each further container with an engine; if there is
    none of these, that of each container.

    Several are there where a pod runs several engines, each with a page of its own.
    """
    path = annotations.get("prometheus.io/path") or _usual_path(spec)
    containers = [one for one in side_by_side(spec) if _tcp_ports(one)]
    engines = _engines(containers)
    annotated = whole(annotations.get("prometheus.io/port", ""), largest=PORT_MAX)
    if annotated is not None:
        # One annotation has one port: of the engine that has it, or of something that tells of all.
        of_engine = any(one.get("name") in engines and _has(one, annotated) for one in containers)
        others = [
            port["containerPort"]
            for one in containers
            if of_engine and one.get("name") in engines and not _has(one, annotated)
            for port in _named_for_metrics(one) or _likeliest(one)
        ]
        return tuple(dict.fromkeys([annotated, *others])), path
    named = [
        port["containerPort"]
        for one in containers
        for port in _named_for_metrics(one)
        or (_likeliest(one) if one.get("name") in engines else [])
    ]
    # Which container is the engine's, no name tells: a proxy may stand before it.
    numbers = named or [port["containerPort"] for one in containers for port in _likeliest(one)]
    return tuple(dict.fromkeys(numbers)) or (METRICS_PORT,), path


def _usual_path(spec: Json) -> str:
    words = (
        str(word)
        for one in side_by_side(spec)
        for word in (*(one.get("command") or ()), *(one.get("args") or ()))
    )
    return TENSORRT_PATH if any(map(_TENSORRT.search, words)) else METRICS_PATH


def _has(container: Json, port: int) -> bool:
    return any(one["containerPort"] == port for one in _tcp_ports(container))


def _tls_ports(annotations: Mapping[str, str], spec: Json, ports: Sequence[int]) -> frozenset[int]:
    """Return those of *ports* that speak HTTPS: as annotated for Prometheus, or as probes do."""
    if scheme := annotations.get("prometheus.io/scheme"):
        return frozenset(ports if scheme.lower() == "https" else ())
    probed = {
        port
        for container in side_by_side(spec)
        for port, scheme in _probed(container)
        if scheme == "HTTPS"
    }
    return frozenset(port for port in ports if port in probed)


def _probed(container: Json) -> Iterator[tuple[Any, str]]:
    """Yield the ports at which probes ask *container* by HTTP, and how."""
    numbers = {one.get("name"): one["containerPort"] for one in container.get("ports") or ()}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        if told := (container.get(probe) or {}).get("httpGet"):
            port = told.get("port")
            yield numbers.get(port, port), told.get("scheme") or "HTTP"


def _tcp_ports(container: Json) -> list[Json]:
    return [one for one in container.get("ports") or () if (one.get("protocol") or "TCP") == "TCP"]


def _likeliest(container: Json) -> list[Json]:
    """Return the ports of *container* that may show metrics, as far as anything tells: one that
    probes ask by HTTP, else the first. One without a name may be for the probes alone, as one is
    that is named so: of these the first port is asked too, or it alone.
    """
    ports, probed = _tcp_ports(container), {port for port, _ in _probed(container)}
    asked = next((port for port in ports if port["containerPort"] in probed), ports[0])
    if _PORT_OF_PROBES.search(asked.get("name") or ""):
        return ports[:1]
    return [asked] if asked is ports[0] or asked.get("name") else [ports[0], asked]


def _named_for_metrics(container: Json) -> list[Json]:
    return [
        port for port in _tcp_ports(container) if _PORT_OF_METRICS.fullmatch(port.get("name") or "")
    ]


def _started_s(status: Json, *, epoch_s: float) -> float | None:
    """Return when the youngest container of a pod began [s of the run], if all of them run."""
    states = [
        ((one.get("state") or {}).get("running") or {}).get("startedAt")
        for one in status.get("containerStatuses") or ()
    ]
    if not states or not all(states):
        return None
    return max(unix_s(text) for text in states) - epoch_s


def _restarts_s(spec: Json, status: Json, *, epoch_s: float) -> tuple[float, ...]:
    """Return when the container of a pod with the engine began the last two times, if it has come
    up again since the first one; nothing of a pod with several.
    """
    told = status.get("containerStatuses") or ()
    if not any(one.get("restartCount") for one in told):
        return ()  # as nearly always
    containers = side_by_side(spec)
    engines = _engines(containers) or {str(one.get("name") or "") for one in containers}
    if len(engines) != 1:
        return ()
    return tuple(
        unix_s(state["startedAt"]) - epoch_s
        for one in told
        if one.get("name") in engines and one.get("restartCount")
        for states in (one.get("lastState") or {}, one.get("state") or {})
        for state in states.values()
        if isinstance(state, dict) and state.get("startedAt")
    )


def unix_s(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0
