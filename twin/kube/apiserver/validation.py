"""The rules of the kinds beyond their schemas: names, labels, required fields, figures, and what
may not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from twin.kube.apiserver import resources
from twin.kube.apiserver.errors import Cause
from twin.kube.apiserver.names import (
    dns_label_problem,
    label_key_problem,
    label_value_problem,
    subdomain_problem,
)
from twin.kube.apiserver.objects import Json, annotations_of, at_path, labels_of
from twin.kube.apiserver.resources import Resource
from twin.kube.apiserver.selectors import fulfils, selector_of

ANNOTATIONS_BYTES_MAX = 256 * 1024
_DNS_LABELS = (resources.NAMESPACES, resources.SERVICES)
_FREE_NAMES = (
    resources.ROLES,
    resources.ROLE_BINDINGS,
    resources.CLUSTER_ROLES,
    resources.CLUSTER_ROLE_BINDINGS,
)  # their names may hold ":"


def problems(resource: Resource, obj: Json, old: Json | None) -> list[Cause]:
    """Return what is wrong with *obj*, which follows *old* (None: it is new)."""
    found = [*_metadata(resource, obj["metadata"], obj)]
    rules = _RULES.get(resource)
    if rules is not None:
        found += rules(obj, old)
    return found


def _bad(path: str, value: object, why: str) -> Cause:
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return Cause("FieldValueInvalid", f"Invalid value: {shown}: {why}", path)


def _missing(path: str) -> Cause:
    return Cause("FieldValueRequired", "Required value", path)


def _metadata(resource: Resource, metadata: Json, obj: Json) -> Iterator[Cause]:
    name = metadata.get("name", "")
    if not name:
        yield Cause(
            "FieldValueRequired",
            "Required value: name or generateName is required",
            "metadata.name",
        )
    elif resource in _FREE_NAMES:
        if "/" in name or "%" in name or name in (".", ".."):
            yield _bad("metadata.name", name, "may not contain '/' or '%' nor be '.' or '..'")
    elif problem := (dns_label_problem if resource in _DNS_LABELS else subdomain_problem)(name):
        yield _bad("metadata.name", name, problem)
    yield from _labels(labels_of(obj), "metadata.labels")
    annotations = annotations_of(obj)
    for key in annotations:
        if problem := label_key_problem(key.lower()):
            yield _bad("metadata.annotations", key, problem)
    if sum(len(key) + len(value) for key, value in annotations.items()) > ANNOTATIONS_BYTES_MAX:
        yield Cause("FieldValueTooLong", f"Too long: may not be more than {ANNOTATIONS_BYTES_MAX} "
                                         "bytes",
                    "metadata.annotations")  # fmt: skip


def _labels(labels: Mapping[str, str], path: str) -> Iterator[Cause]:
    for key, value in labels.items():
        if problem := label_key_problem(key):
            yield _bad(path, key, problem)
        if problem := label_value_problem(value):
            yield _bad(path, value, problem)


def _not_negative(obj: Json, *paths: str) -> Iterator[Cause]:
    for path in paths:
        value = at_path(obj, path)
        if isinstance(value, int) and value < 0:
            yield _bad(path, value, "must be greater than or equal to 0")


def _deployment(obj: Json, old: Json | None) -> Iterator[Cause]:
    yield from _workload(obj, old)
    yield from _not_negative(obj, "spec.minReadySeconds", "spec.revisionHistoryLimit")
    kind = at_path(obj, "spec.strategy.type")
    if kind not in ("RollingUpdate", "Recreate"):
        yield Cause(
            "FieldValueNotSupported",
            f'Unsupported value: "{kind}": supported values: "Recreate", "RollingUpdate"',
            "spec.strategy.type",
        )


def _workload(obj: Json, old: Json | None) -> Iterator[Cause]:
    spec = obj["spec"]
    yield from _not_negative(obj, "spec.replicas")
    selector, template = spec.get("selector"), spec.get("template")
    if not selector:
        yield _missing("spec.selector")
    elif problem := _selector_problem(selector):
        yield _bad("spec.selector", str(selector), problem)
    if old is not None and old["spec"].get("selector") != selector:
        yield _bad("spec.selector", str(selector), "field is immutable")
    if not template:
        yield _missing("spec.template")
        return
    labels = (template.get("metadata") or {}).get("labels") or {}
    yield from _labels(labels, "spec.template.metadata.labels")
    if selector and not _selector_problem(selector) and not fulfils(labels, selector_of(selector)):
        yield _bad(
            "spec.template.metadata.labels",
            str(labels),
            "`selector` does not match template `labels`",
        )
    yield from _pod_spec(template.get("spec") or {}, "spec.template.spec")


def _selector_problem(selector: Mapping[str, Any]) -> str:
    if not (selector.get("matchLabels") or selector.get("matchExpressions")):
        return "empty selector is invalid for deployment"
    for expression in selector.get("matchExpressions") or ():
        if expression.get("operator") not in ("In", "NotIn", "Exists", "DoesNotExist"):
            return f"not a valid selector operator: {expression.get('operator')!r}"
    return ""


def _pod(obj: Json, old: Json | None) -> Iterator[Cause]:
    yield from _pod_spec(obj["spec"], "spec")
    if old is not None and _fixed(old["spec"]) != _fixed(obj["spec"]):
        yield Cause(
            "FieldValueForbidden",
            "Forbidden: pod updates may not change fields other than images, deadlines and "
            "tolerations",
            "spec",
        )


def _fixed(spec: Json) -> Json:
    """Return what of a pod's spec may not change."""
    free = ("activeDeadlineSeconds", "tolerations", "nodeName", "terminationGracePeriodSeconds")
    kept = {key: value for key, value in spec.items() if key not in free}
    for kind in ("containers", "initContainers"):
        if kind in kept:
            kept[kind] = [{k: v for k, v in each.items() if k != "image"} for each in kept[kind]]
    return kept


