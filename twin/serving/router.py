"""How a server spreads requests over its ready replicas: round robin, random, least outstanding
requests.
"""

from __future__ import annotations

from math import inf
from typing import Protocol

import numpy as np

from twin.engine.replica import Replica
from twin.spec import RouterName

_DRAWS = 1024


class Router(Protocol):
    """Chooses the replica of a request among those that were added; new ones go to the end of the
    round.
    """

    replicas: list[Replica]

    def add(self, replica: Replica) -> None:
        """Let *replica* receive requests from now on."""
        ...

    def remove(self, replica: Replica) -> None:
        """Send nothing to *replica* any more."""
        ...

    def choose(self, now_s: float) -> Replica:
        """Return the replica for a request that arrives now; there must be at least one."""
        ...


def make_router(name: RouterName, rng: np.random.Generator) -> Router:
    """Return a router by its name; only "random" draws from *rng*."""
    if name == "random":
        return RandomChoice(rng)
    return RoundRobin() if name == "round_robin" else LeastOutstanding()


class RoundRobin:
    """One after the other. A replica that leaves is skipped without a jump in the round."""

    __slots__ = ("_turn", "replicas")

    def __init__(self) -> None:
        self.replicas: list[Replica] = []
        self._turn = 0

    def add(self, replica: Replica) -> None:
        self.replicas.append(replica)

    def remove(self, replica: Replica) -> None:
        index = self.replicas.index(replica)
        del self.replicas[index]
        self._turn -= index < self._turn

    def choose(self, now_s: float) -> Replica:  # noqa: ARG002, the others need the time
        if self._turn >= len(self.replicas):
            self._turn = 0
        self._turn += 1
        return self.replicas[self._turn - 1]


class RandomChoice:
    """Each with the same chance, whatever went before."""

    __slots__ = ("_draws", "_rng", "replicas")

    def __init__(self, rng: np.random.Generator) -> None:
        self.replicas: list[Replica] = []
        self._rng = rng
        self._draws: list[float] = []

    def add(self, replica: Replica) -> None:
        self.replicas.append(replica)

    def remove(self, replica: Replica) -> None:
        self.replicas.remove(replica)

    def choose(self, now_s: float) -> Replica:  # noqa: ARG002, the others need the time
        if not self._draws:
            # A block at a time: one draw of numpy costs more than the rest of the routing together.
            self._draws = self._rng.random(_DRAWS).tolist()
        return self.replicas[int(self._draws.pop() * len(self.replicas))]


class LeastOutstanding:
    """The one with the fewest requests in flight; of equals, the next in the round after the one
    chosen last.

    The counts are those of this instant: a replica is advanced where something ended on it before
    now, which changes nothing but when that is computed.
    """

    __slots__ = ("_round", "_start", "replicas")

    def __init__(self) -> None:
        self.replicas: list[Replica] = []
        self._round: list[Replica] = []
        self._start = 0

    def add(self, replica: Replica) -> None:
        self.replicas.append(replica)
        self._round = self.replicas * 2

    def remove(self, replica: Replica) -> None:
        index = self.replicas.index(replica)
        del self.replicas[index]
        self._start -= index < self._start
        self._round = self.replicas * 2

    def choose(self, now_s: float) -> Replica:
        replicas = self.replicas
        count = len(replicas)
        if count == 1:
            return replicas[0]
        start = self._start if self._start < count else 0
        fewest = inf
        # The list stands twice in the round, so that a slice begins anywhere without a modulo per
        # replica.
        for replica in self._round[start : start + count]:
            if replica.next_boundary_s < now_s:
                replica.advance(now_s, inclusive=False)
            outstanding = replica.outstanding
            if outstanding < fewest:
                fewest = outstanding
                chosen = replica
        self._start = replicas.index(chosen) + 1
        return chosen
