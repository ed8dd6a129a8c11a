"""The sweeps of GuideLLM over eight shapes of requests: how four shapes predict the four others;
for experiments.validation.validate.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.config import SAMPLE_DATA
from twin.fit.datasheet import DataSheetModel, estimate, read_accelerators
from twin.fit.fitting import FAMILIES, fit_logs
from twin.fit.model_config import read_model
from twin.fit.points import OperatingPoint, Steady, operate
from twin.fit.replay import ReplicaLimits
from twin.fit.request_csv import RequestRows
from twin.fit.search import prior_of
from twin.spec import LatencyModel, Scheduling

SWEEPS = SAMPLE_DATA / "validation" / "guidellm.csv"
POINT_REQUESTS = 300  # of a simulated step; a run of fewer is simulated whole
ALONE_REQUESTS = 64  # of one user alone
DURATIONS_S = {"guidellm_exp1_llama31_8b": 360.0, "guidellm_exp2": 600.0}  # of a step
SHAPES_A = ("1024x1024", "256x256", "4096x256", "64x1024")
SHAPES_B = ("1024x64", "256x4096", "4096x4096", "64x64")
SPLITS = {"A → B": (SHAPES_A, SHAPES_B), "B → A": (SHAPES_B, SHAPES_A)}
LIMITS = ReplicaLimits(max_batch=512, token_budget=8192)  # of both servers


def guidellm(dataset: str, model: str) -> PointFit:
    """Print how four shapes of a sweep predict the four others; return what all of it says."""
    for split in SPLITS:
        found = split_fit(dataset, model, split)
        predicted = predictions(dataset, split, found)
        itl_mape = np.mean([abs(each.itl_error) for each in predicted])
        ttft_mape = np.mean([abs(each.ttft_error) for each in predicted])
        print(
            f"{dataset}: shapes {split}: {len(predicted)} steps, ITL MAPE {itl_mape:.1%}, TTFT "
            f"MAPE {ttft_mape:.1%} (p {found.latency_model.p:.2f}, {found.scheduling} scheduling)"
        )
    return fit_points(steps(dataset), data_sheet(model))


def split_fit(dataset: str, model: str, split: str) -> PointFit:
    """Return what the first shapes of *split* say of the engine of *dataset*."""
    fitted, _ = SPLITS[split]
    return fit_points([each for each in steps(dataset) if each[0] in fitted], data_sheet(model))


def predictions(dataset: str, split: str, found: PointFit) -> list[Predicted]:
    """Return the steps of the other shapes of *split*, measured and predicted by *found*."""
    _, others = SPLITS[split]
    return [
        Predicted(
            shape=shape,
            # 0 is one user alone.
            rate_rps=point.rate_rps or 0.0,
            ttft_ms=ttft_ms,
            itl_ms=itl_ms,
            ttft_predicted_ms=steady.ttft_median_s * 1e3,
            itl_predicted_ms=steady.itl_s * 1e3,
        )
        for shape, point, ttft_ms, itl_ms in steps(dataset)
        if shape in others
        for steady in [operating(point, found)]
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """A step of a sweep: median TTFT and mean ITL."""

    shape: str
    rate_rps: float
    ttft_ms: float
    itl_ms: float
    ttft_predicted_ms: float
    itl_predicted_ms: float

    @property
    def ttft_error(self) -> float:
        """Return the relative error, positive if it is predicted too slow."""
        return self.ttft_predicted_ms / self.ttft_ms - 1.0

    @property
    def itl_error(self) -> float:
        """Return the relative error, positive if it is predicted too slow."""
        return self.itl_predicted_ms / self.itl_ms - 1.0


def data_sheet(model: str) -> DataSheetModel:
    """Return what the data sheet says of *model* on the H100 of the sweeps."""
    return estimate(
        read_model(SAMPLE_DATA / "models" / f"{model}.json"),
        read_accelerators(SAMPLE_DATA / "datasheets" / "accelerators.json")["H100"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PointFit:
    """What a sweep says of an engine."""

    latency_model: LatencyModel
    overhead_ms: float
    scheduling: Scheduling


Measured = tuple[str, OperatingPoint, float, float]


def steps(dataset: str) -> list[Measured]:
    """Return shape, load, median TTFT and mean ITL [ms] of the steps 0 to 6, without the one of
    full throughput.
    """
    found = []
    with SWEEPS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if not row["dataset"].startswith(dataset) or row["strategy"] == "throughput":
                continue
            alone = row["strategy"] == "synchronous"
            point = OperatingPoint(
                users=1 if alone else None,
                rate_rps=None if alone else float(row["offered_rps"]),
                input_tokens=float(row["in_tok_mean"]),
                output_tokens=float(row["out_tok_mean"]),
                spread=0.5,
                is_even=True,
                duration_s=DURATIONS_S[dataset],
                tells_median=True,
            )
            shape = f"{row['nom_in_tok']}x{row['nom_out_tok']}"
            found.append((shape, point, float(row["ttft_ms_median"]), float(row["itl_ms_mean"])))
    return found


def operating(point: OperatingPoint, found: PointFit) -> Steady:
    """Return what the twin says of a step."""
    return operate(
        point,
        latency_model=found.latency_model,
        max_batch=LIMITS.max_batch,
        token_budget=LIMITS.token_budget,
        overhead_ms=found.overhead_ms,
        scheduling=found.scheduling,
        requests=ALONE_REQUESTS if point.users else POINT_REQUESTS,
    )


def fit_points(measured: Sequence[Measured], prior: DataSheetModel) -> PointFit:
    """Return what a user gets of `inferno fit` with the data sheet as prior, of points that tell
    how long their steps lasted.
    """
    found = fit_logs(
        [table(measured)],
        limits=LIMITS,
        prior=prior_of(prior.latency_model),
        with_overhead=True,
        families=FAMILIES,
    )
    return PointFit(
        latency_model=found.latency_model,
        overhead_ms=found.overhead_ms,
        scheduling=found.family.scheduling,
    )


def table(measured: Sequence[Measured]) -> RequestRows:
    """Return *measured* as a table of operating points."""
    tokens = np.array([(point.input_tokens, point.output_tokens) for _, point, _, _ in measured])
    tokens = np.rint(tokens).astype(np.int64)
    ttft_s = np.array([ttft_ms for _, _, ttft_ms, _ in measured]) / 1e3
    itl_s = np.array([itl_ms for _, _, _, itl_ms in measured]) / 1e3
    return RequestRows(
        source="sweep",
        line=np.arange(len(measured)),
        queued_s=np.zeros(len(measured)),
        first_token_s=ttft_s,
        last_token_s=ttft_s + (tokens[:, 1] - 1) * itl_s,
        input_tokens=tokens[:, 0],
        output_tokens=tokens[:, 1],
        place="point",
        points=tuple(point for _, point, _, _ in measured),
    )
