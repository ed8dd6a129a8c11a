"""From series of pods to the load of a server: what counts as demand, and that a silent pod is
never an idle one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.backends.kube.read import scraped
from loop.backends.kube.views import engines_notes
from loop.signals.demand import GAUGES_SHOWN, Figures, WindowSettings, figures
from loop.signals.processes import Labels, Series
from loop.signals.series import tracks_of
from tests.loop.kube_objects import Json, pod, server

NOW_S = 600.0
SCRAPE_S = 15.0
SETTINGS = WindowSettings(window_s=60.0, stale_s=60.0)
STARTED, CREATED = "process_start_time_seconds", "vllm:prompt_tokens_created"


class Sample(NamedTuple):
    """What one engine told at t_s; NaN: it did not tell; None: its page does not name it."""

    t_s: float
    told: Mapping[str, float | None]


def name_of(letter: str) -> str:
    """Return the name of the pod that pod(letter) makes."""
    name: str = pod(letter)["metadata"]["name"]
    return name


NAMED = {
    "success": "vllm:request_success_total",
    "prompt": "vllm:prompt_tokens_total",
    "generation": "vllm:generation_tokens_total",
    "answers": "vllm:request_generation_tokens_count",
    "answer_tokens": "vllm:request_generation_tokens_sum",
    "ttft_count": "vllm:time_to_first_token_seconds_count",
    "ttft_sum": "vllm:time_to_first_token_seconds_sum",
    "itl_count": "vllm:inter_token_latency_seconds_count",
    "itl_sum": "vllm:inter_token_latency_seconds_sum",
    "per_token_count": "vllm:request_time_per_output_token_seconds_count",
    "per_token_sum": "vllm:request_time_per_output_token_seconds_sum",
    "cache_queries": "vllm:prefix_cache_queries_total",
    "cache_hits": "vllm:prefix_cache_hits_total",
    "transferred": "vllm:external_prefix_cache_hits_total",
    "prompt_cached": "vllm:prompt_tokens_cached_total",
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "kv_usage": "vllm:kv_cache_usage_perc",
}


def sample(
    t_s: float,
    *,
    success: float,
    running: float = 0.0,
    waiting: float = 0.0,
    **told: float | None,
) -> Sample:
    """Return a sample of a pod whose requests had 100 tokens in and 200 out, TTFT 50 ms, ITL 10 ms,
    unless told.
    """
    made: dict[str, float | None] = {
        "success": success,
        "running": running,
        "waiting": waiting,
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
    return Sample(t_s, {**made, **told})


def series_of(
    samples: Sequence[Sample], *, labels: Mapping[str, str] | None = None
) -> list[Series]:
    """Return *samples* as the series of one process, with *labels*."""
    own: Labels = tuple(sorted((labels or {}).items()))
    points: dict[str, list[tuple[float, float]]] = {}
    for one in samples:
        for name, value in one.told.items():
            if value is not None:
                points.setdefault(name, []).append((one.t_s, value))
    return [Series(NAMED[name], own, of) for name, of in points.items()]


def steady(
    *, rps: float, begin_s: float = 0.0, end_s: float = NOW_S, phase_s: float = 0.0
) -> list[Sample]:
    """Return the scrapes within the window of a pod that finishes *rps* from *begin_s* to
    *end_s*.
    """
    first = max(begin_s, NOW_S - SETTINGS.window_s)
    times = [first + phase_s + SCRAPE_S * i for i in range(10)]
    return [sample(t_s, success=rps * (t_s - begin_s)) for t_s in times if t_s <= end_s]


def told_of(
    series: Mapping[str, Sequence[Series]], *pods: Json, settings: WindowSettings = SETTINGS
) -> Figures:
    """Return the figures of a server of *pods* at NOW_S; *series* by the letter of the pod."""
    tracks = {name_of(letter): tracks_of(of) for letter, of in series.items()}
    return figures(scraped(server(*pods)), tracks, now_s=NOW_S, settings=settings)


def seen(
    samples: Mapping[str, Sequence[Sample]], *pods: Json, settings: WindowSettings = SETTINGS
) -> Figures:
    """Return the figures of a server of *pods*, one engine each."""
    series = {letter: series_of(of) for letter, of in samples.items()}
    return told_of(series, *pods, settings=settings)


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
    assert found.warnings == ()


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


def test_what_came_lately_is_told_apart_from_what_came_before() -> None:
    """A quarter of the window, or since the scrape that is older than that; of all pods."""
    first = NOW_S - SETTINGS.window_s
    times = [first + SCRAPE_S * i for i in range(5)]
    jumped = [sample(t_s, success=t_s + 15.0 * (t_s == times[-1])) for t_s in times]
    found = seen({"a": jumped, "b": steady(rps=1.0, phase_s=4.0)}, pod("a"), pod("b"))
    assert found.latest == pytest.approx((180.0, 15.0))
    # Scrapes that are half a window apart tell of no quarter.
    found = seen({"a": jumped[::2]}, pod("a"))
    assert found.latest == pytest.approx((90.0, 30.0))


def test_what_came_lately_is_unknown_unless_every_pod_tells_of_it() -> None:
    """A pod that does not report, or that has only begun, had requests, too."""
    young = [sample(t_s, success=t_s - NOW_S + 20.0) for t_s in (NOW_S - 20.0, NOW_S - 10.0)]
    assert seen({"a": steady(rps=1.0)}, pod("a"), pod("b")).latest is None
    found = seen({"a": steady(rps=1.0), "b": young}, pod("a"), pod("b"))
    assert (found.latest, found.load is None) == (None, False)
    # One has gone after that.
    of_gone = {name_of("b"): (NOW_S - 20.0, NOW_S - 5.0)}
    tracks = {name_of("a"): tracks_of(series_of(steady(rps=1.0)))}
    one = scraped(server(pod("a")))
    assert figures(one, tracks, now_s=NOW_S, settings=SETTINGS, gone=of_gone).latest is None
    assert figures(one, tracks, now_s=NOW_S, settings=SETTINGS).latest is not None


def test_a_restart_sets_counters_back_and_is_no_negative_load() -> None:
    """What was in the pod is lost, and what came while it was away is taken for as much as else."""
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
    assert found.warnings == ("2 of 3 ready pods report: the load is scaled up to all of them",)
    # What runs in it is not known, and not none.
    silent = [gauges for gauges in found.pods.values() if gauges.unknown]
    assert [gauges.unknown for gauges in silent] == [{"running", "waiting", "kv_usage"}]


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
    assert found.warnings == ()


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
    assert found.warnings == ("none of 2 ready pods has metrics",)


def test_metrics_that_are_too_old_make_the_load_unknown() -> None:
    """Prometheus shows the last value for five minutes after the scrapes have stopped."""
    old = [sample(NOW_S - 120.0 + t, success=t) for t in (0.0, 15.0, 30.0)]
    found = seen({"a": old}, pod("a"), settings=WindowSettings(window_s=120.0, stale_s=60.0))
    assert (found.load, found.measured) == (None, True)
    assert found.warnings == ("the latest metrics of its pods are 90 s old: expected at most 60",)


def test_one_sample_is_no_rate() -> None:
    """The scrape interval is then as long as the window, which the user must be told."""
    found = seen({"a": [sample(NOW_S, success=5.0)]}, pod("a"))
    assert found.load is None
    assert found.warnings == (
        "its pods have no two samples within 60 s: is the scrape interval longer?",
    )


def test_pods_that_have_just_begun_are_silent_without_a_warning() -> None:
    """Nothing is amiss: they will tell in a moment. Until then the server is held."""
    found = seen({}, pod("a", since_s=NOW_S - 5.0), pod("b", phase="starting"))
    assert (found.load, found.warnings) == (None, ())


def test_figures_that_are_no_numbers_are_not_told_figures() -> None:
    """0/0 is NaN in Prometheus; NaN passes through sums and comparisons unseen."""
    broken = [
        sample(NOW_S - 30.0 + t, success=t, itl_sum=math.nan, kv_usage=math.nan)
        for t in (0.0, 15.0, 30.0)
    ]
    found = seen({"a": broken}, pod("a"))
    assert rate_rpm(found) == pytest.approx(60.0)
    assert (found.itl_ms, found.pods[name_of("a")].unknown) == (None, {"kv_usage"})
    assert found.ttft_ms == pytest.approx(50.0)


@pytest.mark.parametrize("engines", [1, 2])
def test_a_gauge_that_one_engine_does_not_tell_is_not_known_of_its_pod(engines: int) -> None:
    """It was recorded as if nothing ran; what two engines run is not what one of them says."""
    silent = [one._replace(told={**one.told, "running": math.nan}) for one in steady(rps=1.0)]
    series = series_of(silent, labels={"engine": "0"})
    if engines > 1:
        series += series_of(steady(rps=1.0), labels={"engine": "1"})
    found = told_of({"a": series}, pod("a"))
    assert rate_rpm(found) == pytest.approx(60.0 * engines)
    assert found.pods[name_of("a")].unknown == {"running"}


def test_a_pod_whose_requests_are_no_number_does_not_report() -> None:
    """The others stand in for it."""
    broken = [sample(NOW_S - 30.0 + t, success=math.nan) for t in (0.0, 15.0, 30.0)]
    assert rate_rpm(seen({"a": broken, "b": steady(rps=1.0)}, pod("a"), pod("b"))) == pytest.approx(
        120.0
    )


def test_rates_of_a_simulated_cluster_are_by_its_own_time() -> None:
    """Ten of its seconds pass in one of ours; latencies are its own already."""
    found = seen({"a": steady(rps=10.0)}, pod("a"), settings=WindowSettings(speed=10.0))
    assert (rate_rpm(found), found.completions_rpm, found.output_tps) == pytest.approx(
        (60.0, 60.0, 200.0)
    )
    assert found.ttft_ms == pytest.approx(50.0)


# --- Growth first, sum afterwards


def engine(begin_s: float, *, rps: float, base: float, running: float = 4.0) -> list[Sample]:
    """Return the scrapes of one engine from *begin_s* on, whose counters had come to *base*."""
    times = [begin_s + SCRAPE_S * i for i in range(4)]
    return [sample(t_s, success=base + rps * (t_s - begin_s), running=running) for t_s in times]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            {"instance": "10.0.0.1:8000", "engine": "0"},
            {"instance": "10.0.0.1:8001", "engine": "1"},
        ),
        ({"instance": "10.0.0.1:8000"}, {"instance": "10.0.0.1:8001"}),
        ({"instance": "a", "worker": "0"}, {"instance": "a", "worker": "1"}),
        ({"instance": "a", "engine": "0"}, {"instance": "a", "engine": "1"}),
        ({"instance": "a", "container": "x"}, {"instance": "a", "container": "y"}),
    ],
)
def test_engines_of_one_pod_that_are_scraped_at_instants_of_their_own_are_added_up(
    one: Mapping[str, str], other: Mapping[str, str]
) -> None:
    """A sum of counters taken at two instants jumps up and down, and each step down would be taken
    for a restart: 6,181 rpm were read for 120.
    """
    series = series_of(engine(NOW_S - 50.0, rps=1.0, base=5000.0), labels=one)
    series += series_of(engine(NOW_S - 45.7, rps=1.0, base=40.0), labels=other)
    found = told_of({"a": series}, pod("a"))
    assert rate_rpm(found) == pytest.approx(120.0, rel=0.02)
    assert found.pods[name_of("a")].running == 8
    assert found.pods[name_of("a")].kv_usage == pytest.approx(0.25)
    assert found.pods[name_of("a")].engines == 2
    (note,) = engines_notes({"s1": found})
    assert note.startswith("s1: its pods have 2 engines: ")
    assert note.endswith("these should be of a whole pod")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"instance": "a", "job": "pods"}, {"instance": "a", "job": "services"}),
        (
            {"instance": "a", "prometheus_replica": "0"},
            {"instance": "a", "prometheus_replica": "1"},
        ),
        ({"instance": "10.0.0.1:8000", "job": "x"}, {"instance": "chat-0", "job": "y"}),
        (
            {"instance": "a", "job": "pods", "container": "vllm", "endpoint": "http"},
            {"instance": "a", "job": "services", "service": "chat", "endpoint": "8000"},
        ),
        ({"instance": "a", "member": "0"}, {"instance": "a", "member": "1"}),
    ],
)
def test_one_engine_scraped_twice_counts_once(
    one: Mapping[str, str], other: Mapping[str, str]
) -> None:
    """Pairs of Prometheus servers, and a PodMonitor beside a ServiceMonitor: twice the load would
    be twice the replicas.
    """
    series = series_of(engine(NOW_S - 50.0, rps=1.0, base=5000.0), labels=one)
    later = [
        sample(NOW_S - 46.0 + 15.0 * i, success=5004.0 + 15.0 * i, running=4.0) for i in range(4)
    ]
    series += series_of(later, labels=other)
    found = told_of({"a": series}, pod("a"))
    assert rate_rpm(found) == pytest.approx(60.0, rel=0.01)
    assert found.pods[name_of("a")].running == 4
    assert engines_notes({"s1": found}) == []


@pytest.mark.parametrize("gone", [1, 2])
def test_a_mark_that_a_target_has_gone_is_no_page(gone: int) -> None:
    """VictoriaMetrics shows it as a sample that is no number: taken for a page on which nothing
    had grown, 40 of 60 rpm were read.
    """
    samples = [
        sample(NOW_S - 50.0 + SCRAPE_S * i, success=100.0 + SCRAPE_S * i, running=4.0)
        for i in range(4)
    ]
    marked_s = samples[4 - gone].t_s
    series = [
        one._replace(points=[*one.points, (marked_s, math.nan)])
        for one in series_of(samples[: 4 - gone])
    ]
    found = told_of({"a": series}, pod("a"))
    assert rate_rpm(found) == pytest.approx(60.0, rel=0.01)
    assert found.age_s == pytest.approx(5.0 + SCRAPE_S * gone)


@pytest.mark.parametrize("label", ["instance", "container_id", "node"])
@pytest.mark.parametrize("old", [1, 2, 3])
def test_an_engine_under_new_labels_is_the_one_in_whose_place_it_tells(
    label: str, old: int
) -> None:
    """A pod gets another address where its sandbox is made anew, and labels that people give it
    change: both were added up for a window, 120 for 60 rpm.
    """
    times_s = [NOW_S - 55.0 + SCRAPE_S * i for i in range(4)]
    before = [sample(t_s, success=500.0 + t_s, running=4.0) for t_s in times_s[:old]]
    after = [sample(t_s, success=t_s - times_s[old], running=4.0) for t_s in times_s[old:]]
    series = series_of(before, labels={label: "a"}) + series_of(after, labels={label: "b"})
    found = told_of({"a": series}, pod("a"))
    assert rate_rpm(found) == pytest.approx(60.0, rel=0.01)
    if old < 3:  # else the next scrape of the old one may be late
        assert found.pods[name_of("a")].running == 4
        assert found.pods[name_of("a")].engines == 1


def test_a_gauge_that_a_page_shows_no_more_is_gone() -> None:
    """Series by priority or model come and go with their requests: what one had shown last ran on
    for as long as the window had it.
    """
    samples = [sample(NOW_S - 50.0 + SCRAPE_S * i, success=SCRAPE_S * i) for i in range(4)]
    series = [one for one in series_of(samples) if "num_requests" not in one.metric]
    for metric, value in (("vllm:num_requests_running", 3.0), ("vllm:num_requests_waiting", 7.0)):
        points = [(one.t_s, value) for one in samples]
        series.append(Series(metric, (("priority", "0"),), points))
        series.append(Series(metric, (("priority", "1"),), points[:2]))
    found = told_of({"a": series}, pod("a"))
    assert (found.pods[name_of("a")].running, found.pods[name_of("a")].waiting) == (3, 7)


PROXY = {"job": "pods", "container": "proxy", "instance": "10.0.0.1:15020"}
VLLM = {"job": "pods", "container": "vllm", "instance": "10.0.0.1:8000"}


@pytest.mark.parametrize(("engines", "counted"), [(("vllm",), 1), (("vllm", "proxy"), 2)])
def test_what_a_sidecar_passes_on_counts_once(engines: Sequence[str], counted: int) -> None:
    """A proxy shows the page of its neighbour at a port of its own; two containers with GPUs are
    two engines, however alike their load is.
    """
    series = series_of(engine(NOW_S - 50.0, rps=1.0, base=5000.0), labels=VLLM)
    later = engine(NOW_S - 46.0, rps=1.0, base=5004.0)
    series += series_of(later, labels=PROXY)
    tracks = tracks_of(series, engines=engines)
    assert len(tracks) == counted


def test_two_looks_at_one_time_may_have_been_the_other_way_round() -> None:
    """Tokens grow between them, and the page that was made first may come last: a sidecar's copy
    was taken for an engine of its own, and the load doubled.
    """
    series = series_of(engine(NOW_S - 50.0, rps=1.0, base=5000.0), labels=VLLM)
    series += series_of(engine(NOW_S - 49.99, rps=1.0, base=4999.0), labels=PROXY)
    assert len(tracks_of(series, engines=["vllm"])) == 1
    # What is further apart is no matter of order.
    series[len(series) // 2 :] = series_of(engine(NOW_S - 46.0, rps=1.0, base=4999.0), labels=PROXY)
    assert len(tracks_of(series, engines=["vllm"])) == 2


@pytest.mark.parametrize("pair_label", ["prometheus_replica", "ours"])
@pytest.mark.parametrize(("label", "counted"), [("engine", 8), ("team", 1)])
def test_engines_that_are_scraped_by_several_count_once_each(
    label: str, counted: int, pair_label: str
) -> None:
    """A node of eight ranks, found by two jobs of a pair of Prometheus servers, shows 32 times what
    one engine shows: these are eight. Where a label counts by something else, copies are copies.
    """
    values = range(8 if label == "engine" else 20)
    scrapes = [(job, pair) for job in ("pods", "services") for pair in ("prometheus-0", "-1")]
    series = list[Series]()
    for k, (job, pair) in enumerate(scrapes):
        for value in values:
            labels = {label: str(value), "job": job, pair_label: pair}
            told = engine(NOW_S - 50.0 + k, rps=1.0 + value, base=5000.0 + k * (1.0 + value))
            series += series_of(told, labels=labels)
    tracks = tracks_of(series)
    assert len(tracks) == counted
    rate_rps = sum(track.arrived[-1] / track.alive_s for track in tracks)
    assert rate_rps == pytest.approx(sum(1.0 + value for value in values), rel=0.05)


@pytest.mark.parametrize("apart_s", [0.0, 0.01, 0.3])
def test_two_engines_looked_at_within_a_moment_are_two(apart_s: float) -> None:
    """What a scrape step brings hid that they disagree: of two engines of a pod without limits one
    was dropped, and half the load with it.
    """
    tokens = {"prompt": (99.0, 102.0), "generation": (203.0, 197.0), "ttft_sum": (0.051, 0.05)}
    series = list[Series]()
    for k, labels in enumerate((VLLM, PROXY)):
        counts = [500.0 - k + 30.0 * look for look in range(4)]
        samples = [
            sample(
                NOW_S - 50.0 + 15.0 * look + apart_s * k,
                success=count,
                **{name: of[k] * count for name, of in tokens.items()},
            )
            for look, count in enumerate(counts)
        ]
        series += series_of(samples, labels=labels)
    assert len(tracks_of(series)) == 2


def test_a_copy_of_an_engine_that_is_hardly_used_may_be_a_request_ahead() -> None:
    """A request is more than a second brings on average, and comes at once all the same."""
    series = series_of(engine(NOW_S - 50.0, rps=0.1, base=5000.0), labels=VLLM)
    series += series_of(engine(NOW_S - 49.9, rps=0.1, base=4999.0), labels=PROXY)
    assert len(tracks_of(series, engines=["vllm"])) == 1


@pytest.mark.parametrize(("seconds", "counted"), [(0.0512345678, 1), (0.05, 2)])
def test_times_that_agree_to_their_last_digit_are_of_one_process(
    seconds: float, counted: int
) -> None:
    """Where no label tells a sidecar from a rank, what was measured does."""
    series = []
    for port in (8000, 15020):
        samples = [
            Sample(one.t_s, {**one.told, "ttft_sum": seconds * (one.told["success"] or 0.0)})
            for one in engine(NOW_S - 50.0, rps=1.0, base=5000.0)
        ]
        series += series_of(samples, labels={"port": str(port)})
    assert len(tracks_of(series)) == counted


@pytest.mark.parametrize("label", ["instance", "endpoint"])
def test_engines_on_two_ports_that_do_the_very_same_are_two(label: str) -> None:
    """One job scrapes no process at two ports, and what replays one load into both ends alike."""
    series = []
    for rank in (0, 1):
        labels = {"job": "pods", "instance": f"10.0.0.1:800{rank}", "endpoint": f"http-{rank}"}
        told = {"job": "pods", label: labels[label], "instance": labels["instance"]}
        series += series_of(engine(NOW_S - 50.0, rps=1.0, base=40.0), labels=told)
    assert rate_rpm(told_of({"a": series}, pod("a"))) == pytest.approx(120.0, rel=0.02)


def test_engines_that_a_label_of_scrapes_tells_apart_are_two_if_their_counters_say_so() -> None:
    """Ray Serve names its replicas on one node so; a pair of Prometheus servers does it too."""
    series = []
    for replica, base in (("a", 40.0), ("b", 90000.0)):
        told = {"replica": replica}
        series += series_of(engine(NOW_S - 50.0, rps=1.0, base=base), labels=told)
    assert rate_rpm(told_of({"a": series}, pod("a"))) == pytest.approx(120.0, rel=0.02)


def test_replicas_of_ray_in_one_pod_are_two_however_alike_they_are() -> None:
    """Read together no counter falls, as for two looks at one engine: but each has its own name."""
    series = []
    for replica, base in (("a", 40.0), ("b", 45.0)):
        labels = {"ReplicaId": replica, "WorkerId": f"w{replica}"}
        series += series_of(engine(NOW_S - 50.0, rps=1.0, base=base), labels=labels)
    assert rate_rpm(told_of({"a": series}, pod("a"))) == pytest.approx(120.0, rel=0.02)


def test_what_was_in_a_process_that_has_gone_from_its_pod_is_in_it_no_more() -> None:
    """A worker that is started anew has another name: its gauges would count twice for a minute."""
    before, after = (
        [sample(t_s, success=t_s, running=7.0) for t_s in times]
        for times in ((545.0, 550.0, 555.0, 560.0), (565.0, 570.0, 575.0, 580.0, 585.0, 590.0))
    )
    series = series_of(before, labels={"WorkerId": "a"})
    series += series_of(after, labels={"WorkerId": "b"})
    (gauges,) = told_of({"a": series}, pod("a")).pods.values()
    assert gauges.running == 7


@pytest.mark.parametrize(
    ("off_s", "label"), [(-0.5, "prometheus_replica"), (3.0, "prometheus_replica"), (3.0, "anyhow")]
)
def test_copies_of_a_process_that_restarts_are_still_copies(off_s: float, label: str) -> None:
    """Their counters fall together, whenever each of the two servers looks, and whatever label
    tells these apart.
    """
    series = []
    for replica, shift_s in (("a", 0.0), ("b", off_s)):
        times = [NOW_S - 55.0 + 10.0 * k + shift_s for k in range(6)]
        samples = [
            sample(
                t_s,
                success=(900.0 if t_s < NOW_S - 30.0 else 0.0) + t_s - (NOW_S - 55.0),
                running=4.0,
            )
            for t_s in times
        ]
        series += series_of(samples, labels={label: replica})
    assert rate_rpm(told_of({"a": series}, pod("a"))) == pytest.approx(60.0, rel=0.1)


def test_a_counter_that_begins_on_a_page_was_nothing_before() -> None:
    """Some engines show a counter from the first time on that it counts: absent is not unknown."""
    times = [NOW_S - 45.0 + t for t in (0.0, 15.0, 30.0, 45.0)]
    samples = [
        sample(
            t_s,
            success=0.0,
            running=20.0 + 0.5 * (t_s - times[0]),
            ttft_count=100.0 + 0.5 * (t_s - times[0]),
            prompt=100.0 * (100.0 + 0.5 * (t_s - times[0])),
        )
        for t_s in times
    ]
    never = [
        Sample(one.t_s, {**one.told, "success": None, "answers": None, "answer_tokens": None})
        for one in samples
    ]
    late = [*never[:2], *(Sample(one.t_s, {**one.told, "success": 3.0}) for one in never[2:])]
    assert rate_rpm(seen({"a": never}, pod("a"))) == pytest.approx(30.0)
    assert rate_rpm(seen({"a": late}, pod("a"))) == pytest.approx(34.0)


@pytest.mark.parametrize(
    "late",
    [
        ("success", "answers", "answer_tokens"),
        ("ttft_count", "ttft_sum"),
        ("ttft_count", "ttft_sum", "prompt"),
        ("success", "answers", "answer_tokens", "ttft_count", "ttft_sum", "prompt", "generation"),
    ],
)
def test_counters_that_are_shown_late_with_all_they_have_counted_are_no_load(
    late: tuple[str, ...],
) -> None:
    """A rule of Prometheus that is changed, or a page that is: 134,000 rpm were read for 60."""
    samples = [
        sample(one.t_s, success=5000.0 + (one.t_s - NOW_S), running=4.0) for one in steady(rps=1.0)
    ]
    shown = [
        *(Sample(one.t_s, {**one.told, **dict.fromkeys(late)}) for one in samples[:2]),
        *samples[2:],
    ]
    found = seen({"a": shown}, pod("a"))
    assert rate_rpm(found) == pytest.approx(60.0, rel=0.01)
    assert found.load is not None
    assert (found.load.in_tokens, found.load.out_tokens) == pytest.approx((100.0, 200.0), rel=0.01)
    assert "left out" in found.warnings[0]


@pytest.mark.parametrize("value", [1e308, -50.0, math.inf, 1e16])
def test_values_that_no_engine_can_have_were_not_told(value: float) -> None:
    """Two gauges of 1e308 are more than any number: they would stop the cycle of every server."""
    ranks = [
        series
        for rank, success in (("0", 100.0), ("1", 5000.0))
        for series in series_of(
            [
                sample(one.t_s, success=success + 0.5 * k, running=value, waiting=2.0)
                for k, one in enumerate(steady(rps=1.0))
            ],
            labels={"engine": rank},
        )
    ]
    (seen_there,) = told_of({"a": ranks}, pod("a")).pods.values()
    assert (seen_there.running, seen_there.waiting) == (0, 4)


def test_gauges_alone_do_not_tell_that_nothing_came() -> None:
    """A rule that keeps the gauges only would make every busy server idle. What they show is seen:
    it is what may be asked for at least.
    """
    samples = [Sample(one.t_s, {"running": 8.0, "waiting": 3.0}) for one in steady(rps=1.0)]
    found = seen({"a": samples}, pod("a"))
    assert (found.load, found.measured, found.age_s) == (None, True, 0.0)
    assert "no counter of requests" in found.warnings[0]
    (gauges,) = found.pods.values()
    assert (gauges.running, gauges.waiting) == (8, 3)
    # Beside pods that count their requests it is one that does not report.
    both = seen({"a": samples, "b": steady(rps=1.0)}, pod("a"), pod("b"))
    assert rate_rpm(both) == pytest.approx(120.0)
    assert "1 of 2 ready pods report" in both.warnings[0]


@pytest.mark.parametrize("ranks", [1, 2])
def test_engines_that_show_counters_from_the_first_request_on_begin_with_none(ranks: int) -> None:
    """SGLang, TensorRT-LLM and TGI: a server that nobody had asked for anything yet was held for
    ever, and beside pods that serve it counted as one that does not report.
    """
    gauges = {"sglang:num_running_reqs": 0.0, "sglang:token_usage": 0.004}

    def page(**others: float) -> list[Series]:
        return [
            Series(metric, (("dp_rank", str(rank)),), [(one.t_s, value) for one in steady(rps=1.0)])
            for metric, value in {**gauges, **others}.items()
            for rank in range(ranks)
        ]

    idle = told_of({"a": page()}, pod("a"))
    assert (rate_rpm(idle), idle.warnings) == (0.0, ())
    both = told_of({"a": page(), "b": series_of(steady(rps=1.0))}, pod("a"), pod("b"))
    assert (rate_rpm(both), both.warnings) == (pytest.approx(60.0), ())
    # One that does something has counters, and a rule has dropped them.
    busy = told_of({"a": page(**{"sglang:num_queue_reqs": 2.0})}, pod("a"))
    assert busy.load is None
    # vLLM shows all of its counters from the begin.
    resting = [Sample(one.t_s, {"running": 0.0, "waiting": 0.0}) for one in steady(rps=1.0)]
    assert seen({"a": resting}, pod("a")).load is None


@pytest.mark.parametrize(
    ("data_rank", "requests_rpm", "running"), [("tp_rank", 60.0, 4), ("dp_rank", 120.0, 8)]
)
def test_ranks_that_each_count_the_requests_of_all_count_once(
    data_rank: str, requests_rpm: float, running: int
) -> None:
    """SGLang with metrics of all schedulers: a replica of four GPUs seemed to get four times its
    load. Ranks of data parallelism may be as like each other as they please.
    """
    samples = [Sample(one.t_s, {**one.told, "running": 4.0}) for one in steady(rps=1.0)]
    series: list[Series] = []
    for rank in range(2):
        for scheduler in range(2):
            labels = {"tp_rank": str(scheduler), "pp_rank": "0", data_rank: str(rank)}
            series += series_of(samples, labels=labels)
    found = told_of({"a": series}, pod("a"))
    assert rate_rpm(found) == pytest.approx(requests_rpm)
    (seen_there,) = found.pods.values()
    assert seen_there.running == running


@pytest.mark.parametrize("pids", [(), ("waiting",), ("running", "waiting", "kv_usage")])
@pytest.mark.parametrize("tensor_ranks", [1, 2])
def test_gauges_under_further_labels_of_the_same_page_are_of_the_same_engine(
    tensor_ranks: int, pids: tuple[str, ...]
) -> None:
    """SGLang's scheduler labels its gauges with its ranks, its counters have none. Some gauges have
    the id of its process, too: each rank of tensors was a batch of its own then.
    """
    steadily = steady(rps=1.0)
    gauges = ("running", "waiting", "kv_usage")
    counters = [
        Sample(one.t_s, {name: value for name, value in one.told.items() if name not in gauges})
        for one in steadily
    ]
    page = {"instance": "10.0.0.1:30000"}
    series = series_of(counters, labels=page)
    for data_rank in range(2):
        for tensor_rank in range(tensor_ranks):
            # Ranks of contexts have one batch, too, and so have those that nobody knows yet.
            ranks = dict.fromkeys(("tp_rank", "attn_cp_rank"), str(tensor_rank))
            ranks |= {"dp_rank": str(data_rank), "pp_rank": "0"}
            told = {"running": 7.0, "waiting": 3.0, "kv_usage": 0.4}
            for gauge, value in told.items():
                pid = {"pid": f"9{data_rank}{tensor_rank}"} if gauge in pids else {}
                series += series_of(
                    [Sample(one.t_s, {gauge: value}) for one in steadily],
                    labels={**page, **ranks, **pid},
                )
    found = told_of({"a": series}, pod("a"))
    assert rate_rpm(found) == pytest.approx(60.0)
    (seen_there,) = found.pods.values()
    assert (seen_there.running, seen_there.waiting, seen_there.kv_usage) == (14, 6, 0.4)


@pytest.mark.parametrize(
    ("waiting", "queues"),
    [
        ("vllm:num_requests_waiting", ("vllm:num_requests_swapped",)),
        (
            "sglang:num_queue_reqs",
            ("sglang:num_decode_prealloc_queue_reqs", "sglang:num_decode_transfer_queue_reqs"),
        ),
        ("sglang:num_queue_reqs", ("sglang_num_prefill_inflight_queue_reqs",)),
        ("sglang:num_queue_reqs", ("sglang:num_prefill_infight_queue_reqs",)),
        ("", ("sglang:num_grammar_queue_reqs",)),
    ],
)
def test_requests_in_further_queues_of_an_engine_wait_there(
    waiting: str, queues: tuple[str, ...]
) -> None:
    """An engine that has taken prefill and decode apart keeps its queue between them: it seemed
    to have none.
    """
    steadily = steady(rps=1.0)
    times = [one.t_s for one in steadily]
    page = [one for one in series_of(steadily) if "waiting" not in one.metric]
    page += [Series(name, (), [(t_s, 0.1 * (t_s - times[0])) for t_s in times]) for name in queues]
    if waiting:
        page.append(Series(waiting, (), [(t_s, 2.0) for t_s in times]))
    found = told_of({"a": page}, pod("a"))
    (gauges,) = found.pods.values()
    last = 0.1 * (times[-1] - times[0]) * len(queues)
    assert gauges.waiting == round(last + (2.0 if waiting else 0.0))
    assert rate_rpm(found) == pytest.approx(60.0 * (1.0 + 0.1 * len(queues)))


@pytest.mark.parametrize(
    ("label", "alike", "batches"),
    [
        ("local_rank", True, 1),
        ("local_rank", False, 2),
        ("engine_rank", False, 2),
        ("data_parallel_rank", True, 2),
        ("tensor_parallel_rank", True, 1),
    ],
)
def test_ranks_of_which_nobody_knows_have_one_batch_if_they_tell_the_same(
    label: str, alike: bool, batches: int
) -> None:
    """Engines of data parallelism were taken for parts of one: half of what ran was seen."""
    steadily = steady(rps=1.0)
    gauges = ("running", "waiting", "kv_usage")
    series = series_of(
        [
            Sample(one.t_s, {name: value for name, value in one.told.items() if name not in gauges})
            for one in steadily
        ],
        labels={"instance": "10.0.0.1:30000"},
    )
    for rank in range(2):
        told = {"running": 7.0, "waiting": 3.0, "kv_usage": 0.4 if alike else 0.4 + 0.1 * rank}
        labels = {"instance": "10.0.0.1:30000", label: str(rank)}
        series += series_of([Sample(one.t_s, told) for one in steadily], labels=labels)
    (gauges_seen,) = told_of({"a": series}, pod("a")).pods.values()
    assert (gauges_seen.running, gauges_seen.waiting) == (7 * batches, 3 * batches)


@pytest.mark.parametrize("split", ["is_streaming", "anything"])
def test_a_page_that_splits_some_metrics_and_not_others_is_of_one_engine(split: str) -> None:
    """SGLang splits most counters by whether answers are streamed, cached tokens by where they
    were, and beside the requests of each priority it shows all of them.
    """
    page = {"instance": "10.0.0.1:30000"}
    parts = {"true": 0.75, "false": 0.25}
    gauges = {"running": (8.0, 6.0), "waiting": (4.0, 0.0)}  # all, and those of one priority
    whole = {"itl_count", "itl_sum"}
    series = []
    for one in series_of(steady(rps=1.0), labels=page):
        name = next(name for name, metric in NAMED.items() if metric == one.metric)
        if name in gauges:
            of_all, of_one = gauges[name]
            for labels, told in (({}, of_all), ({"priority": "1"}, of_one)):
                told_s = [(t_s, told) for t_s, _ in one.points]
                own = tuple(sorted({**page, **labels}.items()))
                series.append(one._replace(labels=own, points=told_s))
        elif name in whole or name == "kv_usage":
            series.append(one)
        else:
            for value, part in parts.items():
                own = tuple(sorted({**page, split: value}.items()))
                told_s = [(t_s, part * grown) for t_s, grown in one.points]
                series.append(one._replace(labels=own, points=told_s))
    found = told_of({"a": series}, pod("a"))
    assert rate_rpm(found) == pytest.approx(60.0)
    assert (found.ttft_ms, found.itl_ms) == (pytest.approx(50.0), pytest.approx(10.0))
    (seen_there,) = found.pods.values()
    assert (seen_there.running, seen_there.waiting, seen_there.kv_usage) == (8, 4, 0.25)


def test_each_further_queue_is_counted_once_beside_the_parts_of_it() -> None:
    """SGLang with priorities tells all of a queue, and the requests of each priority: they were
    counted twice. A series that comes in parts is one.
    """
    page = [one for one in series_of(steady(rps=1.0)) if "waiting" not in one.metric]
    times = [one.t_s for one in steady(rps=1.0)]
    for queue, of_all, parts in (("transfer", 4.0, (3.0, 1.0)), ("prealloc", 3.0, (3.0, 0.0))):
        metric = f"sglang:num_decode_{queue}_queue_reqs"
        for priority, told in (("", of_all), ("1", parts[0]), ("5", parts[1])):
            points = [(t_s, told) for t_s in times]
            page.append(Series(metric, (("priority", priority),), points[:2]))
            page.append(Series(metric, (("priority", priority),), points[2:]))
    (gauges,) = told_of({"a": page}, pod("a")).pods.values()
    assert gauges.waiting == 7
    falling = [(t_s, 40.0 - 10.0 * k) for k, t_s in enumerate(times)]
    rest = [one for one in page if "queue" not in one.metric]
    rest += [Series("sglang:num_grammar_queue_reqs", (), of) for of in (falling[:3], falling[3:])]
    assert rate_rpm(told_of({"a": rest}, pod("a"))) == pytest.approx(20.0)


def test_parts_without_a_whole_are_added_up() -> None:
    """One of several series has fewer labels, and is not what the others add up to."""
    page = {"instance": "10.0.0.1:30000"}
    told = steady(rps=1.0)
    series = [one for one in series_of(told, labels=page) if one.metric != NAMED["running"]]
    for labels, running in (({}, 1.0), ({"priority": "1"}, 3.0), ({"priority": "2"}, 4.0)):
        own = tuple(sorted({**page, **labels}.items()))
        points = [(one.t_s, running) for one in told]
        series.append(Series(NAMED["running"], own, points))
    (seen_there,) = told_of({"a": series}, pod("a")).pods.values()
    assert seen_there.running == 8


# --- What comes, when ends tell less


def test_first_tokens_tell_of_requests_that_clients_give_up() -> None:
    """An engine counts a request that was given up in none of its ends: the worse it gets, the
    less would be asked for.
    """
    given_up = [
        sample(
            one.t_s,
            success=1000.0,
            running=60.0,
            waiting=36.0,
            ttft_count=one.told["success"],
            prompt=100.0 * (one.told["success"] or 0.0),
            generation=50.0 * (one.told["success"] or 0.0),
        )
        for one in steady(rps=200 / 60)
    ]
    found = seen(dict.fromkeys("abc", given_up), pod("a"), pod("b"), pod("c"))
    assert rate_rpm(found) == pytest.approx(600.0, rel=0.01)
    assert found.load is not None
    assert (found.load.in_tokens, found.load.out_tokens) == pytest.approx((100.0, 50.0))
    assert found.warnings[0].startswith("first tokens tell of 600 requests, ends and those inside")


def test_prompts_tell_of_requests_where_no_first_tokens_are_counted() -> None:
    """The length of prompts is known of those that ended before."""
    still: dict[str, float | None] = {"answers": 90.0, "answer_tokens": 18_000.0}
    samples = [
        sample(
            one.t_s,
            success=90.0,
            running=5.0,
            ttft_count=None,
            ttft_sum=None,
            prompt=100.0 * (one.told["success"] or 0.0),
            generation=50.0 * (one.told["success"] or 0.0),
            **still,
        )
        for one in steady(rps=2.0)
    ]
    unknown = seen({"a": samples}, pod("a"))
    assert unknown.load is None
    assert unknown.warnings[0].startswith("its engines are busy, and no counter tells of requests")
    lengths = [
        Series(f"vllm:request_prompt_tokens_{end}", (), [(one.t_s, value) for one in samples])
        for end, value in (("count", 90.0), ("sum", 9000.0))
    ]
    found = told_of({"a": [*series_of(samples), *lengths]}, pod("a"))
    assert rate_rpm(found) == pytest.approx(120.0, rel=0.01)
    assert found.warnings[0].startswith("prompts tell of 120 requests")


@pytest.mark.parametrize("told", [{"generation": True}, {"kv_usage": 0.9}])
def test_what_works_without_a_gauge_of_what_runs_is_not_idle(told: Mapping[str, float]) -> None:
    """Answers longer than the window: nothing begins or ends, and three replicas became one."""
    samples = [
        sample(
            one.t_s,
            success=100.0,
            generation=1000.0 * one.t_s if told.get("generation") else 0.0,
            kv_usage=told.get("kv_usage", 0.0),
        )
        for one in steady(rps=1.0)
    ]
    blind = [Sample(one.t_s, {**one.told, "running": None}) for one in samples]
    assert seen({"a": blind}, pod("a")).load is None
    assert rate_rpm(seen({"a": samples}, pod("a"))) == 0.0


def test_an_engine_that_hangs_with_requests_in_it_does_not_tell_that_none_come() -> None:
    """Its counters stand still and so does its queue: that read as a known load of nothing. One
    that makes tokens for what it has, and gets nothing new, is idle soon.
    """
    times = [one.t_s for one in steady(rps=1.0)]
    inside = {"running": 4.0, "waiting": 20.0}
    hung = [sample(t_s, success=100.0, **inside) for t_s in times]
    found = seen({"a": hung}, pod("a"))
    assert found.load is None
    assert found.warnings[0].startswith("24 requests are in engines of which no counter has moved")
    assert seen({"a": hung, "b": steady(rps=0.0)}, pod("a"), pod("b")).load is None
    assert rate_rpm(seen({"a": hung, "b": steady(rps=1.0)}, pod("a"), pod("b"))) > 0.0
    works = [sample(t_s, success=100.0, generation=200.0 * t_s, running=4.0) for t_s in times]
    assert rate_rpm(seen({"a": works}, pod("a"))) == 0.0


def test_requests_that_are_given_up_while_they_wait_came() -> None:
    """An engine that counts them as aborted tells of all that came: first tokens tell of fewer."""
    steadily = steady(rps=1.0)
    aborted = Series(
        "vllm:request_success_total",
        (("finished_reason", "abort"),),
        [(one.t_s, 5.0 * one.t_s) for one in steadily],
    )
    first, *others = series_of(steadily)
    series = [first._replace(labels=(("finished_reason", "stop"),)), *others, aborted]
    found = told_of({"a": series}, pod("a"))
    assert rate_rpm(found) == pytest.approx(360.0, rel=0.01)
    assert found.warnings == ()


# --- Pods that come, go, and fail their probes


def test_a_pod_that_was_unready_for_a_moment_has_been_served_before() -> None:
    """Scraped anew since 25 s, with counters of ten minutes: neither is all of them of this window,
    nor has it begun just now.
    """
    times = (NOW_S - 20.0, NOW_S - 10.0, NOW_S)
    back = [sample(t_s, success=t_s) for t_s in times]
    stays = [sample(NOW_S - 60.0 + 10.0 * i, success=540.0 + 10.0 * i) for i in range(7)]
    found = seen({"a": back, "b": stays}, pod("a", since_s=NOW_S - 30.0, created_s=0.0), pod("b"))
    assert rate_rpm(found) == pytest.approx(120.0, rel=0.01)


def test_what_a_young_pod_had_at_its_first_sample_is_backlog_and_not_a_rate() -> None:
    """After an outage the gateway sends at once what has waited: a rate of that would be ten times
    the load.
    """
    since_s = NOW_S - 30.0
    back = [
        sample(since_s + t, success=t, running=32.0, waiting=max(0.0, 500.0 - t + t))
        for t in (5.0, 15.0, 25.0)
    ]
    found = seen({"a": back}, pod("a", since_s=since_s, created_s=since_s - 60.0))
    assert rate_rpm(found) == pytest.approx(60.0)
    assert found.pods[name_of("a")].waiting == 500


def test_a_process_that_was_heard_of_for_less_than_a_quarter_of_the_window_tells_no_rate() -> None:
    """Of a few seconds, one burst would be taken for the load of a minute."""
    since_s = NOW_S - 20.0
    short = [sample(NOW_S - 10.0, success=0.0), sample(NOW_S, success=40.0)]
    found = seen({"a": short}, pod("a", since_s=since_s, created_s=since_s - 60.0))
    assert found.load is None
    assert found.warnings == ("its pods have told of 10 s so far: held until it is 15 s",)


def test_pods_that_fail_their_probes_still_tell_their_load() -> None:
    """Under load all pods of a server fail them at once: to hold it then would be the end of it."""
    found = seen({"a": steady(rps=1.0)}, pod("a", phase="starting", since_s=NOW_S - 30.0))
    assert rate_rpm(found) == pytest.approx(60.0)


@pytest.mark.parametrize("leaving", ["draining", "gone"])
def test_a_server_whose_pods_were_all_replaced_is_known_by_those_before(leaving: str) -> None:
    """A move to another accelerator held the server for a window: the new pods had told nothing."""
    new = [pod(letter, since_s=NOW_S - 5.0, created_s=NOW_S - 60.0) for letter in "cd"]
    old = [pod(letter, phase="draining", since_s=NOW_S - 5.0) for letter in "ab"]
    before = steady(rps=1.0, end_s=NOW_S - 5.0)
    left = [sample(NOW_S, success=NOW_S - 5.0)] if leaving == "draining" else []
    young = [sample(NOW_S, success=5.0)]
    told = {"a": [*before, *left], "b": [*before, *left], "c": young, "d": young}
    pods = [*new, *(old if leaving == "draining" else [])]
    assert rate_rpm(seen(told, *pods)) == pytest.approx(120.0, rel=0.1)


def test_old_pods_that_are_silent_are_not_known_by_those_that_have_gone() -> None:
    """What they did since nobody knows."""
    assert seen({"a": steady(rps=1.0)}, pod("b"), pod("c")).load is None


def test_no_requests_at_some_pods_are_not_known_to_be_none_at_all() -> None:
    """Zero is asked for on known zero only."""
    found = seen({"a": steady(rps=0.0)}, pod("a"), pod("b"))
    assert found.load is None


@pytest.mark.slow
@given(
    rps=st.floats(min_value=0.5, max_value=20.0),
    outage_s=st.floats(min_value=20.0, max_value=600.0),
    capacity_factor=st.floats(min_value=1.2, max_value=4.0),
)
def test_requests_read_over_an_outage_are_the_requests_that_came(
    rps: float, outage_s: float, capacity_factor: float
) -> None:
    """Arrivals by the rate of every window, and what was found at the first sample, once."""
    since_s = 0.0
    served_rps = rps * capacity_factor

    def at(t_s: float) -> Sample:
        came = rps * (outage_s + t_s)
        done = min(came, served_rps * t_s)
        return sample(t_s, success=done, waiting=came - done, ttft_count=done)

    times = [5.0 + 15.0 * i for i in range(30)]
    total = first = 0.0
    last_s = times[0]
    for k in range(2, len(times)):
        now_s = times[k]
        inside = [at(t_s) for t_s in times[: k + 1] if t_s >= now_s - 60.0]
        tracks = {name_of("a"): tracks_of(series_of(inside))}
        one = scraped(server(pod("a", since_s=since_s, created_s=-60.0)))
        found = figures(one, tracks, now_s=now_s, settings=SETTINGS)
        if found.load is None:
            continue
        total += found.load.rate_rpm / 60.0 * (now_s - last_s)
        first = first or rps * (outage_s + times[0])
        last_s = now_s
    truth = rps * (outage_s + last_s)
    assert total + first == pytest.approx(truth, rel=0.02)


# --- Several tokens in a step, prompts that are cached


def test_latency_between_tokens_is_per_token_where_a_step_gives_several() -> None:
    """Speculative decoding: 301 tokens in 100 steps of 36 ms look like a missed target."""
    speculative = [
        Sample(
            one.t_s,
            {
                **one.told,
                "generation": 301.0 * (one.told["success"] or 0.0),
                "itl_count": 100.0 * (one.told["success"] or 0.0),
                "itl_sum": 3.6 * (one.told["success"] or 0.0),
            },
        )
        for one in steady(rps=1.0)
    ]
    assert seen({"a": speculative}, pod("a")).itl_ms == pytest.approx(12.0)
    per_request = [
        Sample(
            one.t_s,
            {
                **one.told,
                "per_token_count": one.told["success"],
                "per_token_sum": 0.012 * (one.told["success"] or 0.0),
            },
        )
        for one in speculative
    ]
    assert seen({"a": per_request}, pod("a")).itl_ms == pytest.approx(12.0)


def counting(each: Mapping[str, float]) -> list[Sample]:
    """Return the scrapes of a pod that counts so much of *each* with every request."""
    return [
        Sample(
            one.t_s,
            {
                **one.told,
                **{name: count * (one.told["success"] or 0.0) for name, count in each.items()},
            },
        )
        for one in steady(rps=2.0)
    ]


@pytest.mark.parametrize(
    ("each", "share"),
    [
        ({"cache_queries": 8000.0, "cache_hits": 7440.0}, 0.93),
        # What was not found here comes from the cache of another instance.
        ({"cache_queries": 8000.0, "cache_hits": 1000.0, "transferred": 6000.0}, 0.875),
        ({"prompt": 8000.0, "prompt_cached": 7440.0}, 0.93),
        ({"cache_queries": 100.0, "cache_hits": 90.0, "transferred": 90.0}, 1.0),
        ({}, None),
    ],
)
def test_the_share_of_prompt_tokens_that_nobody_computes_is_told(
    each: Mapping[str, float], share: float | None
) -> None:
    """They are no prefill work."""
    told = seen({"a": counting(each)}, pod("a")).cache_hit_share
    assert told == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize(
    ("each", "share"),
    [
        # vLLM with NIXL: a decode engine computes the last token of a prompt anew.
        ({"cache_queries": 8000.0, "cache_hits": 0.0, "transferred": 7999.0}, 7999 / 8000),
        ({"cache_queries": 8000.0, "cache_hits": 6000.0, "transferred": 1999.0}, 1999 / 2000),
        # Without a cache of its own it looks nothing up.
        ({"cache_queries": 0.0, "cache_hits": 0.0, "prompt": 8000.0, "transferred": 8000.0}, 1.0),
        # A cache in host memory has no new tokens, and a new pod an empty one.
        ({"cache_queries": 8000.0, "cache_hits": 1000.0, "transferred": 6500.0}, None),
        ({"cache_queries": 40300.0, "cache_hits": 0.0, "transferred": 39990.0}, None),
        ({"cache_queries": 8000.0, "cache_hits": 8000.0, "transferred": 0.0}, None),
        ({"cache_queries": 8000.0, "cache_hits": 7440.0}, None),
    ],
)
def test_prompts_that_others_compute_are_told_apart_from_cached_ones(
    each: Mapping[str, float], share: float | None
) -> None:
    """Prefill and decode in pods of their own: more of the latter compute no more either."""
    told = seen({"a": counting(each)}, pod("a")).fetched_share
    assert told == (None if share is None else pytest.approx(share))


# --- Names


@pytest.mark.parametrize(
    "metric",
    ["vllm:{}", "vllm_{}", "ray_vllm:{}", "kserve_vllm:{}"],
)
def test_prefixes_of_those_who_pass_metrics_on_are_known(metric: str) -> None:
    """Ray Serve and KServe rename; some pipelines know no colon."""
    series = [
        one._replace(metric=metric.format(one.metric.removeprefix("vllm:")))
        for one in series_of(steady(rps=1.0))
    ]
    assert rate_rpm(told_of({"a": series}, pod("a"))) == pytest.approx(60.0)


def test_old_names_of_metrics_stand_in_for_new_ones() -> None:
    """vLLM renamed some; clusters run both for years, and some engines show both."""
    series = series_of(steady(rps=1.0))
    old = [
        one._replace(metric=one.metric.replace("inter_token_latency", "time_per_output_token"))
        for one in series
    ]
    assert told_of({"a": old}, pod("a")).itl_ms == pytest.approx(10.0)
    assert told_of({"a": [*series, *old]}, pod("a")).itl_ms == pytest.approx(10.0)


@pytest.mark.parametrize(
    "missing",
    [
        ("ttft_count", "ttft_sum"),
        ("ttft_count",),
        ("prompt",),
        ("answers",),
        ("answer_tokens", "generation"),
        ("itl_count",),
        ("itl_sum",),
    ],
)
def test_a_mean_is_of_engines_that_tell_both_of_its_figures(missing: tuple[str, ...]) -> None:
    """A page that is cut, or pods of two engines while one is replaced: prompt tokens of both over
    the requests of one were twice a prompt.
    """
    less = [
        one._replace(told={name: value for name, value in one.told.items() if name not in missing})
        for one in steady(rps=1.0)
    ]
    found = seen({"a": steady(rps=1.0), "b": less}, pod("a"), pod("b"))
    assert found.load is not None
    figures_of = (found.load.in_tokens, found.load.out_tokens, found.ttft_ms, found.itl_ms)
    assert figures_of == pytest.approx((100.0, 200.0, 50.0, 10.0))
    assert (found.completions_rpm, found.output_tps) == pytest.approx((120.0, 400.0))


def test_a_pod_that_has_done_nothing_yet_knows_no_lengths() -> None:
    """A pod of another engine is added: prompts were 0 tokens long until it had served one."""
    told = {"count": 1.0, "input_length_sum": 500.0, "input_length_count": 1.0}
    told |= {"generated_tokens_sum": 90.0, "generated_tokens_count": 1.0}
    times = [one.t_s for one in steady(rps=1.0)]
    busy = [
        Series(f"tgi_request_{name}", (), [(t_s, 2.0 * each * t_s) for t_s in times])
        for name, each in told.items()
    ]
    for idle in (steady(rps=0.0), [one._replace(told={"success": 0.0}) for one in steady(rps=0.0)]):
        found = told_of({"a": busy, "b": series_of(idle)}, pod("a"), pod("b"))
        assert found.load is not None
        assert (found.load.in_tokens, found.load.out_tokens) == pytest.approx((500.0, 90.0))


def test_each_pod_has_figures_of_its_own() -> None:
    """A tuner of latency models learns from single pods, which differ."""
    found = seen({"a": steady(rps=1.0), "b": steady(rps=3.0)}, pod("a"), pod("b"))
    a, b = (found.pods[name_of(letter)] for letter in "ab")
    assert (a.completions_rpm, b.completions_rpm) == (pytest.approx(60.0), pytest.approx(180.0))
    assert a.rate_rpm == pytest.approx(60.0)
    assert (a.ttft_ms, a.itl_ms) == pytest.approx((found.ttft_ms, found.itl_ms))


def test_ends_that_no_first_token_explains_are_not_arrivals() -> None:
    """A finish reason that is shown late brings all that it has counted before: 430 rpm were read
    for 60.
    """
    series = series_of(steady(rps=1.0))
    late = Series(
        "vllm:request_success_total",
        (("finished_reason", "length"),),
        [(t_s, 280.0) for t_s, _ in series[0].points[2:]],
    )
    first = series[0]._replace(labels=(("finished_reason", "stop"),))
    found = told_of({"a": [first, *series[1:], late]}, pod("a"))
    assert rate_rpm(found) == pytest.approx(60.0)
    assert "left out" in found.warnings[0]
    twice = [first, *series[1:], first._replace(labels=(("finished_reason", "any"),))]
    found = told_of({"a": twice}, pod("a"))
    assert rate_rpm(found) == pytest.approx(60.0)
    assert found.warnings[0].endswith("more ends than first tokens can be; the lower figure counts")


def test_the_answers_of_a_request_that_has_several_are_all_of_its_load() -> None:
    """vLLM counted an end for each of n, and a prompt and a first token for all: half of the tokens
    that were generated were nobody's.
    """
    several = [
        Sample(
            one.t_s,
            {
                **one.told,
                "success": 2.0 * (one.told["success"] or 0.0),
                "answers": 2.0 * (one.told["answers"] or 0.0),
                "answer_tokens": 2.0 * (one.told["answer_tokens"] or 0.0),
                "generation": 2.0 * (one.told["generation"] or 0.0),
            },
        )
        for one in steady(rps=1.0)
    ]
    load = seen({"a": several}, pod("a")).load
    assert load is not None
    assert (load.rate_rpm, load.in_tokens, load.out_tokens) == pytest.approx((60.0, 100.0, 400.0))
    # Ends that are shown twice generate nothing.
    shown = [
        Sample(one.t_s, {**one.told, "success": 2.0 * (one.told["success"] or 0.0)})
        for one in steady(rps=1.0)
    ]
    again = seen({"a": shown}, pod("a")).load
    assert again is not None
    assert (again.rate_rpm, again.out_tokens) == pytest.approx((60.0, 200.0))


def test_latencies_of_nothing_are_not_known() -> None:
    """A version of vLLM observed zeros only: every target seemed to be met."""
    zeros = [
        Sample(one.t_s, {**one.told, "ttft_sum": 0.0, "itl_sum": 0.0}) for one in steady(rps=1.0)
    ]
    found = seen({"a": zeros}, pod("a"))
    assert (found.ttft_ms, found.itl_ms) == (None, None)
    assert rate_rpm(found) == pytest.approx(60.0)


def test_engines_without_first_tokens_are_read_by_their_ends() -> None:
    """Embeddings have no token that comes first."""
    samples = [
        Sample(one.t_s, {**one.told, "ttft_count": 0.0, "ttft_sum": 0.0}) for one in steady(rps=1.0)
    ]
    found = seen({"a": samples}, pod("a"))
    assert (rate_rpm(found), found.warnings) == (pytest.approx(60.0), ())


@pytest.mark.parametrize("firsts", [False, True])
@pytest.mark.parametrize(("reason", "out_tokens"), [("stop", 1.0), ("abort", 0.0)])
def test_requests_that_are_served_without_a_token_are_those_of_embeddings(
    reason: str, out_tokens: float, firsts: bool
) -> None:
    """They could never be scaled; but where all clients give up, nothing tells of the answers.
    vLLM counts the end of a prompt as a first token.
    """
    told = {"generation": 0.0, "answer_tokens": 0.0}
    if not firsts:
        told |= {"ttft_count": 0.0, "ttft_sum": 0.0}
    told |= {"itl_count": 0.0, "itl_sum": 0.0}
    samples = [Sample(one.t_s, {**one.told, **told}) for one in steady(rps=1.0)]
    series = [
        one._replace(labels=(("finished_reason", reason),) if "success" in one.metric else ())
        for one in series_of(samples)
    ]
    found = told_of({"a": series}, pod("a"))
    assert rate_rpm(found) == pytest.approx(60.0)
    assert found.load is not None
    assert (found.load.in_tokens, found.load.out_tokens) == (100.0, out_tokens)


def test_a_series_that_comes_in_parts_is_one() -> None:
    """Who puts the answers of several Prometheus servers together may not merge them."""
    whole = steady(rps=1.0)
    parts = [*series_of(whole[::2]), *series_of(whole[1::2]), *series_of(whole[1:3])]
    assert rate_rpm(told_of({"a": parts}, pod("a"))) == pytest.approx(60.0)


def told_by(t_s: float, base: float, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return what a worker of one request a second shows of *metrics*, per request, at a time."""
    requests = base + t_s - (NOW_S - 60.0)
    return {name: each * requests for name, each in metrics.items()}


