"""What every backend must do, as suites for pytest: subclass one and say how its world is made.

class TestMine(BackendContract):
    @pytest.fixture
    def subject(self) -> Iterator[Subject]:
        world = ...  # two replicas of s1 on H100, of the accelerators and models of system()
        yield Subject(backend=world.backend, settle=world.settle)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from loop.actuator import plan
from loop.ports import Backend
from loop.testing.fakes import change, target
from loop.types import Decision, ServerView


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A backend under test. Its world has a server s1 with two replicas on H100 at a max batch of
    64; settle lets the world carry out what it was asked for.
    """

    backend: Backend
    settle: Callable[[], None]

    @property
    def s1(self) -> ServerView:
        """Return what is seen of s1 now."""
        return self.backend.observe().servers["s1"]

    def others(self) -> dict[str, int]:
        """Return what is wanted of all servers but s1."""
        views = self.backend.observe().servers
        return {name: view.wanted for name, view in views.items() if name != "s1"}


class ObservingContract:
    """What a backend must show. A recording, which cannot be asked for anything, meets this half
    only.
    """

    @pytest.fixture
    def subject(self) -> Iterator[Subject]:
        """Make the backend under test; a subclass says how."""
        raise NotImplementedError("a subclass defines the fixture subject")

    def test_looking_changes_nothing(self, subject: Subject) -> None:
        """Advice, plots and probes look too."""
        assert subject.backend.observe() == subject.backend.observe()

    def test_servers_are_keyed_by_their_names_and_have_a_class_and_a_model(
        self, subject: Subject
    ) -> None:
        """The optimizer looks targets and latency models up by these."""
        for name, view in subject.backend.observe().servers.items():
            assert (name, bool(view.model), bool(view.service_class)) == (view.name, True, True)

    def test_counts_are_whole_and_not_negative_and_pods_add_up(self, subject: Subject) -> None:
        """A backend that cannot count would make the loop act on nonsense."""
        for view in subject.backend.observe().servers.values():
            counts = (view.wanted, view.ready, view.starting, view.pending, view.draining)
            assert all(isinstance(count, int) for count in counts)
            assert min(*counts, view.backlog) >= 0
            if view.pods:
                phases = [pod.phase for pod in view.pods]
                found = [phases.count("ready"), phases.count("starting"), phases.count("draining")]
                assert found == [view.ready, view.starting, view.draining]

    def test_figures_are_finite_or_unknown(self, subject: Subject) -> None:
        """NaN is neither: it passes through arithmetic unseen."""
        for view in subject.backend.observe().servers.values():
            for figure in (view.ttft_ms, view.itl_ms, view.completions_rpm, view.output_tps):
                assert figure is None or math.isfinite(figure)

    def test_gpus_in_use_are_counted_if_the_capacity_is_known(self, subject: Subject) -> None:
        """Capacity is per type, keyed by it."""
        for kind, view in (subject.backend.observe().capacity or {}).items():
            assert kind == view.type
            assert view.total >= 0
            assert view.used >= 0

    def test_it_has_the_name_that_records_carry(self, subject: Subject) -> None:
        """A record must say which world it is of."""
        assert subject.backend.name.isidentifier()


class BackendContract(ObservingContract):
    """What a backend must show, and what must become of the changes that it is asked for."""

    @pytest.mark.parametrize("replicas", [0, 1, 5])
    def test_a_world_becomes_what_is_asked(self, subject: Subject, replicas: int) -> None:
        """After its delays, and with the capacity there is."""
        subject.backend.apply([change(replicas=replicas)])
        subject.settle()
        view = subject.s1
        found = (view.wanted, view.ready, view.starting, view.pending)
        assert found == (replicas, replicas, 0, 0)

    def test_asking_twice_is_as_good_as_asking_once(self, subject: Subject) -> None:
        """A cycle that failed half-way is repeated; changes are absolute so that this is
        harmless.
        """
        for _ in range(2):
            subject.backend.apply([change(replicas=4)])
        subject.settle()
        assert subject.s1.ready == 4

    def test_the_last_change_counts(self, subject: Subject) -> None:
        """The loop may change its mind before the world has carried out the change before."""
        subject.backend.apply([change(replicas=6)])
        subject.backend.apply([change(replicas=3)])
        subject.settle()
        assert subject.s1.ready == 3

    def test_an_accelerator_and_a_max_batch_can_be_changed(self, subject: Subject) -> None:
        """One change carries all three."""
        subject.backend.apply([change(replicas=1, accelerator="2xA100", max_batch=16)])
        subject.settle()
        view = subject.s1
        assert (view.accelerator, view.max_batch, view.ready) == ("2xA100", 16, 1)

    def test_other_servers_are_left_alone(self, subject: Subject) -> None:
        """A change is of one server."""
        before = subject.others()
        subject.backend.apply([change(replicas=5)])
        subject.settle()
        assert subject.others() == before

    def test_nothing_asked_is_nothing_done(self, subject: Subject) -> None:
        """An empty list does not ask for an empty world."""
        subject.backend.apply([])
        subject.settle()
        assert subject.s1.wanted == 2

    def test_a_held_server_keeps_what_it_has_while_another_is_changed(
        self, subject: Subject
    ) -> None:
        """Held means no change, whatever the target says; the plan leaves it out, and so must the
        way to the world.
        """
        seen = subject.backend.observe()
        before = subject.others()
        targets = {
            name: target(name, accelerator="", replicas=0, max_batch=0, held=True)
            for name in before
        }
        wanted = target(replicas=5)
        subject.backend.apply(plan(Decision(targets={**targets, "s1": wanted}), seen))
        subject.settle()
        assert (subject.s1.wanted, subject.others()) == (5, before)

    def test_an_unknown_load_ends_nothing(self, subject: Subject) -> None:
        """Nothing known is not zero known: no policy may scale a server to zero on it."""
        seen = subject.backend.observe()
        dark = replace(
            seen, servers={name: replace(view, load=None) for name, view in seen.servers.items()}
        )
        gone = {
            name: target(name, accelerator="", replicas=0, max_batch=0) for name in seen.servers
        }
        before = subject.others()
        subject.backend.apply(plan(Decision(targets=gone), dark))
        subject.settle()
        assert (subject.s1.wanted, subject.others()) == (2, before)
