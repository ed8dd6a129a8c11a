"""Reading of what GenAI-Perf and AIPerf write: the requests of Perf Analyzer (profile_export.json),
the records of AIPerf (profile_export.jsonl), and the summaries of both, each an operating point.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from twin.fit.bench_serve import KEPT_UP, within_burstiness
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

SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
SUMMED: Mapping[Latency, str] = {
    "ttft": "time_to_first_token",
    "itl": "inter_token_latency",
    "e2e": "request_latency",
}
# Of the percentiles of a summary, those that a steady load tells well enough.
PERCENTILES = ("p50", "p90", "p95", "p99")
DATA = "data:"
# Under which AIPerf and Perf Analyzer keep how requests follow each other.
KINDS = ("type", "arrival_pattern", "request_rate_mode", "request_distribution")


# -- summaries


def is_summary(document: Json) -> bool:
    """Tell whether *document* is the summary of a run."""
    return all(isinstance(document.get(SUMMED[name]), Mapping) for name in ("ttft", "e2e"))


def read_summary(document: Json, *, source: str) -> RequestRows:
    """Read profile_export_genai_perf.json or profile_export_aiperf.json: one operating point, its
    means and its percentiles.
    """
    ttft_s, e2e_s = (_summed_s(document, name, "avg", source=source) for name in ("ttft", "e2e"))
    prompt, output = (
        finite(member(document, name, where=source).get("avg"), where=f"{source}: {name}: avg")
        for name in ("input_sequence_length", "output_sequence_length")
    )
    percentiles = [
        Percentile(
            latency=name,
            percent=float(label[1:]),
            value_s=_summed_s(document, name, label, source=source),
        )
        for name, long in SUMMED.items()
        for label in PERCENTILES
        if member(document, long, where=source).get(label)
    ]
    rate, users = _load(document, source=source)
    failed, answered = (
        finite(member(document, name, where=source).get("avg") or 0, where=f"{source}: {name}: avg")
        for name in ("error_request_count", "request_count")
    )
    is_even, burstiness = _gaps(_configured(document.get("input_config") or {}), source=source)
    point = OperatingPoint(
        rate_rps=rate,
        users=users,
        is_even=is_even and rate is not None,
        burstiness=burstiness,
        input_tokens=max(prompt, 1.0),
        output_tokens=max(output, 1.0),
        requests=int(answered) or None,
        percentiles=tuple(percentiles),
    )
    return point_rows(
        source,
        point,
        ttft_s=ttft_s,
        e2e_s=e2e_s,
        failed=int(failed),
    )


def _summed_s(document: Json, name: Latency, label: str, *, source: str) -> float:
    where = f"{source}: {SUMMED[name]}"
    figures = document[SUMMED[name]]
    return finite(figures.get(label), where=f"{where}: {label}") * _unit(figures, where=where)


def _unit(metric: Json, *, where: str) -> float:
    unit = str(metric.get("unit"))
    if unit not in SECONDS:
        raise SpecError(f"{where}: expected a unit of time, found {unit[:60]!r}")
    return SECONDS[unit]


def _load(document: Json, *, source: str) -> tuple[float | None, int | None]:
    """Return the rate [1/s] or the users: as configured, else what was answered. Where a rate was
    not kept up, the limit on users set the load.
    """
    given = _configured(document.get("input_config") or {})
    rate, users = (
        _given(given, keys, where=f"{source}: input_config")
        for keys in (("request_rate", "rate"), ("concurrency",))
    )
    throughput, answered, failed = (
        finite(member(document, name, where=source).get("avg") or 0.0, where=f"{source}: {name}")
        for name in ("request_throughput", "request_count", "error_request_count")
    )
    if rate and users and throughput:
        # Those that failed were sent as well.
        sent = throughput * (1.0 + failed / answered if answered else 1.0)
        rate = rate if sent >= KEPT_UP * rate else None
    if rate:
        return rate, None
    if users:
        return None, max(int(users), 1)
    if not throughput:
        raise SpecError(
            f"{source}: expected a concurrency or request_rate in input_config, or a "
            f"request_throughput, found {shape(document.get('input_config'))}"
        )
    return throughput, None


def _gaps(given: Mapping[str, object], *, source: str) -> tuple[bool, float]:
    """Return whether requests were evenly spaced, as Perf Analyzer sends them unless it is asked
    for others, and the shape of their gaps if not.
    """
    kinds = {str(given.get(name)).lower() for name in KINDS}
    if "gamma" in kinds:
        names = ("smoothness", "arrival_smoothness")
        told = _given(given, names, where=f"{source}: input_config")
        return False, within_burstiness(told or 1.0)
    of_analyzer = "stability_percentage" in given and "poisson" not in kinds
    return "constant" in kinds or of_analyzer, 1.0


def _configured(config: object) -> dict[str, object]:
    """Return every setting of *config*. AIPerf lists phases, warm-up and all: those of the one that
    was measured count.
    """
    given = dict(_leaves(config))
    phases = given.get("phases")
    measured = [
        phase
        for phase in (phases if isinstance(phases, list) else [])
        if isinstance(phase, Mapping) and not phase.get("exclude_from_results")
    ]
    return given | (dict(_leaves(measured[0])) if len(measured) == 1 else {})


def _given(given: Mapping[str, object], keys: Sequence[str], *, where: str) -> float | None:
    """Return the first number > 0 under *keys*, alone or in a list of one."""
    for key in keys:
        value = given.get(key)
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
            return finite(value, where=f"{where}: {key}")
    return None


def _leaves(value: object) -> Iterator[tuple[str, object]]:
    """Yield every key below *value* that holds no object."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            if isinstance(below, Mapping):
                yield from _leaves(below)
            elif below is not None:
                yield str(key), below


