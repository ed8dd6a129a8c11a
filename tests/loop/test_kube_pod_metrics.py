"""Metrics straight from pods: pages in vLLM's format, and rates from the samples that it keeps
itself.
"""

from __future__ import annotations

import re
from contextlib import closing

import pytest

from loop.backends.kube.read import scraped
from loop.backends.metrics.pods import PageError, PodMetrics, read_page
from loop.backends.metrics.source import Measurement
from loop.signals.names import NAMES
from loop.signals.pods import ScrapedPod
from tests.loop.kube_objects import Json, date, pod, server

WANTED = re.compile(rf"(?:{NAMES.pattern})[{{ \t]")

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
# TYPE vllm:request_success counter
vllm:request_success_total{finished_reason="stop"} 10.0
vllm:request_success_total{finished_reason="length"} 2.0
vllm:request_success_created{finished_reason="length"} 1.7e+09
vllm:time_to_first_token_seconds_bucket{le="0.1"} 12.0
vllm:time_to_first_token_seconds_sum 0.6
process_cpu_seconds_total 17.0
"""


class CountedPages:
    """Pods that finish requests at rates of their own, by the last letters of their names; None: no
    answer.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self.finished: dict[str, float | None] = {}
        self.asked: list[str] = []

    def page(self, pod: ScrapedPod, port: int) -> str:
        """Return the page of *pod*."""
        letter = pod.name.rpartition("-")[2]
        assert port in pod.ports
        self.asked.append(letter)
        finished = self.finished[letter]
        if finished is None:
            raise PageError("no answer")
        return (
            f"vllm:request_success_total {finished}\nvllm:num_requests_running "
            "0\nvllm:num_requests_waiting 0\n"
            f"vllm:generation_tokens_total {100.0 * finished}\n"
        )

    def close(self) -> None:
        """Hold nothing."""


def measured(source: PodMetrics, *pods: Json, now_s: float) -> Measurement:
    """Return what *source* tells of a server of *pods*."""
    return source.measure([scraped(server(*pods))], now_s=now_s)


def rate_rpm(found: Measurement) -> float | None:
    """Return the rate of the server, None where it is not known."""
    load = found.figures["s1"].load
    return None if load is None else load.rate_rpm


def test_a_page_is_read_by_the_names_that_count() -> None:
    """Histograms have hundreds of lines that nobody needs."""
    found = {(one.metric, one.labels): one.value for one in read_page(PAGE, wanted=WANTED)}
    assert found == {
        ("vllm:num_requests_running", (("engine", "0"), ("model_name", "m"))): 3.0,
        ("vllm:request_success_total", (("finished_reason", "stop"),)): 10.0,
        ("vllm:request_success_total", (("finished_reason", "length"),)): 2.0,
        ("vllm:time_to_first_token_seconds_sum", ()): 0.6,
    }


@pytest.mark.parametrize("label", ["a\u2028b", "a\x85b", "a{b},c"])
def test_whatever_a_model_is_called_its_line_is_one_line(label: str) -> None:
    """Python ends lines where no page does: the whole page was refused."""
    line = f'vllm:num_requests_running{{model_name="{label}"}} 3\r\n'
    (one,) = read_page(line, wanted=WANTED)
    assert (one.labels, one.value) == ((("model_name", label),), 3.0)


@pytest.mark.parametrize(
    "line",
    [
        "vllm:num_requests_running {} 3 1700000000000",  # with the time of the sample
        'vllm:num_requests_running {} 3 # {{trace_id="a"}} 1 1.5',  # with an exemplar
        "vllm:num_requests_running{}\t3",
        "\ufeff# HELP a {{odd}}\n# UNIT a b\nvllm:num_requests_running {} 3.000000e+00",
        'vllm:num_requests_running{{ engine="0" , }} 3',
        '{{"my.metric/name",a="b"}} 1\nvllm:num_requests_running {} 3\n# EOF',
    ],
)
def test_a_line_of_any_exporter_is_read(line: str) -> None:
    """Client libraries, proxies and collectors write the same in many forms."""
    (one,) = read_page(line.format('{engine="0"}'), wanted=WANTED)
    assert (one.labels, one.value) == ((("engine", "0"),), 3.0)


