"""alpha, beta and gamma of a replica from request logs: the latency model whose replay comes
nearest to what was measured.

A log holds no iteration times, so the latency model is found by simulation: robust least squares
over times to first token and times of decoding. docs/validation.md says how well this does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import inf

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from twin.fit.descent import best_shares, loss
from twin.fit.replay import (
    Replayed,
    ReplayScore,
    ReplicaLimits,
    check_fits,
    replay,
    score_logs,
)
from twin.fit.request_csv import RequestRows, Times
from twin.spec import LatencyModel, Scheduling, SpecError

Vector = npt.NDArray[np.float64]

COEFFICIENTS = (
    ("alpha", "alpha_ms", "ms"),
    ("beta", "beta_ms", "ms/token"),
    ("gamma", "gamma_ms", "ms/KV token"),
)

ROWS_MIN = 10
POINTS_MIN = 3  # of a table of operating points, each of which stands for many requests
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
# What a coefficient makes of a decode at least, before anything is searched.
ROUGH_SHARE = 0.05
# By what a coefficient is multiplied to see whether that would do as well.
PROBES = (0.5, 0.7, 0.85, 1.2, 1.4, 2.0)
OVERHEAD_MAX_S = 0.1  # more than this is a queue before the engine, not an overhead
# Requests whose time is looked at for the scale; every request counts as what runs beside them.
SAMPLE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is thought of an engine before its log is seen, and how far off that may be.

    spreads are of alpha, beta and gamma: one standard deviation of the logarithm of each.
    """

    latency_model: LatencyModel
    spreads: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a figure is thought to be, and one standard deviation of how far off that may be."""

    value: float
    spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What is not searched for but chosen: the form of the latency model, and how it plans.

    p and launch_share, of alpha, are those of twin.spec.LatencyModel.
    """

    p: float
    launch_share: float
    scheduling: Scheduling

    @property
    def name(self) -> str:
        """Return it in words."""
        form = "sum" if self.p == 1.0 else f"soft roofline (p {self.p:g})"
        return f"{form}, {self.scheduling} scheduling"


# How much of alpha is launching, not reading the weights: between 10 and 30 % by data sheets.
LAUNCH_SHARE = 0.2
PLAIN = Family(p=1.0, launch_share=0.0, scheduling="sync")
FAMILIES = (
    PLAIN,
    Family(p=1.0, launch_share=0.0, scheduling="async"),
    Family(p=1.5, launch_share=LAUNCH_SHARE, scheduling="sync"),
    Family(p=1.5, launch_share=LAUNCH_SHARE, scheduling="async"),
)
# Another family than the plain one must predict the second halves better by this share.
BETTER = 0.05
# How much an error of TTFT counts beside one of E2E in that choice.
TTFT_COUNTS = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """The latency model found, and how a replay of the whole logs with it scores.

    overhead_ms is what a request spends outside the engine, found with the model if it was asked
    for, else 0. lowest and highest hold each coefficient's extremes among the latency models tried
    that fit nearly as well: if they are far apart the logs do not tell the coefficients from each
    other, and only their sum over its batches is known. fitted are the rows of each log, in order
    of arrival, whose times were used; held_out is the score of the rows after them, None if there
    are none. family was chosen by check, the score of the second halves of the fitted rows by a
    model fitted on the first halves; None if a log is too short for it. families holds such scores
    of all that were tried. evaluations is how many replays the fit took.
    """

    sources: tuple[str, ...]
    failed: int
    family: Family
    families: Mapping[Family, ReplayScore]
    latency_model: LatencyModel
    overhead_ms: float
    lowest: LatencyModel
    highest: LatencyModel
    limits: ReplicaLimits
    fitted: slice
    prior: Prior | None
    all_rows: ReplayScore
    fitted_rows: ReplayScore
    held_out: ReplayScore | None
    check: ReplayScore | None
    preemptions: int
    evaluations: int


