"""The controller's own metrics for Prometheus, in a registry of their own; fed with records
only.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from loop.actuator import planned
from loop.optimizer.shadow import model_errors
from loop.policies.sped import in_world_time
from loop.records import capacity_rows, held_servers, sleeping_servers
from loop.services.attainment import LOOKS, Attainment, within_target
from loop.services.world_metrics import Concern, ReasonGauge, WorldMetrics

if TYPE_CHECKING:
    from loop.spec import SystemData
    from loop.types import Change, CycleRecord, Decision, ServerView, Snapshot, WhyKind

SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0)
PER_TYPE = MappingProxyType(
    {
        "inferno_gpus_available": "GPUs there are.",
        "inferno_gpus_allocated": "GPUs that the latest decision takes.",
    }
)
OUTCOMES = ("met", "missed")
IN_PART = frozenset({"capacity", "budget"})  # what a target gives as its reason then
ERROR_METRICS = ("ttft", "itl", "throughput", "start_up")
PER_SERVER = MappingProxyType(
    {
        "inferno_wanted_replicas": "Replicas last decided on.",
        "inferno_load_requests_per_minute": "Requests that arrive, as the latest cycle saw them.",
        "inferno_ttft_seconds": "Mean time to first token, as the latest cycle saw it.",
        "inferno_itl_seconds": "Mean inter-token latency, as the latest cycle saw it.",
        "inferno_slo_ttft_seconds": "The target of the time to first token.",
        "inferno_slo_itl_seconds": "The target of the inter-token latency.",
        "inferno_slo_attainment": f"Share of the latest {LOOKS} cycles with figures "
        "whose mean TTFT and ITL were within target.",
    }
)


class ControllerMetrics:
    """Counts cycles and shows the latest decision. `observe` is called by one thread; any may
    collect from `registry`. In a second of the loop *speed* seconds of the world pass, if that is a
    twin.
    """

    def __init__(self, *, speed: float = 1.0) -> None:
        self._speed = speed
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
        self._per_server = {
            name: LabelledGauge(name, text, "server", self.registry)
            for name, text in PER_SERVER.items()
        }
        self._judged = Counter(
            "inferno_slo_cycles",
            "Cycles in which the mean TTFT and ITL of a server met or missed its targets.",
            ["server", "outcome"],
            registry=self.registry,
        )
        self._unserved = ReasonGauge(
            "inferno_unserved_servers",
            "Servers that cannot be served as their targets ask, or not all that comes, by reason.",
            self.registry,
        )
        self._per_type = {
            name: LabelledGauge(name, text, "type", self.registry)
            for name, text in PER_TYPE.items()
        }
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
        self._errors = Gauge(
            "inferno_model_error_ratio",
            "How wrong the data of a server are: measured over estimated, less 1, by metric (ttft, "
            f"itl, throughput, start_up), over its latest {LOOKS} steady cycles.",
            ["server", "metric"],
            registry=self.registry,
        )
        self._error_logs: dict[tuple[str, str], deque[float]] = {}
        self._error_of: dict[str, tuple[str, str]] = {}  # model and accelerator by server
        self._steady_since_s: dict[str, float] = {}
        self._met: dict[str, Attainment] = defaultdict(Attainment)

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
        if record.error and not record.failed:
            self.world.warn(["data"])  # refused, and the last good ones used
        if not record.failed:
            self._success.set(datetime.fromisoformat(record.ts).timestamp())
        if record.seen is None or record.decision is None:
            # The last decision stands: whoever scales by it keeps what there is.
            self.world.hold_all("cycle-failed")
            self.world.pass_time(record.now_s)
            return
        # While the loop is paused nobody may scale by its metric either.
        desired = planned(record.seen, () if record.paused else record.changes)
        self.world.look(
            record.seen,
            desired=desired,
            held=held_servers(record),
            asleep=sleeping_servers(record),
            now_s=record.now_s,
            refused={
                name: target.why.text
                for name, target in record.decision.targets.items()
                if target.held and target.why.kind == "refused"
            },
            taken=record.applied and bool(record.changes),
        )
        self._cost.set(record.total_cost_cents_per_h)
        self._unserved.show(_short(record.decision).values())
        gpus = capacity_rows(record)
        for metric, gauge in self._per_type.items():
            field = metric.removeprefix("inferno_gpus_")
            gauge.show({row["type"]: row[field] for row in gpus})
        self._show_servers(record.seen.servers, desired, record.data)
        # The data have the seconds of the world, and so do estimates by them.
        self._show_errors(in_world_time(record.seen, speed=self._speed), record.data)

    def _show_errors(self, seen: Snapshot, data: SystemData | None) -> None:
        """Show how wrong the data of each server have been of late. On another accelerator it is
        another model that is wrong: what was known is forgotten.
        """
        for name, told in list(self._error_of.items()):
            view = seen.servers.get(name)
            if view is None or (view.model, view.accelerator) != told:
                del self._error_of[name]
                for key in [key for key in self._error_logs if key[0] == name]:
                    del self._error_logs[key]
                    self._errors.remove(*key)
        if data is None:
            return
        found = model_errors(seen, data)
        since_s = {name: self._steady_since_s.get(name, seen.now_s) for name in found}
        self._steady_since_s = since_s
        # Latencies are of a window: who queued at its beginning is still in the means of its end.
        window_s = (seen.window_s or 0.0) + (seen.scrape_interval_s or 0.0)
        for name, errors in found.items():
            if seen.now_s - since_s[name] < window_s:
                continue
            view = seen.servers[name]
            self._error_of[name] = (view.model, view.accelerator)
            for metric in ERROR_METRICS:
                error = getattr(errors, metric)
                if error is None:
                    continue
                logs = self._error_logs.setdefault((name, metric), deque(maxlen=LOOKS))
                # Ratios: twice as slow and twice as fast are as wrong as each other.
                logs.append(math.log1p(error))
                self._errors.labels(name, metric).set(math.expm1(sum(logs) / len(logs)))

    def _show_servers(
        self,
        servers: Mapping[str, ServerView],
        desired: Mapping[str, Change],
        data: SystemData | None,
    ) -> None:
        """Show figures, targets and attainment of *servers*, and drop what is not known any
        more.
        """
        for name in self._met.keys() - servers.keys():
            del self._met[name]
            for outcome in OUTCOMES:
                self._judged.remove(name, outcome)
        rows = {name: self._figures(view, data) for name, view in servers.items()}
        for name, change in desired.items():
            rows[name]["inferno_wanted_replicas"] = change.replicas
        for metric, gauge in self._per_server.items():
            gauge.show({name: row.get(metric) for name, row in rows.items()})

    def _figures(self, view: ServerView, data: SystemData | None) -> dict[str, float | None]:
        """Return what is shown of a server, by metric, once its cycle is judged."""
        target = data.target(service_class=view.service_class, model=view.model) if data else None
        met = within_target(target, ttft_ms=view.ttft_ms, itl_ms=view.itl_ms)
        if met is not None:
            if view.name not in self._met:
                # As with failures: the first miss would be hidden from rate().
                for outcome in OUTCOMES:
                    self._judged.labels(view.name, outcome)
            self._met[view.name].add(met=met)
            self._judged.labels(view.name, "met" if met else "missed").inc()
        of_late = self._met.get(view.name)
        return {
            "inferno_load_requests_per_minute": view.load.rate_rpm if view.load else None,
            "inferno_ttft_seconds": _seconds(view.ttft_ms),
            "inferno_itl_seconds": _seconds(view.itl_ms),
            "inferno_slo_ttft_seconds": _seconds((target and target.slo_ttft_ms) or None),
            "inferno_slo_itl_seconds": _seconds((target and target.slo_itl_ms) or None),
            "inferno_slo_attainment": of_late.share if of_late else None,
        }


class LabelledGauge:
    """A gauge with a series for each value of its *label* of which a figure is known."""

    def __init__(self, name: str, text: str, label: str, registry: CollectorRegistry) -> None:
        self._gauge = Gauge(name, text, [label], registry=registry)
        self._shown: set[str] = set()

    def show(self, figures: Mapping[str, float | None]) -> None:
        """Show *figures* by label, and drop all others: a last value would look alive for ever."""
        known = {name: value for name, value in figures.items() if value is not None}
        for name in self._shown - known.keys():
            self._gauge.remove(name)
        for name, value in known.items():
            self._gauge.labels(name).set(value)
        self._shown = set(known)


def _short(decision: Decision) -> dict[str, WhyKind]:
    """Return why servers cannot be served as their targets ask: nothing serves them so, or GPUs and
    money serve a part of what comes.
    """
    parts = {
        name: target.why.kind
        for name, target in decision.targets.items()
        if target.why.kind in IN_PART
    }
    return {**parts, **{name: why.kind for name, why in decision.unserved.items()}}


def _seconds(figure_ms: float | None) -> float | None:
    return None if figure_ms is None else figure_ms / 1000.0
