"""The live driver in virtual time: periods, requests and failures, without a thread and without a
sleep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from loop.controller import Controller
from loop.data import FixedData
from loop.drivers import LiveDriver
from loop.errors import BackendError
from loop.policies import make_policy
from loop.testing.fakes import (
    FakeBackend,
    ManualClock,
    VirtualInbox,
    VirtualRequest,
    server_view,
    system,
)
from loop.types import CycleRecord, Snapshot

Coming = Sequence[tuple[float, VirtualRequest]]


class TimedBackend(FakeBackend):
    """A world whose observe takes as long as *takes_s* says for each cycle in turn, then no
    time.
    """

    def __init__(self, clock: ManualClock, takes_s: Sequence[float] = ()) -> None:
        super().__init__([server_view()])
        self._clock = clock
        self._takes_s = list(takes_s)

    def observe(self) -> Snapshot:
        """Let the time pass, then look."""
        self._clock.time_s += self._takes_s.pop(0) if self._takes_s else 0.0
        return super().observe()


class BrokenBackend(FakeBackend):
    """A world with a bug in it for the first *times* cycles."""

    def __init__(self, *, times: int) -> None:
        super().__init__([server_view()])
        self._times = times

    def observe(self) -> Snapshot:
        """Fail as code with a bug does."""
        self._times -= 1
        if self._times >= 0:
            raise RuntimeError("a bug")
        return super().observe()


def drive(
    backend: FakeBackend,
    *,
    clock: ManualClock | None = None,
    period_s: float = 60.0,
    until_s: float,
    coming: Coming = (),
    speed: float = 1.0,
    advance: Callable[[float], None] | None = None,
) -> list[CycleRecord]:
    """Return the records of a live driver that ran from 0 to *until_s*."""
    clock = clock or ManualClock()
    records: list[CycleRecord] = []
    loop = Controller(
        backend=backend, policy=make_policy("static"), data=FixedData(system()), clock=ManualClock()
    )
    LiveDriver(
        loop,
        period_s=period_s,
        clock=clock,
        inbox=VirtualInbox(clock, until_s=until_s, coming=coming, speed=speed),
        speed=speed,
        advance=advance,
        on_record=records.append,
    ).run()
    return records


def test_cycle_n_runs_at_n_periods() -> None:
    """As in simulation: the first at one period, then on the grid, to the last digit."""
    records = drive(FakeBackend([server_view()]), period_s=0.7, until_s=7.5)
    assert [record.now_s for record in records] == [n * 0.7 for n in range(1, 11)]
    assert {record.trigger for record in records} == {"period"}


def test_a_slow_cycle_skips_the_periods_it_missed() -> None:
    """Two and a half periods in one cycle are followed by the next one on the grid, and by no
    burst.
    """
    clock = ManualClock()
    records = drive(TimedBackend(clock, [150.0]), clock=clock, until_s=400.0)
    assert [record.now_s for record in records] == [60.0, 240.0, 300.0, 360.0]


def test_a_request_runs_a_cycle_now_and_does_not_move_the_grid() -> None:
    """Periodic and requested cycles work together."""
    request = VirtualRequest()
    records = drive(FakeBackend([server_view()]), until_s=200.0, coming=[(75.0, request)])
    assert [(record.now_s, record.trigger) for record in records] == [
        (60.0, "period"),
        (75.0, "invoke"),
        (120.0, "period"),
        (180.0, "period"),
    ]
    assert request.answers == [records[1]]


def test_a_period_of_zero_runs_on_request_only() -> None:
    """The walk-through's aperiodic mode."""
    request = VirtualRequest()
    records = drive(
        FakeBackend([server_view()]), period_s=0.0, until_s=500.0, coming=[(321.0, request)]
    )
    assert [record.now_s for record in records] == [321.0]


def test_requests_that_arrive_together_share_one_cycle() -> None:
    """Ten clients must not cause ten decisions on the same state."""
    requests = [VirtualRequest() for _ in range(10)]
    records = drive(
        FakeBackend([server_view()]), until_s=59.0, coming=[(10.0, request) for request in requests]
    )
    assert len(records) == 1
    assert all(request.answers == records for request in requests)


