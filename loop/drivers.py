"""Who waits for the next cycle: a SimPy process in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Generator
from heapq import heappush
from itertools import count
from typing import Any

import simpy

from loop.cadence import due_s
from loop.controller import Controller
from loop.types import CycleRecord

CONTROL_PRIORITY = 0  # before the arrivals, replica boundaries and scrapes of the same instant


class SimDriver:
    """Runs the controller in virtual time: cycle n at n · period_s; never, when period_s is 0.

    Records go to *on_record* as they come, and into `records`. An error of the programmer ends the run.
    """

    def __init__(
        self,
        env: simpy.Environment,
        controller: Controller,
        *,
        period_s: float,
        on_record: Callable[[CycleRecord], None] | None = None,
    ) -> None:
        self.records: list[CycleRecord] = []
        self._env = env
        self._controller = controller
        self._period_s = period_s
        self._report = on_record or (lambda _record: None)
        if period_s > 0:
            env.process(self._run())

    def _run(self) -> Generator[simpy.Event, None, None]:
        for number in count(1):
            yield _at(self._env, due_s(number, period_s=self._period_s))
            self.records.append(self._controller.cycle(self._env.now))
            self._report(self.records[-1])


def _at(env: simpy.Environment, time_s: float) -> simpy.Event:
    """Return an event of control priority at exactly *time_s*.

    A Timeout has a lower priority, and Environment.schedule takes a delay: now + (time - now) is not always the time.
    """
    event = env.event()
    kernel: Any = env
    armed: Any = event
    armed._ok, armed._value = True, None
    heappush(kernel._queue, (max(time_s, env.now), CONTROL_PRIORITY, next(kernel._eid), event))
    return event
