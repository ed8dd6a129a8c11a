"""Plans over a whole run: what each server shall have and from when on, and the policy that only
carries one out. An oracle of experiments; the loop knows none.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from typing import TYPE_CHECKING, Any, NamedTuple

from loop.types import Decision, Target, Why, one_pool

if TYPE_CHECKING:
    from experiments.scores.changes import Desired
    from loop.spec import SystemData
    from loop.types import Snapshot


class Step(NamedTuple):
    """From t_s on a server is to have *replicas* of *accelerator*."""

    t_s: float
    accelerator: str
    replicas: int
    max_batch: int


Steps = tuple[Step, ...]
Plan = Mapping[str, Steps]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPolicy:
    """Asks for what *plan* says of the present instant; a server without a path is held."""

    plan: Plan
    name: str = "plan"
    tick_s: float = 30.0

    def start(self) -> None:
        """Return no state: the plan is all there is."""

    def decide(self, snapshot: Snapshot, data: SystemData, state: None) -> tuple[Decision, None]:  # noqa: ARG002 the port
        """Return the step of each server that is in force."""
        targets = {}
        for name, path in self.plan.items():
            number = bisect_right(path, snapshot.now_s, key=lambda step: step.t_s) - 1
            if number < 0:
                continue
            step = path[number]
            targets[name] = Target(
                server=name,
                pools=one_pool(
                    accelerator=step.accelerator, replicas=step.replicas, max_batch=step.max_batch
                ),
                why=Why(kind="unchanged", text="plan"),
            )
        return Decision(targets=targets), None


def paths_of(desired: Mapping[str, Sequence[Desired]]) -> dict[str, Steps]:
    """Return the path of each server that was *desired* cycle by cycle (CycleLines): each state
    that was asked for, from when it was.
    """
    paths: dict[str, list[Step]] = {}
    for name, states in desired.items():
        # The first is that of before all cycles.
        for one in states[1:]:
            step = Step(one.t_s, one.accelerator, one.replicas, one.max_batch)
            path = paths.setdefault(name, [])
            if not path or path[-1][1:] != step[1:]:
                path.append(step)
    return {name: tuple(path) for name, path in paths.items()}


def plan_from_json(value: Mapping[str, Sequence[Sequence[Any]]]) -> dict[str, Steps]:
    """Return the plan that was written as JSON (lists for steps)."""
    return {name: tuple(Step(*step) for step in path) for name, path in value.items()}


def common_tick_s(*ticks_s: float) -> float:
    """Return the longest tick that all of *ticks_s* are multiples of [s], to the millisecond."""
    whole = [round(tick_s * 1000) for tick_s in ticks_s]
    found = 0
    for tick in whole:
        found = gcd(found, tick)
    return found / 1000.0


def without_repeats(path: Sequence[Step]) -> Steps:
    """Return *path* without steps that change nothing."""
    later = [step for before, step in pairwise(path) if before[1:] != step[1:]]
    return (*path[:1], *later)
