"""Claims about twin.arrivals.ReplayStream: a trace as a unit process."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.arrivals import ReplayStream

TIMES_S = np.array([0.0, 0.0, 1.0, 4.0, 4.5, 9.0])
SPAN_S = 10.0
RATE_RPS = len(TIMES_S) / SPAN_S


def test_a_trace_at_its_own_rate_gives_back_its_instants():
    """Replay means replay: the same gaps, in the same order, nothing drawn."""
    stream = ReplayStream(TIMES_S, span_s=SPAN_S, repeat=False)
    np.testing.assert_allclose(stream.until(0.0, 100.0, RATE_RPS), TIMES_S, atol=1e-12)
    assert stream.drawn == len(TIMES_S)


def test_a_repeated_trace_begins_again_after_its_span():
    """A run may be longer than the trace."""
    stream = ReplayStream(TIMES_S, span_s=SPAN_S, repeat=True)
    expected = np.concatenate((TIMES_S, TIMES_S + 10.0, TIMES_S[:3] + 20.0))
    np.testing.assert_allclose(stream.until(0.0, 23.0, RATE_RPS), expected, atol=1e-12)


def test_twice_the_rate_halves_the_gaps():
    """Scaling a trace keeps its pattern and presses it together."""
    stream = ReplayStream(TIMES_S, span_s=SPAN_S, repeat=False)
    np.testing.assert_allclose(stream.until(0.0, 100.0, 2.0 * RATE_RPS), TIMES_S / 2.0, atol=1e-12)


@pytest.mark.slow
@given(
    gaps=st.lists(st.floats(0.0, 5.0), min_size=2, max_size=30).filter(
        lambda gaps: sum(gaps) > 0.1
    ),
    cuts=st.lists(st.floats(0.0, 60.0), max_size=10),
    rate=st.floats(0.1, 20.0),
)
def test_every_request_of_a_trace_comes_once_and_in_its_call(
    gaps: list[float], cuts: list[float], rate: float
):
    """Requests on the edge between two intervals are neither lost nor served twice, whatever the
    rounding.
    """
    times = np.concatenate(([0.0], np.cumsum(gaps)))
    span_s = float(times[-1]) * len(times) / (len(times) - 1)
    stream = ReplayStream(times, span_s=span_s, repeat=True)
    edges = [0.0, *sorted(cuts), 60.0]
    parts = [stream.until(a, b, rate) for a, b in pairwise(edges)]
    for (a, b), part in zip(pairwise(edges), parts, strict=True):
        assert np.all((part >= a) & (part < b))
    joined = np.concatenate(parts)
    assert stream.drawn == len(joined)
    numbers = np.arange(len(joined))
    exact = (
        (numbers // len(times) * span_s + times[numbers % len(times)])
        * (len(times) / span_s)
        / rate
    )
    np.testing.assert_allclose(joined, exact, atol=1e-9)
    assert abs(len(joined) - np.sum(exact < 60.0)) <= np.sum(np.abs(exact - 60.0) < 1e-9)
