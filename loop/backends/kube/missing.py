"""Replicas that are wanted and do not come: how many, since when, and why; and pods that should
have gone; pure.
"""

from __future__ import annotations

from collections import Counter

from loop.backends.kube.read import Server, unix_s
from loop.backends.kube.trouble import Trouble
from loop.types import Missing

# A pod may be unschedulable for a moment while another one ends, and a large model loads for
# minutes: nobody is to be told of that.
TOLD_S, TOLD_STARTING_S = 30.0, 300.0
# After its grace period a pod has had all its time to end; unmapping GPUs takes some more.
ENDING_S = 300.0
PODS_NAMED = 3


def missing_of(
    server: Server,
    *,
    now_s: float,
    give_up_s: float,
    epoch_s: float = 0.0,
    unmade_since_s: float | None = None,
) -> Missing | None:
    """Return the replicas of *server* that are wanted and not ready at *now_s*, with the reason
    that most of them have; None if there are none. *epoch_s* is the date of second 0 [Unix time];
    *unmade_since_s* is when the cluster was first seen to have made fewer pods than are wanted.
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
    if one.replica_failure:
        # There are no pods to ask: a quota or a webhook refuses them.
        since = one.replica_failure_since
        refused = (
            Trouble(kind="not-made", text=one.replica_failure),
            unix_s(since) - epoch_s if since else now_s,
        )
        found += [refused] * (count - len(late))
    if not found:
        waited_s = 0.0 if unmade_since_s is None else now_s - unmade_since_s
        return Missing(
            count=count,
            wanted=one.wanted,
            waited_s=waited_s,
            kind="not-yet",
            text="the cluster has not made their pods",
            given_up=count if waited_s >= give_up_s else 0,
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


def unmade(server: Server) -> bool:
    """Tell whether the cluster has made fewer pods of *server* than are wanted."""
    return len(server.pods) - server.count("draining") < server.deployment.wanted


def is_told(missing: Missing) -> bool:
    """Tell whether people should hear of *missing*: it has not passed by itself."""
    if missing.kind == "not-made":
        return True
    passes = missing.kind in ("starting", "probe", "not-scheduled", "not-yet")
    return missing.waited_s >= (TOLD_STARTING_S if passes else TOLD_S)


def missing_line(missing: Missing) -> str:
    """Return *missing* as people are told of it."""
    return (
        f"{missing.count} of {missing.wanted} not ready for {missing.waited_s:.0f} s: "
        f"{missing.text}"
    )


def ending_note(server: Server, *, now_s: float) -> str:
    """Return what to say of pods that should have ended long ago, "" if there are none."""
    stuck = [
        pod.name for pod in server.pods if pod.end_s is not None and now_s - pod.end_s > ENDING_S
    ]
    if not stuck:
        return ""
    more = ", …" if len(stuck) > PODS_NAMED else ""
    noun, have = ("pod", "has") if len(stuck) == 1 else ("pods", "have")
    return (
        f"{server.name}: {len(stuck)} {noun} should have ended and {have} not "
        f"({', '.join(sorted(stuck)[:PODS_NAMED])}{more}): is the node lost, or does a finalizer "
        "keep it? Till then it may hold its GPUs"
    )
