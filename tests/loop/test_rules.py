"""The rule that the own history of a server teaches: how to foresee, which margin, which hold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from loop.policies.forecast import STEP_S, Series
from loop.policies.rules import HOLDS_S, LEARNT_AFTER, Past, Rule, asked_rpm, best_rule
from loop.policies.worth import Worth

DEAR = Worth(replica_cents_per_h=300.0, met_cents=1.0)


def past(rates: list[float], demands: list[float] | None = None) -> Past:
    """Return a past in which so much was asked for as came, if it is not said otherwise."""
    return Past(
        rates=Series(0.0, tuple(rates)),
        demands=Series(0.0, tuple(demands or rates)),
        replica_rpm=100.0,
        lead_s=120.0,
    )


def on_and_off(minutes: int, count: int = 120) -> list[float]:
    """Return a load that is there for some minutes and then gone for as many."""
    steps = round(60.0 * minutes / STEP_S)
    return [600.0 if step // steps % 2 else 30.0 for step in range(count)]


@pytest.mark.parametrize("minutes", [1, 2, 4])
def test_a_load_that_comes_and_goes_learns_to_hold(minutes: int) -> None:
    """Replicas that start when it comes are ready when it has gone."""
    gone = on_and_off(minutes)
    while gone[-1] != 30.0:
        gone.pop()
    rule = best_rule(past(gone), worth=DEAR, usual_s=0.0)
    assert rule is not None
    assert asked_rpm(rule, past(gone)) >= 500.0


def test_a_load_that_falls_slowly_learns_to_let_go() -> None:
    """What is held is never needed again."""
    falls = [2000.0 - 15.0 * step for step in range(120)]
    rule = best_rule(past(falls), worth=DEAR, usual_s=1200.0)
    assert rule is not None
    assert rule.hold_s <= 120.0
    assert asked_rpm(rule, past(falls)) < falls[-1] + 200.0


def test_worthless_requests_are_held_for_no_longer_than_dear_ones() -> None:
    """A replica that is kept for them costs more than they bring."""
    rng = np.random.default_rng(1)
    rates = [float(rate) for rate in rng.choice([30.0, 600.0], size=120, p=[0.8, 0.2])]
    asked = []
    for met_cents in (0.001, 1.0):
        worth = Worth(replica_cents_per_h=300.0, met_cents=met_cents)
        rule = best_rule(past(rates), worth=worth, usual_s=300.0)
        asked.append(600.0 if rule is None else asked_rpm(rule, past(rates)))
    assert asked[0] < 200.0
    assert asked[1] > 400.0


def test_nothing_is_learnt_from_little_or_if_nothing_is_better() -> None:
    """The best of many rules looks better than it is."""
    short = on_and_off(2, count=LEARNT_AFTER - 1)
    assert best_rule(past(short), worth=DEAR, usual_s=0.0) is None
    steady = [600.0] * 120
    assert best_rule(past(steady), worth=DEAR, usual_s=120.0) is None
    unknown = Past(
        rates=Series(0.0, tuple(steady)),
        demands=Series(0.0, tuple(steady)),
        replica_rpm=0.0,
        lead_s=120.0,
    )
    assert best_rule(unknown, worth=DEAR, usual_s=120.0) is None


def test_a_season_that_is_gone_foresees_what_there_is() -> None:
    """The rule of a load that repeated itself must do for one that no longer does."""
    rule = Rule(method="season", quantile=0.5, hold_s=0.0)
    assert asked_rpm(rule, past([300.0] * 60)) == pytest.approx(300.0)


@pytest.mark.parametrize("hold_s", HOLDS_S)
def test_a_hold_reaches_back_exactly_so_far(hold_s: float) -> None:
    """A peak counts for hold_s after it came, and no step longer."""
    rule, steps = Rule(method="last", quantile=0.5, hold_s=hold_s), math.ceil(hold_s / STEP_S)
    calm = [100.0] * 100
    for back, held in ((steps, True), (steps + 1, False)):
        rates = np.array(calm)
        rates[-1 - back] = 900.0
        assert (asked_rpm(rule, past(list(rates))) > 500.0) == held
