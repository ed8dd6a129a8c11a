"""The controller's own metrics for Prometheus, in a registry of their own; fed with records
only.
"""

from __future__ import annotations

from collections import defaultdict, deque
from datetime import datetime
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from loop.actuator import planned
from loop.records import held_servers
from loop.services.world_metrics import Concern, WorldMetrics

if TYPE_CHECKING:
    from loop.spec import SystemData
    from loop.types import CycleRecord, ServerView

SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0)
ATTAINMENT_CYCLES = 60  # an hour of cycles of a minute


class ControllerMetrics:
    """Counts cycles and shows the latest decision. `observe` is called by one thread; any may
    collect from `registry`.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.world = WorldMetrics(self.registry)
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
        self._attainment = self._per_server(
            "inferno_slo_attainment",
            f"Share of the latest {ATTAINMENT_CYCLES} cycles with figures whose mean TTFT and ITL "
            "were within target.",
        )
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
        self._met: dict[str, deque[bool]] = defaultdict(lambda: deque(maxlen=ATTAINMENT_CYCLES))

    @property
    def concern(self) -> Concern:
        """Return what is amiss with the world as a whole, by the latest cycle that saw it."""
        return self.world.concern

    def observe(self, record: CycleRecord) -> None:
        """Take in the record of a cycle."""
        self._cycles.labels("failed" if record.failed else "ok").inc()
        self._duration.observe(record.timing.total_ms / 1000.0)
        self._paused.set(1.0 if record.paused else 0.0)
        self.world.warn(record.warning_kinds)
        if not record.failed:
            self._success.set(datetime.fromisoformat(record.ts).timestamp())
        if record.seen is None or record.decision is None:
            # The last decision stands: whoever scales by it keeps what there is.
            self.world.hold_all("cycle-failed")
            self.world.pass_time(record.now_s)
            return
        # While the loop is paused nobody may scale by its metric either.
        desired = planned(record.seen, () if record.paused else record.changes)
        self.world.look(record.seen, desired=desired, held=held_servers(record), now_s=record.now_s)
        self._cost.set(record.total_cost_cents_per_h)
        for name, pool in desired.items():
            self._wanted.labels(name).set(pool.replicas)
            self._judge(record.seen.servers[name], record.data)
        self._forget(self._servers - record.seen.servers.keys())
        self._servers = set(record.seen.servers)

    def _judge(self, view: ServerView, data: SystemData | None) -> None:
        """Note whether the latencies of a server are within its targets, if both are known."""
        met = within_target(view, data)
        if met is not None:
            met_by_cycle = self._met[view.name]
            met_by_cycle.append(met)
            self._attainment.labels(view.name).set(sum(met_by_cycle) / len(met_by_cycle))

    def _per_server(self, name: str, help_text: str) -> Gauge:
        return Gauge(name, help_text, ["server"], registry=self.registry)

    def _forget(self, gone: set[str]) -> None:
        """Drop the series of servers that are no longer there: a last value would look alive for
        ever.
        """
        for name in gone:
            self._wanted.remove(name)
            if self._met.pop(name, None) is not None:
                self._attainment.remove(name)


def within_target(view: ServerView, data: SystemData | None) -> bool | None:
    """Tell whether the latencies that were seen are within the targets of the server; None if there
    is no target for a figure that was seen.
    """
    target = data.target(service_class=view.service_class, model=view.model) if data else None
    if target is None:
        return None
    # 0 means "not set" in the data files.
    judged = [
        seen_ms <= target_ms
        for seen_ms, target_ms in (
            (view.ttft_ms, target.slo_ttft_ms),
            (view.itl_ms, target.slo_itl_ms),
        )
        if seen_ms is not None and target_ms > 0.0
    ]
    return all(judged) if judged else None