EACH = {"success": 1.0, "prompt": 100.0, "generation": 200.0, "ttft_count": 1.0}


@pytest.mark.parametrize("turns", ["ABAB", "AABA", "BAAB", "ABBABAABAB", "ABCACBACBA"])
def test_workers_that_answer_by_turns_at_one_port_are_read_each_by_itself(turns: str) -> None:
    """Several server processes behind one port each show counters of their own: 3,870 rpm were
    read for 120.
    """
    bases = {"A": 1000.0, "B": 40.0, "C": 7000.0}
    times = [NOW_S - 55.0 + 50.0 * k / (len(turns) - 1) for k in range(len(turns))]
    samples = [
        Sample(t_s, {**told_by(t_s, bases[worker], EACH), "running": 2.0, "waiting": 0.0})
        for t_s, worker in zip(times, turns, strict=True)
    ]
    found = seen({"a": samples}, pod("a"))
    assert rate_rpm(found) == pytest.approx(60.0 * len(set(turns)))
    assert found.warnings == (
        "several processes answer by turns at one port: each was read by itself",
    )


def test_what_a_new_pod_has_had_at_the_first_look_came_to_it() -> None:
    """A router sends to the new pods what comes, and nothing to the one whose queue is full: 60 rpm
    were read for 3000, which five pods as idle as the old one would have had.
    """
    new = [pod(letter, since_s=NOW_S - 50.0, created_s=NOW_S - 90.0) for letter in "bcd"]
    old = [sample(NOW_S - 60.0, success=1000.0), sample(NOW_S, success=1006.0)]
    first = [sample(NOW_S, success=140.0, running=40.0, waiting=20.0)]
    samples = {"a": old} | dict.fromkeys("bcd", first)
    found = seen(samples, pod("a"), *new)
    assert rate_rpm(found) == pytest.approx(606.0)
    assert found.warnings == ()
    # If nobody served before, it may all have been waiting; and hours may be in its counters.
    young = pod("a", since_s=NOW_S - 50.0, created_s=NOW_S - 90.0)
    assert rate_rpm(seen(samples, young, *new)) < 100.0
    back = [pod(letter, since_s=NOW_S - 50.0, created_s=NOW_S - 9e4) for letter in "bcd"]
    assert rate_rpm(seen(samples, pod("a"), *back)) < 100.0


