"""Claims about replaying a request log: the times of a hand-made log, the limits, and the
scores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from twin.fit.replay import Replayed, ReplicaLimits, check_fits, replay, score
from twin.fit.request_csv import RequestRows, parse_request_rows
from twin.spec import LatencyModel, SpecError

MODEL = LatencyModel(alpha_ms=10.0, beta_ms=0.1, gamma_ms=0.01)
LIMITS = ReplicaLimits(max_batch=8, token_budget=100)


def log(*requests: tuple[float, int, int, float, float]) -> RequestRows:
    """Return a log of (queued, input, output, first, last)."""
    lines = [",".join(str(value) for value in request) for request in requests]
    header = "queued_s,input_tokens,output_tokens,first_token_s,last_token_s"
    return parse_request_rows("\n".join([header, *lines]), source="log.csv")


def test_a_replay_gives_the_times_that_the_latency_model_gives_by_hand() -> None:
    """The anchor of everything that is fitted: two chunks of a prompt of 150, then two decodes."""
    replayed = replay(log((0, 150, 3, 1, 2)), latency_model=MODEL, limits=LIMITS)
    first_ms = (10 + 10 + 1.0) + (10 + 5 + 1.5)
    decodes_ms = (10 + 0.1 + 1.51) + (10 + 0.1 + 1.52)
    assert replayed.first_token_s[0] == pytest.approx(first_ms / 1e3, rel=1e-12)
    assert replayed.last_token_s[0] == pytest.approx((first_ms + decodes_ms) / 1e3, rel=1e-12)
    assert replayed.preemptions.tolist() == [0]


def test_a_replay_keeps_the_order_of_the_log_and_counts_preemptions() -> None:
    """Two requests that cannot both stay: the later one is preempted and finishes last."""
    limits = ReplicaLimits(max_batch=8, token_budget=100, kv_tokens=64)
    replayed = replay(log((0, 20, 30, 1, 2), (0, 20, 30, 1, 2)), latency_model=MODEL, limits=limits)
    assert replayed.preemptions[0] == 0
    assert replayed.preemptions[1] >= 1
    assert replayed.last_token_s[1] > replayed.last_token_s[0]


def test_scores_are_those_of_the_arithmetic_by_hand() -> None:
    """Errors are signed for means and absolute for single requests, over the chosen rows only."""
    rows = log((0, 1, 2, 1, 2), (10, 1, 2, 12, 14), (20, 1, 2, 99, 99))
    replayed = Replayed(
        first_token_s=np.array([1.5, 12.0, 0.0]),
        last_token_s=np.array([3.0, 13.0, 0.0]),
        preemptions=np.zeros(3, dtype=np.int64),
    )
    found = score(rows, replayed, of=slice(2))
    assert found.requests == 2
    assert found.e2e_error == pytest.approx((3 + 3) / (2 + 4) - 1, abs=1e-15)
    assert found.ttft_error == pytest.approx((1.5 + 2) / (1 + 2) - 1)
    assert found.e2e_mape == pytest.approx((0.5 + 0.25) / 2)


def test_a_request_that_never_fits_is_told_with_its_line() -> None:
    """The replica would reject it; a log that has served it contradicts the limit."""
    rows = log((5, 10, 1, 6, 6), (0, 40, 26, 1, 2))
    limits = ReplicaLimits(max_batch=8, token_budget=100, kv_tokens=64)
    with pytest.raises(SpecError) as caught:
        check_fits(rows, limits)
    assert (
        str(caught.value)
        == "log.csv: line 3: input_tokens + output_tokens: expected <= 65 (kv_tokens + 1), found 66"
    )


def test_a_request_that_just_fits_is_served() -> None:
    """The last token is never written to memory, so a sum of capacity + 1 fits: the check and the
    replica agree.
    """
    rows = log((0, 40, 25, 1, 2))
    limits = ReplicaLimits(max_batch=8, token_budget=100, kv_tokens=79)
    check_fits(rows, limits)
    assert replay(rows, latency_model=MODEL, limits=limits).last_token_s[0] > 0


@pytest.mark.parametrize(
    ("limits", "line"),
    [
        ({"max_batch": 0}, "max_batch: expected a whole number >= 1, found 0"),
        ({"token_budget": -1}, "token_budget: expected a whole number >= 1, found -1"),
        ({"block_size": 0}, "block_size: expected a whole number >= 1, found 0"),
        ({"kv_tokens": 15}, "kv_tokens: expected at least one block of 16, found 15"),
    ],
)
def test_limits_that_let_nothing_run_are_refused(limits: dict[str, Any], line: str) -> None:
    """They come from the command line, so they are bad input and not a bug."""
    with pytest.raises(SpecError) as caught:
        ReplicaLimits(**{"max_batch": 8, "token_budget": 100, **limits})
    assert str(caught.value) == line
