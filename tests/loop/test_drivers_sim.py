"""The driver in virtual time: when cycles run, and in which order among the events of one
instant.
"""

from __future__ import annotations

import pytest
import simpy

from loop.controller import Controller
from loop.data import FixedData
from loop.drivers import SimDriver
from loop.policies import make_policy
from loop.testing.fakes import FakeBackend, ManualClock, server_view, system


def controller(backend: FakeBackend, clock: ManualClock | None = None) -> Controller:
    """Return a controller that keeps things as they are."""
    return Controller(
        backend=backend,
        policy=make_policy("static"),
        data=FixedData(system()),
        clock=clock or ManualClock(),
        settings=None,
    )


def test_cycle_n_runs_at_n_periods_and_the_first_not_at_zero() -> None:
    """At 0 nothing has been measured yet. Instants are products, so that 0.1 ten times is 1."""
    env = simpy.Environment()
    driver = SimDriver(env, controller(FakeBackend([server_view()])), period_s=0.1)
    env.run(until=2.05)
    assert [record.now_s for record in driver.records] == [n * 0.1 for n in range(1, 21)]


def test_a_cycle_runs_before_the_arrivals_of_its_instant() -> None:
    """Control comes first among simultaneous events, whatever was scheduled earlier; so runs can be
    repeated.
    """
    env = simpy.Environment()
    order: list[str] = []
    timeout = env.timeout(60.0)
    assert timeout.callbacks is not None
    timeout.callbacks.append(lambda _event: order.append("arrival"))
    SimDriver(
        env,
        controller(FakeBackend([])),
        period_s=60.0,
        on_record=lambda _record: order.append("control"),
    )
    env.run(until=61.0)
    assert order == ["control", "arrival"]


def test_what_the_world_does_before_a_cycle_is_no_time_of_it() -> None:
    """A twin serves a minute of requests when somebody looks: that is not what observing costs."""
    env, clock = simpy.Environment(), ManualClock()

    def serve() -> None:
        clock.time_s += 5.0

    driver = SimDriver(
        env, controller(FakeBackend([server_view()]), clock), period_s=60.0, advance=serve
    )
    env.run(until=61.0)
    assert clock.time_s == 5.0
    assert [record.timing.total_ms for record in driver.records] == [0.0]


def test_a_period_of_zero_runs_no_cycle() -> None:
    """Period 0 means only on invoke, and nobody invokes in virtual time."""
    env = simpy.Environment()
    driver = SimDriver(env, controller(FakeBackend([])), period_s=0.0)
    env.run(until=1000.0)
    assert driver.records == []


def test_an_error_of_the_programmer_ends_the_run() -> None:
    """An experiment with a bug in it must not end in a table."""
    env = simpy.Environment()

    class Broken(FakeBackend):
        def observe(self) -> object:  # type: ignore[override]
            raise RuntimeError("a bug")

    SimDriver(env, controller(Broken([])), period_s=60.0)
    with pytest.raises(RuntimeError, match="a bug"):
        env.run(until=61.0)