def test_what_a_pod_did_before_it_failed_a_probe_did_not_come_now() -> None:
    """Unlike a pod that begins it had been there for far longer than the one beside it had taken:
    1563 rpm were read for 78.
    """
    samples = {"a": steady(rps=1.0), "b": [sample(NOW_S - 1.0, success=1500.0, running=3.0)]}
    back = pod("b", since_s=NOW_S - 18.0, created_s=NOW_S - 1200.0)
    assert rate_rpm(seen(samples, pod("a"), back)) == pytest.approx(78.0)


@pytest.mark.parametrize("crowd", [1, 4])
def test_a_birth_that_is_told_a_second_apart_is_one(crowd: int) -> None:
    """Go programs reckon it at each scrape from the start of the machine, which moves by a second
    when its clock is set: 120 rpm were read for 60.
    """
    samples = [sample(NOW_S - 60.0 + 15.0 * i, success=100.0 + 15.0 * i) for i in range(5)]
    began = [(one.t_s, 1.7e9 + i % 2) for i, one in enumerate(samples)]
    series = [*series_of(samples), Series("process_start_time_seconds", (), began)]
    letters = "abcd"[:crowd]
    found = told_of(dict.fromkeys(letters, series), *map(pod, letters))
    assert rate_rpm(found) == pytest.approx(60.0 * crowd)
    assert found.warnings == ()


