"""The figure of a stability question: what comes of longer start-ups, a panel per metric. Data
function, then drawing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from experiments.figures import (
    MARKERS,
    SCREEN,
    Form,
    colour_of,
    dash_of,
    grid_of,
    is_filled,
    our_style,
    save_figure,
)
from experiments.run_tables import SETTINGS, read_runs
from experiments.sweep import RESULTS_CSV
from experiments.sweep_figures import (
    ATTAINMENT,
    COST,
    Metric,
    bars_of,
    cell_estimates,
    policies_and_periods,
    situation,
    view,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "stability"
METRICS = (
    ATTAINMENT,
    Metric(column="reversals_per_h", label="reversals [1/h]"),
    Metric(column="changes_per_h", label="changes [1/h]"),
    Metric(column="overshoot", label="overshoot [replicas]"),
    COST,
)
COLUMNS = SETTINGS | {"start_up", *(metric.column for metric in METRICS)}
START_UP = "start-up [×]"  # of that of the data
_BESIDE = 0.015  # of the axis lies between the bars of two lines, which would hide each other


def plot_stability(directory: Path, form: Form = SCREEN) -> list[Path]:
    """Draw the figure of *directory* again, from its table alone. Raise SpecError where that is
    missing or damaged.
    """
    return save_stability_figure(read_runs(directory / RESULTS_CSV, COLUMNS), directory, form)


def save_stability_figure(
    results: pd.DataFrame, directory: Path, form: Form = SCREEN
) -> list[Path]:
    """Draw *results* into *directory*; failed runs are left out."""
    done = results[results["error"] == ""]
    if done.empty:
        return []
    return save_figure(draw_stability(stability_cells(done), form), directory / NAME, form)


def stability_cells(done: pd.DataFrame) -> pd.DataFrame:
    """Return a row per cell of the grid and factor on the start-up times, as `cell_estimates`. A
    metric that no run has, as overshoot of a load without a jump, is left out.
    """
    known = [metric for metric in METRICS if done[metric.column].notna().any()]
    parts = [
        cell_estimates(runs, known).assign(start_up=factor)
        for factor, runs in done.groupby("start_up")
    ]
    return pd.concat(parts, ignore_index=True)


def draw_stability(cells: pd.DataFrame, form: Form = SCREEN) -> Figure:
    """Draw each metric over the start-up times with 95 % bars: a colour per policy, a marker per
    period; further panels per alpha and scenario.
    """
    metrics = [metric for metric in METRICS if metric.column in cells]
    situations = list(cells.groupby(["scenario", "interval_s", "alpha"], sort=False))
    policies, periods = list(cells["policy"].unique()), sorted(cells["period_s"].unique())
    grid_in = grid_of(
        len(metrics) * len(situations),
        panel_in=(2.4, 2.1),
        beside_in=1.6,
        keys=len(policies) + len(periods),
        form=form,
        columns_max=len(metrics),
        narrowest_in=1.6,
    )
    figure = grid_in.figure
    with our_style():
        grid = figure.subplots(grid_in.rows, grid_in.columns, squeeze=False)
        panels = [(metric, key, own) for key, own in situations for metric in metrics]
        for ax, (metric, key, own) in zip(grid.flat, panels, strict=False):
            lines = list(own.groupby(["policy", "period_s"], sort=False))
            for i, ((policy, period_s), line) in enumerate(lines):
                place = policies.index(policy)
                look = {
                    "color": colour_of(place),
                    "linestyle": dash_of(place),
                    "marker": MARKERS[periods.index(period_s) % len(MARKERS)],
                    "fillstyle": "full" if is_filled(place) else "none",
                }
                beside = _BESIDE * (i - (len(lines) - 1) / 2)
                _draw_line(ax, line.sort_values("start_up"), metric, look, beside=beside)
            _finish(ax, metric, own)
            if len(situations) > 1:
                ax.set_title(situation(key, cells), loc="left")
        for ax in list(grid.flat)[len(panels) :]:
            ax.set_axis_off()
        for ax in list(grid.flat)[max(len(panels) - grid_in.columns, 0) : len(panels)]:
            ax.set_xlabel(START_UP)
        figure.legend(
            handles=policies_and_periods(policies, periods), frameon=False, **grid_in.legend
        )
    return figure


def _draw_line(
    ax: Axes, line: pd.DataFrame, metric: Metric, look: dict[str, Any], *, beside: float
) -> None:
    factors = line["start_up"]
    ax.errorbar(
        factors + beside * (factors.max() - factors.min()),
        line[metric.column],
        yerr=bars_of(line, metric),
        markersize=4,
        linewidth=1.0,
        elinewidth=0.8,
        capsize=2,
        **look,
    )


def _finish(ax: Axes, metric: Metric, own: pd.DataFrame) -> None:
    from matplotlib.ticker import MaxNLocator

    factors = sorted(own["start_up"].unique())
    ax.set_ylabel(metric.label)
    ax.set_xticks(factors, [f"{factor:g}" for factor in factors])
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5))
    ax.set_ylim(*view(own, metric))
    ax.grid(visible=True, color="0.9")
    ax.set_axisbelow(True)
