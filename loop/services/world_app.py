"""What the collector and the actuator have in common: they ask one owner of the world, and remember
whether that goes well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry

from loop.actors import FAILURES_READY_MAX, Owner
from loop.errors import BackendError, PausedError, RefusedError
from loop.services.scaffold import Health, create_app, stop_actor
from loop.services.world_metrics import WorldMetrics

if TYPE_CHECKING:
    from fastapi import FastAPI

    from loop.actors import WatchedBackend
    from loop.ports import Thread
    from loop.services.auth import TokenSource

Answer = TypeVar("Answer")


class WorldDesk:
    """Asks the owner of the world, and remembers whether that goes well."""

    def __init__(
        self,
        owner: Owner,
        *,
        timeout_s: float,
        metrics: WorldMetrics,
        threads: Sequence[Thread] = (),
    ) -> None:
        self._threads = threads
        self._owner = owner
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._failures = 0
        self._last_error = ""

    def health(self) -> Health:
        """Return how the service is: ready until three requests in a row have failed, or have heard
        nothing of the source of metrics, or one takes longer than anybody waits.
        """
        concern, busy_s = self._metrics.concern, self._owner.busy_s
        overdue = f"the world has not answered for {busy_s:.0f} s" * (busy_s > self._timeout_s)
        well = self._owner.healthy and self._failures <= FAILURES_READY_MAX and not overdue
        alive = self._owner.alive and all(thread.alive for thread in self._threads)
        error = overdue or self._last_error or concern.line
        return Health(alive=alive, ready=well and concern.ready, error=error)

    async def ask(self, act: Callable[[], Answer]) -> Answer:
        """Return the answer to *act*, which only the owner may do; an act that has not begun when
        its time is over is never done.

        Raise BackendError, InboxFullError, StoppedError or TimeoutError.
        """
        try:
            answer = await self._answer(act)
        except (PausedError, RefusedError):
            # What single servers are refused is no failure of the service: the others are served.
            self._failures, self._last_error = 0, ""
            raise
        except (BackendError, TimeoutError) as problem:
            self._failures += 1
            self._last_error = str(problem)
            raise
        self._failures, self._last_error = 0, ""
        return answer

    async def _answer(self, act: Callable[[], Answer]) -> Answer:
        asked = asyncio.wrap_future(self._owner.ask(act))
        try:
            return await asyncio.wait_for(asked, self._timeout_s)
        except TimeoutError:
            line = f"the world did not answer within {self._timeout_s:g} s"
            raise TimeoutError(line) from None


def create_world_app(
    title: str,
    owner: Owner,
    *,
    timeout_s: float,
    token: TokenSource | None,
    watched: WatchedBackend | None = None,
    threads: Sequence[Thread] = (),
    registry: CollectorRegistry | None = None,
) -> tuple[FastAPI, WorldDesk, WorldMetrics]:
    """Return a service without verbs, what its verbs ask, and what its /metrics show of the world.
    A write to *watched* is given time at the end. *threads* are those without which it is as good
    as dead. *registry*: what /metrics shows besides.
    """
    registry = registry or CollectorRegistry()
    metrics = WorldMetrics(registry)
    desk = WorldDesk(owner, timeout_s=timeout_s, metrics=metrics, threads=threads)
    app = create_app(
        title,
        health=desk.health,
        start=owner.start,
        stop=lambda: stop_actor(owner, watched),
        token=token,
        registry=registry,
    )
    return app, desk, metrics
