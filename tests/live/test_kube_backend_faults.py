"""What goes wrong between a loop and an API server: no wrong replica counts, no dead loop, a reason
every time.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from emulator.to_cluster import ClusterEmulator
from emulator.walk import Walk
from inferno.worlds.emulated import EmulatedDeployments
from loop.backends.kube import labels as names
from loop.backends.kube.backend import KubeBackend
from loop.backends.kube.client import KubeClient, Timeouts, connect
from loop.backends.kube.settings import KubeSettings
from loop.backends.metrics.source import LabelsOnly
from loop.clocks import MonotonicClock, date_now
from loop.controller import Controller, ControllerSettings
from loop.data import FixedData
from loop.errors import BackendError, SpecError
from loop.policies import make_policy
from loop.records import held_servers, record_line
from loop.testing.fakes import ManualClock, system
from loop.types import Snapshot
from tests.live.kube_worlds import (
    HASTY,
    PATIENT,
    KubeWorld,
    ask,
    cluster_spec,
    eventually,
    fault,
    kube_again,
    kube_world,
    manifest,
)
from tests.live.served import allowed_s
from tests.live.twin_served import DEADLINE_S, ServedTwin, serving_twin
from twin.kube.apiserver.auth import ADMIN, Identity, Rule
from twin.kube.faults import Fault, Match


def three() -> tuple[dict[str, object], ...]:
    """Return three servers of one replica."""
    return tuple(manifest(f"dep{i}", server=f"s{i}", replicas=1) for i in (1, 2, 3))


def loop_over(world: KubeWorld) -> Controller:
    """Return a loop of the slo policy over the backend of *world*."""
    return Controller(
        backend=world.backend,
        policy=make_policy("slo"),
        data=FixedData(system()),
        clock=ManualClock(),
        settings=ControllerSettings(epoch=world.epoch),
    )


def loop_by_role(twin: ServedTwin, namespaces: tuple[str, ...]) -> tuple[KubeBackend, Controller]:
    """Return a loop of the slo policy over *twin* with the rights of the token "own", and its
    backend, to be closed.
    """
    backend = KubeBackend(
        KubeClient(lambda: twin.api("own"), clock=ManualClock()),
        LabelsOnly(),
        clock=ManualClock(),
        epoch=date_now(),
        settings=KubeSettings(namespaces=namespaces),
    )
    loop = Controller(
        backend=backend,
        policy=make_policy("slo"),
        data=FixedData(system()),
        clock=ManualClock(),
    )
    return backend, loop


def replicas(world: KubeWorld) -> list[int]:
    """Return what the three are asked to have."""
    return [world.get(f"dep{i}").spec.replicas for i in (1, 2, 3)]


@pytest.mark.parametrize("status", [409, 429, 500, 503])
def test_a_refusal_that_passes_costs_no_cycle(status: int) -> None:
    """A leader of the control plane changes, a webhook restarts, a client is too fast: tried again,
    it goes through.
    """
    with kube_world(manifest()) as world:
        world.settled()
        world.suffer(fault("error", "patch", status=status, count=1))
        world.backend.apply([ask(replicas=3)])
        assert (world.get().spec.replicas, world.calls.calls["patch deployments"]) == (3, 2)


def test_a_server_that_says_when_to_come_back_is_not_asked_before() -> None:
    """429 with Retry-After is how an API server defends itself."""
    with kube_world(manifest()) as world:
        world.settled()
        world.suffer(fault("error", "patch", status=429, retry_after_s=1, count=1))
        begin_s = time.monotonic()
        world.backend.apply([ask(replicas=3)])
        assert time.monotonic() - begin_s >= 1.0
        assert world.get().spec.replicas == 3


def test_a_server_that_asks_for_too_long_a_wait_fails_the_cycle_at_once() -> None:
    """An hour is not waited for: the next cycle asks again."""
    with kube_world(manifest()) as world:
        world.settled()
        world.suffer(fault("error", "patch", status=429, retry_after_s=3600))
        with pytest.raises(BackendError, match="429"):
            world.backend.apply([ask(replicas=3)])
        assert world.calls.calls["patch deployments"] == 1


@pytest.mark.parametrize(("status", "attempts"), [(403, 1), (422, 1), (429, 3), (500, 3), (503, 3)])
def test_one_deployment_that_refuses_stops_no_other_and_is_named(
    status: int, attempts: int
) -> None:
    """All are tried; what may pass is tried a few times, what will not once. The next cycle makes
    up for it.
    """
    with kube_world(*three()) as world:
        world.settled()
        world.suffer(fault("error", "patch", name="dep2", status=status))
        changes = [ask(f"s{i}", replicas=2) for i in (1, 2, 3)]
        with pytest.raises(
            BackendError, match=f"^1 of 3 changes failed: s2: patch deployments: {status} "
        ) as caught:
            world.backend.apply(changes)
        assert caught.value.phase == "apply"
        assert replicas(world) == [2, 1, 2]
        assert world.calls.calls["patch deployments"] == 2 + attempts
        world.suffer()
        world.backend.observe()
        world.backend.apply(changes)
        assert replicas(world) == [2, 2, 2]


@pytest.mark.parametrize(
    ("status", "failed"), [(422, False), (400, False), (403, False), (503, True)]
)
def test_a_deployment_that_admission_refuses_is_held_and_told_and_no_failure_of_the_loop(
    status: int, failed: bool
) -> None:
    """One webhook that says no for ever made a controller unready that looked after all the
    others. What no server takes is a failure still.
    """
    busy = {names.LOAD_RPM: "1500"}
    two = (manifest(f"dep{i}", server=f"s{i}", replicas=1, labels=busy) for i in (1, 2))
    with kube_world(*two) as world:
        world.settled()
        world.suffer(fault("error", "patch", name="dep2", status=status))
        loop = loop_over(world)
        records = [loop.cycle(60.0 * number) for number in (1, 2, 3)]
        assert [record.failed for record in records] == [failed] * 3
        assert world.get("dep1").spec.replicas > 1 == world.get("dep2").spec.replicas
        if not failed:
            told = record_line(records[-1])
            row = next(row for row in told["servers"] if row["name"] == "s2")
            assert (row["held"], row["reasonKind"], row["replicas"]) == (True, "refused", 1)
            assert told["applied"]
            assert held_servers(records[-1]) == {"s2": "refused"}
            assert f"s2: patch deployments: {status}" in " ".join(records[-1].warnings)
        world.suffer()
        assert not loop.cycle(240.0).failed
        assert world.get("dep2").spec.replicas > 1


@pytest.mark.parametrize("after", [True, False])
def test_a_patch_whose_answer_is_cut_off_is_done_once(after: bool) -> None:
    """Whether the server had done it before the connection broke or not: in the end it has, and
    nobody is blamed.
    """
    with kube_world(manifest()) as world:
        world.settled()
        world.suffer(fault("drop", "patch", count=1, after=after))
        world.backend.apply([ask(replicas=3, max_batch=16)])
        one = world.get()
        assert (one.spec.replicas, one.metadata.labels[names.MAX_BATCH]) == (3, "16")
        assert world.backend.observe().warnings == ()


def test_a_patch_that_takes_too_long_is_done_once() -> None:
    """The first one may arrive late, even after the second: both say the same."""
    with kube_world(manifest(), timeouts=HASTY) as world:
        world.settled()
        world.suffer(fault("delay", "patch", delay_s=HASTY.read_s + 0.3, count=1))
        world.backend.apply([ask(replicas=3)])
        assert world.get().spec.replicas == 3
        time.sleep(0.5)  # until the late one has arrived
        assert world.get().spec.replicas == 3


SLOW = fault("delay", "list", delay_s=30.0)


@pytest.mark.parametrize(
    "trouble",
    [
        fault("error", "list", status=500),
        fault("error", "list", status=403),
        fault("error", "list", resource="pods", status=503),
        fault("drop", "list"),
        fault("drop", "list", resource="pods"),
        SLOW,
    ],
    ids=["500", "403", "pods 503", "cut", "pods cut", "slow"],
)
def test_a_list_that_fails_fails_the_cycle_in_time_and_the_next_one_starts_clean(
    trouble: object,
) -> None:
    """Half a list would be taken for servers that are gone, and their GPUs given away."""
    with kube_world(manifest(), timeouts=HASTY if trouble is SLOW else PATIENT) as world:
        loop = loop_over(world)
        world.suffer(trouble)  # type: ignore[arg-type] # made by fault()
        begin_s = time.monotonic()
        record = loop.cycle(60.0)
        assert time.monotonic() - begin_s < allowed_s(HASTY.total_s + 1.0)
        assert (record.failed_phase, record.applied, bool(record.error)) == ("observe", False, True)
        world.suffer()
        assert loop.cycle(120.0).error == ""


def test_a_server_that_is_not_there_fails_the_cycle_with_its_reason() -> None:
    """Connection refused: the loop lives on."""
    with kube_world(manifest()) as world:
        world.twin.stop()
        with pytest.raises(BackendError, match=r"list (deployments|pods): no answer: .*refused"):
            world.backend.observe()


def test_a_token_that_has_expired_is_replaced_by_the_present_one() -> None:
    """Whoever renews it writes the file; the loop reads it again when it is refused."""
    with serving_twin(tokens={"new": ADMIN}) as twin:
        tokens = iter(["old", "new"])
        calls = KubeClient(lambda: twin.api(next(tokens)), clock=MonotonicClock(), timeouts=PATIENT)
        assert calls.deployments("default") == []
        assert calls.calls["list deployments"] == 2
        calls.close()


def test_credentials_that_are_being_written_fail_one_request_and_end_nothing() -> None:
    """A kubeconfig that was read half ended the emulator, with the words for bad input."""
    with serving_twin(tokens={"new": ADMIN}) as twin:
        steps = iter(["old", SpecError("config: expected a cluster to talk to"), "new"])

        def connected() -> client.ApiClient:
            step = next(steps)
            if isinstance(step, SpecError):
                raise step
            return twin.api(step)

        calls = KubeClient(connected, clock=MonotonicClock(), timeouts=PATIENT)
        emulator = ClusterEmulator(EmulatedDeployments(calls), walk=Walk(alpha=0.1), seed=1)
        (problem,) = emulator.disturb().problems
        assert "401 Unauthorized; its present credentials: config: expected" in problem
        assert emulator.disturb().problems == ()
        calls.close()


def test_a_token_that_stays_wrong_is_told_and_not_tried_for_ever() -> None:
    """The user must get a new one."""
    with serving_twin(tokens={"new": ADMIN}) as twin:
        calls = KubeClient(lambda: twin.api("old"), clock=MonotonicClock(), timeouts=PATIENT)
        with pytest.raises(Exception, match="list deployments: 401 Unauthorized"):
            calls.deployments("default")
        assert calls.calls["list deployments"] == 2
        calls.close()


def test_a_controller_that_loses_its_lead_in_the_middle_of_a_cycle_stops_there() -> None:
    """What was asked for stays; the rest is up to the one that leads now."""
    asked: list[bool] = []

    def may_act() -> bool:
        asked.append(True)
        return len(asked) <= 1

    with kube_world(*three(), may_act=may_act) as world:
        world.settled()
        with pytest.raises(BackendError, match=r"2 of 3 changes failed: .*leads no longer"):
            world.backend.apply([ask(f"s{i}", replicas=2) for i in (1, 2, 3)])
        assert sorted(replicas(world)) == [1, 1, 2]


def test_a_patch_of_the_former_leader_that_arrives_late_is_refused() -> None:
    """It was on its way when another one took over: the version it was made for is no longer
    there.
    """
    with kube_world(manifest()) as world, kube_again(world) as former:
        world.settled()
        former.observe()
        world.backend.apply([ask(replicas=4)])
        with pytest.raises(
            BackendError, match=r"left as it is: changed by .* from 2 x H100, batch 64 to 4 x H100"
        ):
            former.apply([ask(replicas=1)])
        assert world.get().spec.replicas == 4


def test_a_controller_killed_between_patches_leaves_whole_changes_and_the_next_completes_them(
    repository: Path,
) -> None:
    """kill -9 leaves no time for anything. What is asked for is absolute, so asking again is
    right.
    """
    with kube_world(*three()) as world:
        world.settled()
        # The first patch goes through at once, the others would take longer than the test.
        world.suffer(fault("delay", "patch", delay_s=60.0, skip=1))
        command = [sys.executable, "-m", "tests.live.kube_apply", world.twin.url, "infer", "3"]
        killed = subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE)
        eventually(
            lambda: 3 in replicas(world) or killed.poll() is not None, "the first patch is through"
        )
        killed.kill()
        killed.communicate(timeout=DEADLINE_S)
        assert sorted(replicas(world)) == [1, 1, 3]
        world.suffer()
        with kube_again(world) as second:
            seen = second.observe()
            assert sorted(view.wanted for view in seen.servers.values()) == [1, 1, 3]
            assert seen.warnings == ()
            second.apply(
                [ask(name, replicas=3) for name, view in seen.servers.items() if view.wanted != 3]
            )
        assert replicas(world) == [3, 3, 3]


def test_a_request_that_hangs_does_not_hold_up_the_end_of_the_program(repository: Path) -> None:
    """A service that is told to stop has a second, not the time-out of an API server that is
    away.
    """
    with kube_world() as world:
        world.suffer(fault("delay", "list", delay_s=300.0))
        code = f"from tests.live.kube_apply import leave; leave({world.twin.url!r}, 'infer')"
        process = subprocess.Popen([sys.executable, "-c", code], cwd=repository)
        try:
            # Far less than the minutes that the request would be waited for.
            assert process.wait(2 * DEADLINE_S) == 0
        finally:
            process.kill()


def test_a_status_that_stays_behind_is_told() -> None:
    """A controller-manager that is down does nothing, and nothing else would say so."""
    clock = ManualClock()
    with kube_world(manifest(), clock=clock) as world:
        world.settled()
        world.suffer(fault("staleStatus", resource=""))
        world.backend.apply([ask(replicas=3)])
        assert world.backend.observe().warnings == ()
        clock.time_s = 12.0
        (line,) = world.backend.observe().warnings
        assert line == "s1: the cluster has not taken note of its latest change for 12 s"


def test_no_cluster_at_all_is_bad_input(tmp_path: Path) -> None:
    """One line at the start, not a traceback."""
    for text in (
        None,
        "",
        "{",
        "apiVersion: v1\nkind: Config\n",
        "current-context: x\nclusters: []\n",
    ):
        path = tmp_path / "config"
        if text is not None:
            path.write_text(text)
        with pytest.raises(SpecError, match="expected a cluster to talk to") as caught:
            connect(str(path))
        assert "\n" not in str(caught.value)


def test_a_kubeconfig_is_all_that_is_needed(tmp_path: Path) -> None:
    """As `inferno twin serve` writes it, and as kubectl has it. No request is repeated behind our
    back.
    """
    with serving_twin() as twin:
        path = tmp_path / "config"
        path.write_text(
            f"""\
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: {twin.url}}}}}]
users: [{{name: u, user: {{token: inferno-twin}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""
        )
        api = connect(str(path))
        assert isinstance(api, client.ApiClient)
        assert api.configuration.retries is False
        calls = KubeClient(
            lambda: connect(str(path)), clock=MonotonicClock(), timeouts=Timeouts(attempts=1)
        )
        assert calls.deployments() == []
        calls.close()


@pytest.mark.parametrize("writable", [("a",), ()])
def test_a_role_that_lacks_one_namespace_is_no_failure_of_the_others(
    writable: tuple[str, ...],
) -> None:
    """Three such cycles in a row made a loop unready that looked after all other namespaces."""
    busy = {names.LOAD_RPM: "1500"}
    look = Rule(verbs=("get", "list"), resources=("deployments", "pods"))
    rules = (look, *(Rule(verbs=("patch",), namespaces=(one,)) for one in writable))
    tokens = {"own": Identity(user="inferno", rules=rules), "admin": ADMIN}
    with serving_twin(cluster_spec(), tokens=tokens) as twin, twin.api("admin") as api:
        for space in ("a", "b"):
            client.CoreV1Api(api).create_namespace({"metadata": {"name": space}})
            body = manifest("dep", server=f"s-{space}", namespace=space, replicas=1, labels=busy)
            client.AppsV1Api(api).create_namespaced_deployment(space, body)
        backend, loop = loop_by_role(twin, ("a", "b"))
        records = [loop.cycle(60.0 * number) for number in (1, 2, 3)]
        backend.close()
    assert [record.failed for record in records] == [not writable] * 3
    assert held_servers(records[-1]) == (dict.fromkeys(["s-b"], "refused") if writable else {})


def test_a_role_that_lacks_one_deployment_is_no_failure_of_the_others() -> None:
    """The first refusal after a change of another made the namespace one that takes none, and
    three such cycles the loop unready.
    """
    look = Rule(verbs=("get", "list"), resources=("deployments", "pods"))
    tokens = {"own": Identity(user="inferno", rules=(look,)), "admin": ADMIN}
    with serving_twin(cluster_spec(), tokens=tokens) as twin, twin.api("admin") as api:
        apps, roles = client.AppsV1Api(api), client.RbacAuthorizationV1Api(api)
        client.CoreV1Api(api).create_namespace({"metadata": {"name": "a"}})
        rule = {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["patch"]}
        meta = {"metadata": {"name": "writing"}}
        some = meta | {"rules": [rule | {"resourceNames": ["dep1", "dep2"]}]}
        roles.create_namespaced_role("a", some)
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "writing"}
        binding = {"roleRef": reference, "subjects": [{"kind": "User", "name": "inferno"}]}
        roles.create_namespaced_role_binding("a", meta | binding)
        busy = {names.LOAD_RPM: "1500"}
        for i in (1, 2, 3):
            body = manifest(f"dep{i}", server=f"s{i}", namespace="a", replicas=1, labels=busy)
            apps.create_namespaced_deployment("a", body)
        backend, loop = loop_by_role(twin, ("a",))
        records = [loop.cycle(60.0 * number) for number in (1, 2, 3)]
        # A refusal where changes went through before means that the role has gone.
        roles.delete_namespaced_role(name="writing", namespace="a")
        more = {"metadata": {"labels": {names.LOAD_RPM: "9000"}}}
        apps.patch_namespaced_deployment("dep1", "a", more)
        lost = loop.cycle(240.0)
        backend.close()
    assert [record.failed for record in (*records, lost)] == [False] * 3 + [True]
    assert [held_servers(record) for record in records] == [{"s3": "refused"}] * 3


@pytest.mark.parametrize("taken_away", ["a", "b", "ab"])
def test_a_role_that_is_taken_away_everywhere_is_a_failure(taken_away: str) -> None:
    """A loop that had written once, and never could again, said for ever that all was well."""
    look = Rule(verbs=("get", "list"), resources=("deployments", "pods"))
    tokens = {"own": Identity(user="inferno", rules=(look,)), "admin": ADMIN}
    spaces = ("a", "b") if "b" in taken_away else ("a",)
    with serving_twin(cluster_spec(), tokens=tokens) as twin, twin.api("admin") as api:
        apps, roles = client.AppsV1Api(api), client.RbacAuthorizationV1Api(api)
        writing = [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["patch"]}]
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "writing"}
        binding = {"roleRef": reference, "subjects": [{"kind": "User", "name": "inferno"}]}
        for space in spaces:
            client.CoreV1Api(api).create_namespace({"metadata": {"name": space}})
            meta = {"metadata": {"name": "writing"}}
            roles.create_namespaced_role(space, meta | {"rules": writing})
            roles.create_namespaced_role_binding(space, meta | binding)
            busy = {names.LOAD_RPM: "1500"}
            body = manifest("dep", server=f"s-{space}", namespace=space, replicas=1, labels=busy)
            apps.create_namespaced_deployment(space, body)
        backend, loop = loop_by_role(twin, spaces)
        first = loop.cycle(60.0)
        for space in taken_away:
            roles.delete_namespaced_role(name="writing", namespace=space)
        for space in spaces:
            more = {"metadata": {"labels": {names.LOAD_RPM: "9000"}}}
            apps.patch_namespaced_deployment("dep", space, more)
        records = [loop.cycle(60.0 * number) for number in (2, 3)]
        backend.close()
    assert len(first.changes) == len(spaces)
    assert [record.failed for record in records] == [len(taken_away) == len(spaces)] * 2
    if len(taken_away) < len(spaces):
        assert held_servers(records[-1]) == {f"s-{taken_away}": "refused"}


