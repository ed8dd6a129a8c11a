"""A comparison: policies under the same loads and seeds, with the clairvoyant and static peak as
bounds, in pairs. It answers with tables, figures and one line of advice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.compare.rows import (
    CLAIRVOYANT,
    NO_START_UP,
    PERFECT,
    Compared,
    compared_row,
    derived_id,
    planned_policy,
)
from experiments.config import PolicyOption
from experiments.executor import Executor
from experiments.grid import SweepConfig
from experiments.output import write_csv
from experiments.sweep import FinishedRuns, finish_runs
from experiments.sweep_rows import Row, notes_of, results_frame
from twin.spec import SpecError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from loop.ports import Policy

__all__ = [
    "FIRST",
    "RESULTS_CSV",
    "CompareConfig",
    "CompareResult",
    "Contender",
    "compare",
    "contenders",
    "write_results",
]

RESULTS_CSV = "results.csv"
FIRST = (
    "policy",
    "scenario",
    "seed",
    "attainment",
    "minute_attainment",
    "minute_attainment_p95",
    "cost_usd_per_h",
    "cost_usd_per_1000_met",
    "gpu_hours",
    "changes_per_h",
    "reversals_per_h",
    "overshoot",
    "settling_s",
    "objective_usd_per_h",
    "regret_usd_per_h",
    "gpus_peak_perfect",
    "gpus_mean_perfect",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A policy (a name, module:Class, FILE.py, or an object) with options of its own, and what
    tables call it.
    """

    name: str
    policy: str | Policy
    options: tuple[tuple[str, PolicyOption], ...] = ()


def contenders(
    policies: Sequence[str | Policy], options: Sequence[tuple[str, tuple[PolicyOption, ...]]] = ()
) -> tuple[Contender, ...]:
    """Return a contender for each of *policies* and each combination of the values of its options.

    POLICY.OPTION is for that policy alone, another option for all. Values of which there are
    several stand in the names. Raise SpecError for an option of a policy that is not among them.
    """
    names = [policy if isinstance(policy, str) else policy.name for policy in policies]
    for key, _ in options:
        whose = key.rpartition(".")[0]
        if whose and whose not in names:
            raise SpecError(
                f"--set {key}: expected an option of {', '.join(names)}, found one of {whose}"
            )
    found = []
    for name, policy in zip(names, policies, strict=True):
        own = {
            key.rpartition(".")[2]: values
            for key, values in options
            if key.rpartition(".")[0] in ("", name)
        }
        for values in product(*own.values()):
            chosen = dict(zip(own, values, strict=True))
            told = ", ".join(f"{key}={chosen[key]}" for key in own if len(own[key]) > 1)
            label = f"{name}({told})" if told else name
            found.append(
                Contender(name=label, policy=policy, options=tuple(sorted(chosen.items())))
            )
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """*contenders* under all of *loads* (a grid, whose policy does not matter); a missed request
    costs price_usd. The name CLAIRVOYANT asks for that bound.
    """

    contenders: tuple[Contender, ...]
    loads: SweepConfig = field(default_factory=SweepConfig)
    price_usd: float = 0.01

    def __post_init__(self) -> None:
        if not 0.0 <= self.price_usd <= 1e6:
            raise SpecError(
                f"price: expected dollars a missed request >= 0, found {self.price_usd}"
            )
        names = [one.name for one in self.contenders]
        for name in names:
            if names.count(name) > 1:
                raise SpecError(f"policies: expected every policy once, found {name} twice")
        if not self.policies:
            raise SpecError(f"policies: expected at least one beside {CLAIRVOYANT}, found none")

    @property
    def policies(self) -> tuple[Contender, ...]:
        """Return the contenders that are policies."""
        return tuple(one for one in self.contenders if one.policy != CLAIRVOYANT)

    @property
    def bounded(self) -> bool:
        """Tell whether the clairvoyant is asked for."""
        return len(self.policies) < len(self.contenders)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompareResult:
    """The table of a comparison (a row a policy, scenario and seed), its advice, and what was
    written.
    """

    results: pd.DataFrame
    advice: tuple[str, ...]
    paths: list[Path]
    failures: list[Path]
    notes: tuple[str, ...] = ()


