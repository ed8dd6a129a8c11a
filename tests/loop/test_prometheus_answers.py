"""The query for Prometheus and the reading of its answers: by the forms that a real one gives,
right and wrong ones.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from loop.backends.kube.labels import NAME
from loop.backends.kube.read import scraped
from loop.backends.metrics.answers import read_matrix, share
from loop.backends.metrics.api import Api, PrometheusError, PrometheusSettings
from loop.backends.metrics.prometheus import Prometheus, window_query
from loop.backends.metrics.reach import WIDEST_S
from loop.backends.metrics.source import Measurement
from loop.errors import SpecError
from loop.signals.names import NAMES
from loop.signals.pods import owns
from tests.loop.kube_objects import EPOCH_S, TEMPLATE_HASH, alive, pod, server

SETTINGS = PrometheusSettings(url="http://prometheus:9090")
NOW_S = 600.0


def series(
    name: str, values: list[tuple[float, str]], *, pod_name: str = "p", **labels: str
) -> dict[str, Any]:
    """Return one series of a matrix; times in seconds of the run."""
    metric = {"__name__": name, "namespace": "infer", "pod": pod_name, **labels}
    return {"metric": metric, "values": [[EPOCH_S + t_s, text] for t_s, text in values]}


def matrix(*result: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return an answer of Prometheus."""
    return {"status": "success", "data": {"resultType": "matrix", "result": list(result)}, **more}


def test_one_query_asks_for_all_metrics_of_all_namespaces_by_old_and_new_names() -> None:
    """Its number must not grow with that of the servers."""
    query = window_query(["infer", "b.c"], SETTINGS)
    assert query.endswith("[60000ms]")
    assert 'namespace=~"infer|b\\\\.c"' in query
    (names,) = re.findall(r'__name__=~"([^"]*)"', query)
    assert all(re.fullmatch(names, name.partition("{")[0]) for name in NAMES.ranks)
    assert not re.fullmatch(names, "vllm:e2e_request_latency_seconds_bucket")


def test_a_query_takes_further_matchers_and_other_names_of_labels() -> None:
    """One Prometheus for several clusters; scrapers that rename."""
    settings = PrometheusSettings(
        url="http://x", matchers='cluster="east"', namespace_label="kubernetes_namespace"
    )
    query = window_query(["infer"], settings)
    assert 'kubernetes_namespace=~"infer"' in query
    assert ',cluster="east"}' in query


def test_a_label_with_dots_in_its_name_is_quoted() -> None:
    """OpenTelemetry's names stay as they are since Prometheus 3: each query was refused."""
    settings = PrometheusSettings(
        url="http://x", namespace_label="k8s.namespace.name", pod_label="k8s.pod.name"
    )
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(parse_qs(request.content.decode())["query"][0])
        return httpx.Response(200, json=matrix())

    transport = httpx.MockTransport(handle)
    with closing(Prometheus(settings, wall_s=lambda: EPOCH_S + NOW_S, transport=transport)) as of:
        of.measure([scraped(server(pod("a")))], now_s=NOW_S)
        assert of.show_names([scraped(server(pod("a")))]).error == ""
    assert len(asked) == 3
    for query in asked:
        assert query.count("k8s.") == query.count('"k8s.') > 0


def test_series_are_read_by_pod_with_the_labels_that_tell_them_apart() -> None:
    """They are added up only when their growth is known."""
    answer = matrix(
        series("vllm:request_success_total", [(585.0, "3"), (600.0, "5")], finished_reason="stop"),
        series("vllm:num_requests_running", [(585.0, "2"), (600.0, "NaN")]),
    )
    success, running = read_matrix(answer, settings=SETTINGS, epoch_s=EPOCH_S)["infer", "p"]
    assert success.metric == "vllm:request_success_total"
    assert success.labels == (("finished_reason", "stop"),)
    assert success.points == [(585.0, 3.0), (600.0, 5.0)]
    assert math.isnan(running.points[1][1])


def test_a_native_histogram_is_read_as_its_two_counters() -> None:
    """Prometheus may keep histograms as one series each; a matrix has no "values" for these."""
    one = series("vllm:time_to_first_token_seconds", [], engine="0")
    del one["values"]
    one["histograms"] = [
        [EPOCH_S + t_s, {"count": str(t_s), "sum": str(0.05 * t_s), "buckets": []}]
        for t_s in (585.0, 600.0)
    ]
    found = read_matrix(matrix(one), settings=SETTINGS, epoch_s=EPOCH_S)["infer", "p"]
    assert [(told.metric, told.labels, told.points) for told in found] == [
        (
            f"vllm:time_to_first_token_seconds{end}",
            (("engine", "0"),),
            [(585.0, pytest.approx(each * 585.0)), (600.0, pytest.approx(each * 600.0))],
        )
        for end, each in (("_count", 1.0), ("_sum", 0.05))
    ]
    (names,) = re.findall(r'__name__=~"([^"]*)"', window_query(["infer"], SETTINGS))
    assert re.fullmatch(names, "vllm:time_to_first_token_seconds")


def test_series_without_a_pod_are_of_nobody() -> None:
    """A recording rule over all pods has none."""
    lost = series("vllm:num_requests_running", [(600.0, "1")])
    del lost["metric"]["pod"]
    assert read_matrix(matrix(lost), settings=SETTINGS, epoch_s=EPOCH_S) == {}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"status": "error", "errorType": "bad_data", "error": "x"},
        {"status": "success", "data": {"resultType": "vector", "result": []}},
        {"status": "success", "data": []},
        matrix({"metric": {"namespace": "n", "pod": "p"}, "values": 3}),
        matrix({"metric": {"__name__": "a", "namespace": "n", "pod": "p"}, "values": [[1.0, "x"]]}),
        matrix({"values": []}),
    ],
)
def test_an_answer_that_is_none_is_an_error_and_not_no_load(answer: dict[str, Any]) -> None:
    """A proxy's page, another API: anything but data."""
    with pytest.raises(PrometheusError):
        read_matrix(answer, settings=SETTINGS, epoch_s=EPOCH_S)


