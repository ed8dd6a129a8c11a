"""From decision to changes: only what differs is asked for, and nobody is scaled to zero by being
left out.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.actuator import (
    Limits,
    below_minimum,
    cut_answers,
    plan,
    planned,
    shut_out,
    with_room_for_what_runs,
    with_sleepers,
    with_upper_bounds,
)
from loop.testing.fakes import BECAUSE, change, server_data, server_view, system, target
from loop.types import Change, Decision, Load, Missing, PodView, ServerView, Snapshot, Target, Why


def snapshot(*views: ServerView) -> Snapshot:
    """Return what is seen of *views*."""
    return Snapshot(now_s=0.0, servers={view.name: view for view in views})


def changes(
    *targets: Target, views: tuple[ServerView, ...] = (), limits: Limits | None = None
) -> tuple[Change, ...]:
    """Return the plan for *targets* over *views* (server_view when none are given)."""
    seen = Snapshot(now_s=0.0, servers={view.name: view for view in views or (server_view(),)})
    return plan(
        Decision(targets={entry.server: entry for entry in targets}),
        seen,
        limits=limits or Limits(),
    )


def test_what_is_wanted_already_is_not_asked_for_again() -> None:
    """Every write on a cluster costs, and wakes whoever watches."""
    assert changes(target()) == ()


def test_what_is_desired_counts_and_not_the_pods_that_are_ready() -> None:
    """Three wanted of which one is ready are on their way: asking for more each cycle would
    overshoot.
    """
    assert changes(target(replicas=3), views=(server_view(wanted=3, ready=1, starting=2),)) == ()


@pytest.mark.parametrize(
    "different", [{"replicas": 3}, {"accelerator": "2xA100"}, {"max_batch": 32}]
)
def test_any_difference_is_one_absolute_change(different: dict[str, int]) -> None:
    """Changes are absolute, so that applying twice is harmless."""
    assert len(changes(target(**different))) == 1
    wanted = target(**different)
    assert changes(wanted)[0] == Change(server="s1", pools=wanted.pools, why=BECAUSE)


def test_a_server_absent_from_the_decision_is_held() -> None:
    """The existing loop scales it to zero; a policy that fails on one server must not take it
    down.
    """
    views = (server_view("s1"), server_view("s2"))
    assert [change.server for change in changes(target("s1", replicas=4), views=views)] == ["s1"]


def test_a_server_that_sleeps_is_told_as_that_where_the_policy_says_nothing_of_it() -> None:
    """It was held as undecided, and alarmed for as long as it slept."""
    seen = snapshot(server_view("s1"), server_view("s2", load=None, wanted=0, ready=0))
    kinds = {
        name: one.why.kind
        for name, one in with_sleepers(Decision(targets={}), seen).targets.items()
    }
    assert kinds == {"s2": "asleep"}


def test_a_target_of_a_server_that_was_not_seen_is_left_out() -> None:
    """It may have been deleted meanwhile."""
    assert changes(target("ghost", replicas=4)) == ()


def test_nothing_is_asked_for_a_held_server_whatever_its_target_says() -> None:
    """Held means no change. It is decided here and nowhere else."""
    assert changes(replace(target(accelerator="", replicas=0, max_batch=0), held=True)) == ()


@pytest.mark.parametrize("accelerator", ["", "2xA100"])
def test_scaling_to_zero_keeps_accelerator_and_max_batch(accelerator: str) -> None:
    """They are what the server starts with when load comes back."""
    (asked,) = changes(target(accelerator=accelerator, replicas=0, max_batch=0))
    assert (asked.replicas, asked.accelerator, asked.max_batch) == (0, "H100", 64)


def test_a_target_without_an_accelerator_keeps_the_present_one() -> None:
    """Policies that choose only replicas say none; no replicas are something else."""
    (asked,) = changes(target(accelerator="", replicas=3))
    assert (asked.accelerator, asked.replicas) == ("H100", 3)


def test_replicas_on_no_known_accelerator_are_not_asked_for() -> None:
    """The label is missing, and the policy chooses none: what runs stays as it is."""
    bare = server_view(accelerator="", wanted=3, ready=3)
    assert changes(target(accelerator="", replicas=5), views=(bare,)) == ()
    (asked,) = changes(target(accelerator="", replicas=0), views=(bare,))
    assert asked.replicas == 0


def test_an_unknown_load_is_no_reason_to_take_replicas_away() -> None:
    """The policy may have a fault; who knows the load better may say so."""
    dark = server_view(load=None, wanted=3, ready=3)
    seen = Snapshot(now_s=0.0, servers={"s1": dark})
    decision = Decision(targets={"s1": target(replicas=1)})
    assert plan(decision, seen) == ()
    assert [change.replicas for change in plan(decision, seen, reduce_unknown=True)] == [1]
    assert [change.replicas for change in changes(target(replicas=4), views=(dark,))] == [4]


def test_a_server_left_below_its_minimum_is_told_of() -> None:
    """Nothing is asked for a held server, so somebody has to look."""
    seen = Snapshot(now_s=0.0, servers={"s1": server_view(wanted=1, replicas_min=2)})
    assert below_minimum(seen, ()) == (
        "s1: stays at 1 replicas, below its minimum of 2: nothing is asked for it",
    )
    assert below_minimum(seen, [change(replicas=2)]) == ()


def test_a_load_that_a_maximum_of_zero_shuts_out_is_told() -> None:
    """The bound of a person counts; that it ends what serves must not be silent."""
    busy = server_view(wanted=2, ready=2, replicas_max=0, running=3)
    asked = changes(target(replicas=2), views=(busy,))
    assert [change.replicas for change in asked] == [0]
    assert shut_out(snapshot(busy), asked) == (
        "s1: its maximum is 0 replicas, so nobody serves the 120 requests/min that come and the 3 "
        "in its pods",
    )
    ended = server_view(wanted=0, ready=0, replicas_max=0)
    assert shut_out(snapshot(ended), ()) != ()
    quiet = replace(busy, running=0, load=Load(rate_rpm=0.0, in_tokens=512, out_tokens=128))
    assert shut_out(snapshot(quiet), asked) == ()
    assert shut_out(snapshot(replace(busy, replicas_max=1)), ()) == ()


def test_zero_replicas_are_not_asked_for_twice() -> None:
    """Zero is desired like any other count."""
    assert (
        changes(target(accelerator="", replicas=0), views=(server_view(wanted=0, ready=0),)) == ()
    )


def test_a_target_without_a_max_batch_keeps_the_present_one() -> None:
    """Policies that choose only replicas say 0."""
    (asked,) = changes(target(replicas=3, max_batch=0))
    assert asked.max_batch == 64


@pytest.mark.parametrize("accelerator", ["", "2xA100"])
def test_a_limit_keeps_replicas_on_the_accelerator_they_have_while_scaling_to_zero(
    accelerator: str,
) -> None:
    """Three of five replicas that must stay a cycle longer must not be moved for that, least of all
    to nowhere.
    """
    view = server_view(wanted=5, ready=5)
    (asked,) = changes(
        target(accelerator=accelerator, replicas=0), views=(view,), limits=Limits(step_down_max=2)
    )
    assert (asked.replicas, asked.accelerator, asked.max_batch) == (3, "H100", 64)


@given(
    wanted=st.integers(min_value=0, max_value=50),
    replicas=st.integers(min_value=0, max_value=50),
    up=st.none() | st.integers(min_value=1, max_value=10),
    down=st.none() | st.integers(min_value=1, max_value=10),
)
def test_limits_shorten_a_step_and_never_turn_or_stop_it(
    wanted: int, replicas: int, up: int | None, down: int | None
) -> None:
    """Repeated cycles reach the target from either side, each no faster than allowed."""
    limits = Limits(step_up_max=up, step_down_max=down)
    for _ in range(60):
        plans = changes(
            target(replicas=replicas),
            views=(server_view(wanted=wanted, ready=wanted),),
            limits=limits,
        )
        if not plans:
            break
        step = plans[0].replicas - wanted
        assert (step > 0) == (replicas > wanted)
        assert -(down or 50) <= step <= (up or 50)
        wanted = plans[0].replicas
    assert wanted == replicas


def test_a_negative_target_is_an_error_of_the_programmer() -> None:
    """It must not reach a cluster."""
    with pytest.raises(AssertionError, match="s1: replicas must be >= 0, got -1"):
        changes(target(replicas=-1))


def test_a_limit_of_zero_is_refused() -> None:
    """It would freeze the loop; advice is what does that."""
    with pytest.raises(AssertionError, match="limit per cycle"):
        Limits(step_up_max=0)


def test_the_bounds_of_a_server_win_over_the_policy_and_the_limits_per_cycle() -> None:
    """Who sets a minimum on a server means it: no decision and no slow start may go below."""
    bounded = server_view(wanted=1, replicas_min=4, replicas_max=6)
    assert [change.replicas for change in changes(target(replicas=9), views=(bounded,))] == [6]
    (asked,) = changes(target(replicas=0), views=(bounded,), limits=Limits(step_up_max=1))
    assert (asked.replicas, asked.accelerator) == (4, "H100")
    assert (asked.why.kind, asked.why.text) == (
        "bound",
        "because; 4 is the bound set for it",
    )


def test_of_bounds_that_contradict_each_other_the_lower_one_wins() -> None:
    """Too many replicas cost money, too few cost requests."""
    (asked,) = changes(target(replicas=5), views=(server_view(replicas_min=7, replicas_max=3),))
    assert asked.replicas == 7


def test_a_server_without_an_accelerator_is_not_lifted_to_its_minimum() -> None:
    """There would be nothing to run the replicas on."""
    nowhere = server_view(accelerator="", wanted=0, ready=0, replicas_min=2)
    assert changes(target(accelerator="", replicas=0), views=(nowhere,)) == ()


@pytest.mark.parametrize(
    ("running", "waiting", "replicas", "stay"),
    [(90, 0, 1, 3), (90, 0, 0, 3), (33, 0, 1, 2), (0, 5, 0, 1), (0, 0, 0, 0), (500, 0, 2, 3)],
)
def test_a_reduction_leaves_room_for_what_runs(
    running: int, waiting: int, replicas: int, stay: int
) -> None:
    """No arrival in a window is not no load: answers of twenty minutes run in these pods."""
    view = server_view(wanted=3, ready=3, max_batch=32, running=running, waiting=waiting)
    snapshot = Snapshot(now_s=60.0, servers={"s1": view})
    decided = Decision(targets={"s1": target(replicas=replicas, max_batch=48)})
    kept = with_room_for_what_runs(decided, snapshot, system()).targets["s1"]
    assert kept.replicas == stay
    if stay != replicas:
        assert kept.why.kind == "in-flight"
        assert kept.why.details["policyReplicas"] == replicas
        assert f"{running} requests run and {waiting} wait" in kept.why.text
    else:
        assert kept == decided.targets["s1"]


@pytest.mark.parametrize(
    ("replicas", "others", "accelerator", "stay"),
    [(1, 5, "H100", 1), (0, 5, "H100", 1), (1, 2, "H100", 3), (1, 5, "2xA100", 3)],
)
def test_who_is_to_give_gpus_to_others_gives_them_though_its_batches_are_full(
    replicas: int, others: int, accelerator: str, stay: int
) -> None:
    """Where more comes than a server can take, its batches are always full: once its GPUs were
    kept for ever, and those of a higher class waited for them. If nobody grows there, nobody needs
    them: nodes may only be out of sight.
    """
    short = server_view("low", wanted=3, ready=3, max_batch=32, running=96, waiting=50)
    snapshot = Snapshot(
        now_s=60.0,
        servers={"low": short, "top": server_view("top", accelerator=accelerator, wanted=2)},
    )
    less = replace(
        target(replicas=replicas), server="low", why=Why(kind="capacity", text="no GPUs")
    )
    more = replace(target(accelerator=accelerator, replicas=others), server="top")
    decided = Decision(targets={"low": less, "top": more})
    assert with_room_for_what_runs(decided, snapshot, system()).targets["low"].replicas == stay


@pytest.mark.parametrize(("rate_rpm", "stay"), [(0.0, 3), (1000.0, 1)])
def test_full_kv_caches_need_their_replicas_unless_the_load_explains_what_runs(
    rate_rpm: float, stay: int
) -> None:
    """The batch may have room for 90 answers, and the KV cache of one replica does not."""
    load = Load(rate_rpm=rate_rpm, in_tokens=512.0, out_tokens=250.0)
    pods = tuple(
        PodView(
            name=name,
            phase="ready",
            since_s=0.0,
            created_s=0.0,
            accelerator="H100",
            max_batch=128,
            running=30,
            kv_usage=0.8,
        )
        for name in "abc"
    )
    view = server_view(
        wanted=3, max_batch=128, running=90, load=load, itl_ms=19.0, ttft_ms=269.0, pods=pods
    )
    # A recording tells of its pods together.
    together = replace(view, pods=(), ready=3, kv_usage=0.8)
    for one in (view, together):
        snapshot = Snapshot(now_s=60.0, servers={"s1": one})
        decided = Decision(targets={"s1": target(replicas=1, max_batch=128)})
        assert with_room_for_what_runs(decided, snapshot, system()).targets["s1"].replicas == stay


def test_requests_that_wait_while_nothing_comes_are_in_the_pods() -> None:
    """An engine that hangs ends nothing: what waits in it is lost with the pod."""
    load = Load(rate_rpm=0.0, in_tokens=0.0, out_tokens=0.0)
    view = server_view(wanted=2, max_batch=32, running=0, waiting=100, load=load)
    snapshot = Snapshot(now_s=60.0, servers={"s1": view})
    decided = Decision(targets={"s1": target(replicas=1, max_batch=32)})
    assert with_room_for_what_runs(decided, snapshot, system()).targets["s1"].replicas == 2


def test_zero_is_not_for_pods_that_do_not_tell_what_runs_in_them() -> None:
    """A gauge that nobody tells is no zero; labels may tell of pods that nobody asks."""
    idle = Load(rate_rpm=0.0, in_tokens=512.0, out_tokens=256.0)
    view = server_view(load=idle, unknown_gauges=("running",))
    ended = Decision(targets={"s1": target(replicas=0)})
    for seen, replicas in ((view, 1), (replace(view, sample_age_s=None), 0)):
        left = with_room_for_what_runs(ended, snapshot(seen), system())
        assert left.targets["s1"].replicas == replicas


@pytest.mark.parametrize(("rate_rpm", "moves"), [(900.0, True), (60.0, False), (0.0, False)])
def test_a_move_to_fewer_replicas_needs_a_load_that_explains_what_runs(
    rate_rpm: float, moves: bool
) -> None:
    """90 requests of 5 s each are 1,080 rpm; at a tenth of it something else runs here, and a move
    would interrupt it.
    """
    load = Load(rate_rpm=rate_rpm, in_tokens=512.0, out_tokens=250.0)
    view = server_view(
        wanted=3, ready=3, max_batch=32, running=90, load=load, itl_ms=19.0, ttft_ms=269.0
    )
    snapshot = Snapshot(now_s=60.0, servers={"s1": view})
    decided = Decision(targets={"s1": target(accelerator="2xA100", replicas=1, max_batch=64)})
    kept = with_room_for_what_runs(decided, snapshot, system()).targets["s1"]
    assert kept.accelerator == ("2xA100" if moves else "H100")
    assert kept.replicas == (1 if moves else 3)


@pytest.mark.parametrize(
    ("ready", "given_up", "accelerator", "replicas"),
    [(0, 2, "H100", 2), (1, 1, "H100", 2), (1, 0, "H100", 5), (2, 1, "H100", 5), (0, 2, "L4", 5)],
)
def test_no_more_of_the_same_is_asked_for_while_as_many_do_not_come(
    ready: int, given_up: int, accelerator: str, replicas: int
) -> None:
    """Each would wait like those; elsewhere there may be room, and one bad pod stops nobody."""
    missing = Missing(count=2, wanted=2, waited_s=700.0, kind="crash", text="x", given_up=given_up)
    view = server_view(ready=ready, missing=missing)
    wanted = target(replicas=5, accelerator=accelerator)
    seen = Snapshot(now_s=0.0, servers={"s1": view})
    changes = plan(Decision(targets={"s1": wanted}), seen)
    assert planned(seen, changes)["s1"].replicas == replicas


LONG = Load(rate_rpm=60.0, in_tokens=100.0, out_tokens=1000.0)


@pytest.mark.parametrize(
    ("fields", "asked", "told"),
    [
        ({"grace_s": 30.0}, {"replicas": 1}, True),
        ({"grace_s": 30.0}, {"accelerator": "L4"}, True),
        ({"grace_s": 90.0}, {"replicas": 1}, False),
        ({"grace_s": None}, {"replicas": 1}, False),
        ({"grace_s": 30.0}, {"replicas": 3}, False),
        ({"grace_s": 30.0, "running": 0}, {"replicas": 1}, False),
        (
            {"grace_s": 30.0, "running": 0, "unknown_gauges": ("running",)},
            {"replicas": 1},
            True,
        ),
    ],
)
def test_a_reduction_that_may_cut_answers_is_told(
    fields: dict[str, object], asked: dict[str, object], told: bool
) -> None:
    """1,000 tokens of 20 ms are 20 s on average, and the longest take three times as long."""
    view = server_view(**{"load": LONG, "itl_ms": 20.0, "running": 5, **fields})
    seen = Snapshot(now_s=0.0, servers={"s1": view})
    lines = cut_answers(seen, [change(**asked)])  # type: ignore[arg-type]
    assert bool(lines) == told
    if told:
        assert lines == (
            "s1: answers of up to 60 s may be cut: its pods end within 30 s "
            "(terminationGracePeriodSeconds)",
        )


def test_the_smaller_upper_bound_of_data_and_world_holds() -> None:
    """Both mean it; a minimum that somebody set wins over either."""
    data = system(servers={"s1": server_data("s1", max_replicas=3)})
    for world, low, most in ((None, 0, 3), (2, 0, 2), (5, 0, 3), (None, 4, 4)):
        view = server_view(replicas_max=world, replicas_min=low)
        assert with_upper_bounds(snapshot(view), data).servers["s1"].replicas_max == most
    view = server_view(replicas_max=7)
    assert with_upper_bounds(snapshot(view), system()).servers["s1"] == view
