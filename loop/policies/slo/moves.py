"""Who moves to another accelerator: whether a move pays and is safe now, and who stays if not. Pure
but for the optimizer that is asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loop.policies.slo.ask import Found
from loop.policies.slo.shares import DRAIN_S, KNOWN_S, PAYS_WITHIN_S, away_share, share_out
from loop.policies.slo.worth import (
    LATE,
    MET_CENTS_LOWEST,
    met_cents,
    met_share,
    served_share,
    varied,
)
from loop.replacing import replace
from twin.frozen import made_quickly

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loop.optimizer.solution import Assignment
    from loop.policies.slo.ask import Asking
    from loop.policies.slo.case import Case
    from loop.policies.slo.demand import Demand
    from loop.policies.slo.shares import Shares
    from loop.spec import ServerData, SystemData
    from loop.types import ServerView

DWELL_S = 600.0  # between two moves of a server
MOVERS_MAX = 40  # of which each is looked at: one more solution each
# Until a server has been where it is for so long, a move must save so much: what looks cheaper on
# the load of some minutes has fewer, smaller or fuller replicas, and these forgive less.
SOON_S, SOON_SAVING_MIN = 3600.0, 0.35
# What is to save money waits until the load has been seen for so long, and is not for one of which
# nobody knows what it will be: it would pay for both sides, and for the way back.
LONG_S, UNSURE_MAX = 600.0, 0.5
# A move is for loads about the present one, by these factors: where one replica more is needed by
# chance, another accelerator looks cheaper by chance. More of them are above it: what a large
# replica that is half used has room for takes more of the small ones. Savings of a third were none
# in the end. Each varies by the spread of the load: of a dozen requests, half as many again are no
# other load.
ABOUT = tuple(0.8 + 0.04 * step for step in range(21))
MOMENT_S = 1e-6
SETTLED_AFTER = 3.0  # start-ups after a move, whatever is still missing then


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One server that the optimizer would move. stay is what it would have where it is (None: it
    cannot be served there); start_up_s how long new pods take; moved_s when it was moved last;
    known_s for how long its load has been seen; unsure how far nobody knows what that will be, 0 to
    1; spread the coefficient of variation of what it may be; rate_rpm what it is sized for, and
    coming_rpm what comes now (0: not known); idle that nothing is to come.
    """

    view: ServerView
    go: Assignment
    stay: Assignment | None
    start_up_s: float
    moved_s: float | None
    known_s: float
    rate_rpm: float = 0.0
    coming_rpm: float = 0.0
    unsure: float = 0.0
    spread: float = 0.0
    idle: bool = False

    @property
    def replicas(self) -> int:
        """Return how many replicas to move with: a rollout ends old pods beyond the number that is
        asked for at once, so those that what comes needs are kept until the new ones are ready.
        """
        stay = self.stay
        needed = 0 if stay is None else stay.replicas
        if stay is not None and self.coming_rpm > 0.0 and stay.rate_max_rpm > 0.0:
            needed = min(needed, math.ceil(self.coming_rpm / stay.rate_max_rpm - 1e-9))
        return max(self.go.replicas, min(self.view.wanted, needed))


def settling(view: ServerView, *, moved_s: float, start_up_s: float, now_s: float) -> bool:
    """Tell whether the pods of the last move of *view* are still to come: none of its replicas is
    taken away before.
    """
    waits = view.starting > 0 or view.pending > 0
    return waits and now_s - moved_s < SETTLED_AFTER * start_up_s


