"""Calls at exact instants, and what comes first at the same one."""

from __future__ import annotations

from functools import partial

import pytest
import simpy

from twin.kernel import ARRIVAL, BOUNDARY, CONTROL, SCRAPE, Alarm, at


def test_a_call_comes_at_its_instant_to_the_last_digit() -> None:
    """SimPy takes delays, and now + (at - now) is rounded: some of these instants would be missed
    by a digit.

    A tie of a drain end with an arrival would then become an order that depends on when the call
    was made.
    """
    missed = 0
    digit_s = 2.0**-49  # of a time between 8 and 16 s
    for k in range(1, 100):
        now_s, at_s = 0.5 + (k + 0.5) * digit_s, 10.0 + 3 * k * digit_s
        missed += now_s + (at_s - now_s) != at_s
        env = simpy.Environment(initial_time=now_s)
        log: list[float] = []
        at(env, at_s, priority=CONTROL, action=partial(_note, env, log))
        env.run(until=11.0)
        assert log == [at_s]
    assert missed > 10


def test_an_instant_that_is_past_is_now() -> None:
    """Nothing can happen before now."""
    env = simpy.Environment(initial_time=2.0)
    log: list[float] = []
    at(env, 1.0, priority=CONTROL, action=partial(_note, env, log))
    env.run(until=3.0)
    assert log == [2.0]


def test_control_comes_before_arrivals_before_boundaries_before_scrapes() -> None:
    """The order of one instant, whatever was scheduled first; of one kind, the one scheduled
    first.
    """
    env = simpy.Environment()
    log: list[str] = []
    for name, priority in (
        ("scrape", SCRAPE),
        ("boundary", BOUNDARY),
        ("arrival", ARRIVAL),
        ("control", CONTROL),
    ):
        for number in (1, 2):
            at(
                env,
                5.0,
                priority=priority,
                action=lambda name=name, number=number: log.append(f"{name} {number}"),
            )
    env.run(until=6.0)
    assert log == [
        f"{name} {number}"
        for name in ("control", "arrival", "boundary", "scrape")
        for number in (1, 2)
    ]


def test_an_alarm_goes_off_at_every_instant_it_is_set_for() -> None:
    """The arrivals of a run share one event; each must come at its own instant, and none twice."""
    env = simpy.Environment()
    log: list[float] = []
    instants = [0.1 * k for k in range(1, 200)]
    due = iter(instants)

    def ring() -> None:
        log.append(float(env.now))
        if (time_s := next(due, None)) is not None:
            alarm.set(time_s)

    alarm = Alarm(env, priority=ARRIVAL, action=ring)
    alarm.set(next(due))
    env.run()
    assert log == instants


def test_an_alarm_is_not_set_for_the_past() -> None:
    """An arrival that came late would be served as if the client had asked later."""
    env = simpy.Environment(initial_time=2.0)
    alarm = Alarm(env, priority=ARRIVAL, action=lambda: None)
    with pytest.raises(AssertionError, match=r"cannot schedule at 1\.0: it is 2\.0"):
        alarm.set(1.0)


def test_a_cancelled_call_does_nothing() -> None:
    """A pod that is gone must not get ready; cancelling what has run does no harm."""
    env = simpy.Environment()
    log: list[float] = []
    calls = [
        at(env, at_s, priority=CONTROL, action=partial(_note, env, log)) for at_s in (1.0, 2.0, 3.0)
    ]
    calls[1].cancel()
    env.run(until=4.0)
    calls[0].cancel()
    assert log == [1.0, 3.0]


def _note(env: simpy.Environment, log: list[float]) -> None:
    log.append(float(env.now))
