"""A server whose answer never begins: it costs so much time at most, whoever asks it."""

from __future__ import annotations

import gzip
import socket
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from time import monotonic, sleep

import httpx
import pytest

from loop.backends.deadline import Deadline
from loop.backends.fetch import NOTHING_KEPT, Bounds, FetchError, fetch, retry_after_s
from loop.backends.http_client import ServiceClient
from loop.errors import BackendError
from tests.live.served import allowed_s

TOTAL_S = 0.3


@pytest.fixture
def address() -> Iterator[str]:
    """Return the address of a server that sends a header now and then, and no other end of its
    head.
    """
    over = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not over.is_set():
                    connection.sendall(b"X-Slow: yes\r\n")
                    sleep(0.05)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    over.set()
    listening.close()
    thread.join(5.0)


def fetched(address: str) -> None:
    """Fetch, as pages of pods and Prometheus are asked."""
    bounds = Bounds(total_s=TOTAL_S, bytes_max=1000)
    with (
        httpx.Client(limits=NOTHING_KEPT) as client,
        pytest.raises(FetchError, match="longer than"),
    ):
        fetch(client, "GET", address, bounds=bounds)


def asked(address: str) -> None:
    """Ask one of the other services."""
    with (
        closing(ServiceClient("actuator", address, timeout_s=TOTAL_S)) as client,
        pytest.raises(BackendError, match=r"no whole answer within 0\.3 s"),
    ):
        client.get("x", phase="observe")


@pytest.mark.parametrize("ask", [fetched, asked])
def test_a_head_that_drips_is_given_up(ask: Callable[[str], None], address: str) -> None:
    """Each read ends in time, and the answer never would."""
    begin_s = monotonic()
    ask(address)
    assert monotonic() - begin_s < allowed_s(3.0)


def answering(*, coding: str, body: bytes) -> httpx.Client:
    """Return a client that gets *body* as it would come over the network."""

    def answer(_: httpx.Request) -> httpx.Response:
        pieces = (body[at : at + 1000] for at in range(0, len(body), 1000))
        return httpx.Response(200, headers={"Content-Encoding": coding}, content=pieces)

    return httpx.Client(transport=httpx.MockTransport(answer))


BOUNDS = Bounds(total_s=5.0, bytes_max=2**16)
TOLD = b"up 1\n" * 1000


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("", TOLD),
        ("identity", TOLD),
        ("gzip", gzip.compress(TOLD)),
        ("GZIP ", gzip.compress(TOLD)),
        ("deflate", zlib.compress(TOLD)),
    ],
)
def test_an_answer_may_be_packed(coding: str, body: bytes) -> None:
    """Prometheus packs what is long."""
    with answering(coding=coding, body=body) as client:
        assert fetch(client, "GET", "http://x", bounds=BOUNDS).body == TOLD


def test_only_what_can_be_unpacked_is_asked_for() -> None:
    """Where Python has Brotli, httpx asks for that, too: each such answer would be refused."""
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["Accept-Encoding"])
        return httpx.Response(200)

    headers = {"Accept-Encoding": "gzip, br, zstd"}
    with httpx.Client(transport=httpx.MockTransport(answer), headers=headers) as client:
        fetch(client, "GET", "http://x", bounds=BOUNDS)
    assert asked == ["gzip, deflate"]


def test_an_answer_without_a_body_may_be_called_packed() -> None:
    """Some proxies say so of all that they pass on."""
    with answering(coding="gzip", body=b"") as client:
        assert fetch(client, "GET", "http://x", bounds=BOUNDS).body == b""


BOMB = gzip.compress(bytes(2**24))


@pytest.mark.parametrize(
    ("coding", "body", "line"),
    [
        ("gzip", BOMB, "longer than"),
        (
            "gzip, gzip",
            gzip.compress(BOMB),
            "expected an answer packed by gzip, found 'gzip, gzip'",
        ),
        ("br", TOLD, "expected an answer packed by gzip, found 'br'"),
        ("gzip", TOLD, "expected an answer packed by gzip"),
        ("gzip", gzip.compress(TOLD)[:-20], "found a part of one"),
    ],
)
def test_an_answer_that_stands_for_more_than_there_may_be_is_given_up(
    coding: str, body: bytes, line: str
) -> None:
    """3 KB, packed twice, took 4 GB of memory and 17 s of a cycle."""
    with answering(coding=coding, body=body) as client:
        tracemalloc.start()
        with pytest.raises(FetchError, match=line):
            fetch(client, "GET", "http://x", bounds=BOUNDS)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 4 * 2**20


def test_a_deadline_that_is_over_ends_what_comes_later_and_one_that_ended_nothing() -> None:
    """Connections go back to a pool, where others use them."""
    for over in (True, False):
        here, there = socket.socketpair()
        with here, there:
            deadline = Deadline()
            if not over:
                deadline.watch(here)
                deadline.end()
            deadline.expire()
            if over:
                deadline.watch(here)
            else:
                there.sendall(b"x")
            here.setblocking(False)
            assert here.recv(1) == (b"" if over else b"x")


@pytest.mark.parametrize(
    ("told", "wait_s"),
    [
        ({}, 0.0),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "-7"}, 0.0),
        ({"Retry-After": "9" * 5000}, 0.0),
        ({"Retry-After": "soon"}, 0.0),
        ({"Retry-After": "Sun, 29 Nov 2026 07:02:00 GMT"}, 0.0),
        (
            {
                "Date": "Sun, 29 Nov 2026 07:00:00 GMT",
                "Retry-After": "Sun, 29 Nov 2026 07:02:00 GMT",
            },
            120.0,
        ),
        (
            {
                "Date": "Sun, 29 Nov 2026 07:00:00 GMT",
                "Retry-After": "Sun, 29 Nov 2026 06:00:00 GMT",
            },
            0.0,
        ),
        (
            {
                "Date": "Sun, 29 Nov 2026 07:00:00",
                "Retry-After": "Sun, 29 Nov 2026 07:02:00 GMT",
            },
            0.0,
        ),
    ],
)
def test_what_an_answer_says_of_when_to_come_back(told: dict[str, str], wait_s: float) -> None:
    """A proxy says a date where a server says seconds; both are bounded by who waits."""
    assert retry_after_s(httpx.Headers(told)) == wait_s
