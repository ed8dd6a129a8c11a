"""What the optimizer was told of servers and answered about them, as metrics: each by the latest
question that named the server. The world is not seen from here.
"""

from __future__ import annotations

import threading
from collections import Counter as Counted
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from loop.services.attainment import LOOKS, Attainment, within_target
from loop.types import WarningKind

if TYPE_CHECKING:
    from loop.optimizer.solution import Solution
    from loop.ports import Clock
    from loop.schema.models import ServerSpec
    from loop.spec import SystemData
    from loop.types import OfPools

DECIDE: WarningKind = "decide"
# A cycle may ask about servers in several questions: who is in none of this long has gone.
KEPT_S = 600.0
# What nobody has asked about for so long is not said to be held: it would alarm for ever.
HELD_S = 300.0
SERVERS_MAX = 20_000


@dataclass(slots=True, kw_only=True)
class Told:
    """What is known of one server: when it was asked about last, and what was said then, by whom
    asks (ready, load_age_s, figures) and by the answer (desired, held; None and "" if it has none).
    """

    asked_s: float
    ready: int | None
    load_age_s: float | None
    figures: tuple[float, float]
    attainment: Attainment
    desired: OfPools | None
    held: str = ""


class OptimizerMetrics(Collector):
    """Shows questions and answers in *registry*. Any thread may tell of some, and collect."""

    def __init__(self, registry: CollectorRegistry, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._told: dict[str, Told] = {}  # who was asked about last stands last
        self._warnings = Counter(
            "inferno_warnings",
            "Warnings of answers: servers that get nothing, and what else an answer notes.",
            ["kind"],
            registry=registry,
        )
        # A series that appears with its first warning would hide that warning from rate().
        self._warnings.labels(DECIDE)
        registry.register(self)

    def answered(
        self,
        data: SystemData,
        solution: Solution,
        *,
        servers: Iterable[ServerSpec] = (),
        refused: bool = False,
    ) -> None:
        """Take in the *solution* of *data*, whose *servers* were told of on the wire. refused: who
        asked got an error instead of it, so that what servers were to have before still stands.
        Servers that are asked about to compare are not shown.
        """
        said = {spec.name: spec for spec in servers}
        there = {
            name: server
            for name, server in data.servers.items()
            if name not in said or not said[name].what_if
        }
        short = solution.unserved.keys() & there.keys()
        self._warnings.labels(DECIDE).inc(len(short) + bool(there and solution.note))
        now_s = self._clock.now_s()
        with self._lock:
            for name, server in there.items():
                before = self._told.pop(name, None)
                found, why = solution.allocations.get(name), solution.unserved.get(name)
                current, spec = server.current, said.get(name)
                figures = (current.ttft_ms, current.itl_ms)
                attainment = before.attainment if before else Attainment()
                if before is None or figures != before.figures:
                    # A cycle may ask several times: what was seen once is counted once.
                    target = data.target(service_class=server.service_class, model=server.model)
                    met = within_target(
                        target, ttft_ms=current.ttft_ms or None, itl_ms=current.itl_ms or None
                    )
                    if met is not None:
                        attainment.add(met=met)
                self._told[name] = Told(
                    asked_s=now_s,
                    ready=spec.ready_replicas if spec else None,
                    load_age_s=spec.load_age_s if spec else None,
                    figures=figures,
                    attainment=attainment,
                    desired=(before.desired if before else None) if refused else found,
                    held=why.kind if why else "",
                )
            self._forget(now_s - KEPT_S)

    def _forget(self, before_s: float) -> None:
        for name, told in list(self._told.items()):
            if told.asked_s >= before_s and len(self._told) <= SERVERS_MAX:
                return
            del self._told[name]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return what is known now. A figure that nobody told is absent."""
        with self._lock:
            now_s, told = self._clock.now_s(), dict(self._told)
        age = _gauge("inferno_question_age_seconds", "Time since a question named the server.")
        ready = _gauge("inferno_ready_replicas", "Replicas that are ready, as the question says.")
        load_age = _gauge(
            "inferno_load_age_seconds",
            "Age of the newest sample behind the load of a server, when the question came.",
        )
        attainment = _gauge(
            "inferno_slo_attainment",
            f"Share of the latest {LOOKS} figures told whose mean TTFT and ITL were within target.",
        )
        desired = GaugeMetricFamily(
            "inferno_desired_replicas",
            "Replicas that a server should have, on which accelerator, by the latest answer.",
            labels=["server", "accelerator"],
        )
        for name, one in told.items():
            age.add_metric([name], max(0.0, now_s - one.asked_s))
            for gauge, figure in (
                (ready, one.ready),
                (load_age, one.load_age_s),
                (attainment, one.attainment.share),
            ):
                if figure is not None:
                    gauge.add_metric([name], figure)
            if one.desired is not None:
                desired.add_metric([name, one.desired.accelerator], one.desired.replicas)
        yield from (age, ready, load_age, attainment, desired, _held(told, now_s))


def _held(told: Mapping[str, Told], now_s: float) -> GaugeMetricFamily:
    """Return how many servers got nothing and so keep what they have, by reason."""
    gauge = GaugeMetricFamily(
        "inferno_held_servers",
        "Servers that the latest answer gives nothing, by reason.",
        labels=["reason"],
    )
    lately = (one for one in told.values() if now_s - one.asked_s <= HELD_S)
    for reason, count in sorted(Counted(one.held for one in lately if one.held).items()):
        gauge.add_metric([reason], count)
    return gauge


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["server"])
