"""The twin as the loop sees it: lagged figures or labels, what was asked for at once, pods and GPUs
as they are.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from loop.backends.sim import SimBackend, SimWorld
from loop.errors import BackendError, SpecError
from loop.testing.fakes import change
from loop.types import AGES, Load, OlderViews, ServerView, ages_of, known_older
from tests.loop.sim_worlds import sim_world


def test_before_the_first_scrape_nothing_is_known() -> None:
    """None means hold; a zero would scale every server down in the first second."""
    world = sim_world()
    world.env.run(until=14.0)
    assert all(view.load is None for view in world.backend.observe().servers.values())


def test_the_load_is_what_came_to_the_router_over_the_window() -> None:
    """Arrivals are demand; completions are not, when a server cannot keep up."""
    world = sim_world(rate_rpm=600.0, alpha=0.0)
    world.env.run(until=61.0)
    view = world.backend.observe().servers["s1"]
    assert view.load is not None
    assert view.load.rate_rpm == pytest.approx(600.0, rel=0.2)
    assert view.load.in_tokens == pytest.approx(512.0, rel=0.2)
    assert view.load.out_tokens == pytest.approx(128.0, rel=0.2)
    assert view.itl_ms is not None
    assert view.itl_ms > 6.49, "an iteration takes at least alpha"


def test_measured_figures_lag_until_the_next_scrape() -> None:
    """The lag belongs to the world: 15 s scrapes show nothing new in between."""
    world = sim_world()
    world.env.run(until=75.5)
    early = world.backend.observe()
    world.env.run(until=89.5)
    late = world.backend.observe()
    assert early.servers["s1"].load == late.servers["s1"].load
    assert late.now_s == 89.5


def but_ages(view: ServerView) -> dict[str, object]:
    """Return all that *view* and its pods say but their ages."""
    names = [name for name in ServerView.__slots__ if name not in (*AGES, "pods")]
    pods = [replace(pod, sample_age_s=None) for pod in view.pods]
    return {name: getattr(view, name) for name in names} | {"pods": pods}


def test_servers_that_are_said_to_be_older_only_are_older_only() -> None:
    """What was decided of them stands without a look at any, and so may not be said too often."""
    world = sim_world(alpha=0.5, start_up_s=7.5)
    last, older = world.backend.observe(), 0
    for step in range(1, 90):
        world.env.run(until=float(step) + 0.25)
        if step % 20 == 0:
            world.backend.apply([change(replicas=1 + step // 20)])
        now = world.backend.observe()
        if known_older(now.servers, last.servers):
            older += 1
            assert list(map(but_ages, now.servers.values())) == list(
                map(but_ages, last.servers.values())
            )
            assert now.now_s > last.now_s
            # Records take the ages alone.
            ages = [tuple(getattr(one, age) for age in AGES) for one in now.servers.values()]
            assert list(ages_of(now.servers)) == ages
        last = now
    assert older > 60


def test_older_views_are_taken_for_the_dict_that_others_are() -> None:
    """A policy of one's own that copied them failed at the second look without news."""
    world = sim_world()
    world.backend.observe()
    servers = world.backend.observe().servers
    assert isinstance(servers, OlderViews)
    assert servers.copy() == servers | {} == dict(servers) == servers
    assert repr(servers) == repr(dict(servers))


def test_labels_do_not_say_that_nothing_is_new() -> None:
    """They are read at each look, and may say something else between two scrapes."""
    world = sim_world(metrics="labels")
    first, second = world.backend.observe(), world.backend.observe()
    assert first == second
    assert not known_older(second.servers, first.servers)


def test_labels_are_the_offered_loads_without_lag() -> None:
    """As the labels that the emulator writes: known from the first instant, and new at the start of
    an interval.
    """
    world = sim_world(metrics="labels")
    first = world.backend.observe().servers["s1"].load
    assert first == Load(rate_rpm=240.0, in_tokens=512.0, out_tokens=128.0)
    world.env.run(until=60.5)
    point = world.feeder.offered_loads()["s1"]
    second = world.backend.observe().servers["s1"].load
    assert second == Load(
        rate_rpm=point.rate_rpm, in_tokens=point.in_tokens, out_tokens=point.out_tokens
    )
    assert second != first


def test_a_server_without_a_label_is_unknown() -> None:
    """The fallback for a missing label is to hold, not to take another source in secret."""
    world = sim_world()
    backend = SimBackend(world.cluster, metrics="labels", offered_loads=lambda: {})
    assert backend.observe().servers["s1"].load is None


def test_labels_need_a_source() -> None:
    """A wiring slip must show at the start."""
    with pytest.raises(SpecError, match="offered loads"):
        SimBackend(sim_world().cluster, metrics="labels")


def test_pods_and_gpus_are_shown_as_they_are() -> None:
    """Starting pods count, and hold GPUs: a loop that does not see them scales up again every
    cycle.
    """
    world = sim_world(start_up_s=30.0)
    world.env.run(until=61.0)
    world.backend.apply([change(replicas=12)])
    world.env.run(until=62.0)
    snapshot = world.backend.observe()
    view = snapshot.servers["s1"]
    assert (view.wanted, view.ready, view.starting, view.pending, view.draining) == (12, 2, 6, 4, 0)
    assert [pod.phase for pod in view.pods].count("starting") == 6
    assert snapshot.capacity is not None
    assert (snapshot.capacity["H100"].total, snapshot.capacity["H100"].used) == (8, 8)


def test_a_change_shows_at_once_though_the_world_applies_it_later() -> None:
    """Else the loop would ask again in the next cycle for what is on its way."""
    world = sim_world(actuation_s=20.0)
    world.env.run(until=61.0)
    world.backend.apply([change(replicas=3, max_batch=32)])
    view = world.backend.observe().servers["s1"]
    assert (view.wanted, view.max_batch, view.ready + view.starting) == (3, 32, 2)


def test_what_the_world_cannot_do_is_its_failure_and_not_a_crash() -> None:
    """The cycle is recorded with it, and the next one starts clean."""
    backend = sim_world().backend
    with pytest.raises(BackendError, match="accelerator") as caught:
        backend.apply([change(accelerator="B200", replicas=3, max_batch=32)])
    assert caught.value.phase == "apply"


def test_a_world_brought_to_an_instant_has_not_done_what_follows_control_there() -> None:
    """Control comes before the scrape of the same instant, in virtual time and in the machine's."""
    world = sim_world()
    SimWorld(world.env).advance(15.0)
    assert world.env.now == 15.0
    assert world.backend.observe().servers["s1"].load is None
    SimWorld(world.env).advance(15.0)
    SimWorld(world.env).advance(3.0)
    assert world.env.now == 15.0, "time never goes back"
    SimWorld(world.env).advance(15.5)
    assert world.backend.observe().servers["s1"].load is not None
