"""The collector as a service: what it tells, what it says when the world is away, and that it ends
at once.
"""

from __future__ import annotations

import threading
import time

import httpx
import pytest

from loop.actors import Owner
from loop.errors import BackendError
from loop.schema.messages import KubeResource, read_collected
from loop.services.collector_app import make_collector_app
from loop.services.serving import Service, listen
from loop.testing.fakes import FakeBackend, server_view
from loop.types import Load, Snapshot
from tests.live.optimizer_served import DEADLINE_S, eventually, serving
from tests.live.served import allowed_s
from tests.live.world_served import serving_world


def world() -> FakeBackend:
    """Return a world of two servers."""
    return FakeBackend(
        [server_view("s1"), server_view("s2", wanted=0, ready=0)], capacity={"H100": 8}
    )


def test_it_tells_of_every_server_and_of_what_it_is_in_the_cluster() -> None:
    """An existing controller passes servers on to its optimizer, and places to its actuator."""
    places = {"s1": KubeResource(uid="u-1", namespace="infer", name="premium")}
    with serving_world(world(), places=lambda: places) as services:
        answer = services.collector.get("/collect")
    told = answer.json()
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert [row["name"] for row in told["servers"]] == ["s1", "s2"]
    assert told["servers"][0]["currentAlloc"]["numReplicas"] == 2
    assert told["replicas"] == []
    assert told["kube-resources"]["s1"] == {"uid": "u-1", "name": "premium", "space": "infer"}


def test_ours_reads_from_it_what_it_would_see_itself() -> None:
    """Capacity, pods and what nobody knows are in none of the fields of the existing one."""
    behind = world()
    with serving_world(behind) as services:
        read = read_collected(services.collector.get("/collect").json(), now_s=0.0)
    assert read.snapshot == behind.observe()


def test_others_get_a_partial_sum_scaled_up_and_the_tokens_of_before() -> None:
    """They take what they get: half of the pods reporting would be half of the load."""
    behind = world()
    with serving_world(behind) as services:
        services.collector.get("/collect")
        load = Load(rate_rpm=50.0, in_tokens=0.0, out_tokens=0.0)
        behind.views["s1"] = server_view("s1", load=load, ready=2, reporting=1)
        row = services.collector.get("/collect").json()["servers"][0]
    assert row["currentAlloc"]["load"]["arrivalRate"] == 100
    assert row["currentAlloc"]["load"]["avgOutTokens"] == 256


def test_a_world_that_does_not_answer_is_told_in_one_line_and_no_servers() -> None:
    """The existing controller looks at the servers only, and skips its cycle where there are
    none.
    """
    behind = world()
    behind.failing = {"observe"}
    with serving_world(behind) as services:
        answer = services.collector.get("/collect")
        assert (answer.status_code, answer.json()) == (
            503,
            {"message": "the world does not answer"},
        )
        with pytest.raises(
            BackendError, match=r"collector http://.*/collect: 503 the world does not answer"
        ) as caught:
            services.backend.observe()
    assert caught.value.phase == "observe"


def test_three_failures_in_a_row_make_it_unready_and_one_success_ready_again() -> None:
    """A probe must not take it out for one hiccup, nor leave it in for ever."""
    behind = world()
    states = []
    with serving_world(behind) as services:
        for failing in (set(), {"observe"}, {"observe"}, {"observe"}, set()):
            behind.failing = failing
            services.collector.get("/collect")
            states.append(services.collector.get("/readyz").status_code)
        assert services.collector.get("/healthz").json() == {"alive": True}
    assert states == [200, 200, 200, 503, 200]


class StuckBackend(FakeBackend):
    """A world that answers once its gate is open."""

    def __init__(self) -> None:
        super().__init__([server_view()])
        self.gate = threading.Event()
        self.looking = threading.Event()

    def observe(self) -> Snapshot:
        """Wait for the gate, then look."""
        self.looking.set()
        assert self.gate.wait(DEADLINE_S)
        return super().observe()


def test_a_world_that_takes_too_long_is_given_up() -> None:
    """Who asks has a cycle to run; the world may answer the next one."""
    behind = StuckBackend()
    with serving_world(behind, timeout_s=0.05) as services:
        late = services.collector.get("/collect")
        assert (late.status_code, late.json()) == (
            504,
            {"message": "the world did not answer within 0.05 s"},
        )
        eventually(
            lambda: "has not answered for" in services.collector.get("/readyz").text,
            "the watchdog tells of it",
        )
        assert services.collector.get("/readyz").status_code == 503
        behind.gate.set()
        eventually(
            lambda: services.collector.get("/collect").status_code == 200, "it answers again"
        )


def test_requests_beyond_what_may_wait_are_refused() -> None:
    """A world that hangs must not fill the memory with those who ask for it."""
    behind = StuckBackend()
    owner = Owner(size_max=1)
    app = make_collector_app(behind, owner, timeout_s=DEADLINE_S)
    with serving(app) as client:
        asking = [threading.Thread(target=client.get, args=("/collect",))]
        asking[0].start()
        assert behind.looking.wait(DEADLINE_S)
        asking.append(threading.Thread(target=client.get, args=("/collect",)))
        asking[1].start()
        eventually(lambda: owner.waiting == 1, "one waits")
        answer = client.get("/collect")
        assert (answer.status_code, answer.json()) == (429, {"message": "1 requests wait already"})
        behind.gate.set()
        for thread in asking:
            thread.join(DEADLINE_S)


def test_it_ends_within_a_second_though_the_world_hangs() -> None:
    """Kubernetes kills what does not; a hanging API server must not keep us from ending."""
    behind = StuckBackend()
    app = make_collector_app(behind, Owner(), timeout_s=DEADLINE_S)
    service = Service(app, on_stop=app.state.stop)
    sockets = listen("127.0.0.1", 0)
    thread = threading.Thread(target=service.run, kwargs={"sockets": sockets}, daemon=True)
    thread.start()
    errors: list[Exception] = []

    def ask() -> None:
        try:
            httpx.get(
                f"http://127.0.0.1:{sockets[0].getsockname()[1]}/collect",
                timeout=DEADLINE_S,
                trust_env=False,
            )
        except httpx.HTTPError as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert behind.looking.wait(DEADLINE_S)
    begin_s = time.monotonic()
    service.should_exit = True
    thread.join(DEADLINE_S)
    took_s = time.monotonic() - begin_s
    behind.gate.set()
    asking.join(DEADLINE_S)
    assert not thread.is_alive()
    assert took_s < allowed_s(1.0)
