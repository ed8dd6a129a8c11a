"""What a pod answers at /latest: figures of its last window, in the form of the Go server-sim."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from twin.engine.telemetry import ReplicaReading
from twin.kube.apiserver.storage import Dates
from twin.serving.pod import Pod

MS = 1000.0


class Totals(NamedTuple):
    """What one life of a pod has counted up to now_s."""

    now_s: float
    successes: int = 0
    inside: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    ttft_count: int = 0
    ttft_s: float = 0.0
    per_token_s: float = 0.0
    e2e_s: float = 0.0
    queue_count: int = 0
    queue_s: float = 0.0


class Windows:
    """The totals of pods when they were asked before, so that an answer is of a window."""

    def __init__(self, *, window_s: float) -> None:
        self._window_s = window_s
        self._before: dict[tuple[str, str], tuple[int, list[Totals]]] = {}

    def since(self, key: tuple[str, str], pod: Pod, now: Totals) -> Totals:
        """Return the totals from which the window to *now* begins: the latest that are at least a
        window old, else the oldest of this life of the pod, and note *now*.
        """
        life, kept = self._before.get(key, (pod.restarts, []))
        if life != pod.restarts or not kept:
            kept = [Totals(pod.life.ready_s)]
        while len(kept) > 1 and kept[1].now_s <= now.now_s - self._window_s:
            kept.pop(0)
        begin = kept[0]
        # Who asks every second must not make it keep every second.
        if now.now_s - kept[-1].now_s >= self._window_s / 4.0:
            kept.append(now)
        self._before[key] = (pod.restarts, kept)
        return begin

    def forget(self, there: Mapping[tuple[str, str], Any]) -> None:
        """Forget pods that are not *there*."""
        self._before = {key: of for key, of in self._before.items() if key in there}


def totals_of(pod: Pod, reading: ReplicaReading, now_s: float) -> Totals:
    """Return what *pod*, of which *reading* tells, has counted."""
    return Totals(
        now_s=now_s,
        successes=reading.successes,
        inside=reading.running + reading.waiting,
        prompt_tokens=reading.prompt_tokens,
        answer_tokens=pod.finished.output_tokens,
        ttft_count=reading.ttft_count,
        ttft_s=reading.ttft_sum_s,
        per_token_s=pod.finished.per_token_s,
        e2e_s=reading.e2e_sum_s,
        queue_count=reading.queue_count,
        queue_s=reading.queue_sum_s,
    )


def envelope(pod: Pod, begin: Totals, end: Totals, *, dates: Dates) -> str | None:
    """Return the answer of *pod* for the window between two totals, None if no request ended in
    it. Rates are by the time of the world.
    """
    length_s, ended = end.now_s - begin.now_s, end.successes - begin.successes
    if ended <= 0 or length_s <= 0.0:
        return None
    arrived = max(ended + end.inside - begin.inside, 0)
    firsts = end.ttft_count - begin.ttft_count
    effective = {
        "RPS": arrived / length_s,
        "maxConcurrency": pod.max_batch,
        "avgInputTokens": _mean(end.prompt_tokens - begin.prompt_tokens, firsts),
        "avgOutputTokens": _mean(end.answer_tokens - begin.answer_tokens, ended),
        "accelerator": pod.life.accelerator,
        "model": pod.engine.model,
    }
    result = {
        "throughput": ended / length_s,
        "avgRespTime": MS * _mean(end.e2e_s - begin.e2e_s, ended),
        "avgWaitTime": MS * _mean(end.queue_s - begin.queue_s, end.queue_count - begin.queue_count),
        "avgTTFT": MS * _mean(end.ttft_s - begin.ttft_s, firsts),
        "avgITL": MS * _mean(end.per_token_s - begin.per_token_s, ended),
        "maxRPS": 0,
    }
    told = {"effectiveInput": effective, "result": result, "completedAt": dates.text_at(end.now_s)}
    return json.dumps(told)


def _mean(total: float, count: int) -> float:
    return total / count if count > 0 else 0.0
