"""A real Prometheus for tests, on a free port of the loopback: the one on PATH, else the one that
make test unpacks.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

DEADLINE_S = 30.0
ROOT = Path(__file__).resolve().parents[2]
UNPACKED = ROOT / ".venv" / "prometheus" / "usr" / "bin"


@dataclass(kw_only=True)
class PrometheusServer:
    """A running Prometheus."""

    url: str
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """Stop it, as if it had crashed."""
        self.process.kill()
        self.process.wait(DEADLINE_S)


def program(name: str = "prometheus") -> str:
    """Return the path of Prometheus, or of its promtool; skip the test, saying why, where there is
    none.
    """
    unpacked = UNPACKED / name
    found = shutil.which(name) or (str(unpacked) if unpacked.exists() else None)
    if found is None:
        pytest.skip(f"no {name} on PATH, and scripts/get-prometheus.sh could not get one")
    return found


def backfill(folder: Path, openmetrics: Path) -> None:
    """Make blocks of the past in the data of a Prometheus that is to run in *folder*."""
    tool = program("promtool")
    made = subprocess.run(
        [tool, "tsdb", "create-blocks-from", "openmetrics", openmetrics, folder / "data"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-2000:]


@contextmanager
def prometheus_server(
    folder: Path, twin: str = "", *, interval_ms: int = 500, controller: str = "", rules: str = ""
) -> Iterator[PrometheusServer]:
    """Run a Prometheus that scrapes the pods of *twin* (its URL; "": none), as `inferno twin serve`
    offers them, and a *controller* (HOST:PORT) if there is one, and evaluates the *rules* of a
    file; its data are in *folder*.
    """
    command = program()
    every = {"scrape_interval": f"{interval_ms}ms", "scrape_timeout": f"{interval_ms}ms"}
    pods = {"url": f"{twin}/sd/pods", "refresh_interval": "1s"}
    config = {
        "global": {**every, "evaluation_interval": "1s"},
        "rule_files": [rules] if rules else [],
        "scrape_configs": [
            {"job_name": "twin", "http_sd_configs": [pods] * bool(twin)},
            {"job_name": "loop", "static_configs": [{"targets": [controller] * bool(controller)}]},
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    url = f"127.0.0.1:{_free_port()}"
    process = subprocess.Popen(
        [
            command,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={url}",
            "--log.level=error",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server = PrometheusServer(url=f"http://{url}", process=process)
    try:
        _await_ready(server)
        yield server
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _await_ready(server: PrometheusServer) -> None:
    end_s = time.monotonic() + DEADLINE_S
    with httpx.Client(trust_env=False, verify=False) as client:
        while True:
            assert server.process.poll() is None, "Prometheus has ended"
            assert time.monotonic() < end_s, "Prometheus does not become ready"
            try:
                if client.get(f"{server.url}/-/ready").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.02)
