"""Which policy to take for a load, and what that is worth, in one line. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.compare_rows import BOUNDS, NO_START_UP

if TYPE_CHECKING:
    import pandas as pd

# Attainments closer than this are the same to who chooses [share].
SAME_ATTAINMENT = 0.005
# What is cheaper by less than this is as dear [share].
SAME_COST = 0.01


def real_policies(results: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of policies that somebody could run: no bounds, nothing counterfactual."""
    known = results["policy"].isin(BOUNDS) | results["policy"].str.endswith(NO_START_UP)
    return results[~known & (results["error"] == "")]


def best_policy(results: pd.DataFrame) -> str:
    """Return the policy with the least mean of cost and price × misses; of bounds alone, theirs."""
    real = real_policies(results)
    means = (real if len(real) else results).groupby("policy")["objective_usd_per_h"].mean()
    return str(means.astype(float).idxmin())


def advice(results: pd.DataFrame) -> tuple[str, ...]:
    """Return a line for each scenario, and a last one over all if there are several."""
    scenarios = list(dict.fromkeys(results["scenario"]))
    lines = []
    for scenario in scenarios:
        own = results[results["scenario"] == scenario]
        if len(real_policies(own)):
            lines.append(
                _line(own, what=f"for {scenario}" if len(scenarios) > 1 else "for this load")
            )
    if len(scenarios) > 1 and len(real_policies(results)):
        lines.append(_line(results, what="for all these loads"))
    return tuple(lines)


def _line(results: pd.DataFrame, *, what: str) -> str:
    real = real_policies(results)
    best = best_policy(results)
    means = real.groupby("policy")[["attainment", "cost_usd_per_h"]].mean().astype(float)
    own = means.to_dict(orient="index")[best]
    met = f"{100 * own['attainment']:.1f} %" if own["attainment"] >= 0.0 else "no requests"
    parts = [f"{what} take {best}: {met} at $ {own['cost_usd_per_h']:.2f}/h"]
    others = [
        _against(own, name, other)
        for name, other in zip(means.index, means.to_dict(orient="records"), strict=True)
        if name != best
    ]
    parts += [text for _, text in sorted(part for part in others if part is not None)[:1]]
    waiting = _start_up(results, best)
    line = ", ".join(parts)
    return f"{line}; {waiting}" if waiting else line


def _against(
    own: Mapping[Any, float], name: object, other: Mapping[Any, float]
) -> tuple[float, str] | None:
    """Return how far the best (*own*) is from another policy, and what it is better by."""
    points = float(np.nan_to_num(100.0 * (own["attainment"] - other["attainment"])))
    own_usd, other_usd = float(own["cost_usd_per_h"]), float(other["cost_usd_per_h"])
    saved = 1.0 - own_usd / other_usd if other_usd > 0.0 else 0.0 if own_usd == 0.0 else -np.inf
    far = abs(points) + 100.0 * abs(saved)
    same, as_dear = abs(points) <= 100.0 * SAME_ATTAINMENT, abs(saved) <= SAME_COST
    if saved > SAME_COST and points >= -100.0 * SAME_ATTAINMENT:
        level = "the same" if same else f"{points:.1f} points more"
        return far, f"{100 * saved:.0f} % cheaper than {name} at {level} attainment"
    if saved > SAME_COST:
        return far, f"{100 * saved:.0f} % cheaper than {name} for {-points:.1f} points less"
    if as_dear:
        return far, (
            f"no worse than {name}"
            if same
            else f"{points:.1f} points more than {name} at the same cost"
        )
    # It costs more, and is the best all the same: what its points cost is for who pays to judge.
    cost = f"{-100 * saved:+.0f} % of cost" if other_usd > 0.0 else f"$ {own_usd:.2f}/h more"
    more = f"{points:.1f} points more than" if points >= 0.05 else "the attainment of"
    return far, f"{more} {name} at {cost}"


def _start_up(results: pd.DataFrame, best: str) -> str:
    """Return what start-up costs *best*, in points of attainment of equal loads and seeds."""
    done = results[results["error"] == ""]
    without = done[done["policy"] == f"{best} {NO_START_UP}"].set_index("cell")
    with_it = done[done["policy"] == best].set_index("cell")
    both = without.index.intersection(with_it.index)
    if not len(both):
        return ""
    lost = (without.loc[both, "attainment"] - with_it.loc[both, "attainment"]).astype(float).mean()
    return f"start-up costs you {100 * max(lost, 0.0):.1f} points" if np.isfinite(lost) else ""
