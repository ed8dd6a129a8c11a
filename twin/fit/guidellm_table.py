"""Reading of the tables of GuideLLM until 0.4 (benchmarks.csv), as CSV or a list in JSON: a row of
means for each benchmark, an operating point.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from twin.fit.guidellm import read_load
from twin.fit.json_figures import finite, point_rows
from twin.fit.points import Latency, OperatingPoint, Percentile
from twin.fit.request_csv import RequestRows, rows_by_name
from twin.spec import SpecError

Row = Mapping[str, Any]

# A latency by its column, and the unit of that.
LATENCIES: Mapping[Latency, tuple[str, float]] = {
    "ttft": ("Successful Time to first token ms", 1e-3),
    "e2e": ("Successful Request latency", 1.0),
}
TOLD = "[min, 0.1, 1, 5, 10, 25, 75, 90, 95, 99, max]"  # percentiles of a column, in one field
PERCENTS = {7: 90.0, 8: 95.0, 9: 99.0}  # by their place there


def is_row(document: Row) -> bool:
    """Tell whether *document* is a row of such a table."""
    return all(f"{name} mean" in document for name, _ in LATENCIES.values())


def rows_of(text: str, *, source: str) -> list[dict[str, str]] | None:
    """Return the rows of the CSV *text*, None if it is no such table. Raise SpecError, one line,
    for what is no CSV.
    """
    if LATENCIES["ttft"][0] not in text.split("\n", 1)[0]:
        return None
    return [row for _, row in rows_by_name(text, source=source)]


def read_row(row: Row, *, source: str) -> RequestRows:
    """Read one row."""
    where = f"{source}: {str(row.get('Name'))[:60]}"

    def figure(name: str) -> float:
        try:
            return finite(float(row[name]), where=f"{where}: {name}")
        except (KeyError, TypeError, ValueError, OverflowError):
            found = str(row.get(name))[:60]
            raise SpecError(f"{where}: {name}: expected a number, found {found!r}") from None

    answered = figure("Successful Requests")
    if answered < 1.0:
        raise SpecError(f"{where}: expected requests that were answered, found none")
    rate, users, is_even = read_load(
        {"args": _object(row, "Args", where=where)},
        rate_rps=figure("Successful Requests per second mean"),
        in_flight=figure("Successful Request concurrency mean"),
        where=where,
    )
    point = OperatingPoint(
        rate_rps=rate,
        users=users,
        is_even=is_even,
        input_tokens=max(figure("Successful Prompt token count mean"), 1.0),
        output_tokens=max(figure("Successful Output token count mean"), 1.0),
        duration_s=figure("Duration") if users is None else None,
        requests=int(answered) if users is not None else None,
        percentiles=tuple(
            Percentile(latency=latency, percent=PERCENTS[place], value_s=unit_s * value)
            for latency, (name, unit_s) in LATENCIES.items()
            for place, value in _percentiles(row, f"{name} {TOLD}").items()
        ),
    )
    ttft_s, e2e_s = (unit_s * figure(f"{name} mean") for name, unit_s in LATENCIES.values())
    failed = sum(int(figure(f"{kind} Requests")) for kind in ("Errored", "Incomplete"))
    return point_rows(where, point, ttft_s=ttft_s, e2e_s=e2e_s, failed=failed)


def _object(row: Row, name: str, *, where: str) -> Mapping[str, Any]:
    try:
        found = json.loads(row[name])
    except (KeyError, TypeError, ValueError, RecursionError):
        found = None
    if isinstance(found, Mapping):
        return found
    raise SpecError(f"{where}: {name}: expected a JSON object, found {str(row.get(name))[:60]!r}")


def _percentiles(row: Row, name: str) -> dict[int, float]:
    """Return the percentiles of a column that are fitted, by their place; none if none are told."""
    try:
        found = json.loads(row[name])
        return {place: float(found[place]) for place in PERCENTS if 0.0 < float(found[place]) < 1e9}
    except (KeyError, TypeError, ValueError, OverflowError, IndexError, RecursionError):
        return {}
