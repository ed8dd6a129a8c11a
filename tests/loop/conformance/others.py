"""Cases of the tables of Ray Serve, AIBrix and llm-d's Workload Variant Autoscaler."""

from __future__ import annotations

import math
from typing import Any

from loop.policies import aibrix as rules
from loop.policies.ray_serve import NONE_PENDING, Config, aggregated, decided, delayed, scaled
from loop.policies.wva import Replica, Thresholds, Variant, analyzed, targets
from tests.loop.conformance.checking import Case, expect, kind_of


def ray_serve(case: Case) -> None:
    """Run a case of Ray Serve."""
    kind_of(case, RAY_SERVE)(case)


def _config(case: Case) -> Config:
    told = case["config"]
    given = {
        name: told[name]
        for name in (
            "target_ongoing_requests",
            "upscale_delay_s",
            "downscale_delay_s",
            "downscale_to_zero_delay_s",
        )
        if name in told
    }
    # The older names count where the newer ones say nothing.
    factors = {
        "upscaling_factor": told.get("upscaling_factor")
        or told.get("upscale_smoothing_factor")
        or told.get("smoothing_factor"),
        "downscaling_factor": told.get("downscaling_factor")
        or told.get("downscale_smoothing_factor")
        or told.get("smoothing_factor"),
    }
    return Config(**given, **{name: one for name, one in factors.items() if one is not None})


def _policy(case: Case) -> None:
    config, pending = _config(case), NONE_PENDING
    for step in case["steps"]:
        for number in range(step.get("repeat", 1)):
            replicas, pending = decided(
                step["total_requests"],
                current=step["current"],
                target=step["target"],
                config=config,
                pending=pending,
                now_s=step["t_s"] + number * step.get("dt_s", 0.0),
                desired=step.get("custom_desired"),
            )
            assert step["expected"] in (None, replicas), (step, number, replicas)


def _delay_only(case: Case) -> None:
    config, pending = _config(case), NONE_PENDING
    for step in case["steps"]:
        replicas, pending = delayed(
            step["desired"],
            target=step["target"],
            config=config,
            pending=pending,
            now_s=step["t_s"],
        )
        assert step["expected"] in (None, replicas), (step, replicas)


def _scaling_factor(case: Case) -> None:
    replicas = scaled(case["desired"], current=case["current"], config=_config(case))
    expect(case["expected"], {"replicas": replicas})


def _demand(case: Case) -> None:
    series = [[tuple(point) for point in one] for one in case["series"]]
    found = aggregated(series, case.get("aggregation", "mean"), last_s=case["last_window_s"])
    assert found is not None
    assert math.isclose(found, case["expected"]["demand"], abs_tol=0.005), found


RAY_SERVE = {
    "policy": _policy,
    "delay_only": _delay_only,
    "scaling_factor": _scaling_factor,
    "demand": _demand,
}


def aibrix(case: Case) -> None:
    """Run a case of AIBrix."""
    kind_of(case, AIBRIX, key="algorithm")(case)


def _rates(case: Case) -> rules.Rates:
    return rules.Rates(
        up_tolerance=case["up_tolerance"],
        down_tolerance=case["down_tolerance"],
        up=case["max_scale_up_rate"],
        down=case["max_scale_down_rate"],
    )


def _apa(case: Case) -> None:
    replicas = rules.apa(
        case["current_pods"],
        mean=case["current_use_per_pod"],
        target=case["target_value"],
        rates=_rates(case),
    )
    expect(case["expected"], {"replicas": replicas})


def _kpa(case: Case) -> None:
    replicas = rules.kpa(
        case["current_pods"],
        stable=case["stable_value"],
        panic=case["panic_value"],
        target=case["target_value"],
        rates=_rates(case),
        panics=case["in_panic_mode"],
        most=case["max_panic_pods"],
        activation_scale=case["activation_scale"],
    )
    expect(case["expected"], {"replicas": replicas})


def _pending(case: Case) -> None:
    replicas = rules.guarded(
        case["desired"],
        current=case["current_pods"],
        ready=case["ready_pods"],
        mean=case["metric_value"],
        target=case["target_value"],
        algorithm=case["strategy"],
    )
    expect(case["expected"], {"replicas": replicas})


AIBRIX = {"apa": _apa, "kpa": _kpa, "pending": _pending}


def wva(case: Case) -> None:
    """Run a case of the saturation analyzer."""
    kind_of(case, WVA)(case)


def _analyze(case: Case) -> None:
    told = case["config"]
    thresholds = Thresholds(
        kv_cache=told["kv_cache_threshold"],
        queue_length=told["queue_length_threshold"],
        kv_spare=told["kv_spare_trigger"],
        queue_spare=told["queue_spare_trigger"],
    )
    found = analyzed([_replica(one) for one in case["replicas"]], thresholds)
    facts: dict[str, Any] = {
        "total_replicas": found.replicas,
        "non_saturated": found.not_saturated,
        "avg_spare_kv": found.spare_kv,
        "avg_spare_queue": found.spare_queue,
        "avg_kv": found.kv_mean,
        "max_kv": found.kv_most,
        "scale_up": found.scale_up,
        "scale_down_safe": found.scale_down_safe,
    }
    expect(case["expected"], facts)


def _replica(told: Any) -> Replica:
    def of(name: str, begin: str) -> Any:
        # A value that was not scraped is told as such beside a zero, or left out.
        missing = [one for one in told if one.startswith(begin) and one.endswith("missing")]
        return None if any(told[one] for one in missing) else told.get(name)

    return Replica(
        variant=told["variant"], kv_usage=of("kv_usage", "kv"), queue=of("queue", "queue")
    )


def _targets(case: Case) -> None:
    variants = [
        Variant(
            name=one["name"],
            cost=one["cost"],
            current=one["current"],
            desired=one["desired"],
            pending=one["pending"],
        )
        for one in case["variants"]
    ]
    found = targets(variants, scale_up=case["scale_up"], scale_down_safe=case["scale_down_safe"])
    expect(case["expected"], found)


WVA = {"analyze": _analyze, "targets": _targets}
