"""The memory of the API server: objects, one counter of versions, and a log of changes that watches
read. No HTTP.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from twin.kube.apiserver.errors import expired
from twin.kube.apiserver.objects import Json, name_of, namespace_of, version_of
from twin.kube.apiserver.resources import RESOURCES, Resource

FIRST_VERSION = 1000
"""Versions begin here, so that what is older than the store is seen to be compacted."""

HISTORY_MAX = 4096
"""Changes remembered per resource; watches from before them answer 410."""

ChangeType = Literal["ADDED", "MODIFIED", "DELETED"]


class Change(NamedTuple):
    """One change of one object. old is None where it was ADDED; new is the last state where it was
    DELETED.
    """

    type: ChangeType
    version: int
    resource: Resource
    old: Json | None
    new: Json


class _Shelf:
    """The objects of one resource by (namespace, name), the log of their changes, and how far back
    that reaches.
    """

    def __init__(self, *, history_max: int) -> None:
        self.objects: dict[tuple[str, str], Json] = {}
        self.log: deque[Change] = deque(maxlen=history_max)
        self.compacted = FIRST_VERSION


class Store:
    """Objects by resource, namespace and name. What it is given it keeps as it is: nobody may
    change it afterwards.

    *history_max* changes per resource are remembered. Listeners are called after each change, in
    its thread.
    """

    def __init__(self, *, history_max: int = HISTORY_MAX) -> None:
        self.version = FIRST_VERSION
        self.listeners: list[Callable[[Change], None]] = []
        self._shelves = {resource: _Shelf(history_max=history_max) for resource in RESOURCES}

    def get(self, resource: Resource, namespace: str, name: str) -> Json | None:
        """Return an object, None where there is none."""
        return self._shelves[resource].objects.get((namespace, name))

    def items(self, resource: Resource, namespace: str = "") -> list[Json]:
        """Return the objects of *namespace* (empty: of all) in the order of namespace and name."""
        objects = self._shelves[resource].objects
        return [objects[key] for key in sorted(objects) if not namespace or key[0] == namespace]

    def put(self, resource: Resource, obj: Json) -> Json:
        """Store *obj* under its name, new or not, and give it the next version; return it as
        stored.
        """
        key = (namespace_of(obj), name_of(obj))
        shelf = self._shelves[resource]
        old = shelf.objects.get(key)
        obj = self._versioned(obj)
        shelf.objects[key] = obj
        self._log("ADDED" if old is None else "MODIFIED", resource, old, obj)
        return obj

    def remove(self, resource: Resource, obj: Json) -> Json:
        """Forget the object of this name, which is there; return its last state, with the version
        of its end.
        """
        old = self._shelves[resource].objects.pop((namespace_of(obj), name_of(obj)))
        last = self._versioned(old)
        self._log("DELETED", resource, old, last)
        return last

    def since(self, resource: Resource, version: int) -> Sequence[Change]:
        """Return the changes after *version*. Raise ApiError 410 where the log does not reach back
        so far.
        """
        shelf = self._shelves[resource]
        if version < shelf.compacted:
            raise expired(f"too old resource version: {version} ({shelf.compacted})")
        changes = list[Change]()
        for change in reversed(shelf.log):
            if change.version <= version:
                break
            changes.append(change)
        return changes[::-1]

    def items_at(self, resource: Resource, version: int, namespace: str = "") -> list[Json]:
        """Return what `items` returned when the store was at *version*. Raise ApiError 410 where
        nobody knows.
        """
        then = dict(self._shelves[resource].objects)
        for change in reversed(self.since(resource, version)):
            key = (namespace_of(change.new), name_of(change.new))
            if change.old is None:
                del then[key]
            else:
                then[key] = change.old
        return [then[key] for key in sorted(then) if not namespace or key[0] == namespace]

    def compact(self) -> None:
        """Forget every change so far: watches and pages from before now answer 410."""
        for shelf in self._shelves.values():
            shelf.log.clear()
            shelf.compacted = self.version

    def _versioned(self, obj: Json) -> Json:
        self.version += 1
        return {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}

    def _log(self, type_: ChangeType, resource: Resource, old: Json | None, new: Json) -> None:
        shelf = self._shelves[resource]
        if len(shelf.log) == shelf.log.maxlen:
            shelf.compacted = shelf.log[0].version
        change = Change(type_, version_of(new), resource, old, new)
        shelf.log.append(change)
        for listener in self.listeners:
            listener(change)
