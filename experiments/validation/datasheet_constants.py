"""Derive the constants of twin/fit/datasheet.py from measurements of real servers.

    python -m experiments.validation.datasheet_constants ../shared/validation/vllm_stages_open.csv

The file has means of load stages of vLLM (see docs/validation.md). A stage is predicted in closed
form: with Poisson arrivals at a rate below saturation, the time of an iteration T solves
T = alpha + beta · (tokens computed) + gamma · (KV tokens read), where both follow from the rate and
T itself. The published latency models of two engines count beside the stages, as only they hold
long prompts, and the closed loops of servers of two to eight GPUs (experiments.validation.loops),
for what these exchange. The constants are found by robust least squares on logarithms, and with
them what each accelerator reaches of its data sheet beside the others. What the measurements do not
tell stays near what is usual: a constant within some 30 %, an accelerator within 10 %. Each family
of models, and each accelerator, is then predicted by what the others gave.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from math import exp
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from experiments.config import SAMPLE_DATA
from experiments.validation import loops as closed
from experiments.validation.loops import predict_itl, read_loops
from twin.fit.datasheet import (
    BLOCK,
    CONSTANTS,
    Accelerator,
    Constants,
    Dtype,
    estimate,
    read_accelerators,
)
from twin.fit.model_config import ModelFacts, read_model
from twin.spec import LatencyModel

Floats = npt.NDArray[np.float64]

DATA = SAMPLE_DATA
# By how the names of their models begin; others are each a family of their own.
FAMILIES = {
    "llama-2": "Llama 2",
    "codellama": "Llama 2",
    "llama-3": "Llama 3",
    "qwen": "Qwen",
    "mixtral": "Mixtral",
    "mistral": "Mistral",
}
GPUS = {"A100-80GB": "A100", "A100-40GB": "A100-40GB"}
# alpha, beta, gamma of vLLM on one H100, fitted jointly over several shapes by their authors
# (llm-inferno/model-trainer and llm-inferno/control-loop, Apache-2.0).
PUBLISHED = {
    "llama-3.1-8b": LatencyModel(alpha_ms=6.49, beta_ms=0.0219, gamma_ms=4.96e-5),
    "qwen2.5-14b": LatencyModel(alpha_ms=10.645, beta_ms=0.04176, gamma_ms=5.77e-5),
}
# Engines of 2026 plan an iteration ahead: a request waits for the rest of the one that runs and for
# the one that is planned already.
WAITS = 1.5
START = Constants(
    weights=1.2, layer_ms=0.03, exchange_ms=0.02, compute=1.0, kv=1.1, overhead_ms=7.5, link=2.0
)
# One standard deviation of the logarithm of a constant about START, of what an accelerator reaches
# about 1, of what one measurement says, and of one of many of the same server.
CONSTANT_SPREAD, REACHED_SPREAD, MEASURED_SPREAD, LOOP_SPREAD = 0.3, 0.1, 0.1, 0.15
CONSTANTS_COUNT = len(astuple(START))
ROUNDS = 30  # of solving for the batch, on which the experts depend that are read
# A batch is limited, and the closed form knows no queue.
BUSY = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One load stage: the server, the load, for how long, and the latencies measured [ms]: means,
    and the 99th percentile. number is its place in the run, is_calibration: a model may be fitted
    on it.
    """

    label: str
    family: str
    model: ModelFacts
    accelerator: Accelerator
    tp: int
    max_batch: int
    rate_per_ms: float
    duration_ms: float
    prompt: int
    cached: int
    output: int
    e2e_ms: float
    ttft_ms: float
    e2e_p99_ms: float
    number: int
    is_calibration: bool
    dtype: Dtype | None
    token_budget: int


def read_stages(path: Path) -> list[Stage]:
    """Return the stages of *path*, but for those of a model or an accelerator that is not known,
    which are told.
    """
    accelerators = read_accelerators(DATA / "datasheets" / "accelerators.json")
    stages = []
    unknown: Counter[str] = Counter()
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name = model_name(row["model"])
            gpu = GPUS.get(row["hardware"], row["hardware"])
            if name is None or gpu not in accelerators:
                unknown[row["model"] if name is None else gpu] += 1
                continue
            prompt = int(row["prompt_tokens"])
            stages.append(
                Stage(
                    label=f"{row['experiment']} stage {row['stage']}",
                    family=family_of(name),
                    model=read_model(DATA / "models" / f"{name}.json"),
                    accelerator=accelerators[gpu],
                    tp=int(row["tp"]),
                    max_batch=int(row["max_num_seqs"]),
                    rate_per_ms=float(row["rate_rps"]) / 1e3,
                    duration_ms=float(row["duration_s"]) * 1e3,
                    prompt=prompt,
                    # 100 distinct prompts: nearly each is a hit, of whole blocks, and the last
                    # token is always computed.
                    cached=(prompt - 1) // BLOCK * BLOCK,
                    output=int(row["output_tokens"]),
                    e2e_ms=float(row["e2e_mean_ms"]),
                    ttft_ms=float(row["ttft_mean_ms"]),
                    e2e_p99_ms=float(row["e2e_p99_ms"]),
                    number=int(row["stage"]),
                    is_calibration=row["calibration"] == "1",
                    dtype="fp8" if "fp8" in row["model"].lower() else None,
                    token_budget=int(row["max_num_batched_tokens"]),
                )
            )
    for what, count in unknown.items():
        print(f"{path.name}: {what} is not known to sample-data: {count} left out")
    return stages


