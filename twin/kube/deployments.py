"""The controllers of Deployments and ReplicaSets: they keep objects and simulation in step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isnan
from typing import Any

from twin.kube.apiserver.controllers import EventLog
from twin.kube.apiserver.objects import (
    Json,
    at_path,
    copied,
    name_of,
    namespace_of,
    owner_reference,
)
from twin.kube.apiserver.resources import DEPLOYMENTS, PODS, REPLICA_SETS
from twin.kube.apiserver.storage import Change, Commits, generated_name
from twin.kube.desired import desired_state, template_hash
from twin.kube.faults import Faults
from twin.kube.nodes import PLAIN_NODE, Machines
from twin.kube.pods import CREATING_S, PodFacts, new_pod, with_state
from twin.kube.workload import Unit, Workload, World
from twin.serving.pod import Pod

HASH = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
SETS_KEPT = 10  # old ReplicaSets, unless revisionHistoryLimit says otherwise


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
    """Return *replica_set* with *replicas* desired, and the status that follows from *units*."""
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
    desired_replicas = at_path(deployment, "spec.replicas") or 0
    ready = sum(unit.phase == "ready" for unit in staying)
    fresh = sum(unit.phase != "draining" for unit in updated)
    counts = {
        "replicas": len(staying),
        "updatedReplicas": fresh,
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": max(max(desired_replicas, len(staying)) - ready, 0),
    }
    complete = fresh == desired_replicas == len(staying) == ready
    before = {each["type"]: each for each in at_path(deployment, "status.conditions") or ()}
    return {
        "observedGeneration": deployment["metadata"].get("generation", 1),
        **{key: value for key, value in counts.items() if value},
        "conditions": [
            _condition(before, "Available", now, _availability(ready, desired_replicas)),
            _condition(
                before, "Progressing", now, _progress(name_of(deployment), complete=complete)
            ),
        ],
    }


def _availability(ready: int, desired_replicas: int) -> Json:
    if ready >= desired_replicas - desired_replicas // 4:
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


SCHEDULER, KUBELET, CONTROLLER = "default-scheduler", "kubelet", "deployment-controller"


class Fleet:
    """All Deployments of a store and their pods. Everything happens in sync, or is noted until
    then.
    """

    def __init__(
        self,
        world: World,
        commits: Commits,
        machines: Machines,
        *,
        events: EventLog,
        faults: Faults,
    ) -> None:
        self._world = world
        self._commits = commits
        self._store = commits.store
        self._machines = machines
        self._events = events
        self._faults = faults
        self._workloads: dict[str, Workload] = {}
        self._changed: dict[str, Json | None] = {}
        self._evicted: list[Json] = []
        self._shown: dict[str, tuple[object, ...]] = {}
        self._stuck: dict[tuple[str, str], str] = {}
        self._keys: dict[tuple[str, str], tuple[Workload, str]] = {}
        self._store.listeners.append(self._note)

    def sync(self, now_s: float) -> None:
        """Bring simulation and objects together at *now_s*."""
        changed, self._changed = self._changed, {}
        for uid, deployment in changed.items():
            self._take_up(uid, deployment, now_s)
        evicted, self._evicted = self._evicted, []
        for pod in evicted:
            self._let_go(pod, now_s)
        for uid, workload in tuple(self._workloads.items()):
            workload.step(now_s)
            self._hold_up(workload, now_s)
            self._show(uid, workload, now_s)

    def pod(self, namespace: str, name: str) -> tuple[Workload, Pod | None] | None:
        """Return the workload of a pod object and the simulated pod behind it; None where it is not
        of this fleet.
        """
        found = self._keys.get((namespace, name))
        return None if found is None else (found[0], found[0].pod(found[1]))

    def serving(self) -> Iterator[tuple[str, str, Workload, Pod]]:
        """Yield namespace, name, workload and simulated pod of everything that answers requests."""
        for (namespace, name), (workload, key) in tuple(self._keys.items()):
            pod = workload.pod(key)
            if pod is not None and pod.replica is not None:
                yield namespace, name, workload, pod

    def workloads(self) -> Iterator[Workload]:
        """Yield the workloads that there are."""
        yield from self._workloads.values()

    # -- from objects to the simulation

    def _note(self, change: Change) -> None:
        if change.resource is DEPLOYMENTS:
            self._changed[change.new["metadata"]["uid"]] = (
                None if change.type == "DELETED" else change.new
            )
        elif change.resource is PODS and change.type == "MODIFIED":
            before = change.old is not None and "deletionTimestamp" in change.old["metadata"]
            if not before and "deletionTimestamp" in change.new["metadata"]:
                self._evicted.append(change.new)

    def _take_up(self, uid: str, deployment: Json | None, now_s: float) -> None:
        workload = self._workloads.get(uid)
        if deployment is None:
            if workload is not None:
                workload.end(now_s)
            return
        desired = desired_state(deployment, self._world.spec, batch_of=self._world.batch_of)
        if desired.managed and not desired.problem and desired.node_selector:
            type_ = self._world.spec.accelerators[desired.accelerator].type
            if not self._machines.selected(type_, desired.node_selector):
                desired = replace(
                    desired, problem=f"no node with GPUs of {type_} matches the pod's node selector"
                )
        if workload is None:
            workload = self._workloads[uid] = Workload(self._world, deployment)
        if desired == workload.desired:
            return
        if desired.problem and (
            workload.desired is None or workload.desired.problem != desired.problem
        ):
            self._events.add(
                deployment, "Unsimulated", desired.problem, source=CONTROLLER, warning=True
            )
        if desired.load_problem and (
            workload.desired is None or workload.desired.load_problem != desired.load_problem
        ):
            self._events.add(
                deployment, "LoadIgnored", desired.load_problem, source=CONTROLLER, warning=True
            )
        workload.follow(desired, now_s)

    def _let_go(self, pod: Json, now_s: float) -> None:
        place = (namespace_of(pod), name_of(pod))
        found = self._keys.get(place)
        if found is not None:
            workload, key = found
            unit = next((unit for unit in workload.units() if unit.key == key), None)
            if unit is not None and unit.phase != "draining":
                force = pod["metadata"].get("deletionGracePeriodSeconds") == 0
                workload.evict(key, now_s, force=force)

    def _hold_up(self, workload: Workload, now_s: float) -> None:
        if not self._faults.all and not self._stuck:
            return
        for unit in workload.units():
            place = (workload.namespace, workload.objects.get(unit.key, ""))
            if not place[1]:
                continue
            hit = unit.phase == "starting" and self._faults.hits(
                "stuckPods", now_s, namespace=place[0], name=place[1]
            )
            if hit and place not in self._stuck:
                workload.hold_start(unit.key)
                self._stuck[place] = unit.key
            elif not hit and self._stuck.get(place) == unit.key:
                workload.start_again(unit.key)
                del self._stuck[place]

    # -- from the simulation to objects

    def _show(self, uid: str, workload: Workload, now_s: float) -> None:
        units = tuple(workload.units())
        deployment = self._store.get(DEPLOYMENTS, workload.namespace, workload.name)
        if deployment is not None and deployment["metadata"]["uid"] != uid:
            deployment = None
        version = deployment["metadata"]["resourceVersion"] if deployment else ""
        young = tuple(
            unit.phase == "starting" and now_s < unit.since_s + CREATING_S for unit in units
        )
        stale = bool(self._faults.all) and self._faults.hits(
            "staleStatus", now_s, namespace=workload.namespace, name=workload.name
        )
        seen = (version, units, young, stale)
        if self._shown.get(uid) == seen:
            return
        if deployment is not None and workload.desired is not None:
            self._show_sets(workload, deployment, units, stale=stale)
        self._show_pods(workload, units, now_s)
        if deployment is not None:
            deployment = self._store.get(DEPLOYMENTS, workload.namespace, workload.name)
            assert deployment is not None
            seen = (deployment["metadata"]["resourceVersion"], *seen[1:])
        self._shown[uid] = seen
        if workload.ended:
            del self._workloads[uid], self._shown[uid]

    def _show_sets(
        self, workload: Workload, deployment: Json, units: tuple[Unit, ...], *, stale: bool
    ) -> None:
        desired = workload.desired
        assert desired is not None
        current = self._set_name(workload, desired.revision, self._accelerator(workload))
        if self._store.get(REPLICA_SETS, workload.namespace, current) is None:
            workload.sets.add(current)
            number = len(workload.revisions)
            made = self._commits.create(REPLICA_SETS, new_replica_set(deployment, current, number))
            self._events.add(
                deployment,
                "ScalingReplicaSet",
                f"Created replica set {name_of(made)}",
                source=CONTROLLER,
            )
        by_set: dict[str, list[Unit]] = {current: []}
        for unit in units:
            by_set.setdefault(self._set_of(workload, unit), []).append(unit)
        found = (
            self._store.get(REPLICA_SETS, workload.namespace, name)
            for name in sorted(workload.sets)
        )
        for obj in filter(None, found):
            mine = by_set.get(name_of(obj), [])
            staying = sum(unit.phase != "draining" for unit in mine)
            desired_replicas = max(desired.replicas, 0) if name_of(obj) == current else staying
            new = sized(obj, replicas=desired_replicas, units=mine)
            if new["spec"] != obj["spec"]:
                text = (
                    f"Scaled replica set {name_of(obj)} from {obj['spec'].get('replicas', 0)} "
                    f"to {desired_replicas}"
                )
                self._events.add(deployment, "ScalingReplicaSet", text, source=CONTROLLER)
            self._commits.change(REPLICA_SETS, obj, new)
        self._forget_sets(workload, deployment, by_set)
        if not stale:
            status = deployment_status(
                deployment,
                [unit for unit in units if unit.phase != "draining"],
                by_set[current],
                now=self._commits.now(),
            )
            revision = {"deployment.kubernetes.io/revision": str(len(workload.revisions))}
            self._commits.status(DEPLOYMENTS, deployment, status, annotations=revision)

    def _forget_sets(
        self, workload: Workload, deployment: Json, by_set: Mapping[str, Sequence[Unit]]
    ) -> None:
        """Delete old sets without pods but for the latest ones, as many as the Deployment says."""
        empty = [
            obj
            for name in workload.sets
            if name not in by_set
            if (obj := self._store.get(REPLICA_SETS, workload.namespace, name)) is not None
        ]
        empty.sort(key=lambda obj: (obj["metadata"]["creationTimestamp"], name_of(obj)))
        kept = deployment["spec"].get("revisionHistoryLimit", SETS_KEPT)
        for obj in empty[: max(len(empty) - kept, 0)]:
            workload.sets.remove(name_of(obj))
            self._commits.remove(REPLICA_SETS, obj)

    def _show_pods(self, workload: Workload, units: tuple[Unit, ...], now_s: float) -> None:
        for unit in units:
            if unit.key not in workload.objects and workload.desired is not None:
                name = self._new_pod_name(workload, unit)
                workload.objects[unit.key] = name
                self._keys[workload.namespace, name] = (workload, unit.key)
            if unit.key in workload.objects:
                self._show_pod(workload, unit, now_s)
        for key in workload.objects.keys() - {unit.key for unit in units}:
            self._forget(workload, key)

    def _show_pod(self, workload: Workload, unit: Unit, now_s: float) -> None:
        facts = self._facts(workload, unit, now_s)
        pod = self._store.get(PODS, facts.namespace, facts.name)
        if pod is None:
            owner = self._store.get(REPLICA_SETS, workload.namespace, self._set_of(workload, unit))
            if owner is None:
                return
            made = with_state(new_pod(owner["spec"]["template"], owner, facts), facts)
            pod = self._commits.create(PODS, made)
            self._events.add(
                owner,
                "SuccessfulCreate",
                f"Created pod: {facts.name}",
                source="replicaset-controller",
            )
            self._tell(pod, {}, facts)
            return
        new = self._commits.change(PODS, pod, with_state(pod, facts))
        self._tell(new, pod, facts)
        if unit.phase == "draining" and "deletionTimestamp" not in new["metadata"]:
            self._commits.mark_deleted(PODS, new, grace_s=facts.grace_s)
            self._events.add(
                new, "Killing", f"Stopping container {_container(new)}", source=KUBELET
            )

    def _tell(self, pod: Json, before: Json, facts: PodFacts) -> None:
        """Write the events of a pod that has come further."""
        if pod is before:
            return
        if not facts.node:
            self._events.add(pod, "FailedScheduling", facts.message, source=SCHEDULER, warning=True)
            return
        was = before.get("status", {}).get("phase")
        if not before.get("spec", {}).get("nodeName"):
            text = f"Successfully assigned {facts.namespace}/{facts.name} to {facts.node}"
            self._events.add(pod, "Scheduled", text, source=SCHEDULER)
        if pod["status"]["phase"] == "Running" and was != "Running":
            self._events.add(pod, "Started", f"Started container {_container(pod)}", source=KUBELET)

    def _facts(self, workload: Workload, unit: Unit, now_s: float) -> PodFacts:
        pending = unit.phase == "pending"
        node = "" if pending else PLAIN_NODE
        if unit.gpus and not pending:
            node = self._machines.place(unit.key, type_=unit.type, gpus=unit.gpus) or PLAIN_NODE
        date = self._commits.dates.text_at
        message = ""
        if pending:
            total = len(self._machines.by_name)
            problem = workload.desired.problem if workload.desired else ""
            message = (
                f"0/{total} nodes are available: "
                f"{problem or f'not enough free GPUs of {unit.type}'}."
            )
        return PodFacts(
            name=workload.objects[unit.key],
            namespace=workload.namespace,
            phase=unit.phase,
            created=unit.phase != "pending" and now_s >= unit.since_s + CREATING_S,
            entered=date(unit.since_s),
            granted="" if isnan(unit.granted_s) else date(unit.granted_s),
            restarted=date(unit.granted_s) if unit.restarts else "",
            restarts=unit.restarts,
            node=node,
            accelerator=unit.accelerator,
            type=unit.type,
            gpus=unit.gpus,
            message=message,
        )

    def _forget(self, workload: Workload, key: str) -> None:
        place = (workload.namespace, workload.objects.pop(key))
        self._machines.release(key)
        del self._keys[place]
        self._stuck.pop(place, None)
        pod = self._store.get(PODS, *place)
        if pod is not None:
            self._commits.remove(PODS, pod)

    # -- names

    def _new_pod_name(self, workload: Workload, unit: Unit) -> str:
        """Return a name for the pod of *unit* that no other pod has: long ones are cut."""
        prefix, text = f"{self._set_of(workload, unit)}-", workload.uid + unit.key
        name = generated_name(prefix, text)
        while self._store.get(PODS, workload.namespace, name) is not None:
            text += "+"
            name = generated_name(prefix, text)
        return name

    def _accelerator(self, workload: Workload) -> str:
        """Return the accelerator of the pods that are being made now."""
        return workload.simulated.desired.pool.accelerator if workload.simulated else ""

    def _set_of(self, workload: Workload, unit: Unit) -> str:
        """Return the name of the ReplicaSet of *unit*."""
        revision = list(workload.revisions)[unit.revision]
        return self._set_name(workload, revision, unit.accelerator)

    def _set_name(self, workload: Workload, revision: str, accelerator: str) -> str:
        return f"{workload.name}-{template_hash(revision, accelerator)}"


def _container(pod: Json) -> str:
    return str(pod["spec"]["containers"][0]["name"])
