"""Which pods are told to cost least when a server is to lose some."""

from __future__ import annotations

from loop.backends.kube.writer import costs_of
from loop.testing.fakes import pod_view


def test_a_pod_that_does_not_tell_what_runs_on_it_is_not_taken_for_idle() -> None:
    """It was the first to be ended, with all the answers in it."""
    pods = (
        pod_view("a", running=3, waiting=2),
        pod_view("b", unknown_gauges=("running",)),
        pod_view("c", sample_age_s=None),
        pod_view("d", running=1),
    )
    assert [cost for _, cost in costs_of(pods)] == [5, 5, 5, 1]
    assert [cost for _, cost in costs_of(pods[1:3])] == [0, 0]
