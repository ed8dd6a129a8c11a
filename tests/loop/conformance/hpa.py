"""Cases of the tables of Kubernetes' HorizontalPodAutoscaler."""

from __future__ import annotations

from typing import Any

from loop.policies.hpa_rules import (
    SCALE_DOWN,
    SCALE_UP,
    Behavior,
    Bounds,
    Event,
    Memory,
    MeteredPod,
    MetricError,
    Proposal,
    Rate,
    Recommendation,
    Rules,
    Start,
    Tolerance,
    average_value_replicas,
    changed,
    down_limit,
    limited,
    limited_by,
    pods_replicas,
    reconcile,
    resource_replicas,
    saturating_sum,
    stabilized,
    stabilized_by,
    up_limit,
    value_replicas,
    with_event,
)
from tests.loop.conformance.checking import Case, expect, expects_error, kind_of

NOW_S = 100_000.0


def calculator(case: Case) -> None:
    """Run a case of the replica calculator."""
    try:
        proposal = kind_of(case, CALCULATED)(case)  # type: ignore[func-returns-value]
    except MetricError:
        if not expects_error(case):
            raise
        return
    assert not expects_error(case), f"expected {case['expected']}, found {proposal}"
    assert isinstance(proposal, Proposal)
    facts = {
        "replicas": proposal.replicas,
        "utilization_pct": proposal.utilization,
        "raw_average_milli": proposal.usage,
        "usage_milli": proposal.usage,
    }
    expect(case["expected"], facts)


def _pods(case: Case) -> list[MeteredPod]:
    containers = case.get("containers_per_pod", 1)
    place = int(case["container"].removeprefix("container")) - 1 if "container" in case else None
    pods = []
    for pod in case["pods"]:
        each = pod.get("request_milli_per_container")
        times = 1 if place is not None else containers
        pods.append(
            MeteredPod(
                name=pod["name"],
                phase=pod["phase"],
                ready=pod["ready"],
                deleting=pod["deleting"],
                started_s=_started_s(pod["start"]),
                # A hot pod became ready only just: no window of its metric lies after that.
                ready_since_s=NOW_S if str(pod["start"]).startswith("hot") else None,
                value=_value(case, pod["name"], place),
                sampled_s=NOW_S,
                request=None if each is None else each * times,
            )
        )
    return pods


def _started_s(start: str | None) -> float | None:
    if start is None:
        return None
    return {"hot": NOW_S, "cool": NOW_S - 180.0, "zero-time": 0.0}[start.split(" ")[0]]


def _value(case: Case, name: str, place: int | None) -> int | None:
    if "metrics_milli" in case:
        return (case["metrics_milli"] or {}).get(name)
    values = (case.get("metrics_milli_per_container") or {}).get(name)
    if values is None:
        return None
    if place is None:
        return sum(values)
    return values[place] if place < len(values) else None


def _tolerance(case: Case) -> Tolerance:
    return Tolerance(down=case["tolerance_down"], up=case["tolerance_up"])


def _resource(case: Case) -> Proposal:
    return resource_replicas(
        case["current_replicas"],
        _pods(case),
        target_percent=case["target_utilization_pct"],
        tolerance=_tolerance(case),
        now_s=NOW_S,
        start=Start(
            cpu_initialization_s=case["cpu_initialization_period_s"],
            initial_readiness_s=case["initial_readiness_delay_s"],
        ),
    )


def _pod_metric(case: Case) -> Proposal:
    return pods_replicas(
        case["current_replicas"],
        _pods(case),
        target=case["target_milli"],
        tolerance=_tolerance(case),
    )


def _total(case: Case) -> int:
    return saturating_sum([int(value) for value in case["metric_values_milli"]])


def _value_metric(case: Case) -> Proposal:
    ready = sum(pod["phase"] == "Running" and bool(pod["ready"]) for pod in case["pods"])
    return value_replicas(
        case["current_replicas"],
        _total(case),
        ready=ready,
        target=case["target_milli"],
        tolerance=_tolerance(case),
    )


def _average_metric(case: Case) -> Proposal:
    return average_value_replicas(
        case["current_replicas"],
        _total(case),
        target=case["per_pod_target_milli"],
        tolerance=_tolerance(case),
    )


CALCULATED: Any = {
    "resource_utilization": _resource,
    "podMetric": _pod_metric,
    "objectMetric": _value_metric,
    "externalMetric": _value_metric,
    "objectPerPodMetric": _average_metric,
    "externalPerPodMetric": _average_metric,
}


def reconcile_cpu(case: Case) -> None:
    """Run a case of the whole controller."""
    count = len(case["cpu_requests_milli"]) or case["status_replicas"]
    pods = [_cpu_pod(case, index) for index in range(count)]
    known = case["recommendations"]
    memory = Memory(
        recommendations=_recommendations(known or ()),
        # A log that is given stands for a controller that has run before.
        begun=known is not None,
    )
    outcome = reconcile(
        lambda: resource_replicas(
            case["spec_replicas"],
            pods,
            target_percent=case["cpu_target_pct"],
            now_s=NOW_S,
            start=Start(cpu_initialization_s=120.0, initial_readiness_s=10.0),
        ),
        current=case["spec_replicas"],
        bounds=Bounds(low=case["min_replicas"], high=case["max_replicas"]),
        memory=memory,
        now_s=NOW_S,
        behavior=_behavior(case) if case["has_behavior"] else None,
    )
    facts = {"desired_replicas": outcome.replicas, "condition": outcome.condition}
    expect(case["expected"], facts)


