"""The twin as a cluster, put together: a simulated world, its objects, and the API server in front
of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import simpy

from twin.kernel import CONTROL, at
from twin.kube.apiserver.auth import ADMIN, ANONYMOUS, Authority, Identity
from twin.kube.apiserver.controllers import EventLog, Garbage
from twin.kube.apiserver.errors import ApiError, bad_request, no_such_path, not_found
from twin.kube.apiserver.objects import Json, at_path
from twin.kube.apiserver.request import parsed_yaml
from twin.kube.apiserver.resources import DEPLOYMENTS, NAMESPACES, PODS
from twin.kube.apiserver.rest import Rest
from twin.kube.apiserver.server import ApiServer
from twin.kube.apiserver.storage import Commits, Dates, Store
from twin.kube.deployments import Fleet
from twin.kube.desired import BatchOf, untold
from twin.kube.faults import Fault, Faults, described, parse_faults, read_faults
from twin.kube.files import create_objects, read_manifests, read_token_file
from twin.kube.load import LoadFeeder
from twin.kube.nodes import Machines, NodeKeeper
from twin.kube.pages import (
    METRICS_TYPE,
    Windows,
    discovery_text,
    envelope,
    gateway_samples,
    metrics_text,
    pod_samples,
    totals_of,
)
from twin.kube.pods import BarePods
from twin.kube.workload import World
from twin.serving.cluster import WAITING_MAX, Cluster
from twin.serving.pod import Pod
from twin.serving.view import ClusterView
from twin.spec import ClusterSpec, SpecError

SLICE_S = 0.5
"""How much of the world's time passes at most between two rounds of the controllers."""

CONTROL_PATH = "/twin/"
"""Where administrators steer the world itself; faults do not strike there."""

TOKEN = "inferno-twin"
"""The token of the administrator, if no tokens file is given."""


