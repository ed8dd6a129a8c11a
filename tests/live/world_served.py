"""A collector and an actuator over one world, served over real HTTP on the loopback, for tests; and
their client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from loop.actors import Owner
from loop.backends.http import HttpBackend
from loop.backends.http_client import ServiceClient
from loop.clocks import MonotonicClock
from loop.ports import Backend
from loop.schema.messages import Absent
from loop.services.actuator_app import make_actuator_app
from loop.services.auth import TokenSource
from loop.services.collector_app import Places, make_collector_app
from loop.services.door import DoorSettings
from loop.spec import SystemData
from loop.testing.fakes import ManualClock
from tests.live.optimizer_served import DEADLINE_S, serving


@dataclass(frozen=True, kw_only=True)
class WorldServices:
    """Both services, as anybody reaches them, and as the backend of a controller."""

    collector: httpx.Client
    actuator: httpx.Client
    backend: HttpBackend
    owner: Owner


@contextmanager
def serving_world(
    world: Backend,
    *,
    advance: Callable[[], object] | None = None,
    absent: Absent = "hold",
    places: Places = dict,
    data: SystemData | None = None,
    token: TokenSource | None = None,
    timeout_s: float = DEADLINE_S,
    door: DoorSettings | None = None,
) -> Iterator[WorldServices]:
    """Serve a collector and an actuator over *world*; stop them at the end."""
    owner = Owner(advance=advance, clock=MonotonicClock())
    collecting = make_collector_app(
        world, owner, places=places, data=data, token=token, timeout_s=timeout_s
    )
    actuating = make_actuator_app(world, owner, absent=absent, token=token, timeout_s=timeout_s)
    with serving(collecting, door=door) as collector, serving(actuating, door=door) as actuator:
        backend = HttpBackend(
            collector=client_of("collector", collector, token=token),
            actuator=client_of("actuator", actuator, token=token),
            clock=ManualClock(),
        )
        yield WorldServices(collector=collector, actuator=actuator, backend=backend, owner=owner)
        backend.close()


def client_of(
    name: str, service: httpx.Client, *, token: TokenSource | None = None
) -> ServiceClient:
    """Return our client of a service that is served."""
    return ServiceClient(name, str(service.base_url), timeout_s=DEADLINE_S, token=token)
