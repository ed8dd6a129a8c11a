"""The pages of pods: metrics for Prometheus, and figures of the last window at /latest, in the form
of the Go server-sim; and where to find each pod.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from twin.engine.telemetry import ReplicaReading
from twin.kube.apiserver.storage import Dates
from twin.serving.deployment import Deployment
from twin.serving.metrics import METRIC_TYPES, Sample, exposition
from twin.serving.pod import Pod
from twin.spec import EngineSpec

MS = 1000.0
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
    stem = name.rpartition("_")[0]
    return stem if METRIC_TYPES.get(stem) == "histogram" else name


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


class Totals(NamedTuple):
    """What one life of a pod has counted up to now_s."""

    now_s: float
    successes: int = 0
    inside: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    ttft_count: int = 0
    ttft_s: float = 0.0
    per_token_s: float = 0.0
    e2e_s: float = 0.0
    queue_count: int = 0
    queue_s: float = 0.0


class Windows:
    """The totals of pods when they were asked before, so that an answer is of a window."""

    def __init__(self, *, window_s: float) -> None:
        self._window_s = window_s
        self._before: dict[tuple[str, str], tuple[int, list[Totals]]] = {}

    def since(self, key: tuple[str, str], pod: Pod, now: Totals) -> Totals:
        """Return the totals from which the window to *now* begins: the latest that are at least a
        window old, else the oldest of this life of the pod, and note *now*.
        """
        life, kept = self._before.get(key, (pod.restarts, []))
        if life != pod.restarts or not kept:
            kept = [Totals(pod.life.ready_s)]
        while len(kept) > 1 and kept[1].now_s <= now.now_s - self._window_s:
            kept.pop(0)
        begin = kept[0]
        # Who asks every second must not make it keep every second.
        if now.now_s - kept[-1].now_s >= self._window_s / 4.0:
            kept.append(now)
        self._before[key] = (pod.restarts, kept)
        return begin

    def forget(self, there: Mapping[tuple[str, str], Any]) -> None:
        """Forget pods that are not *there*."""
        self._before = {key: of for key, of in self._before.items() if key in there}


def totals_of(pod: Pod, reading: ReplicaReading, now_s: float) -> Totals:
    """Return what *pod*, of which *reading* tells, has counted."""
    return Totals(
        now_s=now_s,
        successes=reading.successes,
        inside=reading.running + reading.waiting,
        prompt_tokens=reading.prompt_tokens,
        answer_tokens=pod.finished.output_tokens,
        ttft_count=reading.ttft_count,
        ttft_s=reading.ttft_sum_s,
        per_token_s=pod.finished.per_token_s,
        e2e_s=reading.e2e_sum_s,
        queue_count=reading.queue_count,
        queue_s=reading.queue_sum_s,
    )


def envelope(pod: Pod, begin: Totals, end: Totals, *, dates: Dates) -> str | None:
    """Return the answer of *pod* for the window between two totals, None if no request ended in
    it. Rates are by the time of the world.
    """
    length_s, ended = end.now_s - begin.now_s, end.successes - begin.successes
    if ended <= 0 or length_s <= 0.0:
        return None
    arrived = max(ended + end.inside - begin.inside, 0)
    firsts = end.ttft_count - begin.ttft_count
    effective = {
        "RPS": arrived / length_s,
        "maxConcurrency": pod.max_batch,
        "avgInputTokens": _mean(end.prompt_tokens - begin.prompt_tokens, firsts),
        "avgOutputTokens": _mean(end.answer_tokens - begin.answer_tokens, ended),
        "accelerator": pod.life.accelerator,
        "model": pod.engine.model,
    }
    result = {
        "throughput": ended / length_s,
        "avgRespTime": MS * _mean(end.e2e_s - begin.e2e_s, ended),
        "avgWaitTime": MS * _mean(end.queue_s - begin.queue_s, end.queue_count - begin.queue_count),
        "avgTTFT": MS * _mean(end.ttft_s - begin.ttft_s, firsts),
        "avgITL": MS * _mean(end.per_token_s - begin.per_token_s, ended),
        "maxRPS": 0,
    }
    told = {"effectiveInput": effective, "result": result, "completedAt": dates.text_at(end.now_s)}
    return json.dumps(told)


def _mean(total: float, count: int) -> float:
    return total / count if count > 0 else 0.0
