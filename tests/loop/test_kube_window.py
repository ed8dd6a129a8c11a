"""From samples of pods to the load of a server: what counts as demand, and that a silent pod is
never an idle one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.signals.window import (
    METRIC_NAMES,
    METRICS,
    Figures,
    Sample,
    WindowSettings,
    add_to,
    figures,
    merged,
    sample_of,
    samples_of,
)
from tests.loop.kube_objects import Json, pod, server

NOW_S = 600.0
SCRAPE_S = 15.0
SETTINGS = WindowSettings(window_s=60.0, stale_s=60.0)


def name_of(letter: str) -> str:
    """Return the name of the pod that pod(letter) makes."""
    name: str = pod(letter)["metadata"]["name"]
    return name


def sample(
    t_s: float, *, success: float, running: float = 0.0, waiting: float = 0.0, **told: float
) -> Sample:
    """Return a sample of a pod whose requests had 100 tokens in and 200 out, TTFT 50 ms, ITL 10 ms,
    unless told.
    """
    made = {
        "prompt": 100.0 * success,
        "generation": 200.0 * success,
        "answers": success,
        "answer_tokens": 200.0 * success,
        "ttft_count": success,
        "ttft_sum": 0.05 * success,
        "itl_count": 199.0 * success,
        "itl_sum": 1.99 * success,
        "kv_usage": 0.25,
    }
    return Sample(t_s=t_s, success=success, running=running, waiting=waiting, **{**made, **told})


def steady(
    *, rps: float, begin_s: float = 0.0, end_s: float = NOW_S, phase_s: float = 0.0
) -> list[Sample]:
    """Return the scrapes within the window of a pod that finishes *rps* from *begin_s* to
    *end_s*.
    """
    first = max(begin_s, NOW_S - SETTINGS.window_s)
    times = [first + phase_s + SCRAPE_S * i for i in range(10)]
    return [sample(t_s, success=rps * (t_s - begin_s)) for t_s in times if t_s <= end_s]


def seen(
    series: dict[str, Sequence[Sample]], *pods: Json, settings: WindowSettings = SETTINGS
) -> Figures:
    """Return the figures of a server of *pods* at NOW_S; *series* by the letter of the pod."""
    by_name = {name_of(letter): samples for letter, samples in series.items()}
    return figures(server(*pods), by_name, now_s=NOW_S, settings=settings)


def rate_rpm(found: Figures) -> float:
    """Return the rate of a load that is known."""
    assert found.load is not None
    return found.load.rate_rpm


def test_figures_of_a_steady_pod_are_what_it_does() -> None:
    """One request a second of 100 and 200 tokens."""
    found = seen({"a": steady(rps=1.0)}, pod("a"))
    assert found.load is not None
    assert (found.load.rate_rpm, found.load.in_tokens, found.load.out_tokens) == pytest.approx(
        (60.0, 100.0, 200.0)
    )
    assert (found.completions_rpm, found.ttft_ms, found.itl_ms, found.output_tps) == pytest.approx(
        (60, 50, 10, 200)
    )
    assert found.warning == ""


@pytest.mark.parametrize("phase_s", [0.0, 4.0, 14.0])
def test_a_rate_does_not_depend_on_when_in_the_interval_a_pod_is_scraped(phase_s: float) -> None:
    """Four scrapes fifteen seconds apart cover 45 of 60 seconds: the rest was like them."""
    pods = (pod("a"), pod("b"))
    found = seen({"a": steady(rps=1.0), "b": steady(rps=1.0, phase_s=phase_s)}, *pods)
    assert rate_rpm(found) == pytest.approx(120.0)


def test_what_waits_longer_and_longer_is_demand_too() -> None:
    """Under saturation completions tell what the pod can do and not what is asked of it."""
    samples = [
        sample(NOW_S - 45.0 + t, success=t, running=8, waiting=2 * t)
        for t in (0.0, 15.0, 30.0, 45.0)
    ]
    found = seen({"a": samples}, pod("a"))
    assert (rate_rpm(found), found.completions_rpm) == pytest.approx((180.0, 60.0))
    assert found.pods[name_of("a")].waiting == 90


def test_a_queue_that_is_worked_off_is_no_demand() -> None:
    """Requests of before must not be taken for new ones: only half of these have just come."""
    samples = [
        sample(NOW_S - 45.0 + t, success=2 * t, running=100 - t) for t in (0.0, 15.0, 30.0, 45.0)
    ]
    assert rate_rpm(seen({"a": samples}, pod("a"))) == pytest.approx(60.0)


def test_a_restart_sets_counters_back_and_is_no_negative_load() -> None:
    """The growth since the restart counts; what was in the pod is lost."""
    before = [
        sample(NOW_S - 45.0, success=1000, running=5),
        sample(NOW_S - 30.0, success=1015, running=5),
    ]
    after = [sample(NOW_S - 15.0, success=10, running=5), sample(NOW_S, success=25, running=5)]
    assert rate_rpm(seen({"a": before + after}, pod("a"))) == pytest.approx(
        60.0 * (15 + 15 + 15) / 45.0
    )


def test_a_ready_pod_that_does_not_report_has_as_much_load_as_the_others() -> None:
    """A sum over those that report made a real loop swing between three and five replicas at a
    constant load.
    """
    pods = (pod("a"), pod("b"), pod("c"))
    found = seen({"a": steady(rps=1.0), "b": steady(rps=1.0)}, *pods)
    assert rate_rpm(found) == pytest.approx(180.0)
    assert found.warning == "2 of 3 ready pods report: the load is scaled up to all of them"


@given(
    old=st.integers(min_value=1, max_value=6),
    young=st.integers(min_value=0, max_value=6),
    age_s=st.integers(min_value=1, max_value=59),
)
def test_pods_that_have_just_become_ready_neither_hide_nor_double_a_constant_load(
    old: int, young: int, age_s: int
) -> None:
    """A load of one request a second, shared evenly by who is ready: new ones have no two samples
    yet.
    """
    begin_s = NOW_S - age_s

    def finished(t_s: float) -> float:
        return min(t_s, begin_s) / old + max(0.0, t_s - begin_s) / (old + young)

    letters = [f"old{i}" for i in range(old)]
    samples = [
        sample(NOW_S - 60.0 + t, success=finished(NOW_S - 60.0 + t))
        for t in (0.0, 15.0, 30.0, 45.0, 60.0)
    ]
    pods = [pod(letter) for letter in letters] + [
        pod(f"new{i}", since_s=begin_s) for i in range(young)
    ]
    found = seen(dict.fromkeys(letters, samples), *pods)
    # The truth is 60. Between two samples the old pods' load is taken as even, though it fell when
    # the others came.
    uneven = 3.75 * young**2 / (old * (old + young))
    assert 60.0 - 1e-6 <= rate_rpm(found) <= 60.0 + uneven + 1e-6
    assert found.warning == ""


def test_the_first_sample_of_a_new_pod_tells_all_that_came_to_it() -> None:
    """Its counters began at nothing when it became ready, so one sample is enough, and the load is
    exact.
    """
    begin_s = NOW_S - 40.0
    old = [sample(NOW_S - 60.0, success=100.0), sample(NOW_S, success=100.0 + 20.0 + 20.0)]
    new = pod("b", since_s=begin_s, created_s=begin_s - 100.0)
    found = seen({"a": old, "b": [sample(NOW_S, success=18.0, running=2.0)]}, pod("a"), new)
    assert rate_rpm(found) == pytest.approx(60.0)


@pytest.mark.parametrize(("created_s", "first_s"), [(-4000.0, 560.0), (540.0, 565.0)])
def test_a_pod_that_was_away_for_a_while_is_not_taken_for_a_new_one(
    created_s: float, first_s: float
) -> None:
    """Its counters of hours would be taken for the load of this minute."""
    old = steady(rps=1.0)
    back = [sample(first_s, success=90_000.0)]
    found = seen({"a": old, "b": back}, pod("a"), pod("b", since_s=568.0, created_s=created_s))
    assert rate_rpm(found) < 120.0


def test_the_load_of_pods_that_have_gone_within_the_window_counts() -> None:
    """Their requests now come to the others: to forget them would scale down after a scaling
    down.
    """
    gone_s = NOW_S - 30.0
    before = [sample(NOW_S - 60.0 + t, success=1.0 * t) for t in (0.0, 15.0, 30.0)]
    stays = [
        sample(NOW_S - 60.0 + t, success=t + max(0.0, t - 30.0))
        for t in (0.0, 15.0, 30.0, 45.0, 60.0)
    ]
    found = seen({"a": stays, "b": [one for one in before if one.t_s <= gone_s]}, pod("a"))
    assert rate_rpm(found) == pytest.approx(120.0)


def test_a_server_that_has_just_begun_has_its_rate_since_then() -> None:
    """A rate over a window that is not full yet would read low, and scale down at once."""
    begin_s = NOW_S - 20.0
    samples = [sample(begin_s + t, success=t) for t in (0.0, 10.0, 20.0)]
    assert rate_rpm(seen({"a": samples}, pod("a", since_s=begin_s))) == pytest.approx(60.0)


def test_no_requests_are_no_load_and_not_an_unknown_one() -> None:
    """Pods that report and have nothing to do are idle; latencies of no request are unknown, never
    0 or NaN.
    """
    found = seen({"a": steady(rps=0.0)}, pod("a"))
    assert rate_rpm(found) == 0.0
    assert (found.ttft_ms, found.itl_ms) == (None, None)


@pytest.mark.parametrize("series", [{}, {"a": []}])
def test_pods_without_any_metrics_make_the_load_unknown(
    series: dict[str, Sequence[Sample]],
) -> None:
    """Not zero: it is the metrics that are missing. And nobody measures this server: labels may
    tell.
    """
    found = seen(series, pod("a"), pod("b"))
    assert (found.load, found.measured) == (None, False)
    assert found.warning == "none of 2 ready pods has metrics"


def test_metrics_that_are_too_old_make_the_load_unknown() -> None:
    """Prometheus shows the last value for five minutes after the scrapes have stopped."""
    old = [sample(NOW_S - 120.0 + t, success=t) for t in (0.0, 15.0, 30.0)]
    found = seen({"a": old}, pod("a"), settings=WindowSettings(window_s=120.0, stale_s=60.0))
    assert (found.load, found.measured) == (None, True)
    assert found.warning == "the latest metrics of its pods are 90 s old: expected at most 60"


def test_one_sample_is_no_rate() -> None:
    """The scrape interval is then as long as the window, which the user must be told."""
    found = seen({"a": [sample(NOW_S, success=5.0)]}, pod("a"))
    assert found.load is None
    assert (
        found.warning == "its pods have no two samples within 60 s: is the scrape interval longer?"
    )


def test_pods_that_have_just_begun_are_silent_without_a_warning() -> None:
    """Nothing is amiss: they will tell in a moment. Until then the server is held."""
    found = seen({}, pod("a", since_s=NOW_S - 5.0), pod("b", phase="starting"))
    assert (found.load, found.warning) == (None, "")


def test_figures_that_are_no_numbers_are_not_told_figures() -> None:
    """0/0 is NaN in Prometheus; NaN passes through sums and comparisons unseen."""
    broken = [
        sample(NOW_S - 30.0 + t, success=t, itl_sum=math.nan, kv_usage=math.nan)
        for t in (0.0, 15.0, 30.0)
    ]
    found = seen({"a": broken}, pod("a"))
    assert rate_rpm(found) == pytest.approx(60.0)
    assert (found.itl_ms, found.pods[name_of("a")].kv_usage) == (None, 0.0)
    assert found.ttft_ms == pytest.approx(50.0)


def test_a_pod_whose_requests_are_no_number_does_not_report() -> None:
    """The others stand in for it."""
    broken = [sample(NOW_S - 30.0 + t, success=math.nan) for t in (0.0, 15.0, 30.0)]
    assert rate_rpm(seen({"a": broken, "b": steady(rps=1.0)}, pod("a"), pod("b"))) == pytest.approx(
        120.0
    )


def test_old_names_of_metrics_stand_in_for_new_ones() -> None:
    """vLLM renamed some; clusters run both for years."""
    old = {
        "vllm:request_success_total": 1.0,
        "vllm:time_per_output_token_seconds_count": 2.0,
        "vllm:time_per_output_token_seconds_sum": 0.5,
        "vllm:gpu_cache_usage_perc": 0.4,
    }
    told = sample_of(0.0, old)
    assert (told.itl_count, told.itl_sum, told.kv_usage) == (2.0, 0.5, 0.4)
    both = sample_of(
        0.0, {**old, "vllm:inter_token_latency_seconds_count": 3.0, "vllm:kv_cache_usage_perc": 0.6}
    )
    assert (both.itl_count, both.kv_usage) == (3.0, 0.6)
    assert set(METRICS) == set(Sample._fields[1:])


@given(
    values=st.dictionaries(
        st.sampled_from([name for group in METRICS.values() for name in group] + ["up"]),
        st.floats(min_value=0.0, max_value=1e6) | st.just(math.nan),
    )
)
def test_metrics_by_time_make_the_same_samples_as_one_by_one(values: dict[str, float]) -> None:
    """One way is for pages, the other for thousands of series."""
    times_s = (1.0, 2.0)
    columns = {name: dict.fromkeys(times_s, value) for name, value in values.items()}
    known = any(name in METRIC_NAMES and math.isfinite(value) for name, value in values.items())
    expected = [sample_of(t_s, values) for t_s in times_s] if known else []
    assert repr([one for one in samples_of(columns) if any(map(math.isfinite, one[1:]))]) == repr(
        expected
    )


def test_rates_of_a_simulated_cluster_are_by_its_own_time() -> None:
    """Ten of its seconds pass in one of ours; latencies are its own already."""
    found = seen({"a": steady(rps=10.0)}, pod("a"), settings=WindowSettings(speed=10.0))
    assert (rate_rpm(found), found.completions_rpm, found.output_tps) == pytest.approx(
        (60.0, 60.0, 200.0)
    )
    assert found.ttft_ms == pytest.approx(50.0)


def test_series_of_one_pod_are_added_up_but_for_shares() -> None:
    """Requests end for several reasons; of two engines at half their memory none is full."""
    values: dict[str, float] = {}
    for _ in range(2):
        add_to(values, "vllm:request_success_total", 3.0)
        add_to(values, "vllm:kv_cache_usage_perc", 0.5)
    assert values == {"vllm:request_success_total": 6.0, "vllm:kv_cache_usage_perc": 0.5}
    for name, both in values.items():
        half = {1.0: both / 2 if name != "vllm:kv_cache_usage_perc" else both}
        assert merged(name, half, half) == {1.0: both}
