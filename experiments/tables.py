"""The tables that a sweep prints: means with 95 % intervals over seeds, and policies compared in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from rich.table import Table

from experiments.confidence import Estimate, estimate, paired_difference

CELL = ("scenario", "interval_s", "policy", "alpha", "period_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of the results as a table shows it; plain ones are a mean without an interval."""

    name: str
    heading: str
    scale: float = 1.0
    form: str = ".1f"
    plain: bool = False


COLUMNS = (
    Column(name="attainment", heading="within\ntarget [%]", scale=100.0),
    Column(name="minute_attainment", heading="minutes\nwithin [%]", scale=100.0),
    Column(name="cost_cents_per_h", heading="cost\n[cents/h]", form=".0f"),
    Column(name="changes_per_h", heading="changes\n[1/h]"),
    Column(name="offered_rpm", heading="offered\n[req/min]", form=",.0f", plain=True),
    Column(name="offered_in_tokens", heading="tokens\nin", form=".0f", plain=True),
    Column(name="offered_out_tokens", heading="tokens\nout", form=".0f", plain=True),
    Column(name="requests_per_cpu_s", heading="requests\nper CPU s", form=",.0f", plain=True),
)


def summary_table(results: pd.DataFrame, *, columns: Sequence[Column] = COLUMNS) -> Table:
    """Return one line per cell of the grid: mean ± half-width of the 95 % interval over its seeds."""
    done = results[results["error"] == ""]
    keys = [name for name in CELL if name in ("policy", "alpha", "period_s") or results[name].nunique() > 1]
    table = Table(title=_title(results), title_justify="left")
    for name in keys:
        table.add_column(name.replace("_s", "\n[s]").replace("alpha", "distur-\nbance\nalpha"), justify="right")
    table.add_column("seeds", justify="right")
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    for key, runs in done.groupby(keys, sort=True):
        cells = [_mean_and_half_width(runs, column) for column in columns]
        table.add_row(*(str(part) if isinstance(part, str) else f"{part:g}" for part in key), str(len(runs)), *cells)
    return table


def paired_table(results: pd.DataFrame, *, metrics: Sequence[Column] = COLUMNS[:4]) -> Table | None:
    """Return how each policy differs from the first, over the same seeds; None where there is only one policy."""
    done = results[results["error"] == ""]
    policies = list(dict.fromkeys(done["policy"]))
    if len(policies) < 2:
        return None
    by = [name for name in CELL if name != "policy"]
    table = Table(title=f"difference from {policies[0]}, in pairs of equal seeds", title_justify="left")
    for heading in ("policy", "alpha", "period\n[s]", *(metric.heading for metric in metrics)):
        table.add_column(heading, justify="right")
    for key, runs in done.groupby(by, sort=True):
        for policy in policies[1:]:
            differences = [
                _text(paired_difference(runs, metric.name, first=policies[0], second=policy), metric, form="+")
                for metric in metrics
            ]
            table.add_row(policy, f"{key[by.index('alpha')]:g}", f"{key[by.index('period_s')]:g}", *differences)
    return table


def _mean_and_half_width(runs: pd.DataFrame, column: Column) -> str:
    found = estimate(runs[column.name].to_numpy(dtype=float))
    return f"{found.mean * column.scale:{column.form}}" if column.plain else _text(found, column)


def _text(found: Estimate, column: Column, *, form: str = "") -> str:
    if found.n == 0:
        return "–"
    mean = f"{found.mean * column.scale:{form}{column.form}}"
    return mean if found.n == 1 else f"{mean} ± {found.half_width * column.scale:{column.form}}"


def _title(results: pd.DataFrame) -> str:
    names = ", ".join(dict.fromkeys(results["scenario"]))
    failed = int((results["error"] != "").sum())
    what = f"{len(results)} runs of {results['hours'].iloc[0]:g} h, scenario {names}; mean ± 95 % interval over seeds"
    return f"{what}; {failed} failed" if failed else what
