"""Pods as objects: those of the simulation, phase by phase, and those that clients create."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twin.kube.apiserver.admission import fill_defaults
from twin.kube.apiserver.objects import Json, copied, name_of, namespace_of, owner_reference
from twin.kube.apiserver.resources import PODS
from twin.kube.apiserver.storage import Change, Commits
from twin.kube.nodes import PLAIN_NODE, gpu_resource
from twin.kube.workload import END_S, START_S
from twin.serving.pod import PodPhase

CREATING_S = 2.0
"""How long a container is being created before its process runs and loads its model."""

ANNOTATION = "inferno.twin/accelerator"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """What is true of one pod now: dates as objects carry them, "" for what did not happen.

    created: its container has been made. entered is when its phase began, restarted when it last
    crashed.
    """

    name: str
    namespace: str
    phase: PodPhase
    created: bool
    entered: str
    granted: str = ""
    restarted: str = ""
    restarts: int = 0
    node: str = ""
    accelerator: str = ""
    type: str = ""
    gpus: int = 0
    grace_s: int = 30
    message: str = ""
    address: str = ""


def new_pod(template: Json, replica_set: Json, facts: PodFacts) -> Json:
    """Return the Pod that *replica_set* makes of its *template*; the GPUs that it is to hold are
    its limits.
    """
    template = copied(template)
    metadata = template.get("metadata") or {}
    spec = template["spec"]
    if facts.gpus:
        resources = spec["containers"][0].setdefault("resources", {})
        for kind in ("limits", "requests"):
            resources[kind] = {
                **(resources.get(kind) or {}),
                gpu_resource(facts.type): str(facts.gpus),
            }
    annotations = {**(metadata.get("annotations") or {})}
    if facts.accelerator:
        annotations[ANNOTATION] = facts.accelerator
    pod: Json = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": facts.name,
            "generateName": f"{name_of(replica_set)}-",
            "namespace": facts.namespace,
            "labels": dict(metadata.get("labels") or {}),
            **({"annotations": annotations} if annotations else {}),
            "ownerReferences": [owner_reference(replica_set)],
        },
        "spec": spec,
    }
    # Otherwise the first patch of the pod would fill them in, which is a change of its fixed spec.
    return fill_defaults(PODS, pod)


def with_state(pod: Json, facts: PodFacts) -> Json:
    """Return *pod* as *facts* have it: its node and its status."""
    spec = {**pod["spec"], "nodeName": facts.node} if facts.node else pod["spec"]
    return {**pod, "spec": spec, "status": _status(pod, facts)}


def _status(pod: Json, facts: PodFacts) -> Json:
    if not facts.node:
        return _pending(pod, facts)
    running = facts.phase in ("ready", "draining") or facts.created
    ready = facts.phase in ("ready", "draining")
    # A pod that is being deleted stays as ready as it was until it ends.
    since = facts.entered if facts.phase == "ready" else _when(pod, "Ready") or facts.entered
    granted = facts.granted or facts.entered
    return {
        "phase": "Running" if running else "Pending",
        "conditions": [
            _condition("PodScheduled", granted, good=True),
            _condition("Initialized", granted, good=True),
            _condition("ContainersReady", since, good=ready, why="ContainersNotReady"),
            _condition("Ready", since, good=ready, why="ContainersNotReady"),
        ],
        "hostIP": "127.0.0.1",
        "startTime": granted,
        "qosClass": _quality(pod["spec"]["containers"]),
        "containerStatuses": [
            _container_status(container, facts, running=running, ready=ready)
            for container in pod["spec"]["containers"]
        ],
        **(
            {"podIP": facts.address, "podIPs": [{"ip": facts.address}]}
            if running and facts.address
            else {}
        ),
    }


def _pending(pod: Json, facts: PodFacts) -> Json:
    condition = _condition(
        "PodScheduled", _when(pod, "PodScheduled") or facts.entered, good=False, why="Unschedulable"
    )
    if facts.message:
        condition["message"] = facts.message
    return {
        "phase": "Pending",
        "conditions": [condition],
        "qosClass": _quality(pod["spec"]["containers"]),
    }


def _quality(containers: Sequence[Json]) -> str:
    """Return the class of service that what *containers* ask for gives a pod."""
    rooms = [container.get("resources") or {} for container in containers]
    if not any(room.get("limits") or room.get("requests") for room in rooms):
        return "BestEffort"
    kinds = ("cpu", "memory")
    bounded = all(
        kind in (room.get("limits") or {})
        and room["limits"][kind] == (room.get("requests") or room["limits"]).get(kind)
        for room in rooms
        for kind in kinds
    )
    return "Guaranteed" if bounded else "Burstable"


def _condition(kind: str, date: str, *, good: bool, why: str = "") -> Json:
    condition: Json = {
        "type": kind,
        "status": "True" if good else "False",
        "lastTransitionTime": date,
    }
    return condition if good or not why else condition | {"reason": why}


def _container_status(
    container: Mapping[str, str], facts: PodFacts, *, running: bool, ready: bool
) -> Json:
    began = facts.restarted or facts.granted or facts.entered
    state: Json = (
        {"running": {"startedAt": began}}
        if running
        else {"waiting": {"reason": "ContainerCreating"}}
    )
    last: Json = {}
    if facts.restarts:
        last = {
            "terminated": {
                "exitCode": 137,
                "reason": "Error",
                "finishedAt": facts.restarted,
                "startedAt": began,
            }
        }
    return {
        "name": container["name"],
        "image": container.get("image", ""),
        "imageID": "",
        "ready": ready,
        "started": ready,
        "restartCount": facts.restarts,
        "state": state,
        "lastState": last,
    }


def _when(pod: Json, kind: str) -> str:
    """Return when a condition of *pod* last changed, "" where it has none."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return next(
        (each.get("lastTransitionTime", "") for each in conditions if each["type"] == kind), ""
    )


