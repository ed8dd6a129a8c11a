"""Admission: what a client sends becomes an object of its kind, typed, defaulted and valid."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twin.kube.apiserver import resources
from twin.kube.apiserver.errors import ApiError, Cause, bad_request, invalid, unprocessable
from twin.kube.apiserver.labels import (
    dns_label_problem,
    fulfils,
    label_key_problem,
    label_value_problem,
    selector_of,
    subdomain_problem,
)
from twin.kube.apiserver.objects import Json, annotations_of, at_path, copied, labels_of
from twin.kube.apiserver.resources import Resource
from twin.kube.apiserver.schema import Findings, checked, resource_schema

ANNOTATIONS_BYTES_MAX = 256 * 1024
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_COST = re.compile(r"0|-?[1-9][0-9]{0,9}")
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


def _stateful_set(obj: Json, old: Json | None) -> Iterator[Cause]:
    yield from _workload(obj, old)
    free = (
        *("replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit"),
        *("persistentVolumeClaimRetentionPolicy", "minReadySeconds"),
    )
    if old is not None and _without_keys(old["spec"], free) != _without_keys(obj["spec"], free):
        yield Cause(
            "FieldValueForbidden",
            f"Forbidden: updates to statefulset spec for fields other than {', '.join(free)} are "
            "forbidden",
            "spec",
        )


def _without_keys(spec: Json, keys: Sequence[str]) -> Json:
    return {key: value for key, value in spec.items() if key not in keys}


def _autoscaler(obj: Json, _old: Json | None) -> Iterator[Cause]:
    spec = obj["spec"]
    for field in ("kind", "name"):
        if not at_path(spec, f"scaleTargetRef.{field}"):
            yield _missing(f"spec.scaleTargetRef.{field}")
    least, most = spec["minReplicas"], spec.get("maxReplicas", 0)
    if least < 0:
        yield _bad("spec.minReplicas", least, "must be greater than or equal to 0")
    if most < 1:
        yield _bad("spec.maxReplicas", most, "must be greater than 0")
    elif most < least:
        yield _bad("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`")


def _selector_problem(selector: Mapping[str, Any]) -> str:
    if not (selector.get("matchLabels") or selector.get("matchExpressions")):
        return "empty selector is invalid for deployment"
    for expression in selector.get("matchExpressions") or ():
        if expression.get("operator") not in ("In", "NotIn", "Exists", "DoesNotExist"):
            return f"not a valid selector operator: {expression.get('operator')!r}"
    return ""


def _pod(obj: Json, old: Json | None) -> Iterator[Cause]:
    yield from _pod_spec(obj["spec"], "spec")
    cost = (obj["metadata"].get("annotations") or {}).get(DELETION_COST, "0")
    if not _COST.fullmatch(cost) or not -(2**31) <= int(cost) < 2**31:
        yield _bad(f"metadata.annotations[{DELETION_COST}]", cost, "must be a 32bit integer")
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
        yield from _variables(container, place)
        yield from _extended_resources(container, place)
        yield from _mounts(container, spec, place)
    yield from _labels(spec.get("nodeSelector") or {}, f"{path}.nodeSelector")


def _variables(container: Json, place: str) -> Iterator[Cause]:
    for number, one in enumerate(container.get("env") or ()):
        if one.get("value") and one.get("valueFrom"):
            why = "may not be specified when `value` is not empty"
            yield _bad(f"{place}.env[{number}].valueFrom", "", why)


def _extended_resources(container: Json, place: str) -> Iterator[Cause]:
    """GPUs and the like are whole, and as many are had as are asked for."""
    resources = container.get("resources") or {}
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for key in sorted({*limits, *requests}):
        if "/" not in key or key.partition("/")[0].endswith("kubernetes.io"):
            continue
        for kind, found in (("limits", limits), ("requests", requests)):
            if key in found and not str(found[key]).isdecimal():
                yield _bad(f"{place}.resources.{kind}[{key}]", found[key], "must be an integer")
        if key not in limits:
            yield Cause(
                "FieldValueRequired",
                "Required value: Limit must be set for non overcommitable resources",
                f"{place}.resources.limits",
            )
        elif key in requests and str(requests[key]) != str(limits[key]):
            why = f"must be equal to {key} limit of {limits[key]}"
            yield _bad(f"{place}.resources.requests", requests[key], why)


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
    resources.STATEFUL_SETS: _stateful_set,
    resources.AUTOSCALERS: _autoscaler,
    resources.PODS: _pod,
    resources.EVENTS: _event,
    resources.ROLE_BINDINGS: _role_binding,
    resources.CLUSTER_ROLE_BINDINGS: _role_binding,
    resources.SERVICES: _service,
    resources.LEASES: _lease,
}


def fill_defaults(resource: Resource, obj: Json) -> Json:
    """Fill the defaults of its kind into *obj* and return it."""
    fill = _FILLERS.get(resource)
    if fill is not None:
        fill(obj)
    return obj


def _set(place: Json, **values: object) -> None:
    for key, value in values.items():
        place.setdefault(key, value)


def _fill_deployment(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600)
    strategy = spec.setdefault("strategy", {})
    _set(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _set(strategy.setdefault("rollingUpdate", {}), maxSurge="25%", maxUnavailable="25%")
    _fill_pod_spec(spec.get("template", {}).get("spec"))


def _fill_replica_set(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, replicas=1)
    _fill_pod_spec(spec.get("template", {}).get("spec"))


def _fill_stateful_set(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, replicas=1, revisionHistoryLimit=10, podManagementPolicy="OrderedReady")
    _set(spec, serviceName="")
    strategy = spec.setdefault("updateStrategy", {})
    _set(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _set(strategy.setdefault("rollingUpdate", {}), partition=0)
    retention = spec.setdefault("persistentVolumeClaimRetentionPolicy", {})
    _set(retention, whenDeleted="Retain", whenScaled="Retain")
    _fill_pod_spec(spec.get("template", {}).get("spec"))


def _fill_autoscaler(obj: Json) -> None:
    target = {"type": "Utilization", "averageUtilization": 80}
    metric = {"type": "Resource", "resource": {"name": "cpu", "target": target}}
    _set(obj.setdefault("spec", {}), minReplicas=1, metrics=[metric])


def _fill_pod(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, serviceAccountName="default", enableServiceLinks=True)
    _fill_pod_spec(spec)


def _fill_pod_spec(spec: Json | None) -> None:
    if spec is None:
        return
    _set(spec, restartPolicy="Always", terminationGracePeriodSeconds=30, dnsPolicy="ClusterFirst")
    _set(spec, securityContext={}, schedulerName="default-scheduler")
    if "serviceAccountName" in spec:
        _set(spec, serviceAccount=spec["serviceAccountName"])
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        _fill_container(container)
    for volume in spec.get("volumes") or ():
        for source in ("configMap", "secret", "projected"):
            if isinstance(volume.get(source), dict):
                _set(volume[source], defaultMode=0o644)


def _fill_container(container: Json) -> None:
    _set(
        container,
        resources={},
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
    )
    tag = str(container.get("image", "")).rpartition("/")[2].rpartition(":")[2]
    latest = ":" not in str(container.get("image", "")).rpartition("/")[2] or tag == "latest"
    _set(container, imagePullPolicy="Always" if latest else "IfNotPresent")
    for port in container.get("ports") or ():
        _set(port, protocol="TCP")
    # Limits without requests are requests too.
    limits = container["resources"].get("limits")
    if limits:
        container["resources"]["requests"] = {
            **limits,
            **(container["resources"].get("requests") or {}),
        }
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if isinstance(container.get(probe), dict):
            _set(
                container[probe],
                timeoutSeconds=1,
                periodSeconds=10,
                successThreshold=1,
                failureThreshold=3,
            )
            if isinstance(container[probe].get("httpGet"), dict):
                _set(container[probe]["httpGet"], scheme="HTTP")


def _fill_service(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, type="ClusterIP", sessionAffinity="None", internalTrafficPolicy="Cluster")
    for port in spec.get("ports") or ():
        _set(port, protocol="TCP")
        _set(port, targetPort=port.get("port"))


def _fill_namespace(obj: Json) -> None:
    _set(obj.setdefault("spec", {}), finalizers=["kubernetes"])
    obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"].get(
        "name", ""
    )


def _fill_secret(obj: Json) -> None:
    _set(obj, type="Opaque")


_FILLERS: dict[Resource, Callable[[Json], None]] = {
    resources.DEPLOYMENTS: _fill_deployment,
    resources.REPLICA_SETS: _fill_replica_set,
    resources.STATEFUL_SETS: _fill_stateful_set,
    resources.AUTOSCALERS: _fill_autoscaler,
    resources.PODS: _fill_pod,
    resources.SERVICES: _fill_service,
    resources.NAMESPACES: _fill_namespace,
    resources.SECRETS: _fill_secret,
}


VALIDATIONS = ("Ignore", "Warn", "Strict")


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """An object that may be stored, and a line for each unknown field of it."""

    obj: Json
    warnings: tuple[str, ...]


def typed(
    resource: Resource, body: Any, *, validation: str, mistyped_is_invalid: bool = False
) -> Admitted:
    """Return *body* as an object of *resource*, with apiVersion and kind, without fields that its
    kind does not have.

    Raise ApiError 400 where it is of another kind, where a value is of a wrong type (422 with
    *mistyped_is_invalid*), or, when *validation* is Strict, where a field is unknown.
    """
    if not isinstance(body, dict):
        raise bad_request(
            f"expected an object of kind {resource.kind}, found {type(body).__name__}"
        )
    for field, expected in (("apiVersion", resource.api_version), ("kind", resource.kind)):
        found = body.get(field) or expected
        if found != expected:
            raise bad_request(
                f"{field} in the data ({found}) does not match the expected one ({expected}) of "
                f"{resource.qualified}"
            )
    findings = Findings()
    obj = checked(
        {**body, "apiVersion": resource.api_version, "kind": resource.kind},
        _schema(resource),
        findings,
    )
    if findings.mistyped:
        text = (
            f'{resource.kind} in version "{resource.version}" cannot be handled as a '
            f"{resource.kind}"
        )
        problem = f"{text}: {'; '.join(findings.mistyped)}"
        raise unprocessable(problem) if mistyped_is_invalid else bad_request(problem)
    unknown = tuple(f'unknown field "{path}"' for path in findings.unknown)
    if unknown and validation == "Strict":
        message = (
            f'{resource.kind} in version "{resource.version}" cannot be handled as a '
            f"{resource.kind}"
        )
        raise bad_request(f"{message}: strict decoding error: {', '.join(unknown)}")
    if not isinstance(obj.setdefault("metadata", {}), dict):
        raise bad_request("metadata: expected an object")
    return Admitted(obj=obj, warnings=unknown if validation == "Warn" else ())


def lawful(resource: Resource, obj: Json, *, old: Json | None) -> Json:
    """Return a copy of *obj* with its defaults. Raise ApiError 422 where it breaks a rule of its
    kind.
    """
    obj = fill_defaults(resource, copied(obj))
    causes = problems(resource, obj, old)
    if causes:
        raise invalid(resource, obj["metadata"].get("name", ""), causes)
    return obj


def check_validation(word: str) -> str:
    """Return *word*, or Warn where there is none. Raise ApiError 400 for one that is not known."""
    if word and word not in VALIDATIONS:
        raise ApiError(
            400,
            "BadRequest",
            f"fieldValidation: expected one of {', '.join(VALIDATIONS)}, found {word!r}",
        )
    return word or "Warn"


def _schema(resource: Resource) -> Json:
    """Return the schema of *resource*; of custom kinds only the metadata is known."""
    known = resource_schema(resource)
    if known is not None:
        return known
    metadata = {"$ref": "#/components/schemas/V1ObjectMeta"}
    return {"type": "object", "properties": {"metadata": metadata}, "additionalProperties": {}}