@pytest.mark.parametrize(
    ("resource", "kind", "status"),
    [("pods", "error", 403), ("deployments", "error", 404), ("pods", "drop", 0)],
)
def test_a_namespace_that_cannot_be_listed_is_held_and_told_and_stops_no_other(
    resource: str, kind: Any, status: int
) -> None:
    """One Role that was taken away ended every cycle for all other namespaces."""
    busy = {names.LOAD_RPM: "1500"}
    bodies = [
        manifest(f"dep-{space}", server=f"s-{space}", namespace=space, replicas=1, labels=busy)
        for space in ("infer", "other")
    ]
    settings = KubeSettings(namespaces=("infer", "other"))
    spaces = ("infer", "other")
    with kube_world(*bodies, settings=settings, namespaces=spaces, timeouts=HASTY) as world:
        world.settled()
        match = Match(verbs=("list",), resources=(resource,), namespaces=("other",))
        world.suffer(Fault(kind=kind, match=match, status=status))
        loop = loop_over(world)
        records = [loop.cycle(60.0), loop.cycle(120.0)]
        with kube_again(world, namespaces=spaces) as fresh:
            first = fresh.observe()
        world.suffer()
        after = loop.cycle(180.0)
    for record in records:
        assert not record.failed
        assert held_servers(record) == {"s-other": "held-unknown"}
        (line,) = [line for line in record.warnings if line.startswith("namespace other")]
        assert f"it cannot be listed: list {resource}: " in line
        assert line.endswith("; its servers are held as seen before")
        assert record.seen is not None
        assert record.seen.servers["s-other"].wanted == 1
        assert [line for line in record.warnings if line.startswith("s-other: ")] == [
            "s-other: nothing is asked for it: its namespace, other, cannot be listed"
        ]
    assert [change.server for change in records[0].changes] == ["s-infer"]
    # Nobody has ever listed it: of Deployments without pods, or of nothing, nothing is asked.
    hold = first.servers["s-other"].hold if "s-other" in first.servers else None
    assert (hold is not None) == (resource == "pods")
    assert any("namespace other: it cannot be listed" in line for line in first.warnings)
    assert held_servers(after) == {}
    assert "s-other" in [change.server for change in after.changes]


