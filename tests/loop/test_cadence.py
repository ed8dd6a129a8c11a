"""Periods are counted: none is run twice, none is run late, and rounding never adds up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loop.cadence import due_s, next_period

PERIODS = st.floats(min_value=0.01, max_value=1e4)


def test_a_cycle_that_overruns_skips_the_periods_it_missed() -> None:
    """A slow cycle must not be followed by a burst of late ones."""
    assert next_period(now_s=61.0, period_s=60.0, previous=1) == 2
    assert next_period(now_s=185.0, period_s=60.0, previous=1) == 4


def test_a_period_due_this_instant_is_not_missed() -> None:
    """A cycle that ends exactly when the next is due has not overrun."""
    assert next_period(now_s=120.0, period_s=60.0, previous=1) == 2


def test_an_early_wake_up_does_not_run_a_period_twice() -> None:
    """Waits may end a little early; the count, not the clock, says which cycle was run."""
    assert next_period(now_s=59.999, period_s=60.0, previous=1) == 2


def test_a_quotient_rounded_down_does_not_give_a_period_of_the_past() -> None:
    """0.7 // 0.1 is 6.0, yet 6 · 0.1 is before 0.7."""
    number = next_period(now_s=0.7, period_s=0.1, previous=0)
    assert due_s(number, period_s=0.1) >= 0.7


@given(
    now_s=st.floats(min_value=0, max_value=1e7),
    period_s=PERIODS,
    previous=st.integers(min_value=0, max_value=1000),
)
def test_the_next_period_is_the_first_one_after_the_previous_that_is_not_past(
    now_s: float, period_s: float, previous: int
) -> None:
    """The three properties together leave one answer for any clock and any period."""
    number = next_period(now_s=now_s, period_s=period_s, previous=previous)
    assert number > previous
    assert due_s(number, period_s=period_s) >= now_s
    assert number == previous + 1 or due_s(number - 1, period_s=period_s) < now_s
