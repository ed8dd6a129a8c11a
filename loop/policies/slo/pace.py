"""How much slower replicas are than the data say: those were measured on another day, with another
engine, or estimated from data sheets. Pure.

A replica whose iterations take a quarter longer than the data say misses most targets at the rate
that it is sized for, and nothing that waits tells of it. What it does at as many requests as it has
does: by Little's law (Little 1961) the mean latency of tokens says how many these are.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loop.replacing import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loop.policies.slo.demand import Memory
    from loop.spec import Perf, SystemData
    from loop.types import ServerView, Snapshot

SAMPLES_MIN, SAMPLES_MAX = 8, 20  # of 30 s: four minutes are needed, ten remembered
# Of slower replicas so much is believed at once, in steps, so that a sizing can be used again: what
# is less is chance, and what is more is another fault.
SLOWER_MIN, SLOWER_STEP, SLOWER_MAX = 1.08, 0.04, 3.0
FEW_RPM = 6.0  # answers, of fewer the mean is chance
# Of a load that varies by more, latencies are those of its bursts.
BURSTY_MAX = 0.2


@dataclass(frozen=True, slots=True)
class Pace:
    """By how much the tokens of a server of *model* on *accelerator* took longer than the data say,
    as ratios, the newest last. slower is how many times as long as the data say an iteration takes,
    1 if that is about as long or less, None if it is not known yet; elsewhere the same on the
    accelerators where it was before.
    """

    model: str = ""
    accelerator: str = ""
    ratios: tuple[float, ...] = ()
    slower: float | None = None
    elsewhere: tuple[tuple[str, float], ...] = ()

    def with_sample(self, view: ServerView, perf: Perf | None, *, bursty: float) -> Pace:
        """Return it with what is seen of *view*, whose load is *bursty* from window to window or
        within one; nothing is learnt of such a load, while pods come or go, or of requests that are
        computed twice. Where a server has moved to, its pace is the one that it had there, or else
        where it was, until its own is known.
        """
        here = self
        if (view.model, view.accelerator) != (self.model, self.accelerator):
            anew = Pace(view.model, view.accelerator)
            here = self._moved(view.accelerator) if view.model == self.model else anew
        if perf is None or bursty > BURSTY_MAX or not _steady(view):
            return here
        ratio = _ratio(view, perf)
        if ratio is None:
            return here
        ratios = (*here.ratios, ratio)[-SAMPLES_MAX:]
        slower = _believed(ratios) if len(ratios) >= SAMPLES_MIN else here.slower
        return replace(here, ratios=ratios, slower=slower)

    def _moved(self, accelerator: str) -> Pace:
        """Return it on another *accelerator*. What it was where it was is remembered: if that were
        taken for right again, a server would go back to it.
        """
        known = dict(self.elsewhere)
        if self.slower is not None and len(self.ratios) >= SAMPLES_MIN:
            known[self.accelerator] = self.slower
        slower = known.get(accelerator, self.slower)
        return Pace(self.model, accelerator, slower=slower, elsewhere=tuple(known.items()))


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
        pace = memory.pace.with_sample(view, perf, bursty=max(bursty, memory.spread.within))
        if pace is not memory.pace:
            found[name] = replace(memory, pace=pace)
    return {**memories, **found} if found else memories


def _believed(ratios: tuple[float, ...]) -> float:
    middle = statistics.median(ratios)
    if middle < SLOWER_MIN:
        return 1.0
    return min(1.0 + SLOWER_STEP * round((middle - 1.0) / SLOWER_STEP), SLOWER_MAX)


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
        for accelerator, slower in memory.pace.elsewhere:
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


def _steady(view: ServerView) -> bool:
    """Tell whether its latencies are those of its replicas at their work."""
    still = view.ready == view.wanted > 0 and not (view.starting or view.pending or view.draining)
    return still and not view.preemptions


def _ratio(view: ServerView, perf: Perf) -> float | None:
    """Return how many times as long as *perf* says a token takes in *view*, of as many requests as
    run in each of its replicas by Little's law; None if that is not known.
    """
    load, itl_ms, answers_rpm = view.load, view.itl_ms, view.completions_rpm
    if load is None or not itl_ms or answers_rpm is None or answers_rpm < FEW_RPM:
        return None
    if load.in_tokens <= 0.0 or load.out_tokens <= 1.0 or perf.tokens_per_step != 1.0:
        return None
    running = answers_rpm / 60.0 * load.out_tokens * itl_ms / 1000.0 / view.ready
    found = max(view.cache_hit_share or 0.0, view.fetched_share or 0.0)
    longer = 1.0 + perf.attention * load.in_tokens / 2.0
    prompt = (1.0 - found) * load.in_tokens * longer / load.out_tokens
    model = perf.latency_model
    computed_ms = model.beta_ms * running * (1.0 + prompt)
    read_ms = model.weights_ms + model.gamma_ms * running * (load.in_tokens + load.out_tokens / 2.0)
    taken_ms = (read_ms**model.p + computed_ms**model.p) ** (1.0 / model.p)
    return float(itl_ms / (model.launch_ms + taken_ms + model.sequence_ms * running))
