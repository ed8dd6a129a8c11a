"""Calls at exact instants of a SimPy environment, and the order of what happens at the same one.

Only this file touches SimPy's queue.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappush

import simpy
from simpy.events import EventPriority

# At one instant the load and the world move first, so that a controller sees the offered load of
# the interval that begins. Then come control actions, arrivals see their effect, replicas step, and
# the scraper looks last.
LOAD, CONTROL, ARRIVAL, BOUNDARY, SCRAPE = (EventPriority(number) for number in range(-1, 4))

Action = Callable[[], None]


def at(env: simpy.Environment, time_s: float, *, priority: EventPriority, action: Action) -> Call:
    """Have *action* run once at *time_s* to the last digit, or now if that is past.

    Return the call: it can be cancelled, and env.run(until=call) stops after it.
    """
    return Call(env, max(time_s, env.now), priority, action)


class Call(simpy.Event):
    """An action that waits for its instant; made by `at`."""

    def __init__(
        self, env: simpy.Environment, time_s: float, priority: EventPriority, action: Action
    ) -> None:
        super().__init__(env)
        self._action: Action | None = action
        # Not a bound method: the event would hold itself, and every call would wait for the garbage
        # collector.
        self.callbacks.append(Call._run)
        _push(env, self, time_s, priority)

    def cancel(self) -> None:
        """Make this call do nothing when its instant comes; harmless when it has run."""
        # The event stays in the queue: taking it out of the heap would cost a walk over it.
        self._action = None

    @staticmethod
    def _run(call: simpy.Event) -> None:
        assert isinstance(call, Call)
        action, call._action = call._action, None
        if action is not None:
            action()


class Alarm(simpy.Event):
    """An action that runs at one instant after another, one set at a time.

    All its instants share one event: SimPy has let go of it when the action runs. A new event an
    arrival would be the dearest part of the feeding of a request.
    """

    def __init__(self, env: simpy.Environment, *, priority: EventPriority, action: Action) -> None:
        super().__init__(env)
        self._priority = priority
        # SimPy reads the list of callbacks and drops it; it never changes it, so one serves always.
        self._callbacks: list[Callable[[simpy.Event], None]] = [lambda _: action()]

    def set(self, time_s: float) -> None:
        """Have the action run at exactly *time_s* >= now; it must not be set already."""
        self.callbacks = self._callbacks
        _push(self.env, self, time_s, self._priority)


def _push(
    env: simpy.Environment, event: simpy.Event, time_s: float, priority: EventPriority
) -> None:
    """Have *event* processed at exactly *time_s* >= now.

    Environment.schedule takes a delay, and now + (time - now) is rounded: some instants are met by
    no delay at all. One digit off, a tie of a drain end and an arrival would become an order that
    depends on when this was called.
    """
    assert time_s >= env.now, f"cannot schedule at {time_s}: it is {env.now}"
    # SimPy only runs the callbacks of an event that has its value.
    event._ok, event._value = True, None
    heappush(env._queue, (time_s, priority, next(env._eid), event))
