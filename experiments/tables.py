"""The tables that a sweep prints: means with 95 % intervals over seeds, and policies compared in
pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from experiments.confidence import Estimate, Interval, estimate_score, paired_difference
from experiments.run_tables import SETTINGS

if TYPE_CHECKING:
    import pandas as pd

CELL = ("scenario", "interval_s", "policy", "alpha", "period_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of the results as a table shows it; plain ones are a mean without an interval, and
    share says that it is one of requests or minutes within their target.
    """

    name: str
    heading: str
    scale: float = 1.0
    form: str = ".1f"
    plain: bool = False
    share: bool = False


COLUMNS = (
    Column(name="attainment", heading="within\nSLO [%]", scale=100.0, share=True),
    Column(name="minute_attainment", heading="minutes\nwithin", scale=100.0, share=True),
    Column(name="cost_usd_per_h", heading="cost\n[$/h]", form=",.2f"),
    Column(name="changes_per_h", heading="changes\n[1/h]", form=".0f", plain=True),
    Column(name="offered_rpm", heading="offered\n[rpm]", form=",.0f", plain=True),
    Column(name="offered_in_tokens", heading="tok.\nin", form=".0f", plain=True),
    Column(name="offered_out_tokens", heading="tok.\nout", form=".0f", plain=True),
    Column(name="requests_per_cpu_s", heading="reqs/\nCPU s", form=",.0f", plain=True),
)
# What tables and figures of a sweep are made of.
NEEDED = SETTINGS.union(column.name for column in COLUMNS)
OBJECTIVES = ("slo_ttft_ms", "slo_itl_ms", "slo_tps")
RUN_COLUMNS = (
    Column(name="attainment", heading="within\nSLO [%]", scale=100.0, share=True),
    Column(name="minute_attainment", heading="minutes\nwithin", scale=100.0, share=True),
    Column(name="ttft_ms_p95", heading="TTFT p95\n[ms]", form=".0f"),
    Column(name="itl_ms_p95", heading="ITL p95\n[ms]"),
    Column(name="offered_rpm", heading="offered\n[rpm]", form=",.0f"),
    Column(name="cost_usd_per_h", heading="cost\n[$/h]", form=",.2f"),
    Column(name="changes_per_h", heading="changes\n[1/h]", form=".0f"),
)
_NO_WIDTH = 100_000  # as wide as any table wants to be
_KEYS = {
    "scenario": "\nscenario",
    "interval_s": "interval\n[s]",
    "policy": "\npolicy",
    "alpha": "\nalpha",
    "period_s": "period\n[s]",
}


def summary_table(results: pd.DataFrame, *, columns: Sequence[Column] = COLUMNS) -> Table:
    """Return one line per cell of the grid: its mean and 95 % interval over its seeds."""
    done = results[results["error"] == ""]
    keys = _shown_keys(results)
    table = _table(
        _title(results), [*(_KEYS[name] for name in keys), *(column.heading for column in columns)]
    )
    # Rows of results are in the order that was asked for; so is the table.
    for key, runs in done.groupby(keys, sort=False):
        table.add_row(
            *(_key(part) for part in key),
            *(_mean_and_interval(runs, column) for column in columns),
        )
    return table


def paired_table(results: pd.DataFrame, *, metrics: Sequence[Column] = COLUMNS[:4]) -> Table | None:
    """Return how each policy differs from the first, over the same seeds; None where there is only
    one policy.
    """
    done = results[results["error"] == ""]
    policies = list(dict.fromkeys(done["policy"]))
    if len(policies) < 2:
        return None
    by = [name for name in _shown_keys(results) if name != "policy"]
    if (done.groupby("policy")["period_s"].nunique() == 1).all():
        # Each has a period of its own, its native one: they are compared all the same.
        by.remove("period_s")
    headings = ["\npolicy", *(_KEYS[name] for name in by), *(metric.heading for metric in metrics)]
    table = _table(f"difference from {policies[0]}, in pairs of equal seeds", headings)
    for key, runs in done.groupby(by, sort=False):
        for policy in policies[1:]:
            found = [
                paired_difference(runs, metric.name, first=policies[0], second=policy)
                for metric in metrics
            ]
            texts = (
                _text(difference, metric, sign="+")
                for difference, metric in zip(found, metrics, strict=True)
            )
            table.add_row(policy, *(_key(part) for part in key), *texts)
    return table


