"""A world behind two services does what every world does: the contract suite, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loop.testing.backend import BackendContract, Subject
from loop.testing.fakes import FakeBackend, server_view
from tests.live.world_served import serving_world


class TestHttp(BackendContract):
    """A world behind a collector and an actuator."""

    @pytest.fixture
    def subject(self) -> Iterator[Subject]:
        """Serve the fake."""
        behind = FakeBackend([server_view()], capacity={"H100": 8})
        with serving_world(behind) as services:
            yield Subject(backend=services.backend, settle=lambda: None)