def test_workers_that_began_a_moment_apart_are_two() -> None:
    """Their counters need not fall where both do the same: half of their load was read."""
    began = {"A": 1.7e9 + 0.11, "B": 1.7e9 + 0.73}
    turns = [(NOW_S - 55.0 + 12.5 * k, worker) for k, worker in enumerate("ABABA")]
    done = {"A": 1000.0, "B": 1005.0}
    samples = [sample(t_s, success=done[worker] + t_s) for t_s, worker in turns]
    born = [(t_s, began[worker]) for t_s, worker in turns]
    series = [*series_of(samples), Series("process_start_time_seconds", (), born)]
    assert rate_rpm(told_of({"a": series}, pod("a"))) == pytest.approx(120.0)


@pytest.mark.parametrize("crowd", [1, 4])
def test_an_engine_that_has_begun_anew_is_known_by_when_its_counters_began(crowd: int) -> None:
    """Its requests are more by now than those of the process before, and no container tells of a
    restart: 105 rpm were read for 120. A label set that has its birth from the first request of its
    kind does not tell of another process.
    """
    times_s = [NOW_S - 60.0 + 15.0 * i for i in range(5)]
    before = [10.0, 40.0, 55.0, 85.0, 115.0]
    samples = [sample(t_s, success=count) for t_s, count in zip(times_s, before, strict=True)]
    began = [times_s[0] - 5.0, times_s[0] - 5.0, times_s[1] + 1.0, times_s[1] + 1.0, times_s[1] + 1]
    stop, abort = (("finished_reason", "stop"),), (("finished_reason", "abort"),)
    late = [(t_s, times_s[2] + 7.0) for t_s in times_s[3:]]
    births = [
        Series("vllm:request_success_created", stop, list(zip(times_s, began, strict=True))),
        Series("vllm:request_success_created", abort, late),
        Series("vllm:request_success_created", (("finished_reason", "error"),), [(NOW_S, 0.0)]),
    ]
    series = [*series_of(samples), *births]
    letters = "abcd"[:crowd]
    found = told_of(dict.fromkeys(letters, series), *map(pod, letters))
    assert rate_rpm(found) == pytest.approx(120.0 * crowd)


