"""The files of one run: written whole, and read back for its figure. docs/experiments.md says what
each holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.arrow_table import arrow_table
from experiments.columns import Column, Columns, Window, rows_of
from experiments.config import HOURS_MAX, RunConfig
from experiments.cycle_lines import CycleLines, FileOfLines, WrittenLines
from experiments.figures import SCREEN, Form, save_figure
from experiments.output import whole_directory, write_json
from experiments.requests import PART_ROWS, Requests
from experiments.run import CYCLES, Progress, RunResult, simulate
from experiments.scores.changes import Desired
from experiments.scores.cuts import Cuts
from experiments.sources import read_sources
from experiments.timeline import (
    accelerator_spells,
    fleet_timeline,
    minute_timeline,
    replica_timeline,
)
from experiments.versions import PACKAGE, commit, versions
from loop.spec import PercentileTarget, SloTarget
from twin.datafile import read_json, shown, unreadable
from twin.request import REASONS, ROW, Outcome
from twin.spec import SpecError

# What is read needs pandas; to write a run, none is imported.
if TYPE_CHECKING:
    import pandas as pd

REQUESTS, PODS = "requests.parquet", "pods.parquet"
SUMMARY, RUN, TIMELINE = "summary.json", "run.json", "timeline"
_MAPS = ("servers", "accelerator_hours_by_type")  # what a summary has that is no figure

_OUTCOMES = [outcome.name.lower() for outcome in Outcome]
# Of each request, what figures and pages are made from: a day of a large system has millions.
_READ = ("arrival_s", "first_token_s", "finish_s", "prompt_tokens", "output_tokens", "generated")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunRecords:
    """What the figure of a run is made from; servers in columns are indices into names."""

    names: tuple[str, ...]
    targets: tuple[SloTarget | None, ...]
    titles: Mapping[str, str]
    heading: str
    end_s: float
    cycles: Sequence[Mapping[str, Any]]
    desired: Mapping[str, Sequence[Desired]]
    cuts: Cuts
    requests: Columns | Requests
    pods: Columns


def run_to_directory(
    config: RunConfig, out: Path, *, progress: Progress | None = None
) -> tuple[RunResult, list[Path]]:
    """Run *config* and write its files into *out*, all of them or none; return the result and the
    paths.

    Raise SpecError, before anything is simulated, for bad input and for an *out* that cannot be
    written.
    """
    sources = read_sources(config)
    with whole_directory(out) as scratch:
        result = simulate(sources, progress=progress, directory=scratch)
        names = _write_files(result, scratch)
    return result, [out / name for name in names]


def write_run(result: RunResult, out: Path) -> list[Path]:
    """Write the files of *result* into *out*, all of them or none; return their paths. Raise
    SpecError if it cannot.
    """
    with whole_directory(out) as scratch:
        names = _write_files(result, scratch)
    return [out / name for name in names]


def plot_run(directory: Path, form: Form = SCREEN) -> list[Path]:
    """Draw the timeline of a run again, from its files alone. Raise SpecError where one is missing
    or damaged.
    """
    return save_figure(_draw(read_run(directory), form), directory / TIMELINE, form)


def _write_files(result: RunResult, directory: Path) -> list[str]:
    if isinstance(result.cycles, FileOfLines):
        result.cycles.flush()
    if not (directory / CYCLES).exists():
        with (directory / CYCLES).open("w", encoding="utf-8") as file:
            file.writelines(f"{text}\n" for text in result.cycles.texts())
    _write_requests(result, directory / REQUESTS)
    with (directory / PODS).open("wb") as file:
        pq.write_table(_table(result, result.pods), file)
    write_json(directory / SUMMARY, result.summary)
    write_json(directory / RUN, _run_json(result))
    save_figure(_draw(_records(result)), directory / TIMELINE)
    return [CYCLES, REQUESTS, PODS, SUMMARY, RUN, f"{TIMELINE}.png"]


def _records(result: RunResult) -> RunRecords:
    """Return what `read_run` would read of the files of *result*."""
    return RunRecords(
        names=result.names,
        targets=result.targets,
        titles={name: _title(name, result.summary["servers"][name]) for name in result.names},
        heading=_heading(result.config.as_json(), result.summary),
        end_s=result.window.end_s,
        cycles=result.cycles,
        desired=result.cycles.desired,
        cuts=result.cycles.cuts,
        requests=result.requests,
        pods=result.pods,
    )


def _write_requests(result: RunResult, path: Path) -> None:
    """Write every request of *result* in groups of rows: a copy of all would be as large as all
    that the run itself had in memory.
    """
    writer = None
    # Arrow opens no file whose name is not in UTF-8, and that shows at the end of a run.
    with path.open("wb") as file:
        for block in result.requests.blocks(len(result.names)):
            for part in block.parts():
                for begin in range(0, max(len(part["id"]), 1), PART_ROWS):
                    rows = rows_of(part, begin, begin + PART_ROWS)
                    table = _table(result, rows)
                    writer = writer or pq.ParquetWriter(file, table.schema)
                    writer.write_table(table)
        assert writer is not None, "a run has a server"
        writer.close()
    pa.default_memory_pool().release_unused()


def requests_frame(result: RunResult) -> pd.DataFrame:
    """Return every request of *result*, a row each, with words in place of numbers."""
    frame: pd.DataFrame = _table(result, result.requests).to_pandas()
    return frame


def pods_frame(result: RunResult) -> pd.DataFrame:
    """Return every pod of *result*, a row each."""
    frame: pd.DataFrame = _table(result, result.pods).to_pandas()
    return frame


def _table(result: RunResult, columns: Columns) -> pa.Table:
    """Return *columns* as the files have them: words in place of numbers."""
    words = {"server": result.names, "outcome": _OUTCOMES, "reason": REASONS}
    return arrow_table(columns, words)


def _run_json(result: RunResult) -> dict[str, Any]:
    return {
        "run_id": result.run_id,
        "seed": result.config.seed,
        "config": result.config.as_json(),
        "versions": versions(),
        "commit": commit(),
        "duration_s": result.window.end_s,
        "scored": {"start_s": result.window.start_s, "end_s": result.window.end_s},
        "servers": [
            {
                "name": name,
                "slo_ttft_ms": t.slo_ttft_ms,
                "slo_itl_ms": t.slo_itl_ms,
                "slo_tps": t.slo_tps,
                "percentiles": [asdict(one) for one in t.percentiles],
                "model": t.model,
            }
            if t
            else {"name": name}
            for name, t in zip(result.names, result.targets, strict=True)
        ],
        "notes": list(result.notes),
        "compiled_share": result.compiled_share,
        "timings": result.timings,
    }


def read_run(directory: Path) -> RunRecords:
    """Read what the figure of a run needs from its *directory*. Raise SpecError, one line, where
    that fails.
    """
    about, summary = read_about(directory), read_json(directory / SUMMARY)
    pods = _read_columns(directory / PODS)
    try:
        cycles = _read_cycles(directory / CYCLES)
        if len(cycles) != summary["cycles"]:
            raise ValueError(f"{len(cycles)} lines in {CYCLES} for {summary['cycles']} cycles")
        names = tuple(server["name"] for server in about["servers"])
        for scores in (summary, *(summary["servers"][name] for name in names)):
            _require_figures(scores)
        if not 0.0 <= about["duration_s"] <= HOURS_MAX * 3600.0:
            raise ValueError(f"duration_s {shown(about['duration_s'])}")
        return RunRecords(
            names=names,
            targets=tuple(_target(server) for server in about["servers"]),
            titles={name: _title(name, summary["servers"][name]) for name in names},
            heading=_heading(about["config"], summary),
            end_s=float(about["duration_s"]),
            cycles=cycles,
            desired=cycles.desired,
            cuts=cycles.cuts,
            requests=_read_requests(directory / REQUESTS, names=names),
            pods=_indexed(pods, names=names),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SpecError(
            f"{directory}: expected the files of one run as this version writes them, found "
            f"{_written_by(about)}: {error!r}"
        ) from None


def _require_figures(scores: Mapping[str, Any]) -> None:
    """Raise ValueError for a score that is no number: tables and pages would end on it."""
    for name, value in scores.items():
        if not isinstance(value, int | float | None) and name not in _MAPS:
            raise ValueError(f"{name} {shown(value)}")


def read_about(directory: Path) -> dict[str, Any]:
    """Return what run.json in *directory* says. Raise SpecError if it is missing or damaged."""
    about = read_json(directory / RUN)
    if not isinstance(about, dict) or not isinstance(about.get("config"), dict):
        raise SpecError(f"{directory / RUN}: expected what inferno sim wrote, found {shown(about)}")
    return about


def window_of(about: Mapping[str, Any], directory: Path) -> Window:
    """Return the part of the run in *directory* that is scored, as run.json tells *about* it. Raise
    SpecError where it does not.
    """
    try:
        scored = about["scored"]
        window = Window(start_s=float(scored["start_s"]), end_s=float(scored["end_s"]))
        within = 0.0 <= window.start_s <= window.end_s <= float(about["duration_s"])
    except (KeyError, TypeError, ValueError):
        within = False
    if not within:
        raise SpecError(
            f"{directory / RUN}: scored: expected start_s and end_s within the run, found "
            f"{shown(about.get('scored'))}"
        )
    return window


def seen_from(directory: Path, path: Path) -> Path:
    """Return *path* as it is found where the run in *directory* was made: here, or else in a folder
    above the run.
    """
    above = (folder / path for folder in directory.absolute().parents)
    return path if path.exists() else next((one for one in above if one.exists()), path)


def _read_cycles(path: Path) -> CycleLines:
    try:
        return WrittenLines(path)
    except FileNotFoundError:
        raise SpecError(f"{path}: expected a file, found none") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{path}: expected a text file in UTF-8, found {unreadable(error)}"
        ) from None


def _read_requests(path: Path, *, names: tuple[str, ...]) -> dict[str, Column]:
    """Return the requests in *path*, read a group of rows at a time: as one table they take four
    times the memory that their columns have.
    """
    words = {"server": names, "outcome": tuple(_OUTCOMES)}
    with _of_parquet(path), path.open("rb") as opened, pq.ParquetFile(opened) as file:
        kinds = {name: file.schema_arrow.field(name).type.to_pandas_dtype() for name in _READ}
        kinds |= {name: ROW[name] for name in words}
        rows = file.metadata.num_rows
        found: dict[str, Column] = {name: np.empty(rows, kind) for name, kind in kinds.items()}
        end = 0
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns=list(kinds))
            begin, end = end, end + table.num_rows
            for name, column in found.items():
                own = table[name]
                column[begin:end] = (
                    _codes(own.to_pandas(), words[name]) if name in words else own.to_numpy()
                )
    return found


def _read_columns(path: Path) -> pd.DataFrame:
    import pandas as pd

    with _of_parquet(path), path.open("rb") as file:
        return pd.read_parquet(file)


@contextmanager
def _of_parquet(path: Path) -> Iterator[None]:
    """Say in one line what is wrong with the file that is read in the block."""
    try:
        yield
    except FileNotFoundError:
        raise SpecError(f"{path}: expected a file, found none") from None
    except (OSError, ValueError) as error:
        raise SpecError(
            f"{path}: expected a Parquet file, found {' '.join(str(error).split())[:100]}"
        ) from None


def _written_by(about: Mapping[str, Any]) -> str:
    """Return which version wrote a run, by its run.json."""
    said = about.get("versions")
    told = said.get(PACKAGE) if isinstance(said, Mapping) else None
    return f"those of {PACKAGE} {told or '(version not told)'}"


def _indexed(frame: pd.DataFrame, *, names: tuple[str, ...]) -> dict[str, Column]:
    columns = {str(name): frame[name].to_numpy() for name in frame.columns}
    return columns | {"server": _codes(frame["server"], names)}


def _codes(column: pd.Series[Any], names: list[str] | tuple[str, ...]) -> Column:
    """Return the index in *names* of each entry: the order of categories is not kept by every
    version of a file.
    """
    import pandas as pd

    return np.asarray(pd.Categorical(column, categories=list(names)).codes, dtype=np.int64)


def _target(server: Mapping[str, Any]) -> SloTarget | None:
    if "model" not in server:
        return None
    percentiles = tuple(
        PercentileTarget(
            latency=one["latency"],
            percentile=float(one["percentile"]),
            limit_ms=float(one["limit_ms"]),
        )
        for one in server.get("percentiles", ())
    )
    limits = {name: float(server[name]) for name in ("slo_ttft_ms", "slo_itl_ms", "slo_tps")}
    return SloTarget(model=server["model"], **limits, percentiles=percentiles)


def _draw(records: RunRecords, form: Form = SCREEN) -> Any:
    # A report reads the files of runs as well, and draws them in the browser.
    from experiments.timeline_figure import draw_timelines

    counts = replica_timeline(
        records.pods, records.desired, names=records.names, end_s=records.end_s
    )
    minutes = minute_timeline(
        records.requests, records.targets, names=records.names, end_s=records.end_s
    )
    return draw_timelines(
        counts,
        minutes,
        fleet_timeline(records.pods, end_s=records.end_s),
        titles=records.titles,
        heading=records.heading,
        accelerators={
            name: accelerator_spells(records.desired.get(name, ()), end_s=records.end_s)
            for name in records.names
        },
        form=form,
    )


def _heading(config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    settings = (
        f"{config['scenario']}, policy {config['policy']}, alpha {config['disturbance_alpha']:g}, "
        f"period {config['period_s']:g} s, seed {config['seed']}"
    )
    return (
        f"{settings}: {_percent(summary['attainment'])} within target, "
        f"$ {summary['cost_usd_per_h']:.2f} an hour"
    )


def _title(name: str, scores: Mapping[str, Any]) -> str:
    targets = [
        f"{label} {scores[key]:g} {unit}"
        for label, key, unit in (
            ("TTFT", "slo_ttft_ms", "ms"),
            ("ITL", "slo_itl_ms", "ms"),
            ("output", "slo_tps", "tokens/s"),
        )
        if scores[key]
    ]
    # Without a target every request would count as met.
    share = _percent(scores["attainment"] if targets else None)
    cost = scores["cost_usd_per_h"]
    return f"{name} ({', '.join(targets) or 'no target'}): {share}, $ {cost:.2f}/h"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
