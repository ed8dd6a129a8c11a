"""Draws the pictures that the documents show, from runs on the sample data: python docs/figures.py
(some minutes).
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import RunConfig, run
from experiments.confidence import estimate
from experiments.run_files import run_to_directory

IMAGES = Path(__file__).parent / "images"
SAMPLE_DATA = Path(__file__).parent.parent / "sample-data"

HEADROOMS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)
SEEDS = (1, 2, 3)
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


def main() -> None:
    """Draw them all."""
    IMAGES.mkdir(exist_ok=True)
    draw_ramp()
    figure = draw_headroom(headroom_table())
    figure.savefig(IMAGES / "headroom.png", dpi=120)


def draw_ramp() -> None:
    """Keep the timeline that the README shows."""
    config = RunConfig(data=SAMPLE_DATA / "small", scenario="ramp", hours=0.75)
    with TemporaryDirectory() as folder:
        run_to_directory(config, Path(folder) / "ramp")
        (IMAGES / "ramp.png").write_bytes((Path(folder) / "ramp" / "timeline.png").read_bytes())


def headroom_table() -> pd.DataFrame:
    """Return attainment and cost by load, headroom and seed: half an hour of the large system
    each.
    """
    tasks = list(product(LOADS, HEADROOMS, SEEDS))
    with ProcessPoolExecutor() as pool:
        return pd.DataFrame(list(pool.map(_score, tasks)))


def _score(task: tuple[Load, float, int]) -> dict[str, float | str]:
    load, headroom, seed = task
    result = run(
        RunConfig(
            data=SAMPLE_DATA / "large",
            scenario=load.scenario,
            disturbance_alpha=load.alpha,
            walk="reverting",
            hours=0.5,
            seed=seed,
            policy_options=(("headroom", headroom),),
        )
    )
    return {
        "load": load.label,
        "headroom": headroom,
        "attainment": result.summary["attainment"],
        "cost_cents_per_h": result.summary["cost_cents_per_h"],
    }


def draw_headroom(table: pd.DataFrame) -> Figure:
    """Return attainment and cost against the headroom, means with 95 % intervals over the seeds."""
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, table, column="attainment", scale=100.0, label="requests within target [%]")
    _draw(right, table, column="cost_cents_per_h", scale=1.0, label="cost [cents/h]")
    left.legend(frameon=False)
    return figure


def _draw(axes: Axes, table: pd.DataFrame, *, column: str, scale: float, label: str) -> None:
    for colour, (name, rows) in zip(COLOURS, table.groupby("load", sort=False), strict=True):
        cells = rows.groupby("headroom")[column]
        found = {float(str(headroom)): estimate(values * scale) for headroom, values in cells}
        means, bars = (
            [each.mean for each in found.values()],
            [each.half_width for each in found.values()],
        )
        axes.errorbar(
            list(found), means, yerr=bars, color=colour, marker="o", capsize=3, label=str(name)
        )
    axes.set_xlabel("headroom: sized for (1 − headroom) · SLO")
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