def test_when_a_process_began_is_of_each_of_its_engines_and_counts_before_its_counters() -> None:
    """vLLM puts the number of the engine on all its own metrics and not on this one."""
    times_s = [NOW_S - 60.0 + 15.0 * i for i in range(5)]
    series = [Series("process_start_time_seconds", (), [(t_s, 1.7e9) for t_s in times_s])]
    for engine in "01":
        own = (("engine", engine), ("model_name", "m"))
        counts = [(t_s, 100.0 + 2.0 * k) for k, t_s in enumerate(times_s)]
        series.append(Series("vllm:time_to_first_token_seconds_count", own, counts))
        # Of these labels alone, whose counters are made anew (the clock is set, say).
        born = [(t_s, 1.7e9 + t_s) for t_s in times_s]
        series.append(Series("vllm:time_to_first_token_seconds_created", own, born))
    first, second = tracks_of(series)
    assert (first.started_s, second.started_s) == (1.7e9, 1.7e9)
    assert (first.restarts, second.restarts) == (0, 0)


def test_ranks_of_one_batch_are_one_whenever_each_began() -> None:
    """They compute the same, and their programs begin some milliseconds apart."""
    series = []
    for rank, began in (("0", 1.7e9), ("1", 1.7e9 + 0.02)):
        labels = (("tp_rank", rank),)
        points = [(NOW_S - 60.0 + 15.0 * i, 100.0 + 15.0 * i) for i in range(5)]
        series.append(Series("vllm:request_success_total", labels, points))
        born = [(t_s, began) for t_s, _ in points]
        series.append(Series("vllm:request_success_created", labels, born))
    assert rate_rpm(told_of({"a": series}, pod("a"))) == pytest.approx(60.0)


