"""The results of a sweep or a comparison as tables and charts of a report, from its files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table as RichTable
from rich.text import Text

from experiments.compare.files import details_of, finished, read_results
from experiments.compare.report import (
    DIFFERENCES,
    TELL,
    axis_text,
    differences_table,
    front_of,
    loads_of,
    meanings,
    report_tables,
    summary,
    swept,
)
from experiments.compare.rows import BOUNDS, TIMELINE_S
from experiments.confidence import estimate_score, estimate_share, paired_difference
from experiments.row_details import LOST, QUANTILES, SHARES
from experiments.run_tables import read_runs
from experiments.scores.misses import CAUSES, MEANING
from experiments.stability_figure import COLUMNS, METRICS
from experiments.sweep import RESULTS_CSV
from experiments.sweep_figures import ATTAINMENT, COST, Metric, cell_estimates, scale_of
from experiments.tables import paired_table, summary_table
from inferno.web.charts import (
    Bars,
    CostChart,
    Curve,
    Difference,
    Differences,
    HeatMap,
    Item,
    Lines,
    Note,
    Part,
    Point,
    Section,
    Table,
)

CURVES_MAX = 12  # lines of one chart that can be told apart
_AXES = ("alpha", "period_s", "interval_s")

Details = Mapping[str, Mapping[str, Any]]
Cell = tuple[str, pd.DataFrame]


def sweep_section(results: pd.DataFrame, directory: Path, *, title: str) -> Section:
    """Return what the table of a sweep shows, with the details of its rows in *directory*."""
    done = results[results["error"] == ""]
    details = details_of(directory, done)
    tables = [summary_table(results), paired_table(results)]
    items: list[Item] = [
        table_of(table) for table in tables if table is not None and table.row_count
    ]
    items += _failures(results)
    if not done.empty:
        cells = cell_estimates(done, (ATTAINMENT, COST))
        items += [
            _costs(scenario, own, many=[axis for axis in _AXES if own[axis].nunique() > 1])
            for scenario, own in _by_scenario(done)
        ]
        for metric in (ATTAINMENT, COST):
            items += _heat_maps(cells, metric)
        items += _distributions(_by_scenario(done), details, cells_of=_sweep_cells)
        items += _sweep_differences(done)
    return Section(title=title, about=_about(results, "sweep"), items=items)


def comparison_section(directory: Path, *, title: str) -> Section:
    """Return what the comparison in *directory* shows. Raise SpecError where a file of it is
    missing or damaged.
    """
    results = read_results(directory)
    done = finished(results)
    details = details_of(directory, done)
    items: list[Item] = _advice(directory / "comparison.md")
    items += _failures(results)
    if not done.empty:
        differences = differences_table(done)
        items += [
            Table(
                title=title,
                headings=[one_line(heading) for heading in headings],
                rows=cells,
                # The load, and the axes but the one along which it is; or the axes.
                labels=len(swept(done)) + (title.startswith("differences")),
            )
            for title, headings, cells in report_tables(done, summary(done), differences)
        ]
        items.append(Note(title="What the columns say", lines=meanings(summary(done))))
        loads = loads_of(done)
        items += [_costs(load, own, many=[]) for load, own in loads]
        items += _gpus(loads, details)
        items += _distributions(loads, details, cells_of=_policies)
        items += _comparison_differences(differences)
    return Section(title=title, about=_about(results, "comparison"), items=items)


def stability_section(directory: Path, *, title: str) -> Section:
    """Return what `inferno stability` wrote into *directory*: how attainment and restlessness
    depend on how long pods start. Raise SpecError where it is missing or damaged.
    """
    results = read_runs(directory / RESULTS_CSV, COLUMNS)
    done = results[results["error"] == ""]
    items = _failures(results)
    for scenario, own in _by_scenario(done):
        for column in METRICS:
            curves = []
            for name, runs in _sweep_cells(own):
                means = runs.groupby("start_up")[column.column].mean().astype(float) * column.scale
                known = means[np.isfinite(means)]
                if len(known):
                    curves.append(Curve(name=name, x=known.index.tolist(), y=known.tolist()))
            if curves:
                items.append(
                    Lines(
                        title=f"{scenario}: {column.label}",
                        x_title="start-up, as a multiple of what it is",
                        y_title=column.label,
                        curves=curves,
                        from_zero=column is not ATTAINMENT,
                    )
                )
    return Section(title=title, about=_about(results, "stability"), items=items)


def table_of(table: RichTable) -> Table:
    """Return a table of the terminal as one of the page; its key columns are those before the first
    figure.
    """
    headings = [one_line(_plain(column.header)) for column in table.columns]
    columns = [[_plain(cell) for cell in column.cells] for column in table.columns]
    rows = [list(row) for row in zip(*columns, strict=True)]
    keys = ("scenario", "policy", "server", "alpha", "period [s]", "interval [s]")
    labels = sum(heading in keys for heading in headings)
    return Table(title=_plain(table.title or ""), headings=headings, rows=rows, labels=labels)


def one_line(heading: str) -> str:
    """Return a heading of the terminal, which is broken to be narrow, in one line."""
    return heading.replace("/\n", "/").replace("\n", " ").strip()


def _plain(text: object) -> str:
    return text.plain if isinstance(text, Text) else str(text)


# -- reading


def _advice(path: Path) -> list[Item]:
    """Return the lines of advice: what stands after the pictures of the page of a comparison."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    pictures = [number for number, line in enumerate(lines) if line.startswith("![")]
    told = [line for line in lines[pictures[-1] + 1 :] if line] if pictures else []
    return [Note(title="Advice", lines=told)] if told else []


def _failures(results: pd.DataFrame) -> list[Item]:
    failed = results[results["error"] != ""]
    if failed.empty:
        return []
    lines = [f"{row['policy']}, {row['scenario']}: {row['error']}" for _, row in failed.iterrows()]
    return [Note(title=f"{len(lines)} runs failed", lines=lines)]


def _about(results: pd.DataFrame, what: str) -> str:
    seeds = results["seed"].nunique()
    hours = ", ".join(f"{value:g}" for value in dict.fromkeys(results["hours"].dropna()))
    return f"{what}, {len(results)} runs of {hours} h, {seeds} seed{'s' if seeds > 1 else ''}"


# -- which runs belong together


def _by_scenario(done: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for scenario, own in done.groupby("scenario", sort=False):
        yield str(scenario), own


def _sweep_cells(own: pd.DataFrame) -> list[Cell]:
    """Return the cells of a grid, each with a name that tells what differs; if they are too many
    for a chart, the policies.
    """
    many = [axis for axis in _AXES if own[axis].nunique() > 1]
    # Where all are of one policy its name tells none from another, and leaves the rest no room.
    alone = bool(many) and own["policy"].nunique() == 1
    cells = [
        (_cell_name(key, many, alone=alone), runs)
        for key, runs in own.groupby(["policy", *many], sort=False)
    ]
    return cells if len(cells) <= CURVES_MAX else _policies(own)


def _cell_name(key: Any, many: Sequence[str], *, alone: bool = False) -> str:
    policy, *values = key
    told = [TELL[axis].format(value) for axis, value in zip(many, values, strict=True)]
    return ", ".join(told if alone else [str(policy), *told])


def _policies(own: pd.DataFrame) -> list[Cell]:
    return [(str(policy), runs) for policy, runs in own.groupby("policy", sort=False)]


def _is_bound(runs: pd.DataFrame) -> bool:
    return str(runs["policy"].iloc[0]) in BOUNDS


# -- cost against attainment


def _point(series: str, text: str, runs: pd.DataFrame) -> Point | None:
    cost = estimate_score(runs["cost_usd_per_h"].to_numpy(dtype=float), share=False)
    share = estimate_share(runs["attainment"].to_numpy(dtype=float))
    if not (math.isfinite(cost.mean) and math.isfinite(share.mean)):
        return None
    return Point(
        series=series,
        text=text,
        x=cost.mean,
        y=100.0 * share.mean,
        x_low=cost.low,
        x_high=cost.high,
        y_low=100.0 * share.low,
        y_high=100.0 * share.high,
        bound=series in BOUNDS,
    )


def _chart(title: str, points: Sequence[Point | None]) -> CostChart:
    known = [point for point in points if point is not None]
    # Cost and share of each: of two that are equal the first is the front.
    places = {str(number): (point.x, point.y) for number, point in enumerate(known)}
    return CostChart(title=title, points=known, front=[int(name) for name in front_of(places)])


def _costs(load: str, own: pd.DataFrame, *, many: Sequence[str]) -> CostChart:
    points = [
        _point(str(key[0]), _cell_name(key, many), runs)
        for key, runs in own.groupby(["policy", *many], sort=False)
    ]
    return _chart(f"{load}: attainment against cost", points)


# -- heat maps


def _heat_maps(cells: pd.DataFrame, metric: Metric) -> list[Item]:
    alphas, periods = sorted(cells["alpha"].unique()), sorted(cells["period_s"].unique())
    low, high = scale_of(cells[metric.column])
    several = [name for name in ("scenario", "interval_s") if cells[name].nunique() > 1]
    maps: list[Item] = []
    for key, group in cells.groupby(["policy", *several], sort=False):
        if len(group) < 2:  # each policy has a period of its own
            continue
        told = ", ".join(f"{part:g}" if isinstance(part, float) else str(part) for part in key)
        maps.append(
            HeatMap(
                title=f"{told}: {metric.label}",
                unit=metric.label,
                periods_s=[float(period) for period in periods],
                alphas=[float(alpha) for alpha in alphas],
                values=_grid(group, metric.column, alphas, periods),
                lows=_grid(group, f"{metric.column}_low", alphas, periods),
                highs=_grid(group, f"{metric.column}_high", alphas, periods),
                low=low,
                high=high,
            )
        )
    return maps


def _grid(
    group: pd.DataFrame, column: str, alphas: Sequence[float], periods: Sequence[float]
) -> list[list[float | None]]:
    values = group.pivot_table(index="alpha", columns="period_s", values=column, dropna=False)
    values = values.reindex(index=pd.Index(alphas), columns=pd.Index(periods))
    return [
        [float(value) if math.isfinite(value) else None for value in row]
        for row in values.to_numpy(dtype=float)
    ]


# -- distributions, misses, GPUs


def _distributions(loads: Iterable[Cell], details: Details, *, cells_of: Any) -> list[Item]:
    items: list[Item] = []
    for load, own in loads:
        cells = cells_of(own)
        rows = {
            name: [details[run_id] for run_id in runs["run_id"] if run_id in details]
            for name, runs in cells
        }
        found = [
            _pooled(name, [row.get(QUANTILES) or [] for row in rows[name]], bound=_is_bound(runs))
            for name, runs in cells
        ]
        curves = [curve for curve in found if curve is not None]
        if curves:
            items.append(ttft_chart(f"{load}: distribution of TTFT, all servers", curves))
        told = {
            name: [row[LOST] for row in own_rows if len(row.get(LOST) or ()) == len(CAUSES)]
            for name, own_rows in rows.items()
        }
        lost = {name: np.mean(points, axis=0) for name, points in told.items() if points}
        if lost and max(float(points.sum()) for points in lost.values()) > 0.0:
            items.append(misses_chart(f"{load}: why requests were missed", lost))
    return items


def ttft_chart(title: str, curves: Sequence[Curve]) -> Lines:
    """Return the chart of empirical distributions of TTFT."""
    return Lines(
        title=title,
        x_title="TTFT [ms]",
        y_title="requests at most as late [%]",
        curves=curves,
        x_log=True,
    )


def misses_chart(title: str, lost: Mapping[str, Any]) -> Bars:
    """Return bars of the points of attainment *lost* by each name, a value for each of CAUSES."""
    return Bars(
        title=title,
        unit="points of attainment lost",
        names=list(lost),
        parts=[
            Part(
                name=cause,
                meaning=MEANING[cause],
                values=[float(points[number]) for points in lost.values()],
            )
            for number, cause in enumerate(CAUSES)
        ],
    )


def _pooled(name: str, runs: Sequence[Sequence[float]], *, bound: bool) -> Curve | None:
    """Return the distribution over all *runs* (quantiles at SHARES each), each counting alike."""
    known = [np.asarray(run) for run in runs if len(run) == SHARES.size]
    if not known:
        return None
    low = max(min(float(run[0]) for run in known), 1e-3)
    high = max(float(run[-1]) for run in known)
    x = np.geomspace(low, max(high, 1.001 * low), 160)
    y = np.mean([np.interp(x, run, SHARES, left=0.0, right=1.0) for run in known], axis=0)
    return Curve(name=name, x=x.tolist(), y=(100.0 * y).tolist(), bound=bound)


def _gpus(loads: Iterable[Cell], details: Details) -> list[Item]:
    """Return the GPUs that each policy held over time under the first seed."""
    items: list[Item] = []
    for load, own in loads:
        curves = []
        first = own["seed"].min()
        for name, runs in _policies(own[own["seed"] == first]):
            held = details.get(str(runs["run_id"].iloc[0]), {}).get("gpus_held")
            if held:
                x = [TIMELINE_S / 60.0 * place for place in range(len(held))]
                curves.append(Curve(name=name, x=x, y=held, bound=_is_bound(runs)))
        if curves:
            items.append(
                Lines(
                    title=f"{load}: GPUs held under seed {first}",
                    x_title="time [min]",
                    y_title="GPUs",
                    curves=curves,
                    steps=True,
                )
            )
    return items


# -- differences


def _sweep_differences(done: pd.DataFrame) -> list[Item]:
    policies = list(dict.fromkeys(done["policy"]))
    if len(policies) < 2:
        return []
    by = [name for name in ("scenario", *_AXES) if done[name].nunique() > 1]
    if "period_s" in by and (done.groupby("policy")["period_s"].nunique() == 1).all():
        by.remove("period_s")
    items: list[Item] = []
    for metric in (ATTAINMENT, COST):
        rows = []
        for key, runs in done.groupby(by, sort=False) if by else [((), done)]:
            told = [TELL.get(name, "{}").format(value) for name, value in zip(by, key, strict=True)]
            for policy in policies[1:]:
                found = paired_difference(runs, metric.column, first=policies[0], second=policy)
                if found.n:
                    name = ", ".join([policy, *told])
                    rows.append(
                        Difference(
                            name=name,
                            mean=found.mean * metric.scale,
                            low=found.low * metric.scale,
                            high=found.high * metric.scale,
                        )
                    )
        if rows:
            title = f"Difference from {policies[0]} in pairs of equal seeds: {metric.label}"
            items.append(Differences(title=title, unit=_unit(metric.label), rows=rows))
    return items


def _unit(label: str) -> str:
    return label.replace("[%]", "[points]")


def _comparison_differences(differences: pd.DataFrame) -> list[Item]:
    items: list[Item] = []
    rows = differences.to_dict(orient="records")
    # What is the same in all rows tells none of them from another, and a label is short.
    parts = [
        name
        for name in ("scenario", "policy", *_AXES)
        if name in differences and differences[name].nunique() > 1
    ]
    for column in DIFFERENCES[:3]:
        found = []
        for row in rows:
            if not math.isfinite(row[column.name]):
                continue
            told = [
                f"{row[name]}" if name in ("scenario", "policy") else TELL[name].format(row[name])
                for name in parts
                if name != row["axis"] and isinstance(row[name], str | int | float)
            ]
            found.append(
                Difference(
                    name=", ".join([f"{axis_text(row['to'])} − {axis_text(row['from'])}", *told]),
                    mean=row[column.name] * column.scale,
                    low=row[f"{column.name}_low"] * column.scale,
                    high=row[f"{column.name}_high"] * column.scale,
                )
            )
        if found:
            label = one_line(column.heading)
            title = f"Differences in pairs of equal seeds: {label}"
            items.append(Differences(title=title, unit=_unit(label), rows=found))
    return items
