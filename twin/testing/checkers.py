"""Checkers that watch simulated runs of a cluster: what must hold after every event, and of the
truth at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import simpy

from twin.kernel import SCRAPE, at
from twin.request import Outcome
from twin.serving.capacity import CapacityChange
from twin.serving.cluster import Cluster
from twin.spec import ClusterSpec
from twin.testing.worlds import cluster_of

Columns = Mapping[str, npt.NDArray[Any]]
_AFTER_SCRAPE = type(SCRAPE)(SCRAPE + 1)


@dataclass(slots=True, kw_only=True)
class Watch:
    """Looks at a cluster after every event of its environment, and counts its requests every
    *tick_s*.

    counted holds (instant, requests in the cluster then), to be compared with the records at the
    end.
    """

    env: simpy.Environment
    cluster: Cluster
    tick_s: float
    counted: list[tuple[float, int]] = field(default_factory=list)
    used_before: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.used_before = {
            name: capacity.used for name, capacity in self.cluster.snapshot().capacity.items()
        }
        self._await_tick(1)

    def run(self, until_s: float) -> None:
        """Run to *until_s* event by event; raise AssertionError at the first one after which
        something is wrong.
        """
        while self.env.peek() < until_s:
            before_s = self.env.now
            self.env.step()
            assert self.env.now >= before_s, f"time went back from {before_s} to {self.env.now}"
            check_now(self)
            if self.env.peek() > self.env.now:
                check_settled(self)
        self.env.run(until=until_s)

    def _await_tick(self, number: int) -> None:
        def tick() -> None:
            self.counted.append((float(self.env.now), _requests_inside(self.cluster, self.env.now)))
            self._await_tick(number + 1)

        at(self.env, number * self.tick_s, priority=_AFTER_SCRAPE, action=tick)


def watched(
    spec: ClusterSpec, *, seed: int = 1, tick_s: float = 5.0
) -> tuple[simpy.Environment, Cluster, Watch]:
    """Return a fresh environment, the cluster in it, and the watch that runs both."""
    env, cluster = cluster_of(spec, seed=seed)
    return env, cluster, Watch(env=env, cluster=cluster, tick_s=tick_s)


_shown = attrgetter("name", "phase", "since_s", "max_batch", "restarts")  # of a pod between scrapes


def check_now(watch: Watch) -> None:
    """Check what holds after every event, also in the midst of an instant."""
    view = watch.cluster.snapshot()
    held: dict[str, int] = dict.fromkeys(view.capacity, 0)
    for deployment in watch.cluster.deployments:
        name, pods = deployment.server.name, deployment.pods
        ready = [pod for pod in pods if pod.phase == "ready"]
        draining = sum(pod.phase == "draining" for pod in pods)
        assert len(ready) <= deployment.desired.pool.replicas, (
            f"{name}: {len(ready)} ready, wanted {deployment.desired.pool.replicas}"
        )
        state = view.servers[name]
        assert (state.ready, state.draining) == (len(ready), draining), (
            f"{name}: the snapshot miscounts its pods"
        )
        assert list(map(_shown, state.pods)) == list(map(_shown, pods)), (
            f"{name}: the snapshot shows pods as they were before"
        )
        replicas = {id(pod.replica) for pod in ready}
        routed = {id(replica) for replica in deployment.gateway.replicas}
        assert routed == replicas, f"{name}: the router does not route to exactly the ready pods"
        for pod in pods:
            if pod.phase != "pending":
                held[pod.life.type] += pod.life.gpus
    for type_, capacity in view.capacity.items():
        assert held[type_] == capacity.used, (
            f"{type_}: pods hold {held[type_]} GPUs, the ledger says {capacity.used}"
        )
        # Capacity may fall below use; then use may only fall.
        assert capacity.used <= max(capacity.total, watch.used_before.get(type_, capacity.total)), (
            f"{type_}: {capacity.used} GPUs held of {capacity.total}"
        )
        watch.used_before[type_] = capacity.used


def check_settled(watch: Watch) -> None:
    """Check what holds when everything of an instant has happened."""
    ledger = watch.cluster._ledger
    for deployment in watch.cluster.deployments:
        name = deployment.server.name
        assert not (deployment.gateway.backlog and deployment.gateway.replicas), (
            f"{name}: requests wait though a pod is ready"
        )
        staying = [pod for pod in deployment.pods if pod.phase != "draining"]
        pool = deployment.desired.pool
        new = [
            pod
            for pod in staying
            if (pod.life.accelerator, pod.max_batch) == (pool.accelerator, pool.max_batch)
            or (
                deployment.server.max_batch_change == "live"
                and pod.life.accelerator == pool.accelerator
            )
        ]
        assert len(new) == pool.replicas, (
            f"{name}: {len(new)} pods of the desired kind, wanted {pool.replicas}"
        )
        for pod in deployment.pods:
            if pod.phase == "pending":
                assert pod.claim is not None
                can_have = ledger.is_next(pod.claim) and pod.claim.gpus <= ledger.free(
                    pod.claim.type
                )
                assert not can_have, (
                    f"{pod.name}: pending though its GPUs are free and its turn has come"
                )


def check_truth(cluster: Cluster, now_s: float) -> None:
    """Check the records of a run that has been brought to *now_s*: nothing lost, nothing twice,
    time never back.
    """
    unfinished = cluster.unfinished()
    requests = cluster.requests.frame()
    for deployment in cluster.deployments:
        logged = requests["id"][requests["server"] == deployment.index].tolist()
        held = [request.id for request in unfinished if request.server_index == deployment.index]
        assert sorted(logged + held) == list(range(deployment.gateway.arrivals)), (
            f"{deployment.server.name}: {deployment.gateway.arrivals} requests arrived, "
            f"{len(logged)} are in the log, "
            f"{len(held)} in flight, {len({*logged, *held})} different"
        )
    pods = cluster.pods.frame()
    check_requests(requests, now_s, overhead_s=_overhead_s(cluster))
    check_lives(pods, now_s)
    check_capacity(pods, cluster.capacity_history)


def _overhead_s(cluster: Cluster) -> float:
    return max((engine.overhead_ms for engine in cluster.spec.engines.values()), default=0.0) / 1e3


def check_records(
    requests: Columns, pods: Columns, end_s: float, *, overhead_s: float = 0.0
) -> None:
    """Check the columns of a whole run, unfinished requests included: what a saved run has to
    offer. A client may see the end *overhead_s* later than the engine.
    """
    for server in np.unique(requests["server"]):
        ids = np.sort(requests["id"][requests["server"] == server])
        assert np.array_equal(ids, np.arange(ids.size)), (
            f"server {server}: requests lost or recorded twice"
        )
    check_requests(requests, end_s, overhead_s=overhead_s)
    check_lives(pods, end_s)


def check_requests(requests: Columns, now_s: float, *, overhead_s: float = 0.0) -> None:
    """Check that every request went through its life in order."""
    ended = requests["outcome"] != Outcome.UNFINISHED
    arrival_s, token_s, finish_s = (
        requests[name] for name in ("arrival_s", "first_token_s", "finish_s")
    )
    assert np.all(arrival_s <= now_s), "a request arrived after the end"
    assert np.all(arrival_s[ended] <= finish_s[ended]), "a request ended before it arrived"
    assert np.all(finish_s[ended] <= now_s + overhead_s), "a request ended after the end"
    assert np.all(np.isnan(finish_s[~ended])), "an unfinished request has an end"
    finished = requests["outcome"] == Outcome.FINISHED
    assert np.all(arrival_s[finished] < token_s[finished]), "a token came before its request"
    assert np.all(token_s[finished] <= finish_s[finished]), "the last token was not the last"


def check_lives(pods: Columns, now_s: float) -> None:
    """Check that every life of a pod went through its phases in order, and ended for a reason."""
    times_s = [
        pods[name] for name in ("asked_s", "granted_s", "ready_s", "draining_s", "released_s")
    ]
    reached_s = times_s[0]
    for times in times_s[1:]:
        assert not np.any(times < reached_s), f"times go back: {pods['pod'][times < reached_s]}"
        reached_s = np.fmax(reached_s, times)
    assert np.all(reached_s <= now_s), "a pod lived after the end"
    assert np.array_equal(np.isnan(pods["released_s"]), pods["end"] == ""), (
        "a life ended without a reason"
    )
    assert not np.any(~np.isnan(pods["ready_s"]) & np.isnan(pods["granted_s"])), (
        "a pod was ready without GPUs"
    )


def check_capacity(pods: Columns, history: Sequence[CapacityChange]) -> None:
    """Check from the records that no GPU was granted when all were held, also while draining or
    rolling.
    """
    crashed = {
        (pod, t_s)
        for pod, t_s, end in zip(pods["pod"], pods["released_s"], pods["end"], strict=True)
        if end == "crash"
    }
    released_s = np.where(np.isnan(pods["released_s"]), np.inf, pods["released_s"])
    for type_ in {change.type for change in history}:
        holders = (pods["type"] == type_) & ~np.isnan(pods["granted_s"])
        totals = [change for change in history if change.type == type_]
        for pod, granted_s in zip(pods["pod"][holders], pods["granted_s"][holders], strict=True):
            if (pod, granted_s) in crashed:
                continue  # a restart keeps its GPUs, also where capacity has fallen below use
            held = holders & (pods["granted_s"] <= granted_s) & (granted_s < released_s)
            at_once = [change.total for change in totals if change.t_s == granted_s]
            before = [change.total for change in totals if change.t_s < granted_s]
            used = pods["gpus"][held].sum()
            assert used <= max([*before[-1:], *at_once]), (
                f"{type_}: {used} GPUs held at {granted_s}"
            )


def check_counts(watch: Watch) -> None:
    """Check that the requests counted inside at each tick are those that the records say were
    inside.

    It is Little's law instant by instant: the mean of the counts is the arrival rate
    times the mean time spent inside.
    """
    frame = watch.cluster.requests.frame()
    unfinished = watch.cluster.unfinished()
    arrival_s = np.sort(
        np.concatenate([frame["arrival_s"], [request.arrival_s for request in unfinished]])
    )
    end_s = np.sort(frame["finish_s"])
    for t_s, counted in watch.counted:
        inside = np.searchsorted(arrival_s, t_s, side="right") - np.searchsorted(
            end_s, t_s, side="right"
        )
        assert counted == inside, (
            f"at {t_s}: {counted} requests counted inside, {inside} by their records"
        )


def _requests_inside(cluster: Cluster, now_s: float) -> int:
    inside = 0
    for deployment in cluster.deployments:
        inside += len(deployment.gateway.backlog)
        for pod in deployment.pods:
            if pod.replica is not None:
                pod.replica.advance(now_s, inclusive=True)
                inside += len(pod.replica.in_flight(now_s))
    return inside
