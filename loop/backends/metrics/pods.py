"""Figures of servers from the /metrics pages of their pods, with no Prometheus: the samples are its
own.

A page is fetched once a cycle, through the API server or straight from the pod, so a window reaches
back to the cycle before at least. Many pods mean many requests: it is meant for tens of pods,
Prometheus for more.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Protocol

import httpx
from prometheus_client.parser import text_string_to_metric_families

from loop.backends.kube.read import Pod, Server
from loop.backends.metrics.source import Measurement
from loop.errors import LoopError
from loop.signals.window import (
    METRIC_NAMES,
    Figures,
    Sample,
    WindowSettings,
    add_to,
    figures,
    sample_of,
)

if TYPE_CHECKING:
    from loop.backends.kube.client import KubeClient

PodKey = tuple[str, str]  # namespace, name

GAP_WINDOWS_MAX = 5  # a sample that is older than so many windows tells nothing of this one
ERRORS_NAMED = 3
ANSWERING = ("ready", "draining")

_WANTED = re.compile(rf"(?:{'|'.join(METRIC_NAMES)})[{{ \t]")


class PageError(LoopError):
    """A pod did not show its metrics."""


class Pages(Protocol):
    """How to get at the page of a pod."""

    def page(self, pod: Pod) -> str:
        """Return the text; raise LoopError where there is none."""
        ...

    def close(self) -> None:
        """Let go of connections of its own."""
        ...


class ProxiedPages:
    """Pages through the API server: nothing but it need be reachable, and its permissions hold
    (pods/proxy).
    """

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    def page(self, pod: Pod) -> str:
        """Return the text of the page of *pod*."""
        return self._client.pod_page(
            pod.namespace, pod.name, port=pod.metrics_port, path=pod.metrics_path
        )

    def close(self) -> None:
        """Leave the client to its owner."""


class DirectPages:
    """Pages from the addresses of the pods: for a controller inside the cluster."""

    def __init__(self, *, timeout_s: float = 5.0) -> None:
        self._client = httpx.Client(timeout=timeout_s, trust_env=False)

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def page(self, pod: Pod) -> str:
        """Return the text of the page of *pod*."""
        if not pod.address:
            raise PageError("it has no address yet")
        host = f"[{pod.address}]" if ":" in pod.address else pod.address
        try:
            reply = self._client.get(
                f"http://{host}:{pod.metrics_port}/{pod.metrics_path.lstrip('/')}"
            )
            reply.raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PageError(f"{type(error).__name__}: {error or 'no answer'}") from error
        return reply.text


class PodMetrics:
    """Keeps the samples of pods that a window needs, by pod."""

    at_pods = True

    def __init__(
        self, pages: Pages, *, window: WindowSettings | None = None, parallel: int = 8
    ) -> None:
        self._pages = pages
        self._window = window or WindowSettings()
        # Its threads do not keep a program from ending while a request of theirs hangs.
        self._pool = ThreadPool(parallel)
        self._series: dict[PodKey, list[Sample]] = defaultdict(list)
        self._left_s: dict[PodKey, float] = {}
        self._server: dict[PodKey, str] = {}

    def close(self) -> None:
        """End what still runs."""
        self._pool.terminate()
        self._pages.close()

    def measure(self, servers: Sequence[Server], *, now_s: float) -> Measurement:
        """Fetch the pages of all pods that answer, and return the figures of *servers* over the
        window.
        """
        pods = [pod for server in servers for pod in server.pods if pod.phase in ANSWERING]
        told = self._pool.map(self._fetch, pods, chunksize=1)
        errors = []
        for pod, values in zip(pods, told, strict=True):
            if isinstance(values, LoopError):
                if pod.phase == "ready":
                    errors.append(f"{pod.name}: {values}")
            elif values:
                self._add((pod.namespace, pod.name), sample_of(now_s, values))
        for server in servers:
            self._server.update({(pod.namespace, pod.name): server.name for pod in server.pods})
        self._prune(
            {(pod.namespace, pod.name) for server in servers for pod in server.pods}, now_s=now_s
        )
        shared: dict[str, dict[str, Sequence[Sample]]] = defaultdict(dict)
        for (namespace, pod_name), samples in self._series.items():
            shared[self._server[namespace, pod_name]][pod_name] = samples
        found = {one.name: self._figures(one, shared[one.name], now_s=now_s) for one in servers}
        return Measurement(figures=found, warnings=_summary(errors))

    def _figures(
        self, server: Server, series: Mapping[str, Sequence[Sample]], *, now_s: float
    ) -> Figures:
        namespace = server.deployment.namespace
        gone = {
            name: (samples[-1].t_s, self._left_s[namespace, name])
            for name, samples in series.items()
            if (namespace, name) in self._left_s
        }
        return figures(server, series, now_s=now_s, settings=self._window, gone=gone)

    def _fetch(self, pod: Pod) -> Mapping[str, float] | LoopError:
        try:
            return read_page(self._pages.page(pod))
        except LoopError as error:
            return error

    def _add(self, key: PodKey, sample: Sample) -> None:
        samples = self._series[key]
        # Two cycles at one instant saw the same.
        if samples and samples[-1].t_s >= sample.t_s:
            samples.pop()
        samples.append(sample)

    def _prune(self, listed: set[PodKey], *, now_s: float) -> None:
        """Forget the samples that no window needs any more: all but one of those before it."""
        begin_s = now_s - self._window.window_s
        oldest_s = now_s - GAP_WINDOWS_MAX * self._window.window_s
        for key, samples in list(self._series.items()):
            while len(samples) > 1 and samples[1].t_s <= begin_s:
                samples.pop(0)
            while samples and samples[0].t_s < oldest_s:
                samples.pop(0)
            if key in listed:
                self._left_s.pop(key, None)
            elif samples:
                # Nobody saw it go: half-way between the last sample and now is as good a guess as
                # any.
                self._left_s.setdefault(key, 0.5 * (samples[-1].t_s + now_s))
            if not samples or (key not in listed and samples[-1].t_s < begin_s):
                del self._series[key]
                self._left_s.pop(key, None)
        self._server = {
            key: name for key, name in self._server.items() if key in listed or key in self._series
        }


def read_page(text: str) -> dict[str, float]:
    """Return the metrics that count of a page, by name, those that differ only in labels added up.

    Raise PageError where the page is none.
    """
    values: dict[str, float] = {}
    lines = [line for line in text.splitlines() if _WANTED.match(line)]
    try:
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                add_to(values, sample.name, float(sample.value))
    except (ValueError, KeyError, IndexError) as error:
        raise PageError(
            f"expected metrics in Prometheus' text format, found {str(error)[:100]}"
        ) from error
    return values


def _summary(errors: Iterable[str]) -> tuple[str, ...]:
    named = list(errors)
    more = (
        [f"pods: {len(named) - ERRORS_NAMED} more pods did not show their metrics"]
        if len(named) > ERRORS_NAMED
        else []
    )
    return (*(f"pods: {line}" for line in named[:ERRORS_NAMED]), *more)
