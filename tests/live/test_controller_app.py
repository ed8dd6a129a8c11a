"""The controller's service over real HTTP: what /invoke answers in each case, and how it starts,
fails and stops.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from loop.backends.sim import SimWorld
from loop.controller import ControllerSettings
from loop.errors import BackendError, LoopError
from loop.services.controller_app import BODY_BYTES_MAX
from loop.services.serving import listen
from loop.testing.fakes import FakeBackend, server_view
from loop.types import Change, Load
from tests.live.served import (
    DEADLINE_S,
    GatedBackend,
    Served,
    allowed_s,
    eventually,
    serving,
)
from tests.loop.sim_worlds import sim_world


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_invoke_runs_a_cycle_and_answers_with_its_record(method: str) -> None:
    """The walk-through says curl; others POST."""
    with serving(FakeBackend([server_view()])) as served:
        answer = served.client.request(method, "/invoke")
    assert answer.status_code == 200
    line = answer.json()
    assert (line["cycle"], line["trigger"], line["error"]) == (1, "invoke", "")
    assert [server["name"] for server in line["servers"]] == ["s1"]
    assert len(served.records) == 1


def test_a_body_may_ask_for_advice_only() -> None:
    """curl -d sends it as a form: the content type must not matter."""
    with serving(FakeBackend([server_view()])) as served:
        advised = served.client.post("/invoke", content='{"mode": "advise"}').json()
        form = served.client.post(
            "/invoke",
            content='{"mode": "advise"}',
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        ).json()
        acted = served.client.post("/invoke", json={"mode": "act"}).json()
    assert [(line["mode"], line["applied"]) for line in (advised, form, acted)] == [
        ("advise", False),
        ("advise", False),
        ("act", True),
    ]


def test_an_advising_controller_cannot_be_told_to_act() -> None:
    """--mode advise is a promise to whoever owns the cluster."""
    with serving(
        FakeBackend([server_view()]), settings=ControllerSettings(mode="advise")
    ) as served:
        line = served.client.post("/invoke", json={"mode": "act"}).json()
    assert (line["mode"], line["applied"]) == ("advise", False)


@pytest.mark.parametrize(
    "body", ["{", "[]", '{"mode": "dance"}', '{"made": "act"}', "advise", "\xff", "[" * 100_000]
)
def test_a_body_that_makes_no_sense_is_refused_and_causes_no_cycle(body: str) -> None:
    """Who misspells "advise" must not get an action."""
    with serving(FakeBackend([server_view()])) as served:
        answer = served.client.post("/invoke", content=body.encode("latin-1"))
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("body: expected")
    assert served.records == []


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_mode_in_the_query_is_refused_and_causes_no_cycle(method: str) -> None:
    """It was overlooked: `curl …/invoke?mode=advise` acted."""
    with serving(FakeBackend([server_view()])) as served:
        answer = served.client.request(method, "/invoke?mode=advise")
    assert answer.status_code == 400
    assert answer.json()["message"].endswith("found 'mode=advise'")
    assert served.records == []


def test_a_body_without_end_is_refused() -> None:
    """A mode has a few bytes; memory is for the loop."""
    with serving(FakeBackend([server_view()])) as served:
        answer = served.client.post("/invoke", content=b" " * (BODY_BYTES_MAX + 1))
    assert answer.status_code == 413
    assert answer.json() == {
        "message": f"body: expected at most {BODY_BYTES_MAX} bytes, found more"
    }


def test_with_a_token_only_those_who_have_it_run_cycles() -> None:
    """Who may invoke may change a cluster."""
    with serving(FakeBackend([server_view()]), token=lambda: "s3cret") as served:
        assert served.client.post("/invoke").status_code == 401
        assert served.client.get("/metrics").status_code == 401
        assert served.client.get("/healthz").status_code == 200
        assert (
            served.client.post("/invoke", headers={"authorization": "Bearer s3cret"}).status_code
            == 200
        )
    assert len(served.records) == 1


def test_invokes_during_a_cycle_share_the_following_one() -> None:
    """Neither is one answered by a cycle that had looked before it came, nor do ten cause ten
    cycles.
    """
    backend = GatedBackend()
    with serving(backend) as served, ThreadPoolExecutor(6) as pool:
        backend.gate.clear()
        first = pool.submit(served.client.get, "/invoke")
        eventually(lambda: backend.looking == 1, "the first cycle begins")
        later = [pool.submit(served.client.get, "/invoke") for _ in range(5)]
        eventually(lambda: len(served.inbox) == 5, "the others wait")
        backend.gate.set()
        cycles = [answer.result().json()["cycle"] for answer in (first, *later)]
    assert cycles == [1, 2, 2, 2, 2, 2]
    assert len(served.records) == 2


def test_too_many_waiting_invokes_are_turned_away() -> None:
    """429 says: try again later; a queue without an end would say nothing at all."""
    backend = GatedBackend()
    with serving(backend, inbox_size=1) as served, ThreadPoolExecutor(2) as pool:
        backend.gate.clear()
        first = pool.submit(served.client.get, "/invoke")
        eventually(lambda: backend.looking == 1, "the first cycle begins")
        second = pool.submit(served.client.get, "/invoke")
        eventually(lambda: len(served.inbox) == 1, "the second waits")
        third = served.client.get("/invoke")
        backend.gate.set()
        assert (third.status_code, first.result().status_code, second.result().status_code) == (
            429,
            200,
            200,
        )


def test_an_invoke_without_an_answer_in_time_is_told_so_and_causes_no_late_cycle() -> None:
    """Its client has gone when the world answers again; the request it left must not act then."""
    backend = GatedBackend()
    with serving(backend, timeout_s=1.0) as served, ThreadPoolExecutor(1) as pool:
        backend.gate.clear()
        first = pool.submit(served.client.get, "/invoke")
        eventually(lambda: backend.looking == 1, "the first cycle begins")
        second = served.client.get("/invoke")
        assert (first.result().status_code, second.status_code) == (504, 504)
        backend.gate.set()
        eventually(lambda: len(served.records) == 1, "the first cycle ends")
        third = served.client.get("/invoke").json()
    assert third["cycle"] == 2
    assert "1 s" in second.json()["message"]


def test_a_failed_cycle_answers_503_with_its_record() -> None:
    """Only the status matters to existing clients; people want the reason."""
    backend = GatedBackend()
    backend.bug = BackendError("the API server is away", phase="observe")
    with serving(backend) as served:
        answer = served.client.get("/invoke")
    assert answer.status_code == 503
    assert (answer.json()["failedPhase"], answer.json()["error"]) == (
        "observe",
        "the API server is away",
    )


def test_three_failures_in_a_row_make_it_unready_and_one_good_cycle_ready_again() -> None:
    """A bug is recorded with its traceback; the thread lives on and recovers when the bug is
    gone.
    """
    backend = GatedBackend()
    with serving(backend) as served:
        assert ready(served) == 200
        backend.bug = RuntimeError("a bug")
        for count in range(1, 4):
            answer = served.client.get("/invoke")
            assert (answer.status_code, answer.json()["failedPhase"]) == (503, "program")
            assert "in observe" in answer.json()["traceback"]
            assert ready(served) == (200 if count < 3 else 503)
        assert served.client.get("/readyz").json()["lastError"] == "RuntimeError: a bug"
        assert served.client.get("/healthz").status_code == 200, "a restart would not help"
        backend.bug = None
        assert served.client.get("/invoke").status_code == 200
        assert ready(served) == 200


def ready(served: Served) -> int:
    """Return the status of /readyz."""
    return served.client.get("/readyz").status_code


def test_it_stops_within_a_second_and_tells_those_who_wait() -> None:
    """Kubernetes kills what does not stop; a client must not hang on a service that is gone."""
    backend = GatedBackend()
    with serving(backend) as served, ThreadPoolExecutor(2) as pool:
        backend.gate.clear()
        pool.submit(served.client.get, "/invoke")
        eventually(lambda: backend.looking == 1, "the first cycle begins")
        waiting = pool.submit(served.client.get, "/invoke")
        eventually(lambda: len(served.inbox) == 1, "the second waits")
        took_s = served.stop()
        backend.gate.set()
        assert waiting.result().status_code == 503
        assert "stopping" in waiting.result().json()["message"]
    assert took_s < allowed_s(1.0)
    eventually(lambda: not served.driver.alive, "the thread ends after its cycle")


def test_a_write_in_flight_is_finished_before_the_end() -> None:
    """A change that is cut may be done by half, and nobody is left who knows."""
    writing, going_on = threading.Event(), threading.Event()

    class Slow(FakeBackend):
        def apply(self, changes: Sequence[Change]) -> None:
            writing.set()
            assert going_on.wait(DEADLINE_S)
            super().apply(changes)

    backend = Slow([server_view(load=Load(rate_rpm=6000.0, in_tokens=512.0, out_tokens=256.0))])
    with serving(backend, policy="slo") as served, ThreadPoolExecutor(1) as pool:
        pool.submit(served.client.get, "/invoke")
        assert writing.wait(DEADLINE_S)
        threading.Timer(1.0, going_on.set).start()
        took_s = served.stop()
    assert 0.5 < took_s < allowed_s(5.0)
    assert len(backend.applied) == 1


def test_an_idle_service_stops_at_once() -> None:
    """Nothing is in progress: the wait of the driver must be woken, not waited out."""
    with serving(FakeBackend([server_view()]), period_s=3600.0) as served:
        assert served.stop() < allowed_s(1.0)
        assert not served.driver.alive


def test_periods_run_by_themselves_and_invokes_between_them() -> None:
    """Periodic and aperiodic work together."""
    with serving(FakeBackend([server_view()]), period_s=0.05) as served:
        eventually(lambda: len(served.records) >= 3, "three periods")
        assert served.client.get("/invoke").status_code == 200
    triggers = {record.trigger for record in served.records}
    assert triggers == {"period", "invoke"}


def test_the_twin_lives_in_the_thread_of_the_controller_and_runs_faster_if_told() -> None:
    """--backend sim --speed 600: a minute of the twin passes in a tenth of a second, between cycles
    too.
    """
    world = sim_world()
    with serving(
        world.backend, policy="slo", period_s=60.0, speed=600.0, advance=SimWorld(world.env).advance
    ) as served:
        eventually(lambda: len(served.records) >= 3, "three periods of the twin")
        line = served.client.get("/invoke").json()
    assert line["error"] == ""
    assert [record.error for record in served.records] == [""] * len(served.records)
    assert line["t_s"] >= 180.0
    assert line["ts"].startswith("2026-01-01T00:")
    seen = served.records[-1].seen
    assert seen is not None
    assert seen.servers["s1"].load is not None
    assert seen.now_s == pytest.approx(served.records[-1].now_s)


def test_metrics_show_cycles_replicas_and_cost() -> None:
    """What an alert needs: failures, the latest success, wanted against ready, cost."""
    backend = GatedBackend()
    with serving(backend) as served:
        served.client.get("/invoke")
        backend.bug = BackendError("away", phase="observe")
        served.client.get("/invoke")
        page = served.client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }
    assert samples["inferno_cycles_total", "ok"] == 1.0
    assert samples["inferno_cycles_total", "failed"] == 1.0
    assert samples["inferno_cycle_duration_seconds_count",] == 2.0
    assert samples["inferno_wanted_replicas", "s1"] == 2.0
    assert samples["inferno_ready_replicas", "s1"] == 2.0
    assert samples["inferno_cost_cents_per_hour",] == 800.0
    success = datetime.fromisoformat(served.records[0].ts).timestamp()
    assert samples["inferno_last_success_timestamp_seconds",] == pytest.approx(success)


def test_a_server_that_is_gone_leaves_the_metrics() -> None:
    """A last value that stays for ever looks like a server that is stuck."""
    backend = FakeBackend([server_view("s1"), server_view("s2")])
    with serving(backend) as served:
        served.client.get("/invoke")
        assert 'server="s2"' in served.client.get("/metrics").text
        del backend.views["s2"]
        served.client.get("/invoke")
        assert 'server="s2"' not in served.client.get("/metrics").text


def test_two_services_in_one_process_share_no_metrics() -> None:
    """Registries are no globals: tests, and a second controller, start from nothing."""
    with serving(FakeBackend([server_view()])) as one, serving(FakeBackend([server_view()])) as two:
        one.client.get("/invoke")
        assert 'inferno_cycles_total{outcome="ok"} 0.0' in two.client.get("/metrics").text


def test_a_record_over_http_is_strict_json() -> None:
    """A reader in another language must be able to read every answer."""
    with serving(FakeBackend([server_view(load=None, itl_ms=float("nan"))])) as served:
        text = served.client.get("/invoke").text
    assert json.loads(text, parse_constant=pytest.fail)["servers"][0]["itl"] is None


def test_a_port_that_is_taken_is_one_line() -> None:
    """The usual slip: a second controller on the same port."""
    (taken,) = listen("127.0.0.1", 0)
    with taken:
        port = taken.getsockname()[1]
        todo = r"\(another program has it: give another --port\)$"
        with pytest.raises(LoopError, match=rf"^cannot listen on 127\.0\.0\.1:{port}: .* {todo}"):
            listen("127.0.0.1", port)


def test_a_host_that_is_none_of_ours_is_one_line() -> None:
    """A misspelt CONTROLLER_HOST."""
    with pytest.raises(LoopError, match="cannot listen on no such host:3300"):
        listen("no such host", 3300)


def test_a_cycle_without_an_end_makes_it_unready_with_the_reason() -> None:
    """A world that never answers fails no cycle by which that could be noticed."""
    backend = GatedBackend()
    with serving(backend, period_s=60.0, speed=100.0) as served:
        assert ready(served) == 200
        backend.gate.clear()
        eventually(lambda: ready(served) == 503, "it is unready")
        assert "goes on" in served.client.get("/readyz").json()["lastError"]
        assert served.client.get("/healthz").status_code == 200
        backend.gate.set()
        eventually(lambda: ready(served) == 200, "it is ready again")


def test_a_thread_beside_the_loop_that_has_ended_is_not_alive() -> None:
    """Without the thread of its Lease a controller stands by for ever."""
    with serving(FakeBackend([server_view()]), threads=[Stopped()]) as served:
        assert served.client.get("/healthz").status_code == 503


class Stopped:
    """A thread that has ended."""

    alive = False


def test_a_pause_stops_acting_at_once_and_each_record_tells_it() -> None:
    """Looking and deciding go on, so that people see what the loop would do."""
    backend = FakeBackend([server_view(wanted=0, ready=0)])
    with serving(backend, token=lambda: "s3cret", policy="static") as served:
        assert served.client.post("/pause").status_code == 401
        served.client.headers["authorization"] = "Bearer s3cret"
        assert served.client.post("/pause").json() == {"paused": True}
        line = served.client.post("/invoke").json()
        assert (line["mode"], line["applied"], line["paused"]) == ("advise", False, "POST /pause")
        assert "paused: nothing is asked for: POST /pause" in line["warnings"]
        assert "inferno_paused 1.0" in served.client.get("/metrics").text
        assert served.client.get("/resume").status_code == 405
        assert served.client.post("/resume").json() == {"paused": False}
        line = served.client.post("/invoke").json()
        assert (line["mode"], line["applied"], line["paused"]) == ("act", True, None)
