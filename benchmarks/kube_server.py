"""An API server and a Prometheus of stored answers, for benchmarks: `python -m
benchmarks.kube_server DEPLOYMENTS`.

It runs in a process of its own, so that its CPU is not counted, and prints its port. Objects are
about as large as real ones (a Deployment 5 KB, a pod 7 KB, mostly what a cluster adds of its own);
each Deployment has three ready pods.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from loop.signals.names import NAMES
from tests.loop.kube_objects import deployment, pod

PODS_EACH = 3
SAMPLES = 5  # of each series within the window
SCRAPE_S = 15.0
BOUNDS = 20  # of each histogram
# The times of the samples as they stand in the stored answer; an answer has those before its query.
STAMPS = tuple(f"1000000000.00{i}" for i in range(SAMPLES))
# What clusters add: who owns which field, and the state of containers and volumes.
FILLING = [
    {
        "manager": "kube-controller-manager",
        "fieldsV1": {f"f:field{i}": {"f:inside": {}} for i in range(25)},
    }
]
TEXT = "x" * 3000


def stored(count: int) -> dict[str, bytes]:
    """Return the answers by path."""
    deployments, pods = [], []
    for i in range(count):
        name = f"dep{i}"
        filling = {"managedFields": FILLING * 2, "annotations": {"a": TEXT}}
        fields = {
            "labels": {"inferno.server.name": f"s{i}"},
            "metadata": {"managedFields": FILLING * 2, "annotations": {"a": TEXT}},
        }
        deployments.append(deployment(name, **fields))
        pods += [pod(f"pod{j}", of=name, gpus=1, metadata=filling) for j in range(PODS_EACH)]
    answers = {
        "/apis/apps/v1/namespaces/infer/deployments": {
            "kind": "DeploymentList",
            "items": deployments,
        },
        "/api/v1/namespaces/infer/pods": {"kind": "PodList", "items": pods},
        "/api/v1/query": _matrix([one["metadata"]["name"] for one in pods]),
    }
    return {path: json.dumps(answer).encode() for path, answer in answers.items()}


def buckets(query: str) -> bytes:
    """Return what came into the buckets of the pods that *query* names."""
    (found,) = re.findall(r'pod=~"([^"]*)"', query.partition(" - ")[0])
    metrics = [f"{names[0]}_bucket" for names in NAMES.histograms.values()]
    result = [
        {
            "metric": {
                "inferno_of": metric,
                "le": f"{0.1 * bound:g}" if bound < BOUNDS else "+Inf",
                "namespace": "infer",
                "pod": pod.replace("\\\\", ""),
            },
            "value": [1e9, str(bound)],
        }
        for pod in found.split("|")
        for metric in metrics
        for bound in range(1, BOUNDS + 1)
    ]
    return json.dumps(
        {"status": "success", "data": {"resultType": "vector", "result": result}}
    ).encode()


def _matrix(pods: list[str]) -> dict[str, Any]:
    """Return the samples of all metrics of *pods*, at the times STAMPS."""
    labels = {
        "namespace": "infer",
        "job": "vllm",
        "instance": "10.0.0.1:8000",
        "model_name": "llama_8b",
        "engine": "0",
    }
    result = [
        {
            "metric": {"__name__": group[0], "pod": name, **labels},
            "values": [[stamp, str(100.0 + 10 * i)] for i, stamp in enumerate(STAMPS)],
        }
        for name in pods
        for group in NAMES.by_quantity.values()
        if group
    ]
    return {"status": "success", "data": {"resultType": "matrix", "result": result}}


def fresh(answer: bytes, *, at_s: float) -> bytes:
    """Return a stored *answer* with its samples in the minute before *at_s*.

    A benchmark may run for long on a busy machine: samples of its start would be stale.
    """
    for i, stamp in enumerate(STAMPS):
        told = f"{at_s - SCRAPE_S * (SAMPLES - 1 - i):.3f}"
        answer = answer.replace(f'"{stamp}"'.encode(), told.encode())
    return answer


def main(count: int) -> None:
    """Serve until the input ends: until whoever started it is gone."""
    answers = stored(count)
    named = {
        one["metadata"]["name"]: one
        for one in json.loads(answers["/apis/apps/v1/namespaces/infer/deployments"])["items"]
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._answer(answers[self.path.partition("?")[0]])

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            query, at_s = form["query"][0], float(form["time"][0])
            wanted = "_bucket" in query
            self._answer(buckets(query) if wanted else fresh(answers[self.path], at_s=at_s))

        def do_PATCH(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            name = self.path.partition("?")[0].rpartition("/")[2]
            self._answer(json.dumps(named[name]).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _answer(self, body: bytes) -> None:
            head = (
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
                f"{len(body)}\r\n\r\n"
            )
            self.wfile.write(head.encode() + body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]))
