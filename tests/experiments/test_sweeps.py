"""Claims about the fits of GuideLLM's sweeps."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.validation.sweeps import ROUNDS, START, Fit, data_sheet, steps


@pytest.mark.costly
def test_where_the_search_begins_hardly_changes_a_fit() -> None:
    """A data sheet that says 20 % more moves the start; a fit that followed it would be of the data
    sheet, not of what was measured.
    """
    loaded = [each for each in steps("guidellm_exp2") if each[1].rate_rps]
    some = [each for each in loaded if each[0] in ("64x1024", "4096x256")][::3]
    fit = Fit(some, data_sheet("qwen2.5-14b"), "async")
    one, other = (
        fit.model(fit.best(np.array(start), rounds=ROUNDS)[0]).latency_model
        for start in (START, (0.2, -0.2, 0.2, START[3] + 0.2))
    )
    assert one.alpha_ms == pytest.approx(other.alpha_ms, rel=0.02)
    assert one.beta_ms == pytest.approx(other.beta_ms, rel=0.04)
    assert one.gamma_ms == pytest.approx(other.gamma_ms, rel=0.04)
