"""Servers that come and go in a running cluster, and pods that are evicted, held up or lost by
name.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import simpy

from twin.kernel import CONTROL, at
from twin.request import REASONS, Outcome
from twin.serving.cluster import Cluster
from twin.spec import Delay, Pool, Server, SpecError, World
from twin.testing.worlds import arrive, cluster_of, spec_of

SERVER = Server(name="s", model="m", pool=Pool(accelerator="A", replicas=1, max_batch=4))
NEWCOMER = Server(name="t", model="m", pool=Pool(accelerator="B", replicas=5, max_batch=2))


def phases(cluster: Cluster, server: str) -> list[str]:
    """Return the phases of the pods of *server*."""
    return [pod.phase for pod in cluster.snapshot().servers[server].pods]


def test_a_server_that_comes_later_starts_its_pods_when_it_is_scaled() -> None:
    """On a real cluster Deployments come while it runs, and nothing of theirs is there at once."""
    env, cluster = cluster_of(spec_of(SERVER, capacity={"A": 2, "B": 2}))
    env.run(until=10.0)
    cluster.add_server(NEWCOMER)
    assert phases(cluster, "t") == []
    cluster.scale("t", Pool(accelerator="B", replicas=2, max_batch=2))
    env.run(until=69.0)
    assert phases(cluster, "t") == ["starting", "starting"]
    arrive(env, cluster, [70.5], server="t", output=1)
    env.run(until=71.0)
    assert phases(cluster, "t") == ["ready", "ready"]
    assert [desired.t_s for desired in cluster.desired] == [0.0, 10.0, 10.0]
    cluster.advance()
    assert cluster.requests.frame()["server"].tolist() == [1]


def test_a_name_that_is_taken_is_refused_and_one_that_was_removed_is_free_again() -> None:
    """Deleting and applying a Deployment again is what users do all day."""
    env, cluster = cluster_of(spec_of(SERVER, capacity={"A": 2}))
    with pytest.raises(SpecError, match=r"^s: expected a name that no other server has$"):
        cluster.add_server(SERVER)
    env.run(until=1.0)
    cluster.remove_server("s")
    assert "s" not in cluster.snapshot().servers
    cluster.add_server(SERVER)
    cluster.scale("s", Pool(accelerator="A", replicas=1, max_batch=4))
    env.run(until=100.0)
    assert phases(cluster, "s") == ["ready"]
    assert cluster.snapshot().capacity["A"].used == 1


def test_a_removed_server_finishes_what_runs_fails_what_waits_and_then_gives_back_its_gpus() -> (
    None
):
    """GPUs of a pod that still drains are not free for others, also when its Deployment is
    gone.
    """
    env, cluster = cluster_of(
        spec_of(
            Server(name="s", model="m", pool=Pool(accelerator="A", replicas=1, max_batch=1)),
            capacity={"A": 1},
        )
    )
    arrive(env, cluster, [0.0, 0.0], output=100)
    env.run(until=0.5)
    cluster.remove_server("s")
    assert [deployment.server.name for deployment in cluster.deployments] == ["s"]
    assert cluster.snapshot().capacity["A"].used == 1
    env.run(until=10.0)
    assert (cluster.deployments, cluster.snapshot().capacity["A"].used) == ((), 0)
    frame = cluster.requests.frame()
    ended = sorted(
        zip(frame["outcome"].tolist(), [REASONS[code] for code in frame["reason"]], strict=True)
    )
    assert ended == [(Outcome.FINISHED, ""), (Outcome.FAILED, "server_removed")]


def test_a_change_on_its_way_is_not_applied_after_the_server_is_removed() -> None:
    """Otherwise a slow change would raise the dead, whose pods nobody would ever take away."""
    world = World(actuation_delay=Delay(mean_s=5.0))
    env, cluster = cluster_of(spec_of(SERVER, capacity={"A": 4}, world=world))
    env.run(until=1.0)
    cluster.scale("s", Pool(accelerator="A", replicas=4, max_batch=4))
    cluster.remove_server("s")
    env.run(until=20.0)
    assert cluster.deployments == ()


def test_another_revision_replaces_every_pod_new_ones_first() -> None:
    """A change of a pod template is a rolling update, whatever in it has changed."""
    env, cluster = cluster_of(spec_of(SERVER, capacity={"A": 2}))
    env.run(until=1.0)
    cluster.scale("s", Pool(accelerator="A", replicas=1, max_batch=4), revision=1)
    env.run(until=60.0)
    assert phases(cluster, "s") == ["ready", "starting"]
    env.run(until=62.0)
    (pod,) = cluster.server("s").pods
    assert (pod.name, pod.revision) == ("s-1", 1)


def test_an_evicted_pod_drains_and_is_replaced() -> None:
    """`kubectl delete pod` must not shrink a server."""
    env, cluster = cluster_of(spec_of(SERVER, capacity={"A": 2}))
    arrive(env, cluster, [0.0], output=500)
    env.run(until=1.0)
    cluster.server("s").evict(cluster.server("s").pods)
    assert phases(cluster, "s") == ["draining", "starting"]
    cluster.server("s").evict(cluster.server("s").pods[:1])
    env.run(until=70.0)
    assert phases(cluster, "s") == ["ready"]
    assert cluster.requests.frame()["finish_s"].tolist() == [5.0]


def test_a_start_that_is_held_up_takes_its_time_once_it_is_let_go() -> None:
    """A stuck pod holds its GPUs and serves nobody."""
    env, cluster = cluster_of(spec_of(SERVER, capacity={"A": 2}))
    cluster.scale("s", Pool(accelerator="A", replicas=2, max_batch=4))
    env.run(until=1.0)
    deployment = cluster.server("s")
    stuck = deployment.pods[1]
    deployment.hold_start(stuck)
    env.run(until=500.0)
    assert (phases(cluster, "s"), cluster.snapshot().capacity["A"].used) == (
        ["ready", "starting"],
        2,
    )
    deployment.start_again(stuck)
    env.run(until=559.0)
    assert phases(cluster, "s") == ["ready", "starting"]
    env.run(until=561.0)
    assert phases(cluster, "s") == ["ready", "ready"]


def test_a_node_takes_the_pods_that_are_known_to_be_on_it() -> None:
    """Where nodes have names, which pods a failure hits is no matter of chance."""
    env, cluster = cluster_of(
        spec_of(
            Server(name="s", model="m", pool=Pool(accelerator="A", replicas=4, max_batch=1)),
            capacity={"A": 4},
        )
    )
    at(
        env,
        5.0,
        priority=CONTROL,
        action=lambda: cluster.fail_node("A", 2, pods=["s-1", "s-3"]),
    )
    env.run(until=6.0)
    assert [pod.name for pod in cluster.server("s").pods] == ["s-0", "s-2", "s-4", "s-5"]
    assert phases(cluster, "s") == ["ready", "ready", "pending", "pending"]


def test_a_world_that_runs_for_days_remembers_and_queues_so_much_and_no_more() -> None:
    """27 hours of a live twin took 1.8 GB: past requests, and those that waited."""
    env = simpy.Environment()
    spec = spec_of(
        SERVER,
        replace(SERVER, name="t", pool=Pool(accelerator="", replicas=0, max_batch=1)),
        capacity={"A": 1},
    )
    cluster = Cluster(env, spec, seed=np.random.SeedSequence(1), waiting_max=3)
    arrive(env, cluster, [0.0] * 20, output=1)
    arrive(env, cluster, [0.0] * 20, server="t", output=1)
    env.run(until=0.001)
    replica = cluster.server("s").pods[0].replica
    assert replica is not None
    assert (replica.running + replica.waiting, len(cluster.server("t").gateway.backlog)) == (3, 3)
    env.run(until=10.0)
    cluster.advance()
    assert cluster.server("s").pods[0].finished.output_tokens == 3
    cluster.scale("t", Pool(accelerator="A", replicas=1, max_batch=1))
    cluster.scale("s", replace(SERVER.pool, replicas=0))
    env.run(until=100.0)
    assert (phases(cluster, "s"), phases(cluster, "t")) == ([], ["ready"])
    past = (len(cluster.requests), len(cluster.pods.lives), len(cluster.desired))
    assert past == (0, 0, 0)
