"""Traces line by line: slow, and exact about what is wrong and where."""

from __future__ import annotations

import csv
import json
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from twin.datafile import LONGEST_FOUND, listed
from twin.fit.request_csv import delimiter_of
from twin.spec import SpecError
from twin.traces.formats import TOKENS_MAX, Format, session_column
from twin.traces.sessions import Numbers
from twin.traces.trace import Columns

# What stands where a request got no answer, in any case of its letters.
NOTHING = frozenset({"", "nan", "null", "none", "na", "n/a", "<na>"})
# Dates are counted from here: since 1970 a float has no digits left for microseconds.
EPOCH = datetime(2020, 1, 1, tzinfo=UTC)


def header_of(first_line: str) -> list[str]:
    """Return the names of the columns."""
    fields = csv.reader([first_line], delimiter=delimiter_of(first_line))
    return [name.strip() for name in next(fields, [])]


def times_are_dates(header: list[str], first: Sequence[str], form: Format) -> bool:
    """Tell whether the *first* row has a date for its time; if it has neither a date nor a number,
    what *form* says.
    """
    values = dict(zip(header, first, strict=False))
    text = values.get(form.time, "")
    if math.isfinite(_converted(text, float)):
        return False
    return form.unit == "date" or math.isfinite(_converted(text, _date_seconds))


def read_csv_rows(source: str, lines: Iterable[str], form: Format, *, delimiter: str) -> Columns:
    """Return the columns of a CSV. Raise SpecError at the first line that is wrong."""
    rows = _complete(lines, source, delimiter)
    header = [name.strip() for name in next(rows)[1]]
    for column in form.columns:
        if header.count(column) != 1:
            expected = f"the columns {', '.join(form.columns)}, once each"
            raise SpecError(f"{source}: line 1: expected {expected}, found {listed(header)}")
    time_at, in_at, out_at = (header.index(name) for name in (form.time, form.prompt, form.output))
    model_at = header.index(form.model) if form.model else None
    session_at = header.index(form.session) if form.session else None
    numbers, sessions = Numbers(), array("q")
    seconds: Callable[[str], float] = _date_seconds if form.unit == "date" else float
    times_s, prompts, outputs = array("d"), array("i"), array("i")
    models, zoneless = [], 0
    for line, values in rows:
        where = f"{source}: line {line}"
        times_s.append(_finite(where, header[time_at], values[time_at], seconds))
        zoneless += seconds is _date_seconds and _date(values[time_at]).tzinfo is None
        answered = _is_told(values[out_at])
        prompts.append(_count(where, header[in_at], values[in_at]) if answered else 0)
        outputs.append(_count(where, header[out_at], values[out_at]) if answered else 0)
        if model_at is not None:
            models.append(values[model_at])
        if session_at is not None:
            sessions.append(numbers.of(values[session_at]))
    return Columns(
        times_s=np.array(times_s, dtype=np.float64),
        prompt_tokens=np.array(prompts, dtype=np.int32),
        output_tokens=np.array(outputs, dtype=np.int32),
        models=None if model_at is None else np.array(models, dtype=object),
        sessions=None if session_at is None else np.array(sessions, dtype=np.int64),
        zoneless=zoneless if zoneless < len(times_s) else 0,
    )


