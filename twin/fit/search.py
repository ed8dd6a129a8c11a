"""alpha, beta and gamma of a replica from a request log: the latency model whose replay comes
nearest to what was measured.

A log holds no iteration times, so the latency model is found by simulation: robust least squares
over times to first token and times of decoding. docs/validation.md says how well this does.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
import numpy.typing as npt

from twin.fit.descent import best_shares, loss
from twin.fit.exposure import ceilings_ms
from twin.fit.replay import ReplayScore, ReplicaLimits, check_fits, replay, score
from twin.fit.request_csv import RequestRows, Times, read_request_rows
from twin.spec import AdmissionRule, LatencyModel, SpecError

Vector = npt.NDArray[np.float64]

ROWS_MIN = 10
ROWS_FITTED_MAX = 1000  # of a longer log, unless told otherwise: a fit replays them some 900 times
# of a latency, beside the iteration on which a token falls: how far a good replay may miss
SPREAD = 0.01
TIMER_S = 0.001  # what the clock of a log is trusted to resolve
CUT_TOLERANCE = (
    0.02  # of a decode: by how much a replay that lacks the later requests may be slower
)
NEARLY_FACTOR, NEARLY_EXTRA = (
    1.1,
    4.0,
)  # of the least loss, and on top of it: what counts as nearly as good


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """The latency model found, and how a replay of the whole log with it scores.

    lowest and highest hold each coefficient's extremes among the latency models tried that fit
    nearly as well: where they are far apart the log does not tell the coefficients from each other,
    and only their sum over its batches is known. fitted are the rows, in order of arrival, whose
    times were used; held_out is the score of the rows after them, None where there are none.
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
        # Where later requests were cut off, the batch is known only until the last one seen had its
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
