"""Cases of the tables of NVIDIA Dynamo's planner."""

from __future__ import annotations

import math
from typing import Any

from loop.policies.dynamo_rules import (
    Budget,
    Iteration,
    Limits,
    Shape,
    batch_sizes,
    capacity,
    chunked_s,
    clamped_pair,
    clamped_single,
    throughput_pair,
    throughput_single,
)
from loop.policies.forecasts import observed, predicted
from tests.loop.conformance.checking import Case, expect, expects_error, kind_of


def budget(case: Case) -> None:
    """Run a case of the GPU budget."""
    kind_of(case, BUDGET)(case)


def _pair(case: Case) -> None:
    gpus = case["gpus_per_prefill"], case["gpus_per_decode"]
    prefill, decode = clamped_pair(
        (case["num_prefill"], case["num_decode"]),
        gpus=gpus,
        budget=Budget(least=case["min_gpus"], most=case["max_gpus"]),
        least=(case["prefill_min_endpoint"], case["decode_min_endpoint"]),
    )
    facts = {"num_prefill": prefill, "num_decode": decode}
    _expect_budget(case, facts, total=prefill * gpus[0] + decode * gpus[1])


def _single(case: Case) -> None:
    replicas = clamped_single(
        case["desired"],
        gpus=case["gpus_per_replica"],
        budget=Budget(least=case["min_gpus"], most=case["max_gpus"]),
        least=case["min_endpoint"],
    )
    _expect_budget(case, {"replicas": replicas}, total=replicas * case["gpus_per_replica"])


def _expect_budget(case: Case, facts: dict[str, Any], *, total: int) -> None:
    expected = dict(case["expected"])
    low, high = expected.pop("total_gpus_between", (total, total))
    assert low <= total <= high, f"expected {low} to {high} GPUs, found {total}"
    if "replicas_at_least" in expected:
        assert facts["replicas"] >= expected.pop("replicas_at_least")
    expect(expected, facts)


BUDGET = {"clamp_pair": _pair, "clamp_single": _single}


def planner(case: Case) -> None:
    """Run a case of capacities, predictors and steps."""
    kind_of(case, PLANNER)(case)


def _iteration(told: Any) -> Iteration:
    def constant(*, prefill_tokens: int = 0, decode_requests: int = 0, decode_kv: int = 0) -> float:
        return float(told["value"]) / 1000.0

    def by_prefill(
        *, prefill_tokens: int = 0, decode_requests: int = 0, decode_kv: int = 0
    ) -> float:
        return float(told["value"]) * prefill_tokens / 1000.0

    known = {"constant_ms": constant, "ms_per_scheduled_prefill_token": by_prefill}
    assert told["type"] in known, f"expected a time model of {', '.join(known)}"
    return known[told["type"]]


def _capacity(case: Case) -> None:
    told, asked = case["limits"], case["request"]
    try:
        limits = Limits(
            batched_tokens=told["max_num_batched_tokens"],
            sequences=told["max_num_seqs"],
            kv_tokens=told["max_kv_tokens"],
        )
        shape = Shape(
            isl=asked["isl"],
            osl=asked["osl"],
            ttft_s=asked.get("ttft_sla_s"),
            itl_s=asked.get("itl_sla_s"),
            e2e_s=asked.get("e2e_latency_sla_s"),
            accept_length=asked.get("accept_length", 1.0),
            hit_rate=asked.get("kv_hit_rate"),
        )
        found = capacity(case["worker"], shape, limits, _iteration(case["time_model"]))
    except ValueError:
        if not expects_error(case):
            raise
        return
    assert not expects_error(case), f"expected {case['expected']}, found {found}"
    if found is None:
        expect(case["expected"], {"none": True})
        return
    facts: dict[str, Any] = {
        "none": False,
        "rps": found.rps,
        "ttft_s": found.ttft_s,
        "itl_s": found.itl_s,
        "e2e_latency_s": found.e2e_s,
        "eligible": found.eligible,
    }
    expect(case["expected"], facts)


def _queued_prefill(case: Case) -> None:
    tokens = case["max_num_batched_tokens"]
    iteration = _iteration(case["time_model"])
    limits = Limits(batched_tokens=tokens, sequences=1, kv_tokens=1)
    found = chunked_s(
        case["queued_prefill_tokens"], limits, lambda chunk: iteration(prefill_tokens=chunk)
    )
    expect(case["expected"], {"seconds": found})


def _batch_candidates(case: Case) -> None:
    sizes = batch_sizes(case["max_batch"])
    assert sizes == sorted(set(sizes))
    expect(case["expected"], {"count": len(sizes), "first": sizes[0], "last": sizes[-1]})


def _predictor(case: Case) -> None:
    series: tuple[float, ...] = ()
    for value in case["series"]:
        series = observed(series, math.nan if value is None else value)
    found = predicted(
        case["model"],
        series,
        log1p=case.get("log1p", False),
        points_min=case.get("min_points"),
    )
    expected = dict(case["expected"])
    assert found >= expected.pop("at_least", found)
    expect(expected, {"next": found, "kept": len(series)})


def _lower_bound(case: Case) -> None:
    gpus, most = case["gpus_per_replica"], case["max_gpus"]
    least = case.get("prefill_min_endpoint", 1), case.get("decode_min_endpoint", 1)
    current = case["current_prefill"], case["current_decode"]
    raw, step = (case.get("raw_prefill"), case.get("raw_decode")), case["max_delta"]
    facts: dict[str, int] = {}
    single = case["single_component"]
    if single is None:
        pair = throughput_pair(
            # If one of the two cannot be sized, both stay.
            current if None in raw else raw,
            current=current,
            step=step,
            gpus=(gpus, gpus),
            most_gpus=most,
            least=least,
        )
        facts = dict(zip(("lower_bound_prefill", "lower_bound_decode"), pair, strict=True))
    else:
        index = int(single != "prefill")
        facts[("lower_bound_prefill", "lower_bound_decode")[index]] = throughput_single(
            current[index] if raw[index] is None else raw[index],
            current=current[index],
            step=step,
            gpus=gpus,
            most_gpus=most,
            least=least[index],
        )
    expect({name: one for name, one in case["expected"].items() if one is not None}, facts)


PLANNER = {
    "capacity": _capacity,
    "queued_prefill": _queued_prefill,
    "batch_candidates": _batch_candidates,
    "predictor": _predictor,
    "throughput_lower_bound": _lower_bound,
}
