"""A real Prometheus scrapes the twin and tells the loop its load: the rules about its answers, on
real answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from loop.backends.kube import labels as names
from loop.backends.kube.backend import KubeBackend
from loop.backends.kube.client import KubeClient
from loop.backends.kube.read import read_servers
from loop.backends.kube.read import scraped as of_metrics
from loop.backends.kube.settings import KubeSettings
from loop.backends.metrics.api import PrometheusSettings
from loop.backends.metrics.pods import PodMetrics, ProxiedPages
from loop.backends.metrics.prometheus import Prometheus
from loop.backends.metrics.source import MetricsSource
from loop.clocks import MonotonicClock, date_now
from loop.signals.demand import WindowSettings
from loop.types import ServerView, Snapshot
from tests.live.kube_worlds import KubeWorld, eventually, kube_world, manifest
from tests.live.prometheus_server import PrometheusServer, backfill, prometheus_server
from tests.loop.kube_objects import pod, server

# The twin runs ten times as fast: 1200 rpm are 200 requests in a second of the machine.
SPEED = 10.0
RPM = 1200.0
WINDOW = WindowSettings(window_s=5.0, stale_s=3.0, speed=SPEED)
BUSY = {names.LOAD_RPM: f"{RPM:.0f}", names.LOAD_IN_TOKENS: "256", names.LOAD_OUT_TOKENS: "64"}


@dataclass(kw_only=True)
class Scraped:
    """A cluster, and the Prometheus that scrapes it."""

    world: KubeWorld
    server: PrometheusServer

    def view(self) -> ServerView:
        """Return what is seen of s1."""
        return self.world.backend.observe().servers["s1"]

    def measured(self) -> bool:
        """Tell whether the load has been measured over nearly a full window."""
        view = self.view()
        return view.load is not None and view.ttft_ms is not None and view.load.rate_rpm > 0.5 * RPM


@contextmanager
def scraped(folder: Path, *, matchers: str = "", fallback: bool = True) -> Iterator[Scraped]:
    """Run a cluster with one busy server, a Prometheus over it, and a backend that asks this
    one.
    """
    clock, epoch = MonotonicClock(), date_now()
    with kube_world(speed=SPEED) as bare, prometheus_server(folder, bare.twin.url) as server:
        bare.create(manifest(labels=BUSY))
        settings = PrometheusSettings(url=server.url, window=WINDOW, matchers=matchers)
        backend = KubeBackend(
            bare.calls,
            Prometheus(settings),
            clock=clock,
            epoch=epoch,
            settings=KubeSettings(namespaces=("infer",), labels_stand_in=fallback),
        )
        with closing(backend):
            yield Scraped(
                world=replace(bare, backend=backend, clock=clock, epoch=epoch), server=server
            )


def test_the_load_that_prometheus_tells_is_the_one_that_the_twin_was_given(tmp_path: Path) -> None:
    """From the label through requests, counters, scrapes and the query back to a rate."""
    with scraped(tmp_path) as cluster:
        eventually(cluster.measured, "a load is measured")
        eventually(
            lambda: abs(_rate(cluster.view()) - RPM) < 0.15 * RPM, "the rate is that of the label"
        )
        view = cluster.view()
        assert view.load is not None
        assert view.load.in_tokens == pytest.approx(256, rel=0.15)
        assert view.load.out_tokens == pytest.approx(64, rel=0.15)
        assert view.itl_ms is not None
        assert 5.0 < view.itl_ms < 50.0
        # What came while the first pod was late has ended all at once.
        eventually(
            lambda: cluster.view().completions_rpm == pytest.approx(RPM, rel=0.2),
            "as many end as come",
        )
        assert view.running > 0
        assert view.replicas_min == 1
        told: list[ServerView] = []
        eventually(
            lambda: told.append(cluster.view()) or len(told[-1].percentiles_ms) == 4,  # type: ignore[func-returns-value]
            "percentiles are told",
        )
        found = told[-1].percentiles_ms
        # The mean lies between the first and the last bucket that has one.
        assert 0.5 * view.itl_ms < found["itl"]["p50"] < 2.5 * view.itl_ms
        assert 0.0 < found["ttft"]["p50"] <= found["ttft"]["p95"] <= found["ttft"]["p99"] < 1000.0
        assert told[-1].percentiles_source == "prometheus"


def test_a_prometheus_that_goes_away_holds_servers_and_is_told(tmp_path: Path) -> None:
    """Their load labels are there, and are of no use: they are of another time."""
    with scraped(tmp_path) as cluster:
        eventually(cluster.measured, "a load is measured")
        cluster.server.stop()
        seen = cluster.world.backend.observe()
        assert seen.servers["s1"].load is None
        assert _line(seen, "prometheus: ConnectError")


def test_pods_that_are_scraped_no_more_make_the_load_unknown(tmp_path: Path) -> None:
    """The twin is gone, Prometheus is not: it would show the last values for minutes."""
    with scraped(tmp_path) as cluster:
        eventually(cluster.measured, "a load is measured")
        servers = cluster.world.backend.observe()
        source = Prometheus(
            PrometheusSettings(url=cluster.server.url, window=replace(WINDOW, window_s=6.0)),
        )
        calls, epoch_s = cluster.world.calls, cluster.world.epoch.timestamp()
        read = read_servers(calls.deployments("infer"), calls.pods("infer"), epoch_s=epoch_s)
        cluster.world.twin.stop()

        def unknown() -> bool:
            found = source.measure(
                [of_metrics(server) for server in read.by_name.values()],
                now_s=cluster.world.clock.now_s(),
            )
            return found.figures["s1"].load is None and "s old: expected at most 3" in "".join(
                found.figures["s1"].warnings
            )

        assert servers.servers["s1"].load is not None
        eventually(unknown, "the samples are too old")
        source.close()


def test_without_any_series_labels_tell_the_load(tmp_path: Path) -> None:
    """A server that exports nothing is what they were made for; where they may not, it is held."""
    for fallback, rate in ((True, RPM), (False, 0.0)):
        folder = tmp_path / str(fallback)
        folder.mkdir()
        with scraped(folder, matchers='cluster="elsewhere"', fallback=fallback) as cluster:
            cluster.world.settled()
            assert _rate(cluster.view()) == rate


def test_a_bad_query_is_told_as_prometheus_says_it(tmp_path: Path) -> None:
    """It answers 400 with the place in the query."""
    with scraped(tmp_path, matchers="cluster=") as cluster:
        assert _line(cluster.world.backend.observe(), "prometheus: HTTP 400: bad_data: ")


def test_what_pods_tell_themselves_is_the_same_without_a_prometheus() -> None:
    """Through the proxy of the API server; the samples are those of the cycles."""

    def source(calls: KubeClient) -> MetricsSource:
        return PodMetrics(ProxiedPages(calls), window=WINDOW)

    with kube_world(manifest(labels=BUSY), source=source, speed=SPEED) as world:
        world.settled()

        def near() -> bool:
            view = world.backend.observe().servers["s1"]
            return view.load is not None and abs(view.load.rate_rpm - RPM) < 0.15 * RPM

        eventually(near, "the rate is that of the label")
        view = world.backend.observe().servers["s1"]
        assert view.load is not None
        assert view.load.out_tokens == pytest.approx(64, rel=0.15)
        assert world.calls.calls["proxy pods"] >= 2


def test_a_port_that_prometheus_does_not_answer_at_is_told(tmp_path: Path) -> None:
    """A page of something else, with status 200."""
    with kube_world() as world, httpx.Client(trust_env=False) as client:
        assert client.get(f"{world.twin.url}/healthz").text == "ok"
        source = Prometheus(PrometheusSettings(url=world.twin.url))
        world.create(manifest())
        read = read_servers(world.calls.deployments("infer"), (), epoch_s=0.0)
        assert (
            "prometheus: HTTP 404"
            in source.measure(
                [of_metrics(server) for server in read.by_name.values()], now_s=0.0
            ).error
        )
        source.close()


def _rate(view: ServerView) -> float:
    return view.load.rate_rpm if view.load is not None else 0.0


def _line(seen: Snapshot, beginning: str) -> bool:
    return any(line.startswith(beginning) for line in seen.warnings)


# What series call the pod and its namespace, by the letter of the pod.
OTHERWISE = {
    "a": ("kubernetes_pod_name", "kubernetes_namespace"),
    "b": ("k8s_pod_name", "k8s_namespace_name"),
    "c": ("pod", "exported_namespace"),
    "d": ("pod", "namespace"),
    "e": ("host", "team"),
}


def test_series_that_name_their_pods_otherwise_are_found_out(tmp_path: Path) -> None:
    """Nothing is seen, and nothing is wrong but the names of two labels."""
    now_s = int(time.time())
    lines, servers = "", []
    for letter, (of_pod, of_space) in OTHERWISE.items():
        one = of_metrics(server(pod(letter)))
        # A job that is called as the namespace is does not stand for it.
        told = f'job="infer",{of_pod}="{one.pods[0].name}",{of_space}="infer"'
        lines += "".join(
            f"vllm:prompt_tokens_total{{{told}}} {10 * k} {now_s - 60 + 15 * k}\n" for k in range(4)
        )
        servers.append(replace(one, name=letter))
    (tmp_path / "past.txt").write_text(f"{lines}# EOF\n")
    backfill(tmp_path, tmp_path / "past.txt")
    with (
        prometheus_server(tmp_path) as served,
        closing(Prometheus(PrometheusSettings(url=served.url))) as source,
    ):
        shown = source.show_names(servers)
    assert shown.error == ""
    assert [name for name, names in shown.names.items() if names] == ["d"]
    assert shown.elsewhere == {
        letter: "--pod-label {} --namespace-label {}".format(*OTHERWISE[letter]) for letter in "abc"
    }
