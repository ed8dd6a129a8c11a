"""Whether more requests run in replicas than their KV caches hold: they take each other's places,
and what was computed of those that lose theirs is computed again. Pure.

A server that gets there stays there: five replicas that compute everything twice do less than three
do of the same requests, until fewer are let in at once. So how many there were when the caches were
full is remembered, and a batch is no larger than ROOM times that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loop.spec import SystemData
    from loop.types import PodView, ServerView

# So many lose their place for each that ends, in pods whose cache is so full: fewer do now and then
# in any full batch, and cost less than a smaller one.
LOST, FULL = 1.5, 0.6
ROOM = 0.8
KEPT_S = 1800.0  # for how long it is remembered after the last time
LESS = (
    0.9  # of what is remembered: what is a little less changes nothing, for a change is a rollout
)


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many requests filled the KV cache of a replica on *accelerator*, last at seen_s."""

    requests: float
    accelerator: str
    seen_s: float


def with_sample(
    crowd: Crowd | None, view: ServerView, *, now_s: float, window_s: float
) -> Crowd | None:
    """Return what is known of *view* after it was seen at *now_s* over the last *window_s*."""
    if crowd is not None and now_s - crowd.seen_s > KEPT_S:
        crowd = None
    requests = _filling(view, window_s=window_s)
    if requests is None:
        return crowd
    here = crowd is not None and crowd.accelerator == view.accelerator
    if crowd is not None and here and requests >= LESS * crowd.requests:
        requests = crowd.requests
    return Crowd(requests, view.accelerator, now_s)


def held_tokens(crowd: Crowd | None, data: SystemData, model: str) -> float:
    """Return how many tokens of the KV cache a request is to have, so that nobody loses a place; 0
    if that is not known.
    """
    perf = None if crowd is None else data.perf.get((model, crowd.accelerator))
    if crowd is None or perf is None or perf.kv_tokens is None:
        return 0.0
    return perf.kv_tokens / (ROOM * crowd.requests)


def _filling(view: ServerView, *, window_s: float) -> float | None:
    """Return how many requests fill the cache of a replica, if some lose their places there."""
    if view.preemptions is None or view.completions_rpm is None:
        return None
    ended = view.completions_rpm * window_s / 60.0
    full = [pod for pod in view.pods if _is_full(pod)]
    if view.preemptions < LOST * max(ended, 1.0) or not full:
        return None
    return sum(pod.running for pod in full) / sum(pod.kv_usage for pod in full)


def _is_full(pod: PodView) -> bool:
    told = pod.sample_age_s is not None and not {"running", "kv_usage"} & {*pod.unknown_gauges}
    return told and pod.phase == "ready" and pod.running > 0 and pod.kv_usage >= FULL
