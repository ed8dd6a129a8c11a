"""Engines that crash again and again within a window: the requests that are read are those that
came, or their number is unknown and that is told. A counter that has begun anew may show more than
the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.backends.kube.read import scraped
from loop.signals.demand import Figures, WindowSettings, figures
from loop.signals.pods import ScrapedPod, ScrapedServer
from loop.signals.processes import Series
from loop.signals.series import tracks_of
from tests.loop.kube_objects import Json, date, pod, server

RPS, SERVICE_S, FIRST_S = 2.0, 6.0, 0.2  # of each request: when it ends, and when it begins to
SCRAPE_S, WINDOW_S = 15.0, 60.0
SETTINGS = WindowSettings(window_s=WINDOW_S, stale_s=WINDOW_S)

Lives = Sequence[tuple[float, float]]  # from when to when a process ran


def lives(runs_s: Sequence[float], *, down_s: float, now_s: float) -> Lives:
    """Return processes that ran for so long each, one after the other until *now_s*."""
    found, end_s = list[tuple[float, float]](), now_s
    for run_s in reversed(runs_s):
        found.append((end_s - run_s, end_s))
        end_s -= run_s + down_s
    return found[::-1]


def told(ran: Lives, *, phase_s: float, now_s: float, births: bool = False) -> list[Series]:
    """Return what scrapes found, of processes that got RPS requests a second while they ran."""
    points: dict[str, list[tuple[float, float]]] = {}
    for k in range(int(WINDOW_S / SCRAPE_S)):
        t_s = now_s - phase_s - SCRAPE_S * (int(WINDOW_S / SCRAPE_S) - 1 - k)
        for begin_s, end_s in ran:
            if not begin_s <= t_s < end_s:
                continue
            came = [n / RPS for n in range(int(RPS * (t_s - begin_s)))]
            ended = sum(begin_s + at_s + SERVICE_S <= t_s for at_s in came)
            firsts = sum(begin_s + at_s + FIRST_S <= t_s for at_s in came)
            shown: dict[str, float] = {
                "vllm:request_success_total": ended,
                "vllm:time_to_first_token_seconds_count": firsts,
                "vllm:prompt_tokens_total": 100 * firsts,
                "vllm:generation_tokens_total": 200 * ended,
                "vllm:num_requests_running": len(came) - ended,
                "vllm:num_requests_waiting": 0,
            }
            if births:
                shown["process_start_time_seconds"] = begin_s
            for name, value in shown.items():
                points.setdefault(name, []).append((t_s, float(value)))
    return [Series(name, (), of) for name, of in points.items()]


def seen(series: Sequence[Series], ran: Lives, *, now_s: float, restarts: bool = True) -> Figures:
    """Return the figures of a server of one pod; *restarts*: its latest ones are known."""
    one = ScrapedPod(
        name="chat-5d9c7b6f4d-abcde",
        namespace="infer",
        phase="ready",
        since_s=ran[0][0],
        created_s=ran[0][0],
        restarts_s=tuple(begin_s for begin_s, _ in ran[-2:]) if restarts else (),
    )
    chat = ScrapedServer(name="chat", namespace="infer", workload="chat", pods=(one,))
    tracks = {one.name: tracks_of(series, restarts_s=one.restarts_s)}
    return figures(chat, tracks, now_s=now_s, settings=SETTINGS)


@given(
    st.lists(st.floats(8.0, 90.0), min_size=12, max_size=12),
    st.floats(1.0, 20.0),
    st.floats(0.0, 14.0),
    st.booleans(),
)
def test_what_is_read_of_a_crash_loop_is_what_came_or_nothing(
    runs_s: list[float], down_s: float, phase_s: float, births: bool
) -> None:
    """0.05 to 1.6 of it were read: growth over a restart that no counter showed, and processes that
    were taken for several by turns.
    """
    ran = lives(runs_s, down_s=down_s, now_s=1000.0)
    series = told(ran, phase_s=phase_s, now_s=1000.0, births=births)
    found = seen(series, ran, now_s=1000.0, restarts=not births)
    if found.load is not None:
        assert found.load.rate_rpm == pytest.approx(60.0 * RPS, rel=0.12)


def test_an_engine_that_restarts_in_each_scrape_is_unknown_and_told() -> None:
    """Its counters rise all the time, as if nearly nothing came."""
    ran = lives([8.0, 8.5, 9.0, 9.5, 10.0, 10.5], down_s=4.0, now_s=1000.0)
    series = told(ran, phase_s=1.0, now_s=1000.0)
    found = seen(series, ran, now_s=1000.0)
    assert found.load is None
    assert "does it crash again and again?" in found.warnings[0]


def test_counters_that_fall_at_every_other_scrape_for_no_known_reason_tell_no_rate() -> None:
    """Something in the container begins its engine anew: between two falls it may have done so."""
    times_s = [955.0, 970.0, 985.0, 1000.0]
    counts = [40.0, 28.0, 20.0, 10.0]
    names = ("vllm:request_success_total", "vllm:time_to_first_token_seconds_count")
    series = [Series(name, (), list(zip(times_s, counts, strict=True))) for name in names]
    (track,) = tracks_of(series)
    assert (track.restarts, track.alive_s) == (3, 0.0)


def test_requests_that_ran_before_a_restart_are_no_first_tokens_after_it() -> None:
    """An engine that had 12 running and has begun anew with none seemed to get 12 more: up to half
    as much again was read for a window.
    """
    ran = lives([200.0, 45.0], down_s=2.0, now_s=1000.0)
    found = seen(told(ran, phase_s=1.0, now_s=1000.0), ran, now_s=1000.0)
    assert found.load is not None
    assert found.load.rate_rpm == pytest.approx(60.0 * RPS, rel=0.05)


def came_again(*containers: str, count: int) -> Json:
    """Return a pod whose containers each have come up again at 70 s, and before at 20 s."""
    one = pod("a", spec={"containers": [{"name": name} for name in containers]})
    one["status"]["containerStatuses"] = [
        {
            "name": name,
            "restartCount": count,
            "state": {"running": {"startedAt": date(70)}},
            "lastState": {"terminated": {"startedAt": date(20), "finishedAt": date(50)}},
        }
        for name in containers
    ]
    return one


def test_the_cluster_tells_when_an_engine_has_begun() -> None:
    """Of several containers nobody knows whose restart it is; and few pods have had any."""
    (known,) = scraped(server(came_again("vllm", count=3))).pods
    assert sorted(known.restarts_s) == [20.0, 70.0]
    for one in (came_again("a", "b", count=3), came_again("vllm", count=0), pod("a")):
        (known,) = scraped(server(one)).pods
        assert known.restarts_s == ()