def _complete(lines: Iterable[str], source: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not empty, all as wide as the first, with their line numbers."""
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    width = 0
    try:
        for row in reader:
            width = width or len(row)
            if row and len(row) != width:
                raise SpecError(
                    f"{source}: line {reader.line_num}: expected {width} columns, found {len(row)}"
                )
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise SpecError(f"{source}: line {reader.line_num}: expected CSV, found {error}") from None


def read_json_rows(source: str, lines: Iterable[str], form: Format) -> Columns:
    """Return the columns of JSON lines, or of one array. Raise SpecError at the first entry that is
    wrong.
    """
    times_s, prompts, outputs = array("d"), array("i"), array("i")
    blocks, counts = array("q"), array("i")
    numbers, sessions, parents = Numbers(), array("q"), array("q")
    session, zoneless = form.session, 0
    seconds: Callable[[str], float] = _date_seconds if form.unit == "date" else float
    for where, entry, text in _entries(source, lines):
        names = (form.time, form.prompt, form.output)
        if not isinstance(entry, dict) or any(name not in entry for name in names):
            expected = f"a JSON object with {', '.join(names)}"
            found = text.rstrip("\r\n")[:LONGEST_FOUND]
            raise SpecError(f"{where}: expected {expected}, found {found!r}")
        time = str(entry[form.time])
        times_s.append(_finite(where, form.time, time, seconds))
        zoneless += seconds is _date_seconds and _date(time).tzinfo is None
        prompt, output = str(entry[form.prompt]), str(entry[form.output])
        answered = _is_told(output)
        prompts.append(_count(where, form.prompt, prompt) if answered else 0)
        outputs.append(_count(where, form.output, output) if answered else 0)
        of_prompt = _blocks(where, form.hashes, entry.get(form.hashes))
        blocks.extend(of_prompt)
        counts.append(len(of_prompt))
        session = session or (session_column(form, entry) if len(counts) == 1 else "")
        if session:
            sessions.append(numbers.of(entry.get(session)))
            parents.append(numbers.of(entry.get(form.parent)))
    return Columns(
        times_s=np.array(times_s, dtype=np.float64),
        prompt_tokens=np.array(prompts, dtype=np.int32),
        output_tokens=np.array(outputs, dtype=np.int32),
        blocks=np.array(blocks, dtype=np.int64),
        block_counts=np.array(counts, dtype=np.int32),
        sessions=np.array(sessions, dtype=np.int64) if session else None,
        parents=np.array(parents, dtype=np.int64) if form.parent else None,
        zoneless=zoneless if zoneless < len(times_s) else 0,
    )


def _entries(source: str, lines: Iterable[str]) -> Iterator[tuple[str, Any, str]]:
    """Yield where each entry is, itself, and its text."""
    numbered = enumerate(lines, start=1)
    for number, line in numbered:
        if not line.strip():
            continue
        if line.lstrip().startswith("["):
            rest = "".join(line for _, line in numbered)
            for place, entry in enumerate(array_of(source, line + rest), start=1):
                yield f"{source}: entry {place}", entry, str(entry)
            return
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        yield f"{source}: line {number}", entry, line


def array_of(source: str, text: str) -> list[Any]:
    """Return what *text*, a JSON array, holds. Raise SpecError if it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        told = error if isinstance(error, json.JSONDecodeError) else "what no reader takes"
        raise SpecError(f"{source}: expected a JSON array, found {told}") from None
    assert isinstance(found, list)  # by its bracket
    return found


def _blocks(where: str, column: str, found: object) -> list[int]:
    if found is None:
        return []
    if not isinstance(found, list) or not all(
        isinstance(block, int) and -(2**63) <= block < 2**63 for block in found
    ):
        told = repr(str(found)[:LONGEST_FOUND])
        raise SpecError(f"{where}: {column}: expected whole numbers of 64 bits, found {told}")
    return found


def _date_seconds(text: str) -> float:
    """Read a date and time (UTC if no offset is given) to the microsecond."""
    moment = _date(text)
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH).total_seconds()


def _date(text: str) -> datetime:
    return datetime.fromisoformat(text.strip())


def _finite(where: str, column: str, text: str, convert: Callable[[str], float]) -> float:
    value = _converted(text, convert)
    if not math.isfinite(value):
        expected = "a date and time" if convert is _date_seconds else "a finite number"
        raise SpecError(f"{where}: {column}: expected {expected}, found {text[:LONGEST_FOUND]!r}")
    return value


def _is_told(text: str) -> bool:
    return text.strip().lower() not in NOTHING


def _count(where: str, column: str, text: str) -> int:
    value = _converted(text, float)
    if not (0 <= value <= TOKENS_MAX and value.is_integer()):
        expected = f"a whole number in 0..{TOKENS_MAX}"
        raise SpecError(f"{where}: {column}: expected {expected}, found {text[:LONGEST_FOUND]!r}")
    return int(value)


def _converted(text: str, convert: Callable[[str], float]) -> float:
    """Return the figure, or NaN if there is none."""
    try:
        return convert(text)
    except (ValueError, OverflowError):
        return math.nan
