"""A policy that asks: POST /optimizeOne of an optimizer service, ours or an existing one,
decides.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

from loop.cost import cost_cents_per_h
from loop.errors import BackendError, SpecError
from loop.schema.messages import Json, held_spec, server_spec
from loop.schema.optimizer_messages import Era, optimize_message, read_optimized
from loop.types import Decision, ServerView, Snapshot, Target, Why, one_pool

if TYPE_CHECKING:
    from loop.backends.http_client import ServiceClient
    from loop.spec import SystemData

OPTIONS = ("drain_s", "compat", "era")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePolicy:
    """Decides what *optimizer* answers; who is not in the answer is held.

    drain_s: what waits is served within this time (0: leave it alone). compat: ask as the existing
    controller does, without what waits, and without the present cost. era: of when the optimizer
    is.
    """

    optimizer: ServiceClient
    drain_s: float = 120.0
    compat: bool = False
    era: Era = "today"
    name: str = "remote"
    tick_s: float = 60.0

    def __post_init__(self) -> None:
        number = isinstance(self.drain_s, int | float) and not isinstance(self.drain_s, bool)
        if not (number and 0.0 <= self.drain_s < math.inf):
            raise SpecError(
                f"policy remote: drain_s: expected a number >= 0, found {self.drain_s!r}"
            )
        if not isinstance(self.compat, bool):
            raise SpecError(f"policy remote: compat: expected true or false, found {self.compat!r}")
        if self.era not in get_args(Era):
            raise SpecError(
                f"policy remote: era: expected {' or '.join(get_args(Era))}, found {self.era!r}"
            )

    def start(self) -> None:
        """Return no state: the optimizer is told all there is to know."""

    def decide(self, snapshot: Snapshot, data: SystemData, state: None) -> tuple[Decision, None]:  # noqa: ARG002 the port
        """Return what the optimizer answers. Raise BackendError, of phase decide, where it fails.

        Servers whose load is not known are told of as ones to be held, so that their GPUs are not
        given to others. So are, in a second question, those that nothing can serve: they keep their
        GPUs, too.
        """
        unknown = {name for name, view in snapshot.servers.items() if view.load is None}
        decision = self._ask(snapshot, data, held=unknown)
        hopeless = {name: why for name, why in decision.unserved.items() if why.kind != "capacity"}
        if hopeless:
            decision = self._ask(snapshot, data, held=unknown | hopeless.keys())
        held = unknown | hopeless.keys()
        targets = {name: target for name, target in decision.targets.items() if name not in held}
        targets |= {name: _first(view) for name, view in snapshot.servers.items() if _starved(view)}
        return Decision(targets=targets, unserved={**decision.unserved, **hopeless}), None

    def _ask(self, snapshot: Snapshot, data: SystemData, *, held: Collection[str]) -> Decision:
        servers = [
            held_spec(view) if view.name in held else self._spec(view, data)
            for view in snapshot.servers.values()
            if view.wanted > 0 or view.name not in held
        ]
        if not servers:
            return Decision(targets={})
        if snapshot.capacity is not None:
            data = replace(
                data, capacity={kind: view.total for kind, view in snapshot.capacity.items()}
            )
        answer = self.optimizer.post(
            "optimizeOne", optimize_message(data, servers, era=self.era), phase="decide"
        )
        try:
            return read_optimized(answer)
        except SpecError as problem:
            raise BackendError(f"optimizer: {problem}", phase="decide") from None

    def _spec(self, view: ServerView, data: SystemData) -> Json:
        """Return *view* as the optimizer is told of it; the data files add what no collector
        says.
        """
        assert view.load is not None, view.name
        load, cost = view.load, None
        if not self.compat:
            cost = cost_cents_per_h(
                data, model=view.model, accelerator=view.accelerator, replicas=view.wanted
            )
            if self.drain_s > 0:
                load = replace(load, rate_rpm=load.rate_rpm + 60.0 * view.backlog / self.drain_s)
        spec = server_spec(view, load, cost_cents_per_h=cost or 0.0)
        told = data.servers.get(view.name)
        if told is None:
            return spec
        return spec | {
            "keepAccelerator": told.keep_accelerator,
            "minNumReplicas": max(told.min_replicas, view.replicas_min),
            "maxBatchSize": told.max_batch,
            "maxQueueSize": told.max_queue,
        }


def _starved(view: ServerView) -> bool:
    """Tell whether nothing will ever be known of the requests that wait, for no replica serves
    them.
    """
    return view.load is None and view.wanted == 0 and view.backlog > 0


def _first(view: ServerView) -> Target:
    return Target(
        server=view.name,
        pools=one_pool(accelerator=view.accelerator, replicas=1, max_batch=view.max_batch),
        why=Why(
            kind="bound",
            text=f"{view.backlog} requests wait, and nothing is known of them: one replica begins",
        ),
    )


def remote_policy(optimizer: ServiceClient, **options: Any) -> RemotePolicy:
    """Return the policy that asks *optimizer*. Raise SpecError for an unknown option or a wrong
    value.
    """
    for option in options:
        if option not in OPTIONS:
            raise SpecError(
                f"policy remote: expected options: one of {', '.join(OPTIONS)}; found {option!r}"
            )
    return RemotePolicy(optimizer=optimizer, **options)
