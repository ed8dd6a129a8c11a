"""A system of two servers with a past of days: its truth as a data directory, its past in a real
Prometheus, and its Deployments in the twin as a cluster.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from experiments.config import RunConfig
from experiments.world import build_cluster_spec
from loop.backends.kube import labels as names
from loop.schema.reading import read_system
from tests.live.prometheus_server import backfill, prometheus_server
from tests.live.twin_served import serving_twin
from tests.own_history import NAMESPACE, Past, past_of
from twin.kube.cluster import TOKEN
from twin.kube.files import write_kubeconfig

Json = dict[str, Any]
END_S = 1_764_000_000.0  # 2025-11-24T16:00Z, where the past ends
DAY_S = 86_400.0

# As Hugging Face calls it: no label holds a slash, so an annotation does, and metrics have it.
CHAT = "meta-llama/Llama-2-13b-chat-hf"
# Off what the data sheets say by 5 to 30 %.
PARMS = {
    ("Qwen2.5-14B", "L40S"): {"alpha": 43.0, "beta": 0.135, "gamma": 0.00034},
    (CHAT, "H100"): {"alpha": 10.2, "beta": 0.041, "gamma": 0.00031},
}
SERVERS = {
    "code": ("Qwen2.5-14B", "L40S", "Premium", 1, 48),
    "chat": (CHAT, "H100", "Bronze", 1, 32),
}
LOADS = {"code": (10.0, 700.0, 150.0), "chat": (15.0, 256.0, 200.0)}
TOKEN_CVS = {"code": 0.8, "chat": 0.3}
# The prompts of one have a beginning in common, and its engine speculates.
PREFIX_SHARES = {"chat": 0.4}
TOKENS_PER_STEP = {(CHAT, "H100"): 1.6}
DAYS = """\
alpha: 0.1
walk: {kind: reverting}
interval_s: 600
load:
  - {shape: {kind: diurnal, low: 0.2, high: 1.8, peak_hour: 15, compression: 2}}
"""
SHEETS = {"L40S": (48, 24, 90.0), "H100": (80, 8, 280.0)}


def write_truth(folder: Path) -> Path:
    """Write the data directory of what the servers really are."""
    folder.mkdir(parents=True, exist_ok=True)
    files: Json = {
        "accelerator-data.json": {
            "accelerators": [
                {"name": name, "type": name, "multiplicity": 1, "cost": cost}
                for name, (_, _, cost) in SHEETS.items()
            ]
        },
        "capacity-data.json": {
            "count": [{"type": name, "count": count} for name, (_, count, _) in SHEETS.items()]
        },
        "model-data.json": {
            "models": [
                {
                    "name": model,
                    "acc": accelerator,
                    "accCount": 1,
                    "maxBatchSize": 48,
                    "atTokens": 200,
                    "perfParms": parms,
                }
                for (model, accelerator), parms in PARMS.items()
            ]
        },
        "serviceclass-data.json": {
            "serviceClasses": [
                {
                    "name": service_class,
                    "priority": 1,
                    "modelTargets": [{"model": model, "slo-itl": 80, "slo-ttft": 500}],
                }
                for model, _, service_class, _, _ in SERVERS.values()
            ]
        },
        "optimizer-data.json": {"optimizer": {"unlimited": False}},
        "server-data.json": {"servers": _servers()},
        "twin-data.json": {
            "engines": [
                {
                    "model": model,
                    "acc": accelerator,
                    "kvTokens": 100_000,
                    "tokensPerStep": TOKENS_PER_STEP.get((model, accelerator), 1.0),
                    "startUp": {"meanS": 5},
                }
                for model, accelerator in PARMS
            ],
            "servers": [
                {"name": name, "tokenCv": cv, "prefixShare": PREFIX_SHARES.get(name, 0.0)}
                for name, cv in TOKEN_CVS.items()
            ],
            "world": {"scrapeIntervalS": 60},
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "days.yaml").write_text(DAYS)
    return folder


def _servers() -> list[Json]:
    return [
        {
            "name": name,
            "class": service_class,
            "model": model,
            "currentAlloc": {
                "accelerator": accelerator,
                "numReplicas": replicas,
                "maxBatch": max_batch,
                "load": dict(
                    zip(("arrivalRate", "avgInTokens", "avgOutTokens"), LOADS[name], strict=True)
                ),
            },
        }
        for name, (model, accelerator, service_class, replicas, max_batch) in SERVERS.items()
    ]


def past(folder: Path, *, hours: float, truth: Path | None = None, seed: int = 7) -> Past:
    """Return what scrapes would have seen of the truth in *folder* over so many hours."""
    config = RunConfig(
        data=folder,
        scenario=str(folder / "days.yaml"),
        policy="static",
        hours=hours,
        truth=truth,
        seed=seed,
        engine="plain",
    )
    return past_of(config, workloads={name: f"{name}-vllm" for name in SERVERS})


def manifests() -> list[Json]:
    """Return the Deployments."""
    return [_manifest(name, *settings) for name, settings in SERVERS.items()]


def _manifest(
    name: str, model: str, accelerator: str, service_class: str, replicas: int, max_batch: int
) -> Json:
    labels = {
        names.MANAGED: "true",
        names.NAME: name,
        names.CLASS: service_class,
        names.ACCELERATOR: accelerator,
    }
    named = {names.MODEL: model}
    app = {"app": f"{name}-vllm"}
    container = {
        "name": "vllm",
        "image": "vllm/vllm-openai:v0.11.0",
        "args": ["serve", model, f"--max-num-seqs={max_batch}"],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": f"{name}-vllm",
            "namespace": NAMESPACE,
            "labels": labels if "/" in model else labels | named,
            "annotations": named if "/" in model else {},
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": app},
            "template": {
                "metadata": {"labels": app},
                "spec": {"containers": [container]},
            },
        },
    }


@dataclass(kw_only=True)
class OwnSystem:
    """Where the cluster and its Prometheus are, the truth as data, and the requests that there
    were in so many hours.
    """

    truth: Path
    hours: float
    requests: dict[str, Any]
    kubeconfig: Path
    prometheus: str
    http: httpx.Client


@contextmanager
def own_system(folder: Path, *, hours: float) -> Iterator[OwnSystem]:
    """Serve the system, whose past of so many hours ends at END_S."""
    truth = write_truth(folder / "truth")
    epoch_s = END_S - 3600.0 * hours
    before = past(truth, hours=hours)
    before.openmetrics(folder / "past.txt", epoch_s=epoch_s)
    backfill(folder, folder / "past.txt")
    spec, _ = build_cluster_spec(read_system(truth, warn=print), truth)
    with prometheus_server(folder) as server, serving_twin(spec, speed=10.0) as twin:
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        assert twin.http.post("/api/v1/namespaces", json=namespace).status_code == 201
        for manifest in manifests():
            path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
            answer = twin.http.post(path, json=manifest)
            assert answer.status_code == 201, answer.text
        kubeconfig = folder / "kubeconfig"
        write_kubeconfig(kubeconfig, twin.url, token=TOKEN)
        yield OwnSystem(
            truth=truth,
            hours=hours,
            requests=before.requests,
            kubeconfig=kubeconfig,
            prometheus=server.url,
            http=twin.http,
        )
