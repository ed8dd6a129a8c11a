"""Percentiles from Prometheus: which servers are asked for in this cycle, the query, its answer.

The buckets of all pods of a large cluster are ten times as many series as all else that is read, so
each cycle asks for those of a few pods, in turn; what was told before counts meanwhile, with its
age.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loop.backends.metrics.histograms import PodKey
from loop.signals.histograms import Buckets
from loop.signals.names import Names
from loop.signals.pods import ScrapedServer
from loop.signals.series import Track

PODS_MAX = 40  # that one cycle asks for; those of one server are asked for together
FORGET_S = 1800.0  # what is older than that is told no more
OF = "inferno_of"  # the label that names the metric

Percentiles = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Known:
    """What was last told of a server, and the time of its newest sample."""

    percentiles_ms: Percentiles
    at_s: float


class Turns:
    """Whose turn it is, and what was told before."""

    def __init__(self, *, pods_max: int = PODS_MAX) -> None:
        self._pods_max = pods_max
        self._asked_s: dict[str, float] = {}
        self._known: dict[str, Known] = {}

    def due(
        self, servers: Sequence[ScrapedServer], pods: Mapping[str, Sequence[str]], *, now_s: float
    ) -> list[ScrapedServer]:
        """Return the servers to ask for now: those asked for least lately, as far as *pods*, the
        names of the pods by server that served requests, are not too many together.
        """
        names = {one.name for one in servers}
        self._asked_s = {name: at_s for name, at_s in self._asked_s.items() if name in names}
        chosen, count = list[ScrapedServer](), 0
        for one in sorted(servers, key=lambda one: self._asked_s.get(one.name, float("-inf"))):
            more = len(pods.get(one.name, ()))
            if more and (not chosen or count + more <= self._pods_max):
                chosen.append(one)
                count += more
            if count >= self._pods_max:
                break
        self._asked_s |= {one.name: now_s for one in chosen}
        return chosen

    def learn(self, server: str, percentiles_ms: Percentiles, *, at_s: float) -> None:
        """Note what was told of a server whose turn it was; that may be nothing."""
        self._known.pop(server, None)
        if percentiles_ms:
            self._known[server] = Known(percentiles_ms, at_s)

    def known(self, server: str, *, now_s: float) -> Known | None:
        """Return what was last told of a server, None if that is nothing or long ago."""
        found = self._known.get(server)
        return found if found is not None and now_s - found.at_s <= FORGET_S else None

    def forget(self, there: Sequence[ScrapedServer]) -> None:
        """Forget servers that are not *there*."""
        names = {one.name for one in there}
        self._known = {name: of for name, of in self._known.items() if name in names}


def buckets_query(matchers: Sequence[str], by: Sequence[str], *, window_s: float) -> str:
    """Return the instant query for what came into the buckets that *matchers* match over a window,
    added up over all labels but those named in *by*. What was not there at its begin was 0.
    """
    # A difference has no name, so that of the metric becomes a label first.
    selected = f"{{{','.join(matchers)}}}"
    labels = ",".join(("__name__", "le", *by))

    def summed(offset: str) -> str:
        summed = f"sum by ({labels}) ({selected}{offset})"
        return f'label_replace({summed}, "{OF}", "$1", "__name__", "(.*)")'

    now, then = summed(""), summed(f" offset {round(1000 * window_s)}ms")
    return f"{now} - ({then} or 0 * {now})"


def read_buckets(
    answer: Mapping[str, Any], *, names: Names, pod_label: str, namespace_label: str
) -> dict[PodKey, dict[str, Buckets]]:
    """Return by how much the histograms of pods have grown, by latency, of the answer to a
    buckets_query. Raise ValueError, KeyError or TypeError where it is none.
    """
    data = answer["data"]
    if data["result"] and data["resultType"] != "vector":
        raise ValueError(f"expected a vector, found {data['resultType']}")
    meanings = names.buckets
    found: dict[tuple[str, str, str], dict[float, float]] = defaultdict(dict)
    bounds: dict[str, float] = {}
    for entry in data["result"]:
        metric = entry["metric"]
        if "value" not in entry or metric[OF] not in meanings:
            continue  # a native histogram has none
        text = metric["le"]
        bound = bounds.get(text)
        if bound is None:
            bound = bounds[text] = float(text)
        of = metric[namespace_label], metric[pod_label], metric[OF]
        found[of][bound] = float(entry["value"][1])
    pods: dict[PodKey, dict[str, tuple[int, Buckets]]] = defaultdict(dict)
    for (namespace, pod, name), grown in found.items():
        latency, rank = meanings[name]
        best = pods[namespace, pod].get(latency)
        if best is None or rank < best[0]:
            pods[namespace, pod][latency] = (rank, grown)
    return {
        pod: {latency: grown for latency, (_, grown) in of_pod.items()}
        for pod, of_pod in pods.items()
    }


def restarted(tracks: Sequence[Track]) -> bool:
    """Tell whether a process of a pod began anew within the window: what its buckets have more then
    is not what came.
    """
    return any(track.alive_s < track.times_s[-1] - track.times_s[0] for track in tracks)
