"""Screenshots of the documents are made here: UPDATE_SNAPSHOTS=1 (or make figures) takes them
anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from experiments import RunConfig, run, write_run
from inferno.web.report import report_of, report_page
from tests.web.browser import chromium, opened

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
SMALL = Path(__file__).resolve().parents[2] / "sample-data" / "small"


def noted(name: str) -> dict[str, Any]:
    """Return what stands beside a picture."""
    found: dict[str, Any] = json.loads((IMAGES / f"{name}.json").read_text(encoding="utf-8"))
    return found


def test_the_report_of_the_documents_is_of_the_run_of_the_readme(tmp_path: Path) -> None:
    """tests/test_pictures.py holds the timeline of that run to what its command gives today; the
    screenshot must be of the same run.
    """
    if os.environ.get("UPDATE_SNAPSHOTS"):
        _take(tmp_path)
    ramp, report = noted("ramp"), noted("report")
    assert report["command"].startswith(ramp["command"])
    assert report["inputs"] == ramp["inputs"], "take it again: make figures"
    del ramp["numbers"]["servers"]
    assert report["numbers"] == pytest.approx(ramp["numbers"]), "take it again: make figures"


def _take(folder: Path) -> None:
    config = RunConfig(data=SMALL, scenario="ramp", hours=0.75)
    write_run(run(config), folder / "ramp")
    report = report_of([folder / "ramp"])
    (folder / "report.html").write_text(report_page(report), encoding="utf-8")
    with (
        chromium() as browser,
        opened(browser, (folder / "report.html").as_uri(), width=1200, height=1150) as (page, _),
    ):
        page.locator("#timelines").scroll_into_view_if_needed()
        page.evaluate("document.getElementById('timelines').scrollIntoView()")
        page.wait_for_selector(".server .main-svg")
        page.locator(".server .figure").nth(1).locator(".main-svg").first.wait_for()
        page.screenshot(path=IMAGES / "report.png")
    (timeline,) = report.timelines
    told = {
        "command": f"{noted('ramp')['command']} --out out/ramp && inferno report out/ramp",
        "inputs": noted("ramp")["inputs"],
        "numbers": {
            "attainment": timeline.attainment,
            "cost_usd_per_h": timeline.cost_usd_per_h,
        },
    }
    text = json.dumps(told, indent=1, ensure_ascii=False)
    (IMAGES / "report.json").write_text(text + "\n", encoding="utf-8")
