"""Explains the misses of a finished run from its directory, and what would have become of it
without start-up, with perfect measuring, or with GPUs without end. Tables and a figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from experiments.compare.rows import told_peaks, without_start_up
from experiments.config import RunConfig, config_from_json
from experiments.figures import SCREEN, SERIES, Form, grid_of, our_style, save_figure
from experiments.output import write_csv, write_text
from experiments.processes import run_tasks
from experiments.run import simulate
from experiments.run_files import RUN, RunRecords, read_about, read_run, seen_from, window_of
from experiments.scores.misses import CAUSES, MEANING, Misses, misses_of
from experiments.sources import Sources, read_sources
from experiments.tables import plain_table, print_table
from twin.spec import SpecError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

MISSES_CSV, MISSES_MD, FIGURE = "misses.csv", "misses.md", "misses"
COUNTERFACTUALS = ("no start-up", "perfect measuring", "unlimited GPUs")
UNLIMITED = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """The misses of a run, the attainment of each counterfactual (none if they were not asked for),
    what was written, and what the data of the run leave open.
    """

    misses: Misses
    counterfactuals: Mapping[str, float]
    paths: list[Path]
    notes: tuple[str, ...]


def explain_run(
    directory: Path,
    *,
    counterfactuals: bool,
    jobs: int | None,
    console: Console | None,
    form: Form = SCREEN,
) -> Explained:
    """Explain the run in *directory* and write the answer there. Raise SpecError where there is
    none.
    """
    config, misses = misses_of_directory(directory)
    found = _counterfactuals(config, jobs=jobs) if counterfactuals else {}
    paths = _write(misses, found, directory, form)
    if console is not None:
        for title, headings, cells in _tables(misses, found):
            print_table(console, plain_table(title, headings, cells))
            console.print()
    notes = tuple(read_about(directory).get("notes", ()))
    return Explained(misses=misses, counterfactuals=found, paths=paths, notes=notes)


def misses_of_directory(
    directory: Path, records: RunRecords | None = None
) -> tuple[RunConfig, Misses]:
    """Return the configuration of the run in *directory*, and its misses. Raise SpecError where its
    files or its data are not what they were. *records*, if any, are those of the run, read already.
    """
    if not (directory / RUN).is_file() and (directory / "runs").is_dir():
        raise SpecError(
            f"{directory}: expected one run (inferno sim --out), found many; "
            f"inferno report {directory} shows why each missed"
        )
    if not directory.is_dir():
        found = "a file" if directory.exists() else "nothing"
        raise SpecError(f"{directory}: expected the directory of a run, found {found}")
    about = read_about(directory)
    config = _config(about, directory)
    # What decided stands in the records: a policy of one's own need not be here, nor run again.
    sources = read_sources(replace(config, policy="static", policy_options=()))
    records = records or read_run(directory)
    if records.names != sources.names:
        raise SpecError(f"{directory}: expected the data of the run, found other servers in it now")
    misses = misses_of(
        sources,
        requests=records.requests,
        pods=records.pods,
        cuts=records.cuts,
        window=window_of(about, directory),
    )
    return config, misses


def _config(about: Mapping[str, Any], directory: Path) -> RunConfig:
    try:
        config = config_from_json(about["config"])
        scenario = Path(config.scenario)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SpecError(
            f"{directory / RUN}: config: expected what inferno sim wrote, found another: {error!r}"
        ) from None
    return replace(
        config,
        data=seen_from(directory, config.data),
        truth=config.truth and seen_from(directory, config.truth),
        # Else it is the name of one of ours.
        scenario=str(seen_from(directory, scenario)) if scenario.suffix else config.scenario,
    )


def counterfactual(config: RunConfig, what: str) -> Sources:
    """Return the sources of *config* in a world in which *what* holds."""
    if what == "perfect measuring":
        config = replace(config, metrics="labels")
    sources = told_peaks(read_sources(config))
    if what == "no start-up":
        return without_start_up(sources)
    if what == "unlimited GPUs":
        plenty = dict.fromkeys(sources.world.capacity, UNLIMITED)
        return replace(
            sources,
            world=replace(sources.world, capacity=plenty),
            system=replace(sources.system, capacity=plenty),
            capacity_events=(),
            node_failures=(),
        )
    return sources


def _attainment(task: tuple[RunConfig, str]) -> float:
    return float(simulate(counterfactual(*task)).summary["attainment"])


def _counterfactuals(config: RunConfig, *, jobs: int | None) -> dict[str, float]:
    tasks = [(config, what) for what in COUNTERFACTUALS]
    found = {}
    for outcome in run_tasks(_attainment, tasks, jobs=jobs or 1):
        if outcome.value is None:
            raise SpecError(f"{COUNTERFACTUALS[outcome.index]}: {outcome.error}")
        found[COUNTERFACTUALS[outcome.index]] = outcome.value
    return found


def _write(misses: Misses, found: Mapping[str, float], out: Path, form: Form) -> list[Path]:
    table = pd.DataFrame(misses.points, columns=list(CAUSES))
    table.insert(0, "server", list(misses.names))
    write_csv(out / MISSES_CSV, table)
    parts = ["# Why requests were missed", ""]
    for title, headings, cells in _tables(misses, found):
        parts += [title, "", "| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
        parts += ["| " + " | ".join(line) + " |" for line in cells]
        parts.append("")
    parts += [f"- {cause}: {MEANING[cause]}" for cause in CAUSES]
    write_text(out / MISSES_MD, "\n".join(parts) + "\n")
    figures = save_figure(draw_misses(misses, form), out / FIGURE, form)
    return [out / MISSES_CSV, out / MISSES_MD, *figures]


def _tables(
    misses: Misses, found: Mapping[str, float]
) -> list[tuple[str, list[str], list[list[str]]]]:
    points = misses.points
    lines = [
        [name, *(f"{value:.2f}" if value else "" for value in row), f"{row.sum():.2f}"]
        for name, row in zip(misses.names, points, strict=True)
        if row.sum() > 0.0
    ]
    total = points.sum(axis=0)
    lines.append(["all", *(f"{value:.2f}" for value in total), f"{total.sum():.2f}"])
    share = f"{100 * misses.attainment:.1f} %" if misses.scored.sum() else "not known: no requests"
    title = f"attainment {share}; points of it lost, by first cause"
    tables = [(title, ["server", *CAUSES, "sum"], lines)]
    if found:
        base = misses.attainment
        cells = [
            [what, f"{100 * share:.1f}", f"{100 * (share - base):+.1f}"]
            for what, share in found.items()
        ]
        tables.append(("the same run again, but with", ["", "within SLO [%]", "points"], cells))
    return tables


def draw_misses(misses: Misses, form: Form = SCREEN) -> Figure:
    """Draw the points lost by each server, the worst first, in the colours of their causes."""
    points = misses.points
    order = [int(row) for row in np.argsort(-points.sum(axis=1)) if points[row].sum() > 0.0][:20]
    grid = grid_of(
        1,
        panel_in=(5.5, 1.4 + 0.22 * max(len(order), 1)),
        beside_in=2.0,
        above_in=0.0,
        keys=len(CAUSES),
        form=form,
    )
    with our_style():
        ax = grid.figure.subplots()
        left = np.zeros(len(order))
        for number, cause in enumerate(CAUSES):
            width = points[order, number]
            ax.barh(range(len(order)), width, left=left, color=SERIES[number], label=cause)
            left += width
        ax.set_yticks(range(len(order)), [misses.names[row] for row in order])
        ax.invert_yaxis()
        # Names of servers leave little of a column: the label is longer than the axis.
        between = " " if form.width_in is None else "\n"
        ax.set_xlabel(f"points of overall{between}attainment lost")
        grid.figure.legend(frameon=False, **grid.legend)
    return grid.figure