class BarePods:
    """The pods of a store that no ReplicaSet owns."""

    def __init__(self, commits: Commits) -> None:
        self._commits = commits
        self._born: dict[tuple[str, str], float] = {}
        self._told: dict[tuple[str, str], float] = {}
        self._new: list[Json] = []
        self._going: list[Json] = []
        commits.store.listeners.append(self._note)

    def sync(self, now_s: float) -> None:
        """Bring every such pod to its phase at *now_s*."""
        for pod in self._new:
            self._born[namespace_of(pod), name_of(pod)] = now_s
        for pod in self._going:
            self._told.setdefault((namespace_of(pod), name_of(pod)), now_s)
        self._new, self._going = [], []
        for place, born_s in tuple(self._born.items()):
            self._show(place, born_s, now_s)

    def _note(self, change: Change) -> None:
        if change.resource is not PODS or change.new["metadata"].get("ownerReferences"):
            return
        if change.type == "ADDED":
            self._new.append(change.new)
        elif change.type == "MODIFIED" and "deletionTimestamp" in change.new["metadata"]:
            self._going.append(change.new)

    def _show(self, place: tuple[str, str], born_s: float, now_s: float) -> None:
        pod = self._commits.store.get(PODS, *place)
        told_s = self._told.get(place)
        if pod is None or (told_s is not None and now_s >= told_s + END_S):
            del self._born[place]
            self._told.pop(place, None)
            if pod is not None:
                self._commits.remove(PODS, pod)
            return
        up = now_s >= born_s + START_S
        phase: PodPhase = "ready" if up else "starting"
        facts = PodFacts(
            name=place[1],
            namespace=place[0],
            phase=phase,
            created=up,
            entered=self._commits.dates.text_at(born_s),
            node=PLAIN_NODE,
        )
        self._commits.change(PODS, pod, with_state(pod, facts))
