"""The Scale of what has replicas: how it is read from an object, and what an object becomes by
it.
"""

from __future__ import annotations

from twin.kube.apiserver.objects import Json, at_path
from twin.kube.apiserver.resources import Resource

SCALE = Resource(plural="scales", kind="Scale", group="autoscaling")


def to_scale(obj: Json) -> Json:
    """Return the Scale of *obj*; spec.replicas is absent at zero, as in the real one."""
    metadata = obj["metadata"]
    replicas = at_path(obj, "spec.replicas") or 0
    labels = at_path(obj, "spec.selector.matchLabels") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": SCALE.kind,
        "apiVersion": SCALE.api_version,
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {"replicas": replicas} if replicas else {},
        "status": {
            "replicas": at_path(obj, "status.replicas") or 0,
            "selector": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        },
    }


def from_scale(obj: Json, scale: Json) -> Json:
    """Return *obj* with the replicas of *scale*."""
    replicas = at_path(scale, "spec.replicas") or 0
    metadata = {key: value for key, value in obj["metadata"].items() if key != "resourceVersion"}
    return {**obj, "metadata": metadata, "spec": {**obj["spec"], "replicas": replicas}}
