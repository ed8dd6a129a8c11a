"""Percentiles from the buckets of histograms: restarts, several bounds, no buckets at all."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from loop.signals.histograms import Buckets, growth, percentiles_ms, plausible
from twin.serving.metrics import percentiles_ms as of_the_twin

BOUNDS = (0.1, 0.2, 0.4)


def cumulative(*counts: float) -> Buckets:
    """Return the histogram of BOUNDS with *counts* in its buckets."""
    return dict(zip((*BOUNDS, inf), np.cumsum(counts).tolist(), strict=True))


def test_percentiles_are_those_that_the_twin_shows() -> None:
    """A policy sees the same on a cluster as on the twin."""
    counts = (10, 60, 25, 5)
    twin = of_the_twin(np.array(counts), {"ttft": BOUNDS})["ttft"]
    assert percentiles_ms([cumulative(*counts)]) == pytest.approx(twin)
    assert twin["p99"] == 400.0  # what took longer than the last bound counts as that


def test_pods_of_two_versions_are_added_up_though_their_bounds_differ() -> None:
    """During a rollout both are there; each bound of either is a place to look at."""
    coarse = {0.4: 100.0, inf: 100.0}
    fine = {0.1: 0.0, 0.2: 100.0, 0.4: 100.0, inf: 100.0}
    together = percentiles_ms([coarse, fine])
    # Up to 0.2 s: half of the coarse, all of the fine ones.
    assert together["p50"] == pytest.approx(1000.0 * (0.1 + 0.1 * (100 - 25) / 125))
    assert together["p90"] == pytest.approx(1000.0 * (0.2 + 0.2 * 30 / 50))


@pytest.mark.parametrize(
    "grown",
    [{}, {inf: 50.0}, {0.1: 0.0, inf: 0.0}, {0.1: -3.0, inf: -3.0}],
    ids=["no buckets", "only that of everything", "nothing observed", "less than before"],
)
def test_what_has_no_buckets_or_observations_has_no_percentiles(grown: Buckets) -> None:
    """Unknown, not zero."""
    assert percentiles_ms([grown]) == {}


def test_a_restart_counts_what_came_since_and_nothing_negative() -> None:
    """Counters fall to what the new process has seen."""
    looks = [cumulative(50, 0, 0, 0), cumulative(60, 0, 0, 0), cumulative(0, 0, 20, 0)]
    assert growth(looks) == {0.1: 10.0, 0.2: 10.0, 0.4: 30.0, inf: 30.0}


def test_more_than_can_have_been_observed_is_of_before_the_window() -> None:
    """A process of hours that is scraped for the first time shows all that it ever did."""
    assert plausible([cumulative(30, 0, 0, 0)], 28.0)
    assert not plausible([cumulative(5000, 0, 0, 0)], 28.0)
    assert plausible([cumulative(5000, 0, 0, 0)], None)
