"""How much the counters of some engine processes grew, over those of them that tell these; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loop.signals.series import Track


class Growth:
    """The growth of the counters of *tracks*, by name."""

    __slots__ = ("_alike", "total", "tracks")

    def __init__(self, tracks: Sequence[Track]) -> None:
        self.tracks = tracks
        self.total: Mapping[str, float] = totals(tracks)
        # Nearly always: then one sum is that of any counters, and there are a dozen to ask about.
        self._alike = len(tracks) == 1 or all(
            track.grown.keys() == tracks[0].grown.keys() for track in tracks
        )

    def over(self, *counters: str) -> Growth:
        """Return the growth over those of the tracks that tell all *counters* and of which the last
        has grown, over all if none does: tokens of one engine and requests of another make no mean
        (pages are cut, and pods of two engines may be one server), and one that has done nothing
        yet knows none.
        """
        if self._alike:
            return self
        telling = [track for track in self.tracks if track.grown.keys() >= set(counters)]
        telling = [track for track in telling if track.total(counters[-1])]
        return Growth(telling) if telling else self


def totals(tracks: Sequence[Track]) -> dict[str, float]:
    """Return the growth of each counter over the tracks that tell it."""
    if not tracks:
        return {}
    total = {name: grown[-1] for name, grown in tracks[0].grown.items() if grown}
    for track in tracks[1:]:
        for name, grown in track.grown.items():
            if grown:
                total[name] = total.get(name, 0.0) + grown[-1]
    return total