def fit_logs(
    logs: Sequence[RequestRows],
    *,
    limits: ReplicaLimits,
    fitted: slice | None = None,
    prior: Prior | None = None,
    with_overhead: bool = False,
    families: Sequence[Family] = (PLAIN,),
    start: LatencyModel | None = None,
    overhead: Expected | None = None,
) -> FitResult:
    """Fit the requests *fitted* of each of *logs*, of a replica that began each of them idle.

    fitted None means all, up to ROWS_FITTED_MAX together. The fit sees no row after them, the
    scores see all. with_overhead asks for the time that requests spend outside the engine, as logs
    of clients hold it. With *start* the search begins near that model instead of everywhere, which
    takes a tenth of the time. *overhead* is what is thought of that time before. Raise SpecError,
    one line, for a log or a limit that cannot be.
    """
    part = fitted or slice(max(ROWS_FITTED_MAX // len(logs), ROWS_MIN))
    _check(logs, part, limits)
    search = _Search(
        logs,
        part=part,
        limits=limits,
        prior=prior,
        with_overhead=with_overhead,
        family=families[0],
        start=_figures(start),
        overhead=overhead,
    )
    latency_model, overhead_ms = search.best()
    evaluations = search.evaluations
    stop = max(part.indices(len(rows))[1] for rows in logs)
    seen = [rows.part(part) for rows in logs]
    halves: dict[Family, ReplayScore] = {}
    if min(map(len, seen)) >= 2 * ROWS_MIN:
        for family in families:
            halves[family], tried = _halves(seen, search.like(family))
            evaluations += tried
    family = _chosen(halves, families)
    if family != families[0]:
        search = search.like(family)
        latency_model, overhead_ms = search.best()
        evaluations += search.evaluations
    evaluations += search.probe() if start is not None else 0
    lowest, highest = search.nearly_as_good()
    replays = search.replays(logs, latency_model, overhead_ms)
    held_out = slice(stop, None)
    some_held_out = all(len(rows) > stop for rows in logs)
    return FitResult(
        sources=tuple(rows.source for rows in logs),
        failed=sum(rows.failed for rows in logs),
        family=family,
        families=halves,
        latency_model=latency_model,
        overhead_ms=overhead_ms,
        lowest=lowest,
        highest=highest,
        limits=limits,
        fitted=part,
        prior=prior,
        all_rows=score_logs(logs, replays, of=slice(None)),
        fitted_rows=score_logs(logs, replays, of=part),
        held_out=score_logs(logs, replays, of=held_out) if some_held_out else None,
        check=halves.get(family),
        preemptions=sum(int(replayed.preemptions.sum()) for replayed in replays),
        evaluations=evaluations,
    )


def _figures(model: LatencyModel | None) -> Vector | None:
    if model is None:
        return None
    return np.array([getattr(model, field) for _, field, _ in COEFFICIENTS])


def _check(logs: Sequence[RequestRows], part: slice, limits: ReplicaLimits) -> None:
    for rows in logs:
        _check_part(rows, part)
        check_fits(rows, limits)


def _check_part(rows: RequestRows, part: slice) -> None:
    start, stop, step = part.indices(len(rows))
    rows_min = POINTS_MIN if rows.points else ROWS_MIN
    if step != 1 or stop - start < rows_min:
        found = len(range(start, stop)) if step == 1 else 1
        raise SpecError(
            f"{rows.source}: expected at least {rows_min} consecutive rows to fit, found {found}"
        )


def _chosen(halves: Mapping[Family, ReplayScore], families: Sequence[Family]) -> Family:
    """Return the family that predicts best; the first of *families* unless another is clearly
    better.
    """

    def error(family: Family) -> float:
        return halves[family].e2e_mape + TTFT_COUNTS * halves[family].ttft_mape

    if not halves:
        return families[0]
    best = min(halves, key=error)
    return best if error(best) < (1.0 - BETTER) * error(families[0]) else families[0]


def _halves(seen: Sequence[RequestRows], search: _Search) -> tuple[ReplayScore, int]:
    """Return how a model of the first halves of *seen* predicts the second ones, and the replays
    that this took.

    The search starts at the model of the whole: that saves time, and the halves decide where it
    ends.
    """
    half = min(map(len, seen)) // 2
    search = search.over(seen, slice(half))
    latency_model, overhead_ms = search.best()
    replays = search.replays(seen, latency_model, overhead_ms)
    return score_logs(seen, replays, of=slice(half, None)), search.evaluations


class _Search:
    """The search for the latency model of *logs*, and what it has tried."""

    def __init__(
        self,
        logs: Sequence[RequestRows],
        *,
        part: slice,
        limits: ReplicaLimits,
        prior: Prior | None,
        with_overhead: bool,
        family: Family,
        start: Vector | None = None,
        overhead: Expected | None = None,
    ) -> None:
        self.evaluations = 0
        self._overhead = overhead
        self._logs = logs
        self._part = part
        self._limits = limits
        self._family = family
        self._prior = prior
        self._with_overhead = with_overhead
        self._start = start
        bounds = [(rows, part.indices(len(rows))) for rows in logs]
        self._misfits = [
            _Misfit(
                rows.part(slice(stop)),
                limits=limits,
                scheduling=family.scheduling,
                start=begin,
                is_cut=stop < len(rows),
            )
            for rows, (begin, stop, _) in bounds
        ]
        self._ceilings = np.mean(
            [
                ceilings_ms(rows.part(slice(stop)), token_budget=limits.token_budget)
                for rows, (_, stop, _) in bounds
            ],
            axis=0,
        )
        self._tried: list[tuple[Vector, float]] = []
        self.best_ms: Vector = self._ceilings

    def over(self, logs: Sequence[RequestRows], part: slice) -> _Search:
        """Return the same search over other rows, from the best found here."""
        return _Search(
            logs,
            part=part,
            limits=self._limits,
            prior=self._prior,
            with_overhead=self._with_overhead,
            family=self._family,
            start=self.best_ms,
            overhead=self._overhead,
        )

    def like(self, family: Family) -> _Search:
        """Return a search of another family over the same rows, from the best found here.

        Where reading and computing overlap, the sum of both was shorter than either says alone: the
        coefficients start a little larger.
        """
        larger = 1.0 if family.p == self._family.p else 1.1
        search = _Search(
            self._logs,
            part=self._part,
            limits=self._limits,
            prior=self._prior,
            with_overhead=self._with_overhead,
            family=family,
            start=self.best_ms * larger,
            overhead=self._overhead,
        )
        search.best_ms = self.best_ms * larger
        return search

    def replays(
        self, logs: Sequence[RequestRows], latency_model: LatencyModel, overhead_ms: float
    ) -> list[Replayed]:
        """Return the replays of *logs* as a client sees them."""
        overhead_s = overhead_ms / 1e3
        replays = [
            replay(
                rows,
                latency_model=latency_model,
                limits=self._limits,
                scheduling=self._family.scheduling,
            )
            for rows in logs
        ]
        return [
            replace(
                replayed,
                first_token_s=replayed.first_token_s + overhead_s,
                last_token_s=replayed.last_token_s + overhead_s,
            )
            for replayed in replays
        ]

    def best(self) -> tuple[LatencyModel, float]:
        """Search; return the latency model and the overhead [ms]."""
        start = None if self._start is None else self._start / self._ceilings
        shares = best_shares(self._residuals, count=len(self._ceilings), start=start)
        self.best_ms = shares * self._ceilings
        latency_model = self._model(self.best_ms)
        return latency_model, self._overhead_s(self._found(latency_model)) * 1e3

    def probe(self) -> int:
        """Try each coefficient much smaller and much larger, the others made so that decodes take
        as long as before: a search that began near its end has not seen how long the valley is.
        Return how many replays that took.
        """
        shares = np.concatenate(
            [
                _shares(rows.part(self._part), token_budget=self._limits.token_budget)
                for rows in self._logs
            ]
        )
        for place, factor in product(range(len(COEFFICIENTS)), PROBES):
            changed = self.best_ms.copy()
            changed[place] *= factor
            others = [other for other in range(len(COEFFICIENTS)) if other != place]
            missing = shares @ (self.best_ms - changed)
            step, *_ = np.linalg.lstsq(shares[:, others], missing, rcond=None)
            changed[others] += step
            self._residuals(np.maximum(changed, 0.0) / self._ceilings)
        return len(COEFFICIENTS) * len(PROBES)

    def nearly_as_good(self) -> tuple[LatencyModel, LatencyModel]:
        """Return the extremes of each coefficient among what fits nearly as well as the best."""
        bound = min(cost for _, cost in self._tried) * NEARLY_FACTOR + NEARLY_EXTRA
        good = np.array([shares for shares, cost in self._tried if cost <= bound])
        lowest, highest = good.min(axis=0), good.max(axis=0)
        return self._model(lowest * self._ceilings), self._model(highest * self._ceilings)

    def _model(self, ms: Vector) -> LatencyModel:
        alpha_ms, beta_ms, gamma_ms = (float(value) for value in ms)
        return LatencyModel(
            alpha_ms=alpha_ms,
            beta_ms=beta_ms,
            gamma_ms=gamma_ms,
            launch_ms=alpha_ms * self._family.launch_share,
            p=self._family.p,
        )

    def _residuals(self, shares: Vector) -> Vector:
        latency_model = self._model(shares * self._ceilings)
        found = self._found(latency_model)
        overhead_s = self._overhead_s(found)
        parts = [
            part
            for misfit, (late_s, longer_s) in zip(self._misfits, found, strict=True)
            for part in misfit.residuals(late_s + overhead_s, longer_s)
        ]
        if self._prior is not None:
            parts.append(_from_prior(latency_model, self._prior))
        if self._overhead is not None:
            apart_ms = overhead_s * 1e3 - self._overhead.value
            parts.append(np.array([apart_ms / self._overhead.spread]))
        residuals = np.concatenate(parts)
        self._tried.append((shares, loss(residuals)))
        return residuals

    def _found(self, latency_model: LatencyModel) -> list[tuple[Times, Times]]:
        self.evaluations += 1
        return [misfit.replayed(latency_model) for misfit in self._misfits]

    def _overhead_s(self, found: Sequence[tuple[Times, Times]]) -> float:
        """Return the constant by which first tokens come late for no reason of the engine.

        It needs no search: given the latency model, the median of what is missing is the best.
        """
        if not self._with_overhead:
            return 0.0
        missing_s = -np.concatenate([late_s for late_s, _ in found])
        return float(np.clip(np.median(missing_s), 0.0, OVERHEAD_MAX_S))


def _from_prior(latency_model: LatencyModel, prior: Prior) -> Vector:
    ratios = [
        max(getattr(latency_model, field), 1e-12) / getattr(prior.latency_model, field)
        for _, field, _ in COEFFICIENTS
    ]
    apart: Vector = np.log(ratios) / np.array(prior.spreads)
    return apart


class _Misfit:
    """Differences of measured and replayed times of one log, and their residuals: in units of how
    far a good replay may miss.
    """

    def __init__(
        self,
        rows: RequestRows,
        *,
        limits: ReplicaLimits,
        scheduling: Scheduling,
        start: int,
        is_cut: bool,
    ) -> None:
        self._rows = rows
        self._limits = limits
        self._scheduling: Scheduling = scheduling
        self._fitted = slice(start, None)
        measured = rows.part(self._fitted)
        self._first_token_s = measured.first_token_s
        self._decode_s = measured.last_token_s - measured.first_token_s
        gap_s = self._decode_s / np.maximum(measured.output_tokens - 1, 1)
        # A first token may fall an iteration early or late; a decode has both its ends on
        # boundaries.
        self._first_spread_s = np.maximum(np.hypot(SPREAD * measured.e2e_s, gap_s), TIMER_S)
        self._decode_spread_s = np.maximum(np.hypot(SPREAD * self._decode_s, 0.3 * gap_s), TIMER_S)
        # Means over many requests know no iteration.
        for place, point in enumerate(measured.points):
            if point.known_within is not None:
                self._first_spread_s[place] = max(
                    point.known_within * measured.ttft_s[place], TIMER_S
                )
                self._decode_spread_s[place] = max(
                    point.known_within * self._decode_s[place], TIMER_S
                )
        # If later requests were cut off, the batch is known only until the last one seen had its
        # first token. What ended after that was slowed by requests that are not in the replay: it
        # bounds the latency model from one side only.
        is_cut = is_cut and not rows.points  # points know nothing of each other
        self._known = measured.last_token_s <= (measured.first_token_s.max() if is_cut else inf)

    def replayed(self, latency_model: LatencyModel) -> tuple[Times, Times]:
        """Return by how much first tokens come late and decodes take longer than measured [s]."""
        replayed = replay(
            self._rows,
            latency_model=latency_model,
            limits=self._limits,
            scheduling=self._scheduling,
        )
        first_s = replayed.first_token_s[self._fitted]
        longer_s = replayed.last_token_s[self._fitted] - first_s - self._decode_s
        return first_s - self._first_token_s, longer_s

    def residuals(self, late_s: Times, longer_s: Times) -> tuple[Times, Times]:
        """Return the residuals of the first tokens and of the decodes."""
        longer_s = np.where(
            self._known, longer_s, np.maximum(longer_s - CUT_TOLERANCE * self._decode_s, 0.0)
        )
        return late_s / self._first_spread_s, longer_s / self._decode_spread_s


# -- the scale of the search: what each coefficient could explain at most


def ceilings_ms(rows: RequestRows, *, token_budget: int) -> Vector:
    """Return the alpha [ms], beta [ms/token] and gamma [ms/KV token] that each alone would explain
    the times of *rows*.

    So a latency model is nearly `shares * ceilings_ms(...)` with shares >= 0 that sum to 1. Who was
    decoding when is read off the log, at each request's mean rate. Without any decode, the times to
    first token are taken as if no request waited.
    """
    ceilings: Vector = 1.0 / _shares(rows, token_budget=token_budget).mean(axis=0)
    return ceilings


def rough_model(rows: RequestRows, *, token_budget: int) -> LatencyModel:
    """Return a latency model that explains decodes by who ran when, without a simulation: good
    enough to begin a search at.
    """
    shares = _shares(rows, token_budget=token_budget)
    found, _ = nnls(shares, np.ones(len(shares)))
    # What comes out as nothing is hard to tell, and may be something: a search from 0 stays there.
    alpha_ms, beta_ms, gamma_ms = np.maximum(found, ROUGH_SHARE / shares.mean(axis=0)).tolist()
    return LatencyModel(alpha_ms=alpha_ms, beta_ms=beta_ms, gamma_ms=gamma_ms)


def _shares(rows: RequestRows, *, token_budget: int) -> Vector:
    """Return by row which part of its time a ms of alpha, beta and gamma makes."""
    exposure, time_ms = _steady(rows) if rows.points else _decodes(rows)
    if not len(time_ms):
        exposure, time_ms = _prefills(rows, token_budget=token_budget)
    shares: Vector = exposure / time_ms[:, None]
    return shares


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


def _steady(rows: RequestRows) -> tuple[Vector, Vector]:
    """The same of operating points: what runs at once follows from the load, by Little's law."""
    span_s, gaps = rows.last_token_s - rows.first_token_s, rows.output_tokens - 1.0
    several = gaps > 0
    batch = np.array(
        [
            float(point.users) if point.users is not None else (point.rate_rps or 0.0) * e2e_s
            for point, e2e_s in zip(rows.points, rows.e2e_s.tolist(), strict=True)
        ]
    )
    batch = np.maximum(batch, 1.0)
    # A decode token of each, and the prompt of whoever takes the place of one that ends.
    tokens = batch * (1.0 + rows.input_tokens / np.maximum(rows.output_tokens, 1))
    kv_tokens = batch * (rows.input_tokens + rows.output_tokens / 2.0)
    exposure = np.stack([gaps, gaps * tokens, gaps * kv_tokens], axis=1)
    return exposure[several], span_s[several] * 1e3


def _prefills(rows: RequestRows, *, token_budget: int) -> tuple[Vector, Vector]:
    """The same between arrival and first token, as if each request had been alone."""
    prompt = rows.input_tokens.astype(np.float64)
    chunks = np.ceil(prompt / token_budget)
    return np.stack([chunks, prompt, prompt * (chunks + 1.0) / 2.0], axis=1), rows.ttft_s * 1e3
