"""The twin against measurements of real servers: the figures of docs/validation.md are still reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from twin.fit import FitResult, fit_file
from twin.replay import ReplayScore

RUNS = {
    "rtx4090-llama-3.1-8b": {"kv_tokens": 41408, "max_batch": 256},
    "rtxpro6000-llama-3.1-8b": {"kv_tokens": None, "max_batch": 128},
}
E2E, TTFT, MAPE = 0.02, 0.10, 0.03  # what a replay with a law fitted to all requests may be off


def fitted(shared: Path, run: str, *, rows: slice | None = None, **limits: int | None) -> FitResult:
    """Return the fit of *run*; *limits* overrule those of its server."""
    path = shared / "validation" / "vllm-runs" / f"{run}.csv"
    return fit_file(path, token_budget=2048, rows=rows, **{**RUNS[run], **limits})  # type: ignore[arg-type]


def check(score: ReplayScore, *, times: float) -> None:
    """Assert that *score* is within the errors allowed, so many times."""
    assert abs(score.e2e_error) <= times * E2E
    assert abs(score.ttft_error) <= times * TTFT
    assert score.e2e_mape <= times * MAPE


@pytest.mark.parametrize("run", RUNS)
def test_a_replay_is_as_fast_as_the_real_server(run: str, shared: Path) -> None:
    """Three coefficients and the server's limits must explain 300 requests, preempted ones included."""
    check(fitted(shared, run).all_rows, times=1.0)


@pytest.mark.parametrize("run", RUNS)
def test_a_law_of_the_first_half_holds_for_the_second(run: str, shared: Path) -> None:
    """A law that only retells what it was fitted to would be worth nothing."""
    found = fitted(shared, run, rows=slice(0, 150))
    assert found.held_out is not None
    assert found.held_out.requests == 150
    check(found.held_out, times=2.0)


def test_without_its_memory_limit_the_small_card_cannot_be_explained(shared: Path) -> None:
    """The KV model earns its keep: no law makes up for it."""
    score = fitted(shared, "rtx4090-llama-3.1-8b", kv_tokens=None).all_rows
    assert abs(score.e2e_error) > 5 * E2E
    assert score.e2e_mape > 5 * MAPE
