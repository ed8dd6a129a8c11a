"""docs/optimizer-rest.md against the service: its example runs, and its table has all verbs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.ours import OURS
from loop.schema.optimizer_json import BATCH_MAX
from loop.services.optimizer_app import BODY_BYTES_MAX, make_optimizer_app
from tests.live.optimizer_served import serving
from twin.magnitudes import LARGEST_FIGURE, LARGEST_WHOLE


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    """Return the page."""
    return (repository / "docs" / "optimizer-rest.md").read_text(encoding="utf-8")


def test_the_example_gets_the_answer_that_the_page_shows(page: str) -> None:
    """An example that does not run is worse than none."""
    asked, shown = (
        json.loads(block) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    )
    with serving(make_optimizer_app(settings=OptimizerSettings(rules=OURS))) as client:
        found = client.post("/optimizeOne", json=asked).json()
    for row in found["allocations"].values():
        assert row.pop("details")
    assert shortened(found) == shown


def shortened(value: Any) -> Any:
    """Return *value* with figures of three digits."""
    if isinstance(value, dict):
        return {key: shortened(each) for key, each in value.items()}
    return float(f"{value:.3g}") if isinstance(value, float) else value


@pytest.mark.parametrize("stateful", [False, True], ids=["stateless", "stateful"])
def test_the_table_has_exactly_the_verbs_there_are(page: str, stateful: bool) -> None:
    """With their methods, and a star on those that need --stateful."""
    told = set()
    for row in re.findall(r"^\| (`(?:GET|POST) /.*?) \|", page, re.MULTILINE):
        method = re.match(r"`(GET|POST)", row)
        assert method
        if stateful or not row.endswith("*"):
            told |= {(method[1].lower(), path) for path in re.findall(r"(/[^`]+)`", row)}
    app = make_optimizer_app(settings=OptimizerSettings(rules=OURS), stateful=stateful)
    there = {
        (method, path) for path, methods in app.openapi()["paths"].items() for method in methods
    }
    assert told == there - {("get", "/healthz"), ("get", "/readyz")}


def test_the_limits_are_those_that_the_page_names(page: str) -> None:
    """They are in force as they are told."""
    assert f"{BODY_BYTES_MAX // 2**20} MiB" in page
    assert f"{BATCH_MAX:,}" in page
    assert (LARGEST_FIGURE, LARGEST_WHOLE) == (1e12, 2147483647)
    assert "1e12" in page
    assert "2147483647" in page
