"""The manifests of the repository, read for tests; and objects checked against the models of the
official client.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from kubernetes.client import models

from tests.conftest import ROOT

YAMLS = ROOT / "yamls"
# The reader in C where there is one: the other takes most of the time of these tests.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Object = dict[str, Any]

SCALARS: dict[str, Any] = {
    "str": str,
    "int": int,
    "bool": bool,
    "float": (int, float),
    "object": object,
}
MODELS = {
    ("v1", "ConfigMap"): models.V1ConfigMap,
    ("v1", "Namespace"): models.V1Namespace,
    ("v1", "Pod"): models.V1Pod,
    ("v1", "Service"): models.V1Service,
    ("v1", "ServiceAccount"): models.V1ServiceAccount,
    ("apps/v1", "Deployment"): models.V1Deployment,
    ("autoscaling/v2", "HorizontalPodAutoscaler"): models.V2HorizontalPodAutoscaler,
    ("networking.k8s.io/v1", "NetworkPolicy"): models.V1NetworkPolicy,
    ("rbac.authorization.k8s.io/v1", "ClusterRole"): models.V1ClusterRole,
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"): models.V1ClusterRoleBinding,
    ("rbac.authorization.k8s.io/v1", "Role"): models.V1Role,
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): models.V1RoleBinding,
}


def loaded(text: str) -> list[Object]:
    """Return the objects of a YAML text."""
    return [one for one in yaml.load_all(text, Loader=LOADER) if one is not None]


def documents(path: Path) -> list[Object]:
    """Return the objects of one file."""
    return loaded(path.read_text(encoding="utf-8"))


def objects(folder: Path) -> dict[tuple[str, str], Object]:
    """Return the objects of all files in *folder* by kind and name; kustomizations and rules are
    none.
    """
    found = [one for file in sorted(folder.glob("*.yaml")) for one in documents(file)]
    return {
        (one["kind"], one["metadata"]["name"]): one
        for one in found
        if one.get("kind", "Kustomization") not in ("Kustomization", "Component")
    }


def kustomized(folder: Path) -> dict[tuple[str, str], Object]:
    """Return what kubectl makes of the kustomization in *folder*."""
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return {(one["kind"], one["metadata"]["name"]): one for one in loaded(done.stdout)}


def problems(obj: Object) -> list[str]:
    """Return what the client's model of *obj*'s kind does not know, or knows as another type."""
    model = MODELS[obj["apiVersion"], obj["kind"]]
    return list(_check(obj, model.__name__, place=obj["kind"]))


def _check(value: Any, kind: str, *, place: str) -> Iterator[str]:
    """Yield the problems of *value* as what the client calls *kind*: "str", "List[V1Pod]",
    "Dict[str, str]".
    """
    many = re.fullmatch(r"(?i)(list|dict)[\[(](?:str, )?(.+)[\])]", kind)
    expected = {"list": list, "dict": Mapping, **SCALARS}.get(
        many[1].lower() if many else kind, Mapping
    )
    if not isinstance(value, expected) or (
        isinstance(value, bool) and kind not in ("bool", "object")
    ):
        yield f"{place}: expected {kind}, found {value!r}"
    elif many and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _check(item, many[2], place=f"{place}[{index}]")
    elif many:
        for key, item in value.items():
            yield from _check(item, many[2], place=f"{place}.{key}")
    elif kind not in SCALARS:
        yield from _check_object(value, getattr(models, kind), place=place)


def _check_object(value: Mapping[str, Any], model: Any, *, place: str) -> Iterator[str]:
    fields = {wire: name for name, wire in model.attribute_map.items()}
    known = {key: item for key, item in value.items() if key in fields}
    yield from (f"{place}.{key}: no such field" for key in value.keys() - known.keys())
    for key, item in known.items():
        yield from _check(item, model.openapi_types[fields[key]], place=f"{place}.{key}")
    try:
        model(**{fields[key]: item for key, item in known.items()})
    except ValueError as problem:
        yield f"{place}: {problem}"