def worker_pages(turns: str, *, births: str = "") -> list[Series]:
    """Return what scrapes of one port show, at which one worker of each letter answers."""
    bases = {"A": 1000.0, "B": 40.0, "C": 7000.0, "D": 52000.0, "E": 3.0, "F": 300.0}
    each = {**EACH, "itl_count": 199.0, "itl_sum": 1.99}
    times = [NOW_S - 55.0 + 50.0 * k / (len(turns) - 1) for k in range(len(turns))]
    samples = [
        Sample(t_s, {**told_by(t_s, bases[worker], each), "running": 2.0, "waiting": 0.0})
        for t_s, worker in zip(times, turns, strict=True)
    ]
    began = [(t_s, 1.7e9 + bases[one]) for t_s, one in zip(times, turns, strict=True)]
    born = [Series(births, (), began)] if births else []
    return [*series_of(samples), *born]


@pytest.mark.parametrize("crowd", [1, 4])
def test_a_fast_engine_is_not_taken_for_several(crowd: int) -> None:
    """It gives four tokens a step to 600 requests, at a fifth of the time its life took on the
    mean; what is held for that would be held for ever.
    """
    tps, start_s = 600 * 4 / 0.01, NOW_S - 59.0
    samples = [
        Sample(
            t_s,
            {
                "success": 5e4 + tps / 200.0 * (t_s - start_s),
                "generation": 1e7 + tps * (t_s - start_s),
                "ttft_count": 5e4 + tps / 200.0 * (t_s - start_s),
                "prompt": 5e6 + tps / 2.0 * (t_s - start_s),
                "itl_count": 2.5e6 + tps / 4.0 * (t_s - start_s),
                "itl_sum": 2.5e6 * 0.05 + 0.01 * tps / 4.0 * (t_s - start_s),
                "running": 600.0,
                "waiting": 0.0,
            },
        )
        for t_s in (start_s, start_s + 15.0, start_s + 30.0, start_s + 45.0)
    ]
    letters = "abcd"[:crowd]
    found = seen(dict.fromkeys(letters, samples), *map(pod, letters))
    assert rate_rpm(found) == pytest.approx(crowd * 60.0 * tps / 200.0)
    assert found.warnings == ()


def dipped(series: list[Series], metric: str, by: Callable[[float], float]) -> list[Series]:
    """Return *series* whose third sample of *metric*, "" for every counter, shows what *by* makes
    of it.
    """
    third = [
        (
            [*one.points[:2], (one.points[2][0], by(one.points[2][1])), *one.points[3:]]
            if metric in one.metric and "num_requests" not in one.metric
            else one.points
        )
        for one in series
    ]
    return [one._replace(points=points) for one, points in zip(series, third, strict=True)]


