"""Whole runs of the loop on the twin, held to the checkers of the twin."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.config import RunConfig
from experiments.run import run
from twin.spec import SERVED_OVERHEAD_MS
from twin.testing.checkers import check_records


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["disturbed", "shortage", "failure"])
def test_no_run_loses_a_request_or_turns_time_back(repository: Path, scenario: str) -> None:
    """A restless policy, a shortage and a lost node, as users run them: what is saved of them must
    be consistent.
    """
    config = RunConfig(
        data=repository / "sample-data" / "small", scenario=scenario, hours=0.5, period_s=30.0
    )
    result = run(config)
    check_records(
        result.requests,
        result.pods,
        config.duration_s,
        overhead_s=SERVED_OVERHEAD_MS / 1000.0,
    )
    assert len(result.requests["id"]) > 1000
    assert len(result.pods["pod"]) > 4
