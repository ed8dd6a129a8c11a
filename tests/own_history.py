"""The past of a simulated system as Prometheus would have it: pages of all pods, minute by minute
of virtual time.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import simpy

from experiments.config import RunConfig
from experiments.run import start_world
from experiments.sources import read_sources
from loop.signals.names import NAMES
from loop.signals.processes import Series
from twin.kernel import CONTROL, at
from twin.serving.deployment import Deployment
from twin.serving.metrics import Sample, exposition

NAMESPACE = "infer"
KV_INFO = "vllm:cache_config_info"
# As Kubernetes would name pods of a generation that has gone.
LENGTHS = {
    "vllm:request_prompt_tokens_bucket": "prompt_tokens",
    "vllm:request_generation_tokens_bucket": "output_tokens",
}
BOUNDS = [float(step * 10**power) for power in range(5) for step in (1, 2, 5)] + [np.inf]
SUFFIX = "-7d4f9c6b5d-"


@dataclass(kw_only=True)
class Past:
    """Samples by server, pod, metric and labels, (seconds of the run, value); and the truth behind
    them, the requests that finished.
    """

    found: dict[str, dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], list]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    )
    requests: dict[str, Any] = field(default_factory=dict)

    def series(self, server: str, *, epoch_s: float = 0.0) -> dict[str, list[Series]]:
        """Return the series of one server by pod, as a range query answers them."""
        return {
            pod: [
                Series(metric, labels, [(epoch_s + t_s, value) for t_s, value in points])
                for (metric, labels), points in of_pod.items()
                if metric in NAMES.ranks
            ]
            for pod, of_pod in self.found[server].items()
        }

    def openmetrics(self, path: Path, *, epoch_s: float) -> None:
        """Write everything for `promtool tsdb create-blocks-from openmetrics`."""
        families: dict[str, list[str]] = defaultdict(list)
        for of_server in self.found.values():
            for pod, of_pod in of_server.items():
                for (metric, labels), points in of_pod.items():
                    own = {"namespace": NAMESPACE, "pod": pod, "job": "twin", **dict(labels)}
                    text = ",".join(f'{key}="{value}"' for key, value in own.items())
                    head = f"{metric}{{{text}}}"
                    families[metric] += [
                        f"{head} {value!r} {epoch_s + t_s:.3f}" for t_s, value in points
                    ]
        with path.open("w") as file:
            for metric, lines in families.items():
                # promtool takes a counter under its name without _total only; values are the same.
                file.write(f"# TYPE {metric} unknown\n")
                file.write("\n".join(lines) + "\n")
            file.write("# EOF\n")


def past_of(config: RunConfig, *, workloads: dict[str, str], step_s: float = 60.0) -> Past:
    """Simulate *config* with the pods that it begins with, and return what scrapes would have
    seen; *workloads* is the name of the Deployment of each server.
    """
    sources = read_sources(config)
    env = simpy.Environment()
    cluster, _ = start_world(env, sources, until_s=config.duration_s)
    past = Past()

    def scrape() -> None:
        now_s = float(env.now)
        for deployment in cluster.deployments:
            _scrape(past, deployment, workloads[deployment.server.name], now_s)
        if now_s + step_s <= config.duration_s:
            at(env, now_s + step_s, priority=CONTROL, action=scrape)

    at(env, 0.0, priority=CONTROL, action=scrape)
    env.run(until=config.duration_s + 0.001)
    past.requests, _ = cluster.requests.hand_over()
    for index, deployment in enumerate(cluster.deployments):
        of_pods = past.found[deployment.server.name]
        own = past.requests["server"] == index
        if of_pods:
            _count_lengths(next(iter(of_pods.values())), past.requests, own, config.duration_s)
    return past


def _count_lengths(of_pod: dict, requests: dict[str, Any], own: np.ndarray, end_s: float) -> None:
    """Add the histograms of lengths, as engines have them and the twin does not, every hour."""
    for at_s in np.arange(3600.0, end_s, 3600.0).tolist():
        ended = own & (requests["finish_s"] <= at_s)
        for metric, column in LENGTHS.items():
            values = requests[column][ended]
            for bound in BOUNDS:
                le = "+Inf" if np.isinf(bound) else f"{bound:g}"
                key = (metric, (("engine", "0"), ("le", le), ("model_name", "m")))
                of_pod[key].append((at_s, float((values <= bound).sum())))


def _scrape(past: Past, deployment: Deployment, workload: str, now_s: float) -> None:
    deployment.advance()
    for number, pod in enumerate(deployment.pods):
        if pod.replica is None:
            continue
        pod.replica.advance(now_s, inclusive=True)
        labels = {"model_name": pod.engine.model, "engine": "0"}
        name = f"{workload}{SUFFIX}{number:05d}"
        samples = list(exposition(pod.replica.read(now_s), finished=pod.finished, labels=labels))
        if pod.engine.kv_tokens is not None:
            blocks = {"num_gpu_blocks": str(pod.engine.kv_tokens // pod.engine.block_size)}
            info = {**labels, "block_size": str(pod.engine.block_size), **blocks}
            samples.append(Sample(KV_INFO, info, 1.0))
        of_pod = past.found[deployment.server.name][name]
        for sample in samples:
            # Buckets are many: every hour is enough for what is asked of them.
            hourly = sample.name in NAMES.buckets and now_s % 3600.0 == 0.0
            if sample.name in NAMES.ranks or sample.name == KV_INFO or hourly:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                of_pod[key].append((now_s, float(sample.value)))
