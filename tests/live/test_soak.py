"""A healthy half hour of a cluster, its emulator and its loop in virtual time: nobody is held, and
what is open stays as it is.
"""

from __future__ import annotations

import gc
import importlib
import resource
import threading
from contextlib import ExitStack
from pathlib import Path

import httpx
from kubernetes import client

from emulator.to_cluster import ClusterEmulator
from emulator.walk import Walk
from inferno.worlds.emulated import EmulatedDeployments
from loop.backends.kube import labels as names
from loop.backends.kube.client import KubeClient
from loop.backends.metrics.pods import PodMetrics, ProxiedPages
from loop.clocks import MonotonicClock, date_now
from loop.testing.fakes import ManualClock
from tests.live.kube_worlds import PATIENT, cluster_spec, eventually, manifest, slo_loop
from tests.live.twin_served import ServedTwin, serving_twin

PERIOD_S = 30.0
WINDOW_CYCLES = 5  # the pods start, and a window passes
CYCLES = 60
OPEN_MORE_MAX = 8  # connections of threads that come and go
OBJECTS_MORE_MAX = 200 * (CYCLES - CYCLES // 2)  # the twin keeps some history, of bounded length

# Texts and arrays are no objects of the collector's. The allocator may keep some pages.
BYTES_MORE_MAX = 16 * 2**20


def test_in_a_healthy_half_hour_nobody_is_held_and_nothing_stays_open() -> None:
    """Holding is no answer: load walks, servers move and grow, and each cycle decides for all. What
    it takes of memory and connections levels off.
    """
    clock, epoch = ManualClock(), date_now()
    with ExitStack() as stack:
        twin = stack.enter_context(serving_twin(cluster_spec(start_up_s=60.0), clock=clock.now_s))
        api = stack.enter_context(twin.api())
        calls = KubeClient(twin.api, clock=MonotonicClock(), timeouts=PATIENT)
        source = PodMetrics(ProxiedPages(calls))
        _, loop = stack.enter_context(
            slo_loop(calls, source, clock=clock, epoch=epoch, events=True)
        )
        emulator = ClusterEmulator(EmulatedDeployments(calls), walk=Walk(alpha=0.3), seed=1)
        client.CoreV1Api(api).create_namespace({"metadata": {"name": "infer"}})
        for k in (1, 2):
            labels = {names.LOAD_RPM: str(50 * k), names.LOAD_OUT_TOKENS: "500"}
            body = manifest(f"dep{k}", server=f"s{k}", replicas=1, labels=labels)
            client.AppsV1Api(api).create_namespaced_deployment("infer", body)
        seen = watching(twin)
        # The first shortage of GPUs loads the optimizers of SciPy, which are 20,000 objects.
        importlib.import_module("scipy.optimize")
        held, open_then, objects_then, bytes_then, changes = [], 0, 0, 0, 0
        for cycle in range(CYCLES):
            clock.time_s += PERIOD_S
            eventually(lambda: twin.cluster.now_s >= clock.time_s, "the twin keeps up")
            if cycle % 2:
                emulator.disturb()
            record = loop.cycle(clock.time_s)
            assert (record.error, record.applied) == ("", True)
            changes += len(record.changes)
            if cycle == CYCLES // 2:
                open_then, objects_then = descriptors(), len(gc.get_objects())
                bytes_then = bytes_resident()
            if cycle >= WINDOW_CYCLES:
                assert record.decision is not None
                held += [one for one in record.decision.targets.values() if one.held]
        assert held == []
        assert changes > 1
        assert descriptors() <= open_then + OPEN_MORE_MAX
        assert len(gc.get_objects()) <= objects_then + OBJECTS_MORE_MAX
        assert bytes_resident() <= bytes_then + BYTES_MORE_MAX
        eventually(lambda: len(seen) > changes, "the watch has told of the changes")


def watching(twin: ServedTwin) -> list[str]:
    """Watch Deployments beside all that, and return the lines that come."""
    seen: list[str] = []

    def watch() -> None:
        url = f"{twin.url}/apis/apps/v1/deployments"
        query = {"watch": "true", "timeoutSeconds": "36000"}
        with httpx.stream("GET", url, params=query, timeout=None, trust_env=False) as answer:
            for line in answer.iter_lines():
                seen.append(line)

    began = threading.Thread(target=watch, daemon=True)
    began.start()
    return seen


def bytes_resident() -> int:
    """Return how much memory this process has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def descriptors() -> int:
    """Return how many files and connections this process has open."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))
