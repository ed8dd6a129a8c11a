"""A world behind services, ours or existing ones: a collector that observes it, an actuator that
changes it, and an optimizer in the place of the optimizer of this process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

from loop.errors import BackendError, SpecError
from loop.policies.slo import SloPolicy
from loop.schema.messages import KubeResource, read_collected, update_message
from loop.schema.optimizer_messages import (
    Era,
    optimize_message,
    read_optimized,
    server_row,
    shown_row,
)

if TYPE_CHECKING:
    from loop.backends.http_client import ServiceClient
    from loop.optimizer.rules import OptimizerSettings
    from loop.optimizer.solution import Solution
    from loop.ports import Clock
    from loop.spec import SystemData
    from loop.types import Change, ServerView, Snapshot

OPTIONS = ("drain_s", "prefix_cache_trust", "compat", "era")  # of the policy that asks a service


class HttpBackend:
    """Observes by GET /collect of *collector*, and asks for changes by POST /update of *actuator*.

    *clock* tells the time of what a collector has seen that does not tell it (existing ones do
    not).
    """

    name = "http"

    def __init__(self, *, collector: ServiceClient, actuator: ServiceClient, clock: Clock) -> None:
        self._collector = collector
        self._actuator = actuator
        self._clock = clock
        self._seen: Snapshot | None = None
        self._places: Mapping[str, KubeResource] = {}

    def close(self) -> None:
        """Close what is open."""
        self._collector.close()
        self._actuator.close()

    def observe(self) -> Snapshot:
        """Return what the collector sees now. Raise BackendError if there is no answer, or none
        that makes sense.
        """
        answer = self._collector.get("collect", phase="observe")
        try:
            collected = read_collected(answer, now_s=self._clock.now_s())
        except SpecError as problem:
            raise BackendError(f"collector: {problem}", phase="observe") from None
        self._seen, self._places = collected.snapshot, collected.places
        return collected.snapshot

    def servers(self) -> Mapping[str, ServerView]:
        """Return the servers as they were seen last."""
        return {} if self._seen is None else self._seen.servers

    def apply(self, changes: Sequence[Change]) -> None:
        """Ask the actuator for *changes* to what was seen last. Raise BackendError if that
        fails.
        """
        seen = self._seen or self.observe()
        self._actuator.post("update", update_message(seen, changes, self._places), phase="apply")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOptimizer:
    """Asks *service* by POST /optimizeOne. How to size and to choose is set there.

    era: of when the service is. with_cost: tell what the present replicas cost; existing
    controllers do not. *seen* are the servers as they were seen last, of which the service shows
    what decides nothing.
    """

    service: ServiceClient
    era: Era = "today"
    with_cost: bool = True
    seen: Callable[[], Mapping[str, ServerView]] = dict

    def __call__(self, data: SystemData, settings: OptimizerSettings) -> Solution:  # noqa: ARG002 the port
        """Return what the service answers for the servers of *data*. Raise BackendError, of phase
        decide, if it fails.
        """
        seen = self.seen()
        rows = [
            server_row(server, with_cost=self.with_cost)
            | (shown_row(seen.get(server.name)) if seen else {})
            for server in data.servers.values()
        ]
        message = optimize_message(data, rows, era=self.era)
        answer = self.service.post("optimizeOne", message, phase="decide")
        try:
            read = read_optimized(answer)
        except SpecError as problem:
            raise BackendError(f"optimizer: {problem}", phase="decide") from None
        # Nobody asked for other servers, and nothing is known of them.
        return replace(
            read,
            allocations={
                name: found for name, found in read.allocations.items() if name in data.servers
            },
            unserved={name: why for name, why in read.unserved.items() if name in data.servers},
        )


def remote_policy(
    service: ServiceClient,
    *,
    backend: HttpBackend | None = None,
    era: Era = "today",
    **options: Any,
) -> SloPolicy:
    """Return the SLO policy that asks *service* to optimize, and tells it what *backend* saw last.
    Raise SpecError for an unknown option or a wrong value.
    """
    if era not in get_args(Era):
        raise SpecError(f"policy remote: era: expected {' or '.join(get_args(Era))}, found {era!r}")
    for option in options:
        if option not in OPTIONS:
            raise SpecError(
                f"policy remote: expected options: one of {', '.join(OPTIONS)}; found {option!r}"
            )
    ours = not options.get("compat", False)
    seen: Callable[[], Mapping[str, ServerView]] = backend.servers if backend and ours else dict
    optimize = RemoteOptimizer(service=service, era=era, with_cost=ours, seen=seen)
    return SloPolicy(optimize=optimize, name="remote", **options)
