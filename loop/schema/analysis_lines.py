"""The engine of `inferno analyze`: one JSON line of a replica's parameters in, one line of its
figures out. No I/O.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from loop.optimizer.model.queueing import (
    TOKEN_BUDGET,
    Metrics,
    Model,
    analyze,
    make_model,
    replica_columns,
)
from loop.optimizer.model.rates import Targets, highest_rates
from loop.optimizer.rules.go_today import STEPWISE
from twin.datafile import Entry, parse_json
from twin.spec import SpecError

MAX_BATCH = 1_000_000  # a state each: beyond this a line would take the memory of the machine
TARGETS = ("itl", "tps", "ttft")


@dataclass(frozen=True, slots=True)
class AnswerLine:
    """One line of JSON; malformed: what it answers could not be read."""

    text: str
    malformed: bool = False


def analyze_lines(lines: Iterable[str]) -> Iterator[AnswerLine]:
    """Yield one answer for each line that is not blank; a malformed one is answered with its
    error.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        source = f"line {number}"
        try:
            said = parse_json(line, source=source)
            inner = said.get("in", said) if isinstance(said, dict) else said
            answer = _analyze_replica(inner, source=source)
        except SpecError as error:
            yield AnswerLine(json.dumps({"error": str(error)}), malformed=True)
        else:
            yield AnswerLine(json.dumps(answer, allow_nan=False))


def _analyze_replica(given: object, *, source: str) -> dict[str, Any]:
    """Return the figures of a replica, under the names of the existing analyzer's test data.

    *given*: alpha, beta, gamma [ms …], avgIn, avgOut, maxBatch, maxQueue, maxNumTokens (0: 8192)
    and rate [req/s] to analyse at, or targets {ttft, itl [ms], tps} to size for. Raise SpecError
    that begins with *source* where a field is missing or no number; a replica that cannot be is an
    "error" in the answer.
    """
    entry = Entry(given, source=source)
    latency_model = {
        key: entry.number(key) for key in ("alpha", "beta", "gamma", "avgIn", "avgOut")
    }
    sizes = {
        "maxBatch": entry.whole("maxBatch"),
        "maxQueue": entry.whole("maxQueue", default=0),
        "maxNumTokens": entry.whole("maxNumTokens", default=0),
    }
    rate = entry.number("rate") if entry.has("rate") else None
    wanted = entry.child("targets")
    targets = {key: wanted.number(key, default=0.0) for key in TARGETS} if wanted else None
    problem = _impossible(latency_model, sizes)
    if problem:
        return {"error": problem}
    if rate is None and targets is None:
        raise SpecError(f"{source}: expected a rate or targets, found neither")
    model = make_model(
        replica_columns(
            alpha=latency_model["alpha"],
            beta=latency_model["beta"],
            gamma=latency_model["gamma"],
            in_tokens=latency_model["avgIn"],
            out_tokens=latency_model["avgOut"],
            max_batch=sizes["maxBatch"],
            max_queue=sizes["maxQueue"],
            token_budget=sizes["maxNumTokens"] or TOKEN_BUDGET,
        )
    )
    one_state = sizes["maxBatch"] + sizes["maxQueue"] == 1
    answer: dict[str, Any] = {
        "chunks": _chunks(model),
        "rateMin": float(model.rate_min[0]) * 1000.0,
        "rateMax": float(model.rate_max[0]) * 1000.0,
    }
    if rate is not None:
        answer |= _analysis(model, rate, one_state=one_state)
    if targets is not None:
        answer |= _size(model, targets, one_state=one_state)
    return answer


def _impossible(latency_model: Mapping[str, float], sizes: Mapping[str, int]) -> str:
    """Return why there can be no such replica, or nothing."""
    if not 1 <= sizes["maxBatch"] <= MAX_BATCH:
        return f"maxBatch: expected 1 to {MAX_BATCH}, found {sizes['maxBatch']}"
    negative = [key for key in ("maxQueue", "maxNumTokens") if sizes[key] < 0]
    negative += [key for key in ("alpha", "beta", "gamma", "avgIn") if latency_model[key] < 0.0]
    if negative:
        key = negative[0]
        return f"{key}: expected at least 0, found {({**latency_model, **sizes})[key]:g}"
    if latency_model["avgOut"] < 1.0:
        return f"avgOut: expected at least 1, found {latency_model['avgOut']:g}"
    if latency_model["alpha"] + latency_model["beta"] + latency_model["gamma"] == 0.0:
        return "alpha, beta, gamma: expected one above 0, found none"
    return ""


def _chunks(model: Model) -> list[list[int]]:
    """Return the prefill iterations by batch as runs [first batch, iterations]."""
    if model.chunks is None:
        return [[1, 1]]
    row = model.chunks[0].astype(np.int64)
    starts = np.flatnonzero(np.diff(row, prepend=row[0] - 1))
    return [[int(start) + 1, int(row[start])] for start in starts]


def _analysis(model: Model, rate: float, *, one_state: bool) -> dict[str, Any]:
    if rate <= 0.0:
        return {"analyzeError": f"rate: expected above 0, found {rate:g}"}
    if one_state:
        return {"analyzeError": "max batch 1 without a queue: the model is invalid there"}
    return {"analyze": _metrics(model, analyze(model, np.array([rate / 1000.0])))}


def _size(model: Model, targets: Mapping[str, float], *, one_state: bool) -> dict[str, Any]:
    negative = [f"{key} {value:g}" for key, value in targets.items() if value < 0.0]
    if negative:
        return {"sizeError": f"targets: expected at least 0, found {', '.join(negative)}"}
    if one_state:
        return {"sizeError": "max batch 1 without a queue: the model is invalid there"}
    # One row per target, so that each is sized alone.
    wanted = np.diag([targets["itl"], targets["tps"], targets["ttft"]])
    rows = np.zeros(len(TARGETS), dtype=np.intp)
    alone = Targets(wanted[:, 0], wanted[:, 2], wanted[:, 1], np.zeros(len(TARGETS)))
    limits = highest_rates(model.take(rows), alone, search=STEPWISE)
    rates = dict(zip(TARGETS, limits.rate.tolist(), strict=True))
    floors = {"itl": limits.itl_floor[0], "ttft": limits.ttft_floor[0]}
    for key, floor in floors.items():
        if math.isnan(rates[key]):
            return {
                "sizeError": (
                    f"{key} {targets[key]:g} ms cannot be met: {floor:g} ms at the lowest rate"
                )
            }
    found = analyze(model, np.array([min(rates.values())]))
    return {
        "size": _metrics(model, found),
        "sizeRates": {key: rate * 1000.0 for key, rate in rates.items()},
        "sizeAchieved": {
            "itl": float(found.itl[0]),
            "tps": float(found.throughput[0]) * 1000.0 * float(model.columns.out_tokens[0]),
            "ttft": float(found.ttft[0]),
        },
    }


def _metrics(model: Model, found: Metrics) -> dict[str, float]:
    return {
        "offeredRate": float(found.rate[0]) * 1000.0,
        "throughput": float(found.throughput[0]) * 1000.0,
        "avgRespTime": float(found.response[0]),
        "avgWaitTime": float(found.wait[0]),
        "avgNumInServ": float(found.in_service[0]),
        "avgPrefillTime": float(found.prefill[0]),
        "avgTokenTime": float(found.itl[0]),
        "avgTTFT": float(found.ttft[0]),
        "maxRate": float(model.rate_max[0]) * 1000.0,
        "rho": float(found.rho[0]),
    }
