"""A twin as a cluster without HTTP: its clock is moved by hand, its API server is asked
directly.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from loop.backends.kube.arguments import batch_size
from twin.kube.apiserver.errors import ApiError
from twin.kube.apiserver.server import Call, Reply
from twin.kube.cluster import TwinCluster
from twin.kube.faults import Fault
from twin.spec import ClusterSpec, Delay, Server
from twin.testing.worlds import spec_of

Json = dict[str, Any]
START = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = spec_of(
    Server(name="template", model="m"), capacity={"A": 12, "B": 4}, start_up=Delay(mean_s=60.0)
)


class Client:
    """A twin at which one asks for things and lets time pass."""

    def __init__(
        self, spec: ClusterSpec = SPEC, *, faults: Sequence[Fault] = (), speed: float = 1.0
    ) -> None:
        self.time_s = 0.0
        self.twin = TwinCluster(
            spec,
            clock=lambda: self.time_s,
            start=START,
            batch_of=batch_size,
            faults=faults,
            speed=speed,
        )
        self.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "infer"}})
        self.until(0.0)

    def until(self, time_s: float) -> None:
        """Let the time come when it is *time_s*."""
        self.time_s = time_s
        while not self.twin.advance():
            pass
        # Garbage of one round is collected in the next.
        self.twin.advance()

    def reply(
        self, method: str, path: str, body: Any = None, *, media_type: str = "", **query: str
    ) -> Reply:
        """Ask the API server."""
        headers = {"content-type": media_type or "application/json"}
        data = b"" if body is None else json.dumps(body).encode()
        return self.twin.server.answer(
            Call(method=method, path=path, query=query, headers=headers, body=data)
        )

    def ask(
        self, method: str, path: str, body: Any = None, *, media_type: str = "", **query: str
    ) -> Json:
        """Ask the API server for JSON."""
        answer = self.reply(method, path, body, media_type=media_type, **query).body
        assert answer is not None, f"{path} answers something else"
        return answer

    def refusal(self, method: str, path: str, body: Any = None, **options: str) -> tuple[int, str]:
        """Ask for what is refused; return code and reason."""
        with pytest.raises(ApiError) as error:
            self.ask(method, path, body, **options)
        return error.value.code, error.value.reason

    # -- what tests ask for

    def apply(self, manifest: Json) -> Json:
        """Create a Deployment in infer."""
        return self.ask("POST", "/apis/apps/v1/namespaces/infer/deployments", manifest)

    def patch(self, name: str, body: Any) -> Json:
        """Merge *body* into a Deployment."""
        path = f"/apis/apps/v1/namespaces/infer/deployments/{name}"
        return self.ask("PATCH", path, body, media_type="application/merge-patch+json")

    def deployment(self, name: str = "dep") -> Json:
        """Return a Deployment."""
        return self.ask("GET", f"/apis/apps/v1/namespaces/infer/deployments/{name}")

    def pods(self, **query: str) -> list[Json]:
        """Return the pods of infer, by age."""
        items = self.ask("GET", "/api/v1/namespaces/infer/pods", **query)["items"]
        return sorted(items, key=lambda pod: int(pod["metadata"]["resourceVersion"]))

    def words(self) -> list[str]:
        """Return what kubectl would show as STATUS and READY of the pods, sorted."""
        headers = {"accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
        call = Call(
            method="GET", path="/api/v1/namespaces/infer/pods", query={}, headers=headers, body=b""
        )
        table = self.twin.server.answer(call).body
        assert table is not None
        return sorted(f"{row['cells'][2]} {row['cells'][1]}" for row in table["rows"])

    def replica_sets(self) -> list[Json]:
        """Return the ReplicaSets of infer."""
        return list(self.ask("GET", "/apis/apps/v1/namespaces/infer/replicasets")["items"])

    def events(self, **query: str) -> list[tuple[str, str, str]]:
        """Return kind and reason of the events of infer, and whether they warn."""
        items = self.ask("GET", "/api/v1/namespaces/infer/events", **query)["items"]
        return sorted(
            (each["involvedObject"]["kind"], each["reason"], each["type"]) for each in items
        )

    def gpus(self, type_: str = "A") -> int:
        """Return the GPUs of a type that pods hold, by their limits and nodes."""
        held = 0
        for pod in self.pods():
            node = pod["spec"].get("nodeName", "")
            if node.startswith(f"{type_.lower()}-"):
                held += int(pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        return held


def call(path: str, *, accept: str = "application/json", **query: str) -> Call:
    """Return a GET."""
    return Call(method="GET", path=path, query=query, headers={"accept": accept}, body=b"")


def managed(
    name: str = "dep",
    *,
    replicas: int = 1,
    labels: Json | None = None,
    template: Json | None = None,
) -> Json:
    """Return a Deployment of model m on A with batch 4, without load."""
    told = {
        "inferno.server.managed": "true",
        "inferno.server.name": name,
        "inferno.server.model": "m",
        "inferno.server.allocation.accelerator": "A",
        "inferno.server.allocation.maxbatchsize": "4",
        **(labels or {}),
    }
    return {
        "metadata": {
            "name": name,
            "labels": {key: value for key, value in told.items() if value is not None},
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "vllm", "image": "vllm:1"}], **(template or {})},
            },
        },
    }
