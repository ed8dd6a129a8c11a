"""A controller served over real HTTP on a free port of the loopback, for tests; waits have
deadlines.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from loop.actors import WatchedBackend
from loop.clocks import MonotonicClock
from loop.controller import Controller, ControllerSettings, Pause
from loop.data import FixedData
from loop.drivers import LiveDriver, ThreadInbox
from loop.policies import make_policy
from loop.ports import Backend, Thread
from loop.services.auth import TokenSource
from loop.services.controller_app import create_controller_app
from loop.services.controller_metrics import ControllerMetrics
from loop.services.door import DoorSettings
from loop.services.serving import Service, listen
from loop.testing.fakes import FakeBackend, server_view, system
from loop.types import Change, CycleRecord, Snapshot
from tests.live.optimizer_served import plain_client

DEADLINE_S = 30.0  # far longer than anything takes, for a machine that does much else
WORK_S = 0.05
SPREAD = 2.0  # how busy a machine is changes from moment to moment


class GatedBackend(FakeBackend):
    """A world that answers only while its gate is open; `looking` counts who has come to it."""

    def __init__(self) -> None:
        super().__init__([server_view()])
        self.gate = threading.Event()
        self.gate.set()
        self.bug: Exception | None = None
        self.looking = 0

    def observe(self) -> Snapshot:
        """Wait for the gate, then look."""
        self.looking += 1
        assert self.gate.wait(DEADLINE_S), "the test forgot to open the gate"
        if self.bug:
            raise self.bug
        return super().observe()

    def apply(self, changes: Sequence[Change]) -> None:
        """Do as asked."""
        super().apply(changes)


@dataclass(kw_only=True)
class Served:
    """A running service and what it did."""

    client: httpx.Client
    driver: LiveDriver
    inbox: ThreadInbox
    service: Service
    thread: threading.Thread
    records: list[CycleRecord] = field(default_factory=list)

    def stop(self) -> float:
        """Stop the service; return how long that took [s]."""
        begin_s = time.monotonic()
        self.service.should_exit = True
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive(), "the service does not stop"
        return time.monotonic() - begin_s


@contextmanager
def serving(
    backend: Backend,
    *,
    policy: str = "static",
    period_s: float = 0.0,
    speed: float = 1.0,
    advance: Callable[[float], None] | None = None,
    settings: ControllerSettings | None = None,
    inbox_size: int = 64,
    timeout_s: float = DEADLINE_S,
    token: TokenSource | None = None,
    door: DoorSettings | None = None,
    threads: Sequence[Thread] = (),
) -> Iterator[Served]:
    """Serve a controller over *backend*; stop it at the end."""
    metrics, records, pause = ControllerMetrics(), list[CycleRecord](), Pause()

    def report(record: CycleRecord) -> None:
        records.append(record)
        metrics.observe(record)

    watched = WatchedBackend(backend)
    controller = Controller(
        backend=watched,
        policy=make_policy(policy),
        data=FixedData(system()),
        clock=MonotonicClock(),
        settings=settings,
        pause=pause,
    )
    inbox = ThreadInbox(size_max=inbox_size)
    driver = LiveDriver(
        controller,
        period_s=period_s,
        clock=MonotonicClock(speed=speed),
        inbox=inbox,
        speed=speed,
        advance=advance,
        on_record=report,
    )
    app = create_controller_app(
        driver,
        inbox,
        metrics=metrics,
        pause=pause,
        token=token,
        timeout_s=timeout_s,
        threads=threads,
        watched=watched,
    )
    service, sockets = Service(app, on_stop=app.state.stop, door=door), listen("127.0.0.1", 0)
    port = sockets[0].getsockname()[1]
    thread = threading.Thread(target=service.run, kwargs={"sockets": sockets}, daemon=True)
    thread.start()
    with plain_client(f"http://127.0.0.1:{port}") as client:
        served = Served(
            client=client,
            driver=driver,
            inbox=inbox,
            service=service,
            thread=thread,
            records=records,
        )
        eventually(lambda: driver.alive, "the driver runs")
        try:
            yield served
        finally:
            served.stop()


def allowed_s(limit_s: float) -> float:
    """Return how long what takes *limit_s* on an idle machine may take on this one now: as many
    times longer as a little work takes of its clock than of its processor.
    """
    wall_s, cpu_s = time.monotonic(), time.thread_time()
    while time.thread_time() - cpu_s < WORK_S:
        pass
    slowness = (time.monotonic() - wall_s) / WORK_S
    return limit_s * max(1.0, SPREAD * slowness)


def eventually(happened: Callable[[], object], what: str) -> None:
    """Wait until *happened*, at most until the deadline."""
    end_s = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < end_s, f"waited {DEADLINE_S:g} s in vain: {what}"
        time.sleep(0.005)
