"""Replay of a request log through one simulated replica, and how far the replay is from what was
measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from twin.fit.points import filling, operate
from twin.fit.request_csv import Counts, RequestRows, Times
from twin.fit.served import served
from twin.magnitudes import LARGEST_WHOLE
from twin.request import RequestBatch
from twin.spec import AdmissionRule, EngineSpec, LatencyModel, Scheduling, SpecError

PERCENTILES = (50, 90, 99)  # of latencies, whose errors a score tells


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLimits:
    """What bounds the batches of a replica beside its latency model; fields as in twin.spec.Engine.

    max_batch is vLLM's max_num_seqs, token_budget its max_num_batched_tokens, kv_tokens its number
    of KV blocks times block_size (None: memory never runs short). tokens_per_step above 1 is
    speculative decoding. vLLM admits by "full_prompt"
    since 0.19, by "chunk" before.
    """

    max_batch: int
    token_budget: int
    kv_tokens: int | None = None
    block_size: int = 16
    tokens_per_step: float = 1.0
    admission: AdmissionRule = "full_prompt"

    def __post_init__(self) -> None:
        """Raise SpecError for a limit that lets nothing run."""
        for name in ("max_batch", "token_budget", "block_size", "kv_tokens"):
            found = getattr(self, name)
            if found is not None and found > LARGEST_WHOLE:
                raise SpecError(f"{name}: expected at most {LARGEST_WHOLE}, found {found}")
            if name != "kv_tokens" and found < 1:
                raise SpecError(f"{name}: expected a whole number >= 1, found {found}")
        if self.kv_tokens is not None and self.kv_tokens < self.block_size:
            raise SpecError(
                f"kv_tokens: expected at least one block of {self.block_size}, found "
                f"{self.kv_tokens}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a replay gave, in the order of the log: times [s] on the log's clock, and preemptions of
    each request; percentiles_s are those that the points of the log have, one after the other.
    """

    first_token_s: Times
    last_token_s: Times
    preemptions: Counts
    percentiles_s: Times = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayScore:
    """Mean latencies measured and replayed [s], and the means of each request's |replayed /
    measured - 1| of e2e and TTFT.

    tails holds the relative errors of the percentiles PERCENTILES of "e2e", "ttft" and "tpot", the
    mean time of a request between two tokens; a latency that no request has is left out.
    """

    requests: int
    e2e_s: float
    e2e_replayed_s: float
    ttft_s: float
    ttft_replayed_s: float
    e2e_mape: float
    ttft_mape: float
    tails: Mapping[str, tuple[float, ...]]

    @property
    def e2e_error(self) -> float:
        """Relative error of the mean end-to-end latency; positive when the replay is too slow."""
        return self.e2e_replayed_s / self.e2e_s - 1.0

    @property
    def ttft_error(self) -> float:
        """Relative error of the mean time to first token; positive when the replay is too slow."""
        return self.ttft_replayed_s / self.ttft_s - 1.0


def check_fits(rows: RequestRows, limits: ReplicaLimits) -> None:
    """Raise SpecError at the first request that the KV cache of *limits* can never hold."""
    if limits.kv_tokens is None:
        return
    held = rows.input_tokens + rows.output_tokens - 1  # the last token is never written
    capacity = limits.kv_tokens // limits.block_size * limits.block_size
    too_long = np.flatnonzero(held > capacity)
    if len(too_long):
        first = too_long[0]
        raise SpecError(
            f"{rows.source}: {rows.place} {rows.line[first]}: input_tokens + output_tokens: "
            f"expected <= {capacity + 1} (kv_tokens + 1), found {held[first] + 1}"
        )


