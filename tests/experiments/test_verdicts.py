"""A request is met, missed or left out exactly as the definitions of the scores say."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.scores.verdicts import LEFT_OUT, MET, MISSED, judge
from loop.spec import SloTarget
from tests.experiments.request_rows import columns, failed, finished, rejected, unfinished

BOTH = SloTarget(model="m", slo_ttft_ms=500.0, slo_itl_ms=20.0)
END_S = 100.0


def verdict(row: dict[str, float], target: SloTarget | None = BOTH) -> int:
    """Judge one request of a run that ended at END_S."""
    return int(judge(columns([row]), [target], end_s=END_S)[0])


@pytest.mark.parametrize(
    ("ttft_s", "itl_s", "expected"),
    [(0.4, 0.019, MET), (0.5, 0.019, MET), (0.51, 0.019, MISSED), (0.4, 0.021, MISSED)],
)
def test_a_finished_request_is_met_when_both_means_are_within_target(
    ttft_s: float, itl_s: float, expected: int
) -> None:
    """Both targets bind, and a figure exactly on its target is within it."""
    assert verdict(finished(0, 0.0, ttft_s=ttft_s, itl_s=itl_s, out=101)) == expected


def test_itl_is_the_mean_over_the_tokens_after_the_first() -> None:
    """Dividing by all tokens would flatter short outputs: (last − first)/(out − 1) is the
    definition.
    """
    assert verdict(finished(0, 0.0, ttft_s=0.1, itl_s=0.0205, out=11)) == MISSED


def test_a_single_token_has_no_itl_to_miss() -> None:
    """With one output token there is no interval between tokens, so the ITL target counts as
    met.
    """
    assert verdict(finished(0, 0.0, ttft_s=0.1, itl_s=9.0, out=1)) == MET


@pytest.mark.parametrize("target", [None, SloTarget(model="m")])
def test_a_target_that_is_not_set_is_met(target: SloTarget | None) -> None:
    """A server without targets must not be scored against zero."""
    assert verdict(finished(0, 0.0, ttft_s=99.0, itl_s=9.0, out=5), target) == MET


@pytest.mark.parametrize("row", [rejected(0, 1.0), failed(0, 1.0)])
@pytest.mark.parametrize("target", [None, BOTH])
def test_rejected_and_failed_requests_are_missed(
    row: dict[str, float], target: SloTarget | None
) -> None:
    """Turning requests away must never look better than serving them late."""
    assert verdict(row, target) == MISSED


def test_an_unfinished_request_is_missed_only_when_a_target_is_broken_already() -> None:
    """The end of the run cuts some requests off: what cannot be known is left out, what is certain
    is counted.
    """
    assert verdict(unfinished(0, 99.8, out=10)) == LEFT_OUT
    assert verdict(unfinished(0, 99.4, out=10)) == MISSED  # 0.6 s without a first token
    assert verdict(unfinished(0, 99.0, first_s=99.2, out=1000)) == LEFT_OUT
    assert verdict(unfinished(0, 90.0, first_s=91.0, out=1000)) == MISSED  # TTFT of 1 s
    # After 1 s on 10 tokens the mean of the 9 intervals is above 20 ms whatever comes; on 1000 it
    # may still be below.
    assert verdict(unfinished(0, 98.9, first_s=99.0, out=10)) == MISSED


def test_a_throughput_target_is_missed_by_the_requests_of_a_minute_that_made_too_few_tokens() -> (
    None
):
    """slo-tps is a target per minute; a request belongs to the minute it arrived in."""
    rows = columns([finished(0, t, ttft_s=0.1, itl_s=0.01, out=5) for t in (0.0, 61.0)])
    target = SloTarget(model="m", slo_tps=100.0)
    verdicts = judge(rows, [target], end_s=END_S, tps_missed=np.array([False, True]))
    assert verdicts.tolist() == [MET, MISSED]