# -- requests of Perf Analyzer


def read_perf_analyzer(document: Json, *, source: str) -> list[RequestRows]:
    """Read profile_export.json: a log for each of its experiments.

    It has no counts of tokens. Those of the prompt are in the usage that the server sent, if it was
    asked to; those of the answer too, else each piece that came with text in it counts as one, as
    engines send them.
    """
    logs = []
    experiments = objects(document["experiments"], where=f"{source}: experiment")
    for place, experiment in enumerate(experiments, 1):
        requests, failed = [], 0
        of_run = f"{source}: experiment {place}"
        sent = entries(experiment, "requests", where=of_run)
        for index, request in enumerate(objects(sent, where=f"{of_run}: request"), 1):
            where = f"{of_run}: request {index}"
            figures = _perf_request(request, base_ns=sent[0].get("timestamp"), where=where)
            if figures is None:
                failed += 1
            else:
                requests.append((index, figures))
        run = f"experiment {place}" if len(experiments) > 1 else ""
        logs.append(log_of(source, requests, failed=failed, run=run))
    if not logs:
        raise SpecError(f"{source}: experiments: expected some, found none")
    return logs


def _perf_request(request: Json, *, base_ns: object, where: str) -> Figures | None:
    """Return the figures of *request*, None if it had no answer."""
    times = entries(request, "response_timestamps", where=where)
    outputs = entries(request, "response_outputs", where=where)
    prompt, output = member(request, "request_inputs", where=where).get("input_ids"), None
    prompt = len(prompt) if isinstance(prompt, list) else None
    came: list[int] = []
    for time_ns, sent in zip(times, outputs, strict=False):
        pieces = list(_pieces(sent))
        for piece in pieces:
            if piece.get("error"):
                return None
            usage = piece.get("usage")
            if isinstance(usage, Mapping):
                prompt, output = usage.get("prompt_tokens"), usage.get("completion_tokens")
        came += [time_ns] * sum(_has_text(piece, where=where) for piece in pieces)
    if not came or output == 0:
        return None
    if prompt is None:
        raise SpecError(
            f"{where}: expected the tokens of the prompt in the usage that the server sends, found "
            "none: give the summary beside it instead, …_genai_perf.json"
        )
    times_s = [
        _since_s(time_ns, base_ns, where=where)
        for time_ns in (request.get("timestamp"), came[0], came[-1])
    ]
    tokens = (prompt, len(came) if output is None else output)
    return [*times_s, *(finite(each, where=f"{where}: usage") for each in tokens)]


