"""Claims about experiments.compare.planning: its plan is the best of all, by its own estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from experiments.compare.planning import Costs, Setting, State, best_path, best_states, plan_costs
from experiments.compare.plans import Step, common_tick_s, without_repeats
from experiments.demand import Choice, Demand, PerfectScaler, perfect_scaler

SLOT_S = 60.0


def choice(name: str, *, rate_rps: float, cost: float, lead_s: float = 60.0) -> Choice:
    """Return an accelerator of one GPU."""
    return Choice(
        accelerator=name,
        type=name,
        gpus=1,
        max_batch=8,
        rate_rps=rate_rps,
        cost_cents_per_h=cost,
        lead_s=lead_s,
        drain_s=20.0,
    )


def demand(rates_rps: list[float], *choices: Choice) -> Demand:
    """Return the demand of a server with a rate for each slot."""
    work = np.array(rates_rps)
    return Demand(server="a", slot_s=SLOT_S, arrivals=work * SLOT_S, work_rps=work, choices=choices)


def setting(slots: int, *, price_cents: float = 0.3, margin: float = 1.0) -> Setting:
    """Return a setting that scores every slot."""
    return Setting(price_cents=price_cents, margin=margin, weights=np.ones(slots))


def cost_of(costs: Costs, states: Sequence[State], *, now: State) -> float:
    """Return what best_states makes least; infinite for a rise that cannot be ready in time."""
    total, before = 0.0, now
    for slot, state in enumerate(states):
        (place, replicas), (old_place, old) = state, before
        moved = place != old_place
        if slot < costs.lead[place] and (moved or replicas > old):
            return math.inf
        if moved:
            total += float(costs.up[place] * replicas + costs.down[old_place] * old)
        else:
            total += float(costs.up[place] * max(replicas - old, 0))
            total += float(costs.down[place] * max(old - replicas, 0))
        total += float(costs.slots[slot, place, replicas])
        before = state
    return total


@pytest.mark.parametrize("seed", range(12))
def test_no_plan_of_all_is_better(seed: int) -> None:
    """Every way through four slots, two accelerators and up to two replicas is tried."""
    rng = np.random.default_rng(seed)
    one = demand(
        list(rng.uniform(0.0, 3.0, 4)),
        choice("small", rate_rps=1.0, cost=float(rng.uniform(50, 200)), lead_s=60.0),
        choice("big", rate_rps=2.5, cost=float(rng.uniform(100, 500)), lead_s=120.0),
    )
    asked = setting(4, price_cents=float(rng.uniform(0.05, 1.0)))
    costs = plan_costs(one, asked, replicas=2, least=0, gpu_prices={})
    now = (0, 1)
    states = [(place, replicas) for place in range(2) for replicas in range(3)]
    least = min(cost_of(costs, way, now=now) for way in product(states, repeat=4))
    assert cost_of(costs, best_states(costs, now=now), now=now) == pytest.approx(least)


def test_a_rise_is_asked_for_as_early_as_a_start_up_takes() -> None:
    """A plan that asks when the load is there is late by the whole start-up."""
    one = demand([1.0] * 4 + [2.0] * 4, choice("a", rate_rps=1.0, cost=10.0, lead_s=120.0))
    path = best_path(one, setting(8), now=("a", 1), least=1)
    assert path == (Step(0.0, "a", 1, 8), Step(120.0, "a", 2, 8))


def test_a_short_dip_is_not_worth_a_start_up() -> None:
    """To end a pod and to start one again costs more than to keep it."""
    one = demand([2.0, 2.0, 1.0, 2.0, 2.0], choice("a", rate_rps=1.0, cost=10.0, lead_s=120.0))
    path = best_path(one, setting(5), now=("a", 2), least=1)
    assert path == (Step(0.0, "a", 2, 8),)


def test_a_move_pays_only_where_it_saves_more_than_both_sides_cost() -> None:
    """For an hour at half the price a server moves; for two minutes it stays."""
    near, far = (
        choice("a", rate_rps=1.0, cost=100.0),
        choice("b", rate_rps=1.0, cost=50.0, lead_s=120.0),
    )
    long = best_path(demand([1.0] * 60, near, far), setting(60), now=("a", 1), least=1)
    short = best_path(demand([1.0] * 3, near, far), setting(3), now=("a", 1), least=1)
    assert long[-1].accelerator == "b"
    assert {step.accelerator for step in short} == {"a"}


def test_a_margin_plans_for_more_and_a_price_of_gpus_for_less() -> None:
    """The two ways in which plans are varied."""
    one = demand([1.9] * 6, choice("a", rate_rps=1.0, cost=10.0))
    of = {"now": ("a", 3), "least": 1}
    assert best_path(one, setting(6), **of)[-1].replicas == 2
    assert best_path(one, setting(6, margin=1.5), **of)[-1].replicas == 3
    dear = {"a": np.full(6, 100.0)}
    assert best_path(one, setting(6), **of, gpu_prices=dear)[-1].replicas == 1


def test_a_perfect_scaler_has_what_each_slot_needs() -> None:
    """Two servers of 3 and 2 GPUs in the busiest slot, whatever they need at other times."""
    first = demand([1.0, 2.5], choice("a", rate_rps=1.0, cost=10.0))
    second = demand([0.0, 4.0], choice("b", rate_rps=2.0, cost=10.0))
    assert perfect_scaler((first, second)) == PerfectScaler(gpus_peak=5, gpus_mean=3.0)


def test_paths_are_short_and_ticks_are_shared() -> None:
    """A plan of several policies runs at an instant at which each of them decided."""
    steps = [Step(0.0, "a", 1, 8), Step(30.0, "a", 1, 8), Step(60.0, "a", 2, 8)]
    assert without_repeats(steps) == (steps[0], steps[2])
    assert common_tick_s(60.0, 30.0, 15.0) == 15.0
    assert common_tick_s(30.0, 2.0) == 2.0
