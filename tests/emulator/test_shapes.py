"""Claims about emulator.shapes: curves of a multiplier over time."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.shapes import DAY_S, Curve, burst, constant, diurnal, ramp, steps


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    gaps = draw(st.lists(st.sampled_from([0.0, 0.1, 1.0, 7.5, 60.0]), max_size=8))
    values = draw(st.lists(st.floats(0.0, 10.0), min_size=len(gaps) + 1, max_size=len(gaps) + 1))
    times = [0.0]
    for gap in gaps:
        times.append(times[-1] + gap)
    return Curve(
        tuple(zip(times, values, strict=True)), repeat=draw(st.booleans()) and times[-1] > 0.0
    )


@given(curve=curves(), t0_s=st.floats(0.0, 1000.0), length_s=st.floats(1e-3, 200.0))
def test_segments_tile_the_time_asked_for(curve: Curve, t0_s: float, length_s: float):
    """A gap between two segments would swallow arrivals, an overlap would double them."""
    t1_s = t0_s + length_s
    pieces = curve.segments(t0_s, t1_s)
    assert pieces[0].t0_s == t0_s
    assert pieces[-1].t1_s == t1_s
    assert all(before.t1_s == after.t0_s for before, after in pairwise(pieces))
    assert all(piece.t0_s < piece.t1_s for piece in pieces)


@given(
    curve=curves(),
    t0_s=st.floats(0.0, 1000.0),
    length_s=st.floats(1e-3, 200.0),
    part=st.floats(0.01, 0.99),
)
def test_where_the_time_is_cut_does_not_change_the_area(
    curve: Curve, t0_s: float, length_s: float, part: float
):
    """The cumulated rate is what the arrivals come from."""
    t1_s, middle_s = t0_s + length_s, t0_s + part * length_s
    whole = curve.mean(t0_s, t1_s) * (t1_s - t0_s)
    if t0_s < middle_s < t1_s:
        parts = curve.mean(t0_s, middle_s) * (middle_s - t0_s) + curve.mean(middle_s, t1_s) * (
            t1_s - middle_s
        )
        assert parts == pytest.approx(whole, rel=1e-9, abs=1e-9)


@given(curve=curves(), t_s=st.floats(0.0, 1000.0))
def test_a_value_is_the_start_of_the_segment_there(curve: Curve, t_s: float):
    """The offered load of an interval and the rate within it must agree at the interval's start."""
    assert curve.at(t_s) == curve.segments(t_s, t_s + 1.0)[0].start


def test_the_constant_curve_is_one():
    """The default of every server."""
    assert constant().at(1e6) == 1.0
    assert constant().mean(3.0, 5000.0) == 1.0


def test_a_ramp_climbs_holds_and_comes_back():
    """×5 and back in thirty minutes."""
    curve = ramp(factor=5.0, start_s=900.0, up_s=900.0, hold_s=60.0, down_s=900.0)
    seen = [
        curve.at(t) for t in (0.0, 900.0, 1350.0, 1800.0, 1830.0, 1860.0, 2310.0, 2760.0, 9999.0)
    ]
    assert seen == pytest.approx([1, 1, 3, 5, 5, 5, 3, 1, 1])


def test_a_jump_has_its_new_value_at_its_instant():
    """A step at 600 s belongs to the interval that begins at 600 s."""
    curve = steps([(600.0, 2.0), (1200.0, 0.0)])
    assert [curve.at(t) for t in (599.999, 600.0, 1199.999, 1200.0)] == [1.0, 2.0, 2.0, 0.0]
    assert [(s.t0_s, s.t1_s, s.start, s.end) for s in curve.segments(590.0, 610.0)] == [
        (590.0, 600.0, 1.0, 1.0),
        (600.0, 610.0, 2.0, 2.0),
    ]


@pytest.mark.parametrize("cycle", [0, 1, 7, 1000])
def test_a_burst_comes_again_every_period(cycle: int):
    """Jumps are placed by counting periods: the thousandth burst is as sharp as the first."""
    curve = burst(factor=4.0, start_s=0.3, length_s=0.1, every_s=0.7)
    base_s = cycle * 0.7
    assert curve.mean(base_s, base_s + 0.7) == pytest.approx(1.0 + 3.0 / 7.0, rel=1e-9)
    values = {
        (piece.start, piece.end)
        for piece in curve.segments(base_s, base_s + 0.7)
        if piece.t1_s - piece.t0_s > 1e-9
    }
    assert values == {(1.0, 1.0), (4.0, 4.0)}


def test_a_burst_without_a_period_comes_once():
    """A flash crowd."""
    curve = burst(factor=4.0, start_s=100.0, length_s=10.0)
    assert [curve.at(t) for t in (99.0, 100.0, 109.9, 110.0, 5000.0)] == [1.0, 4.0, 4.0, 1.0, 1.0]


@pytest.mark.parametrize("compression", [1.0, 24.0, 7.0])
def test_a_day_is_a_cosine_with_its_top_at_the_peak_hour(compression: float):
    """Smooth, the same every day, mean between low and high; compressed, only faster."""
    curve = diurnal(low=0.4, high=1.6, peak_hour=15.0, start_hour=8.0, compression=compression)
    day_s = DAY_S / compression
    for hour in (0.0, 0.51, 3.33, 7.0, 12.9, 19.0, 23.99, 24.0, 31.0):
        expected = 1.0 + 0.6 * math.cos(2.0 * math.pi * (8.0 + hour - 15.0) / 24.0)
        assert curve.at(hour * day_s / 24.0) == pytest.approx(expected, abs=1e-4)
    assert curve.mean(0.0, day_s) == pytest.approx(1.0, abs=1e-9)
    assert curve.mean(0.3 * day_s, 2.3 * day_s) == pytest.approx(1.0, abs=1e-9)
