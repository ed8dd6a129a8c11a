"""One row of a sweep: what it holds, its small JSON file, and the reading of that file on
resume.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from experiments.config import RunConfig
from experiments.output import write_json
from experiments.run_tables import require_columns
from experiments.versions import commit, versions
from twin.datafile import read_json
from twin.spec import SpecError

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
NO_ROWS: Mapping[str, Row] = MappingProxyType({})

ROWS, FAILURES = "runs", "failures"
TIMINGS = (
    "cpu_s",
    "requests_per_cpu_s",
)  # these depend on the machine: leave them out of comparisons

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """A run of a sweep with everything resolved: *run_id* names its file, and notes say what its
    data leave open. label says what it is in a line, where its configuration does not.
    """

    run_id: str
    config: RunConfig
    notes: tuple[str, ...] = ()
    label: str = ""

    @property
    def columns(self) -> frozenset[str]:
        """Return what is made of the row of this run once it is finished."""
        from experiments.tables import NEEDED  # which processes of a sweep do not need

        return NEEDED


def notes_of(runs: Sequence[PlannedRun], rows: Mapping[str, Row] = NO_ROWS) -> tuple[str, ...]:
    """Return what the data of *runs* leave open, each line once; and by their *rows*, of which
    policies cycles had errors.
    """
    found = dict.fromkeys(note for planned in runs for note in planned.notes)
    counts: dict[str, tuple[int, int]] = {}
    for row in (rows.get(planned.run_id, {}) for planned in runs):
        if row.get("cycles_failed"):
            failed, cycles = counts.get(row["policy"], (0, 0))
            counts[row["policy"]] = failed + row["cycles_failed"], cycles + row["cycles"]
    lines = (
        f"{policy}: {failed} of {cycles} cycles had an error, as its runs by inferno sim tell"
        for policy, (failed, cycles) in counts.items()
    )
    return (*found, *lines)


def settings_row(planned: PlannedRun) -> Row:
    """Return the columns that say which run a row is."""
    config = planned.config
    return {
        "run_id": planned.run_id,
        "scenario": config.scenario,
        "policy": config.policy_name,
        "alpha": config.disturbance_alpha,
        "interval_s": config.interval_s,
        "period_s": config.period_s,
        "hours": config.hours,
        "walk": config.walk,
        "seed": config.seed,
    }


def row_of(planned: PlannedRun, summary: Mapping[str, Any]) -> Row:
    """Return the row of a finished run: its settings and the plain figures of its summary (no
    maps).
    """
    figures = {name: value for name, value in summary.items() if not isinstance(value, Mapping)}
    return {**settings_row(planned), **figures, "error": ""}


def save_row(directory: Path, planned: PlannedRun, row: Row) -> None:
    """Write the row's file, whole or not at all, with what is needed to repeat the run."""
    content = {
        "format": _FORMAT,
        "row": row,
        "config": planned.config.as_json(),
        "versions": versions(),
        "commit": commit(),
    }
    write_json(directory / f"{planned.run_id}.json", content | {"digest": _digest(content)})


def load_rows(directory: Path, runs: Sequence[PlannedRun]) -> dict[str, Row]:
    """Return the rows of those *runs* that are finished, by run id; check every row file that lies
    in *directory*.

    Raise SpecError, one line, for a file that is damaged, and for one of *runs* without a column.
    """
    rows = {path.stem: _load_row(path) for path in sorted(directory.glob("*.json"))}
    asked = [planned for planned in runs if planned.run_id in rows]
    for planned in asked:
        require_columns(
            directory / f"{planned.run_id}.json",
            rows[planned.run_id],
            planned.columns,
            remedy="delete it to repeat its run",
        )
    return {planned.run_id: rows[planned.run_id] for planned in asked}


def _load_row(path: Path) -> Row:
    try:
        content = read_json(path)
    except SpecError as error:
        raise SpecError(f"{path.parent}: {error}; delete it to repeat its run") from None
    if isinstance(content, dict) and content.get("digest") == _digest(content):
        if content.get("format") != _FORMAT:
            raise SpecError(
                f"{path}: expected a run of format {_FORMAT}, found {content.get('format')!r}; "
                "delete it to repeat its run"
            )
        row = content["row"]
        if row.get("run_id") == path.stem:
            return dict(row)
    raise SpecError(
        f"{path}: expected a finished run as it was written, found a damaged file; delete it to "
        "repeat its run"
    )


def _digest(content: Mapping[str, Any]) -> str:
    """Return a hash of all but the digest itself, by which damage is noticed that is still JSON."""
    rest = {name: value for name, value in content.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def results_frame(runs: Sequence[PlannedRun], rows: Mapping[str, Row]) -> pd.DataFrame:
    """Return the rows of a sweep as a table, in the order of *runs*; timings stand last."""
    import pandas as pd  # processes of a sweep import this module, and make no table

    plain = [
        {
            name: value
            for name, value in rows[planned.run_id].items()
            if not isinstance(value, Mapping | list)
        }
        for planned in runs
    ]
    frame = pd.DataFrame(plain)
    last = [name for name in (*TIMINGS, "error") if name in frame.columns]
    return frame[[name for name in frame.columns if name not in last] + last]
