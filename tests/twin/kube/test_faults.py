"""Faults of the world behind the API: lost nodes, stuck pods, stale statuses; and how they are
asked for.
"""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import Any

import pytest

from tests.twin.kube.clients import Client, managed
from twin.kube.apiserver.errors import ApiError
from twin.kube.faults import Fault, Match, described, parse_faults, read_faults
from twin.spec import SpecError


def node_is_ready(client: Client, name: str) -> bool:
    """Tell whether a node says that it is ready."""
    node = client.ask("GET", f"/api/v1/nodes/{name}")
    return {each["type"]: each["status"] for each in node["status"]["conditions"]}[
        "Ready"
    ] == "True"


def test_a_lost_node_takes_its_pods_and_its_gpus_until_it_is_back() -> None:
    """Replacements go elsewhere, as far as there is room."""
    lost = Fault(kind="lostNode", match=Match(names=("a-1",)), from_s=100.0, until_s=300.0)
    client = Client(faults=[lost])
    client.apply(managed(replicas=10))
    client.until(99.0)
    assert {pod["spec"]["nodeName"] for pod in client.pods()} == {"a-1", "a-2"}
    client.until(101.0)
    assert not node_is_ready(client, "a-1")
    assert {pod["spec"].get("nodeName") for pod in client.pods()} == {"a-2", None}
    assert len(client.pods()) == 10
    client.until(200.0)
    assert client.deployment()["status"]["readyReplicas"] == 4
    client.until(400.0)
    assert node_is_ready(client, "a-1")
    assert client.deployment()["status"]["readyReplicas"] == 10


def test_a_deleted_node_is_lost_for_ever() -> None:
    """`kubectl delete node` is how people try it."""
    client = Client()
    client.apply(managed(replicas=10))
    client.until(61.0)
    client.ask("DELETE", "/api/v1/nodes/a-1")
    client.until(200.0)
    assert client.refusal("GET", "/api/v1/nodes/a-1") == (404, "NotFound")
    assert (client.deployment()["status"]["readyReplicas"], client.gpus()) == (4, 4)


def test_nodes_tell_their_gpus_under_the_names_that_device_plugins_use() -> None:
    """Capacity is read from them."""
    client = Client()
    nodes = {each["metadata"]["name"]: each for each in client.ask("GET", "/api/v1/nodes")["items"]}
    gpus = {
        name: node["status"]["allocatable"].get("nvidia.com/gpu") for name, node in nodes.items()
    }
    assert gpus == {"a-1": "8", "a-2": "4", "b-1": "4", "cpu-1": None}
    assert nodes["b-1"]["metadata"]["labels"]["nvidia.com/gpu.product"] == "B"


def test_a_stuck_pod_gets_ready_only_after_the_fault() -> None:
    """It holds its GPUs meanwhile, and others that start are not held up."""
    stuck = Fault(kind="stuckPods", match=Match(names=("slow-*",)), until_s=200.0)
    client = Client(faults=[stuck])
    client.apply(managed("slow"))
    client.apply(managed("quick"))
    client.until(150.0)
    assert (client.words(), client.gpus()) == (["Running 0/1", "Running 1/1"], 2)
    client.until(259.0)
    assert client.words() == ["Running 0/1", "Running 1/1"]
    client.until(262.0)
    assert client.words() == ["Running 1/1", "Running 1/1"]


def test_a_stuck_pod_can_be_deleted() -> None:
    """And its successor is stuck as well, while it lasts."""
    client = Client(faults=[Fault(kind="stuckPods", until_s=100.0)])
    client.apply(managed())
    client.until(50.0)
    (pod,) = client.pods()
    client.ask("DELETE", f"/api/v1/namespaces/infer/pods/{pod['metadata']['name']}")
    client.until(120.0)
    assert client.words() == ["Running 0/1"]
    client.until(165.0)
    assert client.words() == ["Running 1/1"]


def test_a_stale_status_does_not_say_that_it_is_one() -> None:
    """observedGeneration stays behind: that is all there is to notice it by."""
    client = Client(faults=[Fault(kind="staleStatus", from_s=70.0, until_s=200.0)])
    client.apply(managed())
    client.until(65.0)
    client.until(71.0)
    client.patch("dep", {"spec": {"replicas": 3}})
    client.until(190.0)
    found = client.deployment()
    assert (found["metadata"]["generation"], found["status"]["observedGeneration"]) == (2, 1)
    assert found["status"]["readyReplicas"] == 1
    assert client.words() == ["Running 1/1"] * 3
    client.until(201.0)
    assert client.deployment()["status"]["readyReplicas"] == 3


