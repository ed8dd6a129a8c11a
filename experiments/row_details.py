"""What a row of a sweep or a comparison keeps beside its figures, for reports: how TTFT is
distributed, and the points of attainment lost by first cause.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.columns import arrived_within
from experiments.run import RunResult
from experiments.scores.misses import CAUSES, misses_of
from experiments.scores.verdicts import measured_latencies_ms
from experiments.sources import Sources

# The tail is what targets are about: the higher, the finer.
SHARES = (
    np.concatenate(
        [np.arange(0.0, 95.0, 2.5), np.arange(95.0, 99.0, 0.5), np.arange(99.0, 100.05, 0.1)]
    )
    / 100.0
)
QUANTILES, LOST = "ttft_ms_quantiles", "points_lost_by_cause"


def details_of(sources: Sources, result: RunResult) -> dict[str, Any]:
    """Return the quantiles of TTFT at SHARES (none where no request finished), and the points lost
    by each of CAUSES.
    """
    found = []
    for block in result.requests.blocks(len(result.names)):
        for part in block.parts():
            ttft_ms, _ = measured_latencies_ms(part)
            known = np.isfinite(ttft_ms) & arrived_within(part, result.window)
            found.append(ttft_ms[known])
    ttft_ms = np.concatenate(found) if found else np.empty(0)
    return {
        QUANTILES: np.quantile(ttft_ms, SHARES).round(2).tolist() if ttft_ms.size else [],
        LOST: _points_lost(sources, result),
    }


def _points_lost(sources: Sources, result: RunResult) -> list[float]:
    if not result.summary["missed"]:
        return [0.0] * len(CAUSES)
    misses = misses_of(
        sources,
        requests=result.requests,
        pods=result.pods,
        cuts=result.cycles.cuts,
        window=result.window,
    )
    points: list[float] = misses.points.sum(axis=0).round(4).tolist()
    return points
