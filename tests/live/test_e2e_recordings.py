"""Ours in the place of each existing component: recorded messages in, and out what the others were
recorded to read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from loop.backends.http import HttpBackend, remote_policy
from loop.backends.kube import labels as names
from loop.clocks import MonotonicClock
from loop.controller import Controller, Pause
from loop.data import FixedData
from loop.drivers import LiveDriver, ThreadInbox
from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.go_2025 import GO_2025
from loop.optimizer.rules.go_today import GO_TODAY
from loop.schema.reading import parse_system
from loop.services.controller_app import create_controller_app
from loop.services.controller_metrics import ControllerMetrics
from loop.services.optimizer_app import make_optimizer_app
from tests.live.kube_worlds import KubeWorld, kube_world
from tests.live.optimizer_served import serving
from tests.live.recordings import Era, Existing, Recording, manifest, missing, read_recording
from tests.live.world_served import WorldServices, client_of, serving_world

OPTIMIZERS = {
    "early": OptimizerSettings(solver="greedy", rules=GO_2025),
    "late": OptimizerSettings(solver="greedy", rules=GO_TODAY),
}


@pytest.fixture(params=["early", "late"])
def recording(shared: Path, request: pytest.FixtureRequest) -> Recording:
    """Return each of the recordings; skip where there are none."""
    era: Era = request.param
    return read_recording(shared / "golden", era)


@contextmanager
def recorded_world(recording: Recording) -> Iterator[tuple[KubeWorld, WorldServices]]:
    """Serve a cluster with the Deployments of then, and our collector and actuator over it."""
    places = recording.collected["kube-resources"]
    deployments = [
        manifest(server, places[server["name"]]) for server in recording.collected["servers"]
    ]
    with (
        kube_world(*deployments) as world,
        serving_world(world.backend, places=world.backend.places) as services,
    ):
        yield world, services


@contextmanager
def serving_controller(
    recording: Recording,
    *,
    collector: httpx.Client,
    optimizer: httpx.Client,
    actuator: httpx.Client,
) -> Iterator[httpx.Client]:
    """Serve our controller between three services, ours or recorded ones, with the static data of
    then.
    """
    flags = {"optimizerData": recording.cycles[0].flags}
    with ExitStack() as stack:
        clients = {}
        for name, service in (
            ("collector", collector),
            ("optimizer", optimizer),
            ("actuator", actuator),
        ):
            clients[name] = client_of(name, service)
            stack.callback(clients[name].close)
        controller = Controller(
            backend=HttpBackend(
                collector=clients["collector"], actuator=clients["actuator"], clock=MonotonicClock()
            ),
            policy=remote_policy(
                clients["optimizer"],
                compat=True,
                era="early" if recording.era == "early" else "today",
            ),
            data=FixedData(parse_system(recording.static | flags, source="recording", level="go")),
            clock=MonotonicClock(),
        )
        inbox = ThreadInbox()
        driver = LiveDriver(controller, period_s=0.0, clock=MonotonicClock(), inbox=inbox)
        app = create_controller_app(driver, inbox, metrics=ControllerMetrics(), pause=Pause())
        yield stack.enter_context(serving(app))


def test_our_collector_tells_what_the_existing_controller_read(recording: Recording) -> None:
    """It passes servers on to its optimizer and places to its actuator: each field must be there,
    and of its type.
    """
    with recorded_world(recording) as (_, services):
        told = services.collector.get("/collect").json()
    wanted = dict(recording.collected)
    places = {
        name: {key: one[key] for key in ("name", "space")}
        for name, one in wanted.pop("kube-resources").items()
    }
    assert missing(told, wanted) == ""
    assert missing(told["kube-resources"], places) == ""
    assert all(one["uid"] for one in told["kube-resources"].values())


def test_our_actuator_makes_of_deployments_what_the_existing_one_made(recording: Recording) -> None:
    """Labels and replicas, from the message that the existing controller sent; twice, as it
    does.
    """
    with recorded_world(recording) as (world, services):
        for cycle in recording.cycles:
            answer = services.actuator.post("/update", json=cycle.update)
            assert (answer.status_code, answer.json()) == (200, "Done")
            assert deployed(world) == cycle.patched


def test_our_controller_says_what_the_existing_optimizer_and_actuator_were_told(
    recording: Recording,
) -> None:
    """The question of each cycle, and then for every server what the optimizer answered."""
    existing = Existing(recording)
    with (
        serving(existing.app()) as others,
        serving_controller(
            recording, collector=others, optimizer=others, actuator=others
        ) as controller,
    ):
        answers = [controller.get("/invoke") for _ in recording.cycles]
    assert [answer.status_code for answer in answers] == [200, 200]
    for question, cycle in zip(existing.questions, recording.cycles, strict=True):
        system = question["system"]
        assert missing(system["serverData"]["servers"], cycle.servers) == ""
        assert missing(system["optimizerData"], cycle.flags) == ""
        assert system.keys() >= {"acceleratorData", "modelData", "serviceClassData", "capacityData"}
    # What an actuator does with a message; prices and latencies in it mean nothing there.
    wanted = acted_on(recording.cycles[0].update)
    assert acted_on(existing.updates[0]) == wanted
    # Where the collector sees its effect, a second message would say nothing new.
    done = all(one["currentAlloc"]["numReplicas"] for one in recording.cycles[1].servers)
    assert [acted_on(update) for update in existing.updates[1:]] == ([] if done else [wanted])


def test_all_of_ours_together_end_where_the_existing_ones_did(recording: Recording) -> None:
    """From the same labels to the same labels and replicas."""
    optimizer = make_optimizer_app(settings=OPTIMIZERS[recording.era])
    with (
        recorded_world(recording) as (world, services),
        serving(optimizer) as optimizing,
        serving_controller(
            recording,
            collector=services.collector,
            optimizer=optimizing,
            actuator=services.actuator,
        ) as controller,
    ):
        record = controller.get("/invoke").json()
        assert (record["error"], record["applied"]) == ("", True)
        assert deployed(world) == recording.cycles[0].patched


def deployed(world: KubeWorld) -> dict[str, tuple[str, str, int]]:
    """Return accelerator, max batch and replicas of every Deployment."""
    found = world.apps.list_namespaced_deployment("infer").items
    return {
        one.metadata.name: (
            one.metadata.labels[names.ACCELERATOR],
            one.metadata.labels[names.MAX_BATCH],
            one.spec.replicas,
        )
        for one in found
    }


def acted_on(update: dict[str, Any]) -> dict[str, Any]:
    """Return what an existing actuator reads of a message."""
    keys = ("accelerator", "numReplicas", "maxBatch")
    return {
        "allocations": {
            name: {key: one[key] for key in keys} for name, one in update["allocations"].items()
        },
        "kube-resources": update["kube-resources"],
    }
