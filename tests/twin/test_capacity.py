"""The ledger of GPUs: strict order, never more granted than there is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.serving.capacity import Claim, Ledger
from twin.spec import SpecError


def _claim(log: list[str], name: str, gpus: int, type_: str = "A") -> Claim:
    return Claim(type=type_, gpus=gpus, granted=lambda: log.append(name))


def test_gpus_go_to_who_asked_first_even_where_a_later_claim_would_fit() -> None:
    """A large pod must not starve behind small ones that come after it."""
    log: list[str] = []
    ledger = Ledger({"A": 4})
    first = _claim(log, "first", 3)
    for claim in (first, _claim(log, "large", 3), _claim(log, "small", 1)):
        ledger.ask(claim)
    assert log == ["first"]
    ledger.give_back(first)
    assert log == ["first", "large", "small"]
    assert ledger.used("A") == 4


def test_a_claim_that_can_never_be_met_holds_up_nobody() -> None:
    """One impossible claim would otherwise stop the whole cluster."""
    log: list[str] = []
    ledger = Ledger({"A": 2})
    ledger.ask(_claim(log, "impossible", 3))
    ledger.ask(_claim(log, "possible", 1))
    assert log == ["possible"]
    ledger.set_total("A", 4, now_s=1.0)
    assert log == ["possible", "impossible"]


def test_types_do_not_share_a_queue() -> None:
    """Who waits for one type of GPU must not hold up another type."""
    log: list[str] = []
    ledger = Ledger({"A": 0, "B": 1})
    ledger.ask(_claim(log, "a", 1))
    ledger.ask(_claim(log, "b", 1, "B"))
    assert log == ["b"]


def test_less_capacity_than_use_takes_nothing_away_and_grants_nothing() -> None:
    """GPUs that go out of sale are not torn from running pods."""
    log: list[str] = []
    ledger = Ledger({"A": 3})
    holders = [_claim(log, name, 1) for name in "xyz"]
    for holder in holders:
        ledger.ask(holder)
    ledger.set_total("A", 1, now_s=5.0)
    ledger.ask(_claim(log, "late", 1))
    assert (ledger.used("A"), ledger.free("A")) == (3, -2)
    for holder, granted in zip(holders, (3, 3, 4), strict=True):
        ledger.give_back(holder)
        assert len(log) == granted
    assert [tuple(change) for change in ledger.history] == [(0.0, "A", 3), (5.0, "A", 1)]


def test_who_gives_up_gpus_for_a_claim_puts_it_first() -> None:
    """The GPUs that a server gives back for its own replacement go to it, not to who has waited
    longer.
    """
    log: list[str] = []
    ledger = Ledger({"A": 1})
    holder = _claim(log, "holder", 1)
    mine = _claim(log, "mine", 1)
    for claim in (holder, _claim(log, "other", 1), mine):
        ledger.ask(claim)
    assert not ledger.is_next(mine)
    ledger.put_first(mine)
    assert ledger.is_next(mine)
    ledger.give_back(holder)
    assert log == ["holder", "mine"]


def test_who_withdraws_lets_those_behind_pass() -> None:
    """A claim that is taken back while it waits must not block its queue for ever."""
    log: list[str] = []
    ledger = Ledger({"A": 2})
    ledger.ask(_claim(log, "holder", 1))
    large = _claim(log, "large", 2)
    ledger.ask(large)
    ledger.ask(_claim(log, "small", 1))
    ledger.withdraw(large)
    assert log == ["holder", "small"]


def test_negative_capacity_is_bad_input() -> None:
    """It comes from a file or a scenario, so it is told in one line."""
    with pytest.raises(SpecError, match="capacity of A: expected GPUs >= 0, got -1"):
        Ledger({"A": 1}).set_total("A", -1, now_s=0.0)


@given(
    st.lists(st.tuples(st.sampled_from(["ask", "back", "total"]), st.integers(1, 4)), max_size=60)
)
def test_use_is_the_sum_of_the_grants_and_grows_only_within_capacity(
    steps: list[tuple[str, int]],
) -> None:
    """Whatever the order of claims, returns and changes of capacity: no GPU is counted twice or
    granted twice.
    """
    ledger = Ledger({"A": 4})
    held: list[Claim] = []
    for step, figure in steps:
        used_before = ledger.used("A")
        if step == "ask":
            claim = Claim(type="A", gpus=figure, granted=lambda: None)
            claim.granted = lambda claim=claim: held.append(claim)  # type: ignore[misc]
            ledger.ask(claim)
        elif step == "back" and held:
            ledger.give_back(held.pop(figure % len(held)))
        elif step == "total":
            ledger.set_total("A", figure + 1, now_s=0.0)
        assert ledger.used("A") == sum(claim.gpus for claim in held)
        assert ledger.used("A") <= max(ledger.total("A"), used_before)
