"""The clocks of the machine, the only ones that a test cannot move."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from loop.clocks import MonotonicClock, WallEpoch, date_now
from loop.testing.fakes import ManualClock


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


def test_a_date_is_counted_anew_when_the_clock_of_the_machine_moves() -> None:
    """After a suspend the loop would else ask for the past for ever."""
    clock, wall = ManualClock(), ManualClock()
    wall.time_s = 1_000_000.0
    epoch = WallEpoch(clock, wall_s=wall.now_s)
    assert epoch.date == datetime.fromtimestamp(1_000_000.0, UTC)
    clock.time_s, wall.time_s = 60.0, 1_000_060.5
    assert epoch.compare() == ""
    clock.time_s, wall.time_s = 120.0, 1_003_720.0
    assert "3600 s ahead of where it should be" in epoch.compare()
    assert epoch.date == datetime.fromtimestamp(1_003_600.0, UTC)
    assert epoch.compare() == ""
    wall.time_s -= 3600.0
    assert "3600 s behind" in epoch.compare()
