"""Every fault that holds a server, and its end: the server acts again within two cycles of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from kubernetes import client

from loop.backends.kube import labels as names
from loop.backends.kube.backend import KubeBackend
from loop.backends.kube.client import KubeClient
from loop.backends.metrics.pods import PodMetrics, ProxiedPages
from loop.clocks import MonotonicClock, date_now
from loop.controller import Controller, Pause
from loop.testing.fakes import ManualClock
from loop.types import CycleRecord
from tests.live.kube_worlds import PATIENT, cluster_spec, eventually, fault, manifest, slo_loop
from tests.live.twin_served import ServedTwin, serving_twin
from twin.kube.faults import Fault

PERIOD_S = 60.0
CALM_RPM, BUSY_RPM = "30", "300"
OUT_TOKENS = "1000"
FAULT_CYCLES = 2
CYCLES_MAX = 2  # until it acts again


@dataclass(kw_only=True)
class House:
    """A cluster in virtual time, and a loop over it that reads the pages of its pods."""

    twin: ServedTwin
    apps: client.AppsV1Api
    clock: ManualClock
    backend: KubeBackend
    loop: Controller
    pause: Pause

    def cycle(self) -> CycleRecord:
        """Let a period pass, and run a cycle."""
        self.clock.time_s += PERIOD_S
        eventually(lambda: self.twin.cluster.now_s >= self.clock.time_s, "the twin keeps up")
        return self.loop.cycle(self.clock.time_s)

    def patch(self, name: str, **metadata: dict[str, str | None]) -> None:
        """Change labels or annotations of a Deployment."""
        self.apps.patch_namespaced_deployment(name, "infer", {"metadata": metadata})

    def wanted(self, name: str) -> int:
        """Return how many replicas a Deployment is asked to have."""
        return int(self.apps.read_namespaced_deployment(name, "infer").spec.replicas)


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """Serve one cluster for all faults: each has a server of its own."""
    clock, epoch, pause = ManualClock(), date_now(), Pause()
    with serving_twin(cluster_spec(), clock=clock.now_s) as twin, twin.api() as api:
        calls = KubeClient(twin.api, clock=MonotonicClock(), timeouts=PATIENT)
        client.CoreV1Api(api).create_namespace({"metadata": {"name": "infer"}})
        with slo_loop(
            calls, PodMetrics(ProxiedPages(calls)), clock=clock, epoch=epoch, pause=pause
        ) as (backend, loop):
            yield House(
                twin=twin,
                apps=client.AppsV1Api(api),
                clock=clock,
                backend=backend,
                loop=loop,
                pause=pause,
            )


def error(*verbs: str, resource: str, status: int) -> tuple[Fault, ...]:
    """Return a fault of requests that are answered by an error."""
    return (fault("error", *verbs, resource=resource, status=status),)


REQUESTS = {
    "lists answer 500": error("list", resource="deployments", status=500),
    "lists answer 403": error("list", resource="deployments", status=403),
    "lists of pods are cut": (fault("drop", "list", resource="pods"),),
    "pages of pods answer 503": error("get", resource="pods", status=503),
    "pages of pods are refused": error("get", resource="pods", status=403),
    "patches answer 500": error("patch", resource="deployments", status=500),
    "patches answer 409": error("patch", resource="deployments", status=409),
    "patches are forbidden": error("patch", resource="deployments", status=403),
    "answers to patches are lost": (fault("drop", "patch", after=True),),
    "nothing answers": tuple(fault("drop", resource=kind) for kind in ("deployments", "pods")),
}
# What is wrong, and what is right again.
METADATA = {
    "a batch that is none": ("labels", names.MAX_BATCH, "many", "64"),
    "an accelerator that nobody knows": ("labels", names.ACCELERATOR, "Nobody", "H100"),
    "a model that nobody knows": ("labels", names.MODEL, "unheard-of", "llama_8b"),
    "a class that nobody knows": ("labels", names.CLASS, "Gold", "Premium"),
    "bounds that are none": ("annotations", names.REPLICAS_MIN, "1e300", None),
    "a pause": ("annotations", names.PAUSED, "true", None),
}


@contextmanager
def trouble(house: House, server: str, what: str) -> Iterator[None]:
    """Let something be wrong, for *server* or for all."""
    if what in REQUESTS:
        house.twin.cluster.faults.all = list(REQUESTS[what])
        yield
        house.twin.cluster.faults.all = []
    elif what in METADATA:
        kind, key, wrong, right = METADATA[what]
        house.patch(server, **{kind: {key: wrong}})
        yield
        house.patch(server, **{kind: {key: right}})
    else:
        house.pause.pause("somebody")
        yield
        house.pause.resume()


@pytest.mark.parametrize("what", [*REQUESTS, *METADATA, "a pause of the whole loop"])
def test_a_server_that_a_fault_held_acts_again_within_two_cycles_of_its_end(
    house: House, what: str
) -> None:
    """The load has grown meanwhile: to hold is right for as long as nobody can see or act."""
    server = f"s{house.clock.time_s:.0f}"
    house.apps.create_namespaced_deployment(
        "infer",
        manifest(
            server,
            server=server,
            replicas=1,
            labels={names.LOAD_RPM: CALM_RPM, names.LOAD_OUT_TOKENS: OUT_TOKENS},
        ),
    )
    for _ in range(2):
        calm = house.cycle()
    assert (calm.error, house.wanted(server)) == ("", 1)
    house.patch(server, labels={names.LOAD_RPM: BUSY_RPM})
    with trouble(house, server, what):
        during = [house.cycle() for _ in range(FAULT_CYCLES)]
    # Of two that ask, what is lost is the answer only: it has been done.
    assert house.wanted(server) == 1 or "answers" in what or not any(one.error for one in during)
    after = [house.cycle() for _ in range(CYCLES_MAX)]
    assert after[-1].error == ""
    assert house.wanted(server) > 1, [one.decision for one in after]
    house.apps.delete_namespaced_deployment(server, "infer")
    house.cycle()
