"""Our sources of metrics pass the suite that anybody's have to pass."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest

from loop.backends.metrics.api import PrometheusSettings
from loop.backends.metrics.pods import PageError, PodMetrics
from loop.backends.metrics.prometheus import Prometheus
from loop.backends.metrics.source import MetricsSource
from loop.signals.pods import ScrapedPod
from loop.testing.source import NOW_S, MetricsSourceContract

PAGE = """\
vllm:request_success_total 120
vllm:prompt_tokens_total 61440
vllm:generation_tokens_total 15360
vllm:num_requests_running 3
vllm:num_requests_waiting NaN
"""


class _Pages:
    """The same page of every pod; without a text no pod answers."""

    def __init__(self, text: str = "") -> None:
        self._text = text

    def page(self, pod: ScrapedPod, port: int) -> str:
        if not self._text:
            raise PageError(f"{pod.name}:{port}: no answer")
        return self._text

    def close(self) -> None:
        """Hold nothing."""


def _answer(_: httpx.Request) -> httpx.Response:
    """Answer as a Prometheus that scraped the pods of chat five times."""
    result = [
        {
            "metric": {"__name__": name, "namespace": "infer", "pod": f"chat-a1b2c-xxxx{number}"},
            "values": [[NOW_S - 60.0 + 15.0 * i, text.format(i)] for i in range(5)],
        }
        for number in (1, 2)
        for name, text in (
            ("vllm:request_success_total", "12{}"),
            ("vllm:num_requests_running", "3"),
            ("vllm:num_requests_waiting", "NaN"),
        )
    ]
    body = {"status": "success", "data": {"resultType": "matrix", "result": result}}
    return httpx.Response(200, content=json.dumps(body))


def _refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


class TestPods(MetricsSourceContract):
    """Pages of pods."""

    @pytest.fixture
    def source(self) -> Iterator[MetricsSource]:
        """Return it over pods that answer."""
        with closing(PodMetrics(_Pages(PAGE))) as source:
            yield source

    @pytest.fixture
    def broken(self) -> Iterator[MetricsSource]:
        """Return it over pods that do not."""
        with closing(PodMetrics(_Pages())) as source:
            yield source


class TestPrometheus(MetricsSourceContract):
    """A Prometheus."""

    @pytest.fixture
    def source(self) -> Iterator[MetricsSource]:
        """Return it over one that answers."""
        settings = PrometheusSettings(url="http://prometheus:9090")
        transport = httpx.MockTransport(_answer)
        with closing(Prometheus(settings, wall_s=lambda: NOW_S, transport=transport)) as source:
            yield source

    @pytest.fixture
    def broken(self) -> Iterator[MetricsSource]:
        """Return it over one that is not there."""
        settings = PrometheusSettings(url="http://prometheus:9090")
        transport = httpx.MockTransport(_refuse)
        with closing(Prometheus(settings, wall_s=lambda: NOW_S, transport=transport)) as source:
            yield source
