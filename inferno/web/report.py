"""One HTML page of runs, sweeps, comparisons and records: directories in, a file out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from experiments.compare.report import DIFFERENCES_CSV
from experiments.output import require_replaceable, write_text
from experiments.replay import continued, read_cycles
from experiments.run import CYCLES
from experiments.run_files import RUN
from experiments.sweep import RESULTS_CSV, RESULTS_PARQUET, read_results
from experiments.versions import package_version
from inferno.web.charts import Section, Table
from inferno.web.from_records import timeline_of_records
from inferno.web.from_results import comparison_section, stability_section, sweep_section
from inferno.web.page import page
from inferno.web.run_sections import ReadRun, beside, read_for_report, run_section
from inferno.web.thinning import thinned
from inferno.web.timeline import Timeline
from twin.spec import SpecError

# How the titles of our pages end: only such a page is replaced.
OF_US = " – Inferno Twin"
OWN = f"{OF_US}</title>".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the page shows: timelines side by side, and a section for each directory."""

    title: str
    made_with: str
    timelines: Sequence[Timeline]
    sections: Sequence[Section]


def write_report(paths: Sequence[Path], out: Path, *, title: str = "") -> None:
    """Write the page of *paths* to the file *out*, whole or not at all. Raise SpecError if one of
    them is nothing that can be shown, or *out* cannot be written or is a file of something else.
    """
    require_replaceable(out, mark=OWN, what="a page that inferno report wrote")
    text = report_page(report_of(paths, title=title))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text)
    except OSError as error:
        raise SpecError(
            f"{out}: expected a file that can be written, found {error.strerror or error}"
        ) from None


def report_of(paths: Sequence[Path], *, title: str = "") -> Report:
    """Return what a page shows of *paths*: directories of runs, sweeps, comparisons and studies,
    and files of records.
    """
    found = [one for path in paths for one in _expanded(path)]
    names = _names(found)
    timelines: list[Timeline] = []
    sections: list[Section] = []
    runs: list[ReadRun] = []
    for path, name in zip(found, names, strict=True):
        match _kind(path):
            case "run":
                runs.append(read_for_report(path, name))
                timelines.append(thinned(runs[-1].timeline))
                sections.append(run_section(runs[-1]))
            case "sweep":
                results = read_results(path / RESULTS_PARQUET)
                sections.append(sweep_section(results, path, title=name))
            case "comparison":
                sections.append(comparison_section(path, title=name))
            case "stability":
                sections.append(stability_section(path, title=name))
            case "records":
                timelines.append(_recorded(path, name))
                sections.append(_records_section(timelines[-1]))
            case _:
                raise SpecError(_nothing(path))
    if len(runs) > 1:
        sections.insert(0, beside(runs))
    return Report(
        title=title or ", ".join(names),
        made_with=f"inferno-twin {package_version()}",
        timelines=timelines,
        sections=sections,
    )


def report_page(report: Report) -> str:
    """Return the page of *report*."""
    return page(
        title=f"{report.title}{OF_US}",
        body=f"<main><h1>{escape(report.title)}</h1><div id='report'></div></main>",
        data=report,
        script='inferno.drawReport(document.getElementById("report"), data);',
        more=("charts.js",),
    )


def _expanded(path: Path) -> list[Path]:
    """Return *path*, or what a study put into it."""
    if _kind(path) or not path.is_dir():
        return [path]
    parts = sorted(part for part in path.iterdir() if part.is_dir() and _kind(part))
    return parts or [path]


def _kind(path: Path) -> str:
    """Return what lies at *path*; "" for nothing that is known."""
    if path.is_file():
        return "records"
    for kind, file in (
        ("sweep", RESULTS_PARQUET),
        ("comparison", DIFFERENCES_CSV),
        ("stability", RESULTS_CSV),
        ("run", RUN),
        ("records", CYCLES),
    ):
        if (path / file).exists():
            return kind
    return ""


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the last part of each path, or as many as tell them apart."""
    whole = [path.absolute() for path in paths]
    for length in range(1, max((len(path.parts) for path in whole), default=1)):
        names = ["/".join(path.parts[-length:]) for path in whole]
        if len(set(names)) == len(set(whole)):
            return names
    return [str(path) for path in paths]


def _nothing(path: Path) -> str:
    wanted = (
        f"{RUN} (of a run), {RESULTS_PARQUET} (of a sweep), {DIFFERENCES_CSV} (of a comparison) or "
        f"{CYCLES} (of a loop)"
    )
    found = "none of them" if path.is_dir() else "no such file or directory"
    return f"{path}: expected a directory with {wanted}, found {found}"


def _recorded(path: Path, name: str) -> Timeline:
    file = path / CYCLES if path.is_dir() else path
    try:
        timeline = timeline_of_records(continued(read_cycles(file)), title=name)
        if not timeline.servers:
            raise SpecError(f"{file}: expected cycles in which servers were seen, found none")
        return thinned(timeline)
    except (KeyError, TypeError, AttributeError) as problem:
        raise SpecError(
            f"{file}: expected records of a loop, found some without {problem!s:.60}"
        ) from None


def _records_section(timeline: Timeline) -> Section:
    rows = []
    for server in timeline.servers:
        share, cost = server.attainment, server.cost_usd_per_h
        changes = sum(one.changed for one in server.decisions)
        rows.append(
            [
                server.name,
                "–" if share is None else f"{100.0 * share:.1f}",
                "–" if cost is None else f"{cost:.2f}",
                str(changes),
            ]
        )
    table = Table(
        title="What the loop saw: a cycle is within target if the mean latencies of its window are",
        headings=["server", "cycles within SLO [%]", "cost of what is wanted [$/h]", "changes"],
        rows=rows,
    )
    count = len(timeline.servers)
    of = f"{count} server{'' if count == 1 else 's'}"
    about = f"records of a loop: {of}, {_duration(timeline.end_s)}"
    return Section(title=timeline.title, about=about, items=[table])


def _duration(span_s: float) -> str:
    return f"{span_s / 60.0:.0f} min" if span_s < 5400.0 else f"{span_s / 3600.0:.1f} h"