def compare(
    asked: CompareConfig,
    out: Path,
    *,
    executor: Executor | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> CompareResult:
    """Run the comparison on *executor* (None: a process a core) and write its tables and figures to
    *out*. With *resume*, what is finished there is not repeated.
    """
    from experiments.compare.report import save_report

    policies = planned_runs(asked)
    perfect = [_perfect(planned) for planned in policies[:: len(asked.policies)]]
    first = finish_runs(
        [*policies, *perfect],
        out,
        work=compared_row,
        executor=executor,
        resume=resume,
        console=console,
    )
    later = []
    if asked.bounded:
        later += _clairvoyants(policies, first, count=len(asked.policies))
    later += _without_start_up(policies, first, asked)
    second = finish_runs(
        later,
        out,
        work=compared_row,
        executor=executor,
        resume=resume,
        console=console if later else None,
    )
    rows = {**first.rows, **second.rows}
    results = _results([*policies, *later], perfect, rows)
    failures = [*first.failures, *second.failures]
    write_results(results, out)
    report = save_report(
        results, out, rows=[rows[one.run_id] for one in (*policies, *later)], console=console
    )
    return CompareResult(
        results=results,
        advice=report.advice,
        paths=[out / RESULTS_CSV, *report.paths],
        failures=failures,
        notes=notes_of(policies, rows),
    )


def planned_runs(asked: CompareConfig) -> list[Compared]:
    """Return the runs of the policies, those under one load beside each other, with all that they
    name read and checked. Raise SpecError for what is wrong.
    """
    return [
        planned_policy(
            replace(load, policy=one.policy, policy_options=one.options),
            name=one.name,
            cell=cell,
            price_cents=100.0 * asked.price_usd,
        )
        for cell, load in enumerate(asked.loads.runs())
        for one in asked.policies
    ]


def write_results(results: pd.DataFrame, out: Path) -> None:
    """Write the table of a comparison, without the runs that only explain others."""
    shown = results[~results["policy"].str.endswith(NO_START_UP)]
    write_csv(out / RESULTS_CSV, shown)


def _perfect(planned: Compared) -> Compared:
    return replace(
        planned,
        kind=PERFECT,
        policy=PERFECT,
        run_id=derived_id(planned.run_id, PERFECT),
        label=f"{planned.config.scenario} bounds seed {planned.config.seed}",
    )


def _clairvoyants(
    policies: Sequence[Compared], first: FinishedRuns, *, count: int
) -> list[Compared]:
    """Return the clairvoyant of each load, which knows what every policy did under it."""
    found = []
    for start in range(0, len(policies), count):
        group = policies[start : start + count]
        rows = tuple(row for planned in group if not (row := first.rows[planned.run_id])["error"])
        one = group[0]
        found.append(
            replace(
                one,
                kind=CLAIRVOYANT,
                policy=CLAIRVOYANT,
                rows=rows,
                run_id=derived_id(CLAIRVOYANT, [row["run_id"] for row in rows], one.price_cents),
                label=f"{one.config.scenario} {CLAIRVOYANT} seed {one.config.seed}",
            )
        )
    return found


def _without_start_up(
    policies: Sequence[Compared], first: FinishedRuns, asked: CompareConfig
) -> list[Compared]:
    """Return, for the best policy of each scenario, its run of the first seed without start-up:
    what waiting for pods costs.
    """
    from experiments.compare.advice import best_policy

    found = []
    frame = _frame(policies, first.rows)
    for scenario in dict.fromkeys(frame[frame["error"] == ""]["scenario"]):
        best = best_policy(frame[frame["scenario"] == scenario])
        for planned in policies:
            config = planned.config
            same = (planned.policy, config.scenario) == (best, scenario)
            if same and config.seed == asked.loads.base.seed:
                found.append(
                    replace(
                        planned,
                        kind=NO_START_UP,
                        policy=f"{best} {NO_START_UP}",
                        run_id=derived_id(planned.run_id, NO_START_UP),
                        label=f"{scenario} {best} {NO_START_UP}",
                    )
                )
    return found


def _frame(planned: Sequence[Compared], rows: Mapping[str, Row]) -> pd.DataFrame:
    """Return the table of *planned*; what failed has its name and load in it, and no figures."""
    results = results_frame(planned, rows)
    results["policy"] = [one.policy for one in planned]
    results["cell"] = [one.cell for one in planned]
    for name in FIRST:
        if name not in results:
            results[name] = None
    return results


def _results(
    planned: Sequence[Compared], perfect: Sequence[Compared], rows: Mapping[str, Row]
) -> pd.DataFrame:
    results = _frame(planned, rows)
    bound = results[results["policy"] == CLAIRVOYANT].set_index("cell")
    needed = {row["cell"]: row for row in (rows[one.run_id] for one in perfect) if not row["error"]}
    for place, row in results.iterrows():
        key = row["cell"]
        if key in bound.index and row["error"] == "":
            least = float(bound.loc[key, "objective_usd_per_h"])
            results.loc[place, "regret_usd_per_h"] = row["objective_usd_per_h"] - least
        if key in needed:
            results.loc[place, "gpus_peak_perfect"] = needed[key]["gpus_peak"]
            results.loc[place, "gpus_mean_perfect"] = needed[key]["gpus_mean"]
    rest = [name for name in results.columns if name not in FIRST]
    return results[[*FIRST, *rest]]
