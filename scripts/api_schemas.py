"""Writes twin/kube/apiserver/schemas.json: the kinds that the twin's API serves, as reduced
OpenAPI, from the client's models.

    python scripts/api_schemas.py

Run it again after a change of the pinned `kubernetes` package; a test compares. Descriptions are
left out. What the models do not say (merge keys, and which maps hold quantities) stands in the
tables here, as in the API reference.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from kubernetes import client

TARGET = Path(__file__).resolve().parent.parent / "twin" / "kube" / "apiserver" / "schemas.json"

KINDS = {
    "v1": {
        "Namespace": "V1Namespace",
        "Node": "V1Node",
        "Pod": "V1Pod",
        "ConfigMap": "V1ConfigMap",
        "Secret": "V1Secret",
        "Service": "V1Service",
        "ServiceAccount": "V1ServiceAccount",
        "Event": "CoreV1Event",
    },
    "apps/v1": {
        "Deployment": "V1Deployment",
        "ReplicaSet": "V1ReplicaSet",
        "StatefulSet": "V1StatefulSet",
    },
    "autoscaling/v1": {
        "HorizontalPodAutoscaler": "V1HorizontalPodAutoscaler",
        "Scale": "V1Scale",
    },
    "autoscaling/v2": {"HorizontalPodAutoscaler": "V2HorizontalPodAutoscaler"},
    "coordination.k8s.io/v1": {"Lease": "V1Lease"},
    "networking.k8s.io/v1": {"NetworkPolicy": "V1NetworkPolicy"},
    "policy/v1": {"PodDisruptionBudget": "V1PodDisruptionBudget"},
    "rbac.authorization.k8s.io/v1": {
        "Role": "V1Role",
        "RoleBinding": "V1RoleBinding",
        "ClusterRole": "V1ClusterRole",
        "ClusterRoleBinding": "V1ClusterRoleBinding",
    },
    "authentication.k8s.io/v1": {"TokenRequest": "AuthenticationV1TokenRequest"},
    "authorization.k8s.io/v1": {"SelfSubjectAccessReview": "V1SelfSubjectAccessReview"},
}

# Lists whose items are merged by a key: (keys, with the one of strategic merge first; further
# strategy).
MERGED_LISTS: dict[tuple[str, str], tuple[tuple[str, ...], str]] = {
    ("V1PodSpec", "containers"): (("name",), ""),
    ("V1PodSpec", "initContainers"): (("name",), ""),
    ("V1PodSpec", "ephemeralContainers"): (("name",), ""),
    ("V1PodSpec", "volumes"): (("name",), "retainKeys"),
    ("V1PodSpec", "imagePullSecrets"): (("name",), ""),
    ("V1PodSpec", "hostAliases"): (("ip",), ""),
    ("V1PodSpec", "topologySpreadConstraints"): (("topologyKey", "whenUnsatisfiable"), ""),
    ("V1PodSpec", "resourceClaims"): (("name",), "retainKeys"),
    ("V1PodSpec", "schedulingGates"): (("name",), ""),
    ("V1PodStatus", "conditions"): (("type",), ""),
    ("V1PodStatus", "podIPs"): (("ip",), ""),
    ("V1Container", "ports"): (("containerPort", "protocol"), ""),
    ("V1Container", "env"): (("name",), ""),
    ("V1Container", "volumeMounts"): (("mountPath",), ""),
    ("V1Container", "volumeDevices"): (("devicePath",), ""),
    ("V1ObjectMeta", "ownerReferences"): (("uid",), ""),
    ("V1ServiceSpec", "ports"): (("port", "protocol"), ""),
    ("V1ServiceAccount", "secrets"): (("name",), ""),
    ("V1NodeStatus", "conditions"): (("type",), ""),
    ("V1NodeStatus", "addresses"): (("type",), ""),
    ("V1DeploymentStatus", "conditions"): (("type",), ""),
    ("V1ReplicaSetStatus", "conditions"): (("type",), ""),
    ("V1StatefulSetStatus", "conditions"): (("type",), ""),
    ("V2HorizontalPodAutoscalerStatus", "conditions"): (("type",), ""),
    ("V1NamespaceStatus", "conditions"): (("type",), ""),
    ("V1ServiceStatus", "conditions"): (("type",), ""),
    ("V1PodDisruptionBudgetStatus", "conditions"): (("type",), ""),
}
SETS = {("V1ObjectMeta", "finalizers"), ("V1NodeSpec", "podCIDRs")}
RETAINED = {("V1DeploymentSpec", "strategy")}
QUANTITIES = re.compile(
    r"^(limits|requests|capacity|allocatable|hard|overhead|allocatedResources)$"
)
QUANTITY_FIELDS = {
    (model, field)
    for model in ("V2MetricTarget", "V2MetricValueStatus")
    for field in ("averageValue", "value")
}

PLAIN = {
    "str": {"type": "string"},
    "bytes": {"type": "string", "format": "byte"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "datetime": {"type": "string", "format": "date-time"},
    "object": {},
}
QUANTITY = {"oneOf": [{"type": "string"}, {"type": "number"}]}


def schemas() -> dict[str, Any]:
    """Return {"kinds": {group version: {kind: definition}}, "definitions": {name: schema}}."""
    definitions: dict[str, Any] = {}
    waiting = ["V1DeleteOptions", *(model for kinds in KINDS.values() for model in kinds.values())]
    while waiting:
        name = waiting.pop()
        if name not in definitions:
            definitions[name] = _definition(name)
            waiting += re.findall(r"#/components/schemas/(\w+)", json.dumps(definitions[name]))
    return {"kinds": KINDS, "definitions": definitions}


def text() -> str:
    """Return the contents of the file, one definition a line."""
    found = schemas()
    lines = [
        f"  {json.dumps(name)}: {json.dumps(found['definitions'][name])}"
        for name in sorted(found["definitions"])
    ]
    return (
        f'{{"kinds": {json.dumps(found["kinds"])},\n"definitions": {{\n'
        + ",\n".join(lines)
        + "\n}}\n"
    )


def _definition(name: str) -> dict[str, Any]:
    model = getattr(client, name)
    properties = {
        model.attribute_map[field]: _property(name, model.attribute_map[field], kind)
        for field, kind in model.openapi_types.items()
    }
    required = sorted(
        model.attribute_map[field]
        for field, about in model.model_fields.items()
        if field in model.attribute_map and about.is_required()
    )
    return {
        "type": "object",
        **({"required": required} if required else {}),
        "properties": properties,
    }


def _property(model: str, name: str, kind: str) -> dict[str, Any]:
    if (model, name) in QUANTITY_FIELDS:
        return dict(QUANTITY)
    schema = _schema(kind, quantity=bool(QUANTITIES.match(name)))
    if (model, name) in MERGED_LISTS:
        keys, strategy = MERGED_LISTS[model, name]
        schema |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}
        schema |= {"x-kubernetes-patch-merge-key": keys[0]}
        schema |= {"x-kubernetes-patch-strategy": f"merge,{strategy}" if strategy else "merge"}
    elif (model, name) in SETS:
        schema |= {"x-kubernetes-list-type": "set", "x-kubernetes-patch-strategy": "merge"}
    elif (model, name) in RETAINED:
        schema |= {"x-kubernetes-patch-strategy": "retainKeys"}
    return schema


def _schema(kind: str, *, quantity: bool = False) -> dict[str, Any]:
    if listed := re.fullmatch(r"[Ll]ist\[(.+)\]", kind):
        return {"type": "array", "items": _schema(listed[1])}
    if mapped := re.fullmatch(r"[Dd]ict[\[(]str, (.+)[\])]", kind):
        return {
            "type": "object",
            "additionalProperties": QUANTITY if quantity else _schema(mapped[1]),
        }
    if kind in PLAIN:
        return dict(PLAIN[kind])
    return {"$ref": f"#/components/schemas/{kind}"}


def main() -> int:
    """Write the file."""
    TARGET.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