@pytest.mark.parametrize("text", ["", "<html>not found</html>", "up 1\n"])
def test_a_page_without_those_names_tells_nothing(text: str) -> None:
    """A server of another kind: its load is not known, and not zero."""
    assert read_page(text, wanted=WANTED) == []


@pytest.mark.parametrize(
    "line",
    [
        "vllm:request_success_total{a= 3",
        "vllm:num_requests_running much",
        f"vllm:num_requests_running {'9' * 400}",
    ],
)
def test_a_page_that_is_cut_or_spoilt_is_told(line: str) -> None:
    """Half a page must not be taken for the whole."""
    with pytest.raises(PageError, match="expected metrics"):
        read_page(line, wanted=WANTED)


def test_the_first_look_is_told_as_that() -> None:
    """Nobody has to mend a scrape interval: the next cycle knows the rate."""
    pages = CountedPages()
    pages.finished["a"] = 7.0
    with closing(PodMetrics(pages)) as source:
        first = measured(source, pod("a"), now_s=600.0).figures["s1"]
    assert first.load is None
    assert first.warnings == ("its pods have been looked at once so far: held until the next look",)


def test_a_rate_needs_two_cycles_and_is_over_the_time_between_them() -> None:
    """Until then the server is held."""
    pages = CountedPages()
    with closing(PodMetrics(pages)) as source:
        pages.finished = {"a": 100.0}
        assert rate_rpm(measured(source, pod("a"), now_s=0.0)) is None
        pages.finished = {"a": 190.0}
        assert rate_rpm(measured(source, pod("a"), now_s=90.0)) == pytest.approx(60.0)


@pytest.mark.parametrize(("second", "rpm"), [("proxy", 60.0), ("vllm", 120.0)])
def test_the_page_of_an_engine_that_a_sidecar_shows_too_counts_once(
    second: str, rpm: float
) -> None:
    """Two ports of one container are two ranks, at two containers they show one engine."""
    containers = {
        name: {"name": name, "ports": [{"name": "metrics", "containerPort": port}]}
        for port, name in ((8000, "vllm"), (15020, second))
    }
    if second == "vllm":
        ports = [{"name": f"metrics-{k}", "containerPort": 8000 + k} for k in (0, 1)]
        containers = {"vllm": {"name": "vllm", "ports": ports}}
    spec = {"containers": list(containers.values())}
    pages = CountedPages()
    with closing(PodMetrics(pages)) as source:
        for now_s in (0.0, 60.0):
            pages.finished = {"a": 100.0 + now_s}
            one = server(pod("a", spec=spec), spec={"template": {"spec": spec}})
            found = source.measure([scraped(one)], now_s=now_s)
    assert rate_rpm(found) == pytest.approx(rpm)


class BornPages:
    """A pod whose engine has begun anew between two looks, and shows more by the second one."""

    def __init__(self, told_by: str) -> None:
        self.told_by, self.now_s = told_by, 0.0

    def page(self, pod: ScrapedPod, port: int) -> str:
        """Return the page of *pod*."""
        assert port in pod.ports
        ended, began = (10.0, 1.7e9) if self.now_s < 10.0 else (self.now_s, 1.7e9 + 10.0)
        return (
            f"# TYPE {self.told_by} gauge\n{self.told_by} {began}\n"
            f"vllm:request_success_total {ended}\n"
        )

    def close(self) -> None:
        """Hold nothing."""


@pytest.mark.parametrize("told_by", ["process_start_time_seconds", "vllm:request_success_created"])
def test_a_page_tells_when_its_process_or_its_counters_began(told_by: str) -> None:
    """20 requests are more than 10 were, and are all of the new process: 45 rpm were read for 60
    as though they had gone on.
    """
    pages = BornPages(told_by)
    with closing(PodMetrics(pages)) as source:
        for pages.now_s in (0.0, 20.0, 40.0):
            found = measured(source, pod("a"), now_s=pages.now_s)
    assert rate_rpm(found) == pytest.approx(60.0)


