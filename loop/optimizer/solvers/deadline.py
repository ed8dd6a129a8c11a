"""How long a solver may look: seconds of a clock that is handed in, as nobody here reads one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """The instant *end_s* of the clock *now_s*, *limit_s* after whoever looks began."""

    limit_s: float
    end_s: float
    now_s: Callable[[], float]

    @property
    def left_s(self) -> float:
        """Return the seconds until then, 0 if it has passed."""
        return max(self.end_s - self.now_s(), 0.0)


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """At most *limit_s* seconds of the clock *now_s*: of CPU, if it counts that."""

    limit_s: float
    now_s: Callable[[], float]

    def begin(self) -> Deadline:
        """Return the end of a search that begins now."""
        return Deadline(self.limit_s, self.now_s() + self.limit_s, self.now_s)
