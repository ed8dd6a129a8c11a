"""The SLO policy: what it tells the optimizer, whom it holds, and that nobody goes to zero by
mistake.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from loop.errors import SpecError
from loop.optimizer.front import OptimizerSettings, Solution, optimize
from loop.optimizer.rules import SolverName
from loop.optimizer.rules.ours import OURS
from loop.policies import make_policy
from loop.policies.slo import SloPolicy
from loop.policies.slo.case import MANY
from loop.policies.slo.demand import Memories
from loop.policies.slo.moves import LONG_S, MOVERS_MAX
from loop.policies.slo.shares import KNOWN_S
from loop.spec import Allocation, SloTarget, SystemData
from loop.testing.fakes import server_data, server_view, system
from loop.types import CapacityView, Decision, Load, ServerView, Snapshot, Why, one_pool
from tests.parts import first

BUSY = Load(rate_rpm=900.0, in_tokens=512.0, out_tokens=256.0)
PLAIN = SloPolicy(solver="greedy", hysteresis=0.0, forecasts=False)


def decide(
    *views: ServerView,
    policy: SloPolicy = PLAIN,
    data: SystemData | None = None,
    capacity: dict[str, int] | None = None,
) -> Decision:
    """Return what *policy* decides on *views*."""
    gpus = None
    if capacity is not None:
        gpus = {
            kind: CapacityView(type=kind, total=total, used=0) for kind, total in capacity.items()
        }
    seen = Snapshot(now_s=60.0, servers={view.name: view for view in views}, capacity=gpus)
    decision, _ = policy.decide(seen, data or system(), policy.start())
    return decision


def test_a_server_gets_what_the_optimizer_says_of_its_load() -> None:
    """The policy adds nothing of its own to a plain case."""
    view = server_view(load=BUSY)
    alone = server_data(
        current=Allocation(
            accelerator="H100", replicas=2, max_batch=64, cost_cents_per_h=800.0, load=BUSY
        )
    )
    solution = optimize(
        system(servers={"s1": alone}),
        OptimizerSettings(rules=OURS, solver="greedy", hysteresis=0.0),
    )
    target = decide(view).targets["s1"]
    found = solution.allocations["s1"]
    assert (target.accelerator, target.replicas, target.max_batch) == (
        found.accelerator,
        found.replicas,
        found.max_batch,
    )
    assert (target.cost_cents_per_h, target.itl_ms, target.why.text) == (
        found.cost_cents_per_h,
        found.itl_ms,
        found.why.text,
    )
    assert not target.held


def test_what_waits_is_drained_in_drain_s() -> None:
    """60 requests over 120 s are 30 more a minute; without them the queue would never go down."""
    view = server_view(load=BUSY, backlog=60)
    demand = [
        decide(view, policy=replace(PLAIN, drain_s=drain_s)).targets["s1"].why.details["demandRpm"]
        for drain_s in (120.0, 60.0, 0.0)
    ]
    assert demand == [930.0, 960.0, 900.0]


def test_more_waiting_never_means_fewer_replicas() -> None:
    """The queue is a reason to grow."""
    counts = [
        decide(server_view(load=BUSY, backlog=backlog)).targets["s1"].replicas
        for backlog in (0, 500, 3000)
    ]
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]


def test_compatible_mode_has_neither_headroom_nor_draining() -> None:
    """It answers what the existing optimizer would."""
    compat = replace(PLAIN, compat=True)
    view = server_view(load=BUSY, backlog=1000)
    assert decide(view, policy=compat).targets["s1"].replicas == (
        decide(replace(view, backlog=0), policy=replace(compat, headroom=0.5))
        .targets["s1"]
        .replicas
    )


def test_headroom_costs_replicas() -> None:
    """Sizing for less than the objective must show, or the option does nothing."""
    few, many = (
        decide(
            server_view(load=BUSY),
            policy=replace(PLAIN, headroom=headroom),
            capacity={"H100": 99, "A100": 0},
        )
        .targets["s1"]
        .replicas
        for headroom in (0.0, 0.3)
    )
    assert many > few


def test_a_server_without_a_load_is_held_and_its_gpus_are_kept_for_it() -> None:
    """Missing data are no zero load; and the others must not be promised its GPUs."""
    dark = server_view("dark", load=None, wanted=3, ready=3)
    decision = decide(dark, server_view("busy", load=BUSY), capacity={"H100": 4})
    target = decision.targets["dark"]
    assert (target.held, target.replicas, target.accelerator, target.max_batch) == (
        True,
        3,
        "H100",
        64,
    )
    assert "load is not known" in target.why.text
    assert decision.targets["busy"].replicas <= 1


def test_nothing_is_taken_from_held_servers_beyond_the_capacity_and_it_is_told() -> None:
    """Nobody knows what they need; their pods run, or wait for GPUs, as they did before."""
    top = server_view("top", load=None, wanted=3, ready=3)
    low = server_view("low", load=None, wanted=3, ready=3, service_class="Free")
    targets = decide(low, top, capacity={"H100": 4}).targets
    assert (targets["top"].replicas, targets["low"].replicas) == (3, 3)
    assert (targets["top"].held, targets["low"].held) == (True, True)
    assert "exceed the capacity" in targets["low"].why.text


@pytest.mark.parametrize(
    "wrong",
    [{"model": "unheard_of"}, {"service_class": "Nobody"}],
    ids=["no such model", "no such class"],
)
def test_a_server_that_nothing_can_be_decided_of_is_held_and_stops_nobody(
    wrong: dict[str, str],
) -> None:
    """The existing optimizer answers one such server with no allocation for all, and its actuator
    with zero.
    """
    odd = server_view("odd", load=BUSY, wanted=1, ready=1, **wrong)
    decision = decide(odd, server_view(load=BUSY))
    assert (decision.targets["odd"].held, decision.targets["odd"].replicas) == (True, 1)
    assert "odd" in decision.unserved
    assert decision.unserved["odd"].text in decision.targets["odd"].why.text
    assert not decision.targets["s1"].held


def test_a_server_whose_objectives_nothing_meets_keeps_its_gpus() -> None:
    """It holds them in truth: to give them to others would leave pods pending."""
    data = system()
    tight = replace(data.classes["Premium"].targets["llama_8b"], slo_itl_ms=0.5)
    premium = replace(data.classes["Premium"], targets={"llama_8b": tight})
    data = replace(data, classes={**data.classes, "Premium": premium})
    infeasible = server_view("infeasible", load=BUSY, wanted=3, ready=3)
    other = server_view("other", load=BUSY, service_class="Free", wanted=0, ready=0)
    decision = decide(infeasible, other, data=data, capacity={"H100": 4})
    assert (decision.targets["infeasible"].held, decision.targets["infeasible"].replicas) == (
        True,
        3,
    )
    assert "slo-itl" in decision.unserved["infeasible"].text
    assert decision.targets["other"].replicas <= 1


def test_a_load_grows_where_it_is_though_nothing_meets_its_targets() -> None:
    """A target that was out of reach froze a server: one replica for whatever came."""
    data = system()
    tight = replace(data.classes["Premium"].targets["llama_8b"], slo_itl_ms=0.5)
    premium = replace(data.classes["Premium"], targets={"llama_8b": tight})
    data = replace(data, classes={**data.classes, "Premium": premium})
    busy = server_view("busy", load=replace(BUSY, rate_rpm=9000.0), wanted=1, ready=1)
    other = server_view("other", load=BUSY, service_class="Free", wanted=1, ready=1)
    ample = decide(busy, other, data=data, capacity={"H100": 99})
    grown = ample.targets["busy"]
    assert (grown.held, grown.accelerator) == (False, "H100")
    assert grown.replicas > 1
    assert (grown.why.kind, ample.unserved["busy"].kind) == ("infeasible", "infeasible")
    # Those whose targets can be met come first.
    few = ample.targets["other"].replicas + 2
    scarce = decide(busy, other, data=data, capacity={"H100": few})
    assert scarce.targets["other"] == ample.targets["other"]
    assert scarce.targets["busy"].replicas == 2
    quiet = server_view("busy", load=BUSY, wanted=9, ready=9)
    kept = decide(quiet, other, data=data, capacity={"H100": 99}).targets["busy"]
    assert (kept.held, kept.replicas) == (True, 9)


def test_what_a_load_grew_without_its_targets_is_given_back() -> None:
    """It kept what the highest load of its life had needed. What it had before is not taken, nor
    anything at once: it may yet come near its targets, and loads come back.
    """
    data = system()
    tight = replace(data.classes["Premium"].targets["llama_8b"], slo_itl_ms=0.5)
    premium = replace(data.classes["Premium"], targets={"llama_8b": tight})
    data = replace(data, classes={**data.classes, "Premium": premium})
    policy = SloPolicy()
    state, wanted, seen = policy.start(), 2, list[int]()
    for k in range(70):
        load = replace(BUSY, rate_rpm=9000.0 if k < 20 else 900.0)
        wanted = 14 if k == 60 else wanted  # by hand
        view = server_view(load=load, wanted=wanted, ready=wanted)
        gpus = {"H100": CapacityView(type="H100", total=99, used=0)}
        shot = Snapshot(now_s=30.0 * k, servers={view.name: view}, capacity=gpus)
        decision, state = policy.decide(shot, data, state)
        wanted = decision.targets["s1"].replicas
        seen.append(wanted)
    assert min(seen[:30]) > 8  # five minutes more
    assert seen[59] == 2
    assert seen[:60] == sorted(seen[:60], reverse=True)
    assert seen[60:] == [14] * 10, "it did not grow by these"


def test_who_lacks_gpus_keeps_what_the_others_leave() -> None:
    """Priority decides who is served; the rest is not thrown away, and not promised twice."""
    top = server_view("top", load=BUSY, wanted=1, ready=1)
    low = server_view(
        "low", load=replace(BUSY, rate_rpm=9000.0), service_class="Free", wanted=3, ready=3
    )
    need = decide(top, capacity={"H100": 99}).targets["top"].replicas
    decision = decide(low, top, capacity={"H100": need + 1})
    assert decision.targets["top"].replicas == need
    assert (decision.targets["low"].held, decision.targets["low"].replicas) == (False, 1)
    assert decision.unserved["low"].kind == "capacity"
    assert "keeps 1 of 3" in decision.targets["low"].why.text


def test_an_idle_server_goes_to_its_least_replicas() -> None:
    """No arrivals in a whole window, seen by the router, is knowledge; min_replicas is what it
    keeps.
    """
    idle = Load(rate_rpm=0.0, in_tokens=512.0, out_tokens=256.0)
    data = system(servers={"kept": server_data("kept", min_replicas=1)})
    targets = decide(
        server_view("kept", load=idle), server_view("free", load=idle), data=data
    ).targets
    assert (targets["kept"].replicas, targets["free"].replicas) == (1, 0)


def test_requests_that_wait_where_nothing_runs_and_nothing_is_known_wake_one_replica() -> None:
    """Without it their tokens are never counted, the load is never known, and the server is held at
    zero for ever.
    """
    asleep = server_view(load=None, wanted=0, ready=0, backlog=5)
    woken = decide(asleep).targets["s1"]
    assert (woken.replicas, woken.held) == (1, False)
    full = server_view("full", load=None, wanted=8, ready=8)
    assert decide(asleep, full, capacity={"H100": 8}).targets["s1"].replicas == 0
    idle = decide(replace(asleep, backlog=0)).targets["s1"]
    assert (idle.replicas, idle.held, idle.why.kind) == (0, True, "held-unknown")
    # Of a server that nobody has put anywhere yet, none can begin: it is held, and not said to.
    nowhere = replace(asleep, pools=one_pool(accelerator="", replicas=0, max_batch=64))
    assert decide(nowhere).targets["s1"].held


def test_an_unknown_load_grows_a_server_to_what_runs_and_waits() -> None:
    """Answers longer than the window leave the load unknown while the queue grows: first it is
    held, for a queue may be what an outage has left; after a window the requests need a place.
    """
    blind = server_view(
        load=None, wanted=2, max_batch=64, running=128, waiting=100, sample_age_s=5.0
    )
    other = server_view("other", load=None, wanted=1, ready=1)

    def decided(*views: ServerView, at_s: tuple[float, ...], capacity: int) -> Decision:
        state = PLAIN.start()
        gpus = {"H100": CapacityView(type="H100", total=capacity, used=0)}
        for now_s in at_s:
            seen = Snapshot(now_s=now_s, servers={view.name: view for view in views}, capacity=gpus)
            decision, state = PLAIN.decide(seen, system(), state)
        return decision

    early = decided(blind, at_s=(0.0, 30.0), capacity=99).targets["s1"]
    assert (early.held, early.replicas) == (True, 2)
    late = decided(blind, at_s=(0.0, 30.0, 60.0), capacity=99).targets["s1"]
    assert (late.held, late.replicas, late.why.kind) == (False, 4, "in-flight")
    both = decided(blind, other, at_s=(0.0, 60.0), capacity=4)
    assert (both.targets["s1"].replicas, both.targets["other"].replicas) == (3, 1)
    unseen = replace(blind, sample_age_s=None)
    assert decided(unseen, at_s=(0.0, 60.0), capacity=99).targets["s1"].held
    roomy = replace(blind, waiting=0)
    assert decided(roomy, at_s=(0.0, 60.0), capacity=99).targets["s1"].held


def test_labels_win_over_the_data_file_and_the_file_adds_what_no_label_says() -> None:
    """A Deployment may have moved to another class since the file was written; keepAccelerator is
    only in the file.
    """
    data = system(servers={"s1": server_data(service_class="Premium", keep_accelerator=True)})
    view = server_view(load=BUSY, accelerator="2xA100", service_class="Free")
    kept = decide(view, data=data, capacity={"H100": 99, "A100": 99}).targets["s1"]
    assert kept.accelerator == "2xA100"
    same = decide(
        view, data=system(servers={"s1": server_data(service_class="Free", keep_accelerator=True)})
    )
    assert kept.replicas == same.targets["s1"].replicas


@pytest.mark.parametrize(("most", "where"), [(None, "2xA100"), (2, "H100")])
def test_a_server_moves_to_where_the_replicas_that_it_may_have_serve_it(
    most: int | None, where: str
) -> None:
    """It wanted four small ones, had two of them for good, and half of its requests in time."""
    policy = make_policy("slo")
    load = replace(BUSY, rate_rpm=1200.0)
    view = server_view(load=load, accelerator="2xA100", replicas_max=most)
    state = policy.start()
    for now_s in np.arange(30.0, 480.0, 30.0).tolist():
        seen = Snapshot(now_s=now_s, servers={"s1": view})
        decision, state = policy.decide(seen, system(), state)
        view = replace(view, pools=decision.targets["s1"].pools)
        view = replace(view, ready=view.wanted)
    assert view.accelerator == where


def test_a_server_that_no_file_names_is_decided_by_its_labels() -> None:
    """Who labels a Deployment as managed need not edit a file."""
    assert decide(server_view("new", load=BUSY)).targets["new"].replicas > 0


def test_a_server_of_the_file_that_the_world_does_not_have_is_not_decided() -> None:
    """It would take GPUs from servers that exist."""
    data = system(servers={"gone": server_data("gone", current=Allocation(load=BUSY))})
    assert set(decide(server_view(load=BUSY), data=data).targets) == {"s1"}


def test_the_capacity_of_the_world_counts_where_it_is_known_and_else_the_file() -> None:
    """A node that is gone is seen at once; the file is what people remember to edit."""
    none_left = decide(server_view(load=BUSY), capacity={"H100": 0, "A100": 0})
    assert none_left.targets["s1"].replicas == 0
    assert none_left.unserved["s1"].kind == "capacity"
    assert decide(server_view(load=BUSY)).targets["s1"].replicas > 0


@pytest.mark.parametrize(
    "option",
    [
        {"solver": "magic"},
        {"headroom": 1.0},
        {"headroom": -0.1},
        {"headroom": float("nan")},
        {"headroom": "much"},
        {"drain_s": -1.0},
        {"drain_s": float("inf")},
        {"down_s": -5.0},
        {"down_s": "abc"},
        {"forecasts": "no"},
        {"hysteresis": -0.1},
        {"compat": "yes"},
        {"prefix_cache_trust": 1.1},
        {"prefix_cache_trust": -0.1},
        {"prefix_cache_trust": float("nan")},
    ],
)
def test_an_option_that_cannot_be_is_one_line(option: dict[str, object]) -> None:
    """Options come from a command line."""
    with pytest.raises(SpecError, match=f"policy slo: {next(iter(option))}: expected"):
        make_policy("slo", **option)


@pytest.mark.parametrize(
    ("factor", "stays"), [(1.0, True), (1.5, True), (2.0, True), (0.9, False), (2.5, False)]
)
def test_a_max_batch_that_is_large_enough_stays(factor: float, stays: bool) -> None:
    """The batch wanted moves with every measurement; on a cluster each change is a patch, and buys
    nothing.
    """
    sticky = SloPolicy(solver="greedy")
    wanted = decide(server_view(load=BUSY, max_batch=1), policy=sticky).targets["s1"]
    present = round(wanted.max_batch * factor)
    target = decide(
        server_view(
            load=BUSY, max_batch=present, accelerator=wanted.accelerator, wanted=wanted.replicas
        ),
        policy=sticky,
    ).targets["s1"]
    assert target.max_batch == (present if stays else wanted.max_batch)


def test_a_minimum_that_the_world_sets_is_planned_with() -> None:
    """Put on afterwards, it would take GPUs that had been given to others."""
    idle = Load(rate_rpm=0.0, in_tokens=512.0, out_tokens=256.0)
    targets = decide(server_view(load=idle, replicas_min=2), server_view("s2", load=idle)).targets
    assert (targets["s1"].replicas, targets["s2"].replicas) == (2, 0)


def test_the_old_name_of_hysteresis_still_works() -> None:
    """Scripts and scenarios say `band`."""
    assert make_policy("slo", band=0.3) == make_policy("slo", hysteresis=0.3)
    with pytest.raises(SpecError, match=r"band is the old name of hysteresis: .* found both"):
        make_policy("slo", band=0.3, hysteresis=0.3)


def test_what_the_policy_asks_is_no_option() -> None:
    """A command line names options; who optimizes is wired by the program."""
    with pytest.raises(SpecError, match="found 'optimize'"):
        make_policy("slo", optimize=None)


def test_only_accelerators_of_as_many_gpus_as_a_replica_has_are_considered() -> None:
    """The cheaper one of two GPUs is no choice for pods that ask for one, and the other way."""
    data = system()
    cheap = replace(data.accelerators["2xA100"], cost_cents_per_h=1.0)
    data = replace(data, accelerators={**data.accelerators, "2xA100": cheap})
    chosen = {
        count: decide(server_view(load=BUSY, gpus_per_replica=count), data=data)
        .targets["s1"]
        .accelerator
        for count in (None, 1, 2)
    }
    assert chosen == {None: "2xA100", 1: "H100", 2: "2xA100"}


def test_a_server_whose_gpus_no_accelerator_has_is_held_and_stops_nobody() -> None:
    """Nothing known of it can be asked for."""
    views = (server_view(gpus_per_replica=3), server_view("s2", load=BUSY))
    decision = decide(*views)
    assert decision.targets["s1"].held
    assert "an accelerator of 3 GPUs, which its pods ask for" in decision.unserved["s1"].text
    assert not decision.targets["s2"].held


@pytest.mark.parametrize(
    ("reachable", "accelerator", "replicas"),
    [
        (None, "H100", None),
        ({"H100": 1, "A100": 0}, "H100", 1),
        ({"H100": 0, "A100": 8}, "2xA100", None),
        ({"H100": 1, "A100": 8}, "2xA100", None),
        ({"H100": 0, "A100": 3}, "2xA100", 1),
    ],
)
def test_a_server_gets_no_more_gpus_than_its_pods_can_be_put_on(
    reachable: dict[str, int] | None, accelerator: str, replicas: int | None
) -> None:
    """Taints and selectors keep its pods off the others: they would be pending for ever."""
    load = replace(BUSY, rate_rpm=1.5 * BUSY.rate_rpm)
    bound = server_view(load=load, gpus_reachable=reachable)
    decision = decide(bound, server_view("s2", load=BUSY))
    found = decision.targets["s1"]
    assert found.accelerator == accelerator
    if replicas is None:
        assert found.replicas > 1
        assert "s1" not in decision.unserved
    else:
        assert found.replicas == replicas
        assert found.why.kind == "capacity"
        assert "can be put anywhere" in found.why.text
    assert decision.targets["s2"].why.kind != "capacity"


def test_a_server_that_reaches_no_gpus_of_its_model_keeps_what_it_has() -> None:
    """Nothing can be asked for, and nobody knows better."""
    decision = decide(server_view(load=BUSY, gpus_reachable={"H100": 0, "A100": 0}))
    found = decision.targets["s1"]
    assert (found.accelerator, found.replicas, found.why.kind) == ("H100", 2, "capacity")
    assert "no GPUs that its pods can be put on" in decision.unserved["s1"].text


@pytest.mark.parametrize("solver", ["greedy", "exact"])
@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("rate_rpm", first(2, [1.0, 1e12, 0.0, 1e-300, 1e6]))
@pytest.mark.parametrize("in_tokens", first(1, [1e12, 0.0, 1.0]))
@pytest.mark.parametrize("out_tokens", first(1, [1e12, 1.0]))
def test_the_largest_figures_stop_no_other_server(
    solver: SolverName, compat: bool, rate_rpm: float, in_tokens: float, out_tokens: float
) -> None:
    """Whatever a label or a message may say: what cannot be sized is held, and nobody else."""
    load = Load(rate_rpm=rate_rpm, in_tokens=in_tokens, out_tokens=out_tokens)
    policy = SloPolicy(solver=solver, compat=compat)
    targets = decide(server_view("odd", load=load), server_view(load=BUSY), policy=policy).targets
    assert not targets["s1"].held
    odd = targets["odd"]
    figures = (odd.replicas, odd.cost_cents_per_h or 0.0, odd.itl_ms or 0.0, odd.ttft_ms or 0.0)
    assert all(math.isfinite(figure) and figure >= 0 for figure in figures)


def test_what_is_beyond_arithmetic_is_held_and_said() -> None:
    """An overflow used to end the cycle for everybody."""

    def sizes(data: SystemData, settings: OptimizerSettings) -> Solution:
        if "odd" in data.servers:
            raise FloatingPointError("overflow encountered in multiply")
        return optimize(data, settings)

    decision = decide(
        server_view("odd", load=BUSY),
        server_view(load=BUSY),
        policy=replace(PLAIN, optimize=sizes),
    )
    assert decision.targets["odd"].held
    assert "cannot be sized (overflow encountered in multiply)" in decision.unserved["odd"].text
    assert not decision.targets["s1"].held


def test_what_a_solver_notes_is_a_note_of_the_decision() -> None:
    """It was cut by its time limit, and more servers may be possible."""

    def hurried(data: SystemData, settings: OptimizerSettings) -> Solution:
        return replace(optimize(data, settings), note="not all could be looked at")

    policy = replace(PLAIN, optimize=hurried)
    assert decide(server_view(load=BUSY), policy=policy).notes == (
        "optimizer: not all could be looked at",
    )
    assert decide(server_view(load=BUSY), policy=PLAIN).notes == ()


def test_a_server_that_the_world_holds_keeps_its_gpus() -> None:
    """The others plan with what it leaves."""
    hold = Why(kind="paused", text="annotation x")
    views = (server_view(wanted=6, hold=hold, load=BUSY), server_view("s2", wanted=1, load=BUSY))
    decision = decide(*views, capacity={"H100": 7})
    held, other = decision.targets["s1"], decision.targets["s2"]
    assert (held.held, held.replicas, held.why.kind) == (True, 6, "paused")
    assert other.replicas <= 1


def test_the_plan_has_no_more_gpus_than_can_be_had() -> None:
    """Pods have waited for more in vain, whatever the data say."""
    view = server_view(load=replace(BUSY, rate_rpm=20_000.0), gpus_per_replica=1)
    seen = Snapshot(now_s=60.0, servers={"s1": view}, capacity_max={"H100": 2})
    decision, _ = PLAIN.decide(seen, system(), PLAIN.start())
    assert decision.unserved["s1"].kind == "capacity"
    assert decision.targets["s1"].replicas == 2


LONG = Load(rate_rpm=1500.0, in_tokens=4096.0, out_tokens=64.0)
ROOMY_CAPACITY = {"H100": 99, "A100": 0}


def replicas_for(share: float | None, *, trust: float, compat: bool = False) -> int:
    """Return the replicas for long prompts of which *share* was found in the cache."""
    view = server_view(load=LONG, cache_hit_share=share)
    policy = replace(PLAIN, prefix_cache_trust=trust, compat=compat)
    return decide(view, policy=policy, capacity=ROOMY_CAPACITY).targets["s1"].replicas


def test_cached_prompts_count_as_far_as_the_cache_is_trusted() -> None:
    """A new pod begins with an empty cache: by default no prompt counts as cached."""
    cold = replicas_for(None, trust=1.0)
    assert replicas_for(0.9, trust=0.0) == cold
    assert replicas_for(0.0, trust=1.0) == cold
    half, whole = replicas_for(0.9, trust=0.5), replicas_for(0.9, trust=1.0)
    assert whole < half < cold
    assert half == replicas_for(0.45, trust=1.0)


def test_prompts_that_others_compute_need_no_trust() -> None:
    """Decode pods got the replicas that computing their prompts would take."""
    view = server_view(load=LONG, cache_hit_share=0.9, fetched_share=1.0)
    decode = decide(view, policy=PLAIN, capacity=ROOMY_CAPACITY).targets["s1"].replicas
    assert decode == replicas_for(1.0, trust=1.0) < replicas_for(0.9, trust=0.0)
    compat = decide(view, policy=replace(PLAIN, compat=True), capacity=ROOMY_CAPACITY)
    assert compat.targets["s1"].replicas == replicas_for(None, trust=0.0, compat=True)


def test_the_existing_optimizer_knows_no_prefix_cache() -> None:
    """It answers what it always did, whatever is trusted."""
    assert replicas_for(0.9, trust=1.0, compat=True) == replicas_for(None, trust=0.0, compat=True)


@pytest.mark.parametrize("unlimited", [False, True])
def test_a_move_begins_with_the_replicas_that_are_needed_now_and_gives_the_rest_back(
    unlimited: bool,
) -> None:
    """A rollout ends old pods beyond the number that is asked for at once. Where GPUs are unlimited
    nobody counts them: that none are known of is no reason to go without.
    """
    policy, data = SloPolicy(forecasts=False), system()
    if unlimited:
        data = replace(data, optimizer=replace(data.optimizer, unlimited=True), capacity={})
    load = Load(rate_rpm=2000.0, in_tokens=512.0, out_tokens=256.0)
    counted = {kind: CapacityView(type=kind, total=40, used=0) for kind in ("H100", "A100")}
    room = None if unlimited else counted

    def replicas(view: ServerView, now_s: float, state: Memories) -> tuple[str, int, Memories]:
        seen = Snapshot(now_s=now_s, servers={"s1": view}, capacity=room)
        decision, state = policy.decide(seen, data, state)
        target = decision.targets["s1"]
        return target.accelerator, target.replicas, state

    before = server_view(load=load, accelerator="2xA100", wanted=5, ready=5)
    *unknown, state = replicas(before, 1000.0 - LONG_S, policy.start())
    assert unknown == ["2xA100", 5]
    *moved, state = replicas(before, 1000.0, state)
    assert moved == ["H100", 5]
    during = server_view(load=load, accelerator="H100", wanted=5, ready=2, starting=3)
    *kept, state = replicas(during, 1030.0, state)
    assert kept == ["H100", 5]
    after = server_view(load=load, accelerator="H100", wanted=5, ready=5)
    *settled, _ = replicas(after, 1090.0, state)
    assert settled == ["H100", 3]


def test_very_many_move_to_where_they_are_served_though_nobody_counts_gpus() -> None:
    """Each was to get its share of no GPUs, so that all stayed where none of them is served."""
    views = {
        f"s{k}": server_view(f"s{k}", load=BUSY, accelerator="2xA100", wanted=1, ready=1)
        for k in range(MOVERS_MAX + 1)
    }
    data = system(servers={name: server_data(name) for name in views}, capacity={})
    slow = replace(data.perf["llama_8b", "2xA100"], alpha_ms=500.0)
    data = replace(
        data,
        perf={**data.perf, ("llama_8b", "2xA100"): slow},
        optimizer=replace(data.optimizer, unlimited=True),
    )
    decision = decide(*views.values(), policy=SloPolicy(), data=data)
    assert {target.accelerator for target in decision.targets.values()} == {"H100"}


@pytest.mark.parametrize("patient", [False, True])
def test_a_server_leaves_a_type_of_gpu_that_is_full(patient: bool) -> None:
    """Its pods are short of the load, and none can come where it is. That holds also for a class
    that has a target for throughput only: what waits is done a little later, but not never.
    """
    policy, data = SloPolicy(), system()
    best_effort = replace(data.optimizer, saturation_policy="PriorityRoundRobin")
    data = replace(data, optimizer=best_effort)
    if patient:
        calm = {
            name: replace(
                one,
                targets={
                    model: SloTarget(model=model, slo_tps=10.0) for model, _ in one.targets.items()
                },
            )
            for name, one in data.classes.items()
        }
        data = replace(data, classes=calm)
    room = {"A100": 2, "H100": 40}
    gpus = {kind: CapacityView(type=kind, total=n, used=0) for kind, n in room.items()}
    load = Load(rate_rpm=6000.0, in_tokens=512.0, out_tokens=256.0)
    full = server_view(load=load, accelerator="2xA100", wanted=2, ready=1, pending=1)
    state, found = policy.start(), []
    for now_s in (1000.0 - KNOWN_S, 1000.0):
        seen = Snapshot(now_s=now_s, servers={"s1": full}, capacity=gpus)
        decision, state = policy.decide(seen, data, state)
        found.append(decision.targets["s1"].accelerator)
    assert found == ["2xA100", "H100"]


@pytest.mark.parametrize(("source", "follows"), [("labels", True), ("router", False)])
def test_labels_are_followed_at_once_and_measured_loads_down_after_a_while(
    source: str, follows: bool
) -> None:
    """What somebody sets has no noise; what is measured may come back."""
    policy, state, found = SloPolicy(), SloPolicy().start(), []
    for step, rate_rpm in enumerate((100.0, 3000.0, 100.0)):
        load = Load(rate_rpm=rate_rpm, in_tokens=512.0, out_tokens=256.0)
        view = server_view(load=load, load_source=source, wanted=8, ready=8)
        seen = Snapshot(now_s=60.0 + 5.0 * step, servers={"s1": view})
        decision, state = policy.decide(seen, system(), state)
        found.append(decision.targets["s1"].replicas)
    assert found[1] > found[0]
    assert (found[2] == found[0]) == follows


@pytest.mark.costly
def test_who_has_just_moved_stays_though_others_stay_too() -> None:
    """Where one may not move, the cheapest for the rest may be that another moves for it: that
    move, too, has to be one that pays.
    """
    rng = np.random.default_rng(3)
    policy, tried = SloPolicy(), 0
    for _ in range(60):
        counts = {"H100": int(rng.integers(4, 16)), "A100": int(rng.integers(4, 24))}
        gpus = {kind: CapacityView(type=kind, total=n, used=0) for kind, n in counts.items()}
        views = {
            f"s{k}": server_view(
                f"s{k}",
                load=Load(
                    rate_rpm=float(rng.uniform(200.0, 4000.0)), in_tokens=512.0, out_tokens=256.0
                ),
                accelerator=str(rng.choice(["H100", "2xA100"])),
                wanted=2,
                ready=2,
            )
            for k in range(3)
        }
        data = system(servers={name: server_data(name) for name in views})
        at_home = {
            name: server_data(
                name,
                keep_accelerator=True,
                current=Allocation(
                    accelerator=view.accelerator, replicas=2, max_batch=64, load=view.load
                ),
            )
            for name, view in views.items()
        }
        everybody = replace(data, servers=at_home, capacity=counts)
        if optimize(everybody, OptimizerSettings(rules=OURS)).unserved:
            continue
        state = policy.start()
        for now_s in (0.0, 30.0, 60.0):
            seen = Snapshot(now_s=now_s, servers=views, capacity=gpus, window_s=60.0)
            decision, state = policy.decide(seen, data, state)
            state = {name: replace(one, moved_s=now_s) for name, one in state.items()}
        tried += 1
        assert all(
            decision.targets[name].accelerator == view.accelerator for name, view in views.items()
        )
    assert tried >= 15


@pytest.mark.costly
def test_margins_are_given_up_only_as_far_as_gpus_are_missing() -> None:
    """Once a class lost all of its margins for one replica too many; what others leave comes first,
    and nothing is left idle.
    """
    rng, policy = np.random.default_rng(5), SloPolicy()
    rates = [rng.choice([500.0, 3000.0], size=60) for _ in range(2)]

    def replicas(total: int) -> list[int]:
        state = policy.start()
        for step, pair in enumerate(zip(*rates, strict=True)):
            kinds = {"H100": total if step == 59 else 200, "A100": 0}
            views = {
                f"s{k}": server_view(
                    f"s{k}",
                    load=Load(rate_rpm=float(rate), in_tokens=512.0, out_tokens=256.0),
                    wanted=5,
                    ready=5,
                )
                for k, rate in enumerate(pair)
            }
            gpus = {kind: CapacityView(type=kind, total=n, used=0) for kind, n in kinds.items()}
            seen = Snapshot(now_s=30.0 * step, servers=views, capacity=gpus, window_s=60.0)
            decision, state = policy.decide(seen, data, state)
        return [decision.targets[name].replicas for name in views]

    data = system(servers={name: server_data(name) for name in ("s0", "s1")})
    enough = replicas(200)
    for missing in (1, 2):
        given = replicas(sum(enough) - missing)
        assert sum(given) == sum(enough) - missing
        assert all(one <= most for one, most in zip(given, enough, strict=True))


@pytest.mark.parametrize("idle", [0, pytest.param(MANY, marks=pytest.mark.costly)])
def test_who_can_live_elsewhere_leaves_the_gpus_that_another_needs(idle: int) -> None:
    """Of two servers of one class one is served where it is, and the other falls behind: its queue
    makes it ask for more than there is. Once that was for ever: only who is served whole counted.
    """
    data = system(servers={name: server_data(name) for name in ("whole", "needs")})
    nothing = Load(rate_rpm=0.0, in_tokens=512.0, out_tokens=256.0)
    others = {
        f"idle{k}": server_view(f"idle{k}", load=nothing, wanted=0, ready=0) for k in range(idle)
    }
    parts = replace(data.optimizer, saturation_policy="PriorityRoundRobin")
    policy, data = SloPolicy(), replace(data, optimizer=parts)
    gpus = {
        kind: CapacityView(type=kind, total=n, used=0) for kind, n in (("H100", 4), ("A100", 4))
    }
    state = policy.start()
    for step in range(12):
        load = Load(rate_rpm=800.0, in_tokens=512.0, out_tokens=256.0)
        views = {
            "whole": server_view("whole", load=load, wanted=1, ready=1),
            "needs": server_view(
                "needs",
                load=replace(load, rate_rpm=3200.0),
                wanted=3,
                ready=3,
                running=190,
                waiting=400 * step,
                backlog=400 * step,
            ),
        }
        seen = Snapshot(now_s=30.0 * step, servers=views | others, capacity=gpus, window_s=60.0)
        decision, state = policy.decide(seen, data, state)
    assert decision.targets["whole"].accelerator == "2xA100"
    needs = decision.targets["needs"]
    assert (needs.accelerator, needs.replicas) == ("H100", 4)


@pytest.mark.costly
@pytest.mark.parametrize("seed", [0, 2, 6])
def test_nobody_moves_to_and_fro_where_gpus_are_short(seed: int) -> None:
    """Each time somebody needs one GPU more, everybody's place looks better: once a server moved
    four times in two minutes, and lost its pods each time. Now it may go where it is cheap, and
    back when its load does not fit there; its next move must bring the more the sooner it comes.
    """
    rng, policy = np.random.default_rng(seed), SloPolicy()
    names = [f"s{k}" for k in range(4)]
    classes = ["Premium", "Premium", "Free", "Free"]
    data = system(servers={name: server_data(name) for name in names})
    gpus = {
        kind: CapacityView(type=kind, total=n, used=0) for kind, n in (("H100", 5), ("A100", 12))
    }
    has = dict.fromkeys(names, ("H100", 2))
    state, moved_s = policy.start(), {name: list[float]() for name in names}
    for step in range(60):
        now_s = 30.0 * step
        views = {
            name: server_view(
                name,
                service_class=one,
                load=Load(
                    rate_rpm=float(1500.0 * rng.uniform(0.6, 1.4)),
                    in_tokens=512.0,
                    out_tokens=256.0,
                ),
                accelerator=has[name][0],
                wanted=has[name][1],
                ready=has[name][1],
            )
            for name, one in zip(names, classes, strict=True)
        }
        seen = Snapshot(now_s=now_s, servers=views, capacity=gpus, window_s=60.0)
        decision, state = policy.decide(seen, data, state)
        for name, target in decision.targets.items():
            if target.accelerator != has[name][0]:
                moved_s[name].append(now_s)
            has[name] = (target.accelerator, target.replicas)
    assert 0 < sum(len(each) for each in moved_s.values()) < 16
    for each in moved_s.values():
        assert all(fourth - first > 400.0 for first, fourth in zip(each, each[3:], strict=False))
