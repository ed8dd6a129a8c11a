"""Why a pod is not ready, as far as its status tells; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from loop.replacing import replace
from loop.types import MissingKind

Json = Mapping[str, Any]

TEXT_MAX = 300
# Reasons of a container that waits, by the beginning of their names.
_WAITING: Mapping[str, MissingKind] = {
    "Image": "image",
    "ErrImage": "image",
    "InvalidImageName": "image",
    "RegistryUnavailable": "image",
    "SignatureValidation": "image",
    "CrashLoopBackOff": "crash",
    "RunContainerError": "crash",
    "CreateContainer": "crash",
    "StartError": "crash",
    "PreCreateHook": "crash",
    "PreStartHook": "crash",
    "PostStartHook": "crash",
}
# These pass by themselves. What else a container may wait for is told by its name.
_STARTING = frozenset({"", "ContainerCreating", "PodInitializing"})
# What a scheduler says that a pod waits for: so much of a resource, devices by claims, or of HAMi,
# whose reasons are single words (NodeInsufficientDevice); and what is no device. Any other resource
# may be GPUs, whatever they are called. Nodes that do not fit (selectors, taints) may be all that
# have GPUs.
_TOO_FEW = re.compile(r"Insufficient ([^\s,]+?)[.,]*(?:\s|$)")
_NO_GPUS = re.compile(
    r"cpu|memory|(?:ephemeral-)?storage|hugepages-.+|pods"
    r"|rdma/.+|.+/(?:rdma|sriov|efa)[^/]*|networking\.gke\.io.+"
)
_DEVICES = re.compile(r"resourceclaim|all claims|\d (?:[A-Z][a-z]+){2,}\b")
_NO_DEVICE = re.compile(
    r"Too many pods|PersistentVolume|volume|free ports|pod (?:anti-)?affinity"
    r"|anti-affinity|topology spread",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why a pod is not ready. lacks_gpus: of a pod that no node takes, whether that may be for want
    of GPUs.
    """

    kind: MissingKind
    text: str
    lacks_gpus: bool = False


def trouble_of(status: Json) -> Trouble | None:
    """Return why the pod of *status* is not ready; None if it is."""
    conditions = {one.get("type"): one for one in status.get("conditions") or ()}
    if (conditions.get("Ready") or {}).get("status") == "True":
        return None
    scheduled = conditions.get("PodScheduled") or {}
    if scheduled.get("status") != "True" and not status.get("containerStatuses"):
        reason = str(scheduled.get("reason") or "")
        if reason:
            message = str(scheduled.get("message") or "")
            found = _trouble("unschedulable", reason, message)
            return replace(found, lacks_gpus=_lacks_gpus(reason, message))
        return Trouble(kind="not-scheduled", text="not scheduled")
    ready = conditions.get("Ready") or {}
    if ready.get("status") == "Unknown" or ready.get("reason") == "NodeNotReady":
        reason = str(ready.get("reason") or "")
        return _trouble("node", reason or "its node does not tell", ready.get("message"))
    before, beside = status.get("initContainerStatuses") or (), status.get("containerStatuses")
    for one in (*before, *(beside or ())):
        waiting = (one.get("state") or {}).get("waiting") or {}
        reason = str(waiting.get("reason") or "")
        for beginning, kind in _WAITING.items():
            if reason.startswith(beginning):
                return _trouble(kind, reason, _last_end(one) or waiting.get("message"))
        if reason not in _STARTING:
            return _trouble("starting", reason, waiting.get("message"))
        ended = (one.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode") or (ended and one not in before):
            return Trouble(kind="crash", text=f"container {one.get('name')}: {_end(ended)}")
    for one in before:
        if "running" in (one.get("state") or {}) and not one.get("started"):
            return Trouble(kind="starting", text=f"its init container {one.get('name')} runs")
    for one in beside or ():
        if "running" in (one.get("state") or {}) and not one.get("ready"):
            probe = "startup" if one.get("started") is False else "readiness"
            name = str(one.get("name") or "")
            if probe == "readiness" and _was_ready(ready, one):
                text = f"they were ready, and the readiness probe of container {name} fails"
                return Trouble(kind="unready", text=text)
            return Trouble(
                kind="probe", text=f"the {probe} probe of container {name} has not succeeded"
            )
    if str(ready.get("reason") or "").startswith("ReadinessGates"):
        return _trouble("probe", str(ready["reason"]), ready.get("message"))
    return Trouble(kind="starting", text="its containers start")


def _lacks_gpus(reason: str, message: str) -> bool:
    """Tell whether a pod that is not scheduled may wait for GPUs."""
    if reason != "Unschedulable":
        return False  # somebody else keeps it back: gates, an error
    lacking = _TOO_FEW.findall(message)
    if _DEVICES.search(message) or not all(map(_NO_GPUS.fullmatch, lacking)):
        return True
    return not (lacking or _NO_DEVICE.search(message))


def _was_ready(ready: Json, container: Json) -> bool:
    """Tell whether a pod was ready in the life of its *container*: its condition *ready* has
    changed since that began.
    """
    since, began = ready.get("lastTransitionTime"), container["state"]["running"].get("startedAt")
    if not since or not began:
        return False
    return datetime.fromisoformat(since) > datetime.fromisoformat(began)


def _trouble(kind: MissingKind, reason: str, message: object) -> Trouble:
    text = " ".join(str(message or "").split())
    return Trouble(kind=kind, text=(f"{reason}: {text}" if text else reason)[:TEXT_MAX])


def _last_end(container: Json) -> str:
    """Return how *container* ended last, "" if it has not."""
    ended = (container.get("lastState") or {}).get("terminated") or {}
    return _end(ended) if ended else ""


def _end(ended: Json) -> str:
    return f"it ended with {ended.get('reason') or 'an error'} (exit code {ended.get('exitCode')})"