@pytest.mark.parametrize(("resources", "most"), [(("pods",), 7), (("pods", "deployments"), 1)])
def test_gpus_that_pods_may_hold_that_nobody_has_listed_are_not_planned_with(
    resources: tuple[str, ...], most: int
) -> None:
    """A controller that had been started anew gave six GPUs of others to its servers."""
    spaces = ("infer", "other")
    gpu = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    bodies = [
        manifest(server=f"s-{space}", namespace=space, replicas=replicas, container=gpu)
        for space, replicas in zip(spaces, (1, 6), strict=True)
    ]
    types = {name: one.type for name, one in system().accelerators.items()}
    settings = KubeSettings(namespaces=spaces, types=types, from_nodes=True)

    def used(seen: Snapshot) -> int:
        return (seen.capacity or {})["H100"].used

    with kube_world(*bodies, settings=settings, namespaces=spaces, timeouts=HASTY) as world:
        eventually(lambda: used(world.backend.observe()) == 7, "all have their GPUs")
        match = Match(verbs=("list",), resources=resources, namespaces=("other",))
        world.suffer(Fault(kind="error", match=match, status=403))
        known = world.backend.observe()
        with kube_again(world, settings=settings) as fresh:
            unknown = fresh.observe()
            world.suffer()
            healed = fresh.observe()
    # What was seen before counts; else no more than is held and asked for now.
    assert (used(known), known.capacity_max) == (7, {})
    assert (used(unknown), unknown.capacity_max) == (1, {"A100": 0, "H100": most})
    line = "nodes: nobody has listed the pods of namespace other yet"
    assert [line in told for told in unknown.warnings].count(True) == 1
    assert (used(healed), healed.capacity_max) == (7, {})