def text_console(*, quiet: bool = False) -> Console:
    """Return a console of the terminal that prints texts as they are: in the name of a policy or a
    path, neither `[x]` nor `:B:` is an order to it.
    """
    return Console(markup=False, emoji=False, quiet=quiet)


def print_table(console: Console, table: Table) -> None:
    """Print *table* uncut: in a narrow console, or a file, whole figures are worth more than
    straight lines.
    """
    needed = Measurement.get(console, console.options.update_width(_NO_WIDTH), table).maximum
    wide = Console(
        file=console.file,
        width=max(console.width, needed),
        force_terminal=console.is_terminal,
        markup=False,
        emoji=False,
    )
    wide.print(table)


def run_table(summary: Mapping[str, Any]) -> Table:
    """Return the scores of one run (its summary): a line per server, and the overall ones.

    A server without a target has no share within it: every request would count as met. A score
    that the version did not know that wrote the summary is a dash.
    """
    headings = ("\nserver", *(column.heading for column in RUN_COLUMNS))
    table = _table("the scored part of the run", headings)
    for name, scores in (*summary["servers"].items(), ("overall", summary)):
        if name == "overall":
            table.add_section()
        aimed = name == "overall" or any(scores.get(slo) for slo in OBJECTIVES)
        table.add_row(
            name,
            *(
                _figure(scores.get(column.name) if aimed or not column.share else None, column)
                for column in RUN_COLUMNS
            ),
        )
    return table


def plain_table(title: str, headings: Sequence[str], cells: Sequence[Sequence[str]]) -> Table:
    """Return a table of texts."""
    table = _table(title, headings)
    for line in cells:
        table.add_row(*map(Text, line))
    return table


def _figure(value: float | None, column: Column) -> str:
    return "–" if value is None else f"{value * column.scale:{column.form}}"


def _shown_keys(results: pd.DataFrame) -> list[str]:
    return [
        name
        for name in CELL
        if name in ("policy", "alpha", "period_s") or results[name].nunique() > 1
    ]


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for heading in headings:
        # A Text, because "[s]" in a plain string would be read as markup.
        table.add_column(Text(heading), justify="right", no_wrap=True)
    return table


def _key(part: object) -> str:
    return f"{part:g}" if isinstance(part, int | float) else str(part)


def _mean_and_interval(runs: pd.DataFrame, column: Column) -> str:
    found = estimate_score(runs[column.name].to_numpy(dtype=float), share=column.share)
    return figure_text(found.mean, form=column.form) if column.plain else _text(found, column)


def _text(found: Estimate | Interval, column: Column, *, sign: str = "") -> str:
    mean, low, high = (column.scale * value for value in (found.mean, found.low, found.high))
    return figure_text(mean, low, high, form=sign + column.form)


def figure_text(
    value: float | None, low: float | None = None, high: float | None = None, *, form: str
) -> str:
    """Return *value* in *form*, with the ends of its interval if they are known."""
    if value is None or not np.isfinite(value):
        return "–"
    text = signed(value, form)
    if low is None or high is None or not (np.isfinite(low) and np.isfinite(high)):
        return text
    return f"{text} [{signed(low, form)}, {signed(high, form)}]"


def signed(value: float, form: str) -> str:
    """Return *value* in *form*, where what rounds to nothing has no minus."""
    text = f"{value:{form}}"
    return f"{0.0:{form}}" if float(text.replace(",", "")) == 0.0 else text


def _title(results: pd.DataFrame) -> str:
    names = ", ".join(dict.fromkeys(results["scenario"]))
    hours = ", ".join(f"{hours:g}" for hours in dict.fromkeys(results["hours"]))
    seeds, failed = results["seed"].nunique(), int((results["error"] != "").sum())
    over = f"mean [95 % interval] over {seeds} seeds" if seeds > 1 else "one seed"
    what = f"{len(results)} runs of {hours} h, scenario {names}; {over}"
    return f"{what}; {failed} failed" if failed else what
