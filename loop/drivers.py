"""Who waits for the next cycle: a SimPy process in virtual time, or a thread with an inbox that
also serves /invoke.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from loop.cadence import due_s, next_period
from loop.errors import InboxFullError, StoppedError
from twin.kernel import CONTROL, at

if TYPE_CHECKING:
    import simpy

    from loop.ports import Clock, Cycles, Inbox, Request
    from loop.types import CycleRecord, Mode, Trigger

FAILURES_READY_MAX = 2  # failed cycles in a row that a ready loop may have

OnRecord = Callable[["CycleRecord"], None]


class SimDriver:
    """Runs the controller in virtual time: cycle n at n · period_s; never, when period_s is 0.

    Records go to *on_record* as they come, and into `records`. An error of the programmer ends the
    run.
    """

    def __init__(
        self,
        env: simpy.Environment,
        controller: Cycles,
        *,
        period_s: float,
        on_record: OnRecord | None = None,
    ) -> None:
        self.records: list[CycleRecord] = []
        self._env = env
        self._controller = controller
        self._period_s = period_s
        self._report = on_record or _keep_quiet
        if period_s > 0:
            self._await_cycle()

    def _await_cycle(self) -> None:
        due = due_s(len(self.records) + 1, period_s=self._period_s)
        at(self._env, due, priority=CONTROL, action=self._cycle)

    def _cycle(self) -> None:
        self.records.append(self._controller.cycle(self._env.now))
        self._report(self.records[-1])
        self._await_cycle()


class LiveDriver:
    """Runs the controller as time passes: in its own thread (start), or in the caller's (run).

    *clock* has the time of the world, *speed* times as fast as that of *inbox*. *advance* brings a
    simulated world to a time; it is called before each cycle and, between cycles, at least every
    *patience_s* of the inbox's seconds. Nobody but this thread touches the controller and its
    world, so neither needs a lock.

    Errors of the programmer are recorded as failed cycles, and the driver goes on.
    """

    def __init__(
        self,
        controller: Cycles,
        *,
        period_s: float,
        clock: Clock,
        inbox: Inbox,
        speed: float = 1.0,
        advance: Callable[[float], None] | None = None,
        patience_s: float = 1.0,
        on_record: OnRecord | None = None,
    ) -> None:
        self._controller = controller
        self._period_s = period_s
        self._clock = clock
        self._inbox = inbox
        self._speed = speed
        self._advance = advance or _stand_still
        self._patience_s = patience_s
        self._report = on_record or _keep_quiet
        self.last: CycleRecord | None = None  # the latest record
        self._failures = 0
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Tell whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def healthy(self) -> bool:
        """Tell whether one of the last three cycles went through, or there were not yet three."""
        return self._failures <= FAILURES_READY_MAX

    def start(self) -> None:
        """Run in a thread of its own, which does not keep a program alive."""
        assert self._thread is None, "a driver is started once"
        self._thread = threading.Thread(target=self.run, name="controller", daemon=True)
        self._thread.start()

    def stop(self, *, timeout_s: float = 0.3) -> bool:
        """Close the inbox and wait for a cycle in progress; tell whether the thread has ended.

        The default leaves room for the rest of a service to end within a second.
        """
        self._inbox.close()
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self.alive

    def run(self) -> None:
        """Run cycles until the inbox is closed.

        A cycle that overruns skips the periods it missed, and one on request does not move the
        grid.
        """
        number = self._next(previous=0)
        while not self._inbox.closed:
            requests = self._inbox.wait(self._patience(number))
            if self._inbox.closed and not requests:
                return
            due = (
                number is not None and due_s(number, period_s=self._period_s) <= self._clock.now_s()
            )
            if self._serve(requests, due=due) and number is not None:
                number = self._next(previous=number if due else number - 1)

    def _next(self, *, previous: int) -> int | None:
        if self._period_s == 0:
            return None
        return next_period(now_s=self._clock.now_s(), period_s=self._period_s, previous=previous)

    def _patience(self, number: int | None) -> float:
        """Return how long to wait at most [s of the inbox]: until the next period, and not too long
        for the world.
        """
        if number is None:
            return self._patience_s
        left_s = due_s(number, period_s=self._period_s) - self._clock.now_s()
        return min(max(0.0, left_s / self._speed), self._patience_s)

    def _serve(self, requests: Sequence[Request], *, due: bool) -> bool:
        """Run the one cycle that is due or that *requests* share; only let the world pass when
        there is none.
        """
        waiting = [request for request in requests if request.begin()]
        if not waiting and not due:
            self._guarded(self._advance, trigger="period", mode=None)
            return False
        # Who asks for advice only gets the record of a cycle that acts, where another one wants
        # that at the same time.
        mode: Mode | None = (
            None if due or any(request.mode == "act" for request in waiting) else "advise"
        )
        trigger: Trigger = "period" if due else "invoke"

        def cycle(now_s: float) -> CycleRecord:
            self._advance(now_s)
            return self._controller.cycle(now_s, trigger=trigger, mode=mode)

        record = self._guarded(cycle, trigger=trigger, mode=mode)
        assert record is not None
        for request in waiting:
            request.answer(record)
        return True

    def _guarded(
        self, act: Callable[[float], CycleRecord | None], *, trigger: Trigger, mode: Mode | None
    ) -> CycleRecord | None:
        """Do *act* and report its record, if it has one; an error of the programmer makes a failed
        cycle of it.
        """
        now_s = self._clock.now_s()
        try:
            record = act(now_s)
        except Exception as error:
            record = self._controller.failure(now_s, error=error, trigger=trigger, mode=mode)
        return None if record is None else self._reported(record)

    def _reported(self, record: CycleRecord) -> CycleRecord:
        """Report *record*; a report that fails (a full disk) must not end the control of the
        world.
        """
        try:
            self._report(record)
        except Exception as error:
            record = self._controller.failure(
                record.now_s, error=error, trigger=record.trigger, mode=record.mode
            )
        self._failures = self._failures + 1 if record.failed else 0
        self.last = record
        return record


def _keep_quiet(_record: CycleRecord) -> None:
    """Report to nobody."""


def _stand_still(_now_s: float) -> None:
    """Leave alone a world whose time passes by itself."""


class Invocation:
    """A request for a cycle; its answer is the result of `future`."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.future: Future[CycleRecord] = Future()

    def begin(self) -> bool:
        """Tell that its cycle begins. False: it was cancelled meanwhile."""
        return self.future.set_running_or_notify_cancel()

    def answer(self, record: CycleRecord) -> None:
        """Hand over the record of its cycle."""
        self.future.set_result(record)


