"""A recording shows what had been seen at a time, and only that."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from loop.backends.replay import ReplayBackend, replay
from loop.controller import Controller
from loop.data import FixedData
from loop.errors import BackendError, SpecError
from loop.policies import make_policy
from loop.records import record_line, record_text
from loop.testing.fakes import FakeBackend, ManualClock, change, server_view, system
from loop.types import Load, Snapshot

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
    ],
)
def test_a_figure_of_a_record_that_is_none_is_named(name: str, value: object, said: str) -> None:
    """Else a policy fails on it somewhere, and nobody knows of which line."""
    lines = recorded(FakeBackend([server_view()], capacity={"H100": 8, "A100": 8}))
    lines[1]["servers"][0][name] = value
    with pytest.raises(SpecError) as caught:
        list(replay(lines, make_policy("hpa"), system()))
    assert str(caught.value) == f"line 2: 's1': {said}"
