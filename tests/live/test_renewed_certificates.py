"""Certificates that are renewed in place while the loop runs: those of an API server, those of a
Prometheus, and our own that it asks for.
"""

from __future__ import annotations

import base64
import json
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import time

import pytest

from loop.backends.kube.client import ApiError, KubeClient, Timeouts, connect
from loop.backends.metrics.api import Api, PrometheusError, PrometheusSettings
from loop.clocks import MonotonicClock
from loop.errors import SpecError
from tests.live.certificates import TlsServer, tls_server

TIMEOUTS = Timeouts(connect_s=5.0, read_s=5.0, attempts=2, pause_s=0.01)


def test_an_api_server_with_a_new_certificate_is_known_by_the_present_kubeconfig(
    tmp_path: Path,
) -> None:
    """A cluster renews them once a year, and the loop would have to be started again for it."""
    config = tmp_path / "config"

    def write(server: TlsServer) -> None:
        ca = base64.b64encode(server.ca.read_bytes()).decode()
        cluster = {"server": server.url, "certificate-authority-data": ca}
        told = {
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        config.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **told}))

    with tls_server(tmp_path, b'{"kind": "PodList", "items": []}') as server:
        write(server)
        clock = MonotonicClock()
        calls = KubeClient(partial(connect, str(config)), clock=clock, timeouts=TIMEOUTS)
        with closing(calls):
            assert calls.pods() == []
            server.renew()
            with pytest.raises(ApiError, match="certificate verify failed"):
                calls.pods()
            write(server)
            assert calls.pods() == []


def test_a_prometheus_with_a_new_certificate_is_known_by_the_present_file(tmp_path: Path) -> None:
    """Until the file can be read again, those of before count."""
    with tls_server(tmp_path, b"{}") as server:
        settings = PrometheusSettings(url=server.url, ca_path=server.ca, method="GET")
        with closing(Api(settings, wall_s=time)) as api:
            assert api.ask("up", at_s=0.0).status == 200
            present = server.ca.read_text()
            server.ca.write_text("half of i")
            assert api.ask("up", at_s=0.0).status == 200
            server.ca.write_text(present)
            server.renew()
            assert api.ask("up", at_s=0.0).status == 200
            server.renew()
            server.ca.write_text(present)
            with pytest.raises(PrometheusError, match="CERTIFICATE_VERIFY_FAILED"):
                api.ask("up", at_s=0.0)


def test_a_prometheus_that_asks_for_a_certificate_is_shown_ours(tmp_path: Path) -> None:
    """Also once it is renewed; and a token is no certificate."""
    with tls_server(tmp_path, b"{}") as server:
        server.ask_clients()
        nobody = PrometheusSettings(url=server.url, ca_path=server.ca, method="GET")
        with closing(Api(nobody, wall_s=time)) as api, pytest.raises(PrometheusError):
            api.ask("up", at_s=0.0)
        ours = replace(nobody, cert_path=server.ca, key_path=server.key)
        with closing(Api(ours, wall_s=time)) as api:
            assert api.ask("up", at_s=0.0).status == 200
            server.renew()
            server.ask_clients()
            assert api.ask("up", at_s=0.0).status == 200


def test_a_certificate_of_ours_that_is_none_is_bad_input(tmp_path: Path) -> None:
    """It ends the program at its start with one line, and asks nobody for a password."""
    wrong = tmp_path / "tls.crt"
    wrong.write_text("not a certificate")
    for path in (wrong, tmp_path / "missing.crt"):
        with pytest.raises(SpecError, match="expected a certificate and its key"):
            Api(PrometheusSettings(url="https://x", cert_path=path), wall_s=time)
    with pytest.raises(SpecError, match="expected the certificate of this key"):
        Api(PrometheusSettings(url="https://x", key_path=wrong), wall_s=time)
