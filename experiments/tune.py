"""Tuning: each policy gets the same number of runs on training seeds to find its options, and is
then compared, as shipped and tuned, on seeds that it was not tuned on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.compare import (
    CompareConfig,
    CompareResult,
    Contender,
    compare,
    contenders,
    planned_runs,
)
from experiments.compare.rows import CLAIRVOYANT, Compared, compared_row
from experiments.config import PolicyOption
from experiments.executor import Executor
from experiments.grid import SweepConfig
from experiments.output import write_json
from experiments.sweep import finish_runs
from experiments.sweep_rows import Row
from loop.policies import make_policy
from twin.spec import SpecError

if TYPE_CHECKING:
    from rich.console import Console

TUNED = "tuned.json"
# The options that are tried where nobody names others: those that decide how much is held, or how
# soon. Each has five values, so that the usual budget is the same for everybody.
GRIDS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "slo": ("headroom", (0.0, 0.1, 0.2, 0.3, 0.4)),
    "hpa": ("target", (0.4, 0.5, 0.6, 0.75, 0.85)),
    "keda": ("target", (0.4, 0.5, 0.6, 0.75, 0.85)),
    "kpa": ("target_utilization", (0.5, 0.6, 0.7, 0.8, 0.9)),
    "wva": ("kv_cache_threshold", (0.5, 0.6, 0.7, 0.8, 0.9)),
    "ray_serve": ("target", (0.3, 0.4, 0.5, 0.6, 0.75)),
    "aibrix": ("target", (0.3, 0.4, 0.5, 0.6, 0.75)),
    "dynamo": ("throughput_interval_s", (30.0, 60.0, 90.0, 120.0, 180.0)),
    "predictive": ("headroom", (0.0, 0.1, 0.2, 0.3, 0.4)),
    "through_hpa": ("stabilization_s", (0.0, 60.0, 150.0, 300.0, 600.0)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneConfig:
    """*policies* by name, tuned on train_seeds seeds of *loads* (from its first on) with *budget*
    runs for each scenario and seed, and scored on loads.seeds seeds after those.
    """

    policies: tuple[str, ...]
    loads: SweepConfig = field(default_factory=SweepConfig)
    options: tuple[tuple[str, tuple[PolicyOption, ...]], ...] = ()
    train_seeds: int = 2
    budget: int = 5
    price_usd: float = 0.01

    def __post_init__(self) -> None:
        # Wrong names and options are told before anything runs.
        CompareConfig(contenders=contenders(self.policies, self.options), price_usd=self.price_usd)
        for name in ("train_seeds", "budget"):
            if getattr(self, name) < 1:
                raise SpecError(
                    f"{name.replace('_', '-')}: expected a whole number >= 1, found "
                    f"{getattr(self, name)}"
                )


def candidates(asked: TuneConfig, policy: str) -> tuple[Contender, ...]:
    """Return the settings that *policy* tries: at most the budget, evenly out of its grid."""
    own = [one for one in asked.options if one[0].rpartition(".")[0] in ("", policy)]
    if not own and policy in GRIDS:
        own = [GRIDS[policy]]
    found = contenders((policy,), tuple(own))
    if len(found) <= asked.budget:
        return found
    chosen = np.unique(np.linspace(0, len(found) - 1, asked.budget).round().astype(int))
    return tuple(found[int(place)] for place in chosen)


def tune(
    asked: TuneConfig,
    out: Path,
    *,
    executor: Executor | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> tuple[CompareResult, dict[str, dict[str, PolicyOption]]]:
    """Tune and compare; return the comparison and the options that were chosen, by policy."""
    tried = _tried(asked)
    runs = training_runs(asked)
    done = finish_runs(
        runs,
        out / "train",
        work=compared_row,
        executor=executor,
        resume=resume,
        console=console,
    )
    chosen = {
        # Of settings that come to the same, what is shipped stays.
        name: min(
            group,
            key=lambda one: (_mean_objective(runs, done.rows, one.name), not _as_shipped(one)),
        )
        for name, group in tried.items()
    }
    told = {name: dict(one.options) for name, one in chosen.items()}
    write_json(out / TUNED, told)
    scored = replace(
        asked.loads, base=replace(asked.loads.base, seed=asked.loads.base.seed + asked.train_seeds)
    )
    both = _shipped_and_tuned(asked.policies, chosen)
    result = compare(
        CompareConfig(contenders=both, loads=scored, price_usd=asked.price_usd),
        out,
        executor=executor,
        resume=resume,
        console=console,
    )
    return result, told


def training_runs(asked: TuneConfig) -> list[Compared]:
    """Return the runs on training seeds, with all that they name read and checked. Raise SpecError
    for what is wrong.
    """
    tried = tuple(one for group in _tried(asked).values() for one in group)
    training = replace(asked.loads, seeds=asked.train_seeds)
    return planned_runs(CompareConfig(contenders=tried, loads=training, price_usd=asked.price_usd))


def _tried(asked: TuneConfig) -> dict[str, tuple[Contender, ...]]:
    return {name: candidates(asked, name) for name in asked.policies if name != CLAIRVOYANT}


def _as_shipped(one: Contender) -> bool:
    """Tell whether *one* has the options that its policy has anyway."""
    policy = make_policy(one.policy)
    return all(getattr(policy, name, None) == value for name, value in one.options)


def _mean_objective(runs: Sequence[Compared], rows: Mapping[str, Row], name: str) -> float:
    """Return the mean objective of what is called *name*; a setting of which a run failed is never
    the best, or failing under the hardest load would pay.
    """
    own = [rows[run.run_id] for run in runs if run.policy == name]
    if any(row["error"] for row in own):
        return math.inf
    return float(sum(row["objective_usd_per_h"] for row in own)) / len(own)


def _shipped_and_tuned(
    policies: Sequence[str], chosen: Mapping[str, Contender]
) -> tuple[Contender, ...]:
    found = []
    for name in policies:
        found.append(Contender(name=name, policy=name))
        if name in chosen and chosen[name].options:
            found.append(replace(chosen[name], name=f"{name} tuned"))
    return tuple(found)
