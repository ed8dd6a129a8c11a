"""A cluster that may be tried out, twin or real, and what the questions of the contract have in
common.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from kubernetes import client

Json = dict[str, Any]
DEADLINE_S = 30.0
PATCH_TYPES = {
    "strategic": "application/strategic-merge-patch+json",
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}


@dataclass(frozen=True, kw_only=True)
class ClusterUnderTest:
    """A cluster that may be tried out: the official client and a raw one, both as an administrator,
    and a namespace.

    *anonymous* sends no credentials of its own: on a real server a client certificate would win
    over the token of a test. compacted: its history does not reach back to the first version.
    """

    api: client.ApiClient
    http: httpx.Client
    anonymous: httpx.Client
    namespace: str
    compacted: bool

    @property
    def apps(self) -> client.AppsV1Api:
        """Return the client of Deployments and ReplicaSets."""
        return client.AppsV1Api(self.api)

    @property
    def core(self) -> client.CoreV1Api:
        """Return the client of Pods, Namespaces and the like."""
        return client.CoreV1Api(self.api)

    @property
    def deployments(self) -> str:
        """Return the path of the Deployments of the namespace."""
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments"

    def create(self, body: Json) -> Json:
        """Create a Deployment."""
        answer = self.http.post(self.deployments, json=body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def read(self, name: str) -> Json:
        """Return a Deployment."""
        answer = self.http.get(f"{self.deployments}/{name}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def patch(
        self, name: str, body: Any, *, kind: str = "merge", part: str = "", **query: str
    ) -> httpx.Response:
        """Patch a Deployment or a part of it."""
        path = f"{self.deployments}/{name}{part}"
        headers = {"Content-Type": PATCH_TYPES[kind]}
        return self.http.patch(path, content=json.dumps(body), headers=headers, params=query)

    def list(self, **query: str) -> httpx.Response:
        """List the Deployments of the namespace."""
        return self.http.get(self.deployments, params=query)


def deployment(
    name: str, *, labels: Json | None = None, replicas: int | None = 0, **spec: Any
) -> Json:
    """Return a Deployment that asks for nothing that a cluster might not have."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"contract": name, **(labels or {})}},
        "spec": {
            **({} if replicas is None else {"replicas": replicas}),
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "main", "image": "registry.k8s.io/pause:3.10"}]},
            },
            **spec,
        },
    }


def names(answer: httpx.Response) -> list[str]:
    """Return the names in a list."""
    assert answer.status_code == 200, answer.text
    return [item["metadata"]["name"] for item in answer.json()["items"]]


def refused(answer: httpx.Response, code: int, reason: str) -> Json:
    """Check that *answer* is a Status of *code* and *reason*, and return it."""
    status = answer.json()
    found = (
        answer.status_code,
        status.get("kind"),
        status.get("status"),
        status.get("code"),
        status.get("reason"),
    )
    assert found == (code, "Status", "Failure", code, reason), answer.text
    return dict(status)


def settle(cluster: ClusterUnderTest, name: str) -> Json:
    """Wait until the controllers have taken note of a Deployment and write nothing more of it;
    return it.
    """

    def settled() -> Json | None:
        found = cluster.read(name)
        status = found.get("status", {})
        known = status.get("observedGeneration", 0) >= found["metadata"]["generation"]
        done = "Progressing" in [each["type"] for each in status.get("conditions", [])]
        time.sleep(0.1)
        return found if known and done and cluster.read(name) == found else None

    return dict(eventually(settled, f"the status of {name}"))


def eventually(attempt: Any, what: str) -> Any:
    """Return what *attempt* returns as soon as that is something, at most until the deadline."""
    end_s = time.monotonic() + DEADLINE_S
    while not (found := attempt()):
        assert time.monotonic() < end_s, f"waited {DEADLINE_S:g} s in vain: {what}"
        time.sleep(0.05)
    return found


def events_of(
    cluster: ClusterUnderTest, *, until: str = "", **query: str
) -> Iterator[tuple[str, Json]]:
    """Yield the events of a watch until it ends, or until one of type *until* has come."""
    query = {"watch": "true", "timeoutSeconds": "10", **query}
    with cluster.http.stream("GET", cluster.deployments, params=query) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            event = json.loads(line)
            yield event["type"], event["object"]
            if event["type"] == until:
                return


def service_token(cluster: ClusterUnderTest, name: str) -> str:
    """Make a ServiceAccount; return a token of it."""
    cluster.core.create_namespaced_service_account(cluster.namespace, {"metadata": {"name": name}})
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 600, "audiences": []},
    }
    path = f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts/{name}/token"
    answer = cluster.http.post(path, json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["status"]["token"])
