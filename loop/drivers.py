"""Who waits and who owns: a SimPy process in virtual time, or a thread with an inbox that alone
touches its world.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from loop.cadence import due_s, next_period
from loop.errors import InboxFullError, StoppedError
from twin.kernel import CONTROL, at

if TYPE_CHECKING:
    import simpy

    from loop.ports import Asked, Clock, Cycles, Inbox, Request
    from loop.types import CycleRecord, Mode, Trigger

FAILURES_READY_MAX = 2  # failed steps in a row that a ready actor may have

OnRecord = Callable[["CycleRecord"], None]
Answer = TypeVar("Answer")
Kind = TypeVar("Kind", bound="Asked")


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


class Actor(ABC, Generic[Kind]):
    """Owns a world: one thread does what comes into its inbox, and lets time pass in between.

    Nobody else touches that world, so it needs no lock. No step can end the thread: an exception
    makes a failed step, those who wait for it are told, and the next step is tried. The thread does
    not keep a program alive, so no step can hold up its end.
    """

    def __init__(self, inbox: Inbox[Kind], *, name: str) -> None:
        self.failures = 0  # failed steps in a row
        self._inbox = inbox
        self._name = name
        self._doing: Sequence[Kind] = ()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Tell whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def healthy(self) -> bool:
        """Tell whether one of the last three steps went through, or there were not yet three."""
        return self.failures <= FAILURES_READY_MAX

    def start(self) -> None:
        """Run in a thread, unless it was started already: several services may share one actor."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self.run, name=self._name, daemon=True)
                self._thread.start()

    def stop(self, *, timeout_s: float = 0.4) -> bool:
        """Refuse what waits, give the step in progress *timeout_s*, and then tell those who wait
        for it; it goes on. Tell whether the thread has ended.

        The default leaves room for the rest of a service to end within a second.
        """
        self._inbox.close()
        if self._thread is not None:
            self._thread.join(timeout_s)
        for asked in self._doing:
            asked.refuse(
                StoppedError("the service is stopping, and the world has not answered yet")
            )
        return not self.alive

    def run(self) -> None:
        """Do steps in the caller's thread until the inbox is closed."""
        while not self._inbox.closed:
            taken = self._inbox.wait(self._patience_s())
            if self._inbox.closed and not taken:
                return
            self._doing = [asked for asked in taken if asked.begin()]
            try:
                self._step(self._doing)
            except Exception as error:
                self.failures += 1
                for asked in self._doing:
                    asked.refuse(error)
            self._doing = ()

    @abstractmethod
    def _patience_s(self) -> float | None:
        """Return how long the inbox may wait [s]; None: until somebody asks."""

    @abstractmethod
    def _step(self, asked: Sequence[Kind]) -> None:
        """Do what *asked* wants, nothing if it is empty, and answer. Count or clear `failures`."""


class Owner(Actor["Act"]):
    """Does what it is asked, one act after the other.

    *advance* brings a simulated world to the present: before every act, and at least every
    *patience_s*. What goes wrong with time itself is told to whoever asks next.
    """

    def __init__(
        self,
        *,
        advance: Callable[[], object] | None = None,
        patience_s: float = 1.0,
        size_max: int = 16,
    ) -> None:
        # One at a time: what is taken from the inbox no longer counts as waiting.
        self._acts = Mailbox[Act](size_max=size_max, taken_max=1)
        super().__init__(self._acts, name="owner")
        self._advance = advance
        self._patience = patience_s if advance else None

    @property
    def waiting(self) -> int:
        """Return how many acts wait."""
        return len(self._acts)

    def ask(self, act: Callable[[], Answer]) -> Future[Answer]:
        """Let *act* be done; its answer, or what it raises, is that of the future.

        Raise InboxFullError or StoppedError. An act that is cancelled before it begins is never
        done.
        """
        asked = Act(act)
        self._acts.put(asked)
        return asked.future

    def _patience_s(self) -> float | None:
        return self._patience

    def _step(self, asked: Sequence[Act]) -> None:
        if self._advance is not None:
            self._advance()
        self.failures = 0
        for act in asked:
            act.do()


