"""The clocks of the machine, the only ones that a test cannot move."""

from __future__ import annotations

import time
from datetime import UTC

from loop.clocks import MonotonicClock, date_now


def test_a_fast_clock_runs_ahead_of_the_machine_by_its_speed() -> None:
    """--speed 1000: what the machine takes is multiplied, from 0 at the clock's start."""
    before_s = time.monotonic()
    clock = MonotonicClock(speed=1000.0)
    first_s = clock.now_s()
    while time.monotonic() - before_s < 0.002:
        assert clock.now_s() >= first_s, "a clock never goes back"
    second_s = clock.now_s()
    after_s = time.monotonic()
    assert 0.0 <= first_s < second_s
    assert second_s <= 1000.0 * (after_s - before_s)


def test_the_date_has_a_zone() -> None:
    """Records carry UTC: a date without a zone would be read as local time."""
    assert date_now().tzinfo is UTC
