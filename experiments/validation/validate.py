"""`make validate`: repeat the figures of docs/validation.md, as far as the data are at hand.

What has a licence is in sample-data/validation, with its source. The load stages of vLLM have none:
their file is read from a folder that is named (python -m experiments.validation.validate FOLDER) or
from ../shared/validation, else those rows are skipped.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from experiments.config import SAMPLE_DATA
from experiments.validation.datasheet_constants import (
    Stage,
    accelerator,
    cross_validated,
    loop_errors,
    predict,
    read_stages,
    summary,
    usable,
)
from experiments.validation.outside import outside
from experiments.validation.published import published
from experiments.validation.real_runs import client_overhead_ms, pods, runs
from experiments.validation.sweeps import guidellm
from twin.fit.datasheet import CONSTANTS, Constants, estimate, read_accelerators
from twin.fit.fitting import FAMILIES, fit_logs
from twin.fit.logs import read_logs
from twin.fit.model_config import read_model
from twin.fit.points import OperatingPoint, Steady, operate
from twin.fit.replay import ReplicaLimits
from twin.fit.search import prior_of
from twin.spec import LatencyModel

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
    outside()
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
    for (name, tp), off in loop_errors(below).items():
        print(
            f"closed loops, data sheets alone, without its family: {name} on {tp} × H100: ITL, "
            f"median of errors {np.median(np.abs(off)):.1%}, mean error {off.mean():+.1%}"
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
        link=CONSTANTS.link * beta,
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
        # A later stage of a run finds the prompts that the first one computed.
        is_warm=stage.number > 0,
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
