"""Reading of what `vllm bench serve --save-result` and sglang.bench_serving write: with
--save-detailed the requests one by one, else an operating point of means and percentiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from twin.fit.json_figures import entries, finite, log_of, point_rows, shape
from twin.fit.points import REQUESTS_MAX, Latency, OperatingPoint, Percentile
from twin.fit.request_csv import RequestRows
from twin.spec import SpecError

Json = Mapping[str, Any]

# What the tools call each latency. That of tokens is the mean of a request, not of each gap.
NAMES: Mapping[Latency, tuple[str, ...]] = {
    "ttft": ("ttft",),
    "itl": ("tpot",),
    "e2e": ("e2el", "e2e_latency"),
}
# What vLLM and SGLang call the tokens that a step of speculative decoding made.
TOKENS_PER_STEP = ("spec_decode_acceptance_length", "accept_length")
# What a result tells of the server, a sweep over its options besides.
SERVER = (
    *("model_id", "max_num_seqs", "max_num_batched_tokens"),
    *("tensor_parallel_size", "data_parallel_size", "pipeline_parallel_size"),
)
LABELS = (("median", 50.0), ("p50", 50.0), ("p90", 90.0), ("p95", 95.0), ("p99", 99.0))
# Below this share of the rate asked for it was the limit on users that set the load.
KEPT_UP = 0.9
# Beyond these nobody can tell gaps from a burst, or from even ones.
BURSTINESS_MIN, BURSTINESS_MAX = 0.01, 1e4


def is_result(document: Json) -> bool:
    """Tell whether *document* is a result of one run."""
    return "input_lens" in document or ("mean_ttft_ms" in document and "completed" in document)


def read_result(document: Json, *, source: str) -> RequestRows:
    """Return the requests of a result, or its means where it does not tell when each was sent."""
    told = {name: str(document[name]) for name in SERVER if document.get(name) is not None}
    rows = replace(_rows(document, source=source), server=told)
    for name in TOKENS_PER_STEP:
        if document.get(name):
            return replace(rows, tokens_per_step=finite(document[name], where=f"{source}: {name}"))
    return rows


def _rows(document: Json, *, source: str) -> RequestRows:
    lengths = document.get("input_lens")
    if "start_times" not in document and isinstance(lengths, list) and _is_burst(document):
        document = {**document, "start_times": [0.0] * len(lengths)}
    if "start_times" not in document and "mean_ttft_ms" in document and "completed" in document:
        return _means(document, source=source)
    return _requests(document, source=source)


# -- means


def _means(document: Json, *, source: str) -> RequestRows:
    def figure(name: str) -> float:
        return finite(document.get(name), where=f"{source}: {name}")

    completed = figure("completed")
    if completed < 1:
        raise SpecError(f"{source}: completed: expected requests that were answered, found none")
    prompt, output = (figure(f"total_{name}_tokens") / completed for name in ("input", "output"))
    ttft_s = figure("mean_ttft_ms") / 1e3
    long = next((name for name in NAMES["e2e"] if document.get(f"mean_{name}_ms")), None)
    if long is None:
        e2e_s = ttft_s + max(output - 1.0, 0.0) * figure("mean_tpot_ms") / 1e3
    else:
        e2e_s = figure(f"mean_{long}_ms") / 1e3
    rate, users = _load(document, source=source)
    point = OperatingPoint(
        rate_rps=rate,
        users=users,
        burstiness=_burstiness(document, source=source),
        input_tokens=max(prompt, 1.0),
        output_tokens=max(output, 1.0),
        requests=int(completed),
        percentiles=tuple(_percentiles(document, source=source)),
    )
    asked = document.get("num_prompts")
    lost = document.get("failed")
    if lost is None and isinstance(asked, int):
        lost = max(asked - int(completed), 0)
    if lost is None:  # sglang tells it request by request alone
        lost = sum(map(bool, entries(document, "errors", where=source)))
    return point_rows(
        source,
        point,
        ttft_s=ttft_s,
        e2e_s=e2e_s,
        failed=int(finite(lost or 0, where=f"{source}: failed")),
    )


def _percentiles(document: Json, *, source: str) -> Iterator[Percentile]:
    for latency, names in NAMES.items():
        for name in names:
            for label, percent in LABELS:
                key = f"{label}_{name}_ms"
                if document.get(key):
                    value_ms = finite(document[key], where=f"{source}: {key}")
                    yield Percentile(latency=latency, percent=percent, value_s=value_ms / 1e3)


def _load(document: Json, *, source: str) -> tuple[float | None, int | None]:
    """Return the rate [1/s] or the users who ask again at once."""
    if document.get("ramp_up_strategy"):
        raise SpecError(
            f"{source}: expected a steady load, found a ramp (ramp_up_strategy): its means are of "
            "no rate; write the file with --save-detailed"
        )
    given, limit = document.get("request_rate"), document.get("max_concurrency")
    rate = math.inf
    if isinstance(given, int | float) and given != math.inf:
        rate = finite(given, where=f"{source}: request_rate")
    reached = document.get("request_throughput")
    fell_short = rate == math.inf or (isinstance(reached, int | float) and reached < KEPT_UP * rate)
    if isinstance(limit, int) and limit > 0 and fell_short:
        return None, int(finite(limit, where=f"{source}: max_concurrency"))
    if 0.0 < rate < math.inf:
        return rate, None
    completed = document.get("completed")
    if _is_burst(document) and isinstance(completed, int) and completed <= REQUESTS_MAX:
        # As many users, each of whom asks once.
        return None, completed
    raise SpecError(
        f"{source}: expected a request_rate or a max_concurrency, or at most {REQUESTS_MAX:,} "
        "requests at once, found neither"
    )


def _burstiness(document: Json, *, source: str) -> float:
    """Return the shape of the gaps between requests: 1, at random, where it is not told."""
    told = document.get("burstiness")
    if told is None:
        return 1.0
    found = finite(told, where=f"{source}: burstiness")
    if found <= 0.0:
        raise SpecError(f"{source}: burstiness: expected a number > 0, found {found:g}")
    return within_burstiness(found)


def within_burstiness(found: float) -> float:
    """Return *found*, or the nearest shape of gaps that can be made."""
    return min(max(found, BURSTINESS_MIN), BURSTINESS_MAX)


def _is_burst(document: Json) -> bool:
    """Tell whether all requests were sent at once, as they are unless something else is asked."""
    rate = document.get("request_rate")
    return rate in ("inf", math.inf) and document.get("max_concurrency") is None


# -- requests


def _requests(document: Json, *, source: str) -> RequestRows:
    """Read arrays with one entry a request.

    itls holds the gaps between the pieces that came, which may hold several tokens; their sum is
    the time of the decodes whatever their number.
    """
    columns = [
        _column(document, name, source=source)
        for name in ("start_times", "ttfts", "itls", "input_lens", "output_lens")
    ]
    count = len(columns[0])
    errors = entries(document, "errors", where=source) or [""] * count
    for name, column in zip(
        ("ttfts", "itls", "input_lens", "output_lens", "errors"),
        [*columns[1:], errors],
        strict=True,
    ):
        if len(column) != count:
            raise SpecError(f"{source}: {name}: expected {count} entries, found {len(column)}")
    requests, failed = [], 0
    for number, (start, ttft, itls, prompt, output, error) in enumerate(
        zip(*columns, errors, strict=True), 1
    ):
        gaps = itls if isinstance(itls, list) else [itls]
        if error or not output or not ttft or any(map(_is_nan, (ttft, prompt, output, *gaps))):
            failed += 1
            continue
        where = f"{source}: request {number}"
        start_s, ttft_s = finite(start, where=where), finite(ttft, where=where)
        first_s = start_s + ttft_s
        last_s = first_s + math.fsum(finite(gap, where=where) for gap in gaps)
        tokens = (finite(each, where=f"{where}: tokens") for each in (prompt, output))
        requests.append((number, [start_s, first_s, last_s, *tokens]))
    return log_of(source, requests, failed=failed)


def _is_nan(value: object) -> bool:
    """Tell whether nobody measured *value*; what is no number at all is a fault of the file."""
    return isinstance(value, float) and math.isnan(value)


def _column(document: Json, name: str, *, source: str) -> list[Any]:
    values = document.get(name)
    if isinstance(values, list):
        return values
    found = "nothing" if values is None else shape(values)
    older = " (older versions of vLLM do not write it)" if name == "start_times" else ""
    raise SpecError(
        f"{source}: {name}: expected one entry a request, found {found}{older}; write the file "
        "with --save-result --save-detailed"
    )