def test_a_namespace_that_could_not_be_listed_is_asked_once_until_it_answers() -> None:
    """One that hangs took all the time there is for tries from every cycle."""
    spaces, counts = ("infer", "other"), []
    settings = KubeSettings(namespaces=spaces)
    match = Match(verbs=("list",), resources=("pods",), namespaces=("other",))
    refusal = Fault(kind="error", match=match, status=503)
    with kube_world(manifest(), settings=settings, namespaces=spaces, timeouts=HASTY) as world:
        for faults in ([refusal], [refusal], [refusal], [], [refusal]):
            world.suffer(*faults)
            world.calls.calls.clear()
            warnings = world.backend.observe().warnings
            counts.append(world.calls.calls["list pods"] - 1)
            assert any("namespace other" in line for line in warnings) == bool(faults)
    assert counts == [HASTY.attempts, 1, 1, 1, HASTY.attempts]


def test_a_namespace_that_hangs_costs_cycles_a_moment_and_stops_no_other() -> None:
    """It took the time of a whole try from each cycle, for hours."""
    spaces = ("infer", "other")
    bodies = [manifest(server=f"s-{space}", namespace=space) for space in spaces]
    settings = KubeSettings(namespaces=spaces, autoscalers=True)
    timeouts = Timeouts(connect_s=4.0, read_s=4.0, attempts=1)
    hangs = Fault(kind="delay", match=Match(namespaces=("other",)), delay_s=6.0)
    with kube_world(*bodies, settings=settings, namespaces=spaces, timeouts=timeouts) as world:
        world.settled()
        world.suffer(hangs)
        world.backend.observe()
        for _ in range(3):
            begin_s = time.monotonic()
            seen = world.backend.observe()
            assert time.monotonic() - begin_s < timeouts.read_s
            assert seen.servers["s-infer"].hold is None
            assert seen.servers["s-other"].hold is not None
        world.suffer()
        eventually(
            lambda: world.backend.observe().servers["s-other"].hold is None, "it answers again"
        )


