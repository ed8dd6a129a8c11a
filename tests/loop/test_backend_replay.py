"""A recording shows what had been seen at a time, and only that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loop.backends.replay import ReplayBackend
from loop.errors import BackendError
from loop.testing.fakes import change, server_view
from loop.types import Snapshot

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
