"""Request logs in columns, and the reading of those in CSV: one row a request, as a real server or
the twin has timed it.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from twin.datafile import listed, unreadable
from twin.fit.points import OperatingPoint
from twin.spec import SpecError

Times = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

TIME_COLUMNS = ("queued_s", "first_token_s", "last_token_s")
COUNT_COLUMNS = ("input_tokens", "output_tokens")
COLUMNS = (*TIME_COLUMNS, *COUNT_COLUMNS)
GZIPPED = b"\x1f\x8b"
TIME_MAX = 1e19  # nanoseconds since 1970 are 2e18
TOKENS_MAX = 10**9  # far above any context length; catches a column of times taken for tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRows:
    """A request log in columns, in order of queued_s, which starts at 0; all arrays have one entry
    a request.

    line is each request's line in the file *source*, or what else *place* says, for messages.
    failed is how many requests of the file are not here since they failed: they have no first
    token, no last one, or no answer.

    notes say what about the file is in doubt, server what it tells of the server that was measured.
    tokens_per_step is how many tokens of a request a
    step of the engine made, where the file tells of speculative decoding.

    A table of operating points is such a log too: points has the load of each entry, whose times
    are the mean ones of a request at it, counted from 0. files names the one that each entry is of,
    where several were put together.
    """

    source: str
    line: Counts
    queued_s: Times
    first_token_s: Times
    last_token_s: Times
    input_tokens: Counts
    output_tokens: Counts
    place: str = "line"
    failed: int = 0
    points: tuple[OperatingPoint, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    tokens_per_step: float | None = None
    server: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.line)

    def part(self, rows: slice) -> RequestRows:
        """Return the requests of *rows*, their times unchanged."""
        return replace(
            self,
            line=self.line[rows],
            queued_s=self.queued_s[rows],
            first_token_s=self.first_token_s[rows],
            last_token_s=self.last_token_s[rows],
            input_tokens=self.input_tokens[rows],
            output_tokens=self.output_tokens[rows],
            points=self.points[rows],
            files=self.files[rows],
        )

    def in_order(self, order: Sequence[int]) -> RequestRows:
        """Return the requests *order*, their times unchanged."""
        at = np.array(order, dtype=np.intp)
        columns = {
            name: getattr(self, name)[at] for name in ("line", *TIME_COLUMNS, *COUNT_COLUMNS)
        }
        points = tuple(self.points[place] for place in order) if self.points else ()
        files = tuple(self.files[place] for place in order) if self.files else ()
        return replace(self, **columns, points=points, files=files)

    def with_requests(self, each: int) -> RequestRows:
        """Return the same with so many requests for *each* user, where it is not told how many
        requests of several users were measured.
        """
        points = [
            replace(point, requests=each * point.users)
            if point.users is not None and point.users > 1 and point.requests is None
            else point
            for point in self.points
        ]
        return replace(self, points=tuple(points))

    @property
    def ttft_s(self) -> Times:
        """Return the time to first token of each request [s]."""
        return self.first_token_s - self.queued_s

    @property
    def e2e_s(self) -> Times:
        """Return the end-to-end latency of each request [s]."""
        return self.last_token_s - self.queued_s


def read_log_text(path: Path) -> str:
    """Return the text of the log *path*, gzipped or not. Raise SpecError, one line, if it cannot be
    read.
    """
    try:
        content = path.read_bytes()
        if content.startswith(GZIPPED):
            content = gzip.decompress(content)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise SpecError(f"{path}: expected a request log, found no such file") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise SpecError(
            f"{path}: expected a request log (text in UTF-8), found {unreadable(error)}"
        ) from None
    if not text.strip():
        raise SpecError(f"{path}: expected a request log, found an empty file")
    return text


def parse_request_rows(text: str, *, source: str) -> RequestRows:
    """Read a request log: CSV with a header that has at least COLUMNS, in any order and case.

    Times in seconds on any one clock; other columns are left alone. Rows may come in any order.
    A request that failed (0 output tokens, or no time of its first or last token) is left out and
    counted. Raise SpecError, one line with *source*, line, column, what was expected and what came.
    """
    rows = _fields(text, source=source)
    line, header = next(rows, (1, []))
    places = _places(header, where=f"{source}: line {line}")
    lines: list[int] = []
    values: list[list[float]] = []
    failed = 0
    for line, row in rows:
        where = f"{source}: line {line}"
        if len(row) != len(header):
            raise SpecError(
                f"{where}: expected {len(header)} fields as in the header, found {len(row)}"
            )
        texts = [row[place].strip() for place in places]
        if _has_failed(texts):
            failed += 1
            continue
        lines.append(line)
        values.append(_figures(texts, where=where))
    if not lines:
        found = f"{failed} that failed" if failed else "none"
        raise SpecError(f"{source}: expected at least one row below the header, found {found}")
    return request_rows(source, lines, values, place="line", failed=failed)


def request_rows(
    source: str,
    lines: Sequence[int],
    values: Sequence[Sequence[float]],
    *,
    place: str,
    failed: int,
) -> RequestRows:
    """Return the log of *values*, one request an entry with the figures of COLUMNS, in order of
    arrival.
    """
    table = np.array(values, dtype=np.float64)
    order = np.argsort(table[:, 0], kind="stable")
    queued_s, first_token_s, last_token_s, input_tokens, output_tokens = table[order].T
    start_s = queued_s[0]
    return RequestRows(
        source=source,
        line=np.array(lines, dtype=np.int64)[order],
        queued_s=queued_s - start_s,
        first_token_s=first_token_s - start_s,
        last_token_s=last_token_s - start_s,
        input_tokens=input_tokens.astype(np.int64),
        output_tokens=output_tokens.astype(np.int64),
        place=place,
        failed=failed,
    )


def _has_failed(texts: Sequence[str]) -> bool:
    """Tell whether a request of COLUMNS never ended: it has no answer, or no time of it."""
    _, *times, _, output = texts
    try:
        no_answer = not output or float(output) == 0.0
    except ValueError:
        no_answer = False
    return no_answer or any(text.lower() in ("", "nan") for text in (*times, output))


def delimiter_of(text: str) -> str:
    """Return what separates the fields of the CSV *text*, by its header."""
    header = text.lstrip().split("\n", 1)[0]
    # Spreadsheets of half of the world write semicolons.
    return next((mark for mark in (",", ";", "\t") if mark in header), ",")


def rows_by_name(text: str, *, source: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of the CSV *text* with their lines, by the names in its header: what has none
    is left out, what a row lacks is "". Raise SpecError, one line, for what is no CSV.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter_of(text), restval="")
    try:
        for row in reader:
            yield reader.line_num, {name: row[name] for name in reader.fieldnames or ()}
    except csv.Error as error:
        raise SpecError(f"{source}: line {reader.line_num}: expected CSV, found {error}") from None


def _fields(text: str, *, source: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter_of(text))
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise SpecError(f"{source}: line {reader.line_num}: expected CSV, found {error}") from None


def _places(header: Sequence[str], *, where: str) -> tuple[int, ...]:
    names = [name.strip().lower() for name in header]
    for column in COLUMNS:
        if names.count(column) != 1:
            found = (
                "it twice"
                if column in names
                else "only " + (listed(filter(None, names)) or "an empty line")
            )
            raise SpecError(f"{where}: expected a column {column}, found {found}")
    return tuple(names.index(column) for column in COLUMNS)


def _figures(texts: Sequence[str], *, where: str) -> list[float]:
    values = [
        _figure(text, where=f"{where}: {column}")
        for text, column in zip(texts, COLUMNS, strict=True)
    ]
    return check_figures(values, where=where)


def check_figures(values: list[float], *, where: str) -> list[float]:
    """Return *values*, the figures of COLUMNS of one request; raise SpecError if they cannot be."""
    for column, value in zip(COUNT_COLUMNS, values[len(TIME_COLUMNS) :], strict=True):
        if not (1 <= value <= TOKENS_MAX and value.is_integer()):
            raise SpecError(
                f"{where}: {column}: expected a whole number in 1..{TOKENS_MAX}, found {value:g}"
            )
    queued_s, first_token_s, last_token_s = values[: len(TIME_COLUMNS)]
    if max(abs(queued_s), abs(last_token_s)) > TIME_MAX:
        raise SpecError(f"{where}: expected times of one clock, found {last_token_s:g}")
    if first_token_s <= queued_s:
        raise SpecError(
            f"{where}: first_token_s: expected > queued_s ({queued_s:g}), found {first_token_s:g}"
        )
    if last_token_s < first_token_s:
        raise SpecError(
            f"{where}: last_token_s: expected >= first_token_s ({first_token_s:g}), found "
            f"{last_token_s:g}"
        )
    return values


def _figure(text: str, *, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SpecError(f"{where}: expected a number, found {text.strip()[:60]!r}")
    return value
