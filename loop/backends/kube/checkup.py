"""What is right and wrong with a cluster for the loop, one finding after the other, each with what
to do about it. It changes nothing.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from loop.backends.kube import labels as names
from loop.backends.kube.client import FORBIDDEN, NOT_FOUND, UNAUTHORIZED, ApiError, KubeClient
from loop.backends.kube.gpus import gpu_limit
from loop.backends.kube.nodes import above_nodes, read_capacity
from loop.backends.kube.patches import tenant_of
from loop.backends.kube.read import (
    Deployment,
    Server,
    Servers,
    left_alone_notes,
    read_servers,
    scraped,
)
from loop.backends.kube.rivals import read_autoscalers, rival_notes
from loop.backends.kube.settings import CLOCKS_S_MAX
from loop.backends.metrics.source import Shown, ShowsNames
from loop.signals.models import matched_model
from loop.signals.survey import survey
from loop.spec import gpus_per_replica
from twin.datafile import did_you_mean

if TYPE_CHECKING:
    from loop.backends.metrics.source import MetricsSource
    from loop.spec import SystemData

Json = Mapping[str, Any]
Level = Literal["ok", "note", "wrong"]
Permission = tuple[str, str, str]  # verb, group, resource

# What every loop asks of the API server.
PERMISSIONS: tuple[Permission, ...] = (
    ("list", "apps", "deployments"),
    ("get", "apps", "deployments"),
    ("patch", "apps", "deployments"),
    ("list", "", "pods"),
)
# What it can do without, told by its beginning.
SEES_AUTOSCALERS: Permission = ("list", "autoscaling", "horizontalpodautoscalers")
AUTOSCALERS = "list horizontalpodautoscalers"
LESS = "correct capacity-data.json, or use --capacity nodes"
ROLE = "the ClusterRole inferno of yamls/deploy/deploy-loop.yaml allows it"
CREDENTIALS = "check the address and the credentials of the kubeconfig"
# By these words in images and command lines one knows an inference server.
ENGINES = ("vllm", "sglang", "text-generation-inference", "tgi", "tritonserver", "llama.cpp")
NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of a report. wrong: the loop cannot do its work so; note: it can, in part."""

    level: Level
    subject: str
    text: str
    todo: str = ""

    @property
    def line(self) -> str:
        """Return it as people read it."""
        what = f"{self.level:5}  {self.subject}: {self.text}"
        return f"{what}; to do: {self.todo}" if self.todo else what


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a loop would be started with. permissions: those that its options need besides;
    pause_config_map: the NAMESPACE/NAME of the ConfigMap that may pause it ("": none); types of
    accelerators by name are those of *data*.
    """

    data: SystemData
    namespaces: tuple[str, ...] = ()
    permissions: tuple[Permission, ...] = ()
    from_nodes: bool = False
    pause_config_map: str = ""
    labels_stand_in: bool = True
    types: Mapping[str, str] = field(default_factory=dict)


def examine(
    client: KubeClient, source: MetricsSource, question: Question, *, epoch_s: float
) -> Iterator[Finding]:
    """Yield what is right and wrong, as it is found. *epoch_s* is the date of second 0 by the clock
    of this machine, by which dates are read where the cluster does not tell its own.
    """
    try:
        yield Finding(level="ok", subject="api", text=f"Kubernetes {client.version()} answers")
    except ApiError as error:
        if error.status not in (FORBIDDEN, NOT_FOUND):
            yield Finding(level="wrong", subject="api", text=str(error), todo=CREDENTIALS)
            return
        # Some let nobody ask for it; what is needed is asked for below.
        text = f"it answers, but does not tell its version: {error}"
        yield Finding(level="note", subject="api", text=text)
    yield from _permissions(client, question)
    its_s = client.take_epoch_s()
    if its_s is not None and abs(its_s - epoch_s) > CLOCKS_S_MAX:
        side = "ahead of" if its_s > epoch_s else "behind"
        text = f"that of the cluster is {abs(its_s - epoch_s):.0f} s {side} that of this machine"
        yield Finding(level="note", subject="clock", text=text, todo="set the wrong one, by NTP")
        epoch_s = its_s
    spaces = question.namespaces or ("",)
    listed: list[Json] = []
    pods: list[Json] = []
    unlisted = yield from _list(client, spaces, listed, pods)
    spaces = tuple(space for space in spaces if space not in unlisted)
    if not spaces:
        return
    managed = [one for one in listed if _labels(one).get(names.MANAGED) == "true"]
    servers = read_servers(managed, pods, epoch_s=epoch_s)
    yield from _deployments(listed, managed, servers)
    with suppress(ApiError):
        for line in left_alone_notes(one for space in spaces for one in client.left_alone(space)):
            todo = 'make it a Deployment with that label "true", or take the label away'
            yield Finding(level="wrong", subject="deployments", text=line, todo=todo)
    for server in servers.by_name.values():
        yield data_finding(server.deployment, question.data)
        for line in server.deployment.unread:
            yield Finding(level="note", subject=server.name, text=line)
    yield from _others(client, servers, spaces)
    yield from _metrics(list(servers.by_name.values()), source, question)
    yield from _capacity(client, servers, question)


def _list(
    client: KubeClient, spaces: Sequence[str], listed: list[Json], pods: list[Json]
) -> Generator[Finding, None, list[str]]:
    """Add the Deployments and pods of *spaces*; yield why some cannot be listed, and return
    which.
    """
    unlisted: list[str] = []
    for space in spaces:
        try:
            found, its_pods = client.all_deployments(space), client.pods(space)
        except ApiError as error:
            todo = CREDENTIALS if error.status == UNAUTHORIZED else ROLE
            subject = f"namespace {space}" if space else "deployments"
            yield Finding(level="wrong", subject=subject, text=str(error), todo=todo)
            unlisted.append(space)
        else:
            listed += found
            pods += its_pods
    return unlisted


def _permissions(client: KubeClient, question: Question) -> Iterator[Finding]:
    wanted = [
        (permission, space)
        for permission in (*PERMISSIONS, SEES_AUTOSCALERS, *question.permissions)
        for space in question.namespaces or ("",)
    ]
    if question.pause_config_map:
        wanted.append((("get", "", "configmaps"), question.pause_config_map.partition("/")[0]))
    refused = []
    try:
        for (verb, group, resource), space in wanted:
            if not client.may(verb, group, resource, namespace=space):
                where = f" in {space}" if space else ""
                refused.append(f"{verb} {resource}{where}")
    except ApiError as error:
        yield Finding(level="note", subject="permissions", text=f"cannot be asked for: {error}")
        return
    if unseen := [line for line in refused if line.startswith(AUTOSCALERS)]:
        text = f"not allowed: {', '.join(unseen)}: who else scales the servers is not seen"
        yield Finding(level="note", subject="permissions", text=text, todo=ROLE)
        refused = [line for line in refused if line not in unseen]
    if refused:
        text = f"not allowed: {', '.join(refused)}"
        yield Finding(level="wrong", subject="permissions", text=text, todo=ROLE)
    else:
        yield Finding(
            level="ok",
            subject="permissions",
            text=f"all {len(wanted)} that the loop needs are given",
        )


def _deployments(
    listed: Sequence[Json], managed: Sequence[Json], servers: Servers
) -> Iterator[Finding]:
    others = [one for one in listed if one not in managed and _serves(one)]
    counts = f"{len(listed)} seen, {len(managed)} with the label {names.MANAGED}"
    if not managed:
        todo = "inferno adopt deployment/NAME --model … --class … labels one"
        yield Finding(level="wrong", subject="deployments", text=counts, todo=todo)
    else:
        yield Finding(level="ok", subject="deployments", text=counts)
    for one in others[:NAMED]:
        name, space = one["metadata"]["name"], one["metadata"]["namespace"]
        yield Finding(
            level="note",
            subject=f"{space}/{name}",
            text="looks like an inference server, and is not managed",
            todo=f"if it is to be: inferno adopt deployment/{name} -n {space} --model … --class …",
        )
    if len(others) > NAMED:
        text = f"{len(others) - NAMED} more that look like inference servers are not managed"
        yield Finding(level="note", subject="deployments", text=text)
    # What is wrong with one of them is told with it, and what to do.
    own = {f"{name}: {server.deployment.problem}" for name, server in servers.by_name.items()}
    for line in servers.warnings:
        if line not in own:
            yield Finding(level="wrong", subject="deployments", text=line)


def data_finding(one: Deployment, data: SystemData) -> Finding:
    """Return whether the data know what the labels of a Deployment name."""
    models = sorted({model for model, _ in data.perf})
    one = replace(one, model=matched_model((one.model,), models) or one.model)
    adopt = f"inferno adopt deployment/{one.name} -n {one.namespace} --model … --class …"
    on = sorted(accelerator for model, accelerator in data.perf if model == one.model)

    def wrong(text: str, todo: str) -> Finding:
        return Finding(level="wrong", subject=one.server, text=text, todo=todo)

    if one.problem:
        return wrong(one.problem, "correct it")
    if not one.model:
        return wrong(f"no label {names.MODEL}", adopt)
    if one.model not in models:
        meant = did_you_mean(one.model, models)
        return wrong(
            f"model {one.model!r} is not in the data, which know {_some(models)}{meant}",
            f"correct the label {names.MODEL} (or the annotation {names.MODEL_ID}), or add the "
            "model to model-data.json",
        )
    if one.service_class not in data.classes:
        meant = did_you_mean(one.service_class, sorted(data.classes))
        known = _some(sorted(data.classes))
        return wrong(
            f"class {one.service_class!r} is not in the data, which know {known}{meant}",
            f"correct the label {names.CLASS}, or add the class to serviceclass-data.json",
        )
    if one.accelerator and one.accelerator not in on:
        return wrong(
            f"model {one.model!r} has no latency model on {one.accelerator!r}, only on {_some(on)}",
            f"correct the label {names.ACCELERATOR}, or add the pair to model-data.json",
        )
    what = f"{one.model}, {one.service_class}, {one.wanted} x {one.accelerator or '?'}"
    if data.target(service_class=one.service_class, model=one.model) is None:
        text = f"{what}: its class has no targets for its model"
        todo = "add them to serviceclass-data.json"
        return Finding(level="note", subject=one.server, text=text, todo=todo)
    if not one.accelerator:
        text = f"{what}: no label {names.ACCELERATOR}"
        return Finding(level="note", subject=one.server, text=text, todo=f"{adopt} --accelerator …")
    return Finding(level="ok", subject=one.server, text=f"{what}: all are in the data")


def _others(client: KubeClient, servers: Servers, spaces: Sequence[str]) -> Iterator[Finding]:
    """Yield who else decides on replicas: autoscalers, and people who have paused a server."""
    deployments = [server.deployment for server in servers.by_name.values()]
    with suppress(ApiError):  # what is not allowed was told of above
        listed = [
            one
            for space in spaces
            for listing in (client.autoscalers, client.scaled_objects)
            for one in listing(space)
        ]
        told: list[str] = []
        lines = [*rival_notes(deployments, read_autoscalers(listed, told=told)), *told]
        for line in lines:
            yield Finding(level="note", subject="autoscalers", text=line)
    for one in deployments:
        if one.paused:
            text = f"annotation {names.PAUSED}: nothing is asked for it"
            yield Finding(level="note", subject=one.server, text=text)


def _metrics(
    servers: Sequence[Server], source: MetricsSource, question: Question
) -> Iterator[Finding]:
    if not isinstance(source, ShowsNames):
        for server in servers:
            yield _labelled(server.deployment)
        return
    shown = source.show_names([scraped(server) for server in servers])
    if shown.error:
        todo = "check --prometheus and its credentials"
        yield Finding(level="wrong", subject="metrics", text=shown.error, todo=todo)
        return
    if source.name == "prometheus":
        yield Finding(level="ok", subject="metrics", text="Prometheus answers")
    for server in servers:
        yield metrics_finding(server, source, shown, question)


def metrics_finding(
    server: Server, source: ShowsNames, shown: Shown, question: Question
) -> Finding:
    """Return which metrics of a server were found, and which not."""
    name, found = server.name, survey(shown.names.get(server.name, ()), names=source.table)
    if found.sufficient:
        level: Level = "note" if found.missing else "ok"
        return Finding(level=level, subject=f"{name} metrics", text=found.line)
    if not server.count("ready"):
        text = "none of its pods is ready, so none has metrics"
        return Finding(level="note", subject=f"{name} metrics", text=text)
    if question.labels_stand_in and server.deployment.load is not None:
        text = f"{found.line}: its load labels count, unless the controller is given --metrics"
        return Finding(level="note", subject=f"{name} metrics", text=text)
    if problem := shown.problems.get(name):
        todo = "check the port of its metrics, and the permission to get pods/proxy"
        return Finding(level="wrong", subject=f"{name} metrics", text=problem, todo=todo)
    todo = "have its pods scraped (PodMonitor); --namespace-label and --pod-label name the labels"
    if options := shown.elsewhere.get(name):
        todo = f"its series name their pods otherwise: use {options}"
    if found.others or found.found:
        todo = "name its metrics in a file for --metric-names (docs/kubernetes.md)"
    return Finding(level="wrong", subject=f"{name} metrics", text=found.line, todo=todo)


def _labelled(one: Deployment) -> Finding:
    subject = f"{one.server} load"
    if one.load is None:
        text, todo = f"no label {names.LOAD_RPM}", "inferno emulator writes it, or use --metrics"
        return Finding(level="wrong", subject=subject, text=text, todo=todo)
    return Finding(level="ok", subject=subject, text=f"{one.load.rate_rpm:g} rpm by its labels")


def _capacity(client: KubeClient, servers: Servers, question: Question) -> Iterator[Finding]:
    """Yield how many GPUs there are, by the data and by the nodes."""
    data = question.data
    told = ", ".join(f"{count} {kind}" for kind, count in data.capacity.items()) or "none"
    try:
        nodes = client.nodes()
    except ApiError as error:
        level: Level = "wrong" if question.from_nodes else "note"
        text = f"{told} by the data; the nodes cannot be read: {error}"
        yield Finding(level=level, subject="capacity", text=text, todo=ROLE)
        return
    found = read_capacity(
        nodes,
        tenants=[
            tenant_of(server, types=question.types, gpus=gpus_per_replica(data))
            for server in servers.by_name.values()
        ],
        others=servers.unowned,
        types=frozenset(question.types.values()),
    )
    there = {kind: view.total for kind, view in found.by_type.items()}
    seen = ", ".join(f"{count} {kind}" for kind, count in there.items()) or "none"
    text = f"{told} by the data; {seen} on nodes"
    if there == dict(data.capacity):
        text = f"{told} by the data and on nodes"
    yield Finding(level="ok", subject="capacity", text=text)
    for line in (*found.warnings, *found.notes):
        yield Finding(level="note", subject="capacity", text=line)
    if question.from_nodes or data.optimizer.unlimited:
        return
    used = {question.types.get(one.deployment.accelerator, "") for one in servers.by_name.values()}
    for line in above_nodes(data.capacity, found, used=used):
        yield Finding(level="note", subject="capacity", text=line, todo=LESS)


def _serves(deployment: Json) -> bool:
    """Tell whether *deployment* looks like an inference server."""
    spec = ((deployment.get("spec") or {}).get("template") or {}).get("spec") or {}
    containers = spec.get("containers") or ()
    words = " ".join(
        str(part)
        for one in containers
        for part in (one.get("image"), *(one.get("command") or ()), *(one.get("args") or ()))
    ).lower()
    return gpu_limit(containers) is not None or any(engine in words for engine in ENGINES)


def _labels(obj: Json) -> Json:
    labels: Json = (obj.get("metadata") or {}).get("labels") or {}
    return labels


def _some(known: Iterable[str]) -> str:
    every = list(known)
    more = f" and {len(every) - NAMED} more" if len(every) > NAMED else ""
    return ", ".join(every[:NAMED]) + more if every else "none"
