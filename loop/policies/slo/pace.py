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
    from loop.spec import Perf
    from loop.types import ServerView

SAMPLES_MIN, SAMPLES_MAX = 8, 20  # of 30 s: four minutes are needed, ten remembered
# Replicas are taken to be slower from here, in steps, so that a sizing can be used again, up to
# here: what is less is chance, and what is more is another fault.
SLOWER_MIN, SLOWER_STEP, SLOWER_MAX = 1.08, 0.04, 3.0
FEW_RPM = 6.0  # answers, of fewer the mean is chance
# How long it is remembered of an accelerator that a server has left: its nodes get other neighbours
# and drivers, and to go there once a day costs little.
KEPT_S = 86400.0
# Of a load that varies by more, latencies are those of its bursts.
BURSTY_MAX = 0.2


@dataclass(frozen=True, slots=True)
class Pace:
    """By how much the tokens of a server of *model* on *accelerator* took longer than the data say,
    as ratios, the newest last. slower is how many times as long as the data say an iteration takes,
    1 if that is about as long or less, None if it is not known yet; elsewhere the same on the
    accelerators where it was before, each with when it left.
    """

    model: str = ""
    accelerator: str = ""
    ratios: tuple[float, ...] = ()
    slower: float | None = None
    elsewhere: tuple[tuple[str, float, float], ...] = ()

    def with_sample(
        self, view: ServerView, perf: Perf | None, *, bursty: float, now_s: float
    ) -> Pace:
        """Return it with what is seen of *view* at *now_s*, whose load is *bursty* from window to
        window or within one; nothing is learnt of such a load, while pods come or go, or of
        requests that are computed twice. Where a server has moved to, its pace is the one that it
        had there, or else where it was, until its own is known.
        """
        here = self
        if (view.model, view.accelerator) != (self.model, self.accelerator):
            anew = Pace(view.model, view.accelerator)
            here = self._moved(view.accelerator, now_s) if view.model == self.model else anew
        lasting = tuple(one for one in here.elsewhere if one[2] > now_s - KEPT_S)
        if len(lasting) < len(here.elsewhere):
            known = bool(lasting) or len(here.ratios) >= SAMPLES_MIN
            here = replace(here, elsewhere=lasting, slower=here.slower if known else None)
        if perf is None or bursty > BURSTY_MAX or not _steady(view):
            return here
        ratio = _ratio(view, perf)
        if ratio is None:
            return here
        ratios = (*here.ratios, ratio)[-SAMPLES_MAX:]
        slower = _estimate(ratios) if len(ratios) >= SAMPLES_MIN else here.slower
        return replace(here, ratios=ratios, slower=slower)

    def _moved(self, accelerator: str, now_s: float) -> Pace:
        """Return it on another *accelerator*. What it was where it was is remembered: if that were
        taken for right again, a server would go back to it.
        """
        known = {one[0]: one for one in self.elsewhere}
        if self.slower is not None and len(self.ratios) >= SAMPLES_MIN:
            known[self.accelerator] = self.accelerator, self.slower, now_s
        slower = known[accelerator][1] if accelerator in known else self.slower
        return Pace(self.model, accelerator, slower=slower, elsewhere=tuple(known.values()))


def _estimate(ratios: tuple[float, ...]) -> float:
    middle = statistics.median(ratios)
    if middle < SLOWER_MIN:
        return 1.0
    return min(1.0 + SLOWER_STEP * round((middle - 1.0) / SLOWER_STEP), SLOWER_MAX)


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
