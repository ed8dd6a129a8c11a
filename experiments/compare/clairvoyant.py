"""The clairvoyant: the best of many plans over the whole run by cost + price × misses, each run on
the twin with the same seed. A bound that no policy can be told.

Requests that still wait at the end count as missed here: else a plan would leave those of a class
without latency targets to queue up until nobody looks any more, and call that cheap.

The plans come from dynamic programming on the true arrivals at several margins, from static peak,
and from what every compared policy asked for. Servers share nothing but GPUs, so of each server the
best path is taken, and the plan that they make together is run as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from experiments.columns import Floats, Window, scored_window
from experiments.compare.planning import (
    FIRST_PRICE,
    PRICE_ROUNDS,
    UNSCORED_WEIGHT,
    Setting,
    best_path,
)
from experiments.compare.plans import Plan, PlanPolicy, Step, Steps, common_tick_s, without_repeats
from experiments.demand import Demand, true_demand
from experiments.run import RunResult, simulate_for_figures
from experiments.sources import Sources
from loop.spec import gpus

SLOT_S = 30.0
# The work that is planned for, as a multiple of the true one: the mean rate of a slot, which hides
# how bursty it is, may be too little, and whole replicas are often more than enough.
MARGINS = (0.8, 1.0, 1.25, 1.6)
# What one missed request costs where nobody says otherwise [cents].
PRICE_CENTS = 1.0
# A plan knows rates, and the twin what queues do to them: small systems, whose runs cost next to
# nothing, look around their best plan in so many runs, of all together so many requests.
POLISH_MOST, POLISHED_REQUESTS = 16, 200_000

Bill = tuple[float, float]  # cost [cents], misses and what waits at the end


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A plan, what came of it on the twin by server, and the result of its run (None: of a run that
    was made before).
    """

    name: str
    plan: Plan
    tick_s: float
    bills: Mapping[str, Bill]
    result: RunResult | None = None

    def objective_cents(self, price_cents: float) -> float:
        """Return cost + price × misses over the scored window."""
        return objective_of(self.bills, price_cents)


def clairvoyant(
    sources: Sources,
    compared: Sequence[Candidate] = (),
    *,
    price_cents: float = PRICE_CENTS,
    slot_s: float = SLOT_S,
    margins: Sequence[float] = MARGINS,
    polish: int | None = None,
) -> Candidate:
    """Return the best candidate for *sources* (whose policy does not matter), the *compared* ones
    among them.

    polish: so many runs more, in each of which every server tries one small change of its path
    (None: as many as few requests allow).
    """
    demand = true_demand(sources, slot_s=slot_s)
    plans = {
        f"margin {margin:g}": planned(
            sources, demand, price_cents=price_cents, margin=margin, slot_s=slot_s
        )
        for margin in margins
    }
    plans["static peak"] = static_peak(sources, demand)
    found = [*compared]
    found += [tried(sources, name, plan, tick_s=slot_s) for name, plan in plans.items()]
    best = _best(sources, found, price_cents=price_cents)
    if polish is None:
        requests = sum(float(one.arrivals.sum()) for one in demand)
        polish = min(POLISH_MOST, int(POLISHED_REQUESTS / max(requests, 1.0)))
    return polished(sources, best, rounds=polish, price_cents=price_cents, slot_s=slot_s)


def tried(sources: Sources, name: str, plan: Plan, *, tick_s: float) -> Candidate:
    """Return what comes of *plan* on the twin."""
    policy = PlanPolicy(plan=plan, name=name, tick_s=tick_s)
    config = replace(sources.config, period_s=tick_s)
    result = simulate_for_figures(replace(sources, policy=policy, config=config))
    return Candidate(name=name, plan=plan, tick_s=tick_s, bills=bills(result), result=result)


def bills(result: RunResult) -> dict[str, Bill]:
    """Return the cost [cents] of each server in the scored window, and its requests that missed
    their targets or still wait at the end.
    """
    hours = result.window.hours
    return {
        name: (scores["cost_cents_per_h"] * hours, float(scores["missed"] + scores["waiting"]))
        for name, scores in result.summary["servers"].items()
    }


def objective_of(owed: Mapping[str, Bill], price_cents: float) -> float:
    """Return cost + price × misses of all servers [cents]."""
    return sum(cost + price_cents * missed for cost, missed in owed.values())