def pays(move: Move, *, now_s: float, saving_min: float) -> bool:
    """Tell whether *move* should be made: what it saves within PAYS_WITHIN_S is more than both
    sides cost while the new pods start and the old ones drain, and no less than the share
    *saving_min* (SOON_SAVING_MIN if it is soon); nothing is short, nothing starts, the load has
    been seen for long and is no riddle, and the last move is some time ago.

    A server that cannot be served where it is has to move.
    """
    view, stay = move.view, move.stay
    if stay is None or view.ready + view.starting + view.pending == 0:
        return True
    if move.moved_s is not None and now_s - move.moved_s < DWELL_S:
        return False
    # Who has no load yet shows nothing of the one that it was given its accelerator for.
    long_s = SOON_S if move.idle else LONG_S
    if move.known_s < long_s or move.unsure > UNSURE_MAX:
        return False
    stayed_s = min(move.known_s, math.inf if move.moved_s is None else now_s - move.moved_s)
    if stayed_s < SOON_S:
        saving_min = max(saving_min, SOON_SAVING_MIN)
    if stay.replicas > view.ready or view.starting or view.pending or view.draining:
        return False
    staying = _cents_per_h(stay, move)
    saving = staying - _cents_per_h(move.go, move)
    moving_cents_per_h = move.go.cost_cents_per_h * move.replicas / move.go.replicas
    price = moving_cents_per_h * (move.start_up_s + DRAIN_S) / PAYS_WITHIN_S
    return saving > price and saving > saving_min * staying


def _cents_per_h(one: Assignment, move: Move) -> float:
    """Return the mean cost of *one* over loads about the present one, as far as it spreads."""
    if one.replicas < 1 or one.rate_max_rpm <= 0.0 or move.rate_rpm <= 0.0:
        return one.cost_cents_per_h
    needed = move.rate_rpm / one.rate_max_rpm
    least = max(1, move.view.replicas_min)
    loads = varied(needed * np.array(ABOUT), move.spread)
    counts = np.maximum(least, np.ceil(loads - 1e-9))
    return one.cost_cents_per_h / one.replicas * float(counts.mean())


def settle(
    case: Case, found: Found, *, asking: Asking, hysteresis: float, shares: Shares | None
) -> tuple[Found, dict[str, int]]:
    """Return what is *found* without the moves that do not pay, and who moves with how many
    replicas.

    If less is met where everybody stays, the fewest moves are made that bring more than they cost;
    of very many movers, those that the *shares* of what there is have. Where nothing bounds the
    GPUs there are no shares, and no move stands in the way of another.
    """
    if not _movers(found):
        return found, {}
    home = _at_home(case, asking, found)
    if _missed_cents(case, found) < _missed_cents(case, home):
        if len(_movers(found)) > MOVERS_MAX and case.data.optimizer.unlimited:
            better = _better_moved(case, found, home)
            found = _staying(case, asking, found, found.system.servers.keys() - better)
        elif len(_movers(found)) > MOVERS_MAX:
            if shares is None:
                coming = asking.rest(case.sized(drains=False), found.infeasible)
                shares = share_out(case, coming, asking=asking)
            found = _staying(case, asking, found, found.system.servers.keys() - shares.movers)
        else:
            found = _fewest_moves(case, asking, found, home)
        movers = _movers(found)
        return found, {name: _move(case, found, home, name).replicas for name in movers}
    # Where some stay, others may have to move for them: these are looked at in turn.
    stayers: set[str] = set()
    while True:
        moves = {name: _move(case, found, home, name) for name in _movers(found)}
        now_s, saving_min = case.snapshot.now_s, hysteresis / 2.0
        stopped = {
            name
            for name, move in moves.items()
            if name not in stayers and not pays(move, now_s=now_s, saving_min=saving_min)
        }
        if not stopped:
            return found, {name: move.replicas for name, move in moves.items()}
        stayers |= stopped
        found = _staying(case, asking, found, stayers)


def next_turn_s(case: Case) -> float:
    """Return when a move of *case* may be looked at in another way though nothing new is seen: for
    how long a load has been seen, or a server has stayed, passes what it is compared with.
    """
    now_s, turns = case.snapshot.now_s, [math.inf]
    for name, memory in case.memories.items():
        seen_s, moved_s = memory.history.rates.start_s, memory.moved_s
        turns += seen_s + KNOWN_S, seen_s + LONG_S, seen_s + SOON_S
        if moved_s is not None:
            settled_s = SETTLED_AFTER * case.start_up_s(name)
            turns += moved_s + settled_s, moved_s + DWELL_S, moved_s + SOON_S
    # Sums may be off by their last digit: what turns now may not have done so yet.
    return min(turn_s for turn_s in turns if turn_s > now_s - MOMENT_S) - MOMENT_S


