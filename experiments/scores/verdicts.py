"""Whether one request met the targets of its server: met, missed, or left out of the scores.
Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from experiments.columns import FINISHED, Bools, Columns, Floats, are_lost
from loop.spec import SloTarget

MISSED, MET, LEFT_OUT = 0, 1, -1


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetColumns:
    """The targets of all servers, by server index; 0 means not set."""

    slo_ttft_ms: Floats
    slo_itl_ms: Floats
    slo_tps: Floats

    @property
    def any_set(self) -> Bools:
        """Return which servers have a target at all."""
        return (self.slo_ttft_ms > 0) | (self.slo_itl_ms > 0) | (self.slo_tps > 0)


def target_columns(targets: Sequence[SloTarget | None]) -> TargetColumns:
    """Lay the targets of the servers out as columns."""
    return TargetColumns(
        slo_ttft_ms=np.array([t.slo_ttft_ms if t else 0.0 for t in targets]),
        slo_itl_ms=np.array([t.slo_itl_ms if t else 0.0 for t in targets]),
        slo_tps=np.array([t.slo_tps if t else 0.0 for t in targets]),
    )


def judge(
    requests: Columns,
    targets: Sequence[SloTarget | None],
    *,
    end_s: float,
    tps_missed: Bools | None = None,
) -> npt.NDArray[np.int8]:
    """Return MET, MISSED or LEFT_OUT for each request of a run that ended at *end_s*.

    Met: TTFT and mean ITL within target and, where the server has a throughput target, its minute
    made the tokens (*tps_missed*, one flag a request, says where not). A target that is not set
    and, for ITL, an output of one token count as met; rejected and failed requests are missed. An
    unfinished request is missed when a target is already broken by what has passed, else left out.
    """
    limits = target_columns(targets)
    server = requests["server"]
    ttft_ms, itl_ms = bounded_latencies_ms(requests, end_s=end_s)
    # NaN (no such figure) compares as not above the target.
    late = (limits.slo_ttft_ms[server] > 0) & (ttft_ms > limits.slo_ttft_ms[server])
    slow = (limits.slo_itl_ms[server] > 0) & (itl_ms > limits.slo_itl_ms[server])
    missed = late | slow | are_lost(requests["outcome"])
    if tps_missed is not None:
        missed |= tps_missed
    finished = requests["outcome"] == FINISHED
    return np.where(missed, MISSED, np.where(finished, MET, LEFT_OUT)).astype(np.int8)


def bounded_latencies_ms(requests: Columns, *, end_s: float) -> tuple[Floats, Floats]:
    """Return TTFT and mean ITL = (last − first token)/(out − 1); for an unfinished request what
    they are at least.

    NaN where there is no such figure (ITL of one token, or before the first token).
    """
    first_s, out = requests["first_token_s"], requests["output_tokens"]
    last_s = np.where(requests["outcome"] == FINISHED, requests["finish_s"], end_s)
    ttft_ms = (np.where(np.isfinite(first_s), first_s, end_s) - requests["arrival_s"]) * 1000.0
    itl_ms = np.full(ttft_ms.shape, np.nan)
    np.divide(
        (last_s - first_s) * 1000.0, out - 1.0, out=itl_ms, where=(out > 1) & np.isfinite(first_s)
    )
    return ttft_ms, itl_ms


def measured_e2e_ms(requests: Columns) -> Floats:
    """Return the end-to-end times of finished requests; NaN elsewhere."""
    finished = requests["outcome"] == FINISHED
    return np.where(finished, (requests["finish_s"] - requests["arrival_s"]) * 1000.0, np.nan)


def measured_latencies_ms(requests: Columns) -> tuple[Floats, Floats]:
    """Return TTFT and mean ITL of finished requests; NaN elsewhere, and for the ITL of a single
    token.
    """
    finished = requests["outcome"] == FINISHED
    ttft_ms, itl_ms = bounded_latencies_ms(requests, end_s=float("nan"))
    return np.where(finished, ttft_ms, np.nan), np.where(finished, itl_ms, np.nan)
