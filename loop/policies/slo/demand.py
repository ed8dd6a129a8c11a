"""What a server is to be sized for: the load that it will have once pods that are asked for now are
ready, as far as that can be told from what it had. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from loop.policies.slo import crowd
from loop.policies.slo.forecast import (
    Forecast,
    History,
    Series,
    begins,
    forecast,
    steps_ahead,
    with_samples,
)
from loop.policies.slo.jumps import Jumps
from loop.policies.slo.pace import Pace
from loop.policies.slo.spread import Spread
from loop.replacing import replace
from loop.types import Load, only_pods_differ, only_replicas_differ
from twin.frozen import made_quickly

if TYPE_CHECKING:
    from loop.policies.slo.crowd import Crowd, Perfs
    from loop.policies.slo.filters import Bank
    from loop.policies.slo.work import Unit
    from loop.policies.slo.worth import Worth
    from loop.spec import SystemData
    from loop.types import ServerView, Target

# How long a demand is held: of a load that comes in bursts for down_s, and by the square of how far
# it does: to hold for a little of that costs more than what it meets is worth; of one that comes
# back by the clock, as long as a clock may be wrong. One that nobody can foresee is not held: the
# same money meets more as a margin.
HELD_SEASON_S = 120.0
# Of the weight of a sample of mean tokens, after each further one: for what requests are like, and,
# of answers, for what they are like now. A window alone would not tell: when a load grows, the
# answers that end are the short ones.
TOKENS_KEPT, ANSWERS_KEPT = 0.95, 0.5
# What waits in pods is drained by so many replicas for each of them: that it waits says that one
# takes less than was thought, and with one each a queue of slow answers stayed for forty minutes.
TWICE = 2.0
# Behind what a jump leaves to wait, all that comes is late: it is drained in so much of drain_s.
AHEAD_IN = 0.7
# However long requests run: who looks further back is too late for a load that grows.
RUNS_MAX_S = 360.0
HUNG = 4.0  # times as long as others: a pod that hangs says nothing of these
# A load that varies so much within a window has bursts that come back for sure.
RESTLESS = 0.9


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A forecast and the rate that it pays to have replicas for [requests/min], and all that they
    depend on; the spread of a load moves with the bank.
    """

    bank: Bank
    asked: tuple[Worth, float, int, float]
    found: Forecast
    paying_rpm: float


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is remembered of one server: the history of its rate [requests/min] as its replicas
    feel it, and of what came from window to window (nothing as long as that is the same), its mean
    tokens, how long its requests run [s], and how many a minute these stand for, those of its last
    answers and how many answers a minute these stand for, the request that its work is counted in
    (None: any), how far its requests in flight are from what its load says, and what came lately
    from what came before, how much slower its replicas are than the data say, what was asked for
    before any hold [requests/min], what requests held of KV caches that were too full (None: none
    was lately, or nobody tells), what a replica of it can take (0: not known), when it was moved
    last, how many replicas it had before it was grown for a load whose targets nothing meets (None:
    it was not), and since when its load is not known (None: it is). foreseen is used again while
    nothing new is seen, and demanded is what was demanded last (None: that is to be found anew).

    Once there is a unit, all rates are of such requests.
    """

    history: History = field(default_factory=History)
    came: Series = field(default_factory=Series)
    in_tokens: float = 0.0
    out_tokens: float = 0.0
    runs_s: float = 0.0
    tokens_weight: float = 0.0
    answer_tokens: float = 0.0
    answers_weight: float = 0.0
    unit: Unit | None = None
    spread: Spread = field(default_factory=Spread)
    jumps: Jumps = field(default_factory=Jumps)
    pace: Pace = field(default_factory=Pace)
    demands: Series = field(default_factory=Series)
    crowd: Crowd | None = None
    replica_rpm: float = 0.0
    moved_s: float | None = None
    grown_from: int | None = None
    unknown_s: float | None = None
    foreseen: Foreseen | None = None
    demanded: Demanded | None = None

    def demand_of(
        self, view: ServerView, by: By, *, asked: Target | None, now_s: float
    ) -> Demand | None:
        """Return what is demanded of *view* at *now_s*, if that is what was demanded last: nothing
        new is seen, and no sample is due, with which a demand may be given up.

        What came of the last decision is nothing new: that its replicas are those that were *asked*
        for, that pods come and go for it, and how much they turn out to take. All of that counts as
        soon as something new is seen.
        """
        last = self.demanded
        if last is None or self.history.rates.is_due(now_s) or self.demands.is_due(now_s):
            return None
        as_asked = asked is not None and view.pools == asked.pools
        stands = (
            (as_asked or view.pools is last.view.pools)
            and only_replicas_differ(view, last.view)
            and last.by.is_like(by)
        )
        return last.demand if stands else None


Memories = Mapping[str, Memory]
NOTHING: Memories = MappingProxyType({})
NEW = Memory()


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one server is to be sized for, in requests of its unit, and the least that it must be
    sized for if GPUs are missing: without the margin of its class; and, if they are still missing,
    what comes alone, without what waits; and what requests held of KV caches that were too full.
    """

    load: Load
    least: Load
    coming: Load
    forecast: Forecast
    crowd: Crowd | None = None


