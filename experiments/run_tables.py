"""Which columns rows and tables of runs have, and the reading of a table of runs again. What they
mean stands with those who make them.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from twin.datafile import unreadable
from twin.spec import SpecError

if TYPE_CHECKING:  # processes of a sweep import this module, and read no table
    import pandas as pd

SETTINGS = frozenset(
    {"run_id", "scenario", "policy", "alpha", "interval_s", "period_s", "hours", "seed", "error"}
)
# What every run that ended well has a value of, too.
_ALWAYS = SETTINGS | {"start_up"}
TEXTS = frozenset({"run_id", "scenario", "policy", "walk", "error"})


def require_columns(
    source: Path, found: Collection[str], needed: Collection[str], *, remedy: str
) -> None:
    """Raise SpecError, one line, if *source*, which has the columns *found*, lacks one that is
    *needed*: another version wrote it, or somebody edited it.
    """
    if missing := sorted(set(needed).difference(found)):
        raise SpecError(
            f"{source}: expected the columns of runs as this version writes them, found no "
            f"{', '.join(missing)}; {remedy}"
        )


def require_scored_columns(
    source: Path, table: pd.DataFrame, needed: Collection[str], *, remedy: str
) -> None:
    """Raise SpecError as `require_columns`; where all runs of *table* failed there are settings,
    and no scores.
    """
    failed = "error" in table and bool((table["error"] != "").all()) and not table.empty
    asked = SETTINGS.intersection(needed) if failed else needed
    require_columns(source, list(table.columns), asked, remedy=remedy)


def read_runs(path: Path, needed: Collection[str], *, also: Collection[str] = ()) -> pd.DataFrame:
    """Return the table of runs in the CSV file *path*, with "" where there is no error. Raise
    SpecError, one line, for another file, for one without a column that is *needed*, and for a
    value of such a column, or of one that is used where it is there, that nothing can be made of.
    """
    import pandas as pd

    try:
        # What is empty in one file would be a number, and equal to nothing in another.
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str))
    except OSError as error:
        raise SpecError(f"{path}: expected a table of runs, found {error.strerror}") from None
    except pd.errors.EmptyDataError:
        raise SpecError(f"{path}: expected a table of runs, found nothing") from None
    except ValueError as error:
        raise SpecError(
            f"{path}: expected a table of runs, found {unreadable(error)[:60]}"
        ) from None
    if "error" in table:
        table["error"] = table["error"].fillna("")
    require_scored_columns(path, table, needed, remedy="write it anew with --resume")
    if table.empty:
        raise SpecError(f"{path}: expected runs, found none")
    ended = table["error"] == "" if "error" in table else table.index >= 0
    for name in table.columns.intersection(sorted({*needed, *also})):
        if name in _ALWAYS:
            _require(path, name, table[name], table[name].notna() | ~ended, "a value")
        if name not in TEXTS and not pd.api.types.is_numeric_dtype(table[name]):
            numbers = pd.to_numeric(table[name].astype(str), errors="coerce")
            _require(path, name, table[name], numbers.notna() | table[name].isna(), "a number")
    return table


def _require(path: Path, name: str, column: pd.Series, good: pd.Series, expected: str) -> None:
    if not good.all():
        place = int(good.to_numpy().argmin())
        value = column.iloc[place]
        found = "none" if column.isna().iloc[place] else repr(str(value)[:60])
        raise SpecError(f"{path}: line {place + 2}: {name}: expected {expected}, found {found}")
