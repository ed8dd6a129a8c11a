"""The only readers of the machine's clocks: monotonic seconds for timing and waiting, and the date
at the start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loop.ports import Clock

STEP_TOLD_S = 2.0  # a clock that is kept right moves by less between two cycles


# Linux has a clock that goes on while the machine sleeps: the world does, and others count on it
# that who leads has not renewed a Lease.
_ASLEEP_TOO = getattr(time, "CLOCK_BOOTTIME", None)


class MonotonicClock:
    """Seconds since the clock was made, *speed* times as fast as the machine's."""

    def __init__(self, *, speed: float = 1.0) -> None:
        self._speed = speed
        self._start_s = machine_s()

    def now_s(self) -> float:
        """Return seconds since the start; never decreases."""
        return (machine_s() - self._start_s) * self._speed


def machine_s() -> float:
    """Return seconds that never decrease, those included that the machine slept if it tells."""
    return time.monotonic() if _ASLEEP_TOO is None else time.clock_gettime(_ASLEEP_TOO)


def date_now() -> datetime:
    """Return the date: what a loop over a real cluster counts its `ts` from."""
    return datetime.now(UTC)


def wall_s() -> float:
    """Return the date [Unix time], by the clock that people set: it may jump."""
    return time.time()


class WallEpoch:
    """The date of second 0 of *clock*, by the clock that people set.

    The two come apart when a machine sleeps or its clock is set. Dates that were counted from the
    start would be wrong from then on, and so would the ages of all that others have dated.
    """

    def __init__(self, clock: Clock, *, wall_s: Callable[[], float] = wall_s) -> None:
        self._clock = clock
        self._wall_s = wall_s
        self._date_s = wall_s() - clock.now_s()

    @property
    def date(self) -> datetime:
        """Return the date of second 0 as of the latest comparison."""
        return datetime.fromtimestamp(self._date_s, UTC)

    def compare(self) -> str:
        """Count from where the clock of the machine stands now; return what to tell if it has
        moved.
        """
        date_s = self._wall_s() - self._clock.now_s()
        step_s, self._date_s = date_s - self._date_s, date_s
        if abs(step_s) < STEP_TOLD_S:
            return ""
        side = "ahead of" if step_s > 0 else "behind"
        return (
            f"the clock of this machine is {abs(step_s):.0f} s {side} where it should be: it was "
            "set, or the machine slept; dates are counted from it anew"
        )