def _pod_spec(spec: Json, path: str) -> Iterator[Cause]:
    containers = spec.get("containers") or []
    if not containers:
        yield _missing(f"{path}.containers")
    seen = set[str]()
    for number, container in enumerate(containers):
        place = f"{path}.containers[{number}]"
        name = container.get("name", "")
        if not name:
            yield _missing(f"{place}.name")
        elif problem := dns_label_problem(name):
            yield _bad(f"{place}.name", name, problem)
        elif name in seen:
            yield Cause("FieldValueDuplicate", f'Duplicate value: "{name}"', f"{place}.name")
        seen.add(name)
        if not container.get("image"):
            yield _missing(f"{place}.image")
        yield from _mounts(container, spec, place)
    yield from _labels(spec.get("nodeSelector") or {}, f"{path}.nodeSelector")


def _mounts(container: Json, spec: Json, place: str) -> Iterator[Cause]:
    volumes = {volume.get("name") for volume in spec.get("volumes") or ()}
    for number, mount in enumerate(container.get("volumeMounts") or ()):
        if mount.get("name") not in volumes:
            field = f"{place}.volumeMounts[{number}].name"
            yield Cause("FieldValueNotFound", f'Not found: "{mount.get("name")}"', field)


def _event(obj: Json, _old: Json | None) -> Iterator[Cause]:
    meant = obj.get("involvedObject", {}).get("namespace", "")
    there = obj["metadata"].get("namespace", "")
    if meant not in ("", there):
        yield _bad("involvedObject.namespace", meant, "does not match event.namespace")


def _role_binding(obj: Json, old: Json | None) -> Iterator[Cause]:
    for field in ("kind", "name"):
        if not at_path(obj, f"roleRef.{field}"):
            yield _missing(f"roleRef.{field}")
    if old is not None and old.get("roleRef") != obj.get("roleRef"):
        yield _bad("roleRef", str(obj.get("roleRef")), "cannot change roleRef")


def _service(obj: Json, _old: Json | None) -> Iterator[Cause]:
    spec = obj["spec"]
    if (
        not spec.get("ports")
        and spec.get("clusterIP") != "None"
        and spec.get("type") != "ExternalName"
    ):
        yield _missing("spec.ports")
    for number, port in enumerate(spec.get("ports") or ()):
        if not 0 < port.get("port", 0) <= 65535:
            yield _bad(
                f"spec.ports[{number}].port",
                port.get("port"),
                "must be between 1 and 65535, inclusive",
            )


def _lease(obj: Json, _old: Json | None) -> Iterator[Cause]:
    spec = obj.get("spec") or {}
    for field, least in (("leaseDurationSeconds", 1), ("leaseTransitions", 0)):
        value = spec.get(field)
        if value is not None and value < least:
            yield _bad(f"spec.{field}", value, f"must be greater than or equal to {least}")


_RULES: dict[Resource, Callable[[Json, Json | None], Iterator[Cause]]] = {
    resources.DEPLOYMENTS: _deployment,
    resources.REPLICA_SETS: _workload,
    resources.PODS: _pod,
    resources.EVENTS: _event,
    resources.ROLE_BINDINGS: _role_binding,
    resources.CLUSTER_ROLE_BINDINGS: _role_binding,
    resources.SERVICES: _service,
    resources.LEASES: _lease,
}
