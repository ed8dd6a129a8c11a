"""What Prometheus told of each server when its load was known last, for the time in which it tells
too little again: what came meanwhile is what counters have grown by since. A burst behind an outage
is no rate, and a Prometheus may have lost what it had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from loop.signals.processes import Labels, Series

if TYPE_CHECKING:
    from loop.signals.demand import Figures, WindowSettings
    from loop.signals.pods import ScrapedServer
    from loop.signals.series import Track

GAP_WINDOWS_MAX = 5  # a sample that is older than so many windows tells nothing of this one
Pods = Mapping[str, Sequence[Series]]


class _Known(NamedTuple):
    """The series of the pods of a server, the newest sample of them at newest_s [s of the run]; of
    these pods the *ready* ones.
    """

    newest_s: float
    pods: Pods
    ready: frozenset[str]


class Gaps:
    """Remembers the latest samples of each server of which the load was known."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def learn(
        self,
        servers: Iterable[ScrapedServer],
        found: Mapping[str, Figures],
        by_server: Mapping[str, Pods],
        *,
        now_s: float,
    ) -> None:
        """Keep the series of those of *servers* whose load is *found* by their window alone; forget
        who is not there.
        """
        kept: dict[str, _Known] = {}
        for server in servers:
            one, known = found[server.name], self._known.get(server.name)
            if one.load is not None and one.age_s is not None:
                known = _Known(now_s - one.age_s, by_server[server.name], _ready(server))
            if known is not None:
                kept[server.name] = known
        self._known = kept

    def over(
        self,
        server: ScrapedServer,
        found: Figures,
        tracks: Iterable[Sequence[Track]],
        pods: Pods,
        *,
        window: WindowSettings,
        now_s: float,
    ) -> tuple[float, dict[str, list[Series]]] | None:
        """Return how far back the gap reaches, and *pods* with the last samples before it; None if
        nothing is missing between, or if that is too long ago.

        *found* and *tracks* are what the *window* tells of *server*: it is too little, and the pods
        are the same. What came to one that has gone since, and what one began with, nobody knows.
        """
        known = self._known.get(server.name)
        if known is None or found.load is not None or found.age_s is None:
            return None
        heard_s = max((track.alive_s for of_pod in tracks for track in of_pod), default=0.0)
        same = _ready(server) == known.ready and all(
            pod.since_s <= known.newest_s for pod in server.pods if pod.name in known.ready
        )
        if not same or heard_s >= window.heard_s_min or found.age_s > window.stale_s:
            return None
        begin_s = known.newest_s - window.heard_s_min
        reach_s = max(now_s - begin_s, window.window_s)
        if reach_s > GAP_WINDOWS_MAX * window.window_s:
            return None
        names = known.pods.keys() | pods.keys()
        return reach_s, {
            pod: _joined(known.pods.get(pod, ()), pods.get(pod, ()), begin_s=begin_s)
            for pod in sorted(names)
        }


def _ready(server: ScrapedServer) -> frozenset[str]:
    return frozenset(pod.name for pod in server.pods if pod.phase == "ready")


def _joined(before: Sequence[Series], now: Sequence[Series], *, begin_s: float) -> list[Series]:
    """Return the series of one pod, of those *before* the samples after *begin_s*."""
    points = {
        (one.metric, one.labels): [point for point in one.points if point[0] > begin_s]
        for one in before
    }
    for one in now:
        old = points.setdefault((one.metric, one.labels), [])
        first_s = one.points[0][0] if one.points else 0.0
        points[one.metric, one.labels] = [p for p in old if p[0] < first_s] + list(one.points)
    found: list[tuple[tuple[str, Labels], list[tuple[float, float]]]] = list(points.items())
    return [Series(metric, labels, told) for (metric, labels), told in found if told]