def _best(sources: Sources, found: Sequence[Candidate], *, price_cents: float) -> Candidate:
    """Return the best of *found*, and of the plan that the best paths of all servers make."""

    def of_server(candidate: Candidate, server: str) -> float:
        cost, missed = candidate.bills[server]
        return cost + price_cents * missed

    best = min(found, key=lambda candidate: candidate.objective_cents(price_cents))
    chosen = {
        server: min(found, key=lambda one, server=server: of_server(one, server))  # type: ignore[misc]
        for server in sources.names
    }
    if all(one is best for one in chosen.values()):
        return best
    mixed = tried(
        sources,
        "the best path of each server",
        {name: one.plan[name] for name, one in chosen.items() if name in one.plan},
        tick_s=common_tick_s(*(one.tick_s for one in chosen.values())),
    )
    return min((mixed, best), key=lambda candidate: candidate.objective_cents(price_cents))


# -- the plans


def planned(
    sources: Sources,
    demand: Sequence[Demand],
    *,
    price_cents: float,
    margin: float,
    slot_s: float,
) -> Plan:
    """Return the plan of dynamic programming; GPUs that servers want together more of than there
    are get a price, until they fit. Of servers that nobody asks for the fewest replicas are held.
    """
    slots = len(demand[0].arrivals)
    setting = Setting(
        price_cents=price_cents,
        margin=margin,
        weights=_weights(_window(sources), slots=slots, slot_s=slot_s),
    )
    capacity = _capacity(sources, slots=slots, slot_s=slot_s)
    idle = _idle(sources, demand, capacity)
    prices: dict[str, Floats] = {}
    for _ in range(PRICE_ROUNDS):
        plan = {
            one.server: best_path(
                one,
                setting,
                now=_now(sources, one.server),
                least=sources.system.servers[one.server].min_replicas,
                most=sources.system.servers[one.server].max_replicas,
                gpu_prices=prices,
            )
            for one in demand
            if one.choices
        }
        over = {
            kind: held > capacity.get(kind, np.zeros(slots))
            for kind, held in _held(demand, plan, slots=slots, slot_s=slot_s).items()
        }
        if not any(slots_over.any() for slots_over in over.values()):
            break
        for kind, slots_over in over.items():
            price = prices.setdefault(kind, np.zeros(slots))
            step = FIRST_PRICE * _gpu_price(demand, kind) * slot_s / 3600.0
            price += np.where(slots_over, np.maximum(step, price), 0.0)
    return {**plan, **idle}


def _idle(sources: Sources, demand: Sequence[Demand], capacity: Mapping[str, Floats]) -> Plan:
    """Return the plan of the servers without requests, and take their GPUs out of *capacity*."""
    plan = {}
    for one in demand:
        server = sources.system.servers[one.server]
        now = server.current
        if one.arrivals.any() or not now.accelerator:
            continue
        replicas = min(server.min_replicas, now.replicas)
        plan[one.server] = (Step(0.0, now.accelerator, replicas, now.max_batch),)
        held = gpus(
            sources.system, model=server.model, accelerator=now.accelerator, replicas=replicas
        )
        if held is not None and held[0] in capacity:
            capacity[held[0]][:] = np.maximum(capacity[held[0]] - held[1], 0.0)
    return plan


def static_peak(sources: Sources, demand: Sequence[Demand]) -> Plan:
    """Return the plan that gives every server from the start what its busiest slot needs, on the
    accelerator that it has.
    """
    plan = {}
    for one in demand:
        if one.choices:
            first = one.choices[0]
            peak = int(np.ceil(float(one.work_rps.max()) / first.rate_rps - 1e-9))
            least = sources.system.servers[one.server].min_replicas
            step = Step(0.0, first.accelerator, max(peak, least, 1), first.max_batch)
            plan[one.server] = (step,)
    return plan