def test_pods_that_are_gone_are_known_by_the_beginning_of_their_name() -> None:
    """What they did within the window was the server's load."""
    one = scraped(server(pod("a")))
    here = ("infer", one.pods[0].name)
    gone = ("infer", f"dep1-{TEMPLATE_HASH}-zzzzz")
    other = ("infer", f"dep2-{TEMPLATE_HASH}-zzzzz")
    elsewhere = ("other", one.pods[0].name)
    shared = share(dict.fromkeys([here, gone, other, elsewhere], ()), [one], known={here: "s1"})
    assert shared == {"s1": {one.pods[0].name: (), gone[1]: ()}}


@pytest.mark.parametrize("length", range(40, 58))
def test_a_pod_is_known_by_its_name_however_long_that_of_its_deployment_is(length: int) -> None:
    """Kubernetes cuts the generated part of a name at 58 characters."""
    workload = "d" * length
    name = f"{workload}-86647f94d8-"[:58] + "tmrqr"
    assert owns(workload, name)
    assert not owns(workload[:-1], name)
    assert not owns("other", name)


def test_a_longer_name_that_begins_alike_is_somebody_elses() -> None:
    """`chat` must not count the load of `chat-large`."""
    assert owns("chat-large", "chat-large-86647f94d8-tmrqr")
    assert not owns("chat", "chat-large-86647f94d8-tmrqr")
    assert not owns("chat", "chat-28391134-tmrqr"), "of a CronJob: the minute it was made in"
    assert not owns("chat", "chat-0-tmrqr"), "of a Job with indices"
    assert owns("chat", "chat-8664794658-tmrqr")


@pytest.mark.parametrize("url", ["", "prometheus:9090", "ftp://x", "http://"])
def test_an_address_that_is_none_is_bad_input(url: str) -> None:
    """It ends the program at its start with one line."""
    with pytest.raises(SpecError, match="expected a URL"):
        Prometheus(PrometheusSettings(url=url))


def test_a_ca_file_that_is_none_is_bad_input(tmp_path: Path) -> None:
    """The user gave it to be checked against."""
    wrong = tmp_path / "ca.pem"
    wrong.write_text("not a certificate")
    for path in (wrong, tmp_path / "missing.pem"):
        with pytest.raises(SpecError, match="expected CA certificates"):
            Prometheus(PrometheusSettings(url="https://x", ca_path=path))


def asked(
    handle: Callable[[httpx.Request], httpx.Response], *, token: Path | None = None
) -> Measurement:
    """Return what a Prometheus that answers with *handle* tells of a server of one ready pod."""
    settings = PrometheusSettings(url="http://prometheus:9090/", token_path=token)
    transport = httpx.MockTransport(handle)
    with closing(
        Prometheus(settings, wall_s=lambda: EPOCH_S + NOW_S, transport=transport)
    ) as source:
        return source.measure([scraped(server(pod("a")))], now_s=NOW_S)


def answering(body: object, *, status: int = 200) -> Callable[[httpx.Request], httpx.Response]:
    """Return a handler that always answers *body*."""
    return lambda _request: httpx.Response(
        status, content=body if isinstance(body, bytes) else json.dumps(body)
    )


def test_the_query_is_posted_for_the_present_of_the_run() -> None:
    """A long query fits no URL; the time given makes an answer repeatable."""
    requests: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json=matrix())

    asked(handle)
    (request,) = requests
    assert (request.method, request.url.path) == ("POST", "/api/v1/query")
    assert f"time={EPOCH_S + NOW_S:.3f}" in request.content.decode()


RARE_NAMES = {
    "vllm:request_success_total": 1.0,
    "vllm:prompt_tokens_total": 100.0,
    "vllm:generation_tokens_total": 200.0,
}


def scraping(
    intervals_s: dict[str, float], *, late_s: float = 0.0, until_s: float = math.inf
) -> Callable[[httpx.Request], httpx.Response]:
    """Return a Prometheus that scrapes pods of one request a second, by name, at intervals of their
    own, until a time, and shows each sample so much later.
    """

    def handle(request: httpx.Request) -> httpx.Response:
        told = parse_qs(request.content.decode())
        at_s = float(told["time"][0]) - EPOCH_S
        reach = re.search(r"\[(\d+)ms\]$", told["query"][0])
        if reach is None:
            return httpx.Response(200, json=matrix())
        begin_s = at_s - int(reach[1]) / 1000.0
        result = []
        for name, interval_s in intervals_s.items():
            times = [10.0 + interval_s * k for k in range(200)]
            last_s = min(at_s - late_s, until_s)
            fitting = [t_s for t_s in times if begin_s < t_s <= last_s]
            result += [
                series(metric, [(t_s, str(each * t_s)) for t_s in fitting], pod_name=name)
                for metric, each in RARE_NAMES.items()
            ]
        return httpx.Response(200, json=matrix(*result))

    return handle


def test_a_pod_that_was_taken_away_from_its_server_is_nobodys() -> None:
    """Who looks into what a pod does takes its labels away; it goes on as long as one looks."""
    one, loose = server(pod("a")), alive(pod("bbbbb"))
    ours, theirs = one.pods[0].name, loose[0].name
    transport = httpx.MockTransport(scraping({ours: 15.0, theirs: 15.0}))
    rates = []
    with closing(
        Prometheus(SETTINGS, wall_s=lambda: EPOCH_S + NOW_S, transport=transport)
    ) as source:
        for unowned in ((), loose, alive(pod("bbbbb", of="dep2"))):
            found = source.measure([scraped(one, unowned=unowned)], now_s=NOW_S).figures["s1"]
            assert found.load is not None
            rates.append(found.load.rate_rpm)
    # Until it is seen elsewhere it is one that has gone, and so it is when it has.
    assert rates == pytest.approx([120.0, 60.0, 60.0])


