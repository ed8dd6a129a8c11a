"""A world behind two services does what every world does: the contract suite, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.world_served import serving_world
from tests.loop import test_backend_contract as contract
from tests.loop.test_backend_contract import *  # noqa: F403 the suite itself: its fixtures are other ones below
from tests.loop.test_backend_contract import Subject


@pytest.fixture
def observed() -> Iterator[Subject]:
    """Return a world behind a collector and an actuator."""
    behind = contract.fake()
    with serving_world(behind.backend) as services:
        yield Subject(backend=services.backend, settle=behind.settle)


@pytest.fixture
def obeying(observed: Subject) -> Subject:
    """Return the same: it obeys, too."""
    return observed
