"""Deployments and their pods, as the API shows them: how pods come up, move, hold GPUs and go."""

from __future__ import annotations

from typing import Any

import pytest

from tests.twin.kube.clients import SPEC, Client, managed
from twin.spec import Delay, Server, World
from twin.testing.worlds import spec_of

ACCELERATOR = "inferno.server.allocation.accelerator"


def conditions(obj: dict[str, Any]) -> dict[str, str]:
    """Return the conditions of an object."""
    return {each["type"]: each["status"] for each in obj["status"]["conditions"]}


def test_pods_are_created_run_and_get_ready_after_the_start_up() -> None:
    """A loop that counts starting pods as serving, or not at all, fails only if they take time."""
    client = Client()
    client.apply(managed(replicas=2))
    client.until(1.0)
    assert client.words() == ["ContainerCreating 0/1"] * 2
    client.until(10.0)
    assert client.words() == ["Running 0/1"] * 2
    assert [pod["status"]["phase"] for pod in client.pods()] == ["Running"] * 2
    client.until(59.0)
    assert client.words() == ["Running 0/1"] * 2
    client.until(61.0)
    assert client.words() == ["Running 1/1"] * 2


def test_a_pod_tells_when_it_came_to_its_phases() -> None:
    """The loop reads from it for how long a pod has been starting, and how long it has served."""
    client = Client()
    client.until(5.0)
    client.apply(managed())
    client.until(100.0)
    (pod,) = client.pods()
    told = {each["type"]: each["lastTransitionTime"] for each in pod["status"]["conditions"]}
    assert (told["PodScheduled"], told["Ready"]) == ("2026-01-01T00:00:05Z", "2026-01-01T00:01:05Z")
    assert pod["metadata"]["creationTimestamp"] == "2026-01-01T00:00:05Z"


def test_dates_are_those_of_the_machine_also_where_time_is_fast() -> None:
    """Clients compare them with their own clocks."""
    client = Client(speed=10.0)
    client.until(100.0)
    assert client.apply(managed())["metadata"]["creationTimestamp"] == "2026-01-01T00:00:10Z"


@pytest.mark.parametrize("length", [46, 47, 48, 63])
def test_the_names_of_pods_are_cut_as_kubernetes_cuts_them(length: int) -> None:
    """58 characters of their ReplicaSet's name and 5 of their own: an owner cannot be read off."""
    name = "d" * length
    client = Client()
    client.apply(managed(name, replicas=3))
    client.until(1.0)
    (owner,) = (each["metadata"]["name"] for each in client.replica_sets())
    found = [pod["metadata"]["name"] for pod in client.pods()]
    assert len(set(found)) == 3
    assert {each[:-5] for each in found} == {f"{owner}-"[:58]}
    assert {pod["metadata"]["generateName"] for pod in client.pods()} == {f"{owner}-"}


def test_the_status_of_a_deployment_follows_its_pods() -> None:
    """READY, UP-TO-DATE and AVAILABLE; what is zero is left out."""
    client = Client()
    made = client.apply(managed(replicas=2))
    assert "status" not in made
    client.until(1.0)
    status = client.deployment()["status"]
    counts = {key: value for key, value in status.items() if key.endswith("eplicas")}
    assert counts == {"replicas": 2, "updatedReplicas": 2, "unavailableReplicas": 2}
    assert conditions(client.deployment()) == {"Available": "False", "Progressing": "True"}
    client.until(61.0)
    status = client.deployment()["status"]
    counts = {key: value for key, value in status.items() if key.endswith("eplicas")}
    assert counts == {
        "replicas": 2,
        "updatedReplicas": 2,
        "readyReplicas": 2,
        "availableReplicas": 2,
    }
    assert (status["observedGeneration"], conditions(client.deployment())["Available"]) == (
        1,
        "True",
    )


def test_the_status_lags_behind_a_patch_until_the_twin_has_seen_it() -> None:
    """As on a real cluster, where that takes a tenth of a second."""
    client = Client()
    client.apply(managed())
    client.until(1.0)
    patched = client.patch("dep", {"spec": {"replicas": 3}})
    assert (patched["metadata"]["generation"], patched["status"]["observedGeneration"]) == (2, 1)
    client.until(1.1)
    assert client.deployment()["status"]["observedGeneration"] == 2