@pytest.mark.parametrize("status", [400, 422])
def test_a_store_that_takes_one_metric_at_a_time_is_asked_so(status: int) -> None:
    """Some match metrics by whole names only, others find a question about all too much: every
    server was held.
    """
    asked_for: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/v1/label/__name__/values":
            return httpx.Response(200, json={"status": "success", "data": [*RARE_NAMES, "up"]})
        asked_for.append(query := parse_qs(request.content.decode())["query"][0])
        exact = re.match(r'\{__name__="([^"]+)",namespace=~"infer"\}', query)
        if exact is None:
            return httpx.Response(status, json={"error": "no patterns here"})
        if "[" not in query:
            now = {"metric": series(exact[1], [], pod_name=name_of_a)["metric"], "value": [0, "1"]}
            return httpx.Response(200, json={"status": "success", "data": {"result": [now]}})
        whole = scraping({name_of_a: 15.0})(request).json()["data"]["result"]
        named = [one for one in whole if one["metric"]["__name__"] == exact[1]]
        return httpx.Response(200, json=matrix(*named, warnings=["seen"]))

    one = server(pod("a"))
    name_of_a = one.pods[0].name
    transport = httpx.MockTransport(handle)
    with closing(
        Prometheus(SETTINGS, wall_s=lambda: EPOCH_S + NOW_S, transport=transport)
    ) as source:
        found = [source.measure([scraped(one)], now_s=NOW_S) for _ in range(2)]
    for each in found:
        load = each.figures["s1"].load
        assert load is not None
        assert (load.rate_rpm, load.in_tokens, load.out_tokens) == pytest.approx((60, 100, 200))
        assert "prometheus: seen" in each.warnings
    first, second = (set(each.warnings) - {"prometheus: seen"} for each in found)
    assert [line.endswith("one metric after the other") for line in first] == [True]
    assert "no patterns here" in first.pop()
    assert not second
    # Whoever looks for what is wrong sees its metrics, too.
    with closing(
        Prometheus(SETTINGS, wall_s=lambda: EPOCH_S + NOW_S, transport=transport)
    ) as source:
        assert source.show_names([scraped(one)]).names == {"s1": set(RARE_NAMES)}
    # The whole is asked for once, and its parts each time.
    whole = [query for query in asked_for if query.startswith('{__name__=~"') and "ms]" in query]
    assert len(whole) == 1


def test_a_refusal_that_is_of_each_part_too_is_told_as_it_came() -> None:
    """A fault of the question itself: who takes no part of it is not asked for parts again and
    again.
    """
    paths: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        if request.url.path == "/api/v1/label/__name__/values":
            return httpx.Response(200, json={"status": "success", "data": list(RARE_NAMES)})
        query = parse_qs(request.content.decode())["query"][0]
        kind = "whole" if '=~"(?:' in query else "part"
        return httpx.Response(400, json={"errorType": "bad_data", "error": f"no {kind}"})

    transport = httpx.MockTransport(handle)
    with closing(
        Prometheus(SETTINGS, wall_s=lambda: EPOCH_S + NOW_S, transport=transport)
    ) as source:
        found = [source.measure([scraped(server(pod("a")))], now_s=NOW_S) for _ in range(2)]
    assert [one.error for one in found] == ["prometheus: HTTP 400: bad_data: no whole"] * 2
    assert len(paths) == 4, "the whole, the names, one part, and the whole"


def test_parts_of_a_question_are_asked_as_often_as_the_whole() -> None:
    """Percentiles, which a cycle waits for, are asked for once and not again."""
    asked_for: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/v1/label/__name__/values":
            return httpx.Response(200, json={"status": "success", "data": ["a"]})
        asked_for.append(query := parse_qs(request.content.decode())["query"][0])
        status = 422 if "=~" in query else 200 if len(asked_for) == 2 else 502
        return httpx.Response(status, json=matrix())

    transport = httpx.MockTransport(handle)
    with closing(Api(SETTINGS, wall_s=lambda: EPOCH_S, transport=transport)) as api:
        told = {"query": '{__name__=~"a|b"}'}
        api.fetch(told, may_divide=True)
        with pytest.raises(PrometheusError):
            api.fetch(told, attempts=1)
    assert asked_for == [told["query"], '{__name__="a"}', '{__name__="a"}']


@pytest.mark.parametrize("label", ["cluster", "site"])
def test_pods_of_another_cluster_in_the_same_store_are_left_out(label: str) -> None:
    """The same chart in the same namespace of two clusters: its pods were taken for ours that have
    gone, and the load of both for ours. Where nothing names the cluster it shows in time.
    """
    one = server(pod("aaaaa"))
    names = {one.pods[0].name: "east", f"dep1-{TEMPLATE_HASH}-zzzzz": "west"}

    def handle(request: httpx.Request) -> httpx.Response:
        at_s = float(parse_qs(request.content.decode())["time"][0]) - EPOCH_S
        times = [at_s - 60.0 + 15.0 * k for k in range(1, 5)]
        result = [
            series(
                metric, [(t_s, str(each * t_s)) for t_s in times], pod_name=name, **{label: where}
            )
            for name, where in names.items()
            for metric, each in RARE_NAMES.items()
        ]
        return httpx.Response(200, json=matrix(*result))

    now_s = [NOW_S]
    with closing(
        Prometheus(
            SETTINGS,
            wall_s=lambda: EPOCH_S + now_s[-1],
            transport=httpx.MockTransport(handle),
        )
    ) as source:
        found = [source.measure([scraped(one)], now_s=NOW_S)]
        for later_s in (60.0, 120.0):
            now_s.append(NOW_S + later_s)
            found.append(source.measure([scraped(one)], now_s=now_s[-1]))
    loads = [one.figures["s1"].load for one in found]
    at_once = label == "cluster"
    assert [load.rate_rpm if load else None for load in loads] == pytest.approx(
        [60.0 if at_once else 120.0, 60.0, 60.0]
    )
    told = [len([line for line in one.warnings if "another cluster" in line]) for one in found]
    assert told == ([1, 0, 0] if at_once else [0, 1, 0])