@pytest.mark.parametrize("by", [lambda n: 0.97 * n, lambda _: 0.0, lambda n: 1.4 * n])
@pytest.mark.parametrize(
    "metric", ["request_success", "generation_tokens", "prompt_tokens", "first_token_seconds_count"]
)
def test_a_counter_that_falls_alone_and_is_back_is_no_restart(
    metric: str, by: Callable[[float], float]
) -> None:
    """A sample out of order: 480 rpm were read for 60, or the server was held."""
    found = told_of({"a": dipped(worker_pages("AAAAA"), metric, by)}, pod("a"))
    assert (rate_rpm(found), found.warnings) == (pytest.approx(60.0), ())


def test_a_counter_that_falls_alone_and_stays_there_begins_anew() -> None:
    """Nothing puts it back on its line."""
    pages = worker_pages("AAAAA")
    first = pages[0]._replace(
        points=[(t_s, n - 1020.0 * (k > 2)) for k, (t_s, n) in enumerate(pages[0].points)]
    )
    assert rate_rpm(told_of({"a": [first, *pages[1:]]}, pod("a"))) == pytest.approx(60.0, rel=0.3)


@pytest.mark.parametrize("back_s", [[0.0, 0.0, 9.0, 9.0, 9.0], [0.0, 9.0, 18.0, 27.0, 36.0]])
def test_a_sum_of_times_that_falls_alone_is_of_a_clock_that_was_set_back(
    back_s: Sequence[float],
) -> None:
    """Its count has grown, so nothing has begun anew: the server was held as one that crashes again
    and again. What TTFT is nobody knows then.
    """
    pages = [
        Sample(one.t_s, {**one.told, "ttft_sum": 100.0 + 0.05 * one.t_s - back_s[k]})
        for k, one in enumerate(steady(rps=1.0))
    ]
    found = seen({"a": pages}, pod("a"))
    assert (rate_rpm(found), found.warnings) == (pytest.approx(60.0), ())
    assert (found.ttft_ms, found.itl_ms) == (None, pytest.approx(10.0))


def test_a_page_out_of_order_is_left_out_where_all_say_the_same_birth() -> None:
    """It is not of another process, whose birth would be another one."""
    pages = dipped(worker_pages("AAAAA", births=STARTED), "", lambda n: 0.97 * n)
    began = pages[-1]._replace(points=worker_pages("AAAAA", births=STARTED)[-1].points)
    found = told_of({"a": [*pages[:-1], began]}, pod("a"))
    assert (rate_rpm(found), found.warnings) == (pytest.approx(60.0), ())


def test_a_worker_that_was_met_once_and_has_done_nothing_counts_for_nothing() -> None:
    """All its counters are 0."""
    found = told_of({"a": dipped(worker_pages("AAAAA"), "", lambda _: 0.0)}, pod("a"))
    assert rate_rpm(found) == pytest.approx(60.0)


@pytest.mark.parametrize("crowd", [1, 4])
def test_a_page_that_is_passed_on_twice_is_one(crowd: int) -> None:
    """An engine that generates all the time does not stop for one scrape: 40 rpm were read."""
    letters = "abcd"[:crowd]

    def told(**counters: float) -> float | None:
        samples = engine(NOW_S - 59.0, rps=1.0, base=5000.0)
        last = Sample(samples[-1].t_s, {**samples[-2].told, **counters})
        pages = [*samples[:-1], last]
        found = seen({letter: list(pages) for letter in letters}, *map(pod, letters))
        return rate_rpm(found)

    assert told() == pytest.approx(60.0 * crowd)
    assert told(running=0.0) == pytest.approx((60.0 * 30.0 / 45.0 - 4.0 * 60.0 / 45.0) * crowd)


@pytest.mark.parametrize("births", ["", STARTED, CREATED])
@pytest.mark.parametrize("turns", ["ABCD", "DCBA", "BACD", "DACE", "ABCDEF", "FEDCBA", "AD"])
def test_workers_of_which_none_answers_twice_are_not_known(turns: str, births: str) -> None:
    """What one shows after another is no growth: 62,412 rpm were read for 240."""
    found = told_of({"a": worker_pages(turns, births=births)}, pod("a"))
    assert found.load is None
    assert found.warnings[0].startswith("several processes answer by turns at one port, and it is")
    assert {gauge.unknown for gauge in found.pods.values()} == {frozenset(GAUGES_SHOWN)}


def test_an_engine_of_a_sped_twin_is_one() -> None:
    """It generates in a second of Prometheus what no engine of ours does: each of its scrapes was
    taken for another engine, and 58 rpm were imported for 127.
    """
    series = series_of(steady(rps=400.0))
    assert len(tracks_of(series)) > 1
    assert len(tracks_of(series, speed=15.0)) == 1


@pytest.mark.parametrize("births", [STARTED, CREATED])
def test_workers_are_told_apart_by_when_they_began(births: str) -> None:
    """By their counters two of them may be one."""
    found = told_of({"a": worker_pages("EBEFBE", births=births)}, pod("a"))
    assert rate_rpm(found) == pytest.approx(180.0)


@pytest.mark.parametrize("births", [STARTED, CREATED])
@pytest.mark.parametrize("apart_s", [0.3, 10.0])
@pytest.mark.parametrize("turns", ["AABAA", "BBABB", "BABBB", "AABCC"])
def test_workers_that_began_together_are_not_one_after_the_other(
    turns: str, apart_s: float, births: str
) -> None:
    """One that is met once between pages of another looked like two beginnings: 1,596 rpm were
    read for 120.
    """
    pages = worker_pages(turns)
    began = {one: 1.7e9 + apart_s * k for k, one in enumerate("ABC")}
    times_s = [t_s for t_s, _ in pages[0].points]
    born = [(t_s, began[one]) for t_s, one in zip(times_s, turns, strict=True)]
    found = told_of({"a": [*pages, Series(births, (), born)]}, pod("a"))
    assert found.load is None or found.load.rate_rpm < 200.0


@pytest.mark.parametrize("moved", [(0, 1, 0, 0, 0, 1, 0), (0, 0, 1, 0, 0, 0, 0), (1, 0, 0, 0) * 2])
def test_a_birth_that_moves_by_a_second_is_one_before_and_after_a_restart(
    moved: tuple[int, ...],
) -> None:
    """Each was taken for a worker that answers by turns: 240 rpm were read for 60."""
    times_s = [NOW_S - 59.0 + 8.0 * k for k in range(7)]
    counts = [5000.0 + 8.0 * k if k < 4 else 8.0 * (k - 3) for k in range(7)]
    samples = [sample(t_s, success=n) for t_s, n in zip(times_s, counts, strict=True)]
    began = [1.7e9 + (500.0 if k > 3 else 0.0) + moved[k] for k in range(7)]
    born = Series(STARTED, (), list(zip(times_s, began, strict=True)))
    found = told_of({"a": [*series_of(samples), born]}, pod("a"))
    assert (rate_rpm(found), found.warnings) == (pytest.approx(60.0), ())


@pytest.mark.parametrize(
    ("turns", "began"), [("EEEEAAF", "EFA"), ("BEEEEEA", "EBA"), ("BBEBEBEBEA", "EBA")]
)
def test_workers_that_began_whole_seconds_apart_are_several(turns: str, began: str) -> None:
    """Of two of them no counter falls by chance: 21,720 rpm were read for 180."""
    pages = worker_pages(turns)
    times_s = [t_s for t_s, _ in pages[0].points]
    born = [(t_s, 1.7e9 + 2.0 * began.index(one)) for t_s, one in zip(times_s, turns, strict=True)]
    found = told_of({"a": [*pages, Series(STARTED, (), born)]}, pod("a"))
    assert rate_rpm(found) == pytest.approx(180.0)


@pytest.mark.parametrize("births", [STARTED, CREATED])
def test_a_restart_is_no_second_worker(births: str) -> None:
    """It is younger than who was there before, and that never answers again."""
    (track,) = tracks_of(worker_pages("EEFF", births=births))
    assert not track.by_turns


@pytest.mark.parametrize("spread_s", [0.5, 2.0, 5.0])
def test_metrics_of_one_scrape_may_be_seconds_apart(spread_s: float) -> None:
    """A pipeline that passes them on by batches gives each the time of its batch."""
    apart = [
        one._replace(
            points=[(t_s + spread_s * k / 11.0, value) for t_s, value in one.points],
        )
        for k, one in enumerate(series_of(engine(NOW_S - 59.0, rps=1.0, base=5000.0)))
    ]
    found = told_of({"a": apart}, pod("a"))
    assert (rate_rpm(found), found.warnings) == (pytest.approx(60.0), ())
    assert found.itl_ms == pytest.approx(10.0)


def test_births_of_counters_may_be_seconds_apart_as_these_are() -> None:
    """Two of them within a scrape took it for two: 58.5 rpm were read for 60, and a counter was
    said to be shown only now.
    """
    apart = []
    for k, one in enumerate(series_of(engine(NOW_S - 59.0, rps=1.0, base=5000.0))):
        points = [(t_s + 0.25 * k, value) for t_s, value in one.points]
        born = [(t_s, 1.7e9 + k) for t_s, _ in points]
        name = one.metric.removesuffix("_total").removesuffix("_count") + "_created"
        apart += [one._replace(points=points), Series(name, one.labels, born)]
    found = told_of({"a": apart}, pod("a"))
    assert (rate_rpm(found), found.warnings) == (pytest.approx(60.0), ())


@pytest.mark.parametrize("created", [0.0, float("nan"), float("inf"), -1.0, 1.7e18])
def test_births_that_are_no_dates_tell_nothing(created: float) -> None:
    """By those without an end a restart was a page out of order: 23 rpm were read for 30."""
    times_s = [NOW_S - 59.0 + 5.0 * k for k in range(12)]
    counts = [0.5 * 5.0 * k for k in (0, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)]
    samples = [sample(t_s, success=n) for t_s, n in zip(times_s, counts, strict=True)]
    born = Series(CREATED, (), [(t_s, created) for t_s in times_s])
    found = told_of({"a": [*series_of(samples), born]}, pod("a"))
    assert rate_rpm(found) == pytest.approx(rate_rpm(seen({"a": samples}, pod("a"))))


@pytest.mark.parametrize(
    "counted", [(10.0, 2.0, 12.0, 22.0), (5000.0, 5750.0, 10.0, 760.0), (100.0, 115.0, 3.0, 18.0)]
)
def test_a_process_that_restarts_is_one_whatever_it_counts_later(
    counted: tuple[float, ...],
) -> None:
    """Its counters may come again to where they were."""
    samples = [
        Sample(
            NOW_S - 50.0 + 15.0 * k,
            {**{name: each * n for name, each in EACH.items()}, "running": 60.0},
        )
        for k, n in enumerate(counted)
    ]
    (track,) = tracks_of(series_of(samples))
    assert not track.by_turns


