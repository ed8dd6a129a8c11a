"""Why a pod is not ready, as far as its status tells; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loop.types import MissingKind

Json = Mapping[str, Any]

TEXT_MAX = 300
# Reasons of a container that waits, by the beginning of their names; others pass by themselves.
_WAITING: Mapping[str, MissingKind] = {
    "ImagePull": "image",
    "ErrImage": "image",
    "InvalidImageName": "image",
    "CrashLoopBackOff": "crash",
    "RunContainerError": "crash",
    "CreateContainer": "crash",
    "StartError": "crash",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why a pod is not ready."""

    kind: MissingKind
    text: str


def trouble_of(status: Json) -> Trouble | None:
    """Return why the pod of *status* is not ready; None if it is."""
    conditions = {one.get("type"): one for one in status.get("conditions") or ()}
    if (conditions.get("Ready") or {}).get("status") == "True":
        return None
    scheduled = conditions.get("PodScheduled") or {}
    if scheduled.get("status") != "True" and not status.get("containerStatuses"):
        reason = str(scheduled.get("reason") or "")
        if reason:
            return _trouble("unschedulable", reason, scheduled.get("message"))
        return Trouble(kind="not-scheduled", text="not scheduled")
    containers = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    for one in containers:
        waiting = (one.get("state") or {}).get("waiting") or {}
        reason = str(waiting.get("reason") or "")
        for beginning, kind in _WAITING.items():
            if reason.startswith(beginning):
                return _trouble(kind, reason, _last_end(one) or waiting.get("message"))
    for one in status.get("containerStatuses") or ():
        if "running" in (one.get("state") or {}) and not one.get("ready"):
            probe = "startup" if one.get("started") is False else "readiness"
            name = str(one.get("name") or "")
            return Trouble(
                kind="probe", text=f"the {probe} probe of container {name} has not succeeded"
            )
    return Trouble(kind="starting", text="its containers start")


def _trouble(kind: MissingKind, reason: str, message: object) -> Trouble:
    text = " ".join(str(message or "").split())
    return Trouble(kind=kind, text=(f"{reason}: {text}" if text else reason)[:TEXT_MAX])


def _last_end(container: Json) -> str:
    """Return how *container* ended last, "" if it has not."""
    ended = (container.get("lastState") or {}).get("terminated") or {}
    if not ended:
        return ""
    return f"it ended with {ended.get('reason') or 'an error'} (exit code {ended.get('exitCode')})"
