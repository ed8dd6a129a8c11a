"""A cluster of the twin's API with managed Deployments, and the Kubernetes backend over it, for
tests of both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kubernetes import client

from loop.backends.kube import labels as names
from loop.backends.kube.backend import KubeBackend
from loop.backends.kube.client import KubeClient, Timeouts
from loop.backends.kube.settings import KubeSettings
from loop.backends.metrics.source import LabelsOnly, MetricsSource
from loop.clocks import MonotonicClock, date_now
from loop.controller import Controller, ControllerSettings, Pause
from loop.data import FixedData
from loop.policies import make_policy
from loop.ports import Clock, Epoch
from loop.testing.fakes import system
from loop.types import Change, Why, one_pool
from tests.live.twin_served import DEADLINE_S, ServedTwin, serving_twin
from twin.kube.faults import Fault, Match
from twin.spec import ClusterSpec, Delay, EngineSpec, LatencyModel

Json = dict[str, Any]

PATIENT = Timeouts(connect_s=30.0, read_s=30.0, attempts=3, pause_s=0.01, total_s=60.0)
HASTY = Timeouts(connect_s=2.0, read_s=2.0, attempts=3, pause_s=0.01, total_s=7.0)


def cluster_spec(*, start_up_s: float = 0.0) -> ClusterSpec:
    """Return the world of loop.testing.fakes.system(): H100 and A100 GPUs, two models."""
    data = system()
    engines = {
        (perf.model, perf.accelerator): EngineSpec(
            model=perf.model,
            accelerator=perf.accelerator,
            latency_model=LatencyModel(
                alpha_ms=perf.alpha_ms, beta_ms=perf.beta_ms, gamma_ms=perf.gamma_ms
            ),
            start_up=Delay(mean_s=start_up_s),
        )
        for perf in data.perf.values()
    }
    return ClusterSpec(
        accelerators=data.accelerators, capacity=data.capacity, engines=engines, servers=()
    )


def manifest(
    name: str = "dep1",
    *,
    server: str = "s1",
    namespace: str = "infer",
    replicas: int = 2,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    container: Json | None = None,
) -> Json:
    """Return a managed Deployment of llama_8b, Premium, on H100 at batch 64, with a load of 120
    rpm.
    """
    told = {
        names.MANAGED: "true",
        names.NAME: server,
        names.MODEL: "llama_8b",
        names.CLASS: "Premium",
        names.ACCELERATOR: "H100",
        names.MAX_BATCH: "64",
        names.LOAD_RPM: "120",
        names.LOAD_IN_TOKENS: "512",
        names.LOAD_OUT_TOKENS: "128",
        **(labels or {}),
    }
    pods = {"app": name}
    ports = [{"name": "http", "containerPort": 8000}]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {key: value for key, value in told.items() if value},
            "annotations": annotations or {},
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": pods},
            "template": {
                "metadata": {"labels": pods},
                "spec": {
                    "containers": [
                        {"name": "vllm", "image": "vllm", "ports": ports, **(container or {})}
                    ]
                },
            },
        },
    }


@dataclass(kw_only=True)
class KubeWorld:
    """A served twin, the client of the loop to it, and its backend."""

    twin: ServedTwin
    apps: client.AppsV1Api
    core: client.CoreV1Api
    calls: KubeClient
    backend: KubeBackend
    clock: Clock
    epoch: datetime

    def create(self, *manifests: Json) -> None:
        """Create Deployments."""
        for body in manifests:
            self.apps.create_namespaced_deployment(body["metadata"]["namespace"], body)

    def get(self, name: str = "dep1") -> Any:
        """Return a Deployment as the official client has it."""
        return self.apps.read_namespaced_deployment(name, "infer")

    def settled(self) -> None:
        """Wait until the cluster is as asked: every pod ready, none left over, and every status
        says so.
        """

        def calm() -> bool:
            # The status first: one that follows the look would be a change of the object in the
            # middle of a test.
            told = [
                one["status"].get("readyReplicas", 0)
                for one in self.calls.deployments()
                if "status" in one
            ]
            views = self.backend.observe().servers.values()
            return all(view.wanted == view.ready == len(view.pods) for view in views) and sum(
                told
            ) == sum(view.wanted for view in views)

        eventually(calm, "all pods are ready")

    def suffer(self, *faults: Fault) -> None:
        """Let these faults be in force from now on, instead of others."""
        self.twin.cluster.faults.all = list(faults)


@contextmanager
def kube_world(
    *manifests: Json,
    source: Callable[[KubeClient], MetricsSource] | None = None,
    settings: KubeSettings | None = None,
    timeouts: Timeouts = PATIENT,
    clock: Clock | None = None,
    epoch: datetime | None = None,
    may_act: Callable[[], bool] = lambda: True,
    wall: Epoch | None = None,
    start_up_s: float = 0.0,
    speed: float = 1.0,
    namespaces: Sequence[str] = ("infer",),
) -> Iterator[KubeWorld]:
    """Serve a cluster with *namespaces* and *manifests*, and a backend that watches the first
    namespace.
    """
    with ExitStack() as stack:
        twin = stack.enter_context(serving_twin(cluster_spec(start_up_s=start_up_s), speed=speed))
        clock, epoch = clock or MonotonicClock(), epoch or date_now()
        calls = KubeClient(twin.api, clock=clock, timeouts=timeouts)
        backend = KubeBackend(
            calls,
            source(calls) if source else LabelsOnly(),
            clock=clock,
            epoch=epoch,
            settings=settings or KubeSettings(namespaces=tuple(namespaces[:1])),
            may_act=may_act,
            wall=wall,
        )
        stack.callback(backend.close)
        api = stack.enter_context(twin.api())
        world = KubeWorld(
            twin=twin,
            apps=client.AppsV1Api(api),
            core=client.CoreV1Api(api),
            calls=calls,
            backend=backend,
            clock=clock,
            epoch=epoch,
        )
        for name in namespaces:
            world.core.create_namespace({"metadata": {"name": name}})
        world.create(*manifests)
        yield world


@contextmanager
def kube_again(
    world: KubeWorld,
    *,
    may_act: Callable[[], bool] = lambda: True,
    namespaces: Sequence[str] = ("infer",),
    settings: KubeSettings | None = None,
) -> Iterator[KubeBackend]:
    """Return a backend over the cluster of *world* that has seen nothing yet, as after a
    restart.
    """
    calls = KubeClient(world.twin.api, clock=world.clock, timeouts=PATIENT)
    backend = KubeBackend(
        calls,
        LabelsOnly(),
        clock=world.clock,
        epoch=world.epoch,
        settings=settings or KubeSettings(namespaces=tuple(namespaces)),
        may_act=may_act,
    )
    yield backend
    backend.close()


@contextmanager
def slo_loop(
    calls: KubeClient,
    source: MetricsSource,
    *,
    clock: Clock,
    epoch: datetime,
    pause: Pause | None = None,
    events: bool = False,
) -> Iterator[tuple[KubeBackend, Controller]]:
    """Return a loop of the policy slo over the Deployments of the namespace infer, which labels
    tell no load of, and its backend. *events*: it tells them in the cluster too.
    """
    backend = KubeBackend(
        calls,
        source,
        clock=clock,
        epoch=epoch,
        settings=KubeSettings(namespaces=("infer",), labels_stand_in=False, events=events),
    )
    loop = Controller(
        backend=backend,
        policy=make_policy("slo"),
        data=FixedData(system()),
        clock=clock,
        settings=ControllerSettings(epoch=epoch),
        pause=pause,
    )
    try:
        yield backend, loop
    finally:
        backend.close()


def fault(
    kind: Any, *verbs: str, resource: str = "deployments", name: str = "", **fields: Any
) -> Fault:
    """Return a fault of requests with *verbs* to a resource."""
    match = Match(verbs=verbs, resources=(resource,), names=(name,) if name else ())
    return Fault(kind=kind, match=match, **fields)


def ask(
    server: str = "s1", *, accelerator: str = "H100", replicas: int = 2, max_batch: int = 64
) -> Change:
    """Return a change; the defaults are what a manifest has."""
    return Change(
        server=server,
        pools=one_pool(accelerator=accelerator, replicas=replicas, max_batch=max_batch),
        why=Why(kind="remote", text="because"),
    )


def eventually(happened: Callable[[], object], what: str) -> None:
    """Wait until *happened*, at most until the deadline."""
    end_s = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < end_s, f"waited {DEADLINE_S:g} s in vain: {what}"
        time.sleep(0.01)
