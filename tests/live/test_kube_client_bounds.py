"""The client of an API server against answers that never end: each costs so many bytes and so much
time at most.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import unquote

import pytest

from loop.backends.kube.client import ApiError, KubeClient, Timeouts, connect
from loop.backends.metrics.pods import DirectPages
from loop.clocks import MonotonicClock
from loop.ports import Clock
from loop.signals.pods import ScrapedPod
from loop.testing.fakes import ManualClock
from tests.live.certificates import tls_server
from tests.live.served import allowed_s

Answer = Callable[[BaseHTTPRequestHandler], None]


def drips(handler: BaseHTTPRequestHandler) -> None:
    """Answer a byte now and then."""
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b"#")
        handler.wfile.flush()
        sleep(0.05)


def drips_head(handler: BaseHTTPRequestHandler) -> None:
    """Begin, and send a header now and then."""
    handler.flush_headers()
    for _ in range(60):
        handler.wfile.write(b"X-Slow: yes\r\n")
        sleep(0.1)


def goes_on_for_ever(handler: BaseHTTPRequestHandler) -> None:
    """Say that the answer will come, again and again."""
    for _ in range(60):
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        sleep(0.1)


def never_ends(handler: BaseHTTPRequestHandler) -> None:
    """Answer as fast as the other side reads."""
    handler.end_headers()
    while True:
        handler.wfile.write(b"vllm:request_success_total 5\n" * 40_000)


@contextmanager
def answering(answer: Answer, status: int | None = None) -> Iterator[ThreadingHTTPServer]:
    """Serve somebody who answers so; *answer* begins with the status if it is None."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 its name there
            pass

        def do_GET(self) -> None:
            if status is not None:
                self.send_response(status)
            try:
                answer(self)
            except OSError:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serving(
    answer: Answer, status: int | None, directory: Path, *, clock: Clock | None = None
) -> Iterator[KubeClient]:
    """Give a client of a server that answers so."""
    with answering(answer, status) as server:
        config = directory / "config"
        address = f"http://127.0.0.1:{server.server_port}"
        told = {
            "current-context": "x",
            "clusters": [{"name": "c", "cluster": {"server": address}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        }
        config.write_text(json.dumps(told))
        client = KubeClient(
            lambda: connect(str(config)),
            clock=clock or MonotonicClock(),
            timeouts=Timeouts(read_s=2.0, attempts=1),
        )
        with closing(client):
            yield client


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("answer", [drips, never_ends])
def test_a_page_of_a_pod_that_never_ends_costs_little(
    answer: Answer, status: int, tmp_path: Path
) -> None:
    """One pod would stop every cycle, or fill the memory, refusals included."""
    with serving(answer, status, tmp_path) as client:
        begin_s = monotonic()
        with pytest.raises(ApiError, match=r"the answer (is longer|takes too long)"):
            client.pod_page("infer", "a", port=8000, path="/metrics")
        assert monotonic() - begin_s < allowed_s(6.0)


def moves(handler: BaseHTTPRequestHandler) -> None:
    """Answer as a framework does whose page is mounted; tell who asks for what."""
    path = unquote(handler.path)
    there = path.endswith("/metrics/")
    handler.send_response(200 if there else 307)
    if not there:
        handler.send_header("Location", f"{path}/")
    body = path.encode() if there else b""
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@pytest.mark.parametrize("tls", [False, True])
def test_a_page_that_stands_behind_a_further_slash_is_found(tmp_path: Path, *, tls: bool) -> None:
    """So did older engines; Prometheus goes there by itself. One that speaks HTTPS is named so."""
    with serving(moves, None, tmp_path) as client:
        told = client.pod_page("infer", "a", port=8000, path="/metrics", tls=tls)
    named = "https:a:8000" if tls else "a:8000"
    assert told == f"/api/v1/namespaces/infer/pods/{named}/proxy/metrics/"


def pod_at(port: int, *, tls: bool) -> ScrapedPod:
    """Return a pod of this machine that shows its page at *port*."""
    return ScrapedPod(
        name="a",
        namespace="infer",
        phase="ready",
        since_s=0.0,
        created_s=0.0,
        address="127.0.0.1",
        ports=(port,),
        tls_ports=frozenset({port} if tls else ()),
    )


def test_a_pod_is_asked_at_its_address_by_what_it_speaks(tmp_path: Path) -> None:
    """Its certificate is for no address, and signed by nobody that one knows."""
    with closing(DirectPages()) as pages:
        with answering(moves) as server:
            pod = pod_at(server.server_port, tls=False)
            assert pages.page(pod, *pod.ports) == "/metrics/"
        with tls_server(tmp_path, b"a page") as secure:
            pod = pod_at(secure.http.server_port, tls=True)
            assert pages.page(pod, *pod.ports) == "a page"


@pytest.mark.parametrize(
    ("answer", "status"), [(drips, 200), (drips_head, 200), (goes_on_for_ever, None)]
)
def test_a_list_that_drips_is_given_up(answer: Answer, status: int | None, tmp_path: Path) -> None:
    """What lies between the loop and the API server may stall as well, at any byte."""
    begin_s = monotonic()
    with serving(answer, status, tmp_path) as client:
        with pytest.raises(ApiError, match="takes too long"):
            client.deployments()
        assert monotonic() - begin_s < allowed_s(6.0)


def in_parts(parts: Sequence[tuple[int, object]]) -> tuple[Answer, list[str]]:
    """Return what answers list requests with *parts*, one after the other, and what was asked."""
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        status, told = parts[len(asked)]
        asked.append(handler.path)
        body = json.dumps(told).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer, asked


def part(name: str, *, rest: str = "") -> tuple[int, object]:
    """Return a part of a list with one pod in it, and what asks for the rest."""
    # Its own words must not be taken for those of the list.
    pod = {"metadata": {"name": name, "annotations": {"continue": "no"}}, "continue": "neither"}
    return 200, {"kind": "PodList", "metadata": {"continue": rest}, "items": [pod]}


EXPIRED = 410, {"kind": "Status", "message": "The provided continue parameter is too old"}


@pytest.mark.parametrize(
    ("parts", "requests"),
    [
        ([part("a")], 1),
        ([part("a", rest="x"), part("b", rest="y"), part("c")], 3),
        ([part("a", rest="x"), EXPIRED, part("a", rest="z"), part("b")], 4),
    ],
)
def test_a_list_in_parts_is_read_whole(
    parts: Sequence[tuple[int, object]], requests: int, tmp_path: Path
) -> None:
    """What a proxy leaves for later is no less there: GPUs of pods were free that were not. A list
    that has become too old is begun anew.
    """
    answer, asked = in_parts(parts)
    with serving(answer, None, tmp_path) as client:
        names = [pod["metadata"]["name"] for pod in client.pods("infer")]
    assert names == ["a", "b", "c"][: requests if requests < 4 else 2]
    assert len(asked) == requests


def test_a_list_of_none_may_be_null(tmp_path: Path) -> None:
    """Servers in Go write one so; what is no list at all is none of nothing."""
    answer, _ = in_parts([(200, {"kind": "PodList", "items": None}), (200, {"items": None})])
    with serving(answer, None, tmp_path) as client:
        assert client.pods("infer") == []
        with pytest.raises(ApiError, match="expected a list"):
            client.pods("infer")


def test_the_clock_of_the_cluster_is_known_where_an_answer_does_not_tell_it(
    tmp_path: Path,
) -> None:
    """By our own clock pods would be hours old for a cycle. One that was kept says for how long."""
    headers = list[tuple[str, str]]()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response_only(200)
        for header in headers:
            handler.send_header(*header)
        body = b'{"kind": "PodList", "items": []}'
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with serving(answer, None, tmp_path) as client:
        client.pods("infer")
        assert client.take_epoch_s() is None
        found = []
        for told in (
            {"Date": formatdate(1e9, usegmt=True)},
            {},
            {"Date": formatdate(1e9 - 60.0, usegmt=True), "Age": "60"},
            {"Date": "yesterday", "Age": "x"},
        ):
            headers[:] = told.items()
            client.pods("infer")
            found.append(client.take_epoch_s())
    assert found == [pytest.approx(1e9, abs=allowed_s(6.0))] * 4


def test_a_list_whose_parts_never_end_is_given_up(tmp_path: Path) -> None:
    """Each part comes in time: a cycle would wait for a thousand of them, hours at the worst."""
    clock, asked = ManualClock(), list[str]()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        clock.time_s += 20.0
        asked.append(handler.path)
        body = json.dumps(part("a", rest=f"t{len(asked)}")[1]).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with (
        serving(answer, None, tmp_path, clock=clock) as client,
        pytest.raises(ApiError, match="list pods: its parts take too long"),
    ):
        client.pods("infer")
    assert len(asked) == 6


def test_a_list_that_always_expires_is_a_failure(tmp_path: Path) -> None:
    """Half of the pods are no answer."""
    answer, _ = in_parts([part("a", rest="x"), EXPIRED] * 2)
    with (
        serving(answer, None, tmp_path) as client,
        pytest.raises(ApiError, match="410 The provided continue parameter is too old"),
    ):
        client.pods("infer")
