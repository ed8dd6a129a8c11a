"""Leader election on Leases of an API over HTTP: two controllers, one of which acts, and what
follows when it fails.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client

from inferno.worlds.kube import make_lease
from loop.backends.kube.client import KubeClient, Timeouts
from loop.backends.kube.lease import Lease, LeaseSettings, LedController
from loop.clocks import MonotonicClock, date_now
from loop.controller import Controller, ControllerSettings
from loop.data import FixedData
from loop.errors import SpecError
from loop.policies import make_policy
from loop.testing.fakes import ManualClock, system
from tests.live.kube_worlds import eventually, fault, kube_again, kube_world, manifest
from tests.live.twin_served import ServedTwin, serving_twin

LONG = {"lease_s": 300.0, "act_s": 120.0, "renew_s": 0.05}
SHORT = {"lease_s": 2.0, "act_s": 1.0, "renew_s": 0.1}
TIMEOUTS = Timeouts(connect_s=30.0, read_s=30.0, attempts=1)


@pytest.fixture
def twin() -> Iterator[ServedTwin]:
    """Return a cluster."""
    with serving_twin() as served:
        yield served


def contender(twin: ServedTwin, holder: str, **times: float) -> Lease:
    """Return a contender of the lease that controllers of the namespace default share."""
    clock = MonotonicClock()
    settings = LeaseSettings(namespace="default", name="inferno", holder=holder, **(times or LONG))
    return Lease(
        KubeClient(twin.api, clock=clock, timeouts=TIMEOUTS),
        settings=settings,
        clock=clock,
        epoch=date_now(),
    )


def test_a_lease_is_an_object_that_people_can_read(twin: ServedTwin) -> None:
    """`kubectl get lease` shows who leads, and since when."""
    lease = contender(twin, "pod-a")
    assert lease.step()
    assert lease.step()
    api = client.CoordinationV1Api(twin.api())
    spec = api.read_namespaced_lease("inferno", "default").spec
    assert (spec.holder_identity, spec.lease_transitions, spec.lease_duration_seconds) == (
        "pod-a",
        0,
        300,
    )
    assert spec.renew_time > spec.acquire_time
    lease.stop()
    assert api.read_namespaced_lease("inferno", "default").spec.holder_identity in ("", None)


def test_two_on_the_network_of_one_node_are_two(twin: ServedTwin) -> None:
    """Their hosts have one name, and each is process 1 of its container: as here, all is alike."""
    clock = MonotonicClock()
    calls = KubeClient(twin.api, clock=clock, timeouts=TIMEOUTS)
    first, second = (
        make_lease("default/inferno", calls, clock=clock, epoch=date_now()) for _ in range(2)
    )
    assert [first.step(), second.step()] == [True, False]


def test_of_two_one_leads_and_the_other_follows_when_it_stops(twin: ServedTwin) -> None:
    """Both run in threads of their own, as they do in two pods."""
    first, second = contender(twin, "a"), contender(twin, "b")
    first.start()
    eventually(first.held, "the first one leads")
    second.start()
    eventually(lambda: "held by a" in second.state, "the second one sees it")
    assert not second.held()
    first.stop()
    eventually(second.held, "the second one leads")
    assert not first.held()
    second.stop()


def test_who_is_cut_off_stops_acting_before_the_other_begins(twin: ServedTwin) -> None:
    """Its requests fail; those of the other one, which comes from elsewhere, do not."""
    first, second = contender(twin, "a", **SHORT), contender(twin, "b", **SHORT)
    assert first.step()
    second.start()
    # The first one renews no more: it is as if it were cut off.
    both = []

    def taken_over() -> bool:
        both.append(first.held() and second.held())
        return second.held()

    eventually(taken_over, "the second one leads")
    assert not any(both)
    assert not first.held()
    second.stop()


def test_api_errors_cost_no_lead_as_long_as_the_lease_lasts(twin: ServedTwin) -> None:
    """A control plane that restarts must not have controllers change places."""
    lease = contender(twin, "a")
    assert lease.step()
    twin.cluster.faults.all = [fault("error", "get", "update", resource="leases", status=503)]
    assert lease.step()
    assert "503" in lease.state
    twin.cluster.faults.all = []
    assert lease.step()
    assert "held by a" in lease.state
    lease.stop()


def test_two_controllers_of_one_cluster_never_both_act() -> None:
    """Each looks and decides; only the one that leads writes, and when it is gone the other one
    does.
    """
    with (
        kube_world(manifest(labels={"inferno.server.load.rpm": "6000"})) as world,
        kube_again(world) as other,
    ):
        world.settled()
        leases = [contender(world.twin, name) for name in "ab"]
        led = [
            LedController(
                Controller(
                    backend=backend,
                    policy=make_policy("slo"),
                    data=FixedData(system()),
                    clock=ManualClock(),
                    settings=ControllerSettings(epoch=world.epoch),
                ),
                lease,
            )
            for backend, lease in zip((world.backend, other), leases, strict=True)
        ]
        assert [lease.step() for lease in leases] == [True, False]
        standing_by, acting = led[1].cycle(60.0), led[0].cycle(60.0)
        assert (standing_by.mode, standing_by.applied, bool(standing_by.changes)) == (
            "advise",
            False,
            True,
        )
        assert standing_by.warnings == ("standing by: lease default/inferno is held by a",)
        assert (acting.applied, bool(acting.changes)) == (True, True)
        leases[0].stop()
        assert leases[1].step()
        after = led[1].cycle(120.0)
        assert (after.mode, after.error, after.applied, after.changes) == ("act", "", True, ())
        assert "standing by" in led[0].cycle(120.0).warnings[-1]


def test_a_contender_survives_whatever_goes_wrong_and_says_so(twin: ServedTwin) -> None:
    """A kubeconfig that could not be read for a moment ended the thread: nobody scaled any more,
    and the controller was ready all the time.
    """
    readable = threading.Event()
    clock = MonotonicClock()

    class Unreadable(KubeClient):
        def lease(self, namespace: str, name: str) -> dict[str, Any]:
            if not readable.is_set():
                raise SpecError("kubeconfig: expected a readable file, found Permission denied")
            return super().lease(namespace, name)

    lease = Lease(
        Unreadable(twin.api, clock=clock, timeouts=TIMEOUTS),
        settings=LeaseSettings(namespace="default", name="inferno", holder="pod-a", **LONG),
        clock=clock,
        epoch=date_now(),
    )
    assert not lease.alive
    lease.start()
    eventually(lambda: "Permission denied" in lease.state, "the problem is told")
    assert lease.alive
    readable.set()
    eventually(lease.held, "it leads again")
    lease.stop()
