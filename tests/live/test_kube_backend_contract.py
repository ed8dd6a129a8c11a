"""A Kubernetes cluster does what every world does: the contract suite, over real HTTP against the
twin's API.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loop.testing.backend import BackendContract, Subject
from loop.testing.fakes import ManualClock
from tests.live.kube_worlds import kube_world, manifest


class TestKube(BackendContract):
    """A cluster with two servers, all pods ready."""

    @pytest.fixture
    def subject(self) -> Iterator[Subject]:
        """Serve it."""
        # The clock stands still, so that looking twice is looking at one instant.
        with kube_world(
            manifest(), manifest("dep2", server="s2", replicas=1), clock=ManualClock()
        ) as world:
            world.settled()
            yield Subject(backend=world.backend, settle=world.settled)
