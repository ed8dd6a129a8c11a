"""Traces in Parquet: the columns of the formats of CSV and JSON lines, whole columns at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from twin.datafile import unreadable
from twin.spec import SpecError
from twin.traces.exact import EPOCH
from twin.traces.formats import FORMATS, TOKENS_MAX, Format, as_written
from twin.traces.recognising import recognise_columns
from twin.traces.sessions import Numbers
from twin.traces.trace import Columns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def read_parquet(path: Path, form: Format | None) -> tuple[Columns, Format, bool]:
    """Return the rows of *path*, the format that they were read by, *form* or the one that their
    columns tell, and whether their names alone told it. Raise SpecError.
    """
    try:
        with path.open("rb") as file:  # Arrow opens none whose name is not in UTF-8
            names = pq.read_schema(file).names
            found, by_names = (form, False) if form else _recognised(str(path), names)
            found = replace(found, lines=False) if found.lines else found
            found = as_written(found, names)
            missing = [name for name in found.columns if names.count(name) != 1]
            if missing:
                raise SpecError(
                    f"{path}: expected the columns {', '.join(found.columns)}, once each, found "
                    f"{', '.join(names)[:200]}"
                )
            further = (found.hashes, found.session, found.parent)
            wanted = [*found.columns, *(name for name in further if name in names)]
            table = pq.read_table(file, columns=list(dict.fromkeys(wanted)))
    except (OSError, pa.ArrowException) as error:
        raise SpecError(f"{path}: expected Parquet, found {unreadable(error)}") from None
    times_s, unit = _times(str(path), table[found.time], found)
    return (
        Columns(
            times_s=times_s,
            prompt_tokens=_counts(str(path), table[found.prompt], found.prompt),
            output_tokens=_counts(str(path), table[found.output], found.output, untold=True),
            models=_texts(table[found.model]) if found.model else None,
            **_blocks(str(path), table, found),
            **_sessions(table, found),
        ),
        replace(found, unit=unit),
        by_names,
    )


def _recognised(source: str, names: Sequence[str]) -> tuple[Format, bool]:
    for form in FORMATS.values():
        if form.lines and set(names).issuperset(form.columns):
            return form, False
    kind = recognise_columns(source, set(names), ", ".join(names))
    if isinstance(kind, Format):
        return kind, True
    if kind in FORMATS:
        return FORMATS[kind], False
    raise SpecError(f"{source}: expected a trace, found a log: write it as CSV")


def _times(source: str, column: pa.ChunkedArray, form: Format) -> tuple[Any, Any]:
    """Return the times of *column* and their unit: dates are in seconds from a recent one."""
    of_texts = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if of_texts or pa.types.is_timestamp(column.type):
        try:
            moments = pd.to_datetime(column.to_pandas(), format="ISO8601", utc=True)
        except (ValueError, TypeError) as error:
            what = unreadable(error)
            raise SpecError(f"{source}: {form.time}: expected dates, found {what}") from None
        times_s = (moments - pd.Timestamp(EPOCH)).dt.total_seconds().to_numpy()
        unit = "date"
    else:
        times_s = _numbers(source, column, form.time)
        unit = "s" if form.unit == "date" else form.unit
    if not np.isfinite(times_s).all():
        raise SpecError(f"{source}: {form.time}: expected a finite time in each row")
    return times_s.copy(), unit


def _numbers(source: str, column: pa.ChunkedArray, name: str) -> Any:
    try:
        return column.cast(pa.float64(), safe=False).to_numpy()
    except pa.ArrowException:
        raise SpecError(f"{source}: {name}: expected numbers, found {column.type}") from None


def _counts(source: str, column: pa.ChunkedArray, name: str, *, untold: bool = False) -> Any:
    counts = _numbers(source, column, name)
    if untold:  # who got no answer has none of it told
        counts = np.nan_to_num(counts, nan=0.0)
    within = (counts >= 0) & (counts <= TOKENS_MAX) & (counts == np.floor(counts))
    if not within.all():
        at = int(np.argmin(within))
        raise SpecError(
            f"{source}: row {at + 1}: {name}: expected a whole number in 0..{TOKENS_MAX}, found "
            f"{counts[at]:g}"
        )
    return counts.astype(np.int32)


def _texts(column: pa.ChunkedArray) -> Any:
    return column.to_pandas().fillna("").astype(str).to_numpy(dtype=object)


def _blocks(source: str, table: pa.Table, form: Format) -> dict[str, Any]:
    if form.hashes not in table.column_names:
        return {}
    try:
        column = table[form.hashes].cast(pa.large_list(pa.int64())).combine_chunks()
    except pa.ArrowException as error:
        what = f"expected lists of whole numbers, found {table[form.hashes].type}"
        raise SpecError(f"{source}: {form.hashes}: {what}") from error
    counts = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    blocks = column.flatten().to_numpy(zero_copy_only=False)
    return {"blocks": blocks, "block_counts": counts.astype(np.int32)}


def _sessions(table: pa.Table, form: Format) -> dict[str, Any]:
    numbers = Numbers()
    return {
        kind: numbers.of_all(table[name].to_pylist())
        for kind, name in (("sessions", form.session), ("parents", form.parent))
        if name in table.column_names
    }
