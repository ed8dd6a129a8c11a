"""The pictures of the pages show what their commands give today; `make figures` draws them anew."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from experiments import run
from experiments.validation.sweeps import PointFit, predictions
from twin.spec import LatencyModel

AGAIN = "draw the pictures again: make figures"


@pytest.fixture(scope="module")
def figures(repository: Path) -> ModuleType:
    """Return docs/figures.py as a module."""
    spec = importlib.util.spec_from_file_location(
        "docs_figures", repository / "docs" / "figures.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # data classes look themselves up there
    spec.loader.exec_module(module)
    return module


def noted(figures: ModuleType, name: str) -> dict[str, Any]:
    """Return what stands beside a picture."""
    found: dict[str, Any] = json.loads((figures.IMAGES / f"{name}.json").read_text())
    return found


def test_every_picture_of_a_page_says_what_it_was_made_of(
    figures: ModuleType, repository: Path
) -> None:
    """A picture that nobody can make again is a claim without a proof."""
    pages = [repository / "README.md", *(repository / "docs").glob("*.md")]
    shown = {
        Path(picture).stem
        for page in pages
        for picture in re.findall(r"!\[[^]]*\]\(([^)]*\.png)\)", page.read_text(encoding="utf-8"))
    }
    assert shown == {path.stem for path in figures.IMAGES.glob("*.png")}
    assert shown == {path.stem for path in figures.IMAGES.glob("*.json")}


@pytest.mark.slow
def test_the_timeline_of_the_readme_is_that_of_its_command(
    figures: ModuleType, repository: Path
) -> None:
    """It showed 78.1 % while the command below it gave 82.0 %."""
    told = noted(figures, "ramp")
    assert f"`{told['command']}`" in (repository / "README.md").read_text(encoding="utf-8")
    assert told["inputs"] == figures.digest([figures.RAMP]), AGAIN
    now = json.loads(json.dumps(figures.ramp_numbers(run(figures.RAMP).summary)))
    assert now["servers"] == pytest.approx(told["numbers"].pop("servers"), abs=5e-4), AGAIN
    del now["servers"]
    assert now == pytest.approx(told["numbers"], rel=1e-3), AGAIN


def test_the_command_of_the_readme_is_the_run_that_was_drawn(figures: ModuleType) -> None:
    """The picture is drawn through Python, the reader types the command."""
    words = figures.RAMP_COMMAND.split()
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert figures.RAMP.data == figures.SAMPLE_DATA / Path(options.pop("--data")).name
    assert figures.RAMP.scenario == options.pop("--scenario")
    assert figures.RAMP.hours == float(options.pop("--hours"))
    assert options == {}


@pytest.mark.slow
def test_a_point_of_the_headroom_is_that_of_a_run_today(figures: ModuleType) -> None:
    """All 36 would take minutes; a change of the optimizer or the twin shows in one, and in the
    timeline above.
    """
    load, headroom, seed = 0, 0.1, 1
    told = noted(figures, "headroom")
    assert told["inputs"] == figures.digest(
        [figures.headroom_config(one, 0.1, 1) for one in figures.LOADS]
    ), AGAIN
    of = figures.LOADS[load]
    (point,) = [
        row
        for row in told["numbers"]
        if (row["load"], row["headroom"], row["seed"]) == (of.label, headroom, seed)
    ]
    summary = run(figures.headroom_config(of, headroom, seed)).summary
    assert summary["attainment"] == pytest.approx(point["attainment"], abs=5e-4), AGAIN
    assert summary["cost_usd_per_h"] == pytest.approx(point["cost_usd_per_h"], rel=1e-3), AGAIN


@pytest.mark.parametrize("at", [5, 70])
def test_points_of_the_validation_are_those_of_its_fits(figures: ModuleType, at: int) -> None:
    """The fits take minutes, so they are taken as noted; what they predict is asked again."""
    told = noted(figures, "validation")
    assert told["inputs"] == figures.digest([], [figures.SWEEPS]), AGAIN
    point = told["numbers"]["steps"][at]
    named = [(dataset, split) for dataset, _, split in figures.VALIDATED]
    dataset, split = point.pop("dataset"), point.pop("split")
    fit = told["numbers"]["fits"][named.index((dataset, split))]
    found = PointFit(**{**fit, "latency_model": LatencyModel(**fit["latency_model"])})
    (now,) = [
        asdict(each)
        for each in predictions(dataset, split, found)
        if (each.shape, each.rate_rps) == (point["shape"], point["rate_rps"])
    ]
    assert now.pop("shape") == point.pop("shape")
    assert now == pytest.approx(point, rel=1e-6), AGAIN
