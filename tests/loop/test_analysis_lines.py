"""The engine of `inferno analyze`: what a line may say, and what becomes of lines that say
something else.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from loop.schema.analysis_lines import analyze_lines

GOOD: dict[str, Any] = {
    "alpha": 6.49,
    "beta": 0.0219,
    "gamma": 4.96e-5,
    "avgIn": 512,
    "avgOut": 256,
    "maxBatch": 64,
    "maxQueue": 0,
    "maxNumTokens": 0,
}


def answer(**fields: Any) -> dict[str, Any]:
    """Return the answer to GOOD with other *fields*; one that is None is left out."""
    line = {key: value for key, value in {**GOOD, **fields}.items() if value is not None}
    [found] = analyze_lines([json.dumps(line)])
    parsed: dict[str, Any] = json.loads(found.text)
    assert found.malformed == (set(parsed) == {"error"} and parsed["error"].startswith("line 1: "))
    return parsed


def test_a_rate_is_analysed_and_targets_are_sized() -> None:
    """The keys are those of the existing analyzer's test data."""
    common = {"chunks", "rateMin", "rateMax"}
    assert answer(rate=2.0).keys() == common | {"analyze"}
    sized = answer(targets={"itl": 9.0})
    assert sized.keys() == common | {"size", "sizeRates", "sizeAchieved"}
    assert sized["sizeAchieved"]["itl"] == pytest.approx(9.0, rel=1e-5)
    assert answer(rate=2.0, targets={"itl": 12.0}).keys() == common | {
        "analyze",
        "size",
        "sizeRates",
        "sizeAchieved",
    }


def test_a_case_of_the_test_data_may_be_fed_as_it_is() -> None:
    """With its "in" around the parameters."""
    [line] = analyze_lines([json.dumps({"id": 7, "in": {**GOOD, "rate": 2.0}})])
    assert json.loads(line.text) == answer(rate=2.0)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "expected JSON, found a fault in column 2 (Expecting property name"),
        ("[1, 2]", "expected an object {…}, found [1, 2]"),
        ("[" * 100_000, "expected JSON, found"),
        ('{"alpha": 1, "Alpha": 2}', "expected every key once, found 'Alpha' twice"),
        (json.dumps({**GOOD, "rate": "fast"}), "rate: expected a number, found 'fast'"),
        (json.dumps({**GOOD, "rate": True}), "rate: expected a number, found true"),
        ('{"alpha": NaN}', "alpha: expected a number, found NaN"),
        (
            json.dumps({**GOOD, "maxBatch": 2.5, "rate": 1}),
            "maxBatch: expected a whole number, found 2.5",
        ),
        (
            json.dumps({key: GOOD[key] for key in GOOD if key != "beta"}),
            "beta: expected a number, found nothing",
        ),
        (json.dumps({**GOOD, "targets": [1]}), "targets: expected an object {…}, found [1]"),
        (
            json.dumps({**GOOD, "targets": {"itl": "9"}}),
            "targets.itl: expected a number, found '9'",
        ),
        (json.dumps(GOOD), "expected a rate or targets, found neither"),
    ],
)
def test_a_malformed_line_is_answered_and_does_not_stop_the_stream(line: str, says: str) -> None:
    """The answer names the line; those around it are answered too, blank ones are passed over."""
    good = json.dumps({**GOOD, "rate": 2.0})
    found = list(analyze_lines([good, "  ", line, good]))
    assert [one.malformed for one in found] == [False, True, False]
    assert says in json.loads(found[1].text)["error"]
    assert json.loads(found[1].text)["error"].startswith("line 3: ")
    assert found[0].text == found[2].text


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"maxBatch": 0}, "maxBatch"),
        ({"maxBatch": 10**9}, "maxBatch"),
        ({"maxQueue": -1}, "maxQueue"),
        ({"maxNumTokens": -1}, "maxNumTokens"),
        ({"avgIn": -1}, "avgIn"),
        ({"avgOut": 0.5}, "avgOut"),
        ({"alpha": -1}, "alpha"),
        ({"alpha": 0, "beta": 0, "gamma": 0}, "expected one above 0"),
    ],
)
def test_a_replica_that_cannot_be_is_an_answer(fields: dict[str, Any], says: str) -> None:
    """The line is well formed: the original answers it with an error as well."""
    found = answer(**fields, rate=1.0)
    assert says in found["error"]


def test_what_cannot_be_analysed_or_sized_says_so_beside_the_range() -> None:
    """Rates below 0, one state only, targets out of reach: the range is an answer all the same."""
    assert "analyzeError" in answer(rate=0.0)
    assert "analyzeError" in answer(rate=1.0, maxBatch=1)
    assert "sizeError" in answer(targets={"itl": 12.0}, maxBatch=1)
    assert "sizeError" in answer(targets={"itl": -1.0})
    assert answer(targets={"itl": 1.0})["sizeError"].startswith("itl 1 ms cannot be met: 6.")


def test_a_queue_bound_and_a_token_budget_may_be_left_out() -> None:
    """They have defaults in the original too."""
    assert answer(rate=2.0, maxQueue=None, maxNumTokens=None) == answer(rate=2.0, maxNumTokens=8192)
