"""What a replica costs, and what a request that meets its targets is worth: so how many replicas to
have for a load of which only the futures are known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loop.spec import cost_cents_per_h

if TYPE_CHECKING:
    from loop.policies.slo.forecast import Floats, Forecast
    from loop.spec import SystemData
    from loop.types import ServerView

QUANTILE_MIN, QUANTILE_MAX = 0.5, 0.98
OVERLOAD = 0.3
# The same, of a load of which nobody knows what it will be: where that has gone, it stays, and its
# queue grows until further pods are ready. It has so much more than the margin that pays, too:
# nobody knows either how far it may go. Of a load that comes in bursts, these are over before.
OVERLOAD_UNSURE = 0.15
UNSURE_MORE = 0.3
# of a request within its targets, what one is worth that comes late
LATE = 0.1
# Of the margin that pays, so much is had in any case: what is a little too much for a while, queues
# bear, and the next tick mends. All of it is had for a load that is unsure; and more of it than
# that the more replicas there are beyond FEW: a pool of many is full nearly at once, and what whole
# replicas have over, next to nothing.
MARGIN_MIN = 0.28
FEW = 8.0
# Of how a load varies within a window, so much is planned for; more of it is over before it fills
# a queue. The load is taken as lognormal about its window, by the middles of seven equal parts.
WITHIN_MIN, WITHIN_MAX = 0.03, 0.21
PARTS = np.array([-1.465, -0.792, -0.366, 0.0, 0.366, 0.792, 1.465])
COUNTS_MAX = 48  # numbers of replicas that are compared
# What a request that meets its targets is worth [cents] if the class does not say, by priority.
MET_CENTS = {1: 1.0, 2: 0.8, 3: 0.6}
MET_CENTS_LOWEST = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What a replica costs [cents/h], and a request that meets its targets is worth [cents].

    Replicas that get more than they can take fail nearly all requests when that is OVERLOAD more,
    and OVERLOAD_UNSURE of a load that strays: nobody knows what it will be, and it comes in no
    bursts.
    """

    replica_cents_per_h: float
    met_cents: float

    def quantile(self, replica_rpm: float) -> float:
        """Return the quantile of the load that it pays to have replicas for: the critical ratio of
        the newsvendor (Arrow, Harris & Marschak 1951), one replica serving *replica_rpm*.
        """
        saved = self.met_cents * replica_rpm * 60.0
        if saved <= 0.0:
            return QUANTILE_MIN
        return min(max(1.0 - self.replica_cents_per_h / saved, QUANTILE_MIN), QUANTILE_MAX)

    def missed_rpm(self, rates: Floats, capacities: Floats, *, unsure: float = 0.0) -> Floats:
        """Return how many requests a minute miss their targets, where *capacities* meet *rates*.
        *unsure*: how far nobody knows what the load will be, 0 to 1.
        """
        overload = OVERLOAD + unsure * (OVERLOAD_UNSURE - OVERLOAD)
        beyond = rates / np.maximum(capacities, 1e-9) - 1.0
        return rates * np.minimum(np.maximum(beyond / overload, 0.0), 1.0)

    def rate_rpm(self, found: Forecast, *, replica_rpm: float, within: float = 0.0) -> float:
        """Return the load to have replicas for: the number that costs least with the requests that
        miss their targets for want of more, but never fewer than the middle of *found* needs; of
        what is above that a part only, and more than it of a load that strays.
        *within*: the coefficient of variation of the load within a window.
        """
        if replica_rpm <= 0.0 or self.met_cents <= 0.0:
            return max(found.middle, found.at(self.quantile(replica_rpm or found.middle)))
        fewest = max(1, math.ceil(found.middle / replica_rpm * (1.0 - 1e-9)))
        futures = varied(found.futures, min(within, WITHIN_MAX))
        most = max(fewest, math.ceil(float(futures.max()) / replica_rpm))
        if most == fewest:
            return found.middle
        if most - fewest < COUNTS_MAX:
            counts = np.arange(fewest, most + 1)
        else:
            counts = np.unique(np.linspace(fewest, most, COUNTS_MAX).astype(np.int64))
        capacities = np.multiply.outer(counts, np.array([replica_rpm]))
        strays = found.strays
        missed = self.missed_rpm(futures, capacities, unsure=strays).sum(axis=1) / len(futures)
        cost = self.replica_cents_per_h * counts + 60.0 * self.met_cents * missed
        best = int(counts[int(cost.argmin())])
        if best <= fewest:
            return found.middle
        # Half a replica less, so that a slightly other size of a replica does not add one.
        margin = max(0.0, (best - 0.5) * replica_rpm - found.middle)
        whole = max(found.stays_unsure, 1.0 - FEW / max(found.middle / replica_rpm, FEW))
        had = MARGIN_MIN + (1.0 - MARGIN_MIN) * whole
        return found.middle + had * (1.0 + UNSURE_MORE * strays) * margin


def varied(futures: Floats, within: float) -> Floats:
    """Return *futures* of a load that varies *within* each by that coefficient."""
    if within <= WITHIN_MIN:
        return futures
    times = np.exp(math.sqrt(math.log(1.0 + within**2)) * PARTS)
    found: Floats = np.multiply.outer(futures, times / times.mean()).ravel()
    return found


def met_share(rate_rpm: float, capacity_rpm: float, *, easy: float = 1.0) -> float:
    """Return what is met of *rate_rpm* by replicas that can take *capacity_rpm* in the long run, as
    a share: half at *easy* times that, and soon nothing beyond.
    """
    if rate_rpm <= capacity_rpm:
        return 1.0
    if capacity_rpm <= 0.0:
        return 0.0
    half, beyond = max(easy - 1.0, OVERLOAD / 2.0), rate_rpm / capacity_rpm - 1.0
    if beyond <= half:
        return 1.0 - 0.5 * beyond / half
    return max(0.0, 0.5 - (beyond - half) / OVERLOAD)


def served_share(rate_rpm: float, capacity_rpm: float) -> float:
    """Return what is served of *rate_rpm* at all, as a share."""
    return 1.0 if rate_rpm <= capacity_rpm else capacity_rpm / rate_rpm


def in_time_share(waiting: float, spare_rpm: float, *, within_s: float) -> float:
    """Return for what share of *within_s* none of the *waiting* requests is left, which *spare_rpm*
    drain: all that comes behind them until then is late.
    """
    if waiting <= 0.0:
        return 1.0
    if spare_rpm <= 0.0:
        return 0.0
    return max(0.0, 1.0 - 60.0 * waiting / (spare_rpm * within_s))


def worth_of(data: SystemData, view: ServerView) -> Worth:
    """Return what a replica costs where the server is, 0 if the data do not know, and what its
    requests are worth.
    """
    cost = cost_cents_per_h(data, model=view.model, accelerator=view.accelerator, replicas=1)
    return Worth(replica_cents_per_h=cost or 0.0, met_cents=met_cents(data, view))


def met_cents(data: SystemData, view: ServerView) -> float:
    """Return what a request within its targets is worth to have room for, by its class or by that's
    priority; 0 if there is a target for throughput only: what waits is done a little later.
    """
    target = data.target(service_class=view.service_class, model=view.model)
    if target is not None and not (target.slo_ttft_ms or target.slo_itl_ms or target.percentiles):
        return 0.0
    entry = data.classes.get(view.service_class)
    if entry is not None and entry.value_per_met_request_cents is not None:
        return entry.value_per_met_request_cents
    return MET_CENTS.get(data.priority(view.service_class), MET_CENTS_LOWEST)
