"""From samples of what pods tell of themselves to the figures of a server over a window; pure.

The rules, for all sources that have samples of pods, are in docs/kubernetes.md: what counts as
demand, which pods are missing, and what is done about it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from loop.backends.kube.read import Pod, Server
from loop.types import Load

NAN = math.nan
MINUTE_S, MS = 60.0, 1000.0
START_UP_S = 900.0  # a pod that becomes ready later than that after its creation was ready before

# vLLM's metrics, each with what it has been called: the first name that a pod uses counts.
METRICS: Mapping[str, tuple[str, ...]] = {
    "success": ("vllm:request_success_total",),
    "prompt": ("vllm:prompt_tokens_total",),
    "generation": ("vllm:generation_tokens_total",),
    "answers": ("vllm:request_generation_tokens_count",),
    "answer_tokens": ("vllm:request_generation_tokens_sum",),
    "ttft_count": ("vllm:time_to_first_token_seconds_count",),
    "ttft_sum": ("vllm:time_to_first_token_seconds_sum",),
    "itl_count": (
        "vllm:inter_token_latency_seconds_count",
        "vllm:time_per_output_token_seconds_count",
    ),
    "itl_sum": ("vllm:inter_token_latency_seconds_sum", "vllm:time_per_output_token_seconds_sum"),
    "running": ("vllm:num_requests_running",),
    "waiting": ("vllm:num_requests_waiting",),
    "kv_usage": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
}
SHARES = frozenset(
    METRICS["kv_usage"]
)  # parts of a whole: of several engines the fullest counts, not their sum
METRIC_NAMES = tuple(name for group in METRICS.values() for name in group)


class Sample(NamedTuple):
    """What one pod told at t_s [s of the run]: counters since its start, then gauges; NaN: it did
    not tell.
    """

    t_s: float
    success: float = NAN
    prompt: float = NAN
    generation: float = NAN
    answers: float = NAN
    answer_tokens: float = NAN
    ttft_count: float = NAN
    ttft_sum: float = NAN
    itl_count: float = NAN
    itl_sum: float = NAN
    running: float = NAN
    waiting: float = NAN
    kv_usage: float = NAN


COUNTERS = Sample._fields[1:10]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSettings:
    """Figures are over window_s; a pod whose latest sample is older than stale_s does not report.

    speed: how many seconds pass in the world in one of the machine: other than 1 for a simulated
    cluster only.
    """

    window_s: float = 60.0
    stale_s: float = 60.0
    speed: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """The latest gauges of one pod."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is known of one server; None: unknown. measured: its pods were heard of, whether or not
    they report now.
    """

    load: Load | None = None
    completions_rpm: float | None = None
    ttft_ms: float | None = None
    itl_ms: float | None = None
    output_tps: float | None = None
    pods: Mapping[str, Gauges] = field(default_factory=dict)
    measured: bool = False
    warning: str = ""


class _Track(NamedTuple):
    """What one pod did: how many requests had come to it by which time, and by how much its
    counters grew in all.
    """

    times_s: Sequence[float]
    arrived: Sequence[float]
    counters: Mapping[str, float]

    @property
    def covered_s(self) -> float:
        """Return the time from the first to the last sample."""
        return self.times_s[-1] - self.times_s[0]

    def came(self, begin_s: float, end_s: float) -> float:
        """Return how many requests came between two times; beyond the samples as many as on the
        mean.
        """
        return self._by(end_s) - self._by(begin_s)

    def _by(self, time_s: float) -> float:
        times_s, arrived = self.times_s, self.arrived
        if time_s <= times_s[0] or time_s >= times_s[-1]:
            edge = 0 if time_s <= times_s[0] else -1
            return (
                arrived[edge]
                + (time_s - times_s[edge]) * (arrived[-1] - arrived[0]) / self.covered_s
            )
        after = bisect_right(times_s, time_s)
        share = (time_s - times_s[after - 1]) / (times_s[after] - times_s[after - 1])
        return arrived[after - 1] + share * (arrived[after] - arrived[after - 1])


def add_to(values: dict[str, float], name: str, value: float) -> None:
    """Add a series to the metrics of a pod by name: those that differ in labels only (reasons,
    engines) are one.
    """
    before = values.get(name)
    if before is None:
        values[name] = value
    else:
        values[name] = max(before, value) if name in SHARES else before + value


def merged(
    name: str, one: Mapping[float, float], other: Mapping[float, float]
) -> dict[float, float]:
    """Return two series of a pod as one, by time, as add_to does."""
    together = dict(one)
    for t_s, value in other.items():
        before = together.get(t_s)
        together[t_s] = (
            value if before is None else max(before, value) if name in SHARES else before + value
        )
    return together


def sample_of(t_s: float, values: Mapping[str, float]) -> Sample:
    """Return the sample of a pod from its metrics by name, old names standing in for new ones."""
    told = {
        figure: next((values[name] for name in group if math.isfinite(values.get(name, NAN))), NAN)
        for figure, group in METRICS.items()
    }
    return Sample(t_s=t_s, **told)


def samples_of(columns: Mapping[str, Mapping[float, float]]) -> list[Sample]:
    """Return the samples of a pod from its metrics by name and time, as sample_of makes each of
    them.
    """
    told = [
        _column([columns[name] for name in group if name in columns]) for group in METRICS.values()
    ]
    times_s = sorted({t_s for column in told for t_s in column})
    return [Sample(t_s, *[column.get(t_s, NAN) for column in told]) for t_s in times_s]


def _column(named: Sequence[Mapping[float, float]]) -> Mapping[float, float]:
    """Return one metric by time from its names, the first of which count where they have a
    number.
    """
    if len(named) <= 1:
        return named[0] if named else {}
    merged: dict[float, float] = {}
    for values in reversed(named):
        merged |= {t_s: value for t_s, value in values.items() if math.isfinite(value)}
    return merged


def figures(
    server: Server,
    series: Mapping[str, Sequence[Sample]],
    *,
    now_s: float,
    settings: WindowSettings,
    gone: Mapping[str, tuple[float, float]] | None = None,
) -> Figures:
    """Return the figures of *server* from the samples of its pods by name, those of pods that are
    gone included.

    *gone* tells of pods that have gone the time of their last sample, and when they are thought to
    have gone after it.
    """
    alive = {pod.name: pod for pod in server.pods}
    fresh = {
        name: samples
        for name, samples in series.items()
        if samples and (name not in alive or samples[-1].t_s >= now_s - settings.stale_s)
    }
    begin_s = min([now_s - settings.window_s, *(samples[0].t_s for samples in fresh.values())])
    tracks = {}
    for name, samples in fresh.items():
        track = _track(_since_birth(alive.get(name), samples, begin_s=begin_s))
        if track is not None:
            tracks[name] = track
    gauges = {name: _gauges(samples[-1]) for name, samples in fresh.items() if name in alive}
    told = Figures(pods=gauges, measured=any(series.values()))
    ready = [pod for pod in server.pods if pod.phase == "ready"]
    if not any(pod.name in tracks for pod in ready):
        return _unknown(told, ready, series, settings=settings, now_s=now_s)
    warning = _missing(ready, tracks, settings=settings, now_s=now_s)
    return _told(told, ready, tracks, gone or {}, speed=settings.speed, warning=warning)


def _told(
    told: Figures,
    ready: Sequence[Pod],
    tracks: Mapping[str, _Track],
    gone: Mapping[str, tuple[float, float]],
    *,
    speed: float,
    warning: str,
) -> Figures:
    """Return the figures that *tracks* tell, from the first sample to the last one of any pod.

    To a pod without a track as many requests came, while it was ready, as to a ready one that has a
    track.
    """
    begin_s = min(track.times_s[0] for track in tracks.values())
    end_s = max(track.times_s[-1] for track in tracks.values())
    there = {name: (track.times_s[0], track.times_s[-1]) for name, track in tracks.items()}
    for name, (last_s, gone_s) in gone.items():
        first_s = there[name][0] if name in there else max(last_s, begin_s)
        there[name] = (first_s, min(max(gone_s, first_s), end_s))
    for pod in ready:
        since_s = min(max(begin_s, pod.since_s), end_s)
        there[pod.name] = (
            min(since_s, there[pod.name][0]) if pod.name in there else since_s,
            end_s,
        )
    heard = [tracks[pod.name] for pod in ready if pod.name in tracks]
    arrivals = sum(
        tracks[name].came(*span)
        if name in tracks
        else sum(track.came(*span) for track in heard) / len(heard)
        for name, span in there.items()
    )
    length_s = (end_s - begin_s) * speed
    total = {name: sum(track.counters[name] for track in tracks.values()) for name in COUNTERS}
    present_s = sum(end - begin for begin, end in there.values())
    per_second = present_s / sum(track.covered_s for track in tracks.values()) / length_s
    return Figures(
        load=_load(max(0.0, arrivals) * MINUTE_S / length_s, total),
        completions_rpm=_known(total["success"] * per_second * MINUTE_S),
        ttft_ms=_mean(MS * total["ttft_sum"], total["ttft_count"]),
        itl_ms=_mean(MS * total["itl_sum"], total["itl_count"]),
        output_tps=_known(total["generation"] * per_second),
        pods=told.pods,
        measured=True,
        warning=warning,
    )


def _since_birth(pod: Pod | None, samples: Sequence[Sample], *, begin_s: float) -> Sequence[Sample]:
    """Return the samples of a pod with one of its beginning, where that is since *begin_s* and was
    not sampled.

    Its counters were 0 when it became ready for the first time. One that was ready before would
    have been sampled then.
    """
    if pod is None or pod.phase != "ready" or not begin_s < pod.since_s < samples[0].t_s:
        return samples
    if pod.since_s - pod.created_s > START_UP_S:
        return samples
    return [Sample(pod.since_s, *(0.0 for _ in Sample._fields[1:])), *samples]


def _track(samples: Sequence[Sample]) -> _Track | None:
    """Return what a pod did over *samples*; None where they do not tell how many requests came.

    Requests that came are those that ended and those that are more than before in the pod. A
    counter that falls was set back by a restart: it has grown by what it is, and what was in the
    pod is gone.
    """
    useful = [
        sample
        for sample in samples
        if math.isfinite(sample.success + sample.running + sample.waiting)
    ]
    if len(useful) < 2:
        return None
    arrived = [0.0]
    counters = dict.fromkeys(COUNTERS, 0.0)
    for before, after in pairwise(useful):
        came = after.success + after.running + after.waiting
        if after.success >= before.success:
            came -= before.success + before.running + before.waiting
        arrived.append(arrived[-1] + came)
        for name in COUNTERS:
            old, new = getattr(before, name), getattr(after, name)
            counters[name] += new - old if new >= old else new
    return _Track(times_s=[sample.t_s for sample in useful], arrived=arrived, counters=counters)


def _unknown(
    told: Figures,
    ready: Sequence[Pod],
    series: Mapping[str, Sequence[Sample]],
    *,
    settings: WindowSettings,
    now_s: float,
) -> Figures:
    """Return figures without a load, and why, where that is amiss: pods just begun have nothing to
    tell yet.
    """
    old = [pod for pod in ready if now_s - pod.since_s > settings.window_s]
    if not old:
        return told
    latest_s = max((samples[-1].t_s for samples in series.values() if samples), default=None)
    if latest_s is None:
        warning = f"none of {len(ready)} ready pods has metrics"
    elif latest_s < now_s - settings.stale_s:
        warning = (
            f"the latest metrics of its pods are {now_s - latest_s:.0f} s old: expected at "
            f"most {settings.stale_s:g}"
        )
    else:
        warning = (
            f"its pods have no two samples within {settings.window_s:g} s: is the scrape "
            "interval longer?"
        )
    return Figures(pods=told.pods, measured=told.measured, warning=warning)


def _missing(
    ready: Sequence[Pod], tracks: Mapping[str, _Track], *, settings: WindowSettings, now_s: float
) -> str:
    missing = [
        pod for pod in ready if pod.name not in tracks and now_s - pod.since_s > settings.window_s
    ]
    if not missing:
        return ""
    reporting = len(ready) - len(missing)
    return f"{reporting} of {len(ready)} ready pods report: the load is scaled up to all of them"


def _load(rate_rpm: float, total: Mapping[str, float]) -> Load | None:
    """Return the load; tokens that nobody counted are 0.

    Prompts are counted at the first token, as TTFT is; the length of an answer when it has ended.
    """
    if not math.isfinite(rate_rpm):
        return None
    in_tokens = _mean(total["prompt"], total["ttft_count"]) or _mean(
        total["prompt"], total["success"]
    )
    out_tokens = _mean(total["answer_tokens"], total["answers"]) or _mean(
        total["generation"], total["success"]
    )
    return Load(rate_rpm=rate_rpm, in_tokens=in_tokens or 0.0, out_tokens=out_tokens or 0.0)


def _gauges(sample: Sample) -> Gauges:
    return Gauges(
        running=round(_or_zero(sample.running)),
        waiting=round(_or_zero(sample.waiting)),
        kv_usage=_or_zero(sample.kv_usage),
    )


def _or_zero(gauge: float) -> float:
    return gauge if math.isfinite(gauge) else 0.0


def _known(figure: float) -> float | None:
    return figure if math.isfinite(figure) else None


def _mean(total: float, count: float) -> float | None:
    return total / count if math.isfinite(total) and count > 0 else None
