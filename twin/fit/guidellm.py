"""Reading of the reports of GuideLLM: of each benchmark the requests one by one, or, where it keeps
only some of them (until 0.5 it kept 10 or 20 unless told otherwise), an operating point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from twin.fit.bench_serve import KEPT_UP
from twin.fit.json_figures import (
    Figures,
    entries,
    finite,
    log_of,
    member,
    point_rows,
    shape,
)
from twin.fit.points import Latency, OperatingPoint, Percentile
from twin.fit.request_csv import RequestRows
from twin.spec import SpecError

Json = Mapping[str, Any]

# Where versions keep how the requests of a benchmark were sent.
STRATEGY_IN = ("config", "scheduler", "args")
LATENCIES: Mapping[Latency, tuple[str, float]] = {
    "ttft": ("time_to_first_token_ms", 1e-3),
    "e2e": ("request_latency", 1.0),
}
PERCENTILES = ("p50", "p90", "p95", "p99")
FAILED = ("errored", "incomplete")
LONGEST_S = 1e6  # of a step: longer ones are times of another clock


def read_report(report: Json, *, source: str) -> list[RequestRows]:
    """Read a report: a log for each of its benchmarks that was answered."""
    logs = []
    for number, benchmark in enumerate(report["benchmarks"], 1):
        where = f"{source}: benchmark {number}"
        if not isinstance(benchmark, Mapping):
            raise SpecError(f"{where}: expected an object, found {shape(benchmark)}")
        rows = _benchmark(benchmark, source=source, number=number, where=where)
        if rows is not None:
            logs.append(rows)
    if not logs:
        raise SpecError(f"{source}: expected requests that were answered, found none")
    return logs


def _benchmark(benchmark: Json, *, source: str, number: int, where: str) -> RequestRows | None:
    groups = member(benchmark, "requests", where=where)
    kept = entries(groups, "successful", where=where)
    metrics = member(benchmark, "metrics", where=where)
    if _count(member(metrics, "request_totals", where=where), "successful", where=where) > len(
        kept
    ):
        return _point(benchmark, source=f"{source} benchmark {number}", where=where)
    if benchmark.get("requests") is None:
        raise SpecError(
            f"{where}: expected requests by their outcome, found {shape(benchmark)}; write the "
            "report with all requests in it"
        )
    failed = sum(len(entries(groups, name, where=where)) for name in FAILED)
    requests = []
    for index, request in enumerate(kept, 1):
        figures = _request(request, where=f"{where}: {index}")
        if figures is None:
            failed += 1
        else:
            requests.append((index, figures))
    if not requests:
        return None
    return log_of(source, requests, failed=failed, run=f"benchmark {number}")


def _count(of: Json, name: str, *, where: str) -> int:
    found = of.get(name)
    return 0 if found is None else int(finite(found, where=f"{where}: request_totals: {name}"))


# -- requests


def _request(request: object, *, where: str) -> Figures | None:
    """Return the figures of one request, None if it has no times of tokens (no streaming)."""
    if not isinstance(request, Mapping):
        raise SpecError(f"{where}: expected an object, found {shape(request)}")
    info = member(request, "info", where=where) or member(request, "scheduler_info", where=where)
    timings = member(info, "timings", where=where)
    input_metrics = member(request, "input_metrics", where=where)
    output_metrics = member(request, "output_metrics", where=where)

    def first_of(*values: object) -> object:
        return next((value for value in values if value is not None), None)

    figures = (
        first_of(
            request.get("request_start_time"),
            request.get("start_time"),
            timings.get("request_start"),
        ),
        first_of(
            request.get("first_token_time"),
            timings.get("first_token_iteration"),
            timings.get("first_iteration"),
        ),
        first_of(
            request.get("last_token_time"),
            timings.get("last_token_iteration"),
            timings.get("last_iteration"),
            request.get("request_end_time"),
        ),
        first_of(
            request.get("prompt_tokens"),
            input_metrics.get("total_tokens"),
            input_metrics.get("text_tokens"),
        ),
        first_of(
            request.get("output_tokens"),
            output_metrics.get("total_tokens"),
            output_metrics.get("text_tokens"),
        ),
    )
    if any(value is None for value in figures) or not figures[-1]:
        return None
    return [finite(value, where=where) for value in figures]


# -- means


def _point(benchmark: Json, *, source: str, where: str) -> RequestRows:
    """Return the operating point of a benchmark of whose requests only some are known: a replay of
    those would be of a smaller load.
    """
    metrics = benchmark["metrics"]

    def of_answered(name: str) -> Json:
        found = member(metrics, name, where=f"{where}: metrics")
        return member(found, "successful", where=f"{where}: metrics: {name}")

    def mean(name: str) -> float:
        return finite(of_answered(name).get("mean"), where=f"{where}: metrics: {name}: mean")

    rate, users, is_even = read_load(
        benchmark,
        rate_rps=of_answered("requests_per_second").get("mean"),
        in_flight=of_answered("request_concurrency").get("mean"),
        where=where,
    )
    if rate is None and users is None:
        raise SpecError(f"{where}: expected how its requests were sent (strategy), found nothing")
    measured = _measured(benchmark, where=where)
    settle_s, duration_s = measured if users is None else (0.0, None)
    percentiles = [
        Percentile(
            latency=latency,
            percent=float(label[1:]),
            value_s=unit_s * finite(value, where=f"{where}: metrics: {name}: {label}"),
        )
        for latency, (name, unit_s) in LATENCIES.items()
        for label in PERCENTILES
        for value in [member(of_answered(name), "percentiles", where=f"{where}: {name}").get(label)]
        if value
    ]
    totals = metrics["request_totals"]
    answered = _count(totals, "successful", where=where)
    point = OperatingPoint(
        rate_rps=rate,
        users=users,
        is_even=is_even,
        input_tokens=max(mean("prompt_token_count"), 1.0),
        output_tokens=max(mean("output_token_count"), 1.0),
        requests=answered if users is not None else None,
        settle_s=settle_s,
        duration_s=duration_s,
        percentiles=tuple(percentiles),
    )
    failed = sum(_count(totals, name, where=where) for name in FAILED)
    ttft_s, e2e_s = (mean(name) * unit_s for name, unit_s in LATENCIES.values())
    rows = point_rows(source, point, ttft_s=ttft_s, e2e_s=e2e_s, failed=failed)
    reached_rps = of_answered("requests_per_second").get("mean")
    if rate is None or not reached_rps or reached_rps >= KEPT_UP * rate:
        return rows
    note = f"{source}: {reached_rps:g} requests/s were answered of {rate:g} sent: an overload?"
    return replace(rows, notes=(note,))


def _measured(benchmark: Json, *, where: str) -> tuple[float, float | None]:
    """Return from when until when requests counted [s], since the first was sent; None: it is not
    told. A server fills during a good part of a short step.
    """
    times = member(benchmark, "scheduler_metrics", where=where)
    names = ("request_start_time", "measure_start_time", "measure_end_time")
    if any(times.get(name) is None for name in names):
        return 0.0, None
    sent, begin, end = (finite(times[name], where=f"{where}: {name}") for name in names)
    settle_s, duration_s = max(begin - sent, 0.0), end - sent
    return (settle_s, duration_s) if settle_s < duration_s <= LONGEST_S else (0.0, None)


def read_load(
    benchmark: Json, *, rate_rps: object, in_flight: object, where: str
) -> tuple[float | None, int | None, bool]:
    """Return the rate [1/s] or the users who ask again at once, and whether requests were evenly
    spaced. Where a rate was not kept up, the limit on users set the load; where as much was sent
    as went, as many asked again as were *in_flight* on the mean.
    """
    strategy: Json = next(
        (
            found
            for place in STRATEGY_IN
            for found in [benchmark.get(place)]
            for found in [found.get("strategy") if isinstance(found, Mapping) else None]
            if isinstance(found, Mapping)
        ),
        {},
    )
    kind = strategy.get("type_")
    if kind == "synchronous":
        return None, 1, False
    users = strategy.get("streams") or strategy.get("max_concurrency")
    has_limit = isinstance(users, int) and users > 0
    if kind in ("concurrent", "throughput") and has_limit:
        return None, users, False
    if kind == "throughput" and in_flight:
        return None, max(round(finite(in_flight, where=f"{where}: concurrency: mean")), 1), False
    reached = finite(rate_rps or 0.0, where=f"{where}: requests_per_second: mean")
    asked = strategy.get("rate") if kind in ("constant", "poisson", "async") else None
    rate = finite(asked or reached, where=f"{where}: strategy: rate")
    if has_limit and 0.0 < reached < KEPT_UP * rate:
        return None, users, False
    return (rate, None, kind == "constant") if rate > 0.0 else (None, None, False)
