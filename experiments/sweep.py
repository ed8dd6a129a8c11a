"""A sweep: a grid of runs times seeds on all cores, resumable, each finished run kept in a file of
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.executor import Executor, Kind, LocalProcesses
from experiments.grid import SweepConfig
from experiments.output import require_writable, whole_file, write_csv, write_text
from experiments.processes import Outcome
from experiments.run import require_decisions, simulate_for_figures
from experiments.run_tables import require_scored_columns
from experiments.sources import read_sources
from experiments.sweep_rows import (
    FAILURES,
    ROWS,
    PlannedRun,
    Row,
    load_rows,
    notes_of,
    results_frame,
    row_of,
    save_row,
    settings_row,
)
from twin.spec import SpecError

# Each process of a sweep imports this module, and needs neither tables nor figures: what makes them
# is imported by the functions that use it.
if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from experiments.figures import Form

Work = Callable[[PlannedRun], Row]

RESULTS_PARQUET, RESULTS_CSV = "results.parquet", "results.csv"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SweepResult:
    """The table of a sweep, or of another question (a row a run, `error` "" where it went well),
    how many rows were reused, what was written.

    failures are the files that hold the tracebacks of the runs that failed this time; notes are
    what the data leave open, a line each.
    """

    results: pd.DataFrame
    reused: int
    paths: list[Path]
    failures: list[Path]
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> int:
        """Return how many runs failed."""
        return len(self.failures)


def sweep(
    grid: SweepConfig,
    out: Path,
    *,
    executor: Executor | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> pd.DataFrame:
    """Run *grid* and return its table, see `sweep_to_directory`."""
    return sweep_to_directory(grid, out, executor=executor, resume=resume, console=console).results


def sweep_to_directory(
    grid: SweepConfig,
    out: Path,
    *,
    executor: Executor | None = None,
    resume: bool = False,
    console: Console | None = None,
    work: Work | None = None,
) -> SweepResult:
    """Run *grid* on *executor* (None: a process a core), with its table, figures and rows of single
    runs in *out*.

    With *resume*, finished runs in *out* whose hash (data, scenario, settings, seed, version) is
    the same are not repeated. A run that fails becomes a row with an error and does not stop the
    others. Progress and tables go to *console*. Raise SpecError, before anything is simulated, for
    bad input, damaged results and an *out* that cannot be written. An interrupt leaves the finished
    runs for a later *resume*. *work* makes the row of one run.
    """
    runs = plan(grid)
    done = finish_runs(
        runs,
        out,
        work=work or simulate_row,
        executor=executor,
        resume=resume,
        console=console,
    )
    results = results_frame(runs, done.rows)
    paths = _write_results(results, out)
    if console:
        _print_tables(console, results, done.failures)
    return SweepResult(
        results=results,
        reused=done.reused,
        paths=paths,
        failures=done.failures,
        notes=notes_of(runs, done.rows),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FinishedRuns:
    """The rows of runs by run id, how many were reused, and the files that tell failures."""

    rows: dict[str, Row]
    reused: int
    failures: list[Path]


def finish_runs(
    runs: Sequence[Kind],
    out: Path,
    *,
    work: Callable[[Kind], Row],
    executor: Executor | None,
    resume: bool,
    console: Console | None,
) -> FinishedRuns:
    """Have *work* make the row of each of *runs* on *executor*, each kept in a file of its own
    under *out*; with *resume*, those that are there are not made again.
    """
    from experiments.progress import sweep_progress

    require_writable(out / ROWS)
    rows = _finished(runs, out) if resume else {}
    missing = [planned for planned in runs if planned.run_id not in rows]
    failures: list[Path] = []
    with (
        sweep_progress(console, total=len(runs), reused=len(rows)) as tell,
        closing((executor or LocalProcesses()).outcomes(work, missing)) as outcomes,
    ):
        for outcome in outcomes:
            planned = missing[outcome.index]
            rows[planned.run_id] = _keep(out, planned, outcome, failures)
            tell(_describe(planned, outcome))
    return FinishedRuns(rows=rows, reused=len(runs) - len(missing), failures=failures)


def plan(grid: SweepConfig) -> list[PlannedRun]:
    """Return the runs of *grid* with all that they name read and checked. Raise SpecError for what
    is wrong.
    """
    runs = []
    for config in grid.runs():
        sources = read_sources(config)
        runs.append(PlannedRun(run_id=sources.run_id, config=sources.config, notes=sources.notes))
    return runs


def plot_sweep(directory: Path, form: Form) -> list[Path]:
    """Draw the figures of a sweep again, from its table alone. Raise SpecError where that is
    missing or damaged.
    """
    from experiments.sweep_figures import save_sweep_figures

    return save_sweep_figures(read_results(directory / RESULTS_PARQUET), directory, form)


def simulate_row(planned: PlannedRun) -> Row:
    """Return the row of one run: what a process of a sweep does."""
    from experiments.row_details import details_of

    sources = read_sources(planned.config)
    result = simulate_for_figures(sources)
    require_decisions(result)
    return row_of(planned, result.summary | result.timings | details_of(sources, result))


def _finished(runs: Sequence[PlannedRun], out: Path) -> dict[str, Row]:
    if (out / RESULTS_PARQUET).exists():
        read_results(
            out / RESULTS_PARQUET
        )  # it is written anew, but damage must not pass unnoticed
    return load_rows(out / ROWS, runs)


def _keep(out: Path, planned: PlannedRun, outcome: Outcome[Row], failures: list[Path]) -> Row:
    """Save what became of a run, and return its row."""
    trace = out / FAILURES / f"{planned.run_id}.txt"
    if outcome.value is not None:
        save_row(out / ROWS, planned, outcome.value)
        trace.unlink(missing_ok=True)
        return outcome.value
    trace.parent.mkdir(exist_ok=True)
    write_text(trace, f"{planned.config}\n\n{outcome.trace or outcome.error}\n")
    failures.append(trace)
    return settings_row(planned) | {"error": outcome.error}


def _write_results(results: pd.DataFrame, out: Path) -> list[Path]:
    from experiments.checked_parquet import write_checked
    from experiments.sweep_figures import save_sweep_figures

    with whole_file(out / RESULTS_PARQUET) as part:
        write_checked(results, part)
    write_csv(out / RESULTS_CSV, results)
    return [out / RESULTS_PARQUET, out / RESULTS_CSV, *save_sweep_figures(results, out)]


def _print_tables(console: Console, results: pd.DataFrame, failures: Sequence[Path]) -> None:
    from experiments.tables import paired_table, print_table, summary_table

    for table in (summary_table(results), paired_table(results)):
        if table is not None and table.row_count:
            print_table(console, table)
    for planned_id, error in results.loc[results["error"] != "", ["run_id", "error"]].itertuples(
        index=False
    ):
        console.print(
            f"run {planned_id} failed: {error}", markup=False, highlight=False, soft_wrap=True
        )
    for path in failures:
        console.print(f"its traceback is in {path}", markup=False, highlight=False, soft_wrap=True)


def read_results(path: Path) -> pd.DataFrame:
    """Return the results of a sweep in *path*. Raise SpecError, one line, for another file, one
    that is damaged, and one of a version that writes other columns.
    """
    from experiments.checked_parquet import read_checked
    from experiments.tables import NEEDED

    try:
        results = read_checked(path)
    except (OSError, ValueError) as error:
        what = (
            "nothing"
            if isinstance(error, FileNotFoundError)
            else " ".join(str(error).split())[:100]
        )
        raise SpecError(f"{path}: expected the results of a sweep, found {what}") from None
    remedy = "delete it and repeat the sweep with --resume"
    require_scored_columns(path, results, NEEDED, remedy=remedy)
    return results


def _describe(planned: PlannedRun, outcome: Outcome[Row]) -> str:
    config = planned.config
    if planned.label:
        return f"{planned.label}: failed, {outcome.error}" if outcome.error else planned.label
    what = (
        f"{config.scenario} {config.policy_name} alpha {config.disturbance_alpha:g} period "
        f"{config.period_s:g} s "
        f"seed {config.seed}"
    )
    if outcome.value is None:
        return f"{what}: failed, {outcome.error}"
    share = outcome.value["attainment"]
    return f"{what}: {100 * share:.1f} % within target" if share is not None else what
