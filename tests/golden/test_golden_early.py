"""The optimizer of mid 2025 against its golden file: candidates, and allocations of the greedy
solver.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from loop.optimizer.cache import SizingCache
from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.go_2025 import GO_2025
from loop.optimizer.table import GOOD
from loop.schema.optimizer_json import optimize_json
from loop.schema.reading import parse_system
from tests.golden.golden_files import TOLERANCE, differences, golden_cases

# The others are integer programs that timed out, and whose answers were mapped back wrongly.
CASES = golden_cases("*early-v*.json", only=lambda name: not name.endswith(("-milp", "-multi")))
BEST = {"sample-large-lim": 25480.0, "sample-large-unl": 21133.0}
FIGURES = ("accelerator", "numReplicas", "maxBatch", "cost", "itlAverage")


@pytest.mark.parametrize("case", CASES)
def test_early_candidates_are_those_of_the_original(case: dict[str, Any]) -> None:
    """All sizes with a batch above 1: below that the figures do not depend on the rate, and
    rounding decides there.
    """
    data = parse_system({"system": case["system"]}, source=case["id"], level="go")
    table = GO_2025.size(
        data,
        OptimizerSettings(rules=GO_2025),
        servers=list(data.servers.values()),
        cache=SizingCache(),
    )
    for i, name in enumerate(table.servers):
        rows = [
            row
            for row in range(table.start[i], table.start[i + 1])
            if table.verdict[row] == GOOD and table.columns.max_batch[row] > 1
        ]
        found = {table.candidate(row).accelerator: (row, table.candidate(row)) for row in rows}
        golden = {row[0]: row[1:] for row in case["candidates"].get(name) or [] if row[2] > 1}
        assert found.keys() == golden.keys(), name
        for accelerator, (replicas, batch, cost, value, itl, wait, rho, rpm) in golden.items():
            k, mine = found[accelerator]
            means = table.means(np.array([k]))
            # 32-bit rounding moves the largest counts by a replica.
            assert mine.replicas == pytest.approx(replicas, rel=3e-4, abs=0)
            assert mine.max_batch == batch
            for ours, theirs in (
                (mine.cost_cents_per_h, cost),
                (mine.value, value),
                (mine.rate_max_rpm, rpm),
            ):
                assert ours == pytest.approx(theirs, rel=3e-4)
            assert means.itl[0] == pytest.approx(itl, rel=TOLERANCE)
            # Waits are differences of large numbers in the original.
            assert means.ttft[0] == pytest.approx(wait, rel=5e-4, abs=2e-5 * itl * 1000.0)
            assert means.rho[0] == pytest.approx(rho, rel=3e-4)


@pytest.mark.parametrize("case", CASES)
def test_early_greedy_answers_as_the_original_did(case: dict[str, Any]) -> None:
    """Older messages keep their answers, unlimited and limited."""
    answer = optimize_json({"system": case["system"]}, rules=GO_2025, source=case["id"])
    found = {
        name: {key: row[key] for key in FIGURES} for name, row in answer["allocations"].items()
    }
    assert any(
        not differences(
            found,
            {
                name: {key: row[key] for key in FIGURES}
                for name, row in outcome["allocations"].items()
            },
        )
        for outcome in case["outcomes"]
    )


@pytest.mark.parametrize("case", golden_cases("*early-v*.json", only=BEST.__contains__))
def test_early_exact_finds_the_true_optimum(case: dict[str, Any]) -> None:
    """What lp_solve missed within its minute: the cost of the June 2025 large sample."""
    answer = optimize_json(
        {"system": case["system"]}, solver="exact", rules=GO_2025, source=case["id"]
    )
    assert answer["totalCost"] == pytest.approx(BEST[case["id"]])
