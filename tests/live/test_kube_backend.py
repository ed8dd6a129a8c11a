"""The Kubernetes backend over real HTTP: what it reads, what it writes, how often it asks, and whom
it leaves alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from kubernetes import client

from loop.backends.kube import labels as names
from loop.backends.kube.backend import KubeBackend
from loop.backends.kube.client import ApiError, Json, KubeClient
from loop.backends.kube.rivals import AUTOSCALERS_S, REVERSALS_MAX
from loop.backends.kube.settings import KubeSettings
from loop.backends.metrics.pods import PodMetrics, ProxiedPages
from loop.backends.metrics.source import LabelsOnly, Measurement
from loop.clocks import MonotonicClock, WallEpoch, date_now
from loop.controller import Controller, ControllerSettings
from loop.data import FixedData
from loop.errors import BackendError, PausedError
from loop.policies import make_policy
from loop.signals.demand import Figures, Gauges
from loop.signals.pods import ScrapedServer
from loop.testing.fakes import ManualClock, system
from loop.types import CycleRecord, Load, Mode
from tests.cluster_files import YAMLS, objects
from tests.live.kube_worlds import (
    PATIENT,
    KubeWorld,
    ask,
    eventually,
    fault,
    kube_again,
    kube_world,
    manifest,
)
from tests.live.twin_served import serving_twin
from twin.kube.apiserver.auth import Identity, Rule
from twin.kube.faults import Fault, Match


def controller(world: KubeWorld, *, mode: Mode = "act", policy: str = "slo") -> Controller:
    """Return a controller over the cluster."""
    return Controller(
        backend=world.backend,
        policy=make_policy(policy),
        data=FixedData(system()),
        clock=ManualClock(),
        settings=ControllerSettings(mode=mode, epoch=world.epoch),
    )


def test_labels_tell_the_load_and_objects_the_rest() -> None:
    """This is all that the loop needs, with no metrics at all."""
    with kube_world(manifest()) as world:
        world.settled()
        view = world.backend.observe().servers["s1"]
        assert (view.model, view.service_class, view.accelerator, view.max_batch) == (
            "llama_8b",
            "Premium",
            "H100",
            64,
        )
        assert view.load == Load(rate_rpm=120.0, in_tokens=512.0, out_tokens=128.0)
        assert (view.wanted, view.ready, len(view.pods)) == (2, 2, 2)
        assert 0 <= world.clock.now_s() - view.pods[0].since_s < 30.0


@pytest.mark.parametrize("ahead", [True, False])
def test_a_look_when_the_loop_begins_lets_its_first_cycle_act(ahead: bool) -> None:
    """Who reads the pages of pods itself needs two looks; the first cycle is a period later."""
    clock = ManualClock()

    def source(calls: KubeClient) -> PodMetrics:
        return PodMetrics(ProxiedPages(calls), clock_s=clock.now_s)

    with kube_world(manifest(), source=source, clock=clock) as world:
        eventually(
            lambda: (
                sum(
                    one.get("status", {}).get("readyReplicas", 0)
                    for one in world.calls.deployments()
                )
                == 2
            ),
            "all pods are ready",
        )
        assert world.backend.looks_itself
        if ahead:
            world.backend.look_ahead()
        clock.time_s = 60.0
        view = world.backend.observe().servers["s1"]
        assert (view.load is not None) is ahead


class Ticking(ManualClock):
    """A clock by which each look at it takes a second."""

    def now_s(self) -> float:
        """Return the time after that second."""
        self.time_s += 1.0
        return self.time_s


class RememberingSource(LabelsOnly):
    """A source that remembers when it was asked."""

    asked_s = 0.0

    def measure(self, servers: Sequence[ScrapedServer], *, now_s: float) -> Measurement:
        """Return nothing."""
        self.asked_s = now_s
        return super().measure(servers, now_s=now_s)


def test_the_time_that_lists_take_is_part_of_that_between_two_looks() -> None:
    """Of one cycle whose lists took 10 s of 60, and one whose took none, rates were 15 % off."""
    source = RememberingSource()
    with kube_world(manifest(), source=lambda _calls: source, clock=Ticking()) as world:
        begin_s = world.backend.observe().now_s
        assert source.asked_s > begin_s


def test_a_look_when_the_loop_begins_may_fail() -> None:
    """Whatever it was is told by the first cycle, if it has not passed by then."""
    with kube_world(manifest()) as world:
        world.suffer(fault("error", "list", status=403))
        world.backend.look_ahead()
        with pytest.raises(BackendError, match="403"):
            world.backend.observe()


def test_a_change_is_one_patch_and_says_why_on_the_object() -> None:
    """Labels, replicas and the reason come and go together."""
    with kube_world(manifest()) as world:
        world.settled()
        world.backend.apply([ask(accelerator="2xA100", replicas=3, max_batch=16)])
        assert world.calls.calls["patch deployments"] == 1
        one = world.get()
        assert (one.spec.replicas, one.metadata.labels[names.ACCELERATOR]) == (3, "2xA100")
        assert one.metadata.labels[names.MAX_BATCH] == "16"
        told = json.loads(one.metadata.annotations[names.STATUS])
        assert (told["was"], told["reason"]) == ("2 x H100, batch 64", "because")
        assert one.spec.template.spec.node_selector is None


def test_an_event_tells_of_a_change_where_that_is_wanted() -> None:
    """`kubectl describe deployment` then shows the history."""
    settings = KubeSettings(namespaces=("infer",), events=True)
    with kube_world(manifest(), settings=settings) as world:
        world.backend.observe()
        world.backend.apply([ask(replicas=3)])
        uid = world.get().metadata.uid
        events = world.core.list_namespaced_event(
            "infer", field_selector=f"involvedObject.uid={uid}"
        ).items
        messages = [event.message for event in events if event.reason == "InfernoAllocation"]
        assert messages == ["Asked for 3 x H100, batch 64 instead of 2 x H100, batch 64: because"]


@pytest.mark.parametrize("servers", [1, 12])
def test_the_number_of_lists_does_not_grow_with_that_of_servers(servers: int) -> None:
    """A cycle over hundreds of Deployments must not be hundreds of requests."""
    manifests = [manifest(f"dep{i}", server=f"s{i}", replicas=0) for i in range(servers)]
    with kube_world(*manifests) as world:
        world.calls.calls.clear()
        assert len(world.backend.observe().servers) == servers
        assert dict(world.calls.calls) == {"list deployments": 1, "list pods": 1}


def test_only_what_changes_is_written() -> None:
    """Of many servers few change in a cycle."""
    with kube_world(*(manifest(f"dep{i}", server=f"s{i}", replicas=1) for i in range(4))) as world:
        world.settled()
        world.calls.calls.clear()
        world.backend.apply([ask("s1", replicas=1), ask("s2", replicas=2), ask("s3", replicas=0)])
        assert dict(world.calls.calls) == {"patch deployments": 2}


def test_a_cycle_of_the_controller_moves_the_cluster_and_the_next_one_leaves_it_alone() -> None:
    """The whole loop, on objects: what was decided is what the Deployments are asked for."""
    with kube_world(manifest(labels={names.LOAD_RPM: "6000"})) as world:
        loop = controller(world)
        record = loop.cycle(60.0)
        assert (record.applied, record.error) == (True, "")
        (change,) = record.changes
        assert (world.get().spec.replicas, change.replicas > 2) == (change.replicas, True)
        again = loop.cycle(120.0)
        assert (again.applied, again.changes, again.warnings) == (True, (), ())


@pytest.mark.parametrize("policy", ["slo", "static"])
@pytest.mark.parametrize("least", ["", "2"])
def test_a_deployment_without_an_accelerator_label_is_not_scaled_to_zero(
    policy: str, least: str
) -> None:
    """Whoever labels a Deployment by hand forgets one: the first cycle must not end its pods."""
    bare = manifest(
        replicas=3,
        labels={names.ACCELERATOR: "", names.LOAD_RPM: ""},
        annotations={names.REPLICAS_MIN: least} if least else {},
    )
    with kube_world(bare) as world:
        record = controller(world, policy=policy).cycle(60.0)
        assert (record.changes, world.get().spec.replicas) == ((), 3)


def test_a_server_without_pods_that_could_tell_its_load_is_told_once() -> None:
    """It was held at zero replicas for ever, and only its record said so."""

    def source(calls: KubeClient) -> PodMetrics:
        return PodMetrics(ProxiedPages(calls))

    settings = KubeSettings(namespaces=("infer",), labels_stand_in=False)
    with kube_world(manifest(replicas=0), source=source, settings=settings) as world:
        first, second = world.backend.observe(), world.backend.observe()
    assert first.warnings == (
        "s1: it has no replicas, so nobody can tell whether requests come: it is held there until "
        "somebody gives it one",
    )
    assert second.warnings == ()


def test_advice_writes_nothing() -> None:
    """A controller that is tried out on a live cluster must not touch it."""
    with kube_world(manifest(labels={names.LOAD_RPM: "6000"})) as world:
        world.settled()
        version = world.get().metadata.resource_version
        record = controller(world, mode="advise").cycle(60.0)
        assert (bool(record.changes), record.applied) == (True, False)
        assert not [what for what in world.calls.calls if not what.startswith(("list", "get"))]
        assert world.get().metadata.resource_version == version


def test_bounds_by_annotation_hold_whatever_is_decided() -> None:
    """Who answers for a service can keep it from being scaled away, or from taking all GPUs."""
    annotations = {names.REPLICAS_MIN: "2", names.REPLICAS_MAX: "3"}
    busy = manifest(labels={names.LOAD_RPM: "9000"}, annotations=annotations)
    idle = manifest("dep2", server="s2", labels={names.LOAD_RPM: "0"}, annotations=annotations)
    with kube_world(busy, idle) as world:
        controller(world).cycle(60.0)
        assert (world.get().spec.replicas, world.get("dep2").spec.replicas) == (3, 2)


def test_replicas_that_start_are_counted_as_such() -> None:
    """Who does not see them asks for more every cycle while a model loads."""
    with kube_world(manifest(replicas=1), start_up_s=600.0) as world:
        eventually(lambda: world.backend.observe().servers["s1"].starting == 1, "the pod starts")
        view = world.backend.observe().servers["s1"]
        assert (view.wanted, view.ready, view.pending) == (1, 0, 0)
        world.backend.apply([ask(replicas=3)])
        assert world.backend.observe().servers["s1"].wanted == 3


def test_replicas_without_gpus_are_pending() -> None:
    """There are eight H100."""
    with kube_world(manifest(replicas=10)) as world:
        eventually(lambda: world.backend.observe().servers["s1"].ready == 8, "eight are ready")
        view = world.backend.observe().servers["s1"]
        assert (view.wanted, view.pending) == (10, 2)


def test_capacity_is_counted_from_nodes_where_that_is_wanted() -> None:
    """The data file may be wrong; the nodes know what there is, and who holds it."""
    types = {name: one.type for name, one in system().accelerators.items()}
    settings = KubeSettings(namespaces=("infer",), from_nodes=True, types=types)
    with kube_world(manifest(), settings=settings) as world:
        world.settled()
        capacity = world.backend.observe().capacity
        assert capacity is not None
        assert {kind: (view.total, view.used) for kind, view in capacity.items()} == {
            "A100": (8, 0),
            "H100": (8, 2),
        }


@pytest.mark.parametrize("listed", [True, False])
def test_data_that_allow_more_gpus_than_there_are_are_told_of_once(*, listed: bool) -> None:
    """Pods beyond those wait in vain. Who may not list the nodes loses nothing else by it."""
    types = {name: one.type for name, one in system().accelerators.items()}
    settings = KubeSettings(
        namespaces=("infer",), types=types, capacity={"A100": 99, "H100": 9, "L40S": 1}
    )
    with kube_world(settings=settings) as world:
        if not listed:
            match = Match(verbs=("list",), resources=("nodes",))
            world.suffer(Fault(kind="error", match=match, status=403))
        assert world.backend.observe().warnings == ()
        world.create(manifest())
        looks = [world.backend.observe().warnings for _ in range(2)]
    told = [[line for line in lines if line.startswith("capacity: ")] for lines in looks]
    line = (
        "capacity: the data allow 9 H100, the nodes have 8 (correct capacity-data.json, or use "
        "--capacity nodes)"
    )
    assert told == [[line] if listed else [], []]


@pytest.mark.parametrize(
    ("watched", "seen"),
    [
        (("infer",), {"s1"}),
        (("infer", "other"), {"s1", "s2"}),
        ((), {"s1", "s2"}),
        (("nowhere",), set()),
    ],
)
def test_it_watches_one_namespace_or_several_or_all(
    watched: tuple[str, ...], seen: set[str]
) -> None:
    """WATCH_NAMESPACE says which."""
    servers = (manifest(), manifest("dep2", server="s2", namespace="other"))
    with kube_world(
        *servers, namespaces=("infer", "other"), settings=KubeSettings(namespaces=watched)
    ) as world:
        found = world.backend.observe().servers
        assert found.keys() == seen
        eventually(
            lambda: all(view.pods for view in world.backend.observe().servers.values()),
            "pods are listed, too",
        )
        assert {name: one.namespace for name, one in world.backend.places().items()} == {
            name: {"s1": "infer", "s2": "other"}[name] for name in seen
        }


def test_pods_of_many_namespaces_are_listed_at_once() -> None:
    """A namespace per team must not make a list per team."""
    spaces = [f"team{i}" for i in range(6)]
    servers = [manifest(server=space, namespace=space, replicas=1) for space in spaces]
    with kube_world(*servers, namespaces=spaces, settings=KubeSettings()) as world:
        eventually(
            lambda: all(view.ready for view in world.backend.observe().servers.values()),
            "all are ready",
        )
        world.calls.calls.clear()
        world.backend.observe()
        assert dict(world.calls.calls) == {"list deployments": 1, "list pods": 1}


def test_a_change_by_somebody_else_between_cycles_is_told_once() -> None:
    """The loop goes on with what it finds; people must know that two are steering."""
    with kube_world(manifest()) as world:
        world.backend.observe()
        world.backend.apply([ask(replicas=3)])
        assert world.backend.observe().warnings == ()
        world.apps.patch_namespaced_deployment_scale(
            "dep1", "infer", {"spec": {"replicas": 5}}, field_manager="me"
        )
        (line,) = world.backend.observe().warnings
        assert line.startswith(
            "s1: 3 x H100, batch 64 was asked for, found 5 x H100, batch 64: changed by "
        )
        assert world.backend.observe().warnings == ()


def test_a_change_by_somebody_else_during_a_cycle_wins_that_cycle() -> None:
    """It was decided without knowing of it; the next cycle decides anew."""
    with kube_world(manifest()) as world:
        world.backend.observe()
        world.apps.patch_namespaced_deployment(
            "dep1", "infer", {"spec": {"replicas": 5}}, field_manager="me"
        )
        with pytest.raises(BackendError, match="s1: left as it is: changed by me from 2 x H100"):
            world.backend.apply([ask(replicas=3)])
        assert world.get().spec.replicas == 5


def test_a_change_of_anything_else_during_a_cycle_is_no_obstacle() -> None:
    """Labels of others, load labels, the status: all change the version."""
    with kube_world(manifest()) as world:
        world.backend.observe()
        world.apps.patch_namespaced_deployment(
            "dep1", "infer", {"metadata": {"labels": {"team": "a"}}}
        )
        world.backend.apply([ask(replicas=3)])
        one = world.get()
        assert (one.spec.replicas, one.metadata.labels["team"]) == (3, "a")


def test_what_an_actuator_of_the_loop_did_is_not_taken_for_somebody_elses_doing() -> None:
    """A collector in a process of its own never writes; crying wolf every cycle would hide the real
    foreign changes.
    """
    with kube_world(manifest()) as world, kube_again(world) as actuator:
        world.settled()
        world.backend.observe()
        actuator.observe()
        actuator.apply([ask(replicas=4)])
        assert world.backend.observe().warnings == ()
        world.apps.patch_namespaced_deployment("dep1", "infer", {"spec": {"replicas": 1}})
        (warning,) = world.backend.observe().warnings
        assert "4 x H100, batch 64 was asked for, found 1 x H100" in warning


def test_two_controllers_that_both_act_are_told() -> None:
    """Each took what the other wanted for its own, and pods came and went without a word. Who
    shares a Lease and stands by meanwhile has no reason to complain.
    """
    leads = True
    with kube_world(manifest()) as world, kube_again(world, may_act=lambda: leads) as other:
        for backend, replicas in ((world.backend, 3), (other, 4)):
            assert backend.observe().warnings == ()
            backend.apply([ask(replicas=replicas)])
        (line,) = world.backend.observe().warnings
        assert line.startswith("s1: another controller asked for it, too, after this one")
        assert world.backend.observe().warnings == ()
        assert other.observe().warnings == ()
        leads = False
        world.backend.apply([ask(replicas=2)])
        assert other.observe().warnings == ()
        leads = True
        assert other.observe().warnings == ()


def test_what_was_done_while_no_controller_ran_is_told_by_the_next_one() -> None:
    """The Deployment itself remembers what it was asked for."""
    with kube_world(manifest()) as world:
        world.backend.observe()
        world.backend.apply([ask(replicas=3)])
        world.apps.patch_namespaced_deployment(
            "dep1", "infer", {"spec": {"replicas": 6}}, field_manager="me"
        )
        with kube_again(world) as second:
            (line,) = second.observe().warnings
            assert line.endswith("found 6 x H100, batch 64: changed by me")


def test_a_deployment_that_is_deleted_during_a_cycle_is_no_failure() -> None:
    """The others are asked for all the same, and the next snapshot is without it."""
    with kube_world(manifest(), manifest("dep2", server="s2")) as world:
        world.backend.observe()
        world.apps.delete_namespaced_deployment("dep1", "infer")
        world.backend.apply([ask(replicas=3), ask("s2", replicas=3)])
        assert world.get("dep2").spec.replicas == 3
        seen = world.backend.observe()
        assert set(seen.servers) == {"s2"}
        assert seen.warnings == ("s1: deleted before it could be asked for 3 x H100, batch 64",)


def test_a_deployment_made_anew_under_the_same_name_is_not_written_over() -> None:
    """What was decided was decided for another one."""
    with kube_world(manifest()) as world:
        world.backend.observe()
        world.apps.delete_namespaced_deployment("dep1", "infer")
        eventually(lambda: not world.calls.deployments("infer"), "it is deleted")
        world.create(manifest(replicas=1))
        with pytest.raises(BackendError, match="deleted and made anew by someone else"):
            world.backend.apply([ask(replicas=3)])
        assert world.get().spec.replicas == 1
        line = "s1: deleted and made anew by someone else, as 1 x H100, batch 64"
        assert world.backend.observe().warnings == (line,)


def test_a_server_nobody_saw_is_a_failure_that_is_named() -> None:
    """A decision of another time, or of another cluster."""
    with kube_world(manifest()) as world:
        world.backend.observe()
        with pytest.raises(BackendError, match="1 of 2 changes failed: ghost: not seen"):
            world.backend.apply([ask("ghost"), ask(replicas=3)])
        assert world.get().spec.replicas == 3


def test_an_accelerator_really_moves_pods_where_an_annotation_asks_for_it() -> None:
    """A node selector and an argument: a rolling change, at the end of which nothing of before is
    left.
    """
    annotations = {
        names.APPLY_NODE_SELECTOR: "nvidia.com/gpu.product",
        names.APPLY_MAX_BATCH: "--max-num-seqs",
    }
    settings = KubeSettings(namespaces=("infer",), types={"2xA100": "A100"})
    with kube_world(manifest(annotations=annotations), settings=settings) as world:
        world.settled()
        world.backend.apply([ask(accelerator="2xA100", replicas=2, max_batch=16)])
        spec = world.get().spec.template.spec
        assert (spec.node_selector, spec.containers[0].args) == (
            {"nvidia.com/gpu.product": "A100"},
            ["--max-num-seqs=16"],
        )

        def moved() -> bool:
            pods = world.backend.observe().servers["s1"].pods
            return len(pods) == 2 and all(
                (pod.max_batch, pod.phase) == (16, "ready") for pod in pods
            )

        eventually(moved, "all pods are new ones")


def test_a_namespaced_account_may_watch_its_namespace_and_not_all() -> None:
    """Least privilege: the error must say what is forbidden."""
    rule = Rule(
        verbs=("get", "list", "patch"), resources=("deployments", "pods"), namespaces=("infer",)
    )
    own = Identity(user="system:serviceaccount:infer:inferno", rules=(rule,))
    with serving_twin(tokens={"own": own}) as twin:
        client = KubeClient(lambda: twin.api("own"), clock=ManualClock())
        assert client.deployments("infer") == []
        with pytest.raises(ApiError, match=r"list deployments: 403 .*forbidden"):
            client.deployments()
        client.close()


def test_a_paused_deployment_is_left_alone_and_told() -> None:
    """An operator who works on one service stops the loop there, and nowhere else."""
    load = {names.LOAD_RPM: "6000"}
    paused = manifest(labels=load, annotations={names.PAUSED: "true"})
    other = manifest("dep2", server="s2", labels=load)
    with kube_world(paused, other) as world:
        record = controller(world).cycle(60.0)
        assert [change.server for change in record.changes] == ["s2"]
        assert f's1: nothing is asked for it: annotation {names.PAUSED} is "true"' in (
            record.warnings
        )


def test_a_pause_between_look_and_write_counts() -> None:
    """At once means: also for what was decided already."""
    with kube_world(manifest()) as world:
        world.backend.observe()
        body = {"metadata": {"annotations": {names.PAUSED: "true"}}}
        world.apps.patch_namespaced_deployment("dep1", "infer", body)
        with pytest.raises(BackendError, match='paused is "true"'):
            world.backend.apply([ask(replicas=5)])
        assert world.get().spec.replicas == 2


def test_a_config_map_pauses_the_whole_loop() -> None:
    """For every controller and actuator of a cluster; one that is not there pauses nobody."""
    settings = KubeSettings(namespaces=("infer",), pause_config_map="infer/loop")
    with kube_world(manifest(labels={names.LOAD_RPM: "6000"}), settings=settings) as world:
        loop = controller(world)
        world.core.create_namespaced_config_map(
            "infer", {"metadata": {"name": "loop"}, "data": {"paused": "true"}}
        )
        record = loop.cycle(60.0)
        assert (record.mode, record.applied) == ("advise", False)
        assert record.paused == 'ConfigMap infer/loop has paused: "true"'
        with pytest.raises(PausedError, match="ConfigMap infer/loop has paused"):
            world.backend.apply(record.changes)
        # Whoever writes something else wants it to stop, too.
        world.core.patch_namespaced_config_map("loop", "infer", {"data": {"paused": "Yes!"}})
        assert loop.cycle(90.0).paused == 'ConfigMap infer/loop has paused: "Yes!"'
        world.core.patch_namespaced_config_map("loop", "infer", {"data": {"paused": "false"}})
        assert loop.cycle(120.0).applied
        world.core.delete_namespaced_config_map("loop", "infer")
        assert loop.cycle(180.0).mode == "act"


def test_a_pause_that_cannot_be_read_is_what_it_was_and_at_first_one() -> None:
    """A switch for emergencies must not come loose because an API server is ill."""
    settings = KubeSettings(namespaces=("infer",), pause_config_map="infer/loop")
    with kube_world(manifest(labels={names.LOAD_RPM: "6000"}), settings=settings) as world:
        loop = controller(world)
        ill = fault("error", "get", resource="configmaps", status=403)
        world.suffer(ill)
        line = "whether the loop is paused cannot be read: get configmaps: 403"
        record = loop.cycle(60.0)
        assert (record.mode, record.paused.startswith(line)) == ("advise", True)
        world.suffer()
        assert loop.cycle(120.0).applied
        world.suffer(ill)
        record = loop.cycle(180.0)
        assert (record.mode, record.paused) == ("act", "")
        assert sum(one.startswith(line) for one in record.warnings) == 1


def rival(world: KubeWorld, loop: Controller, *, cycles: int) -> list[CycleRecord]:
    """Let somebody else scale back to 2 after each cycle of *loop*; return its records."""
    records = []
    for number in range(cycles):
        records.append(loop.cycle(60.0 * (number + 1)))
        world.apps.patch_namespaced_deployment_scale(
            "dep1", "infer", {"spec": {"replicas": 2}}, field_manager="another-autoscaler"
        )
    return records


@pytest.mark.parametrize("contest", [False, True])
def test_the_loop_steps_back_from_a_server_that_somebody_else_scales(contest: bool) -> None:
    """Unless it is told to contest."""
    settings = KubeSettings(namespaces=("infer",), contest=contest)
    with kube_world(manifest(labels={names.LOAD_RPM: "6000"}), settings=settings) as world:
        records = rival(world, controller(world), cycles=5)
        assert [bool(record.changes) for record in records] == [True, True, True, contest, contest]
        assert records[-1].decision is not None
        held = records[-1].decision.targets["s1"]
        assert held.held != contest
        if not contest:
            assert "another-autoscaler has changed it back 3 times in a row" in held.why.text


def test_a_contest_goes_on_where_it_was_for_a_loop_that_is_started_again() -> None:
    """One that is restarted every few minutes would else contest for ever."""
    with kube_world(manifest(labels={names.LOAD_RPM: "6000"})) as world:
        rival(world, controller(world), cycles=2)
        with kube_again(world) as second:
            world.backend = second
            records = rival(world, controller(world), cycles=2)
        assert [bool(record.changes) for record in records] == [True, False]
        assert records[-1].decision is not None
        assert "changed it back 3 times" in records[-1].decision.targets["s1"].why.text


def test_a_loop_that_is_started_again_and_asks_first_keeps_what_was_undone_before() -> None:
    """The load has changed, so it writes before anybody has changed anything back."""
    with kube_world(manifest(labels={names.LOAD_RPM: "3000"})) as world:
        rival(world, controller(world), cycles=2)
        asked = controller(world).cycle(180.0)
        assert asked.changes
        with kube_again(world) as second:
            world.backend = second
            world.apps.patch_namespaced_deployment(
                "dep1", "infer", {"metadata": {"labels": {names.LOAD_RPM: "9000"}}}
            )
            records = rival(world, controller(world), cycles=2)
        assert [bool(record.changes) for record in records] == [True, False]


@pytest.mark.parametrize(
    ("least", "annotations", "replicas"),
    [(3, {}, 3), (9, {}, 4), ("50%", {}, 1), (3, {names.REPLICAS_MIN: "2"}, 2)],
)
def test_no_pods_are_taken_away_that_a_disruption_budget_wants(
    least: int | str, annotations: dict[str, str], replicas: int
) -> None:
    """Kubernetes itself heeds it for evictions only."""
    settings = KubeSettings(namespaces=("infer",), autoscalers=True)
    wanted = manifest(replicas=4, labels={names.LOAD_RPM: "1"}, annotations=annotations)
    with kube_world(wanted, settings=settings) as world:
        client.PolicyV1Api(world.apps.api_client).create_namespaced_pod_disruption_budget(
            "infer",
            {
                "metadata": {"name": "pdb"},
                "spec": {"minAvailable": least, "selector": {"matchLabels": {"app": "dep1"}}},
            },
        )
        loop = controller(world)
        loop.cycle(0.0)
        record = loop.cycle(60.0)
        assert world.get().spec.replicas == replicas
        assert record.seen is not None
        told = any("infer/pdb wants them" in line for line in record.warnings)
        assert not told  # once, in the cycle before


def test_an_autoscaler_of_the_same_deployment_is_named_and_looked_for_now_and_then() -> None:
    """Whoever set it up may have forgotten it; a list of them each cycle would tell no more."""
    settings = KubeSettings(namespaces=("infer",), autoscalers=True)
    clock = ManualClock()
    with kube_world(manifest(), settings=settings, clock=clock) as world:
        client.AutoscalingV2Api(world.apps.api_client).create_namespaced_horizontal_pod_autoscaler(
            "infer",
            {
                "metadata": {"name": "hpa"},
                "spec": {
                    "scaleTargetRef": {
                        "apiVersion": "apps/v1",
                        "kind": "Deployment",
                        "name": "dep1",
                    },
                    "maxReplicas": 5,
                },
            },
        )
        scaled = {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "metadata": {"name": "keda", "annotations": {"autoscaling.keda.sh/paused": "true"}},
            "spec": {"scaleTargetRef": {"name": "dep1"}, "triggers": []},
        }
        custom = client.CustomObjectsApi(world.apps.api_client)
        custom.create_namespaced_custom_object(
            "keda.sh", "v1alpha1", "infer", "scaledobjects", scaled
        )
        line, paused = [
            line for line in world.backend.observe().warnings if line.startswith("s1: ")
        ]
        assert paused.startswith("s1: ScaledObject infer/keda is paused")
        assert line.startswith("s1: HorizontalPodAutoscaler infer/hpa scales it too")
        clock.time_s += 60.0
        assert not [line for line in world.backend.observe().warnings if "scales it too" in line]
        assert world.calls.calls["list horizontalpodautoscalers"] == 1
        clock.time_s += AUTOSCALERS_S
        world.backend.observe()
        assert world.calls.calls["list horizontalpodautoscalers"] == 2


def test_what_is_labelled_and_left_alone_is_told_once() -> None:
    """Whoever labels a StatefulSet, or writes True, would wait for ever for the loop to scale
    it.
    """
    settings = KubeSettings(namespaces=("infer",), autoscalers=True)
    of_two = manifest("ranks", server="s2")
    of_two["spec"]["serviceName"] = "ranks"
    with kube_world(manifest(), settings=settings) as world:
        world.apps.create_namespaced_stateful_set("infer", {**of_two, "kind": "StatefulSet"})
        world.create(manifest("odd", server="s3", labels={names.MANAGED: "True"}))
        world.create(manifest("off", server="s4", labels={names.MANAGED: "false"}))
        lines = [line for _ in range(2) for line in world.backend.observe().warnings]
        odd, other = [line for line in lines if "left alone" in line]
        assert odd == (
            f'Deployment infer/odd: left alone: label {names.MANAGED}: expected "true" or '
            "\"false\", found 'True'"
        )
        assert other.startswith("StatefulSet infer/ranks: left alone: label")


class Admitting(KubeClient):
    """A cluster whose admission lets no Deployment have more than three replicas."""

    def patch_deployment(self, namespace: str, name: str, body: Json, **how: Any) -> Json:
        """Change a Deployment, by what admission makes of it."""
        spec = body.get("spec", {})
        allowed = {"replicas": min(spec["replicas"], 3)} if "replicas" in spec else {}
        return super().patch_deployment(namespace, name, body | {"spec": spec | allowed}, **how)


def test_what_admission_makes_of_what_was_asked_is_told_and_not_asked_for_ever() -> None:
    """A policy that caps replicas undoes each request, and nobody else is seen to have."""
    with kube_world(manifest(labels={names.LOAD_RPM: "6000"})) as world:
        world.backend.close()
        calls = Admitting(world.twin.api, clock=MonotonicClock(), timeouts=PATIENT)
        world.backend = KubeBackend(
            calls,
            LabelsOnly(),
            clock=world.clock,
            epoch=world.epoch,
            settings=KubeSettings(namespaces=("infer",)),
        )
        loop = controller(world)
        records = [loop.cycle(60.0 * number) for number in range(1, 6)]
        world.backend.close()
        assert world.get().spec.replicas == 3
        assert [bool(record.changes) for record in records] == [True] * 3 + [False] * 2
        (line,) = [line for line in records[1].warnings if line.startswith("s1: ")]
        assert line.endswith("was asked for, an admission webhook made it 3 x H100, batch 64")
        assert records[-1].decision is not None
        assert "an admission webhook has changed it" in records[-1].decision.targets["s1"].why.text


def test_a_deployment_that_is_gone_in_a_look_and_made_anew_is_told_and_contested() -> None:
    """Who syncs a cluster to what is in a repository may take longer than a look."""
    with kube_world(manifest(labels={names.LOAD_RPM: "6000"})) as world:
        loop = controller(world)
        for number in range(REVERSALS_MAX):
            assert loop.cycle(60.0 * number).changes
            world.apps.delete_namespaced_deployment("dep1", "infer")
            eventually(lambda: not world.calls.deployments("infer"), "it is deleted")
            assert not world.backend.observe().servers
            world.create(manifest(labels={names.LOAD_RPM: "6000"}))
        seen = world.backend.observe()
        assert any("deleted and made anew" in line for line in seen.warnings)
        hold = seen.servers["s1"].hold
        assert hold is not None
        assert hold.kind == "rival"


def test_a_name_that_passes_to_another_deployment_is_told_as_that() -> None:
    """Nobody has deleted anything."""
    with kube_world(manifest(), manifest("dep2", server="s2")) as world:
        world.backend.observe()
        for name, server in (("dep1", "s0"), ("dep2", "s1")):
            label = {"metadata": {"labels": {names.NAME: server}}}
            world.apps.patch_namespaced_deployment(name, "infer", label)
        told = world.backend.observe().warnings
        assert told == ("s1: the name of infer/dep2 now, infer/dep1 had it before",)


def test_autoscalers_that_may_not_be_listed_are_told_once_and_stop_nobody() -> None:
    """The right to list them is new: older roles have it not."""
    settings = KubeSettings(namespaces=("infer",), autoscalers=True)
    clock = ManualClock()
    with kube_world(manifest(), settings=settings, clock=clock) as world:
        world.suffer(fault("error", "list", resource="horizontalpodautoscalers", status=403))
        warnings = []
        for _ in range(3):
            seen = world.backend.observe()
            assert list(seen.servers) == ["s1"]
            warnings += [line for line in seen.warnings if "autoscalers" in line]
            clock.time_s += AUTOSCALERS_S
        assert len(warnings) == 1
        assert "autoscalers that scale the same servers are not seen" in warnings[0]


def test_the_manifest_grants_what_the_backend_asks_for_and_no_more() -> None:
    """A right that is missing fails a cycle; one too many is a door."""
    settings = KubeSettings(
        namespaces=("infer",),
        from_nodes=True,
        events=True,
        autoscalers=True,
        pause_config_map="infer/loop",
    )
    with kube_world(manifest(), settings=settings) as world:
        world.backend.observe()
        # Changed meanwhile: the object is read again.
        world.apps.patch_namespaced_deployment(
            "dep1", "infer", {"metadata": {"annotations": {"a": "b"}}}
        )
        world.backend.apply([ask(replicas=3)])
        asked = set(world.calls.calls)
    granted = {
        f"{verb} {resource}"
        for kind, name in (("ClusterRole", "inferno"), ("Role", "inferno-pause"))
        for rule in objects(YAMLS / "deploy")[kind, name]["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert asked == granted


def test_pods_have_their_age_after_the_clock_of_the_machine_was_set() -> None:
    """The API server dates them: counted from the start of the loop they would be an hour old, or
    yet to come.
    """
    clock, wall = MonotonicClock(), ManualClock()
    wall.time_s = date_now().timestamp() - 3600.0
    epoch = WallEpoch(clock, wall_s=wall.now_s)
    with kube_world(manifest(), clock=clock, wall=epoch) as world:
        world.settled()
        wall.time_s = date_now().timestamp()
        seen = world.backend.observe()
        assert any("ahead of where it should be" in line for line in seen.warnings)
        age_s = world.clock.now_s() - seen.servers["s1"].pods[0].since_s
        assert -1.0 <= age_s < 60.0


@pytest.mark.parametrize("off_s", [-3600.0, 200.0])
def test_dates_of_objects_are_read_by_the_clock_of_the_cluster(off_s: float) -> None:
    """A loop on a machine with another clock took new pods for old ones, whose requests count for a
    whole window, or for ones that are yet to come, whose requests do not count at all.
    """
    clock, wall = MonotonicClock(), ManualClock()
    wall.time_s = date_now().timestamp() + off_s
    epoch = WallEpoch(clock, wall_s=wall.now_s)
    with kube_world(manifest(), clock=clock, wall=epoch, epoch=epoch.date) as world:
        side = "ahead of" if off_s < 0.0 else "behind"
        (line,) = world.backend.observe().warnings
        assert f"s {side} that of this machine" in line
        world.settled()
        wall.time_s = date_now().timestamp() + off_s
        seen = world.backend.observe()
        age_s = world.clock.now_s() - seen.servers["s1"].pods[0].since_s
        assert -3.0 <= age_s < 60.0
        assert not any("that of this machine" in line for line in seen.warnings)


def test_looks_at_pods_before_the_machine_stood_still_do_not_count() -> None:
    """Nobody knows how long it did: requests of an hour would be those of a period."""
    clock, wall = ManualClock(), ManualClock()
    wall.time_s = date_now().timestamp()
    epoch = WallEpoch(clock, wall_s=wall.now_s)

    def looks(calls: KubeClient) -> PodMetrics:
        return PodMetrics(ProxiedPages(calls))

    def rates(*steps_s: tuple[float, float]) -> list[float | None]:
        found = []
        for clock_s, wall_s in steps_s:
            clock.time_s += clock_s
            wall.time_s += wall_s
            load = world.backend.observe().servers["s1"].load
            found.append(None if load is None else load.rate_rpm)
        return found

    with kube_world(manifest(), clock=clock, wall=epoch, source=looks) as world:
        world.settled()
        assert rates((30.0, 30.0), (30.0, 30.0)) == [0.0, 0.0]
        assert rates((30.0, 3630.0), (30.0, 30.0)) == [None, 0.0]


class NamingSource(LabelsOnly):
    """A source whose engines name their model, until they fall silent."""

    at_pods = True

    def __init__(self) -> None:
        self.named: frozenset[str] = frozenset({"meta-llama/Llama_8B"})

    def measure(self, servers: Sequence[ScrapedServer], *, now_s: float) -> Measurement:  # noqa: ARG002 the port
        """Return the names alone."""
        figures = Figures(model_names=self.named)
        return Measurement(figures={one.name: figures for one in servers})


def test_a_server_without_a_model_label_has_the_model_that_its_metrics_name() -> None:
    """It stays that while they are silent; a label wins. It is told once."""
    source = NamingSource()
    settings = KubeSettings(namespaces=("infer",), gpus={("llama_8b", "H100"): 1})
    unlabelled = manifest(labels={names.MODEL: ""})
    labelled = manifest("dep2", server="s2", labels={names.MODEL: "qwen_14b"})
    with kube_world(unlabelled, labelled, source=lambda _calls: source, settings=settings) as world:
        seen = world.backend.observe()
        source.named = frozenset()
        again = world.backend.observe()
        world.backend.apply([ask(replicas=3)])
    line = "s1: no label inferno.server.model: its metrics name the model, llama_8b"
    assert line in seen.warnings
    assert line not in again.warnings
    for one in (seen, again):
        assert {name: view.model for name, view in one.servers.items()} == {
            "s1": "llama_8b",
            "s2": "qwen_14b",
        }


def test_a_model_that_metrics_named_outlasts_a_look_that_could_not_list_it() -> None:
    """What the loop remembers of the Deployment then has no label all the same."""
    source, spaces = NamingSource(), ("infer", "other")
    settings = KubeSettings(namespaces=spaces, gpus={("llama_8b", "H100"): 1})
    bodies = [
        manifest(server=f"s-{space}", namespace=space, labels={names.MODEL: ""}) for space in spaces
    ]
    match = Match(verbs=("list",), resources=("deployments",), namespaces=("other",))
    with kube_world(
        *bodies, source=lambda _calls: source, settings=settings, namespaces=spaces
    ) as world:
        looks = [world.backend.observe()]
        source.named = frozenset()
        looks.append(world.backend.observe())
        world.suffer(Fault(kind="error", match=match, status=403))
        looks.append(world.backend.observe())
        world.suffer()
        looks.append(world.backend.observe())
    assert [look.servers["s-other"].model for look in looks] == ["llama_8b"] * 4


def test_a_server_whose_model_nothing_names_is_told() -> None:
    """Whoever labels it by hand forgets one."""
    with kube_world(manifest(labels={names.MODEL: ""})) as world:
        assert "s1: label inferno.server.model: expected the name of a model, found none" in (
            world.backend.observe().warnings
        )


class Busy(LabelsOnly):
    """A source that tells how many requests run on each pod: 0, 1, 2, … by name."""

    at_pods = True

    def measure(self, servers: Sequence[ScrapedServer], *, now_s: float) -> Measurement:
        """Return the gauges."""
        found = super().measure(servers, now_s=now_s)
        return replace(
            found,
            figures={
                server.name: Figures(
                    pods={
                        pod.name: Gauges(running=number, age_s=0.0)
                        for number, pod in enumerate(sorted(server.pods, key=lambda one: one.name))
                    }
                )
                for server in servers
            },
        )


def test_an_accelerator_that_the_data_do_not_know_is_told_once() -> None:
    """The server is planned for as one that has none yet, and nobody would know why it moves."""
    settings = KubeSettings(namespaces=("infer",), types={"H100": "H100"})
    with kube_world(manifest(labels={names.ACCELERATOR: "h100"}), settings=settings) as world:
        line = (
            f"s1: label {names.ACCELERATOR}: expected an accelerator of the data, found 'h100'; "
            "did you mean H100?"
        )
        assert line in world.backend.observe().warnings
        assert line not in world.backend.observe().warnings


def test_the_cluster_is_told_what_runs_on_each_pod_before_a_reduction() -> None:
    """It then ends those that do least; a growth needs no such thing."""
    settings = KubeSettings(namespaces=("infer",), deletion_cost=True)
    with kube_world(manifest(replicas=3), settings=settings, source=lambda _: Busy()) as world:
        world.settled()
        world.backend.apply([ask(replicas=4)])
        assert world.calls.calls["patch pods"] == 0
        world.settled()
        # Nothing runs on the first one, which needs no annotation to say so.
        world.backend.apply([ask(replicas=2)])
        assert world.calls.calls["patch pods"] == 3
        costs = [
            (pod.metadata.annotations or {}).get(names.DELETION_COST)
            for pod in world.core.list_namespaced_pod("infer").items
            if pod.metadata.deletion_timestamp is None
        ]
        assert {"1", "2", "3"} >= set(costs) - {None}


def test_changes_of_who_scales_by_what_is_exported_are_not_told() -> None:
    """An HPA does as it is asked then; without one, a change by others is a rival's."""
    for scaled, told in ((False, True), (True, False)):
        settings = KubeSettings(namespaces=("infer",), scaled_by_others=scaled)
        with kube_world(manifest(), settings=settings) as world:
            world.backend.observe()
            body = {"spec": {"replicas": 3}}
            world.apps.patch_namespaced_deployment_scale("dep1", "infer", body)
            warnings = world.backend.observe().warnings
        assert any("was asked for, found" in line for line in warnings) is told
