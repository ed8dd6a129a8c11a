"""Changes of accelerator and of max batch: new pods first, old ones serve until they are
replaced.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from tests.parts import first
from twin.kernel import CONTROL, at
from twin.serving.cluster import Cluster
from twin.serving.pod import Pod, PodLife
from twin.serving.rollout import DesiredState, fits, make_room, plan
from twin.spec import EngineSpec, Pool, Server
from twin.testing.checkers import check_truth, watched
from twin.testing.worlds import ACCELERATORS, MODEL, arrive, spec_of

S = Server(name="s", model="m", pool=Pool(accelerator="A", replicas=2, max_batch=4))


def _at(
    env: simpy.Environment,
    cluster: Cluster,
    t_s: float,
    accelerator: str,
    replicas: int,
    *,
    batch: int = 4,
    server: str = "s",
) -> None:
    def ask() -> None:
        cluster.scale(server, Pool(accelerator=accelerator, replicas=replicas, max_batch=batch))

    at(env, t_s, priority=CONTROL, action=ask)


def _pods(cluster: Cluster) -> list[tuple[str, str, int]]:
    return [
        (pod.accelerator, pod.phase, pod.max_batch) for pod in cluster.snapshot().servers["s"].pods
    ]


def _lives(cluster: Cluster) -> dict[str, PodLife]:
    return {life.pod: life for life in cluster.pods.lives}


def test_a_change_of_accelerator_begins_with_new_pods_and_each_replaces_an_old_one() -> None:
    """The server never has fewer ready pods than before: clients do not notice the change."""
    env, cluster, watch = watched(spec_of(S, capacity={"A": 2, "B": 2}))
    _at(env, cluster, 10.0, "B", 2)
    arrive(env, cluster, [69.5, 69.5], output=100)
    watch.run(69.0)
    assert _pods(cluster) == [
        ("A", "ready", 4),
        ("A", "ready", 4),
        ("B", "starting", 4),
        ("B", "starting", 4),
    ]
    watch.run(100.0)
    lives = _lives(cluster)
    assert [lives[name].ready_s for name in ("s-2", "s-3")] == [70.0, 70.0]
    assert [lives[name].draining_s for name in ("s-0", "s-1")] == [70.0, 70.0]
    # Both went on with the request that they were running.
    assert [lives[name].released_s for name in ("s-0", "s-1")] == pytest.approx([70.5, 70.5])
    assert _pods(cluster) == [("B", "ready", 4), ("B", "ready", 4)]


def test_old_pods_serve_until_gpus_of_the_new_type_appear() -> None:
    """Giving up old pods would not help: they hold GPUs of another type."""
    env, cluster, watch = watched(spec_of(S, capacity={"A": 2, "B": 0}))
    _at(env, cluster, 10.0, "B", 2)
    at(env, 500.0, priority=CONTROL, action=lambda: cluster.set_capacity("B", 1))
    at(env, 700.0, priority=CONTROL, action=lambda: cluster.set_capacity("B", 2))
    watch.run(499.0)
    assert _pods(cluster) == [("A", "ready", 4)] * 2 + [("B", "pending", 4)] * 2
    watch.run(699.0)
    assert _pods(cluster) == [("A", "ready", 4), ("B", "ready", 4), ("B", "pending", 4)]
    watch.run(800.0)
    assert _pods(cluster) == [("B", "ready", 4)] * 2


def test_a_rolling_change_without_spare_gpus_gives_up_one_old_pod_at_a_time() -> None:
    """It would wait for ever otherwise; and it never has more than one pod fewer than wanted."""
    server = replace(S, pool=replace(S.pool, replicas=3), max_batch_change="rolling")
    env, cluster, watch = watched(spec_of(server, capacity={"A": 3}))
    arrive(env, cluster, [9.0] * 3, output=200)  # until 11
    _at(env, cluster, 10.0, "A", 3, batch=8)
    watch.run(10.5)
    assert (
        sorted(_pods(cluster))
        == [("A", "draining", 4)] + [("A", "pending", 8)] * 3 + [("A", "ready", 4)] * 2
    )
    lowest = 3
    for second in range(11, 400):
        watch.run(float(second))
        lowest = min(lowest, cluster.snapshot().servers["s"].ready)
    assert lowest == 2
    assert _pods(cluster) == [("A", "ready", 8)] * 3
    assert [round(life.ready_s, 6) for life in cluster.pods.lives[3:]] == [71.0, 131.0, 191.0]
    check_truth(cluster, env.now)


def test_a_rolling_change_with_spare_gpus_gives_up_nothing_before_a_new_pod_is_ready() -> None:
    """One spare GPU is enough to replace all, one after the other, at full strength."""
    server = replace(S, pool=replace(S.pool, replicas=3), max_batch_change="rolling")
    env, cluster, watch = watched(spec_of(server, capacity={"A": 4}))
    _at(env, cluster, 10.0, "A", 3, batch=8)
    for second in range(11, 400):
        watch.run(float(second))
        assert cluster.snapshot().servers["s"].ready == 3
    assert _pods(cluster) == [("A", "ready", 8)] * 3


def test_as_many_old_pods_are_given_up_as_the_new_one_needs_gpus() -> None:
    """From single GPUs to pairs of the same type: two old pods make room for one new pod."""
    server = replace(S, pool=replace(S.pool, replicas=4))
    env, cluster, watch = watched(spec_of(server, capacity={"A": 4}))
    _at(env, cluster, 10.0, "2xA", 2)
    watch.run(10.5)
    # Two are more than wanted; their GPUs suffice for the first new pod.
    assert _pods(cluster) == [("A", "ready", 4)] * 2 + [
        ("2xA", "starting", 4),
        ("2xA", "pending", 4),
    ]
    watch.run(200.0)
    assert _pods(cluster) == [("2xA", "ready", 4)] * 2
    _at(env, cluster, 210.0, "A", 2)
    watch.run(300.0)
    assert _lives(cluster)["s-4"].released_s == 270.0, "one pair is given up for two single GPUs"
    assert _lives(cluster)["s-5"].released_s == 210.0
    assert _pods(cluster) == [("A", "ready", 4)] * 2


def test_old_pods_that_hold_too_few_gpus_together_are_kept() -> None:
    """To give up the last one for a pair of GPUs that can never come together would end the
    service.
    """
    server = replace(S, pool=replace(S.pool, replicas=1))
    other = Server(name="t", model="m", pool=Pool(accelerator="A", replicas=1, max_batch=4))
    env, cluster, watch = watched(spec_of(server, other, capacity={"A": 2}))
    _at(env, cluster, 10.0, "2xA", 1)
    _at(env, cluster, 300.0, "A", 0, server="t")
    watch.run(299.0)
    assert _pods(cluster) == [("A", "ready", 4), ("2xA", "pending", 4)]
    watch.run(301.0)
    # Now its own GPU and the free one make a pair.
    assert _pods(cluster) == [("2xA", "starting", 4)]


def test_nothing_is_given_up_in_vain_while_capacity_is_below_use() -> None:
    """A GPU given back then is not granted again: the server would melt away."""
    server = replace(S, max_batch_change="rolling")
    env, cluster, watch = watched(spec_of(server, capacity={"A": 2}))
    at(env, 5.0, priority=CONTROL, action=lambda: cluster.set_capacity("A", 0))
    _at(env, cluster, 10.0, "A", 2, batch=8)
    watch.run(300.0)
    assert _pods(cluster) == [("A", "ready", 4)] * 2 + [("A", "pending", 8)] * 2
    cluster.set_capacity("A", 1)
    watch.run(301.0)
    # One GPU must go in any case; with the second one the change could go on.
    assert _pods(cluster) == [("A", "starting", 8), ("A", "pending", 8)]


def test_gpus_given_up_for_a_replacement_do_not_go_to_who_waits_longer() -> None:
    """In a shortage a change of one's own batch size would otherwise hand over the server, pod by
    pod.
    """
    server = replace(S, max_batch_change="rolling")
    other = Server(name="t", model="m", pool=Pool(accelerator="A", replicas=1, max_batch=4))
    env, cluster, watch = watched(spec_of(server, other, capacity={"A": 2}))
    _at(env, cluster, 10.0, "A", 2, batch=8)
    watch.run(300.0)
    assert _pods(cluster) == [("A", "ready", 8)] * 2
    assert cluster.snapshot().servers["t"].pending == 1


@pytest.mark.parametrize("back_s", first(2, [70.0, 11.0, 69.0, 71.0, 90.0, 130.0]))
@pytest.mark.parametrize("capacity", [{"A": 2, "B": 2}, {"A": 2, "B": 1}, {"A": 3, "B": 3}])
def test_a_change_taken_back_in_its_midst_ends_where_it_began(
    back_s: float, capacity: dict[str, int]
) -> None:
    """Restless policies do this all the time: nothing may be lost, stuck or left over."""
    env, cluster, watch = watched(spec_of(S, capacity=capacity))
    arrive(env, cluster, [0.7 * number for number in range(400)], output=150)
    _at(env, cluster, 10.0, "B", 2)
    _at(env, cluster, back_s, "A", 2)
    watch.run(400.0)
    assert _pods(cluster) == [("A", "ready", 4)] * 2
    view = cluster.snapshot()
    assert (view.capacity["A"].used, view.capacity["B"].used) == (2, 0)
    check_truth(cluster, 400.0)
    assert len(cluster.requests) == 400


def test_a_live_change_of_max_batch_applies_to_every_pod_at_once() -> None:
    """No pod is replaced, and a starting pod gets the new value too."""
    env, cluster, watch = watched(
        spec_of(replace(S, pool=replace(S.pool, replicas=1)), capacity={"A": 3})
    )
    _at(env, cluster, 5.0, "A", 2, batch=4)
    arrive(env, cluster, [9.0] * 8, output=200)
    _at(env, cluster, 10.0, "A", 2, batch=6)
    watch.run(10.5)
    assert _pods(cluster) == [("A", "ready", 6), ("A", "starting", 6)]
    watch.run(15.0)
    cluster.advance()
    # Four run from 9, two more are admitted at 10, the last two when the first four are done.
    assert sorted(cluster.requests.frame()["first_token_s"].tolist()) == pytest.approx(
        [9.01] * 4 + [10.01] * 2 + [11.01] * 2
    )
    assert len(cluster.pods.lives) == 2


def test_scaling_down_with_a_change_drops_the_surplus_at_once() -> None:
    """Fewer pods are wanted now: only as many old ones stay as are wanted in all."""
    env, cluster, watch = watched(
        spec_of(replace(S, pool=replace(S.pool, replicas=4)), capacity={"A": 4, "B": 2})
    )
    _at(env, cluster, 10.0, "B", 1)
    watch.run(11.0)
    assert _pods(cluster) == [("A", "ready", 4), ("B", "starting", 4)]


def test_a_starting_pod_of_the_old_kind_may_still_serve_before_the_new_ones() -> None:
    """Killed at once, a server that starts and is moved at the same time would serve nobody for
    longer.
    """
    env, cluster, watch = watched(
        spec_of(replace(S, pool=replace(S.pool, replicas=0)), capacity={"A": 2, "B": 2})
    )
    _at(env, cluster, 10.0, "A", 1)
    _at(env, cluster, 50.0, "B", 1)
    watch.run(71.0)
    assert _pods(cluster) == [("A", "ready", 4), ("B", "starting", 4)]
    watch.run(111.0)
    assert _pods(cluster) == [("B", "ready", 4)]


# -- the plan alone


@st.composite
def _pod_lists(draw: st.DrawFn) -> list[Pod]:
    pods = []
    for number in range(draw(st.integers(0, 8))):
        accelerator = draw(st.sampled_from(sorted(ACCELERATORS)))
        engine = EngineSpec(model="m", accelerator=accelerator, latency_model=MODEL)
        life = PodLife(
            pod=f"s-{number}",
            server=0,
            accelerator=accelerator,
            type=ACCELERATORS[accelerator].type,
            gpus=ACCELERATORS[accelerator].multiplicity,
            asked_s=0.0,
        )
        pod = Pod(engine=engine, max_batch=draw(st.sampled_from([4, 8])), life=life)
        pod.enter(
            draw(st.sampled_from(["pending", "starting", "ready", "draining"])),
            draw(st.sampled_from([1.0, 2.0])),
        )
        pods.append(pod)
    return pods


STATES = st.builds(
    DesiredState,
    t_s=st.just(0.0),
    server=st.just("s"),
    pool=st.builds(
        Pool,
        accelerator=st.sampled_from(sorted(ACCELERATORS)),
        replicas=st.integers(0, 6),
        max_batch=st.sampled_from([4, 8]),
    ),
)


@given(_pod_lists(), STATES, st.booleans())
def test_a_plan_keeps_as_many_as_desired_and_never_touches_what_drains(
    pods: list[Pod], desired: DesiredState, live: bool
) -> None:
    """From any state at all: the desired kind has the desired number, and what is left is no more
    than desired.
    """
    step = plan(pods, desired, live=live)
    assert len(set(step.remove)) == len(step.remove)
    assert not any(pod.phase == "draining" for pod in step.remove)
    left = [pod for pod in pods if pod.phase != "draining" and pod not in step.remove]
    new = [pod for pod in left if fits(pod, desired, live=live)]
    old = [pod for pod in left if not fits(pod, desired, live=live)]
    assert len(new) + step.create == desired.pool.replicas
    assert not (step.create and any(fits(pod, desired, live=live) for pod in step.remove))
    assert all(pod.phase != "pending" for pod in old)
    assert sum(pod.phase == "ready" for pod in left) <= desired.pool.replicas
    ready_before = sum(pod.phase == "ready" for pod in pods)
    assert len(old) + sum(pod.phase == "ready" for pod in new) >= min(
        ready_before, desired.pool.replicas
    )
    if step.create:
        desired = desired._replace(pool=replace(desired.pool, replicas=len(new)))
    again = plan(left, desired, live=live)
    assert again.create == 0


@given(_pod_lists(), STATES, st.booleans(), st.integers(-4, 4))
def test_room_is_made_by_as_few_old_pods_as_suffice_or_not_at_all(
    pods: list[Pod], desired: DesiredState, live: bool, free: int
) -> None:
    """Every pod given up in vain is service lost."""
    given_up = make_room(pods, desired, live=live, free=free)
    if not given_up:
        return
    new = [pod for pod in pods if fits(pod, desired, live=live)]
    need = next(pod.life for pod in new if pod.phase == "pending")
    coming = sum(
        pod.life.gpus for pod in pods if pod.phase == "draining" and pod.life.type == need.type
    )
    gained = [pod.life.gpus for pod in given_up]
    assert all(pod.life.type == need.type and not fits(pod, desired, live=live) for pod in given_up)
    assert all(pod.phase in ("starting", "ready") for pod in given_up)
    assert free + coming + sum(gained[:-1]) < need.gpus <= free + coming + sum(gained)
