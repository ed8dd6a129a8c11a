"""The estimate of what servers do as they are, beside what is measured of them; pure.

Policies estimate what a server would do after a decision. This looks at the present, where the
truth can be seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from loop.optimizer.model.queueing import (
    analyze,
    host_as_reading,
    longer,
    make_model,
    replica_columns,
)
from loop.spec import Perf, SystemData
from loop.types import ServerView, Snapshot

MS_PER_MINUTE = 60_000.0
# In a queue beyond this part of what runs, latencies follow from the past and not from the load.
WAITING_MAX = 0.1
# No replica runs more at a time; some write a far larger one for "without limit".
BATCH_MOST = 4096
# Of the rate that a full batch serves: above it no mean is steady.
BUSY_MAX = 0.95
# Of the TTFT: how long requests wait for a place depends on the router, of which nothing is known
# here.
QUEUED_MAX = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Measured over estimated, less 1, of one server; None: not measured, or no matter of the
    latency model.
    """

    ttft: float | None = None
    itl: float | None = None
    throughput: float | None = None
    start_up: float | None = None


def model_errors(seen: Snapshot, data: SystemData) -> Mapping[str, Errors]:
    """Return the errors of the estimates of the servers that are steady, and of which the load is
    known.
    """
    views = _steady_ones(seen, data)
    if not views:
        return {}
    loads = [(view.load, view.ready) for view, _ in views]
    rate = np.array([load.rate_rpm / ready / MS_PER_MINUTE for load, ready in loads if load])
    perfs = [perf for _, perf in views]
    # By the token, of which a step of speculative decoding adds several (rules.ours.perf).
    per_step = np.array([perf.tokens_per_step for perf in perfs])
    fixed = np.array([perf.latency_model.alpha_ms for perf in perfs])
    in_tokens = np.array([load.in_tokens for load, _ in loads if load])
    out_tokens = np.array([load.out_tokens for load, _ in loads if load])
    cached = np.array([_cached(view) for view, _ in views])
    tokens_longer = longer(
        np.array([perf.attention for perf in perfs]),
        in_tokens=in_tokens,
        cached=cached,
        out_tokens=out_tokens,
        token_cv=np.zeros(len(perfs)),
    )
    gamma, reading, host = host_as_reading(
        np.array([perf.sequence_ms for perf in perfs]) / per_step,
        np.array([perf.gamma_ms for perf in perfs]) / per_step,
        np.array([perf.p for perf in perfs]),
    )
    model = make_model(
        replica_columns(
            alpha=fixed / per_step,
            beta=np.array([perf.beta_ms for perf in perfs]) * tokens_longer,
            gamma=gamma,
            in_tokens=in_tokens + reading,
            out_tokens=out_tokens,
            max_batch=[min(_batch(view, perf), BATCH_MOST) for view, perf in views],
            overhead=[perf.overhead_ms for perf in perfs],
            launch=np.array([perf.latency_model.launch_ms for perf in perfs]) / per_step,
            p=[perf.p for perf in perfs],
            cached=cached + reading,
            host=host,
        )
    )
    calm = rate < BUSY_MAX * model.rate_max
    found = analyze(model, np.minimum(rate, BUSY_MAX * model.rate_max))
    # A prompt waits for the end of the iteration that runs as it comes, half of one on the mean,
    # and for the one that is planned already, if the engine plans ahead.
    ahead = np.array([0.5 + (perf.scheduling == "async") for perf in perfs])
    waits_ms = ahead * per_step * found.itl * np.minimum(found.in_service, 1.0)
    prefill_ms = found.prefill + (1.0 - 1.0 / per_step) * fixed
    ttft_ms = np.array([perf.overhead_ms for perf in perfs]) + found.wait + prefill_ms + waits_ms
    return {
        view.name: Errors(
            ttft=_error(view.ttft_ms, ttft) if wait <= QUEUED_MAX * ttft else None,
            itl=_error(view.itl_ms, itl),
            throughput=_error(view.completions_rpm, view.load.rate_rpm if view.load else 0.0),
            start_up=_error(view.start_up_s, perf.start_up_s or 0.0),
        )
        for (view, perf), ttft, itl, wait, is_calm in zip(
            views,
            ttft_ms.tolist(),
            found.itl.tolist(),
            found.wait.tolist(),
            calm.tolist(),
            strict=True,
        )
        if is_calm
    }


def _steady_ones(seen: Snapshot, data: SystemData) -> list[tuple[ServerView, Perf]]:
    """Return the servers that are steady, with their latency models."""
    return [
        (view, perf)
        for view in seen.servers.values()
        if (perf := data.perf.get((view.model, view.accelerator))) is not None and _steady(view)
    ]


def _steady(view: ServerView) -> bool:
    load = view.load
    return (
        load is not None
        and load.rate_rpm > 0.0
        and load.in_tokens > 0.0
        and load.out_tokens >= 1.0
        and view.ready == view.wanted > 0
        and not view.starting
        and "waiting" not in view.unknown_gauges
        and view.waiting <= WAITING_MAX * max(view.running, 1)
    )


def _batch(view: ServerView, perf: Perf) -> int:
    return max(view.max_batch or perf.max_batch, 1)


def _cached(view: ServerView) -> float:
    share = max(view.cache_hit_share or 0.0, view.fetched_share or 0.0)
    return share * (view.load.in_tokens if view.load else 0.0)


def _error(measured: float | None, estimated: float) -> float | None:
    if measured is None or measured <= 0.0 or not estimated > 0.0 or not math.isfinite(estimated):
        return None
    return measured / estimated - 1.0
