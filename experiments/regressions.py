"""What got worse since stored results, for pull requests. Pure, but for the reading of files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from twin.spec import SpecError

KEYS = ["scenario", "policy", "seed"]
NEEDED = {*KEYS, "attainment", "cost_usd_per_h"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """By how much a mean may be worse: points of attainment, and share of cost."""

    points: float = 0.5
    cost: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The difference of one policy under one scenario, in pairs of equal seeds: points of
    attainment and share of cost. worse says what got worse, "" if nothing did.
    """

    scenario: str
    policy: str
    seeds: int
    points: float
    cost: float
    worse: str


def read_results(path: Path) -> pd.DataFrame:
    """Return the results of a comparison, from its directory or its CSV file. Raise SpecError for
    another file.
    """
    file = path / "results.csv" if path.is_dir() else path
    try:
        table = pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise SpecError(
            f"{file}: expected the results of a comparison, found "
            f"{' '.join(str(error).split())[:60]}"
        ) from None
    if missing := NEEDED - set(table.columns):
        raise SpecError(
            f"{file}: expected the columns of a comparison, found no {', '.join(sorted(missing))}"
        )
    return table


def regressions(
    now: pd.DataFrame, stored: pd.DataFrame, *, allowance: Allowance
) -> tuple[Checked, ...]:
    """Return how each policy of *stored* stands *now* under each scenario. What is not there any
    more, or failed, is worse.
    """
    found = []
    good = now[now["error"].isna() | (now["error"] == "")] if "error" in now else now
    for (scenario, policy), before in stored.groupby(["scenario", "policy"], sort=False):
        own = good[(good["scenario"] == scenario) & (good["policy"] == policy)]
        pairs = before.merge(own, on=KEYS, suffixes=("_before", ""))
        if len(pairs) < len(before):
            lost = len(before) - len(pairs)
            found.append(
                Checked(
                    scenario=str(scenario),
                    policy=str(policy),
                    seeds=len(pairs),
                    points=float("nan"),
                    cost=float("nan"),
                    worse=f"{lost} of {len(before)} runs are missing or failed",
                )
            )
            continue
        points = 100.0 * float((pairs["attainment"] - pairs["attainment_before"]).mean())
        cost = float(pairs["cost_usd_per_h"].mean() / pairs["cost_usd_per_h_before"].mean()) - 1.0
        worse = []
        if points < -allowance.points:
            worse.append(f"{points:+.2f} points")
        if cost > allowance.cost:
            worse.append(f"{100 * cost:+.1f} % of cost")
        found.append(
            Checked(
                scenario=str(scenario),
                policy=str(policy),
                seeds=len(pairs),
                points=points,
                cost=cost,
                worse=", ".join(worse),
            )
        )
    return tuple(found)
