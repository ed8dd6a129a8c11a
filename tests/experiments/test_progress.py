"""Whoever waits is told how far it is: a bar on a terminal, a line a run elsewhere, nothing without
a console.
"""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from experiments import RunConfig, SweepConfig, sweep
from experiments.config import SAMPLE_DATA
from experiments.executor import LocalProcesses
from experiments.progress import run_with_progress, sweep_progress

TINY = RunConfig(data=SAMPLE_DATA / "small", scenario="steady", hours=0.02, period_s=20.0)


def test_lines_off_a_terminal_count_and_estimate() -> None:
    """A log of a batch job: reused runs are told once and not counted into the pace."""
    out = io.StringIO()
    with sweep_progress(Console(file=out, width=60), total=4, reused=1) as tell:
        tell("one [alpha]")
        tell("two")
        tell("three")
    lines = out.getvalue().splitlines()
    assert lines[0] == "1 of 4 runs are finished already"
    assert lines[1].startswith("2/4 one [alpha], about ")
    assert lines[1].endswith("s left")
    assert lines[3] == "4/4 three"


@pytest.mark.slow
def test_a_bar_on_a_terminal_ends_full(tmp_path: Path) -> None:
    """For sweeps the runs, for a run the simulated time."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    sweep(
        SweepConfig(base=TINY, seeds=2),
        tmp_path / "sweep",
        executor=LocalProcesses(jobs=1),
        console=console,
    )
    assert "2/2" in out.getvalue()
    _, paths = run_with_progress(TINY, tmp_path / "run", console=console)
    assert "%" in out.getvalue()
    assert all(path.exists() for path in paths)


@pytest.mark.slow
def test_without_a_terminal_a_run_is_silent(tmp_path: Path) -> None:
    """One run has one result, and nothing to say before."""
    out = io.StringIO()
    run_with_progress(TINY, tmp_path / "run", console=Console(file=out))
    assert out.getvalue() == ""


def test_nothing_is_told_without_a_console() -> None:
    """A notebook or a test asks for silence by giving none."""
    with sweep_progress(None, total=2, reused=0) as tell:
        tell("one")
