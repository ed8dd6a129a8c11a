"""Reading of what inference-perf writes: the summary of a stage (stage_0_lifecycle_metrics.json),
an operating point, and the requests one by one (per_request_lifecycle_metrics.json).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from twin.fit.bench_serve import KEPT_UP
from twin.fit.json_figures import (
    Figures,
    entries,
    finite,
    log_of,
    member,
    objects,
    point_rows,
    shape,
)
from twin.fit.points import Latency, OperatingPoint, Percentile
from twin.fit.request_csv import RequestRows
from twin.spec import SpecError

Json = Mapping[str, Any]

# In seconds. What it says of times between tokens is left alone: older versions counted the first
# of each piece twice, and halved them.
LATENCIES: Mapping[Latency, str] = {"ttft": "time_to_first_token", "e2e": "request_latency"}
LABELS = (("median", 50.0), ("p90", 90.0), ("p95", 95.0), ("p99", 99.0))


def is_stage(document: Json) -> bool:
    """Tell whether *document* is the summary of a stage."""
    return "load_summary" in document and "successes" in document


def is_request(document: Json) -> bool:
    """Tell whether *document* is a request."""
    return {"start_time", "end_time", "info", "error"} <= set(document)


def read_stage(document: Json, *, source: str) -> RequestRows:
    """Read the summary of a stage. Its requests come at random gaps, whichever load was asked for
    at a rate.
    """
    load, successes, failures = (
        member(document, name, where=source) for name in ("load_summary", "successes", "failures")
    )
    rate, users = _load(load, source=source)
    where = f"{source}: successes"
    latency = member(successes, "latency", where=where)
    if not member(latency, LATENCIES["ttft"], where=where):
        raise SpecError(
            f"{where}: expected {LATENCIES['ttft']}, found none: measure with streaming"
        )

    def mean_of(name: str) -> float:
        found = member(latency, name, where=where).get("mean")
        return finite(found, where=f"{where}: {name}: mean")

    prompt, output = (_tokens(successes, kind, where=where) for kind in ("prompt", "output"))
    count = finite(successes.get("count"), where=f"{where}: count")
    point = OperatingPoint(
        rate_rps=rate,
        users=users,
        input_tokens=max(prompt, 1.0),
        output_tokens=max(output, 1.0),
        requests=max(int(count), 1),
        percentiles=tuple(
            Percentile(
                latency=kind,
                percent=percent,
                value_s=finite(figures[label], where=f"{where}: {name}: {label}"),
            )
            for kind, name in LATENCIES.items()
            for figures in [member(latency, name, where=where)]
            for label, percent in LABELS
            if figures.get(label)
        ),
    )
    failed = failures.get("count") or 0
    rows = point_rows(
        source,
        point,
        ttft_s=mean_of(LATENCIES["ttft"]),
        e2e_s=mean_of(LATENCIES["e2e"]),
        failed=int(finite(failed, where=f"{source}: failures: count")),
    )
    asked = finite(load.get("requested_rate") or 0.0, where=f"{source}: load_summary")
    if rate is None or rate >= KEPT_UP * asked:
        return rows
    note = (
        f"{source}: {rate:.3g} requests/s were sent where {asked:.3g} were asked for: if a client "
        "waited for answers, this was no load at a rate"
    )
    return replace(rows, notes=(note,))


def _load(load: Json, *, source: str) -> tuple[float | None, int | None]:
    """Return the rate [1/s] at which requests were sent, or the users who ask again at once."""
    for name in ("concurrency", "achieved_rate", "requested_rate"):
        value = load.get(name)
        if value:
            figure = finite(value, where=f"{source}: load_summary: {name}")
            if figure > 0.0:
                return (None, max(round(figure), 1)) if name == "concurrency" else (figure, None)
    raise SpecError(
        f"{source}: load_summary: expected a requested_rate or a concurrency, found "
        f"{shape(load)}: give the stages, stage_0_lifecycle_metrics.json and so on"
    )


def _tokens(successes: Json, kind: str, *, where: str) -> float:
    """Return the mean tokens, as the server has counted them where it is told."""
    counted = member(successes, f"{kind}_tokens", where=where).get("mean")
    if counted is None:
        counted = member(successes, f"{kind}_len", where=where).get("mean")
    return finite(counted, where=f"{where}: {kind}_len: mean")


def read_requests(documents: Sequence[Json], *, source: str) -> RequestRows:
    """Read the requests one by one, of all stages."""
    requests, failed = [], 0
    for index, document in enumerate(objects(documents, where=f"{source}: request"), 1):
        where = f"{source}: request {index}"
        figures = None if document.get("error") else _request(document, where=where)
        if figures is None:
            failed += 1
        else:
            requests.append((index, figures))
    return log_of(source, requests, failed=failed)


def _request(document: Json, *, where: str) -> Figures | None:
    """Return the figures of a request, None if no token of it came."""
    info = member(document, "info", where=where)
    text = member(member(info, "request_metrics", where=where), "text", where=where)
    # Until 0.5 what is of the answer stood in info itself.
    answer = member(info, "response_metrics", where=where) or info
    usage = member(answer, "server_usage", where=where)
    times = entries(answer, "output_token_times", where=where)
    prompt = usage.get("prompt_tokens") or text.get("input_tokens") or info.get("input_tokens")
    output = usage.get("completion_tokens") or answer.get("output_tokens")
    if not times or not output:
        return None
    values = (document.get("start_time"), times[0], times[-1], prompt, output)
    return [finite(value, where=where) for value in values]
