"""The baselines against the tables of the projects that they come from.

The folder is that of the variable POLICY_CASES (../shared/policies if it is not set); a few cases
of our own, in the same form, are always run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.loop.conformance import dynamo, hpa, knative, others
from tests.loop.conformance.checking import Runner, cases_of

HERE = Path(__file__).resolve()
OWN = HERE.parent / "conformance" / "cases"
GIVEN = Path(os.environ.get("POLICY_CASES") or HERE.parents[3] / "shared" / "policies")

RUNNERS: Mapping[str, Runner] = {
    "hpa_replica_calculator.json": hpa.calculator,
    "hpa_reconcile_cpu.json": hpa.reconcile_cpu,
    "hpa_reconcile_metrics.json": hpa.reconcile_metrics,
    "hpa_behavior.json": hpa.behavior,
    "knative_kpa.json": knative.run,
    "dynamo_budget.json": dynamo.budget,
    "dynamo_capacity.json": dynamo.planner,
    "ray_serve.json": others.ray_serve,
    "aibrix.json": others.aibrix,
    "wva_saturation_v1.json": others.wva,
}


def run_all(path: Path) -> tuple[int, list[str]]:
    """Run the cases of *path*; return how many ran, and a line for each that failed."""
    assert path.name in RUNNERS, f"expected a file of {', '.join(RUNNERS)}, found {path.name}"
    run, failures = 0, []
    for case in cases_of(path):
        run += 1
        try:
            RUNNERS[path.name](case)
        except Exception as error:
            failures.append(f"{case['id']}: {type(error).__name__}: {error}")
    return run, failures


@pytest.mark.parametrize("path", sorted(OWN.glob("*.json")), ids=lambda path: path.name)
def test_conformance_with_cases_of_our_own(path: Path) -> None:
    """They stand for the tables where these are not at hand."""
    _, failures = run_all(path)
    assert not failures, "\n".join(failures)


def test_conformance_every_kind_of_file_has_cases_of_our_own() -> None:
    """A rule without any case could be lost in a checkout."""
    assert {path.name for path in OWN.glob("*.json")} == set(RUNNERS)


@pytest.mark.skipif(not GIVEN.is_dir(), reason=f"no folder of cases at {GIVEN}")
@pytest.mark.parametrize(
    "path", sorted(GIVEN.iterdir()) if GIVEN.is_dir() else [GIVEN], ids=lambda path: path.name
)
def test_conformance_with_the_tables_of_the_originals(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A baseline that differs from what people run proves nothing about it."""
    run, failures = run_all(path)
    there = len(cases_of(path))
    with capsys.disabled():
        sys.stdout.write(
            f"\n{path.name}: {run} cases run = {there} in the folder, {len(failures)} failed\n"
        )
    assert run == there
    assert not failures, "\n".join(failures)
