"""A controller that is to be killed: `python -m tests.live.kube_apply URL NAMESPACE REPLICAS` asks all for that many.

One patch at a time, so that whoever kills it does so between two.
"""

from __future__ import annotations

import sys

from kubernetes import client

from loop.backends.kube import KubeBackend, KubeSettings
from loop.backends.kube_client import KubeClient
from loop.backends.metrics_source import LabelsOnly
from loop.clocks import MonotonicClock, date_now
from loop.types import Change
from twin.api.twincluster import TOKEN


def main(url: str, namespace: str, replicas: str) -> None:
    """Ask for *replicas* of every server."""

    def connector() -> client.ApiClient:
        configuration = client.Configuration(host=url)
        configuration.api_key = {"authorization": f"Bearer {TOKEN}"}
        return client.ApiClient(configuration)

    clock = MonotonicClock()
    backend = KubeBackend(
        KubeClient(connector, clock=clock),
        LabelsOnly(),
        clock=clock,
        epoch=date_now(),
        settings=KubeSettings(namespaces=(namespace,), parallel=1),
    )
    views = backend.observe().servers.values()
    backend.apply(
        [
            Change(server=view.name, accelerator=view.accelerator, replicas=int(replicas), max_batch=view.max_batch)
            for view in views
        ]
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
