"""The optimizer service by itself: right answers, to many clients at once too; it describes itself
and ends well.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.go_2025 import GO_2025
from loop.optimizer.rules.go_today import GO_TODAY
from loop.optimizer.rules.ours import OURS
from loop.schema.optimizer_json import optimize_json
from loop.services.optimizer_app import make_optimizer_app
from loop.services.scaffold import Gate
from loop.services.serving import listen
from loop.testing.fakes import ManualClock
from tests.live.optimizer_bodies import SYSTEM, body, fill, many_bodies, server
from tests.live.optimizer_served import (
    DEADLINE_S,
    difference,
    eventually,
    plain_client,
    serving,
)

COMPAT = OptimizerSettings(solver="greedy", rules=GO_TODAY)
CLIENTS, CALLS = 6, 60


@pytest.fixture(scope="module")
def plain() -> Iterator[httpx.Client]:
    """Return a client of the default service."""
    with serving(make_optimizer_app(settings=OptimizerSettings(rules=OURS))) as client:
        yield client


# --- Many at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chosen", [OptimizerSettings(rules=OURS), COMPAT], ids=["default", "compat"]
)
def test_parallel_clients_get_the_answers_they_would_get_alone(chosen: OptimizerSettings) -> None:
    """The existing service mixes answers up: of six clients most got somebody else's, or an
    error.
    """
    bodies = many_bodies(24)
    with serving(make_optimizer_app(settings=chosen)) as client:
        alone = [outcome(client.post("/optimizeOne", json=each)) for each in bodies]

        def call(k: int) -> list[tuple[int, Any]]:
            order = [(k * 5 + i) % len(bodies) for i in range(CALLS)]
            with plain_client(client.base_url) as own:
                return [(i, outcome(own.post("/optimizeOne", json=bodies[i]))) for i in order]

        with ThreadPoolExecutor(CLIENTS) as pool:
            together = [each for found in pool.map(call, range(CLIENTS)) for each in found]
    assert len(together) == CLIENTS * CALLS
    assert [i for i, found in together if found != alone[i]] == []
    assert len({json.dumps(each) for each in alone}) > len(bodies) // 2, (
        "the answers must tell the requests apart"
    )


def test_parallel_changes_are_all_kept() -> None:
    """Verbs that change the system go one by one: no change is lost, and an optimisation sees whole
    changes only.
    """
    with serving(
        make_optimizer_app(settings=OptimizerSettings(rules=OURS), stateful=True)
    ) as client:
        fill(client)

        def call(k: int) -> list[int]:
            with plain_client(client.base_url) as own:
                statuses = []
                for i in range(10):
                    statuses.append(
                        own.post("/addServer", json=server(f"s{k}-{i}", rpm=6.0)).status_code
                    )
                    statuses.append(
                        own.post("/setCapacity", json={"type": f"T{k}-{i}", "count": i}).status_code
                    )
                    statuses.append(
                        own.post("/optimize", json={"unlimited": True}).status_code
                        if i == 5
                        else 200
                    )
                return statuses

        with ThreadPoolExecutor(CLIENTS) as pool:
            statuses = [status for found in pool.map(call, range(CLIENTS)) for status in found]
        names = {each["name"] for each in client.get("/getServers").json()["servers"]}
        kinds = {each["type"] for each in client.get("/getCapacities").json()["count"]}
    assert set(statuses) == {200}
    assert names == {"s1"} | {f"s{k}-{i}" for k in range(CLIENTS) for i in range(10)}
    assert len(kinds) == 2 + CLIENTS * 10


def outcome(answer: httpx.Response) -> tuple[int, Any]:
    """Return what an answer says."""
    return answer.status_code, answer.json()


# --- What is answered -----------------------------------------------------------------------------


def test_the_answer_is_that_of_the_command(plain: httpx.Client) -> None:
    """`inferno optimize` and the service are two doors to one room."""
    asked = many_bodies(3)[2]
    assert difference(plain.post("/optimizeOne", json=asked).json(), optimize_json(asked)) == ""


def test_a_server_that_cannot_be_served_blocks_nobody(plain: httpx.Client) -> None:
    """In the existing service one impossible server takes the allocations of all others away."""
    lost = {"s2": {"class": "none"}, "s3": {"model": "none"}, "s4": {"currentAlloc": {}}}
    answer = plain.post(
        "/optimizeOne",
        json=body(server(), *(server(name, **fields) for name, fields in lost.items())),
    )
    assert answer.status_code == 200
    assert answer.json()["allocations"].keys() == {"s1"}
    assert answer.json()["unallocated"] == {
        "s2": "no service class 'none'",
        "s3": "no target for model 'none' in service class 'Premium'",
        "s4": "no load is known",
    }


def test_warnings_of_answers_are_counted() -> None:
    """Servers that get nothing would else be seen by who asked alone."""
    with serving(make_optimizer_app(settings=OptimizerSettings(rules=OURS))) as client:
        for expected in (0, 2, 4):
            page = client.get("/metrics").text
            assert f'inferno_warnings_total{{kind="decide"}} {expected:.1f}' in page
            lost = [server(name, model="none") for name in ("s2", "s3")]
            client.post("/optimizeOne", json=body(server(), *lost))


def shown(client: httpx.Client) -> dict[tuple[str, ...], float]:
    """Return what /metrics shows of servers, by name and values of labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.labels.keys() & {"server", "reason"}
    }


