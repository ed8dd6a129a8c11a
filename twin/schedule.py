"""Calls at exact instants of a SimPy environment, and the order of what happens at the same instant."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nextafter

import simpy
from simpy.events import EventPriority

# Control actions come first, then arrivals see their effect, then replicas step, then the scraper looks.
CONTROL, ARRIVAL, BOUNDARY, SCRAPE = (EventPriority(number) for number in range(4))


class Call(simpy.Event):
    """An action that runs once at *at_s*, unless it is cancelled before.

    One event without a process or a generator; *at_s* is kept to the last digit, so that ties stay ties.
    """

    def __init__(
        self, env: simpy.Environment, *, at_s: float, priority: EventPriority, action: Callable[[], None]
    ) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None
        self._action: Callable[[], None] | None = action
        self.callbacks.append(Call._run)
        env.schedule(self, priority, delay_until(at_s, now_s=env.now))

    def cancel(self) -> None:
        """Make this call do nothing when its instant comes; harmless when it has run."""
        self._action = None

    @staticmethod
    def _run(call: simpy.Event) -> None:
        assert isinstance(call, Call)
        action, call._action = call._action, None
        if action is not None:
            action()


def delay_until(at_s: float, *, now_s: float) -> float:
    """Return the delay for which now_s + delay is *at_s* to the last digit; 0 when that instant is past.

    SimPy schedules by delay, and now + (at - now) may miss *at* by one digit, which would turn a tie into an order.
    """
    delay_s = max(at_s - now_s, 0.0)
    while now_s + delay_s < at_s:
        delay_s = nextafter(delay_s, inf)
    while now_s + delay_s > at_s and delay_s > 0.0:
        delay_s = nextafter(delay_s, 0.0)
    return delay_s
