"""Figures of servers from Prometheus: one query a cycle for the raw samples of their pods, whatever
their number.

Samples, not rates: what came to a pod is what ended plus what is in it more than before, and only
samples of one scrape belong together. The rules for what is missing, stale or no number are in
docs/kubernetes.md.
"""

from __future__ import annotations

import json
import re
import ssl
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from loop.backends.kube.read import Server
from loop.backends.metrics.source import Measurement
from loop.errors import LoopError, SpecError
from loop.signals.window import METRIC_NAMES, Sample, WindowSettings, figures, merged, samples_of

PodKey = tuple[str, str]  # namespace, name
ATTEMPTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusSettings:
    """Where Prometheus is and how it names things.

    token_path is read for every request, since tokens are renewed in place. matchers are further
    ones for every query, such as cluster="east". The labels are those that a series carries of its
    pod.
    """

    url: str
    token_path: Path | None = None
    ca_path: Path | None = None
    window: WindowSettings = field(default_factory=WindowSettings)
    timeout_s: float = 10.0
    matchers: str = ""
    namespace_label: str = "namespace"
    pod_label: str = "pod"


class PrometheusError(LoopError):
    """Prometheus did not answer, or not with what was asked for."""


class Prometheus:
    """Asks one Prometheus. Raise SpecError where its address or the CA file cannot be used.

    *epoch_s* is the date of second 0 of the run [Unix time]; *transport* stands in for the network.
    """

    at_pods = True

    def __init__(
        self,
        settings: PrometheusSettings,
        *,
        epoch_s: float,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._settings = settings
        self._epoch_s = epoch_s
        self._client = httpx.Client(
            verify=_trust(settings),
            timeout=settings.timeout_s,
            trust_env=False,
            transport=transport,
        )
        self._url = _query_url(settings.url)

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def measure(self, servers: Sequence[Server], *, now_s: float) -> Measurement:
        """Return the figures of *servers*; where Prometheus fails, none of any, and the reason."""
        if not servers:
            return Measurement()
        namespaces = sorted({server.deployment.namespace for server in servers})
        query = window_query(namespaces, self._settings)
        try:
            answer = self._ask(query, at_s=now_s + self._epoch_s)
            series = read_matrix(answer, settings=self._settings, epoch_s=self._epoch_s)
        except PrometheusError as error:
            return Measurement(error=f"prometheus: {error}")
        window = self._settings.window
        by_server = share(series, servers)
        found = {
            one.name: figures(one, by_server[one.name], now_s=now_s, settings=window)
            for one in servers
        }
        told = [f"prometheus: {line}" for line in answer.get("warnings") or ()]
        return Measurement(figures=found, warnings=tuple(told))

    def _ask(self, query: str, *, at_s: float) -> Mapping[str, Any]:
        """Return the answer to *query* at a time; one that was cut or refused for the moment is
        asked for again.
        """
        problem = PrometheusError("not asked")
        for _ in range(ATTEMPTS):
            try:
                reply = self._client.post(
                    self._url, data={"query": query, "time": f"{at_s:.3f}"}, headers=self._headers()
                )
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                problem = PrometheusError(f"{type(error).__name__}: {error or 'no answer'}")
                continue
            if reply.status_code in (429, 500, 502, 504):
                problem = PrometheusError(_complaint(reply))
                continue
            if reply.status_code != httpx.codes.OK:
                raise PrometheusError(_complaint(reply))
            return _parsed(reply)
        raise problem

    def _headers(self) -> dict[str, str]:
        path = self._settings.token_path
        if path is None:
            return {}
        try:
            token = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise PrometheusError(f"token file {path}: {error}") from error
        if not token.isascii() or not token.isprintable() or not token:
            raise PrometheusError(f"token file {path}: expected one line with a token")
        return {"Authorization": f"Bearer {token}"}


def window_query(namespaces: Sequence[str], settings: PrometheusSettings) -> str:
    """Return the instant query for the samples of vLLM's metrics in *namespaces*, as far back as
    the window reaches.
    """
    names = "|".join(METRIC_NAMES)
    spaces = "|".join(re.escape(name).replace("\\", "\\\\") for name in namespaces)
    matchers = [f'__name__=~"{names}"', f'{settings.namespace_label}=~"{spaces}"']
    if settings.matchers:
        matchers.append(settings.matchers)
    return f"{{{','.join(matchers)}}}[{round(1000 * settings.window.window_s)}ms]"


def read_matrix(
    answer: Mapping[str, Any], *, settings: PrometheusSettings, epoch_s: float
) -> dict[PodKey, list[Sample]]:
    """Return the samples by pod of the answer to a window_query; PrometheusError where it is none.

    A value that is no number is one that was not told.
    """
    data = answer.get("data")
    if (
        answer.get("status") != "success"
        or not isinstance(data, Mapping)
        or data.get("resultType") != "matrix"
    ):
        raise PrometheusError(f"expected a matrix, found {json.dumps(answer)[:120]}")
    pods: dict[PodKey, dict[str, dict[float, float]]] = defaultdict(dict)
    try:
        for entry in data["result"]:
            metric = entry["metric"]
            pod, namespace = metric.get(settings.pod_label), metric.get(settings.namespace_label)
            if not pod or not namespace:
                continue
            values = {float(time_s) - epoch_s: float(text) for time_s, text in entry["values"]}
            columns, name = pods[namespace, pod], metric["__name__"]
            columns[name] = merged(name, columns[name], values) if name in columns else values
    except (KeyError, TypeError, ValueError) as error:
        raise PrometheusError(
            f"expected series of numbers, found otherwise ({type(error).__name__}: {error})"
        ) from error
    return {pod: samples_of(columns) for pod, columns in pods.items()}


def share(
    series: Mapping[PodKey, Sequence[Sample]], servers: Sequence[Server]
) -> dict[str, dict[str, Sequence[Sample]]]:
    """Return the samples by server and pod. Pods that are gone belong to the Deployment that their
    name begins with.
    """
    owner = {(one.deployment.namespace, pod.name): one.name for one in servers for pod in one.pods}
    named = {(one.deployment.namespace, one.deployment.name): one.name for one in servers}
    shared: dict[str, dict[str, Sequence[Sample]]] = {one.name: {} for one in servers}
    for (namespace, pod), samples in series.items():
        # name-templatehash-random
        server = owner.get((namespace, pod)) or named.get((namespace, pod.rsplit("-", 2)[0]))
        if server is not None:
            shared[server][pod] = samples
    return shared


def _trust(settings: PrometheusSettings) -> ssl.SSLContext | bool:
    if settings.ca_path is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(settings.ca_path))
    except (OSError, ssl.SSLError) as error:
        raise SpecError(
            f"{settings.ca_path}: expected CA certificates (PEM), found {error}"
        ) from error


def _query_url(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise SpecError(f"prometheus: expected a URL, found {url!r} ({error})") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise SpecError(f"prometheus: expected a URL such as http://localhost:9090, found {url!r}")
    return f"{url.rstrip('/')}/api/v1/query"


def _complaint(reply: httpx.Response) -> str:
    """Return what a refusal says, in one line."""
    try:
        told = reply.json()
        text = f"{told['errorType']}: {told['error']}"
    except (ValueError, KeyError, TypeError):
        text = reply.reason_phrase
    return f"HTTP {reply.status_code}: {' '.join(text.split())[:200]}"


def _parsed(reply: httpx.Response) -> Mapping[str, Any]:
    try:
        answer = reply.json()
    except ValueError as error:
        raise PrometheusError(f"expected JSON, found {reply.text[:80]!r}") from error
    if not isinstance(answer, Mapping):
        raise PrometheusError(f"expected an object, found {type(answer).__name__}")
    return answer
