"""The controller's own metrics for Prometheus, in a registry of their own; fed with records
only.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from loop.actuator import planned

if TYPE_CHECKING:
    from loop.types import CycleRecord

SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0)


class ControllerMetrics:
    """Counts cycles and shows the latest decision. `observe` is called by one thread; any may
    collect from `registry`.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._cycles = Counter(
            "inferno_cycles",
            "Control cycles by outcome (ok, failed).",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in ("ok", "failed"):
            # A series that appears with its first failure would hide that failure from rate().
            self._cycles.labels(outcome)
        self._duration = Histogram(
            "inferno_cycle_duration_seconds",
            "How long a cycle took.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._wanted = self._per_server("inferno_wanted_replicas", "Replicas last decided on.")
        self._ready = self._per_server("inferno_ready_replicas", "Replicas seen ready.")
        self._cost = Gauge(
            "inferno_cost_cents_per_hour", "Cost of the latest decision.", registry=self.registry
        )
        self._paused = Gauge(
            "inferno_paused",
            "1 while people have stopped the loop from acting.",
            registry=self.registry,
        )
        self._success = Gauge(
            "inferno_last_success_timestamp_seconds",
            "Time of the latest cycle that went through (in the time of the world).",
            registry=self.registry,
        )
        self._servers: set[str] = set()

    def observe(self, record: CycleRecord) -> None:
        """Take in the record of a cycle."""
        self._cycles.labels("failed" if record.failed else "ok").inc()
        self._duration.observe(record.timing.total_ms / 1000.0)
        self._paused.set(1.0 if record.paused else 0.0)
        if not record.failed:
            self._success.set(datetime.fromisoformat(record.ts).timestamp())
        if record.seen is None or record.decision is None:
            return
        self._cost.set(record.total_cost_cents_per_h)
        for name, pool in planned(record.seen, record.changes).items():
            self._wanted.labels(name).set(pool.replicas)
            self._ready.labels(name).set(record.seen.servers[name].ready)
        self._forget(self._servers - record.seen.servers.keys())
        self._servers = set(record.seen.servers)

    def _per_server(self, name: str, help_text: str) -> Gauge:
        return Gauge(name, help_text, ["server"], registry=self.registry)

    def _forget(self, gone: set[str]) -> None:
        """Drop the series of servers that are no longer there: a last value would look alive for
        ever.
        """
        for name in gone:
            self._wanted.remove(name)
            self._ready.remove(name)
