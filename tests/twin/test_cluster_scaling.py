"""Scaling up and down: when pods get ready, who is taken away, what a drain does, and what an
observer sees.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import simpy

from twin.kernel import CONTROL, at
from twin.serving.cluster import Cluster
from twin.serving.pod import PodLife
from twin.serving.rollout import DesiredState
from twin.spec import Delay, Pool, Server, SpecError, World
from twin.testing.checkers import check_truth, watched
from twin.testing.worlds import arrive, cluster_of, spec_of

S = Server(name="s", model="m", pool=Pool(accelerator="A", replicas=1, max_batch=4))


def _at(
    env: simpy.Environment,
    cluster: Cluster,
    t_s: float,
    replicas: int,
    accelerator: str = "A",
    *,
    batch: int = 4,
) -> None:
    def ask() -> None:
        cluster.scale("s", Pool(accelerator=accelerator, replicas=replicas, max_batch=batch))

    at(env, t_s, priority=CONTROL, action=ask)


def _phases(cluster: Cluster) -> list[str]:
    return [pod.phase for pod in cluster.snapshot().servers["s"].pods]


def _life(cluster: Cluster, name: str) -> PodLife:
    return next(life for life in cluster.pods.lives if life.pod == name)


def test_a_run_starts_with_ready_pods_as_far_as_capacity_allows() -> None:
    """The allocation of the data files is what stands at t = 0; what does not fit waits like any
    other pod.
    """
    others = Server(name="t", model="m", pool=Pool(accelerator="2xA", replicas=2, max_batch=4))
    _, cluster = cluster_of(
        spec_of(
            Server(name="s", model="m", pool=Pool(accelerator="A", replicas=2, max_batch=1)),
            others,
            capacity={"A": 5},
        )
    )
    view = cluster.snapshot()
    assert (view.servers["s"].ready, view.servers["t"].ready, view.servers["t"].pending) == (
        2,
        1,
        1,
    )
    assert (view.capacity["A"].used, view.capacity["A"].total) == (4, 5)
    assert cluster.desired == [
        DesiredState(0.0, "s", Pool(accelerator="A", replicas=2, max_batch=1)),
        DesiredState(0.0, "t", Pool(accelerator="2xA", replicas=2, max_batch=4)),
    ]


def test_a_new_pod_is_ready_after_scheduling_and_start_up() -> None:
    """These delays are what makes autoscaling hard; each must count once."""
    world = World(scheduling_delay=Delay(mean_s=3.0), actuation_delay=Delay(mean_s=5.0))
    env, cluster, watch = watched(
        spec_of(S, capacity={"A": 4}, start_up=Delay(mean_s=60.0), world=world)
    )
    _at(env, cluster, 10.0, 3)
    watch.run(200.0)
    for name in ("s-1", "s-2"):
        life = _life(cluster, name)
        assert (life.asked_s, life.granted_s, life.ready_s) == (15.0, 15.0, 78.0)
    assert _phases(cluster) == ["ready"] * 3


def test_a_snapshot_tells_what_was_asked_for_at_once_and_the_pods_as_they_are() -> None:
    """A loop that saw neither its own request nor the starting pods would ask for more and more."""
    env, cluster = cluster_of(
        spec_of(S, capacity={"A": 2}, world=World(actuation_delay=Delay(mean_s=5.0)))
    )
    env.run(until=10.0)
    cluster.scale("s", Pool(accelerator="A", replicas=4, max_batch=7))
    state = cluster.snapshot().servers["s"]
    assert state.desired == Pool(accelerator="A", replicas=4, max_batch=7)
    assert (state.ready, state.starting, state.pending) == (1, 0, 0)
    env.run(until=16.0)
    state = cluster.snapshot().servers["s"]
    assert (state.ready, state.starting, state.pending) == (1, 1, 2)
    assert [pod.max_batch for pod in state.pods] == [7] * 4


def test_pods_wait_for_gpus_in_the_order_in_which_they_were_asked_for() -> None:
    """GPUs that come free go to the server that waits longest, whoever gave them up."""
    t = Server(name="t", model="m", pool=Pool(accelerator="A", replicas=2, max_batch=4))
    env, cluster, watch = watched(spec_of(S, t, capacity={"A": 3}))
    _at(env, cluster, 10.0, 2)
    at(
        env,
        20.0,
        priority=CONTROL,
        action=lambda: cluster.scale("t", Pool(accelerator="A", replicas=3, max_batch=4)),
    )
    at(env, 30.0, priority=CONTROL, action=lambda: cluster.set_capacity("A", 4))
    at(env, 40.0, priority=CONTROL, action=lambda: cluster.set_capacity("A", 5))
    watch.run(200.0)
    assert (_life(cluster, "s-1").granted_s, _life(cluster, "t-2").granted_s) == (30.0, 40.0)
    assert (_life(cluster, "s-1").ready_s, _life(cluster, "t-2").ready_s) == (90.0, 100.0)


def test_scaling_down_takes_pending_pods_then_starting_then_the_youngest_ready() -> None:
    """What serves nobody goes first, as in a ReplicaSet."""
    env, cluster, watch = watched(spec_of(S, capacity={"A": 3}))
    _at(env, cluster, 10.0, 2)  # s-1 is ready at 70
    _at(env, cluster, 80.0, 4)  # s-2 starts, s-3 is pending
    for t_s, replicas in ((90.0, 3), (91.0, 2), (92.0, 1)):
        _at(env, cluster, t_s, replicas)
    watch.run(200.0)
    ends = [(life.pod, life.end, life.released_s) for life in cluster.pods.lives if life.end]
    assert ends == [
        ("s-1", "drained", 92.0),
        ("s-2", "scaled_down", 91.0),
        ("s-3", "withdrawn", 90.0),
    ]


def test_a_drain_finishes_what_runs_hands_back_what_waits_and_frees_units_at_its_end() -> None:
    """A pod of another server gets the GPU at the instant of the last token, not at a scrape or a
    poll.
    """
    one = Server(
        name="s",
        model="m",
        pool=Pool(accelerator="A", replicas=2, max_batch=1),
        router="round_robin",
    )
    other = Server(name="t", model="m", pool=Pool(accelerator="A", replicas=1, max_batch=1))
    env, cluster, watch = watched(spec_of(one, other, capacity={"A": 2}))
    # s-1 and t-0 do not fit at once: A has 2 GPUs. s-0 and s-1 run, t-0 waits.
    arrive(env, cluster, [1.0, 1.0, 1.1, 1.1], output=100)  # 1 s each: two run, two wait
    _at(env, cluster, 1.5, 1, batch=1)
    watch.run(10.0)
    gone = _life(cluster, "s-1")
    assert (gone.draining_s, gone.end) == (1.5, "drained")
    assert gone.released_s == pytest.approx(2.0, abs=1e-9)
    assert _life(cluster, "t-0").granted_s == gone.released_s
    frame = cluster.requests.frame()
    # The fourth request was handed back at 1.5 and runs behind the third on s-0.
    assert sorted(np.round(frame["finish_s"], 6).tolist()) == [2.0, 2.0, 3.0, 4.0]
    assert sorted(frame["arrival_s"].tolist()) == [1.0, 1.0, 1.1, 1.1]
    check_truth(cluster, env.now)


def test_a_drain_of_an_idle_pod_ends_at_once() -> None:
    """There is nothing to wait for."""
    env, cluster, watch = watched(spec_of(S, capacity={"A": 1}))
    _at(env, cluster, 5.0, 0)
    watch.run(6.0)
    life = _life(cluster, "s-0")
    assert (life.draining_s, life.released_s, life.end) == (5.0, 5.0, "drained")


def test_scaling_up_does_not_call_a_draining_pod_back() -> None:
    """A terminating pod is past recall; the new one needs its own GPUs and its own start."""
    env, cluster, watch = watched(spec_of(S, capacity={"A": 4}))
    arrive(env, cluster, [1.0], output=1000)
    _at(env, cluster, 2.0, 0)
    _at(env, cluster, 3.0, 1)
    watch.run(100.0)
    assert _life(cluster, "s-0").end == "drained"
    assert _life(cluster, "s-0").released_s == pytest.approx(11.0)
    assert (_life(cluster, "s-1").granted_s, _life(cluster, "s-1").ready_s) == (3.0, 63.0)


def test_asking_for_the_same_again_changes_nothing() -> None:
    """A loop may apply its decision every cycle, in whatever state its last one is."""

    def lives(*, repeats: int) -> list[PodLife]:
        env, cluster, watch = watched(
            spec_of(S, capacity={"A": 3, "B": 3}, start_up=Delay(mean_s=60.0, cv=0.5))
        )
        arrive(env, cluster, np.linspace(0.5, 250.0, 400).tolist(), output=300)
        for t_s, replicas, accelerator in ((10.0, 4, "A"), (100.0, 2, "B"), (200.0, 1, "B")):
            for repeat in range(repeats):
                _at(env, cluster, t_s + 7.0 * repeat, replicas, accelerator)
        watch.run(400.0)
        return cluster.pods.lives

    assert repr(lives(repeats=1)) == repr(lives(repeats=10))


@pytest.mark.slow
def test_a_later_change_is_not_undone_by_a_slower_earlier_one() -> None:
    """With a random actuation delay changes may overtake each other; the one asked for last
    counts.
    """
    overtaken = 0
    for seed in range(20):
        world = World(actuation_delay=Delay(mean_s=20.0, cv=1.5))
        env, cluster, watch = watched(spec_of(S, capacity={"A": 9}, world=world), seed=seed)
        for number, replicas in enumerate((5, 2, 7, 3)):
            _at(env, cluster, 10.0 + number, replicas)
        watch.run(2000.0)
        assert cluster.snapshot().servers["s"].ready == 3
        overtaken += len({life.asked_s for life in cluster.pods.lives}) < 4
    assert overtaken, "no change was ever overtaken: the test shows nothing"


def test_changes_closer_than_the_actuation_delay_are_all_applied_in_turn() -> None:
    """If each change cancelled the one before it, a loop faster than the delay would never get
    anything.
    """
    env, cluster, watch = watched(
        spec_of(S, capacity={"A": 9}, world=World(actuation_delay=Delay(mean_s=30.0)))
    )
    for number in range(20):
        _at(env, cluster, 10.0 * number + 1.0, 2 + number % 2)
    watch.run(45.0)
    assert _life(cluster, "s-1").asked_s == 31.0
    assert _life(cluster, "s-2").asked_s == 41.0


def test_requests_without_a_ready_pod_wait_at_the_router_in_order_and_keep_their_arrival() -> None:
    """Scaled to zero, a server loses nothing: the wait for a pod is part of the TTFT."""
    env, cluster, watch = watched(spec_of(S, capacity={"A": 1}))
    _at(env, cluster, 1.0, 0)
    _at(env, cluster, 40.0, 1)
    times_s = [5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
    arrive(env, cluster, times_s, output=10)
    watch.run(99.0)
    state = cluster.snapshot().servers["s"]
    assert (state.backlog, state.waiting, state.window.rate_rpm) == (6, 0, 0.0)
    assert len(cluster.unfinished()) == 6
    watch.run(120.0)
    frame = cluster.requests.frame()
    assert frame["arrival_s"].tolist() == times_s
    assert frame["first_token_s"].tolist() == pytest.approx([100.01] * 4 + [100.11] * 2)
    assert frame["finish_s"].tolist() == pytest.approx([100.1] * 4 + [100.2] * 2)


@pytest.mark.parametrize("router", ["least_outstanding", "round_robin"])
def test_a_backlog_is_shared_by_all_pods_that_get_ready_at_the_same_instant(router: str) -> None:
    """Given to the first of them alone, it would make one pod slow and leave the others idle."""
    server = Server(
        name="s", model="m", pool=Pool(accelerator="A", replicas=0, max_batch=4), router=router
    )  # type: ignore[arg-type]
    env, cluster, watch = watched(spec_of(server, capacity={"A": 3}))
    arrive(env, cluster, [1.0] * 12, output=10)
    _at(env, cluster, 2.0, 3)
    watch.run(100.0)
    assert cluster.requests.frame()["finish_s"].tolist() == pytest.approx([62.1] * 12)


def test_capacity_below_use_kills_nothing_and_holds_new_pods() -> None:
    """Only the loss of a node kills pods."""
    env, cluster, watch = watched(spec_of(S, capacity={"A": 3}))
    _at(env, cluster, 10.0, 3)
    at(env, 100.0, priority=CONTROL, action=lambda: cluster.set_capacity("A", 1))
    _at(env, cluster, 110.0, 4)
    watch.run(300.0)
    assert _phases(cluster) == ["ready", "ready", "ready", "pending"]
    assert (cluster.snapshot().capacity["A"].used, cluster.snapshot().capacity["A"].total) == (3, 1)
    assert [tuple(change) for change in cluster.capacity_history] == [
        (0.0, "A", 3),
        (100.0, "A", 1),
    ]


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ({"accelerator": "A", "replicas": -1, "max_batch": 4}, "s: replicas must be >= 0, got -1"),
        ({"accelerator": "A", "replicas": 1, "max_batch": 0}, "s: max_batch must be >= 1, got 0"),
        (
            {"accelerator": "Z", "replicas": 1, "max_batch": 4},
            "s: expected an accelerator that runs m, got 'Z'",
        ),
        (
            {"accelerator": "", "replicas": 1, "max_batch": 4},
            "s: expected an accelerator that runs m, got ''",
        ),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused_whole(pool: dict[str, Any], message: str) -> None:
    """It comes from outside: one line, and nothing of it is done."""
    _, cluster = cluster_of(spec_of(S, capacity={"A": 1}))
    with pytest.raises(SpecError, match=message):
        cluster.scale("s", Pool(**pool))
    assert len(cluster.desired) == 1


def test_an_unknown_server_is_refused() -> None:
    """The message names those that there are."""
    _, cluster = cluster_of(spec_of(S, capacity={"A": 1}))
    with pytest.raises(SpecError, match="nobody: expected one of s"):
        cluster.scale("nobody", Pool(accelerator="A", replicas=1, max_batch=1))


def test_zero_replicas_without_an_accelerator_keep_the_one_there_was() -> None:
    """In messages an empty accelerator means no replicas; the label of the Deployment stays."""
    env, cluster = cluster_of(spec_of(S, capacity={"A": 1}))
    cluster.scale("s", Pool(accelerator="", replicas=0, max_batch=4))
    env.run(until=1.0)
    state = cluster.snapshot().servers["s"]
    assert (state.desired.replicas, state.desired.accelerator, state.ready) == (0, "A", 0)


def test_the_same_seed_makes_the_same_run_and_another_seed_another_one() -> None:
    """A run must be repeatable from its seed, with crashes, random routing and random delays."""

    def truth(seed: int) -> tuple[bytes, str]:
        server = Server(
            name="s",
            model="m",
            pool=Pool(accelerator="A", replicas=2, max_batch=4),
            router="random",
            crash_rate_per_h=30.0,
        )
        spec = spec_of(server, capacity={"A": 4}, start_up=Delay(mean_s=20.0, cv=0.7))
        env, cluster = cluster_of(spec, seed=seed)
        arrive(env, cluster, np.linspace(0.1, 590.0, 600).tolist(), output=200)
        _at(env, cluster, 100.0, 4)
        env.run(until=600.0)
        return cluster.requests.frame()["finish_s"].tobytes(), repr(cluster.pods.lives)

    assert truth(1) == truth(1)
    assert truth(1) != truth(2)


def test_looking_changes_nothing() -> None:
    """Snapshots and advances at any instant must leave every time to the last digit as it was."""

    def finishes(*, looks: int) -> bytes:
        server = Server(name="s", model="m", pool=Pool(accelerator="A", replicas=3, max_batch=4))
        env, cluster = cluster_of(spec_of(server, capacity={"A": 4}, kv_tokens=2000))
        rng = np.random.default_rng(4)
        arrive(env, cluster, np.sort(rng.uniform(0.0, 100.0, 400)).tolist(), prompt=50, output=150)
        _at(env, cluster, 50.0, 1)

        def look() -> None:
            cluster.advance()
            cluster.snapshot()

        for t_s in rng.uniform(0.0, 120.0, looks).tolist():
            at(env, t_s, priority=CONTROL, action=look)
        env.run(until=150.0)
        cluster.unfinished()
        return np.sort(cluster.requests.frame()["finish_s"]).tobytes()

    assert finishes(looks=0) == finishes(looks=300)
