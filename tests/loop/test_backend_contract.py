"""The fake, the twin and a recording do what every backend must; the others are in tests/live."""

from __future__ import annotations

import pytest

from loop.backends.replay import ReplayBackend
from loop.testing.backend import BackendContract, ObservingContract, Subject
from loop.testing.fakes import FakeBackend, server_view
from tests.loop.sim_worlds import sim_world


def _twin() -> Subject:
    """Return the twin after a minute of load."""
    world = sim_world()
    world.env.run(until=61.0)
    return Subject(backend=world.backend, settle=lambda: world.env.run(until=world.env.now + 200.0))


class TestFake(BackendContract):
    """The fake that other tests stand on."""

    @pytest.fixture
    def subject(self) -> Subject:
        """Return it with one server."""
        backend = FakeBackend([server_view()], capacity={"H100": 8})
        return Subject(backend=backend, settle=lambda: None)


class TestSim(BackendContract):
    """The twin."""

    @pytest.fixture
    def subject(self) -> Subject:
        """Return it under load."""
        return _twin()


class TestReplay(ObservingContract):
    """A recording of the twin."""

    @pytest.fixture
    def subject(self) -> Subject:
        """Return a recording of one look."""
        return Subject(backend=ReplayBackend([_twin().backend.observe()]), settle=lambda: None)
