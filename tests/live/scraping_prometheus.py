"""A Prometheus that scrapes pods through the API server in virtual time, and can go wrong as one
does.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from email.utils import formatdate
from typing import Literal

import httpx
from prometheus_client.parser import text_string_to_metric_families

from loop.backends.kube.client import ApiError, KubeClient

Mode = Literal["well", "gone", "slow", "no numbers", "stale"]
LOOK_BACK_S = 60.0
Key = tuple[tuple[str, str], ...]


class ScrapingPrometheus:
    """Keeps the samples of the pods of *namespace*; *date_s* is its clock [Unix time]."""

    def __init__(self, calls: KubeClient, *, namespace: str, date_s: Callable[[], float]) -> None:
        self.mode: Mode = "well"
        self._calls, self._namespace, self._date_s = calls, namespace, date_s
        self._series: dict[Key, list[tuple[float, float]]] = defaultdict(list)

    @property
    def transport(self) -> httpx.MockTransport:
        """Return the way to it."""
        return httpx.MockTransport(self._answer)

    def restart_empty(self) -> None:
        """Come up again without what it knew."""
        self._series.clear()

    def scrape(self) -> None:
        """Take a sample of every page that a pod shows."""
        if self.mode == "stale":
            return
        at_s = self._date_s()
        for pod in self._calls.pods(self._namespace):
            name = pod["metadata"]["name"]
            try:
                page = self._calls.pod_page(self._namespace, name, port=8000, path="/metrics")
            except ApiError:
                continue  # it does not listen yet
            for family in text_string_to_metric_families(page):
                for sample in family.samples:
                    told = {
                        "__name__": sample.name,
                        "namespace": self._namespace,
                        "pod": name,
                        **sample.labels,
                    }
                    self._series[tuple(sorted(told.items()))].append((at_s, sample.value))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if self.mode == "gone":
            raise httpx.ConnectError("connection refused", request=request)
        if self.mode == "slow":
            raise httpx.ReadTimeout("no answer", request=request)
        asked = httpx.QueryParams(request.content.decode())
        at_s, reach = float(asked["time"]), re.search(r"\[(\d+)ms\]", asked["query"])
        begin_s = at_s - (int(reach[1]) / 1000.0 if reach else LOOK_BACK_S)
        result = []
        for key, points in self._series.items():
            inside = [(t_s, value) for t_s, value in points if begin_s < t_s <= at_s]
            if inside:
                texts = [
                    [t_s, "NaN" if self.mode == "no numbers" else f"{value!r}"]
                    for t_s, value in inside
                ]
                result.append({"metric": dict(key), "values": texts})
        return httpx.Response(
            200,
            json={"status": "success", "data": {"resultType": "matrix", "result": result}},
            headers={"Date": formatdate(self._date_s(), usegmt=True)},
        )