class TwinCluster:
    """A world of *spec* (whose servers only lend their settings to Deployments of their names)
    behind an API.

    *clock* tells the time that the world is to keep up with, which runs *speed* times as fast as
    that of the machine; *start* is the date of its 0. *tokens* gives the identity of each token;
    *anonymous* is the identity of a client that sends none. *batch_of* reads the command lines of
    containers. Nothing happens but in advance and in the calls of server: all in one thread.
    """

    def __init__(
        self,
        spec: ClusterSpec,
        *,
        clock: Callable[[], float],
        start: datetime,
        batch_of: BatchOf = untold,
        speed: float = 1.0,
        seed: int = 1,
        tokens: Mapping[str, Identity] | None = None,
        anonymous: Identity = ADMIN,
        faults: Sequence[Fault] = (),
        address: str = "127.0.0.1:8001",
    ) -> None:
        self.faults = Faults(faults)
        self.address = address
        self._clock = clock
        self._env = simpy.Environment()
        sequence = np.random.SeedSequence(seed)
        empty = ClusterSpec(
            accelerators=spec.accelerators,
            capacity=spec.capacity,
            engines=spec.engines,
            servers=(),
            world=spec.world,
        )
        cluster = Cluster(self._env, empty, seed=sequence, waiting_max=WAITING_MAX)
        self.dates = Dates(start, speed=speed, now_s=lambda: self.now_s)
        # By the clock of the clients, whose watches it is that must not break.
        self.store = Store(now_s=lambda: self.now_s / speed)
        self.commits = Commits(self.store, dates=self.dates, seed=str(seed))
        machines = Machines(spec.capacity)
        events = EventLog(self.commits)
        self._garbage = Garbage(self.commits)
        self._feeder = LoadFeeder(self._env, cluster, seed=sequence)
        self._keeper = NodeKeeper(
            cluster, self.commits, machines, events=events, faults=self.faults
        )
        self._cluster = cluster
        world = World(spec=spec, cluster=cluster, feeder=self._feeder, batch_of=batch_of)
        self._fleet = Fleet(world, self.commits, machines, events=events, faults=self.faults)
        self._bare = BarePods(self.commits)
        self._windows = Windows(window_s=spec.world.window_s)
        for name in ("default", "kube-system"):
            self.commits.create(NAMESPACES, _namespace(name))
        authority = Authority(
            self.store, {TOKEN: ADMIN} if tokens is None else tokens, anonymous=anonymous
        )
        self.server = ApiServer(self.commits, authority, pods=self, dates=self.dates)

    # -- time

    @property
    def now_s(self) -> float:
        """Return the time of the world."""
        return float(self._env.now)

    def advance(self) -> bool:
        """Come one slice nearer to the present, and bring objects up to date; tell whether the
        present is reached.
        """
        present_s = self._clock()
        until_s = min(present_s, self.now_s + SLICE_S)
        if until_s > self.now_s:
            self._feeder.feed(until_s)
            # Control comes first at its instant: what clients ask for now happens before the
            # requests that come now.
            self._env.run(until=at(self._env, until_s, priority=CONTROL, action=_nothing))
        self._garbage.collect()
        self._keeper.sync(self.now_s)
        self._fleet.sync(self.now_s)
        self._bare.sync(self.now_s)
        return until_s >= present_s

    def served(self) -> tuple[ClusterView, Mapping[str, Json]]:
        """Return what an observer sees now, and of each server that is simulated its Deployment."""
        objects = {
            workload.simulated.server.name: deployment
            for workload in self._fleet.workloads()
            if workload.simulated is not None
            and (deployment := self.store.get(DEPLOYMENTS, workload.namespace, workload.name))
        }
        return self._cluster.snapshot(), objects

    def load(self, manifests: Sequence[tuple[str, Json]]) -> None:
        """Create *manifests* (see read_manifests). Raise SpecError, one line, for the first that is
        refused.
        """
        create_objects(Rest(self.commits), manifests)

    def stop(self) -> None:
        """End the watches of all clients, so that a server can end at once. May be called by any
        thread.
        """
        self.server.close()

    def control(self, method: str, path: str, body: bytes) -> Json:
        """Show or replace the faults in force, or forget the history of changes (then old watches
        answer 410).
        """
        if path == "/twin/faults" and method == "PUT":
            try:
                self.faults.all = list(parse_faults(parsed_yaml(body), source="faults"))
            except SpecError as error:
                raise bad_request(str(error)) from None
        elif (method, path) == ("POST", "/twin/compact"):
            self.store.compact()
        elif (method, path) != ("GET", "/twin/faults"):
            raise no_such_path()
        return {"nowS": self.now_s, "faults": [described(fault) for fault in self.faults.all]}

    # -- pods, as the API server reaches them

    def log(self, namespace: str, name: str) -> str:
        """Return what a pod wrote: nothing runs in it, so it says what it stands for."""
        pod = self._pod(namespace, name)
        conditions = at_path(pod, "status.conditions") or ()
        lines = [
            f"{each['lastTransitionTime']} {each['type']}={each['status']}" for each in conditions
        ]
        return (
            "\n".join([f"pod {name} of the twin: no process runs here, it is simulated", *lines])
            + "\n"
        )

    def page(self, path: str) -> tuple[str, str] | None:
        """Return (media type, text) of a page for Prometheus, None where *path* is none."""
        if path == "/metrics":
            return METRICS_TYPE, self._all_metrics()
        if path == "/sd/pods":
            pods = [(namespace, name) for namespace, name, _, _ in self._fleet.serving()]
            return "application/json", discovery_text(pods, host=self.address)
        parts = path.strip("/").split("/")
        if len(parts) == 4 and (parts[0], parts[3]) == ("pods", "metrics"):
            return METRICS_TYPE, self.pod_page(parts[1], parts[2], "/metrics")
        if len(parts) == 4 and (parts[0], parts[3]) == ("pods", "latest"):
            return "application/json", self.pod_page(parts[1], parts[2], "/latest")
        return None

    def pod_page(self, namespace: str, name: str, path: str) -> str:
        """Return what a pod answers to a GET of *path*. Raise ApiError where it does not."""
        self._pod(namespace, name)
        found = self._fleet.pod(namespace, name)
        if found is None or found[1] is None or found[1].replica is None:
            raise ApiError(
                503,
                "ServiceUnavailable",
                f"error trying to reach service: pod {name} does not listen",
            )
        if path == "/metrics":
            return metrics_text(pod_samples(found[1], now_s=self.now_s, dates=self.dates))
        if path == "/latest":
            return self._latest(namespace, name, found[1])
        if path in ("/health", "/ping"):
            return ""
        raise ApiError(404, "NotFound", f"the server of pod {name} has no page {path}")

    def _latest(self, namespace: str, name: str, pod: Pod) -> str:
        assert pod.replica is not None
        pod.replica.advance(self.now_s, inclusive=True)
        now = totals_of(pod, pod.replica.read(self.now_s), self.now_s)
        self._windows.forget({(space, one): None for space, one, _, _ in self._fleet.serving()})
        begin = self._windows.since((namespace, name), pod, now)
        text = envelope(pod, begin, now, dates=self.dates)
        if text is None:
            raise ApiError(404, "NotFound", "no result yet")
        return text

    def _pod(self, namespace: str, name: str) -> Json:
        pod = self.store.get(PODS, namespace, name)
        if pod is None:
            raise not_found(PODS, name)
        return pod

    def _all_metrics(self) -> str:
        samples = [
            sample
            for namespace, name, workload, pod in self._fleet.serving()
            for sample in pod_samples(
                pod,
                now_s=self.now_s,
                dates=self.dates,
                extra={"namespace": namespace, "pod": name, "deployment": workload.name},
            )
        ]
        for workload in self._fleet.workloads():
            if workload.simulated is not None:
                samples += gateway_samples(
                    workload.simulated, namespace=workload.namespace, name=workload.name
                )
        return metrics_text(samples)


def _namespace(name: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }


def _nothing() -> None:
    """Let an instant pass."""


def start_twin(
    spec: ClusterSpec,
    *,
    clock: Callable[[], float],
    start: datetime,
    batch_of: BatchOf = untold,
    address: str,
    speed: float = 1.0,
    seed: int = 1,
    manifests: Path | None = None,
    faults: Path | None = None,
    tokens: Path | None = None,
) -> TwinCluster:
    """Return a twin of *spec* with the objects of *manifests*; see TwinCluster. Serve it with
    create_app.

    Without a *tokens* file a client that sends no token, or TOKEN, is an administrator; with one, a
    client that sends none may do nothing. Raise SpecError, one line, for a file that makes no
    sense.
    """
    if not speed > 0.0:
        raise SpecError(f"speed: expected a number > 0, found {speed:g}")
    twin = TwinCluster(
        spec,
        clock=clock,
        start=start,
        batch_of=batch_of,
        speed=speed,
        seed=seed,
        tokens=read_token_file(tokens) if tokens else {TOKEN: ADMIN},
        anonymous=ANONYMOUS if tokens else ADMIN,
        faults=read_faults(faults) if faults else (),
        address=address,
    )
    if manifests is not None:
        twin.load(read_manifests(manifests))
    return twin
