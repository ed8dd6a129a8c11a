"""One Deployment at run time: its wishes go into the simulation, and its pods come out as plain
facts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from twin.kube.apiserver.objects import Json, name_of, namespace_of
from twin.kube.feeder import LoadFeeder
from twin.kube.standins import StandIn, StandIns
from twin.kube.wants import Wants, server_of
from twin.serving.cluster import Cluster
from twin.serving.deployment import Deployment
from twin.serving.pod import Pod, PodPhase
from twin.spec import ClusterSpec


class Unit(NamedTuple):
    """One pod as it is now: all that its object depends on, besides the clock."""

    key: str
    phase: PodPhase
    since_s: float
    restarts: int
    revision: int
    accelerator: str
    type: str
    gpus: int
    granted_s: float


@dataclass(slots=True, kw_only=True)
class World:
    """What workloads live in."""

    spec: ClusterSpec
    cluster: Cluster
    feeder: LoadFeeder


class Workload:
    """A Deployment object and those who hold its pods: one that follows its wishes, and former ones
    that end.
    """

    def __init__(self, world: World, deployment: Json) -> None:
        self.namespace = namespace_of(deployment)
        self.name = name_of(deployment)
        self.uid = str(deployment["metadata"]["uid"])
        self.revisions: dict[str, int] = {}
        self.sets: set[str] = set()  # names of its ReplicaSets
        self.objects: dict[
            str, str
        ] = {}  # names of Pod objects by the names of the pods behind them
        self.wants: Wants | None = None
        self._world = world
        self._simulated: Deployment | None = None
        self._standins: StandIns | None = None
        self._ending: list[Deployment | StandIns] = []
        self._servers = 0

    @property
    def ended(self) -> bool:
        """Tell whether the Deployment is gone, and all its pods with it."""
        return self.wants is None and not self._ending

    @property
    def simulated(self) -> Deployment | None:
        """Return the server in the simulation, None where there is none."""
        return self._simulated

    def follow(self, wants: Wants, now_s: float) -> None:
        """Become as *wants* says."""
        before, self.wants = self.wants, wants
        self.revisions.setdefault(wants.revision, len(self.revisions))
        if wants.managed and not wants.problem:
            self._simulate(wants, before, now_s)
            return
        if (
            self._simulated is not None
            and wants.managed
            and wants.model == self._simulated.server.model
        ):
            # What is asked for cannot be: those who serve go on as they are.
            self._world.feeder.set_load(self._simulated.server.name, wants.load)
            return
        self._stand_in(wants, now_s)

    def end(self, now_s: float) -> None:
        """Let the pods go: the Deployment is gone."""
        self.wants = None
        self._leave(now_s)

    def step(self, now_s: float) -> None:
        """Let pass what is not simulated."""
        for holder in (*self._ending, *([self._standins] if self._standins else [])):
            if isinstance(holder, StandIns):
                holder.step(now_s)
        self._ending = [holder for holder in self._ending if holder.pods]

    def units(self) -> Iterator[Unit]:
        """Yield the pods, the oldest holders' first."""
        current = self._simulated or self._standins
        for holder in (*self._ending, *([current] if current else [])):
            for pod in holder.pods:
                yield _unit(pod)

    def pod(self, key: str) -> Pod | None:
        """Return the simulated pod of that name, None where there is none."""
        return next(
            (pod for holder in self._simulations() for pod in holder.pods if pod.name == key), None
        )

    def evict(self, key: str, now_s: float, *, force: bool) -> None:
        """Take one pod away, and make another in its place; with *force* whatever it serves is
        lost.
        """
        for holder in self._simulations():
            for pod in [pod for pod in holder.pods if pod.name == key]:
                if force:
                    holder.kill([pod])
                    holder.replace_lost()
                else:
                    holder.evict([pod])
        if self._standins is not None:
            self._standins.evict([pod for pod in self._standins.pods if pod.name == key], now_s)
            self._standins.step(now_s)

    def hold_start(self, key: str) -> None:
        """Let a starting pod not get ready."""
        for holder in self._simulations():
            for pod in holder.pods:
                if pod.name == key and pod.phase == "starting":
                    holder.hold_start(pod)

    def start_again(self, key: str) -> None:
        """Let a pod whose start was held up begin it anew."""
        for holder in self._simulations():
            for pod in holder.pods:
                if pod.name == key and pod.phase == "starting":
                    holder.start_again(pod)

    def _simulations(self) -> list[Deployment]:
        ending = [holder for holder in self._ending if isinstance(holder, Deployment)]
        return [*ending, *([self._simulated] if self._simulated else [])]

    def _simulate(self, wants: Wants, before: Wants | None, now_s: float) -> None:
        world = self._world
        if self._simulated is None or self._simulated.server.model != wants.model:
            self._leave(now_s)
            self._servers += 1
            server = server_of(
                wants, f"{self.namespace}/{self.name}#{self.uid[:8]}-{self._servers}", world.spec
            )
            world.cluster.add_server(server)
            world.feeder.add(server)
            self._simulated, before = world.cluster.server(server.name), None
        name = self._simulated.server.name
        world.feeder.set_load(name, wants.load)
        if before is None or _wish(before) != _wish(wants):
            world.cluster.scale(
                name,
                accelerator=wants.accelerator,
                replicas=wants.replicas,
                max_batch=wants.max_batch,
                revision=self.revisions[wants.revision],
            )

    def _stand_in(self, wants: Wants, now_s: float) -> None:
        if self._standins is None or self._standins.blocked != wants.managed:
            self._leave(now_s)
            self._servers += 1
            self._standins = StandIns(f"{self.uid}-{self._servers}", blocked=wants.managed)
        self._standins.want(wants.replicas, self.revisions[wants.revision], now_s)

    def _leave(self, now_s: float) -> None:
        """Let whoever follows the wishes now end."""
        if self._simulated is not None:
            self._world.feeder.remove(self._simulated.server.name)
            self._world.cluster.remove_server(self._simulated.server.name)
            self._ending.append(self._simulated)
            self._simulated = None
        if self._standins is not None:
            self._standins.want(0, 0, now_s)
            self._ending.append(self._standins)
            self._standins = None


def _wish(wants: Wants) -> tuple[str, int, int, str]:
    return wants.accelerator, wants.replicas, wants.max_batch, wants.revision


def _unit(pod: Pod | StandIn) -> Unit:
    if isinstance(pod, StandIn):
        return Unit(pod.name, pod.phase, pod.since_s, 0, pod.revision, "", "", 0, pod.since_s)
    life = pod.life
    return Unit(
        pod.name,
        pod.phase,
        pod.since_s,
        pod.restarts,
        pod.revision,
        life.accelerator,
        life.type,
        life.gpus,
        life.granted_s,
    )
