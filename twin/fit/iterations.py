"""The latency model from times of single iterations, as a measurement of the GPU alone gives them.

No simulation is needed, as what each iteration computed and read is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from twin.engine.latency import iteration_ms, pairs_twice
from twin.fit.exposure import Vector
from twin.spec import LatencyModel, SpecError

# Of each of a, w, beta and gamma: the least and the most that an engine can have [ms].
LOWEST, HIGHEST = (1e-3, 1e-3, 1e-7, 1e-9), (1e4, 1e4, 10.0, 1.0)
# 1 / p: from nothing but the longer of reading and computing (nearly) to the sum of both.
FORMS = (0.25, 1.0)
ROWS_MIN = 8
OFF = 0.05  # errors beyond this share count less: a clock that was throttled, another process


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """One iteration: *batch* requests that compute *tokens* each after *context* tokens that are
    in the KV cache, and how long that took.
    """

    batch: int
    context: int
    tokens: int
    time_ms: float

    @property
    def is_decode(self) -> bool:
        """Tell whether it made the next token of answers."""
        return self.context > 0 and self.tokens == 1


def predicted_ms(model: LatencyModel, iteration: Iteration) -> float:
    """Return what *model* says of *iteration*."""
    decode = iteration.is_decode
    pairs = 0.0 if decode else pairs_twice(iteration.context, iteration.tokens) / 2.0
    return iteration_ms(
        model,
        tokens=iteration.batch * iteration.tokens,
        kv_tokens=iteration.batch * (iteration.context + iteration.tokens),
        pairs=iteration.batch * pairs,
    )


def fit_iterations(measured: Sequence[Iteration], *, attention: float = 0.0) -> LatencyModel:
    """Return the latency model that comes nearest to what was *measured*, by the shares of the
    times that are missing; *attention* is that of the model (twin.fit.datasheet).

    Raise SpecError if decodes and prefills of several sizes are not among them.
    """
    decodes = [each for each in measured if each.is_decode]
    prefills = [each for each in measured if not each.is_decode]
    sizes = {each.batch * each.context for each in decodes}, {each.tokens for each in prefills}
    if len(measured) < ROWS_MIN or any(len(each) < 2 for each in sizes):
        raise SpecError(
            f"iterations: expected {ROWS_MIN} or more, decodes and prefills of several sizes, "
            f"found {len(decodes)} decodes and {len(prefills)} prefills"
        )
    times_ms = np.array([each.time_ms for each in measured])
    if not (np.isfinite(times_ms) & (times_ms > 0.0)).all():
        raise SpecError("iterations: expected times > 0 ms, found others")

    def residuals(values: Vector) -> Vector:
        model = _model(values, attention)
        found = np.array([predicted_ms(model, each) for each in measured])
        logs: Vector = np.log(found / times_ms)
        return logs

    lowest, highest = (
        np.array([*np.log(bounds), form])
        for bounds, form in zip((LOWEST, HIGHEST), FORMS, strict=True)
    )
    found = least_squares(
        residuals,
        np.clip(_rough(decodes, prefills), lowest + 1e-6, highest - 1e-6),
        bounds=(lowest, highest),
        loss="soft_l1",
        f_scale=OFF,
        x_scale=(1.0, 1.0, 1.0, 1.0, 0.3),
    )
    return _model(found.x, attention)


def _rough(decodes: Sequence[Iteration], prefills: Sequence[Iteration]) -> Vector:
    """Return where to begin: the shortest decode reads the weights, the longest reads the most,
    the longest prefill computes.
    """
    first = min(decodes, key=lambda each: each.time_ms)
    reads = max(decodes, key=lambda each: each.batch * each.context)
    computes = max(prefills, key=lambda each: each.tokens)
    more = reads.batch * reads.context - first.batch * first.context
    gamma = max(reads.time_ms - first.time_ms, 1e-3) / max(more, 1)
    beta = computes.time_ms / computes.tokens
    return np.array([*np.log([0.1 * first.time_ms, 0.9 * first.time_ms, beta, gamma]), 1.0 / 1.5])


def _model(values: Vector, attention: float) -> LatencyModel:
    launch, weights, beta, gamma = (float(value) for value in np.exp(values[:4]))
    return LatencyModel(
        alpha_ms=launch + weights,
        beta_ms=beta,
        gamma_ms=gamma,
        launch_ms=launch,
        p=1.0 / float(values[4]),
        attention=attention,
    )