class By(NamedTuple):
    """What a demand depends on besides the server: the data, the options of slo, and how far back
    figures look [s].
    """

    data: SystemData
    sizing: object
    window_s: float

    def is_like(self, other: By) -> bool:
        """Tell whether it is by the same data, and all else alike."""
        return self.data is other.data and self[1:] == other[1:]


class Demanded(NamedTuple):
    """What was demanded of a server as *view* showed it, by what else there was."""

    view: ServerView
    by: By
    demand: Demand

    def again(self, view: ServerView, by: By, demand: Demand) -> Demand:
        """Return *demand*, or the last one if that says the same of a view that differs in pods
        only, if at all: how the server is sized is known then.
        """
        last = self.demand
        same = (
            last.forecast is demand.forecast
            and last.load == demand.load
            and last.least == demand.least
            and last.coming == demand.coming
            and last.crowd == demand.crowd
            and self.by.is_like(by)
        )
        return last if same and only_pods_differ(view, self.view) else demand


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """How far ahead to look, and how long a demand is held on the way down [s]. lead_s: until pods
    that are asked for now are ready and what they are needed for is seen; start_up_s: until they
    are ready; window_s: of the metrics.
    """

    lead_s: float
    start_up_s: float
    window_s: float
    down_s: float
    drain_s: float


def remember(
    memories: Mapping[str, Memory],
    views: Mapping[str, ServerView],
    perfs: Perfs,
    *,
    now_s: float,
    window_s: float,
) -> dict[str, Memory]:
    """Return what is remembered of each of *views*, with what is seen of it at *now_s* over the
    last *window_s*, by *perfs* of models and accelerators; nothing is learnt from a load that is
    not known.
    """
    found: dict[str, Memory] = {}
    loads: dict[str, Load] = {}
    for name, view in views.items():
        memory, unknown = memories.get(name, NEW), view.load is None
        if unknown != (memory.unknown_s is not None):
            spread, jumps = memory.spread.without_sample(), memory.jumps.without_sample()
            unknown_s = now_s if unknown else None
            memory = replace(memory, unknown_s=unknown_s, spread=spread, jumps=jumps)
        if view.load is not None:
            loads[name] = view.load
            if memory.history.rates.is_due(now_s):
                jumps = memory.jumps.with_sample(view, view.load, now_s=now_s, window_s=window_s)
                memory = memory if jumps is memory.jumps else replace(memory, jumps=jumps)
                memory = _with_spread(_with_tokens(memory, view), view, window_s=window_s)
                full = crowd.with_sample(
                    memory.crowd,
                    view,
                    perfs,
                    mean_tokens=memory.in_tokens + memory.out_tokens,
                    now_s=now_s,
                    window_s=window_s,
                )
                memory = memory if full is memory.crowd else replace(memory, crowd=full)
        found[name] = memory
    rates = []
    for name, load in loads.items():
        came_rpm = work_rpm(found[name], load, window_s=window_s)
        felt_rpm, found[name] = _felt(found[name], came_rpm, now_s=now_s, window_s=window_s)
        rates.append(felt_rpm)
    before = [found[name].history for name in loads]
    chances = [1.0 if one is None else one.chance for one in (found[name].unit for name in loads)]
    after = with_samples(before, rates, now_s=now_s, window_s=window_s, chances=chances)
    for name, old, new in zip(loads, before, after, strict=True):
        if new is old:
            continue
        found[name] = replace(found[name], history=new)
    return found


