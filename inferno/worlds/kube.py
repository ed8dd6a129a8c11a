"""Makes the Kubernetes backend that the settings name: client, source of metrics, capacity, and a
Lease if wanted.
"""

from __future__ import annotations

import argparse
import math
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from loop.backends.kube.backend import KubeBackend, KubeSettings
from loop.backends.kube.client import KubeClient, connect
from loop.backends.kube.lease import Lease, LeaseSettings
from loop.backends.metrics.pods import DirectPages, PodMetrics, ProxiedPages
from loop.backends.metrics.prometheus import Prometheus, PrometheusSettings
from loop.backends.metrics.source import LabelsOnly, MetricsSource
from loop.clocks import MonotonicClock, date_now
from loop.errors import SpecError
from loop.settings import Settings
from loop.signals.window import WindowSettings

METRICS = ("prometheus", "pods", "labels")
STALE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCluster:
    """A cluster to steer: its backend, the clock of the run, the date of its second 0, and the
    Lease, if any.
    """

    backend: KubeBackend
    clock: MonotonicClock
    epoch: datetime
    lease: Lease | None


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that talks to a cluster."""
    parser.add_argument(
        "--kubeconfig", help="kube: which cluster ($KUBECONFIG, else the pod's own or the default)"
    )
    parser.add_argument(
        "--namespace", help="kube: watch these, separated by commas ($WATCH_NAMESPACE, else all)"
    )
    parser.add_argument(
        "--prometheus", metavar="URL", help="kube: where it is ($INFERNO_PROMETHEUS_URL)"
    )
    parser.add_argument(
        "--matchers", default="", help='prometheus: further ones for its query, as cluster="east"'
    )
    parser.add_argument(
        "--window",
        metavar="S",
        help="kube: figures are over so long ($INFERNO_METRICS_WINDOW, else 60)",
    )
    parser.add_argument(
        "--pages",
        choices=("proxy", "direct"),
        default="proxy",
        help="pods: by the API server (default), or pod by pod",
    )
    parser.add_argument(
        "--capacity",
        choices=("data", "nodes"),
        default="data",
        help="kube: GPUs of the data files, or of the nodes",
    )
    parser.add_argument(
        "--events", action="store_true", help="kube: tell of each change by an Event"
    )
    parser.add_argument(
        "--lease", metavar="NAMESPACE/NAME", help="kube: act only while holding this Lease"
    )


def cluster_arguments(options: argparse.Namespace) -> dict[str, str | None]:
    """Return what of *options* wins over the environment, for read_settings."""
    return {
        "kubeconfig": options.kubeconfig,
        "namespaces": options.namespace,
        "prometheus_url": options.prometheus,
        "metrics_window_s": options.window,
    }


def open_cluster(
    told: Settings,
    options: argparse.Namespace,
    *,
    types: Mapping[str, str],
    metrics: str | None,
    stack: ExitStack,
) -> LiveCluster:
    """Return the cluster that *told* and *options* name; *stack* closes it. Raise SpecError where
    there is none.

    metrics None: Prometheus where its address is known, else the pods themselves. types: by
    accelerator name.
    """
    if not (math.isfinite(options.speed) and options.speed > 0):
        raise SpecError(f"speed: expected a number > 0, found {options.speed}")
    clock, epoch = MonotonicClock(), date_now()
    client = KubeClient(partial(connect, told.kubeconfig), clock=clock)
    lease = _lease(options.lease, client, clock=clock, epoch=epoch) if options.lease else None
    backend = KubeBackend(
        client,
        _source(told, options, client, metrics=metrics, epoch=epoch, stack=stack),
        clock=clock,
        epoch=epoch,
        settings=KubeSettings(
            namespaces=told.namespaces,
            from_nodes=options.capacity == "nodes",
            events=options.events,
            types=types,
        ),
        may_act=lease.held if lease else (lambda: True),
    )
    stack.callback(backend.close)
    if lease:
        lease.start()
        stack.callback(lease.stop)
    return LiveCluster(backend=backend, clock=clock, epoch=epoch, lease=lease)


def _source(
    told: Settings,
    options: argparse.Namespace,
    client: KubeClient,
    *,
    metrics: str | None,
    epoch: datetime,
    stack: ExitStack,
) -> MetricsSource:
    metrics = metrics or ("prometheus" if told.prometheus_url else "pods")
    window = WindowSettings(
        window_s=told.metrics_window_s,
        stale_s=max(told.metrics_window_s, STALE_S),
        speed=options.speed,
    )
    if metrics == "labels":
        return LabelsOnly()
    if metrics == "pods":
        pods = PodMetrics(
            DirectPages() if options.pages == "direct" else ProxiedPages(client), window=window
        )
        stack.callback(pods.close)
        return pods
    if metrics != "prometheus":
        raise SpecError(
            f"metrics: expected one of {', '.join(METRICS)} with --backend kube, found {metrics}"
        )
    if not told.prometheus_url:
        raise SpecError(
            "metrics: expected the address of Prometheus (INFERNO_PROMETHEUS_URL), found none"
        )
    settings = PrometheusSettings(
        url=told.prometheus_url,
        token_path=told.prometheus_token_path,
        ca_path=told.prometheus_ca_path,
        window=window,
        matchers=options.matchers,
    )
    return Prometheus(settings, epoch_s=epoch.timestamp())


def _lease(place: str, client: KubeClient, *, clock: MonotonicClock, epoch: datetime) -> Lease:
    namespace, slash, name = place.partition("/")
    if not (namespace and slash and name):
        raise SpecError(f"lease: expected NAMESPACE/NAME, found {place!r}")
    holder = f"{socket.gethostname()}-{os.getpid()}"
    return Lease(
        client,
        settings=LeaseSettings(namespace=namespace, name=name, holder=holder),
        clock=clock,
        epoch=epoch,
    )
