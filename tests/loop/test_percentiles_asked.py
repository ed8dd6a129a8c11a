"""Percentiles from Prometheus: whose turn it is, and what an answer tells."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import httpx
import pytest

from loop.backends.kube.read import scraped
from loop.backends.metrics.api import PrometheusSettings
from loop.backends.metrics.percentiles import FORGET_S, Turns, read_buckets
from loop.backends.metrics.prometheus import Prometheus
from loop.signals.names import NAMES
from loop.signals.pods import ScrapedServer
from tests.loop.kube_objects import EPOCH_S, pod, server

TTFT, ITL = "vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds"
NOW_S = 600.0


def vector(rows: dict[tuple[str, str], float]) -> dict[str, Any]:
    """Return an answer with what came into each bucket (histogram, bound)."""
    result = [
        {
            "metric": {
                "inferno_of": f"{name}_bucket",
                "le": bound,
                "namespace": "infer",
                "pod": pod("a")["metadata"]["name"],
            },
            "value": [EPOCH_S + NOW_S, str(value)],
        }
        for (name, bound), value in rows.items()
    ]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


def seen(
    answer: dict[str, Any] | int,
    *,
    firsts: float = 100.0,
    each_s: float = 0.1,
    restart: bool = False,
) -> Any:
    """Return what is measured of a pod that had *firsts* in a minute, *each_s* after their request,
    when *answer* tells of its buckets.
    """
    name = pod("a")["metadata"]["name"]
    counts = [500.0 + firsts * k / 4 for k in range(5)]
    if restart:
        counts[2:] = [0.0, firsts / 4, firsts / 2]

    def handle(request: httpx.Request) -> httpx.Response:
        if "_bucket" in dict(httpx.QueryParams(request.content.decode()))["query"]:
            return (
                httpx.Response(answer)
                if isinstance(answer, int)
                else httpx.Response(200, json=answer)
            )
        told = dict.fromkeys((f"{TTFT}_count", "vllm:request_success_total"), 1.0)
        result = [
            {
                "metric": {"__name__": metric, "namespace": "infer", "pod": name},
                "values": [
                    [EPOCH_S + NOW_S - 60 + 15 * k, str(each * n)] for k, n in enumerate(counts)
                ],
            }
            for metric, each in (told | {f"{TTFT}_sum": each_s}).items()
        ]
        matrix = {"status": "success", "data": {"resultType": "matrix", "result": result}}
        return httpx.Response(200, json=matrix)

    settings = PrometheusSettings(url="http://prometheus:9090")
    transport = httpx.MockTransport(handle)
    with closing(
        Prometheus(settings, wall_s=lambda: EPOCH_S + NOW_S, transport=transport)
    ) as source:
        return source.measure([scraped(server(pod("a")))], now_s=NOW_S)


GREW = vector({(TTFT, "0.1"): 50.0, (TTFT, "0.5"): 100.0, (TTFT, "+Inf"): 100.0})


def test_percentiles_have_a_source_and_an_age() -> None:
    """They may be of some cycles ago."""
    found = seen(GREW).figures["s1"]
    assert found.percentiles_ms["ttft"]["p50"] == pytest.approx(100.0)
    assert found.percentiles_ms.keys() == {"ttft"}
    assert found.percentiles_age_s == 0.0


def test_of_a_process_that_restarted_within_the_window_none_are_known() -> None:
    """Buckets that have passed what they were look like growth; the counts tell of the restart."""
    assert seen(GREW, restart=True).figures["s1"].percentiles_ms == {}


def test_of_nothing_but_zeros_none_are_known() -> None:
    """Some versions of an engine observe no times: a median of half the first bucket was shown."""
    zeros = vector({(TTFT, "0.1"): 100.0, (TTFT, "+Inf"): 100.0})
    assert seen(zeros, each_s=0.0).figures["s1"].percentiles_ms == {}


def test_buckets_that_begin_now_with_the_work_of_hours_tell_nothing() -> None:
    """A scrape that has just begun: what is in them is not of this window."""
    answer = vector({(TTFT, "0.1"): 5e5, (TTFT, "+Inf"): 9e5})
    assert seen(answer).figures["s1"].percentiles_ms == {}


@pytest.mark.parametrize(
    "answer", [500, 422, {"status": "success", "data": {"resultType": "matrix", "result": [{}]}}]
)
def test_percentiles_that_cannot_be_had_hold_nobody_and_are_told(answer: Any) -> None:
    """The load is known all the same."""
    measured = seen(answer)
    assert measured.error == ""
    assert measured.figures["s1"].load is not None
    (line,) = measured.warnings
    assert line.startswith("prometheus: no percentiles for 300 s: ")


def test_a_native_histogram_beside_the_buckets_is_no_obstacle() -> None:
    """Prometheus 3 may keep both."""
    answer = vector({(TTFT, "0.1"): 5.0})
    answer["data"]["result"].append({"metric": {"inferno_of": f"{TTFT}_bucket"}, "histogram": []})
    told = read_buckets(answer, names=NAMES, pod_label="pod", namespace_label="namespace")
    assert [*told.values()] == [{"ttft": {0.1: 5.0}}]


def test_the_newer_name_of_a_histogram_counts() -> None:
    """Some versions show the older one as well."""
    older = "vllm:time_per_output_token_seconds"
    answer = vector({(older, "0.1"): 9.0, (ITL, "0.2"): 5.0})
    told = read_buckets(answer, names=NAMES, pod_label="pod", namespace_label="namespace")
    assert [*told.values()] == [{"itl": {0.2: 5.0}}]


def test_servers_take_turns_and_what_was_told_is_kept_for_a_while() -> None:
    """A thousand servers would be a quarter of a million series a cycle."""
    servers = [ScrapedServer(name=f"s{k}", namespace="infer", workload=f"s{k}") for k in range(4)]
    pods = {one.name: ["a", "b"] for one in servers[:3]}  # the last one has served nothing
    turns = Turns(pods_max=4)
    chosen = [[one.name for one in turns.due(servers, pods, now_s=k)] for k in range(3)]
    assert chosen == [["s0", "s1"], ["s2", "s0"], ["s1", "s0"]]
    turns.learn("s0", {"ttft": {"p50": 1.0}}, at_s=10.0)
    assert turns.known("s0", now_s=10.0 + FORGET_S) is not None
    assert turns.known("s0", now_s=11.0 + FORGET_S) is None
    turns.learn("s0", {}, at_s=20.0)
    assert turns.known("s0", now_s=20.0) is None
