"""The scores of a run: which requests count, how servers weigh, minutes, goodput, tokens per
second.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.columns import Columns, Window, scored_window
from experiments.requests import Block, requests_of
from experiments.scores import cut_at, score_requests
from experiments.scores.minutes import minute_edges_s, minute_table, token_rates
from loop.spec import PercentileTarget, SloTarget
from tests.experiments.request_rows import columns, failed, finished, rejected, unfinished

TTFT = SloTarget(model="m", slo_ttft_ms=1000.0)
WINDOW = Window(start_s=60.0, end_s=300.0)


def block(rows: Columns) -> Block:
    """Return the requests of one server as its block."""
    return next(requests_of(rows).blocks(1))


def good(server: int, arrival_s: float, *, out: int = 11) -> dict[str, float]:
    """Return a request well within target."""
    return finished(server, arrival_s, ttft_s=0.5, itl_s=0.01, out=out)


def late(server: int, arrival_s: float) -> dict[str, float]:
    """Return a request whose first token came after 2 s."""
    return finished(server, arrival_s, ttft_s=2.0, itl_s=0.01, out=11)


@pytest.mark.parametrize(
    ("duration_s", "start_s"), [(7200.0, 600.0), (3000.0, 600.0), (1000.0, 200.0), (60.0, 12.0)]
)
def test_the_warm_up_is_ten_minutes_or_a_fifth_of_a_shorter_run(
    duration_s: float, start_s: float
) -> None:
    """The pods of t = 0 face a load that the policy has not seen; that is not what is asked."""
    assert scored_window(duration_s) == Window(start_s=start_s, end_s=duration_s)


def test_a_scenario_may_say_from_when_on_it_is_scored() -> None:
    """Bursts of three hours are scored from the second; cut to half an hour, as any run is."""
    assert scored_window(10800.0, warm_up_s=3600.0).start_s == 3600.0
    assert scored_window(1800.0, warm_up_s=3600.0) == scored_window(1800.0)


def test_requests_of_the_warm_up_are_not_scored() -> None:
    """A request counts by its arrival: late in the warm-up is out, on the first instant after it is
    in.
    """
    overall, _ = score_requests(
        columns([late(0, 59.9), good(0, 60.0)]), names=["a"], targets=[TTFT], window=WINDOW
    )
    assert (overall["requests"], overall["attainment"]) == (1, 1.0)


def test_overall_attainment_is_weighted_by_requests_and_the_mean_over_servers_beside_it() -> None:
    """A small server in trouble hides in the first figure and shows in the second."""
    rows = [good(0, 100.0 + i) for i in range(9)] + [late(1, 100.0)]
    overall, servers = score_requests(
        columns(rows), names=["a", "b"], targets=[TTFT, TTFT], window=WINDOW
    )
    assert overall["attainment"] == pytest.approx(0.9)
    assert overall["attainment_mean_servers"] == pytest.approx(0.5)
    assert (servers["a"]["attainment"], servers["b"]["attainment"]) == (1.0, 0.0)


def test_a_server_without_targets_is_reported_but_not_in_the_overall_attainment() -> None:
    """Else a free class would buy any policy a good score."""
    rows = [late(0, 100.0), good(1, 100.0), good(1, 101.0)]
    overall, servers = score_requests(
        columns(rows), names=["a", "free"], targets=[TTFT, None], window=WINDOW
    )
    assert (
        overall["attainment"],
        overall["attainment_mean_servers"],
        overall["minute_attainment"],
    ) == (0.0, 0.0, 0.0)
    assert servers["free"]["requests"] == 2
    assert overall["requests"] == 3


def test_a_request_that_cannot_be_judged_is_left_out_and_counted() -> None:
    """Left out of numerator and denominator, but never out of sight."""
    rows = [good(0, 100.0), unfinished(0, 299.5, out=10), unfinished(0, 200.0, out=10)]
    overall, _ = score_requests(columns(rows), names=["a"], targets=[TTFT], window=WINDOW)
    assert (overall["met"], overall["missed"], overall["left_out"], overall["unfinished"]) == (
        1,
        1,
        1,
        2,
    )
    assert overall["attainment"] == 0.5
    assert overall["waiting"] == 1  # the other has run, if too late


def test_a_minute_is_met_when_its_means_are_within_target() -> None:
    """One slow request among fast ones does not spoil a minute; a minute without arrivals is not
    counted.
    """
    rows = [
        good(0, 61.0),
        good(0, 62.0),
        finished(0, 63.0, ttft_s=1.9, itl_s=0.01, out=5),
        late(0, 185.0),
    ]
    overall, _ = score_requests(columns(rows), names=["a"], targets=[TTFT], window=WINDOW)
    assert overall["minute_attainment"] == pytest.approx(1 / 2)
    assert overall["attainment"] == pytest.approx(2 / 4)


@pytest.mark.parametrize("lost", [rejected(0, 70.0), failed(0, 70.0)])
def test_a_minute_that_lost_a_request_is_missed(lost: dict[str, float]) -> None:
    """Means over those that were served would praise a server for turning the others away."""
    overall, _ = score_requests(
        columns([good(0, 65.0), lost]), names=["a"], targets=[TTFT], window=WINDOW
    )
    assert overall["minute_attainment"] == 0.0


def test_goodput_counts_met_requests_and_their_output_tokens() -> None:
    """Per second of the scored window, so that runs of different lengths compare."""
    rows = [good(0, 100.0, out=24), good(0, 110.0, out=24), late(0, 120.0)]
    overall, _ = score_requests(columns(rows), names=["a"], targets=[TTFT], window=WINDOW)
    assert overall["goodput_rps"] == pytest.approx(2 / 240)
    assert overall["goodput_tps"] == pytest.approx(48 / 240)


def test_percentiles_are_of_finished_requests_and_none_when_there_are_none() -> None:
    """An absent figure is None, not zero."""
    rows = [finished(0, 100.0 + i, ttft_s=(i + 1) / 100, itl_s=0.01, out=2) for i in range(100)] + [
        rejected(0, 250.0)
    ]
    overall, servers = score_requests(
        columns(rows), names=["a", "idle"], targets=[TTFT, TTFT], window=WINDOW
    )
    assert overall["ttft_ms_p50"] == pytest.approx(505.0)
    assert overall["ttft_ms_p99"] == pytest.approx(990.1)
    assert overall["itl_ms_p95"] == pytest.approx(10.0)
    assert servers["idle"]["ttft_ms_p50"] is None
    assert servers["idle"]["attainment"] is None


def test_minutes_keep_to_the_clock_and_are_cut_by_the_window() -> None:
    """A warm-up of 72 s cuts the second minute; its rate is over what is left of it."""
    window = Window(start_s=72.0, end_s=200.0)
    assert minute_edges_s(window).tolist() == [72.0, 120.0, 180.0, 200.0]
    table = minute_table(columns([good(0, 100.0), good(0, 110.0)]), [TTFT], window)
    assert table.rate_rpm[0].tolist() == pytest.approx([2 / 0.8, 0.0, 0.0])


def test_a_throughput_target_is_missed_where_neither_target_nor_demand_is_made() -> None:
    """Demand below the target asks for the demand only; a server that keeps its requests waiting
    misses.
    """
    target = SloTarget(model="m", slo_tps=10.0)
    arrivals_s = [60.0 * minute + second for minute in range(5) for second in range(0, 60, 20)]
    steady = [good(0, arrival_s, out=100) for arrival_s in arrivals_s]
    overall, _ = score_requests(columns(steady), names=["a"], targets=[target], window=WINDOW)
    assert (overall["minute_attainment"], overall["attainment"]) == (1.0, 1.0)

    # Served one after another, each takes 40 s: half of what is demanded is made.
    queued = [
        finished(0, arrival_s, ttft_s=20.0 * number, itl_s=0.4, out=100)
        for number, arrival_s in enumerate(arrivals_s)
    ]
    overall, _ = score_requests(columns(queued), names=["a"], targets=[target], window=WINDOW)
    assert (overall["minute_attainment"], overall["attainment"]) == (0.0, 0.0)

    modest = SloTarget(model="m", slo_tps=2.0)
    overall, _ = score_requests(columns(queued), names=["a"], targets=[modest], window=WINDOW)
    assert (overall["minute_attainment"], overall["attainment"]) == (1.0, 1.0)


def test_the_chance_of_arrivals_is_no_miss_of_a_throughput_target() -> None:
    """Without any queue the tokens come seconds after their arrival, in the next minute for some:
    that is no miss.
    """
    rng = np.random.default_rng(3)
    arrivals_s = np.sort(rng.uniform(0.0, 3600.0, 1800))
    rows = [
        finished(0, t, ttft_s=0.1, itl_s=0.03, out=int(rng.integers(500, 1500)))
        for t in arrivals_s.tolist()
    ]
    target = SloTarget(model="m", slo_tps=1e6)
    window = Window(start_s=600.0, end_s=3600.0)
    overall, _ = score_requests(columns(rows), names=["a"], targets=[target], window=window)
    assert overall["minute_attainment"] == 1.0


def test_tokens_of_an_unfinished_request_count_as_far_as_it_made_them() -> None:
    """The last minute of a run is full of them; what they demanded began at their arrival, at their
    pace.
    """
    rows = columns([unfinished(0, 100.0, first_s=110.0, out=1000, generated=41)])
    made, demanded = token_rates(block(rows), Window(start_s=0.0, end_s=150.0))
    lengths = np.array([60.0, 60.0, 30.0])
    assert (made[0] * lengths).tolist() == pytest.approx([0.0, 11.0, 30.0])
    assert (demanded[0] * lengths).tolist() == pytest.approx([0.0, 21.0, 30.0])


@given(
    st.lists(st.floats(0.0, 1e6), min_size=1, max_size=60),
    st.lists(st.floats(0.0, 100.0), min_size=1, max_size=5),
)
def test_cuts_are_the_percentiles_of_numpy(values: list[float], percentiles: list[float]) -> None:
    """To the last bit."""
    expected = np.percentile(values, percentiles).tolist()
    assert cut_at(np.array(values), percentiles) == expected


def test_whoever_was_not_served_demanded_tokens_all_the_same() -> None:
    """Rejected requests demand at the usual pace; where nobody was ever served, all at once."""
    window = Window(start_s=0.0, end_s=120.0)
    lengths = np.array([60.0, 60.0])
    _, demanded = token_rates(block(columns([rejected(0, 10.0, out=30)])), window)
    assert (demanded[0] * lengths).tolist() == pytest.approx([30.0, 0.0])
    paced = finished(0, 0.0, ttft_s=0.5, itl_s=1.0, out=11)
    _, demanded = token_rates(block(columns([paced, rejected(0, 50.0, out=30)])), window)
    assert (demanded[0] * lengths).tolist() == pytest.approx([11.0 + 11.0, 19.0])


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 250.0),
            st.floats(0.001, 20.0),
            st.floats(0.0001, 1.0),
            st.integers(1, 60),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_every_output_token_is_made_in_some_minute(
    draws: list[tuple[float, float, float, int]],
) -> None:
    """The closed form of steps and ramps must conserve tokens, whatever the overlaps."""
    rows = columns([finished(0, a, ttft_s=ttft, itl_s=itl, out=out) for a, ttft, itl, out in draws])
    window = Window(start_s=0.0, end_s=500.0)
    made, _ = token_rates(block(rows), window)
    assert (made >= -1e-9).all()
    total = float((made[0] * np.diff(minute_edges_s(window))).sum())
    assert total == pytest.approx(sum(out for *_, out in draws), rel=1e-9)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([good, late, rejected, failed]),
            st.integers(0, 2),
            st.floats(0.0, 299.9),
        )
    )
)
def test_every_scored_request_is_met_missed_or_left_out_once(
    draws: list[tuple[object, int, float]],
) -> None:
    """The parts add up, per server and overall."""
    rows = columns([make(server, arrival_s) for make, server, arrival_s in draws])  # type: ignore[operator]
    targets = [TTFT, SloTarget(model="m", slo_itl_ms=5.0), TTFT]
    overall, servers = score_requests(rows, names=["a", "b", "c"], targets=targets, window=WINDOW)
    scored = sum(60.0 <= arrival_s < 300.0 for _, _, arrival_s in draws)
    for scores in (overall, *servers.values()):
        assert scores["met"] + scores["missed"] + scores["left_out"] == scores["requests"]
    assert overall["requests"] == scored == sum(scores["requests"] for scores in servers.values())


@pytest.mark.parametrize(
    ("slow", "of", "met"), [(1, 20, 1.0), (2, 20, 0.0), (1, 19, 0.0), (5, 100, 1.0), (6, 100, 0.0)]
)
def test_a_minute_meets_a_percentile_target_if_95_of_100_requests_do(
    slow: int, of: int, met: float
) -> None:
    """Means forgive a few very late requests as little as they notice many that are a little late;
    a target of a service is one on a percentile.
    """
    rows = [late(0, 70.0 + 0.1 * i) for i in range(slow)]
    rows += [good(0, 80.0 + 0.1 * i) for i in range(of - slow)]
    overall, servers = score_requests(columns(rows), names=["a"], targets=[TTFT], window=WINDOW)
    assert overall["minute_attainment_p95"] == servers["a"]["minute_attainment_p95"] == met
    assert overall["minute_attainment"] == 1.0


def test_lost_requests_are_late_ones_for_a_percentile_target() -> None:
    """One in twenty may be, two may not."""
    for lost, met in ((1, 1.0), (2, 0.0)):
        rows = [rejected(0, 70.0 + i) for i in range(lost)]
        rows += [good(0, 80.0 + i) for i in range(20 - lost)]
        overall, _ = score_requests(columns(rows), names=["a"], targets=[TTFT], window=WINDOW)
        assert overall["minute_attainment_p95"] == met


def test_end_to_end_times_and_the_ninetieth_percentile_are_scored() -> None:
    """What a client waits for in all."""
    rows = [finished(0, 70.0 + i, ttft_s=0.5, itl_s=0.01 * (i + 1), out=11) for i in range(11)]
    overall, _ = score_requests(columns(rows), names=["a"], targets=[TTFT], window=WINDOW)
    assert overall["e2e_ms_mean"] == pytest.approx(500.0 + 600.0)
    assert overall["e2e_ms_p90"] == pytest.approx(500.0 + 1000.0)
    assert overall["itl_ms_p90"] == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("percentile", "limit_ms", "met"), [(50, 500.0, 1.0), (90, 500.0, 0.0), (90, 2500.0, 1.0)]
)
def test_a_minute_is_held_to_the_percentile_that_its_target_names(
    percentile: float, limit_ms: float, met: float
) -> None:
    """Who agreed on a median is not to be scored by the slowest request of a minute."""
    bound = PercentileTarget(latency="ttft", percentile=percentile, limit_ms=limit_ms)
    target = SloTarget(model="m", slo_ttft_ms=1.0, percentiles=(bound,))
    rows = [good(0, second) for second in (61.0, 62.0, 63.0)] + [late(0, 64.0)]
    window = Window(start_s=60.0, end_s=120.0)
    overall, _ = score_requests(columns(rows), names=["a"], targets=[target], window=window)
    assert overall["minute_attainment_p95"] == met
    alone = replace(target, slo_ttft_ms=0.0)
    _, servers = score_requests(columns(rows), names=["a"], targets=[alone], window=window)
    assert servers["a"]["minute_attainment_p95"] == met
