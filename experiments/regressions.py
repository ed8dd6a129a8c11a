"""What got worse since stored results, for pull requests. Pure, but for the reading of files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from experiments.run_tables import read_runs
from twin.spec import SpecError

KEYS = ["scenario", "policy", "seed"]
# What makes another load of the same scenario and seed; a period is the policy's own.
LOAD = ("alpha", "interval_s", "hours", "walk", "start_up")
AXES = (*LOAD, "period_s")
# The figures that are compared: the most that each can be, and what is expected.
RANGES = {"attainment": (1.0, "shares of 0 to 1"), "cost_usd_per_h": (1e12, "dollars of 0 to 1e12")}
NEEDED = {*KEYS, *RANGES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """By how much a mean may be worse: points of attainment, and share of cost."""

    points: float = 0.5
    cost: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The difference of one policy under one scenario, in so many pairs of equal loads and seeds:
    points of attainment and share of cost. worse says what got worse, "" if nothing did.
    """

    scenario: str
    policy: str
    pairs: int
    points: float
    cost: float
    worse: str


def read_results(path: Path) -> pd.DataFrame:
    """Return the results of a comparison, from its directory or its CSV file. Raise SpecError for
    another file.
    """
    file = path / "results.csv" if path.is_dir() else path
    table = read_runs(file, NEEDED, also=AXES)
    axes = [axis for axis in AXES if axis in table]
    for name, (most, expected) in RANGES.items():
        known = table[name].dropna().astype(float)
        if len(wrong := known[~known.between(0.0, most)]):
            raise SpecError(f"{file}: {name}: expected {expected}, found {wrong.iloc[0]:g}")
    if (again := table.duplicated([*KEYS, *axes])).any():
        run = table[again].iloc[0]
        raise SpecError(
            f"{file}: expected every run once, found {run['policy']} under {run['scenario']}, seed "
            f"{run['seed']}, twice"
        )
    return table


def regressions(
    now: pd.DataFrame, stored: pd.DataFrame, *, allowance: Allowance
) -> tuple[Checked, ...]:
    """Return how each policy of *stored* stands *now* under each scenario. What is not there any
    more, or failed, is worse. Raise SpecError if none of *stored* finished.
    """
    found = []
    good, known = _finished(now), _finished(stored)
    if known.empty:
        raise SpecError("stored results: expected runs that finished, found none")
    keys = [*KEYS, *_axes(known, good)]
    for (scenario, policy), before in known.groupby(["scenario", "policy"], sort=False):
        own = good[(good["scenario"] == scenario) & (good["policy"] == policy)]
        pairs = before.merge(own, on=keys, suffixes=("_before", ""))
        points, cost, worse = float("nan"), float("nan"), []
        if lost := len(before) - len(pairs):
            worse.append(
                f"{lost} of {len(before)} runs are missing or failed{_other_load(before, own)}"
            )
        else:
            points = 100.0 * _change(pairs, "attainment")
            cost = _change(pairs, "cost_usd_per_h", relative=True)
            # Not below is not the same as above: what is not known any more is worse.
            if not points >= -allowance.points:
                worse.append(
                    f"{points:+.2f} points" if math.isfinite(points) else "attainment not known"
                )
            if not cost <= allowance.cost:
                worse.append(
                    "cost not known" if math.isnan(cost) else f"{100 * cost:+.1f} % of cost"
                )
        found.append(
            Checked(
                scenario=str(scenario),
                policy=str(policy),
                pairs=len(pairs),
                points=points,
                cost=cost,
                worse=", ".join(worse),
            )
        )
    return tuple(found)


def _finished(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["error"].isna() | (table["error"] == "")] if "error" in table else table


def _axes(stored: pd.DataFrame, now: pd.DataFrame) -> list[str]:
    """Return the axes in which the two of a pair are equal: those of the load, and periods of which
    *stored* has several for one policy, load and seed.
    """
    return [
        axis
        for axis in AXES
        if axis in stored
        and axis in now
        and (axis in LOAD or stored.groupby(KEYS)[axis].nunique().max() > 1)
    ]


def _other_load(before: pd.DataFrame, own: pd.DataFrame) -> str:
    """Return in what the load of *own*, the runs of now, is another one; "" if it is not."""
    told = [
        f"{axis} {own[axis].iloc[0]}, stored {before[axis].iloc[0]}"
        for axis in LOAD
        if axis in own and axis in before and len(own) and not own[axis].isin(before[axis]).any()
    ]
    return f" ({'; '.join(told)})" if told else ""


def _change(pairs: pd.DataFrame, name: str, *, relative: bool = False) -> float:
    """Return by how much the mean of *name* changed over the pairs in which it was known before; 0
    if there are none, NaN where it is not known any more.
    """
    known = pairs[pairs[f"{name}_before"].notna()].astype({name: float})
    before, now = float(known[f"{name}_before"].mean()), float(known[name].mean(skipna=False))
    if now == before or known.empty:
        return 0.0
    if not relative:
        return now - before
    return now / before - 1.0 if before > 0.0 else float("inf")
