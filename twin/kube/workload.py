"""One Deployment at run time: desired state goes into the simulation, pods come out as facts.

Deployments that the twin does not simulate have unmanaged pods, which only are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from twin.kube.apiserver.objects import Json, name_of, namespace_of
from twin.kube.desired import BatchOf, DesiredState, server_of
from twin.kube.load import LoadFeeder
from twin.serving.cluster import Cluster
from twin.serving.deployment import Deployment
from twin.serving.pod import Pod, PodPhase
from twin.spec import ClusterSpec, Pool

START_S = 1.0
END_S = 1.0


@dataclass(slots=True, eq=False)
class UnmanagedPod:
    """A pod without a simulated replica; its object looks like that of a simulated one."""

    name: str
    phase: PodPhase
    since_s: float
    revision: int
    restarts: int = 0


class UnmanagedPods:
    """The pods of one Deployment, in place of a simulated one. blocked ones stay pending for
    ever.
    """

    def __init__(self, name: str, *, blocked: bool) -> None:
        self.pods: list[UnmanagedPod] = []
        self._name = name
        self.blocked = blocked
        self._made = 0
        self._desired = (0, 0)

    def set_desired(self, replicas: int, revision: int, now_s: float) -> None:
        """Have *replicas* pods of *revision*."""
        self._desired = (replicas, revision)
        self.step(now_s)

    def step(self, now_s: float) -> None:
        """Let pods come up, replace and end, each in its time."""
        replicas, revision = self._desired
        for pod in self.pods:
            if pod.phase == "starting" and now_s >= pod.since_s + START_S:
                pod.phase, pod.since_s = "ready", pod.since_s + START_S
        self.pods = [
            pod for pod in self.pods if pod.phase != "draining" or now_s < pod.since_s + END_S
        ]
        staying = [pod for pod in self.pods if pod.phase != "draining"]
        fresh = [pod for pod in staying if pod.revision == revision]
        self.evict(fresh[replicas:], now_s)
        ready = sum(pod.phase == "ready" or self.blocked for pod in fresh)
        self.evict(
            [pod for pod in staying if pod.revision != revision][max(replicas - ready, 0) :], now_s
        )
        for _ in range(replicas - len(fresh)):
            phase: PodPhase = "pending" if self.blocked else "starting"
            self.pods.append(UnmanagedPod(f"{self._name}-{self._made}", phase, now_s, revision))
            self._made += 1

    def evict(self, pods: list[UnmanagedPod], now_s: float) -> None:
        """Take *pods* away; those that never ran are gone at once."""
        for pod in pods:
            if pod.phase == "pending":
                self.pods.remove(pod)
            elif pod.phase != "draining":
                pod.phase, pod.since_s = "draining", now_s


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
    batch_of: BatchOf


class Workload:
    """A Deployment object and the holders of its pods: one that follows its desired state, and
    former ones that end.
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
        self.desired: DesiredState | None = None
        self._world = world
        self._simulated: Deployment | None = None
        self._unmanaged: UnmanagedPods | None = None
        self._ending: list[Deployment | UnmanagedPods] = []
        self._servers = 0

    @property
    def ended(self) -> bool:
        """Tell whether the Deployment is gone, and all its pods with it."""
        return self.desired is None and not self._ending

    @property
    def simulated(self) -> Deployment | None:
        """Return the server in the simulation, None where there is none."""
        return self._simulated

    def follow(self, desired: DesiredState, now_s: float) -> None:
        """Become as *desired* says."""
        before, self.desired = self.desired, desired
        self.revisions.setdefault(desired.revision, len(self.revisions))
        if desired.managed and not desired.problem:
            self._simulate(desired, before, now_s)
            return
        if (
            self._simulated is not None
            and desired.managed
            and desired.model == self._simulated.server.model
        ):
            # The desired state is impossible: the pods that serve go on as they are.
            self._world.feeder.set_load(self._simulated.server.name, desired.load)
            return
        self._run_unmanaged(desired, now_s)

    def end(self, now_s: float) -> None:
        """Let the pods go: the Deployment is gone."""
        self.desired = None
        self._leave(now_s)

    def step(self, now_s: float) -> None:
        """Let pass what is not simulated."""
        for holder in (*self._ending, *([self._unmanaged] if self._unmanaged else [])):
            if isinstance(holder, UnmanagedPods):
                holder.step(now_s)
        self._ending = [holder for holder in self._ending if holder.pods]

    def units(self) -> Iterator[Unit]:
        """Yield the pods, the oldest holders' first."""
        current = self._simulated or self._unmanaged
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
        if self._unmanaged is not None:
            self._unmanaged.evict([pod for pod in self._unmanaged.pods if pod.name == key], now_s)
            self._unmanaged.step(now_s)

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

    def _simulate(self, desired: DesiredState, before: DesiredState | None, now_s: float) -> None:
        world = self._world
        if self._simulated is None or self._simulated.server.model != desired.model:
            self._leave(now_s)
            self._servers += 1
            server = server_of(
                desired, f"{self.namespace}/{self.name}#{self.uid[:8]}-{self._servers}", world.spec
            )
            world.cluster.add_server(server)
            world.feeder.add(server)
            self._simulated, before = world.cluster.server(server.name), None
        name = self._simulated.server.name
        world.feeder.set_load(name, desired.load)
        if before is None or _scaling(before) != _scaling(desired):
            world.cluster.scale(
                name,
                Pool(
                    accelerator=desired.accelerator,
                    replicas=desired.replicas,
                    max_batch=desired.max_batch,
                ),
                revision=self.revisions[desired.revision],
            )

    def _run_unmanaged(self, desired: DesiredState, now_s: float) -> None:
        if self._unmanaged is None or self._unmanaged.blocked != desired.managed:
            self._leave(now_s)
            self._servers += 1
            self._unmanaged = UnmanagedPods(f"{self.uid}-{self._servers}", blocked=desired.managed)
        self._unmanaged.set_desired(desired.replicas, self.revisions[desired.revision], now_s)

    def _leave(self, now_s: float) -> None:
        """Let the present holder of the pods end."""
        if self._simulated is not None:
            self._world.feeder.remove(self._simulated.server.name)
            self._world.cluster.remove_server(self._simulated.server.name)
            self._ending.append(self._simulated)
            self._simulated = None
        if self._unmanaged is not None:
            self._unmanaged.set_desired(0, 0, now_s)
            self._ending.append(self._unmanaged)
            self._unmanaged = None


def _scaling(desired: DesiredState) -> tuple[str, int, int, str]:
    return desired.accelerator, desired.replicas, desired.max_batch, desired.revision


def _unit(pod: Pod | UnmanagedPod) -> Unit:
    if isinstance(pod, UnmanagedPod):
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
