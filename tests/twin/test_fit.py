"""Claims about fitting: latency models of logs that the twin made itself are found again, and bad
logs are told in one line.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.twin.request_logs import arrivals, served
from twin.fit.fitting import FAMILIES, FitResult, fit_logs
from twin.fit.logs import read_logs
from twin.fit.replay import ReplicaLimits, replay
from twin.fit.report import (
    CARRIED_MAX,
    faster_than_possible,
    fit_json,
    fit_text,
    not_identified,
    perf_parms,
)
from twin.fit.request_csv import RequestRows
from twin.fit.search import Prior
from twin.spec import LatencyModel, SpecError

pytestmark = pytest.mark.slow

MODEL = LatencyModel(alpha_ms=12.0, beta_ms=0.05, gamma_ms=1e-4)
AMPLE = ReplicaLimits(max_batch=64, token_budget=2048)
TIGHT = replace(AMPLE, kv_tokens=16000)


def errors(latency_model: LatencyModel, truth: LatencyModel) -> list[float]:
    """Return the relative errors of alpha, beta and gamma."""
    names = ("alpha_ms", "beta_ms", "gamma_ms")
    return [getattr(latency_model, name) / getattr(truth, name) - 1.0 for name in names]


def fit_rows(rows: RequestRows, *, limits: ReplicaLimits, fitted: slice | None = None) -> FitResult:
    """Return the fit of one log."""
    return fit_logs([rows], limits=limits, fitted=fitted)


def made(
    seed: int, *, latency_model: LatencyModel, limits: ReplicaLimits, requests: int = 60
) -> tuple[RequestRows, int]:
    """Return a log that the twin made, and how many preemptions are in it."""
    rng = np.random.default_rng(seed)
    rows, replayed = served(
        arrivals(rng, requests=requests, rate_rps=4.0, prompt=400, output=150),
        latency_model=latency_model,
        limits=limits,
    )
    return rows, int(replayed.preemptions.sum())


@pytest.mark.parametrize("seed", range(3))
def test_a_latency_model_drawn_at_random_is_found_again_within_two_percent(seed: int) -> None:
    """The fit knows nothing of the latency model: neither its size nor which part is the
    largest.
    """
    rng = np.random.default_rng((7, seed))
    latency_model = LatencyModel(
        alpha_ms=rng.uniform(5, 25),
        beta_ms=rng.uniform(0.02, 0.1),
        gamma_ms=rng.uniform(5e-5, 2e-4),
    )
    limits = (AMPLE, TIGHT, replace(TIGHT, admission="chunk"))[seed % 3]
    rows, _ = made(seed, latency_model=latency_model, limits=limits)
    found = fit_rows(rows, limits=limits)
    assert np.abs(errors(found.latency_model, latency_model)).max() < 0.02
    assert abs(found.all_rows.e2e_error) < 1e-3
    assert found.all_rows.e2e_mape < 1e-3
    for name in ("alpha_ms", "beta_ms", "gamma_ms"):
        assert (
            getattr(found.lowest, name)
            <= getattr(found.latency_model, name)
            <= getattr(found.highest, name)
        )


@pytest.mark.parametrize("seed", [0, 3])
def test_a_latency_model_is_found_through_preemptions(seed: int) -> None:
    """Where memory runs short the misfit is rugged: gamma is less sharp then, but the replay must
    be as close.
    """
    limits = replace(TIGHT, kv_tokens=5000)
    rows, preemptions = made(seed, latency_model=MODEL, limits=limits, requests=100)
    assert preemptions >= 25
    found = fit_rows(rows, limits=limits)
    alpha, beta, gamma = errors(found.latency_model, MODEL)
    assert abs(alpha) < 0.02
    assert abs(beta) < 0.02
    assert abs(gamma) < 0.15
    assert found.all_rows.e2e_mape < 2e-3


def test_a_noisy_log_gives_the_latency_model_within_a_few_percent() -> None:
    """A real server jitters; times that are 1 % off at random must not spoil the latency model."""
    rows, _ = made(4, latency_model=MODEL, limits=AMPLE)
    jitter = np.random.default_rng(5).normal(1.0, 0.01, (2, len(rows)))
    first_s = rows.queued_s + rows.ttft_s * jitter[0]
    noisy = replace(
        rows, first_token_s=first_s, last_token_s=first_s + (rows.e2e_s - rows.ttft_s) * jitter[1]
    )
    found = fit_rows(noisy, limits=AMPLE)
    alpha, beta, gamma = errors(found.latency_model, MODEL)
    assert abs(alpha) < 0.03
    assert abs(beta) < 0.1
    assert abs(gamma) < 0.15
    assert found.all_rows.e2e_mape < 0.02


@pytest.mark.parametrize("seed", [3, 6])
def test_the_ranges_hold_the_truth_where_times_jitter_by_a_tenth(seed: int) -> None:
    """A range ended at the last step that was tried, and the truth was a little beyond it."""
    rows, _ = made(seed, latency_model=MODEL, limits=AMPLE, requests=100)
    jitter = np.exp(np.random.default_rng(seed).normal(0.0, 0.1, (2, len(rows))))
    first_s = rows.queued_s + rows.ttft_s * jitter[0]
    decode_s = rows.last_token_s - rows.first_token_s
    noisy = replace(rows, first_token_s=first_s, last_token_s=first_s + decode_s * jitter[1])
    found = fit_rows(noisy, limits=AMPLE)
    for name in ("alpha_ms", "beta_ms", "gamma_ms"):
        lowest, highest = getattr(found.lowest, name), getattr(found.highest, name)
        assert lowest <= getattr(MODEL, name) <= highest


def test_a_fit_of_the_first_rows_sees_nothing_of_the_later_ones() -> None:
    """Otherwise the score on the later ones would be worth nothing."""
    rows, _ = made(5, latency_model=MODEL, limits=AMPLE)
    other = replace(
        rows,
        last_token_s=np.where(np.arange(60) < 30, rows.last_token_s, rows.last_token_s + 9.0),
        output_tokens=np.where(np.arange(60) < 30, rows.output_tokens, 1),
    )
    first, second = (fit_rows(log, limits=AMPLE, fitted=slice(30)) for log in (rows, other))
    assert first.latency_model == second.latency_model
    assert first.held_out is not None
    assert second.held_out is not None
    assert first.held_out.requests == second.held_out.requests == 30
    assert second.held_out.e2e_mape > first.held_out.e2e_mape


def test_requests_cut_off_do_not_bias_the_latency_model() -> None:
    """The last of the fitted requests ran beside later ones that the fit cannot see: it must know
    which to trust.
    """
    rows, _ = made(8, latency_model=MODEL, limits=AMPLE, requests=100)
    found = fit_rows(rows, limits=AMPLE, fitted=slice(50))
    assert np.abs(errors(found.latency_model, MODEL)).max() < 0.02
    assert found.held_out is not None
    assert found.held_out.e2e_mape < 2e-3


@pytest.mark.parametrize("max_batch", [2, 64])
def test_a_queue_that_goes_from_the_fitted_requests_to_the_later_ones_is_told(
    max_batch: int,
) -> None:
    """Under load their errors are not of later requests alone."""
    limits = replace(AMPLE, max_batch=max_batch)
    rows, _ = made(8, latency_model=MODEL, limits=limits, requests=60)
    found = fit_logs([rows], limits=limits, fitted=slice(30), start=MODEL)
    waiting = int((rows.first_token_s[:30] > rows.queued_s[30]).sum())
    assert found.carried == waiting
    assert (waiting > CARRIED_MAX) == (max_batch == 2)
    told = f"{waiting} of the fitted requests still waited when the later ones began"
    assert (told in fit_text(found)) == (max_batch == 2)
    assert fit_json(found)["carried"] == waiting


def test_the_wrong_memory_limit_shows_in_the_score() -> None:
    """How a user notices that --kv-tokens was forgotten."""
    rows, _ = made(3, latency_model=MODEL, limits=replace(TIGHT, kv_tokens=5000))
    assert fit_rows(rows, limits=AMPLE).all_rows.e2e_mape > 0.1


def test_one_token_answers_tell_alpha_and_beta() -> None:
    """Without decodes there are only prefills; gamma then hardly shows, and its range says so."""
    rng = np.random.default_rng(9)
    asked = arrivals(rng, requests=60, rate_rps=2.0, prompt=400, output=1)
    rows, _ = served(
        replace(asked, output_tokens=np.ones(60, dtype=np.int64)), latency_model=MODEL, limits=AMPLE
    )
    found = fit_rows(rows, limits=AMPLE)
    assert found.latency_model.alpha_ms == pytest.approx(MODEL.alpha_ms, rel=0.02)
    assert found.latency_model.beta_ms + found.latency_model.gamma_ms == pytest.approx(
        MODEL.beta_ms + MODEL.gamma_ms, rel=0.02
    )
    assert found.highest.gamma_ms > 10 * MODEL.gamma_ms


@pytest.mark.parametrize("fitted", [slice(9), slice(0, 20, 2), slice(55, None)])
def test_too_few_rows_are_refused(fitted: slice) -> None:
    """Three coefficients from a handful of requests would be an accident."""
    rows, _ = made(5, latency_model=MODEL, limits=AMPLE)
    with pytest.raises(
        SpecError, match=r"^twin: expected at least 10 consecutive rows to fit, found \d+$"
    ):
        fit_rows(rows, limits=AMPLE, fitted=fitted)


def test_a_file_is_fitted_like_its_rows(tmp_path: Path) -> None:
    """The way through CSV, with rows out of order and on another clock, changes nothing but the
    last digits.
    """
    rows, _ = made(2, latency_model=MODEL, limits=TIGHT)
    columns = ("queued_s", "first_token_s", "last_token_s", "input_tokens", "output_tokens")
    table = np.column_stack([getattr(rows, column) for column in columns])
    table[:, :3] += 5000.0
    path = tmp_path / "log.csv"
    np.savetxt(
        path,
        table[::-1],
        fmt=["%.9f"] * 3 + ["%d"] * 2,
        delimiter=",",
        header=",".join(columns),
        comments="",
    )
    found = fit_logs(read_logs(path), limits=TIGHT)
    assert found.sources == (str(path),)
    assert np.abs(errors(found.latency_model, MODEL)).max() < 0.02
    with pytest.raises(
        SpecError, match=r"/log\.csv: line \d+: input_tokens \+ output_tokens: expected <= 257 .*$"
    ):
        fit_logs(read_logs(path), limits=replace(AMPLE, kv_tokens=256))


def test_two_workloads_of_one_engine_make_one_fit_with_the_overhead_of_the_client() -> None:
    """Each workload alone leaves more open than both; the constant of the client is not the
    engine's.
    """
    logs = []
    for seed, prompt, output in ((11, 900.0, 40.0), (12, 60.0, 200.0)):
        asked = arrivals(
            np.random.default_rng(seed), requests=50, rate_rps=4.0, prompt=prompt, output=output
        )
        rows, _ = served(asked, latency_model=MODEL, limits=AMPLE)
        logs.append(
            replace(
                rows,
                first_token_s=rows.first_token_s + 0.009,
                last_token_s=rows.last_token_s + 0.009,
            )
        )
    found = fit_logs(logs, limits=AMPLE, with_overhead=True)
    assert np.abs(errors(found.latency_model, MODEL)).max() < 0.02
    assert found.overhead_ms == pytest.approx(9.0, abs=0.5)
    assert found.check is not None
    assert found.check.requests == 50
    assert abs(found.check.e2e_error) < 0.01
    assert not_identified(found) == []
    assert "verdict: good" in fit_text(found)


def test_a_server_that_was_cold_at_first_is_told() -> None:
    """Its first request waited for a compiler, and the user was asked for options of the server."""
    asked = arrivals(np.random.default_rng(4), requests=40, rate_rps=2.0, prompt=400.0, output=40.0)
    rows, _ = served(asked, latency_model=MODEL, limits=AMPLE)
    late_s = np.where(np.arange(len(rows)) == 0, 20.0, 0.0)
    cold = replace(
        rows,
        first_token_s=rows.first_token_s + late_s,
        last_token_s=rows.last_token_s + late_s,
    )
    found = fit_logs([cold], limits=AMPLE)
    told = fit_text(found)
    assert "verdict: not good, the fitted requests" in told
    assert "did the server compile or load" in told
    # As late in both halves: what comes first is not what the engine made first.
    thinking = fit_text(replace(found, check=found.fitted_rows))
    assert "leave out tokens of thought" in thinking


def test_a_prior_holds_what_the_log_does_not_tell() -> None:
    """One-token answers say nothing of gamma; without a prior that is said, with one it is near
    the prior.
    """
    asked = arrivals(np.random.default_rng(9), requests=40, rate_rps=2.0, prompt=400.0, output=1.0)
    rows, _ = served(
        replace(asked, output_tokens=np.ones(40, dtype=np.int64)), latency_model=MODEL, limits=AMPLE
    )
    alone = fit_logs([rows], limits=AMPLE)
    assert "gamma" in not_identified(alone)
    assert "not identified" in fit_text(alone)
    prior = Prior(latency_model=replace(MODEL, alpha_ms=10.0), spreads=(0.2, 0.2, 0.2))
    held = fit_logs([rows], limits=AMPLE, prior=prior)
    assert held.latency_model.gamma_ms == pytest.approx(MODEL.gamma_ms, rel=0.3)
    assert held.latency_model.alpha_ms == pytest.approx(MODEL.alpha_ms, rel=0.05)
    assert fit_json(held)["prior"]["alpha"] == 10.0


def test_prompts_that_are_computed_faster_than_can_be_are_told() -> None:
    """They were in the prefix cache, and the verdict on a tenth of their work was good."""
    asked = arrivals(np.random.default_rng(9), requests=40, rate_rps=2.0, prompt=400.0, output=20.0)
    rows, _ = served(asked, latency_model=MODEL, limits=AMPLE)
    prior = Prior(
        latency_model=replace(MODEL, beta_ms=8.0 * MODEL.beta_ms), spreads=(0.15, 0.3, 0.25)
    )
    found = fit_logs([rows], limits=AMPLE, prior=prior)
    assert fit_json(found)["fasterThanPossible"] == ["beta"]
    assert "in the prefix cache" in fit_text(found)
    near = replace(prior, latency_model=replace(MODEL, beta_ms=1.3 * MODEL.beta_ms))
    assert faster_than_possible(replace(found, prior=near)) == []
    assert faster_than_possible(replace(found, prior=None)) == []
    # Weights that are read once for several tokens.
    several = replace(prior, latency_model=replace(MODEL, alpha_ms=2.6 * MODEL.alpha_ms))
    assert faster_than_possible(replace(found, prior=several)) == ["alpha"]
    assert "--tokens-per-step" in fit_text(replace(found, prior=several))


def test_scheduling_and_form_are_chosen_by_what_they_predict() -> None:
    """A log of an engine that plans ahead and overlaps reading and computing is told from others;
    a log of a plain engine stays with the plain form.
    """
    curved = replace(MODEL, p=1.5, launch_ms=0.2 * MODEL.alpha_ms, beta_ms=0.1)
    asked = arrivals(np.random.default_rng(21), requests=80, rate_rps=6.0, prompt=600, output=60)
    replayed = replay(asked, latency_model=curved, limits=AMPLE, scheduling="async")
    rows = replace(asked, first_token_s=replayed.first_token_s, last_token_s=replayed.last_token_s)
    found = fit_logs([rows], limits=AMPLE, families=FAMILIES)
    assert (found.family.p, found.family.scheduling) == (1.5, "async")
    assert perf_parms(found)["scheduling"] == "async"
    assert perf_parms(found)["p"] == 1.5
    assert "chosen: soft roofline (p 1.5), async scheduling" in fit_text(found)
    plain, _ = made(5, latency_model=MODEL, limits=AMPLE)
    assert fit_logs([plain], limits=AMPLE, families=FAMILIES).family.name == "sum, sync scheduling"
