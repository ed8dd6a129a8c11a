"""The search for the latency model of operating points: means hardly jump, so it follows slopes,
and finds p and what the host does besides; in a tenth of the replays of a search in logs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import least_squares

from twin.fit.datasheet import SEQUENCE_MS
from twin.fit.descent import Residuals
from twin.fit.exposure import Vector, rough_model
from twin.fit.search import COEFFICIENTS, Family, Search
from twin.spec import LatencyModel

# What is searched for: the logarithms of what multiplies alpha, beta and gamma of where it begins;
# and of a roofline 1 / p, with synchronous scheduling also what the host does for each request of
# an iteration [ms]. Their bounds, and how far apart two points are that a slope is taken of: TTFT
# jumps by a per cent wherever arrivals fall into other iterations, and slopes over narrow steps
# ended a search where it happened to begin.
LOWEST, HIGHEST = (-2.0, -2.0, -2.0, 0.25, 0.0), (2.0, 2.0, 2.0, 1.0, 0.1)
WIDE = (0.05, 0.15, 0.15, 0.1, 0.01)
# What is thought of the last two, and one standard deviation of it: p is 1.5 and more of H100s.
FORM, FORM_SPREADS = (1.0 / 1.5, SEQUENCE_MS), (0.2, 0.01)
ROUNDS = 12  # at most
# A search keeps inside its bounds. What comes so near to one, as a share of their distance, is at
# it: 1 / p of 1 is the sum.
AT_BOUND = 1e-3
# Slopes are taken anew so often; between, they follow what the steps show.
FRESH = 3
ENOUGH = 1e-3  # a share of the loss, of which a further round is not worth its time


class PointSearch(Search):
    """The search for the latency model of *logs*, all of which are tables of operating points."""

    def best(self) -> tuple[LatencyModel, float]:
        """Search; return the latency model and the overhead [ms]."""
        begin_ms = self._start if self._start is not None else self._rough_ms()
        here = np.concatenate([np.zeros(len(COEFFICIENTS)), self._form()])

        def residuals(values: Vector) -> Vector:
            form = values[len(COEFFICIENTS) :]
            self._family = self._formed(form)
            shares = begin_ms * np.exp(values[: len(COEFFICIENTS)]) / self._ceilings
            apart = (form - FORM[: len(form)]) / FORM_SPREADS[: len(form)]
            return np.concatenate([self._residuals(shares), apart])

        sloped = _Sloped(residuals)
        found = least_squares(
            sloped.residuals,
            here,
            jac=sloped.slopes,
            bounds=(LOWEST[: len(here)], HIGHEST[: len(here)]),
            loss="soft_l1",
            ftol=ENOUGH,
            max_nfev=ROUNDS,
        )
        self.cost = float(found.cost)
        self.best_ms = begin_ms * np.exp(found.x[: len(COEFFICIENTS)])
        self._family = self._formed(at_bounds(found.x)[len(COEFFICIENTS) :])
        latency_model = self._model(self.best_ms)
        return latency_model, self._overhead_s(self._found(latency_model)) * 1e3

    def _rough_ms(self) -> Vector:
        """Return where to begin: at the data sheet, else at what the decodes tell without a
        simulation.
        """
        if self._prior is not None:
            models = [self._prior.latency_model]
        else:
            models = [
                rough_model(rows.part(self._part), limits=self._limits) for rows in self._logs
            ]
        rough_ms: Vector = np.mean(
            [[getattr(model, field) for _, field, _ in COEFFICIENTS] for model in models], axis=0
        )
        return rough_ms

    def _form(self) -> Vector:
        family = self._family
        if family.p == 1.0:
            return np.zeros(0)
        if family.scheduling == "async":  # leaves nothing of the host to be seen
            return np.array([1.0 / family.p])
        return np.array([1.0 / family.p, family.sequence_ms])

    def _formed(self, form: Vector) -> Family:
        if not len(form):
            return self._family
        sequence_ms = float(sum(form[1:]))
        return replace(self._family, p=1.0 / float(form[0]), sequence_ms=sequence_ms)


def at_bounds(values: Vector) -> Vector:
    """Return *values* with what is next to a bound at it."""
    lowest, highest = np.array(LOWEST[: len(values)]), np.array(HIGHEST[: len(values)])
    near = AT_BOUND * (highest - lowest)
    low = np.where(values - lowest < near, lowest, values)
    return np.where(highest - low < near, highest, low)


class _Sloped:
    """Residuals and their slopes, over wide steps."""

    def __init__(self, residuals: Residuals) -> None:
        self._residuals = residuals
        self._last: tuple[Vector, Vector] = (np.zeros(0), np.zeros(0))
        # Where slopes were last asked for: values, residuals, slopes; and how often.
        self._sloped: tuple[Vector, Vector, Vector] | None = None
        self._turn = 0

    def residuals(self, values: Vector) -> Vector:
        """Return the residuals at *values*."""
        self._last = values.copy(), self._residuals(values)
        return self._last[1]

    def slopes(self, values: Vector) -> Vector:
        """Return the slopes at *values*, those of each residual a row."""
        if not np.array_equal(self._last[0], values):
            self.residuals(values)
        here = self._last[1]
        if self._sloped is None or self._turn % FRESH == 0:
            slopes = self._taken(values, here)
        else:
            # Those before, with what the step has shown along itself (Broyden).
            values_before, before, slopes = self._sloped
            step = values - values_before
            off = here - before - slopes @ step
            slopes = slopes + np.outer(off, step) / max(float(step @ step), 1e-12)
        self._turn += 1
        self._sloped = values.copy(), here, slopes
        return slopes

    def _taken(self, values: Vector, here: Vector) -> Vector:
        columns = []
        for place, wide in enumerate(WIDE[: len(values)]):
            # Away from a bound that is near.
            move = wide if values[place] + wide <= HIGHEST[place] else -wide
            there = values.copy()
            there[place] += move
            columns.append((self._residuals(there) - here) / move)
        taken: Vector = np.array(columns).T
        return taken
