"""What every backend must do: one suite for those that can be observed, one for those that obey."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from loop.backends.replay import ReplayBackend
from loop.ports import Backend
from loop.types import Change, ServerView
from tests.fakes import FakeBackend, server_view
from tests.loop.sim_worlds import sim_world


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A backend under test whose world has a server s1 with two replicas on H100; settle lets the
    world obey.
    """

    backend: Backend
    settle: Callable[[], None]


def fake() -> Subject:
    """Return the fake that other tests stand on."""
    return Subject(backend=FakeBackend([server_view()], capacity={"H100": 8}), settle=lambda: None)


def sim() -> Subject:
    """Return the twin after a minute of load."""
    world = sim_world()
    world.env.run(until=61.0)
    return Subject(backend=world.backend, settle=lambda: world.env.run(until=world.env.now + 200.0))


def replay() -> Subject:
    """Return a recording of the twin."""
    return Subject(backend=ReplayBackend([sim().backend.observe()]), settle=lambda: None)


OBSERVED = {"fake": fake, "sim": sim, "replay": replay}
OBEYING = {"fake": fake, "sim": sim}


@pytest.fixture(params=OBSERVED.values(), ids=OBSERVED.keys())
def observed(request: pytest.FixtureRequest) -> Subject:
    """Return each backend that can be observed, in turn."""
    subject: Subject = request.param()
    return subject


@pytest.fixture(params=OBEYING.values(), ids=OBEYING.keys())
def obeying(request: pytest.FixtureRequest) -> Subject:
    """Return each backend that obeys, in turn."""
    subject: Subject = request.param()
    return subject


def s1(subject: Subject) -> ServerView:
    """Return what is seen of s1."""
    return subject.backend.observe().servers["s1"]


def wish(*, replicas: int = 2, accelerator: str = "H100", max_batch: int = 64) -> Change:
    """Return a wish for s1."""
    return Change(server="s1", accelerator=accelerator, replicas=replicas, max_batch=max_batch)


def test_looking_changes_nothing(observed: Subject) -> None:
    """Advice, plots and probes look too."""
    assert observed.backend.observe() == observed.backend.observe()


def test_servers_are_keyed_by_their_names_and_have_a_class_and_a_model(observed: Subject) -> None:
    """The optimizer looks targets and latency models up by these."""
    for name, view in observed.backend.observe().servers.items():
        assert (name, bool(view.model), bool(view.service_class)) == (view.name, True, True)


def test_counts_are_whole_and_not_negative_and_pods_add_up(observed: Subject) -> None:
    """A backend that cannot count would make the loop act on nonsense."""
    for view in observed.backend.observe().servers.values():
        assert (
            min(view.wanted, view.ready, view.starting, view.pending, view.draining, view.backlog)
            >= 0
        )
        if view.pods:
            for phase, count in (
                ("ready", view.ready),
                ("starting", view.starting),
                ("draining", view.draining),
            ):
                assert [pod.phase for pod in view.pods].count(phase) == count


def test_figures_are_finite_or_unknown(observed: Subject) -> None:
    """NaN is neither: it passes through arithmetic unseen."""
    for view in observed.backend.observe().servers.values():
        for figure in (view.ttft_ms, view.itl_ms, view.completions_rpm, view.output_tps):
            assert figure is None or math.isfinite(figure)


def test_cards_in_use_are_counted_where_capacity_is_known(observed: Subject) -> None:
    """Capacity is per type, keyed by it."""
    for kind, view in (observed.backend.observe().capacity or {}).items():
        assert kind == view.type
        assert view.total >= 0
        assert view.used >= 0


def test_it_has_the_name_that_records_carry(observed: Subject) -> None:
    """A record must say which world it is of."""
    assert observed.backend.name.isidentifier()


@pytest.mark.parametrize("replicas", [0, 1, 5])
def test_a_world_becomes_what_is_asked(obeying: Subject, replicas: int) -> None:
    """After its delays, and with the capacity there is."""
    obeying.backend.apply([wish(replicas=replicas)])
    obeying.settle()
    view = s1(obeying)
    assert (view.wanted, view.ready, view.starting, view.pending) == (replicas, replicas, 0, 0)


def test_asking_twice_is_as_good_as_asking_once(obeying: Subject) -> None:
    """A cycle that failed half-way is repeated; changes are absolute so that this is harmless."""
    for _ in range(2):
        obeying.backend.apply([wish(replicas=4)])
    obeying.settle()
    assert s1(obeying).ready == 4


def test_the_last_wish_counts(obeying: Subject) -> None:
    """The loop may change its mind before the world has obeyed."""
    obeying.backend.apply([wish(replicas=6)])
    obeying.backend.apply([wish(replicas=3)])
    obeying.settle()
    assert s1(obeying).ready == 3


def test_an_accelerator_and_a_max_batch_can_be_changed(obeying: Subject) -> None:
    """One wish carries all three."""
    obeying.backend.apply([wish(replicas=1, accelerator="2xA100", max_batch=16)])
    obeying.settle()
    view = s1(obeying)
    assert (view.accelerator, view.max_batch, view.ready) == ("2xA100", 16, 1)


def test_other_servers_are_left_alone(obeying: Subject) -> None:
    """A wish is for one server."""
    before = {
        name: view.wanted
        for name, view in obeying.backend.observe().servers.items()
        if name != "s1"
    }
    obeying.backend.apply([wish(replicas=5)])
    obeying.settle()
    after = {
        name: view.wanted
        for name, view in obeying.backend.observe().servers.items()
        if name != "s1"
    }
    assert after == before


def test_nothing_asked_is_nothing_done(obeying: Subject) -> None:
    """An empty list is no wish for emptiness."""
    obeying.backend.apply([])
    obeying.settle()
    assert s1(obeying).wanted == 2