class ThreadInbox:
    """Where other threads ask for a cycle, and the driver's thread waits: at most *size_max*
    requests at a time.
    """

    def __init__(self, *, size_max: int = 64) -> None:
        self._size_max = size_max
        self._requests: list[Invocation] = []
        self._closed = False
        self._changed = threading.Condition()

    @property
    def closed(self) -> bool:
        """Tell whether the driver is to stop."""
        return self._closed

    def __len__(self) -> int:
        """Return how many requests wait."""
        with self._changed:
            return len(self._requests)

    def ask(self, mode: Mode = "act") -> Future[CycleRecord]:
        """Ask for a cycle. Raise InboxFullError or StoppedError; the answer may be StoppedError
        too.
        """
        invocation = Invocation(mode)
        with self._changed:
            if self._closed:
                raise StoppedError("the controller is stopping")
            # Who has gone away meanwhile must not keep others out.
            self._requests = [
                request for request in self._requests if not request.future.cancelled()
            ]
            if len(self._requests) >= self._size_max:
                raise InboxFullError(f"{self._size_max} requests for a cycle wait already")
            self._requests.append(invocation)
            self._changed.notify_all()
        return invocation.future

    def wait(self, timeout_s: float) -> Sequence[Invocation]:
        """Wait for requests for at most *timeout_s*; take all there are."""
        with self._changed:
            self._changed.wait_for(lambda: self._requests or self._closed, timeout_s)
            taken, self._requests = self._requests, []
        return taken

    def close(self) -> None:
        """Wake the driver for its end, and tell those who wait that there will be no cycle."""
        with self._changed:
            self._closed = True
            left, self._requests = self._requests, []
            self._changed.notify_all()
        for request in left:
            if request.begin():
                request.future.set_exception(StoppedError("the controller is stopping"))