def _pieces(sent: object) -> Iterator[Json]:
    """Yield the JSON objects of a response: events of a stream, one or several of them, or one
    object.
    """
    if not isinstance(sent, Mapping):
        return
    text = sent.get("response")
    if not isinstance(text, str):
        yield sent
        return
    for line in text.splitlines():
        body = line.strip().removeprefix(DATA).strip()
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            continue  # the end of a stream, a comment, or a piece of an event that was cut
        if isinstance(value, Mapping):
            yield value


def _has_text(piece: Json, *, where: str) -> bool:
    """Tell whether text came, of a chat, a completion, or Triton."""
    if piece.get("text_output"):
        return True
    choices = entries(piece, "choices", where=where)
    for choice in objects(choices, where=f"{where}: choice"):
        delta = member(choice, "delta", where=where)
        if choice.get("text") or delta.get("content") or delta.get("reasoning_content"):
            return True
    return False


# -- records of AIPerf


def read_aiperf(documents: Sequence[Json], *, source: str) -> RequestRows:
    """Read the records of profile_export.jsonl: one request a line."""
    requests, failed = [], 0
    base_ns = None
    for index, record in enumerate(objects(documents, where=f"{source}: request"), 1):
        where = f"{source}: request {index}"
        metadata, metrics = (member(record, key, where=where) for key in ("metadata", "metrics"))
        if metadata.get("benchmark_phase", "profiling") == "warmup":
            continue
        if record.get("error") or metadata.get("was_cancelled") or not metrics:
            failed += 1
            continue
        base_ns = metadata.get("request_start_ns") if base_ns is None else base_ns
        figures = _aiperf_request(metadata, metrics, base_ns=base_ns, where=where)
        if figures is None:
            failed += 1
        else:
            requests.append((index, figures))
    return log_of(source, requests, failed=failed)


def _aiperf_request(
    metadata: Json, metrics: Json, *, base_ns: object, where: str
) -> Figures | None:
    ttft_s = _metric_s(metrics, "time_to_first_token", where=where)
    e2e_s = _metric_s(metrics, "request_latency", where=where)
    prompt, output = (
        _metric(metrics, name, where=where).get("value")
        for name in ("input_sequence_length", "output_sequence_length")
    )
    if ttft_s is None or e2e_s is None or not prompt or not output:
        return None
    start_s = _since_s(metadata.get("request_start_ns"), base_ns, where=where)
    tokens = (finite(prompt, where=where), finite(output, where=where))
    return [start_s, start_s + ttft_s, start_s + e2e_s, *tokens]


def _since_s(time_ns: object, base_ns: object, *, where: str) -> float:
    """Return the time [s] from *base_ns* to *time_ns*, which since 1970 do not fit a float."""
    if isinstance(time_ns, int) and isinstance(base_ns, int):
        return finite(time_ns - base_ns, where=f"{where}: nanoseconds") / 1e9
    raise SpecError(
        f"{where}: expected its start in whole nanoseconds, found {str(time_ns)[:60]!r}"
    )


def _metric_s(metrics: Json, name: str, *, where: str) -> float | None:
    metric = _metric(metrics, name, where=where)
    if not metric:
        return None
    where = f"{where}: {name}"
    return finite(metric.get("value"), where=where) * _unit(metric, where=where)


def _metric(metrics: Json, name: str, *, where: str) -> Json:
    """Return the value and the unit of a metric, nothing if the request has none."""
    metric = metrics.get(name)
    if metric is None:
        return {}
    if not isinstance(metric, Mapping):
        raise SpecError(f"{where}: {name}: expected a value with its unit, found {shape(metric)}")
    return metric
