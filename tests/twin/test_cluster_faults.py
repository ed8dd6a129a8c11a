"""Crashes, lost nodes and impatient drains: what becomes of the pods, the GPUs and the requests in
flight.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from twin.kernel import CONTROL, at
from twin.request import REASONS, Outcome
from twin.spec import Delay, Pool, Server, World
from twin.testing.checkers import check_truth, watched
from twin.testing.worlds import arrive, cluster_of, spec_of

S = Server(name="s", model="m", pool=Pool(accelerator="A", replicas=2, max_batch=4))


def test_a_crash_restarts_the_pod_on_its_own_gpus() -> None:
    """A process that dies does not lose its node: nobody else can take the GPUs meanwhile, and
    they cost on.
    """
    server = replace(S, pool=replace(S.pool, replicas=1), crash_rate_per_h=20.0)
    other = Server(name="t", model="m", pool=Pool(accelerator="A", replicas=1, max_batch=1))
    _, cluster, watch = watched(spec_of(server, other, capacity={"A": 1}))
    watch.run(3600.0)
    lives = [life for life in cluster.pods.lives if life.pod == "s-0"]
    assert len(lives) > 5
    for before, after in pairwise(lives):
        assert before.end == "crash"
        assert before.released_s == after.asked_s == after.granted_s
        assert after.ready_s == after.granted_s + 60.0 or after is lives[-1]
    state = cluster.snapshot().servers["s"].pods[0]
    assert (state.name, state.restarts, state.created_s) == ("s-0", len(lives) - 1, 0.0)
    assert cluster.snapshot().servers["t"].pending == 1


@pytest.mark.slow
def test_crashes_come_at_their_rate_per_ready_pod() -> None:
    """Exponential times with the given mean, counted from the instant a pod is ready: 20 per hour
    is one in 180 s.
    """
    server = replace(S, pool=replace(S.pool, replicas=10), crash_rate_per_h=20.0)
    env, cluster = cluster_of(spec_of(server, capacity={"A": 10}))
    env.run(until=20_000.0)
    spans_s = np.array(
        [life.released_s - life.ready_s for life in cluster.pods.lives if life.end == "crash"]
    )
    assert spans_s.size > 500
    # Four standard errors of the mean of an exponential; its spread is its mean.
    assert abs(spans_s.mean() - 180.0) < 4.0 * 180.0 / np.sqrt(spans_s.size)
    assert spans_s.std() == pytest.approx(180.0, rel=0.2)


@pytest.mark.parametrize("policy", ["requeue", "fail"])
def test_requests_in_flight_at_a_crash_are_requeued_or_failed_and_counted(policy: str) -> None:
    """Both happen in practice: gateways that retry and gateways that do not."""
    server = replace(S, crash_rate_per_h=60.0, crash_policy=policy)  # type: ignore[arg-type]
    env, cluster, watch = watched(spec_of(server, capacity={"A": 2}))
    arrive(env, cluster, np.linspace(0.1, 999.0, 1500).tolist(), output=200)
    watch.run(1200.0)
    check_truth(cluster, 1200.0)
    frame = cluster.requests.frame()
    failed = frame["outcome"] == Outcome.FAILED
    deployment = cluster.deployments[0]
    if policy == "fail":
        assert deployment.gateway.failed == failed.sum() > 10
        assert deployment.gateway.requeued == 0
        assert {REASONS[code] for code in frame["reason"][failed].tolist()} == {"crashed"}
    else:
        assert failed.sum() == deployment.gateway.failed == 0
        assert deployment.gateway.requeued > 10


def test_a_requeued_request_goes_before_those_that_came_after_it() -> None:
    """Its client has waited longest. One pod crashes with a full queue; all is served again in
    order of arrival.
    """
    server = replace(S, pool=replace(S.pool, replicas=1, max_batch=1))
    env, cluster, watch = watched(spec_of(server, capacity={"A": 1}))
    times_s = [1.0, 2.0, 3.0, 4.0]
    arrive(env, cluster, times_s, output=1000)
    deployment = cluster.deployments[0]
    at(env, 3.5, priority=CONTROL, action=lambda: deployment.crash(deployment.pods[0]))
    watch.run(200.0)
    cluster.advance()
    frame = cluster.requests.frame()
    assert frame["arrival_s"].tolist() == times_s
    assert frame["finish_s"].tolist() == pytest.approx([73.5, 83.5, 93.5, 103.5])
    assert deployment.gateway.requeued == 3


@pytest.mark.slow
def test_a_lost_node_takes_its_gpus_and_at_least_the_pods_that_no_longer_fit() -> None:
    """What is left never exceeds what there is, and no more pods die than the node could hold."""
    killed = []
    for seed in range(40):
        servers = [
            replace(S, pool=replace(S.pool, replicas=4)),
            Server(name="t", model="m", pool=Pool(accelerator="2xA", replicas=2, max_batch=4)),
        ]
        env, cluster, watch = watched(spec_of(*servers, capacity={"A": 12}), seed=seed)
        at(env, 100.0, priority=CONTROL, action=partial(cluster.fail_node, "A", 4))
        watch.run(101.0)
        lost = [life for life in cluster.pods.lives if life.end == "node_loss"]
        assert all(life.released_s == 100.0 for life in lost)
        capacity = cluster.snapshot().capacity["A"]
        assert capacity.total == 8
        assert sum(life.gpus for life in lost) <= 5, (
            "a node of 4 GPUs holds at most 4 of the first and one of a pair"
        )
        killed.append(len(lost))
        watch.run(300.0)
        assert cluster.snapshot().capacity["A"].used == 8, (
            "lost pods are replaced as far as GPUs are left"
        )
    assert len(set(killed)) > 2, "the node that fails is drawn at random"


def test_the_loss_of_a_node_also_ends_pods_that_drain_or_start() -> None:
    """All that is on it dies, whatever it was doing."""
    env, cluster, watch = watched(
        spec_of(replace(S, pool=replace(S.pool, replicas=1)), capacity={"A": 3})
    )
    arrive(env, cluster, [9.0], output=1000)
    at(
        env,
        10.0,
        priority=CONTROL,
        action=lambda: cluster.scale("s", Pool(accelerator="A", replicas=0, max_batch=4)),
    )
    at(
        env,
        11.0,
        priority=CONTROL,
        action=lambda: cluster.scale("s", Pool(accelerator="A", replicas=2, max_batch=4)),
    )
    at(env, 12.0, priority=CONTROL, action=lambda: cluster.fail_node("A", 3))
    at(env, 20.0, priority=CONTROL, action=lambda: cluster.set_capacity("A", 3))
    watch.run(19.0)
    assert [life.end for life in cluster.pods.lives] == ["node_loss"] * 3 + [""] * 2
    assert cluster.snapshot().servers["s"].backlog == 1
    watch.run(100.0)
    assert cluster.requests.frame()["finish_s"].tolist() == pytest.approx([90.0])


def test_requests_on_a_lost_node_fail_where_the_server_says_so() -> None:
    """The policy for crashes holds for nodes too, with a reason of its own."""
    env, cluster, watch = watched(spec_of(replace(S, crash_policy="fail"), capacity={"A": 2}))
    arrive(env, cluster, [9.0] * 5, output=1000)
    at(env, 10.0, priority=CONTROL, action=lambda: cluster.fail_node("A", 2))
    watch.run(11.0)
    frame = cluster.requests.frame()
    assert [REASONS[code] for code in frame["reason"].tolist()] == ["node_lost"] * 5
    assert frame["finish_s"].tolist() == [10.0] * 5


@pytest.mark.parametrize("policy", ["requeue", "fail"])
def test_a_drain_that_takes_too_long_is_cut_short(policy: str) -> None:
    """As a grace period does: the GPUs are free at its end, and what still ran is retried or
    lost.
    """
    server = replace(S, pool=replace(S.pool, replicas=2), crash_policy=policy, router="round_robin")  # type: ignore[arg-type]
    env, cluster, watch = watched(
        spec_of(server, capacity={"A": 2}, world=World(drain_timeout_s=30.0))
    )
    arrive(env, cluster, [9.0, 9.0, 9.1, 9.1], output=5000)
    at(
        env,
        10.0,
        priority=CONTROL,
        action=lambda: cluster.scale("s", Pool(accelerator="A", replicas=1, max_batch=4)),
    )
    watch.run(120.0)
    life = cluster.pods.lives[1]
    assert (life.draining_s, life.released_s, life.end) == (10.0, 40.0, "drain_timeout")
    frame = cluster.requests.frame()
    assert len(frame["id"]) == 4
    expected = [59.0, 59.1, 90.0, 90.0] if policy == "requeue" else [40.0, 40.0, 59.0, 59.1]
    assert np.sort(frame["finish_s"]).tolist() == pytest.approx(expected, abs=0.02)


def test_a_crash_does_not_move_the_start_up_times_of_other_servers() -> None:
    """One generator per server and purpose: paired runs that differ in one server stay pairs in the
    others.
    """

    def ready_times(*, crash_rate_per_h: float) -> list[float]:
        noisy = Server(
            name="n",
            model="m",
            pool=Pool(accelerator="A", replicas=3, max_batch=1),
            crash_rate_per_h=crash_rate_per_h,
        )
        spec = spec_of(noisy, S, capacity={"A": 20}, start_up=Delay(mean_s=60.0, cv=0.5))
        env, cluster = cluster_of(spec)
        for t_s, replicas in ((300.0, 5), (600.0, 8)):
            pool = Pool(accelerator="A", replicas=replicas, max_batch=4)
            action = partial(cluster.scale, "s", pool)
            at(env, t_s, priority=CONTROL, action=action)
        env.run(until=1000.0)
        return [life.ready_s for life in cluster.pods.lives if life.pod.startswith("s-")]

    assert ready_times(crash_rate_per_h=0.0) == ready_times(crash_rate_per_h=60.0)