def lines_of_forgetting(seen: Snapshot) -> list[str]:
    """Return what is told of forgotten servers."""
    return [line for line in seen.warnings if "are forgotten" in line]


def test_the_servers_of_a_namespace_that_is_gone_are_forgotten() -> None:
    """They were held for ever, and kept GPUs from others."""
    spaces = ("infer", "other")
    bodies = [manifest(server=f"s-{space}", namespace=space) for space in spaces]
    settings = KubeSettings(namespaces=spaces, from_nodes=True)
    not_found = Match(verbs=("list",), resources=("deployments", "pods"), namespaces=("other",))
    with kube_world(*bodies, settings=settings, namespaces=spaces, timeouts=HASTY) as world:
        world.settled()
        world.suffer(Fault(kind="error", match=not_found, status=404))
        # Lists alone are a fault of somebody on the way, as long as the namespace is there.
        before = [world.backend.observe() for _ in range(2)]
        world.core.delete_namespace("other")
        looks: list[Snapshot] = []

        def is_told() -> bool:
            looks.append(world.backend.observe())
            return bool(lines_of_forgetting(looks[-1]))

        eventually(is_told, "the namespace has gone")
        told, after = looks[-1], world.backend.observe()
    for seen in before:
        assert "s-other" in seen.servers
        assert not lines_of_forgetting(seen)
    (line,) = lines_of_forgetting(told)
    assert line == "namespace other: it is gone: its servers are forgotten"
    assert list(after.servers) == ["s-infer"]
    assert not lines_of_forgetting(after)
    assert after.capacity_max == {}


