"""The verbs that build up a system: what they keep, and each place where ours differ from the
existing service's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.go_today import GO_TODAY
from loop.optimizer.rules.ours import OURS
from loop.services.optimizer_app import make_optimizer_app
from tests.live.optimizer_bodies import SYSTEM, body, fill, server
from tests.live.optimizer_served import serving

NOTHING = {
    "accelerator": "",
    "numReplicas": 0,
    "maxBatch": 0,
    "cost": 0,
    "itlAverage": 0,
    "ttftAverage": 0,
    "load": {"arrivalRate": 0, "throughput": 0, "avgInTokens": 0, "avgOutTokens": 0},
}


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """Return a client of a service that keeps the system of optimizer_bodies, with one server."""
    with serving(
        make_optimizer_app(settings=OptimizerSettings(rules=OURS), stateful=True)
    ) as found:
        fill(found)
        yield found


@pytest.fixture
def compat() -> Iterator[httpx.Client]:
    """Return a client of such a service that answers as the existing one."""
    settings = OptimizerSettings(solver="greedy", rules=GO_TODAY)
    with serving(make_optimizer_app(settings=settings, stateful=True)) as found:
        fill(found)
        yield found


def got(client: httpx.Client, path: str) -> Any:
    """Return what a GET answers, which must be a success."""
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_setting_replaces_by_name_and_deletes_nothing(client: httpx.Client) -> None:
    """A client may send what changed, and nothing else is lost."""
    client.post("/setCapacities", json={"count": [{"type": "G2", "count": 5}]})
    client.post(
        "/setAccelerators", json={"accelerators": [{"name": "G2", "type": "G2", "cost": 99}]}
    )
    client.post("/setServers", json={"servers": [server("s2")]})
    client.post("/setModels", json={"models": []})
    row = {
        "name": "m",
        "acc": "G2",
        "accCount": 2,
        "maxBatchSize": 8,
        "atTokens": 64,
        "perfParms": {"alpha": 1, "beta": 2},
    }
    client.post("/setModels", json={"models": [row]})
    target = {"model": "other", "slo-itl": 50}
    client.post(
        "/setServiceClasses",
        json={"serviceClasses": [{"name": "Premium", "priority": 4, "modelTargets": [target]}]},
    )
    assert got(client, "/getCapacities")["count"] == [
        {"type": "A100", "count": 64},
        {"type": "G2", "count": 5},
    ]
    assert {each["name"]: each["cost"] for each in got(client, "/getAccelerators")} == {
        "A100": 40,
        "2xA100": 80,
        "G2": 99,
    }
    assert [each["name"] for each in got(client, "/getServers")["servers"]] == ["s1", "s2"]
    assert {each["acc"]: each["maxBatchSize"] for each in got(client, "/getModel/m")["models"]} == {
        "A100": 64,
        "2xA100": 64,
        "G2": 8,
    }
    premium = got(client, "/getServiceClass/Premium")
    assert premium["priority"] == 4
    assert [each["model"] for each in premium["modelTargets"]] == ["m", "other"]
    assert [each["name"] for each in got(client, "/getServiceClasses")["serviceClasses"]] == [
        "Premium",
        "Free",
    ]


def test_what_is_removed_is_answered_and_gone(client: httpx.Client) -> None:
    """The answer is the last chance to see it."""
    removed = {
        "/removeAccelerator/G2": ("name", "/getAccelerator/G2"),
        "/removeCapacity/G2": ("type", "/getCapacity/G2"),
        "/removeModelAcceleratorPerf/m/G2": ("acc", "/getModelAcceleratorPerf/m/G2"),
        "/removeServiceClassModelTarget/Free/m": ("model", "/getServiceClassModelTarget/Free/m"),
        "/removeServiceClass/Free": ("name", "/getServiceClass/Free"),
        "/removeServer/s1": ("name", "/getServer/s1"),
    }
    for path, (key, shown) in removed.items():
        before = got(client, shown)
        assert got(client, path) == before
        assert before[key] in path
        assert client.get(shown).status_code == 404
        assert client.get(path).status_code == 404
    assert got(client, "/removeModel/m") == "m"
    assert client.get("/getModel/m").status_code == 404


def test_optimising_and_applying_makes_the_answer_the_present_state(client: httpx.Client) -> None:
    """Then the next optimisation weighs changes from there: with nothing changed it answers the
    same at no penalty.
    """
    answer = client.post("/optimize", json={}).json()
    wanted = answer["allocations"]["s1"]
    shown = got(client, "/getServer/s1")
    assert shown["desiredAlloc"] == {key: wanted[key] for key in NOTHING}
    assert shown["currentAlloc"] == {**NOTHING, "load": wanted["load"]}
    assert got(client, "/applyAllocation") == "Done"
    assert got(client, "/getServer/s1")["currentAlloc"] == shown["desiredAlloc"]
    again = client.post("/optimize", json={}).json()["allocations"]["s1"]
    assert (again["accelerator"], again["numReplicas"]) == (
        wanted["accelerator"],
        wanted["numReplicas"],
    )
    assert again["value"] == 0


def test_flags_in_a_wrapper_count(client: httpx.Client, compat: httpx.Client) -> None:
    """The existing service documents the wrapper and ignores it: capacity is then limited, whatever
    was asked.
    """
    asked = {"optimizer": {"unlimited": True}}
    for each, wanted in ((client, 200), (compat, 404)):
        each.post(
            "/setCapacities",
            json={"count": [{"type": "A100", "count": 0}, {"type": "G2", "count": 0}]},
        )
        assert each.post("/optimize", json={"unlimited": True}).status_code == 200
        assert each.post("/optimize", json=asked).status_code == wanted
    assert client.post("/optimize", json=asked).json()["unallocated"] == {}
    assert client.post("/optimize", json={}).json()["unallocated"].keys() == {"s1"}


def test_adding_what_is_there_keeps_its_parts(client: httpx.Client, compat: httpx.Client) -> None:
    """In the existing service a second addModel or addServiceClass wipes the rows or the
    targets.
    """
    for each, rows, targets in ((client, 3, 1), (compat, 0, 0)):
        assert got(each, "/addModel/m") == "m"
        assert len(got(each, "/getModel/m")["models"]) == rows
        added = got(each, "/addServiceClass/Free/5")
        assert (added["priority"], len(added["modelTargets"])) == (5, targets)


def test_a_priority_out_of_range_is_the_lowest(client: httpx.Client, compat: httpx.Client) -> None:
    """And targets for it are found again: the existing service compares the number that was
    sent.
    """
    target = [{"model": "m", "slo-itl": 70}]
    for each, wanted in ((client, 200), (compat, 400)):
        assert got(each, "/addServiceClass/Gold/500")["priority"] == 100
        answer = each.post(
            "/addServiceClassModelTargets",
            json={"name": "Gold", "priority": 500, "modelTargets": target},
        )
        assert answer.status_code == wanted
    assert got(client, "/getServiceClassModelTarget/Gold/m")["slo-itl"] == 70
    unsaid = client.post("/addServiceClassModelTargets", json={"name": "Gold", "modelTargets": []})
    assert (unsaid.status_code, unsaid.json()["priority"]) == (200, 100)
    other = {"name": "Gold", "priority": 7, "modelTargets": []}
    line = "inconsistent specs: svcName=Gold ; svcPrio=7"
    assert client.post("/addServiceClassModelTargets", json=other).json() == {"message": line}
    assert compat.post("/addServiceClassModelTargets", json=other).json() == line


def test_applying_leaves_a_server_alone_that_got_nothing(
    client: httpx.Client, compat: httpx.Client
) -> None:
    """In the existing service it loses its load and what it has, or gets what an older answer gave
    it.
    """
    present = {
        **NOTHING,
        "accelerator": "G2",
        "numReplicas": 2,
        "load": {"arrivalRate": 60, "avgOutTokens": 512},
    }
    for each in (client, compat):
        each.post("/addServer", json=server("lost", model="none", currentAlloc=present))
        each.post("/optimize", json={})
        got(each, "/applyAllocation")
    assert got(client, "/getServer/lost")["currentAlloc"]["numReplicas"] == 2
    assert got(compat, "/getServer/lost")["currentAlloc"] == NOTHING
    for each in (client, compat):
        assert got(each, "/getServer/s1")["currentAlloc"]["numReplicas"] > 0


def test_a_server_that_gets_nothing_any_more_desires_nothing(
    client: httpx.Client, compat: httpx.Client
) -> None:
    """A stale answer must not look like one; in the existing service it does."""
    for each in (client, compat):
        each.post("/optimize", json={})
        each.post(
            "/setCapacities",
            json={"count": [{"type": "A100", "count": 0}, {"type": "G2", "count": 0}]},
        )
        each.post("/optimize", json={})
    assert got(client, "/getServer/s1")["desiredAlloc"] == NOTHING
    assert got(compat, "/getServer/s1")["desiredAlloc"]["numReplicas"] > 0


def test_a_server_without_load_gets_no_replicas(client: httpx.Client, compat: httpx.Client) -> None:
    """In the existing service it fails the request where capacity is limited; here nothing is what
    it is given.
    """
    for each, wanted in ((client, 200), (compat, 404)):
        each.post("/setServers", json={"servers": [server(rpm=0.0)]})
        answer = each.post("/optimize", json={})
        assert answer.status_code == wanted
    found = client.post("/optimize", json={}).json()
    assert (
        found["allocations"]["s1"]["accelerator"],
        found["allocations"]["s1"]["numReplicas"],
    ) == ("", 0)
    got(client, "/applyAllocation")
    assert got(client, "/getServer/s1")["currentAlloc"]["numReplicas"] == 0


def test_what_is_absent_is_zero_in_compat(compat: httpx.Client) -> None:
    """So Go reads a message; by default what cannot be zero must be said."""
    assert compat.post("/addAccelerator", json={"name": "X"}).json() == {
        "name": "X",
        "type": "",
        "multiplicity": 0,
        "memSize": 0,
        "memBW": 0,
        "power": {"idle": 0, "full": 0, "midPower": 0, "midUtil": 0},
        "cost": 0,
    }
    assert compat.post("/optimize", json={"saturationPolicy": "Fair"}).status_code == 200


def test_optimizing_one_system_replaces_the_one_that_is_kept(client: httpx.Client) -> None:
    """As in the existing service: the verbs see the system that was optimized last."""
    client.post("/optimizeOne", json=body(server("other")))
    assert [each["name"] for each in got(client, "/getServers")["servers"]] == ["other"]
    assert len(got(client, "/getAccelerators")) == len(SYSTEM["acceleratorData"]["accelerators"])
    client.post("/optimizeOne", json={})
    assert got(client, "/getServers") == {"servers": []}
    assert got(client, "/getModels") == []


def test_a_wait_without_bound_is_shown_as_null(client: httpx.Client) -> None:
    """Replicas that cannot keep up, as far as GPUs went: a 0 would be the best of all
    latencies.
    """
    client.post("/setServers", json={"servers": [server(rpm=90_000.0)]})
    answer = client.post("/optimize", json={"saturationPolicy": "PriorityExhaustive"}).json()
    assert answer["allocations"]["s1"]["ttftAverage"] is None
    assert got(client, "/getServer/s1")["desiredAlloc"]["ttftAverage"] is None
    got(client, "/applyAllocation")
    assert client.post("/optimize", json={"unlimited": True}).status_code == 200
