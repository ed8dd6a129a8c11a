"""The file of a measured load: rates and mean tokens of each server by minute, as CSV."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

from emulator.rates import Rates
from twin.datafile import unreadable
from twin.spec import SpecError

COLUMNS = ("server", "t_s", "rate_rpm", "in_tokens", "out_tokens")
FIGURE_MAX = 1e9
Figures = tuple[float, ...]


def read_rates(path: Path, *, repeat: bool = True) -> dict[str, Rates]:
    """Return the load of each server of the file at *path* (.gz too). Raise SpecError, with the
    line, for what cannot be read.

    The rows of a server ascend from t_s 0; its last stretch is as long as the one before.
    """
    rows: dict[str, list[Figures]] = {}
    for place, server, figures in _rows(path):
        own = rows.setdefault(server, [])
        if not own and figures[0] != 0.0:
            raise SpecError(
                f"{place}: t_s: expected 0 in the first row of a server, found {figures[0]:g}"
            )
        if own and figures[0] <= own[-1][0]:
            raise SpecError(
                f"{place}: t_s: expected more than {own[-1][0]:g}, found {figures[0]:g}"
            )
        own.append(figures)
    if not rows:
        raise SpecError(f"{path}: expected rows of {', '.join(COLUMNS)}, found none")
    return {server: _made(server, own, path=path, repeat=repeat) for server, own in rows.items()}


def write_rates(path: Path, rates: Mapping[str, Rates]) -> None:
    """Write the load of each server to *path*."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for server, own in rates.items():
        for row in zip(
            own.times_s.tolist(),
            own.rates_rpm.tolist(),
            own.in_tokens.tolist(),
            own.out_tokens.tolist(),
            strict=True,
        ):
            writer.writerow([server, *(f"{figure:.6g}" for figure in row)])
    path.write_text(text.getvalue(), encoding="utf-8")


def _made(server: str, rows: list[Figures], *, path: Path, repeat: bool) -> Rates:
    if len(rows) < 2:
        raise SpecError(f"{path}: expected at least two rows of {server}, found one")
    times_s, rates_rpm, in_tokens, out_tokens = np.array(rows).T
    before_s, last_s = next(pairwise(times_s[-2:].tolist()))
    return Rates(
        times_s=times_s,
        rates_rpm=rates_rpm,
        in_tokens=in_tokens,
        out_tokens=out_tokens,
        end_s=2.0 * last_s - before_s,
        repeat=repeat,
    )


def _rows(path: Path) -> Iterator[tuple[str, str, Figures]]:
    """Yield the place, the server and the figures of each row."""
    try:
        content = path.read_bytes()
        raw = gzip.decompress(content) if path.suffix == ".gz" else content
        text = raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise SpecError(f"{path}: expected the rates of a load, found no such file") from None
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise SpecError(
            f"{path}: expected the rates of a load, found {unreadable(error)}"
        ) from None
    try:
        yield from _told(csv.DictReader(io.StringIO(text, newline="")), path)
    except csv.Error as error:
        raise SpecError(f"{path}: expected CSV, found {error}") from None


def _told(reader: csv.DictReader[str], path: Path) -> Iterator[tuple[str, str, Figures]]:
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise SpecError(
            f"{path}: line 1: expected the columns {', '.join(COLUMNS)}, found no {missing[0]}"
        )
    for row in reader:
        place = f"{path}: line {reader.line_num}"
        if not row["server"]:
            raise SpecError(f"{place}: server: expected a name, found nothing")
        figures = tuple(_figure(row[name], place=place, name=name) for name in COLUMNS[1:])
        yield place, row["server"], figures


def _figure(text: str | None, *, place: str, name: str) -> float:
    tokens = name.endswith("tokens")
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    within = (value > 0.0 if tokens else value >= 0.0) and value <= FIGURE_MAX
    if not within:
        bound = "> 0" if tokens else ">= 0"
        raise SpecError(f"{place}: {name}: expected a number {bound}, found {str(text)[:60]!r}")
    return value
