"""The replica that has most of a prompt in its prefix cache, unless it is overloaded."""

from __future__ import annotations

from collections.abc import Sequence

from twin.engine.port import Engine
from twin.request import Request
from twin.serving.routers.least_outstanding import LeastOutstanding
from twin.serving.routers.port import Route, Router

# So many requests, and so many times, more than the idlest has: a cache is not worth such a wait.
# Routers of the field use the same two tests, with 32 to 64 requests and 1.1 to 1.5 times.
MORE, TIMES = 16, 1.5


class PrefixAware(LeastOutstanding):
    """The one with the longest cached prefix; of equals, and where none is cached, as
    LeastOutstanding chooses.

    A replica is overloaded if it holds both MORE requests more and TIMES as many as the idlest one.
    """

    __slots__ = ()

    def plan(self, requests: int) -> None:
        """Leave the choice to `route`."""

    def stretch(self, replicas: Sequence[Engine], requests: int) -> Route:
        return Router.stretch(self, replicas, requests)

    def route(self, request: Request, replicas: Sequence[Engine], now_s: float) -> Engine:
        idlest = super().route(request, replicas, now_s)
        # All were advanced for the choice above.
        least = idlest.outstanding
        most = max(least + MORE, TIMES * least)
        chosen, longest = idlest, idlest.cached_tokens(request)
        for replica in replicas:
            cached = replica.cached_tokens(request)
            if cached > longest and replica.outstanding <= most:
                chosen, longest = replica, cached
        return chosen
