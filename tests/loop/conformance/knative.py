"""Cases of the tables of Knative's autoscaler."""

from __future__ import annotations

import math
from typing import Any

from loop.policies.kpa import (
    Buckets,
    Panic,
    Spec,
    TargetDefaults,
    at_begin,
    decay_of,
    resolve_target,
    scale,
)
from tests.loop.conformance.checking import Case, expect, kind_of


def run(case: Case) -> None:
    """Run a case of any kind."""
    kind_of(case, KINDS)(case)


def _sequence(case: Case) -> None:
    spec = _spec(case["spec"])
    memory = Panic(since_s=case.get("panic_since_s"), most=case.get("max_panic_pods", 0))
    if "initial_ready" in case:
        memory = at_begin(case["initial_ready"], now_s=case["steps"][0]["t_s"])
    for step in case["steps"]:
        if "spec_update" in step:
            spec = _spec(step["spec_update"])
        if None in (step.get("stable"), step.get("panic"), step.get("ready")):
            expect(step["expected"], {"desired": 0, "ebc": 0, "valid": False})
            continue
        found = scale(
            spec,
            memory,
            stable=step["stable"],
            panic=step["panic"],
            ready=step["ready"],
            now_s=step["t_s"],
        )
        memory = found.memory
        expected = dict(step["expected"])
        # Upstream compares it so, for the last digits of totals.
        assert abs(found.excess - expected.pop("ebc", found.excess)) <= 1
        facts = {
            "desired": found.replicas,
            "panic_since_s": memory.since_s,
            "panicking": memory.since_s is not None,
            "max_panic_pods": memory.most,
            "valid": True,
        }
        expect(expected, facts)


def _spec(told: Any) -> Spec:
    return Spec(
        target=told["target_value"],
        total=told.get("total_value", 0.0),
        burst_capacity=told.get("target_burst_capacity", 0.0),
        panic_threshold=told["panic_threshold"],
        up_rate=told["max_scale_up_rate"],
        down_rate=told["max_scale_down_rate"],
        stable_window_s=told.get("stable_window_s", 0.0),
        scale_down_delay_s=told.get("scale_down_delay_s", 0.0),
        activation_scale=told.get("activation_scale", 0),
        reachable=told.get("reachable", False),
    )


def _begin(case: Case) -> None:
    memory = at_begin(case["ready"], now_s=0.0)
    facts = {"panics": memory.since_s is not None, "max_panic_pods": memory.most}
    expect(case["expected"], facts)


def _target(case: Case) -> None:
    told = case["config"]
    target, total = resolve_target(
        case["metric"],
        container_concurrency=case["container_concurrency"],
        target=case["target_annotation"],
        utilization=case["target_utilization_annotation"],
        defaults=TargetDefaults(
            concurrency=told["container_concurrency_target_default"],
            concurrency_share=told["container_concurrency_target_fraction"],
            rps=told["rps_target_default"],
            utilization=told["target_utilization"],
        ),
    )
    assert math.isclose(target, case["expected"]["target"])
    assert math.isclose(total, case["expected"]["total"])


def _window_average(case: Case) -> None:
    buckets = Buckets(
        window_s=case["window_s"],
        granularity_s=case["granularity_s"],
        weighted=case.get("weighted", False),
    )
    for op in case["ops"]:
        if op["op"] == "record":
            buckets = buckets.record(op["t_s"], op["value"])
        elif op["op"].startswith("resize"):
            buckets = buckets.resized(op["window_s"])
        elif op["op"] == "average":
            found = buckets.average(op["t_s"])
            assert math.isclose(found, op["expected"], rel_tol=1e-6, abs_tol=1e-6), (op, found)
        else:
            raise AssertionError(f"expected an operation that is known, found {op['op']}")


def _decay(case: Case) -> None:
    assert math.isclose(decay_of(case["num_buckets"]), case["expected"], abs_tol=5e-6)


KINDS = {
    "sequence": _sequence,
    "begin": _begin,
    "target": _target,
    "window_average": _window_average,
    "decay": _decay,
}
