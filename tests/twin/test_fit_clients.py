"""Logs of one engine by clients that are not alike are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from twin.fit.clients import apart
from twin.fit.fitting import FAMILIES, fit_logs
from twin.fit.logs import read_logs, with_points_together
from twin.fit.points import OperatingPoint, operate
from twin.fit.replay import Replayed, ReplicaLimits, replay
from twin.fit.report import fit_json, fit_text
from twin.fit.request_csv import RequestRows
from twin.spec import LatencyModel

MODEL = LatencyModel(alpha_ms=7.0, beta_ms=0.02, gamma_ms=5e-5)
LIMITS = ReplicaLimits(max_batch=64, token_budget=4096)


def _log(name: str, rng: np.random.Generator, *, overhead_s: float) -> tuple[RequestRows, Replayed]:
    """Return 40 requests, and their replay without an overhead."""
    rows = RequestRows(
        source=name,
        line=np.arange(40),
        queued_s=np.cumsum(rng.exponential(0.3, 40)),
        first_token_s=np.zeros(40),
        last_token_s=np.zeros(40),
        input_tokens=rng.integers(100, 600, 40),
        output_tokens=rng.integers(20, 80, 40),
    )
    rows = replace(rows, queued_s=rows.queued_s - rows.queued_s[0])
    made = replay(rows, latency_model=MODEL, limits=LIMITS)
    noise_s = rng.normal(0.0, 0.001, 40)
    late = replace(
        rows,
        first_token_s=made.first_token_s + overhead_s + noise_s,
        last_token_s=made.last_token_s + overhead_s + noise_s,
    )
    return late, made


@pytest.mark.parametrize("seed", range(5))
def test_a_log_of_another_client_is_told_and_no_other(seed: int) -> None:
    """Two of one client, and one whose requests spend 6 ms more on their way."""
    rng = np.random.default_rng(seed)
    found = [
        _log(name, rng, overhead_s=late_s)
        for name, late_s in (("a", 0.007), ("b", 0.0072), ("c", 0.013))
    ]
    logs, replays = zip(*found, strict=True)
    [one] = apart(logs, replays)
    assert one.file == "c"
    assert one.late_s == pytest.approx(0.006, abs=0.001)
    assert apart(logs[:2], replays[:2]) == ()
    assert apart(logs[2:], replays[2:]) == ()


@pytest.mark.slow
def test_a_fit_tells_which_file_has_an_overhead_of_its_own(tmp_path: Path) -> None:
    """Each file is a sweep of one shape, as people keep them."""
    paths = []
    for name, prompt, overhead_ms in (("x", 200, 6.0), ("y", 500, 6.0), ("z", 300, 14.0)):
        lines = ["rate_rps,in_tokens,out_tokens,ttft_ms,itl_ms"]
        for rate in (0.5, 2.0, 4.0, 6.0):
            seen = operate(
                OperatingPoint(rate_rps=rate, input_tokens=prompt, output_tokens=60),
                latency_model=MODEL,
                max_batch=64,
                token_budget=4096,
                overhead_ms=overhead_ms,
            )
            lines.append(f"{rate},{prompt},60,{seen.ttft_s * 1e3},{seen.itl_s * 1e3}")
        paths.append(tmp_path / f"{name}.csv")
        paths[-1].write_text("\n".join(lines))
    logs = with_points_together([rows for path in paths for rows in read_logs(path)])
    found = fit_logs(logs, limits=LIMITS, with_overhead=True, families=FAMILIES[:1])
    late = fit_json(found)["firstTokensLateMs"]
    last = str(paths[-1])
    assert set(late) == {last}
    assert late[last] == pytest.approx(8.0, abs=2.0)
    assert f"first tokens of {last} come" in fit_text(found)
