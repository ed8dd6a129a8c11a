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

from twin.spec import SpecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TraceFormat = Literal["azure", "mooncake", "burstgpt", "own"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Requests in order of arrival: instants from 0 [s], token counts >= 1, and each one's model ("" where not given).

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
        """Return the length of the trace when it is repeated: the last instant and one mean gap more."""
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


_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "azure": ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    "burstgpt": ("Timestamp", "Model", "Request tokens", "Response tokens"),
    "own": ("arrival_s", "input_tokens", "output_tokens"),
}
_FIELDS = ("timestamp", "input_length", "output_length")


def read_trace(path: str | Path, trace_format: TraceFormat | None = None, *, model: str | None = None) -> Trace:
    """Read a trace; without *trace_format*, tell it from the first line. With *model*, keep that model's requests.

    Rows are put in order of time, and time starts at the first one kept. Raise SpecError, with file and line, for
    what cannot be read, and where fewer than two requests at different instants remain.
    """
    path = Path(path)
    lines = _read_lines(path)
    kind = trace_format or _recognise(path, lines[0])
    if kind not in get_args(TraceFormat):
        raise SpecError(f"{path}: format: expected one of {', '.join(get_args(TraceFormat))}, found {kind!r}")
    rows = list(_parse_jsonl(path, lines) if kind == "mooncake" else _parse_csv(path, lines, kind))
    kept = [row for row in rows if model is None or row.model == model]
    if model is not None and not kept:
        known = ", ".join(sorted({row.model for row in rows if row.model})) or "none"
        raise SpecError(f"{path}: model: expected one of those in the trace ({known}), found {model!r}")
    return _to_trace(path, kept)


def _to_trace(path: Path, rows: list[_Row]) -> Trace:
    served = sorted((row for row in rows if row.output_tokens > 0), key=lambda row: row.time_s)
    if len(served) < 2 or served[0].time_s == served[-1].time_s:
        raise SpecError(f"{path}: expected at least two requests at different instants, found {len(served)} request(s)")
    start_s = served[0].time_s
    return Trace(
        name=path.name,
        times_s=np.array([row.time_s - start_s for row in served]),
        prompt_tokens=np.array([max(row.prompt_tokens, 1) for row in served], dtype=np.int64),
        output_tokens=np.array([row.output_tokens for row in served], dtype=np.int64),
        models=tuple(row.model for row in served) if any(row.model for row in served) else (),
        dropped=len(rows) - len(served),
    )


def _read_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise SpecError(f"{path}: expected a trace file, found none ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: expected text in UTF-8, found byte {error.object[error.start]:#04x}") from error
    if not lines:
        raise SpecError(f"{path}: expected a trace, found an empty file")
    return lines


def _recognise(path: Path, first_line: str) -> str:
    if first_line.lstrip().startswith("{"):
        return "mooncake"
    header = {name.strip() for name in next(csv.reader([first_line]))}
    for kind, columns in _COLUMNS.items():
        if header.issuperset(columns):
            return kind
    expected = "; ".join(f"{kind}: {', '.join(columns)}" for kind, columns in _COLUMNS.items())
    raise SpecError(
        f"{path}:1: expected JSON lines or the columns of a known format ({expected}), found {first_line!r}"
    )


def _parse_csv(path: Path, lines: list[str], kind: str) -> Iterator[_Row]:
    columns = _COLUMNS[kind]
    reader = csv.reader(lines)
    header = [name.strip() for name in next(reader)]
    missing = [name for name in columns if name not in header]
    if missing:
        raise SpecError(f"{path}:1: expected the columns {', '.join(columns)}, found {', '.join(header)}")
    at = [header.index(name) for name in columns]
    model_at = header.index("Model") if kind == "burstgpt" else None
    time_at, in_at, out_at = (at[0], at[-2], at[-1])
    seconds: Callable[[str], float] = _azure_seconds if kind == "azure" else float
    for values in reader:
        if not values:
            continue
        if len(values) <= max(at):
            raise SpecError(f"{path}:{reader.line_num}: expected {len(header)} columns, found {len(values)}")
        where = f"{path}:{reader.line_num}"
        yield _Row(
            time_s=_finite(where, header[time_at], values[time_at], seconds),
            prompt_tokens=_count(where, header[in_at], values[in_at]),
            output_tokens=_count(where, header[out_at], values[out_at]),
            model=values[model_at] if model_at is not None else "",
        )


def _parse_jsonl(path: Path, lines: list[str]) -> Iterator[_Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise SpecError(f"{where}: expected a JSON object, found {line[:40]!r} ({error.msg})") from error
        if not isinstance(entry, dict) or any(name not in entry for name in _FIELDS):
            raise SpecError(f"{where}: expected an object with {', '.join(_FIELDS)}, found {line[:60]!r}")
        yield _Row(
            time_s=_finite(where, "timestamp", str(entry["timestamp"]), float) / 1000.0,
            prompt_tokens=_count(where, "input_length", str(entry["input_length"])),
            output_tokens=_count(where, "output_length", str(entry["output_length"])),
        )


def _azure_seconds(text: str) -> float:
    """Read a date and time (UTC where no offset is given) to the microsecond."""
    moment = datetime.fromisoformat(text.strip())
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _finite(where: str, field: str, text: str, convert: Callable[[str], float]) -> float:
    try:
        value = convert(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        expected = "a date and time" if convert is _azure_seconds else "a finite number"
        raise SpecError(f"{where}: {field}: expected {expected}, found {text!r}")
    return value


def _count(where: str, field: str, text: str) -> int:
    value = _finite(where, field, text, float)
    if value < 0 or value != int(value):
        raise SpecError(f"{where}: {field}: expected a whole number >= 0, found {text!r}")
    return int(value)