def allocated(**figures: float) -> dict[str, Any]:
    """Return the present allocation of a server of `optimizer_bodies`, with *figures*."""
    load = server()["currentAlloc"]["load"]
    return {"accelerator": "A100", "numReplicas": 2, "load": load, **figures}


def test_metrics_tell_what_the_latest_questions_and_answers_said_of_servers() -> None:
    """Of five processes each is looked at by itself; what nobody told is absent, and not zero."""
    clock = ManualClock()

    def advance(seconds: float) -> None:
        clock.time_s += seconds

    app = make_optimizer_app(settings=OptimizerSettings(rules=OURS), clock=clock)
    with serving(app) as client:
        assert shown(client) == {}
        told = server("s1", readyReplicas=2, loadAgeS=4.5, currentAlloc=allocated(itlAverage=70))
        answer = client.post("/optimizeOne", json=body(told, server("s2", model="none"))).json()
        found = answer["allocations"]["s1"]
        assert shown(client) == {
            ("inferno_desired_replicas", found["accelerator"], "s1"): found["numReplicas"],
            ("inferno_ready_replicas", "s1"): 2.0,
            ("inferno_load_age_seconds", "s1"): 4.5,
            ("inferno_slo_attainment", "s1"): 1.0,
            ("inferno_question_age_seconds", "s1"): 0.0,
            ("inferno_question_age_seconds", "s2"): 0.0,
            ("inferno_held_servers", "infeasible"): 1.0,
        }
        advance(60.0)
        slow = server("s1", currentAlloc=allocated(itlAverage=90, ttftAverage=10))
        for _ in range(3):  # a cycle may ask several times of what it saw once
            client.post("/optimizeOne", json=body(slow))
        page = shown(client)
        assert page["inferno_slo_attainment", "s1"] == 0.5
        assert page["inferno_question_age_seconds", "s2"] == 60.0
        assert not {name for name, *_ in page} & {
            "inferno_ready_replicas",
            "inferno_load_age_seconds",
        }
        advance(301.0)
        page = shown(client)
        assert page["inferno_question_age_seconds", "s1"] == 301.0
        assert ("inferno_held_servers", "infeasible") not in page, "nobody has asked for long"
        advance(301.0)
        client.post("/optimizeOne", json=body(server("s3")))
        assert {
            name for kind, name, *_ in shown(client) if kind.endswith("question_age_seconds")
        } == {"s3"}


def test_an_answer_that_was_refused_leaves_what_was_to_be_before() -> None:
    """Who asks the Go service for what one server cannot have skips that cycle."""
    with serving(make_optimizer_app(settings=COMPAT)) as client:
        answer = client.post("/optimizeOne", json=body(server())).json()["allocations"]["s1"]
        kept = ("inferno_desired_replicas", answer["accelerator"], "s1")
        refused = client.post("/optimizeOne", json=body(server(rpm=900.0), server("s2", model="x")))
        page = shown(client)
    assert refused.status_code == 404
    assert page[kept] == answer["numReplicas"]
    assert page["inferno_held_servers", "infeasible"] == 1.0


