"""The search for the latency model whose replay comes nearest to what was measured.

A log holds no iteration times, so the latency model is found by simulation: robust least squares
over TTFT and over the time of decoding, in shares of itself, which is TPOT as well. TTFT may miss
by a share of E2E, so that both together hold E2E.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import inf
from typing import Self

import numpy as np

from twin.fit.datasheet import SPREADS, SPREADS_BELOW
from twin.fit.descent import best_shares, loss
from twin.fit.exposure import READ_TO_COMPUTED, Vector, ceilings_ms, shares_of_time
from twin.fit.replay import Replayed, ReplicaLimits, replay
from twin.fit.request_csv import RequestRows, Times
from twin.spec import LatencyModel, Scheduling

COEFFICIENTS = (
    ("alpha", "alpha_ms", "ms"),
    ("beta", "beta_ms", "ms/token"),
    ("gamma", "gamma_ms", "ms/KV token"),
)

# How far a good replay may miss, as a share of a latency, beside the iteration on which a token
# falls.
SPREAD = 0.01
# A percentile is of requests that no simulation draws again.
PERCENTILE_SPREAD = 0.05
# How far the means of an operating point are trusted whose table does not tell.
TTFT_KNOWN, DECODE_KNOWN = 0.1, 0.05
TIMER_S = 0.001  # what the clock of a log is trusted to resolve
# A replay that lacks the later requests may be slower by this share of a decode.
CUT_TOLERANCE = 0.02
# What counts as nearly as good: so many times the least loss, and so much on top.
NEARLY_FACTOR, NEARLY_EXTRA = 1.1, 4.0
# By what a coefficient is multiplied to see whether that would do as well, from near to far.
PROBES = ((0.85, 0.7, 0.5), (1.2, 1.4, 2.0))
HALVINGS = 2  # between the last of these that does as well and the first that does not
# One standard deviation of the logarithm of gamma over beta, of shipped models and accelerators.
READ_TO_COMPUTED_SPREAD = 1.0
# A prior says more than Cauchy's loss leaves of it from so many standard deviations on.
FAR, FAR_MAX = 3.0, 20.0
# Each point of a table is a simulation of its own: of more of them, a search is to be shorter.
MANY_POINTS = 12
OVERHEAD_MAX_S = 0.1  # more than this is a queue before the engine, not an overhead


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is thought of an engine before its log is seen, and how far off that may be.

    spreads are of alpha, beta and gamma: one standard deviation of the logarithm of each, above
    what is thought; spreads_below: below it (None: the same).
    """

    latency_model: LatencyModel
    spreads: tuple[float, float, float]
    spreads_below: tuple[float, float, float] | None = None

    def apart(self, logs: Vector) -> Vector:
        """Return how many standard deviations *logs* are, the logarithms of what alpha, beta and
        gamma are over what is thought.
        """
        below = np.array(self.spreads_below or self.spreads)
        apart: Vector = logs / np.where(logs < 0.0, below, np.array(self.spreads))
        return apart


def prior_of(sheet: LatencyModel) -> Prior:
    """Return what the data sheet says, *sheet*, and how far off that may be."""
    return Prior(latency_model=sheet, spreads=SPREADS, spreads_below=SPREADS_BELOW)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a figure is thought to be, and one standard deviation of how far below and above that it
    may be.
    """

    value: float
    spread_below: float
    spread_above: float

    def apart(self, figure: float) -> float:
        """Return how many standard deviations *figure* is from what is thought."""
        off = figure - self.value
        return off / (self.spread_below if off < 0.0 else self.spread_above)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What is not searched for but chosen: the form of the latency model, and how it plans.

    p, launch_share, of alpha, and sequence_ms are those of twin.spec.LatencyModel.
    """

    p: float
    launch_share: float
    scheduling: Scheduling
    sequence_ms: float = 0.0

    @property
    def name(self) -> str:
        """Return it in words."""
        form = "sum" if self.p == 1.0 else f"soft roofline (p {self.p:.3g})"
        host = f", {self.sequence_ms:.2g} ms a sequence" if self.sequence_ms else ""
        return f"{form}, {self.scheduling} scheduling{host}"


Tried = tuple[Vector, float]  # shares, and their loss

PLAIN = Family(p=1.0, launch_share=0.0, scheduling="sync")


