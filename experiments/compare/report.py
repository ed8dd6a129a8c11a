"""The tables and figures of a comparison, on the terminal, as CSV and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from experiments.compare.advice import advice
from experiments.compare.rows import BOUNDS, CLAIRVOYANT, NO_START_UP, TIMELINE_S
from experiments.confidence import estimate_score, estimate_share, paired_along
from experiments.figures import (
    MARKERS,
    SCREEN,
    Form,
    Grid,
    colour_of,
    dash_of,
    grid_of,
    our_style,
    save_figure,
    span_of,
)
from experiments.output import write_text
from experiments.run_tables import SETTINGS
from experiments.tables import figure_text, plain_table, print_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Console

SUMMARY_CSV, DIFFERENCES_CSV, REPORT_MD = "summary.csv", "differences.csv", "comparison.md"
AXES = ("policy", "alpha", "interval_s", "period_s")
TELL = {"alpha": "alpha {:g}", "period_s": "period {:g} s", "interval_s": "interval {:g} s"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A column of a comparison: name in the results, heading, what it means, factor and format;
    shares have an interval within 0 and 100 %.
    """

    name: str
    heading: str
    meaning: str
    scale: float = 1.0
    form: str = ".1f"
    share: bool = False
    interval: bool = False


COLUMNS = (
    Figures(
        name="attainment",
        heading="within\nSLO [%]",
        scale=100.0,
        share=True,
        interval=True,
        meaning="requests whose TTFT and mean ITL are within target",
    ),
    Figures(
        name="minute_attainment",
        heading="minutes\n[%]",
        scale=100.0,
        share=True,
        meaning="minutes of a server in which the means of both are",
    ),
    Figures(
        name="minute_attainment_p95",
        heading="p95\nminutes [%]",
        scale=100.0,
        share=True,
        meaning="minutes in which the 95th percentiles of both are",
    ),
    Figures(
        name="cost_usd_per_h",
        heading="cost\n[$/h]",
        form=",.2f",
        interval=True,
        meaning="of what pods hold, those that start too",
    ),
    Figures(
        name="cost_usd_per_1000_met",
        heading="$ per\n1,000 met",
        form=".3f",
        meaning="cost of a thousand requests within target",
    ),
    Figures(name="gpu_hours", heading="GPU-hours", meaning="GPUs that pods hold, times hours"),
    Figures(
        name="changes_per_h",
        heading="changes\n[1/h]",
        form=".0f",
        meaning="how often replicas are added or taken away",
    ),
    Figures(
        name="reversals_per_h",
        heading="reversals\n[1/h]",
        form=".0f",
        meaning="changes that take back the one before within 15 minutes",
    ),
    Figures(
        name="overshoot",
        heading="overshoot",
        meaning="the most replicas wanted after the last jump of the load, less those in the end",
    ),
    Figures(
        name="settling_s",
        heading="settling\n[s]",
        form=".0f",
        meaning="from that jump until all servers stay within a replica of the end",
    ),
    Figures(
        name="regret_usd_per_h",
        heading="regret\n[$/h]",
        form=",.2f",
        meaning="cost and price of missed requests (--price), above the clairvoyant's",
    ),
)
# What tables and figures of a comparison are made of.
COMPARED = SETTINGS.union(
    ("gpus_peak_perfect", "gpus_mean_perfect"), (column.name for column in COLUMNS)
)
DIFFERENCES = COLUMNS[:1] + COLUMNS[2:4] + COLUMNS[6:7]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The lines of advice and the files that were written."""

    advice: tuple[str, ...]
    paths: list[Path]


def save_report(
    results: pd.DataFrame,
    out: Path,
    *,
    rows: Sequence[Mapping[str, Any]],
    console: Console | None,
    told: Sequence[str] | None = None,
) -> Report:
    """Write the tables and figures of *results* to *out*, and print the tables and the advice, or
    the lines *told* in its place. rows are the whole rows, timelines of GPUs included.
    """
    done = results[(results["error"] == "") & ~results["policy"].str.endswith(NO_START_UP)]
    lines = advice(results) if told is None else tuple(told)
    paths: list[Path] = []
    if not done.empty:
        table, differences = summary(done), differences_table(done)
        table.to_csv(out / SUMMARY_CSV, index=False, lineterminator="\n")
        differences.to_csv(out / DIFFERENCES_CSV, index=False, lineterminator="\n")
        write_text(out / REPORT_MD, markdown(done, table, differences, lines))
        paths = [out / SUMMARY_CSV, out / DIFFERENCES_CSV, out / REPORT_MD]
        paths += save_comparison_figures(rows, done, out)
        if console is not None:
            _print(console, done, table, differences)
    if console is not None:
        for _, row in results[results["error"] != ""].iterrows():
            what = f"{row['policy']} failed ({row['scenario']}, seed {row['seed']})"
            console.print(f"{what}: {row['error']}", highlight=False, soft_wrap=True)
        for line in lines:
            console.print(line, highlight=False, soft_wrap=True)
    return Report(advice=lines, paths=paths)


# -- tables


def summary(done: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each load and policy: means, and the ends of the intervals of attainment and
    cost, in the units of the results.
    """
    rows = []
    keys = ["scenario", *swept(done)]
    for key, runs in done.groupby(keys, sort=False):
        row: dict[str, Any] = dict(zip(keys, key, strict=True))
        row["seeds"] = len(runs)
        for column in COLUMNS:
            found = estimate_score(runs[column.name].to_numpy(dtype=float), share=column.share)
            row[column.name] = found.mean
            if column.interval:
                row |= {f"{column.name}_low": found.low, f"{column.name}_high": found.high}
        rows.append(row)
    return pd.DataFrame(rows)


