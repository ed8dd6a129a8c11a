"""A controller over services: what it does when they are away, slow, wrong, or ask for a token."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from inferno.cli.main import parse
from loop.backends.http import HttpBackend, remote_policy
from loop.backends.http_client import ServiceClient
from loop.controller import Controller
from loop.data import FixedData
from loop.errors import BackendError, LoopError, PausedError, RefusedError, SpecError
from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.go_today import GO_TODAY
from loop.optimizer.rules.ours import OURS
from loop.policies import make_policy
from loop.policies.sped import SpedPolicy
from loop.records import held_servers
from loop.services.optimizer_app import make_optimizer_app
from loop.settings import Settings, service_url
from loop.spec import SystemData
from loop.testing.fakes import FakeBackend, ManualClock, server_view, system
from loop.types import Change, Load, ServerView, Snapshot
from tests.live.optimizer_served import DEADLINE_S, serving
from tests.live.world_served import client_of, serving_world


@contextmanager
def answering(raw: bytes, *, then_wait: bool = False) -> Iterator[str]:
    """Listen, and answer every connection with the bytes *raw*, then close it, or leave it open."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        open_ones: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.recv(65536)
                connection.sendall(raw)
                if then_wait:
                    open_ones.append(connection)
                else:
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(DEADLINE_S)
        for connection in open_ones:
            connection.close()


def answer(text: str, *, status: str = "200 OK") -> bytes:
    """Return an HTTP answer."""
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(text.encode())}\r\n\r\n{text}".encode()


