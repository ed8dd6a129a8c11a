"""Claims about latency models fitted to operating points of a server that runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from experiments.datasheet_files import model_row
from experiments.own_system.latency import Engine, fit_points, latency_of
from experiments.validation.sweeps import data_sheet
from twin.fit.points import OperatingPoint, operate
from twin.fit.replay import ReplicaLimits
from twin.fit.request_csv import RequestRows
from twin.spec import LatencyModel, Scheduling

TRUTH = LatencyModel(alpha_ms=55.0, beta_ms=0.3, gamma_ms=0.0005)
LIMITS = ReplicaLimits(max_batch=24, token_budget=8192, kv_tokens=100_000)
# Requests a minute, tokens in and out: lightly loaded, with long prompts.
LOADS = [(3.1, 820.0, 280.0), (7.9, 830.0, 282.0), (2.3, 930.0, 230.0), (9.1, 935.0, 228.0)]


def rows() -> RequestRows:
    """Return what was measured of the truth at some loads."""
    points = [
        OperatingPoint(
            rate_rps=rpm / 60.0,
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            token_cv=0.7,
            known_within=0.03,
        )
        for rpm, tokens_in, tokens_out in LOADS
    ]
    seen = [
        operate(
            point,
            latency_model=TRUTH,
            max_batch=LIMITS.max_batch,
            token_budget=LIMITS.token_budget,
            kv_tokens=LIMITS.kv_tokens,
            scheduling="async",
            overhead_ms=8.0,
            seed=2,
        )
        for point in points
    ]
    ttft_s = np.array([each.ttft_s for each in seen])
    output = np.array([round(point.output_tokens) for point in points])
    return RequestRows(
        source="points",
        line=np.arange(1, len(points) + 1),
        queued_s=np.zeros(len(points)),
        first_token_s=ttft_s,
        last_token_s=ttft_s + (output - 1) * np.array([each.itl_s for each in seen]),
        input_tokens=np.array([round(point.input_tokens) for point in points]),
        output_tokens=output,
        place="point",
        points=tuple(points),
    )


@pytest.mark.slow
def test_a_data_sheet_that_is_far_off_does_not_hold_the_fit() -> None:
    """A search that began there took all decodes for outliers and stayed: alpha was 74 of 55 ms,
    and hours that the fit had not seen were predicted 14 % too slow.
    """
    sheet = replace(
        data_sheet("qwen2.5-14b"),
        latency_model=LatencyModel(alpha_ms=1.7 * 55.0, beta_ms=0.26, gamma_ms=0.00035),
    )
    found = fit_points(
        Engine(
            model="m",
            accelerator="L40S",
            servers=("s",),
            limits=LIMITS,
            scheduling="sync",  # as the tag of its image says, wrongly
            sheet=sheet,
            token_cv=0.7,
        ),
        rows(),
    )
    assert found.latency_model.alpha_ms == pytest.approx(55.0, rel=0.03)
    assert found.fitted_rows.e2e_mape < 0.02
    assert found.fitted_rows.ttft_mape < 0.06


@pytest.mark.parametrize("scheduling", ["sync", "async"])
def test_a_data_sheet_says_the_same_to_an_import_as_to_a_beginning(scheduling: Scheduling) -> None:
    """What the host does in a synchronous engine was in the row of the one and not of the other."""
    sheet = data_sheet("qwen2.5-14b")
    engine = Engine(
        model="m",
        accelerator="H100",
        servers=("s",),
        limits=LIMITS,
        scheduling=scheduling,
        sheet=sheet,
        token_cv=0.5,
    )
    found = latency_of(engine, None)
    assert found is not None
    began = model_row(sheet, (512.0, 256.0), scheduling)["perfParms"]
    imported = {name: value for name, value in found.parms.items() if name != "overheadMs"}
    assert imported.pop("scheduling") == began.pop("scheduling") == scheduling
    assert imported == pytest.approx(began, rel=1e-3)
    assert ("sequenceMs" in imported) == (scheduling == "sync")
