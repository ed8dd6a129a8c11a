"""A cluster as the load emulator asks for it: its port over the loop's client of an API server."""

from __future__ import annotations

from collections.abc import Sequence

from emulator.to_cluster import ClusterError, Labelled, Labels
from loop.backends.kube.client import NOT_FOUND, ApiError, KubeClient

MANAGER = "inferno-emulator"


class EmulatedDeployments:
    """The managed Deployments of one API server."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    def managed(self, namespace: str) -> Sequence[Labelled]:
        """Return the managed Deployments of *namespace*, of all of them if it is empty. Raise
        ClusterError.
        """
        try:
            listed = self._client.deployments(namespace)
        except ApiError as error:
            raise ClusterError(str(error)) from error
        return [
            Labelled(
                namespace=meta["namespace"], name=meta["name"], labels=meta.get("labels") or {}
            )
            for meta in (one["metadata"] for one in listed)
        ]

    def label(self, one: Labelled, labels: Labels) -> None:
        """Give a Deployment *labels*; None takes one away. Raise ClusterError."""
        body = {"metadata": {"labels": dict(labels)}}
        try:
            self._client.patch_deployment(one.namespace, one.name, body, manager=MANAGER)
        except ApiError as error:
            raise ClusterError(str(error), gone=error.status == NOT_FOUND) from error
