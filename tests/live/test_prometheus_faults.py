"""What goes wrong with a Prometheus, and its end: nothing is taken away meanwhile, it is told, and
the server acts again within two cycles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from kubernetes import client

from loop.backends.kube import labels as names
from loop.backends.kube.client import KubeClient
from loop.backends.metrics.api import PrometheusSettings
from loop.backends.metrics.prometheus import Prometheus
from loop.clocks import MonotonicClock, date_now
from loop.controller import Controller
from loop.testing.fakes import ManualClock
from loop.types import CycleRecord
from tests.live.kube_worlds import PATIENT, cluster_spec, eventually, manifest, slo_loop
from tests.live.scraping_prometheus import ScrapingPrometheus
from tests.live.twin_served import ServedTwin, serving_twin

SCRAPE_S, SCRAPES = 15.0, 4
CALM_RPM, BUSY_RPM = "30", "300"
FAULT_CYCLES, CYCLES_MAX = 3, 2
MODES = ("gone", "slow", "no numbers", "stale", "restarted empty")


@dataclass(kw_only=True)
class House:
    """A cluster in virtual time, its Prometheus, and a loop over both."""

    twin: ServedTwin
    apps: client.AppsV1Api
    clock: ManualClock
    prometheus: ScrapingPrometheus
    loop: Controller

    def cycle(
        self,
        *,
        before_scrape: Callable[[], None] = lambda: None,
        scrapes: int = SCRAPES,
        every_s: float = SCRAPE_S,
    ) -> CycleRecord:
        """Let a period pass, with the scrapes of it, and run a cycle."""
        for _ in range(scrapes):
            self.clock.time_s += every_s
            eventually(lambda: self.twin.cluster.now_s >= self.clock.time_s, "the twin keeps up")
            before_scrape()
            self.prometheus.scrape()
        return self.loop.cycle(self.clock.time_s)

    def label(self, name: str, key: str, value: str) -> None:
        """Change a label of a Deployment."""
        body = {"metadata": {"labels": {key: value}}}
        self.apps.patch_namespaced_deployment(name, "infer", body)

    def wanted(self, name: str) -> int:
        """Return how many replicas a Deployment is asked to have."""
        return int(self.apps.read_namespaced_deployment(name, "infer").spec.replicas)


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """Serve one cluster for all faults: each has a server of its own."""
    clock, epoch = ManualClock(), date_now()

    def date_s() -> float:
        return epoch.timestamp() + clock.time_s

    with serving_twin(cluster_spec(), clock=clock.now_s) as twin, twin.api() as api:
        calls = KubeClient(twin.api, clock=MonotonicClock(), timeouts=PATIENT)
        scraping = ScrapingPrometheus(calls, namespace="infer", date_s=date_s)
        source = Prometheus(
            PrometheusSettings(url="http://prometheus:9090"),
            wall_s=date_s,
            transport=scraping.transport,
        )
        client.CoreV1Api(api).create_namespace({"metadata": {"name": "infer"}})
        with slo_loop(calls, source, clock=clock, epoch=epoch, pause=None) as (_, loop):
            yield House(
                twin=twin,
                apps=client.AppsV1Api(api),
                clock=clock,
                prometheus=scraping,
                loop=loop,
            )


@pytest.mark.parametrize("what", MODES)
def test_a_prometheus_that_fails_takes_nothing_away_and_holds_nobody_after_it(
    house: House, what: str
) -> None:
    """The load has grown meanwhile; labels of another time and NaN are no load of nothing."""
    server = f"s{house.clock.time_s:.0f}"
    load = {names.LOAD_RPM: CALM_RPM, names.LOAD_OUT_TOKENS: "1000"}
    body = manifest(server, server=server, replicas=1, labels=load)
    house.apps.create_namespaced_deployment("infer", body)
    for _ in range(3):
        calm = house.cycle()
    assert calm.error == ""
    before = house.wanted(server)
    house.label(server, names.LOAD_RPM, BUSY_RPM)
    if what == "restarted empty":
        for _ in range(FAULT_CYCLES):
            house.cycle(before_scrape=house.prometheus.restart_empty)
    else:
        house.prometheus.mode = what  # type: ignore[assignment]
        during = [house.cycle() for _ in range(FAULT_CYCLES)]
        house.prometheus.mode = "well"
        assert any(during[-1].warnings)
    assert house.wanted(server) >= before
    after = [house.cycle() for _ in range(CYCLES_MAX)]
    assert after[-1].error == ""
    assert after[-1].decision is not None
    assert not after[-1].decision.targets[server].held
    assert house.wanted(server) > 1
    house.apps.delete_namespaced_deployment(server, "infer")
    house.cycle()


@pytest.mark.parametrize(("away_s", "lost"), [(90.0, False), (200.0, False), (30.0, True)])
def test_after_a_gap_a_loop_of_short_periods_acts_in_the_second_cycle(
    house: House, away_s: float, lost: bool
) -> None:
    """A quarter of the window lasts longer than two periods of 10 s. What came while nobody looked
    is in the counters, and no burst behind it is taken for a rate; what Prometheus had may be lost.
    """
    server = f"s{house.clock.time_s:.0f}"
    load = {names.LOAD_RPM: BUSY_RPM, names.LOAD_OUT_TOKENS: "400"}
    house.apps.create_namespaced_deployment(
        "infer", manifest(server, server=server, replicas=2, labels=load)
    )
    for _ in range(15):
        record = house.cycle(scrapes=2, every_s=5.0)
    assert record.decision is not None
    assert not record.decision.targets[server].held
    house.prometheus.mode = "stale"  # it takes no samples
    for _ in range(round(away_s / 10.0)):
        house.cycle(scrapes=2, every_s=5.0)
    if lost:
        house.prometheus.restart_empty()
    house.prometheus.mode = "well"
    after = [house.cycle(scrapes=2, every_s=5.0) for _ in range(CYCLES_MAX)]
    for record in after:
        assert record.decision is not None
        assert record.seen is not None
        assert not record.decision.targets[server].held
        seen = record.seen.servers[server].load
        assert seen is not None
        assert seen.rate_rpm == pytest.approx(float(BUSY_RPM), rel=0.25)
    assert any("nothing was told for a while" in line for line in after[0].warnings)
    later = [house.cycle(scrapes=2, every_s=5.0) for _ in range(2)]
    assert not any("for a while" in line for line in later[-1].warnings)
    house.apps.delete_namespaced_deployment(server, "infer")
    house.cycle()
