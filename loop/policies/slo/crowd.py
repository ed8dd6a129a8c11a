"""Whether more requests run in replicas than their KV caches hold: they take each other's places,
and what was computed of those that lose theirs is computed again. Pure.

A server that gets there stays there: five replicas that compute everything twice do less than three
do of the same requests, until fewer are let in at once. So what each held when the caches were full
is remembered, and each request of a batch is to have that, and room, for as long as requests are no
shorter: that nobody loses a place any more is no reason to try the larger batch again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loop.replacing import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loop.spec import Perf, ServerData, SystemData
    from loop.types import PodView, ServerView

    Perfs = Mapping[tuple[str, str], Perf]

# Such a share of the time of all ready pods goes into what is computed again in those whose cache
# is so full, so often in a row. Where prompts are short, or few lose their place, that costs less
# than a smaller batch; and a cache that is full among many that are not has the longest requests,
# and says nothing of the others: by that, each smaller batch would be followed by a smaller one.
WASTED, FULL, SAMPLES = 0.25, 0.6, 2
ROOM = 1.25
# How long it is remembered after the last time, for engines change, too; and of the tokens of
# requests, how many they still have then.
KEPT_S, SHORTER = 86400.0, 0.75
# Another batch is a rollout: what is a little more changes nothing, and what is more, not at once.
MORE, DWELL_S = 1.1, 600.0


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many tokens of the KV cache a request held at since_s, in caches that were too full (0:
    they have not been for long), and how many samples in a row say that they are, the last at
    seen_s, of requests of so many tokens on the mean (0: not known).
    """

    tokens: float = 0.0
    since_s: float = 0.0
    samples: int = 0
    seen_s: float = 0.0
    mean_tokens: float = 0.0

    @property
    def tokens_asked(self) -> float:
        """Return how many each request of a batch is to have, so that nobody loses a place; 0: as
        many as its own.
        """
        return ROOM * self.tokens


def with_sample(
    crowd: Crowd | None,
    view: ServerView,
    perfs: Perfs,
    *,
    mean_tokens: float,
    now_s: float,
    window_s: float,
) -> Crowd | None:
    """Return what is known of *view*, whose requests have *mean_tokens* (0: not known), after it
    was seen at *now_s* over the last *window_s*, by *perfs* of models and accelerators.
    """
    if crowd is not None and 0.0 < mean_tokens < SHORTER * crowd.mean_tokens:
        crowd = None
    tokens = _held(view, perfs, window_s=window_s)
    if tokens is None:
        if crowd is None or now_s - crowd.seen_s > KEPT_S or not crowd.tokens:
            return None
        return crowd if not crowd.samples else replace(crowd, samples=0)
    last = crowd or Crowd()
    samples = last.samples + 1
    seen = replace(last, samples=samples, seen_s=now_s, mean_tokens=mean_tokens)
    early = last.tokens > 0.0 and now_s - last.since_s < DWELL_S
    if seen.samples < SAMPLES or early or tokens <= MORE * last.tokens:
        return seen
    return replace(seen, tokens=tokens, since_s=now_s)


def batch_within(data: SystemData, server: ServerData, accelerator: str) -> float:
    """Return how many requests of *server* have what each is to have of the KV cache there."""
    perf = data.perf.get((server.model, accelerator))
    if perf is None or perf.kv_tokens is None or server.held_tokens <= 0.0:
        return math.inf
    return max(1.0, math.floor(perf.kv_tokens / server.held_tokens))


def _held(view: ServerView, perfs: Perfs, *, window_s: float) -> float | None:
    """Return how many tokens a request holds in pods whose cache is full, if too much of the time
    of all goes into what is computed again in these.
    """
    if not view.preemptions:
        return None
    held, running, again_ms, full, ready = 0.0, 0, 0.0, 0, 0
    for pod in view.pods:
        ready += pod.phase == "ready"
        # While a server moves, pods are on several accelerators.
        perf = perfs.get((view.model, pod.accelerator))
        if perf is not None and perf.kv_tokens is not None and _is_full(pod):
            held += pod.kv_usage * perf.kv_tokens
            running += pod.running
            again_ms += perf.beta_ms
            full += 1
    if not full:
        return None
    tokens = held / running
    again_ms *= view.preemptions / full * tokens
    return tokens if again_ms >= WASTED * 1000.0 * window_s * ready else None


def _is_full(pod: PodView) -> bool:
    """Return whether its cache is full of fewer requests than its batch takes."""
    told = pod.sample_age_s is not None and not {"running", "kv_usage"} & {*pod.unknown_gauges}
    few = 0 < pod.running < pod.max_batch
    return told and pod.phase == "ready" and few and pod.kv_usage >= FULL
