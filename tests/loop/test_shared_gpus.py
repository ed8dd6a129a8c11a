"""GPUs that servers share: together no more than there are, the highest class first."""

from __future__ import annotations

from dataclasses import replace

from loop.actuator import within_shared
from loop.testing.fakes import server_view, system, target
from loop.types import Decision, ServerView, SharedGpus, Snapshot, one_pool

BOTH = frozenset({"s1", "s2"})


def seen(*, count: int, wanted: tuple[int, int] = (1, 1)) -> Snapshot:
    """Return two servers on H100, which share *count* of them."""
    views = [
        server_view(name, wanted=count) for name, count in zip(("s1", "s2"), wanted, strict=True)
    ]
    shared = SharedGpus(type="H100", servers=BOTH, count=count)
    servers = {view.name: view for view in views}
    return Snapshot(now_s=0.0, servers=servers, shared_gpus=(shared,))


def asked(accelerator: str = "H100", **replicas: int) -> Decision:
    """Return a decision for so many replicas."""
    return Decision(
        targets={
            name: target(name, accelerator=accelerator, replicas=count)
            for name, count in replicas.items()
        }
    )


def test_two_servers_do_not_get_the_same_gpus() -> None:
    """Each alone has room for four."""
    found = within_shared(asked(s1=4, s2=4), seen(count=4), system())
    assert [found.targets[name].replicas for name in ("s1", "s2")] == [3, 1]
    assert found.targets["s2"].why.kind == "capacity"
    assert found.targets["s1"].replicas + found.targets["s2"].replicas == 4


def test_what_one_gives_back_the_other_may_have_and_nobody_loses_what_it_has() -> None:
    """Pods that are there hold their GPUs whatever the count says."""
    found = within_shared(asked(s1=1, s2=4), seen(count=5, wanted=(3, 2)), system())
    assert [found.targets[name].replicas for name in ("s1", "s2")] == [1, 4]
    found = within_shared(asked(s1=3, s2=3), seen(count=2, wanted=(3, 2)), system())
    assert [found.targets[name].replicas for name in ("s1", "s2")] == [3, 2]


def test_a_server_that_would_move_there_without_any_room_stays_where_it_is() -> None:
    """A move to nothing would end it."""
    before = seen(count=1)
    moved = asked(s2=1)
    views = dict(before.servers)
    views["s2"] = replace(
        views["s2"], pools=one_pool(accelerator="2xA100", replicas=1, max_batch=48)
    )
    found = within_shared(moved, replace(before, servers=views), system()).targets["s2"]
    assert (found.accelerator, found.replicas, found.held) == ("2xA100", 1, True)


def test_other_types_and_servers_are_let_alone() -> None:
    """Nothing is shared of them."""
    decision = asked("2xA100", s1=9, s2=9)
    assert within_shared(decision, seen(count=1), system()) == decision
    shared = SharedGpus(type="H100", servers=frozenset({"s3", "s4"}), count=0)
    others = replace(seen(count=1), shared_gpus=(shared,))
    assert within_shared(asked(s1=5), others, system()) == asked(s1=5)


def test_gpus_that_nobody_can_have_for_now_are_asked_for_by_no_policy() -> None:
    """Only `slo` looked at what pods had waited for in vain: the others asked for more and more."""
    before = replace(seen(count=9, wanted=(1, 2)), shared_gpus=(), capacity_max={"H100": 4})
    found = within_shared(asked(s1=4, s2=3), before, system())
    assert [found.targets[name].replicas for name in ("s1", "s2")] == [2, 2]
    (s1, s2) = (found.targets[name].why for name in ("s1", "s2"))
    assert (s1.kind, s2.kind) == ("capacity", "capacity")
    assert s1.text.endswith("; 2 of 4 replicas have a place on the 4 H100 that can be had for now")
    # What is there stays, whatever the count says.
    fewer = replace(before, capacity_max={"H100": 1})
    found = within_shared(asked(s1=4, s2=2), fewer, system())
    assert [found.targets[name].replicas for name in ("s1", "s2")] == [1, 2]


def test_pods_count_for_the_gpus_that_they_hold_whatever_the_data_say() -> None:
    """What can be had is counted by pods: what of it is left was by the data, and too much."""
    before = replace(seen(count=9, wanted=(2, 4)), shared_gpus=())
    s1, s2 = before.servers.values()

    def replicas(most: int, *views: ServerView) -> int:
        servers = {view.name: view for view in views}
        now = replace(before, servers=servers, capacity_max={"H100": most})
        return within_shared(asked(s1=9), now, system()).targets["s1"].replicas

    # Four GPUs a pod, of which the data say that it has one.
    assert replicas(8, replace(s1, gpus_per_replica=4)) == 2
    assert replicas(15, replace(s1, gpus_per_replica=4)) == 3
    # Of a model that they do not know: as many as the pods ask for, else one each at least.
    assert replicas(8, s1, replace(s2, model="new")) == 4
    assert replicas(12, s1, replace(s2, model="new", gpus_per_replica=2)) == 4
    # A target that names no accelerator is of the one that the server has.
    now = replace(before, capacity_max={"H100": 7})
    unnamed = within_shared(asked("", s1=9), now, system()).targets["s1"]
    assert unnamed.replicas == 3