def replay(
    rows: RequestRows,
    *,
    latency_model: LatencyModel,
    limits: ReplicaLimits,
    scheduling: Scheduling = "sync",
) -> Replayed:
    """Serve the arrivals of *rows* on an idle replica, or hold one at each operating point of
    *rows*; every request must pass check_fits.
    """
    if rows.points:
        return _operate(rows, latency_model=latency_model, limits=limits, scheduling=scheduling)
    spec = EngineSpec(
        model="",
        accelerator="",
        latency_model=latency_model,
        scheduling=scheduling,
        max_num_batched_tokens=limits.token_budget,
        kv_tokens=limits.kv_tokens,
        block_size=limits.block_size,
        tokens_per_step=limits.tokens_per_step,
        admission=limits.admission,
    )
    batch = RequestBatch(
        times_s=rows.queued_s,
        prompt_tokens=rows.input_tokens,
        output_tokens=rows.output_tokens,
    )
    found = served(batch, spec, max_batch=limits.max_batch)
    assert len(found.preemptions) == len(rows), f"{rows.source}: a request was rejected"
    return Replayed(
        first_token_s=found.first_token_s,
        last_token_s=found.last_token_s,
        preemptions=found.preemptions,
    )


def _operate(
    rows: RequestRows, *, latency_model: LatencyModel, limits: ReplicaLimits, scheduling: Scheduling
) -> Replayed:
    steady = [
        operate(
            point,
            latency_model=latency_model,
            max_batch=limits.max_batch,
            token_budget=limits.token_budget,
            kv_tokens=limits.kv_tokens,
            block_size=limits.block_size,
            tokens_per_step=limits.tokens_per_step,
            scheduling=scheduling,
            requests=filling(point, e2e_s),
        )
        for point, e2e_s in zip(rows.points, rows.e2e_s.tolist(), strict=True)
    ]
    first_s = np.array(
        [
            each.ttft_median_s if point.tells_median else each.ttft_s
            for point, each in zip(rows.points, steady, strict=True)
        ]
    )
    gaps = rows.output_tokens - 1
    return Replayed(
        first_token_s=first_s,
        last_token_s=first_s + gaps * np.array([each.itl_s for each in steady]),
        preemptions=np.zeros(len(rows), dtype=np.int64),
        percentiles_s=np.array([value_s for each in steady for value_s in each.percentiles_s]),
    )


def score(rows: RequestRows, replayed: Replayed, *, of: slice) -> ReplayScore:
    """Compare the replay of *rows* with what was measured, over the requests *of*, at least one."""
    return score_logs([rows], [replayed], of=of)


def score_logs(
    logs: Sequence[RequestRows], replays: Sequence[Replayed], *, of: slice
) -> ReplayScore:
    """Compare the replays of *logs* with what was measured, over the requests *of* of each log."""
    measured = [rows.part(of) for rows in logs]
    found = list(zip(measured, replays, strict=True))
    e2e_s = np.concatenate([rows.e2e_s for rows in measured])
    ttft_s = np.concatenate([rows.ttft_s for rows in measured])
    e2e_replayed_s = np.concatenate([each.last_token_s[of] - rows.queued_s for rows, each in found])
    ttft_replayed_s = np.concatenate(
        [each.first_token_s[of] - rows.queued_s for rows, each in found]
    )
    gaps = np.concatenate([rows.output_tokens for rows in measured]) - 1
    some = gaps > 0
    return ReplayScore(
        requests=len(e2e_s),
        e2e_s=float(e2e_s.mean()),
        e2e_replayed_s=float(e2e_replayed_s.mean()),
        ttft_s=float(ttft_s.mean()),
        ttft_replayed_s=float(ttft_replayed_s.mean()),
        e2e_mape=float(np.abs(e2e_replayed_s / e2e_s - 1.0).mean()),
        ttft_mape=float(np.abs(ttft_replayed_s / ttft_s - 1.0).mean()),
        tails={
            "e2e": _tail_errors(e2e_s, e2e_replayed_s),
            "ttft": _tail_errors(ttft_s, ttft_replayed_s),
            "tpot": _tail_errors(
                (e2e_s - ttft_s)[some] / gaps[some],
                (e2e_replayed_s - ttft_replayed_s)[some] / gaps[some],
            ),
        },
    )


def _tail_errors(measured: Times, replayed: Times) -> tuple[float, ...]:
    """Return the relative errors of PERCENTILES, none if there is nothing measured."""
    if not len(measured) or not (measured > 0.0).all():
        return ()
    errors = np.percentile(replayed, PERCENTILES) / np.percentile(measured, PERCENTILES) - 1.0
    return tuple(float(error) for error in errors)
