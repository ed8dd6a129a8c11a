"""The load emulator on a cluster: labels walk about the original, which is kept, and put back on
demand.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from kubernetes import client

from emulator.to_cluster import ClusterEmulator, Disturbance
from emulator.walk import Walk
from inferno.worlds.emulated import EmulatedDeployments
from loop.backends.kube import labels as names
from loop.backends.kube.client import KubeClient
from loop.clocks import MonotonicClock, date_now
from loop.testing.fakes import ManualClock
from tests.live.kube_worlds import (
    KubeWorld,
    cluster_spec,
    eventually,
    fault,
    kube_world,
    manifest,
)
from tests.live.twin_served import serving_twin
from twin.kube.apiserver.auth import ADMIN

NOMINAL = "inferno.server.load.nominal"


def emulator(
    world: KubeWorld, *, alpha: float = 0.3, seed: int = 1, namespaces: tuple[str, ...] = ()
) -> ClusterEmulator:
    """Return an emulator of the cluster."""
    return ClusterEmulator(
        deployments(world), walk=Walk(alpha=alpha), seed=seed, namespaces=namespaces
    )


def deployments(world: KubeWorld) -> EmulatedDeployments:
    """Return the Deployments of the cluster, as the emulator asks for them."""
    return EmulatedDeployments(KubeClient(world.twin.api, clock=MonotonicClock()))


def labels(world: KubeWorld, name: str = "dep1") -> dict[str, str]:
    """Return the load labels of a Deployment, by their last part."""
    found: dict[str, str] = world.get(name).metadata.labels
    return {
        key.removeprefix("inferno.server.load."): value
        for key, value in found.items()
        if ".load." in key
    }


def test_the_load_is_moved_and_the_original_kept() -> None:
    """Whoever looks sees both; the loop reads the first, and the twin sends as many requests."""
    with kube_world(manifest(replicas=0)) as world:
        done = emulator(world).disturb()
        told = labels(world)
        assert (told["nominal.rpm"], told["nominal.intokens"], told["nominal.outtokens"]) == (
            "120",
            "512",
            "128",
        )
        assert told["rpm"] != "120"
        assert float(told["rpm"]) == pytest.approx(done.written["s1"].rate_rpm, abs=0.005)
        assert int(told["outtokens"]) == round(done.written["s1"].out_tokens)
        assert (set(done.written), done.problems) == ({"s1"}, ())
        assert world.get().spec.replicas == 0


def test_keeping_changes_nothing_else() -> None:
    """At first sight the load is as it was: the first interval is undisturbed."""
    with kube_world(manifest(replicas=0)) as world:
        emulator(world).keep()
        told = labels(world)
        assert (told["rpm"], told["nominal.rpm"]) == ("120", "120")


def test_restoring_leaves_no_trace() -> None:
    """Also by another emulator than the one that disturbed."""
    with kube_world(manifest(replicas=0)) as world:
        before = labels(world)
        disturbing = emulator(world)
        for _ in range(3):
            disturbing.disturb()
        assert labels(world) != before
        emulator(world).restore()
        assert labels(world) == before
        assert emulator(world).restore().written == {}


def test_an_emulator_that_is_started_again_walks_about_the_same_original() -> None:
    """What it finds is disturbed already: to take that for the original would let the load run
    away.
    """
    with kube_world(manifest(replicas=0)) as world:
        for seed in range(4):
            emulator(world, seed=seed).disturb()
        assert labels(world)["nominal.rpm"] == "120"


def test_with_alpha_zero_nothing_moves() -> None:
    """And a load that somebody has set by hand stays where it is, too."""
    with kube_world(manifest(replicas=0)) as world:
        still = emulator(world, alpha=0.0)
        still.disturb()
        assert labels(world)["rpm"] == "120"
        world.apps.patch_namespaced_deployment(
            "dep1", "infer", {"metadata": {"labels": {names.LOAD_RPM: "60"}}}
        )
        still.disturb()
        assert (labels(world)["rpm"], labels(world)["nominal.rpm"]) == ("60", "120")


def test_the_older_name_of_the_tokens_stays_in_use() -> None:
    """The components that read it know no other; a prompt nobody told of is not made up."""
    old = {names.LOAD_IN_TOKENS: "", names.LOAD_OUT_TOKENS: "", names.LOAD_TOKENS: "2048"}
    with kube_world(manifest(replicas=0, labels=old)) as world:
        before = labels(world)
        one = emulator(world)
        one.disturb()
        assert set(labels(world)) == {"rpm", "numtokens", "nominal.rpm", "nominal.outtokens"}
        one.restore()
        assert labels(world) == before


def test_a_walk_depends_on_the_seed_and_the_server_alone() -> None:
    """Another server more must not change the load of this one."""
    walks = []
    for others in ((), (manifest("dep0", server="s0", replicas=0),)):
        with kube_world(*others, manifest(replicas=0)) as world:
            one = emulator(world, seed=7)
            walks.append([one.disturb().written["s1"] for _ in range(3)])
    assert walks[0] == walks[1]


def test_servers_without_a_load_and_of_other_namespaces_are_left_alone() -> None:
    """What is not managed, too."""
    silent = manifest("dep2", server="s2", replicas=0, labels={names.LOAD_RPM: ""})
    unmanaged = manifest("dep3", server="s3", replicas=0, labels={names.MANAGED: "false"})
    odd = manifest("dep4", server="s4", replicas=0, labels={names.LOAD_RPM: "many"})
    elsewhere = manifest("dep5", server="s5", namespace="other", replicas=0)
    everything = (manifest(replicas=0), silent, unmanaged, odd, elsewhere)
    with kube_world(*everything, namespaces=("infer", "other")) as world:
        assert set(emulator(world, namespaces=("infer",)).disturb().written) == {"s1"}
        assert set(emulator(world).disturb().written) == {"s1", "s5"}


def test_a_server_that_cannot_be_written_to_stops_no_other() -> None:
    """The next interval comes anyway."""
    servers = [manifest(f"dep{i}", server=f"s{i}", replicas=0) for i in (1, 2)]
    with kube_world(*servers) as world:
        world.suffer(
            fault("error", "patch", name="dep1", status=422),
            fault("error", "list", status=503, count=1),
        )
        done = emulator(world).disturb()
        assert set(done.written) == {"s2"}
        (line,) = done.problems
        assert line.startswith("s1: patch deployments: 422 ")


def test_a_cluster_that_does_not_answer_is_told_and_not_waited_for() -> None:
    """A line an interval, and no end of the program."""
    with kube_world(manifest(replicas=0)) as world:
        one = emulator(world)
        world.twin.stop()
        (line,) = one.disturb().problems
        assert line.startswith("all namespaces: list deployments: no answer: ")


def test_it_runs_by_intervals_until_it_is_stopped() -> None:
    """The first thing is to keep the originals; then one round an interval. A stop is heeded at
    once.
    """
    stopped, rounds = threading.Event(), list[Disturbance]()

    def report(done: Disturbance) -> None:
        rounds.append(done)
        if len(rounds) == 3:
            stopped.set()

    class Passing:
        """A clock of which each reading takes a quarter of an interval."""

        time_s = 0.0

        def now_s(self) -> float:
            """Return the time."""
            self.time_s += 0.005
            return self.time_s

    with kube_world(manifest(replicas=0)) as world:
        one = ClusterEmulator(deployments(world), walk=Walk(alpha=0.3), seed=1, stopped=stopped)
        one.run(interval_s=0.02, now_s=Passing().now_s, report=report)
        assert [len(done.written) for done in rounds] == [1, 1, 1]
        assert rounds[0].written["s1"].rate_rpm == 120.0
        assert rounds[1].written["s1"].rate_rpm != 120.0


def test_an_emulator_goes_on_when_its_token_has_been_changed() -> None:
    """Tokens of service accounts are renewed every hour: it stayed at 401 for ever."""
    clock, tokens = ManualClock(), ["first"]
    ends = date_now() + timedelta(seconds=600)
    known = {"first": replace(ADMIN, expires=ends), "second": ADMIN}
    with (
        serving_twin(cluster_spec(), tokens=known, clock=clock.now_s) as twin,
        twin.api("first") as api,
    ):
        client.CoreV1Api(api).create_namespace({"metadata": {"name": "infer"}})
        client.AppsV1Api(api).create_namespaced_deployment("infer", manifest(replicas=0))
        calls = KubeClient(lambda: twin.api(tokens[-1]), clock=MonotonicClock())
        moving = ClusterEmulator(EmulatedDeployments(calls), walk=Walk(alpha=0.3), seed=1)
        assert set(moving.disturb().written) == {"s1"}
        clock.time_s = 3600.0
        eventually(lambda: twin.cluster.now_s >= clock.time_s, "the token ends")
        tokens.append("second")
        assert set(moving.disturb().written) == {"s1"}
        assert calls.calls["list deployments"] == 3
        calls.close()
