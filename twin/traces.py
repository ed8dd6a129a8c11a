"""Request traces: reading public formats and our own into arrays of instants and token counts."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from twin.datafile import LONGEST_FOUND
from twin.spec import SpecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TraceFormat = Literal["azure", "mooncake", "burstgpt", "own"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Requests in order of arrival: instants from 0 [s], token counts >= 1, and each one's model
    ("" if not given).

    dropped is how many rows were left out because nothing was generated (failed requests).
    """

    name: str
    times_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    models: tuple[str, ...] = ()
    dropped: int = 0

    @property
    def span_s(self) -> float:
        """Return the length of the trace when it is repeated: the last instant and one mean gap
        more.
        """
        return float(self.times_s[-1]) * len(self.times_s) / (len(self.times_s) - 1)

    @property
    def rate_rpm(self) -> float:
        """Return the mean rate [requests/min]."""
        return 60.0 * len(self.times_s) / self.span_s

    @property
    def in_tokens(self) -> float:
        """Return the mean prompt tokens of a request."""
        return float(self.prompt_tokens.mean())

    @property
    def out_tokens(self) -> float:
        """Return the mean output tokens of a request."""
        return float(self.output_tokens.mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    time_s: float
    prompt_tokens: int
    output_tokens: int
    model: str = ""


TOKENS_MAX = 10**9  # far above any context length; catches a column of times taken for tokens

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "azure": ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    "burstgpt": ("Timestamp", "Model", "Request tokens", "Response tokens"),
    "own": ("arrival_s", "input_tokens", "output_tokens"),
}
_FIELDS = ("timestamp", "input_length", "output_length")


def read_trace(
    path: str | Path, trace_format: TraceFormat | None = None, *, model: str | None = None
) -> Trace:
    """Read a trace; without *trace_format*, tell it from the first line. With *model*, keep that
    model's requests.

    Rows are put in order of time, and time starts at the first one kept. Raise SpecError, with file
    and line, for what cannot be read, and if fewer than two requests at different instants
    remain.
    """
    path = Path(path)
    lines = _read_lines(path)
    kind = trace_format or _recognise(path.name, lines[0])
    if kind not in get_args(TraceFormat):
        raise SpecError(
            f"{path.name}: format: expected one of {', '.join(get_args(TraceFormat))}, found "
            f"{kind!r}"
        )
    rows = list(
        _parse_jsonl(path.name, lines) if kind == "mooncake" else _parse_csv(path.name, lines, kind)
    )
    kept = [row for row in rows if model is None or row.model == model]
    if model is not None and not kept:
        known = ", ".join(sorted({row.model for row in rows if row.model})) or "none"
        raise SpecError(
            f"{path.name}: model: expected one of those in the trace ({known}), found {model!r}"
        )
    return _to_trace(path.name, kept)


def _to_trace(source: str, rows: list[_Row]) -> Trace:
    served = sorted((row for row in rows if row.output_tokens > 0), key=lambda row: row.time_s)
    if len(served) < 2 or served[0].time_s == served[-1].time_s:
        found = f"{len(served)} request(s)"
        raise SpecError(
            f"{source}: expected at least two requests at different instants, found {found}"
        )
    start_s = served[0].time_s
    return Trace(
        name=source,
        times_s=np.array([row.time_s - start_s for row in served]),
        prompt_tokens=np.array([max(row.prompt_tokens, 1) for row in served], dtype=np.int64),
        output_tokens=np.array([row.output_tokens for row in served], dtype=np.int64),
        models=tuple(row.model for row in served) if any(row.model for row in served) else (),
        dropped=len(rows) - len(served),
    )


def _read_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise SpecError(f"{path}: expected a request trace, found no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{path}: expected a request trace (text in UTF-8), found {error}"
        ) from None
    if not lines:
        raise SpecError(f"{path.name}: expected a request trace, found an empty file")
    return lines


def _recognise(source: str, first_line: str) -> str:
    if first_line.lstrip().startswith("{"):
        return "mooncake"
    header = {name.strip() for name in first_line.split(",")}
    for kind, columns in _COLUMNS.items():
        if header.issuperset(columns):
            return kind
    known = "; ".join(f"{kind}: {', '.join(columns)}" for kind, columns in _COLUMNS.items())
    found = repr(first_line[:LONGEST_FOUND])
    raise SpecError(
        f"{source}: line 1: expected JSON lines or the columns of a known format ({known}), found "
        f"{found}"
    )


def _parse_csv(source: str, lines: list[str], kind: str) -> Iterator[_Row]:
    columns = _COLUMNS[kind]
    rows = _complete(lines, source)
    header = [name.strip() for name in next(rows)[1]]
    for column in columns:
        if header.count(column) != 1:
            expected = f"the columns {', '.join(columns)}, once each"
            raise SpecError(f"{source}: line 1: expected {expected}, found {', '.join(header)}")
    time_at, in_at, out_at = (header.index(columns[place]) for place in (0, -2, -1))
    model_at = header.index("Model") if kind == "burstgpt" else None
    seconds: Callable[[str], float] = _azure_seconds if kind == "azure" else float
    for line, values in rows:
        where = f"{source}: line {line}"
        yield _Row(
            time_s=_finite(where, header[time_at], values[time_at], seconds),
            prompt_tokens=_count(where, header[in_at], values[in_at]),
            output_tokens=_count(where, header[out_at], values[out_at]),
            model=values[model_at] if model_at is not None else "",
        )


def _complete(lines: list[str], source: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not empty, all as wide as the first, with their line numbers."""
    reader = csv.reader(lines, strict=True)
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


def _parse_jsonl(source: str, lines: list[str]) -> Iterator[_Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{source}: line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or any(name not in entry for name in _FIELDS):
            expected = f"a JSON object with {', '.join(_FIELDS)}"
            raise SpecError(f"{where}: expected {expected}, found {line[:LONGEST_FOUND]!r}")
        yield _Row(
            time_s=_finite(where, "timestamp", str(entry["timestamp"]), float) / 1000.0,
            prompt_tokens=_count(where, "input_length", str(entry["input_length"])),
            output_tokens=_count(where, "output_length", str(entry["output_length"])),
        )


def _azure_seconds(text: str) -> float:
    """Read a date and time (UTC if no offset is given) to the microsecond."""
    moment = datetime.fromisoformat(text.strip())
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _finite(where: str, column: str, text: str, convert: Callable[[str], float]) -> float:
    value = _converted(text, convert)
    if not math.isfinite(value):
        expected = "a date and time" if convert is _azure_seconds else "a finite number"
        raise SpecError(f"{where}: {column}: expected {expected}, found {text[:LONGEST_FOUND]!r}")
    return value


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
