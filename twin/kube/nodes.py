"""Nodes: how the GPUs of the world are spread over machines, and which pod is on which.

A node may be lost and come back; its pods and GPUs are lost with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from twin.kube.apiserver.controllers import EventLog
from twin.kube.apiserver.objects import Json, name_of
from twin.kube.apiserver.resources import NODES
from twin.kube.apiserver.storage import Change, Commits
from twin.kube.faults import Faults
from twin.serving.cluster import Cluster

GPUS_MAX = 8
"""GPUs in one machine."""

PLAIN_NODE = "cpu-1"
"""The machine of everything that holds no GPUs."""

_VENDORS = ((re.compile(r"MI\d"), "amd.com/gpu"), (re.compile(r"G\d"), "habana.ai/gaudi"))


def gpu_resource(type_: str) -> str:
    """Return the name under which a node counts GPUs of *type_*, as the device plugin of its maker
    calls it.
    """
    return next((name for start, name in _VENDORS if start.match(type_.upper())), "nvidia.com/gpu")


def type_label(type_: str) -> str:
    """Return the label of a node that names the type of its GPUs."""
    return f"{gpu_resource(type_)}.product"


@dataclass(slots=True, kw_only=True)
class Machine:
    """One node: GPUs of one type (0 of none), and the pods on it with the GPUs that each
    holds.
    """

    name: str
    type: str = ""
    gpus: int = 0
    up: bool = True
    pods: dict[str, int] = field(default_factory=dict)

    @property
    def free(self) -> int:
        """Return the GPUs that no pod holds; below zero where the pool gave out GPUs of several
        machines at once.
        """
        return self.gpus - sum(self.pods.values())

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels of the node."""
        named = {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
        }
        return {**named, type_label(self.type): self.type} if self.type else named


class Machines:
    """All nodes of a world of *capacity* GPUs per type."""

    def __init__(self, capacity: Mapping[str, int]) -> None:
        self.by_name = {PLAIN_NODE: Machine(name=PLAIN_NODE)}
        for type_, total in capacity.items():
            for number, begin in enumerate(range(0, total, GPUS_MAX), start=1):
                name = f"{type_.lower()}-{number}"
                gpus = min(GPUS_MAX, total - begin)
                self.by_name[name] = Machine(name=name, type=type_, gpus=gpus)
        self._places: dict[str, Machine] = {}

    def place(self, pod: str, *, type_: str, gpus: int) -> str:
        """Put *pod* on the fullest node of *type_* that has room for it, or where most is free;
        return its name.

        The simulation grants GPUs of a type, wherever they are. So a pod of several GPUs may find
        none with room.
        """
        if pod in self._places:
            return self._places[pod].name
        up = [node for node in self.by_name.values() if node.up and node.type == type_]
        roomy = [node for node in up if node.free >= gpus]
        chosen = (
            min(roomy, key=lambda node: node.free)
            if roomy
            else max(up, key=lambda node: node.free, default=None)
        )
        if chosen is None:
            return ""
        chosen.pods[pod] = gpus
        self._places[pod] = chosen
        return chosen.name

    def release(self, pod: str) -> None:
        """Take *pod* off its node, if it is on one."""
        node = self._places.pop(pod, None)
        if node is not None:
            node.pods.pop(pod, None)

    def selected(self, type_: str, selector: Mapping[str, str]) -> bool:
        """Tell whether some node with GPUs of *type_* has all labels of *selector*."""
        nodes = [node for node in self.by_name.values() if node.type == type_]
        return any(selector.items() <= node.labels.items() for node in nodes)


def node_object(machine: Machine, *, date: str) -> Json:
    """Return the Node object of *machine*, whose state last changed at *date*."""
    room: Json = {"cpu": "192", "memory": "2Ti", "ephemeral-storage": "1Ti", "pods": "250"}
    if machine.type:
        room[gpu_resource(machine.type)] = str(machine.gpus)
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": machine.name, "labels": machine.labels},
        "spec": {}
        if machine.up
        else {"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]},
        "status": {
            "capacity": room,
            "allocatable": room,
            "conditions": [_ready_condition(machine, date=date)],
            "addresses": [
                {"type": "InternalIP", "address": "127.0.0.1"},
                {"type": "Hostname", "address": machine.name},
            ],
            "nodeInfo": {
                "architecture": "amd64",
                "bootID": "",
                "containerRuntimeVersion": "simpy://4",
                "kernelVersion": "none",
                "kubeProxyVersion": "",
                "kubeletVersion": "v1.32.0",
                "machineID": machine.name,
                "operatingSystem": "linux",
                "osImage": "Inferno Twin",
                "systemUUID": machine.name,
            },
        },
    }


def _ready_condition(machine: Machine, *, date: str) -> Json:
    up = {"status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}
    down = {
        "status": "Unknown",
        "reason": "NodeStatusUnknown",
        "message": "Kubelet stopped posting node status.",
    }
    return {
        "type": "Ready",
        **(up if machine.up else down),
        "lastHeartbeatTime": date,
        "lastTransitionTime": date,
    }


class NodeKeeper:
    """Writes the Node objects of *machines*. A node is lost by a fault, for its time, or by
    deletion, for ever.
    """

    def __init__(
        self,
        cluster: Cluster,
        commits: Commits,
        machines: Machines,
        *,
        events: EventLog,
        faults: Faults,
    ) -> None:
        self._cluster = cluster
        self._commits = commits
        self._machines = machines
        self._events = events
        self._faults = faults
        self._deleted: list[str] = []
        for machine in machines.by_name.values():
            commits.create(NODES, node_object(machine, date=commits.now()))
        commits.store.listeners.append(self._note)

    def sync(self, now_s: float) -> None:
        """Lose and regain nodes as faults have it at *now_s*, and lose those that were deleted."""
        while self._deleted:
            machine = self._machines.by_name.pop(self._deleted.pop(), None)
            if machine is not None and machine.up:
                self._lose(machine)
        for machine in self._machines.by_name.values():
            lost = bool(self._faults.all) and self._faults.hits(
                "lostNode", now_s, name=machine.name
            )
            if machine.type and lost == machine.up:
                self._lose(machine) if lost else self._regain(machine)
                self._show(machine)

    def _note(self, change: Change) -> None:
        if change.resource is NODES and change.type == "DELETED":
            self._deleted.append(name_of(change.new))

    def _lose(self, machine: Machine) -> None:
        machine.up = False
        if machine.type:
            # Only GPUs that are really there can be lost: the simulation counts them by type.
            self._cluster.fail_node(machine.type, machine.gpus, pods=list(machine.pods))

    def _regain(self, machine: Machine) -> None:
        machine.up = True
        up = sum(
            each.gpus
            for each in self._machines.by_name.values()
            if each.up and each.type == machine.type
        )
        self._cluster.set_capacity(machine.type, up)

    def _show(self, machine: Machine) -> None:
        node = self._commits.store.get(NODES, "", machine.name)
        if node is None:
            return
        shown = node_object(machine, date=self._commits.now())
        new = self._commits.change(
            NODES, node, {**node, "spec": shown["spec"], "status": shown["status"]}
        )
        reason = "NodeReady" if machine.up else "NodeNotReady"
        text = f"Node {machine.name} status is now: {reason}"
        self._events.add(new, reason, text, source="node-controller", warning=not machine.up)
