"""Leader election by a Lease, so that of several controllers of one cluster one acts and the others
stand by.

Who holds the Lease renews it. Others take it when it was not renewed for as long as it lasts, by
their own clock since they saw it change, so clocks need not agree. The holder stops acting earlier
than that: a request that it has sent may still be on its way. A Lease is replaced by version, so of
two that take it at once one fails.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from loop.backends.kube.client import CONFLICT, NOT_FOUND, ApiError

if TYPE_CHECKING:
    from loop.controller import Controller
    from loop.ports import Clock
    from loop.types import CycleRecord, Mode, Trigger

Json = dict[str, Any]


class LeaseStore(Protocol):
    """Where Leases are: an API server."""

    def lease(self, namespace: str, name: str) -> Json:
        """Return a Lease; ApiError with status 404 where there is none."""
        ...

    def create_lease(self, namespace: str, body: Json) -> Json:
        """Create a Lease; ApiError with status 409 where there is one."""
        ...

    def replace_lease(self, namespace: str, name: str, body: Json) -> Json:
        """Replace a Lease; ApiError with status 409 where it has changed since *body* was read."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSettings:
    """Which Lease, who asks for it, and the times: it lasts lease_s unless renewed, which is tried
    every renew_s; its holder acts until act_s after its last renewal.
    """

    namespace: str
    name: str
    holder: str
    lease_s: float = 15.0
    act_s: float = 8.0
    renew_s: float = 2.0

    def __post_init__(self) -> None:
        assert 0 < self.renew_s < self.act_s < self.lease_s, (
            "a lease must be renewed before it is doubted"
        )
        assert self.holder, "somebody must hold a lease"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What was last seen of the Lease, and since when it has been like that."""

    spec: Json = field(default_factory=dict)
    holder: str = ""
    since_s: float = 0.0
    lease_s: float = 0.0


class Lease:
    """One contender for a Lease. `step` takes or renews it, if it can; `start` does so in a thread
    until `stop`.
    """

    def __init__(
        self, store: LeaseStore, *, settings: LeaseSettings, clock: Clock, epoch: datetime
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._epoch = epoch
        self._seen = _Seen()
        self._renewed_s: float | None = None
        self._problem = ""
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Tell whether the thread runs that contends for it."""
        return self._thread is not None and self._thread.is_alive()

    def held(self) -> bool:
        """Tell whether this contender may act now."""
        renewed_s = self._renewed_s
        return renewed_s is not None and self._clock.now_s() - renewed_s < self._settings.act_s

    @property
    def state(self) -> str:
        """Return who holds the lease, as far as it is known, in one line for people."""
        where = f"lease {self._settings.namespace}/{self._settings.name}"
        if self._problem:
            return f"{where}: {self._problem}"
        return f"{where} is held by {self._seen.holder or 'nobody yet'}"

    def step(self) -> bool:
        """Renew the Lease, or take it if it is free; return whether it is held. A failure counts as
        not renewed.
        """
        begin_s = self._clock.now_s()
        taken: bool | None
        try:
            taken = self._try(begin_s)
        except ApiError as error:
            self._problem = str(error)
            # Somebody else was faster: it is not ours, whatever we had.
            taken = False if error.status == CONFLICT else None
        else:
            self._problem = ""
        if taken is not None:
            # Counted from before the request: the server may have noted it at any time since.
            self._renewed_s = begin_s if taken else None
        return self.held()

    def start(self) -> None:
        """Contend from now on, in a thread that does not keep a program alive."""
        assert self._thread is None, "a contender starts once"
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    def stop(self, *, timeout_s: float = 0.5) -> None:
        """Stop contending, and give the Lease up, so that another one need not wait for its end."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        if self._renewed_s is None:
            return
        self._renewed_s = None
        try:
            body = self._store.lease(self._settings.namespace, self._settings.name)
            held = body.get("spec") or {}
            if held.get("holderIdentity") == self._settings.holder:
                spec = {**held, "holderIdentity": "", "leaseDurationSeconds": 1}
                self._store.replace_lease(
                    self._settings.namespace, self._settings.name, {**body, "spec": spec}
                )
        except ApiError as error:
            # It then ends by itself.
            self._problem = str(error)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.step()
            except Exception as error:
                # Anything at all, a kubeconfig that cannot be read just now: a contender that is
                # gone would leave the servers to nobody, for ever and in silence.
                self._problem = f"{type(error).__name__}: {error}"
            self._stopped.wait(self._settings.renew_s)

    def _try(self, now_s: float) -> bool:
        """Return whether the Lease is held after one attempt; raise ApiError where that is not
        known.
        """
        settings = self._settings
        try:
            body = self._store.lease(settings.namespace, settings.name)
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            if self._is_anothers(now_s):
                return False  # who deletes it does not stop its holder
            body = self._store.create_lease(settings.namespace, self._fresh(now_s))
            self._look(body, now_s)
            return True
        self._look(body, now_s)
        if self._is_anothers(now_s):
            return False
        changed = self._store.replace_lease(
            settings.namespace, settings.name, {**body, "spec": self._spec(body, now_s)}
        )
        self._look(changed, now_s)
        return True

    def _look(self, body: Json, now_s: float) -> None:
        """Take note of the Lease; its time runs from when it was first seen as it is. Labels that
        people change do not renew it.
        """
        spec = body.get("spec") or {}
        if spec != self._seen.spec:
            lasts_s = float(spec.get("leaseDurationSeconds") or self._settings.lease_s)
            holder = spec.get("holderIdentity") or ""
            self._seen = _Seen(spec=spec, holder=holder, since_s=now_s, lease_s=lasts_s)

    def _is_anothers(self, now_s: float) -> bool:
        """Tell whether somebody else holds it, or may still act as its holder."""
        seen = self._seen
        ours = seen.holder in ("", self._settings.holder)
        return not ours and now_s - seen.since_s < seen.lease_s

    def _fresh(self, now_s: float) -> Json:
        metadata = {"name": self._settings.name, "namespace": self._settings.namespace}
        spec = self._spec({}, now_s)
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": spec,
        }

    def _spec(self, body: Json, now_s: float) -> Json:
        """Return what the Lease is to say: ours, renewed now, taken when, and how often it has
        changed hands.
        """
        date = (self._epoch + timedelta(seconds=now_s)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = body.get("spec") or {}
        ours = before.get("holderIdentity") == self._settings.holder
        return {
            "holderIdentity": self._settings.holder,
            "leaseDurationSeconds": round(self._settings.lease_s),
            "renewTime": date,
            "acquireTime": (before.get("acquireTime") if ours else None) or date,
            "leaseTransitions": (before.get("leaseTransitions") or 0)
            + int(bool(before) and not ours),
        }


class LedController:
    """A controller that acts while it holds a Lease, and otherwise stands by: it looks, learns and
    advises.
    """

    def __init__(self, controller: Controller, lease: Lease) -> None:
        self._controller = controller
        self._lease = lease

    def cycle(
        self, now_s: float, *, trigger: Trigger = "period", mode: Mode | None = None
    ) -> CycleRecord:
        """Run one cycle, as Controller does; say in its record if it stood by."""
        if self._lease.held():
            return self._controller.cycle(now_s, trigger=trigger, mode=mode)
        learns = mode is None  # advice that somebody asks for leaves no trace here either
        record = self._controller.cycle(now_s, trigger=trigger, mode="advise", learns=learns)
        return replace(record, warnings=(*record.warnings, f"standing by: {self._lease.state}"))

    def failure(
        self,
        now_s: float,
        *,
        error: Exception,
        trigger: Trigger = "period",
        mode: Mode | None = None,
    ) -> CycleRecord:
        """Return the record of a cycle that an error of the programmer has ended."""
        return self._controller.failure(now_s, error=error, trigger=trigger, mode=mode)
