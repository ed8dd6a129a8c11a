"""Whether a move of a server to another accelerator pays, and is safe now. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loop.optimizer.solution import Assignment
    from loop.types import ServerView

DWELL_S = 600.0  # between two moves of a server
# Until a server has been where it is for so long, a move must save so much: what looks cheaper on
# the load of some minutes has fewer, larger or fuller replicas, and these forgive less.
SOON_S, SOON_SAVING_MIN = 3600.0, 0.3
# A move is for loads about the present one, by these factors: where one replica more is needed by
# chance, another accelerator looks cheaper by chance.
ABOUT = tuple(0.8 + 0.02 * step for step in range(21))
# What a load asks for must have been seen for so long: of answers, the short ones end first.
KNOWN_S = 120.0
PAYS_WITHIN_S = 1800.0  # a load is what it is for half an hour or so
SETTLED_AFTER = 3.0  # start-ups after a move, whatever is still missing then
DRAIN_S = 30.0  # the old pods stay so long after the new ones are ready


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One server that the optimizer would move. stay is what it would have where it is (None: it
    cannot be served there); start_up_s how long new pods take; moved_s when it was moved last;
    known_s for how long its load has been seen; rate_rpm what it is sized for (0: not known).
    """

    view: ServerView
    go: Assignment
    stay: Assignment | None
    start_up_s: float
    moved_s: float | None
    known_s: float
    rate_rpm: float = 0.0

    @property
    def replicas(self) -> int:
        """Return how many replicas to move with: a rollout ends old pods beyond the number that is
        asked for at once, so those that the load needs are kept until the new ones are ready.
        """
        needed = 0 if self.stay is None else self.stay.replicas
        return max(self.go.replicas, min(self.view.wanted, needed))


def settling(view: ServerView, *, moved_s: float | None, start_up_s: float, now_s: float) -> bool:
    """Tell whether the pods of the last move of *view* are still to come: none of its replicas is
    taken away before.
    """
    waits = view.starting > 0 or view.pending > 0
    return waits and moved_s is not None and now_s - moved_s < SETTLED_AFTER * start_up_s


def pays(move: Move, *, now_s: float, saving_min: float) -> bool:
    """Tell whether *move* should be made: what it saves within PAYS_WITHIN_S is more than both
    sides cost while the new pods start and the old ones drain, and no less than the share
    *saving_min* (SOON_SAVING_MIN if it is soon); nothing is short, nothing starts, the load has
    been seen for a while, and the last move is some time ago.

    A server that cannot be served where it is has to move.
    """
    view, stay = move.view, move.stay
    if stay is None or view.ready + view.starting + view.pending == 0:
        return True
    if move.moved_s is not None and now_s - move.moved_s < DWELL_S:
        return False
    if move.known_s < KNOWN_S:
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
    """Return the mean cost of *one* over loads about the present one."""
    if one.replicas < 1 or one.rate_max_rpm <= 0.0 or move.rate_rpm <= 0.0:
        return one.cost_cents_per_h
    needed = move.rate_rpm / one.rate_max_rpm
    least = max(1, move.view.replicas_min)
    counts = [max(least, math.ceil(factor * needed - 1e-9)) for factor in ABOUT]
    return one.cost_cents_per_h / one.replicas * sum(counts) / len(counts)
