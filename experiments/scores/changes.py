"""How restless a policy was: changes, reversals, overshoot and settling of the wanted replicas.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from experiments.columns import Floats, Window
from twin.frozen import made_quickly

REVERSAL_WITHIN_S = 15 * 60.0
_STEADY_WITHIN = 1


@made_quickly
@dataclass(frozen=True, slots=True)
class Desired:
    """What was wanted of one server after one cycle; max_batch 0: not told."""

    t_s: float
    accelerator: str
    replicas: int
    max_batch: int = 0


def add_desired(desired: dict[str, list[Desired]], cycle: Mapping[str, Any]) -> None:
    """Add to *desired* what is wanted of each server after *cycle*, a line of loop.records; of one
    that is new, what was wanted before it, too. A cycle that did not act leaves what was wanted.
    """
    for row in cycle["servers"]:
        if row["name"] not in desired:
            begin_desired(desired, row["name"], row["currentAccelerator"], row["wanted"])
        if cycle["applied"]:
            wanted = row["accelerator"], row["replicas"], row.get("maxBatch") or 0
            desired[row["name"]].append(Desired(cycle["t_s"], *wanted))


def begin_desired(
    desired: dict[str, list[Desired]], name: str, accelerator: str, replicas: int
) -> None:
    """Put into *desired* what was wanted of *name* before the first cycle."""
    desired[name] = [Desired(0.0, accelerator, replicas)]


def count_changes(desired: Sequence[Desired], window: Window) -> int:
    """Count the cycles in *window* after which replicas or accelerator differ from the cycle
    before.
    """
    return sum(
        _inside(now, window) and (old.replicas, old.accelerator) != (now.replicas, now.accelerator)
        for old, now in pairwise(desired)
    )


def count_reversals(desired: Sequence[Desired], window: Window) -> int:
    """Count the replica changes in *window* of opposite sign to the last one, at most 15 min
    before.
    """
    reversals = 0
    last_sign, last_s = 0, -np.inf
    for old, now in pairwise(desired):
        sign = (now.replicas > old.replicas) - (now.replicas < old.replicas)
        if sign == 0:
            continue
        if sign == -last_sign and now.t_s - last_s <= REVERSAL_WITHIN_S and _inside(now, window):
            reversals += 1
        last_sign, last_s = sign, now.t_s
    return reversals


def overshoot(t_s: Floats, wanted: Floats, *, step_s: float) -> float:
    """Return the highest wanted count from the step on, less the final steady value (the last
    one).
    """
    after = wanted[t_s >= step_s]
    return float(after.max() - after[-1])


def settling_s(t_s: Floats, wanted: Floats, *, step_s: float) -> float:
    """Return the time from the step until the wanted count stays within ±1 of its final value
    [s].
    """
    later = t_s >= step_s
    outside = np.flatnonzero(np.abs(wanted[later] - wanted[later][-1]) > _STEADY_WITHIN)
    if outside.size == 0:
        return 0.0
    return float(t_s[later][outside[-1] + 1] - step_s)


def _inside(one: Desired, window: Window) -> bool:
    return window.start_s <= one.t_s < window.end_s
