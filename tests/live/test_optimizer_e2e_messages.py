"""Our optimizer in the place of the existing one: what the existing controller was recorded to send
it, and to get.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.go_2025 import GO_2025
from loop.optimizer.rules.go_today import GO_TODAY
from loop.optimizer.rules.ours import OURS
from loop.services.optimizer_app import make_optimizer_app
from tests.live.optimizer_served import TOLERANCE, difference, serving

# The recordings leave the static data out: they are those of the large sample of their time.
STATIC = {
    "early": ("open-early-v0.1.0.json", "sample-large-unl"),
    "late": ("open-optimizer-2.json", "sample-large"),
}
SECOND = {
    "early": OptimizerSettings(solver="greedy", rules=GO_2025),
    "late": OptimizerSettings(solver="greedy", rules=GO_TODAY),
}


@pytest.mark.parametrize("era", ["early", "late"])
def test_the_controller_gets_the_answers_it_got_from_the_existing_optimizer(
    shared: Path, era: str
) -> None:
    """It reads them with Go's types and passes them on to its actuator: form and figures must be
    the same.
    """
    exchanges = recorded(shared / "golden", era)
    with serving(make_optimizer_app(settings=SECOND[era])) as client:
        for asked, status, wanted in exchanges:
            answer = client.post("/optimizeOne", json=asked)
            assert answer.status_code == status
            assert difference(rounded(answer.json()), rounded(wanted)) == ""
    assert len(exchanges) == 2


@pytest.mark.parametrize("key", ["numReplicas", "maxBatch", "avgInTokens", "avgOutTokens"])
def test_whole_numbers_are_written_as_go_reads_them(shared: Path, key: str) -> None:
    """Go refuses 3.0 where it wants an int: the whole answer would be lost."""
    asked, *_ = recorded(shared / "golden", "late")[0]
    for rules in (GO_TODAY, OURS):
        settings = OptimizerSettings(solver="greedy", rules=rules)
        with serving(make_optimizer_app(settings=settings)) as client:
            allocations = client.post("/optimizeOne", json=asked).json()["allocations"]
        assert len(allocations) == 4
        for row in allocations.values():
            assert type({**row, **row["load"]}[key]) is int


def recorded(folder: Path, era: str) -> list[tuple[dict[str, Any], int, dict[str, Any]]]:
    """Return what the optimizer was asked, with the static data, and what it answered: status and
    body.
    """
    name, case_id = STATIC[era]
    (static,) = (
        case["system"]
        for case in json.loads((folder / name).read_text())["cases"]
        if case["id"] == case_id
    )
    rows = json.loads((folder / f"open-e2e-control-loop-{era}.json").read_text())
    asked = [row[2:] for row in rows if row[0] == "optimizer POST"]
    return [
        ({"system": {**static, **body["system"]}}, status, answer) for body, status, answer in asked
    ]


def rounded(answer: dict[str, Any]) -> dict[str, Any]:
    """Return *answer* with waits that are nothing beside the response as 0: they are differences of
    large figures.
    """
    for row in answer["allocations"].values():
        response = row["itlAverage"] * row["load"].get("avgLength", 0.0)
        if row.get("waitAverage", 1.0) < TOLERANCE * response:
            row["waitAverage"] = 0
    return answer


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"arrivalRate": -1},
            "arrivalRate: expected a number >= 0, found -1",
        ),
        (
            {"avgLength": "long"},
            "avgOutTokens: expected a number >= 0, found 'long'",
        ),
        (
            {"arrivalCOV": -1},
            "arrivalCOV: expected a number >= 0, found -1",
        ),
    ],
)
def test_early_messages_too_are_refused_in_one_line(
    shared: Path, change: dict[str, Any], line: str
) -> None:
    """A component of that time sends as much by mistake as one of today."""
    asked, *_ = recorded(shared / "golden", "early")[0]
    asked["system"]["serverData"]["servers"][0]["currentAlloc"]["load"].update(change)
    with serving(make_optimizer_app(settings=SECOND["early"])) as client:
        answer = client.post("/optimizeOne", json=asked)
    assert answer.status_code == 400
    name = asked["system"]["serverData"]["servers"][0]["name"]
    place = f"body: system.serverData.servers[0] {name!r}: currentAlloc.load"
    assert answer.json()["message"] == f"{place}.{line}"


def test_early_batches_are_bounded(shared: Path) -> None:
    """A typing error must not take all memory."""
    asked, *_ = recorded(shared / "golden", "early")[0]
    for row in asked["system"]["modelData"]["models"]:
        row["maxBatchSize"] = 10**9
    with serving(make_optimizer_app(settings=SECOND["early"])) as client:
        answer = client.post("/optimizeOne", json=asked)
    assert answer.status_code == 400
    assert "expected a batch of at most 200000 on " in answer.json()["message"]
