"""The twin as a cluster, served over real HTTP on a free port of the loopback, for tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
from kubernetes import client

from loop.backends.kube.arguments import batch_size
from loop.clocks import MonotonicClock
from loop.services.door import DoorSettings
from loop.services.serving import Service, listen
from tests.live.optimizer_served import plain_client
from twin.kube.apiserver.app import create_app
from twin.kube.apiserver.auth import ADMIN, Identity
from twin.kube.cluster import CONTROL_PATH, TOKEN, TwinCluster
from twin.kube.faults import Fault, Faults
from twin.spec import ClusterSpec, Delay, Server
from twin.testing.worlds import spec_of

DEADLINE_S = 30.0
SPEC = spec_of(
    Server(name="vllm-001", model="m", queue_max=50),
    capacity={"A": 12, "B": 4},
    start_up=Delay(mean_s=5.0),
)


@dataclass(kw_only=True)
class ServedTwin:
    """A running twin. `cluster` belongs to the thread that serves: tests look at it through HTTP,
    faults excepted.
    """

    cluster: TwinCluster
    url: str
    http: httpx.Client
    service: Service
    thread: threading.Thread

    def api(self, token: str = TOKEN) -> client.ApiClient:
        """Return the official client, sending *token*."""
        configuration = client.Configuration(host=self.url)
        configuration.api_key = {"authorization": f"Bearer {token}"}
        configuration.retries = False
        return client.ApiClient(configuration)

    def stop(self) -> float:
        """Stop it; return how long that took [s]."""
        begin_s = time.monotonic()
        self.service.should_exit = True
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive(), "the twin does not stop"
        return time.monotonic() - begin_s


@contextmanager
def serving_twin(
    spec: ClusterSpec = SPEC,
    *,
    speed: float = 1.0,
    tokens: Mapping[str, Identity] | None = None,
    anonymous: Identity = ADMIN,
    faults: Sequence[Fault] = (),
    listening: Faults | None = None,
    clock: Callable[[], float] | None = None,
    door: DoorSettings | None = None,
) -> Iterator[ServedTwin]:
    """Serve a twin of *spec*; stop it at the end. *listening* is shown each request instead of its
    own faults.
    """
    sockets = listen("127.0.0.1", 0)
    address = f"127.0.0.1:{sockets[0].getsockname()[1]}"
    cluster = TwinCluster(
        spec,
        clock=clock or MonotonicClock(speed=speed).now_s,
        start=datetime.now(UTC),
        batch_of=batch_size,
        speed=speed,
        tokens=tokens,
        anonymous=anonymous,
        faults=faults,
        address=address,
    )
    service = Service(
        create_app(
            cluster.server,
            cluster,
            cluster.faults if listening is None else listening,
            control=CONTROL_PATH,
        ),
        on_stop=cluster.stop,
        door=door,
    )
    thread = threading.Thread(target=service.run, kwargs={"sockets": sockets}, daemon=True)
    thread.start()
    url = f"http://{address}"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with plain_client(url, headers=headers) as http:
        twin = ServedTwin(cluster=cluster, url=url, http=http, service=service, thread=thread)
        end_s = time.monotonic() + DEADLINE_S
        while not service.started:
            assert time.monotonic() < end_s, "the twin does not start"
            assert thread.is_alive(), "the twin has failed"
            time.sleep(0.005)
        try:
            yield twin
        finally:
            twin.stop()
