"""The door of every service and of the twin: names, other sites, slow and endless senders."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass

import httpx
import pytest

from loop.services.door import DoorSettings, own_names
from loop.services.serving import connections_max
from loop.testing.fakes import FakeBackend, server_view
from tests.live.optimizer_served import DEADLINE_S, plain_client
from tests.live.test_every_service import VERBS, serving_one
from tests.live.twin_served import serving_twin

NAMES = (*VERBS, "twin")
PODS = "/api/v1/namespaces/infer/pods"


@dataclass(frozen=True, kw_only=True)
class House:
    """Something that is served: its client, a verb that changes something, and how the world would
    show that.
    """

    client: httpx.Client
    method: str
    path: str
    world: FakeBackend

    @property
    def address(self) -> tuple[str, int]:
        """Return where it listens."""
        assert self.client.base_url.port is not None
        return self.client.base_url.host, self.client.base_url.port

    def ask(self, **headers: str) -> httpx.Response:
        """Ask with *headers*, for nothing much."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.request(self.method, self.path, headers=named, content=b"{}")


@contextmanager
def house(name: str, door: DoorSettings | None = None) -> Iterator[House]:
    """Serve *name* behind *door*."""
    world = FakeBackend([server_view()])
    with ExitStack() as stack:
        if name == "twin":
            client = stack.enter_context(serving_twin(door=door)).http
            yield House(client=client, method="POST", path=PODS, world=world)
        else:
            client = stack.enter_context(serving_one(name, world, door=door))
            method, path = VERBS[name]
            yield House(client=client, method=method, path=path, world=world)


@pytest.fixture(params=NAMES)
def served(request: pytest.FixtureRequest) -> Iterator[House]:
    """Serve each in turn."""
    with house(request.param) as found:
        yield found


EVIL_HOSTS = (
    "evil.example",
    "evil.example:3300",
    "localhost.evil.example",
    "0.0.0.0",
    "10.1.2.3",
    "[::1].x",
    "[::1]:3300@evil.example",
    "localhost:3300@evil.example",
    "localhost:evil.example",
)
EVIL_SITES = (
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "https://localhost"},
    {"sec_fetch_site": "cross-site"},
    {"sec_fetch_site": "same-site"},
)


def test_a_name_that_is_not_ours_is_refused(served: House) -> None:
    """A page of another site may let its own name mean this machine, and read what we answer."""
    for host in EVIL_HOSTS:
        answer = served.ask(host=host)
        assert answer.status_code == 403, host
        assert answer.json()["message"].startswith("host: expected a name of this service, found ")
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]:80", "localhost."):
        assert served.ask(host=host).status_code != 403, host
    assert served.world.applied == []


def test_a_request_of_another_site_is_refused(served: House) -> None:
    """A page can send a POST of plain text to any address; its browser says where it comes from."""
    for headers in EVIL_SITES:
        answer = served.ask(**headers, content_type="text/plain")
        assert answer.status_code == 403, headers
    ours = str(served.client.base_url).rstrip("/")
    assert served.ask(origin=ours, sec_fetch_site="same-origin").status_code != 403


def test_a_get_that_runs_a_cycle_is_as_closed() -> None:
    """An image in a page is enough to send it."""
    with house("controller") as served:
        for headers in ({"sec-fetch-site": "cross-site"}, {"host": "evil.example"}):
            assert served.client.get("/invoke", headers=headers).status_code == 403
        page = served.client.get("/metrics").text
    assert 'inferno_cycles_total{outcome="ok"} 0.0' in page


def test_probes_and_scrapes_are_open_to_all(served: House) -> None:
    """A kubelet and Prometheus come by addresses that nobody here knows."""
    evil = {"host": "evil.example", "origin": "http://evil.example", "sec-fetch-site": "cross-site"}
    for path in ("/healthz", "/readyz"):
        assert served.client.get(path, headers=evil).status_code == 200
    assert served.client.get("/metrics", headers=evil).status_code != 403


def test_names_are_those_of_the_machine_the_pod_and_the_service() -> None:
    """In a cluster it is called by any of them; on the loopback by none."""
    assert own_names("127.0.0.1", service="s", namespace="n", pod_ip="10.0.0.1") == {"127.0.0.1"}
    names = own_names("0.0.0.0", service="s", namespace="n", pod_ip="10.0.0.1", others=["Other."])
    assert names == {
        socket.gethostname().lower(),
        "10.0.0.1",
        "s",
        "s.n",
        "s.n.svc",
        "s.n.svc.cluster.local",
        "other",
    }


# --- slow and endless senders -------------------------------------------------------------------


HASTY = DoorSettings(head_timeout_s=1.0, body_timeout_s=1.0, bytes_max=150_000, connections_max=8)