def model_name(text: str) -> str | None:
    """Return which of the models of sample-data the name of a repository means, None if none."""

    def plain(name: str) -> str:
        return name.lower().replace("_", "-").replace(".", "-")

    known = [file.stem for file in (DATA / "models").glob("*.json")]
    meant = [name for name in known if plain(name) in plain(text)]
    return max(meant, key=len, default=None)


def family_of(name: str) -> str:
    """Return the family of the model *name*."""
    return next((family for begin, family in FAMILIES.items() if name.startswith(begin)), name)


def predict(stage: Stage, constants: Constants) -> tuple[float, float, float]:
    """Return mean TTFT, mean E2E [ms] and the mean batch."""
    found = estimate(
        stage.model, stage.accelerator, tp=stage.tp, dtype=stage.dtype, constants=constants
    )
    latency_model = found.latency_model
    decodes = stage.output - 1
    context = stage.prompt + stage.output / 2.0
    computed = stage.prompt - stage.cached
    each = latency_model.beta_ms + latency_model.gamma_ms * context
    busy = stage.rate_per_ms * (latency_model.beta_ms * computed + each * decodes)
    iteration_ms = latency_model.alpha_ms / max(1.0 - busy, 0.05)
    batch = stage.rate_per_ms * decodes * iteration_ms
    for _ in range(ROUNDS if latency_model.experts_ms else 0):
        # The mean of idle^n over a batch n that varies as arrivals do.
        saved_ms = latency_model.experts_ms * exp(batch * (latency_model.experts_idle - 1.0))
        wanted_ms = (latency_model.alpha_ms - saved_ms) / max(1.0 - busy, 0.05)
        iteration_ms = (iteration_ms + wanted_ms) / 2.0
        batch = stage.rate_per_ms * decodes * iteration_ms
    ttft_ms = found.overhead_ms + (1.0 + WAITS) * iteration_ms + latency_model.beta_ms * computed
    return ttft_ms, ttft_ms + decodes * iteration_ms, batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """What measurements give: the constants, and what each accelerator reaches by its name."""

    constants: Constants
    reached: Mapping[str, float]

    def on(self, accelerator: Accelerator) -> Accelerator:
        """Return *accelerator* as measured, as usual if no measurement was of it."""
        return replace(accelerator, reached=self.reached.get(accelerator.name))


def derive(stages: Sequence[Stage], *, without: str = "") -> Derived:
    """Return what *stages*, PUBLISHED and closed loops give, *without* a family of models or an
    accelerator.
    """
    used = [stage for stage in stages if without not in (stage.family, stage.accelerator.name)]
    h100 = read_accelerators(DATA / "datasheets" / "accelerators.json")["H100"]
    published = [
        (read_model(DATA / "models" / f"{name}.json"), latency_model)
        for name, latency_model in PUBLISHED.items()
        if without not in (family_of(name), h100.name)
    ]
    loops = [
        loop
        for loop in read_loops()
        if loop.model.name not in closed.ONLY_PREDICTED
        and without not in (family_of(loop.model.name), closed.ACCELERATOR)
    ]
    seen_ms = np.array([loop.itl_ms for loop in loops])
    names = sorted({stage.accelerator.name for stage in used})

    def residuals(logs: Floats) -> Floats:
        found = _derived(logs, names)
        parts = [*(logs[:CONSTANTS_COUNT] / CONSTANT_SPREAD)]
        parts += [*(logs[CONSTANTS_COUNT:] / REACHED_SPREAD)]
        for stage in used:
            ttft_ms, e2e_ms, _ = predict(on(stage, found), found.constants)
            parts += [
                2.0 * np.log(e2e_ms / stage.e2e_ms) / MEASURED_SPREAD,
                np.log(ttft_ms / stage.ttft_ms) / MEASURED_SPREAD,
            ]
        for model, latency_model in published:
            sheet = estimate(model, found.on(h100), constants=found.constants).latency_model
            parts += [
                np.log(getattr(sheet, field) / getattr(latency_model, field)) / MEASURED_SPREAD
                for field in ("alpha_ms", "beta_ms", "gamma_ms")
            ]
        predicted_ms = predict_itl(loops, found.on(h100), found.constants)
        parts += [*(np.log(predicted_ms / seen_ms) / LOOP_SPREAD)]
        return np.array(parts)

    start = np.zeros(CONSTANTS_COUNT + len(names))
    return _derived(least_squares(residuals, start, loss="soft_l1").x, names)


def on(stage: Stage, found: Derived) -> Stage:
    """Return *stage* on its accelerator as *found* says."""
    return replace(stage, accelerator=found.on(stage.accelerator))


