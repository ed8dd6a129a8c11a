"""Claims about speculative decoding: the optimizer estimates by the token what the twin does by the
step, and the Go rules know nothing of it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from loop.optimizer.catalog import PerfColumns
from loop.optimizer.model.queueing import analyze, make_model, replica_columns
from loop.optimizer.rules import go_today, ours
from loop.spec import Perf
from twin.fit.points import OperatingPoint, operate

PERF = Perf(
    model="m",
    accelerator="H100",
    alpha_ms=12.0,
    beta_ms=0.03,
    gamma_ms=6e-5,
    overhead_ms=7.0,
    tokens_per_step=2.5,
)


@pytest.mark.parametrize("p", [1.0, 1.5])
def test_the_estimate_of_itl_and_ttft_is_what_the_twin_does(p: float) -> None:
    """Without it ITL was thought 2.5 times as long, and so many replicas too many were asked for.
    The estimate has a decode step more in TTFT, the twin the rest of the step that runs.
    """
    perf = replace(PERF, launch_ms=2.0, p=p)
    columns = ours.perf(PerfColumns.of([perf]))
    found = analyze(
        make_model(
            replica_columns(
                alpha=columns.alpha,
                beta=columns.beta,
                gamma=columns.gamma,
                in_tokens=600,
                out_tokens=300,
                max_batch=64,
                overhead=columns.overhead,
                launch=columns.launch,
                p=columns.p,
            )
        ),
        np.array([0.006]),
    )
    twin = operate(
        OperatingPoint(rate_rps=6.0, input_tokens=600, output_tokens=300),
        latency_model=perf.latency_model,
        max_batch=64,
        token_budget=8192,
        overhead_ms=perf.overhead_ms,
        tokens_per_step=perf.tokens_per_step,
    )
    assert found.itl[0] == pytest.approx(twin.itl_s * 1e3, rel=0.04)
    assert found.ttft[0] == pytest.approx(twin.ttft_s * 1e3, rel=0.1)


def test_the_rules_of_go_do_not_know_of_it() -> None:
    """Their estimates are those of the Go optimizer, to the last digit."""
    with_steps, without = (
        go_today.perf(PerfColumns.of([replace(PERF, tokens_per_step=each)])) for each in (2.5, 1.0)
    )
    for name in PerfColumns.__slots__:
        if name != "per_step":
            assert getattr(with_steps, name) == getattr(without, name)


def test_without_it_the_estimate_is_the_same_to_the_last_bit() -> None:
    """A step that adds one token is a token."""
    given = PerfColumns.of([replace(PERF, tokens_per_step=1.0)])
    found = ours.perf(given)
    assert (found.alpha, found.gamma, found.overhead) == (given.fixed, given.gamma, given.overhead)
