"""Claims about experiments.compare.clairvoyant: on the twin it is as good as the best of all plans,
and never worse than whom it is compared with.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from experiments.compare.clairvoyant import (
    Candidate,
    bills,
    clairvoyant,
    neighbours,
    planned,
    polished,
    tried,
)
from experiments.compare.plans import Step, paths_of
from experiments.config import RunConfig
from experiments.demand import true_demand
from experiments.run import simulate
from experiments.sources import Sources, read_sources
from tests.experiments.two_servers import write_two_servers

BLOCK_S = 400.0


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Return twenty minutes of two of the small servers, whose load goes up and down."""
    folder = write_two_servers(tmp_path_factory.mktemp("two"))
    scenario = folder / "waves.yaml"
    scenario.write_text(
        "alpha: 0\nload:\n  - {shape: {kind: steps, levels: "
        f"[{{t_s: {BLOCK_S}, factor: 2}}, {{t_s: {2 * BLOCK_S}, factor: 1}}]}}}}\n"
    )
    config = RunConfig(
        data=folder, scenario=str(scenario), policy="slo", hours=BLOCK_S / 1200, seed=5
    )
    return read_sources(config)


@pytest.mark.costly
def test_the_path_of_a_policy_gives_its_scores_again(sources: Sources) -> None:
    """So what a policy did is a candidate, and regret is never negative."""
    result = simulate(sources)
    assert sources.config.period_s is not None
    again = tried(sources, "again", paths_of(result.cycles.desired), tick_s=sources.config.period_s)
    assert again.bills == bills(result)


@pytest.mark.slow
def test_it_is_as_good_as_the_best_of_all_plans(sources: Sources) -> None:
    """All 27 plans of one to three replicas in thirds of the run, for each of two servers:
    they share no scarce GPUs, so each run tries one plan of both.
    """
    price = 1.0
    least = dict.fromkeys(sources.names, float("inf"))
    of = {name: sources.system.servers[name].current for name in sources.names}
    for counts in product((1, 2, 3), repeat=3):
        plan = {
            name: tuple(
                Step(BLOCK_S * block, now.accelerator, count, now.max_batch)
                for block, count in enumerate(counts)
            )
            for name, now in of.items()
        }
        for name, (cost, missed) in tried(sources, "all", plan, tick_s=BLOCK_S / 10).bills.items():
            least[name] = min(least[name], cost + price * missed)
    found = clairvoyant(sources, price_cents=price)
    assert found.objective_cents(price) <= 1.001 * sum(least.values())


@pytest.mark.costly
def test_looking_around_a_plan_never_makes_it_worse(sources: Sources) -> None:
    """A plan knows nothing of queues: on the twin, near it, some are better, and none is taken
    that is worse.
    """
    now = {name: sources.system.servers[name].current for name in sources.names}
    plan = {name: (Step(0.0, of.accelerator, 4, of.max_batch),) for name, of in now.items()}
    wasteful = tried(sources, "mine", plan, tick_s=30.0)
    found = polished(sources, wasteful, rounds=3, price_cents=0.1, slot_s=30.0)
    assert found.objective_cents(0.1) < wasteful.objective_cents(0.1)
    assert polished(sources, found, rounds=0, price_cents=0.1, slot_s=30.0) is found


def test_the_neighbours_of_a_path_are_paths() -> None:
    """Each differs from it, goes forward in time, and asks for no fewer than no replicas."""
    path = (Step(0.0, "L40S", 1, 8), Step(300.0, "L40S", 3, 8), Step(330.0, "MI250", 0, 8))
    near = list(neighbours(path, slot_s=30.0, end_s=600.0))
    assert len(near) == len(set(near))
    for other in near:
        assert other != path
        times = [step.t_s for step in other]
        assert times == sorted(set(times))
        assert all(step.replicas >= 0 and 0.0 <= step.t_s < 600.0 for step in other)
    # With a minimum of one the bound ended the last replica of a quiet server; nobody else may.
    kept = (Step(0.0, "L40S", 1, 8), Step(300.0, "L40S", 2, 8))
    counts = {
        step.replicas
        for other in neighbours(kept, slot_s=30.0, end_s=600.0, least=1)
        for step in other
    }
    assert counts == {1, 2, 3}


@pytest.mark.costly
def test_it_is_never_worse_than_whom_it_knows(sources: Sources) -> None:
    """A path that no plan finds may be the best there is, and then it is the bound."""
    result = simulate(sources)
    mine = Candidate(
        name="mine", plan=paths_of(result.cycles.desired), tick_s=60.0, bills=bills(result)
    )
    free = replace(mine, name="free", bills=dict.fromkeys(sources.names, (0.0, 0.0)))
    for known in (mine, free):
        found = clairvoyant(sources, [known], margins=(1.0,))
        assert found.objective_cents(1.0) <= known.objective_cents(1.0)
    assert found.name == "free"


def test_a_plan_asks_for_no_more_gpus_than_there_are(sources: Sources) -> None:
    """GPUs that are not there leave pods pending, and a bound that waits for them is none."""
    short = replace(sources, world=replace(sources.world, capacity={"L40S": 2, "MI250": 1}))
    demand = true_demand(short, slot_s=30.0)
    of = {"price_cents": 5.0, "margin": 1.6, "slot_s": 30.0}
    free = planned(sources, demand, **of)
    scarce = planned(short, demand, **of)
    most = {"L40S": 2, "MI250": 1}
    assert any(step.replicas > most[step.accelerator] for path in free.values() for step in path)
    assert all(step.replicas <= most[step.accelerator] for path in scarce.values() for step in path)


def test_a_server_that_nobody_asks_holds_the_fewest(sources: Sources) -> None:
    """No accelerator sustains a load of nothing, so that no path was found, and nothing ran."""
    first, second = true_demand(sources, slot_s=30.0)
    idle = replace(second, arrivals=0.0 * second.arrivals, work_rps=0.0 * second.work_rps)
    demand = (first, replace(idle, choices=()))
    plan = planned(sources, demand, price_cents=1.0, margin=1.0, slot_s=30.0)
    now = sources.system.servers[second.server].current
    assert plan[first.server]
    assert plan[second.server] == (Step(0.0, now.accelerator, 1, now.max_batch),)


def test_who_still_waits_at_the_end_is_paid_for(sources: Sources) -> None:
    """Else a class without latency targets would best be left to queue up."""
    name, other = sources.names
    now = sources.system.servers[name].current
    plan = {name: (Step(0.0, now.accelerator, 1, 1),)}  # one request at a time
    without = replace(sources, targets=(None, sources.targets[1]))
    found = tried(without, "none", plan, tick_s=60.0)
    assert found.result is not None
    scores = found.result.summary["servers"][name]
    assert scores["missed"] == 0
    assert scores["waiting"] > 0
    assert found.bills[name][1] == scores["waiting"]
    assert found.objective_cents(1.0) >= scores["waiting"] + found.bills[other][0]
