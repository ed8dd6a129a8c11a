"""What waits for the next cycle: a SimPy process in virtual time, or an actor that also serves
/invoke.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from loop.actors import Actor, Mailbox, Waiter
from loop.cadence import due_s, next_period
from twin.kernel import CONTROL, at

if TYPE_CHECKING:
    import simpy

    from loop.ports import Clock, Cycles, Inbox, Request
    from loop.types import CycleRecord, Mode, Trigger

PERIODS_MAX, STEP_MIN_S = 3, 5.0  # a step may take so many periods, or so long if that is more

OnRecord = Callable[["CycleRecord"], None]


class SimDriver:
    """Runs the controller in virtual time: cycle n at n · period_s; never, when period_s is 0.

    Records go to *on_record* as they come, and unless told not to *keep* them into `records`.
    *advance* is called before each cycle: what the world does up to then is no time of the cycle.
    An error of the programmer ends the run.
    """

    def __init__(
        self,
        env: simpy.Environment,
        controller: Cycles,
        *,
        period_s: float,
        on_record: OnRecord | None = None,
        keep: bool = True,
        advance: Callable[[], None] | None = None,
    ) -> None:
        self.records: list[CycleRecord] = []
        self._advance = advance
        self._keep = keep
        self._cycles = 0
        self._env = env
        self._controller = controller
        self._period_s = period_s
        self._report = on_record or _keep_quiet
        if period_s > 0:
            self._await_cycle()

    def _await_cycle(self) -> None:
        due = due_s(self._cycles + 1, period_s=self._period_s)
        at(self._env, due, priority=CONTROL, action=self._cycle)

    def _cycle(self) -> None:
        if self._advance is not None:
            self._advance()
        record = self._controller.cycle(self._env.now)
        self._cycles += 1
        if self._keep:
            self.records.append(record)
        self._report(record)
        self._await_cycle()


class LiveDriver(Actor["Request"]):
    """Runs the controller as time passes: in its own thread (start), or in the caller's (run).

    *clock* has the time of the world, *speed* times as fast as that of *inbox*. *advance* brings a
    simulated world to a time; it is called before each cycle and, between cycles, at least every
    *wait_s_max* of the inbox's seconds.

    A cycle that overruns skips the periods it missed, and one on request does not move the grid.
    Errors of the programmer are recorded as failed cycles, and the driver goes on. Each record goes
    to *keep* and then to *on_record*; what they cannot do with it is a warning in it.
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
        wait_s_max: float = 1.0,
        keep: OnRecord | None = None,
        on_record: OnRecord | None = None,
    ) -> None:
        super().__init__(inbox, name="controller")
        self.last: CycleRecord | None = None  # the latest record
        self._controller = controller
        self._period_s = period_s
        self._clock = clock
        self._speed = speed
        self._advance = advance or _stand_still
        self._wait_s_max = wait_s_max
        self._keep = keep or _keep_quiet
        self._report = on_record or _keep_quiet
        self._began_s: float | None = None  # the step in progress, if one is
        self._number: int | None = None  # of the period that is next; None: none is

    @property
    def overdue(self) -> str:
        """Return a line if the step in progress takes too long, else nothing. For any thread."""
        began_s = self._began_s
        if began_s is None:
            return ""
        took_s = self._clock.now_s() - began_s
        bound_s = max(PERIODS_MAX * self._period_s, STEP_MIN_S * self._speed)
        if took_s <= bound_s:
            return ""
        return f"a cycle has taken {took_s:.0f} s and goes on; expected at most {bound_s:.0f} s"

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

    def _timeout_s(self) -> float:
        """Wait until the next period, and not too long for the world."""
        left_s = self._left_s()
        return (
            self._wait_s_max
            if left_s is None
            else min(max(0.0, left_s / self._speed), self._wait_s_max)
        )

    def _step(self, asked: Sequence[Request]) -> None:
        """Run the one cycle that is due or that all of *asked* share; only let the world pass if
        there is none.
        """
        self._began_s = self._clock.now_s()
        try:
            self._cycle_or_pass(asked)
        finally:
            self._began_s = None

    def _cycle_or_pass(self, asked: Sequence[Request]) -> None:
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
        self._began_s = None  # whoever has the answer may ask at once whether a cycle goes on
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
        """Report *record*, and return it with what went wrong in that: a full disk neither ends the
        control of the world, nor makes a failure of a cycle that went through.
        """
        for report in (self._keep, self._report):
            try:
                report(record)
            except Exception as error:
                line = f"the record was not reported: {type(error).__name__}: {error}"
                record = record.warned("report", [line])
        self.failures = self.failures + 1 if record.failed else 0
        self.last = record
        return record


def _keep_quiet(_record: CycleRecord) -> None:
    """Report to nobody."""


def _stand_still(_now_s: float) -> None:
    """Leave alone a world whose time passes by itself."""


class Invocation(Waiter["CycleRecord"]):
    """A request for a cycle."""

    def __init__(self, mode: Mode) -> None:
        super().__init__()
        self.mode = mode


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
