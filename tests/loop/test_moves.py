"""When a server is moved to another accelerator: if it pays, and nothing is at risk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loop.optimizer.solution import Assignment
from loop.policies.slo.moves import DWELL_S, LONG_S, Move, pays, settling
from loop.testing.fakes import server_view
from loop.types import ServerView, Why, one_pool

HERE = Assignment(
    server="s1",
    pools=one_pool(accelerator="H100", replicas=2, max_batch=64),
    cost_cents_per_h=800.0,
    value=0.0,
    itl_ms=10.0,
    ttft_ms=100.0,
    rho=0.5,
    rate_max_rpm=600.0,
    why=Why(kind="slo-itl"),
)
THERE = replace(
    HERE,
    pools=one_pool(accelerator="L40S", replicas=3, max_batch=64),
    cost_cents_per_h=400.0,
)
SHORT = replace(HERE, pools=one_pool(accelerator="H100", replicas=3, max_batch=64))
MOVE = Move(
    view=server_view(wanted=2, ready=2),
    go=THERE,
    stay=HERE,
    start_up_s=120.0,
    moved_s=None,
    known_s=3600.0,
)


def test_half_the_cost_is_worth_a_move() -> None:
    """Both sides are paid for two minutes, and the rest of the half hour is cheaper."""
    assert pays(MOVE, now_s=1000.0, saving_min=0.1)


@pytest.mark.parametrize(
    "move",
    [
        replace(MOVE, stay=SHORT),
        replace(MOVE, view=replace(MOVE.view, starting=1)),
        replace(MOVE, view=replace(MOVE.view, pending=1)),
        replace(MOVE, view=replace(MOVE.view, draining=1)),
        replace(MOVE, moved_s=1000.0 - DWELL_S / 2.0),
        replace(MOVE, go=replace(THERE, cost_cents_per_h=750.0)),
        replace(MOVE, start_up_s=1800.0),
        replace(MOVE, known_s=LONG_S / 2.0),
        replace(MOVE, unsure=1.0),
    ],
    ids=[
        "short",
        "starting",
        "pending",
        "draining",
        "moved before",
        "saves little",
        "slow start",
        "new",
        "unsure",
    ],
)
def test_a_server_stays_where_a_move_is_a_risk_or_does_not_pay(move: Move) -> None:
    """Half of the requests that missed their targets did so after moves."""
    assert not pays(move, now_s=1000.0, saving_min=0.1)


def test_who_has_not_been_there_for_long_moves_for_much_only() -> None:
    """What is a quarter cheaper on the load of some minutes is mostly one that forgives less."""
    quarter = replace(MOVE, go=replace(THERE, cost_cents_per_h=0.75 * HERE.cost_cents_per_h))
    assert pays(replace(quarter, start_up_s=30.0), now_s=1000.0, saving_min=0.1)
    for soon in (replace(quarter, known_s=3000.0), replace(quarter, moved_s=300.0)):
        assert not pays(replace(soon, start_up_s=30.0), now_s=1000.0, saving_min=0.1)
    assert pays(replace(MOVE, known_s=3000.0), now_s=1000.0, saving_min=0.1)


def test_who_has_no_load_yet_waits_for_an_hour() -> None:
    """An accelerator that is cheapest for nothing is not that for the load that comes then."""
    idle = replace(MOVE, idle=True)
    for known_s, moves in ((700.0, False), (3500.0, False), (3600.0, True)):
        assert pays(replace(idle, known_s=known_s), now_s=7200.0, saving_min=0.05) is moves


def test_a_saving_by_chance_of_the_present_load_is_none() -> None:
    """Here one replica more is needed at this very rate: a little less, and it is cheaper here."""
    go = replace(THERE, cost_cents_per_h=1000.0, rate_max_rpm=600.0)
    stay = replace(HERE, pools=one_pool(accelerator="H100", replicas=6, max_batch=64))
    stay = replace(stay, cost_cents_per_h=1080.0, rate_max_rpm=299.0)
    move = replace(MOVE, view=server_view(wanted=6, ready=6), go=go, stay=stay, start_up_s=30.0)
    assert pays(move, now_s=1000.0, saving_min=0.02)
    assert not pays(replace(move, rate_rpm=1500.0), now_s=1000.0, saving_min=0.02)


def test_a_large_replica_that_is_half_used_has_room_that_small_ones_lack() -> None:
    """A third was to be saved; then answers grew, and one had had room for what nine did."""
    one = one_pool(accelerator="4xH100", replicas=1, max_batch=98)
    stay = replace(HERE, pools=one, cost_cents_per_h=1591.0, rate_max_rpm=108.0)
    three = one_pool(accelerator="MI300X", replicas=3, max_batch=25)
    go = replace(THERE, pools=three, cost_cents_per_h=1035.0, rate_max_rpm=21.0)
    move = replace(MOVE, view=server_view(wanted=1, ready=1), go=go, stay=stay, known_s=900.0)
    assert not pays(replace(move, rate_rpm=53.0), now_s=1000.0, saving_min=0.02)
    assert pays(replace(move, rate_rpm=20.0), now_s=1000.0, saving_min=0.02)


def test_a_load_of_a_few_requests_may_be_another_by_chance() -> None:
    """A dozen requests in ten minutes fitted into one small replica; twelve were needed then."""
    one = one_pool(accelerator="MI210", replicas=1, max_batch=16)
    stay = replace(HERE, pools=one, cost_cents_per_h=185.0, rate_max_rpm=7.9)
    small = one_pool(accelerator="L4", replicas=1, max_batch=5)
    go = replace(THERE, pools=small, cost_cents_per_h=120.0, rate_max_rpm=1.8)
    move = replace(MOVE, view=server_view(wanted=1, ready=1), go=go, stay=stay, known_s=720.0)
    move = replace(move, start_up_s=60.0, rate_rpm=1.1)
    assert pays(move, now_s=720.0, saving_min=0.02)
    assert not pays(replace(move, spread=0.3), now_s=720.0, saving_min=0.02)


def test_who_cannot_be_served_where_it_is_moves() -> None:
    """Whatever it costs; so does who has nothing yet."""
    assert pays(replace(MOVE, stay=None, moved_s=999.0), now_s=1000.0, saving_min=0.1)
    empty = replace(MOVE.view, ready=0)
    assert pays(replace(MOVE, view=empty, start_up_s=1e6), now_s=1000.0, saving_min=0.1)


def test_a_move_to_fewer_replicas_begins_with_as_many_as_are_needed() -> None:
    """A rollout ends old pods beyond the number that is asked for before the new ones are ready."""
    few = replace(THERE, pools=one_pool(accelerator="B200", replicas=1, max_batch=64))
    assert replace(MOVE, go=few).replicas == 2
    assert replace(MOVE, go=few, stay=None).replicas == 1
    # What is held, or a margin, needs no old pods until the new ones are ready: what comes does.
    assert replace(MOVE, go=few, coming_rpm=500.0).replicas == 1
    assert replace(MOVE, go=few, coming_rpm=700.0).replicas == 2
    assert MOVE.replicas == 3
    # Twice the price of one replica while it lasts.
    dear = replace(MOVE, go=replace(few, cost_cents_per_h=700.0), start_up_s=120.0)
    assert not pays(dear, now_s=1000.0, saving_min=0.1)


def test_nothing_is_taken_away_until_the_pods_of_a_move_are_there() -> None:
    """Unless they do not come for so long that something else is wrong."""
    coming = replace(MOVE.view, starting=1)

    def kept(view: ServerView, now_s: float) -> bool:
        return settling(view, moved_s=1000.0, start_up_s=60.0, now_s=now_s)

    assert kept(coming, 1060.0)
    assert not kept(MOVE.view, 1060.0)
    assert not kept(coming, 1300.0)
