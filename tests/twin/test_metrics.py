"""What a scraper sees: intervals, windows, counters that vanish with their pod, vLLM's names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from twin.engine.replica import Replica
from twin.engine.telemetry import NO_COUNTED, TTFT_BOUNDS_S, Counters, packed
from twin.kernel import CONTROL, at
from twin.request import Request
from twin.serving.metrics import (
    METRIC_TYPES,
    Arrivals,
    FinishedTotals,
    Growth,
    PodSeries,
    ServerSeries,
    WindowFigures,
    exposition,
    scraped_of,
)
from twin.spec import LatencyModel, Pool, Server, World
from twin.testing.worlds import arrive, cluster_of, spec_of

S = Server(name="s", model="m", pool=Pool(accelerator="A", replicas=1, max_batch=100))


def test_nothing_is_known_before_the_first_scrape() -> None:
    """None means not measured: a zero would make a loop scale to nothing in its first cycle."""
    env, cluster = cluster_of(spec_of(S, capacity={"A": 1}))
    arrive(env, cluster, [1.0, 2.0], output=10)
    for t_s in (14.0, 15.0):
        env.run(until=t_s)
        state = cluster.snapshot().servers["s"]
        assert state.window == WindowFigures()
        assert (state.scraped_s, state.pods[0].scraped_s) == (None, None)
    env.run(until=15.1)
    state = cluster.snapshot().servers["s"]
    assert (state.scraped_s, state.pods[0].scraped_s) == (15.0, 15.0)
    assert state.window.rate_rpm == 8.0


def test_before_a_full_window_rates_use_the_time_since_the_start() -> None:
    """A rate over a whole window would read low at the start, and the loop would scale down."""
    env, cluster = cluster_of(spec_of(S, capacity={"A": 1}))
    arrive(env, cluster, np.arange(0.25, 200.0, 0.5).tolist(), prompt=30, output=10)  # 2 per second
    for t_s in (16.0, 31.0, 46.0, 61.0, 76.0, 151.0):
        env.run(until=t_s)
        window = cluster.snapshot().servers["s"].window
        assert window.rate_rpm == 120.0
        assert (window.in_tokens, window.out_tokens) == (30.0, 10.0)
        assert window.completions_rpm == pytest.approx(120.0)
        assert window.output_tps == pytest.approx(20.0, rel=0.02)
        assert window.ttft_ms == pytest.approx(10.0)
        assert window.itl_ms == pytest.approx(10.0)


def test_a_full_window_forgets_what_was_before_it() -> None:
    """Requests stop at 60 s: the rate falls scrape by scrape and is zero from 120 s on."""
    env, cluster = cluster_of(spec_of(S, capacity={"A": 1}))
    arrive(env, cluster, np.arange(0.5, 60.0, 1.0).tolist(), output=1)
    rates = []
    for t_s in (61.0, 76.0, 91.0, 106.0, 121.0):
        env.run(until=t_s)
        rates.append(cluster.snapshot().servers["s"].window.rate_rpm)
    assert rates == [60.0, 45.0, 30.0, 15.0, 0.0]
    window = cluster.snapshot().servers["s"].window
    assert (window.in_tokens, window.out_tokens, window.ttft_ms, window.itl_ms) == (
        None,
        None,
        None,
        None,
    )
    assert (window.completions_rpm, window.output_tps) == (0.0, 0.0)


def test_a_cycle_at_the_instant_of_a_scrape_sees_the_one_before() -> None:
    """Control comes before the scraper at the same instant: the lag of a whole interval is real."""
    env, cluster = cluster_of(spec_of(S, capacity={"A": 1}))
    arrive(env, cluster, [20.0], output=1)
    seen: list[float | None] = []
    for at_s in (30.0, 45.0):
        at(
            env,
            at_s,
            priority=CONTROL,
            action=lambda: seen.append(cluster.snapshot().servers["s"].scraped_s),
        )
    env.run(until=50.0)
    assert seen == [15.0, 30.0]


def test_a_scrape_sees_what_happens_at_its_instant() -> None:
    """Arrivals and finished iterations of the instant come before the scraper."""
    env, cluster = cluster_of(spec_of(S, capacity={"A": 1}))
    arrive(env, cluster, [14.0, 15.0], output=100)
    env.run(until=16.0)
    state = cluster.snapshot().servers["s"]
    assert state.window.rate_rpm == 8.0
    assert state.running == 1  # the first has just finished, the second just begun
    assert state.window.completions_rpm == pytest.approx(4.0)


def test_arrivals_are_counted_at_the_router_whatever_becomes_of_them() -> None:
    """A gateway sees the demand: also what is rejected and what no pod can take."""
    server = replace(S, pool=replace(S.pool, replicas=0))
    full = Server(
        name="t", model="m", pool=Pool(accelerator="A", replicas=1, max_batch=1), queue_max=1
    )
    env, cluster = cluster_of(spec_of(server, full, capacity={"A": 1}))
    for name in ("s", "t"):
        arrive(env, cluster, [14.0] * 10, server=name, prompt=7, output=1000)
    env.run(until=16.0)
    servers = cluster.snapshot().servers
    for name in ("s", "t"):
        assert (servers[name].window.rate_rpm, servers[name].window.in_tokens) == (40.0, 7.0)
    assert (servers["s"].backlog, servers["s"].waiting, servers["s"].running) == (10, 0, 0)
    assert (servers["t"].backlog, servers["t"].waiting, servers["t"].running) == (0, 0, 1)
    assert (cluster.requests.frame()["outcome"] == 1).sum() == 9


def test_what_a_pod_did_after_its_last_scrape_is_never_seen() -> None:
    """Prometheus cannot scrape a pod that is gone; the truth is in the records, not in the
    metrics.
    """
    env, cluster = cluster_of(
        spec_of(
            replace(S, pool=replace(S.pool, replicas=2), router="round_robin"), capacity={"A": 2}
        )
    )
    arrive(env, cluster, [1.0, 1.0, 16.0, 16.0], output=100)
    at(
        env,
        16.5,
        priority=CONTROL,
        action=lambda: cluster.scale("s", Pool(accelerator="A", replicas=1, max_batch=100)),
    )
    env.run(until=31.0)
    window = cluster.snapshot().servers["s"].window
    assert len(cluster.requests) == 4
    assert window.completions_rpm == pytest.approx(3 * 60.0 / 30.0)
    assert window.rate_rpm == pytest.approx(4 * 60.0 / 30.0)


def test_a_restarted_pod_counts_from_zero_without_a_dent_in_the_totals() -> None:
    """A counter reset must not show as negative traffic, nor count the first life twice."""
    env, cluster = cluster_of(spec_of(S, capacity={"A": 1}, world=World(window_s=300.0)))
    arrive(env, cluster, [1.0, 2.0, 3.0, 100.0], output=10)
    deployment = cluster.deployments[0]
    at(env, 20.0, priority=CONTROL, action=lambda: deployment.crash(deployment.pods[0]))
    env.run(until=121.0)
    state = cluster.snapshot().servers["s"]
    assert state.window.completions_rpm == pytest.approx(4 * 60.0 / 120.0)
    assert state.pods[0].restarts == 1


def test_gauges_are_those_of_the_last_scrape() -> None:
    """Running, waiting and KV usage lag like everything else that is scraped."""
    env, cluster = cluster_of(
        spec_of(replace(S, pool=replace(S.pool, max_batch=2)), capacity={"A": 1}, kv_tokens=1600)
    )
    arrive(env, cluster, [14.5] * 3, prompt=100, output=200)
    env.run(until=20.0)
    state = cluster.snapshot().servers["s"]
    pod = state.pods[0]
    assert (
        (state.running, state.waiting, state.backlog) == (pod.running, pod.waiting, 1) == (2, 1, 1)
    )
    # At 15 s the 51st iteration runs: two requests with 150 tokens each, 10 blocks of 16, of 100
    # blocks.
    assert state.kv_usage == pod.kv_usage == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("interval_s", "window_s", "expected"),
    [(0.1, 0.3, 3), (15.0, 60.0, 4), (15.0, 70.0, 5), (7.0, 7.0, 1)],
)
def test_a_window_reaches_back_a_whole_number_of_scrapes(
    interval_s: float, window_s: float, expected: int
) -> None:
    """The smallest that covers it; 0.3 over 0.1 is 3, not 4."""
    series = ServerSeries(scrape_interval_s=interval_s, window_s=window_s)
    for number in range(1, 20):
        series.add(number * interval_s, Arrivals(number, 0), [])
    assert series.figures().rate_rpm == pytest.approx(60.0 / interval_s)
    begin_s, _, _ = series._samples[0]
    assert begin_s == pytest.approx((19 - expected) * interval_s)


@pytest.mark.parametrize(
    ("interval_s", "length_s"), [(15.0, 15.0), (5.0, 15.0), (20.0, 20.0), (10.0, 20.0)]
)
def test_what_came_lately_is_of_a_quarter_of_the_window(interval_s: float, length_s: float) -> None:
    """Or since the scrape that is older than that; of a window of one scrape there is none."""
    series = ServerSeries(scrape_interval_s=interval_s, window_s=60.0)
    for number in range(1, 20):
        series.add(number * interval_s, Arrivals(number**2, 0), [])
    figures = series.figures()
    then = 19 - round(length_s / interval_s)
    assert figures.latest_s == pytest.approx(length_s)
    assert figures.latest_rpm == pytest.approx((19**2 - then**2) * 60.0 / length_s)
    series = ServerSeries(scrape_interval_s=60.0, window_s=60.0)
    for number in range(1, 5):
        series.add(number * 60.0, Arrivals(number, 0), [])
    assert series.figures().latest_rpm is None


def test_totals_of_a_server_are_the_sums_over_its_pods() -> None:
    """Means over a window weight every request alike, whichever pod served it."""
    series = ServerSeries(scrape_interval_s=15.0, window_s=60.0)
    one = Counters(
        successes=1,
        finished_tokens=10,
        ttft_count=1,
        ttft_sum_s=0.1,
        generation_tokens=10,
        itl_count=9,
        itl_sum_s=0.9,
    )
    two = Counters(
        successes=3,
        finished_tokens=60,
        ttft_count=3,
        ttft_sum_s=0.9,
        generation_tokens=60,
        itl_count=57,
        itl_sum_s=5.7,
    )
    series.add(15.0, Arrivals(8, 80), [Growth(one), Growth(two)])
    figures = series.figures()
    assert figures.out_tokens == 17.5
    assert figures.ttft_ms == pytest.approx(250.0)
    assert figures.itl_ms == pytest.approx(100.0)
    assert figures.output_tps == pytest.approx(70 / 15.0)
    assert (figures.rate_rpm, figures.in_tokens, figures.completions_rpm) == (32.0, 10.0, 16.0)


def test_a_pod_is_printed_under_the_names_that_vllm_uses() -> None:
    """A collector made for vLLM must find everything that it asks for, in the text format of
    Prometheus.
    """
    replica = Replica(
        latency_model=LatencyModel(alpha_ms=20.0, beta_ms=0.0, gamma_ms=0.0),
        max_batch=1,
        kv_tokens=1600,
    )
    for number in range(3):
        replica.submit(Request(id=number, prompt_tokens=100, output_tokens=11, arrival_s=0.0), 0.0)
    replica.advance(0.3, inclusive=True)
    samples = list(
        exposition(
            replica.read(0.3),
            finished=FinishedTotals(11, 100, 0.2),
            labels={"model_name": "m", "pod": "s-0"},
        )
    )
    lines = [f"# TYPE {name.removesuffix('_total')} {kind}" for name, kind in METRIC_TYPES.items()]
    by_family = {
        name: [sample for sample in samples if sample.name.startswith(name)]
        for name in METRIC_TYPES
    }
    text = ""
    for own, head in zip(by_family.values(), lines, strict=True):
        body = [
            f"{s.name}{{{','.join(f'{k}={v!r}' for k, v in s.labels.items())}}} {s.value}".replace(
                "'", '"'
            )
            for s in own
        ]
        text += "\n".join([head, *body]) + "\n"
    parsed = list(text_string_to_metric_families(text))
    assert sum(len(family.samples) for family in parsed) == len(samples)
    values = {sample.name: sample.value for sample in samples if "le" not in sample.labels}
    assert values["vllm:num_requests_running"] == 1
    assert values["vllm:num_requests_waiting"] == 1
    reasons = {
        sample.labels["finished_reason"]: sample.value
        for sample in samples
        if sample.name == "vllm:request_success_total"
    }
    assert reasons == {"stop": 1, "length": 0, "abort": 0}
    assert values["vllm:prompt_tokens_total"] == 200
    assert values["vllm:generation_tokens_total"] == 15
    assert values["vllm:time_to_first_token_seconds_count"] == 2
    assert values["vllm:time_to_first_token_seconds_sum"] == pytest.approx(0.02 + 0.24)
    assert values["vllm:inter_token_latency_seconds_count"] == 13
    assert values["vllm:e2e_request_latency_seconds_sum"] == pytest.approx(0.22)
    assert values["vllm:request_queue_time_seconds_sum"] == pytest.approx(0.22)
    assert values["vllm:request_generation_tokens_sum"] == 11
    assert values["vllm:kv_cache_usage_perc"] == pytest.approx(0.07)
    buckets = [s for s in samples if s.name == "vllm:time_to_first_token_seconds_bucket"]
    assert [s.value for s in buckets if s.labels["le"] in ("0.02", "0.1", "0.25", "+Inf")] == [
        1,
        1,
        2,
        2,
    ]


def test_of_steps_of_several_tokens_a_page_tells_both_and_a_window_the_time_per_token() -> None:
    """Engines observe inter_token_latency once a step; a target is about tokens."""
    series = ServerSeries(scrape_interval_s=15.0, window_s=60.0)
    replica = Replica(
        latency_model=LatencyModel(alpha_ms=36.0, beta_ms=0.0, gamma_ms=0.0),
        max_batch=1,
        tokens_per_step=3.0,
    )
    replica.submit(Request(id=0, prompt_tokens=100, output_tokens=301, arrival_s=0.0), 0.0)
    replica.advance(15.0, inclusive=True)
    pod, reading = PodSeries(), replica.read(15.0)
    growth = pod.scrape(replica.scraped(15.0), 15.0)
    kept = scraped_of(reading, finished_tokens=growth.counters.finished_tokens)
    assert kept == replica.scraped(15.0)
    series.add(15.0, Arrivals(1, 100), [growth])
    figures = series.figures()
    assert figures.itl_ms == pytest.approx(12.0)
    assert 25.0 / 3 <= figures.percentiles_ms["itl"]["p50"] <= 50.0 / 3
    finished = FinishedTotals(301, 100, 0.012)
    page = {
        sample.name: sample.value for sample in exposition(reading, finished=finished, labels={})
    }
    assert page["vllm:inter_token_latency_seconds_count"] == 100
    assert page["vllm:request_time_per_output_token_seconds_sum"] == 0.012
    assert page["vllm:spec_decode_num_drafts_total"] == 100
    assert page["vllm:spec_decode_num_accepted_tokens_total"] == 200


def test_percentiles_of_a_window_are_those_of_its_buckets() -> None:
    """A mean hides the tail that a target is about; only what the window saw counts."""
    series = ServerSeries(scrape_interval_s=15.0, window_s=15.0)
    first, second = ([0] * (len(NO_COUNTED) // 8) for _ in range(2))
    first[5] = 1000  # of an earlier window
    second[TTFT_BOUNDS_S.index(0.1)] = 90  # between 0.08 and 0.1 s
    second[TTFT_BOUNDS_S.index(0.25)] = 10
    series.add(15.0, Arrivals(1, 0), [Growth(Counters(), NO_COUNTED, packed(*first))])
    series.add(30.0, Arrivals(2, 0), [Growth(Counters(), NO_COUNTED, packed(*second))])
    found = series.figures().percentiles_ms
    assert found.keys() == {"ttft"}
    assert found["ttft"] == pytest.approx(
        {"p50": 80 + 20 * 50 / 90, "p90": 100.0, "p95": 175.0, "p99": 235.0}
    )
