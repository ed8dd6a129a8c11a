"""ReplicaSets and the status of Deployments, as their controllers would write them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twin.kube.apiserver.objects import (
    Json,
    at_path,
    copied,
    name_of,
    namespace_of,
    owner_reference,
)
from twin.kube.workload import Unit

HASH = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"


def new_replica_set(deployment: Json, name: str, revision: int) -> Json:
    """Return the ReplicaSet called *name* of *deployment*: its template as it is now, marked with
    the hash of it.
    """
    mark = name.removeprefix(f"{name_of(deployment)}-")
    template = copied(deployment["spec"]["template"])
    metadata = template.setdefault("metadata", {})
    metadata["labels"] = {**(metadata.get("labels") or {}), HASH: mark}
    selector = copied(deployment["spec"]["selector"])
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH: mark}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": name,
            "namespace": namespace_of(deployment),
            "labels": metadata["labels"],
            "annotations": {REVISION: str(revision)},
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {"replicas": 0, "selector": selector, "template": template},
        "status": {"replicas": 0},
    }


def sized(replica_set: Json, *, replicas: int, units: Sequence[Unit]) -> Json:
    """Return *replica_set* with *replicas* wished, and the status that its pods *units* give it."""
    staying = [unit for unit in units if unit.phase != "draining"]
    ready = sum(unit.phase == "ready" for unit in staying)
    counts = {
        "fullyLabeledReplicas": len(staying),
        "readyReplicas": ready,
        "availableReplicas": ready,
    }
    generation = replica_set["metadata"].get("generation", 1)
    changed = replica_set["spec"].get("replicas") != replicas
    status = {
        "replicas": len(staying),
        **{key: value for key, value in counts.items() if value},
        "observedGeneration": generation + changed,
    }
    return {**replica_set, "spec": {**replica_set["spec"], "replicas": replicas}, "status": status}


def deployment_status(
    deployment: Json, staying: Sequence[Unit], updated: Sequence[Unit], *, now: str
) -> Json:
    """Return the status of *deployment* with the pods *staying*, of which *updated* (some may go)
    are of its template.

    What is zero is left out, as a real API server does.
    """
    wanted = at_path(deployment, "spec.replicas") or 0
    ready = sum(unit.phase == "ready" for unit in staying)
    fresh = sum(unit.phase != "draining" for unit in updated)
    counts = {
        "replicas": len(staying),
        "updatedReplicas": fresh,
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": max(max(wanted, len(staying)) - ready, 0),
    }
    complete = fresh == wanted == len(staying) == ready
    before = {each["type"]: each for each in at_path(deployment, "status.conditions") or ()}
    return {
        "observedGeneration": deployment["metadata"].get("generation", 1),
        **{key: value for key, value in counts.items() if value},
        "conditions": [
            _condition(before, "Available", now, _availability(ready, wanted)),
            _condition(
                before, "Progressing", now, _progress(name_of(deployment), complete=complete)
            ),
        ],
    }


def _availability(ready: int, wanted: int) -> Json:
    if ready >= wanted - wanted // 4:
        return {
            "status": "True",
            "reason": "MinimumReplicasAvailable",
            "message": "Deployment has minimum availability.",
        }
    return {
        "status": "False",
        "reason": "MinimumReplicasUnavailable",
        "message": "Deployment does not have minimum availability.",
    }


def _progress(name: str, *, complete: bool) -> Json:
    if complete:
        message = f'Deployment "{name}" has successfully progressed.'
        return {"status": "True", "reason": "NewReplicaSetAvailable", "message": message}
    return {
        "status": "True",
        "reason": "ReplicaSetUpdated",
        "message": f'Deployment "{name}" is progressing.',
    }


def _condition(before: dict[str, Any], kind: str, now: str, state: Json) -> Json:
    """Return the condition *kind*, with its old dates as far as nothing has changed."""
    old = before.get(kind)
    if old is not None and all(old.get(key) == value for key, value in state.items()):
        found: Json = old
        return found
    same = old is not None and old["status"] == state["status"]
    since = old["lastTransitionTime"] if old is not None and same else now
    return {"type": kind, **state, "lastUpdateTime": now, "lastTransitionTime": since}
