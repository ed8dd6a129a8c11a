"""How far back the figures of each server have to look, by how often its pods are scraped.

Two samples of a pod are the least that tells a rate. The window that was asked for holds them where
scrapes are frequent; a Prometheus that nobody has told otherwise scrapes once a minute. Some stores
that answer as Prometheus show each sample only minutes after it was taken.
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
# Samples that come late go on coming: so it shows between two looks that are so far apart.
LATE_AGAIN_S, LATE_S_MAX = 60.0, 300.0
LATE_PART = 1.5  # a window is longer by so much of the delay, of which nothing is seen


class Reaches:
    """The window of each server: the one asked for, or a longer one where scrapes are rare."""

    def __init__(self, asked: WindowSettings) -> None:
        self._asked = asked
        self._of: dict[str, WindowSettings] = {}
        self._looked_s = float("-inf")
        self._silent: set[str] = set()  # servers that told nothing at the last look
        self._newest: dict[str, tuple[float, float]] = {}  # latest sample, and when it was seen
        self._late_s: dict[str, float] = {}  # by how much samples come late, where they do

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
        self._newest = {name: seen for name, seen in self._newest.items() if name in there}
        self._late_s = {name: late_s for name, late_s in self._late_s.items() if name in there}

    def newest_s(self, server: str) -> float | None:
        """Return when the latest sample of *server* was taken of which a look far back told."""
        newest = self._newest.get(server)
        return newest[0] if newest is not None else None

    def due(
        self,
        servers: Iterable[ScrapedServer],
        tracks: Mapping[str, Mapping[str, Sequence[Track]]],
        *,
        now_s: float,
    ) -> list[str]:
        """Return the servers whose pods have been ready for a window and have told of themselves
        once in it, not lately, or not at all in two, if it is time to look how often they are
        scraped.
        """
        # Who has not been seen so since has been well: it takes no look at all then.
        may_be_late = any(
            seen_s - newest_s <= LATE_S_MAX
            and now_s - seen_s <= AGAIN_S
            and name not in self._late_s
            for name, (newest_s, seen_s) in self._newest.items()
        )
        again_s = LATE_AGAIN_S if may_be_late else AGAIN_S
        if now_s - self._looked_s < again_s or self._asked.window_s * 2.0 >= WIDEST_S:
            return []
        blind = []
        silent, self._silent = self._silent, set()
        for one in servers:
            window = self.window(one.name)
            old = any(
                pod.phase == "ready" and now_s - pod.since_s > 2.0 * window.window_s
                for pod in one.pods
            )
            heard = [track for of_pod in tracks[one.name].values() for track in of_pod]
            if old and not heard:
                self._silent.add(one.name)
            once = all(len(track.times_s) == 1 for track in heard)
            stale = all(now_s - track.times_s[-1] > window.stale_s for track in heard)
            if old and (heard or one.name in silent) and (once or stale):
                blind.append(one.name)
        if blind:
            self._looked_s = now_s
        return blind

    def learn(self, server: str, series: Iterable[Series], *, now_s: float) -> str:
        """Note how often the pods of *server* are scraped, and how late their samples come, by
        their *series*; return what to tell of it if its window has changed.
        """
        told = [one.points for one in series if one.points]
        gaps = [
            later_s - earlier_s
            for points in told
            for (earlier_s, _), (later_s, _) in pairwise(points)
        ]
        if not gaps:
            return ""
        interval_s = median(gaps)
        newest_s = max(points[-1][0] for points in told)
        base_s = max(self._asked.window_s, SCRAPES_MIN * interval_s)
        late_s = self._learn_late(
            server, newest_s, interval_s=interval_s, base_s=base_s, now_s=now_s
        )
        window_s = base_s + LATE_PART * late_s
        stale_s = max(self._asked.stale_s, STALE_SCRAPES * interval_s) + late_s
        known = self.window(server)
        same = abs(window_s - known.window_s) <= SAME_PART * known.window_s
        # A long window may hold what comes late, and yet all of it be too old.
        too_old = late_s > 0.0 and stale_s > (1.0 + SAME_PART) * known.stale_s
        if window_s > WIDEST_S or (same and not too_old):
            return ""
        if window_s == self._asked.window_s:
            del self._of[server]
            return f"{server}: its figures are over {window_s:g} s again"
        self._of[server] = replace(self._asked, window_s=window_s, stale_s=stale_s)
        why = f"its pods are scraped every {interval_s:.0f} s"
        if late_s:
            why = f"samples of its pods come {late_s:.0f} s late"
        return (
            f"{server}: {why}: its figures are over {window_s:.0f} s, not {self._asked.window_s:g}"
        )

    def _learn_late(
        self, server: str, newest_s: float, *, interval_s: float, base_s: float, now_s: float
    ) -> float:
        """Return by how much the samples of *server* come late, by its latest one: 0 if they come
        in time. That they come at all has to show between two looks.
        """
        age_s = now_s - newest_s
        # The window has to hold the sample before, too; in time is who keeps well within it.
        before = 2.0 if server in self._late_s else 1.0
        fresh = age_s <= max(self._asked.stale_s, STALE_SCRAPES * interval_s)
        if fresh and age_s + before * interval_s < base_s:
            self._newest.pop(server, None)
            self._late_s.pop(server, None)
            return 0.0
        before_s, seen_s = self._newest.setdefault(server, (newest_s, now_s))
        if now_s - seen_s >= LATE_AGAIN_S:
            self._newest[server] = (newest_s, now_s)
            apart_s = (newest_s - before_s) - (now_s - seen_s)
            if abs(apart_s) <= 2.0 * interval_s and age_s <= LATE_S_MAX:
                self._late_s[server] = age_s
        return self._late_s.get(server, 0.0)

    def stretched(self, server: str) -> bool:
        """Tell whether the window of *server* is longer than the one that was asked for."""
        return server in self._of


def within(series: Iterable[Series], *, begin_s: float) -> list[Series]:
    """Return *series* with their samples after *begin_s* only; none that has no sample then."""
    cut = (
        one._replace(points=[point for point in one.points if point[0] > begin_s]) for one in series
    )
    return [one for one in cut if one.points]
