"""Histograms of latencies on the pages of pods: how their buckets are read and kept, and by how
much they grew over the window.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from math import isfinite
from typing import NamedTuple

from loop.signals.histograms import Buckets, growth
from loop.signals.names import BUCKET, Names

PodKey = tuple[str, str]  # namespace, name
Labels = str  # of one histogram, as they stand on the page, but for the bound
Found = Mapping[tuple[str, Labels], Buckets]  # by the name of the buckets

# Of each window so many looks are kept, besides the latest: a histogram is a hundred numbers.
LOOKS_KEPT = 6
_BOUND = re.compile(r',?\ble="([^"]*)",?')


class Look(NamedTuple):
    """What one page showed at a time."""

    at_s: float
    found: Found


class PodHistograms:
    """Keeps what the pages of pods showed of the histograms of *names* for *window_s*."""

    def __init__(self, names: Names, *, window_s: float) -> None:
        self._buckets = names.buckets
        self._line = re.compile(
            rf"^({names.buckets_pattern})\{{(.*)\}}[ \t]+([^ \t\n]+)", re.MULTILINE
        )
        self._window_s = window_s
        self._looks: dict[tuple[PodKey, int], list[Look]] = {}

    def read(self, page: str) -> Found:
        """Return the histograms on *page*. A line that makes no sense tells nothing."""
        if BUCKET not in page:
            return {}
        found: dict[tuple[str, Labels], dict[float, float]] = defaultdict(dict)
        for metric, labels, text in self._line.findall(page):
            bound = _BOUND.search(labels)
            if bound is None:
                continue
            try:
                limit, value = float(bound[1]), float(text)
            except ValueError:
                continue
            if isfinite(value):
                rest = labels[: bound.start()] + "," + labels[bound.end() :]
                found[metric, rest][limit] = value
        return dict(found)

    def add(self, key: PodKey, port: int, found: Found, *, at_s: float) -> None:
        """Keep what a page showed at a time."""
        looks = self._looks.setdefault((key, port), [])
        close = len(looks) > 1 and looks[-1].at_s - looks[-2].at_s < self._window_s / LOOKS_KEPT
        # Closer looks tell no more, but for a restart, of which the look before must stay.
        grows = close and all(
            _all(looks[-1].found, of) <= _all(found, of) for of in looks[-1].found
        )
        if grows or (looks and looks[-1].at_s >= at_s):
            looks.pop()
        looks.append(Look(at_s, found))

    def forget(self, there: Collection[PodKey], *, now_s: float) -> None:
        """Forget what no window needs any more: all but one look of before it, and pods that are
        not *there*.
        """
        begin_s = now_s - self._window_s
        for of, looks in list(self._looks.items()):
            while len(looks) > 1 and looks[1].at_s <= begin_s:
                looks.pop(0)
            if of[0] not in there:
                del self._looks[of]

    def grown(
        self, keys: Collection[PodKey], *, fresh_s: float
    ) -> dict[PodKey, tuple[dict[str, list[Buckets]], float]]:
        """Return by how much the histograms of the pods *keys* have grown, by latency, and when
        each pod was looked at last; those that were not since *fresh_s* are left out.
        """
        found: dict[PodKey, tuple[dict[str, list[Buckets]], float]] = {}
        for (key, _), looks in self._looks.items():
            if key not in keys or len(looks) < 2 or looks[-1].at_s < fresh_s:
                continue
            by_latency, at_s = found.setdefault(key, (defaultdict(list), looks[-1].at_s))
            found[key] = (by_latency, max(at_s, looks[-1].at_s))
            for latency, metric in self._used(looks[-1].found).items():
                by_latency[latency] += [
                    growth([look.found.get(of, {}) for look in looks])
                    for of in looks[-1].found
                    if of[0] == metric
                ]
        return found

    def _used(self, found: Found) -> Mapping[str, str]:
        """Return the name that counts for each latency: the first one that the process uses."""
        used: dict[str, tuple[int, str]] = {}
        for metric, _ in found:
            latency, rank = self._buckets[metric]
            used[latency] = min(used.get(latency, (rank, metric)), (rank, metric))
        return {latency: metric for latency, (_, metric) in used.items()}


def _all(found: Found, of: tuple[str, Labels]) -> float:
    return max(found.get(of, {}).values(), default=0.0)