def _staying(case: Case, asking: Asking, found: Found, names: Iterable[str]) -> Found:
    """Return what is found with *names* on the accelerators that they have, with the margins
    that there are GPUs for then; the same servers can be served as in what was *found*.
    """

    def find(system: SystemData, *, whole: bool = False) -> Found:
        return _kept(case, asking, found, names, system, whole=whole)

    return case.within_capacity(find)


def _at_home(case: Case, asking: Asking, found: Found) -> Found:
    """Return what is found with all servers on the accelerators that they have.

    Where those who would leave do not, mostly all others are where they are anyway: then nobody has
    to be sized that was not for what was *found*.
    """
    servers = found.system.servers
    away = {
        name for name, one in found.solution.allocations.items() if not _is_at(one, servers[name])
    }

    def find(system: SystemData, *, whole: bool = False) -> Found:
        if not found.short:
            kept = _kept(case, asking, found, away, system, whole=whole)
            here = kept.solution.allocations
            others = system.servers.keys() - asking.held.keys() - found.infeasible.keys() - away
            if not kept.short and all(
                name in here and _is_at(here[name], system.servers[name]) for name in others
            ):
                return kept
        return _kept(case, asking, found, system.servers, system, whole=whole)

    return case.within_capacity(find)


def _kept(
    case: Case,
    asking: Asking,
    found: Found,
    names: Iterable[str],
    system: SystemData,
    *,
    whole: bool,
) -> Found:
    """Return what is found of *system* with *names* on the accelerators that they have."""
    staying = case.sizing.lately.staying
    stay = {name: staying(system.servers[name]) for name in names}
    kept = replace(system, servers={**system.servers, **stay})
    solution = asking.solution(kept, found.infeasible, whole=whole)
    return asking.made(kept, solution, found.infeasible)


def _move(case: Case, found: Found, home: Found, name: str) -> Move:
    """Return the move of *name* that is *found*; it would have what it has at *home* else."""
    go, view = found.solution.allocations[name], case.snapshot.servers[name]
    asked = case.demands.get(name)
    return Move(
        view=view,
        go=go,
        stay=home.solution.allocations.get(name),
        start_up_s=case.start_up_s(name, go.accelerator),
        moved_s=case.memories[name].moved_s,
        known_s=case.known_s(name),
        rate_rpm=_rate_rpm(found.system.servers[name]),
        coming_rpm=0.0 if asked is None else asked.coming.rate_rpm,
        unsure=0.0 if asked is None else asked.forecast.unsure,
        spread=0.0 if asked is None else _spread(asked),
        idle=asked is not None and asked.load.rate_rpm <= 0.0,
    )


def _spread(asked: Demand) -> float:
    """Return the coefficient of variation of what the load of *asked* may be: by its futures, and
    by the requests that it is known by, which a few more or fewer may be by chance.
    """
    futures = asked.forecast.futures
    mean_rpm = float(futures.mean())
    counted = asked.coming.rate_rpm * LONG_S / 60.0
    by_futures = float(futures.std()) / mean_rpm if mean_rpm > 0.0 else 0.0
    return math.hypot(by_futures, 1.0 / math.sqrt(max(counted, 1.0)))


def _fewest_moves(case: Case, asking: Asking, found: Found, home: Found) -> Found:
    """Return what is *found* with as few of the moves as bring more than they cost: who would move
    at the highest price stays first, if no more is missed then than while its replicas start. Who
    is served at *home*, if only in part, stays until its load has been seen for a while.
    """
    allocations, movers = found.solution.allocations, _movers(found)
    new = {
        name
        for name in movers
        if name in home.solution.allocations and case.known_s(name) < KNOWN_S
    }
    stayers = (found.system.servers.keys() - set(movers)) | new
    best = _staying(case, asking, found, stayers) if new else found
    least = _missed_cents(case, best)
    order = sorted(set(movers) - new, key=lambda name: (-allocations[name].cost_cents_per_h, name))
    for name in order:
        fewer = _staying(case, asking, found, stayers | {name})
        missed = _missed_cents(case, fewer)
        if missed <= least + _moving_cents(case, home, name, allocations[name].accelerator):
            stayers, best, least = stayers | {name}, fewer, min(least, missed)
    return best


