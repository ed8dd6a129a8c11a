"""Pods of other clusters, which one store of metrics shows beside ours: named as pods of ours are
that have gone; pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from loop.backends.metrics.answers import PodKey
from loop.signals.pods import ScrapedServer
from loop.signals.processes import Series
from loop.signals.together import labels_of

# What stores call the cluster of a series.
CLUSTER_LABELS = frozenset(
    {"cluster", "cluster_name", "cluster_id", "clusterName", "k8s_cluster", "k8s_cluster_name"}
    | {"kubernetes_cluster", "kubernetes_cluster_name", "source_cluster"}
)
# A pod that is not in the list of its cluster is scraped no more, but for a moment.
GONE_S = 45.0


class ForeignPods:
    """Tells pods that are not of this cluster from those that have gone: by a label of the cluster,
    or by samples of a time at which they were not in its list any more.
    """

    def __init__(self) -> None:
        self._missed_s: dict[PodKey, float] = {}  # since when it was not in the list
        self.of_server: Mapping[str, frozenset[str]] = {}  # the pods that were left out last

    def leave_out(
        self,
        by_server: Mapping[str, dict[str, Sequence[Series]]],
        servers: Iterable[ScrapedServer],
        *,
        now_s: float,
    ) -> list[str]:
        """Take foreign pods out of the series *by_server* and pod; return what is to be told of
        them, once as long as they are there.
        """
        missed_s: dict[PodKey, float] = {}
        before, foreign, lines = self.of_server, dict[str, frozenset[str]](), []
        for one in servers:
            shown = by_server[one.name]
            listed = {pod.name for pod in one.pods}
            missing = sorted(shown.keys() - listed)
            if not missing:
                continue
            ours = _clusters(of for pod, of in shown.items() if pod in listed)
            found = []
            for pod in missing:
                key = (one.namespace, pod)
                missed_s[key] = self._missed_s.get(key, now_s)
                goes_on = _newest_s(shown[pod]) > missed_s[key] + GONE_S
                if goes_on or _is_elsewhere(shown[pod], ours):
                    found.append(pod)
                    del shown[pod]
            if found:
                foreign[one.name] = frozenset(found)
            if found and one.name not in before:
                more = f" and {len(found) - 1} more" if len(found) > 1 else ""
                lines.append(
                    f"{one.name}: series of pods that this cluster does not have are left out "
                    f"({found[0]}{more}): another cluster's? --matchers says which are ours"
                )
        self._missed_s, self.of_server = missed_s, foreign
        return lines


def _clusters(pods: Iterable[Sequence[Series]]) -> Mapping[str, set[str]]:
    """Return by which values of which labels *pods* name their cluster."""
    found: dict[str, set[str]] = defaultdict(set)
    for of in pods:
        # Most series of a pod share their labels; of one whose cluster was given another name
        # within the window, some have the name of before.
        for labels in {id(labels): labels for labels in labels_of(of)}.values():
            for label, value in labels:
                if label in CLUSTER_LABELS:
                    found[label].add(value)
    return found


def _is_elsewhere(pod: Sequence[Series], ours: Mapping[str, set[str]]) -> bool:
    told = _clusters([pod])
    return any(label in ours and told[label].isdisjoint(ours[label]) for label in told)


def _newest_s(pod: Sequence[Series]) -> float:
    return next((one.points[-1][0] for one in pod if one.points), float("-inf"))
