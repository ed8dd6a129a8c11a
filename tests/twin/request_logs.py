"""Request logs made by the twin itself: their latency model is known, so a fit can be held to
it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from twin.fit.replay import Replayed, ReplicaLimits, replay
from twin.fit.request_csv import RequestRows
from twin.spec import LatencyModel


def arrivals(
    rng: np.random.Generator, *, requests: int, rate_rps: float, prompt: float, output: float
) -> RequestRows:
    """Return Poisson arrivals with lognormal token counts (medians *prompt* and *output*), without
    their times.
    """
    queued_s = np.cumsum(rng.exponential(1.0 / rate_rps, requests))
    unknown = np.full(requests, np.nan)
    return RequestRows(
        source="twin",
        line=np.arange(2, requests + 2),
        queued_s=queued_s - queued_s[0],
        first_token_s=unknown,
        last_token_s=unknown,
        input_tokens=np.maximum(rng.lognormal(np.log(prompt), 0.7, requests), 1.0).astype(np.int64),
        output_tokens=np.maximum(rng.lognormal(np.log(output), 0.5, requests), 1.0).astype(
            np.int64
        ),
    )


def served(
    rows: RequestRows, *, latency_model: LatencyModel, limits: ReplicaLimits
) -> tuple[RequestRows, Replayed]:
    """Return *rows* with the times that a replica with *latency_model* gives them, and the replay
    itself.
    """
    replayed = replay(rows, latency_model=latency_model, limits=limits)
    timed = replace(rows, first_token_s=replayed.first_token_s, last_token_s=replayed.last_token_s)
    return timed, replayed
