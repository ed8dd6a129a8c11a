"""alpha, beta and gamma of a replica from a request log: the law whose replay comes nearest to what was measured.

A log holds no iteration times, so the law is found by simulation: robust least squares over the times of first and last
tokens. Where memory runs short the misfit is rugged, since a small change of the law lets another request be preempted.
Hence several descents from starts far apart, and a simplex at the end. docs/validation.md says how well this does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import inf
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares, minimize

from twin.exposure import ceilings_ms
from twin.replay import ReplayScore, ReplicaLimits, check_fits, replay, score
from twin.request_csv import RequestRows, Times, read_request_rows
from twin.spec import AdmissionRule, IterationLaw, SpecError

Vector = npt.NDArray[np.float64]
Residuals = Callable[[Vector], Vector]

ROWS_MIN = 10
ROWS_FITTED_MAX = 1000  # of a longer log, unless told otherwise: a fit replays them some 700 times
SPREAD = 0.01  # of the end-to-end latency, beside one iteration: how far a good replay may miss a token
CUT_TOLERANCE = 0.02  # of the end-to-end latency: what a replay without the later requests may be late
SHARES = 6  # parts into which the time of an iteration is divided to make starts
SCALES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1)  # of such a start: the ceilings are rough
DESCENTS, APART = 6, 0.12  # starts to descend from, and how much their shares differ at least
STEPS = (0.1, 0.03)  # of the differences in a Jacobian: coarse ones see past the jumps of single events
POLISH_EVALUATIONS = 150
NEARLY_FACTOR, NEARLY_EXTRA = 1.1, 4.0  # of the least loss, and on top of it: what counts as nearly as good


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """The law found, and how a replay of the whole log with it scores.

    lowest and highest hold each coefficient's extremes among the laws tried that fit nearly as well: where they are far
    apart the log does not tell the coefficients from each other, and only their sum over its batches is known. fitted
    are the rows, in order of arrival, whose times were used; held_out is the score of the rows after them, None where
    there are none. evaluations is how many replays the fit took.
    """

    source: str
    law: IterationLaw
    lowest: IterationLaw
    highest: IterationLaw
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
    """Fit the request log *path* (see twin.request_csv) of a replica that began idle; limits as in ReplicaLimits.

    rows are the requests to fit, in order of arrival; None means all, up to ROWS_FITTED_MAX. Raise SpecError, one line,
    for a log or a limit that cannot be.
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
    """Fit the requests *fitted* of *rows*; see fit_file. The fit sees no row after them, the scores see all."""
    start, stop, step = (fitted or slice(ROWS_FITTED_MAX)).indices(len(rows))
    if step != 1 or stop - start < ROWS_MIN:
        raise SpecError(f"{rows.source}: expected at least {ROWS_MIN} rows to fit, found {max(stop - start, 0)}")
    check_fits(rows, limits)
    seen = rows.part(slice(stop))
    misfit = _Misfit(seen, limits=limits, start=start, is_cut=stop < len(rows))
    ceilings = ceilings_ms(seen, token_budget=limits.token_budget)
    tried: list[tuple[Vector, float]] = []

    def residuals(shares: Vector) -> Vector:
        found = misfit.residuals(_law(shares * ceilings))
        tried.append((shares, _loss(found)))
        return found

    law = _law(_best_shares(residuals) * ceilings)
    best = min(loss for _, loss in tried)
    good = np.array([shares for shares, loss in tried if loss <= best * NEARLY_FACTOR + NEARLY_EXTRA])
    replayed = replay(rows, law=law, limits=limits)
    return FitResult(
        source=rows.source,
        law=law,
        lowest=_law(good.min(axis=0) * ceilings),
        highest=_law(good.max(axis=0) * ceilings),
        limits=limits,
        fitted=slice(start, stop),
        all_rows=score(rows, replayed, of=slice(None)),
        fitted_rows=score(rows, replayed, of=slice(start, stop)),
        held_out=score(rows, replayed, of=slice(stop, None)) if stop < len(rows) else None,
        preemptions=int(replayed.preemptions.sum()),
        evaluations=len(tried),
    )