def test_requests_during_a_cycle_share_the_following_one() -> None:
    """The cycle in progress may have looked already: it cannot answer for what happened since."""
    clock = ManualClock()
    first, second, third = VirtualRequest(), VirtualRequest(), VirtualRequest()
    records = drive(
        TimedBackend(clock, [5.0]),
        clock=clock,
        until_s=59.0,
        coming=[(10.0, first), (12.0, second), (14.0, third)],
    )
    assert [record.now_s for record in records] == [10.0, 15.0]
    assert first.answers == [records[0]]
    assert second.answers == third.answers == [records[1]]


def test_a_requested_cycle_that_overruns_skips_periods_too() -> None:
    """A cycle has just run when the missed period's turn would come."""
    clock = ManualClock()
    records = drive(
        TimedBackend(clock, [30.0]), clock=clock, until_s=130.0, coming=[(50.0, VirtualRequest())]
    )
    assert [record.now_s for record in records] == [50.0, 120.0]


def test_a_request_at_the_instant_of_a_period_shares_its_cycle() -> None:
    """One cycle is enough for both, and it counts as the period's."""
    request = VirtualRequest("advise")
    records = drive(FakeBackend([server_view()]), until_s=100.0, coming=[(60.0, request)])
    assert [(record.now_s, record.trigger, record.mode) for record in records] == [
        (60.0, "period", "act")
    ]
    assert request.answers == records


def test_a_request_for_advice_gets_advice() -> None:
    """It decides and explains, and does not act."""
    records = drive(
        FakeBackend([server_view()]), until_s=59.0, coming=[(10.0, VirtualRequest("advise"))]
    )
    assert [(record.mode, record.applied) for record in records] == [("advise", False)]


def test_advice_and_action_asked_for_together_make_one_cycle_that_acts() -> None:
    """Requests that arrive together share one cycle; the record says which mode it had."""
    coming = [(10.0, VirtualRequest("advise")), (10.0, VirtualRequest("act"))]
    records = drive(FakeBackend([server_view()]), until_s=59.0, coming=coming)
    assert [record.mode for record in records] == ["act"]


def test_a_request_that_nobody_waits_for_causes_no_cycle() -> None:
    """Its client has gone: to act now would surprise everybody."""
    assert (
        drive(
            FakeBackend([server_view()]), until_s=59.0, coming=[(10.0, VirtualRequest(gone=True))]
        )
        == []
    )


def test_a_simulated_world_is_brought_to_the_time_of_each_cycle_and_every_second_between() -> None:
    """Who looks at the twin meanwhile, a scraper say, must find it near the present."""
    seen: list[float] = []
    records = drive(FakeBackend([server_view()]), period_s=2.5, until_s=5.5, advance=seen.append)
    assert {record.now_s for record in records} <= set(seen)
    steps = [later - earlier for earlier, later in zip([0.0, *seen], seen, strict=False)]
    assert max(steps) <= 1.0
    assert min(steps) >= 0.0


def test_a_faster_world_has_its_periods_in_its_own_time() -> None:
    """At speed 20 a period of 60 s passes in three seconds of the machine, in steps of at most
    one.
    """
    clock = ManualClock()
    records: list[CycleRecord] = []
    loop = Controller(
        backend=FakeBackend([]),
        policy=make_policy("static"),
        data=FixedData(system()),
        clock=ManualClock(),
    )
    inbox = VirtualInbox(clock, until_s=130.0, speed=20.0)
    LiveDriver(
        loop, period_s=60.0, clock=clock, inbox=inbox, speed=20.0, on_record=records.append
    ).run()
    assert [record.now_s for record in records] == [60.0, 120.0]
    assert inbox.waits_s == pytest.approx([1.0] * 3 + [1.0] * 3 + [1.0])


def test_an_error_of_the_programmer_is_recorded_and_the_loop_goes_on() -> None:
    """A bug in one cycle must not leave a cluster without control."""
    records = drive(BrokenBackend(times=1), until_s=130.0)
    assert [(record.cycle, record.failed_phase) for record in records] == [(1, "program"), (2, "")]
    assert "RuntimeError: a bug" in records[0].error
    assert "in observe" in records[0].traceback