@pytest.fixture(params=NAMES)
def hasty(request: pytest.FixtureRequest) -> Iterator[House]:
    """Serve each behind a door with short timeouts."""
    with house(request.param, HASTY) as found:
        yield found


def sent(served: House, text: str) -> socket.socket:
    """Open a connection and send *text* on it."""
    sock = socket.create_connection(served.address, timeout=DEADLINE_S)
    sock.sendall(text.encode())
    return sock


def answer_on(sock: socket.socket) -> bytes:
    """Return all that comes until the other side closes."""
    found = bytearray()
    with suppress(ConnectionResetError):
        while part := sock.recv(65536):
            found += part
    return bytes(found)


def head(served: House, length: int) -> str:
    """Return the head of a request with a body of *length* bytes."""
    lines = [f"POST {served.path} HTTP/1.1", "Host: localhost", f"Content-Length: {length}"]
    return "\r\n".join([*lines, "", ""])


@pytest.mark.parametrize("text", ["", "POST /invoke HTT", "POST / HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_head_that_does_not_come_ends_its_connection(text: str) -> None:
    """Each connection costs a file, and there are few."""
    with house("actuator", HASTY) as served, closing(sent(served, text)) as slow:
        assert answer_on(slow) == b""


def test_a_body_that_does_not_come_is_refused_and_changes_nothing(hasty: House) -> None:
    """Whoever sends a byte a minute must not hold a thread or a buffer."""
    begin_s = time.monotonic()
    with closing(sent(hasty, head(hasty, 1000) + "{")) as slow:
        found = answer_on(slow)
    assert found.startswith(b"HTTP/1.1 408 "), found
    assert b"body: expected within 1 s" in found
    assert time.monotonic() - begin_s < DEADLINE_S / 2
    assert hasty.client.get("/healthz").status_code == 200
    assert hasty.world.applied == []


def test_bodies_that_are_half_sent_take_a_bounded_memory(hasty: House) -> None:
    """Forty of them took a gigabyte; those beyond the bound are told to come again."""
    half = "x" * 50_000
    with ExitStack() as stack:
        slow = [
            stack.enter_context(closing(sent(hasty, head(hasty, 60_000) + half))) for _ in range(5)
        ]
        statuses = sorted(answer_on(each)[9:12] for each in slow)
    assert statuses[-1] == b"503"
    assert set(statuses) <= {b"408", b"503"}
    assert hasty.ask().status_code not in {408, 503}, "what was given up is free again"


def test_a_body_without_an_end_is_refused(served: House) -> None:
    """The sender decides how much comes, and we how much is kept."""
    piece = b"x" * 2**20

    def endless() -> Iterator[bytes]:
        while True:
            yield piece

    with suppress(httpx.TransportError):
        answer = served.client.request("POST", served.path, content=endless())
        assert answer.status_code in {405, 413, 503}
    assert served.client.get("/healthz").status_code == 200


SLOW = {
    "heads": "GET /",
    "bodies": "POST /invoke HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nab",
}


@pytest.mark.parametrize("text", SLOW.values(), ids=SLOW)
def test_slow_clients_do_not_keep_probes_out(hasty: House, text: str) -> None:
    """A probe that is not answered makes Kubernetes restart what works. Those that drip have the
    latest word, and yet are the first to go.
    """
    with ExitStack() as stack:
        slow: list[socket.socket] = []
        for _ in range(3):
            for _ in range(2 * HASTY.connections_max):
                slow.append(stack.enter_context(closing(sent(hasty, text))))
            for each in slow:
                with suppress(OSError):
                    each.sendall(b"a")
            with plain_client(hasty.client.base_url) as probe:
                assert probe.get("/healthz").status_code == 200


def test_a_connection_that_has_just_come_outlives_bodies_that_have_not() -> None:
    """The head of a probe takes a moment as well, in which others may come."""
    with house("actuator", HASTY) as served, ExitStack() as stack:
        few = HASTY.connections_max - 2
        for _ in range(few):
            stack.enter_context(closing(sent(served, SLOW["bodies"])))
        probe = stack.enter_context(closing(sent(served, "GET /healthz HTTP/1.1\r\n")))
        for _ in range(few - 1):
            stack.enter_context(closing(sent(served, SLOW["bodies"])))
        probe.sendall(b"Host: localhost\r\nConnection: close\r\n\r\n")
        assert answer_on(probe).startswith(b"HTTP/1.1 200 ")


def test_there_are_fewer_connections_than_files() -> None:
    """Out of files, a service can read neither its token nor its data."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert 4 <= connections_max(256) <= 256
    assert connections_max(10**9) < files