def test_a_cluster_that_gets_another_name_has_the_pods_that_it_had() -> None:
    """An external label was changed within the window: a pod that had gone before was taken for
    another cluster's, and its load was missing.
    """
    one = server(pod("aaaaa"))
    stays, gone = one.pods[0].name, f"dep1-{TEMPLATE_HASH}-zzzzz"

    def handle(request: httpx.Request) -> httpx.Response:
        at_s = float(parse_qs(request.content.decode())["time"][0]) - EPOCH_S
        halves = [[at_s - 60.0 + 10.0 * k for k in of] for of in ((1, 2, 3), (4, 5, 6))]
        told = [(stays, "new", halves[1]), (stays, "old", halves[0]), (gone, "old", halves[0])]
        result = [
            series(
                metric, [(t_s, str(each * t_s)) for t_s in times], pod_name=name, cluster=cluster
            )
            for name, cluster, times in told
            for metric, each in RARE_NAMES.items()
        ]
        return httpx.Response(200, json=matrix(*result))

    transport = httpx.MockTransport(handle)
    with closing(Prometheus(SETTINGS, wall_s=lambda: EPOCH_S + NOW_S, transport=transport)) as of:
        found = of.measure([scraped(one)], now_s=NOW_S)
    assert not [line for line in found.warnings if "another cluster" in line]
    load = found.figures["s1"].load
    assert load is not None
    assert load.rate_rpm > 60.0


def test_pods_that_are_scraped_once_a_minute_are_read_over_a_longer_window() -> None:
    """So a Prometheus does that nobody has told otherwise: its servers were held for ever."""
    rare, frequent = server(pod("a")), server(pod("b", of="dep2"), name="dep2", labels={NAME: "s2"})
    names = [one.pods[0].name for one in (rare, frequent)]
    times_s = [600.0]
    transport = httpx.MockTransport(scraping(dict(zip(names, (60.0, 15.0), strict=True))))
    with closing(
        Prometheus(SETTINGS, wall_s=lambda: EPOCH_S + times_s[-1], transport=transport)
    ) as source:
        seen = [source.measure([scraped(rare), scraped(frequent)], now_s=600.0)]
        for t_s in (660.0, 725.0, 790.0):
            times_s.append(t_s)
            seen.append(source.measure([scraped(rare), scraped(frequent)], now_s=t_s))
    loads = [found.figures[name].load for found in seen for name in ("s1", "s2")]
    assert [load.rate_rpm if load else None for load in loads] == pytest.approx([60.0] * 8)
    assert [found.warnings for found in seen] == [
        ("prometheus: s1: its pods are scraped every 60 s: its figures are over 150 s, not 60",),
        *[()] * 3,
    ]
    assert all(found.figures["s1"].warnings == () for found in seen)


@pytest.mark.parametrize("interval_s", [120.0, 300.0, 590.0])
def test_pods_that_are_scraped_once_in_minutes_are_read_at_whatever_time(
    interval_s: float,
) -> None:
    """In most windows of a minute they have told nothing at all: they were held for ever."""
    one = server(pod("a"))
    transport = httpx.MockTransport(scraping({one.pods[0].name: interval_s}))
    for start_s in (3000.0, 3070.0, 3150.0):
        at = [start_s]
        with closing(
            Prometheus(SETTINGS, wall_s=lambda at=at: EPOCH_S + at[-1], transport=transport)
        ) as source:
            found = source.measure([scraped(one)], now_s=at[-1])
            if found.figures["s1"].load is None:
                at.append(start_s + 60.0)
                found = source.measure([scraped(one)], now_s=at[-1])
        load = found.figures["s1"].load
        assert load is not None
        assert load.rate_rpm == pytest.approx(60.0)
        assert f"scraped every {interval_s:.0f} s" in found.warnings[0]


@pytest.mark.parametrize(("window_s", "late_s"), [(30.0, 45.0), (300.0, 100.0), (600.0, 70.0)])
def test_windows_of_any_length_read_samples_that_come_late(window_s: float, late_s: float) -> None:
    """A short one, once it was stretched for the scrapes, held none of them; in a long one all were
    too old.
    """
    settings = replace(SETTINGS, window=replace(SETTINGS.window, window_s=window_s))
    one = server(pod("a", since_s=-5000.0))
    at = [1000.0]
    transport = httpx.MockTransport(scraping({one.pods[0].name: 15.0}, late_s=late_s))
    with closing(
        Prometheus(settings, wall_s=lambda: EPOCH_S + at[-1], transport=transport)
    ) as source:
        seen = []
        for _ in range(20):
            seen.append(source.measure([scraped(one)], now_s=at[-1]).figures["s1"])
            at.append(at[-1] + 61.0)
    assert all(figures.load is not None for figures in seen[12:])
    assert {round(figures.load.rate_rpm) for figures in seen if figures.load} == {60}


