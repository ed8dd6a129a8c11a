"""What a cycle costs on a cluster: requests, and CPU of observing and of asking for changes to a
tenth of the servers.

At 10, 200 and 1000 Deployments of three pods each, with labels alone and with Prometheus. The other
side is a process of its own that answers from memory, so the figures are those of the loop.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import process_time
from typing import Any

from kubernetes import client

from loop.backends.kube.backend import KubeBackend
from loop.backends.kube.client import KubeClient
from loop.backends.kube.settings import KubeSettings
from loop.backends.metrics.api import PrometheusSettings
from loop.backends.metrics.prometheus import Prometheus
from loop.backends.metrics.source import LabelsOnly, MetricsSource
from loop.clocks import MonotonicClock, date_now
from loop.types import Change, Snapshot, Why, one_pool

SIZES = (10, 200, 1000)
ROUNDS = 8  # threads that take turns: of three, on a busy machine, the least varied by half


def figures() -> Iterator[dict[str, Any]]:
    """Yield per size requests and CPU [ms] of observing (and with Prometheus), and of a tenth of
    changes.
    """
    for size in SIZES:
        with _server(size) as url:
            yield from _measured(size, url)


def _measured(size: int, url: str) -> Iterator[dict[str, Any]]:
    for word, with_prometheus in (("", False), ("_prometheus", True)):
        with _backend(url, with_prometheus=with_prometheus) as (backend, calls):
            seen = backend.observe()
            assert len(seen.servers) == size
            calls.calls.clear()
            yield _figure(f"observe_{size}{word}_ms", _least(backend.observe), "ms")
            if with_prometheus:
                assert all(view.load is not None for view in seen.servers.values())
                continue
            yield _figure(f"kube_observe_requests_{size}", calls.calls.total() / ROUNDS, "requests")
            changes = _changes(seen, count=size // 10)
            calls.calls.clear()
            cpu_ms = _least(partial(backend.apply, changes))
            yield _figure(f"kube_apply_cpu_{size}", cpu_ms, "ms")
            yield _figure(f"kube_apply_requests_{size}", calls.calls.total() / ROUNDS, "requests")


def _least(act: Any) -> float:
    """Return the least CPU of a few rounds [ms]."""
    times = []
    for _ in range(ROUNDS):
        gc.collect()
        begin_s = process_time()
        act()
        times.append(1000.0 * (process_time() - begin_s))
    return min(times)


def _figure(name: str, value: float, unit: str) -> dict[str, Any]:
    return {"name": name, "value": round(value, 1), "unit": unit}


def _changes(seen: Snapshot, *, count: int) -> Sequence[Change]:
    # The server forgets what it is asked for, so every round has the same to do.
    return [
        Change(
            server=view.name,
            pools=one_pool(accelerator="L4", replicas=view.wanted + 1, max_batch=view.max_batch),
            why=Why(kind="remote"),
        )
        for view in list(seen.servers.values())[:count]
    ]


@contextmanager
def _backend(url: str, *, with_prometheus: bool) -> Iterator[tuple[KubeBackend, KubeClient]]:
    def connector() -> client.ApiClient:
        configuration = client.Configuration(host=url)
        configuration.retries = False
        configuration.connection_pool_maxsize = 8
        return client.ApiClient(configuration)

    clock, epoch = MonotonicClock(), date_now()
    calls = KubeClient(connector, clock=clock)
    source: MetricsSource = LabelsOnly()
    if with_prometheus:
        source = Prometheus(PrometheusSettings(url=url, timeout_s=60.0))
    backend = KubeBackend(
        calls, source, clock=clock, epoch=epoch, settings=KubeSettings(namespaces=("infer",))
    )
    yield backend, calls
    backend.close()


@contextmanager
def _server(size: int) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.kube_server", str(size)]
    # It ends when its input does: also if this process is killed.
    with subprocess.Popen(  # noqa: S603 our own module
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            assert port, "the stand-in of the cluster did not start"
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
