"""Reading of the summary that LLMPerf writes (…_summary.json): an operating point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twin.fit.json_figures import finite, point_rows
from twin.fit.points import Latency, OperatingPoint, Percentile
from twin.fit.request_csv import RequestRows
from twin.spec import SpecError

Json = Mapping[str, Any]

# Its inter-token latency has the first token in it, and is left alone.
LATENCIES: Mapping[Latency, str] = {"ttft": "ttft_s", "e2e": "end_to_end_latency_s"}
PERCENTS = (50, 90, 95, 99)


def is_llmperf(document: Json) -> bool:
    """Tell whether *document* is such a summary."""
    return "num_concurrent_requests" in document and "results_ttft_s_mean" in document


def read_llmperf(document: Json, *, source: str) -> RequestRows:
    """Read a summary: so many users, each of whom asks again at once."""

    def figure(name: str) -> float:
        return finite(document.get(name), where=f"{source}: {name}")

    users, answered = figure("num_concurrent_requests"), figure("results_num_completed_requests")
    if users < 1.0 or answered < 1.0:
        raise SpecError(f"{source}: expected requests that were answered, found none")
    point = OperatingPoint(
        users=round(users),
        input_tokens=max(figure("results_number_input_tokens_mean"), 1.0),
        output_tokens=max(figure("results_number_output_tokens_mean"), 1.0),
        requests=int(answered),
        percentiles=tuple(
            Percentile(latency=latency, percent=float(percent), value_s=figure(key))
            for latency, name in LATENCIES.items()
            for percent in PERCENTS
            for key in [f"results_{name}_quantiles_p{percent}"]
            if document.get(key)
        ),
    )
    ttft_s, e2e_s = (figure(f"results_{name}_mean") for name in LATENCIES.values())
    errors = document.get("results_number_errors") or 0
    return point_rows(
        source,
        point,
        ttft_s=ttft_s,
        e2e_s=e2e_s,
        failed=int(finite(errors, where=f"{source}: results_number_errors")),
    )