def differences_table(done: pd.DataFrame) -> pd.DataFrame:
    """Return, along every axis that has several values, the differences to its first value in pairs
    of equal seeds, scenarios and values of the other axes; an option of a policy is an axis, too.
    Units are those of the results.
    """
    rows = []
    axes = swept(done)
    for axis in axes:
        pairs = _pairs(list(dict.fromkeys(done[axis])))
        others = ["scenario", *(name for name in axes if name != axis)]
        for key, runs in done.groupby(others, sort=False):
            for first, second in pairs:
                row: dict[str, Any] = {
                    "axis": axis,
                    "from": first,
                    "to": second,
                    **dict(zip(others, key, strict=True)),
                }
                for column in DIFFERENCES:
                    found = paired_along(runs, column.name, axis=axis, first=first, second=second)
                    if column.share:
                        found = found.within(-1.0, 1.0)
                    row[column.name] = found.mean
                    row |= {f"{column.name}_low": found.low, f"{column.name}_high": found.high}
                rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else ["axis", "from", "to"])


def _pairs(values: Sequence[object]) -> list[tuple[object, object]]:
    """Return the first of *values* with each other one, and with each setting of a policy those
    that differ from it by one option, of which it has the first value.
    """
    pairs = [(values[0], value) for value in values[1:]]
    settings = [(value, *settings_of(str(value))) for value in values]
    firsts: dict[tuple[str, str], str] = {}
    for _, policy, options in settings:
        for name, told in options.items():
            firsts.setdefault((policy, name), told)
    for one, policy, options in settings:
        for another, its_policy, its_options in settings:
            if its_policy != policy or options.keys() != its_options.keys():
                continue
            other = [name for name in options if options[name] != its_options[name]]
            along = len(other) == 1 and options[other[0]] == firsts[policy, other[0]]
            if along and (one, another) not in pairs:
                pairs.append((one, another))
    return pairs


def settings_of(contender: str) -> tuple[str, dict[str, str]]:
    """Return the policy of a name that contenders have, and the options that stand in it."""
    policy, _, told = contender.removesuffix(")").partition("(")
    if not contender.endswith(")") or not all("=" in part for part in told.split(", ")):
        return contender, {}
    return policy, dict(part.split("=", 1) for part in told.split(", "))


def swept(done: pd.DataFrame) -> list[str]:
    """Return the axes of the comparison: the policy, and what else differs within one policy."""
    return [
        axis
        for axis in AXES
        if axis == "policy" or done.groupby(["scenario", "policy"])[axis].nunique().max() > 1
    ]


