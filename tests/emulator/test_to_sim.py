"""Claims about emulator.to_sim: requests reach the simulated world at their instants, whoever
controls it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import simpy

from emulator.load import ServerLoad, batches
from emulator.shapes import burst
from emulator.to_sim import SimFeeder
from emulator.trace import Replay
from emulator.walk import OfferedLoad, Walk
from twin.kernel import ARRIVAL, BOUNDARY, CONTROL, LOAD, SCRAPE, at
from twin.request import Request
from twin.traces import Trace

LOADS = tuple(
    ServerLoad(
        server=f"vllm-{index:03d}",
        index=index,
        seed=7,
        nominal=OfferedLoad(rate_rpm=30.0 * (index + 1), in_tokens=500.0, out_tokens=100.0),
        curve=burst(factor=3.0, start_s=100.0, length_s=20.0, every_s=300.0),
        arrival_cv=1.0 + index,
    )
    for index in range(4)
)

Seen = list[tuple[float, str, int, int]]


def feed(
    until_s: float,
    *,
    interval_s: float = 60.0,
    control: Callable[[simpy.Environment, SimFeeder], Any] | None = None,
) -> tuple[Seen, SimFeeder]:
    env, seen = simpy.Environment(), []

    def submit(request: Request) -> None:
        assert request.arrival_s == env.now
        seen.append((env.now, request.server, request.prompt_tokens, request.output_tokens))

    feeder = SimFeeder(env, submit, LOADS, interval_s=interval_s, until_s=until_s)
    if control is not None:
        env.process(control(env, feeder))
    env.run(until=until_s)
    return seen, feeder


def busy_control(
    period_s: float,
) -> Callable[[simpy.Environment, SimFeeder], Iterator[simpy.Event]]:
    def control(env: simpy.Environment, feeder: SimFeeder) -> Iterator[simpy.Event]:
        while True:
            yield env.timeout(period_s)
            feeder.offered_loads()
            feeder.offered()
            for _ in range(int(env.now) % 5):
                env.timeout(period_s / 3.0)

    return control


@pytest.mark.parametrize("period_s", [60.0, 30.0, 7.3])
def test_no_control_and_no_period_moves_an_arrival(period_s: float):
    """Policies are compared on paired seeds: the requests must be the same to the last bit."""
    assert feed(900.0, control=busy_control(period_s))[0] == feed(900.0)[0]


def test_every_request_is_submitted_once_at_its_exact_instant():
    """Between the generator and the world nothing is lost, doubled, reordered or rounded."""
    seen, _ = feed(900.0)
    expected = []
    for load in LOADS:
        for batch in batches(load, interval_s=60.0, until_s=900.0):
            rows = zip(
                batch.times_s.tolist(),
                batch.prompt_tokens.tolist(),
                batch.output_tokens.tolist(),
                strict=True,
            )
            expected += [
                (t_s, load.server, in_tokens, out_tokens) for t_s, in_tokens, out_tokens in rows
            ]
    assert seen == sorted(expected, key=lambda row: row[0])
    assert all(0.0 <= t < 900.0 for t, *_ in seen)


def test_a_new_interval_begins_before_the_control_of_its_instant():
    """`labels` are without lag: the controller at 60 s sees the offered load that holds from 60 s
    on.
    """
    env = simpy.Environment()
    feeder = SimFeeder(env, lambda *_: None, LOADS, interval_s=60.0, until_s=600.0)
    seen = []
    for number in range(10):
        at(
            env,
            number * 60.0,
            priority=CONTROL,
            action=lambda: seen.append(dict(feeder.offered_loads())),
        )
    env.run(until=600.0)
    planned = {
        load.server: [
            b.interval.offered_load for b in batches(load, interval_s=60.0, until_s=600.0)
        ]
        for load in LOADS
    }
    assert seen == [
        {server: points[number] for server, points in planned.items()} for number in range(10)
    ]


def test_an_arrival_comes_after_control_and_before_the_replicas_of_its_instant():
    """Ties follow one rule everywhere: load, control, arrivals, replicas, scrapes."""
    env, order = simpy.Environment(), []
    trace = Trace(
        name="grid",
        times_s=np.array([0.0, 60.0, 120.0]),
        prompt_tokens=np.array([1, 1, 1]),
        output_tokens=np.array([1, 1, 1]),
    )
    load = ServerLoad(
        server="s",
        index=0,
        seed=1,
        nominal=OfferedLoad(rate_rpm=1.0, in_tokens=1.0, out_tokens=1.0),
        walk=Walk(alpha=0.0),
        replay=Replay(trace=trace),
    )
    for priority in (SCRAPE, BOUNDARY, CONTROL):
        at(env, 60.0, priority=priority, action=partial(order.append, priority))
    SimFeeder(
        env,
        lambda *_: order.append(ARRIVAL) if env.now == 60.0 else None,
        [load],
        interval_s=60.0,
        until_s=120.0,
    )
    at(env, 60.0, priority=LOAD, action=partial(order.append, LOAD))
    env.run(until=100.0)
    assert order == [LOAD, CONTROL, ARRIVAL, BOUNDARY, SCRAPE]


def test_the_offered_load_is_what_was_submitted():
    """Tables carry it beside the results: a plain walk wanders far from its nominal."""
    seen, feeder = feed(900.0)
    for name, offered in feeder.offered().items():
        rows = [row for row in seen if row[1] == name]
        assert offered.requests == len(rows)
        assert offered.until_s == 900.0
        assert offered.rate_rpm == pytest.approx(len(rows) / 15.0)
        assert offered.in_tokens == pytest.approx(np.mean([row[2] for row in rows]))
        assert offered.out_tokens == pytest.approx(np.mean([row[3] for row in rows]))


def test_the_log_has_every_interval():
    """Figures draw the offered rate from it."""
    _, feeder = feed(500.0)
    for intervals in feeder.log().values():
        assert [interval.t1_s for interval in intervals] == [60.0 * n for n in range(1, 9)] + [
            500.0
        ]


def test_a_server_without_requests_has_no_mean_tokens():
    """None, not zero: nothing was measured."""
    env = simpy.Environment()
    silent = ServerLoad(
        server="s",
        index=0,
        seed=1,
        nominal=OfferedLoad(rate_rpm=0.0, in_tokens=9.0, out_tokens=9.0),
    )
    feeder = SimFeeder(env, lambda *_: None, [silent], interval_s=60.0, until_s=120.0)
    env.run()
    assert env.now == 60.0
    offered = feeder.offered()["s"]
    assert (offered.requests, offered.rate_rpm, offered.in_tokens) == (0, 0.0, None)


def test_arrivals_stop_at_the_end_and_the_queue_stays_short():
    """One arrival waits in SimPy's queue at a time: 27 servers must not make every other event
    slower.
    """
    env, longest = simpy.Environment(), 0

    def submit(*_: object) -> None:
        nonlocal longest
        longest = max(longest, len(env._queue))

    SimFeeder(env, submit, LOADS, interval_s=60.0, until_s=300.0)
    env.run()
    assert env.now < 300.0
    assert longest <= 2


def test_no_servers_are_no_load():
    """A system may be built before its servers are."""
    env = simpy.Environment()
    feeder = SimFeeder(env, lambda *_: None, [], interval_s=60.0, until_s=60.0)
    env.run()
    assert (feeder.offered_loads(), feeder.offered(), feeder.log()) == ({}, {}, {})


def test_without_an_end_the_load_goes_on():
    """The twin served in real time has no end, and must not fill the memory with its past."""
    env, count = simpy.Environment(), 0

    def submit(*_: object) -> None:
        nonlocal count
        count += 1

    feeder = SimFeeder(env, submit, LOADS[:1], interval_s=60.0)
    env.run(until=7200.0)
    before = count
    env.run(until=14_400.0)
    assert count > before + 1000
    assert [len(log) for log in feeder.log().values()] == [1]
