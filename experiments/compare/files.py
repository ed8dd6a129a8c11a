"""A comparison read again from what it wrote, and its figures drawn again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from experiments.compare.report import save_comparison_figures
from experiments.compare.rows import NO_START_UP
from experiments.figures import SCREEN, Form
from experiments.sweep_rows import ROWS
from twin.datafile import read_json
from twin.spec import SpecError


def plot_comparison(directory: Path, form: Form = SCREEN) -> list[Path]:
    """Draw the figures of the comparison in *directory* again, from its files alone. Raise
    SpecError where one is missing or damaged.
    """
    done = finished(read_table(directory / "results.csv"))
    if done.empty:
        return []
    rows = list(details_of(directory, done).values())
    return save_comparison_figures(rows, done, directory, form)


def finished(results: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of *results* that ended well, without those that only explain others."""
    return results[(results["error"] == "") & ~results["policy"].str.endswith(NO_START_UP)]


def read_table(path: Path) -> pd.DataFrame:
    """Return the table of runs in *path*. Raise SpecError if it is none."""
    try:
        results = pd.read_csv(path, dtype=dict.fromkeys(("run_id", "policy", "error"), "str"))
        results["error"] = results["error"].fillna("")
        results[["policy", "scenario", "seed", "attainment", "cost_usd_per_h", "run_id"]]
    except (OSError, ValueError, KeyError) as error:
        what = " ".join(str(error).split())[:100]
        found = f"a table without {what}" if isinstance(error, KeyError) else what
        raise SpecError(f"{path}: expected the results of runs, found {found}") from None
    return results


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
