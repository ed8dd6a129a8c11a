"""Engines that stand still with requests in them, looked at for half an hour."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from loop.backends.kube.read import scraped
from loop.signals.demand import Figures, WindowSettings, figures
from loop.signals.processes import Series
from loop.signals.series import tracks_of
from loop.signals.stills import STILL_S, Stills
from tests.loop.kube_objects import pod, server

PERIOD_S, SCRAPE_S = 60.0, 15.0
SETTINGS = WindowSettings()
OF_A_CACHE = "vllm:kv_cache_usage_perc"
FROZEN: dict[str, Callable[[float], float]] = {
    "vllm:request_success_total": lambda _: 400.0,
    "vllm:prompt_tokens_total": lambda _: 40_000.0,
    "vllm:generation_tokens_total": lambda _: 80_000.0,
    "vllm:num_requests_running": lambda _: 106.0,
    "vllm:num_requests_waiting": lambda _: 15.0,
    OF_A_CACHE: lambda _: 0.904,
}


def looked_at(shown: dict[str, Callable[[float], float]]) -> list[Figures]:
    """Return what is found each minute of half an hour of a server whose one pod has *shown* that
    by second.
    """
    one, stills, found = scraped(server(pod("a"))), Stills(), []
    name = one.pods[0].name
    for k in range(1, 31):
        now_s = PERIOD_S * k
        times_s = [now_s - 50.0 + SCRAPE_S * j for j in range(4)]
        series = [Series(metric, (), [(t, of(t)) for t in times_s]) for metric, of in shown.items()]
        stood = stills.without(one.name, {name: tracks_of(series)})
        seen = figures(one, stood.tracks, now_s=now_s, settings=SETTINGS)
        found.append(stood.told_in(seen))
    return found


def test_requests_of_clients_that_have_gone_count_for_a_quarter_of_an_hour() -> None:
    """vLLM shows the gauges of its last step until the next one. A server whose clients had all
    gone at once kept all its replicas until somebody asked each of them for something.
    """
    found = looked_at(FROZEN)
    known = [one.load is not None for one in found]
    first = known.index(True)
    assert not any(known[:first])
    assert all(known[first:])
    assert abs(PERIOD_S * first - STILL_S) <= 2 * PERIOD_S
    assert "do they hang?" in found[first - 1].warnings[0]
    (line,) = found[first].warnings
    assert line.startswith("121 requests in 1 of its pods count no more")
    load = found[first].load
    assert load is not None
    assert load.rate_rpm == 0.0
    (gauges,) = found[first].pods.values()
    assert (gauges.running, gauges.waiting, gauges.kv_usage) == (0, 0, 0.0)


@pytest.mark.parametrize(
    "moves",
    [
        {OF_A_CACHE: lambda t: 0.1 + 1e-4 * t},
        {"vllm:num_requests_running": lambda t: 106.0 - (t > 890.0)},
        {"vllm:request_success_total": lambda t: 400.0 + (t > 890.0)},
    ],
)
def test_requests_count_as_long_as_anything_moves(
    moves: dict[str, Callable[[float], float]],
) -> None:
    """An engine that counts tokens when an answer has ended works on long ones for as long, and one
    that has moved a moment ago may move again.
    """
    found = looked_at({**FROZEN, **moves})[: round(1.5 * STILL_S / PERIOD_S)]
    assert not any("count no more" in line for one in found for line in one.warnings)


def test_an_engine_that_does_not_tell_of_its_cache_may_work_on_long_answers() -> None:
    """TGI counts nothing before an answer has ended, and has no gauge of its memory."""
    found = looked_at({name: of for name, of in FROZEN.items() if name != OF_A_CACHE})
    assert all(one.load is None for one in found)