class Search:
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
        is_brief: bool = False,
    ) -> None:
        self.evaluations = 0
        self._overhead = overhead
        self._logs = logs
        self._part = part
        self._limits = limits
        self._family = family
        self._prior = prior
        self._with_overhead = with_overhead
        self._with_decodes = any((rows.part(part).output_tokens > 1).any() for rows in logs)
        self._start = start
        self._is_brief = is_brief
        bounds = [(rows, part.indices(len(rows))) for rows in logs]
        self._misfits = [
            Misfit(
                rows.part(slice(stop)),
                limits=limits,
                scheduling=family.scheduling,
                start=begin,
                is_cut=stop < len(rows),
            )
            for rows, (begin, stop, _) in bounds
        ]
        self._ceilings = np.mean(
            [ceilings_ms(rows.part(slice(stop)), limits=limits) for rows, (_, stop, _) in bounds],
            axis=0,
        )
        self._tried: list[Tried] = []
        self.best_ms: Vector = self._ceilings

    @property
    def family(self) -> Family:
        """Return what was chosen, with what the search found of it."""
        return self._family

    def over(self, logs: Sequence[RequestRows], part: slice) -> Self:
        """Return the same search over other rows, from the best found here."""
        return type(self)(
            logs,
            part=part,
            limits=self._limits,
            prior=self._prior,
            with_overhead=self._with_overhead,
            family=self._family,
            start=self.best_ms,
            overhead=self._overhead,
            is_brief=any(len(rows.points) > MANY_POINTS for rows in self._logs),
        )

    def like(self, family: Family) -> Self:
        """Return a search of another family over the same rows, from the best found here.

        Where reading and computing overlap, the sum of both was shorter than either says alone: the
        coefficients start a little larger.
        """
        larger = 1.0 if family.p == self._family.p else 1.1
        search = type(self)(
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
        shares = best_shares(
            self._residuals, count=len(self._ceilings), start=start, is_brief=self._is_brief
        )
        self.best_ms = shares * self._ceilings
        latency_model = self._model(self.best_ms)
        return latency_model, self._overhead_s(self._found(latency_model)) * 1e3

    def probe(self) -> int:
        """Try each coefficient much smaller and much larger, the others, together and one by one,
        made so that decodes take as long as before: a search that began near its end has not seen
        how long the valley is. Return how many replays that took.
        """
        shares = np.concatenate(
            [shares_of_time(rows.part(self._part), limits=self._limits) for rows in self._logs]
        )
        before = self.evaluations
        here = min(self._tried, key=lambda tried: tried[1])
        for place, factors in product(range(len(COEFFICIENTS)), PROBES):
            rest = [other for other in range(len(COEFFICIENTS)) if other != place]
            for others in (rest, *([other] for other in rest)):
                good = here
                for factor in factors:
                    changed = self.best_ms.copy()
                    changed[place] *= factor
                    missing = shares @ (self.best_ms - changed)
                    step, *_ = np.linalg.lstsq(shares[:, others], missing, rcond=None)
                    changed[others] += step
                    tried = self._try(np.maximum(changed, 0.0) / self._ceilings)
                    # What is further out fits no better.
                    if tried[1] > self._nearly():
                        self._find_end(good, tried)
                        break
                    good = tried
        return self.evaluations - before

    def _find_end(self, good: Tried, bad: Tried) -> None:
        """Try between what fits nearly as well as the best and what does not, where the range of
        one would end at the steps of the probes.
        """
        for _ in range(HALVINGS):
            middle = self._try((good[0] + bad[0]) / 2.0)
            if middle[1] > self._nearly():
                bad = middle
            else:
                good = middle

    def _try(self, shares: Vector) -> Tried:
        self._residuals(shares)
        return self._tried[-1]

    def _nearly(self) -> float:
        """Return up to which loss a model fits nearly as well as the best."""
        return min(cost for _, cost in self._tried) * NEARLY_FACTOR + NEARLY_EXTRA

    def nearly_as_good(self) -> tuple[LatencyModel, LatencyModel]:
        """Return the extremes of each coefficient among what fits nearly as well as the best."""
        bound = self._nearly()
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
            sequence_ms=self._family.sequence_ms,
            **self._known(alpha_ms),
        )

    def _known(self, alpha_ms: float) -> dict[str, float]:
        """Return what the prior alone says, for no log tells: what of alpha reads experts, and how
        much longer a token takes late in a prompt.
        """
        if self._prior is None:
            return {}
        sheet = self._prior.latency_model
        known = {"attention": sheet.attention}
        if sheet.experts_ms:
            share = min(sheet.experts_ms / sheet.alpha_ms, 1.0 - self._family.launch_share)
            known |= {"experts_ms": alpha_ms * share, "experts_idle": sheet.experts_idle}
        return known

    def _residuals(self, shares: Vector) -> Vector:
        latency_model = self._model(shares * self._ceilings)
        found = self._found(latency_model)
        overhead_s = self._overhead_s(found)
        parts = [
            part
            for misfit, each in zip(self._misfits, found, strict=True)
            for part in misfit.residuals(each, overhead_s)
        ]
        if self._prior is not None:
            parts.append(_from_prior(latency_model, self._prior))
        elif not self._with_decodes:
            parts.append(_from_engines(latency_model))
        if self._overhead is not None:
            parts.append(_held(np.array([self._overhead.apart(overhead_s * 1e3)])))
        residuals = np.concatenate(parts)
        self._tried.append((shares, loss(residuals)))
        return residuals

    def _found(self, latency_model: LatencyModel) -> list[Found]:
        self.evaluations += 1
        return [misfit.replayed(latency_model) for misfit in self._misfits]

    def _overhead_s(self, found: Sequence[Found]) -> float:
        """Return the constant by which first tokens come late for no reason of the engine.

        It needs no search: given the latency model, the median of what is missing is the best,
        where what is known better counts for more.
        """
        if not self._with_overhead:
            return 0.0
        missing_s = -np.concatenate([each.late_s for each in found])
        counts = np.concatenate([misfit.first_counts for misfit in self._misfits])
        return float(np.clip(_median(missing_s, counts), 0.0, OVERHEAD_MAX_S))