def _cpu_pod(case: Case, index: int) -> MeteredPod:
    def of(name: str, default: object) -> Any:
        values = case[name]
        return values[index] if values and index < len(values) else default

    start = of("pod_start", "cool")
    return MeteredPod(
        name=f"pod-{index}",
        phase=of("pod_phase", "Running"),
        ready=of("pod_ready", True),
        deleting=of("pod_deleting", False),
        started_s=_started_s(start),
        ready_since_s=NOW_S if start == "hot" else None,
        value=of("reported_levels_milli", None),
        sampled_s=NOW_S,
        request=of("cpu_requests_milli", None),
    )


def behavior(case: Case) -> None:
    """Run a case of the limits and windows."""
    kind_of(case, STAGES, key="stage")(case)


def _no_behavior_limits(case: Case) -> None:
    replicas, condition = limited(
        case["desired_replicas"], current=case["current_replicas"], bounds=_bounds(case)
    )
    expect(case["expected"], {"replicas": replicas, "condition": condition})


def _rate_limit(case: Case) -> None:
    replicas, condition = limited_by(
        case["desired_replicas"],
        current=case["current_replicas"],
        bounds=_bounds(case),
        behavior=_behavior(case),
        memory=Memory(
            ups=_events(case["scale_up_events"]), downs=_events(case["scale_down_events"])
        ),
        now_s=NOW_S,
    )
    expect(case["expected"], {"replicas": replicas, "condition": condition})


def _window(case: Case) -> None:
    replicas, log = stabilized(
        case["desired_replicas"],
        _recommendations(case["recommendations"]),
        now_s=NOW_S,
        window_s=case["downscale_window_s"],
    )
    expect(case["expected"], {"replicas": replicas, "log_length_after": len(log)})


def _windows(case: Case) -> None:
    replicas, log = stabilized_by(
        case["desired_replicas"],
        _recommendations(case["recommendations"]),
        current=case["current_replicas"],
        now_s=NOW_S,
        up_s=case["scale_up_window_s"],
        down_s=case["scale_down_window_s"],
    )
    facts: dict[str, Any] = {"replicas": replicas}
    if case["expected"].get("recommendation_log_after") is None:
        facts["recommendation_log_after"] = None
    else:
        facts["recommendation_log_after"] = [one.replicas for one in log]
    expect(case["expected"], facts)


def _single_limit(case: Case) -> None:
    rules, current = _rules(case["rules"]), case["current_replicas"]
    memory = Memory(
        ups=_events(case.get("scale_up_events", ())),
        downs=_events(case.get("scale_down_events", ())),
    )
    limit = {"up": up_limit, "down": down_limit}[case["direction"]]
    expect(case["expected"], {"limit": limit(current, rules=rules, memory=memory, now_s=NOW_S)})


def _event_log(case: Case) -> None:
    events = _events(case["prev_events"])
    before = changed(events, period_s=60.0, now_s=NOW_S)
    after: tuple[Event, ...] = ()
    longest_s = 0.0
    if case["rules"] is not None:
        rules = _rules(case["rules"])
        longest_s = max(rate.period_s for rate in rules.rates)
        after = with_event(events, case["new_change"], rules=rules, now_s=NOW_S)
    facts = {
        "change_in_last_60s_before": before,
        "events_after": [
            {"replica_change": event.change, "outdated": NOW_S - event.at_s > longest_s}
            for event in after
        ],
    }
    expect(case["expected"], facts)


STAGES = {
    "no_behavior_limits": _no_behavior_limits,
    "rate_limit": _rate_limit,
    "downscale_stabilization_no_behavior": _window,
    "stabilization_with_behavior": _windows,
    "single_limit_min_policy": _single_limit,
    "scale_event_log": _event_log,
}


def _bounds(case: Case) -> Bounds:
    return Bounds(low=case["min_replicas"], high=case["max_replicas"])


def _behavior(case: Case) -> Behavior:
    up, down = case["scale_up_rules"], case["scale_down_rules"]
    return Behavior(
        up=SCALE_UP if up is None else _rules(up, window_s=SCALE_UP.window_s),
        down=SCALE_DOWN if down is None else _rules(down, window_s=SCALE_DOWN.window_s),
    )


def _rules(rules: Any, *, window_s: float = 0.0) -> Rules:
    """Return *rules*, with the window *window_s* if they name none."""
    rates = [
        Rate(kind=rate["type"], value=rate["value"], period_s=rate["period_s"])
        for rate in rules["policies"] or ()
    ]
    told_s = rules.get("stabilization_window_s")
    return Rules(
        rates=tuple(rates),
        window_s=window_s if told_s is None else told_s,
        select=rules.get("select_policy") or "Max",
    )


def _recommendations(log: Any) -> tuple[Recommendation, ...]:
    return tuple(Recommendation(replicas=one["replicas"], at_s=NOW_S - one["age_s"]) for one in log)


def _events(log: Any) -> tuple[Event, ...]:
    return tuple(Event(change=one["replica_change"], at_s=NOW_S - one["age_s"]) for one in log)
