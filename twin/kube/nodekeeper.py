"""Nodes as objects, and what becomes of their pods and GPUs when one is lost or comes back."""

from __future__ import annotations

from twin.kube.apiserver.commits import Commits
from twin.kube.apiserver.events import EventLog
from twin.kube.apiserver.faults import Faults
from twin.kube.apiserver.objects import name_of
from twin.kube.apiserver.resources import NODES
from twin.kube.apiserver.store import Change
from twin.kube.nodes import Machine, Machines, node_object
from twin.serving.cluster import Cluster


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
