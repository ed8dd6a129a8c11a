"""Triton's backend of TensorRT-LLM: one metric tells several quantities, told apart by a label, and
each model of a chain counts the same request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager

import httpx
import pytest

from loop.backends.kube.read import scraped
from loop.backends.metrics.api import PrometheusSettings
from loop.backends.metrics.pods import PodMetrics
from loop.backends.metrics.prometheus import Prometheus
from loop.backends.metrics.source import MetricsSource
from loop.errors import SpecError
from loop.signals.names import NAMES
from loop.signals.pods import ScrapedPod, ScrapedServer
from loop.signals.survey import survey
from tests.loop.kube_objects import EPOCH_S, pod, server

NOW_S = 600.0
OF_ONE = 'model="tensorrt_llm",version="1"'
CHAIN = ("ensemble", "preprocessing", "tensorrt_llm", "postprocessing")


def lines(t_s: float, *, waiting: bool) -> dict[str, float]:
    """Return what a page shows after t_s of a request a second, 500 tokens in and 200 out."""
    lengths = {"input": 500, "output": 200}
    told = {
        **{f'nv_inference_request_success{{model="{name}",version="1"}}': t_s for name in CHAIN},
        **{
            f'nv_llm_{of}_token_len_{end}{{response_metric_type="total_{of}_tokens",{OF_ONE}}}': t_s
            * (tokens if end == "sum" else 1)
            for of, tokens in lengths.items()
            for end in ("count", "sum")
        },
        **{
            f'nv_trt_llm_request_metrics{{request_type="{kind}",{OF_ONE}}}': value
            for kind, value in {"active": 6, "scheduled": 4, "context": 1, "max": 64}.items()
        },
        **{
            f'nv_trt_llm_kv_cache_block_metrics{{kv_cache_block_type="{kind}",{OF_ONE}}}': value
            for kind, value in {"fraction": 0.25, "free": 750, "used": 250, "max": 1000}.items()
        },
    }
    if waiting:
        told[f'nv_trt_llm_request_metrics{{request_type="waiting",{OF_ONE}}}'] = 2
    return {name: float(value) for name, value in told.items()}


class Pages:
    """The pages of pods at t_s."""

    def __init__(self, *, waiting: bool) -> None:
        self.t_s, self._waiting = NOW_S, waiting

    def page(self, pod: ScrapedPod, port: int) -> str:  # noqa: ARG002 the port
        """Return the page of any pod."""
        told = lines(self.t_s, waiting=self._waiting)
        return "".join(f"{name} {value}\n" for name, value in told.items())

    def close(self) -> None:
        """Hold nothing."""


@contextmanager
def over_pages(one: ScrapedServer, *, waiting: bool) -> Iterator[MetricsSource]:
    """Yield a source that has looked at the pages of *one* half a minute ago."""
    pages = Pages(waiting=waiting)
    with closing(PodMetrics(pages)) as source:
        pages.t_s -= 30.0
        source.measure([one], now_s=NOW_S - 30.0)
        pages.t_s += 30.0
        yield source


@contextmanager
def over_prometheus(one: ScrapedServer, *, waiting: bool) -> Iterator[MetricsSource]:
    """Yield a source over a Prometheus that scrapes the pods of *one*."""

    def answer(_: httpx.Request) -> httpx.Response:
        result = []
        for name in lines(NOW_S, waiting=waiting):
            metric, _, labels = name.removesuffix("}").partition("{")
            told = dict(pair.replace('"', "").split("=") for pair in labels.split(","))
            result.append(
                {
                    "metric": {
                        "__name__": metric,
                        "namespace": one.namespace,
                        "pod": one.pods[0].name,
                        **told,
                    },
                    "values": [
                        [EPOCH_S + t_s, str(lines(t_s, waiting=waiting)[name])]
                        for t_s in (555.0, 570.0, 585.0, 600.0)
                    ],
                }
            )
        body = {"status": "success", "data": {"resultType": "matrix", "result": result}}
        return httpx.Response(200, content=json.dumps(body))

    settings = PrometheusSettings(url="http://prometheus:9090")
    transport = httpx.MockTransport(answer)
    wall_s = EPOCH_S + NOW_S
    with closing(Prometheus(settings, wall_s=lambda: wall_s, transport=transport)) as source:
        yield source


Over = Callable[..., AbstractContextManager[MetricsSource]]


@pytest.mark.parametrize("waiting", [True, False])
@pytest.mark.parametrize("over", [over_pages, over_prometheus])
def test_a_request_counts_once_and_each_gauge_for_what_it_is(over: Over, waiting: bool) -> None:
    """Added up over its labels, 4 running requests were 77, and a request was four."""
    one = scraped(server(pod("a")))
    with over(one, waiting=waiting) as source:
        found = source.measure([one], now_s=NOW_S).figures[one.name]
    assert found.load is not None
    load = found.load
    assert (load.rate_rpm, load.in_tokens, load.out_tokens) == pytest.approx((60.0, 500.0, 200.0))
    (gauges,) = found.pods.values()
    assert (gauges.running, gauges.kv_usage) == (4, 0.25)
    # Older ones do not tell what waits, and none tells what clients see.
    assert gauges.waiting == (2 if waiting else 0)
    assert gauges.unknown == (frozenset() if waiting else {"waiting"})
    assert (found.ttft_ms, found.itl_ms) == (None, None)


@pytest.mark.parametrize("over", [over_pages, over_prometheus])
def test_what_is_there_and_missing_is_told_by_the_names_with_their_labels(over: Over) -> None:
    """An operator looks for them on the page."""
    one = scraped(server(pod("a")))
    with over(one, waiting=True) as source:
        (names,) = source.show_names([one]).names.values()
    assert survey(names, names=NAMES).missing == ("TTFT", "ITL")


def test_the_engine_may_be_called_otherwise() -> None:
    """Its name is the directory of the model repository."""
    name = 'nv_inference_request_success{model="llama"}'
    assert NAMES.extended({"ends": [name]}, source="f").by_quantity["ends"][0] == name
    for wrong in ('up{model="llama"}', 'nv_inference_request_success{version="1"}'):
        with pytest.raises(SpecError, match="expected a metric name"):
            NAMES.extended({"ends": [wrong]}, source="f")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("nv_inference_request_success", "model"),
        ("nv_trt_llm_request_metrics", "request_type"),
        ("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type"),
    ],
)
def test_a_name_without_the_label_that_tells_it_apart_is_refused(name: str, label: str) -> None:
    """It was taken without a word, and never matched."""
    with pytest.raises(SpecError, match=rf'^f: running: expected {name}{{{label}="…"}}, '):
        NAMES.extended({"running": [name]}, source="f")