def test_pods_are_brought_back_to_their_deployment_by_their_replica_set() -> None:
    """Names and owners are as a real controller makes them."""
    client = Client()
    client.apply(managed())
    client.until(1.0)
    ((replica_set,), (pod,)) = client.replica_sets(), client.pods()
    mark = replica_set["metadata"]["labels"]["pod-template-hash"]
    assert replica_set["metadata"]["name"] == f"dep-{mark}"
    assert pod["metadata"]["name"].startswith(f"dep-{mark}-")
    assert pod["metadata"]["labels"] == {"app": "dep", "pod-template-hash": mark}
    assert pod["metadata"]["ownerReferences"][0]["name"] == f"dep-{mark}"
    assert "inferno.server.model" not in pod["metadata"]["labels"]


def test_pods_hold_the_gpus_of_their_accelerator_on_nodes() -> None:
    """A unit of two GPUs takes two, and nobody gets what is not there."""
    client = Client()
    client.apply(managed(replicas=7, labels={ACCELERATOR: "2xA"}))
    client.until(1.0)
    words = client.words()
    assert (words.count("ContainerCreating 0/1"), words.count("Pending 0/1")) == (6, 1)
    assert client.gpus() == 12
    per_node: dict[str, int] = {}
    for pod in client.pods():
        node = pod["spec"].get("nodeName", "none")
        per_node[node] = per_node.get(node, 0) + 2
    assert per_node == {"a-1": 8, "a-2": 4, "none": 2}


def test_a_pod_without_gpus_is_unschedulable_and_says_why() -> None:
    """The patch succeeds, the pod stays pending: so does a real cluster."""
    client = Client()
    client.apply(managed(replicas=5, labels={ACCELERATOR: "B"}))
    client.until(100.0)
    (pending,) = [pod for pod in client.pods() if "nodeName" not in pod["spec"]]
    (condition,) = pending["status"]["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == (
        "PodScheduled",
        "False",
        "Unschedulable",
    )
    assert "not enough free GPUs of B" in condition["message"]
    assert client.deployment()["status"]["readyReplicas"] == 4
    assert ("Pod", "FailedScheduling", "Warning") in client.events()


