"""API objects as plain JSON: how to read and copy what every kind has. Stored objects are shared:
never change one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]
"""An API object or a part of one, as parsed from JSON."""


def name_of(obj: Mapping[str, Any]) -> str:
    """Return metadata.name."""
    return str(obj["metadata"]["name"])


def namespace_of(obj: Mapping[str, Any]) -> str:
    """Return metadata.namespace, empty for what lives outside namespaces."""
    return str(obj["metadata"].get("namespace", ""))


def labels_of(obj: Mapping[str, Any]) -> dict[str, str]:
    """Return metadata.labels, which may be absent."""
    return obj["metadata"].get("labels") or {}


def annotations_of(obj: Mapping[str, Any]) -> dict[str, str]:
    """Return metadata.annotations, which may be absent."""
    return obj["metadata"].get("annotations") or {}


def version_of(obj: Mapping[str, Any]) -> int:
    """Return metadata.resourceVersion as the number that it is here; 0 before the object is
    stored.
    """
    return int(obj["metadata"].get("resourceVersion", 0))


def copied(obj: Json) -> Json:
    """Return a copy that may be changed."""
    return copy.deepcopy(obj)


def at_path(obj: Any, path: str) -> Any:
    """Return the value at a dotted *path*, None where it ends early."""
    for part in path.split("."):
        if not isinstance(obj, dict):
            return None
        obj = obj.get(part)
    return obj


def owner_reference(owner: Mapping[str, Any]) -> Json:
    """Return the reference by which an object says that *owner* made it."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name_of(owner),
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def owned_by(obj: Mapping[str, Any], owner: Mapping[str, Any]) -> bool:
    """Tell whether *owner* made *obj*."""
    uid = owner["metadata"]["uid"]
    return any(
        reference.get("uid") == uid for reference in obj["metadata"].get("ownerReferences") or ()
    )