def _derived(logs: Floats, names: Sequence[str]) -> Derived:
    """Return what *logs* say, each the logarithm of what multiplies START and then 1."""
    values = np.exp(logs)
    weights, layer_ms, exchange_ms, compute, kv, overhead_ms, link = (
        float(value) for value in values[:CONSTANTS_COUNT] * astuple(START)
    )
    return Derived(
        constants=Constants(
            weights=weights,
            layer_ms=layer_ms,
            exchange_ms=exchange_ms,
            compute=compute,
            kv=kv,
            overhead_ms=overhead_ms,
            link=link,
        ),
        reached=dict(zip(names, map(float, values[CONSTANTS_COUNT:]), strict=True)),
    )


def errors(stages: Sequence[Stage], derived: Derived) -> Floats:
    """Return the relative errors of E2E and TTFT, a row a stage."""
    found = [(stage, predict(on(stage, derived), derived.constants)) for stage in stages]
    return np.array(
        [
            (e2e_ms / stage.e2e_ms - 1.0, ttft_ms / stage.ttft_ms - 1.0)
            for stage, (ttft_ms, e2e_ms, _) in found
        ]
    )


def usable(stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages below saturation: of the others the closed form says nothing."""
    return [stage for stage in stages if predict(stage, CONSTANTS)[2] < BUSY * stage.max_batch]


def family(stage: Stage) -> str:
    """Return the family of the stage's model."""
    return stage.family


def accelerator(stage: Stage) -> str:
    """Return the name of the stage's accelerator."""
    return stage.accelerator.name


def cross_validated(stages: Sequence[Stage], *, by: Callable[[Stage], str] = family) -> Floats:
    """Return the errors of each family by what the other families gave; *by* says another part."""
    return np.concatenate(
        [
            errors([stage for stage in stages if by(stage) == each], derive(stages, without=each))
            for each in dict.fromkeys(map(by, stages))
        ]
    )


def loop_errors(stages: Sequence[Stage]) -> Mapping[tuple[str, int], Floats]:
    """Return the relative errors of ITL of the closed loops of each model and number of GPUs, by
    what the other families gave.
    """
    h100 = read_accelerators(DATA / "datasheets" / "accelerators.json")[closed.ACCELERATOR]
    loops = read_loops()
    found = {}
    for name in dict.fromkeys(loop.model.name for loop in loops):
        others = derive(stages, without=family_of(name))
        for tp in sorted({loop.tp for loop in loops}):
            mine = [loop for loop in loops if (loop.model.name, loop.tp) == (name, tp)]
            itl_ms = np.array([loop.itl_ms for loop in mine])
            predicted_ms = np.array(predict_itl(mine, others.on(h100), others.constants))
            found[name, tp] = predicted_ms / itl_ms - 1.0
    return found


def summary(found: Floats) -> str:
    """Return median and mean of the absolute errors of E2E and TTFT, in one line."""
    sizes = np.abs(found)
    (e2e, ttft), (e2e_mean, ttft_mean) = np.median(sizes, axis=0), sizes.mean(axis=0)
    return f"E2E {e2e:.1%} / {e2e_mean:.1%}, TTFT {ttft:.1%} / {ttft_mean:.1%}"


def main(arguments: Sequence[str]) -> int:
    """Print the constants, and how far off they are with and without each family."""
    if len(arguments) != 1:
        print(__doc__)
        return 2
    path = Path(arguments[0])
    if not path.is_file():
        print(
            f"{path}: expected a file of stages (vllm_stages_open.csv), found none", file=sys.stderr
        )
        return 2
    everything = read_stages(path)
    stages = usable(everything)
    print(f"{len(stages)} of {len(everything)} stages are below saturation")
    everywhere = derive(stages)
    print(f"all       {_words(everywhere)}")
    print(f"          errors, median / mean: {summary(errors(stages, everywhere))}")
    for by in (family, accelerator):
        for each in dict.fromkeys(map(by, stages)):
            others = derive(stages, without=each)
            rows = [stage for stage in stages if by(stage) == each]
            print(f"{each:<10}{_words(others)}")
            print(f"          {len(rows)} stages without it: {summary(errors(rows, others))}")
    print(f"cross-validated over families: {summary(cross_validated(stages))}")
    print(f"over accelerators: {summary(cross_validated(stages, by=accelerator))}")
    for (name, tp), off in loop_errors(stages).items():
        size = np.median(np.abs(off))
        print(f"{name} on {tp} GPUs, ITL: median {size:.1%}, mean error {off.mean():+.1%}")
    return 0


def _words(derived: Derived) -> str:
    constants = derived.constants
    reached = ", ".join(f"{name} {value:.3f}" for name, value in derived.reached.items())
    return (
        f"weights {constants.weights:.3f}  layer {constants.layer_ms:.4f} ms  "
        f"exchange {constants.exchange_ms:.4f} ms  compute {constants.compute:.3f}  "
        f"kv {constants.kv:.3f}  overhead {constants.overhead_ms:.2f} ms  "
        f"link {constants.link:.3f}  reached {reached}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