def loads_of(done: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the runs of each load, with what tells it from the others: runs of two alphas are no
    two seeds.
    """
    axes = [axis for axis in swept(done) if axis != "policy"]
    found = []
    for (scenario, *values), runs in done.groupby(["scenario", *axes], sort=False):
        told = (TELL[axis].format(value) for axis, value in zip(axes, values, strict=True))
        found.append((", ".join([str(scenario), *told]), runs))
    return found


def axis_text(value: object) -> str:
    """Return a value of an axis as people write it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cells(row: Mapping[Any, Any], columns: Sequence[Figures], *, sign: str = "") -> list[str]:
    return [
        figure_text(
            *(
                None if value is None else value * column.scale
                for value in (row.get(f"{column.name}{end}") for end in ("", "_low", "_high"))
            ),
            form=sign + column.form,
        )
        for column in columns
    ]


def meanings(table: pd.DataFrame) -> list[str]:
    """Return a line for each column that the tables of *table* show."""
    return [
        f"{' '.join(column.heading.split())}: {column.meaning}"
        for column in COLUMNS
        if table[column.name].notna().any()
    ]


def report_tables(
    done: pd.DataFrame, table: pd.DataFrame, differences: pd.DataFrame
) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, headings and cells of each table that people read."""
    found = []
    axes = swept(done)
    for scenario, part in table.groupby("scenario", sort=False):
        own = done[done["scenario"] == scenario]
        shown = [column for column in COLUMNS if part[column.name].notna().any()]
        seeds = int(part["seeds"].max())
        over = f"mean [95 % interval] over {seeds} seeds" if seeds > 1 else "one seed"
        needs = own["gpus_peak_perfect"].dropna()
        perfect = (
            f"; the fewest GPUs that a perfect scaler needs for it: {needs.mean():.0f} at the "
            f"busiest minute, {own['gpus_mean_perfect'].dropna().mean():.1f} on the mean"
            if len(needs)
            else ""
        )
        cells = [
            [*(axis_text(row[name]) for name in axes), *_cells(row, shown)]
            for row in part.to_dict(orient="records")
        ]
        title = f"{scenario}, {own['hours'].iloc[0]:g} h, {over}{perfect}"
        found.append((title, [*axes, *(column.heading for column in shown)], cells))
    if len(differences):
        others = [name for name in ("scenario", *axes) if name in differences]
        cells = [
            [
                f"{axis_text(row['to'])} − {axis_text(row['from'])}",
                *(axis_text(row[name]) for name in others if name != row["axis"]),
                *_cells(row, DIFFERENCES, sign="+"),
            ]
            for row in differences.to_dict(orient="records")
        ]
        # Beside the load stands where on the other axes it is.
        others_shown = len(cells[0]) - len(DIFFERENCES) - 1
        labels = ["difference", "load", *["at"] * (others_shown - 1)]
        headings = [*labels[: 1 + others_shown], *(column.heading for column in DIFFERENCES)]
        found.append(("differences in pairs of equal seeds", headings, cells))
    return found


def markdown(
    done: pd.DataFrame, table: pd.DataFrame, differences: pd.DataFrame, lines: Sequence[str]
) -> str:
    """Return the comparison as a page of Markdown."""
    parts = ["# Comparison", ""]
    for title, headings, cells in report_tables(done, table, differences):
        parts += [
            title,
            "",
            _markdown_row([heading.replace("\n", " ") for heading in headings]),
            "|" + "---|" * len(headings),
        ]
        parts += [*map(_markdown_row, cells), ""]
    parts += ["![Cost against attainment](cost-attainment.png)", "", "![GPUs held](gpus.png)", ""]
    return "\n".join([*parts, *lines]) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _print(
    console: Console, done: pd.DataFrame, table: pd.DataFrame, differences: pd.DataFrame
) -> None:
    for title, headings, cells in report_tables(done, table, differences):
        print_table(console, plain_table(title, headings, cells))
        console.print()


# -- figures


def save_comparison_figures(
    rows: Sequence[Mapping[str, Any]], done: pd.DataFrame, out: Path, form: Form = SCREEN
) -> list[Path]:
    """Draw what a comparison shows into the directory *out*."""
    paths = save_figure(draw_costs(done, form), out / "cost-attainment", form)
    return paths + save_figure(draw_gpus(rows, done, form), out / "gpus", form)


def draw_costs(done: pd.DataFrame, form: Form = SCREEN) -> Figure:
    """Draw attainment over cost, a panel for each load: the clairvoyant as a star, and the front of
    those that nobody beats in both.
    """
    loads = loads_of(done)
    policies = list(dict.fromkeys(done["policy"]))
    grid_in = grid_of(
        len(loads),
        panel_in=(3.6, 3.1),
        beside_in=1.6,
        keys=len(policies) + 1,
        form=form,
    )
    figure = grid_in.figure
    with our_style():
        grid = figure.subplots(grid_in.rows, grid_in.columns, squeeze=False)
        for ax, (load, runs) in zip(grid.flat, loads, strict=False):
            _draw_costs_of(ax, runs, policies=policies)
            ax.set_title(load, loc="left")
        for ax in list(grid.flat)[len(loads) :]:
            ax.set_axis_off()
        # The last panels of their columns, whose row need not be full.
        for ax in list(grid.flat)[: len(loads)][-grid_in.columns :]:
            ax.set_xlabel("cost [$/h]")
        for ax in grid[:, 0]:
            ax.set_ylabel("requests within target [%]")
        _draw_legend(figure, grid_in)
    return figure


def _draw_legend(figure: Figure, grid: Grid) -> None:
    """Draw what the panels show, each once: not everybody is in every panel."""
    handles: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), frameon=False, **grid.legend)


def _draw_costs_of(ax: Axes, done: pd.DataFrame, *, policies: Sequence[str]) -> None:
    points = {}
    for policy, runs in done.groupby("policy", sort=False):
        cost = estimate_score(runs["cost_usd_per_h"].to_numpy(dtype=float), share=False)
        share = estimate_share(runs["attainment"].to_numpy(dtype=float))
        points[str(policy)] = (cost, share)
    for policy, (cost, share) in points.items():
        x, y = cost.mean, 100.0 * share.mean
        number = policies.index(policy)
        marker = "*" if policy == CLAIRVOYANT else MARKERS[number % 7]
        ax.errorbar(
            x,
            y,
            xerr=_bar(cost.mean - cost.low, cost.high - cost.mean),
            yerr=_bar(100 * (share.mean - share.low), 100 * (share.high - share.mean)),
            color=_colour(policy, policies),
            marker=marker,
            markersize=11 if policy == CLAIRVOYANT else 6,
            elinewidth=1.0,
            capsize=2,
            linestyle="none",
            label=policy,
        )
    front = front_of({name: (cost.mean, share.mean) for name, (cost, share) in points.items()})
    ax.plot(
        [points[name][0].mean for name in front],
        [100.0 * points[name][1].mean for name in front],
        color="0.6",
        linewidth=1.0,
        linestyle="--",
        zorder=0,
        label="front",
    )
    costs, shares = (
        np.array([[one.mean, one.low, one.high] for one in ends]).T
        for ends in zip(*points.values(), strict=True)
    )
    ax.set_xlim(*span_of(*costs, most=np.inf))
    ax.set_ylim(*span_of(*(100.0 * shares), most=100.0))
    ax.grid(visible=True, color="0.9")
    ax.set_axisbelow(True)


def _colour(policy: str, policies: Sequence[str]) -> str:
    """Return the colour of one of *policies*, that of charts.js: bounds take none from others."""
    if policy in BOUNDS:
        return "0.2" if policy == CLAIRVOYANT else "0.6"
    return colour_of(_place(policy, policies))


def _dash(policy: str, policies: Sequence[str]) -> str:
    return "--" if policy in BOUNDS else dash_of(_place(policy, policies))


def _place(policy: str, policies: Sequence[str]) -> int:
    return [name for name in policies if name not in BOUNDS].index(policy)


def _bar(low: float, high: float) -> list[list[float]] | None:
    """Return a bar, None of one seed."""
    return [[low], [high]] if np.isfinite(low) else None


def front_of(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the names whose cost and attainment nobody beats in one without losing in the other,
    the cheapest first.
    """
    found: list[str] = []
    best = -np.inf
    for name, (_, share) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if share > best:
            found.append(name)
            best = share
    return found


def draw_gpus(rows: Sequence[Mapping[str, Any]], done: pd.DataFrame, form: Form = SCREEN) -> Figure:
    """Draw the GPUs that each policy held over time, a panel for each load under its first seed."""
    loads = loads_of(done)
    policies = list(dict.fromkeys(done["policy"]))
    held_by_run = {row["run_id"]: row.get("gpus_held", ()) for row in rows}
    grid_in = grid_of(
        len(loads),
        panel_in=(6.4, 2.4),
        beside_in=1.6,
        keys=len(policies),
        form=form,
        columns_max=1,
    )
    figure = grid_in.figure
    with our_style():
        grid = figure.subplots(len(loads), 1, squeeze=False)
        for ax, (load, runs) in zip(grid.flat, loads, strict=True):
            first = int(runs["seed"].min())
            for run_id, policy in runs[runs["seed"] == first][["run_id", "policy"]].to_numpy():
                held = np.array(held_by_run.get(run_id, ()))
                if not len(held):
                    continue
                ax.step(
                    np.arange(len(held)) * TIMELINE_S / 60.0,
                    held,
                    where="post",
                    color=_colour(policy, policies),
                    linestyle=_dash(policy, policies),
                    linewidth=1.2,
                    label=policy,
                )
            ax.set_title(f"{load}, seed {first}", loc="left")
            ax.set_ylabel("GPUs held")
            ax.set_ylim(bottom=0)
            ax.yaxis.get_major_locator().set_params(integer=True)
        grid[-1][0].set_xlabel("time [min]")
        _draw_legend(figure, grid_in)
    return figure