@made_quickly
@dataclass(frozen=True, slots=True)
class Asked:
    """A server of known load that a demand is asked for, and what it depends on besides."""

    view: ServerView
    load: Load
    worth: Worth
    horizon: Horizon


def demanded(
    memories: Mapping[str, Memory], asked: Mapping[str, Asked], *, now_s: float
) -> tuple[dict[str, Demand], dict[str, Memory]]:
    """Return what each server that is *asked* for is to be sized for, and the memory with it.

    That is what it pays to have replicas for when pods that are asked for now are ready, the
    highest of the last down_s as far as the present pods can take that; no less than these serve
    now, or than a load that has jumped is; and what waits, drained in drain_s.
    """
    found, after = {}, _foresee(memories, asked)
    for name, one in asked.items():
        found[name], after[name] = _demand(after[name], one, now_s=now_s)
    return found, after


def work_rpm(memory: Memory, load: Load, *, window_s: float) -> float:
    """Return what *load*, seen over *window_s*, is in requests of the unit of its server
    [requests/min].
    """
    if memory.unit is None:
        return load.rate_rpm
    count = load.rate_rpm * window_s / 60.0
    out_tokens = memory.answer_tokens or load.out_tokens
    return load.rate_rpm * memory.unit.times(load.in_tokens, out_tokens, count=count)


def counted_in(memory: Memory, unit: Unit) -> Memory:
    """Return *memory* with the work of its server counted in *unit* from now on."""
    old, demands = memory.unit, memory.demands
    if old is None:
        return replace(memory, unit=unit)
    times = 1.0 / old.times(unit.in_tokens, unit.out_tokens)
    return replace(
        memory,
        unit=unit,
        history=memory.history.scaled(times),
        came=memory.came.scaled(times),
        demands=demands.scaled(times),
        replica_rpm=memory.replica_rpm * times,
    )


def _demand(memory: Memory, asked: Asked, *, now_s: float) -> tuple[Demand, Memory]:
    view, load, horizon, foreseen = asked.view, asked.load, asked.horizon, memory.foreseen
    assert foreseen is not None, "it was foreseen"
    found = foreseen.found
    seen_rpm = work_rpm(memory, load, window_s=horizon.window_s)
    jumped_rpm, high_rpm = _jumped_rpm(memory, load, seen_rpm)
    asked_rpm = max(foreseen.paying_rpm, high_rpm)
    demands = memory.demands.with_sample(asked_rpm, now_s=now_s, most=True)
    held_rpm = max(demands.latest(_held_s(memory, horizon)))
    if memory.replica_rpm > 0.0:
        # What was asked for before keeps what is there. To get more, it has to be asked for now.
        held_rpm = max(asked_rpm, min(held_rpm, view.wanted * memory.replica_rpm))
    # Pods that are there serve the present load; others would come too late for it.
    present_rpm = found.now + found.bursty * max(0.0, seen_rpm - found.now)
    served_rpm = min(present_rpm, view.wanted * memory.replica_rpm or present_rpm)
    waits_rpm = waiting_rpm(
        view,
        drain_s=horizon.drain_s,
        replica_rpm=memory.replica_rpm,
        ahead=_ahead(memory, asked, max(high_rpm, seen_rpm)) if jumped_rpm > 0.0 else 0.0,
    )
    tokens: Load | Unit | Memory = load
    if memory.unit is not None:
        tokens = memory.unit
    elif memory.tokens_weight > 0.0:
        tokens = memory
    coming_rpm = max(found.middle, served_rpm, jumped_rpm)

    def of(rate_rpm: float) -> Load:
        return Load(rate_rpm=rate_rpm, in_tokens=tokens.in_tokens, out_tokens=tokens.out_tokens)

    made = Demand(
        load=of(max(held_rpm, coming_rpm) + waits_rpm),
        least=of(coming_rpm + waits_rpm),
        coming=of(coming_rpm),
        forecast=found,
        crowd=memory.crowd,
    )
    return made, memory if demands is memory.demands else replace(memory, demands=demands)


