"""What was found of servers of which nothing has changed since. Pure caches: every answer is the
same with them and without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loop.replacing import replace
from loop.types import only_older, only_pods_differ

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from loop.optimizer.solution import Assignment
    from loop.policies.slo.demand import Demand, Memory
    from loop.spec import ServerData, SystemData
    from loop.types import ServerView, Target

# Which of its loads a server is sized for, and at most how much of it [requests/min].
Part = tuple[str, float | None]


class Demanded(NamedTuple):
    """What was demanded of a server, and what that depends on. memory: its own, with what was seen
    then (None: it would learn more if the same were seen again).
    """

    view: ServerView
    memory: Memory | None
    demand: Demand

    def holds(self, view: ServerView, memory: Memory | None, *, now_s: float) -> bool:
        """Tell whether it is demanded at *now_s*, too: nothing is new, and no sample is due, with
        which a demand may be given up.
        """
        return (
            memory is not None
            and memory is self.memory
            and not memory.history.rates.is_due(now_s)
            and not memory.demands.is_due(now_s)
            and only_older(view, self.view)
        )

    def again(self, view: ServerView, demand: Demand) -> Demand:
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
        )
        return last if same and only_pods_differ(view, self.view) else demand


class Told(NamedTuple):
    """All that a target says: what was found, the rate that it is for [requests/min] and how that
    was foreseen, what is served, of what comes [requests/min], if that is less, what is asked for,
    and how much of KV caches that were too full each request is to have [tokens]; slower: how many
    times as long as the data say an iteration takes.
    """

    found: Assignment
    rate_rpm: float | None
    method: str | None
    share: tuple[float, float] | None
    replicas: int
    max_batch: int
    held_tokens: float
    slower: float


class Lately:
    """What was found last, by server."""

    def __init__(self) -> None:
        self.demanded: dict[str, Demanded] = {}
        self.targets: dict[str, tuple[Told, Target]] = {}
        self._staying: dict[str, tuple[ServerData, ServerData]] = {}
        self._servers: dict[str, tuple[Demand, dict[Part, ServerData]]] = {}
        self._by: tuple[SystemData, object, float] | None = None

    def begin(
        self, names: Container[str], data: SystemData, sizing: object, window_s: float
    ) -> None:
        """Forget servers that are not among *names*, and what was demanded by other data, sized in
        another way or seen over another window.
        """
        for known in (self.demanded, self.targets, self._staying, self._servers):
            for name in [name for name in known if name not in names]:
                del known[name]
        by, self._by = self._by, (data, sizing, window_s)
        if by is None or by[0] is not data or by[1:] != (sizing, window_s):
            self.demanded.clear()

    def knows_all(self, memories: Mapping[str, Memory]) -> bool:
        """Tell whether what was demanded of each server is what follows from its one of *memories*,
        as long as nothing new is seen.
        """
        known = self.demanded
        return known.keys() == memories.keys() and all(
            known[name].memory is memory for name, memory in memories.items()
        )

    def servers_of(self, name: str, demand: Demand) -> dict[Part, ServerData]:
        """Return as what the optimizer knows *name* while *demand* is what is demanded of it: to be
        filled. A demand that is the same object is of the same data, and of a view that differs in
        pods only, if at all.
        """
        last = self._servers.get(name)
        if last is None or last[0] is not demand:
            last = self._servers[name] = demand, {}
        return last[1]

    def staying(self, server: ServerData) -> ServerData:
        """Return *server* staying on the accelerator that it has."""
        last = self._staying.get(server.name)
        if last is None or last[0] is not server:
            last = self._staying[server.name] = server, replace(server, keep_accelerator=True)
        return last[1]