def test_an_optimizer_for_early_messages_shows_the_same() -> None:
    """Its answers have other words; what they mean is the same."""
    early = body(server())
    (one,) = early["system"]["serviceClassData"]["serviceClasses"][:1]
    target = {"model": "m", "slo-itl": 80, "slo-ttw": 1000}
    early["system"]["serviceClassData"]["serviceClasses"] = [
        {"name": one["name"], "priority": 1, **target}
    ]
    with serving(make_optimizer_app(settings=OptimizerSettings(rules=GO_2025))) as client:
        answer = client.post("/optimizeOne", json=early).json()["allocations"]["s1"]
        page = shown(client)
    assert page["inferno_desired_replicas", answer["accelerator"], "s1"] == answer["numReplicas"]


def test_in_compat_a_server_that_cannot_be_served_fails_the_request() -> None:
    """A controller written for the existing service skips its cycle on that, and must not scale the
    server to zero.
    """
    with serving(make_optimizer_app(settings=COMPAT)) as client:
        answer = client.post(
            "/optimizeOne", json=body(server(), server("b", model="x"), server("a", model="x"))
        )
    assert answer.status_code == 404
    assert answer.json() == {
        "message": "optimization error: no feasible allocation for servers: [a, b]"
    }


def test_keys_match_in_any_case_and_null_is_nothing(plain: httpx.Client) -> None:
    """So Go reads JSON, and the files of the existing project rely on it."""
    asked = body(server())
    shouted = json.loads(
        json.dumps(asked),
        object_pairs_hook=lambda pairs: {key.upper(): value for key, value in pairs},
    )
    shouted["SYSTEM"]["SERVERDATA"]["SERVERS"][0]["MAXQUEUESIZE"] = None
    assert (
        plain.post("/optimizeOne", json=shouted).json()
        == plain.post("/optimizeOne", json=asked).json()
    )


def test_older_messages_are_read_as_those_of_today(plain: httpx.Client) -> None:
    """numTokens was the output, alpha and beta stood in the row, classes were flat, slo-ttw is a
    part of TTFT.
    """
    older = {
        "acceleratorData": SYSTEM["acceleratorData"],
        "modelData": {
            "models": [
                {
                    "name": "m",
                    "acc": "G2",
                    "maxBatchSize": 76,
                    "atTokens": 512,
                    "alpha": 16.8,
                    "beta": 0.07,
                }
            ]
        },
        "serviceClassData": {
            "serviceClasses": [
                {"name": "P", "model": "m", "priority": 1, "slo-itl": 80, "slo-ttw": 900}
            ]
        },
        "serverData": {
            "servers": [
                {
                    "name": "a",
                    "class": "P",
                    "model": "m",
                    "currentAlloc": {"load": {"arrivalRate": 60, "numTokens": 512}},
                }
            ]
        },
        "capacityData": SYSTEM["capacityData"],
    }
    row = older["modelData"]["models"][0]
    today = {
        **older,
        "modelData": {"models": [{**row, "perfParms": {"alpha": 16.8, "beta": 0.07, "gamma": 0}}]},
        "serviceClassData": {
            "serviceClasses": [
                {
                    "name": "P",
                    "priority": 1,
                    "modelTargets": [{"model": "m", "slo-itl": 80, "slo-ttft": 900}],
                }
            ]
        },
        "serverData": {"servers": [server("a", **{"class": "P"})]},
    }
    today["serverData"]["servers"][0]["currentAlloc"]["load"]["avgInTokens"] = 0
    found = plain.post("/optimizeOne", json={"system": older}).json()
    assert found["allocations"]["a"]["numReplicas"] >= 1
    assert found == plain.post("/optimizeOne", json={"system": today}).json()


