"""GPUs that several servers share and nobody else can use: together they get no more than there
are; pure.

The capacity of a type may be ample, and each of two servers may reach four GPUs of it: if these are
the same four, the two cannot have four each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from loop.spec import gpus
from loop.types import Decision, SharedGpus, Target, Why

if TYPE_CHECKING:
    from loop.spec import SystemData
    from loop.types import ServerView, Snapshot


class SharedRoom:
    """What is left of the GPUs of each of the *shared* sets."""

    def __init__(self, shared: Sequence[SharedGpus]) -> None:
        self._left = {one: one.count for one in shared}

    def take(self, server: str, kind: str, count: int, *, each: int = 1) -> int:
        """Give *server* up to *count* GPUs of a type, in units of *each*; return how many it gets
        at most.
        """
        sets = [one for one in self._left if one.type == kind and server in one.servers]
        room = min((max(self._left[one], 0) for one in sets), default=count)
        got = min(count, room // each * each)
        for one in sets:
            self._left[one] -= got
        return got

    def keep(self, server: str, kind: str, count: int) -> None:
        """Give *server* what it has, whether or not there is room for it."""
        for one in self._left:
            if one.type == kind and server in one.servers:
                self._left[one] -= count


def within_shared(decision: Decision, snapshot: Snapshot, data: SystemData) -> Decision:
    """Return *decision* without the growth for which servers that share GPUs have no room together:
    all keep what they have of it and still want, then the highest class grows first.
    """
    if not snapshot.shared_gpus:
        return decision
    room = SharedRoom(snapshot.shared_gpus)
    grows = []
    for name in _by_class(snapshot, data):
        view, target = snapshot.servers[name], decision.targets.get(name)
        held = gpus(data, model=view.model, accelerator=view.accelerator, replicas=view.wanted)
        asked = _asked(target, view, data)
        if asked is None or asked[0] != (held and held[0]):
            # On the way to other GPUs it has those of now until the new ones are there.
            if held is not None:
                room.keep(name, *held)
            kept = 0
        else:
            kept = min(held[1] if held else 0, asked[1])
            room.keep(name, asked[0], kept)
        if asked is not None and asked[1] > kept:
            grows.append((name, asked, kept))
    targets = dict(decision.targets)
    for name, (kind, count), kept in grows:
        each = count // targets[name].replicas
        got = kept + room.take(name, kind, count - kept, each=each)
        if got < count:
            targets[name] = _cut(targets[name], snapshot.servers[name], got // each)
    return replace(decision, targets=targets)


def _asked(target: Target | None, view: ServerView, data: SystemData) -> tuple[str, int] | None:
    if target is None or target.held or not target.pools or not target.replicas:
        return None
    return gpus(data, model=view.model, accelerator=target.accelerator, replicas=target.replicas)


def _by_class(snapshot: Snapshot, data: SystemData) -> Iterable[str]:
    servers = snapshot.servers
    return sorted(servers, key=lambda name: (data.priority(servers[name].service_class), name))


def _cut(target: Target, view: ServerView, replicas: int) -> Target:
    """Return *target* with so many *replicas*; without room for one, what the server has."""
    text = (
        f"{target.why.text}; {replicas} of {target.replicas} replicas have a place on GPUs that it "
        "shares with other servers"
    )
    why = Why(kind="capacity", text=text, details=target.why.details)
    pool = replace(target.pools[0], replicas=replicas)
    return replace(
        target,
        pools=(pool,) if replicas else view.pools,
        held=not replicas,
        cost_cents_per_h=None,
        itl_ms=None,
        ttft_ms=None,
        rho=None,
        why=why,
    )