def test_a_faults_file_says_who_suffers_what_and_when(tmp_path: Path) -> None:
    """YAML or JSON; what is not said is all, always, as often as it comes."""
    path = tmp_path / "faults.yaml"
    path.write_text(
        """
faults:
  - kind: error
    status: 429
    retryAfterS: 2
    verbs: [patch]
    resources: deployments
    namespaces: [infer]
    count: 3
  - {kind: delay, delayS: 1.5, paths: ["/apis/*"], fromS: 10, untilS: 20, skip: 2}
  - {kind: drop, after: true}
""",
        encoding="utf-8",
    )
    error, delay, drop = read_faults(path)
    match = Match(verbs=("patch",), resources=("deployments",), namespaces=("infer",))
    assert error == Fault(kind="error", match=match, status=429, retry_after_s=2, count=3)
    assert delay == Fault(
        kind="delay", match=Match(paths=("/apis/*",)), delay_s=1.5, from_s=10, until_s=20, skip=2
    )
    assert drop == Fault(kind="drop", after=True, until_s=inf)
    path.write_text(
        json.dumps({"faults": [described(each) for each in (delay, drop)]}), encoding="utf-8"
    )
    assert [each.kind for each in read_faults(path)] == ["delay", "drop"]


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({"faults": [{}]}, "faults: faults[0]: kind: expected one of delay, error, drop"),
        (
            {"faults": [{"kind": "plague"}]},
            "faults: faults[0] 'plague': kind: expected one of delay",
        ),
        ({"faults": [{"kind": "error", "status": 200}]}, "status: expected a whole number >= 400"),
        ({"faults": [{"kind": "error", "verb": "get"}]}, "unknown key 'verb'"),
        ([], "expected an object"),
    ],
)
def test_a_faults_file_that_makes_no_sense_is_refused(value: Any, line: str) -> None:
    """A misspelt condition would make a fault strike everywhere."""
    with pytest.raises(SpecError) as error:
        parse_faults(value, source="faults")
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_faults_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """It ends the program at its start."""
    with pytest.raises(SpecError, match=r"/none\.yaml: expected YAML or JSON"):
        read_faults(tmp_path / "none.yaml")


def test_a_fault_spares_some_requests_and_strikes_as_many_as_it_says() -> None:
    """So that a test can break the third patch, and only that."""
    fault = Fault(kind="error", skip=2, count=1)
    assert [fault.strikes() for _ in range(5)] == [False, False, True, False, False]
    assert (fault.matched, fault.suffered) == (5, 1)


def test_faults_are_shown_and_replaced_while_the_twin_runs() -> None:
    """A request for nonsense leaves those in force alone."""
    client = Client(faults=[Fault(kind="drop")])
    assert [each["kind"] for each in client.twin.control("GET", "/twin/faults", b"")["faults"]] == [
        "drop"
    ]
    client.twin.control("PUT", "/twin/faults", b"faults: [{kind: delay, delayS: 1}]")
    with pytest.raises(ApiError) as error:
        client.twin.control("PUT", "/twin/faults", b"faults: [{kind: plague}]")
    assert error.value.code == 400
    assert [each.kind for each in client.twin.faults.all] == ["delay"]
    assert client.twin.control("PUT", "/twin/faults", b"")["faults"] == []
    with pytest.raises(ApiError) as error:
        client.twin.control("POST", "/twin/earthquake", b"")
    assert error.value.code == 404


def test_history_is_forgotten_on_request() -> None:
    """Then every watch from before has to list again."""
    client = Client()
    version = client.ask("GET", "/api/v1/namespaces/infer/pods")["metadata"]["resourceVersion"]
    client.apply(managed())
    client.until(1.0)
    client.twin.control("POST", "/twin/compact", b"")
    query = {"resourceVersion": version, "resourceVersionMatch": "Exact"}
    assert client.refusal("GET", "/api/v1/namespaces/infer/pods", **query) == (410, "Expired")
