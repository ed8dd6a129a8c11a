"""The lag budget of a policy: how many seconds of its answer to a step of the load are waits for a
scrape, a cycle, the window, the pod's GPUs and its start-up, and what each costs in attainment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.columns import Columns
from experiments.compare.rows import derived_id, last_jump_s, told_peaks, without_start_up
from experiments.config import RunConfig
from experiments.executor import Executor
from experiments.grid import SweepConfig
from experiments.output import write_csv
from experiments.run import RunResult, simulate
from experiments.scores.changes import Desired
from experiments.sources import Sources, read_sources
from experiments.sweep import SweepResult, finish_runs
from experiments.sweep_rows import PlannedRun, Row, notes_of, results_frame, row_of
from experiments.tables import NEEDED, plain_table, print_table

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

LAGS_CSV = "lags.csv"
# In the order in which they pass.
PARTS = ("scrape", "tick", "window", "apply", "GPUs", "start-up")
# Those that a run can be made without: the two others are the cluster's.
REMOVABLE = ("scrape", "tick", "window", "start-up")
_SECONDS = {part: f"{part} [s]" for part in PARTS}
SHORT_SCRAPE_S, SHORT_TICK_S = 1.0, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lagging(PlannedRun):
    """A run *without* one of REMOVABLE; "" has all of them."""

    without: str = ""

    @property
    def columns(self) -> frozenset[str]:
        """Return what is made of the row of this run once it is finished."""
        return NEEDED | {"without", *_SECONDS.values()}


def shortened(sources: Sources, part: str) -> Sources:
    """Return *sources* in a world in which *part* of the lag is as short as it can be."""
    times = sources.world.world
    if part == "start-up":
        return without_start_up(sources)
    if part == "tick":
        period_s = min(sources.config.period_s or SHORT_TICK_S, SHORT_TICK_S)
        return replace(sources, config=replace(sources.config, period_s=period_s))
    if part == "scrape":
        interval_s = min(times.scrape_interval_s, SHORT_SCRAPE_S)
        times = replace(times, scrape_interval_s=interval_s)
    elif part == "window":
        times = replace(times, window_s=times.scrape_interval_s)
    return replace(sources, world=replace(sources.world, world=times))


def lag_row(planned: Lagging) -> Row:
    """Return the row of *planned*: its scores, and the seconds of each of PARTS."""
    sources = shortened(told_peaks(read_sources(planned.config)), planned.without)
    result = simulate(sources)
    lags = lags_of(result, sources)
    return {
        **row_of(planned, result.summary | result.timings),
        "without": planned.without,
        **{column: lags.get(part) for part, column in _SECONDS.items()},
    }


def lags_of(result: RunResult, sources: Sources) -> dict[str, float]:
    """Return the seconds of each of PARTS from the last jump of the load of a server on, as means
    over those that a policy made larger after it; nothing if there is none.

    What is timed is the pod with which a server first had as many as it has in the end. "window" is
    all the time for which the policy could see something of the step and did not ask for that pod:
    the window fills, and a policy may have its own waits.
    """
    interval_s = sources.world.world.scrape_interval_s
    histories = result.cycles.desired
    found = []
    for load in sources.loads:
        step_s, history = last_jump_s(load), histories.get(load.server)
        if step_s is None or history is None:
            continue
        own = result.pods["server"] == result.names.index(load.server)
        pods = {column: values[own] for column, values in result.pods.items()}
        one = _lags(history, pods, step_s=step_s, interval_s=interval_s)
        if one is not None:
            found.append(one)
    if not found:
        return {}
    return {part: float(np.mean([one[part] for one in found])) for part in PARTS}


def _lags(
    history: list[Desired], pods: Columns, *, step_s: float, interval_s: float
) -> Mapping[str, float] | None:
    """Return the seconds of each part for one server; None if it was not made larger, or the pod
    was asked for before the step, or not ready by the end.
    """
    before = [one for one in history if one.t_s <= step_s]
    after = [one for one in history if one.t_s > step_s]
    if not before or not after or after[-1].replicas <= before[-1].replicas:
        return None
    ready_s = _instant(pods, after[-1].replicas, from_s=step_s)
    if ready_s is None:
        return None
    place = int(np.flatnonzero(pods["ready_s"] == ready_s)[0])
    asked_s, granted_s = float(pods["asked_s"][place]), float(pods["granted_s"][place])
    if asked_s <= step_s:
        # It was on its way already: by chance, or by a forecast.
        return None
    decided_s = max((one.t_s for one in after if one.t_s <= asked_s), default=asked_s)
    scraped_s = (math.floor(step_s / interval_s) + 1) * interval_s
    seen_s = next((one.t_s for one in after if one.t_s >= scraped_s), math.inf)
    scraped_s, seen_s = min(scraped_s, decided_s), min(seen_s, decided_s)
    instants = (step_s, scraped_s, seen_s, decided_s, asked_s, granted_s, ready_s)
    return dict(zip(PARTS, np.diff(instants).tolist(), strict=True))


def _instant(pods: Columns, enough: int, *, from_s: float) -> float | None:
    """Return when *enough* pods are ready for the first time after *from_s*, None if never."""
    ready_s = np.where(np.isnan(pods["ready_s"]), np.inf, pods["ready_s"])
    leaves_s = np.where(np.isnan(pods["draining_s"]), np.inf, pods["draining_s"])
    for at_s in np.sort(ready_s[np.isfinite(ready_s) & (ready_s > from_s)]).tolist():
        if np.count_nonzero((ready_s <= at_s) & (leaves_s > at_s)) >= enough:
            return float(at_s)
    return None


def lag_budget(
    grid: SweepConfig,
    out: Path,
    *,
    executor: Executor | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> SweepResult:
    """Run *grid* as it is and without each of REMOVABLE; return what came of it."""
    runs = [_planned(config, part) for config in grid.runs() for part in ("", *REMOVABLE)]
    done = finish_runs(
        runs, out / "lags", work=lag_row, executor=executor, resume=resume, console=console
    )
    results = results_frame(runs, done.rows)
    write_csv(out / LAGS_CSV, results)
    if console is not None:
        print_lags(console, results[results["error"] == ""])
    return SweepResult(
        results=results,
        reused=done.reused,
        paths=[out / LAGS_CSV],
        failures=done.failures,
        notes=notes_of(runs),
    )


def _planned(config: RunConfig, part: str) -> Lagging:
    sources = read_sources(config)
    without = f" without {part}" if part else ""
    return Lagging(
        run_id=derived_id(sources.run_id, "lag", part),
        config=sources.config,
        notes=sources.notes,
        label=f"{config.scenario} {config.policy_name}{without} seed {config.seed}",
        without=part,
    )


def print_lags(console: Console, done: pd.DataFrame) -> None:
    """Print the seconds of each part, and the points of attainment that a run without it has
    more.
    """
    if done.empty:
        return
    lines = []
    for key, runs in done.groupby(["scenario", "policy", "alpha", "period_s"], sort=False):
        means = runs.groupby("without")[["attainment"]].mean()["attainment"] * 100.0
        whole = runs[runs["without"] == ""]
        for part in PARTS:
            seconds = float(whole[_SECONDS[part]].astype(float).mean())
            points = means[part] - means[""] if part in means else math.nan
            cells = [f"{one:g}" if isinstance(one, float) else str(one) for one in key]
            cells += [part, f"{seconds:.0f}" if math.isfinite(seconds) else "–"]
            lines.append([*cells, f"{points:+.1f}" if math.isfinite(points) else "–"])
    headings = [
        "\nscenario",
        "\npolicy",
        "\nalpha",
        "period\n[s]",
        "\nwait for",
        "lag\n[s]",
        "costs\n[points]",
    ]
    title = "from the step of the load to enough ready pods, and what attainment would gain"
    print_table(console, plain_table(title, headings, lines))