def polished(
    sources: Sources, best: Candidate, *, rounds: int, price_cents: float, slot_s: float
) -> Candidate:
    """Return *best*, or what is better near it. In each round every server tries one change of its
    path and keeps it if that pays; what they keep is run together in the end.
    """
    tick_s = common_tick_s(best.tick_s, slot_s)
    end_s = sources.config.duration_s
    paths, owed = dict(best.plan), dict(best.bills)

    def looks(name: str) -> Iterator[Steps]:
        least = sources.system.servers[name].min_replicas
        return neighbours(paths[name], slot_s=slot_s, end_s=end_s, least=least)

    turns = {name: looks(name) for name in paths}
    found = best
    for _ in range(rounds):
        changed = {name: path for name in paths if (path := next(turns[name], None)) is not None}
        if not changed:
            break
        found = tried(sources, "polished", {**paths, **changed}, tick_s=tick_s)
        for name, path in changed.items():
            (cost, missed), (cost_before, missed_before) = found.bills[name], owed[name]
            if cost + price_cents * missed < cost_before + price_cents * missed_before:
                paths[name], owed[name] = path, found.bills[name]
                turns[name] = looks(name)
    if paths == best.plan:
        return best
    if found.plan != paths:
        found = tried(sources, "polished", paths, tick_s=tick_s)
    # Servers that share scarce GPUs may be worse off together than each was alone.
    return min((found, best), key=lambda candidate: candidate.objective_cents(price_cents))


def neighbours(path: Steps, *, slot_s: float, end_s: float, least: int = 0) -> Iterator[Steps]:
    """Return the paths near *path*: fewer replicas for a while, but not fewer than *least*, changes
    sooner or later, then more replicas for a while.
    """
    ends_s = [*(step.t_s for step in path[1:]), end_s]
    for more in (-1, 1):
        for place, (step, until_s) in enumerate(zip(path, ends_s, strict=True)):
            if step.replicas + more < least:
                continue
            middle_s = step.t_s + slot_s * ((until_s - step.t_s) // (2 * slot_s))
            other, before, after = (
                step._replace(replicas=step.replicas + more),
                path[:place],
                path[place + 1 :],
            )
            yield without_repeats((*before, other, *after))
            if step.t_s < middle_s < until_s:
                yield without_repeats((*before, step, other._replace(t_s=middle_s), *after))
                yield without_repeats((*before, other, step._replace(t_s=middle_s), *after))
        if more > 0:
            continue
        for place in range(1, len(path)):
            for slots in (-4, 4, -1, 1):
                t_s = path[place].t_s + slots * slot_s
                if path[place - 1].t_s < t_s < ends_s[place]:
                    moved = path[place]._replace(t_s=t_s)
                    yield (*path[:place], moved, *path[place + 1 :])


def _window(sources: Sources) -> Window:
    return scored_window(sources.config.duration_s, warm_up_s=sources.warm_up_s)


def _weights(window: Window, *, slots: int, slot_s: float) -> Floats:
    """Return the part of each slot that is scored, and a little for what is not."""
    start_s = np.arange(slots) * slot_s
    inside = np.minimum(start_s + slot_s, window.end_s) - np.maximum(start_s, window.start_s)
    weights: Floats = np.maximum(np.clip(inside / slot_s, 0.0, 1.0), UNSCORED_WEIGHT)
    return weights


def _now(sources: Sources, server: str) -> tuple[str, int]:
    current = sources.system.servers[server].current
    return current.accelerator, current.replicas


def _capacity(sources: Sources, *, slots: int, slot_s: float) -> dict[str, Floats]:
    """Return the GPUs of each type in each slot."""
    found = {kind: np.full(slots, float(gpus)) for kind, gpus in sources.world.capacity.items()}
    for event in (*sources.node_failures, *sources.capacity_events):
        first = int(event.t_s // slot_s)
        at_start = sources.world.capacity[event.type]
        failed = event in sources.node_failures
        found[event.type][first:] = at_start - event.gpus if failed else event.gpus
    return found


def _held(demand: Sequence[Demand], plan: Plan, *, slots: int, slot_s: float) -> dict[str, Floats]:
    """Return the GPUs of each type that *plan* asks for in each slot."""
    held: dict[str, Floats] = {}
    for one in demand:
        of = {choice.accelerator: choice for choice in one.choices}
        path = plan.get(one.server, ())
        ends = [*(step.t_s for step in path[1:]), slots * slot_s][: len(path)]
        for step, end_s in zip(path, ends, strict=True):
            choice = of[step.accelerator]
            part = slice(int(step.t_s // slot_s), int(end_s // slot_s))
            held.setdefault(choice.type, np.zeros(slots))[part] += choice.gpus * step.replicas
    return held


def _gpu_price(demand: Sequence[Demand], kind: str) -> float:
    """Return the dearest hour of a GPU of *kind* [cents]."""
    return max(
        choice.cost_cents_per_h / choice.gpus
        for one in demand
        for choice in one.choices
        if choice.type == kind
    )
