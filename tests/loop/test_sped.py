"""Policies over a twin that runs faster than the loop: the same decisions as at its own pace."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from loop.policies import make_policy
from loop.policies.sped import SpedPolicy, in_world_time
from loop.testing.fakes import pod_view, server_view, system
from loop.types import GaugeSample, Load, Missing, Snapshot

SPEED = 8.0  # a power of two: times are the same to the last bit


def seen(now_s: float, rate_rpm: float, *, backlog: int) -> Snapshot:
    """Return a snapshot in which every time and duration is told, in seconds of the world."""
    view = server_view(
        load=Load(rate_rpm=rate_rpm, in_tokens=512.0, out_tokens=256.0),
        waiting=backlog,
        backlog=backlog,
        load_age_s=4.0,
        sample_age_s=4.0,
        percentiles_age_s=5.0,
        grace_s=30.0,
        start_up_s=90.0,
        missing=Missing(count=1, wanted=2, waited_s=16.0, kind="probe", text="a probe"),
        gauges=(GaugeSample(now_s - 8.0, 3, backlog),),
        pods=(pod_view(since_s=-8.0, created_s=-64.0, sample_age_s=4.0),),
    )
    return Snapshot(now_s=now_s, servers={"s1": view}, window_s=60.0, scrape_interval_s=15.0)


def times_of(value: Any, name: str = "") -> dict[str, list[float]]:
    """Return by name the times and durations in *value*, however deep."""
    found: dict[str, list[float]] = {}
    if name.endswith("_s") and value is not None:
        return {name: [value]}
    parts: list[tuple[str, Any]] = []
    if is_dataclass(value):
        parts = [(field.name, getattr(value, field.name)) for field in fields(value)]
    elif isinstance(value, GaugeSample):
        parts = list(value._asdict().items())
    elif isinstance(value, dict):
        parts = [("", one) for one in value.values()]
    elif isinstance(value, tuple):
        parts = [("", one) for one in value]
    for part, one in parts:
        for told, values in times_of(one, part).items():
            found.setdefault(told, []).extend(values)
    return found


def test_every_time_and_duration_of_a_snapshot_is_the_worlds() -> None:
    """A field that is forgotten is compared with others that are not."""
    told = seen(600.0, 120.0, backlog=3)
    first, sped = times_of(told), times_of(in_world_time(told, speed=SPEED))
    assert len(first) >= 12
    assert sped == {name: [SPEED * one for one in values] for name, values in first.items()}


@pytest.mark.parametrize("name", ["slo", "hpa", "kpa", "keda", "wva", "predictive"])
def test_a_policy_over_a_faster_world_decides_as_at_its_pace(name: str) -> None:
    """A queue that is to be gone in a minute of the world needs ten times the replicas for a
    minute of a loop that is ten times as slow.
    """
    alone, policy = make_policy(name), make_policy(name)
    sped = SpedPolicy(policy=policy, speed=SPEED)
    assert (sped.name, sped.tick_s) == (policy.name, policy.tick_s)
    state, of_sped = alone.start(), sped.start()
    for step in range(1, 13):
        world = seen(60.0 * step, 300.0 + 40.0 * step, backlog=100 if step < 6 else 0)
        decided, state = alone.decide(world, system(), state)
        found, of_sped = sped.decide(in_world_time(world, speed=1 / SPEED), system(), of_sped)
        assert found == decided
