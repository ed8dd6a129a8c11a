"""Which policy to take for a load, and what that is worth, in one line. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.compare.rows import BOUNDS, NO_START_UP, STATIC_PEAK
from experiments.confidence import estimate

if TYPE_CHECKING:
    import pandas as pd

# Attainments closer than this are the same to who chooses [share].
SAME_ATTAINMENT = 0.005
# What is cheaper by less than this is as dear [share].
SAME_COST = 0.01
NAMED_MAX = 3


def real_policies(results: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of policies that somebody could run: no bounds, nothing counterfactual."""
    known = results["policy"].isin(BOUNDS) | results["policy"].str.endswith(NO_START_UP)
    return results[~known & (results["error"] == "")]


def judged(results: pd.DataFrame) -> pd.DataFrame:
    """Return the rows by which policies are chosen: of each the same loads and seeds, for a policy
    that failed under the hardest of them would look the better for it.
    """
    real = real_policies(results)
    done = real.groupby("policy")["cell"].nunique()
    whole = done[done == results["cell"].nunique()].index
    if len(whole):
        return real[real["policy"].isin(whole)]
    shared = real.groupby("cell")["policy"].nunique()
    cells = shared[shared == real["policy"].nunique()].index
    return real[real["cell"].isin(cells)] if len(cells) else real


def best_policy(results: pd.DataFrame) -> str:
    """Return the policy with the least mean of cost and price × misses, of several the first one;
    of bounds alone, theirs.
    """
    real = judged(results)
    known = real if len(real) else results[results["error"] == ""]
    means = known.groupby("policy", sort=False)["objective_usd_per_h"].mean()
    return str(means.astype(float).idxmin())


def advice(results: pd.DataFrame) -> tuple[str, ...]:
    """Return a line for each scenario, and a last one over all if there are several; why there is
    none if no policy finished.
    """
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
    if lines:
        return tuple(lines)
    if (results["error"] == "").any():
        asked_for = results[~results["policy"].str.endswith(NO_START_UP)]
        if asked_for["policy"].isin(BOUNDS).all():
            return ("only bounds were compared, which nobody can run: name a policy beside them",)
        return ("only bounds finished, which nobody can run: there is nothing to advise",)
    return ("no run finished: there is nothing to advise",)


def _line(results: pd.DataFrame, *, what: str) -> str:
    real = judged(results)
    best = best_policy(results)
    means = real.groupby("policy")[["attainment", "cost_usd_per_h"]].mean().astype(float)
    own = means.to_dict(orient="index")[best]
    met = f"{100 * own['attainment']:.1f} %" if own["attainment"] >= 0.0 else _nothing_met(real)
    parts = [f"{what} take {best}: {met} at $ {own['cost_usd_per_h']:.2f}/h"]
    rest = means[means.index != best]
    # A policy tuned to what it was already is no other policy.
    twins = [
        name
        for name in rest.index
        if _untuned(name) == _untuned(best) and (rest.loc[name] == means.loc[best]).all()
    ]
    if len(twins) < len(rest):
        rest = rest.drop(twins)
    others = [
        _against(own, name, other)
        for name, other in zip(rest.index, rest.to_dict(orient="records"), strict=True)
    ]
    parts += [text for _, text in sorted(others)[:1]]
    after = (
        _start_up(results, best),
        _peak(results, real[real["policy"] == best]),
        _errors(real[real["policy"] == best]),
        _doubt(real, best, rest.index),
    )
    return "; ".join([", ".join(parts), *filter(None, after)])


def _peak(results: pd.DataFrame, own: pd.DataFrame) -> str:
    """Return by what static peak is better than the runs of the best policy (*own*) under the same
    loads and seeds: who knows the peak need not scale.
    """
    known = results[(results["policy"] == STATIC_PEAK) & (results["error"] == "")]
    same = known[known["cell"].isin(own["cell"])]
    if same["cell"].nunique() < own["cell"].nunique():
        return ""
    figures = ["objective_usd_per_h", "attainment", "cost_usd_per_h"]
    (owed, share, usd), (least, *_) = (
        one[figures].astype(float).mean().to_numpy() for one in (same, own)
    )
    if not owed < (1.0 - SAME_COST) * least:
        return ""
    met = f"{100 * share:.1f} % at " if np.isfinite(share) else ""
    return f"{STATIC_PEAK}, which is told the peak, does better: {met}$ {usd:.2f}/h"


