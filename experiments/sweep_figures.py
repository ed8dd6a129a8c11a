"""The figures of a sweep: heat maps over alpha × period, and cost against attainment. Data
functions, then drawings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from experiments.confidence import estimate_score
from experiments.figures import (
    MARKERS,
    SCREEN,
    Form,
    colour_of,
    grid_of,
    is_filled,
    our_style,
    save_figure,
    span_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

# The marker of a policy lies within that of the one before: both are seen if they come out alike.
_SIZES = (9.0, 7.5, 6.0, 4.5)
CELL = ("scenario", "interval_s", "policy", "alpha", "period_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A column of the results as a figure shows it: multiplied by *scale*, with its unit and number
    format. It cannot be below 0, nor above *most*.
    """

    column: str
    label: str
    scale: float = 1.0
    form: str = ".1f"
    most: float = inf


ATTAINMENT = Metric(
    column="attainment", label="requests within target [%]", scale=100.0, most=100.0
)
COST = Metric(column="cost_usd_per_h", label="cost [$/h]", form=".2f")


def cell_estimates(results: pd.DataFrame, metrics: Sequence[Metric]) -> pd.DataFrame:
    """Return one row per cell of the grid, in the order of *results*: for each metric its mean, the
    ends of its 95 % interval over seeds (NaN of one seed), and n.
    """
    rows: list[dict[str, Any]] = []
    for key, runs in results.groupby(list(CELL), sort=False):
        row: dict[str, Any] = dict(zip(CELL, key, strict=True))
        for metric in metrics:
            values = runs[metric.column].to_numpy(dtype=float)
            over_seeds = estimate_score(values, share=metric.most < inf)
            row |= {
                metric.column: over_seeds.mean * metric.scale,
                f"{metric.column}_low": over_seeds.low * metric.scale,
                f"{metric.column}_high": over_seeds.high * metric.scale,
                f"{metric.column}_n": over_seeds.n,
            }
        rows.append(row)
    return pd.DataFrame(rows)


