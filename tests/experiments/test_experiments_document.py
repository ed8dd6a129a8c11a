"""docs/experiments.md against what runs and sweeps write: every figure and file is named, its
examples run.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments import RunConfig, SweepConfig, run, sweep, write_run
from experiments.config import SAMPLE_DATA
from experiments.executor import LocalProcesses

TINY = RunConfig(data=SAMPLE_DATA / "small", scenario="ramp", hours=0.05)


@pytest.fixture
def document(repository: Path) -> str:
    """Return the text."""
    return (repository / "docs" / "experiments.md").read_text(encoding="utf-8")


def test_every_figure_of_a_summary_is_explained(document: str) -> None:
    """A column that nobody defines is read as whatever the reader hopes."""
    summary = run(TINY).summary
    explained_by_family = re.compile(
        r"(ttft|itl|e2e)_ms_(mean|p50|p90|p95|p99)|accelerator_hours_by_type|servers"
    )
    unexplained = [
        name
        for name in summary
        if not explained_by_family.fullmatch(name) and f"`{name}`" not in document
    ]
    assert unexplained == []


@pytest.mark.slow
def test_every_file_of_a_run_and_a_sweep_is_named(document: str, tmp_path: Path) -> None:
    """What lies in a directory should not need the source to be understood."""
    names = {path.name for path in write_run(run(TINY), tmp_path / "run")}
    assert [name for name in sorted(names) if f"`{name}`" not in document] == []
    sweep(SweepConfig(base=TINY, seeds=1), tmp_path / "sweep", executor=LocalProcesses(jobs=1))
    tables = [
        path.name for path in (tmp_path / "sweep").iterdir() if path.suffix in (".parquet", ".csv")
    ]
    assert [name for name in tables if f"`{name}`" not in document] == []


@pytest.mark.slow
def test_the_examples_run(document: str, tmp_path: Path) -> None:
    """As they stand, but on the small data and for minutes instead of hours."""
    examples = re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL)
    assert len(examples) == 2
    for number, example in enumerate(examples):
        text = example.replace("hours=1.0", "hours=0.05, data=SAMPLE_DATA / 'small'")
        text = text.replace("seeds=5", "seeds=1").replace("period=(30.0, 60.0)", "period=(30.0,)")
        assert text != example
        exec(
            compile(text, f"example {number}", "exec"),
            {"out": tmp_path / str(number), "SAMPLE_DATA": SAMPLE_DATA},
        )
        assert any((tmp_path / str(number)).iterdir())
