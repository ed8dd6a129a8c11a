"""The request record and its log."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest

from twin.request import REASONS, Outcome, Request, RequestLog


def make_request(number: int, *, arrival_s: float = 1.5) -> Request:
    """Return a request of server 3 with 100 + number prompt tokens and 7 output tokens."""
    request = Request(id=number, prompt_tokens=100 + number, output_tokens=7, arrival_s=arrival_s)
    request.server_index = 3
    return request


def test_the_log_returns_what_was_recorded_in_columns() -> None:
    """Every score is computed from these columns."""
    log = RequestLog()
    finished, rejected, failed, unfinished = (make_request(number) for number in range(4))
    finished.first_token_s, finished.preemptions = 2.25, 70_000
    unfinished.first_token_s = 3.0
    log.add_finished(finished, 4.5)
    log.add_rejected(rejected, 1.5, "queue_full")
    log.add_failed(failed, 2.0, "crashed")
    log.add_unfinished(unfinished)
    frame = log.frame()
    assert len(log) == 4
    assert frame["id"].tolist() == [0, 1, 2, 3]
    assert frame["server"].tolist() == [3, 3, 3, 3]
    assert frame["prompt_tokens"].tolist() == [100, 101, 102, 103]
    assert frame["output_tokens"].tolist() == [7, 7, 7, 7]
    assert frame["preemptions"].tolist() == [70_000, 0, 0, 0]
    assert frame["arrival_s"].tolist() == [1.5] * 4
    np.testing.assert_array_equal(frame["first_token_s"], [2.25, np.nan, np.nan, 3.0])
    np.testing.assert_array_equal(frame["finish_s"], [4.5, 1.5, 2.0, np.nan])
    assert [Outcome(code) for code in frame["outcome"]] == [
        Outcome.FINISHED,
        Outcome.REJECTED,
        Outcome.FAILED,
        Outcome.UNFINISHED,
    ]
    assert [REASONS[code] for code in frame["reason"]] == ["", "queue_full", "crashed", ""]


def test_a_frame_is_a_copy_that_later_records_do_not_disturb() -> None:
    """A frame taken in mid-run must neither change nor keep the log from growing."""
    log = RequestLog()
    log.add_finished(make_request(1), 2.0)
    before = log.frame()
    log.add_finished(make_request(2), 3.0)
    assert before["id"].tolist() == [1]
    assert log.frame()["id"].tolist() == [1, 2]


def test_an_empty_log_has_all_columns() -> None:
    """A run without a finished request is scored, too."""
    assert {name: column.size for name, column in RequestLog().frame().items()} == dict.fromkeys(
        (
            *("server", "id", "prompt_tokens", "output_tokens", "preemptions"),
            *("arrival_s", "first_token_s", "finish_s", "outcome", "reason"),
        ),
        0,
    )


def test_a_finished_request_takes_at_most_a_hundred_bytes() -> None:
    """A simulated day is tens of millions of requests; the buffer's spare room counts."""
    log = RequestLog()
    for number in range(10_000):
        log.add_finished(make_request(number), 9.0)
    assert log.nbytes / len(log) <= 100


def test_an_unknown_reason_is_an_error() -> None:
    """A misspelt reason would vanish into a code that nobody can read."""
    with pytest.raises(KeyError):
        RequestLog().add_rejected(make_request(1), 2.0, "queue-full")


def test_a_restarted_request_keeps_its_arrival_and_forgets_its_tokens() -> None:
    """After a crash the client still waits since its arrival, and gets the first token again from
    another replica.
    """
    request = make_request(1)
    request.generated, request.context, request.admitted, request.preemptions = 5, 106, True, 2
    request.first_token_s = request.last_token_s = 2.0
    request.restart()
    assert (request.generated, request.context, request.admitted) == (0, 0, False)
    assert isnan(request.first_token_s)
    assert isnan(request.last_token_s)
    assert (request.arrival_s, request.preemptions) == (1.5, 2)


@pytest.mark.parametrize(("prompt_tokens", "output_tokens"), [(0, 1), (1, 0)])
def test_a_request_has_tokens_on_both_sides(prompt_tokens: int, output_tokens: int) -> None:
    """An empty prompt or answer has no first token; who draws token counts must draw at least
    one.
    """
    with pytest.raises(AssertionError, match="must be >= 1, got 0"):
        Request(id=1, prompt_tokens=prompt_tokens, output_tokens=output_tokens, arrival_s=0.0)
