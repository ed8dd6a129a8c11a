"""Figures again, from the files of a run or a sweep alone."""

from __future__ import annotations

from pathlib import Path

from experiments.run_files import RUN, plot_run
from experiments.sweep import RESULTS_PARQUET, plot_sweep
from twin.spec import SpecError


def plot_directory(directory: Path, *, svg: bool = False) -> list[Path]:
    """Draw the figures of the run or the sweep that was written into *directory*, and return their
    paths; with *svg* as SVG, too.

    Raise SpecError where there is neither, or a file of it is missing or damaged.
    """
    if (directory / RESULTS_PARQUET).exists():
        return plot_sweep(directory, svg=svg)
    if (directory / RUN).exists():
        return plot_run(directory, svg=svg)
    raise SpecError(
        f"{directory}: expected {RESULTS_PARQUET} (of a sweep) or {RUN} (of a run), found neither"
    )
