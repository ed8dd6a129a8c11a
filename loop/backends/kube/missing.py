"""Replicas that are wanted and do not come: how many, since when, and why as far as the objects
tell; pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loop.types import Missing, MissingKind

if TYPE_CHECKING:
    from loop.backends.kube.read import Server

Json = Mapping[str, Any]

TEXT_MAX = 300
# A pod may be unschedulable for a moment while another one ends, and a large model loads for
# minutes: nobody is to be told of that.
TOLD_S, TOLD_STARTING_S = 30.0, 300.0
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


def missing_of(server: Server, *, now_s: float, give_up_s: float) -> Missing | None:
    """Return the replicas of *server* that are wanted and not ready at *now_s*, with the reason
    that most of them have; None if there are none.
    """
    one = server.deployment
    late = [pod for pod in server.pods if pod.phase in ("starting", "pending")]
    ready = server.count("ready")
    count = one.wanted - ready
    if count <= 0:
        return None
    found = [
        (pod.trouble or Trouble(kind="starting", text="its containers start"), pod.unready_s)
        for pod in late
    ]
    if not found:
        # Nothing says when the last pod should have been made.
        return Missing(
            count=count,
            wanted=one.wanted,
            waited_s=0.0,
            kind="not-made",
            text=one.replica_failure or "the cluster has not made their pods",
        )
    most, _ = Counter(trouble.kind for trouble, _ in found).most_common(1)[0]
    text = next(trouble.text for trouble, _ in found if trouble.kind == most)
    waited_s = max(now_s - since_s for trouble, since_s in found if trouble.kind == most)
    given_up = sum(now_s - since_s >= give_up_s for _, since_s in found)
    return Missing(
        count=count,
        wanted=one.wanted,
        waited_s=max(0.0, waited_s),
        kind=most,
        text=text,
        given_up=min(given_up, count),
    )


def is_told(missing: Missing) -> bool:
    """Tell whether people should hear of *missing*: it has not passed by itself."""
    passes = missing.kind in ("starting", "probe", "not-scheduled")
    if missing.kind == "not-made":
        return missing.text != "the cluster has not made their pods"
    return missing.waited_s >= (TOLD_STARTING_S if passes else TOLD_S)


def missing_line(missing: Missing) -> str:
    """Return *missing* as people are told of it."""
    return (
        f"{missing.count} of {missing.wanted} not ready for {missing.waited_s:.0f} s: "
        f"{missing.text}"
    )


def _trouble(kind: MissingKind, reason: str, message: object) -> Trouble:
    text = " ".join(str(message or "").split())
    return Trouble(kind=kind, text=(f"{reason}: {text}" if text else reason)[:TEXT_MAX])


def _last_end(container: Json) -> str:
    """Return how *container* ended last, "" if it has not."""
    ended = (container.get("lastState") or {}).get("terminated") or {}
    if not ended:
        return ""
    return f"it ended with {ended.get('reason') or 'an error'} (exit code {ended.get('exitCode')})"