def test_servers_that_nobody_has_been_let_see_for_an_hour_are_forgotten() -> None:
    """With a namespace its roles are deleted, and a refusal is all that is ever heard again."""
    spaces = ("infer", "other")
    bodies = [manifest(server=f"s-{space}", namespace=space) for space in spaces]
    settings = KubeSettings(namespaces=spaces)
    refused = Match(verbs=("list",), resources=("deployments", "pods"), namespaces=("other",))
    clock = ManualClock()
    with kube_world(
        *bodies, settings=settings, namespaces=spaces, timeouts=HASTY, clock=clock
    ) as world:
        world.settled()
        seen = {}
        # No more than a quarter of an hour apart: of longer pauses nobody knows.
        for now_s in (60.0, 900.0, 1800.0, 2700.0, 3600.0, 3700.0, 3760.0):
            world.suffer(Fault(kind="error", match=refused, status=403))
            clock.time_s = now_s
            seen[now_s] = world.backend.observe()
        world.suffer()
        back = world.backend.observe()
    assert "s-other" in seen[3600.0].servers
    (line,) = lines_of_forgetting(seen[3700.0])
    assert line == (
        "namespace other: nobody has been let see it for 61 min: its servers are forgotten"
    )
    assert list(seen[3760.0].servers) == ["s-infer"]
    assert back.servers["s-other"].hold is None


def test_where_no_namespace_can_be_listed_the_cycle_fails() -> None:
    """Then nothing is known of the cluster, and readiness must tell."""
    settings = KubeSettings(namespaces=("infer", "other"))
    spaces = ("infer", "other")
    with kube_world(manifest(), settings=settings, namespaces=spaces, timeouts=HASTY) as world:
        world.settled()
        world.suffer(fault("error", "list", status=403))
        with pytest.raises(BackendError, match="list deployments: 403"):
            world.backend.observe()
