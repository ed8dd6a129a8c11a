"""alpha, beta and gamma of a replica from a request log: the latency model whose replay comes
nearest to what was measured.

A log holds no iteration times, so the latency model is found by simulation: robust least squares
over times to first token and times of decoding. docs/validation.md says how well this does.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twin.fit.descent import best_shares, loss
from twin.fit.replay import ReplayScore, ReplicaLimits, check_fits, replay, score
from twin.fit.request_csv import RequestRows, Times, read_request_rows
from twin.spec import AdmissionRule, LatencyModel, SpecError

Vector = npt.NDArray[np.float64]

COEFFICIENTS = (
    ("alpha", "alpha_ms", "ms"),
    ("beta", "beta_ms", "ms/token"),
    ("gamma", "gamma_ms", "ms/KV token"),
)

ROWS_MIN = 10
# Of a longer log this many are fitted unless the caller names others: a fit replays them some 900
# times.
ROWS_FITTED_MAX = 1000
# How far a good replay may miss, as a share of a latency, beside the iteration on which a token
# falls.
SPREAD = 0.01
TIMER_S = 0.001  # what the clock of a log is trusted to resolve
# A replay that lacks the later requests may be slower by this share of a decode.
CUT_TOLERANCE = 0.02
# What counts as nearly as good: so many times the least loss, and so much on top.
NEARLY_FACTOR, NEARLY_EXTRA = 1.1, 4.0
# Requests whose time is looked at for the scale; every request counts as what runs beside them.
SAMPLE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """The latency model found, and how a replay of the whole log with it scores.

    lowest and highest hold each coefficient's extremes among the latency models tried that fit
    nearly as well: if they are far apart the log does not tell the coefficients from each other,
    and only their sum over its batches is known. fitted are the rows, in order of arrival, whose
    times were used; held_out is the score of the rows after them, None if there are none.
    evaluations is how many replays the fit took.
    """

    source: str
    latency_model: LatencyModel
    lowest: LatencyModel
    highest: LatencyModel
    limits: ReplicaLimits
    fitted: slice
    all_rows: ReplayScore
    fitted_rows: ReplayScore
    held_out: ReplayScore | None
    preemptions: int
    evaluations: int


def fit_file(
    path: Path,
    *,
    kv_tokens: int | None,
    max_batch: int,
    token_budget: int,
    block_size: int = 16,
    admission: AdmissionRule = "full_prompt",
    rows: slice | None = None,
) -> FitResult:
    """Fit the request log *path* (see twin.fit.request_csv) of a replica that began idle; limits as
    in ReplicaLimits.

    rows are the requests to fit, in order of arrival; None means all, up to ROWS_FITTED_MAX. Raise
    SpecError, one line, for a log or a limit that cannot be.
    """
    limits = ReplicaLimits(
        max_batch=max_batch,
        token_budget=token_budget,
        kv_tokens=kv_tokens,
        block_size=block_size,
        admission=admission,
    )
    return fit_rows(read_request_rows(path), limits=limits, fitted=rows)


def fit_rows(rows: RequestRows, *, limits: ReplicaLimits, fitted: slice | None = None) -> FitResult:
    """Fit the requests *fitted* of *rows*; see fit_file. The fit sees no row after them, the scores
    see all.
    """
    start, stop, step = (fitted or slice(ROWS_FITTED_MAX)).indices(len(rows))
    if step != 1 or stop - start < ROWS_MIN:
        found = len(range(start, stop)) if step == 1 else 1
        raise SpecError(
            f"{rows.source}: expected at least {ROWS_MIN} consecutive rows to fit, found {found}"
        )
    check_fits(rows, limits)
    seen = rows.part(slice(stop))
    misfit = _Misfit(seen, limits=limits, start=start, is_cut=stop < len(rows))
    ceilings = ceilings_ms(seen, token_budget=limits.token_budget)
    tried: list[tuple[Vector, float]] = []

    def residuals(shares: Vector) -> Vector:
        found = misfit.residuals(_latency_model(shares * ceilings))
        tried.append((shares, loss(found)))
        return found

    latency_model = _latency_model(best_shares(residuals, count=len(ceilings)) * ceilings)
    bound = min(cost for _, cost in tried) * NEARLY_FACTOR + NEARLY_EXTRA
    good = np.array([shares for shares, cost in tried if cost <= bound])
    replayed = replay(rows, latency_model=latency_model, limits=limits)
    return FitResult(
        source=rows.source,
        latency_model=latency_model,
        lowest=_latency_model(good.min(axis=0) * ceilings),
        highest=_latency_model(good.max(axis=0) * ceilings),
        limits=limits,
        fitted=slice(start, stop),
        all_rows=score(rows, replayed, of=slice(None)),
        fitted_rows=score(rows, replayed, of=slice(start, stop)),
        held_out=score(rows, replayed, of=slice(stop, None)) if stop < len(rows) else None,
        preemptions=int(replayed.preemptions.sum()),
        evaluations=len(tried),
    )


class _Misfit:
    """Residuals of a latency model: differences of measured and replayed times, in units of how far
    a good replay may miss.
    """

    def __init__(
        self, rows: RequestRows, *, limits: ReplicaLimits, start: int, is_cut: bool
    ) -> None:
        self._rows = rows
        self._limits = limits
        self._fitted = slice(start, None)
        measured = rows.part(self._fitted)
        self._first_token_s = measured.first_token_s
        self._decode_s = measured.last_token_s - measured.first_token_s
        gap_s = self._decode_s / np.maximum(measured.output_tokens - 1, 1)
        # A first token may fall an iteration early or late; a decode has both its ends on
        # boundaries.
        self._first_spread_s = np.maximum(np.hypot(SPREAD * measured.e2e_s, gap_s), TIMER_S)
        self._decode_spread_s = np.maximum(np.hypot(SPREAD * self._decode_s, 0.3 * gap_s), TIMER_S)
        # If later requests were cut off, the batch is known only until the last one seen had its
        # first token. What ended after that was slowed by requests that are not in the replay: it
        # bounds the latency model from one side only.
        self._known = measured.last_token_s <= (measured.first_token_s.max() if is_cut else inf)

    def residuals(self, latency_model: LatencyModel) -> Times:
        """Replay with *latency_model*; return the residuals of the first tokens and then of the
        decodes.
        """
        replayed = replay(self._rows, latency_model=latency_model, limits=self._limits)
        first_s = replayed.first_token_s[self._fitted]
        late_s = first_s - self._first_token_s
        longer_s = replayed.last_token_s[self._fitted] - first_s - self._decode_s
        longer_s = np.where(
            self._known, longer_s, np.maximum(longer_s - CUT_TOLERANCE * self._decode_s, 0.0)
        )
        return np.concatenate([late_s / self._first_spread_s, longer_s / self._decode_spread_s])


def _latency_model(ms: Vector) -> LatencyModel:
    alpha_ms, beta_ms, gamma_ms = (float(value) for value in ms)
    return LatencyModel(alpha_ms=alpha_ms, beta_ms=beta_ms, gamma_ms=gamma_ms)


# -- the scale of the search: what each coefficient could explain at most


def ceilings_ms(rows: RequestRows, *, token_budget: int) -> Vector:
    """Return the alpha [ms], beta [ms/token] and gamma [ms/KV token] that each alone would explain
    the times of *rows*.

    So a latency model is nearly `shares * ceilings_ms(...)` with shares >= 0 that sum to 1. Who was
    decoding when is read off the log, at each request's mean rate. Without any decode, the times to
    first token are taken as if no request waited.
    """
    exposure, time_ms = _decodes(rows)
    if not len(time_ms):
        exposure, time_ms = _prefills(rows, token_budget=token_budget)
    ceilings: Vector = 1.0 / (exposure / time_ms[:, None]).mean(axis=0)
    return ceilings


def _decodes(rows: RequestRows) -> tuple[Vector, Vector]:
    """Iterations, tokens computed, KV tokens read between first and last token, columns; and that
    time [ms].
    """
    first_s, last_s = rows.first_token_s, rows.last_token_s
    span_s = last_s - first_s
    decodes = (rows.output_tokens > 1) & (span_s > 0)
    rate = np.where(
        decodes, (rows.output_tokens - 1) / np.where(decodes, span_s, 1.0), 0.0
    )  # tokens per second
    mine = np.flatnonzero(decodes)
    mine = mine[:: max(len(mine) // SAMPLE, 1)]
    begin_s = np.maximum(first_s[mine, None], first_s)
    end_s = np.minimum(last_s[mine, None], last_s)
    together_s = np.maximum(end_s - begin_s, 0.0)
    context = rows.input_tokens + rate * (
        (begin_s + end_s) / 2.0 - first_s
    )  # in the middle of that time
    prefilled = (first_s > first_s[mine, None]) & (first_s <= last_s[mine, None])
    iterations = rows.output_tokens[mine] - 1.0
    tokens = together_s @ rate + prefilled @ rows.input_tokens
    kv_tokens = rate[mine] * (together_s * context).sum(axis=1)
    return np.stack([iterations, tokens, kv_tokens], axis=1), span_s[mine] * 1e3


def _prefills(rows: RequestRows, *, token_budget: int) -> tuple[Vector, Vector]:
    """The same between arrival and first token, as if each request had been alone."""
    prompt = rows.input_tokens.astype(np.float64)
    chunks = np.ceil(prompt / token_budget)
    return np.stack([chunks, prompt, prompt * (chunks + 1.0) / 2.0], axis=1), rows.ttft_s * 1e3


# -- a fit as text for people and as JSON for programs


def fit_json(result: FitResult) -> dict[str, Any]:
    """Return the latency model under the names of model-data.json, how well it is known, and the
    scores of its replay.
    """
    return {
        "source": result.source,
        "perfParms": _perf_parms(result.latency_model),
        "lowest": _perf_parms(result.lowest),
        "highest": _perf_parms(result.highest),
        "fitted": _score(result.fitted_rows),
        "heldOut": _score(result.held_out) if result.held_out else None,
        "preemptions": result.preemptions,
        "evaluations": result.evaluations,
    }


def fit_text(result: FitResult) -> str:
    """Return a few lines: each coefficient with the range that fits nearly as well, and the errors
    of the replay.
    """
    lines = [
        f"{result.source}: {result.fitted_rows.requests} requests fitted, {result.evaluations} "
        "replays",
        "",
    ]
    for name, field, unit in COEFFICIENTS:
        latency_model, lowest, highest = (
            getattr(each, field) for each in (result.latency_model, result.lowest, result.highest)
        )
        lines.append(
            f"  {name:<6}{latency_model:>12.6g} {unit:<12} nearly as good: {lowest:.4g} to "
            f"{highest:.4g}"
        )
    lines += [
        "",
        f"  {'replay with this model':<24}{'mean e2e':>10}{'mean TTFT':>11}{'e2e MAPE':>10}",
    ]
    lines.append(_score_line("fitted requests", result.fitted_rows))
    if result.held_out:
        lines.append(_score_line("later requests", result.held_out))
    return "\n".join(lines)


def _score_line(name: str, score: ReplayScore) -> str:
    return f"  {name:<24}{score.e2e_error:>+10.2%}{score.ttft_error:>+11.2%}{score.e2e_mape:>10.2%}"


def _perf_parms(latency_model: LatencyModel) -> dict[str, float]:
    return {
        "alpha": latency_model.alpha_ms,
        "beta": latency_model.beta_ms,
        "gamma": latency_model.gamma_ms,
    }


def _score(score: ReplayScore) -> dict[str, float]:
    return {
        "requests": score.requests,
        "e2eError": score.e2e_error,
        "ttftError": score.ttft_error,
        "e2eMape": score.e2e_mape,
    }
