"""A budget for all servers is kept, spent where it completes most, and told if it is not kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.actuator import plan, planned
from loop.budget import within_budget
from loop.testing.fakes import server_view, system, target
from loop.types import Decision, Load, ServerView, Snapshot


def snapshot(*views: ServerView) -> Snapshot:
    """Return what is seen of *views*."""
    return Snapshot(now_s=0.0, servers={view.name: view for view in views})


def test_money_is_given_up_by_the_lowest_class_first_growth_before_what_is_there() -> None:
    """A budget is a promise; what it costs is told, and the highest class pays last."""
    low = server_view("low", service_class="Free")
    seen = snapshot(server_view("high", wanted=1, ready=1), low)
    wanted = Decision(
        targets={"high": target("high", replicas=3), "low": target("low", replicas=4)}
    )
    data = system()

    def within(usd: float) -> tuple[int, int]:
        cut = within_budget(wanted, seen, data, budget_cents_per_h=100.0 * usd)
        return cut.targets["high"].replicas, cut.targets["low"].replicas

    # One replica on an H100 is 4 dollars an hour.
    assert within(28.0) == (3, 4)
    assert within(24.0) == (3, 3)
    assert within(20.0) == (3, 2)
    assert within(16.0) == (2, 2)
    assert within(12.0) == (1, 2)
    assert within(8.0) == (1, 1)
    assert within(1.0) == (1, 1)
    cut = within_budget(wanted, seen, data, budget_cents_per_h=2400.0)
    assert cut.targets["low"].why.kind == "budget"
    assert cut.targets["high"] == wanted.targets["high"]


def test_a_budget_makes_some_servers_of_a_class_whole() -> None:
    """Servers that are all short of their loads let all requests wait too long: who needs the least
    money per request grows first, and who has replicas keeps them.
    """
    few, many = (Load(rate_rpm=rate, in_tokens=512.0, out_tokens=256.0) for rate in (60.0, 600.0))
    asked = {"a": 6, "b": 6, "c": 4}
    wanted = Decision(targets={name: target(name, replicas=n) for name, n in asked.items()})
    views = [server_view("a", load=few), server_view("b", load=many), server_view("c", load=few)]

    def within(usd: float) -> list[int]:
        cut = within_budget(wanted, snapshot(*views), system(), budget_cents_per_h=100.0 * usd)
        return [cut.targets[name].replicas for name in asked]

    assert within(64.0) == [6, 6, 4]
    assert within(48.0) == [2, 6, 4]
    assert within(32.0) == [2, 4, 2]
    assert within(24.0) == [2, 2, 2]
    assert within(20.0) == [1, 2, 2]


@pytest.mark.parametrize(
    ("usd", "ending", "replicas"),
    [
        (26.0, 0, (2, 3)),
        (27.0, 0, (3, 2)),
        (31.0, 0, (3, 3)),
        (32.0, 0, (4, 2)),
        (30.0, 1, (2, 2)),
        (31.0, 1, (3, 2)),
        (35.0, 1, (3, 2)),
        (40.0, 1, (4, 3)),
    ],
)
def test_money_that_buys_no_replica_of_a_class_goes_to_the_next(
    usd: float, ending: int, replicas: tuple[int, int]
) -> None:
    """It was left, and the low class was short without use for anybody; but while pods end it is
    kept for the class that grows on their money.
    """
    high = server_view("high", accelerator="2xA100", max_batch=48)
    ends = server_view("ends", wanted=1, ready=1, draining=ending)
    seen = snapshot(high, server_view("low", service_class="Free"), ends)
    asked = target("high", accelerator="2xA100", replicas=4, max_batch=48)
    wanted = Decision(targets={"high": asked, "low": target("low", replicas=4)})
    # A replica is 5 dollars an hour on a 2xA100, 4 on an H100.
    cut = within_budget(wanted, seen, system(), budget_cents_per_h=100.0 * usd)
    assert (cut.targets["high"].replicas, cut.targets["low"].replicas) == replicas


@pytest.mark.parametrize("more", [{"ready": 4}, {"starting": 2}, {"draining": 2}])
def test_growth_waits_for_the_money_of_pods_that_end(more: dict[str, object]) -> None:
    """Pods in drain, or replaced by a move, are paid for: what grew on their money was beyond the
    budget. Nobody is reduced for them, for that would end more pods.
    """
    seen = snapshot(server_view("ends", **more), server_view("grows"))
    for replicas, within in ((3, 2), (1, 1)):
        wanted = Decision(targets={"grows": target("grows", replicas=replicas)})
        cut = within_budget(wanted, seen, system(), budget_cents_per_h=2000.0)
        assert cut.targets["grows"].replicas == within


def test_nobody_grows_on_the_money_of_pods_that_a_decision_ends() -> None:
    """Until what ran in the five had ended, 40 dollars were paid of 28, and nobody was told."""
    load = Load(rate_rpm=60.0, in_tokens=512.0, out_tokens=256.0)
    wanted = Decision(targets={"a": target("a", replicas=2), "b": target("b", replicas=5)})
    for running, grown in ((100, 2), (0, 5)):
        few = server_view("a", wanted=5, ready=5, running=running, load=load)
        seen = snapshot(few, server_view("b"))
        cut = within_budget(wanted, seen, system(), budget_cents_per_h=2800.0)
        assert [cut.targets[name].replicas for name in ("a", "b")] == [2, grown]
    cut = within_budget(
        wanted, snapshot(few, server_view("b", draining=6)), system(), budget_cents_per_h=2000.0
    )
    assert "of which pods that end take $ 24/h" in cut.targets["b"].why.text
    assert "what runs cost $ 40/h" in cut.notes[0]


servers_with_budgets = st.lists(
    st.tuples(
        st.sampled_from(["Premium", "Free"]),
        st.sampled_from(["H100", "2xA100"]),
        st.integers(0, 4),  # the minimum
        st.integers(0, 9),  # what it has
        st.integers(0, 9),  # what the policy wants
        st.sampled_from([None, 0.0, 60.0, 600.0]),  # requests per minute
    ),
    min_size=1,
    max_size=6,
)


@given(servers_with_budgets, st.integers(1, 120))
def test_a_budget_is_kept_or_what_is_left_is_told(
    servers: list[tuple[str, str, int, int, int, float | None]], usd: int
) -> None:
    """Minimums are paid first, idle servers' too, and nobody gets more than the policy wants."""
    views, targets = [], {}
    for number, (named, accelerator, least, has, wants, rate) in enumerate(servers):
        load = None if rate is None else Load(rate_rpm=rate, in_tokens=512.0, out_tokens=256.0)
        fields = {"service_class": named, "accelerator": accelerator, "replicas_min": least}
        views.append(server_view(f"s{number}", wanted=has, ready=has, load=load, **fields))
        targets[f"s{number}"] = target(f"s{number}", accelerator=accelerator, replicas=wants)
    seen, wanted = snapshot(*views), Decision(targets=targets)
    cut = within_budget(wanted, seen, system(), budget_cents_per_h=100.0 * usd)
    asked, without = (planned(seen, plan(one, seen)) for one in (cut, wanted))
    assert all(view.replicas_min <= asked[view.name].replicas for view in views)
    assert all(asked[name].replicas <= without[name].replicas for name in asked)
    price = {"H100": 4, "2xA100": 5}
    cost = sum(price[change.accelerator] * change.replicas for change in asked.values())
    assert bool(cut.notes) == (cost > usd)