@pytest.mark.parametrize("late_s", [35.0, 50.0, 100.0, 170.0, 270.0])
def test_samples_that_come_late_are_read_as_late_as_they_come(late_s: float) -> None:
    """Stores of clouds show each a minute or more after it was taken: all were held for ever, as
    pods without metrics.
    """
    one = server(pod("a"))
    at = [1000.0]
    transport = httpx.MockTransport(scraping({one.pods[0].name: 15.0}, late_s=late_s))
    with closing(
        Prometheus(SETTINGS, wall_s=lambda: EPOCH_S + at[-1], transport=transport)
    ) as source:
        told, seen = [], []
        for _ in range(20):
            found = source.measure([scraped(one)], now_s=at[-1])
            seen.append(found.figures["s1"])
            told += found.warnings
            at.append(at[-1] + 61.0)
    assert all(figures.load is not None for figures in seen[3:])
    assert {round(figures.load.rate_rpm) for figures in seen if figures.load} == {60}
    ages = [figures.age_s for figures in seen[3:]]
    assert all(age_s is not None and late_s <= age_s <= late_s + 15.0 for age_s in ages)
    (line,) = set(told)
    assert re.match(r"prometheus: s1: samples of its pods come \d+ s late: its figures are", line)
    if late_s > 60.0:
        assert any(
            "s old: expected at most 60" in line for one in seen[:3] for line in one.warnings
        )


def test_samples_that_come_no_more_are_not_late_and_told_as_old() -> None:
    """Nothing is known of now, however often it is looked for."""
    one = server(pod("a"))
    at = [1000.0]
    transport = httpx.MockTransport(scraping({one.pods[0].name: 15.0}, until_s=1000.0))
    with closing(
        Prometheus(SETTINGS, wall_s=lambda: EPOCH_S + at[-1], transport=transport)
    ) as source:
        seen = []
        for _ in range(12):
            seen.append(source.measure([scraped(one)], now_s=at[-1]).figures["s1"])
            at.append(at[-1] + 60.0)
        gone = source.measure([scraped(server())], now_s=at[-1]).figures["s1"]
        new = pod("b", since_s=at[-1] - 1.0)
        begun = source.measure([scraped(server(new))], now_s=at[-1]).figures["s1"]
    assert all(found.load is None for found in seen[2:])
    assert "s old: expected at most 60" in seen[6].warnings[0]
    # Nothing is amiss without pods, nor as pods begin.
    assert (gone.warnings, begun.warnings) == ((), ())


def test_one_whose_samples_stopped_once_has_no_others_looked_for_each_minute() -> None:
    """Samples that may come late are looked for again in a minute, for ever where the pods of
    another server are not scraped at all: a long past of the cluster each time.
    """
    scraped_s = {pod("a")["metadata"]["name"]: 15.0}
    stopped, goes_on = scraping(scraped_s, until_s=900.0), scraping(scraped_s)
    far_s = list[float]()

    def handle(request: httpx.Request) -> httpx.Response:
        if f"[{1000 * WIDEST_S:.0f}ms]" in parse_qs(request.content.decode())["query"][0]:
            far_s.append(at_s)
        return (stopped if at_s < 1200.0 else goes_on)(request)

    servers = [
        scraped(server(pod("a"))),
        scraped(server(pod("b", of="dep2"), name="dep2", labels={NAME: "s2"})),
    ]
    transport = httpx.MockTransport(handle)
    with closing(
        Prometheus(SETTINGS, wall_s=lambda: EPOCH_S + at_s, transport=transport)
    ) as source:
        for at_s in range(1000, 3000, 60):
            found = source.measure(servers, now_s=at_s)
    assert found.figures["s1"].load is not None
    assert len([t_s for t_s in far_s if t_s >= 1500.0]) <= 5


def test_a_look_farther_back_that_fails_holds_nobody_else() -> None:
    """So long a past of a large cluster may be too much for its Prometheus."""
    answer = scraping({pod("a")["metadata"]["name"]: 60.0, "dep2-5d9c7b6f4d-b": 15.0})

    def handle(request: httpx.Request) -> httpx.Response:
        if f"[{1000 * WIDEST_S:.0f}ms]" in parse_qs(request.content.decode())["query"][0]:
            return httpx.Response(422, json={"errorType": "execution", "error": "too many"})
        return answer(request)

    servers = [
        scraped(server(pod("a"))),
        scraped(server(pod("b", of="dep2"), name="dep2", labels={NAME: "s2"})),
    ]
    transport = httpx.MockTransport(handle)
    with closing(
        Prometheus(SETTINGS, wall_s=lambda: EPOCH_S + NOW_S, transport=transport)
    ) as source:
        found = source.measure(servers, now_s=NOW_S)
    assert found.error == ""
    assert found.warnings == (
        "prometheus: how often pods are scraped is not known: HTTP 422: execution: too many",
    )
    assert (found.figures["s1"].load, found.figures["s2"].load is None) == (None, False)


@pytest.mark.parametrize("births", ["one", "of its counters", "none", "refused"])
def test_an_engine_that_makes_good_what_it_could_not_do_is_one_if_its_birth_says_so(
    births: str,
) -> None:
    """It stood still for a minute and then did in a moment what had come: each of its scrapes was
    taken for another engine, 2,675 requests ran where 225 did, and eleven replicas were asked for.
    Without births nobody knows that, so neither the load nor what runs is known.
    """
    times, name = [545.0 + 5.0 * k for k in range(11)], pod("a")["metadata"]["name"]

    def shown(t_s: float, each: float) -> str:
        return str(each * (t_s - (60.0 if t_s < 570.0 else 0.0)))

    def handle(request: httpx.Request) -> httpx.Response:
        query = parse_qs(request.content.decode())["query"][0]
        if "process_start_time_seconds" not in query:
            told = {"vllm:request_success_total": 1.0, "vllm:generation_tokens_total": 40_000.0}
            result = [
                series(metric, [(t_s, shown(t_s, each)) for t_s in times], pod_name=name)
                for metric, each in told.items()
            ]
            running = [(t_s, "225") for t_s in times]
            result.append(series("vllm:num_requests_running", running, pod_name=name))
            return httpx.Response(200, json=matrix(*result))
        assert re.findall(r'__name__=~"([^"]*)"', query) == [NAMES.births_pattern]
        if births == "refused":
            return httpx.Response(422, json={"errorType": "execution", "error": "no"})
        if births == "none":
            return httpx.Response(200, json=matrix())
        began = [(t_s, "1.7e9") for t_s in times]
        by_counters = births == "of its counters"
        told_by = "vllm:request_success_created" if by_counters else "process_start_time_seconds"
        assert re.fullmatch(NAMES.births_pattern, told_by)
        one = series(told_by, began, pod_name=name)
        return httpx.Response(200, json=matrix(one))

    found = asked(handle)
    figures = found.figures["s1"]
    assert found.error == ""
    if births in ("one", "of its counters"):
        assert figures.load is not None
        assert 60.0 < figures.load.rate_rpm < 150.0
        assert [one.running for one in figures.pods.values()] == [225]
        return
    assert figures.load is None
    assert "several processes answer by turns at one port" in figures.warnings[0]
    assert all("running" in one.unknown for one in figures.pods.values())


