"""Claims about the scale of a fit, in logs small enough to be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.twin.request_logs import arrivals, served
from twin.fit.exposure import ceilings_ms
from twin.fit.replay import ReplicaLimits
from twin.fit.request_csv import parse_request_rows
from twin.spec import LatencyModel

HEADER = "queued_s,first_token_s,last_token_s,input_tokens,output_tokens\n"
LIMITS = ReplicaLimits(max_batch=64, token_budget=2048)


def test_a_lone_decode_is_counted_by_hand() -> None:
    """Ten iterations in a second, one token each, 105 tokens of context in the middle."""
    rows = parse_request_rows(HEADER + "0,1,2,100,11\n", source="log.csv")
    np.testing.assert_allclose(
        ceilings_ms(rows, limits=LIMITS),
        [100.0, 100.0, 1000.0 / (10 * 105)],
    )


def test_what_runs_beside_a_decode_counts_with_it() -> None:
    """Two that decode together compute two tokens an iteration; a prefill in between adds its
    prompt.
    """
    together = parse_request_rows(HEADER + "0,1,2,100,11\n0,1,2,100,11\n", source="log.csv")
    np.testing.assert_allclose(
        ceilings_ms(together, limits=LIMITS),
        [100.0, 50.0, 1000.0 / (10 * 210)],
    )
    joined = parse_request_rows(HEADER + "0,1,2,100,11\n0,1.5,1.5,30,1\n", source="log.csv")
    assert ceilings_ms(joined, limits=LIMITS)[1] == pytest.approx(1000.0 / (10 + 30))


def test_a_log_without_decodes_is_scaled_by_its_prefills() -> None:
    """Embedding-like traffic asks for one token: there is nothing but times to first token."""
    rows = parse_request_rows(HEADER + "0,0.5,0.5,100,1\n", source="log.csv")
    np.testing.assert_allclose(
        ceilings_ms(rows, limits=ReplicaLimits(max_batch=64, token_budget=50)),
        [250.0, 5.0, 500.0 / 150.0],
    )


def test_the_shares_of_the_true_latency_model_are_about_one() -> None:
    """That is what makes the grid of starts cover every latency model, whatever the machine."""
    latency_model = LatencyModel(alpha_ms=12.0, beta_ms=0.05, gamma_ms=1e-4)
    limits = ReplicaLimits(max_batch=32, token_budget=2048)
    rng = np.random.default_rng(6)
    rows, _ = served(
        arrivals(rng, requests=200, rate_rps=3.0, prompt=400, output=150),
        latency_model=latency_model,
        limits=limits,
    )
    shares = np.array(
        [latency_model.alpha_ms, latency_model.beta_ms, latency_model.gamma_ms]
    ) / ceilings_ms(rows, limits=LIMITS)
    assert shares.sum() == pytest.approx(1.0, abs=0.1)
