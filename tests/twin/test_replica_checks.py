"""Checkers that watch every random script: Little's law, time never back, memory and
batch never exceeded.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import inf
from typing import Any

import pytest

from tests.parts import first
from twin.engine.replica import Replica
from twin.request import Request
from twin.testing.naive_replica import SCRAPE
from twin.testing.replica_scripts import Script, make_script, play_replica


class WatchedRun:
    """A script's arrivals played boundary by boundary, with what an observer of the replica would
    have written down.
    """

    def __init__(self, script: Script) -> None:
        self.area_s = 0.0
        self.last_s = 0.0
        self.boundaries_s: list[float] = []
        self.largest_batch = 0
        self.usages: list[float] = []
        self.requests: list[Request] = []
        self.finished: list[tuple[Request, float]] = []
        self.replica = Replica(
            **script.replica, on_finish=lambda request, t: self.finished.append((request, t))
        )
        for now_s, _, verb, argument in script.events:
            if verb == "submit":
                self.follow(now_s)
                self.submit(now_s, *argument)
        self.follow(inf)

    def follow(self, until_s: float) -> None:
        """Process one boundary after another before *until_s*, summing up outstanding · time
        between them.
        """
        while (boundary_s := self.replica.next_boundary_s) < until_s:
            self.wait(boundary_s)
            self.boundaries_s.append(boundary_s)
            self.replica.advance(boundary_s, inclusive=True)
            self.largest_batch = max(self.largest_batch, self.replica.running)
            self.usages.append(
                self.replica.read(boundary_s).kv_usage
                if self.replica.next_boundary_s > boundary_s
                else 0
            )

    def submit(self, now_s: float, number: int, prompt_tokens: int, output_tokens: int) -> None:
        """Submit, and keep the request if it is taken."""
        self.wait(now_s)
        request = Request(
            id=number, prompt_tokens=prompt_tokens, output_tokens=output_tokens, arrival_s=now_s
        )
        if self.replica.submit(request, now_s) is None:
            self.requests.append(request)

    def wait(self, until_s: float) -> None:
        """Let time pass to *until_s*."""
        self.area_s += self.replica.outstanding * (until_s - self.last_s)
        self.last_s = until_s


@pytest.fixture(params=first(12, range(60)), name="watched")
def watched_run(request: pytest.FixtureRequest) -> WatchedRun:
    """Return a watched random run."""
    return WatchedRun(make_script(request.param))


def test_requests_inside_are_rate_times_stay_on_every_run(watched: WatchedRun) -> None:
    """The integral of the number in the system is the sum of the times in it, whatever happened in
    between.
    """
    assert watched.area_s == pytest.approx(
        sum(t - request.arrival_s for request, t in watched.finished), rel=1e-9
    )


def test_nothing_is_lost_or_served_twice(watched: WatchedRun) -> None:
    """Every request that was taken finishes once, with all its tokens."""
    assert sorted(request.id for request, _ in watched.finished) == [
        request.id for request in watched.requests
    ]
    reading = watched.replica.read(watched.last_s)
    assert reading.successes == reading.ttft_count == len(watched.requests)
    assert reading.generation_tokens == sum(request.output_tokens for request in watched.requests)
    assert reading.prompt_tokens == sum(request.prompt_tokens for request in watched.requests)
    assert watched.replica.outstanding == 0


def test_time_never_goes_back(watched: WatchedRun) -> None:
    """Boundaries and finishes come in order, and no request has a token before it arrived or after
    it finished.
    """
    assert all(a <= b for a, b in pairwise(watched.boundaries_s))
    assert all(a <= b for a, b in pairwise(t for _, t in watched.finished))
    for request, finish_s in watched.finished:
        assert request.arrival_s <= request.submitted_s <= request.first_token_s <= finish_s


def test_batch_and_memory_are_never_exceeded(watched: WatchedRun) -> None:
    """The KV cache is full at most, and a batch has at most max_batch requests."""
    assert watched.largest_batch <= watched.replica.max_batch
    assert all(0.0 <= usage <= 1.0 for usage in watched.usages)


@pytest.mark.parametrize("seed", range(30))
def test_counters_only_grow(seed: int) -> None:
    """A rate over a window is a difference of two readings; it must not be negative."""
    script = make_script(seed)
    span_s = script.events[-1][0]
    looks: tuple[tuple[float, int, str, Any], ...] = tuple(
        (span_s * i / 50, SCRAPE, "read", None) for i in range(50)
    )
    events = tuple(sorted(script.events + looks, key=lambda event: event[:2]))
    gauges = {"running", "waiting", "kv_usage"}
    for before, after in pairwise(play_replica(replace(script, events=events)).readings):
        for name in set(before.__slots__) - gauges:
            left, right = getattr(before, name), getattr(after, name)
            grown = zip(left, right, strict=True) if isinstance(left, tuple) else [(left, right)]
            # The part of a segment is added to the sum anew at each look, so its last digit may
            # differ.
            assert all(b >= a * (1 - 1e-12) for a, b in grown), name
