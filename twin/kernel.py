"""Calls at exact instants of a SimPy environment, and the order of what happens at the same
instant.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappush

import simpy
from simpy.events import EventPriority

# Control actions come first, then arrivals see their effect, then replicas step, then the scraper
# looks.
CONTROL, ARRIVAL, BOUNDARY, SCRAPE = (EventPriority(number) for number in range(4))


class Call(simpy.Event):
    """An action that runs once at *at_s* to the last digit (now if that is past), unless it is
    cancelled before.
    """

    def __init__(
        self,
        env: simpy.Environment,
        *,
        at_s: float,
        priority: EventPriority,
        action: Callable[[], None],
    ) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None
        self._action: Callable[[], None] | None = action
        self.callbacks.append(Call._run)
        schedule_at(env, self, at_s=max(at_s, env.now), priority=priority)

    def cancel(self) -> None:
        """Make this call do nothing when its instant comes; harmless when it has run."""
        self._action = None

    @staticmethod
    def _run(call: simpy.Event) -> None:
        assert isinstance(call, Call)
        action, call._action = call._action, None
        if action is not None:
            action()


def schedule_at(
    env: simpy.Environment, event: simpy.Event, *, at_s: float, priority: EventPriority
) -> None:
    """Have *event*, which has its value, processed at exactly *at_s* >= now.

    Environment.schedule takes a delay, and now + (at - now) is rounded: some instants are met by no
    delay at all. One digit off, a tie of a drain end and an arrival would become an order that
    depends on when this was called.
    """
    assert at_s >= env.now, f"cannot schedule at {at_s}: it is {env.now}"
    heappush(env._queue, (at_s, priority, next(env._eid), event))
