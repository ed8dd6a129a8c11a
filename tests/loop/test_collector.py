"""What is estimated of a reading with gaps: a missing figure holds a server, and never passes for
no load.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.collector import CollectorSettings, Estimates, Reading, collect, collect_again
from loop.replacing import replace
from loop.testing.fakes import server_view
from loop.types import Load, ServerView, Snapshot, Views, known_older, only_older

PLAIN = CollectorSettings()
KNOWN = Load(rate_rpm=60.0, in_tokens=500.0, out_tokens=200.0)


def read(
    *views: ServerView, estimates: Estimates | None = None, settings: CollectorSettings = PLAIN
) -> Reading:
    """Return what the collector makes of *views*."""
    seen = Snapshot(now_s=60.0, servers={view.name: view for view in views})
    return collect(seen, estimates or {}, settings=settings)


def estimated(view: ServerView, *, estimates: Estimates | None = None) -> Load | None:
    """Return the load estimated of the one server *view*."""
    return read(view, estimates=estimates).snapshot.servers[view.name].load


def test_a_whole_reading_is_estimated_as_it_is() -> None:
    """Without a gap and without smoothing the collector must add nothing of its own, not even a
    rounding error.
    """
    load = Load(rate_rpm=0.1 + 0.2, in_tokens=511.3, out_tokens=77.7)
    assert estimated(server_view(load=load), estimates={"s1": KNOWN}) == load


def test_a_reading_without_a_load_stays_unknown() -> None:
    """None means that nobody measured: the policy holds the server, it does not scale it to
    zero.
    """
    reading = read(server_view(load=None), estimates={"s1": KNOWN})
    assert reading.snapshot.servers["s1"].load is None
    assert reading.estimates == {"s1": KNOWN}, "a gap must not make forget"


@pytest.mark.parametrize("figure", [math.nan, math.inf, -1.0, 1e13, 1e300])
@pytest.mark.parametrize("field", ["rate_rpm", "in_tokens", "out_tokens"])
def test_an_impossible_figure_is_no_load_and_is_told(field: str, figure: float) -> None:
    """0/0 in a query is NaN: arithmetic on it would spread through all servers of the optimizer."""
    load = Load(**{"rate_rpm": 60.0, "in_tokens": 500.0, "out_tokens": 200.0, field: figure})
    reading = read(server_view(load=load))
    assert reading.snapshot.servers["s1"].load is None
    assert len(reading.warnings) == 1
    assert reading.warnings[0].startswith("s1:")


def test_a_server_with_a_gap_does_not_touch_the_others() -> None:
    """One unknown server must not stop the control of all."""
    reading = read(server_view("s1", load=None), server_view("s2", load=KNOWN))
    assert reading.snapshot.servers["s2"].load == KNOWN


def test_a_sum_over_some_pods_is_scaled_up_to_all_ready_ones() -> None:
    """Five ready pods of which three report carry five thirds of the sum; taken as it is, it made
    loops oscillate.
    """
    load = estimated(server_view(ready=5, reporting=3, load=KNOWN))
    assert load is not None
    assert load.rate_rpm == pytest.approx(100.0)
    assert load.out_tokens == 200.0, "a mean is no sum"


def test_the_same_reading_again_is_scaled_by_the_pods_that_are_ready_now() -> None:
    """Nothing new was measured, but further pods have become ready; and nothing is kept of it."""
    load = Load(rate_rpm=90.0, in_tokens=500.0, out_tokens=100.0)
    first = read(server_view(load=load, wanted=4, ready=2, reporting=2))
    again = read(server_view(load=load, wanted=4, ready=4, reporting=2), estimates=first.estimates)
    found = again.snapshot.servers["s1"]
    assert first.snapshot.servers["s1"].load is load
    assert found.load == Load(rate_rpm=180.0, in_tokens=500.0, out_tokens=100.0)
    assert found.load_source.endswith("scaled to all ready pods")


def test_a_sum_over_no_pod_is_unknown_and_not_zero() -> None:
    """Ready pods that do not report are missing data, not idle ones."""
    silent = Load(rate_rpm=0.0, in_tokens=0.0, out_tokens=0.0)
    reading = read(server_view(ready=2, reporting=0, load=silent))
    assert reading.snapshot.servers["s1"].load is None
    assert "none of 2 ready pods" in reading.warnings[0]


def test_no_pods_and_no_arrivals_are_no_load() -> None:
    """A server scaled to zero that nobody asks for is known to be idle."""
    idle = Load(rate_rpm=0.0, in_tokens=0.0, out_tokens=0.0)
    assert estimated(server_view(wanted=0, ready=0, reporting=0, load=idle)) == idle


def test_tokens_that_nobody_counted_yet_are_those_estimated_before() -> None:
    """With every pod gone nothing finishes, so nobody knows the length of outputs; requests still
    come in.
    """
    load = estimated(
        server_view(load=Load(rate_rpm=90.0, in_tokens=480.0, out_tokens=0.0)),
        estimates={"s1": KNOWN},
    )
    assert load == Load(rate_rpm=90.0, in_tokens=480.0, out_tokens=200.0)


def test_requests_whose_tokens_were_never_counted_are_an_unknown_load() -> None:
    """Sizing for outputs of no tokens would give one replica to any rate."""
    reading = read(server_view(load=Load(rate_rpm=90.0, in_tokens=480.0, out_tokens=0.0)))
    assert reading.snapshot.servers["s1"].load is None
    assert "tokens" in reading.warnings[0]


def test_tokens_never_counted_are_those_that_the_data_expect() -> None:
    """A server that starts from nothing must be sized before its first request has finished."""
    view = server_view(load=Load(rate_rpm=90.0, in_tokens=480.0, out_tokens=0.0))
    seen = Snapshot(now_s=60.0, servers={"s1": view})
    reading = collect(seen, {}, settings=PLAIN, expected={"s1": KNOWN})
    assert reading.snapshot.servers["s1"].load == Load(
        rate_rpm=90.0, in_tokens=480.0, out_tokens=200.0
    )
    again = collect(
        seen,
        {"s1": Load(rate_rpm=1.0, in_tokens=1.0, out_tokens=7.0)},
        settings=PLAIN,
        expected={"s1": KNOWN},
    )
    assert again.estimates["s1"].out_tokens == 7.0, (
        "what was measured once is better than what a file expects"
    )


def test_an_idle_server_keeps_the_tokens_it_is_known_for() -> None:
    """When requests come back, the first reading has a rate and no finished output."""
    load = estimated(
        server_view(load=Load(rate_rpm=0.0, in_tokens=0.0, out_tokens=0.0)), estimates={"s1": KNOWN}
    )
    assert load == Load(rate_rpm=0.0, in_tokens=500.0, out_tokens=200.0)


def test_an_older_look_is_read_as_the_last_one_was() -> None:
    """Of a load that is off for a while the tokens are carried over in each cycle: a loop that
    looks every second decided anew about all servers each time, on the same figures.
    """
    off = Load(rate_rpm=0.0, in_tokens=0.0, out_tokens=0.0)
    part = server_view("part", load=KNOWN, ready=3, reporting=2)
    views = [server_view("off", load=off), part, server_view("whole", load=KNOWN)]
    first = Views({one.name: one for one in views}, since=object())
    last = seen = Snapshot(now_s=60.0, servers=first)
    expected = {"off": KNOWN}
    reading = collect(seen, {}, settings=PLAIN, expected=expected)
    for age_s in (1.0, 2.0):
        older = {name: replace(one, load_age_s=age_s) for name, one in first.items()}
        now = replace(seen, now_s=60.0 + age_s, servers=Views(older, since=first.since))
        again = collect_again(now, last, reading)
        assert again == collect(now, reading.estimates, settings=PLAIN, expected=expected)
        assert known_older(again.snapshot.servers, reading.snapshot.servers)
        for name, one in again.snapshot.servers.items():
            assert one.load_age_s == age_s
            assert only_older(one, reading.snapshot.servers[name])
        last, reading = now, again


@given(
    rates=st.lists(
        st.floats(min_value=0.0, max_value=1e5, allow_subnormal=False), min_size=1, max_size=20
    ),
    smoothing=st.floats(min_value=0.05, max_value=1.0),
)
def test_a_smoothed_rate_stays_within_what_was_seen(rates: list[float], smoothing: float) -> None:
    """An exponential mean never leaves the range of its inputs; the first reading starts it."""
    estimates: Estimates = {}
    for rate in rates:
        load = Load(rate_rpm=rate, in_tokens=500.0, out_tokens=200.0)
        estimates = read(
            server_view(load=load),
            estimates=estimates,
            settings=CollectorSettings(smoothing=smoothing),
        ).estimates
    assert min(rates) * (1 - 1e-12) <= estimates["s1"].rate_rpm <= max(rates) * (1 + 1e-12)


def test_tokens_are_not_smoothed_with_what_was_never_known() -> None:
    """A mean with the 0 of "not counted" would halve the first real reading."""
    load = Load(rate_rpm=10.0, in_tokens=500.0, out_tokens=200.0)
    estimates = {"s1": Load(rate_rpm=0.0, in_tokens=0.0, out_tokens=0.0)}
    reading = read(
        server_view(load=load), estimates=estimates, settings=CollectorSettings(smoothing=0.5)
    )
    assert reading.snapshot.servers["s1"].load == Load(
        rate_rpm=5.0, in_tokens=500.0, out_tokens=200.0
    )


@pytest.mark.parametrize("smoothing", [0.0, -0.5, 1.5, math.nan])
def test_a_weight_that_is_none_is_refused(smoothing: float) -> None:
    """A weight of 0 would never estimate anything new."""
    with pytest.raises(AssertionError, match="smoothing"):
        CollectorSettings(smoothing=smoothing)
