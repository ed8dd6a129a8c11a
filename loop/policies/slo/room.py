"""Who has which GPUs: those of held servers are given away first, then what is decided, and what is
left over last. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from loop.replacing import replace
from loop.spec import gpus
from loop.types import Target, Why, one_pool

if TYPE_CHECKING:
    from loop.spec import SystemData
    from loop.types import ServerView, Snapshot


class FreeGpus:
    """The GPUs of each type that are not given away yet."""

    def __init__(self, system: SystemData) -> None:
        self.system = system
        self.count = dict(system.capacity)

    def take(self, server: str, accelerator: str, replicas: int) -> str:
        """Give GPUs to replicas of *server*; return what to tell of it if there are not as many."""
        taken = gpus(
            self.system,
            model=self.system.servers[server].model,
            accelerator=accelerator,
            replicas=replicas,
        )
        if taken is None:
            return ""
        kind, count = taken
        room = self.count.get(kind, 0)
        self.count[kind] = max(0, room - count)
        if count <= room or self.system.optimizer.unlimited:
            return ""
        return f"its {count} {kind} exceed the capacity, which has {room} left"

    def keep(self, servers: Iterable[str]) -> None:
        """Give each of *servers* what it has."""
        for name in servers:
            current = self.system.servers[name].current
            self.take(name, current.accelerator, current.replicas)

    def room(self, server: str, accelerator: str) -> int | None:
        """Return how many replicas of *server* fit in; None if the data do not know, or nothing
        bounds them.
        """
        if self.system.optimizer.unlimited:
            return None
        model = self.system.servers[server].model
        each = gpus(self.system, model=model, accelerator=accelerator, replicas=1)
        return self.count.get(each[0], 0) // each[1] if each is not None else None

    def by_class(self, names: Iterable[str]) -> list[str]:
        """Return *names*, highest class first."""
        servers, priority = self.system.servers, self.system.priority
        return sorted(names, key=lambda name: (priority(servers[name].service_class), name))


def without(system: SystemData, held: Iterable[str], woken: Mapping[str, Target]) -> SystemData:
    """Return what is left to decide: the servers that are not *held*, and the GPUs that these
    leave.
    """
    free, held = FreeGpus(system), set(held)
    free.keep(held)
    for name, target in woken.items():
        more = target.replicas - system.servers[name].current.replicas
        free.take(name, target.accelerator, more)
    servers = {name: server for name, server in system.servers.items() if name not in held}
    return replace(system, servers=servers, capacity=free.count)


def woken_targets(
    system: SystemData,
    snapshot: Snapshot,
    unknown: Iterable[str],
    *,
    for_long: Collection[str] = (),
) -> dict[str, Target]:
    """Return a target for each of the servers *unknown* whose requests need more replicas than it
    has, as far as the held servers leave GPUs.

    Where nothing runs and requests wait, one replica begins: without one their tokens are never
    counted, and the load is never known. Where the load has been unknown *for_long*, as many as run
    and wait must have a place in a batch; before, a queue may be what an outage has left.
    """
    free, targets = FreeGpus(system), {}
    free.keep(unknown)
    for name in free.by_class(unknown):
        view = snapshot.servers[name]
        why = _more(view, grows=name in for_long)
        if view.hold is not None or why is None:
            continue
        needed, text = why
        room = free.room(name, view.accelerator)
        if room is not None:
            needed = min(needed, view.wanted + room)
        if needed <= view.wanted:
            continue
        free.take(name, view.accelerator, needed - view.wanted)
        targets[name] = Target(
            server=name,
            pools=one_pool(accelerator=view.accelerator, replicas=needed, max_batch=view.max_batch),
            why=Why(kind="in-flight" if view.wanted else "bound", text=text),
        )
    return targets


def _more(view: ServerView, *, grows: bool) -> tuple[int, str] | None:
    """Return how many replicas the requests in *view* need, and why, if its load is not known."""
    if not view.accelerator:
        return None
    if view.wanted == 0:
        text = f"{view.backlog} requests wait, and nothing is known of them: one replica begins"
        return (1, text) if view.backlog else None
    if not (grows and view.max_batch > 0):
        return None
    waiting = max(view.waiting, view.backlog)
    needed = -(-(view.running + waiting) // view.max_batch)
    text = (
        f"the load is not known, but {view.running} requests run and {waiting} wait: "
        f"{needed} batches of {view.max_batch}"
    )
    return needed, text


def held_targets(free: FreeGpus, held: Mapping[str, Why], snapshot: Snapshot) -> dict[str, Target]:
    """Return targets that change nothing for the servers *held*, whose GPUs are given away
    first.
    """
    targets = {}
    for name in free.by_class(held):
        view, why = snapshot.servers[name], held[name]
        beyond = free.take(name, view.accelerator, view.wanted)
        parts = [part for part in ("held", why.text, beyond) if part]
        targets[name] = Target(
            server=name,
            pools=view.pools,
            why=replace(why, text="; ".join(parts)),
            held=True,
            cost_cents_per_h=free.system.servers[name].current.cost_cents_per_h,
        )
    return targets


def leftover_targets(free: FreeGpus, short: Mapping[str, Why]) -> dict[str, Target]:
    """Return for the servers *short* of GPUs as many of their present replicas as the others leave
    GPUs for.
    """
    targets = {}
    for name in free.by_class(short):
        current = free.system.servers[name].current
        room = free.room(name, current.accelerator)
        replicas = current.replicas if room is None else min(current.replicas, room)
        free.take(name, current.accelerator, replicas)
        targets[name] = Target(
            server=name,
            pools=one_pool(
                accelerator=current.accelerator,
                replicas=replicas,
                max_batch=current.max_batch,
            ),
            why=Why(
                kind="capacity",
                text=f"{short[name].text}; keeps {replicas} of {current.replicas} replicas",
            ),
        )
    return targets
