"""Who else scales a managed Deployment: autoscalers that target it, and changes that undo ours;
no I/O.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loop.backends.kube.read import Deployment, Pod, Servers, as_text, each_read
from loop.backends.kube.scheduling import selects
from loop.replacing import replace
from loop.types import Why

Json = Mapping[str, Any]

AUTOSCALERS_S = 180.0  # between two looks for autoscalers: people make few
DEPLOYMENT = "Deployment"
SCALED_OBJECT = "ScaledObject"  # of KEDA, and its annotations
PAUSED, PAUSED_AT = "autoscaling.keda.sh/paused", "autoscaling.keda.sh/paused-replicas"
REVERSALS_MAX = 3
QUIET_S = 600.0  # a server that nobody else has changed for so long is the loop's again


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscaler:
    """What scales an object of its namespace, as people call it; paused: not at present. target is
    the kind and the name of that object.
    """

    namespace: str
    target: tuple[str, str]
    title: str
    paused: bool = False


def read_autoscalers(objects: Iterable[Json], *, told: list[str]) -> list[Autoscaler]:
    """Return *objects* (HorizontalPodAutoscalers, ScaledObjects) as what they scale."""
    return list(each_read(objects, _autoscaler, kind="autoscaler", told=told))


def _autoscaler(obj: Json) -> Autoscaler:
    meta, target = obj["metadata"], obj["spec"]["scaleTargetRef"]
    scaled = obj.get("kind") == SCALED_OBJECT
    # A ScaledObject that names no kind means a Deployment.
    target_kind = as_text(target.get("kind", DEPLOYMENT if scaled else ""))
    kind, name, paused = "HorizontalPodAutoscaler", meta["name"], False
    if scaled:
        annotations = meta.get("annotations") or {}
        kind = SCALED_OBJECT
        paused = str(annotations.get(PAUSED) or "").lower() == "true" or PAUSED_AT in annotations
    for owner in meta.get("ownerReferences") or ():
        if owner.get("kind") == SCALED_OBJECT:
            kind, name = SCALED_OBJECT, owner.get("name")
    space = as_text(meta["namespace"])
    title = f"{kind} {space}/{name}"
    of = (target_kind, as_text(target["name"]))
    return Autoscaler(namespace=space, target=of, title=title, paused=paused)


def rival_notes(deployments: Sequence[Deployment], found: Iterable[Autoscaler]) -> list[str]:
    """Return a line for each of *deployments* that something else looks after, and for each
    autoscaler that targets it or that.
    """
    by_target: dict[tuple[str, tuple[str, str]], list[Autoscaler]] = defaultdict(list)
    for one in found:
        by_target[one.namespace, one.target].append(one)
    lines = [
        f"{one.server}: {kind} {one.namespace}/{name} has made it, and may undo what is asked of "
        "it: if it does, set the replicas there"
        for one in deployments
        if one.maker
        for kind, name in [one.maker]
    ]
    lines += [
        f"{one.server}: {other.title} "
        + (
            "is paused: as soon as it goes on, it scales it too; delete one of them"
            if other.paused
            else "scales it too: each undoes what the other does; delete one of them"
        )
        for one in deployments
        for target in filter(None, ((DEPLOYMENT, one.name), one.maker))
        for other in by_target[one.namespace, target]
    ]
    return list(dict.fromkeys(lines))


def taken_over_notes(servers: Servers) -> list[str]:
    """Return a line for each server without pods where those that its selector matches are of
    another controller, which may have taken its template over (a Rollout of Argo).
    """
    spaces: dict[str, list[Pod]] = defaultdict(list)
    for pod in servers.unowned:
        if pod.others:
            spaces[pod.namespace].append(pod)
    lines = []
    for name, server in servers.by_name.items():
        if server.pods or not spaces:
            continue
        one = server.deployment
        if any(selects(one.selector, pod.labels) for pod in spaces[one.namespace]):
            # A line that names pods would be told anew whenever they change.
            lines.append(
                f"{name}: it has no pods, and those that its selector matches are of another "
                "controller (a Rollout?): what these do is not counted"
            )
    return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """How often in a row somebody else undid what was asked of a server, and when last [s of the
    run]; ours: the latest change is the loop's. status: the note of the Deployment on what was
    asked that was undone.
    """

    undone: int = 0
    last_s: float = 0.0
    ours: bool = False
    by: str = ""
    status: str = ""


class Rivals:
    """Steps back from a server that somebody else has changed back REVERSALS_MAX times in a row,
    until it is left alone for QUIET_S.
    """

    def __init__(self) -> None:
        self._contests: dict[str, Contest] = {}

    def contest(self, server: str) -> Contest:
        """Return what is known of the contest on *server*."""
        return self._contests.get(server, Contest())

    def asked(self, server: str) -> None:
        """Note that the loop has changed *server*."""
        self._contests[server] = replace(self.contest(server), ours=True)

    def begin(self, server: str, before: Contest) -> None:
        """Note what was known of the contest on *server* *before*, if nothing is known of it here:
        for a loop that has just begun.
        """
        if before.undone:
            self._contests.setdefault(server, before)

    def changed(self, server: str, *, by: str, now_s: float, status: str = "") -> None:
        """Note that somebody else has changed *server*; several changes of theirs in a row undo
        ours once.

        *status* is the Deployment's note on what was last asked, by whichever process of the loop.
        """
        known = self.contest(server)
        undone = 0 if now_s - known.last_s >= QUIET_S else known.undone
        ours = known.ours or (bool(status) and status != known.status)
        self._contests[server] = Contest(
            undone=undone + int(ours), last_s=now_s, by=by, status=status
        )

    def hold(self, server: str, *, now_s: float) -> Why | None:
        """Return why nothing is to be asked of *server*, None if it may be."""
        contest = self.contest(server)
        quiet_s = max(0.0, now_s - contest.last_s)
        if contest.undone < REVERSALS_MAX or quiet_s >= QUIET_S:
            return None
        return Why(
            kind="rival",
            text=(
                f"{contest.by} has changed it back {contest.undone} times in a row; left to them "
                f"until nobody else has changed it for {QUIET_S:g} s, {quiet_s:.0f} s so far "
                "(--contest goes on)"
            ),
        )

    def forget(self, servers: Iterable[str], *, now_s: float) -> None:
        """Keep what is known of *servers*, and of others as long as it counts: who deletes and
        makes anew takes a moment.
        """
        kept = set(servers)
        self._contests = {
            name: one
            for name, one in self._contests.items()
            if name in kept or now_s - one.last_s < QUIET_S
        }
