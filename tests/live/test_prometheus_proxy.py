"""A Prometheus that is reached through an HTTP proxy."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import time

import pytest

from loop.backends.metrics.api import Api, PrometheusError, PrometheusSettings
from loop.errors import SpecError
from tests.live.certificates import serving, tls_server

BYTES = 2**16


class Proxy:
    """A proxy on the loopback. It answers what is asked for by HTTP itself, lets TLS through, and
    keeps what it was *asked* and by whom.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append((self.path, self.headers.get("Proxy-Authorization", "")))
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def do_CONNECT(self) -> None:
                asked.append((self.path, self.headers.get("Proxy-Authorization", "")))
                host, _, port = self.path.rpartition(":")
                with socket.create_connection((host, int(port)), timeout=5.0) as target:
                    self.send_response(200)
                    self.end_headers()
                    back = threading.Thread(target=_pass_on, args=(target, self.connection))
                    back.start()
                    _pass_on(self.connection, target)
                    back.join()
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.http.server_address[1]}"


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(BYTES):
            target.sendall(piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def proxy() -> Iterator[Proxy]:
    """Run a proxy."""
    made = Proxy()
    with serving(made.http):
        yield made


def test_a_prometheus_behind_a_proxy_is_asked_through_it(tmp_path: Path) -> None:
    """A store of a cloud is reached so from within many clusters; proxies of the environment are
    none of ours, for the API server is not behind them.
    """
    with proxy() as one, tls_server(tmp_path, b"{}") as server:
        told = f"http://me:secret@{one.address}"
        far = PrometheusSettings(url="http://prometheus.invalid:9090", method="GET", proxy=told)
        near = PrometheusSettings(url=server.url, method="GET", proxy=told, ca_path=server.ca)
        for settings in (far, near):
            with closing(Api(settings, wall_s=time)) as api:
                assert api.ask("up", at_s=0.0).body == b"{}"
        assert "secret" not in repr(far)
    own = f"Basic {base64.b64encode(b'me:secret').decode()}"
    assert [of for _, of in one.asked] == [own, own]
    assert one.asked[0][0].startswith("http://prometheus.invalid:9090/api/v1/query?")
    assert f"https://{one.asked[1][0]}" == server.url


def test_a_proxy_that_is_away_is_told_in_a_line() -> None:
    """It is no Prometheus that has nothing."""
    away = PrometheusSettings(url="http://prometheus.invalid:9090", proxy="http://127.0.0.1:1")
    with closing(Api(away, wall_s=time)) as api, pytest.raises(PrometheusError, match="Connect"):
        api.ask("up", at_s=0.0)


@pytest.mark.parametrize("url", ["proxy:3128", "socks5://me:secret@proxy", "http://"])
def test_a_proxy_that_is_none_is_bad_input(url: str) -> None:
    """And its password stays where it is."""
    with pytest.raises(SpecError, match="expected a URL such as") as caught:
        Api(PrometheusSettings(url="http://prometheus", proxy=url), wall_s=time)
    assert "secret" not in str(caught.value)
