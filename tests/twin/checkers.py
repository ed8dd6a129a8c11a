"""Checkers that watch simulated runs of a cluster: what must hold after every event, and of the truth at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isnan

import numpy as np
import simpy

from tests.twin.worlds import cluster_of
from twin.cluster import Cluster
from twin.request import Outcome, Request
from twin.schedule import SCRAPE, Call
from twin.spec import ClusterSpec

_AFTER_SCRAPE = type(SCRAPE)(SCRAPE + 1)


@dataclass(slots=True, kw_only=True)
class Watch:
    """Looks at a cluster after every event of its environment, and counts its requests every *tick_s*.

    counted holds (instant, requests in the cluster then), to be compared with the records at the end.
    """

    env: simpy.Environment
    cluster: Cluster
    tick_s: float
    counted: list[tuple[float, int]] = field(default_factory=list)
    used_before: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.used_before = {name: capacity.used for name, capacity in self.cluster.snapshot().capacity.items()}
        self._await_tick(1)

    def run(self, until_s: float) -> None:
        """Run to *until_s* event by event; raise AssertionError at the first one after which something is wrong."""
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

        Call(self.env, at_s=number * self.tick_s, priority=_AFTER_SCRAPE, action=tick)


def watched(spec: ClusterSpec, *, seed: int = 1, tick_s: float = 5.0) -> tuple[simpy.Environment, Cluster, Watch]:
    """Return a fresh environment, the cluster in it, and the watch that runs both."""
    env, cluster = cluster_of(spec, seed=seed)
    return env, cluster, Watch(env=env, cluster=cluster, tick_s=tick_s)


def check_now(watch: Watch) -> None:
    """Check what holds after every event, also in the midst of an instant."""
    view = watch.cluster.snapshot()
    held: dict[str, int] = dict.fromkeys(view.capacity, 0)
    for deployment in watch.cluster.deployments:
        name, pods = deployment.server.name, deployment.pods
        ready = [pod for pod in pods if pod.phase == "ready"]
        draining = sum(pod.phase == "draining" for pod in pods)
        assert len(ready) <= deployment.wish.replicas, f"{name}: {len(ready)} ready, wanted {deployment.wish.replicas}"
        state = view.servers[name]
        assert (state.ready, state.draining) == (len(ready), draining), f"{name}: the snapshot miscounts its pods"
        replicas = {id(pod.replica) for pod in ready}
        routed = {id(replica) for replica in deployment._ready}
        assert routed == replicas, f"{name}: the router does not route to exactly the ready pods"
        for pod in pods:
            if pod.phase != "pending":
                held[pod.life.type] += pod.life.cards
    for type_, capacity in view.capacity.items():
        assert held[type_] == capacity.used, f"{type_}: pods hold {held[type_]} cards, the ledger says {capacity.used}"
        # Capacity may fall below use; then use may only fall.
        assert capacity.used <= max(capacity.total, watch.used_before.get(type_, capacity.total)), (
            f"{type_}: {capacity.used} cards held of {capacity.total}"
        )
        watch.used_before[type_] = capacity.used


def check_settled(watch: Watch) -> None:
    """Check what holds when everything of an instant has happened."""
    ledger = watch.cluster._ledger
    for deployment in watch.cluster.deployments:
        name = deployment.server.name
        assert not (deployment.backlog and deployment._ready), f"{name}: requests wait though a pod is ready"
        staying = [pod for pod in deployment.pods if pod.phase != "draining"]
        wish = deployment.wish
        new = [
            pod
            for pod in staying
            if (pod.life.accelerator, pod.max_batch) == (wish.accelerator, wish.max_batch)
            or (deployment.server.max_batch_change == "live" and pod.life.accelerator == wish.accelerator)
        ]
        assert len(new) == wish.replicas, f"{name}: {len(new)} pods of the wished kind, wanted {wish.replicas}"
        for pod in deployment.pods:
            if pod.phase == "pending":
                assert pod.claim is not None
                can_have = ledger.is_next(pod.claim) and pod.claim.cards <= ledger.free(pod.claim.type)
                assert not can_have, f"{pod.name}: pending though its cards are free and its turn has come"


def check_truth(cluster: Cluster, now_s: float) -> None:
    """Check the records of a run that has been brought to *now_s*: nothing lost, nothing twice, time never back."""
    unfinished = cluster.unfinished()
    check_requests(cluster, unfinished, now_s)
    check_lives(cluster, now_s)
    check_capacity(cluster)


def check_requests(cluster: Cluster, unfinished: list[Request], now_s: float) -> None:
    """Check that every request that arrived is finished, rejected, failed or in flight: exactly one, exactly once."""
    frame = cluster.requests.frame()
    for deployment in cluster.deployments:
        logged = frame["id"][frame["server"] == deployment.index].tolist()
        held = [request.id for request in unfinished if request.server == deployment.index]
        assert sorted(logged + held) == list(range(deployment.arrivals)), (
            f"{deployment.server.name}: {deployment.arrivals} requests arrived, {len(logged)} are in the log, "
            f"{len(held)} in flight, {len({*logged, *held})} different"
        )
    finished = frame["outcome"] == Outcome.FINISHED
    assert np.all(frame["arrival_s"] <= frame["finish_s"]), "a request ended before it arrived"
    assert np.all(frame["finish_s"] <= now_s), "a request ended after the end"
    assert np.all(frame["arrival_s"][finished] < frame["first_token_s"][finished]), "a token came before its request"
    assert np.all(frame["first_token_s"][finished] <= frame["finish_s"][finished]), "the last token was not the last"


def check_lives(cluster: Cluster, now_s: float) -> None:
    """Check that every life of a pod went through its phases in order."""
    for life in cluster.pods.lives:
        times_s = [life.asked_s, life.granted_s, life.ready_s, life.draining_s, life.released_s, now_s]
        known_s = [t_s for t_s in times_s if not isnan(t_s)]
        assert known_s == sorted(known_s), f"{life.pod}: times go back: {times_s}"
        assert isnan(life.released_s) != bool(life.end), f"{life.pod}: ended without a reason: {life}"


def check_capacity(cluster: Cluster) -> None:
    """Check from the records that no card was granted when all were held, also while draining or rolling."""
    for type_ in {change.type for change in cluster.capacity_history}:
        lives = [life for life in cluster.pods.lives if life.type == type_ and not isnan(life.granted_s)]
        totals = [change for change in cluster.capacity_history if change.type == type_]
        for granted_s in {life.granted_s for life in lives}:
            used = sum(life.cards for life in lives if life.granted_s <= granted_s and not life.released_s <= granted_s)
            at_once = [change.total for change in totals if change.t_s == granted_s]
            before = [change.total for change in totals if change.t_s < granted_s]
            restart = all(_is_restart(life.pod, granted_s, cluster) for life in lives if life.granted_s == granted_s)
            assert restart or used <= max([*before[-1:], *at_once]), f"{type_}: {used} cards held at {granted_s}"


def check_counts(watch: Watch) -> None:
    """Check that the requests counted inside at each tick are those that the records say were inside.

    It is Little's law instant by instant: the mean of the counts is the arrival rate times the mean time spent inside.
    """
    frame = watch.cluster.requests.frame()
    unfinished = watch.cluster.unfinished()
    arrival_s = np.sort(np.concatenate([frame["arrival_s"], [request.arrival_s for request in unfinished]]))
    end_s = np.sort(frame["finish_s"])
    for t_s, counted in watch.counted:
        inside = np.searchsorted(arrival_s, t_s, side="right") - np.searchsorted(end_s, t_s, side="right")
        assert counted == inside, f"at {t_s}: {counted} requests counted inside, {inside} by their records"


def _requests_inside(cluster: Cluster, now_s: float) -> int:
    inside = 0
    for deployment in cluster.deployments:
        inside += len(deployment.backlog)
        for pod in deployment.pods:
            if pod.replica is not None:
                pod.replica.advance(now_s, inclusive=True)
                inside += pod.replica.running + pod.replica.waiting
    return inside


def _is_restart(pod: str, at_s: float, cluster: Cluster) -> bool:
    return any(life.pod == pod and life.end == "crash" and life.released_s == at_s for life in cluster.pods.lives)
