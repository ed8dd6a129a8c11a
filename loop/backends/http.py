"""A world behind two services, ours or existing ones: a collector that observes it, and an actuator
that changes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from loop.errors import BackendError, SpecError
from loop.schema.messages import KubeResource, read_collected, update_message

if TYPE_CHECKING:
    from loop.backends.http_client import ServiceClient
    from loop.ports import Clock
    from loop.types import Change, Snapshot


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

    def apply(self, changes: Sequence[Change]) -> None:
        """Ask the actuator for *changes* to what was seen last. Raise BackendError if that
        fails.
        """
        seen = self._seen or self.observe()
        self._actuator.post("update", update_message(seen, changes, self._places), phase="apply")