def test_a_counter_that_has_labels_of_its_own_is_of_the_same_engine() -> None:
    """Told by method, it was taken for a further engine: 120 rpm for 60."""
    (rest, ends) = (
        engine(NOW_S - 50.0, rps=1.0, base=5000.0),
        [
            Sample(one.t_s, {"success": one.told["success"]})
            for one in engine(NOW_S - 50.0, rps=0.5, base=90.0)
        ],
    )
    series = series_of([Sample(one.t_s, {**one.told, "success": None}) for one in rest])
    for method in ("generate", "generate_stream"):
        series += series_of(ends, labels={"method": method})
    found = told_of({"a": series}, pod("a"))
    assert rate_rpm(found) == pytest.approx(60.0)
    assert found.pods[name_of("a")].running == 4


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"job": "a", "exported_model_name": "m"}, {"job": "b", "model_name": "m"}),
        ({"job": "a", "engine": "0"}, {"job": "b"}),
        (
            {"job": "a", "instance": "10.0.0.1:8000"},
            {
                "job": "federate",
                "instance": "other-prometheus:9090",
                "exported_job": "a",
                "exported_instance": "10.0.0.1:8000",
            },
        ),
    ],
)
def test_copies_are_known_though_a_scraper_has_renamed_or_dropped_a_label(
    one: Mapping[str, str], other: Mapping[str, str]
) -> None:
    """Two jobs seldom have the same rules."""
    series = series_of(engine(NOW_S - 50.0, rps=1.0, base=5000.0), labels=one)
    series += series_of(engine(NOW_S - 46.0, rps=1.0, base=5004.0), labels=other)
    assert rate_rpm(told_of({"a": series}, pod("a"))) == pytest.approx(60.0)


def test_engines_whose_pages_call_themselves_alike_are_two() -> None:
    """What a page says of its instance tells nothing where two pages say the same."""
    series = list[Series]()
    for port, base in (("8000", 5000.0), ("8001", 90.0)):
        labels = {"instance": f"10.0.0.1:{port}", "exported_instance": "engine"}
        series += series_of(engine(NOW_S - 50.0, rps=1.0, base=base), labels=labels)
    assert rate_rpm(told_of({"a": series}, pod("a"))) == pytest.approx(120.0)


@pytest.mark.parametrize(
    ("one", "other", "ahead"),
    [
        ({"exported_job": "vllm-0"}, {"exported_job": "vllm-1"}, -8.0),
        (
            {"exported_job": "vllm-0", "exported_instance": "a"},
            {"exported_job": "vllm-1", "exported_instance": "a"},
            -8.0,
        ),
        ({"exported_instance": "engine-0"}, {"exported_instance": "engine-1"}, -8.0),
        ({"exported_instance": "10.0.0.1:8000"}, {"exported_instance": "10.0.0.1:8001"}, 5.0),
        (
            {"instance": "10.0.0.1:8000", "exported_instance": "0"},
            {"instance": "10.0.0.1:8001", "exported_instance": "0"},
            5.0,
        ),
    ],
)
def test_engines_that_others_pass_on_are_told_apart_by_what_they_were_called(
    one: Mapping[str, str], other: Mapping[str, str], ahead: float
) -> None:
    """Half of the load was missing. Those that are *ahead* by their counters might be copies."""
    series = list[Series]()
    for k, own in enumerate((one, other)):
        labels = {"job": "otel", "instance": "otel:8889", **own}
        samples = engine(NOW_S - 50.0 + 4.0 * k, rps=1.0, base=5000.0 + (4.0 + ahead) * k)
        series += series_of(samples, labels=labels)
    assert rate_rpm(told_of({"a": series}, pod("a"))) == pytest.approx(120.0, rel=0.02)


def test_a_target_that_two_collectors_pass_on_is_one() -> None:
    """Nobody may scrape it directly, and who passes it on tells nothing of it."""
    series = list[Series]()
    for k, relay in enumerate(("otel-0:8889", "otel-1:8889")):
        labels = {"job": "otel", "instance": relay, "exported_instance": "10.0.0.1:8000"}
        samples = engine(NOW_S - 50.0 + 4.0 * k, rps=1.0, base=5000.0 + 4.0 * k)
        series += series_of(samples, labels=labels)
    assert rate_rpm(told_of({"a": series}, pod("a"))) == pytest.approx(60.0, rel=0.02)


def test_the_label_of_an_instance_may_change_while_the_loop_looks_on() -> None:
    """A new rule of relabelling makes a new series, whose one sample was taken for all there is:
    everybody was held.
    """
    samples = engine(NOW_S - 50.0, rps=1.0, base=5000.0)
    series = series_of(samples[:-1], labels={"instance": "10.0.0.1:8000"})
    series += series_of(samples[-1:], labels={"instance": "node-1"})
    assert rate_rpm(told_of({"a": series}, pod("a"))) == pytest.approx(60.0)


def test_an_engine_that_hangs_while_others_work_is_told() -> None:
    """What it has counted as running keeps replicas that can do nothing for it."""
    stuck = [sample(t_s, success=900.0, running=35.0) for t_s in (555.0, 570.0, 585.0, 600.0)]
    found = seen({"a": steady(rps=1.0), "b": stuck}, pod("a"), pod("b"))
    assert rate_rpm(found) == pytest.approx(60.0)
    assert found.warnings == (
        "35 requests are in engines of which no counter has moved for 45 s: do they hang?",
    )


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.removesuffix("_total"),
        lambda name: name.replace("vllm:", "lmdeploy:"),
        lambda name: name.replace("vllm:", "kserve_vllm_"),
        lambda name: name.removeprefix("vllm:").replace("success", "finish"),
    ],
)
def test_engines_that_name_their_metrics_as_vllm_does_are_read(
    rename: Callable[[str], str],
) -> None:
    """LMDeploy, NIM, and exporters that leave out a prefix or the end of counters."""
    series = [
        one._replace(metric=rename(one.metric))
        for one in series_of(engine(NOW_S - 50.0, rps=1.0, base=5000.0))
    ]
    found = told_of({"a": series}, pod("a"))
    assert found.load is not None
    assert (found.load.rate_rpm, found.load.in_tokens, found.load.out_tokens) == pytest.approx(
        (60.0, 100.0, 200.0)
    )
    assert found.pods[name_of("a")].running == 4


@pytest.mark.parametrize("prefix", ["trtllm:", "trtllm_"])
def test_tensorrt_tells_the_latency_between_tokens_once_a_request(prefix: str) -> None:
    """Its histogram of the time per output token observes the mean of each answer."""
    names = {
        "request_success_total": 1.0,
        "time_to_first_token_seconds_count": 1.0,
        "time_to_first_token_seconds_sum": 0.05,
        "prompt_tokens_total": 100.0,
        "generation_tokens_total": 200.0,
        "time_per_output_token_seconds_count": 1.0,
        "time_per_output_token_seconds_sum": 0.012,
    }
    times = [NOW_S - 50.0 + 15.0 * k for k in range(4)]
    series = [
        Series(prefix + name, (), [(t_s, each * t_s) for t_s in times])
        for name, each in names.items()
    ]
    series.append(Series(f"{prefix}num_active_requests", (), [(t_s, 3.0) for t_s in times]))
    found = told_of({"a": series}, pod("a"))
    assert (rate_rpm(found), found.itl_ms) == pytest.approx((60.0, 12.0))
    assert found.pods[name_of("a")].running == 3


@pytest.mark.parametrize("prefix", ["llamacpp:", "llamacpp_"])
def test_llama_cpp_counts_no_requests_and_tells_what_runs_and_waits(prefix: str) -> None:
    """Of its queue nobody knew: its slots are always full, and the rest waits."""
    told = {"prompt_tokens_total": 500.0, "tokens_predicted_total": 200.0}
    times = [NOW_S - 50.0 + 15.0 * k for k in range(4)]
    series = [
        Series(prefix + name, (), [(t_s, each * t_s) for t_s in times])
        for name, each in told.items()
    ]
    for name, value in {"requests_processing": 4.0, "requests_deferred": 12.0}.items():
        series.append(Series(prefix + name, (), [(t_s, value) for t_s in times]))
    found = told_of({"a": series}, pod("a"))
    assert found.load is None
    assert "no counter of requests" in found.warnings[0]
    gauges = found.pods[name_of("a")]
    assert (gauges.running, gauges.waiting, gauges.unknown) == (4, 12, {"kv_usage"})


def test_engines_that_count_no_ends_are_not_told_to_contradict_themselves() -> None:
    """Engines with several frontends show first tokens and no ends: so it is, each cycle anew."""
    samples = [
        Sample(one.t_s, {**one.told, "success": None, "answers": None, "answer_tokens": None})
        for one in engine(NOW_S - 50.0, rps=1.0, base=5000.0)
    ]
    found = seen({"a": samples}, pod("a"))
    assert (rate_rpm(found), found.warnings) == (pytest.approx(60.0), ())


def test_each_metric_may_have_a_time_of_its_own_within_a_scrape() -> None:
    """Who passes series on with their times; counters were taken to begin late: 65 rpm for 60."""
    series = [
        one._replace(points=[(t_s + 0.001 * k, value) for t_s, value in one.points])
        for k, one in enumerate(series_of(engine(NOW_S - 50.0, rps=1.0, base=5000.0)))
    ]
    found = told_of({"a": series}, pod("a"))
    assert (rate_rpm(found), found.warnings) == (pytest.approx(60.0), ())


@pytest.mark.parametrize("ruled", ["success", "running", ""])
@pytest.mark.parametrize("page", [{"job": "vllm", "instance": "10.0.0.1:8000"}, {"port": "8000"}])
def test_what_a_rule_has_made_of_metrics_under_their_own_names_counts_once(
    page: Mapping[str, str], ruled: str
) -> None:
    """It adds up over finish reasons and keeps the pod: beside an engine of 60 rpm there was a
    second one, or nobody knew what ran.
    """
    samples = engine(NOW_S - 50.0, rps=1.0, base=5000.0)
    made = [
        one._replace(points=[(t_s + 5.0, value) for t_s, value in one.points])
        for one in series_of(samples)
        if ruled in one.metric
    ]
    found = told_of({"a": [*series_of(samples, labels=page), *made]}, pod("a"))
    assert (rate_rpm(found), found.warnings) == (pytest.approx(60.0), ())
    gauges = found.pods[name_of("a")]
    assert (gauges.running, gauges.unknown, gauges.engines) == (4, frozenset(), 1)


@pytest.mark.parametrize("label", ["engine", "container"])
def test_an_engine_that_nobody_else_scrapes_is_made_by_no_rule(label: str) -> None:
    """Who scrapes it leaves job and instance away: two thirds of the load were not counted."""
    page = {"job": "vllm", "instance": "10.0.0.1:8000", label: "0"}
    first = series_of(engine(NOW_S - 50.0, rps=1.0, base=5000.0), labels=page)
    second = series_of(engine(NOW_S - 50.0, rps=2.0, base=9000.0), labels={label: "1"})
    assert rate_rpm(told_of({"a": [*first, *second]}, pod("a"))) == pytest.approx(180.0)


def test_metrics_that_a_recording_rule_has_named_anew_are_no_further_scrapes() -> None:
    """A rule is evaluated between scrapes, and keeps all labels."""
    scraped_ones = series_of(engine(NOW_S - 50.0, rps=1.0, base=5000.0))
    ruled = [
        one._replace(
            metric=f"kserve_{one.metric}",
            points=[(t_s + 5.0, value) for t_s, value in one.points],
        )
        for one in scraped_ones
    ]
    found = told_of({"a": [*scraped_ones, *ruled]}, pod("a"))
    assert (rate_rpm(found), found.warnings) == (pytest.approx(60.0), ())
    assert found.pods[name_of("a")].age_s == pytest.approx(5.0)


@pytest.mark.parametrize(("told", "share"), [(0.37, 0.37), (37.0, 0.37), (1e9, 1.0)])
def test_usage_of_the_kv_cache_is_a_share_also_where_it_is_told_in_percent(
    told: float, share: float
) -> None:
    """No cache is used 37 times over."""
    samples = [sample(t_s, success=t_s, kv_usage=told) for t_s in (570.0, 585.0, 600.0)]
    found = seen({"a": samples}, pod("a"))
    assert found.pods[name_of("a")].kv_usage == pytest.approx(share)
