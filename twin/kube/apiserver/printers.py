"""Printers: the Tables that kubectl prints, and the other forms that a client may accept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from twin.kube.apiserver import resources
from twin.kube.apiserver.errors import not_acceptable
from twin.kube.apiserver.objects import Json, at_path, name_of
from twin.kube.apiserver.resources import Resource
from twin.kube.apiserver.storage import parsed_date

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400


def age(then: str | None, now: datetime) -> str:
    """Return how long ago *then* was, as kubectl says it: 5s, 2m30s, 47m, 3h5m, 2d, 1y20d."""
    if not then:
        return "<unknown>"
    return duration_text(now - parsed_date(then))


def duration_text(duration: timedelta) -> str:
    """Return *duration* in the two units that matter, and in one where the second does not."""
    seconds = int(duration.total_seconds())
    if seconds < 0:
        return "0s" if seconds > -2 else "<invalid>"
    if seconds < 2 * _MINUTE:
        return f"{seconds}s"
    if seconds < 10 * _MINUTE:
        return _two(seconds, _MINUTE, "m", 1, "s")
    if seconds < 3 * _HOUR:
        return f"{seconds // _MINUTE}m"
    if seconds < 8 * _HOUR:
        return _two(seconds, _HOUR, "h", _MINUTE, "m")
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR}h"
    if seconds < 8 * _DAY:
        return _two(seconds, _DAY, "d", _HOUR, "h")
    if seconds < 2 * _YEAR:
        return f"{seconds // _DAY}d"
    return _two(seconds, _YEAR, "y", _DAY, "d")


def _two(seconds: int, large: int, large_name: str, small: int, small_name: str) -> str:
    rest = seconds % large // small
    return f"{seconds // large}{large_name}" + (f"{rest}{small_name}" if rest else "")


Cells = list[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns after the first, those of -o wide, and the cells under all of them.

    The first column is the name of the object, unless *first* gives it another title: then the
    cells have it too.
    """

    names: tuple[str, ...]
    wide: tuple[str, ...] = ()
    cells: Callable[[Json, datetime], Cells]
    first: str = "Name"


def table(
    resource: Resource,
    objects: Sequence[Json],
    *,
    now: datetime,
    include: str = "Metadata",
    header: bool = True,
) -> Json:
    """Return *objects* as a Table at *now*; *include* says what of each object stands beside its
    row.
    """
    columns = _COLUMNS.get(resource, _PLAIN)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": _definitions(columns) if header else None,
        "rows": [
            {"cells": _cells(columns, obj, now), "object": _beside(obj, include)} for obj in objects
        ],
    }


def _cells(columns: Columns, obj: Json, now: datetime) -> Cells:
    named = [name_of(obj)] if columns.first == "Name" else []
    return [*named, *columns.cells(obj, now)]


def _definitions(columns: Columns) -> list[Json]:
    kinds = {
        "Desired": "integer",
        "Current": "integer",
        "Up-to-date": "integer",
        "Available": "integer",
    }
    kinds |= {"Data": "integer", "Secrets": "integer", "MaxPods": "integer", "Replicas": "integer"}
    return [
        {
            "name": name,
            "type": kinds.get(name, "string"),
            "format": "name" if name == "Name" else "",
            "description": "",
            "priority": priority,
        }
        for priority, names in ((0, (columns.first, *columns.names)), (1, columns.wide))
        for name in names
    ]


def _beside(obj: Json, include: str) -> Json | None:
    if include == "Object":
        return obj
    if include == "None":
        return None
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": obj["metadata"],
    }


# -- the kinds


def _age(obj: Json, now: datetime) -> str:
    return age(obj["metadata"].get("creationTimestamp"), now)


def _plain(obj: Json, now: datetime) -> Cells:
    return [_age(obj, now)]


def _deployment(obj: Json, now: datetime) -> Cells:
    status = obj.get("status") or {}
    desired = at_path(obj, "spec.replicas") or 0
    return [
        f"{status.get('readyReplicas', 0)}/{desired}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        _age(obj, now),
        *_template_cells(obj),
    ]


def _replica_set(obj: Json, now: datetime) -> Cells:
    status = obj.get("status") or {}
    desired = at_path(obj, "spec.replicas") or 0
    counts = [desired, status.get("replicas", 0), status.get("readyReplicas", 0)]
    return [*counts, _age(obj, now), *_template_cells(obj)]


