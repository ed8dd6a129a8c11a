"""Since when engines have stood still with requests in them: an engine whose clients have all gone
at once shows the gauges of its last step for ever; pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from loop.replacing import replace
from loop.signals.demand import Figures
from loop.signals.series import Track

# A prompt of any length is computed in less, and who hangs for so long answers none of them.
STILL_S = 900.0
Tracks = Mapping[str, Sequence[Track]]
Shown = tuple[tuple[float, ...], ...]


class _Still(NamedTuple):
    """What the engines of a pod have shown since a time [s of the run]."""

    since_s: float
    shown: Shown


class Moving(NamedTuple):
    """The tracks of a server, those of pods that have stood still for too long with nothing in
    them; and what is to be told of these.
    """

    tracks: Tracks
    line: str = ""

    def told_in(self, found: Figures) -> Figures:
        """Return what was *found* by the tracks with what is to be told of them."""
        return replace(found, warnings=(*found.warnings, self.line)) if self.line else found


class Stills:
    """Remembers of the pods of each server since when nothing in them has moved."""

    def __init__(self) -> None:
        self._still: dict[str, dict[str, _Still]] = {}

    def without(self, server: str, tracks: Tracks) -> Moving:
        """Return *tracks* of the pods of *server* without what has stood still for too long."""
        before = self._still.pop(server, {})
        still = dict[str, _Still]()
        for pod, of in tracks.items():
            shown, old = _stands(of), before.get(pod)
            if shown is not None:
                still[pod] = old if old and old.shown == shown else _Still(_begin_s(of), shown)
        if not still:
            return Moving(tracks)
        self._still[server] = still
        over = [pod for pod, one in still.items() if _end_s(tracks[pod]) - one.since_s > STILL_S]
        if not over:
            return Moving(tracks)
        gauges = [track.gauges for pod in over for track in tracks[pod]]
        inside = sum(one["running"] + one["waiting"] for one in gauges)
        emptied = {pod: [_emptied(track) for track in tracks[pod]] for pod in over}
        return Moving(
            {**tracks, **emptied},
            f"{inside:.0f} requests in {len(over)} of its pods count no more: nothing has moved "
            f"there for {STILL_S / 60.0:.0f} min, so their clients have gone or the engines hang",
        )


def _stands(of_pod: Sequence[Track]) -> Shown | None:
    """Return what the engines of a pod show that all stand still with requests in them, None if
    they do not. An engine may count tokens when an answer has ended only, but its KV cache fills
    with each of them.
    """
    if not of_pod or not all(
        track.hangs and len(track.times_s) > 1 and "kv_usage" in track.tells for track in of_pod
    ):
        return None
    return tuple((track.ended_at_first, *track.gauges.values()) for track in of_pod)


def _begin_s(of_pod: Sequence[Track]) -> float:
    return max(track.times_s[0] for track in of_pod)


def _end_s(of_pod: Sequence[Track]) -> float:
    return min(track.times_s[-1] for track in of_pod)


def _emptied(track: Track) -> Track:
    nothing = [0.0] * len(track.times_s)
    gauges = dict.fromkeys(track.gauges, 0.0)
    return replace(track, gauges=gauges, running=nothing, waiting=nothing)