def test_a_scale_down_drops_the_count_at_once_while_pods_still_drain_on_their_gpus() -> None:
    """status.replicas says nothing about GPUs: a client that needs those has to look at pods."""
    latency_model_slow = spec_of(
        Server(name="t", model="m"), capacity={"A": 4}, start_up=Delay(mean_s=1.0)
    )
    client = Client(latency_model_slow)
    load = {"inferno.server.load.rpm": "600", "inferno.server.load.outtokens": "3000"}
    client.apply(managed(replicas=2, labels=load))
    client.until(20.0)
    client.patch(
        "dep", {"spec": {"replicas": 1}, "metadata": {"labels": {"inferno.server.load.rpm": "0"}}}
    )
    client.until(20.1)
    assert (client.deployment()["status"]["replicas"], client.gpus()) == (1, 2)
    assert client.words() == ["Running 1/1", "Terminating 1/1"]
    (going,) = [pod for pod in client.pods() if "deletionTimestamp" in pod["metadata"]]
    assert going["metadata"]["deletionGracePeriodSeconds"] == 30
    assert going["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:50Z"
    client.until(400.0)
    assert (client.words(), client.gpus()) == (["Running 1/1"], 1)


def test_another_accelerator_is_a_rolling_change_with_another_replica_set() -> None:
    """New pods come first, each that gets ready takes the place of an old one."""
    client = Client()
    client.apply(managed(replicas=2))
    client.until(61.0)
    client.patch("dep", {"metadata": {"labels": {ACCELERATOR: "B"}}})
    client.until(70.0)
    assert client.words() == ["Running 0/1"] * 2 + ["Running 1/1"] * 2
    assert {each["spec"]["replicas"] for each in client.replica_sets()} == {2}
    assert client.deployment()["status"]["updatedReplicas"] == 2
    client.until(130.0)
    assert {pod["spec"]["nodeName"] for pod in client.pods()} == {"b-1"}
    assert sorted(each["spec"]["replicas"] for each in client.replica_sets()) == [0, 2]
    assert [
        pod["metadata"]["annotations"]["inferno.twin/accelerator"] for pod in client.pods()
    ] == [
        "B",
        "B",
    ]


def test_another_template_is_a_rolling_change_too() -> None:
    """`kubectl rollout restart` and `set image` must do what they do elsewhere."""
    client = Client()
    client.apply(managed())
    client.until(61.0)
    (before,) = client.pods()
    containers = [{"name": "vllm", "image": "vllm:2"}]
    client.patch("dep", {"spec": {"template": {"spec": {"containers": containers}}}})
    client.until(70.0)
    assert client.words() == ["Running 0/1", "Running 1/1"]
    client.until(130.0)
    (after,) = client.pods()
    assert (before["spec"]["containers"][0]["image"], after["spec"]["containers"][0]["image"]) == (
        "vllm:1",
        "vllm:2",
    )
    annotations = client.deployment()["metadata"]["annotations"]
    assert annotations["deployment.kubernetes.io/revision"] == "2"
    assert client.deployment()["metadata"]["generation"] == 2


def test_a_deleted_pod_is_replaced() -> None:
    """The one that goes and the one that comes are both seen."""
    client = Client()
    client.apply(managed())
    client.until(61.0)
    (pod,) = client.pods()
    client.ask("DELETE", f"/api/v1/namespaces/infer/pods/{pod['metadata']['name']}")
    client.until(61.5)
    (other,) = client.pods()
    assert other["metadata"]["name"] != pod["metadata"]["name"]
    assert client.words() == ["ContainerCreating 0/1"]


@pytest.mark.parametrize("kind", ["merge-patch+json", "strategic-merge-patch+json"])
def test_a_pod_of_a_deployment_can_be_labelled_and_annotated(kind: str) -> None:
    """kubectl label and pod-deletion-cost patch pods; the labels stay through all later phases."""
    client = Client()
    client.apply(managed(template={"volumes": [{"name": "v", "configMap": {"name": "c"}}]}))
    client.until(1.0)
    path = f"/api/v1/namespaces/infer/pods/{client.pods()[0]['metadata']['name']}"
    cost = {"controller.kubernetes.io/pod-deletion-cost": "7"}
    patch = {"metadata": {"labels": {"tier": "gold"}, "annotations": cost}}
    answer = client.ask("PATCH", path, patch, media_type=f"application/{kind}")
    assert answer["metadata"]["labels"] == {
        **client.replica_sets()[0]["spec"]["selector"]["matchLabels"],
        "tier": "gold",
    }
    client.until(100.0)
    assert client.words() == ["Running 1/1"]
    (pod,) = client.pods(labelSelector="tier=gold")
    assert cost.items() <= pod["metadata"]["annotations"].items()


def test_the_spec_of_a_pod_of_a_deployment_stays_fixed() -> None:
    """What is free to change is its image, deadlines and tolerations, as on a real server."""
    client = Client()
    client.apply(managed())
    client.until(1.0)
    path = f"/api/v1/namespaces/infer/pods/{client.pods()[0]['metadata']['name']}"
    patch = {"spec": {"containers": [{"name": "vllm", "workingDir": "/elsewhere"}]}}
    kind = "application/strategic-merge-patch+json"
    assert client.refusal("PATCH", path, patch, media_type=kind) == (422, "Invalid")
    patch = {"spec": {"containers": [{"name": "vllm", "image": "vllm:2"}]}}
    assert client.ask("PATCH", path, patch, media_type=kind)["spec"]["containers"][0]["image"]


@pytest.mark.parametrize("grace", [{}, {"gracePeriodSeconds": "0"}])
def test_a_pod_that_serves_drains_unless_it_is_forced(grace: dict[str, str]) -> None:
    """Force loses what runs; without it the pod stays until that is done."""
    client = Client(
        spec_of(Server(name="t", model="m"), capacity={"A": 4}, start_up=Delay(mean_s=1.0))
    )
    client.apply(
        managed(labels={"inferno.server.load.rpm": "600", "inferno.server.load.outtokens": "3000"})
    )
    client.until(20.0)
    (pod,) = client.pods()
    client.ask("DELETE", f"/api/v1/namespaces/infer/pods/{pod['metadata']['name']}", **grace)
    client.until(20.2)
    assert client.words() == ["ContainerCreating 0/1", *([] if grace else ["Terminating 1/1"])]


def test_a_deleted_deployment_takes_everything_with_it_and_frees_its_gpus() -> None:
    """And its name may be used again at once."""
    client = Client()
    client.apply(managed(replicas=3))
    client.until(61.0)
    first = client.deployment()["metadata"]["uid"]
    client.ask("DELETE", "/apis/apps/v1/namespaces/infer/deployments/dep")
    client.apply(managed(replicas=1))
    client.until(62.0)
    assert client.deployment()["metadata"]["uid"] != first
    assert (len(client.pods()), len(client.replica_sets()), client.gpus()) == (1, 1, 1)
    client.until(130.0)
    assert client.words() == ["Running 1/1"]


def test_what_the_twin_has_no_data_for_stays_pending_and_says_so() -> None:
    """A misspelt model must not look like a lack of GPUs, and must not stop the others."""
    client = Client()
    client.apply(managed("good"))
    client.apply(managed("bad", labels={"inferno.server.model": "gpt-9"}))
    client.apply(managed("lost", labels={ACCELERATOR: None}))
    client.until(61.0)
    assert client.words() == ["Pending 0/1", "Pending 0/1", "Running 1/1"]
    messages = {
        pod["metadata"]["labels"]["app"]: pod["status"]["conditions"][0].get("message", "")
        for pod in client.pods()
    }
    assert "no data for model 'gpt-9'" in messages["bad"]
    assert f"no label {ACCELERATOR}" in messages["lost"]
    assert ("Deployment", "Unsimulated", "Warning") in client.events()


def test_an_impossible_desired_state_leaves_the_serving_pods_alone() -> None:
    """A typing error in a label must not take down a server."""
    client = Client()
    client.apply(managed())
    client.until(61.0)
    client.patch("dep", {"metadata": {"labels": {ACCELERATOR: "Z"}}})
    client.until(130.0)
    assert client.words() == ["Running 1/1"]
    client.patch("dep", {"metadata": {"labels": {ACCELERATOR: "B"}}})
    client.until(200.0)
    assert [pod["spec"]["nodeName"] for pod in client.pods()] == ["b-1"]


def test_another_model_is_another_server() -> None:
    """Its old pods end, its new ones start."""
    spec = spec_of(Server(name="t", model="m"), Server(name="u", model="n"), capacity={"A": 4})
    client = Client(spec)
    client.apply(managed())
    client.until(61.0)
    client.patch("dep", {"metadata": {"labels": {"inferno.server.model": "n"}}})
    client.until(62.0)
    assert client.words() == ["ContainerCreating 0/1"]


def test_a_node_selector_that_no_node_has_keeps_pods_pending() -> None:
    """That is how a loop binds pods to an accelerator, and how it may get it wrong."""
    client = Client()
    client.apply(managed("good", template={"nodeSelector": {"nvidia.com/gpu.product": "A"}}))
    client.apply(managed("bad", template={"nodeSelector": {"nvidia.com/gpu.product": "B"}}))
    client.until(61.0)
    assert client.words() == ["Pending 0/1", "Running 1/1"]


def test_unmanaged_deployments_get_pods_that_only_are_there() -> None:
    """The loop's own Deployment runs beside those that it manages, on no GPU at all."""
    client = Client()
    client.apply(managed(replicas=2, labels={"inferno.server.managed": None}))
    client.until(3.0)
    assert (client.words(), client.gpus()) == (["Running 1/1"] * 2, 0)
    assert {pod["spec"]["nodeName"] for pod in client.pods()} == {"cpu-1"}
    containers = [{"name": "vllm", "image": "vllm:2"}]
    client.patch("dep", {"spec": {"template": {"spec": {"containers": containers}}}})
    client.until(8.0)
    assert [pod["spec"]["containers"][0]["image"] for pod in client.pods()] == ["vllm:2"] * 2
    client.patch("dep", {"spec": {"replicas": 0}})
    client.until(10.0)
    assert client.pods() == []


def test_a_deployment_that_becomes_managed_is_simulated_from_then_on() -> None:
    """A label makes the difference, and it may come later."""
    client = Client()
    client.apply(managed(labels={"inferno.server.managed": "false"}))
    client.until(3.0)
    client.patch("dep", {"metadata": {"labels": {"inferno.server.managed": "true"}}})
    client.until(5.0)
    assert (client.words(), client.gpus()) == (["ContainerCreating 0/1"], 1)


def test_a_pod_made_by_hand_runs_and_goes() -> None:
    """The load emulator is one."""
    client = Client()
    body = {
        "metadata": {"name": "load-emulator"},
        "spec": {"containers": [{"name": "main", "image": "i:1"}]},
    }
    client.ask("POST", "/api/v1/namespaces/infer/pods", body)
    client.until(2.0)
    assert client.words() == ["Running 1/1"]
    client.ask("DELETE", "/api/v1/namespaces/infer/pods/load-emulator")
    client.until(2.5)
    assert client.words() == ["Terminating 1/1"]
    client.until(4.0)
    assert client.pods() == []


def test_a_deleted_namespace_is_terminating_until_its_pods_have_ended() -> None:
    """Nothing new may be created in it meanwhile."""
    client = Client(
        spec_of(Server(name="t", model="m"), capacity={"A": 4}, start_up=Delay(mean_s=1.0))
    )
    client.apply(
        managed(labels={"inferno.server.load.rpm": "600", "inferno.server.load.outtokens": "300"})
    )
    client.until(20.0)
    client.ask("DELETE", "/api/v1/namespaces/infer")
    client.until(20.2)
    assert client.ask("GET", "/api/v1/namespaces/infer")["status"]["phase"] == "Terminating"
    assert client.refusal(
        "POST", "/apis/apps/v1/namespaces/infer/deployments", managed("late")
    ) == (
        403,
        "Forbidden",
    )
    assert client.words() == ["Terminating 1/1"]
    client.until(60.0)
    assert client.refusal("GET", "/api/v1/namespaces/infer") == (404, "NotFound")


def test_a_world_that_acts_late_shows_its_old_pods_meanwhile() -> None:
    """The actuation delay of the world holds here too."""
    client = Client(
        spec_of(
            Server(name="t", model="m"),
            capacity={"A": 4},
            world=World(actuation_delay=Delay(mean_s=5.0)),
        )
    )
    client.apply(managed())
    client.until(4.0)
    assert client.pods() == []
    client.until(6.0)
    assert len(client.pods()) == 1


def test_a_pod_that_crashes_says_so_and_starts_again() -> None:
    """RESTARTS is where people look."""
    servers = [Server(name="dep", model="m", crash_rate_per_h=100.0)]
    client = Client(spec_of(*servers, capacity=SPEC.capacity, start_up=Delay(mean_s=5.0)))
    client.apply(managed(replicas=4))
    client.until(120.0)
    statuses = [pod["status"]["containerStatuses"][0] for pod in client.pods()]
    crashed = [status for status in statuses if status["restartCount"]]
    assert crashed
    assert all(status["lastState"]["terminated"]["exitCode"] == 137 for status in crashed)
    assert len(client.pods()) == 4


def test_old_replica_sets_are_deleted_beyond_the_history_that_is_asked_for() -> None:
    """Each move to another accelerator leaves one: a cluster that runs for weeks would drown."""
    client = Client()
    client.apply(managed() | {"spec": managed()["spec"] | {"revisionHistoryLimit": 2}})
    for number in range(6):
        client.until(200.0 * (number + 1))
        template = {"metadata": {"annotations": {"number": str(number)}}}
        client.patch("dep", {"spec": {"template": template}})
    client.until(1500.0)
    sets = client.replica_sets()
    assert len(sets) == 3
    assert [one["spec"]["replicas"] for one in sets].count(1) == 1
