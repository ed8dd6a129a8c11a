"""What came in the last part of a window: a jump shows there before the window shows it; pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from loop.types import LATEST_PART, Latest

if TYPE_CHECKING:
    from loop.signals.series import Track

MINUTE_S = 60.0


def latest_of(
    serving: Sequence[str],
    tracks: Mapping[str, Sequence[Track]],
    *,
    gone_s: float | None,
    window_s: float,
    speed: float = 1.0,
) -> Latest | None:
    """Return what came to the *serving* pods lately, of each since its last sample that is a
    quarter of the window older than its newest; None if that is not known of all: one does not tell
    or has just begun, several answer by turns, or one has gone since (*gone_s*, the last that did).
    """
    least_s, rate_rpm, lengths_s, since_s = LATEST_PART * window_s, 0.0, [], []
    for name in serving:
        for track in tracks.get(name, ()):
            newest_s = track.times_s[-1]
            k = bisect_right(track.times_s, newest_s - least_s + 1e-6) - 1
            # A first sample tells of no time before it.
            if k < 1 or track.by_turns or not track.counts:
                return None
            length_s = (newest_s - track.times_s[k]) * speed
            rate_rpm += max(0.0, track.arrived[-1] - track.arrived[k]) * MINUTE_S / length_s
            lengths_s.append(length_s)
            since_s.append(track.times_s[k])
        if not tracks.get(name):
            return None
    if not lengths_s or (gone_s is not None and gone_s > min(since_s)):
        return None
    return Latest(rate_rpm, sum(lengths_s) / len(lengths_s))
