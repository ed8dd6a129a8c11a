"""What to have replicas for, by the rule that would have cost least on the server's own history:
how to foresee the load, with which margin, and how long to hold what was asked for. Pure.

A replica that is given back and needed again costs a start-up, and the requests that miss their
targets meanwhile; one that is kept costs its price. A margin costs its price, and none the requests
above it. Which is dearer depends on the load alone, and its past tells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loop.policies.forecast import STEP_S, said

if TYPE_CHECKING:
    from loop.policies.forecast import Floats, Series
    from loop.policies.worth import Worth

HOLDS_S = (0.0, 60.0, 120.0, 300.0, 600.0, 1200.0)
QUANTILES = (0.5, 0.7, 0.85, 0.95, 1.0)
# Before so many steps of history nothing is learnt, and the last so many count.
LEARNT_AFTER, COUNTED = 20, 120
# The best of many looks better than it is, so it must be better by this.
CHEAPER_BY = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A method of forecasting, the quantile of its errors that is the margin, and the hold [s]."""

    method: str
    quantile: float
    hold_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What came, and what was asked for before the hold [requests/min], on the same grid, the
    newest last; what one replica takes [requests/min]; how long it takes to be of use [s].
    """

    rates: Series
    demands: Series
    replica_rpm: float
    lead_s: float

    @property
    def ahead(self) -> int:
        """Return the lead in steps of the grid."""
        return max(1, round(self.lead_s / STEP_S))


def best_rule(past: Past, *, worth: Worth, usual_s: float) -> Rule | None:
    """Return the rule that would have cost least, None if that is none but what was done: what was
    asked for, held for *usual_s*.
    """
    count = min(len(past.rates.values), len(past.demands.values))
    if count < LEARNT_AFTER or past.replica_rpm <= 0.0 or worth.met_cents <= 0.0:
        return None
    values = np.array(past.rates.values[-count:])
    done = _costs(np.array([past.demands.values[-count:]]), values, past, worth, usual_s)
    forecasts = said(values, past.ahead)
    demands = np.stack(
        [made + margin for made in forecasts.values() for margin in _margins(made, values, past)]
    )
    rules = [
        Rule(method=method, quantile=quantile, hold_s=0.0)
        for method in forecasts
        for quantile in QUANTILES
    ]
    costs = np.stack([_costs(demands, values, past, worth, hold_s) for hold_s in HOLDS_S])
    hold, rule = np.unravel_index(int(np.argmin(costs)), costs.shape)
    if costs[hold, rule] >= (1.0 - CHEAPER_BY) * done[0]:
        return None
    found = rules[int(rule)]
    return Rule(method=found.method, quantile=found.quantile, hold_s=HOLDS_S[int(hold)])


def asked_rpm(rule: Rule, past: Past) -> float:
    """Return what *rule* asks for now [requests/min], what it holds with it."""
    values = np.array(past.rates.values)
    forecasts = said(values, past.ahead)
    # A season that no longer repeats itself foresees nothing.
    made = forecasts.get(rule.method, values)
    margin = _margins(made, values, past)[QUANTILES.index(rule.quantile)]
    return float(made[-1 - math.ceil(rule.hold_s / STEP_S) :].max() + margin)


def _margins(made: Floats, values: Floats, past: Past) -> Floats:
    """Return the QUANTILES of the errors of a forecast that said *made*."""
    errors = np.sort((values[past.ahead :] - made[: -past.ahead])[-COUNTED:])
    if not len(errors):
        return np.zeros(len(QUANTILES))
    ranks = np.minimum(np.array(QUANTILES) * len(errors), len(errors) - 1).astype(np.int64)
    margins: Floats = errors[ranks]
    return margins


def _costs(demands: Floats, values: Floats, past: Past, worth: Worth, hold_s: float) -> Floats:
    """Return by row of *demands* what replicas and missed requests would have cost."""
    needed = np.ceil(np.maximum(demands, 0.0) / past.replica_rpm)
    wanted = _trailing(needed, math.ceil(hold_s / STEP_S), np.maximum)
    # A replica serves once it has been wanted for as long as it takes to start.
    serving = _trailing(wanted, past.ahead, np.minimum)
    missed = worth.missed_rpm(values, serving * past.replica_rpm)
    cost = worth.replica_cents_per_h * wanted + 60.0 * worth.met_cents * missed
    costs: Floats = cost[:, past.ahead :][:, -COUNTED:].sum(axis=1)
    return costs


def _trailing(rows: Floats, steps: int, most: np.ufunc) -> Floats:
    """Return the extreme of each value and the *steps* before it in its row, by doubling."""
    made, reach = rows.copy(), 0
    while reach < min(steps, rows.shape[1] - 1):
        shift = min(reach + 1, steps - reach, rows.shape[1] - 1)
        before = made.copy()
        most(made[:, shift:], before[:, :-shift], out=made[:, shift:])
        reach += shift
    return made
