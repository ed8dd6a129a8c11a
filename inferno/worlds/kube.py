"""A Kubernetes cluster as a world: the backend that its options name (client, source of metrics,
capacity, a Lease if wanted). The options are in kube_options.py.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from inferno.cli.policies import options_of_policy
from inferno.worlds.kube_options import add_options, metrics_choices

if TYPE_CHECKING:
    from datetime import datetime

    from inferno.worlds.world import World
    from loop.backends.kube.backend import KubeBackend
    from loop.backends.kube.client import KubeClient
    from loop.backends.kube.lease import Lease
    from loop.backends.metrics.prometheus import Prometheus
    from loop.backends.metrics.source import MetricsSource
    from loop.clocks import MonotonicClock, WallEpoch
    from loop.controller import Pause
    from loop.settings import Settings
    from loop.signals.demand import WindowSettings
    from loop.signals.names import Names

__all__ = ["add_options", "open_world"]  # what each world offers the controller

STALE_S = 60.0
PAUSE_S = 0.2  # between two attempts to reach a cluster


class MakeSource(Protocol):
    """What --metrics module:Name names."""

    def __call__(self, *, window: WindowSettings) -> MetricsSource:
        """Return a source of figures over that window."""
        ...


def wait_for_cluster(kubeconfig: str, *, wait_s: float, command: str) -> None:
    """Wait until the cluster of *kubeconfig* answers, and say so in the name of *command*; do not
    wait if *wait_s* is 0.

    Raise LoopError if it has not answered after *wait_s*.
    """
    from loop.backends.kube.client import ask_version
    from loop.clocks import MonotonicClock
    from loop.errors import LoopError, SpecError

    if not (math.isfinite(wait_s) and wait_s >= 0):
        raise SpecError(f"wait: expected a number of seconds >= 0, found {wait_s}")
    clock, told = MonotonicClock(), False
    while wait_s > 0:
        try:
            ask_version(kubeconfig)
        except (LoopError, SpecError) as problem:
            if clock.now_s() >= wait_s:
                where = kubeconfig or "the cluster"
                raise LoopError(
                    f"{where}: expected an answer within {wait_s:g} s, found none: {problem}"
                ) from None
        else:
            return
        if not told:
            told = True
            line = f"waiting for {kubeconfig or 'the cluster'}, {wait_s:g} s at most"
            print(f"inferno {command}: {line}", file=sys.stderr, flush=True)
        time.sleep(PAUSE_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What a command wants of a cluster, besides the settings. metrics None: Prometheus if its
    address is known, else the pods.
    """

    metrics: str | None = None
    fallback: str | None = None
    matchers: str = ""
    prometheus_headers: Path | None = None
    prometheus_basic_auth: Path | None = None
    prometheus_method: Literal["POST", "GET"] = "POST"
    namespace_label: str = "namespace"
    pod_label: str = "pod"
    metric_names: Path | None = None
    pages: str = "proxy"
    speed: float = 1.0
    from_nodes: bool = False
    events: bool = False
    lease: str | None = None
    give_up_s: float = 600.0
    autoscalers: bool = False
    contest: bool = False
    scaled_by_others: bool = False
    deletion_cost: bool = False

    @property
    def labels_stand_in(self) -> bool:
        """Tell whether load labels are the source of a server that nothing has ever measured: only
        where nobody asked for another source, or for them.
        """
        return self.fallback == "labels" or (self.fallback is None and self.metrics is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCluster:
    """A cluster to steer: its backend, the clock of the run, the date of its second 0 and what that
    becomes, the Lease, if any, and the switch that stops it from acting.
    """

    backend: KubeBackend
    clock: MonotonicClock
    epoch: datetime
    wall: WallEpoch
    lease: Lease | None
    pause: Pause


def open_world(settings: Settings, options: Namespace, stack: ExitStack) -> World:
    """Return the cluster that *settings* and *options* name; *stack* closes it. Raise SpecError
    if there is none.
    """
    from inferno.worlds.world import World, data_directory
    from loop.data import DataSource
    from loop.policies import make_policy
    from loop.policies.sped import SpedPolicy
    from loop.schema.reading import read_system
    from loop.spec import gpus_per_replica

    directory, notes = data_directory(settings), list[str]()
    read_system(directory, warn=notes.append)
    data = DataSource(directory, dynamic=settings.dynamic)
    types = {name: unit.type for name, unit in data.static().accelerators.items()}
    choices = Choices(
        **metrics_choices(options),
        from_nodes=options.capacity == "nodes",
        # Advice writes nothing at all.
        events=options.events and options.mode == "act",
        lease=options.lease,
        # Those that scale by what is exported are no rivals.
        autoscalers=options.mode != "export",
        contest=options.contest,
        scaled_by_others=options.mode == "export",
        deletion_cost=options.deletion_cost,
        give_up_s=_seconds("give-up-after", options.give_up_after),
    )
    policy = make_policy(
        options.policy, **options_of_policy(options.policy, options.policy_options)
    )
    if choices.speed != 1.0:
        policy = SpedPolicy(policy=policy, speed=choices.speed)
    wait_for_cluster(settings.kubeconfig, wait_s=options.wait, command="controller")
    static = data.static()
    live = open_cluster(
        settings,
        choices,
        types=types,
        gpus=gpus_per_replica(static),
        capacity={} if choices.from_nodes or static.optimizer.unlimited else static.capacity,
        stack=stack,
    )
    return World(
        backend=live.backend,
        policy=policy,
        data=data,
        notes=tuple(notes),
        clock=live.clock,
        epoch=live.epoch,
        advance=_FirstLook(live.backend) if live.backend.looks_itself else None,
        lease=live.lease,
        pause=live.pause,
        wall=live.wall,
        twin_speed=choices.speed,
    )


class _FirstLook:
    """Looks at the pods when the loop begins: a source whose samples are its own would else know
    nothing at the first cycle, a whole period later.
    """

    def __init__(self, backend: KubeBackend) -> None:
        self._backend: KubeBackend | None = backend

    def __call__(self, _now_s: float) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.look_ahead()


def _seconds(option: str, value: float) -> float:
    from loop.errors import SpecError

    if not (math.isfinite(value) and value > 0):
        raise SpecError(f"{option}: expected a number of seconds > 0, found {value}")
    return value


def open_cluster(
    settings: Settings,
    choices: Choices,
    *,
    types: Mapping[str, str],
    gpus: Mapping[tuple[str, str], int],
    capacity: Mapping[str, int],
    stack: ExitStack,
) -> LiveCluster:
    """Return the cluster that *settings* and *choices* name; *stack* closes it. Raise SpecError if
    there is none.

    types: of accelerators, by name; gpus: of a replica, by (model, accelerator); capacity: that of
    the data, to be compared with the nodes once.
    """
    from inferno.worlds.world import check_speed
    from loop.backends.kube.backend import KubeBackend
    from loop.backends.kube.client import KubeClient, connect
    from loop.backends.kube.settings import KubeSettings
    from loop.clocks import MonotonicClock, WallEpoch, date_now
    from loop.controller import Pause

    check_speed(choices.speed)
    clock, epoch, pause = MonotonicClock(), date_now(), Pause()
    wall = WallEpoch(clock)
    client = KubeClient(partial(connect, settings.kubeconfig), clock=clock)
    lease = make_lease(choices.lease, client, clock=clock, epoch=epoch) if choices.lease else None
    backend = KubeBackend(
        client,
        make_source(settings, choices, client, stack=stack),
        clock=clock,
        epoch=epoch,
        wall=wall,
        settings=KubeSettings(
            namespaces=settings.namespaces,
            from_nodes=choices.from_nodes,
            events=choices.events,
            labels_stand_in=choices.labels_stand_in,
            types=types,
            gpus=gpus,
            capacity=capacity,
            pause_config_map=settings.pause_config_map,
            give_up_s=choices.give_up_s,
            window_s=settings.metrics_window_s,
            autoscalers=choices.autoscalers,
            contest=choices.contest,
            scaled_by_others=choices.scaled_by_others,
            deletion_cost=choices.deletion_cost,
        ),
        may_act=lambda: not pause.reason() and (lease is None or lease.held()),
    )
    stack.callback(backend.close)
    if lease:
        lease.start()
        stack.callback(lease.stop)
    return LiveCluster(
        backend=backend, clock=clock, epoch=epoch, wall=wall, lease=lease, pause=pause
    )


def make_source(
    settings: Settings,
    choices: Choices,
    client: KubeClient,
    *,
    stack: ExitStack,
) -> MetricsSource:
    """Return where the load is read, as *settings* and *choices* say; *stack* closes what has no
    other owner.
    """
    from loop.backends.metrics.source import LabelsOnly
    from loop.signals.demand import WindowSettings

    metrics = choices.metrics or ("prometheus" if settings.prometheus_url else "pods")
    window = WindowSettings(
        window_s=settings.metrics_window_s,
        stale_s=max(settings.metrics_window_s, STALE_S),
        speed=choices.speed,
    )
    names = _names(choices.metric_names)
    if metrics == "labels":
        return LabelsOnly()
    if metrics == "pods":
        from loop.backends.metrics.pods import DirectPages, PodMetrics, ProxiedPages
        from loop.clocks import MonotonicClock

        pods = PodMetrics(
            DirectPages() if choices.pages == "direct" else ProxiedPages(client),
            window=window,
            names=names,
            clock_s=MonotonicClock().now_s,
        )
        stack.callback(pods.close)
        return pods
    if metrics == "prometheus":
        return _prometheus(settings, choices, window=window, names=names)
    from twin.registry import resolve

    make: MakeSource = resolve(metrics, kind="metrics_source", known={})
    return make(window=window)


def make_prometheus(settings: Settings, options: Namespace) -> Prometheus:
    """Return the Prometheus that *settings* and the options of add_prometheus_options name."""
    from loop.signals.demand import WindowSettings

    names = (
        *("matchers", "namespace_label", "pod_label", "metric_names"),
        *("prometheus_headers", "prometheus_basic_auth", "prometheus_method"),
    )
    choices = Choices(**{name: getattr(options, name) for name in names})
    return _prometheus(
        settings, choices, window=WindowSettings(), names=_names(choices.metric_names)
    )


def _prometheus(
    settings: Settings, choices: Choices, *, window: WindowSettings, names: Names
) -> Prometheus:
    from loop.backends.metrics.api import PrometheusSettings
    from loop.backends.metrics.prometheus import Prometheus
    from loop.errors import SpecError

    if not settings.prometheus_url:
        raise SpecError(
            "metrics: expected the address of Prometheus (INFERNO_PROMETHEUS_URL), found none"
        )
    return Prometheus(
        PrometheusSettings(
            url=settings.prometheus_url,
            token_path=settings.prometheus_token_path,
            ca_path=settings.prometheus_ca_path,
            cert_path=settings.prometheus_cert_path,
            key_path=settings.prometheus_key_path,
            proxy=settings.prometheus_proxy,
            headers_path=choices.prometheus_headers,
            basic_auth_path=choices.prometheus_basic_auth,
            method=choices.prometheus_method,
            namespace_label=choices.namespace_label,
            pod_label=choices.pod_label,
            names=names,
            window=window,
            matchers=choices.matchers,
        ),
    )


def _names(path: Path | None) -> Names:
    """Return the names of metrics, with those of a file of the user before them."""
    from loop.signals.names import NAMES

    if path is None:
        return NAMES
    import yaml

    from loop.errors import SpecError
    from twin.kube.apiserver import bounded_yaml

    try:
        told = bounded_yaml.load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())
        raise SpecError(f"{path}: expected names of metrics by quantity, found {line}") from None
    if not isinstance(told, dict) or not all(isinstance(names, list) for names in told.values()):
        raise SpecError(f"{path}: expected a list of names by quantity, found {str(told)[:60]!r}")
    return NAMES.extended(told, source=str(path))


def make_lease(place: str, client: KubeClient, *, clock: MonotonicClock, epoch: datetime) -> Lease:
    """Return a contender of its own for the Lease NAMESPACE/NAME. Raise SpecError for another
    *place*.
    """
    from loop.backends.kube.lease import Lease, LeaseSettings
    from loop.errors import SpecError

    namespace, slash, name = place.partition("/")
    if not (namespace and slash and name):
        raise SpecError(f"lease: expected NAMESPACE/NAME, found {place!r}")
    # Two pods on the network of one node have its name, and each is process 1: without something of
    # its own, both would be the holder.
    holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    return Lease(
        client,
        settings=LeaseSettings(namespace=namespace, name=name, holder=holder),
        clock=clock,
        epoch=epoch,
    )
