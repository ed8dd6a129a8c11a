"""A comparison read again from what it wrote, and its figures drawn again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from experiments.compare.report import COMPARED, save_comparison_figures
from experiments.compare.rows import NO_START_UP
from experiments.figures import SCREEN, Form
from experiments.run_tables import read_runs
from experiments.sweep_rows import ROWS
from twin.datafile import read_json


def plot_comparison(directory: Path, form: Form = SCREEN) -> list[Path]:
    """Draw the figures of the comparison in *directory* again, from its files alone. Raise
    SpecError where one is missing or damaged.
    """
    done = finished(read_results(directory))
    if done.empty:
        return []
    rows = list(details_of(directory, done).values())
    return save_comparison_figures(rows, done, directory, form)


def finished(results: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of *results* that ended well, without those that only explain others."""
    return results[(results["error"] == "") & ~results["policy"].str.endswith(NO_START_UP)]


def read_results(directory: Path) -> pd.DataFrame:
    """Return the table of the comparison in *directory*. Raise SpecError if it is none."""
    return read_runs(directory / "results.csv", COMPARED)


def details_of(directory: Path, done: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return by run id what the files of single runs hold beside the table; those that are gone, or
    older than that, are left out.
    """
    found = {}
    for run_id in done["run_id"]:
        path = directory / ROWS / f"{run_id}.json"
        if path.exists():
            content = read_json(path)
            row = content.get("row") if isinstance(content, dict) else None
            found[str(run_id)] = row if isinstance(row, dict) else {}
    return found
