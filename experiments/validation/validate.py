"""`make validate`: repeat the figures of docs/validation.md, as far as the data are at hand.

What has a licence is in sample-data/validation, with its source. The load stages of vLLM have none:
their file is read from a folder that is named (python -m experiments.validation.validate FOLDER) or
from ../shared/validation, else those rows are skipped.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from experiments.config import SAMPLE_DATA
from experiments.validation.datasheet_constants import (
    Stage,
    accelerator,
    cross_validated,
    predict,
    read_stages,
    summary,
    usable,
)
from experiments.validation.published import published
from experiments.validation.real_runs import client_overhead_ms, pods, runs
from twin.fit.datasheet import CONSTANTS, Constants, DataSheetModel, estimate, read_accelerators
from twin.fit.fitting import FAMILIES, fit_logs
from twin.fit.logs import read_logs
from twin.fit.model_config import read_model
from twin.fit.points import OperatingPoint, Steady, operate
from twin.fit.replay import ReplicaLimits
from twin.fit.search import prior_of
from twin.spec import SCHEDULINGS, LatencyModel, Scheduling

Floats = npt.NDArray[np.float64]

SHIPPED = SAMPLE_DATA / "validation"
STAGES = "vllm_stages_open.csv"
CORRECTIONS = 2
# One standard deviation of what a stage's means say, as runs of one server at one load differ, and
# of the overhead about the usual one.
E2E_SPREAD, TTFT_SPREAD, OVERHEAD_SPREAD_MS = 0.01, 0.03, 2.0

RUNS = (
    ("rtx4090-llama-3.1-8b.csv", "RTX4090", 256, 41408),
    ("rtxpro6000-llama-3.1-8b.csv", "RTXPRO6000", 128, None),
)
POINT_REQUESTS = 300  # of a simulated step; a run of fewer is simulated whole
DURATIONS_S = {"guidellm_exp1_llama31_8b": 360.0, "guidellm_exp2": 600.0}  # of a step
SHAPES_A = ("1024x1024", "256x256", "4096x256", "64x1024")
SHAPES_B = ("1024x64", "256x4096", "4096x4096", "64x64")
SPLITS = {"A → B": (SHAPES_A, SHAPES_B), "B → A": (SHAPES_B, SHAPES_A)}


def main(arguments: Sequence[str]) -> int:
    """Print a line for each row of the table of docs/validation.md."""
    if len(arguments) > 1 or any(given.startswith("-") for given in arguments):
        print(__doc__)
        return 2
    folder = Path(arguments[0]) if arguments else Path("../shared/validation")
    if arguments and not folder.is_dir():
        print(f"{folder}: expected a folder with {STAGES}, found none", file=sys.stderr)
        return 2
    logs()
    llama = guidellm("guidellm_exp1_llama31_8b", "llama-3.1-8b")
    qwen = guidellm("guidellm_exp2", "qwen2.5-14b")
    own_ms = client_overhead_ms(llama.latency_model)
    for overhead_ms, whose in ((own_ms, "their client"), (qwen.overhead_ms, "GuideLLM")):
        pods(
            qwen.latency_model,
            overhead_ms=overhead_ms,
            scheduling=qwen.scheduling,
            overhead_of=whose,
        )
    runs(qwen.latency_model, overhead_ms=qwen.overhead_ms, scheduling=qwen.scheduling)
    published()
    if (folder / STAGES).is_file():
        stages(folder / STAGES)
        overloads(folder / STAGES)
    else:
        print(
            f"vLLM stages: skipped. {STAGES} has no licence and is not shipped; put it into a "
            "folder and name that: python -m experiments.validation.validate FOLDER"
        )
    return 0


# -- logs of requests


def logs() -> None:
    """Print how the logs of vLLM are replayed, and how their later parts are predicted."""
    accelerators = read_accelerators(SAMPLE_DATA / "datasheets" / "accelerators.json")
    model = read_model(SAMPLE_DATA / "models" / "llama-3.1-8b.json")
    for name, gpu, max_batch, kv_tokens in RUNS:
        found = estimate(model, accelerators[gpu])
        prior = prior_of(found.latency_model)
        limits = ReplicaLimits(max_batch=max_batch, token_budget=2048, kv_tokens=kv_tokens)
        read = read_logs(SHIPPED / name)
        for rows, priors in ((None, (prior,)), (150, (prior,)), (75, (prior, None))):
            for each in priors:
                result = fit_logs(
                    read,
                    limits=limits,
                    fitted=None if rows is None else slice(rows),
                    prior=each,
                    families=FAMILIES,
                )
                score = result.held_out or result.all_rows
                print(
                    f"{name}: fitted on {rows or 'all'}, {'with' if each else 'without'} prior: "
                    f"{score.requests} requests, E2E MAPE {score.e2e_mape:.1%}, mean E2E "
                    f"{score.e2e_error:+.1%}, mean TTFT {score.ttft_error:+.1%} "
                    f"({result.family.name})"
                )


# -- load steps of GuideLLM


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
    return _fit_points(_points(dataset), _prior(model))


def split_fit(dataset: str, model: str, split: str) -> PointFit:
    """Return what the first shapes of *split* say of the engine of *dataset*."""
    fitted, _ = SPLITS[split]
    return _fit_points([each for each in _points(dataset) if each[0] in fitted], _prior(model))


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
        for shape, point, ttft_ms, itl_ms in _points(dataset)
        if shape in others
        for steady in [_steady(point, found)]
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


def _prior(model: str) -> DataSheetModel:
    return estimate(
        read_model(SAMPLE_DATA / "models" / f"{model}.json"),
        read_accelerators(SAMPLE_DATA / "datasheets" / "accelerators.json")["H100"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PointFit:
    """What a sweep says of an engine; loss is that of the fit."""

    latency_model: LatencyModel
    overhead_ms: float
    scheduling: Scheduling
    loss: float


Measured = tuple[str, OperatingPoint, float, float]


def _points(dataset: str) -> list[Measured]:
    """Return shape, load, median TTFT and mean ITL [ms] of the steps 0 to 6, without the one of
    full throughput.
    """
    found = []
    with (SHIPPED / "guidellm.csv").open(encoding="utf-8", newline="") as file:
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
            )
            shape = f"{row['nom_in_tok']}x{row['nom_out_tok']}"
            found.append((shape, point, float(row["ttft_ms_median"]), float(row["itl_ms_mean"])))
    return found


def _steady(point: OperatingPoint, found: PointFit) -> Steady:
    return operate(
        point,
        latency_model=found.latency_model,
        max_batch=512,
        token_budget=8192,
        overhead_ms=found.overhead_ms,
        scheduling=found.scheduling,
        requests=40 if point.users else POINT_REQUESTS,
    )


def _fit_points(measured: Sequence[Measured], prior: DataSheetModel) -> PointFit:
    """Fit with synchronous and with asynchronous scheduling, and return what misses less."""
    return min(
        (_fit_scheduled(measured, prior, scheduling) for scheduling in SCHEDULINGS),
        key=lambda found: found.loss,
    )


def _fit_scheduled(
    measured: Sequence[Measured], prior: DataSheetModel, scheduling: Scheduling
) -> PointFit:
    start = prior.latency_model

    def model(values: Floats, *, loss: float = 0.0) -> PointFit:
        launch_ms, p, overhead_ms = float(values[0]), float(values[4]), float(values[5])
        weights_ms, beta_ms, gamma_ms = map(float, np.exp(values[1:4]))
        return PointFit(
            latency_model=LatencyModel(
                alpha_ms=launch_ms + weights_ms,
                beta_ms=beta_ms,
                gamma_ms=gamma_ms,
                launch_ms=launch_ms,
                p=p,
            ),
            overhead_ms=overhead_ms,
            scheduling=scheduling,
            loss=loss,
        )

    def residuals(values: Floats) -> Floats:
        parts: list[float] = []
        for _, point, ttft, itl in measured:
            steady = _steady(point, model(values))
            parts += [
                0.5 * np.log(steady.ttft_median_s * 1e3 / ttft),
                np.log(steady.itl_s * 1e3 / itl),
            ]
        return np.array(parts)

    begin = [1.0, np.log(start.alpha_ms - 1.0), np.log(start.beta_ms), np.log(start.gamma_ms)]
    found = least_squares(
        residuals,
        [*begin, 1.5, prior.overhead_ms],
        diff_step=[0.02] * 6,
        bounds=([0.0, -3.0, -9.0, -14.0, 1.0001, 0.0], [6.0, 4.0, 1.0, -5.0, 4.0, 40.0]),
        loss="soft_l1",
        f_scale=0.1,
        x_scale=[1.0, 1.0, 1.0, 1.0, 0.5, 5.0],
        max_nfev=10,
    )
    return model(found.x, loss=float(found.cost))


# -- load stages of vLLM


def stages(path: Path) -> None:
    """Print how the stages of vLLM are predicted: from calibration stages, and from data sheets."""
    everything = read_stages(path)
    below = usable(everything)
    print(
        f"vLLM stages, data sheets alone, cross-validated over families: {len(below)} stages, "
        f"median / mean: {summary(cross_validated(below))}"
    )
    print(
        "vLLM stages, data sheets alone, cross-validated over accelerators: median / mean: "
        f"{summary(cross_validated(below, by=accelerator))}"
    )
    servers: dict[tuple[str, int, str], list[Stage]] = defaultdict(list)
    for stage in everything:
        servers[stage.model.name, stage.tp, stage.accelerator.name].append(stage)
    errors: list[tuple[float, float, float]] = []
    is_fitted: list[bool] = []
    for server in servers.values():
        calibration = [stage for stage in server if stage.is_calibration]
        values = _fit_stages(calibration)
        for stage in server:
            if stage.is_calibration:
                continue
            steady = _stage(stage, values, budget=stage.token_budget)
            is_fitted.append(bool(calibration))
            tail_ms = stage.e2e_p99_ms if stage.number else np.nan
            errors.append(
                (
                    steady.e2e_s * 1e3 / stage.e2e_ms - 1.0,
                    steady.ttft_s * 1e3 / stage.ttft_ms - 1.0,
                    steady.e2e_p99_s * 1e3 / tail_ms - 1.0,
                )
            )
            print(
                f"  {stage.label:<48} E2E {stage.e2e_ms:>8.0f} ms {errors[-1][0]:>+7.1%}  TTFT "
                f"{stage.ttft_ms:>6.1f} ms {errors[-1][1]:>+7.1%}"
            )
    found, fitted = np.array(errors), np.array(is_fitted)
    for name, part in (
        ("of servers with calibration stages, fitted on those", fitted),
        ("of the other servers, from data sheets", ~fitted),
        ("together", fitted | ~fitted),
    ):
        if not part.any():
            continue
        p99 = np.nanmedian(np.abs(found[part, 2]))
        print(
            f"vLLM stages {name}: {part.sum()} stages, median / mean: "
            f"{summary(found[part, :2])}; E2E p99, warm, median {p99:.1%}"
        )


def overloads(path: Path) -> None:
    """Print how the highest rate of each server is predicted from its lowest, with the prior."""
    runs: dict[str, list[Stage]] = defaultdict(list)
    for stage in read_stages(path):
        runs[stage.label.rpartition(" stage ")[0]].append(stage)
    highest: dict[tuple[str, int, str], list[Stage]] = {}
    for run in runs.values():
        first, last = run[0], run[-1]
        server = (first.model.name, first.tp, first.accelerator.name)
        known = highest.get(server)
        if len(run) > 1 and (known is None or last.rate_per_ms > known[-1].rate_per_ms):
            highest[server] = run
    for (model, tp, gpu), run in highest.items():
        steady = _stage(run[-1], _fit_stages(run[:1]), budget=2048)
        error = steady.e2e_s * 1e3 / run[-1].e2e_ms - 1.0
        print(
            f"vLLM stages, highest rate from the lowest: {model} on {tp} × {gpu}: E2E {error:+.1%}"
        )


def _fit_stages(calibration: Sequence[Stage]) -> Floats:
    """Return what multiplies alpha, beta and gamma of the data sheet, as logarithms, and the
    overhead [ms], with the data sheet as prior.

    Fitted in closed form, to figures that are corrected by how far it is from the twin: a batch
    that varies, and requests that share an iteration, are some percent of a latency.
    """
    values = _fit_closed(calibration)
    for _ in range(CORRECTIONS if calibration else 0):
        constants = _constants(values)
        wanted = []
        for stage in calibration:
            steady = _stage(stage, values, budget=2048)
            ttft_ms, e2e_ms, _ = predict(stage, constants)
            wanted.append(
                replace(
                    stage,
                    e2e_ms=stage.e2e_ms * e2e_ms / (steady.e2e_s * 1e3),
                    ttft_ms=stage.ttft_ms * ttft_ms / (steady.ttft_s * 1e3),
                )
            )
        values = _fit_closed(wanted)
    return values


def _constants(values: Floats) -> Constants:
    alpha, beta, gamma = (float(value) for value in np.exp(values[:3]))
    return Constants(
        weights=CONSTANTS.weights * alpha,
        layer_ms=CONSTANTS.layer_ms * alpha,
        exchange_ms=CONSTANTS.exchange_ms * alpha,
        compute=CONSTANTS.compute * beta,
        kv=CONSTANTS.kv * gamma,
        overhead_ms=float(values[3]),
    )


def _fit_closed(calibration: Sequence[Stage]) -> Floats:
    start = np.array([0.0, 0.0, 0.0, CONSTANTS.overhead_ms])
    prior = prior_of(LatencyModel(alpha_ms=1.0, beta_ms=1.0, gamma_ms=1.0))

    def residuals(values: Floats) -> Floats:
        constants = _constants(values)
        parts = [*prior.apart(values[:3]), (values[3] - start[3]) / OVERHEAD_SPREAD_MS]
        for stage in calibration:
            ttft_ms, e2e_ms, _ = predict(stage, constants)
            parts += [
                np.log(e2e_ms / stage.e2e_ms) / E2E_SPREAD,
                np.log(ttft_ms / stage.ttft_ms) / TTFT_SPREAD,
            ]
        return np.array(parts)

    fitted: Floats = least_squares(residuals, start, x_scale=[0.1, 0.1, 0.1, 1.0]).x
    return fitted


def _stage(stage: Stage, values: Floats, *, budget: int) -> Steady:
    found = estimate(
        stage.model,
        stage.accelerator,
        tp=stage.tp,
        dtype=stage.dtype,
        max_batch=stage.max_batch,
        token_budget=budget,
    )
    alpha, beta, gamma = np.exp(values[:3])
    sheet = found.latency_model
    point = OperatingPoint(
        rate_rps=stage.rate_per_ms * 1e3,
        input_tokens=stage.prompt,
        output_tokens=stage.output,
        distinct=100,
    )
    return operate(
        point,
        latency_model=replace(
            sheet,
            alpha_ms=sheet.alpha_ms * float(alpha),
            experts_ms=sheet.experts_ms * float(alpha),
            beta_ms=sheet.beta_ms * float(beta),
            gamma_ms=sheet.gamma_ms * float(gamma),
        ),
        max_batch=stage.max_batch,
        token_budget=budget,
        kv_tokens=found.kv_tokens,
        scheduling="async",
        overhead_ms=float(values[3]),
        # All that came in the stage, the first as well: how long an overload lasts is what counts.
        requests=round(stage.rate_per_ms * stage.duration_ms),
        warm_up=0.0,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
