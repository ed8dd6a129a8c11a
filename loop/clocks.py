"""The only readers of the machine's clocks: monotonic seconds for timing and waiting, and the date
at the start.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime


class MonotonicClock:
    """Seconds since the clock was made, *speed* times as fast as the machine's."""

    def __init__(self, *, speed: float = 1.0) -> None:
        self._speed = speed
        self._start_s = time.monotonic()

    def now_s(self) -> float:
        """Return seconds since the start; never decreases."""
        return (time.monotonic() - self._start_s) * self._speed


def date_now() -> datetime:
    """Return the date: what a loop over a real cluster counts its `ts` from."""
    return datetime.now(UTC)


def wall_s() -> float:
    """Return the date [Unix time], by the clock that people set: it may jump."""
    return time.time()