def draw_heat_maps(cells: pd.DataFrame, metric: Metric, form: Form = SCREEN) -> Figure:
    """Draw one map of *metric* over alpha × period for each policy (and scenario, interval), on one
    colour scale.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    groups = list(cells.groupby(["scenario", "interval_s", "policy"], sort=False))
    alphas, periods = sorted(cells["alpha"].unique()), sorted(cells["period_s"].unique())
    width, height = max(2.6, 0.95 * len(periods) + 1.2), max(1.8, 0.6 * len(alphas) + 1.1)
    grid_in = grid_of(
        len(groups),
        panel_in=(width, height),
        beside_in=1.2,
        above_in=0.4,
        form=form,
        narrowest_in=0.55 * len(periods) + 1.0,
    )
    figure = grid_in.figure
    scale = Normalize(*scale_of(cells[metric.column]))
    with our_style():
        grid = figure.subplots(grid_in.rows, grid_in.columns, squeeze=False)
        for ax, (key, group) in zip(grid.flat, groups, strict=False):
            _draw_heat_map(ax, group, metric, alphas=alphas, periods=periods, scale=scale)
            ax.set_title(_group_title(key, cells), loc="left")
        for ax in list(grid.flat)[len(groups) :]:
            ax.set_axis_off()
        over_seeds = "\nmean and 95 % interval over seeds"
        label = metric.label + over_seeds * bool((cells[f"{metric.column}_n"] > 1).any())
        colours = ScalarMappable(norm=scale, cmap="cividis")
        figure.colorbar(colours, ax=grid, label=label, shrink=0.9)
    return figure


def _draw_heat_map(
    ax: Axes,
    group: pd.DataFrame,
    metric: Metric,
    *,
    alphas: Sequence[float],
    periods: Sequence[float],
    scale: Any,
) -> None:
    values = group.pivot_table(
        index="alpha", columns="period_s", values=metric.column, dropna=False
    )
    values = values.reindex(index=pd.Index(alphas), columns=pd.Index(periods))
    ax.imshow(
        values.to_numpy(dtype=float), origin="lower", aspect="auto", cmap="cividis", norm=scale
    )
    ax.set_xticks(range(len(periods)), [f"{period:g}" for period in periods])
    ax.set_yticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    ax.set_xlabel("control period [s]")
    ax.set_ylabel("disturbance alpha")
    ax.spines[:].set_visible(False)
    for cell in group.itertuples():
        mean, low, high = (
            getattr(cell, f"{metric.column}{part}") for part in ("", "_low", "_high")
        )
        text = f"{mean:{metric.form}}" if np.isfinite(mean) else "–"
        text += f"\n{low:{metric.form}}–{high:{metric.form}}" if np.isfinite(low) else ""
        # cividis goes from dark to bright: white reads on its lower part, black on its upper.
        colour = "white" if scale(mean) < 0.55 else "black"
        place = (periods.index(cell.period_s), alphas.index(cell.alpha))
        ax.text(*place, text, ha="center", va="center", color=colour, fontsize=8)


def draw_cost_against_attainment(cells: pd.DataFrame, form: Form = SCREEN) -> Figure:
    """Draw attainment over cost with 95 % bars: a panel per alpha, a colour per policy, a marker
    per period.
    """
    from matplotlib.ticker import MaxNLocator

    panels = list(cells.groupby(["scenario", "interval_s", "alpha"], sort=False))
    policies, periods = list(cells["policy"].unique()), sorted(cells["period_s"].unique())
    grid_in = grid_of(
        len(panels),
        panel_in=(3.4, 3.0),
        beside_in=1.6,
        keys=len(policies) + len(periods),
        form=form,
    )
    figure = grid_in.figure
    with our_style():
        grid = figure.subplots(grid_in.rows, grid_in.columns, squeeze=False)
        for ax, (key, panel) in zip(grid.flat, panels, strict=False):
            for cell in panel.itertuples():
                marker = MARKERS[periods.index(cell.period_s) % len(MARKERS)]
                _draw_cell(ax, cell, place=policies.index(cell.policy), marker=marker)
            ax.set_title(situation(key, cells), loc="left")
            # Its own view: policies and periods compare within a panel, loads of different alpha in
            # the heat maps.
            ax.set_xlim(*view(panel, COST))
            ax.set_ylim(*view(panel, ATTAINMENT))
            ax.xaxis.set_major_locator(MaxNLocator(nbins=5))
            ax.grid(visible=True, color="0.9")
            ax.set_axisbelow(True)
        for ax in list(grid.flat)[len(panels) :]:
            ax.set_axis_off()
        for ax in grid[-1]:
            ax.set_xlabel(COST.label)
        for ax in grid[:, 0]:
            ax.set_ylabel(ATTAINMENT.label)
        figure.legend(
            handles=policies_and_periods(policies, periods), frameon=False, **grid_in.legend
        )
    return figure


def _draw_cell(ax: Axes, cell: Any, *, place: int, marker: str) -> None:
    bars = [bars_of(pd.DataFrame([cell]), metric) for metric in (COST, ATTAINMENT)]
    ax.errorbar(
        getattr(cell, COST.column),
        getattr(cell, ATTAINMENT.column),
        xerr=bars[0],
        yerr=bars[1],
        color=colour_of(place),
        marker=marker,
        fillstyle="full" if is_filled(place) else "none",
        markersize=_SIZES[place % len(_SIZES)],
        elinewidth=1.0,
        capsize=2,
        linestyle="none",
    )


def view(cells: pd.DataFrame, metric: Metric) -> tuple[float, float]:
    """Return the part of the axis of *metric* to show."""
    means, lows, highs = (
        cells[f"{metric.column}{part}"].to_numpy(dtype=float) for part in ("", "_low", "_high")
    )
    return span_of(means, lows, highs, most=metric.most)


def bars_of(cells: pd.DataFrame, metric: Metric) -> Any:
    """Return how far the interval of *metric* reaches below and above each mean: nothing of one
    seed.
    """
    means = cells[metric.column].to_numpy(dtype=float)
    lows, highs = (
        cells[f"{metric.column}{end}"].to_numpy(dtype=float) for end in ("_low", "_high")
    )
    return np.nan_to_num([means - lows, highs - means])


def policies_and_periods(policies: Sequence[str], periods: Sequence[float]) -> list[Patch | Line2D]:
    """Return the keys of a legend: a colour per policy, a marker per period."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    colours = [
        Patch(edgecolor=colour_of(i), facecolor=colour_of(i), fill=is_filled(i), label=name)
        for i, name in enumerate(policies)
    ]
    shapes = [
        Line2D(
            [],
            [],
            color="0.4",
            marker=MARKERS[i % len(MARKERS)],
            linestyle="none",
            label=f"period {period:g} s",
        )
        for i, period in enumerate(periods)
    ]
    return [*colours, *shapes]


def scale_of(values: pd.Series[float]) -> tuple[float, float]:
    """Return the ends of the colour scale of *values*."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low):
        return 0.0, 1.0  # no run had a figure
    if high > low:
        return low, high
    # All are equal: a scale that ends at what there is, as a share above 100 % cannot be.
    return (low - 1.0, low) if low >= 1.0 else (0.0, 1.0)


def _group_title(key: Any, cells: pd.DataFrame) -> str:
    scenario, interval_s, policy = key
    return f"{policy}, {_situation(scenario, interval_s, cells)}"


def situation(key: Any, cells: pd.DataFrame) -> str:
    """Return the title of a panel: its alpha and load, and the interval where *cells* have many."""
    scenario, interval_s, alpha = key
    return f"alpha {alpha:g}, {_situation(scenario, interval_s, cells)}"


def _situation(scenario: str, interval_s: float, cells: pd.DataFrame) -> str:
    many = cells["interval_s"].nunique() > 1
    return f"{scenario}, interval {interval_s:g} s" if many else str(scenario)


def save_sweep_figures(results: pd.DataFrame, directory: Path, form: Form = SCREEN) -> list[Path]:
    """Draw all figures of a sweep from its result table into *directory*; failed runs are left
    out.
    """
    done = results[results["error"] == ""]
    if done.empty:
        return []
    cells = cell_estimates(done, (ATTAINMENT, COST))
    figures: Mapping[str, Figure] = {
        "attainment": draw_heat_maps(cells, ATTAINMENT, form),
        "cost": draw_heat_maps(cells, COST, form),
        "cost-attainment": draw_cost_against_attainment(cells, form),
    }
    return [
        path
        for name, figure in figures.items()
        for path in save_figure(figure, directory / name, form)
    ]