def test_a_request_whose_cycle_has_a_bug_is_answered() -> None:
    """A client that waits for ever cannot tell a bug from a slow cycle."""
    request = VirtualRequest()
    drive(BrokenBackend(times=1), until_s=59.0, coming=[(10.0, request)])
    assert request.answers[0].failed_phase == "program"


def test_a_world_that_breaks_while_it_passes_is_recorded() -> None:
    """The twin runs in the thread of the driver: an error in it must neither end the thread nor
    stay hidden.
    """

    def advance(now_s: float) -> None:
        if now_s == 3.0:
            raise RuntimeError("the twin broke")

    records = drive(FakeBackend([server_view()]), until_s=61.0, advance=advance)
    assert [(record.now_s, record.failed) for record in records] == [(3.0, True), (60.0, False)]


def test_a_record_that_cannot_be_kept_says_so_and_nothing_else_changes() -> None:
    """A full disk is no reason to leave the servers alone, nor is a cycle that went through a
    failure; log, metrics and the request learn of it.
    """
    clock = ManualClock()
    request = VirtualRequest()
    backend = FakeBackend([server_view()])

    reported: list[CycleRecord] = []

    def keep(_record: CycleRecord) -> None:
        raise OSError("no space left on device")

    loop = Controller(
        backend=backend, policy=make_policy("static"), data=FixedData(system()), clock=ManualClock()
    )
    inbox = VirtualInbox(clock, until_s=130.0, coming=[(10.0, request)])
    driver = LiveDriver(
        loop, period_s=60.0, clock=clock, inbox=inbox, keep=keep, on_record=reported.append
    )
    driver.run()
    line = "the record was not reported: OSError: no space left on device"
    assert [(one.now_s, one.failed, one.warnings[-1]) for one in reported] == [
        (now_s, False, line) for now_s in (10.0, 60.0, 120.0)
    ]
    assert (driver.last, driver.healthy) == (reported[-1], True)
    assert request.answers == reported[:1]


def test_a_cycle_that_takes_more_than_three_periods_is_told_while_it_lasts() -> None:
    """A world that never answers leaves no failed cycle behind by which it could be noticed."""
    clock = ManualClock()
    told: list[str] = []

    class Slow(FakeBackend):
        def observe(self) -> Snapshot:
            for later_s in (180.0, 1.0):
                clock.time_s += later_s
                told.append(driver.overdue)
            return super().observe()

    loop = Controller(
        backend=Slow([server_view()]),
        policy=make_policy("static"),
        data=FixedData(system()),
        clock=ManualClock(),
    )

    class Curious(VirtualRequest):
        def answer(self, record: CycleRecord) -> None:
            told.append(driver.overdue)
            super().answer(record)

    inbox = VirtualInbox(clock, until_s=100.0, coming=[(60.0, Curious())])
    driver = LiveDriver(loop, period_s=60.0, clock=clock, inbox=inbox)
    driver.run()
    assert told == ["", "a cycle has taken 181 s and goes on; expected at most 180 s", ""]


@pytest.mark.parametrize(("failures", "ready"), [(2, True), (3, False)])
def test_three_failed_cycles_in_a_row_are_too_many(failures: int, ready: bool) -> None:
    """Two may be a hiccup of the world; after three a probe should turn traffic away."""
    driver = failing_driver([True] * failures)
    driver.run()
    assert driver.healthy is ready


def test_one_good_cycle_makes_up_for_failed_ones() -> None:
    """Failures count in a row only."""
    driver = failing_driver([True, True, True, False])
    driver.run()
    assert driver.healthy


def failing_driver(failures: Sequence[bool]) -> LiveDriver:
    """Return a driver with one cycle per entry of *failures*, failed as they say."""
    clock = ManualClock()

    class Flaky(FakeBackend):
        def observe(self) -> Snapshot:
            if failures[int(clock.time_s / 60.0) - 1]:
                raise BackendError("no answer", phase="observe")
            return super().observe()

    loop = Controller(
        backend=Flaky([server_view()]),
        policy=make_policy("static"),
        data=FixedData(system()),
        clock=ManualClock(),
    )
    inbox = VirtualInbox(clock, until_s=60.0 * len(failures) + 1.0)
    return LiveDriver(loop, period_s=60.0, clock=clock, inbox=inbox)
