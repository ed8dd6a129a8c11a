"""Objects of an API server as raw JSON, small and right, for tests of what reads and writes
them.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from loop.backends.kube import labels as names
from loop.backends.kube.read import Deployment, Pod, Server, read_deployment, read_pod

Json = dict[str, Any]

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)  # second 0 of the run
EPOCH_S = EPOCH.timestamp()
TEMPLATE_HASH = "5d9c7b6f4d"


def date(second: float) -> str:
    """Return a second of the run as objects carry it."""
    return (EPOCH + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%SZ")


def deployment(
    name: str = "dep1",
    *,
    namespace: str = "infer",
    replicas: int | None = 2,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    without: tuple[str, ...] = (),
    **fields: Any,
) -> Json:
    """Return a managed Deployment: s1, llama_8b, Premium, two replicas on H100 at batch 64, unless
    told otherwise.
    """
    told = {
        names.MANAGED: "true",
        names.NAME: "s1",
        names.MODEL: "llama_8b",
        names.CLASS: "Premium",
        names.ACCELERATOR: "H100",
        names.MAX_BATCH: "64",
        **(labels or {}),
    }
    spec: Json = {
        "selector": {"matchLabels": {"app": name}},
        "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "vllm"}]},
        },
    }
    if replicas is not None:
        spec["replicas"] = replicas
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{name}",
            "resourceVersion": "7",
            "generation": 3,
            "creationTimestamp": date(-1000),
            "labels": {key: value for key, value in told.items() if key not in without},
            "annotations": annotations or {},
            **fields.pop("metadata", {}),
        },
        "spec": spec | fields.pop("spec", {}),
        "status": {"observedGeneration": 3, **fields.pop("status", {})},
    }


def pod(
    name: str = "a",
    *,
    of: str = "dep1",
    namespace: str = "infer",
    phase: str = "ready",
    since_s: float = -500.0,
    created_s: float = -600.0,
    gpus: int = 0,
    node: str = "node-1",
    **fields: Any,
) -> Json:
    """Return a pod of the Deployment *of*, in a *phase* of the loop (or "finished") since then."""
    conditions = [{"type": "PodScheduled", "status": "False" if phase == "pending" else "True"}]
    conditions[0]["lastTransitionTime"] = date(since_s)
    ready = phase in ("ready", "draining")
    conditions.append({"type": "Ready", "status": str(ready), "lastTransitionTime": date(since_s)})
    meta: Json = {
        "name": f"{of}-{TEMPLATE_HASH}-{name}",
        "namespace": namespace,
        "creationTimestamp": date(created_s),
        "labels": {"app": of, "pod-template-hash": TEMPLATE_HASH},
        "ownerReferences": [
            {"kind": "ReplicaSet", "name": f"{of}-{TEMPLATE_HASH}", "controller": True}
        ],
        **fields.pop("metadata", {}),
    }
    if phase == "draining":
        meta |= {"deletionTimestamp": date(since_s + 30), "deletionGracePeriodSeconds": 30}
    container: Json = {"name": "vllm", "ports": [{"containerPort": 8000}]}
    if gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": str(gpus), "cpu": "8"}}
    spec: Json = {"containers": [container], **fields.pop("spec", {})}
    if phase != "pending":
        spec["nodeName"] = node
    status = {
        "phase": "Succeeded" if phase == "finished" else "Running",
        "conditions": conditions,
        "podIP": "10.0.0.1",
    }
    return {"metadata": meta, "spec": spec, "status": status}


def node(
    name: str = "node-1",
    *,
    gpus: int = 8,
    product: str = "H100",
    ready: str = "True",
    closed: bool = False,
) -> Json:
    """Return a node with GPUs of a product."""
    return {
        "metadata": {"name": name, "labels": {"nvidia.com/gpu.product": product}},
        "spec": {"unschedulable": True} if closed else {},
        "status": {
            "allocatable": {"nvidia.com/gpu": str(gpus), "cpu": "192"},
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }


def read(**fields: Any) -> Deployment:
    """Return the Deployment that deployment(*fields*) says."""
    return read_deployment(deployment(**fields))


def alive(*pods: Json) -> tuple[Pod, ...]:
    """Return *pods* as read."""
    found = [read_pod(one, epoch_s=EPOCH_S) for one in pods]
    return tuple(one for one in found if one is not None)


def server(*pods: Json, **fields: Any) -> Server:
    """Return a server of *pods*."""
    return Server(deployment=read(**fields), pods=alive(*pods))