@pytest.mark.parametrize("births", [True, False])
def test_an_engine_that_begins_anew_inside_its_container_is_known_if_its_birth_is(
    births: bool,
) -> None:
    """No container came up again: it was held for as long as its engine crashed; or nothing was
    said to come where it showed the same at each scrape, as two workers do that have nothing to do.
    """
    times, name = [545.0 + 5.0 * k for k in range(11)], pod("a")["metadata"]["name"]
    # It gets two requests a second, and lives for ten seconds.
    lives = [(t_s, 10.0 * (t_s // 10.0)) for t_s in times]

    def handle(request: httpx.Request) -> httpx.Response:
        query = parse_qs(request.content.decode())["query"][0]
        if "process_start_time_seconds" in query:
            told = [(t_s, f"{began}") for t_s, began in lives] if births else []
            started = [series("process_start_time_seconds", told, pod_name=name)] if told else []
            return httpx.Response(200, json=matrix(*started))
        ended = [(t_s, f"{2.0 * (t_s - began)}") for t_s, began in lives]
        one = series("vllm:request_success_total", ended, pod_name=name)
        return httpx.Response(200, json=matrix(one))

    figures = asked(handle).figures["s1"]
    assert (figures.load is not None) == births
    if figures.load is not None:
        assert figures.load.rate_rpm == pytest.approx(120.0)


def test_births_of_more_pods_than_one_question_names_are_all_asked_for() -> None:
    """Of the pods behind the first 90 it was said that nobody tells, and they were left out."""
    names = [f"p{k:03}" for k in range(200)]

    def handle(request: httpx.Request) -> httpx.Response:
        query = parse_qs(request.content.decode())["query"][0]
        told = [name for name in names if name in query]
        assert len(told) <= 90
        born = [series("process_start_time_seconds", [(1.0, "5")], pod_name=one) for one in told]
        return httpx.Response(200, json=matrix(*born))

    transport = httpx.MockTransport(handle)
    with closing(Prometheus(SETTINGS, wall_s=lambda: EPOCH_S, transport=transport)) as source:
        keys = [("infer", name) for name in names]
        found = source.births(keys, start_s=0.0, end_s=60.0, step_s=15.0)
    assert list(found) == keys


def test_no_series_is_an_answer_the_load_is_unknown_and_labels_may_tell_it() -> None:
    """`"result": []` is what Prometheus says of servers that export nothing."""
    found = asked(answering(matrix()))
    assert found.error == ""
    assert (found.figures["s1"].load, found.figures["s1"].measured) == (None, False)


def test_what_prometheus_warns_of_is_passed_on() -> None:
    """A federated one says so when a part of it did not answer."""
    assert asked(answering(matrix(warnings=["store east is away"]))).warnings == (
        "prometheus: store east is away",
    )


@pytest.mark.parametrize("warnings", ["all away", ["store\n" * 500] * 1000])
def test_a_flood_of_warnings_is_cut(warnings: object) -> None:
    """A query over a hundred stores may have one of each, in every cycle."""
    told = asked(answering(matrix(warnings=warnings))).warnings
    assert len(told) == (1 if isinstance(warnings, str) else 6)
    assert all(len(line) < 400 and "\n" not in line for line in told)
    assert isinstance(warnings, str) or told[-1] == "prometheus: 995 more warnings"


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "120"},
        {
            "Date": "Sun, 29 Nov 2026 07:00:00 GMT",
            "Retry-After": "Sun, 29 Nov 2026 07:02:00 GMT",
        },
    ],
    ids=["seconds", "a date"],
)
def test_one_that_says_when_to_come_back_is_not_asked_before(
    status: int, headers: dict[str, str]
) -> None:
    """It is asked for too much: to ask twice in each cycle is no help."""
    requests: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(status, headers=headers)

    transport = httpx.MockTransport(handle)
    one = scraped(server(pod("a")))
    with closing(
        Prometheus(SETTINGS, wall_s=lambda: EPOCH_S + NOW_S, transport=transport)
    ) as source:
        errors = [source.measure([one], now_s=NOW_S).error for _ in range(3)]
    assert len(requests) == 1
    assert errors[0].startswith(f"prometheus: HTTP {status}: ")
    assert errors[1].endswith("not asked for 120 s more, as it said")


def test_one_that_does_not_say_where_series_are_is_asked_once() -> None:
    """A question for each of a thousand servers, each until it times out, would stop the loop."""
    requests: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        if "topk" in parse_qs(request.content.decode())["query"][0]:
            return httpx.Response(422, json={"errorType": "execution", "error": "too many"})
        return answering(matrix())(request)

    servers = [
        scraped(server(pod(name, of=f"dep-{name}"), name=f"dep-{name}", labels={NAME: name}))
        for name in ("a", "b", "c")
    ]
    transport = httpx.MockTransport(handle)
    with closing(
        Prometheus(SETTINGS, wall_s=lambda: EPOCH_S + NOW_S, transport=transport)
    ) as source:
        assert source.show_names(servers).elsewhere == {}
    assert len(requests) == 2


