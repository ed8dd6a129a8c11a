"""A service as a process: it ends well and quickly when it is told to, by a terminal or by
Kubernetes.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.live.served import DEADLINE_S, eventually


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_a_service_within_a_second_and_with_success(
    sig: signal.Signals, repository: Path
) -> None:
    """Exit code 0: a supervisor must not count an ordered stop as a crash, nor wait until it has to
    kill.
    """
    command = [sys.executable, "-W", "error", "-m", "tests.live.serve_forever"]
    with subprocess.Popen(
        command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            eventually(lambda: answers(port), "the service answers")
            begin_s = time.monotonic()
            process.send_signal(sig)
            _, errors = process.communicate(timeout=DEADLINE_S)
            took_s = time.monotonic() - begin_s
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")
    # The interpreter needs a moment to end after the service has.
    assert took_s < 1.5


def answers(port: int) -> bool:
    """Tell whether the service on *port* of the loopback answers."""
    try:
        return httpx.get(f"http://localhost:{port}/healthz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
