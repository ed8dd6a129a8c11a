"""The data as replicas are seen to be: with the iterations of those that are slower. Pure."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from loop.replacing import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loop.policies.slo.demand import Memory
    from loop.spec import Perf, SystemData
    from loop.types import Snapshot


class Slowed:
    """The data as replicas are seen to be. A pure cache: they are the same object as long as
    nothing else is seen.
    """

    def __init__(self) -> None:
        self._memories: Mapping[str, Memory] | None = None
        self._last: tuple[SystemData, dict[tuple[str, str], float], SystemData] | None = None

    def data(self, data: SystemData, memories: Mapping[str, Memory]) -> SystemData:
        """Return *data* with the iterations of accelerators that are slower taking as long as was
        seen: of those that a model is not on, as much longer as on the best of those that it is on.
        """
        last = self._last
        if last is not None and last[0] is data and self._memories is memories:
            return last[2]
        slower = _slower(memories)
        if last is None or last[0] is not data or last[1] != slower:
            last = data, slower, _slowed(data, slower) if slower else data
        self._memories, self._last = memories, last
        return last[2]


def paced(
    memories: Mapping[str, Memory], snapshot: Snapshot, data: SystemData
) -> Mapping[str, Memory]:
    """Return *memories* with how long tokens take in *snapshot*, by what *data* say, where a sample
    is due.
    """
    found: dict[str, Memory] = {}
    for name, view in snapshot.servers.items():
        memory = memories.get(name)
        if memory is None or not memory.history.rates.is_due(snapshot.now_s):
            continue
        perf = data.perf.get((view.model, view.accelerator))
        bursty = 0.0 if memory.foreseen is None else memory.foreseen.found.bursty
        bursty = max(bursty, memory.spread.within)
        pace = memory.pace.with_sample(view, perf, bursty=bursty, now_s=snapshot.now_s)
        if pace is not memory.pace:
            found[name] = replace(memory, pace=pace)
    return {**memories, **found} if found else memories


def _slower(memories: Mapping[str, Memory]) -> dict[tuple[str, str], float]:
    """Return by model and accelerator how many times as long as the data say iterations take; none
    if they take no longer anywhere.
    """
    seen: dict[tuple[str, str], list[float]] = {}
    for memory in memories.values():
        pace = memory.pace
        if pace.slower is not None:
            seen.setdefault((pace.model, pace.accelerator), []).append(pace.slower)
    before: dict[tuple[str, str], list[float]] = {}
    for memory in memories.values():
        for accelerator, slower, _ in memory.pace.elsewhere:
            before.setdefault((memory.pace.model, accelerator), []).append(slower)
    seen = {**before, **seen}
    if all(max(each) <= 1.0 for each in seen.values()):
        return {}
    return {key: statistics.median_low(each) for key, each in seen.items()}


def _slowed(data: SystemData, slower: Mapping[tuple[str, str], float]) -> SystemData:
    least: dict[str, float] = {}
    for (model, _), times in slower.items():
        least[model] = min(times, least.get(model, times))
    perf = {}
    for key, one in data.perf.items():
        times = slower.get(key, least.get(key[0], 1.0))
        perf[key] = one if times <= 1.0 else _times(one, times)
    return replace(data, perf=perf)


def _times(perf: Perf, times: float) -> Perf:
    """Return *perf* with iterations that take so many *times* as long."""
    return replace(
        perf,
        alpha_ms=times * perf.alpha_ms,
        beta_ms=times * perf.beta_ms,
        gamma_ms=times * perf.gamma_ms,
        launch_ms=None if perf.launch_ms is None else times * perf.launch_ms,
        weights_ms=None if perf.weights_ms is None else times * perf.weights_ms,
        experts_ms=times * perf.experts_ms,
        sequence_ms=times * perf.sequence_ms,
    )
