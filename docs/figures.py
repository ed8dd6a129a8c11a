"""Draws the pictures that the documents show, from runs on the sample data: python docs/figures.py
[NAME] (some minutes).

Beside each picture it writes what the picture was made of: the command, a digest of the input, and
the numbers shown. tests/test_pictures.py holds them to what the command gives today.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import RunConfig, run
from experiments.compare import CompareConfig, compare, contenders
from experiments.confidence import estimate, estimate_share
from experiments.grid import SweepConfig
from experiments.run_files import run_to_directory
from experiments.validation.sweeps import SWEEPS, PointFit, predictions, split_fit

IMAGES = Path(__file__).parent / "images"
SAMPLE_DATA = Path(__file__).parent.parent / "sample-data"

RAMP_COMMAND = "inferno sim --data sample-data/small --scenario ramp --hours 0.75"
RAMP = RunConfig(data=SAMPLE_DATA / "small", scenario="ramp", hours=0.75)

HEADROOMS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)
SEEDS = (1, 2, 3)
MODELS = {"guidellm_exp1_llama31_8b": "Llama-3.1-8B", "guidellm_exp2": "Qwen2.5-14B"}
# A sweep, the model of its prior, and the half of its shapes that is fitted.
VALIDATED = (
    ("guidellm_exp1_llama31_8b", "llama-3.1-8b", "A → B"),
    ("guidellm_exp1_llama31_8b", "llama-3.1-8b", "B → A"),
    ("guidellm_exp2", "qwen2.5-14b", "A → B"),
    ("guidellm_exp2", "qwen2.5-14b", "B → A"),
)
COLOURS = ("#0072B2", "#D55E00")  # Okabe and Ito: told apart by everybody


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A load to try the headroom under."""

    label: str
    scenario: str
    alpha: float


LOADS = (
    Load(label="steady", scenario="steady", alpha=0.0),
    Load(label="disturbed, reverting, alpha 0.1", scenario="disturbed", alpha=0.1),
)


def main(names: Sequence[str]) -> None:
    """Draw the pictures of these names, all when none is given."""
    IMAGES.mkdir(exist_ok=True)
    pictures = {
        "compare": draw_compare,
        "ramp": draw_ramp,
        "headroom": draw_headroom,
        "validation": draw_validation,
    }
    for name in names or pictures:
        pictures[name]()


def draw_ramp() -> None:
    """Keep the timeline that the README shows."""
    with TemporaryDirectory() as folder:
        result, _ = run_to_directory(RAMP, Path(folder) / "ramp")
        (IMAGES / "ramp.png").write_bytes((Path(folder) / "ramp" / "timeline.png").read_bytes())
    note("ramp", command=RAMP_COMMAND, configs=[RAMP], numbers=ramp_numbers(result.summary))


