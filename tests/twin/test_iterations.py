"""The latency model from times of single iterations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gpu.iteration import BATCHES, CONTEXTS, PROMPTS
from twin.fit.iterations import Iteration, fit_iterations, predicted_ms
from twin.spec import LatencyModel, SpecError

ATTENTION = 3.5e-5


def _grid(model: LatencyModel, *, noise: float = 0.0) -> list[Iteration]:
    """Return the iterations that the measurement makes, as *model* has them."""
    rng = np.random.default_rng(1)
    shapes = [
        Iteration(batch=batch, context=context, tokens=1, time_ms=1.0)
        for batch in BATCHES
        for context in CONTEXTS
    ] + [Iteration(batch=1, context=0, tokens=tokens, time_ms=1.0) for tokens in PROMPTS]
    return [
        replace(shape, time_ms=predicted_ms(model, shape) * float(np.exp(noise * rng.normal())))
        for shape in shapes
    ]


@pytest.mark.costly
@given(
    launch=st.floats(0.2, 3.0),
    weights=st.floats(2.0, 30.0),
    beta=st.floats(0.005, 0.2),
    gamma=st.floats(1e-5, 2e-4),
    p=st.floats(1.0, 3.5),
)
def test_what_made_the_times_is_found(
    launch: float, weights: float, beta: float, gamma: float, p: float
) -> None:
    """All five at once: launch and weights show apart only where prompts are long."""
    model = LatencyModel(
        alpha_ms=launch + weights,
        beta_ms=beta,
        gamma_ms=gamma,
        launch_ms=launch,
        p=p,
        attention=ATTENTION,
    )
    measured = _grid(model)
    found = fit_iterations(measured, attention=ATTENTION)
    times = np.array([each.time_ms for each in measured])
    again = np.array([predicted_ms(found, each) for each in measured])
    assert np.abs(again / times - 1.0).max() < 0.01
    assert found.beta_ms == pytest.approx(beta, rel=0.02)
    assert found.gamma_ms == pytest.approx(gamma, rel=0.02)
    assert found.alpha_ms == pytest.approx(launch + weights, rel=0.02)


def test_a_few_wrong_times_do_not_move_it() -> None:
    """A GPU that was throttled for a moment, or another process."""
    model = LatencyModel(alpha_ms=7.0, beta_ms=0.02, gamma_ms=5e-5, launch_ms=1.0, p=1.5)
    measured = _grid(model, noise=0.02)
    measured[5] = replace(measured[5], time_ms=8.0 * measured[5].time_ms)
    found = fit_iterations(measured)
    assert found.alpha_ms == pytest.approx(7.0, rel=0.03)
    assert found.beta_ms == pytest.approx(0.02, rel=0.05)
    assert found.gamma_ms == pytest.approx(5e-5, rel=0.05)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_times_that_are_none_are_refused(wrong: float) -> None:
    """A logarithm of them would spoil all."""
    measured = _grid(LatencyModel(alpha_ms=7.0, beta_ms=0.02, gamma_ms=5e-5))
    measured[3] = replace(measured[3], time_ms=wrong)
    with pytest.raises(SpecError, match="expected times > 0 ms"):
        fit_iterations(measured)


def test_decodes_alone_are_too_few() -> None:
    """They show no beta."""
    measured = _grid(LatencyModel(alpha_ms=7.0, beta_ms=0.02, gamma_ms=5e-5))
    decodes = [each for each in measured if each.is_decode]
    with pytest.raises(SpecError, match=f"found {len(decodes)} decodes and 0 prefills"):
        fit_iterations(decodes)
