"""What a gateway asks of a router."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from twin.engine.port import Engine
from twin.request import Request

Route = Callable[[Request, float], Engine]
"""Chooses the replica of (request, now_s)."""


Plan = tuple[int, int, npt.NDArray[np.float64]]
"""How to choose (of twin.engine.compiled.columns), whose turn it is, what chance drew."""


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

    def stretch(self, replicas: Sequence[Engine], requests: int) -> Route:  # noqa: ARG002, for who keeps an order
        """Return how about *requests* are routed in a stretch of time in which nothing happens to
        *replicas* but that they are given what is chosen for them.

        The choices are those of `route`; an order of the replicas that is kept over the stretch may
        make them faster.
        """
        return partial(_routed, self.route, replicas)

    def plan(self, requests: int) -> Plan | None:  # noqa: ARG002, for who draws
        """Return how the compiled engine is to route the next *requests*; None if it cannot choose
        as this router does.
        """
        return None

    def resume(self, turn: int) -> None:
        """Go on where the compiled engine ended, with this place in the round."""

    def route(self, request: Request, replicas: Sequence[Engine], now_s: float) -> Engine:
        """Return the one of *replicas*, at least one, that is to serve *request* from *now_s* on.

        A replica's figures are those of its last advance: advance(now_s, inclusive=False) brings
        them up to now, and never changes a result.
        """
        ...


def _routed(
    route: Callable[[Request, Sequence[Engine], float], Engine],
    replicas: Sequence[Engine],
    request: Request,
    now_s: float,
) -> Engine:
    return route(request, replicas, now_s)