def _by_factor(longer_s: Times, measured_s: Times) -> Times:
    """Return by how much longer than *measured_s* it took, were it as much longer as the logarithm
    of the ratio of both says.
    """
    scale_s = np.maximum(measured_s, TIMER_S)
    longer: Times = scale_s * np.log1p(longer_s / scale_s)
    return longer


def _median(values: Vector, counts: Vector) -> float:
    """Return the median of *values* that count for so much."""
    order = np.argsort(values)
    sums = np.cumsum(counts[order])
    place = np.searchsorted(sums, (0.5 * sums[-1], np.nextafter(0.5 * sums[-1], np.inf)))
    return float(values[order][place].mean())


def _from_prior(latency_model: LatencyModel, prior: Prior) -> Vector:
    ratios = [
        max(getattr(latency_model, field), 1e-12) / getattr(prior.latency_model, field)
        for _, field, _ in COEFFICIENTS
    ]
    return _held(prior.apart(np.log(ratios)))


def _from_engines(latency_model: LatencyModel) -> Vector:
    """Return how far gamma over beta is from that of engines, whichever they are: of prompts alone
    gamma may be anything, and was thirty times what any engine needs.
    """
    ratio = max(latency_model.gamma_ms, 1e-12) / max(latency_model.beta_ms, 1e-12)
    return _held(np.array([math.log(ratio / READ_TO_COMPUTED) / READ_TO_COMPUTED_SPREAD]))


def _held(apart: Vector) -> Vector:
    """Return *apart* [standard deviations] so that the loss does not stop to grow far out, as it
    does for what is measured: else a coefficient may be anything once it is off.
    """
    beyond = np.clip(np.abs(apart) - FAR, 0.0, FAR_MAX)
    held: Vector = apart * np.exp(0.5 * beyond**2)
    return held


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """By how much first tokens come late and decodes take longer than measured, and the percentiles
    that were found [s].
    """

    late_s: Times
    longer_s: Times
    percentiles_s: Times


class Misfit:
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
            known = point.known_within
            first, decode = (TTFT_KNOWN, DECODE_KNOWN) if known is None else (known, known)
            self._first_spread_s[place] = max(first * measured.ttft_s[place], TIMER_S)
            self._decode_spread_s[place] = max(decode * self._decode_s[place], TIMER_S)
        # Requests of a log count for the same each, whatever their times.
        self.first_counts: Times = (
            1.0 / self._first_spread_s if measured.points else np.ones(len(measured))
        )
        self._percentiles = [one for point in measured.points for one in point.percentiles]
        # If later requests were cut off, the batch is known only until the last one seen had its
        # first token. What ended after that was slowed by requests that are not in the replay: it
        # bounds the latency model from one side only.
        is_cut = is_cut and not rows.points  # points know nothing of each other
        self._known = measured.last_token_s <= (measured.first_token_s.max() if is_cut else inf)

    def replayed(self, latency_model: LatencyModel) -> Found:
        """Return what a replay gives beside what was measured."""
        replayed = replay(
            self._rows,
            latency_model=latency_model,
            limits=self._limits,
            scheduling=self._scheduling,
        )
        first_s = replayed.first_token_s[self._fitted]
        longer_s = replayed.last_token_s[self._fitted] - first_s - self._decode_s
        # The points before those that are fitted come first, and so do their percentiles.
        skipped = sum(
            len(point.percentiles) for point in self._rows.points[: self._fitted.start or 0]
        )
        return Found(
            late_s=first_s - self._first_token_s,
            longer_s=longer_s,
            percentiles_s=replayed.percentiles_s[skipped:],
        )

    def residuals(self, found: Found, overhead_s: float) -> tuple[Times, Times, Times]:
        """Return the residuals of the first tokens, of the decodes, and of the percentiles."""
        longer_s = np.where(
            self._known,
            found.longer_s,
            np.maximum(found.longer_s - CUT_TOLERANCE * self._decode_s, 0.0),
        )
        tails = [
            (value_s + (overhead_s if one.latency != "itl" else 0.0)) / one.value_s - 1.0
            for one, value_s in zip(self._percentiles, found.percentiles_s.tolist(), strict=True)
        ]
        late_s = found.late_s + overhead_s
        if self._rows.points:
            # A mean is off by a factor: twice as long is as wrong as half as long.
            late_s = _by_factor(late_s, self._first_token_s)
            longer_s = _by_factor(longer_s, self._decode_s)
        return (
            late_s / self._first_spread_s,
            longer_s / self._decode_spread_s,
            np.array(tails) / PERCENTILE_SPREAD,
        )
