"""Small real implementations of the ports of the loop, and the system that tests of the loop
share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from loop.data import DataReading
from loop.errors import BackendError
from loop.spec import OptimizerData, Perf, ServerData, ServiceClass, SloTarget, SystemData
from loop.types import (
    CapacityView,
    Change,
    CycleRecord,
    Load,
    Mode,
    PodView,
    ServerView,
    Snapshot,
    Target,
    Why,
    one_pool,
)
from twin.spec import Accelerator

BECAUSE = Why(kind="remote", text="because")


class ManualClock:
    """A clock that a test moves; each reading may also take *step_s*."""

    def __init__(self, *, step_s: float = 0.0) -> None:
        self.time_s = 0.0
        self._step_s = step_s

    def now_s(self) -> float:
        """Return the time, and let the step pass."""
        self.time_s += self._step_s
        return self.time_s


class FakeBackend:
    """A world that becomes at once what is asked, keeps what that was, and fails in the phases
    named in *failing*.
    """

    name = "fake"

    def __init__(
        self, servers: Sequence[ServerView], *, capacity: Mapping[str, int] | None = None
    ) -> None:
        self.views = {view.name: view for view in servers}
        self.capacity = capacity
        self.now_s = 0.0
        self.failing: set[str] = set()
        self.source_error = ""
        self.applied: list[tuple[Change, ...]] = []

    def observe(self) -> Snapshot:
        """Return the views as they are."""
        if "observe" in self.failing:
            raise BackendError("the world does not answer", phase="observe")
        return Snapshot(
            now_s=self.now_s,
            servers=dict(self.views),
            capacity=self._capacity_view(),
            source_error=self.source_error,
        )

    def apply(self, changes: Sequence[Change]) -> None:
        """Become what is asked: all replicas ready at once."""
        if "apply" in self.failing:
            raise BackendError("the world refuses", phase="apply")
        self.applied.append(tuple(changes))
        for change in changes:
            self.views[change.server] = replace(
                self.views[change.server],
                pools=change.pools,
                ready=change.replicas,
            )

    def set_load(self, server: str, load: Load | None) -> None:
        """Let *server* be seen under *load* from now on."""
        self.views[server] = replace(self.views[server], load=load)

    def _capacity_view(self) -> dict[str, CapacityView] | None:
        if self.capacity is None:
            return None
        return {
            kind: CapacityView(type=kind, total=total, used=0)
            for kind, total in self.capacity.items()
        }


class VirtualRequest:
    """Somebody who asks for a cycle in *mode*, and keeps the answer; *gone* before its cycle
    begins, if so.
    """

    def __init__(self, mode: Mode = "act", *, gone: bool = False) -> None:
        self.mode = mode
        self.answers: list[CycleRecord] = []
        self._gone = gone

    def begin(self) -> bool:
        """Tell whether somebody waits still."""
        return not self._gone

    def answer(self, record: CycleRecord) -> None:
        """Keep the answer."""
        self.answers.append(record)

    def refuse(self, error: Exception) -> None:
        """Fail: no cycle of a driver may end without a record."""
        raise AssertionError(f"no record: {error}")


class VirtualInbox:
    """An inbox whose waits pass at once: they move *clock*, *speed* times as far, and it closes at
    *until_s*.

    *coming* are requests by the time of the clock at which they arrive.
    """

    def __init__(
        self,
        clock: ManualClock,
        *,
        until_s: float,
        coming: Sequence[tuple[float, VirtualRequest]] = (),
        speed: float = 1.0,
    ) -> None:
        self.waits_s: list[float] = []
        self.closed = False
        self._clock = clock
        self._until_s = until_s
        self._coming = sorted(coming, key=lambda pair: pair[0])
        self._speed = speed

    def wait(self, timeout_s: float) -> list[VirtualRequest]:
        """Let time pass to the next request, or by *timeout_s*."""
        self.waits_s.append(timeout_s)
        end_s = min(self._clock.time_s + timeout_s * self._speed, self._until_s)
        if self._coming:
            end_s = min(end_s, max(self._coming[0][0], self._clock.time_s))
        self._clock.time_s = max(end_s, self._clock.time_s)
        self.closed = self.closed or self._clock.time_s >= self._until_s
        arrived = [request for time_s, request in self._coming if time_s <= self._clock.time_s]
        self._coming = self._coming[len(arrived) :]
        return arrived

    def close(self) -> None:
        """Let the driver end."""
        self.closed = True


class ListedData:
    """Data that are another each cycle: the readings in turn, the last one for ever."""

    def __init__(self, readings: Sequence[DataReading]) -> None:
        self._readings = list(readings)

    def load(self) -> DataReading:
        """Return the next reading."""
        return self._readings.pop(0) if len(self._readings) > 1 else self._readings[0]


def server_view(name: str = "s1", **fields: object) -> ServerView:
    """Return a Premium server of llama_8b, two replicas on H100 unless *fields* say otherwise."""
    given: dict[str, object] = {
        "name": name,
        "model": "llama_8b",
        "service_class": "Premium",
        "accelerator": "H100",
        "max_batch": 64,
        "wanted": 2,
        "ready": 2,
        "load": Load(rate_rpm=120.0, in_tokens=512.0, out_tokens=256.0),
        "sample_age_s": 5.0,
    }
    told = {**given, **fields}
    pool = one_pool(
        accelerator=told.pop("accelerator"),  # type: ignore[arg-type]
        replicas=told.pop("wanted"),  # type: ignore[arg-type]
        max_batch=told.pop("max_batch"),  # type: ignore[arg-type]
    )
    return ServerView(pools=pool, **told)  # type: ignore[arg-type]


def pod_view(name: str = "p1", **fields: object) -> PodView:
    """Return a ready pod on an H100 that was sampled just now, unless *fields* say otherwise."""
    given: dict[str, object] = {
        "name": name,
        "phase": "ready",
        "since_s": 0.0,
        "created_s": 0.0,
        "accelerator": "H100",
        "max_batch": 64,
        "sample_age_s": 5.0,
    }
    return PodView(**{**given, **fields})  # type: ignore[arg-type]


def target(
    server: str = "s1",
    *,
    accelerator: str = "H100",
    replicas: int = 2,
    max_batch: int = 64,
    **fields: object,
) -> Target:
    """Return a target of one pool; the defaults are what server_view has."""
    pools = one_pool(accelerator=accelerator, replicas=replicas, max_batch=max_batch)
    given: dict[str, object] = {"server": server, "pools": pools, "why": BECAUSE}
    return Target(**{**given, **fields})  # type: ignore[arg-type]


def change(server: str = "s1", *, why: Why = BECAUSE, **pool: Any) -> Change:
    """Return a change to one pool, as target has it."""
    return Change(server=server, pools=target(server, **pool).pools, why=why)


def system(**fields: object) -> SystemData:
    """Return two accelerators, two models, two classes and no servers; *fields* replace parts of
    it.
    """
    data = SystemData(
        accelerators={
            "H100": Accelerator(name="H100", type="H100", cost_cents_per_h=400.0),
            "2xA100": Accelerator(
                name="2xA100", type="A100", multiplicity=2, cost_cents_per_h=500.0
            ),
        },
        perf={
            (perf.model, perf.accelerator): perf
            for perf in (
                Perf(
                    model="llama_8b",
                    accelerator="H100",
                    max_batch=64,
                    at_tokens=512,
                    alpha_ms=6.49,
                    beta_ms=0.0219,
                    gamma_ms=4.96e-5,
                ),
                Perf(
                    model="llama_8b",
                    accelerator="2xA100",
                    max_batch=48,
                    at_tokens=512,
                    alpha_ms=8.1,
                    beta_ms=0.03,
                    gamma_ms=6e-5,
                ),
                Perf(
                    model="qwen_14b",
                    accelerator="H100",
                    max_batch=64,
                    at_tokens=512,
                    alpha_ms=10.6,
                    beta_ms=0.042,
                    gamma_ms=5.8e-5,
                ),
            )
        },
        classes={
            "Premium": ServiceClass(
                name="Premium", priority=1, targets=_targets(itl_ms=12.0, ttft_ms=500.0)
            ),
            "Free": ServiceClass(
                name="Free", priority=10, targets=_targets(itl_ms=25.0, ttft_ms=2000.0)
            ),
        },
        optimizer=OptimizerData(),
        capacity={"H100": 8, "A100": 8},
    )
    return replace(data, **fields)  # type: ignore[arg-type]


def server_data(name: str = "s1", **fields: object) -> ServerData:
    """Return the row of server-data.json that fits server_view."""
    given: dict[str, object] = {"name": name, "model": "llama_8b", "service_class": "Premium"}
    return ServerData(**{**given, **fields})  # type: ignore[arg-type]


def _targets(*, itl_ms: float, ttft_ms: float) -> dict[str, SloTarget]:
    return {
        model: SloTarget(model=model, slo_itl_ms=itl_ms, slo_ttft_ms=ttft_ms)
        for model in ("llama_8b", "qwen_14b")
    }