def _stateful_set(obj: Json, now: datetime) -> Cells:
    desired, ready = at_path(obj, "spec.replicas") or 0, at_path(obj, "status.readyReplicas") or 0
    return [f"{ready}/{desired}", _age(obj, now), *_template_cells(obj)[:2]]


def _autoscaler(obj: Json, now: datetime) -> Cells:
    spec = obj["spec"]
    target = spec["scaleTargetRef"]
    return [
        f"{target['kind']}/{target['name']}",
        "<unknown>",
        str(spec["minReplicas"]),
        spec["maxReplicas"],
        at_path(obj, "status.currentReplicas") or 0,
        _age(obj, now),
    ]


def _template_cells(obj: Json) -> Cells:
    containers = at_path(obj, "spec.template.spec.containers") or []
    labels = at_path(obj, "spec.selector.matchLabels") or {}
    return [
        ",".join(container["name"] for container in containers),
        ",".join(container.get("image", "") for container in containers),
        ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "<none>",
    ]


def _pod(obj: Json, now: datetime) -> Cells:
    statuses = at_path(obj, "status.containerStatuses") or []
    total = len(at_path(obj, "spec.containers") or ())
    return [
        f"{sum(bool(status.get('ready')) for status in statuses)}/{total}",
        pod_word(obj),
        _restarts(statuses, now),
        _age(obj, now),
        at_path(obj, "status.podIP") or "<none>",
        at_path(obj, "spec.nodeName") or "<none>",
        "<none>",
        "<none>",
    ]


def pod_word(obj: Json) -> str:
    """Return what kubectl shows as the STATUS of a pod: its phase, or why it is not further."""
    if "deletionTimestamp" in obj["metadata"]:
        return "Terminating"
    for status in at_path(obj, "status.containerStatuses") or ():
        for state in ("waiting", "terminated"):
            reason = at_path(status, f"state.{state}.reason")
            if reason:
                return str(reason)
    return str(at_path(obj, "status.reason") or at_path(obj, "status.phase") or "Unknown")


def _restarts(statuses: Sequence[Json], now: datetime) -> str:
    count = sum(status.get("restartCount", 0) for status in statuses)
    last = max(
        (at_path(status, "lastState.terminated.finishedAt") or "" for status in statuses),
        default="",
    )
    return f"{count} ({age(last, now)} ago)" if count and last else str(count)


def _node(obj: Json, now: datetime) -> Cells:
    conditions = {each["type"]: each["status"] for each in at_path(obj, "status.conditions") or ()}
    word = "Ready" if conditions.get("Ready") == "True" else "NotReady"
    if at_path(obj, "spec.unschedulable"):
        word += ",SchedulingDisabled"
    about = at_path(obj, "status.nodeInfo") or {}
    address = next((each["address"] for each in at_path(obj, "status.addresses") or ()), "<none>")
    more = [
        about.get(key, "<unknown>")
        for key in ("osImage", "kernelVersion", "containerRuntimeVersion")
    ]
    return [
        word,
        "<none>",
        _age(obj, now),
        about.get("kubeletVersion", ""),
        address,
        "<none>",
        *more,
    ]


def _event(obj: Json, now: datetime) -> Cells:
    involved = obj.get("involvedObject") or {}
    seen = age(
        obj.get("lastTimestamp")
        or obj.get("eventTime")
        or obj["metadata"].get("creationTimestamp"),
        now,
    )
    first = age(obj.get("firstTimestamp") or obj["metadata"].get("creationTimestamp"), now)
    thing = f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}"
    return [
        *(seen, obj.get("type", ""), obj.get("reason", ""), thing, obj.get("message", "").strip()),
        *(
            involved.get("fieldPath", ""),
            at_path(obj, "source.component") or "",
            first,
            str(obj.get("count", 1)),
        ),
        name_of(obj),
    ]


def _namespace(obj: Json, now: datetime) -> Cells:
    return [at_path(obj, "status.phase") or "", _age(obj, now)]


def _config_map(obj: Json, now: datetime) -> Cells:
    return [len(obj.get("data") or ()) + len(obj.get("binaryData") or ()), _age(obj, now)]


def _secret(obj: Json, now: datetime) -> Cells:
    return [obj.get("type", ""), len(obj.get("data") or ()), _age(obj, now)]


def _lease(obj: Json, now: datetime) -> Cells:
    return [at_path(obj, "spec.holderIdentity") or "", _age(obj, now)]