def _jumped_rpm(memory: Memory, load: Load, seen_rpm: float) -> tuple[float, float]:
    """Return what a load has jumped to, and what that may be [requests/min of its unit]; 0 if it
    has not. *load* is that of now, *seen_rpm* the same in its unit.
    """
    jump, high = memory.jumps.of_now(load.rate_rpm)
    jump = max(jump, memory.spread.of_now(load.rate_rpm))
    if jump <= 1.0 and not memory.jumps.up:
        return 0.0, 0.0
    return jump * seen_rpm, max(jump, high) * seen_rpm


def _foresee(memories: Mapping[str, Memory], asked: Mapping[str, Asked]) -> dict[str, Memory]:
    """Return the memories with what is foreseen of each, the last one if nothing moved: between two
    samples of a load that is all that most cycles of a short period see.
    """
    found, moved = {}, {}
    for name, one in asked.items():
        memory = found[name] = memories[name]
        rate_rpm, steps = memory.replica_rpm, steps_ahead(one.horizon.lead_s)
        by = (one.worth, one.worth.quantile(rate_rpm or one.load.rate_rpm), steps, rate_rpm)
        last, bank = memory.foreseen, memory.history.bank
        if last is None or last.bank is not bank or last.asked != by:
            moved[name] = by
    made = forecast(
        [found[name].history for name in moved],
        lead_s=[asked[name].horizon.lead_s for name in moved],
        quantile=[quantile for _, quantile, _, _ in moved.values()],
    )
    for (name, by), (ahead, history) in zip(moved.items(), made, strict=True):
        assert history.bank is not None, "a load was seen"
        worth, _, _, rate_rpm = by
        # Of a load by the clock, what varies is when within a window it begins.
        within = 0.0 if ahead.method == "season" else found[name].spread.within
        paying_rpm = worth.rate_rpm(ahead, replica_rpm=rate_rpm, within=within)
        foreseen = Foreseen(history.bank, by, ahead, paying_rpm)
        found[name] = replace(found[name], history=history, foreseen=foreseen)
    return found


def _held_s(memory: Memory, horizon: Horizon) -> float:
    """Return how long a demand is held [s]: a burst comes back; a load that has moved does not.
    The bursts that a window does not show are known for as long again.
    """
    assert memory.foreseen is not None, "it was foreseen"
    found, within = memory.foreseen.found, memory.spread.within
    if found.method == "season":
        return min(HELD_SEASON_S, horizon.down_s)
    return (found.bursty**2 + min(1.0, within / RESTLESS) ** 2) * horizon.down_s


def waiting_rpm(
    view: ServerView, *, drain_s: float, replica_rpm: float = 0.0, ahead: float = 0.0
) -> float:
    """Return the rate at which what waits is to be drained: within drain_s (0: nothing is).

    What waits in a pod stays there, so more replicas than take all that comes do not help it: it
    counts for TWICE as much as the pods can do in which something waits, by what a replica can
    take (*replica_rpm*, 0 if that is not known), and no more than what all can do, or do. So many
    requests as are *ahead* will wait besides, in all pods.
    """
    if drain_s <= 0.0:
        return 0.0
    inside = min(view.waiting, view.backlog)
    at_router = view.backlog - inside
    drained_rpm = 60.0 * (inside + ahead) / (AHEAD_IN * drain_s if ahead > 0.0 else drain_s)
    able_rpm = _able_rpm(view, replica_rpm) or math.inf
    pods = view.ready if ahead > 0.0 else view.waiting_pods
    if pods and replica_rpm > 0.0:
        able_rpm = min(able_rpm, TWICE * pods * replica_rpm)
    return 60.0 * at_router / drain_s + min(drained_rpm, able_rpm)