def test_a_budget_that_the_minimums_exceed_is_told() -> None:
    """Nothing said so: the cost was above what a user had set."""
    seen = snapshot(server_view("high", replicas_min=2), server_view("idle", replicas_min=1))
    wanted = Decision(targets={"high": target("high", replicas=3), "idle": target("idle")})
    cut = within_budget(wanted, seen, system(), budget_cents_per_h=1000.0)
    assert [cut.targets[name].replicas for name in ("high", "idle")] == [2, 1]
    assert cut.notes == (
        "the budget of $ 10/h is not kept: minimums, held servers and what runs cost $ 12/h",
    )


def test_a_move_to_a_dearer_accelerator_is_beyond_a_tight_budget() -> None:
    """One replica each was left, on accelerators that the budget does not pay for."""
    seen = snapshot(server_view("high", wanted=1), server_view("low", service_class="Free"))
    wanted = Decision(
        targets={
            name: target(name, accelerator="2xA100", replicas=2, max_batch=32)
            for name in ("high", "low")
        }
    )
    # A replica is 4 dollars an hour on an H100, 5 on a 2xA100.
    for usd, accelerators in ((10.0, ["2xA100", "2xA100"]), (9.0, ["2xA100", "H100"])):
        cut = within_budget(wanted, seen, system(), budget_cents_per_h=100.0 * usd)
        assert [cut.targets[name].accelerator for name in ("high", "low")] == accelerators
        assert [cut.targets[name].replicas for name in ("high", "low")] == [1, 1]
    assert cut.targets["low"].max_batch == seen.servers["low"].max_batch
    assert cut.targets["low"].why.text.endswith("; 2xA100 is beyond the budget")


def test_held_servers_count_and_keep_what_they_have() -> None:
    """They cost money all the same."""
    seen = snapshot(server_view("held"), server_view("free", service_class="Free"))
    wanted = Decision(
        targets={"held": target("held", held=True), "free": target("free", replicas=5)}
    )
    cut = within_budget(wanted, seen, system(), budget_cents_per_h=1600.0)
    assert cut.targets["held"] == wanted.targets["held"]
    assert cut.targets["free"].replicas == 2
