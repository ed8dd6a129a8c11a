"""The same loop in both kinds of time: the live driver, its waits made virtual, decides as the
simulated one does.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from loop.backends.sim import Metrics, SimWorld
from loop.clocks import MonotonicClock
from loop.controller import Controller
from loop.data import FixedData
from loop.drivers import LiveDriver, SimDriver
from loop.policies import make_policy
from loop.testing.fakes import ManualClock, VirtualInbox
from loop.types import CycleRecord, Timing
from tests.loop.sim_worlds import SimWorldParts, sim_world

END_S = 901.0


def controller(world: SimWorldParts, *, policy: str) -> Controller:
    """Return a controller over *world*."""
    return Controller(
        backend=world.backend,
        policy=make_policy(policy),
        data=FixedData(world.data),
        clock=MonotonicClock(),
    )


@cache
def simulated(*, policy: str, period_s: float, metrics: Metrics) -> list[CycleRecord]:
    """Return the records of a quarter of an hour in virtual time."""
    world = sim_world(metrics=metrics, alpha=0.5, actuation_s=7.0)
    driver = SimDriver(world.env, controller(world, policy=policy), period_s=period_s)
    world.env.run(until=END_S)
    return driver.records


def live(
    *, policy: str, period_s: float, metrics: Metrics, speed: float = 20.0
) -> list[CycleRecord]:
    """Return the records of the same quarter of an hour under the live driver: the code that waits,
    its waits made virtual.
    """
    world = sim_world(metrics=metrics, alpha=0.5, actuation_s=7.0)
    clock, records = ManualClock(), list[CycleRecord]()
    LiveDriver(
        controller(world, policy=policy),
        period_s=period_s,
        clock=clock,
        inbox=VirtualInbox(clock, until_s=END_S, speed=speed),
        speed=speed,
        advance=SimWorld(world.env).advance,
        on_record=records.append,
    ).run()
    return records


def comparable(records: list[CycleRecord]) -> list[CycleRecord]:
    """Return *records* without how long their phases took, the only thing that depends on the
    machine.
    """
    return [replace(record, timing=Timing()) for record in records]


@pytest.mark.slow
@pytest.mark.parametrize("metrics", ["measured", "labels"])
@pytest.mark.parametrize("period_s", [60.0, 37.7])
def test_simulated_and_live_drivers_take_the_same_decisions(
    period_s: float, metrics: Metrics
) -> None:
    """What was tried on the twin is what runs live: whole records are equal, not only the
    replicas.
    """
    expected = comparable(simulated(policy="slo", period_s=period_s, metrics=metrics))
    assert comparable(live(policy="slo", period_s=period_s, metrics=metrics)) == expected
    assert len(expected) == int(END_S / period_s)
    assert any(record.changes for record in expected), (
        "a run in which nothing changes shows nothing"
    )


@pytest.mark.slow
def test_a_run_in_virtual_time_can_be_repeated() -> None:
    """A seed must fix a whole run, records and all."""
    asked = {"policy": "slo", "period_s": 60.0, "metrics": "measured"}
    again = simulated.__wrapped__(**asked)
    assert comparable(again) == comparable(simulated(**asked))
