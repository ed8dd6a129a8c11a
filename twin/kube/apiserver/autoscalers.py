"""HorizontalPodAutoscalers in their older version, autoscaling/v1, as `kubectl autoscale` makes
them: kept in v2, and translated on the way in and out.
"""

from __future__ import annotations

import json
from typing import Any

from twin.kube.apiserver.objects import Json
from twin.kube.apiserver.resources import AUTOSCALERS, AUTOSCALERS_V1

CPU = "targetCPUUtilizationPercentage"
CPU_DEFAULT = 80
OTHER_METRICS = "autoscaling.alpha.kubernetes.io/metrics"  # what v1 has no field for


def to_v2(obj: Json) -> Json:
    """Return an object of v1 as one of v2."""
    spec = dict(obj.get("spec") or {})
    percent = spec.pop(CPU, None)
    metadata = dict(obj.get("metadata") or {})
    annotations = dict(metadata.get("annotations") or {})
    others = annotations.pop(OTHER_METRICS, None)
    metrics = [] if percent is None and others else [_cpu(percent or CPU_DEFAULT)]
    if annotations or "annotations" in metadata:
        metadata["annotations"] = annotations
    metrics += _parsed(others)
    return {
        **obj,
        "apiVersion": AUTOSCALERS.api_version,
        "metadata": metadata,
        "spec": {**spec, "metrics": metrics},
    }


def to_v1(obj: Json) -> Json:
    """Return an object of v2 as one of v1."""
    spec = dict(obj.get("spec") or {})
    others = []
    for metric in spec.pop("metrics", None) or ():
        target = (metric.get("resource") or {}).get("target") or {}
        percent = target.get("averageUtilization")
        if (metric.get("resource") or {}).get("name") == "cpu" and percent is not None:
            spec[CPU] = percent
        else:
            others.append(metric)
    spec.pop("behavior", None)
    metadata = dict(obj.get("metadata") or {})
    if others:
        told = json.dumps(others, separators=(",", ":"))
        metadata["annotations"] = {**(metadata.get("annotations") or {}), OTHER_METRICS: told}
    kept = ("currentReplicas", "desiredReplicas", "lastScaleTime", "observedGeneration")
    status = obj.get("status") or {}
    shown: Json = {**obj, "apiVersion": AUTOSCALERS_V1.api_version, "metadata": metadata}
    return shown | {
        "spec": spec,
        "status": {
            "currentReplicas": 0,
            "desiredReplicas": 0,
            **{key: status[key] for key in kept if key in status},
        },
    }


def _cpu(percent: int) -> Json:
    target = {"type": "Utilization", "averageUtilization": percent}
    return {"type": "Resource", "resource": {"name": "cpu", "target": target}}


def _parsed(text: Any) -> list[Json]:
    try:
        found = json.loads(text) if text else []
    except (TypeError, ValueError):
        found = []
    return found if isinstance(found, list) else []
