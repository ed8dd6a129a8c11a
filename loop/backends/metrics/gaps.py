"""How far back to look where nobody told of a server for a while: to the last sample before, as
what came meanwhile is what its counters have grown by. A burst behind an outage is no rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loop.signals.demand import Figures, WindowSettings
    from loop.signals.pods import ScrapedServer
    from loop.signals.series import Track

GAP_WINDOWS_MAX = 5  # a sample that is older than so many windows tells nothing of this one


class Gaps:
    """When each server was known last: the time of its newest sample then [s of the run]."""

    def __init__(self) -> None:
        self._known_s: dict[str, float] = {}

    def learn(self, found: Mapping[str, Figures], *, now_s: float) -> None:
        """Note whose load is known by the window alone; forget who is not there."""
        self._known_s = {
            name: now_s - one.age_s
            if one.load is not None and one.age_s is not None
            else self._known_s[name]
            for name, one in found.items()
            if (one.load is not None and one.age_s is not None) or name in self._known_s
        }

    def reach_s(
        self,
        server: ScrapedServer,
        found: Figures,
        tracks: Iterable[Sequence[Track]],
        *,
        window: WindowSettings,
        now_s: float,
    ) -> float | None:
        """Return how far back to look for *server*; None if nothing is missing between, or if that
        is too long ago.

        *found* and *tracks* are what the *window* tells: its pods are the same as before, and have
        told too little since.
        """
        known_s = self._known_s.get(server.name)
        if known_s is None or found.load is not None or found.age_s is None:
            return None
        heard_s = max((track.alive_s for of_pod in tracks for track in of_pod), default=0.0)
        before = any(pod.phase == "ready" and pod.since_s <= known_s for pod in server.pods)
        if not before or heard_s >= window.heard_s_min or found.age_s > window.stale_s:
            return None
        reach_s = now_s - known_s + window.heard_s_min
        longest_s = GAP_WINDOWS_MAX * window.window_s
        return reach_s if window.window_s < reach_s <= longest_s else None
