"""Cases of the tables of Kubernetes' HorizontalPodAutoscaler."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
    group_pods,
    largest,
    limited,
    limited_by,
    pods_replicas,
    reconcile,
    resource_replicas,
    saturating_sum,
    stabilized,
    stabilized_by,
    tolerance_of,
    up_limit,
    value_replicas,
    with_event,
)
from tests.loop.conformance.checking import Case, expect, expects_error, kind_of

NOW_S = 100_000.0


TESTED_START = Start(cpu_initialization_s=120.0, initial_readiness_s=10.0)


def calculator(case: Case) -> None:
    """Run a case of the replica calculator."""
    if case["kind"] == "group_pods":
        _groups(case)
        return
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


def _in_full(case: Case) -> Case:
    """Return *case* with what it says of its pods by lists, or not at all, said of each pod."""
    if "levels" not in case and isinstance(case.get("pods"), list):
        return case
    named = ("phase", "ready", "deleting", "start")
    lists = {name: case[name] for name in named if name in case}
    count = max([case["current_replicas"], *map(len, lists.values())])
    usual = {"phase": "Running", "ready": True, "deleting": False, "start": "zero-time"}
    pods = [
        {"name": f"pod-{index}", "request_milli_per_container": case.get("request")}
        | {name: lists[name][index] if name in lists else usual[name] for name in named}
        for index in range(case.get("pods", count))
    ]
    levels = case.get("levels", ())
    if not isinstance(levels, Mapping):
        levels = {f"pod-{index}": level for index, level in enumerate(levels)}
    requests = case.get("request")
    if isinstance(requests, list):
        for pod, request in zip(pods, requests, strict=True):
            pod["request_milli_per_container"] = request
    metrics = "metrics_milli" if case["kind"] == "podMetric" else "metrics_milli_per_container"
    containers = len(next(iter(levels.values()))) if levels and "container" in metrics else 1
    return {**case, "pods": pods, metrics: levels, "containers_per_pod": containers}


def _pods(case: Case) -> list[MeteredPod]:
    case = _in_full(case)
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
    return Tolerance(down=case.get("tolerance_down", 0.1), up=case.get("tolerance_up", 0.1))


def _resource(case: Case) -> Proposal:
    return resource_replicas(
        case["current_replicas"],
        _pods(case),
        target_percent=case["target_utilization_pct"],
        tolerance=_tolerance(case),
        now_s=NOW_S,
        start=Start(
            cpu_initialization_s=case.get("cpu_initialization_period_s", 120.0),
            initial_readiness_s=case.get("initial_readiness_delay_s", 10.0),
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
    pods = _in_full(case)["pods"]
    if not pods and case["current_replicas"]:
        raise MetricError("no pods returned by selector while calculating replica count")
    ready = sum(pod["phase"] == "Running" and bool(pod["ready"]) for pod in pods)
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


def _failing(_case: Case) -> Proposal:
    raise MetricError("it cannot be had")


CALCULATED: Any = {
    "failing": _failing,
    "resource_utilization": _resource,
    "podMetric": _pod_metric,
    "objectMetric": _value_metric,
    "externalMetric": _value_metric,
    "objectPerPodMetric": _average_metric,
    "externalPerPodMetric": _average_metric,
}


def _groups(case: Case) -> None:
    pods = [
        MeteredPod(
            name=pod["name"],
            phase=pod["phase"],
            ready=pod.get("ready"),
            deleting=pod.get("deleting", False),
            started_s=NOW_S - pod["started_age_s"] if "started_age_s" in pod else None,
            ready_since_s=NOW_S - pod["since_age_s"] if "since_age_s" in pod else None,
            value=1 if "sample" in pod else None,
            sampled_s=NOW_S - pod.get("sample", {}).get("age_s", 0.0),
            window_s=pod.get("sample", {}).get("window_s", 60.0),
        )
        for pod in case["pods"]
    ]
    groups = group_pods(pods, cpu=case["cpu"], now_s=NOW_S, start=TESTED_START)
    facts = {
        "ready": groups.ready,
        "unready": sorted(groups.unready),
        "missing": sorted(groups.missing),
        "ignored": sorted(groups.ignored),
    }
    expect(case["expected"], facts)


def reconcile_cpu(case: Case) -> None:
    """Run a case of the whole controller."""
    count = len(case["cpu_requests_milli"]) or case["status_replicas"]
    pods = [_cpu_pod(case, index) for index in range(count)]

    def propose() -> Proposal:
        return resource_replicas(
            case["spec_replicas"],
            pods,
            target_percent=case["cpu_target_pct"],
            tolerance=tolerance_of(_behavior_if_any(case)),
            now_s=NOW_S,
            start=TESTED_START,
        )

    _reconcile(case, propose)


def reconcile_metrics(case: Case) -> None:
    """Run a case of the whole controller; each metric is a case of the calculator."""

    def proposed(metric: Case) -> Proposal | MetricError:
        pods = {name: case[name] for name in ("pods", "ready", "start") if name in case}
        per_pod = metric["kind"].endswith("PerPodMetric")
        current = case["status_replicas" if per_pod else "spec_replicas"]
        try:
            calculated = CALCULATED[metric["kind"]]
            found = calculated({"current_replicas": current, "levels": (), **pods, **metric})
        except MetricError as error:
            return error
        assert isinstance(found, Proposal)
        return found

    current = case["spec_replicas"]
    _reconcile(case, lambda: largest([proposed(one) for one in case["metrics"]], current=current))


def _reconcile(case: Case, propose: Callable[[], Proposal]) -> None:
    known = case["recommendations"]
    memory = Memory(
        recommendations=_recommendations(known or ()),
        # A log that is given stands for a controller that has run before.
        begun=known is not None,
    )
    outcome = reconcile(
        propose,
        current=case["spec_replicas"],
        bounds=_bounds(case),
        memory=memory,
        now_s=NOW_S,
        behavior=_behavior_if_any(case),
    )
    facts = {"desired_replicas": outcome.replicas, "condition": outcome.condition}
    expect(case["expected"], facts)


def _behavior_if_any(case: Case) -> Behavior | None:
    return _behavior(case) if case.get("has_behavior") else None


def _cpu_pod(case: Case, index: int) -> MeteredPod:
    def of(name: str, default: object) -> Any:
        values = case.get(name)
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
    usual = {"up": SCALE_UP, "down": SCALE_DOWN}[case["direction"]]
    rules, current = _rules(case["rules"], usual=usual), case["current_replicas"]
    memory = Memory(
        ups=_events(case.get("scale_up_events", ())),
        downs=_events(case.get("scale_down_events", ())),
    )
    limit = {"up": up_limit, "down": down_limit}[case["direction"]]
    expect(case["expected"], {"limit": limit(current, rules=rules, memory=memory, now_s=NOW_S)})


def _event_log(case: Case) -> None:
    events = _events(case["prev_events"])
    before = changed(events, period_s=60.0, now_s=NOW_S)
    # Without rules nothing is stored, and nothing that is stored is called old.
    after, longest_s = events, math.inf
    if case["rules"] is not None:
        rules = _rules(case["rules"], usual=SCALE_UP)
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
    return Behavior(
        up=_rules(case.get("scale_up_rules"), usual=SCALE_UP),
        down=_rules(case.get("scale_down_rules"), usual=SCALE_DOWN),
    )


def _rules(rules: Any, *, usual: Rules) -> Rules:
    """Return *rules*; what they leave out is as the API fills it in."""
    if rules is None:
        return usual
    rates = [
        Rate(kind=rate["type"], value=rate["value"], period_s=rate["period_s"])
        for rate in rules.get("policies") or ()
    ]
    told_s = rules.get("stabilization_window_s")
    return Rules(
        rates=tuple(rates) or usual.rates,
        window_s=usual.window_s if told_s is None else told_s,
        select=rules.get("select_policy") or "Max",
        tolerance=rules.get("tolerance"),
    )


def _recommendations(log: Any) -> tuple[Recommendation, ...]:
    return tuple(Recommendation(replicas=one["replicas"], at_s=NOW_S - one["age_s"]) for one in log)


def _events(log: Any) -> tuple[Event, ...]:
    return tuple(Event(change=one["replica_change"], at_s=NOW_S - one["age_s"]) for one in log)
