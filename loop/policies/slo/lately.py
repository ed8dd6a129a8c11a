"""What was found of servers of which nothing has changed since. Pure caches: every answer is the
same with them and without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loop.replacing import replace

if TYPE_CHECKING:
    from collections.abc import Container

    from loop.optimizer.solution import Assignment
    from loop.policies.slo.demand import Demand
    from loop.spec import ServerData
    from loop.types import ServerView, Target
    from twin.spec import Pool

# Which of its loads a server is sized for, and at most how much of it [requests/min].
Part = tuple[str, float | None]


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
        self.targets: dict[str, tuple[Told, Target]] = {}
        self._staying: dict[str, tuple[ServerData, ServerData]] = {}
        self._servers: dict[str, tuple[Demand, tuple[Pool, ...], dict[Part, ServerData]]] = {}

    def forget_all_but(self, names: Container[str]) -> None:
        """Forget servers that are not among *names*."""
        for known in (self.targets, self._staying, self._servers):
            for name in [name for name in known if name not in names]:
                del known[name]

    def servers_of(self, view: ServerView, demand: Demand) -> dict[Part, ServerData]:
        """Return as what the optimizer knows the server of *view* while *demand* is what is
        demanded of it, and it has these pools: to be filled. A demand that is the same object is of
        the same data, and of a view that differs in replicas only, if at all.
        """
        last = self._servers.get(view.name)
        if last is None or last[0] is not demand or last[1] != view.pools:
            last = self._servers[view.name] = demand, view.pools, {}
        return last[2]

    def staying(self, server: ServerData) -> ServerData:
        """Return *server* staying on the accelerator that it has."""
        last = self._staying.get(server.name)
        if last is None or last[0] is not server:
            last = self._staying[server.name] = server, replace(server, keep_accelerator=True)
        return last[1]
