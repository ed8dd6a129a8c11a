"""A controller that is to be killed: `python -m tests.live.kube_apply URL NAMESPACE REPLICAS` asks
all for that many.

One patch at a time, so that whoever kills it does so between two.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace

from kubernetes import client

from inferno.cli.main import end_program
from loop.backends.kube.backend import KubeBackend
from loop.backends.kube.client import KubeClient, Timeouts
from loop.backends.kube.settings import KubeSettings
from loop.backends.metrics.source import LabelsOnly
from loop.clocks import MonotonicClock, date_now
from loop.types import Change, Why
from twin.kube.cluster import TOKEN

HANG = Timeouts(connect_s=300.0, read_s=300.0, total_s=300.0)


def backend_of(
    url: str, namespace: str, timeouts: Timeouts | None = None
) -> tuple[KubeBackend, KubeClient]:
    """Return a backend that watches *namespace*, one request at a time, and its client."""

    def connector() -> client.ApiClient:
        configuration = client.Configuration(host=url)
        configuration.api_key = {"authorization": f"Bearer {TOKEN}"}
        return client.ApiClient(configuration)

    clock = MonotonicClock()
    calls = KubeClient(connector, clock=clock, timeouts=timeouts or Timeouts())
    settings = KubeSettings(namespaces=(namespace,), parallel=1)
    return KubeBackend(calls, LabelsOnly(), clock=clock, epoch=date_now(), settings=settings), calls


def main(url: str, namespace: str, replicas: str) -> None:
    """Ask for *replicas* of every server."""
    backend, _ = backend_of(url, namespace)
    views = backend.observe().servers.values()
    backend.apply(
        [
            Change(
                server=view.name,
                pools=(replace(view.pools[0], replicas=int(replicas)),),
                why=Why(kind="remote"),
            )
            for view in views
        ]
    )


def leave(url: str, namespace: str) -> None:
    """End as the command does while a request is under way."""
    backend, calls = backend_of(url, namespace, HANG)
    threading.Thread(target=backend.observe, daemon=True).start()
    while not calls.calls:
        time.sleep(0.01)
    backend.close()
    end_program(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