def test_an_answer_that_lacks_a_part_is_told() -> None:
    """VictoriaMetrics says it in a field of its own."""
    (line,) = asked(answering(matrix(isPartial=True))).warnings
    assert line == "prometheus: the answer is partial: series may be missing"


def moved(_: httpx.Request) -> httpx.Response:
    """Send who asks to where one logs in."""
    return httpx.Response(302, headers={"Location": "https://login/"})


def test_series_that_name_their_pod_otherwise_are_told() -> None:
    """Relabelling: the load would be unknown, and nobody would know why."""
    other = series("vllm:request_success_total", [(600.0, "1")], kubernetes_pod_name="x")
    del other["metric"]["pod"]
    (line,) = asked(answering(matrix(other))).warnings
    assert line.startswith("prometheus: series name their pod by the label kubernetes_pod_name")
    assert "--pod-label" in line


@pytest.mark.parametrize(
    ("handle", "line"),
    [
        (
            answering(
                {"status": "error", "errorType": "bad_data", "error": "1:2: parse\nerror"},
                status=400,
            ),
            "bad_data: 1:2: parse error",
        ),
        (answering(b"<html>", status=503), "HTTP 503: Service Unavailable"),
        (answering({}, status=401), "HTTP 401"),
        (answering(b"no org id\n", status=401), "HTTP 401: Unauthorized: no org id"),
        (answering(b"\0\1\xff", status=401), "HTTP 401: Unauthorized"),
        (
            answering({"message": "invalid API key"}, status=403),
            "HTTP 403: Forbidden: invalid API key",
        ),
        (
            answering({"error": {"code": 403, "message": "no right to read"}}, status=403),
            "HTTP 403: Forbidden: no right to read",
        ),
        (moved, "HTTP 302: Found: it sends us to https://login/: give that address?"),
        (answering(b"<html>"), "expected JSON, found '<html>'"),
        (answering(b"[" * 200_000), "expected JSON, found '[[["),
        (answering(b"[" * 200_000, status=400), "HTTP 400: Bad Request"),
        (answering([1]), "expected an object, found list"),
        (answering({"status": "success"}), "expected a matrix"),
    ],
)
def test_a_refusal_is_told_in_one_line_and_every_load_is_unknown(
    handle: Callable[[httpx.Request], httpx.Response], line: str
) -> None:
    """Prometheus being away is no reason to scale anything."""
    found = asked(handle)
    assert line in found.error
    assert "\n" not in found.error
    assert found.figures == {}


def test_what_may_pass_is_asked_for_once_more() -> None:
    """A cut connection in the middle of a restart must not cost a cycle; an endless one must not
    take longer.
    """
    answers: list[Exception | httpx.Response] = [
        httpx.ReadError("cut"),
        httpx.Response(200, json=matrix()),
    ]

    def handle(_request: httpx.Request) -> httpx.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert asked(handle).error == ""
    answers[:] = [
        httpx.ReadTimeout("slow"),
        httpx.Response(502),
        httpx.Response(200, json=matrix()),
    ]
    assert "HTTP 502" in asked(handle).error
    assert len(answers) == 1


def test_the_token_is_read_for_every_request(tmp_path: Path) -> None:
    """Tokens of service accounts are renewed in place, every hour."""
    told: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        told.append(request.headers["Authorization"])
        return httpx.Response(200, json=matrix())

    token = tmp_path / "token"
    for text in ("one\n", "two\n"):
        token.write_text(text)
        asked(handle, token=token)
    assert told == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize("text", [None, "", "a\nb", "\xff"])
def test_a_token_file_without_a_token_is_told(tmp_path: Path, text: str | None) -> None:
    """It must not become an empty header, nor a crash."""
    token = tmp_path / "token"
    if text is not None:
        token.write_text(text, encoding="latin-1")
    assert "token file" in asked(answering(matrix()), token=token).error


@pytest.mark.parametrize("path", ["/base/", "/base/api/v1", "/base/api/v1/query"])
def test_a_query_in_the_address_is_part_of_every_request(path: str) -> None:
    """OpenShift's tenancy asks for the namespace there; it must not swallow the path. Consoles of
    clouds show the address with what is asked for behind it: that was asked for twice.
    """
    asked_for: list[httpx.URL] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked_for.append(request.url)
        return httpx.Response(200, json=matrix())

    for method in ("POST", "GET"):
        url = f"http://p:9091{path}?namespace=infer"
        settings = PrometheusSettings(url=url, method=method)
        transport = httpx.MockTransport(handle)
        with closing(
            Prometheus(settings, wall_s=lambda: EPOCH_S + NOW_S, transport=transport)
        ) as source:
            assert source.measure([scraped(server(pod("a")))], now_s=NOW_S).error == ""
    assert {url.path for url in asked_for} == {"/base/api/v1/query"}
    assert all(url.params["namespace"] == "infer" for url in asked_for)
    assert "query" in asked_for[1].params


@pytest.mark.parametrize("status", [405, 501])
def test_who_lets_nothing_be_posted_is_asked_by_get(status: int) -> None:
    """As Prometheus' own clients do: some that stand before it let reading pass only."""
    methods: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        methods.append(request.method)
        return httpx.Response(status if request.method == "POST" else 200, json=matrix())

    transport = httpx.MockTransport(handle)
    with closing(
        Prometheus(SETTINGS, wall_s=lambda: EPOCH_S + NOW_S, transport=transport)
    ) as source:
        for _ in range(2):
            assert source.measure([scraped(server(pod("a")))], now_s=NOW_S).error == ""
    assert methods[0] == "POST"
    assert set(methods[1:]) == {"GET"}
    always = httpx.MockTransport(lambda _: httpx.Response(status, json={}))
    with closing(Prometheus(SETTINGS, wall_s=lambda: EPOCH_S, transport=always)) as source:
        found = source.measure([scraped(server(pod("a")))], now_s=0.0)
    assert found.error.startswith(f"prometheus: HTTP {status}")