def _errors(own: pd.DataFrame) -> str:
    """Return in how many cycles of the best policy (*own*) nothing could be done."""
    failed = int(own["cycles_failed"].sum()) if "cycles_failed" in own else 0
    return f"{failed} of its {int(own['cycles'].sum())} cycles had an error" if failed else ""


def _doubt(real: pd.DataFrame, best: str, others: Iterable[object]) -> str:
    """Return from which *others* the best may differ by chance only: those whose difference in cost
    and misses, in pairs of equal loads and seeds, has an interval that holds 0.
    """
    by_cell = real.set_index(["seed", "cell"])
    owed = {name: by_cell[by_cell["policy"] == name]["objective_usd_per_h"] for name in others}
    least = by_cell[by_cell["policy"] == best]["objective_usd_per_h"]
    found = {
        # Loads are chosen, seeds are chance.
        name: estimate((other - least).groupby("seed").mean().to_numpy(dtype=float))
        for name, other in owed.items()
    }
    near = sorted((one.mean, str(name)) for name, one in found.items() if one.low <= 0.0)
    if not near:
        return ""
    names = [name for _, name in near[:NAMED_MAX]]
    more = len(near) - len(names)
    told = ", ".join(names) + (f" and {more} more" if more else "")
    seeds = real["seed"].nunique()
    return f"{seeds} seeds do not tell it from {told}: take more (--seeds)"


def _untuned(name: object) -> str:
    return str(name).removesuffix(" tuned")


def _nothing_met(real: pd.DataFrame) -> str:
    asked = "requests" in real and float(real["requests"].sum()) > 0.0
    return "no targets" if asked else "no requests"


def _against(
    own: Mapping[Any, float], name: object, other: Mapping[Any, float]
) -> tuple[float, str]:
    """Return how far the best (*own*) is from another policy, and what it is better by."""
    points = float(np.nan_to_num(100.0 * (own["attainment"] - other["attainment"])))
    judged_too = np.isfinite(own["attainment"] - other["attainment"])
    own_usd, other_usd = float(own["cost_usd_per_h"]), float(other["cost_usd_per_h"])
    saved = 1.0 - own_usd / other_usd if other_usd > 0.0 else 0.0 if own_usd == 0.0 else -np.inf
    far = abs(points) + 100.0 * abs(saved)
    if other_usd > 0.0:
        dearer, at = f"{-100 * saved:.0f} % dearer", f"{-100 * saved:+.0f} % of cost"
    else:
        dearer = at = f"$ {own_usd - other_usd:.2f}/h more"
    same, as_dear = abs(points) <= 100.0 * SAME_ATTAINMENT, abs(saved) <= SAME_COST
    if not judged_too:
        if saved > SAME_COST:
            return far, f"{100 * saved:.0f} % cheaper than {name}"
        return far, f"as dear as {name}" if as_dear else f"{dearer} than {name}, with fewer misses"
    if saved > SAME_COST and points >= -100.0 * SAME_ATTAINMENT:
        level = "the same" if same else f"{points:.1f} points more"
        return far, f"{100 * saved:.0f} % cheaper than {name} at {level} attainment"
    if saved > SAME_COST:
        return far, f"{100 * saved:.0f} % cheaper than {name} for {-points:.1f} points less"
    if as_dear and same:
        return far, f"no worse than {name}"
    at = "the same cost" if as_dear else at
    if points < -100.0 * SAME_ATTAINMENT:
        # Of loads of unequal size, or by requests that still wait: these count as misses, and the
        # attainment is of those that ended.
        return far, f"{-points:.1f} points less than {name} at {at}, and fewer misses in all"
    # It may cost more and be the best all the same: what its points cost is for who pays to judge.
    more = f"{points:.1f} points more than" if points >= 0.05 else "the attainment of"
    return far, f"{more} {name} at {at}"


def _start_up(results: pd.DataFrame, best: str) -> str:
    """Return what start-up costs *best*, in points of attainment of equal loads and seeds."""
    done = results[results["error"] == ""]
    without = done[done["policy"] == f"{best} {NO_START_UP}"].set_index("cell")
    with_it = done[done["policy"] == best].set_index("cell")
    both = without.index.intersection(with_it.index)
    # Another policy may be the best under some of the loads, and this one not known there.
    if set(without.loc[both, "scenario"]) != set(with_it["scenario"]):
        return ""
    lost = (without.loc[both, "attainment"] - with_it.loc[both, "attainment"]).astype(float).mean()
    return f"start-up costs you {100 * max(lost, 0.0):.1f} points" if np.isfinite(lost) else ""