@pytest.mark.parametrize(
    ("raw", "then_wait", "line"),
    [
        (answer("{", status="200 OK"), False, "expected JSON, found b'{'"),
        (answer('{"servers": NaN}'), False, "expected JSON, found"),
        (answer('{"servers": 3}'), False, "answer: servers: expected a list […], found 3"),
        (
            answer('{"message": "kube client: no"}', status="404 Not Found"),
            False,
            "404 kube client: no",
        ),
        (
            answer("<html>gateway</html>", status="502 Bad Gateway"),
            False,
            "502 <html>gateway</html>",
        ),
        (answer("", status="307 Temporary Redirect"), False, "collect: 307"),
        (b"", False, "no answer: Server disconnected"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{",
            False,
            "no answer: peer closed connection",
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", True, "no answer within 0.2 s"),
    ],
    ids=[
        "no JSON",
        "NaN",
        "another form",
        "refused",
        "a page",
        "a redirect",
        "cut",
        "cut half-way",
        "too slow",
    ],
)
def test_whatever_a_collector_answers_is_a_line_in_the_record(
    raw: bytes, then_wait: bool, line: str
) -> None:
    """The loop goes on; the record says what was wrong, and with whom."""
    with answering(raw, then_wait=then_wait) as url:
        backend = HttpBackend(
            collector=ServiceClient("collector", url, timeout_s=0.2 if then_wait else DEADLINE_S),
            actuator=ServiceClient("actuator", url, timeout_s=DEADLINE_S),
            clock=ManualClock(),
        )
        with pytest.raises(BackendError) as caught:
            backend.observe()
        backend.close()
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.phase == "observe"


def test_a_service_that_does_not_run_is_named() -> None:
    """Who reads the log must know which of the five to start."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = ServiceClient("optimizer", service_url("127.0.0.1", port), timeout_s=5.0)
    with pytest.raises(
        BackendError,
        match=rf"optimizer http://127\.0\.0\.1:{port}/optimizeOne: no answer: .*refused",
    ):
        client.post("optimizeOne", {}, phase="decide")
    client.close()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("localhost", "http://localhost:3301"),
        ("", "http://localhost:3301"),
        ("::1", "http://[::1]:3301"),
    ],
)
def test_addresses_are_made_of_host_and_port(host: str, url: str) -> None:
    """COLLECTOR_HOST may be empty, and may be an address of IPv6."""
    assert service_url(host, 3301) == url


@pytest.fixture(scope="module")
def optimizer() -> Iterator[httpx.Client]:
    """Serve our optimizer."""
    with serving(make_optimizer_app(settings=OptimizerSettings(rules=OURS))) as client:
        yield client


def seen(*views: ServerView, **fields: object) -> Snapshot:
    """Return a snapshot of *views*."""
    return Snapshot(now_s=0.0, servers={view.name: view for view in views}, **fields)  # type: ignore[arg-type]


def test_an_optimizer_that_is_away_fails_the_cycle_and_changes_nothing() -> None:
    """No decision is not a decision for nothing. The next cycle goes through as soon as it is
    back.
    """
    behind = FakeBackend(
        [server_view(load=Load(rate_rpm=6000.0, in_tokens=512.0, out_tokens=256.0))]
    )
    with (
        serving(make_optimizer_app(settings=OptimizerSettings(rules=OURS))) as running,
        serving_world(behind) as services,
    ):
        working = client_of("optimizer", running)
        away = ServiceClient("optimizer", "http://127.0.0.1:9", timeout_s=1.0)
        lines = []
        for client in (away, working):
            controller = Controller(
                backend=services.backend,
                policy=remote_policy(client),
                data=FixedData(system()),
                clock=ManualClock(),
            )
            record = controller.cycle(60.0)
            lines.append((record.failed_phase, record.applied, behind.views["s1"].wanted > 2))
            client.close()
    assert lines == [("decide", False, False), ("", True, True)]


def test_the_existing_optimizers_refusal_of_one_server_fails_the_cycle() -> None:
    """It answers 404 and nothing else where one server cannot be served: nobody may be changed on
    that.
    """
    compat = make_optimizer_app(settings=OptimizerSettings(solver="greedy", rules=GO_TODAY))
    with serving(compat) as client:
        policy = remote_policy(client_of("optimizer", client), compat=True)
        with pytest.raises(
            BackendError, match=r"404 optimization error: no feasible allocation .*\[s1\]"
        ) as caught:
            policy.decide(seen(server_view("s1", model="gpt_9"), server_view("s2")), system(), {})
    assert caught.value.phase == "decide"


def test_with_nothing_to_ask_the_optimizer_is_not_asked() -> None:
    """A cluster without managed Deployments, or none whose load is known, is no failure."""
    policy = remote_policy(ServiceClient("optimizer", "http://127.0.0.1:9", timeout_s=1.0))
    decision, _ = policy.decide(seen(), system(), {})
    assert (dict(decision.targets), dict(decision.unserved)) == ({}, {})


def test_the_capacity_of_the_world_wins_over_that_of_the_files(optimizer: httpx.Client) -> None:
    """A node was lost: who decides by the file gives away GPUs that are not there."""

    def gpus(data: SystemData, **known: object) -> int:
        view = server_view("s1", load=Load(rate_rpm=6000.0, in_tokens=512.0, out_tokens=256.0))
        policy = remote_policy(client_of("optimizer", optimizer))
        decision, _ = policy.decide(seen(view, **known), data, {})
        return sum(
            target.replicas for target in decision.targets.values() if target.accelerator == "H100"
        )

    one = FakeBackend([], capacity={"H100": 1}).observe().capacity
    assert gpus(system(), capacity=one) <= 1 < gpus(system())


@pytest.mark.parametrize("drain_s", [-1.0, float("nan"), float("inf")])
def test_a_time_to_drain_that_cannot_be_is_refused(drain_s: float) -> None:
    """At the start, in one line."""
    client = ServiceClient("optimizer", "http://127.0.0.1:9", timeout_s=1.0)
    with pytest.raises(SpecError, match="policy remote: drain_s: expected a number >= 0, found"):
        remote_policy(client, drain_s=drain_s)


def test_the_policy_counts_in_the_time_of_a_twin_that_is_faster() -> None:
    """A start-up of 6 s on the machine is one of a minute in a twin at 10: the policy behind
    services took pods to start ten times as quickly, and drained a backlog ten times as fast.
    """
    _, options = parse(["controller", "--backend", "http", "--speed", "10"])
    with ExitStack() as stack:
        world = options.worlds.open_world(Settings(), options, stack)
    assert isinstance(world.policy, SpedPolicy)
    assert (world.policy.speed, world.twin_speed, world.policy.name) == (10.0, 10.0, "remote")
    _, options = parse(["controller", "--backend", "http", "--speed", "0"])
    with ExitStack() as stack, pytest.raises(SpecError, match="speed: expected a number > 0"):
        options.worlds.open_world(Settings(), options, stack)


def test_services_with_a_token_answer_only_those_who_send_it(tmp_path: Path) -> None:
    """The actuator can end every server of a cluster."""
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    behind = FakeBackend([server_view()])
    with serving_world(behind, token=lambda: file.read_text().strip()) as services:
        assert services.backend.observe().servers.keys() == {"s1"}
        assert services.collector.get("/collect").status_code == 401
        # The token is changed while both sides run.
        file.write_text("n3w")
        services.backend.apply([])
        wrong = {"authorization": "Bearer s3cret"}
        refused = services.actuator.post("/update", json={"allocations": {}}, headers=wrong)
    assert (refused.status_code, refused.json()) == (
        401,
        {"message": "expected the bearer token of this service"},
    )
    assert refused.headers["www-authenticate"] == "Bearer"


def test_a_token_that_cannot_be_read_is_a_failed_cycle_and_not_a_dead_loop() -> None:
    """A secret that is being replaced may be away for a moment."""

    def gone() -> str:
        raise LoopError("token file: expected a readable file, found No such file or directory")

    with serving_world(FakeBackend([server_view()]), token=gone) as services:
        with pytest.raises(BackendError, match="token file: expected a readable file"):
            services.backend.observe()
        asked = services.collector.get("/collect", headers={"authorization": "Bearer x"})
    assert (asked.status_code, "token file" in asked.json()["message"]) == (503, True)


class PausedBackend(FakeBackend):
    """A world of which nothing may be asked."""

    def apply(self, changes: Sequence[Change]) -> None:
        """Refuse to change."""
        raise PausedError(f"{len(changes)} changes: somebody paused it")


def test_a_pause_at_the_actuator_is_a_pause_and_no_failure() -> None:
    """Only the actuator may know of it: nothing has failed, and the record says why nothing is
    done.
    """
    busy = server_view(load=Load(rate_rpm=6000.0, in_tokens=512.0, out_tokens=256.0))
    with serving_world(PausedBackend([busy])) as services:
        controller = Controller(
            backend=services.backend,
            policy=make_policy("slo"),
            data=FixedData(system()),
            clock=ManualClock(),
        )
        for _ in range(4):
            record = controller.cycle(60.0)
            assert (record.error, record.applied, record.mode) == ("", False, "advise")
            assert record.paused == "1 changes: somebody paused it"
        assert services.actuator.get("/readyz").status_code == 200


class RefusingBackend(FakeBackend):
    """A world that takes no change of s2."""

    def apply(self, changes: Sequence[Change]) -> None:
        """Become what is asked, but for s2."""
        super().apply([one for one in changes if one.server != "s2"])
        if any(one.server == "s2" for one in changes):
            raise RefusedError("1 change failed", servers={"s2": "422 no"})


def test_what_one_server_is_refused_at_the_actuator_is_no_failure() -> None:
    """Three such cycles in a row made controller and actuator unready that looked after all the
    others.
    """
    busy = Load(rate_rpm=2100.0, in_tokens=512.0, out_tokens=256.0)
    behind = RefusingBackend([server_view(name, load=busy) for name in ("s1", "s2")])
    with serving_world(behind) as services:
        loop = Controller(
            backend=services.backend,
            policy=make_policy("slo"),
            data=FixedData(system()),
            clock=ManualClock(),
        )
        records = [loop.cycle(60.0 * number) for number in range(1, 5)]
        ready = services.actuator.get("/readyz").status_code
        page = services.actuator.get("/metrics").text
    assert [held_servers(one) for one in records] == [{"s2": "refused"}] * 4
    assert not any(one.failed for one in records)
    assert "s2: 422 no" in records[0].warnings
    assert behind.views["s1"].wanted > behind.views["s2"].wanted
    assert ready == 200
    assert 'inferno_held_servers{reason="refused"} 1.0' in page