def test_further_headers_and_basic_auth_come_from_files(tmp_path: Path) -> None:
    """Tenants of Mimir and Cortex; secrets that are renewed in place."""
    headers, auth = tmp_path / "headers", tmp_path / "auth"
    headers.write_text("X-Scope-OrgID: team-a\n\nX-Other: b\n")
    auth.write_text("me:secret\n")
    told: list[httpx.Headers] = []

    def handle(request: httpx.Request) -> httpx.Response:
        told.append(request.headers)
        return httpx.Response(200, json=matrix())

    settings = PrometheusSettings(url="http://p", headers_path=headers, basic_auth_path=auth)
    transport = httpx.MockTransport(handle)
    with closing(
        Prometheus(settings, wall_s=lambda: EPOCH_S + NOW_S, transport=transport)
    ) as source:
        source.measure([scraped(server(pod("a")))], now_s=NOW_S)
        headers.write_text("no colon")
        failed = source.measure([scraped(server(pod("a")))], now_s=NOW_S)
    assert (told[0]["X-Scope-OrgID"], told[0]["X-Other"]) == ("team-a", "b")
    assert told[0]["Authorization"] == "Basic bWU6c2VjcmV0"
    assert "expected lines of Name: value" in failed.error


def test_it_is_asked_for_its_own_present_where_our_clock_is_off() -> None:
    """After a suspend the loop would ask for the past for ever, and be told yesterday's load."""
    its_now_s = EPOCH_S + NOW_S + 3600.0
    times: list[float] = []

    def handle(request: httpx.Request) -> httpx.Response:
        told = httpx.QueryParams(request.content.decode())
        at_s = float(told["time"])
        if "_bucket" in told["query"]:
            return httpx.Response(200, json=matrix())
        times.append(at_s)
        points = [
            [its_now_s - 45.0 + 15.0 * i, str(100.0 + 15.0 * i)]
            for i in range(4)
            if its_now_s - 45.0 + 15.0 * i <= at_s
        ]
        labels = {"namespace": "infer", "pod": pod("a")["metadata"]["name"]}
        result = [
            {"metric": {"__name__": "vllm:request_success_total", **labels}, "values": points}
        ]
        answer = matrix(*(result if points else []))
        date = format_datetime(datetime.fromtimestamp(its_now_s, UTC), usegmt=True)
        return httpx.Response(200, json=answer, headers={"Date": date})

    transport = httpx.MockTransport(handle)
    with closing(
        Prometheus(SETTINGS, wall_s=lambda: EPOCH_S + NOW_S, transport=transport)
    ) as source:
        first = source.measure([scraped(server(pod("a")))], now_s=NOW_S)
        again = source.measure([scraped(server(pod("a")))], now_s=NOW_S)
    assert len(times) == 3
    assert first.warnings[0].startswith("prometheus: its clock and ours have come apart by +36")
    assert again.warnings == ()
    for found in (first, again):
        load = found.figures["s1"].load
        assert load is not None
        assert load.rate_rpm == pytest.approx(60.0)
        assert found.figures["s1"].age_s == pytest.approx(0.5, abs=0.6)


def test_an_answer_that_a_cache_has_kept_is_no_other_clock() -> None:
    """It carries the date on which it was made, and its age."""
    now_s = EPOCH_S + NOW_S
    made = format_datetime(datetime.fromtimestamp(now_s - 300.0, UTC), usegmt=True)

    def handle(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=matrix(), headers={"Date": made, "Age": "300"})

    transport = httpx.MockTransport(handle)
    with closing(Prometheus(SETTINGS, wall_s=lambda: now_s, transport=transport)) as source:
        assert source.measure([scraped(server(pod("a")))], now_s=NOW_S).warnings == ()


@pytest.mark.costly
def test_an_answer_that_never_ends_or_drips_is_given_up(tmp_path: Path) -> None:
    """A cycle must not hang, nor take all memory."""

    class Endless(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield b"x" * 2**20

    found = asked(lambda _request: httpx.Response(200, stream=Endless()))
    assert "longer than" in found.error


def test_the_names_that_prometheus_has_are_told_by_server() -> None:
    """Those that tell of requests or tokens too: they may be the engine's, renamed on the way."""
    requests: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        told = {"pod": f"dep1-{TEMPLATE_HASH}-a", "namespace": "infer"}
        result = [
            {"metric": {"__name__": name, **told}, "value": [EPOCH_S, "1"]}
            for name in ("vllm:prompt_tokens_total", "llm_requests_total")
        ]
        return httpx.Response(200, json={"status": "success", "data": {"result": result}})

    transport = httpx.MockTransport(handle)
    settings = PrometheusSettings(url="http://prometheus:9090")
    with closing(Prometheus(settings, wall_s=lambda: EPOCH_S, transport=transport)) as source:
        shown = source.show_names([scraped(server(pod("a")))])
    assert shown.names == {"s1": {"vllm:prompt_tokens_total", "llm_requests_total"}}
    assert "request%7Ctoken" in requests[0].content.decode()


def test_names_that_cannot_be_had_are_told_and_not_raised() -> None:
    """Who looks for what is wrong must see this first."""
    transport = httpx.MockTransport(answering({"status": "success"}))
    settings = PrometheusSettings(url="http://prometheus:9090")
    with closing(Prometheus(settings, wall_s=lambda: EPOCH_S, transport=transport)) as source:
        assert source.show_names([]).error.startswith("prometheus: expected series")
