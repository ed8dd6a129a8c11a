"""Pages for Prometheus: the metrics of one pod, of all pods, and where to find each of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from twin.kube.apiserver.storage import Dates
from twin.serving.deployment import Deployment
from twin.serving.metrics import METRIC_TYPES, Sample, exposition
from twin.serving.pod import Pod
from twin.spec import EngineSpec

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_GATEWAY = {
    "inferno_gateway_requests_total": (
        "Requests that arrived at the gateway of a server, whatever became of them."
    ),
    "inferno_gateway_prompt_tokens_total": "Prompt tokens of the requests that arrived.",
    "inferno_gateway_backlog": "Requests that wait at the gateway because no pod is ready.",
}


def pod_samples(
    pod: Pod, *, now_s: float, dates: Dates, extra: Mapping[str, str] | None = None
) -> list[Sample]:
    """Return what *pod*, which serves, tells of itself at *now_s*; *extra* labels are added to all.

    Its process started when the pod got its GPUs, or crashed last, as the status of the pod says.
    """
    assert pod.replica is not None, f"{pod.name} does not serve"
    pod.replica.advance(now_s, inclusive=True)
    labels = {"model_name": pod.engine.model, "engine": "0", **(extra or {})}
    start_s = dates.at(pod.life.granted_s).timestamp()
    return [
        *exposition(pod.replica.read(now_s), finished=pod.finished, labels=labels),
        *_cache_config(pod.engine, extra or {}),
        Sample("process_start_time_seconds", extra or {}, start_s),
    ]


def _cache_config(engine: EngineSpec, extra: Mapping[str, str]) -> list[Sample]:
    """Return the sample that describes the KV cache; none if it is unlimited."""
    if engine.kv_tokens is None:
        return []
    labels = {
        "engine": "0",
        **extra,
        "block_size": str(engine.block_size),
        "cache_dtype": "auto",
        "enable_prefix_caching": "False",
        "num_gpu_blocks": str(engine.kv_tokens // engine.block_size),
    }
    return [Sample("vllm:cache_config_info", labels, 1)]


def gateway_samples(deployment: Deployment, *, namespace: str, name: str) -> list[Sample]:
    """Return what the gateway of a server, which is the Deployment *name*, has counted."""
    gateway = deployment.gateway
    labels = {"namespace": namespace, "deployment": name, "model_name": deployment.server.model}
    values = (gateway.arrivals, gateway.arrived_tokens, len(gateway.backlog))
    return [Sample(metric, labels, value) for metric, value in zip(_GATEWAY, values, strict=True)]


def metrics_text(samples: Iterable[Sample]) -> str:
    """Return *samples* in Prometheus' text format, those of a metric together, under its type."""
    families: dict[str, list[str]] = {}
    for sample in samples:
        families.setdefault(_family(sample.name), []).append(_line(sample))
    lines = []
    for family, members in families.items():
        if family in _GATEWAY:
            lines.append(f"# HELP {family} {_GATEWAY[family]}")
        lines.append(f"# TYPE {family} {_type(family)}")
        lines += members
    return "\n".join(lines) + "\n"


def discovery_text(pods: Sequence[tuple[str, str]], *, host: str) -> str:
    """Return the targets of Prometheus' HTTP service discovery: one a pod, each a path on
    *host*.
    """
    return json.dumps(
        [
            {
                "targets": [host],
                "labels": {
                    "__metrics_path__": f"/pods/{namespace}/{name}/metrics",
                    "namespace": namespace,
                    "pod": name,
                },
            }
            for namespace, name in pods
        ]
    )


def _family(name: str) -> str:
    if name in METRIC_TYPES or name in _GATEWAY:
        return name
    return name.rpartition("_")[0]


def _type(family: str) -> str:
    if family in METRIC_TYPES:
        return METRIC_TYPES[family]
    return "counter" if family.endswith("_total") else "gauge"


def _line(sample: Sample) -> str:
    labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in sample.labels.items())
    value = f"{sample.value:d}" if isinstance(sample.value, int) else repr(float(sample.value))
    return f"{sample.name}{{{labels}}} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
