"""A recording shows what had been seen at a time, and only that."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from loop.actuator import Limits
from loop.backends.replay import ReplayBackend, replay
from loop.controller import Controller, ControllerSettings
from loop.data import FixedData
from loop.errors import BackendError, SpecError
from loop.policies import make_policy
from loop.policies.sped import SpedPolicy
from loop.records import record_line, record_text, snapshot_of
from loop.testing.fakes import FakeBackend, ManualClock, change, server_view, system
from loop.types import Load, Mode, SharedGpus, Snapshot

EARLY = Snapshot(now_s=60.0, servers={"s1": server_view(wanted=1)})
LATE = Snapshot(now_s=120.0, servers={"s1": server_view(wanted=2)})


def test_it_shows_the_latest_snapshot_at_its_time() -> None:
    """A policy that is asked at 100 s must not see what was only seen at 120 s."""
    backend = ReplayBackend([LATE, EARLY])
    assert backend.observe() == EARLY
    for now_s, expected in ((100.0, EARLY), (120.0, LATE), (500.0, LATE)):
        backend.advance(now_s)
        assert backend.observe() == expected


@pytest.mark.parametrize("snapshots", [[], [EARLY]])
def test_before_the_first_snapshot_it_does_not_answer(snapshots: list[Snapshot]) -> None:
    """A recording without a beginning is a failed observe, recorded like any other."""
    backend = ReplayBackend(snapshots)
    backend.advance(59.0)
    with pytest.raises(BackendError, match="no snapshot at or before 59 s"):
        backend.observe()


def test_changes_are_kept_and_change_nothing() -> None:
    """What was seen was seen; what a policy would have asked is the answer one looks for."""
    backend = ReplayBackend([EARLY])
    nine = change(replicas=9)
    backend.apply([nine])
    assert backend.asked == [(nine,)]
    assert backend.observe() == replace(EARLY)


def recorded(backend: FakeBackend) -> list[dict[str, Any]]:
    """Return the lines of an hour of the SLO policy, in which the load goes up and is unknown for a
    while, and the world fails once.
    """
    loop = Controller(
        backend=backend, policy=make_policy("slo"), data=FixedData(system()), clock=ManualClock()
    )
    lines = []
    for number, rate_rpm in enumerate((300.0, 900.0, None, 3000.0, 3000.0), start=1):
        backend.now_s = 60.0 * number
        load = (
            None if rate_rpm is None else Load(rate_rpm=rate_rpm, in_tokens=512.0, out_tokens=256.0)
        )
        backend.set_load("s1", load)
        backend.failing = {"observe"} if number == 5 else set()
        lines.append(json.loads(record_text(loop.cycle(backend.now_s))))
    return lines


def test_the_policy_of_a_recording_decides_again_what_it_decided() -> None:
    """A recording holds all that a policy decides on."""
    lines = recorded(FakeBackend([server_view()], capacity={"H100": 8, "A100": 8}))
    again = [record_line(record) for record in replay(lines, make_policy("slo"), system())]
    assert [line["cycle"] for line in again] == [1, 2, 3, 4]
    for then, now in zip(lines, again, strict=False):
        assert now["ts"] == then["ts"]
        for row, same in zip(then["servers"], now["servers"], strict=True):
            for name in ("accelerator", "replicas", "maxBatch", "held", "reason", "rpm"):
                assert same[name] == row[name], name


def test_lines_of_before_tell_no_bounds_and_those_behind_them_do() -> None:
    """A file of records is written on after an update: it was replayed as if nothing told."""
    first, *others = recorded(FakeBackend([server_view()], capacity={"H100": 8, "A100": 8}))
    of_before = {name: value for name, value in first.items() if name != "speed"}
    lines = [of_before, *({**line, "budgetUsdPerH": 8.0} for line in others)]
    alone = [{**line, "budgetUsdPerH": 8.0} for line in (first, *others)]
    bound, free = (
        [record_line(one)["servers"] for one in replay(of, make_policy("slo"), system())]
        for of in (alone, [first, *others])
    )
    found = [record_line(one) for one in replay(lines, make_policy("slo"), system())]
    assert [line["servers"] for line in found] == bound != free


def test_another_policy_may_decide_on_what_was_seen() -> None:
    """What would it have done? Each decision is on what was seen then, not on what it asked."""
    lines = recorded(FakeBackend([server_view()], capacity={"H100": 8, "A100": 8}))
    records = list(replay(lines, make_policy("static"), system()))
    assert [record.policy for record in records] == ["static"] * 4
    assert all(record.changes == () for record in records)
    assert [record.seen.servers["s1"].wanted for record in records if record.seen] == [
        line["servers"][0]["wanted"] for line in lines[:4]
    ]


def test_a_line_that_is_no_record_is_named() -> None:
    """Somebody gives another file of JSON lines."""
    with pytest.raises(SpecError, match="line 1: expected the record of a cycle, found one"):
        list(replay([{"name": "x"}], make_policy("static"), system()))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("waiting", "1", "waiting: expected a number >= 0 and <= 1e+09, found '1'"),
        ("running", float("inf"), "running: expected a number >= 0 and <= 1e+09, found Infinity"),
        ("startUpS", 1e308, "startUpS: expected a number >= 0 and <= 1e+09, found 1e+308"),
        ("model", [], "model: expected a text, found []"),
        ("gpusReachable", 3, "gpusReachable: expected an object {…}, found 3"),
        (
            "maxReplicas",
            1.5,
            "maxReplicas: expected a whole number >= 0 and <= 1e+09, found 1.5",
        ),
        ("pooled", {"a": 1}, 'pooled: expected true or false, found {"a": 1}'),
        ("acceleratorFixed", "no", "acceleratorFixed: expected true or false, found 'no'"),
    ],
)
def test_a_figure_of_a_record_that_is_none_is_named(name: str, value: object, said: str) -> None:
    """Else a policy fails on it somewhere, and nobody knows of which line."""
    lines = recorded(FakeBackend([server_view()], capacity={"H100": 8, "A100": 8}))
    lines[1]["servers"][0][name] = value
    with pytest.raises(SpecError) as caught:
        list(replay(lines, make_policy("hpa"), system()))
    assert str(caught.value) == f"line 2: 's1': {said}"


@pytest.mark.parametrize(("name", "value"), [("type", None), ("available", ""), ("used", [])])
def test_gpus_of_a_record_that_are_none_are_named(name: str, value: object) -> None:
    """They ended in a traceback of the sizing."""
    lines = recorded(FakeBackend([server_view()], capacity={"H100": 8, "A100": 8}))
    lines[1]["capacity"][0][name] = value
    with pytest.raises(SpecError, match=r"^line 2: capacity: expected objects with type, avail"):
        list(replay(lines, make_policy("slo"), system()))


SPEED, SHORT_S = 8.0, 6.0


class OfAWindow(FakeBackend):
    """A world whose figures look back for six seconds, and some of whose GPUs cannot be had."""

    def observe(self) -> Snapshot:
        """Return what is seen, with what is told of the world as a whole."""
        scarce = SharedGpus(type="H100", servers=frozenset({"s1"}), count=6)
        return replace(
            super().observe(),
            window_s=SHORT_S,
            scrape_interval_s=1.5,
            capacity_max={"A100": 2},
            shared_gpus=(scarce,),
        )


@pytest.mark.parametrize("mode", ["act", "export", "advise"])
def test_a_recording_tells_of_the_loop_and_of_the_world_as_a_whole(mode: Mode) -> None:
    """A policy over a twin at 10 decides by its time, its window and the bounds it is given: 14 of
    32 cycles were decided otherwise again.
    """
    backend = OfAWindow([server_view()], capacity={"H100": 8, "A100": 8})
    loop = Controller(
        backend=backend,
        policy=SpedPolicy(policy=make_policy("slo"), speed=SPEED),
        data=FixedData(system()),
        clock=ManualClock(),
        settings=ControllerSettings(
            mode=mode, speed=SPEED, limits=Limits(step_up_max=2), budget_usd_per_h=60.0
        ),
    )
    lines, seen = [], []
    for number in range(1, 25):
        backend.now_s = 5.0 * number
        # Somebody asks for advice on another load: the policy is to forget that.
        aside: Mode | None = "advise" if number % 5 == 0 else None
        rate_rpm = 2000.0 if aside else 900.0 if 6 < number < 14 else 300.0
        backend.set_load("s1", Load(rate_rpm=rate_rpm, in_tokens=512.0, out_tokens=256.0))
        record = loop.cycle(backend.now_s, mode=aside)
        seen.append(record.seen)
        lines.append(json.loads(record_text(record)))
    assert [snapshot_of(line) for line in lines] == [
        one and replace(one, capacity=snapshot_of(line).capacity)
        for one, line in zip(seen, lines, strict=True)
    ]
    again = [record_line(one) for one in replay(lines, make_policy("slo"), system())]
    told = [(line["servers"], line["internals"], line["totalCost"]) for line in lines]
    assert [(line["servers"], line["internals"], line["totalCost"]) for line in again] == told
    assert len({line["servers"][0]["replicas"] for line in lines}) > 1
    # What was decided again can be decided again.
    twice = [record_line(one) for one in replay(again, make_policy("slo"), system())]
    assert [line["servers"] for line in twice] == [line["servers"] for line in lines]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("windowS", "6", "windowS: expected a number >= 1e-09 and <= 1e+09, found '6'"),
        ("speed", 0, "speed: expected a number >= 1e-09 and <= 1e+09, found 0"),
        ("stepUp", 0.5, "stepUp: expected a whole number >= 1 and <= 1e+09, found 0.5"),
        ("capacityMax", {"H100": -1}, 'capacityMax: expected GPUs by type, found {"H100": -1}'),
        (
            "sharedGpus",
            [{"type": "H100", "servers": ["s1"], "count": "2"}],
            "sharedGpus: expected objects with type, servers and count, found "
            '[{"type": "H100", "servers": ["s1"], "count": "2"}]',
        ),
        *(
            (
                "sharedGpus",
                value,
                f"sharedGpus: expected objects with type, servers and count, found {told}",
            )
            for value, told in [
                ([{"type": "H100"}], '[{"type": "H100"}]'),
                (["H100"], '["H100"]'),
                (
                    [{"type": "H100", "servers": 1, "count": 1}],
                    '[{"type": "H100", "servers": 1, "count": 1}]',
                ),
            ]
        ),
    ],
)
def test_a_figure_of_the_whole_line_that_is_none_is_named(
    name: str, value: object, said: str
) -> None:
    """Else a policy fails on it somewhere, and nobody knows of which line."""
    lines = recorded(FakeBackend([server_view()], capacity={"H100": 8, "A100": 8}))
    lines[1][name] = value
    with pytest.raises(SpecError) as caught:
        list(replay(lines, make_policy("hpa"), system()))
    assert str(caught.value) == f"line 2: {said}"