class _Misfit:
    """Residuals of a law: differences of token times, in units of how far a good replay may miss them."""

    def __init__(self, rows: RequestRows, *, limits: ReplicaLimits, start: int, is_cut: bool) -> None:
        self._rows = rows
        self._limits = limits
        self._fitted = slice(start, None)
        self._measured = measured = rows.part(self._fitted)
        gap_s = (measured.last_token_s - measured.first_token_s) / np.maximum(measured.output_tokens - 1, 1)
        self._spread_s = np.hypot(SPREAD * measured.e2e_s, gap_s)
        # Where later requests were cut off, the batch is known only until the last one seen had its first token. What
        # ended after that was slowed by requests that are not in the replay: it bounds the law from one side only.
        self._known = measured.last_token_s <= (measured.first_token_s.max() if is_cut else inf)
        self._tolerance_s = CUT_TOLERANCE * measured.e2e_s

    def residuals(self, law: IterationLaw) -> Times:
        """Replay with *law*; return the residuals of the first and then of the last tokens."""
        replayed = replay(self._rows, law=law, limits=self._limits)
        first_s = replayed.first_token_s[self._fitted] - self._measured.first_token_s
        last_s = replayed.last_token_s[self._fitted] - self._measured.last_token_s
        last_s = np.where(self._known, last_s, np.maximum(last_s - self._tolerance_s, 0.0))
        return np.concatenate([first_s / self._spread_s, last_s / self._spread_s])


def _best_shares(residuals: Residuals) -> Vector:
    """Return the shares of the ceilings, one a coefficient, that fit best."""

    def cost(shares: Vector) -> float:
        return _loss(residuals(shares))

    best = min((_descend(residuals, start) for start in _starts(cost)), key=cost)
    # The cost jumps wherever two events change places; a simplex walks over those, a gradient does not.
    polished = minimize(
        cost,
        best,
        method="Nelder-Mead",
        bounds=[(0.0, None)] * len(best),
        options={
            "maxfev": POLISH_EVALUATIONS,
            "initial_simplex": np.vstack([best, best + 0.05 * np.diag(np.maximum(best, 0.2))]),
            "xatol": 1e-5,
            "fatol": 1e-6,
        },
    )
    shares: Vector = polished.x
    return shares


def _loss(residuals: Vector) -> float:
    """Cauchy's loss: a request that the replay preempts and the server did not must not steer the fit."""
    return float(np.log1p(residuals**2).sum())


def _starts(cost: Callable[[Vector], float]) -> Sequence[Vector]:
    """Return the best few of a grid over all ways to divide the time between the coefficients, not near each other."""
    thirds = [np.array(parts) + 1 / 3 for parts in product(range(SHARES), repeat=3) if sum(parts) == SHARES - 1]
    divisions = [division / division.sum() for division in thirds]
    ranked = sorted(
        ((cost(scale * division), scale, tuple(division)) for division in divisions for scale in SCALES),
    )
    chosen: list[tuple[float, Vector]] = []
    for _, scale, division in ranked:
        if len(chosen) < DESCENTS and all(np.abs(other - division).max() > APART for _, other in chosen):
            chosen.append((scale, np.array(division)))
    return [scale * division for scale, division in chosen]


def _descend(residuals: Residuals, start: Vector) -> Vector:
    shares = start
    for step in STEPS:
        found = least_squares(
            residuals,
            shares,
            jac=partial(_jacobian, residuals, step=step),
            bounds=(0.0, inf),
            loss="cauchy",
            max_nfev=10,
        )
        shares = found.x
    return shares


def _jacobian(residuals: Residuals, at: Vector, /, *, step: float) -> Vector:
    """Forward differences that are wide enough for a misfit with jumps, also where a share is nearly 0."""
    centre = residuals(at)
    widths = step * np.maximum(at, 0.1)
    columns = [(residuals(at + move) - centre) / move.sum() for move in np.diag(widths)]
    return np.stack(columns, axis=1)


def _law(ms: Vector) -> IterationLaw:
    alpha_ms, beta_ms, gamma_ms = (float(value) for value in ms)
    return IterationLaw(alpha_ms=alpha_ms, beta_ms=beta_ms, gamma_ms=gamma_ms)