def _able_rpm(view: ServerView, replica_rpm: float) -> float:
    """Return what the pods that are ready can do, or do [requests/min]; 0 if nobody knows."""
    return max(view.ready * replica_rpm, view.completions_rpm or 0.0)


def _ahead(memory: Memory, asked: Asked, comes_rpm: float) -> float:
    """Return how many requests of a load that has jumped to *comes_rpm* will come to wait until the
    pods that are asked for now are ready: they need room, too, and more pods for them would start
    when these have waited already.
    """
    able_rpm = _able_rpm(asked.view, memory.replica_rpm)
    if able_rpm <= 0.0 or memory.replica_rpm <= 0.0:
        return 0.0
    return max(0.0, comes_rpm - able_rpm) * asked.horizon.start_up_s / 60.0


def _with_spread(memory: Memory, view: ServerView, *, window_s: float) -> Memory:
    """Return *memory* with what is in flight; where more comes than the ready replicas can take,
    that is a queue.
    """
    load = view.load
    assert load is not None, "it was seen"
    if work_rpm(memory, load, window_s=window_s) > view.ready * memory.replica_rpm > 0.0:
        spread = memory.spread.without_sample()
    else:
        spread = memory.spread.with_sample(view, load, window_s=window_s)
    return memory if spread is memory.spread else replace(memory, spread=spread)


def _felt(
    memory: Memory, came_rpm: float, *, now_s: float, window_s: float
) -> tuple[float, Memory]:
    """Return the load that replicas feel where *came_rpm* came over the last *window_s*
    [requests/min], and *memory* with it: the mean over as long as requests run, if that is longer.
    Of what comes and goes in the meantime no more is ever in flight at once.

    By that mean twice: what is in flight is one of what came (Little 1961), and how fast the tokens
    of a request come is one of what is in flight while it runs. A load that has just begun is felt
    as it comes.
    """
    further_s = 2.0 * (memory.runs_s - window_s)
    if further_s <= 0.0:
        return came_rpm, replace(memory, came=Series()) if memory.came.values else memory
    before = memory.came if memory.came.values else memory.history.rates
    came = before.with_sample(came_rpm, now_s=now_s)
    if begins(memory.history, came_rpm, now_s=now_s, window_s=window_s):
        came = came.newest()
    return came.mean(further_s), memory if came is memory.came else replace(memory, came=came)


def _with_tokens(memory: Memory, view: ServerView) -> Memory:
    """Return *memory* with the mean tokens over the requests of the last ten minutes and how long
    these run, and the mean tokens over the answers of the last one.

    Windows count by their requests: what ends in a quiet window are the longest answers of the
    busy one before.
    """
    load = view.load
    assert load is not None, "it was seen"
    if load.rate_rpm <= 0.0 or load.out_tokens <= 0.0:
        return memory
    kept = TOKENS_KEPT * memory.tokens_weight
    weight = kept + load.rate_rpm
    ended = load.rate_rpm if view.completions_rpm is None else view.completions_rpm
    before = ANSWERS_KEPT * memory.answers_weight
    answers_weight = before + ended
    out_tokens = load.out_tokens
    if answers_weight > 0.0:
        out_tokens = (before * memory.answer_tokens + ended * load.out_tokens) / answers_weight
    runs_s = memory.runs_s
    if view.itl_ms is not None:
        now_s = min(load.out_tokens * view.itl_ms / 1000.0, RUNS_MAX_S)
        if runs_s > 0.0:
            now_s = (kept * runs_s + load.rate_rpm * min(now_s, HUNG * runs_s)) / weight
        runs_s = now_s
    return replace(
        memory,
        in_tokens=(kept * memory.in_tokens + load.rate_rpm * load.in_tokens) / weight,
        out_tokens=(kept * memory.out_tokens + load.rate_rpm * load.out_tokens) / weight,
        runs_s=runs_s,
        tokens_weight=weight,
        answer_tokens=out_tokens,
        answers_weight=answers_weight,
    )