def test_many_cycles_within_a_window_are_over_the_window() -> None:
    """Somebody who calls /invoke every second must not get the rate of a second."""
    pages = CountedPages()
    with closing(PodMetrics(pages)) as source:
        for t in range(0, 200, 4):
            pages.finished = {"a": float(min(t, 160))}
            found = measured(source, pod("a"), now_s=float(t))
        # The latest window holds 24 s at one a second and 36 s of nothing.
        assert rate_rpm(found) == pytest.approx(60.0 * 24 / 60, rel=0.03)


def test_looking_twice_at_one_instant_is_looking_once() -> None:
    """No time has passed: there is nothing to divide by."""
    pages = CountedPages()
    pages.finished = {"a": 5.0}
    with closing(PodMetrics(pages)) as source:
        first = measured(source, pod("a"), now_s=0.0)
        assert measured(source, pod("a"), now_s=0.0) == first


def test_a_pod_that_does_not_answer_is_told_and_its_load_is_taken_for_that_of_the_others() -> None:
    """A missing pod is never an idle one."""
    pages = CountedPages()
    with closing(PodMetrics(pages)) as source:
        pages.finished = {"a": 0.0, "b": None}
        measured(source, pod("a"), pod("b"), now_s=0.0)
        pages.finished = {"a": 60.0, "b": None}
        found = measured(source, pod("a"), pod("b"), now_s=60.0)
    assert rate_rpm(found) == pytest.approx(120.0)
    assert len(found.warnings) == 1
    assert found.warnings[0].endswith("-b: no answer")


def test_only_pods_that_can_answer_are_asked() -> None:
    """Where no container has begun the connection is refused, after seconds; those that only fail
    their probes, and draining ones, tell as before.
    """
    pages = CountedPages()
    pages.finished = dict.fromkeys("abcd", 0.0)
    phases = {"a": "ready", "b": "starting", "c": "pending", "d": "draining"}
    pods = [pod(letter, phase=phase) for letter, phase in phases.items()]
    with closing(PodMetrics(pages)) as source:
        measured(source, *pods, now_s=0.0)
        assert sorted(pages.asked) == ["a", "d"]
        pages.asked.clear()
        running = [{"state": {"running": {"startedAt": date(-300.0)}}}]
        pods[1]["status"]["containerStatuses"] = running
        measured(source, *pods, now_s=15.0)
        assert sorted(pages.asked) == ["a", "b", "d"]


def test_a_pod_that_has_gone_is_thought_to_have_served_half_of_the_time_since() -> None:
    """Its load of before is with the others now: to forget it would scale down further."""
    pages = CountedPages()
    with closing(PodMetrics(pages)) as source:
        pages.finished = {"a": 0.0, "b": 0.0}
        measured(source, pod("a"), pod("b"), now_s=0.0)
        pages.finished = {"a": 60.0, "b": 60.0}
        measured(source, pod("a"), pod("b"), now_s=60.0)
        # b goes half-way: a has 30 more as before, then twice as many.
        pages.finished = {"a": 60.0 + 30.0 + 60.0}
        found = measured(source, pod("a"), now_s=120.0)
    # The truth is 120; b is taken to have served half of the minute at the mean rate of a, which is
    # a little more.
    assert rate_rpm(found) == pytest.approx(90.0 + 45.0)


def test_a_pod_that_the_loop_has_taken_away_served_until_then() -> None:
    """Of four pods that became two, 477 rpm were read for 300: two more replicas were asked for."""
    pages = CountedPages()
    with closing(PodMetrics(pages)) as source:
        pages.finished = {"a": 0.0, "b": 0.0}
        measured(source, pod("a"), pod("b"), now_s=0.0)
        pages.finished = {"a": 60.0, "b": 60.0}
        measured(source, pod("a"), pod("b"), now_s=60.0)
        pages.finished = {"a": 60.0 + 120.0}
        one = scraped(server(pod("a")), reduced_s=60.5)
        found = source.measure([one], now_s=120.0)
    assert rate_rpm(found) == pytest.approx(120.0, rel=0.02)


