"""Reading of traces: fast by columns where all is well, exact line by line where something is not;
Parquet by its columns alone (twin.traces.parquet).

The fast way reads in chunks (pandas for CSV, pyarrow for JSON lines) and only tells that something
is wrong; the exact way then says what and where.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from twin.datafile import unreadable
from twin.fit.logs import read_logs
from twin.fit.request_csv import GZIPPED, delimiter_of
from twin.registry import name_of
from twin.spec import SpecError
from twin.traces.exact import array_of, header_of, read_csv_rows, read_json_rows, times_are_dates
from twin.traces.formats import (
    FORMATS,
    OF_TODAY_S,
    PER_SECOND,
    TOKENS_MAX,
    Format,
    TraceReader,
    TraceUnit,
    as_written,
    format_of,
    session_column,
    unit_since_1970,
)
from twin.traces.recognising import recognise_columns, recognise_keys
from twin.traces.sessions import Numbers
from twin.traces.trace import Columns, Spread, Trace, left_out_note, make_trace

CHUNK_ROWS = 500_000
PARQUET = b"PAR1"  # the first bytes of such a file
# What comes of a file that is cut off, damaged, no text, or not to be opened.
UNREADABLE = (OSError, EOFError, UnicodeDecodeError, zlib.error)
FAST_ROWS_MIN = 2_000  # of fewer rows the exact way is read before pandas is imported


def read_trace(
    path: str | Path,
    trace_format: str | Format | TraceReader | None = None,
    *,
    model: str | None = None,
    unit: TraceUnit | None = None,
    spread: Spread = "random",
) -> Trace:
    """Read a trace (.gz too); without *trace_format* (a name, a format or reader of one's own, or
    module:Name), tell it from the first line. With *model*, keep that model's requests. *unit* of
    its times: without it, that of the format.

    Rows are put in order of time, and time starts at the first one kept. Raise SpecError, with file
    and line, for what cannot be read, and if fewer than two requests at different instants
    remain; also for JSON lines whose times may be in seconds or in milliseconds.
    """
    path = Path(path)
    kind = None if trace_format is None else format_of(trace_format, source=str(path))
    if callable(kind):
        return _own_trace(path, kind, model=model, unit=unit, spread=spread)
    is_own = isinstance(kind, Format)
    if kind != "log" and _begins(path, PARQUET):
        from twin.traces.parquet import read_parquet

        rows, form, by_names = read_parquet(path, FORMATS[kind] if isinstance(kind, str) else kind)
    else:
        first = _first_line(path)
        kind = kind or _recognise(path, first)
        if kind == "log":
            return _log_trace(path, model=model, unit=unit, spread=spread)
        by_names = isinstance(kind, Format) and not is_own
        form = _timed(path, FORMATS[kind] if isinstance(kind, str) else kind, first)
        rows = _rows(path, form, first)
    is_guess = not is_own and unit is None and _is_guess(rows, form)
    told = [
        *(_names_note(path, form) if by_names else ()),
        *_zones_note(path, rows),
        *_to_seconds(path, rows, form, unit),
    ]
    if model is not None:
        rows = _of_model(path, rows, model)
    trace = make_trace(
        str(path),
        rows,
        spread=spread,
        block_tokens=form.block_tokens,
        guessed=form.unit if is_guess else None,
    )
    return replace(trace, notes=(*told, *trace.notes)) if told else trace


def _rows(path: Path, form: Format, first: str) -> Columns:
    """Return the rows of the text *path*, whose first line is *first*."""
    rows = _fast(path, form, first)
    if rows is not None:
        return rows
    try:
        with _opened(path) as text:
            if form.lines:
                return read_json_rows(str(path), text, form)
            return read_csv_rows(str(path), text, form, delimiter=delimiter_of(first))
    except UNREADABLE as error:
        raise _unreadable(path, error) from None


def _names_note(path: Path, form: Format) -> list[str]:
    columns = f"{form.time}, {form.prompt} and {form.output}"
    return [f"trace {path.name}: {columns} are taken for time, prompt and answer of its requests"]


def _own_trace(
    path: Path,
    reader: TraceReader,
    *,
    model: str | None,
    unit: TraceUnit | None,
    spread: Spread,
) -> Trace:
    """Return the trace that a *reader* of somebody else makes of the file, if it makes sense."""
    if unit is not None:
        raise SpecError(f"{path}: unit: expected none (its reader gives seconds)")
    try:
        rows = reader(path)
        checked = _checked(rows.times_s, rows.prompt_tokens, rows.output_tokens)
    except SpecError:
        raise
    except Exception as error:
        # Whatever the code of somebody else raises is said as one line, as bad input is.
        raise SpecError(
            f"{path}: its reader {name_of(reader)} failed: {type(error).__name__}: "
            f"{unreadable(error)}"
        ) from error
    lengths = {len(rows.times_s), len(rows.prompt_tokens), len(rows.output_tokens)}
    if rows.models is not None:
        lengths.add(len(rows.models))
    if checked is None or len(lengths) > 1:
        raise SpecError(
            f"{path}: expected of its reader as many times [s] as tokens (whole numbers from "
            f"0 to {TOKENS_MAX:,}), found columns of {sorted(lengths)} rows"
        )
    times_s, prompts, outputs = checked
    # Copies: making a trace uses its rows up.
    rows = replace(rows, times_s=times_s.copy(), prompt_tokens=prompts, output_tokens=outputs)
    if model is not None:
        rows = _of_model(path, rows, model)
    return make_trace(str(path), rows, spread=spread)


def _log_trace(path: Path, *, model: str | None, unit: TraceUnit | None, spread: Spread) -> Trace:
    """Return when the requests of a log came that a load generator wrote; several runs come one
    after the other, and requests that failed are left out.
    """
    if model is not None:
        raise SpecError(f"{path}: model: expected none (a log tells no models)")
    if unit == "date":
        raise SpecError(f"{path}: unit: expected s, ms, us or ns (its times are numbers)")
    logs = read_logs(path, time_unit=unit)
    if any(rows.points for rows in logs):
        raise SpecError(f"{path}: expected requests and when they came, found the means of a run")
    begin_s, times_s = 0.0, []
    for rows in logs:
        times_s.append(begin_s + rows.queued_s)
        begin_s += float(rows.last_token_s.max())
    trace = make_trace(
        str(path),
        Columns(
            times_s=np.concatenate(times_s),
            prompt_tokens=np.concatenate([rows.input_tokens for rows in logs]).astype(np.int32),
            output_tokens=np.concatenate([rows.output_tokens for rows in logs]).astype(np.int32),
        ),
        spread=spread,
    )
    failed = sum(rows.failed for rows in logs)
    told = [
        *(note for rows in logs for note in rows.notes),
        *left_out_note(path.name, failed, read=failed + len(trace.times_s)),
    ]
    return replace(trace, dropped=trace.dropped + failed, notes=(*told, *trace.notes))


def _timed(path: Path, form: Format, first: str) -> Format:
    """Return *form* with its columns as the header names them, and times as its first row has
    them: dates, or numbers.
    """
    if form.lines:
        entry = _first_entry(path, first)
        has_dates = times_are_dates([form.time], [str(entry.get(form.time, ""))], form)
        return replace(form, unit="date") if has_dates else form
    try:
        header = header_of(first)
        form = as_written(form, header)
        with _opened(path) as text:
            rows = csv.reader(text, delimiter=delimiter_of(first))
            row = next((row for place, row in enumerate(rows) if place and row), [])
    except (csv.Error, *UNREADABLE):
        return form  # whatever is wrong is told where the rows are read
    if times_are_dates(header, row, form):
        return replace(form, unit="date")
    return replace(form, unit="s") if form.unit == "date" else form


def _is_packed(path: Path) -> bool:
    return path.suffix == ".gz" or _begins(path, GZIPPED)


def _begins(path: Path, mark: bytes) -> bool:
    """Tell whether *path* begins with *mark*; False if it cannot be opened."""
    try:
        with path.open("rb") as content:
            return content.read(len(mark)) == mark
    except OSError:
        return False


def _opened(path: Path) -> io.TextIOBase:
    if _is_packed(path):
        return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig", newline="")


def _first_line(path: Path) -> str:
    try:
        with _opened(path) as text:
            first = text.readline()
            # A file that is no text is often one only further down.
            text.read(2**16)
    except FileNotFoundError:
        raise SpecError(f"{path}: expected a request trace, found no such file") from None
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    if not first:
        raise SpecError(f"{path}: expected a request trace, found an empty file")
    return first.rstrip("\r\n")


def _unreadable(path: Path, error: Exception) -> SpecError:
    return SpecError(f"{path}: expected a request trace (text in UTF-8), found {unreadable(error)}")


def _recognise(path: Path, first: str) -> str | Format:
    begin = first.strip()
    if begin == "{":  # of a document of many lines, which no trace is
        return "log"
    if not begin.startswith(("{", "[")):
        return recognise_columns(str(path), set(header_of(first)), first)
    keys = set(_first_entry(path, first))
    found = recognise_keys(keys)
    is_known = isinstance(found, Format) or keys.issuperset(FORMATS["mooncake"].columns)
    return found if begin.startswith("{") or is_known else "log"


def _first_entry(path: Path, first: str) -> dict[str, Any]:
    """Return the first entry of JSON lines, or of an array; nothing if it is none."""
    try:
        if first.lstrip().startswith("["):
            with _opened(path) as text:
                entry = next(iter(array_of(str(path), text.read())), None)
        else:
            entry = json.loads(first)
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    except (ValueError, RecursionError):
        entry = None
    return entry if isinstance(entry, dict) else {}


def _fast(path: Path, form: Format, first: str) -> Columns | None:
    """Return the columns of a large trace without a fault, None for the others."""
    if path.stat().st_size < FAST_ROWS_MIN * 12 or (_is_packed(path) and path.suffix != ".gz"):
        return None
    try:
        if form.lines:
            by_line = first.lstrip().startswith("[") or form.unit == "date"
            return None if by_line else _fast_lines(path, form, first)
        header = header_of(first)
        if any(header.count(column) != 1 for column in form.columns):
            return None
        return _fast_csv(path, form, first)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, csv.Error, *UNREADABLE):
        # Which line it is, and what is wrong with it, is the exact way's to say.
        return None


def _fast_csv(path: Path, form: Format, first: str) -> Columns | None:
    import pandas as pd

    delimiter = delimiter_of(first)
    wanted = list(form.columns)
    header = next(csv.reader([first], delimiter=delimiter))
    texts = [name for name in header if name.strip() in {form.model, form.session} - {""}]
    numbers, parts = Numbers(), []
    zoned = set[bool]()
    with pd.read_csv(
        path,
        sep=delimiter,
        usecols=lambda name: str(name).strip() in wanted,
        dtype=dict.fromkeys(texts, str),
        chunksize=CHUNK_ROWS,
        encoding="utf-8-sig",
        on_bad_lines="error",
    ) as chunks:
        for chunk in chunks:
            chunk.columns = [str(name).strip() for name in chunk.columns]
            times = _times(chunk[form.time], form, zoned)
            part = _checked(times, chunk[form.prompt], chunk[form.output])
            if part is None or len(zoned) > 1:
                return None
            models = chunk[form.model].fillna("").to_numpy(dtype=object) if form.model else None
            sessions = _numbered(numbers, chunk[form.session]) if form.session else None
            parts.append([*part, models, None, None, sessions])
    return _joined(parts)


def _numbered(numbers: Numbers, names: Any) -> Any:
    """Return the number of each of *names*, a column, of which there are far fewer than rows."""
    codes, known = names.factorize()
    # Of what is missing the code is -1, and so is the last number.
    return np.append(numbers.of_all(known), -1)[codes]


def _times(column: Any, form: Format, zoned: set[bool]) -> Any:
    """Return the times of a *column*, and add to *zoned* whether it tells a time zone. Raise
    ValueError where it tells several, or some rows do.
    """
    if form.unit != "date":
        return column.to_numpy(dtype=np.float64)
    import pandas as pd

    # Of several zones pandas 2 only warns.
    with warnings.catch_warnings(action="error", category=FutureWarning):
        try:
            moments = pd.to_datetime(column, format="ISO8601")
        except FutureWarning as warning:
            raise ValueError(*warning.args) from None
    zoned.add(moments.dt.tz is not None)
    if moments.dt.tz is None:
        moments = moments.dt.tz_localize("UTC")
    # From the first one: a date in seconds has no digits left for microseconds.
    return (moments - pd.Timestamp("2020-01-01", tz="UTC")).dt.total_seconds().to_numpy()


def _fast_lines(path: Path, form: Format, first: str) -> Columns | None:
    import pyarrow as pa
    import pyarrow.json as pj

    entry = json.loads(first)
    session = form.session or session_column(form, entry)
    chats = [name for name in (session, form.parent) if name]
    fields = [
        (form.time, pa.float64()),
        (form.prompt, pa.float64()),
        (form.output, pa.float64()),
        (form.hashes, pa.list_(pa.int64())),
        *((name, pa.string() if isinstance(entry[name], str) else pa.int64()) for name in chats),
    ]
    numbers = Numbers()
    options = pj.ParseOptions(explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore")
    try:
        parts: list[list[Any]] = []
        with pa.input_stream(str(path), compression="detect") as stream:
            for batch in pj.open_json(stream, parse_options=options):
                columns = (batch[name] for name in (form.time, form.prompt, form.output))
                part = _checked(*(column.to_numpy(zero_copy_only=False) for column in columns))
                if part is None:
                    return None
                blocks = batch[form.hashes].flatten()
                if blocks.null_count:
                    return None
                counts = batch[form.hashes].value_lengths().fill_null(0)
                told = [numbers.of_all(batch[name].to_pylist()) for name in chats]
                parts.append([*part, None, blocks.to_numpy(), counts.to_numpy(), *told])
    except pa.ArrowException:
        return None
    return _joined(parts)


def _checked(times: Any, prompts: Any, outputs: Any) -> tuple[Any, Any, Any] | None:
    times_s = np.asarray(times, dtype=np.float64)
    counts = [np.asarray(column, dtype=np.float64) for column in (prompts, outputs)]
    if not np.isfinite(times_s).all():
        return None
    # Who got no answer has none of it told.
    unanswered = np.isnan(counts[1])
    if unanswered.any():
        counts = [np.where(unanswered, 0.0, column) for column in counts]
    for column in counts:
        within = (column >= 0) & (column <= TOKENS_MAX) & (column == np.floor(column))
        if not within.all():
            return None
    return times_s, counts[0].astype(np.int32), counts[1].astype(np.int32)


def _joined(parts: list[list[Any]]) -> Columns | None:
    if not parts:
        return None
    columns = []
    for place in range(len(parts[0])):
        columns.append(
            None if parts[0][place] is None else np.concatenate([part[place] for part in parts])
        )
        for part in parts:  # never the parts and the whole of more than one column
            part[place] = None
    columns += [None] * (8 - len(columns))
    times_s, prompts, outputs, models, blocks, counts, sessions, parents = columns
    assert times_s is not None
    assert prompts is not None
    assert outputs is not None
    return Columns(
        times_s=times_s,
        prompt_tokens=prompts,
        output_tokens=outputs,
        models=models,
        blocks=blocks,
        block_counts=counts,
        sessions=sessions,
        parents=parents,
    )


def _zones_note(path: Path, rows: Columns) -> list[str]:
    if not rows.zoneless:
        return []
    some = f"{rows.zoneless:,} of its {len(rows.times_s):,} dates"
    return [f"trace {path.name}: {some} tell no time zone, and are taken for UTC"]


def _is_guess(rows: Columns, form: Format) -> bool:
    """Tell whether the times could be in another unit for all that is known of them: they are no
    dates, nor since 1970, nor has their column a unit in its name.
    """
    if form.unit == "date" or form.time.endswith(f"_{form.unit}") or not len(rows.times_s):
        return False
    return unit_since_1970(float(rows.times_s.min())) is None


def _to_seconds(path: Path, rows: Columns, form: Format, unit: TraceUnit | None) -> list[str]:
    """Make the times of *rows* seconds; return a note where their unit was guessed. Raise SpecError
    where nobody can tell it.
    """
    of_form = form.unit
    if of_form == "date":
        if unit not in (None, "date"):
            raise SpecError(f"{path}: unit: expected none (its times are dates), found {unit!r}")
        return []
    if unit == "date":
        raise SpecError(f"{path}: unit: expected s, ms, us or ns (its times are numbers)")
    told = []
    is_whole = of_form != "ms" or not (rows.times_s != np.floor(rows.times_s)).any()
    if unit is None and len(rows.times_s):
        first = float(rows.times_s.min())
        guess = unit_since_1970(first)
        likely = not is_whole or OF_TODAY_S[0] <= first < OF_TODAY_S[1]
        if guess == "s" and of_form == "ms" and not likely:
            unit = of_form
            told = ["milliseconds from the 12th day on (if they are seconds since 1970: unit: s)"]
        elif guess is not None:
            unit = guess
            if guess != of_form:
                told = [f"{guess} since 1970, not {of_form} (if they are those: unit: {of_form})"]
    if unit is None and not is_whole:
        raise SpecError(
            f"{path}: timestamp: expected whole milliseconds, found fractions, as of seconds: "
            "say which (unit: s or unit: ms)"
        )
    per_second = PER_SECOND[unit or of_form]
    if per_second != 1.0:
        np.divide(rows.times_s, per_second, out=rows.times_s)
    return [f"trace {path.name}: its times are taken for {what}" for what in told]


def _of_model(path: Path, rows: Columns, model: str) -> Columns:
    models = rows.models if rows.models is not None else np.full(len(rows.times_s), "", object)
    kept = np.flatnonzero(models == model)
    if not len(kept):
        known = ", ".join(sorted({str(name) for name in models if name})) or "none"
        raise SpecError(
            f"{path}: model: expected one of those in the trace ({known}), found {model!r}"
        )
    return rows.chosen(kept)
