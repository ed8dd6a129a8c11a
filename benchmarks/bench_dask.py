"""What a Dask cluster costs: the CPU of a sweep on processes of this machine, over that of the same
sweep on two workers, with client and scheduler.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DASK = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
WORKER = [sys.executable, "-m", "distributed.cli.dask_worker"]
WORKERS = 2
# In rounds one after the other, so that a machine that is busy for a while slows both.
ROUNDS, SEEDS = 2, 20
HOURS = 0.75  # more than 2 CPU-s a run
LISTENS_S = 60.0
# As in yamls/dask/dask.yaml.
QUIET = {
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "1s",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "10s",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
}


def figures() -> Iterator[dict[str, Any]]:
    """Yield the figure."""
    local_s = cluster_s = 0.0
    for number in range(ROUNDS):
        seed = 1 + number * SEEDS
        local_s += spent(swept(seed, "--jobs", str(WORKERS)))
        cluster_s += on_a_cluster(seed)
    yield {"name": "dask_efficiency", "value": round(local_s / cluster_s, 4), "unit": "ratio"}
    runs = ROUNDS * SEEDS
    yield {"name": "dask_run_cpu_s", "value": round(local_s / runs, 3), "unit": "s"}


def swept(seed: int, *where: str) -> list[str]:
    """Return the command of a sweep over SEEDS seeds from *seed* on."""
    words = ["sweep", "--data", str(ROOT / "sample-data" / "small"), "--seed", str(seed)]
    words += ["--seeds", str(SEEDS), "--hours", str(HOURS), "--engine", "plain", "--quiet"]
    return [sys.executable, "-m", "inferno", *words, *where]


def on_a_cluster(seed: int) -> float:
    """Return the CPU of the sweep on a cluster of its own, everything included [s]."""
    with tempfile.TemporaryDirectory() as folder, closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        address = f"tcp://127.0.0.1:{port}"
        begin_s = children_s()
        options = ["--host", "127.0.0.1", "--no-dashboard"]
        with started([*DASK, *options, "--port", str(port)]):
            wait_for(port)
            worker = [*WORKER, address, *options, "--nthreads", "1", "--local-directory", folder]
            worker += ["--no-nanny"]
            with started(worker), started(worker):
                spent(swept(seed, "--executor", "dask", "--scheduler", address))
        return children_s() - begin_s


def spent(words: Sequence[str]) -> float:
    """Run *words*; return the CPU time of it and its children [s]."""
    begin_s = children_s()
    with tempfile.TemporaryDirectory() as folder:
        out = subprocess.DEVNULL
        subprocess.run([*words, "--out", folder], check=True, cwd=ROOT, stdout=out)  # noqa: S603 our own command
    return children_s() - begin_s


def children_s() -> float:
    """Return the CPU time of the children that have ended, theirs included [s]."""
    times = os.times()
    return times.children_user + times.children_system


@contextmanager
def started(words: Sequence[str]) -> Iterator[None]:
    """Run *words* beside the block."""
    nothing, environment = subprocess.DEVNULL, {**os.environ, **QUIET}
    with subprocess.Popen(  # noqa: S603 Dask's own command
        words, stdout=nothing, stderr=nothing, cwd=ROOT, env=environment
    ) as process:
        try:
            yield
        finally:
            process.terminate()


def wait_for(port: int) -> None:
    """Wait until something listens at *port*."""
    deadline_s = time.monotonic() + LISTENS_S
    while time.monotonic() < deadline_s:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(f"nothing listens at {port}")
