"""Reading of the files that load generators write: which format a file has, and the requests in it.

Known are our CSV, tables of operating points (twin.fit.point_csv), the JSON of `vllm bench serve`
and its kin (twin.fit.bench_serve) and of GuideLLM (twin.fit.guidellm; its tables of means in
twin.fit.guidellm_table), and what GenAI-Perf and
AIPerf (twin.fit.genai_perf), inference-perf (twin.fit.inference_perf) and LLMPerf
(twin.fit.llmperf) write. A file may hold several runs: each is a log of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from twin.datafile import unreadable
from twin.fit.bench_serve import is_result, read_result
from twin.fit.genai_perf import is_summary, read_aiperf, read_perf_analyzer, read_summary
from twin.fit.guidellm import read_report
from twin.fit.guidellm_table import is_row, read_row, rows_of
from twin.fit.inference_perf import is_request, is_stage, read_requests, read_stage
from twin.fit.json_figures import shape
from twin.fit.llmperf import is_llmperf, read_llmperf
from twin.fit.point_csv import is_table, read_table
from twin.fit.request_csv import (
    COUNT_COLUMNS,
    TIME_COLUMNS,
    RequestRows,
    parse_request_rows,
    read_log_text,
)
from twin.spec import TOKENS_PER_STEP_MAX, SpecError

TimeUnit = Literal["s", "ms", "us", "ns"]
UNITS: Mapping[TimeUnit, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
# No server of interest takes longer for one token, or less: a log in another unit is 1000 times
# beside that.
GAP_MAX_S, GAP_MIN_S = 1.0, 2e-5
# Of as many requests, as a share, that are like another in every figure, a log may hold copies.
ALIKE_MAX = 0.1
PROMPTS_MIN = 10  # of different lengths: fewer may be the same by chance

# Beyond this factor the tokens per step of two files are not of one engine and one kind of load.
STEPS_APART = 1.25

FORMATS = (
    "the CSV of inferno fit, JSON of `vllm bench serve --save-result`, GuideLLM, GenAI-Perf, "
    "inference-perf or LLMPerf, or JSON or JSON lines of AIPerf or sglang.bench_serving"
)


def read_logs(path: Path, *, time_unit: TimeUnit | None = None) -> list[RequestRows]:
    """Return the request logs in the file *path*, one a run.

    Requests that failed are left out and counted. time_unit is that of the times in a CSV; if it is
    not given they are seconds, and times that can hardly be seconds are refused. Raise SpecError,
    one line, for a file that cannot be read.
    """
    text = read_log_text(path)
    if text.lstrip()[:1] in ("{", "["):
        return [_in_seconds(rows) for rows in _json_logs(text, source=str(path))]
    guidellm = rows_of(text, source=str(path))
    if guidellm is not None:
        return [_in_seconds(read_row(row, source=str(path))) for row in guidellm]
    if is_table(text):
        return [_in_seconds(read_table(text, source=str(path)), told="in milliseconds")]
    rows = parse_request_rows(text, source=str(path))
    if time_unit is None:
        return [_in_seconds(rows)]
    rows = _scaled(rows, UNITS[time_unit])
    return [rows if time_unit == "s" else _in_seconds(rows, told=f"in {time_unit}")]


def _in_seconds(rows: RequestRows, *, told: str = "in seconds") -> RequestRows:
    """Return *rows*; raise SpecError if their times, in the unit that was *told*, can hardly be."""
    several = rows.output_tokens > 1
    if several.any():
        decode_s = (rows.last_token_s - rows.first_token_s)[several]
        gap_s = float(np.median(decode_s / (rows.output_tokens[several] - 1)))
        what = "between two tokens"
        if not gap_s and told == "in seconds":
            raise SpecError(
                f"{rows.source}: expected times of tokens, found all of an answer at once: write "
                "the log with streaming on"
            )
    else:
        gap_s, what = float(np.median(rows.ttft_s)) / 60.0, "a minute to the first token"
    if gap_s > GAP_MAX_S and told == "in seconds":
        raise SpecError(
            f"{rows.source}: expected times in seconds, found {gap_s:.3g} {what} at the median: "
            "they look like milliseconds (give --time-unit ms, or s if they are right)"
        )
    # A log of only first tokens says too little about the other side.
    if gap_s > GAP_MAX_S or (several.any() and gap_s < GAP_MIN_S):
        raise SpecError(
            f"{rows.source}: expected times {told}, found {gap_s:.3g} s {what} at the median: they "
            "look like another unit"
        )
    return rows


def _scaled(rows: RequestRows, unit_s: float) -> RequestRows:
    return replace(
        rows,
        queued_s=rows.queued_s * unit_s,
        first_token_s=rows.first_token_s * unit_s,
        last_token_s=rows.last_token_s * unit_s,
    )


class _Read(Protocol):
    def __call__(self, document: Mapping[str, Any], /, *, source: str) -> RequestRows: ...


# Of documents that are one run each.
SUMMARIES: tuple[tuple[Callable[[Mapping[str, Any]], bool], _Read], ...] = (
    (is_result, read_result),
    (is_summary, read_summary),
    (is_stage, read_stage),
    (is_llmperf, read_llmperf),
    (is_row, read_row),
)


def _json_logs(text: str, *, source: str) -> list[RequestRows]:
    documents = _documents(text, source=source)
    first = documents[0]
    if not isinstance(first, Mapping):
        raise SpecError(f"{source}: expected {FORMATS}, found {shape(first)}")
    if isinstance(first.get("benchmarks"), list):
        return [log for report in documents for log in read_report(report, source=source)]
    if "metadata" in first and "metrics" in first:
        return [read_aiperf(documents, source=source)]
    if isinstance(first.get("experiments"), list):
        return read_perf_analyzer(first, source=source)
    if is_request(first):
        return [read_requests(documents, source=source)]
    for is_known, read in SUMMARIES:
        if is_known(first):
            return [read(document, source=source) for document in documents]
    raise SpecError(f"{source}: expected {FORMATS}, found {shape(first)}")


def _documents(text: str, *, source: str) -> list[Any]:
    """Return the JSON documents of *text*: one, one a line, or those of a list."""
    try:
        whole_text = json.loads(text)
        is_list = isinstance(whole_text, list) and all(isinstance(one, dict) for one in whole_text)
        return whole_text if is_list and whole_text else [whole_text]
    except (ValueError, RecursionError) as error:
        whole = error
    documents = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                documents.append(json.loads(line))
            except (ValueError, RecursionError):
                found = unreadable(whole) if number == 1 else f"line {number}, which is none"
                raise SpecError(f"{source}: expected JSON, found {found}") from None
    return documents


def tokens_per_step(logs: Sequence[RequestRows]) -> float:
    """Return how many tokens of a request a step of the engine of *logs* makes, as they tell; 1 if
    none does. Raise SpecError if they can hardly be of one engine.
    """
    told = [rows.tokens_per_step for rows in logs if rows.tokens_per_step is not None]
    if not told:
        return 1.0
    if min(told) < 1.0 or max(told) > min(TOKENS_PER_STEP_MAX, STEPS_APART * min(told)):
        raise SpecError(
            f"tokens per step: expected 1 to {TOKENS_PER_STEP_MAX:g}, about the same in each file, "
            f"found {min(told):.3g} to {max(told):.3g}: fit them apart, or give --tokens-per-step"
        )
    return sum(told) / len(told)


def with_points_together(logs: Sequence[RequestRows]) -> list[RequestRows]:
    """Return *logs* with all operating points in one, as each run may be told in a file of its
    own.
    """
    tables = [rows for rows in logs if rows.points]
    if len(tables) < 2:
        return list(logs)
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(rows, name) for rows in tables])
        for name in ("line", *TIME_COLUMNS, *COUNT_COLUMNS)
    }
    together = RequestRows(
        source=", ".join(rows.source for rows in tables),
        **columns,
        place="point",
        failed=sum(rows.failed for rows in tables),
        points=tuple(point for rows in tables for point in rows.points),
        notes=tuple(note for rows in tables for note in rows.notes),
        files=tuple(rows.source for rows in tables for _ in range(len(rows))),
    )
    return [*(rows for rows in logs if not rows.points), together]


def left_out(logs: Sequence[RequestRows]) -> Iterator[str]:
    """Yield the notes of each log, a line for each some of whose requests failed, and one for each
    that sends what an earlier one did.
    """
    for rows in logs:
        yield from rows.notes
        alike = 0 if rows.points else _alike(rows)
        if alike > ALIKE_MAX * len(rows):
            yield (
                f"{rows.source}: {alike} of {len(rows)} requests are like another in every figure: "
                "if the log holds them twice, so does the load that is replayed"
            )
        if rows.failed:
            verb = "was" if rows.failed == 1 else "were"
            noun = "request" if rows.failed == 1 else "requests"
            yield (
                f"{rows.source}: {rows.failed} {noun} that failed {verb} left out, "
                f"{len(rows)} remain"
            )
    yield from _same_prompts(logs)


def _same_prompts(logs: Sequence[RequestRows]) -> Iterator[str]:
    """Yield a line for each log whose prompts are as long as those of an earlier one, one by one: a
    load generator that is started again with the same seed sends the same.
    """
    requests = [rows for rows in logs if not rows.points]
    for place, rows in enumerate(requests):
        for before in requests[:place]:
            # Some of either may have failed, and one may be longer.
            _, mine, theirs = np.intersect1d(rows.line, before.line, return_indices=True)
            lengths = rows.input_tokens[mine]
            # Of those of one length nobody can tell.
            told = len(np.unique(lengths)) >= PROMPTS_MIN
            if told and np.array_equal(lengths, before.input_tokens[theirs]):
                yield (
                    f"{rows.source}: its prompts are as long as those of {before.source}, one by "
                    "one: with the same seed they are the same, and a prefix cache has them already"
                )
                break


def other_servers(logs: Sequence[RequestRows]) -> Iterator[str]:
    """Yield a line for each thing that the logs tell of their servers, and not alike."""
    told: dict[str, dict[str, None]] = {}
    for rows in logs:
        for name, value in rows.server.items():
            told.setdefault(name, {})[value] = None
    for name, values in told.items():
        if len(values) > 1:
            yield (
                f"{name}: the logs are of different servers ({', '.join(values)}): a fit is of one"
            )


def _alike(rows: RequestRows) -> int:
    """Return how many requests of *rows* are like an earlier one in every figure; 0 if they came at
    few times, as those of a batch do.
    """
    figures = np.stack([getattr(rows, name) for name in (*TIME_COLUMNS, *COUNT_COLUMNS)], axis=1)
    different = np.unique(figures, axis=0)
    at_once = len(np.unique(rows.queued_s)) < max(len(different) / 2, 2)
    return 0 if at_once else len(rows) - len(different)