def ramp_numbers(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers that stand in the timeline."""
    return {
        "attainment": summary["attainment"],
        "cost_usd_per_h": summary["cost_usd_per_h"],
        "servers": {name: one["attainment"] for name, one in summary["servers"].items()},
    }


COMPARE_COMMAND = (
    "inferno compare --data sample-data/small --policies slo,hpa,keda,static_peak,clairvoyant "
    "--scenario day,ramp,code-trace"
)
COMPARED = ("day", "ramp", "code-trace")


def draw_compare() -> None:
    """Keep the picture of cost against attainment that the README begins with."""
    base = RunConfig(data=SAMPLE_DATA / "small")
    asked = CompareConfig(
        contenders=contenders(("slo", "hpa", "keda", "static_peak", "clairvoyant")),
        loads=SweepConfig(base=base, scenarios=COMPARED),
    )
    with TemporaryDirectory() as folder:
        done = compare(asked, Path(folder))
        (IMAGES / "compare.png").write_bytes((Path(folder) / "cost-attainment.png").read_bytes())
    shown = ["scenario", "policy", "attainment", "cost_usd_per_h"]
    numbers = done.results[shown].to_dict(orient="records")
    configs = [replace(base, scenario=name) for name in COMPARED]
    note("compare", command=COMPARE_COMMAND, configs=configs, numbers=numbers)


def draw_headroom() -> None:
    """Keep the picture of docs/optimizer.md."""
    table = headroom_table()
    headroom_figure(table).savefig(IMAGES / "headroom.png", dpi=120)
    configs = [headroom_config(load, 0.1, 1) for load in LOADS]
    numbers = table.to_dict(orient="records")
    note("headroom", command="python docs/figures.py headroom", configs=configs, numbers=numbers)


def note(
    name: str,
    *,
    command: str,
    configs: Sequence[RunConfig],
    numbers: Any,
    files: Sequence[Path] = (),
) -> None:
    """Write beside a picture what it was made of."""
    told = {"command": command, "inputs": digest(configs, files), "numbers": numbers}
    text = json.dumps(told, indent=1, ensure_ascii=False)
    (IMAGES / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def digest(configs: Sequence[RunConfig], files: Sequence[Path] = ()) -> str:
    """Return a digest of the data and the scenarios that these runs read, and of *files*."""
    read = {*files, *(path for config in configs for path in Path(config.data).glob("*.json"))}
    read |= {SAMPLE_DATA / "scenarios" / f"{config.scenario}.yaml" for config in configs}
    found = hashlib.sha256()
    for path in sorted(read):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def headroom_table() -> pd.DataFrame:
    """Return attainment and cost by load, headroom and seed: an hour of the small system each."""
    tasks = list(product(LOADS, HEADROOMS, SEEDS))
    with ProcessPoolExecutor() as pool:
        return pd.DataFrame(list(pool.map(_score, tasks)))


def headroom_config(load: Load, headroom: float, seed: int) -> RunConfig:
    """Return the run that is one point of the picture."""
    return RunConfig(
        data=SAMPLE_DATA / "small",
        scenario=load.scenario,
        disturbance_alpha=load.alpha,
        walk="reverting",
        hours=1.0,
        seed=seed,
        policy_options=(("headroom", headroom),),
    )


def _score(task: tuple[Load, float, int]) -> dict[str, float | str]:
    load, headroom, seed = task
    result = run(headroom_config(load, headroom, seed))
    return {
        "load": load.label,
        "headroom": headroom,
        "seed": seed,
        "attainment": result.summary["attainment"],
        "cost_usd_per_h": result.summary["cost_usd_per_h"],
    }


def headroom_figure(table: pd.DataFrame) -> Figure:
    """Return attainment and cost against the headroom, means with 95 % intervals over the seeds."""
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, table, column="attainment", scale=100.0, label="requests within target [%]")
    _draw(right, table, column="cost_usd_per_h", scale=1.0, label="cost [$/h]")
    left.legend(frameon=False)
    return figure


def _draw(axes: Axes, table: pd.DataFrame, *, column: str, scale: float, label: str) -> None:
    interval = estimate_share if column == "attainment" else estimate
    for colour, (name, rows) in zip(COLOURS, table.groupby("load", sort=False), strict=True):
        cells = rows.groupby("headroom")[column]
        found = {float(str(headroom)): interval(values) for headroom, values in cells}
        means = [scale * each.mean for each in found.values()]
        bars = [
            [scale * (each.mean - each.low) for each in found.values()],
            [scale * (each.high - each.mean) for each in found.values()],
        ]
        axes.errorbar(
            list(found), means, yerr=bars, color=colour, marker="o", capsize=3, label=str(name)
        )
    axes.set_xlabel("headroom: sized for (1 − headroom) · SLO")
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)


def draw_validation() -> None:
    """Keep the picture of docs/validation.md: shapes that no fit saw."""
    with ProcessPoolExecutor(len(VALIDATED)) as pool:
        fits = list(pool.map(_fit, VALIDATED))
    rows = [
        {"dataset": dataset, "split": split, **asdict(each)}
        for (dataset, _, split), found in zip(VALIDATED, fits, strict=True)
        for each in predictions(dataset, split, found)
    ]
    validation_figure(pd.DataFrame(rows)).savefig(IMAGES / "validation.png", dpi=120)
    note(
        "validation",
        command="python docs/figures.py validation",
        configs=[],
        files=[SWEEPS],
        numbers={"fits": [asdict(found) for found in fits], "steps": rows},
    )


def _fit(validated: tuple[str, str, str]) -> PointFit:
    return split_fit(*validated)


def validation_figure(table: pd.DataFrame) -> Figure:
    """Return predicted against measured ITL, and the errors of ITL and TTFT by load."""
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for colour, (name, rows) in zip(COLOURS, table.groupby("dataset", sort=False), strict=True):
        label = MODELS[str(name)]
        left.scatter(rows["itl_ms"], rows["itl_predicted_ms"], s=12, color=colour, label=label)
        # Of one shape the highest rate is its knee: so loads of all shapes stand on one axis.
        load = rows["rate_rps"] / rows.groupby("shape")["rate_rps"].transform("max")
        for axes, kind in ((middle, "itl"), (right, "ttft")):
            error = 100.0 * (rows[f"{kind}_predicted_ms"] / rows[f"{kind}_ms"] - 1.0)
            axes.scatter(load, error, s=12, color=colour)
    largest = float(table[["itl_ms", "itl_predicted_ms"]].to_numpy().max()) * 1.05
    left.plot([0.0, largest], [0.0, largest], color="grey", linewidth=0.8)
    left.set_xlabel("ITL measured [ms]")
    left.set_ylabel("predicted [ms]")
    left.legend(frameon=False)
    for axes, kind in ((middle, "ITL"), (right, "TTFT")):
        axes.axhline(0.0, color="grey", linewidth=0.8)
        axes.set_xlabel("share of the highest rate of the shape")
        axes.set_ylabel(f"error of {kind} [%]")
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main(sys.argv[1:])
