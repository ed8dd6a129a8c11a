"""A Kubernetes cluster does what every world does: the contract suite, over real HTTP against the
twin's API.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes import ManualClock
from tests.live.kube_worlds import kube_world, manifest
from tests.loop.test_backend_contract import *  # noqa: F403 the suite itself: its fixtures are other ones below
from tests.loop.test_backend_contract import Subject


@pytest.fixture
def observed() -> Iterator[Subject]:
    """Return a cluster with two servers, all pods ready."""
    # The clock stands still, so that looking twice is looking at one instant.
    with kube_world(
        manifest(), manifest("dep2", server="s2", replicas=1), clock=ManualClock()
    ) as world:
        world.settled()
        yield Subject(backend=world.backend, settle=world.settled)


@pytest.fixture
def obeying(observed: Subject) -> Subject:
    """Return the same: it obeys, too."""
    return observed
