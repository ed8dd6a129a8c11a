"""How restless a policy is over disturbance × period × start-up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.compare.rows import after_step, derived_id, told_peaks
from experiments.confidence import estimate
from experiments.config import RunConfig
from experiments.executor import Executor
from experiments.grid import SweepConfig
from experiments.output import write_csv
from experiments.run import require_decisions, simulate
from experiments.sources import Sources, read_sources
from experiments.stability_figure import COLUMNS, save_stability_figure
from experiments.sweep import RESULTS_CSV, SweepResult, finish_runs
from experiments.sweep_rows import PlannedRun, Row, notes_of, results_frame, row_of
from experiments.tables import NEEDED, plain_table, print_table
from twin.spec import SpecError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

FIGURES = ("attainment", "reversals_per_h", "changes_per_h", "overshoot", "cost_usd_per_h")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowed(PlannedRun):
    """A run whose pods take *start_up* times as long to start as the data say."""

    start_up: float

    @property
    def columns(self) -> frozenset[str]:
        """Return what is made of the row of this run once it is finished."""
        return NEEDED | COLUMNS


def slowed(sources: Sources, factor: float) -> Sources:
    """Return *sources* with start-up times multiplied by *factor*."""
    engines = {
        pair: replace(
            engine,
            start_up=replace(engine.start_up, mean_s=factor * engine.start_up.mean_s),
        )
        for pair, engine in sources.world.engines.items()
    }
    return replace(sources, world=replace(sources.world, engines=engines))


def slowed_row(planned: Slowed) -> Row:
    """Return the row of *planned*."""
    sources = told_peaks(slowed(read_sources(planned.config), planned.start_up))
    result = simulate(sources)
    require_decisions(result)
    return {
        **row_of(planned, result.summary | result.timings),
        **after_step(result, sources.loads),
        "start_up": planned.start_up,
    }


def stability(
    grid: SweepConfig,
    start_ups: Sequence[float],
    out: Path,
    *,
    executor: Executor | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> SweepResult:
    """Run *grid* with each factor of *start_ups*; return what came of it."""
    runs = planned_runs(grid, start_ups)
    done = finish_runs(
        runs, out, work=slowed_row, executor=executor, resume=resume, console=console
    )
    results = results_frame(runs, done.rows)
    write_csv(out / RESULTS_CSV, results)
    if console is not None:
        _print(console, results[results["error"] == ""])
    return SweepResult(
        results=results,
        reused=done.reused,
        paths=[out / RESULTS_CSV, *save_stability_figure(results, out)],
        failures=done.failures,
        notes=notes_of(runs, done.rows),
    )


def planned_runs(grid: SweepConfig, start_ups: Sequence[float]) -> list[Slowed]:
    """Return the runs of *grid* with each factor, with all that they name read and checked. Raise
    SpecError for what is wrong.
    """
    for factor in start_ups:
        if not 0.0 <= factor <= 1000.0:
            raise SpecError(f"start-up: expected factors of 0 to 1000, found {factor:g}")
        if list(start_ups).count(factor) > 1:
            raise SpecError(f"start-up: expected every value once, found {factor:g} twice")
    return [_planned(config, factor) for config, factor in product(grid.runs(), start_ups)]


def _planned(config: RunConfig, factor: float) -> Slowed:
    sources = read_sources(config)
    return Slowed(
        run_id=derived_id(sources.run_id, "start-up", factor),
        config=sources.config,
        notes=sources.notes,
        label=f"{config.scenario} {config.policy_name} start-up ×{factor:g} seed {config.seed}",
        start_up=factor,
    )


def _print(console: Console, done: pd.DataFrame) -> None:
    if done.empty:
        return
    keys = ["scenario", "policy", "alpha", "period_s", "start_up"]
    lines = []
    for key, runs in done.groupby(keys, sort=False):
        cells = [f"{part:g}" if isinstance(part, float) else str(part) for part in key]
        for name in FIGURES:
            scale = 100.0 if name == "attainment" else 1.0
            mean = estimate(runs[name].to_numpy(dtype=float)).mean * scale
            cells.append(f"{mean:.1f}" if math.isfinite(mean) else "–")
        lines.append(cells)
    headings = [
        *("\nscenario", "\npolicy", "\nalpha", "period\n[s]", "start-\nup ×"),
        *("within\nSLO [%]", "reversals\n[1/h]", "changes\n[1/h]", "over-\nshoot", "cost\n[$/h]"),
    ]
    print_table(console, plain_table("means over the seeds", headings, lines))