class LiveDriver(Actor["Request"]):
    """Runs the controller as time passes: in its own thread (start), or in the caller's (run).

    *clock* has the time of the world, *speed* times as fast as that of *inbox*. *advance* brings a
    simulated world to a time; it is called before each cycle and, between cycles, at least every
    *patience_s* of the inbox's seconds.

    A cycle that overruns skips the periods it missed, and one on request does not move the grid.
    Errors of the programmer are recorded as failed cycles, and the driver goes on.
    """

    def __init__(
        self,
        controller: Cycles,
        *,
        period_s: float,
        clock: Clock,
        inbox: Inbox[Request],
        speed: float = 1.0,
        advance: Callable[[float], None] | None = None,
        patience_s: float = 1.0,
        on_record: OnRecord | None = None,
    ) -> None:
        super().__init__(inbox, name="controller")
        self.last: CycleRecord | None = None  # the latest record
        self._controller = controller
        self._period_s = period_s
        self._clock = clock
        self._speed = speed
        self._advance = advance or _stand_still
        self._patience = patience_s
        self._report = on_record or _keep_quiet
        self._number: int | None = None  # of the period that is next; None: none is

    def run(self) -> None:
        """Run cycles until the inbox is closed."""
        self._number = self._next(previous=0)
        super().run()

    def _next(self, *, previous: int) -> int | None:
        if self._period_s == 0:
            return None
        return next_period(now_s=self._clock.now_s(), period_s=self._period_s, previous=previous)

    def _left_s(self) -> float | None:
        """Return the seconds of the world until the next period is due, None if there is none."""
        if self._number is None:
            return None
        return due_s(self._number, period_s=self._period_s) - self._clock.now_s()

    def _patience_s(self) -> float:
        """Wait until the next period, and not too long for the world."""
        left_s = self._left_s()
        return (
            self._patience
            if left_s is None
            else min(max(0.0, left_s / self._speed), self._patience)
        )

    def _step(self, asked: Sequence[Request]) -> None:
        """Run the one cycle that is due or that all of *asked* share; only let the world pass if
        there is none.
        """
        left_s = self._left_s()
        due = left_s is not None and left_s <= 0.0
        if not asked and not due:
            self._guarded(self._advance, trigger="period", mode=None)
            return
        # Who asks for advice only gets the record of a cycle that acts, if another one wants that
        # at the same time.
        mode: Mode | None = (
            None if due or any(request.mode == "act" for request in asked) else "advise"
        )
        trigger: Trigger = "period" if due else "invoke"

        def cycle(now_s: float) -> CycleRecord:
            self._advance(now_s)
            return self._controller.cycle(now_s, trigger=trigger, mode=mode)

        record = self._guarded(cycle, trigger=trigger, mode=mode)
        assert record is not None
        for request in asked:
            request.answer(record)
        if self._number is not None:
            self._number = self._next(previous=self._number if due else self._number - 1)

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
        self.failures = self.failures + 1 if record.failed else 0
        self.last = record
        return record


def _keep_quiet(_record: CycleRecord) -> None:
    """Report to nobody."""


def _stand_still(_now_s: float) -> None:
    """Leave alone a world whose time passes by itself."""


class Waiter(Generic[Answer]):
    """Somebody who waits; the answer is the result of `future`, which may be cancelled."""

    def __init__(self) -> None:
        self.future: Future[Answer] = Future()

    def begin(self) -> bool:
        """Tell that it is done now. False: nobody waits any more."""
        return self.future.set_running_or_notify_cancel()

    def answer(self, answer: Answer) -> None:
        """Hand over the answer; too late if it was refused meanwhile."""
        with suppress(InvalidStateError):
            self.future.set_result(answer)

    def refuse(self, error: Exception) -> None:
        """Tell why there is no answer, unless there is one."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)


class Act(Waiter[Any]):
    """Something that its owner is asked to do."""

    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__()
        self._act = act

    def do(self) -> None:
        """Do it; what it raises is for who asked."""
        try:
            self.answer(self._act())
        except Exception as error:
            self.refuse(error)


class Invocation(Waiter["CycleRecord"]):
    """A request for a cycle."""

    def __init__(self, mode: Mode) -> None:
        super().__init__()
        self.mode = mode


Left = TypeVar("Left", bound=Waiter[Any])


class Mailbox(Generic[Left]):
    """Where other threads ask, and the thread of an actor waits: at most *size_max* requests at a
    time, of which it takes *taken_max* at once.
    """

    def __init__(self, *, size_max: int, taken_max: int | None = None) -> None:
        self._size_max = size_max
        self._taken_max = taken_max
        self._waiting: deque[Left] = deque()
        self._closed = False
        self._changed = threading.Condition()

    @property
    def closed(self) -> bool:
        """Tell whether the actor is to stop."""
        return self._closed

    def __len__(self) -> int:
        """Return how many requests wait."""
        with self._changed:
            return len(self._waiting)

    def put(self, request: Left) -> None:
        """Let *request* wait; its answer may be StoppedError. Raise InboxFullError or
        StoppedError.
        """
        with self._changed:
            if self._closed:
                raise StoppedError("the service is stopping")
            # Who has gone away meanwhile must not keep others out.
            self._waiting = deque(one for one in self._waiting if not one.future.cancelled())
            if len(self._waiting) >= self._size_max:
                raise InboxFullError(f"{self._size_max} requests wait already")
            self._waiting.append(request)
            self._changed.notify_all()

    def wait(self, timeout_s: float | None) -> Sequence[Left]:
        """Wait for requests for at most *timeout_s*; take those that are next."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, timeout_s)
            count_taken = min(len(self._waiting), self._taken_max or len(self._waiting))
            return [self._waiting.popleft() for _ in range(count_taken)]

    def close(self) -> None:
        """Wake the actor for its end, and tell those who wait that nothing will be done."""
        with self._changed:
            self._closed = True
            left, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        for request in left:
            if request.begin():
                request.refuse(StoppedError("the service is stopping"))


class ThreadInbox(Mailbox[Invocation]):
    """The mailbox of a live driver, which takes all requests at once: they share one cycle."""

    def __init__(self, *, size_max: int = 64) -> None:
        super().__init__(size_max=size_max)

    def ask(self, mode: Mode = "act") -> Future[CycleRecord]:
        """Ask for a cycle. Raise InboxFullError or StoppedError; the answer may be StoppedError
        too.
        """
        invocation = Invocation(mode)
        self.put(invocation)
        return invocation.future
