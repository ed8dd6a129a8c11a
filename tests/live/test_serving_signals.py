"""A service as a process: it ends well and quickly when it is told to, by a terminal or by
Kubernetes.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.live.served import DEADLINE_S, allowed_s, eventually


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_a_service_within_a_second_and_with_success(
    sig: signal.Signals, repository: Path
) -> None:
    """Exit code 0: a supervisor must not count an ordered stop as a crash, nor wait until it has to
    kill.
    """
    with started(repository) as (process, port):
        eventually(lambda: answers(port), "the service answers")
        begin_s = time.monotonic()
        process.send_signal(sig)
        _, errors = process.communicate(timeout=DEADLINE_S)
        took_s = time.monotonic() - begin_s
    assert (process.returncode, errors) == (0, "")
    # The interpreter needs a moment to end after the service has.
    assert took_s < allowed_s(1.5)


def test_a_signal_ends_with_success_as_soon_as_the_port_is_open(repository: Path) -> None:
    """A supervisor sees the port, and may change its mind before the first request."""
    with started(repository) as (process, _port):
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0


@contextmanager
def started(repository: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a service, and return it and its port as soon as that is open."""
    command = [sys.executable, "-W", "error", "-m", "tests.live.serve_forever"]
    with subprocess.Popen(
        command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def answers(port: int) -> bool:
    """Tell whether the service on *port* of the loopback answers."""
    try:
        return httpx.get(f"http://localhost:{port}/healthz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