def test_pods_that_were_all_replaced_between_two_looks_do_what_those_before_did() -> None:
    """Each rollout of few pods, also the loop's own, cost a cycle in which the server was held."""
    pages = CountedPages()
    with closing(PodMetrics(pages)) as source:
        for now_s, finished in ((0.0, 100.0), (60.0, 190.0)):
            pages.finished = {"a": finished}
            found = measured(source, pod("a"), now_s=now_s)
        pages.finished = {"b": 20.0}
        new = pod("b", since_s=80.0, created_s=70.0)
        found = measured(source, new, now_s=120.0)
        assert rate_rpm(found) == pytest.approx(90.0)
        assert found.figures["s1"].warnings == ()
        assert found.figures["s1"].age_s == pytest.approx(60.0)
        pages.finished = {"b": 140.0}
        assert rate_rpm(measured(source, new, now_s=180.0)) == pytest.approx(120.0)


def test_after_a_long_pause_old_samples_tell_nothing_of_now() -> None:
    """A loop that stood still for an hour must not act on the mean of that hour."""
    pages = CountedPages()
    pages.finished = {"a": 0.0}
    with closing(PodMetrics(pages)) as source:
        measured(source, pod("a"), now_s=0.0)
        pages.finished = {"a": 3600.0}
        assert rate_rpm(measured(source, pod("a"), now_s=3600.0)) is None


def test_a_page_that_took_long_is_of_when_it_came() -> None:
    """Stamped with the beginning of the cycle, what it counted meanwhile would be a rate too high
    now, and too low in the next cycle.
    """
    pages, elapsed = CountedPages(), iter([0.0, 0.0, 0.0, 10.0, 0.0, 0.0])
    with closing(PodMetrics(pages, clock_s=lambda: next(elapsed))) as source:
        rates = []
        for now_s, finished in ((0.0, 100.0), (60.0, 170.0), (120.0, 220.0)):
            pages.finished = {"a": finished}
            rates.append(rate_rpm(measured(source, pod("a"), now_s=now_s)))
    assert rates[1:] == pytest.approx([60.0, 60.0])


def test_looks_before_the_machine_stood_still_are_forgotten() -> None:
    """An hour in which it slept was taken for a period: 14,000 rpm for 60."""
    pages = CountedPages()
    with closing(PodMetrics(pages)) as source:
        for now_s, finished in ((0.0, 100.0), (15.0, 115.0)):
            pages.finished["a"] = finished
            found = measured(source, pod("a"), now_s=now_s)
        assert rate_rpm(found) == pytest.approx(60.0)
        source.forget()
        for now_s, finished in ((30.0, 3715.0), (45.0, 3730.0)):
            pages.finished["a"] = finished
            found = measured(source, pod("a"), now_s=now_s)
            assert rate_rpm(found) in (None, pytest.approx(60.0))
        assert rate_rpm(found) is not None


class PagesByRequest(CountedPages):
    """Pages of one engine that counts each of *more* requests between two looks by itself."""

    more = 300

    def page(self, pod: ScrapedPod, port: int) -> str:  # noqa: ARG002 all are alike
        """Return the page at its time."""
        k = int(self.now_s)
        return "vllm:num_requests_running 3\nvllm:kv_cache_usage_perc 0.5\n" + "".join(
            f'vllm:request_success_total{{request_id="{k}-{n}"}} 1\n' for n in range(self.more)
        )


def test_a_label_that_counts_by_request_tells_no_engines_apart() -> None:
    """Each value was an engine, and each was compared with each: a cycle took a minute of CPU."""
    pages = PagesByRequest()
    with closing(PodMetrics(pages)) as source:
        for k in range(4):
            pages.now_s = 15.0 * k
            found = measured(source, pod("a"), now_s=pages.now_s)
        assert rate_rpm(found) == pytest.approx(1200.0, rel=0.01)
        (shown,) = found.figures["s1"].pods.values()
        assert (shown.running, shown.engines) == (3, 1)
        pages.more = 20_001
        assert (
            "a value of its own for each request?"
            in measured(source, pod("a"), now_s=61.0).warnings[0]
        )