def test_several_accelerators_of_a_server_are_listed(plain: httpx.Client) -> None:
    """With heterogeneous the answer says what a server has of each; it is for planning, not to be
    applied.
    """
    flags = {"optimizer": {"heterogeneous": True}}
    capacity = {"count": [{"type": "A100", "count": 3}, {"type": "G2", "count": 3}]}
    answer = plain.post(
        "/optimizeOne", json=body(server(rpm=300.0), optimizerData=flags, capacityData=capacity)
    ).json()
    found = answer["allocations"]["s1"]
    assert sum(part["numReplicas"] for part in found["parts"]) == found["numReplicas"]
    assert len(found["parts"]) == 2


def test_reads_show_the_system_last_optimized(plain: httpx.Client) -> None:
    """The stateless service too lets one look at what it was asked, with what each server shall
    have.
    """
    answer = plain.post("/optimizeOne", json=body(server("seen"))).json()
    kept = plain.get("/getServer/seen").json()
    assert kept["desiredAlloc"]["numReplicas"] == answer["allocations"]["seen"]["numReplicas"]
    assert plain.get("/getServers").json() == {"servers": [kept]}
    assert plain.get("/getModels").json() == ["m"]
    assert plain.get("/getModelAcceleratorPerf/m/G2").json()["maxBatchSize"] == 76


# --- The service ----------------------------------------------------------------------------------


def test_openapi_describes_every_verb(plain: httpx.Client) -> None:
    """A client can be generated; /docs shows the same to people."""
    described = plain.get("/openapi.json").json()
    with serving(make_optimizer_app(settings=COMPAT, stateful=True)) as client:
        full = client.get("/openapi.json").json()
    assert described["paths"].keys() < full["paths"].keys()
    assert "/optimize" not in described["paths"]
    assert all(
        path == "/optimizeOne" or path.startswith(("/get", "/healthz", "/readyz"))
        for path in described["paths"]
    )
    assert len(full["paths"]) == 34 + 2, "the verbs of the existing service, and two probes"
    asked = described["paths"]["/optimizeOne"]["post"]["requestBody"]["content"][
        "application/json"
    ]["schema"]
    assert asked == {"$ref": "#/components/schemas/SystemData"}
    assert "slo-ttft" in described["components"]["schemas"]["ModelTarget"]["properties"]
    assert "422" not in described["paths"]["/optimizeOne"]["post"]["responses"], (
        "refusals are 400 and of one line"
    )
    assert plain.get("/docs").status_code == 200


def test_probes_answer(plain: httpx.Client) -> None:
    """Kubernetes asks for them."""
    assert plain.get("/healthz").json() == {"alive": True}
    assert plain.get("/readyz").json() == {"ready": True}


def test_an_answer_is_sent_at_once() -> None:
    """asyncio turns Nagle's algorithm off for sockets that name TCP only; with it every answer
    takes 40 ms.
    """
    (sock,) = listen("127.0.0.1", 0)
    with sock:
        assert sock.proto == socket.IPPROTO_TCP


def test_a_service_that_stops_finishes_what_it_has_begun() -> None:
    """The answer to a request that was let in comes whole; one that comes later is told why it is
    refused.
    """
    app = make_optimizer_app(settings=OptimizerSettings(rules=OURS))
    with serving(app) as client, ThreadPoolExecutor(1) as pool:
        asked = body(*(server(f"s{k}", rpm=50.0 + k) for k in range(300)))
        begun = pool.submit(client.post, "/optimizeOne", json=asked)
        eventually(lambda: app.state.gate.inside > 0, "the request is inside")
        assert app.state.stop(wait_s=DEADLINE_S)
        assert begun.result().status_code == 200
        late = client.post("/optimizeOne", json=body())
    assert late.status_code == 503
    assert late.json() == {"message": "the service is stopping"}


def test_stopping_does_not_wait_for_ever() -> None:
    """A request may take as long as its solver; Kubernetes kills what does not stop."""
    gate = Gate()
    assert gate.enter()
    assert not gate.close(wait_s=0.01)
    gate.leave()
    assert gate.close(wait_s=0.01)
    assert not gate.enter()
