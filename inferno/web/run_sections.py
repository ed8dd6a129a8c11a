"""A run as a section of a report, and several runs beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.columns import Columns, Floats, Window, arrived_within, by_server
from experiments.explain import misses_of_directory
from experiments.run_files import SUMMARY, read_about, read_run, window_of
from experiments.scores.misses import Misses
from experiments.scores.verdicts import measured_latencies_ms
from experiments.tables import run_table
from inferno.web.charts import Bars, Curve, Item, Note, Section, Table
from inferno.web.from_results import misses_chart, table_of, ttft_chart
from inferno.web.from_run import timeline_of_run
from inferno.web.timeline import Timeline
from twin.datafile import read_json
from twin.spec import SpecError

WORST = 20  # servers whose misses are drawn
CURVES_MAX = 8
_POINTS = 160  # of a distribution
_SCORES = (
    ("attainment", "within SLO [%]", 100.0, ".1f"),
    ("minute_attainment", "minutes within [%]", 100.0, ".1f"),
    ("minute_attainment_p95", "p95 minutes within [%]", 100.0, ".1f"),
    ("ttft_ms_p95", "TTFT p95 [ms]", 1.0, ".0f"),
    ("itl_ms_p95", "ITL p95 [ms]", 1.0, ".1f"),
    ("cost_usd_per_h", "cost [$/h]", 1.0, ".2f"),
    ("accelerator_hours", "GPU-hours", 1.0, ".1f"),
    ("changes_per_h", "changes [1/h]", 1.0, ".0f"),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadRun:
    """What a report needs of a run: misses are None, with the reason in why_none, where its data
    are not what they were.
    """

    name: str
    heading: str
    summary: Mapping[str, Any]
    notes: Sequence[str]
    timeline: Timeline
    ttft_ms: Mapping[str, Floats]
    misses: Misses | None
    why_none: str


def read_for_report(directory: Path, name: str) -> ReadRun:
    """Read the run in *directory*. Raise SpecError where its files are missing or damaged."""
    records = read_run(directory)
    summary, about = read_json(directory / SUMMARY), read_about(directory)
    window = window_of(about, directory)
    misses, why_none = None, ""
    try:
        _, misses = misses_of_directory(directory, records)
    except SpecError as error:
        why_none = str(error)
    return ReadRun(
        name=name,
        heading=records.heading,
        summary=summary,
        notes=about.get("notes") or (),
        timeline=timeline_of_run(records, summary, title=name),
        ttft_ms=_ttft_ms(records.requests, window, records.names),
        misses=misses,
        why_none=why_none,
    )


def run_section(run: ReadRun) -> Section:
    """Return scores, the distribution of TTFT, and why requests were missed."""
    items: list[Item] = [table_of(run_table(run.summary))]
    names = list(run.ttft_ms) if len(run.ttft_ms) <= CURVES_MAX else []
    curves = [_ecdf("all servers", np.concatenate(list(run.ttft_ms.values())))]
    if len(names) > 1:
        curves += [_ecdf(name, run.ttft_ms[name]) for name in names]
    known = [curve for curve in curves if curve is not None]
    if known:
        items.append(ttft_chart("Distribution of TTFT", known))
    if run.misses is not None:
        items += _worst(run.misses)
    else:
        items.append(Note(title="Why requests were missed is not known", lines=[run.why_none]))
    if run.notes:
        items.append(Note(title="What the data leave open", lines=list(run.notes)))
    return Section(title=run.name, about=f"run: {run.heading}", items=items)


def beside(runs: Sequence[ReadRun]) -> Section:
    """Return the scores of *runs* beside each other, and how the others differ from the first."""
    items: list[Item] = [
        Table(
            title="Scores of the runs",
            headings=["run", *(heading for _, heading, _, _ in _SCORES)],
            rows=[
                [
                    run.name,
                    *(_text(run.summary.get(key), scale, form) for key, _, scale, form in _SCORES),
                ]
                for run in runs
            ],
        )
    ]
    curves = [_ecdf(run.name, np.concatenate(list(run.ttft_ms.values()))) for run in runs]
    known = [curve for curve in curves if curve is not None]
    if known:
        items.append(ttft_chart("Distribution of TTFT, all servers", known))
    lost = {run.name: run.misses.points.sum(axis=0) for run in runs if run.misses is not None}
    if lost and max(float(points.sum()) for points in lost.values()) > 0.0:
        items.append(misses_chart("Why requests were missed", lost))
    items += [_differences(runs[0], other) for other in runs[1:]]
    return Section(
        title="Side by side",
        about=f"{len(runs)} runs; differences are from {runs[0].name}",
        items=items,
    )


def _ttft_ms(requests: Columns, window: Window, names: Sequence[str]) -> dict[str, Floats]:
    found = {}
    for name, own in zip(names, by_server(requests, len(names)), strict=True):
        ttft_ms, _ = measured_latencies_ms(own)
        found[name] = np.sort(ttft_ms[np.isfinite(ttft_ms) & arrived_within(own, window)])
    return found


def _ecdf(name: str, values: Floats) -> Curve | None:
    """Return the share of *values* that are at most so large: of many values as many as are seen,
    the tail kept.
    """
    if not values.size:
        return None
    ordered = np.sort(values)
    evenly = np.linspace(0.0, 1.0, _POINTS)
    # Half of the points are in the last tenth: that is where targets are.
    shares = np.unique(np.concatenate([evenly, 0.9 + 0.1 * evenly]))
    place = np.maximum(np.ceil(shares * ordered.size).astype(np.int64), 1) - 1
    at = np.unique(place)
    return Curve(
        name=name,
        x=ordered[at].tolist(),
        y=(100.0 * (at + 1) / ordered.size).tolist(),
    )


def _worst(misses: Misses) -> list[Item]:
    lost = {
        name: points
        for name, points in zip(misses.names, misses.points, strict=True)
        if float(points.sum()) > 0.0
    }
    if not lost:
        return [Note(title="Why requests were missed", lines=["No request was missed."])]
    names = sorted(lost, key=lambda name: -float(lost[name].sum()))
    chart = misses_chart(
        "Why requests were missed, by server and first cause",
        {name: lost[name] for name in names[:WORST]},
    )
    assert isinstance(chart, Bars)
    if len(names) <= WORST:
        return [chart]
    rest = sum(float(lost[name].sum()) for name in names[WORST:])
    return [
        chart,
        Note(title="", lines=[f"{len(names) - WORST} more servers lost {rest:.2f} points in all."]),
    ]


def _differences(first: ReadRun, other: ReadRun) -> Table:
    """Return by server what *other* has more than *first*."""
    mine, theirs = other.summary["servers"], first.summary["servers"]
    keys = _SCORES[:1] + _SCORES[3:6] + _SCORES[7:]
    rows = []
    for name in [name for name in theirs if name in mine] + [""]:
        one, two = (mine[name], theirs[name]) if name else (other.summary, first.summary)
        cells = [
            _text(_less(one.get(key), two.get(key)), scale, f"+{form}")
            for key, _, scale, form in keys
        ]
        rows.append([name or "overall", *cells])
    return Table(
        title=f"{other.name} − {first.name}",
        headings=["server", *(heading.replace("[%]", "[points]") for _, heading, _, _ in keys)],
        rows=rows,
    )


def _less(one: float | None, two: float | None) -> float | None:
    return None if one is None or two is None else one - two


def _text(value: float | None, scale: float, form: str) -> str:
    return "–" if value is None else f"{value * scale:{form}}"
