"""What a gateway asks of a router."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twin.engine.port import Engine
from twin.request import Request


class Router(Protocol):
    """Chooses the replica of each request.

    The gateway keeps the list of ready replicas and tells of every change, so that a router may
    keep an order of its own: a heap answers in O(log R) what a look at all replicas answers in
    O(R). A router that needs nothing of the kind inherits the two methods, which do nothing.
    """

    __slots__ = ()

    def add(self, replica: Engine) -> None:
        """Learn that *replica* receives requests from now on, as the last of the list."""

    def remove(self, index: int) -> None:
        """Learn that the replica at *index* of the list receives nothing any more; those after it
        move up.
        """

    def route(self, request: Request, replicas: Sequence[Engine], now_s: float) -> Engine:
        """Return the one of *replicas*, at least one, that is to serve *request* from *now_s* on.

        A replica's figures are those of its last advance: advance(now_s, inclusive=False) brings
        them up to now, and never changes a result.
        """
        ...
