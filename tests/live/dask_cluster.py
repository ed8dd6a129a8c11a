"""A Dask scheduler and workers on loopback, each a process of its own, for tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

DEADLINE_S = 60.0
COMMON = ("--host", "127.0.0.1", "--no-dashboard")
# What makes idle processes cheap; docs/dask.md says so.
QUIET = {
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "1s",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "10s",
}


class DaskCluster:
    """A scheduler at *address*; workers are started into *folder*, outside of the checkout."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self._folder = folder
        self.mark = folder / "mark"  # what `dask_work.kill_the_worker_once` leaves
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{port}"
        self._start(["distributed.cli.dask_scheduler", *COMMON, "--port", str(port)], folder)
        deadline_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline_s:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise TimeoutError(self.address)

    def start_worker(self, code: Path) -> subprocess.Popen[bytes]:
        """Start a worker that runs the code in the directory *code*."""
        words = ["distributed.cli.dask_worker", self.address, *COMMON, "--no-nanny"]
        words += ["--nthreads", "1", "--local-directory", str(self._folder)]
        return self._start(words, self._folder, PYTHONPATH=str(code), DASK_TEST_MARK=str(self.mark))

    def close(self) -> None:
        """End them all."""
        self._stack.close()

    def _start(self, words: list[str], folder: Path, **variables: str) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((folder / "log").open("ab"))
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=folder,
            env={**os.environ, **QUIET, **variables},
            stdout=log,
            stderr=log,
        )
        self._stack.callback(_end, process)
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(DEADLINE_S)


@contextmanager
def dask_cluster(folder: Path, *, workers: int, code: Path) -> Iterator[DaskCluster]:
    """Give a cluster of *workers* that run *code*."""
    cluster = DaskCluster(folder)
    try:
        for _ in range(workers):
            cluster.start_worker(code)
        yield cluster
    finally:
        cluster.close()
