"""How far back the figures of each server have to look, by how often its pods are scraped.

Two samples of a pod are the least that tells a rate. The window that was asked for holds them where
scrapes are frequent; a Prometheus that nobody has told otherwise scrapes once a minute.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median

from loop.replacing import replace
from loop.signals.demand import WindowSettings
from loop.signals.pods import ScrapedServer
from loop.signals.processes import Series
from loop.signals.series import Track

WIDEST_S = 1500.0  # so far back it is looked for the interval between two scrapes
SCRAPES_MIN = 2.5  # how many of these a window has to hold for two samples at any time
STALE_SCRAPES = 2.0  # a sample is of use until the second scrape after it is due
SAME_PART = 0.2  # windows that differ by less are the same
AGAIN_S = 300.0  # no sooner it is looked for again where it was not found


class Reaches:
    """The window of each server: the one asked for, or a longer one where scrapes are rare."""

    def __init__(self, asked: WindowSettings) -> None:
        self._asked = asked
        self._of: dict[str, WindowSettings] = {}
        self._looked_s = float("-inf")
        self._silent: set[str] = set()  # servers that told nothing at the last look

    def window(self, server: str) -> WindowSettings:
        """Return the window of *server*."""
        return self._of.get(server, self._asked)

    @property
    def longest_s(self) -> float:
        """Return how far back the windows of all servers reach."""
        return max((one.window_s for one in self._of.values()), default=self._asked.window_s)

    def forget(self, servers: Iterable[ScrapedServer]) -> None:
        """Keep what is known of *servers* only."""
        there = {one.name for one in servers}
        self._of = {name: window for name, window in self._of.items() if name in there}

    def due(
        self,
        servers: Iterable[ScrapedServer],
        tracks: Mapping[str, Mapping[str, Sequence[Track]]],
        *,
        now_s: float,
    ) -> list[str]:
        """Return the servers whose pods have been ready for a window and have told of themselves
        once in it, or not at all in two, if it is time to look how often they are scraped.
        """
        if now_s - self._looked_s < AGAIN_S or self._asked.window_s * 2.0 >= WIDEST_S:
            return []
        blind = []
        silent, self._silent = self._silent, set()
        for one in servers:
            window_s = self.window(one.name).window_s
            old = any(
                pod.phase == "ready" and now_s - pod.since_s > 2.0 * window_s for pod in one.pods
            )
            heard = [track for of_pod in tracks[one.name].values() for track in of_pod]
            if old and not heard:
                self._silent.add(one.name)
            if (
                old
                and (heard or one.name in silent)
                and all(len(track.times_s) == 1 for track in heard)
            ):
                blind.append(one.name)
        if blind:
            self._looked_s = now_s
        return blind

    def learn(self, server: str, series: Iterable[Series]) -> str:
        """Note how often the pods of *server* are scraped, by their *series*; return what to tell
        of it if its window has changed.
        """
        gaps = [
            later_s - earlier_s
            for one in series
            for (earlier_s, _), (later_s, _) in pairwise(one.points)
        ]
        if not gaps:
            return ""
        interval_s = median(gaps)
        window_s = max(self._asked.window_s, SCRAPES_MIN * interval_s)
        known_s = self.window(server).window_s
        if window_s > WIDEST_S or abs(window_s - known_s) <= SAME_PART * known_s:
            return ""
        if window_s == self._asked.window_s:
            del self._of[server]
            return f"{server}: its figures are over {window_s:g} s again"
        stale_s = max(self._asked.stale_s, STALE_SCRAPES * interval_s)
        self._of[server] = replace(self._asked, window_s=window_s, stale_s=stale_s)
        return (
            f"{server}: its pods are scraped every {interval_s:.0f} s: its figures are over "
            f"{window_s:.0f} s, not {self._asked.window_s:g}"
        )

    def stretched(self, server: str) -> bool:
        """Tell whether the window of *server* is longer than the one that was asked for."""
        return server in self._of


def within(series: Iterable[Series], *, begin_s: float) -> list[Series]:
    """Return *series* with their samples after *begin_s* only; none that has no sample then."""
    cut = (
        one._replace(points=[point for point in one.points if point[0] > begin_s]) for one in series
    )
    return [one for one in cut if one.points]
