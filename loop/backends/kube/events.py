"""The Event that tells of a change, as `kubectl describe` shows it; pure."""

from __future__ import annotations

from typing import Any

from loop.backends.kube.read import Deployment
from loop.backends.kube.write import MANAGER, held_by, pool_text
from loop.types import Pool

MESSAGE_MAX = 1000  # a server refuses longer ones


def change_event(
    deployment: Deployment, desired: Pool, *, reason: str, date: str
) -> dict[str, Any]:
    """Return the Event of *deployment* having been asked to become *desired*."""
    message = f"Asked for {pool_text(desired)} instead of {pool_text(held_by(deployment))}" + (
        f": {reason}" if reason else ""
    )
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{deployment.name}.", "namespace": deployment.namespace},
        "involvedObject": {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "namespace": deployment.namespace,
            "name": deployment.name,
            "uid": deployment.uid,
            "resourceVersion": deployment.version,
        },
        "type": "Normal",
        "reason": "InfernoAllocation",
        "message": message[:MESSAGE_MAX],
        "source": {"component": MANAGER},
        "reportingComponent": MANAGER,
        "firstTimestamp": date,
        "lastTimestamp": date,
        "count": 1,
    }
