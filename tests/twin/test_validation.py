"""The twin against reality: two measured runs of vLLM are replayed within the bounds that
docs/validation.md states.

The fits run as the command that a user types; the one whose time is measured in a process of its
own.
"""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from inferno.cli.main import main
from twin.fit.replay import ReplicaLimits, replay, score
from twin.fit.request_csv import parse_request_rows, read_log_text
from twin.spec import LatencyModel

pytestmark = pytest.mark.slow

RTX4090 = "rtx4090-llama-3.1-8b.csv"
RTXPRO6000 = "rtxpro6000-llama-3.1-8b.csv"
LIMITS = {RTX4090: ("--max-batch=256", "--kv-tokens=41408"), RTXPRO6000: ("--max-batch=128",)}
E2E, TTFT, MAPE = 0.02, 0.10, 0.03  # of the means, and of each request's end-to-end latency


def fit(run: Path, *options: str, alone: bool = False) -> dict[str, Any]:
    """Return what `inferno fit --json` prints about *run*, *alone* in a process of its own."""
    words = ["fit", str(run), "--token-budget=2048", "--json", *options]
    if alone:
        command = [sys.executable, "-m", "inferno", *words]
        printed = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=300
        ).stdout
    else:
        with redirect_stdout(io.StringIO()) as said:
            assert main(words) == 0
        printed = said.getvalue()
    found: dict[str, Any] = json.loads(printed)
    return found


def assert_within(found: Mapping[str, float], *, times: float = 1.0) -> None:
    """Hold a score to the bounds, *times* as wide."""
    assert abs(found["e2eError"]) <= times * E2E
    assert abs(found["ttftError"]) <= times * TTFT
    assert found["e2eMape"] <= times * MAPE


@pytest.fixture(scope="module")
def runs(shared: Path) -> Path:
    """Return the folder of the measured runs."""
    return shared / "validation" / "vllm-runs"


def test_a_saturated_server_is_replayed_and_only_with_its_memory_limit(runs: Path) -> None:
    """Memory short, a queue of minutes, requests preempted: the hard case.

    With the same latency model and no memory limit the replay is far off: memory makes the
    agreement, not three free figures.
    """
    begin = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = fit(runs / RTX4090, *LIMITS[RTX4090], alone=True)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert found["fitted"]["requests"] == 300
    assert_within(found["fitted"])
    assert found["preemptions"] > 100
    assert end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime < 30.0, (
        "a fit must take under 30 s of CPU"
    )

    rows = parse_request_rows(read_log_text(runs / RTX4090), source=RTX4090)
    latency_model = LatencyModel(
        **{f"{name}_ms": value for name, value in found["perfParms"].items()}
    )
    ample = ReplicaLimits(max_batch=256, token_budget=2048)
    assert (
        score(
            rows, replay(rows, latency_model=latency_model, limits=ample), of=slice(None)
        ).e2e_mape
        > 10 * MAPE
    )


def test_no_latency_model_makes_up_for_a_memory_limit_that_is_left_out(runs: Path) -> None:
    """The same, with a latency model that was fitted without the limit."""
    found = fit(runs / RTX4090, "--max-batch=256")
    assert found["fitted"]["e2eMape"] > 10 * MAPE


def test_a_server_with_ample_memory_is_replayed_much_closer(runs: Path) -> None:
    """Only max batch limits: nothing but the latency model and the schedule is at work."""
    found = fit(runs / RTXPRO6000, *LIMITS[RTXPRO6000])
    assert_within(found["fitted"], times=0.25)
    assert found["preemptions"] == 0


@pytest.mark.parametrize("name", [RTX4090, RTXPRO6000])
def test_the_first_half_predicts_the_second(runs: Path, name: str) -> None:
    """A latency model is worth something only on requests that it was not fitted to."""
    found = fit(runs / name, *LIMITS[name], "--rows=150")
    assert found["fitted"]["requests"] == found["heldOut"]["requests"] == 150
    assert_within(found["heldOut"], times=2.0)
