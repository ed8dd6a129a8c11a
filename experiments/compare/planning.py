"""The best plan of a server over time that knows every arrival: dynamic programming over the
accelerator and the number of ready replicas, with start-up, drain and moves paid. Pure.

What a slot misses is an estimate (what exceeds the rate that the replicas sustain); which plan is
best in truth is found by running several on the twin (clairvoyant.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from experiments.columns import Floats
from experiments.compare.plans import Step, Steps, without_repeats
from experiments.demand import Choice, Demand

# A slot before the scored window counts so much: enough not to be wasteful there.
UNSCORED_WEIGHT = 0.02
# Rounds of pricing GPUs that several servers want, and the first price [share of their cost].
PRICE_ROUNDS, FIRST_PRICE = 12, 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How to plan: a miss costs price_cents; margin multiplies the work that is planned for; weight
    of each slot (1: it is scored).
    """

    price_cents: float
    margin: float
    weights: Floats


# The place of an accelerator among the choices, and the replicas that are ready.
State = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Costs:
    """Of each choice (rows) and number of replicas, and each slot: what it costs to be there."""

    slots: Floats  # slot × choice × replicas
    up: Floats  # of one more replica, by choice
    down: Floats
    lead: tuple[int, ...]  # slots


def best_path(
    demand: Demand,
    setting: Setting,
    *,
    now: tuple[str, int],
    least: int,
    most: int | None = None,
    gpu_prices: Mapping[str, Floats] | None = None,
) -> Steps:
    """Return the path of one server with the least cost and price × misses from *now* (accelerator
    and replicas) on, with *least* to *most* replicas.

    gpu_prices: beside its cost, what a GPU of a type costs in each slot [cents], as others want it.
    """
    if not demand.choices:
        return ()
    count = _most_replicas(demand, setting, least=least, now=now[1], most=most)
    costs = plan_costs(demand, setting, replicas=count, least=least, gpu_prices=gpu_prices or {})
    return _path(demand, costs, best_states(costs, now=_state(demand, now, most=count)))


def best_states(costs: Costs, *, now: State) -> list[State]:
    """Return the state of each slot on the way with the least cost from *now* on."""
    values, choices = _solve(costs)
    counts = values.shape[2]
    state = now
    found = []
    for slot in range(len(choices)):
        target = int(choices[slot, state[0], state[1]])
        state = (target // counts, target % counts)
        found.append(state)
    return found


def _state(demand: Demand, now: tuple[str, int], *, most: int) -> State:
    place = next(
        (n for n, choice in enumerate(demand.choices) if choice.accelerator == now[0]), None
    )
    return (0, 0) if place is None else (place, min(now[1], most))


def _most_replicas(
    demand: Demand, setting: Setting, *, least: int, now: int, most: int | None
) -> int:
    slowest = min(choice.rate_rps for choice in demand.choices)
    needed = math.ceil(setting.margin * float(demand.work_rps.max()) / slowest) + 1
    bounded = needed if most is None else min(needed, most)
    return max(min(bounded, 400), least, now, 1)


def plan_costs(
    demand: Demand,
    setting: Setting,
    *,
    replicas: int,
    least: int,
    gpu_prices: Mapping[str, Floats],
) -> Costs:
    """Return what each state costs in each slot, up to so many *replicas*."""
    counts = np.arange(replicas + 1, dtype=np.float64)
    hours = demand.slot_s / 3600.0
    slots = np.empty((len(demand.work_rps), len(demand.choices), replicas + 1))
    work = setting.margin * demand.work_rps
    for place, choice in enumerate(demand.choices):
        short = np.maximum(work[:, None] - counts * choice.rate_rps, 0.0)
        share = np.divide(short, work[:, None], out=np.zeros_like(short), where=short > 0.0)
        missed = share * demand.arrivals[:, None]
        held = counts * choice.cost_cents_per_h * hours
        slots[:, place] = setting.weights[:, None] * (held + setting.price_cents * missed)
        if choice.type in gpu_prices:
            slots[:, place] += choice.gpus * counts * gpu_prices[choice.type][:, None]
    slots[:, :, :least] = np.inf
    each = np.array([choice.cost_cents_per_h / 3600.0 for choice in demand.choices])
    return Costs(
        slots=slots,
        up=each * np.array([choice.lead_s for choice in demand.choices]),
        down=each * np.array([choice.drain_s for choice in demand.choices]),
        lead=tuple(math.ceil(choice.lead_s / demand.slot_s) for choice in demand.choices),
    )


def _solve(costs: Costs) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return, backwards in time, the least cost from each state of each slot on, and where to go
    from there (choice · replicas as one number).
    """
    slots, places, counts = costs.slots.shape
    numbers = np.arange(counts)
    rise = np.maximum(numbers[None, :] - numbers[:, None], 0)
    fall = np.maximum(numbers[:, None] - numbers[None, :], 0)
    # From (row) to (column) replicas of the same accelerator.
    within = costs.up[:, None, None] * rise + costs.down[:, None, None] * fall
    leave = costs.down[:, None] * numbers
    enter = costs.up[:, None] * numbers
    after = np.zeros((places, counts))
    values = np.empty((slots, places, counts))
    choices = np.empty((slots, places, counts), dtype=np.int64)
    index = np.arange(places * counts).reshape(places, counts)
    for slot in range(slots - 1, -1, -1):
        here = costs.slots[slot] + after
        stay = within + here[:, None, :]
        for place, lead in enumerate(costs.lead):
            if slot < lead:  # nothing that is asked for at the start is ready yet
                stay[place][rise > 0] = np.inf
        best = stay.argmin(axis=2)
        value = np.take_along_axis(stay, best[:, :, None], axis=2)[:, :, 0]
        choice = np.take_along_axis(index, best, axis=1)
        arrive = here + enter
        for place, lead in enumerate(costs.lead):
            if slot < lead:
                arrive[place] = np.inf
        for place in range(places):
            others = arrive.copy()
            others[place] = np.inf
            target = int(others.argmin())
            moved = leave[place] + others.flat[target]
            better = moved < value[place]
            value[place][better] = moved[better]
            choice[place][better] = target
        values[slot], choices[slot], after = value, choice, value
    return values, choices


def _path(demand: Demand, costs: Costs, ready: Sequence[State]) -> Steps:
    """Return the steps to ask for: a rise as early before its slot as a start-up takes."""
    wanted = list(ready)
    for slot in range(1, len(ready)):
        (place, replicas), (place_before, before) = ready[slot], ready[slot - 1]
        first = max(slot - costs.lead[place], 0)
        if place != place_before:
            wanted[first:slot] = [ready[slot]] * (slot - first)
        elif replicas > before:
            for earlier in range(first, slot):
                if wanted[earlier][0] == place:
                    wanted[earlier] = (place, max(wanted[earlier][1], replicas))
    return without_repeats(
        [
            _step(slot * demand.slot_s, demand.choices[place], replicas)
            for slot, (place, replicas) in enumerate(wanted)
        ]
    )


def _step(t_s: float, choice: Choice, replicas: int) -> Step:
    return Step(t_s, choice.accelerator, replicas, choice.max_batch)
