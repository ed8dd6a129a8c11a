"""Pods that somebody made by hand: they come up on the plain node, do nothing, and end when they
are told to.
"""

from __future__ import annotations

from twin.kube.apiserver.commits import Commits
from twin.kube.apiserver.objects import Json, name_of, namespace_of
from twin.kube.apiserver.resources import PODS
from twin.kube.apiserver.store import Change
from twin.kube.nodes import PLAIN_NODE
from twin.kube.podobjects import PodFacts, with_state
from twin.kube.standins import END_S, START_S
from twin.serving.pod import PodPhase


class BarePods:
    """The pods of a store that no ReplicaSet owns."""

    def __init__(self, commits: Commits) -> None:
        self._commits = commits
        self._born: dict[tuple[str, str], float] = {}
        self._told: dict[tuple[str, str], float] = {}
        self._new: list[Json] = []
        self._going: list[Json] = []
        commits.store.listeners.append(self._note)

    def sync(self, now_s: float) -> None:
        """Bring every such pod to its phase at *now_s*."""
        for pod in self._new:
            self._born[namespace_of(pod), name_of(pod)] = now_s
        for pod in self._going:
            self._told.setdefault((namespace_of(pod), name_of(pod)), now_s)
        self._new, self._going = [], []
        for place, born_s in tuple(self._born.items()):
            self._show(place, born_s, now_s)

    def _note(self, change: Change) -> None:
        if change.resource is not PODS or change.new["metadata"].get("ownerReferences"):
            return
        if change.type == "ADDED":
            self._new.append(change.new)
        elif change.type == "MODIFIED" and "deletionTimestamp" in change.new["metadata"]:
            self._going.append(change.new)

    def _show(self, place: tuple[str, str], born_s: float, now_s: float) -> None:
        pod = self._commits.store.get(PODS, *place)
        told_s = self._told.get(place)
        if pod is None or (told_s is not None and now_s >= told_s + END_S):
            del self._born[place]
            self._told.pop(place, None)
            if pod is not None:
                self._commits.remove(PODS, pod)
            return
        up = now_s >= born_s + START_S
        phase: PodPhase = "ready" if up else "starting"
        facts = PodFacts(
            name=place[1],
            namespace=place[0],
            phase=phase,
            created=up,
            entered=self._commits.dates.text_at(born_s),
            node=PLAIN_NODE,
        )
        self._commits.change(PODS, pod, with_state(pod, facts))