def _better_moved(case: Case, found: Found, home: Found) -> set[str]:
    """Return who would move in what is *found*, and misses less then than at *home* and while it
    moves: of moves that take no GPUs from each other, the fewest that bring more than they cost.
    """
    allocations = found.solution.allocations
    return {
        name
        for name in _movers(found)
        if (name not in home.solution.allocations or case.known_s(name) >= KNOWN_S)
        and _missed_cents_of(case, home, name)
        > _missed_cents_of(case, found, name)
        + _moving_cents(case, home, name, allocations[name].accelerator)
    }


def _moving_cents(case: Case, home: Found, name: str, accelerator: str) -> float:
    """Return what is met of the requests of *name* at *home*, and is not while it moves to
    *accelerator*, spread over the time that it is to stay there: as long as it has stayed where it
    is, if that is not long [cents/min].
    """
    asked, one = case.demands.get(name), home.solution.allocations.get(name)
    if asked is None or one is None:
        return 0.0
    missed = away_share(case, name, accelerator)
    coming_rpm = asked.coming.rate_rpm
    met_rpm = coming_rpm * met_share(coming_rpm, _able_rpm(one, home.system.servers[name]))
    return _met_cents(case, name) * met_rpm * missed


def _met_cents(case: Case, name: str) -> float:
    """Return what a request of *name* within its targets is worth [cents]. Those that may wait
    count as the least that others are worth: without GPUs they wait for ever.
    """
    return met_cents(case.data, case.snapshot.servers[name]) or MET_CENTS_LOWEST


def _missed_cents(case: Case, found: Found) -> float:
    """Return what the requests are worth that come and miss their targets with the replicas
    *found*, of all servers without margins, and a little of what waits [cents/min].
    """
    return sum(_missed_cents_of(case, found, name) for name in found.system.servers)


def _missed_cents_of(case: Case, found: Found, name: str) -> float:
    server, one = found.system.servers[name], found.solution.allocations.get(name)
    able_rpm = _able_rpm(one, server) if one is not None else 0.0
    least_rpm = _least_rpm(case, server)
    asked = case.demands.get(name)
    coming_rpm = least_rpm if asked is None else asked.coming.rate_rpm
    waits_rpm = max(0.0, least_rpm - max(coming_rpm, able_rpm))
    easy = 1.0 if one is None else case.easy.get((name, one.accelerator), 1.0)
    missed_rpm = (1.0 - LATE) * (1.0 - met_share(coming_rpm, able_rpm, easy=easy))
    missed_rpm += LATE * (1.0 - served_share(coming_rpm, able_rpm))
    missed_rpm = missed_rpm * coming_rpm + LATE * waits_rpm
    return _met_cents(case, name) * missed_rpm


def _able_rpm(one: Assignment, server: ServerData) -> float:
    """Return what the replicas of *one* sustain, of as many as *server* may have."""
    most = one.replicas if server.max_replicas is None else server.max_replicas
    return min(one.replicas, most) * one.rate_max_rpm


def _least_rpm(case: Case, server: ServerData) -> float:
    """Return the rate that *server* is to be sized for at least, without a margin."""
    asked = case.demands.get(server.name)
    return _rate_rpm(server) if asked is None else asked.least.rate_rpm


def _rate_rpm(server: ServerData) -> float:
    """Return the rate that *server* is sized for, 0 if it is not known."""
    return 0.0 if server.current.load is None else server.current.load.rate_rpm


def _is_at(one: Assignment, server: ServerData) -> bool:
    """Tell whether what *one* has is on the accelerator that *server* has; nothing is anywhere."""
    return one.replicas == 0 or one.accelerator == server.current.accelerator


def _movers(found: Found) -> list[str]:
    """Return the servers that would move from one accelerator to another."""
    servers = found.system.servers
    return [
        name
        for name, one in found.solution.allocations.items()
        if one.replicas > 0
        and servers[name].current.replicas > 0
        and one.accelerator != servers[name].current.accelerator
    ]