def _service(obj: Json, now: datetime) -> Cells:
    spec = obj.get("spec") or {}
    ports = ",".join(
        f"{port['port']}/{port.get('protocol', 'TCP')}" for port in spec.get("ports") or ()
    )
    labels = ",".join(
        f"{key}={value}" for key, value in sorted((spec.get("selector") or {}).items())
    )
    cells = [spec.get("type", ""), spec.get("clusterIP", "<none>"), "<none>", ports or "<none>"]
    return [*cells, _age(obj, now), labels or "<none>"]


def _service_account(obj: Json, now: datetime) -> Cells:
    return [len(obj.get("secrets") or ()), _age(obj, now)]


_TEMPLATE = ("Containers", "Images", "Selector")
_PLAIN = Columns(names=("Age",), cells=_plain)
_COLUMNS: dict[Resource, Columns] = {
    resources.DEPLOYMENTS: Columns(
        names=("Ready", "Up-to-date", "Available", "Age"), wide=_TEMPLATE, cells=_deployment
    ),
    resources.REPLICA_SETS: Columns(
        names=("Desired", "Current", "Ready", "Age"), wide=_TEMPLATE, cells=_replica_set
    ),
    resources.STATEFUL_SETS: Columns(
        names=("Ready", "Age"), wide=("Containers", "Images"), cells=_stateful_set
    ),
    resources.AUTOSCALERS: Columns(
        names=("Reference", "Targets", "MinPods", "MaxPods", "Replicas", "Age"), cells=_autoscaler
    ),
    resources.PODS: Columns(
        names=("Ready", "Status", "Restarts", "Age"),
        wide=("IP", "Node", "Nominated Node", "Readiness Gates"),
        cells=_pod,
    ),
    resources.NODES: Columns(
        names=("Status", "Roles", "Age", "Version"),
        wide=("Internal-IP", "External-IP", "OS-Image", "Kernel-Version", "Container-Runtime"),
        cells=_node,
    ),
    resources.EVENTS: Columns(
        names=("Type", "Reason", "Object", "Message"),
        wide=("Subobject", "Source", "First Seen", "Count", "Name"),
        cells=_event,
        first="Last Seen",
    ),
    resources.NAMESPACES: Columns(names=("Status", "Age"), cells=_namespace),
    resources.CONFIG_MAPS: Columns(names=("Data", "Age"), cells=_config_map),
    resources.SECRETS: Columns(names=("Type", "Data", "Age"), cells=_secret),
    resources.LEASES: Columns(names=("Holder", "Age"), cells=_lease),
    resources.SERVICES: Columns(
        names=("Type", "Cluster-IP", "External-IP", "Port(s)", "Age"),
        wide=("Selector",),
        cells=_service,
    ),
    resources.SERVICE_ACCOUNTS: Columns(names=("Secrets", "Age"), cells=_service_account),
}


_JSON = ("application/json", "application/*", "*/*")
_FORMS = ("Table", "PartialObjectMetadata", "PartialObjectMetadataList", "APIGroupDiscoveryList")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One form of an answer: kind is empty for the object as it is."""

    kind: str = ""
    version: str = ""


def forms(accept: str, *, offered: Sequence[str] = _FORMS) -> Form:
    """Return the first form that *accept* names and that is *offered*. Raise ApiError 406 where
    there is none.
    """
    for part in (accept or "*/*").split(","):
        media_type, *rest = (word.strip() for word in part.split(";"))
        parameters = dict(word.partition("=")[::2] for word in rest)
        if media_type not in _JSON:
            continue
        kind = parameters.get("as", "")
        if not kind:
            return Form()
        if kind in offered:
            return Form(kind=kind, version=parameters.get("v", ""))
    raise not_acceptable("application/json")


def shaped(
    body: Json,
    form: Form,
    resource: Resource,
    *,
    now: datetime,
    query: Mapping[str, str],
    header: bool = True,
) -> Json:
    """Return *body*, an object or a list of *resource*, in *form*; anything else (a Status, a
    Scale) as it is.
    """
    listed = body.get("kind") == f"{resource.kind}List"
    if not form.kind or not (listed or body.get("kind") == resource.kind):
        return body
    if form.kind == "Table":
        rows = body["items"] if listed else [body]
        include = query.get("includeObject", "Metadata")
        result = table(resource, rows, now=now, include=include, header=header)
        result["metadata"] = (
            body["metadata"] if listed else {"resourceVersion": body["metadata"]["resourceVersion"]}
        )
        return result
    if listed:
        items = [_metadata_only(item) for item in body["items"]]
        meta = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
        return {**meta, "metadata": body["metadata"], "items": items}
    return _metadata_only(body)


def _metadata_only(obj: Json) -> Json:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": obj["metadata"],
    }
