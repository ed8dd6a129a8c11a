"""Reading of tables of operating points: a CSV with a load and its mean latencies a row."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from twin.fit.points import Latency, OperatingPoint, Percentile
from twin.fit.request_csv import RequestRows, delimiter_of, rows_by_name
from twin.spec import SpecError

# What a figure may be called, and what makes ours of it.
LOADS: Mapping[str, tuple[str, float]] = {
    "rate_rps": ("rate", 1.0),
    "rate_rpm": ("rate", 1.0 / 60.0),
    "concurrency": ("users", 1.0),
    "users": ("users", 1.0),
}
TOKENS = (("in_tokens", "input_tokens"), ("out_tokens", "output_tokens"))
TTFT = ("ttft_ms", "ttft_ms_mean", "ttft_mean_ms")
TTFT_MEDIAN = ("ttft_ms_median", "ttft_median_ms", "ttft_ms_p50", "ttft_p50_ms")
ITL = ("itl_ms", "itl_ms_mean", "itl_mean_ms", "tpot_ms", "tpot_ms_mean", "tpot_mean_ms")
E2E = ("e2e_ms", "e2e_ms_mean", "e2e_mean_ms")
REQUESTS = ("requests", "request_count", "num_prompts", "completed")  # measured at a load
# Taken where there is no mean: between two tokens both are nearly the same.
ITL_MEDIAN = tuple(
    name.format(latency)
    for latency in ("itl", "tpot")
    for name in ("{}_ms_median", "{}_median_ms", "{}_ms_p50", "{}_p50_ms")
)
BETWEEN = (*ITL, *ITL_MEDIAN)
PERCENTILE = re.compile(r"(ttft|itl|tpot|e2e)_(?:ms_)?p(\d{1,2}(?:\.\d+)?)(?:_ms)?")
LATENCIES: Mapping[str, Latency] = {"ttft": "ttft", "itl": "itl", "tpot": "itl", "e2e": "e2e"}


def is_table(text: str) -> bool:
    """Tell whether *text* is a table of operating points, by its header."""
    header = text.lstrip().split("\n", 1)[0]
    names = {name.strip(' "\r').lower() for name in header.split(delimiter_of(text))}
    return (
        bool(names & set(LOADS)) and bool(names & {*TTFT, *TTFT_MEDIAN}) and "queued_s" not in names
    )


def read_table(text: str, *, source: str) -> RequestRows:
    """Read a table: a load (rate_rps, rate_rpm, or concurrency of users who ask again at once),
    in_tokens, out_tokens, ttft_ms, and itl_ms, tpot_ms or e2e_ms; all latencies are means, but for
    ttft_ms_median (or ttft_ms_p50), which is taken where there is no mean, as is that of ITL.
    Percentiles (ttft_ms_p95, itl_ms_p99, e2e_ms_p50, …) are fitted besides. requests is how many
    were measured, from an empty server on.

    A row without a latency failed. Raise SpecError, one line, for one that cannot be read.
    """
    points: list[OperatingPoint] = []
    figures: list[tuple[int, float, float, float, float]] = []
    failed = 0
    for line, fields in rows_by_name(text.lstrip(), source=source):
        row = {name.strip().lower(): value.strip() for name, value in fields.items()}
        where = f"{source}: line {line}"
        given = [name for name in (*TTFT, *TTFT_MEDIAN, *BETWEEN, *E2E) if row.get(name)]
        # Of answers of one token the first is the last: there is nothing between two.
        is_one = _is_one(row)
        if not any(name in TTFT + TTFT_MEDIAN for name in given) or not (
            is_one or any(name in BETWEEN + E2E for name in given)
        ):
            failed += 1
            continue
        tokens = [_figure(row, names, where=where) for names in TOKENS]
        is_median = not any(name in TTFT for name in given)
        ttft_s = _figure(row, TTFT_MEDIAN if is_median else TTFT, where=where) / 1e3
        gaps = max(round(tokens[1]) - 1, 0)
        if is_one:
            e2e_s = ttft_s
        elif any(name in ITL for name in given) or not any(name in E2E for name in given):
            e2e_s = ttft_s + gaps * _figure(row, BETWEEN, where=where) / 1e3
        else:
            e2e_s = _figure(row, E2E, where=where) / 1e3
        if e2e_s < ttft_s:
            raise SpecError(
                f"{where}: e2e_ms: expected >= ttft_ms ({ttft_s * 1e3:g}), found {e2e_s * 1e3:g}"
            )
        points.append(
            replace(
                _load(row, tokens, where=where),
                tells_median=is_median,
                percentiles=_percentiles(row, where=where),
            )
        )
        figures.append((line, ttft_s, e2e_s, tokens[0], tokens[1]))
    if not points:
        found = f"{failed} without latencies" if failed else "none"
        raise SpecError(f"{source}: expected at least one operating point, found {found}")
    table = np.array(figures)
    return RequestRows(
        source=source,
        line=table[:, 0].astype(np.int64),
        queued_s=np.zeros(len(table)),
        first_token_s=table[:, 1],
        last_token_s=table[:, 2],
        input_tokens=np.maximum(np.rint(table[:, 3]), 1).astype(np.int64),
        output_tokens=np.maximum(np.rint(table[:, 4]), 1).astype(np.int64),
        place="point",
        failed=failed,
        points=tuple(points),
    )


def _is_one(row: Mapping[str, str]) -> bool:
    try:
        return any(float(row[name]) == 1.0 for name in TOKENS[1] if row.get(name))
    except ValueError:
        return False


def _percentiles(row: Mapping[str, str], *, where: str) -> tuple[Percentile, ...]:
    """Return the percentiles of *row*, but for those that stand for a mean."""
    means = {
        "ttft": any(row.get(name) for name in TTFT),
        "itl": any(row.get(name) for name in (*ITL, *E2E)),
        "e2e": True,
    }
    found = []
    for name in row:
        match = PERCENTILE.fullmatch(name)
        if match is None or not row[name]:
            continue
        latency, percent = LATENCIES[match[1]], float(match[2])
        if latency == "itl" and _is_one(row):
            continue
        if percent > 0.0 and (percent != 50.0 or means[latency]):
            value_s = _figure(row, (name,), where=where) / 1e3
            found.append(Percentile(latency=latency, percent=percent, value_s=value_s))
    return tuple(found)


def _load(row: Mapping[str, str], tokens: list[float], *, where: str) -> OperatingPoint:
    for name, (kind, unit) in LOADS.items():
        if row.get(name):
            value = _figure(row, (name,), where=where) * unit
            is_rate = kind == "rate"
            if not is_rate and not value.is_integer():
                raise SpecError(
                    f"{where}: {name}: expected a whole number of users who ask again at once, "
                    f"found {row[name][:60]} (of what was in flight on the mean give rate_rps)"
                )
            return OperatingPoint(
                rate_rps=value if is_rate else None,
                users=None if is_rate else int(value),
                input_tokens=tokens[0],
                output_tokens=tokens[1],
                requests=_requests(row, where=where),
            )
    raise SpecError(f"{where}: expected a load ({', '.join(LOADS)}), found none")


def _requests(row: Mapping[str, str], *, where: str) -> int | None:
    if any(row.get(name) for name in REQUESTS):
        return max(round(_figure(row, REQUESTS, where=where)), 1)
    return None


def _figure(row: Mapping[str, str], names: tuple[str, ...], *, where: str) -> float:
    name = next((name for name in names if row.get(name)), names[0])
    text = row.get(name, "")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < 1e9:
        raise SpecError(f"{where}: {name}: expected a number > 0, found {text[:60]!r}")
    return value
