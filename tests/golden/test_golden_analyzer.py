"""The queueing model and the sizing of one replica against the existing analyzer, through the
engine of the command.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from loop.schema.analysis_lines import analyze_lines
from tests.golden.golden_files import differences, golden_cases

SENSITIVE = 2e-2  # cases marked as sensitive to 32-bit arithmetic, which the original has
ERRORS = ("error", "analyzeError", "sizeError")


@pytest.mark.parametrize("case", golden_cases("*analyzer-analyze*.json"))
def test_analysis_gives_the_figures_of_the_original(case: dict[str, Any]) -> None:
    """The estimate must be the original's, or no parity of decisions means anything."""
    _check(case)


@pytest.mark.parametrize("case", golden_cases("*analyzer-size*.json"))
def test_sizing_gives_the_rates_of_the_original(case: dict[str, Any]) -> None:
    """The highest rate within the targets decides the number of replicas."""
    _check(case)


def _check(case: dict[str, Any]) -> None:
    golden = dict(case["out"])
    [line] = analyze_lines([json.dumps(case["in"])])
    found = json.loads(line.text)
    assert not line.malformed
    for key in ERRORS:
        # Error texts need not match, only that there is one.
        assert (key in found) == (key in golden), (found, golden)
        found.pop(key, None)
        golden.pop(key, None)
    for part in ("analyze", "size"):
        if part in golden:
            # A wait is the difference of large numbers in the original: its error is absolute.
            wait, response = golden[part]["avgWaitTime"], golden[part]["avgRespTime"]
            assert found[part]["avgWaitTime"] == pytest.approx(wait, rel=2e-4, abs=1e-5 * response)
            found[part]["avgWaitTime"] = wait
    tolerance = SENSITIVE if case.get("float32Sensitive") else 2e-4
    assert not differences(found, golden, tolerance=tolerance), case["in"]
