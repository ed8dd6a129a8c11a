"""Dates as objects carry them, and ages as kubectl prints them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400


class Dates:
    """The calendar of a world that began at *start* and whose time, told by *now_s*, runs *speed*
    times as fast.

    Dates are those of the machine, not of the world: who looks from outside compares them with its
    own clock.
    """

    def __init__(self, start: datetime, *, speed: float, now_s: Callable[[], float]) -> None:
        self._start = start
        self._speed = speed
        self._now_s = now_s

    def at(self, t_s: float) -> datetime:
        """Return the date of *t_s* of the world."""
        return self._start + timedelta(seconds=t_s / self._speed)

    def now(self) -> datetime:
        """Return the date of its present."""
        return self.at(self._now_s())

    def text_at(self, t_s: float) -> str:
        """Return the date of *t_s* as objects carry it."""
        return date_text(self.at(t_s))

    def text(self, *, after_s: float = 0.0) -> str:
        """Return the present date, or one so many seconds of the machine later, as objects carry
        it.
        """
        return date_text(self.now() + timedelta(seconds=after_s))


def date_text(date: datetime) -> str:
    """Return *date* to the second, in UTC."""
    return date.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parsed_date(text: str) -> datetime:
    """Return the date that *text* says."""
    return datetime.fromisoformat(text)


def age(then: str | None, now: datetime) -> str:
    """Return how long ago *then* was, as kubectl says it: 5s, 2m30s, 47m, 3h5m, 2d, 1y20d."""
    if not then:
        return "<unknown>"
    return duration_text(now - parsed_date(then))


def duration_text(duration: timedelta) -> str:
    """Return *duration* in the two units that matter, and in one where the second does not."""
    seconds = int(duration.total_seconds())
    if seconds < 0:
        return "0s" if seconds > -2 else "<invalid>"
    if seconds < 2 * _MINUTE:
        return f"{seconds}s"
    if seconds < 10 * _MINUTE:
        return _two(seconds, _MINUTE, "m", 1, "s")
    if seconds < 3 * _HOUR:
        return f"{seconds // _MINUTE}m"
    if seconds < 8 * _HOUR:
        return _two(seconds, _HOUR, "h", _MINUTE, "m")
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR}h"
    if seconds < 8 * _DAY:
        return _two(seconds, _DAY, "d", _HOUR, "h")
    if seconds < 2 * _YEAR:
        return f"{seconds // _DAY}d"
    return _two(seconds, _YEAR, "y", _DAY, "d")


def _two(seconds: int, large: int, large_name: str, small: int, small_name: str) -> str:
    rest = seconds % large // small
    return f"{seconds // large}{large_name}" + (f"{rest}{small_name}" if rest else "")
