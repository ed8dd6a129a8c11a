"""Storage: objects, one counter of versions, and the log of changes that watches read.

An object gets its identity, its dates and its generation here. Knows no HTTP.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Literal, NamedTuple
from uuid import NAMESPACE_OID, uuid5

from twin.kube.apiserver.errors import expired
from twin.kube.apiserver.objects import Json, name_of, namespace_of, version_of
from twin.kube.apiserver.resources import DEPLOYMENTS, NAMESPACES, PODS, RESOURCES, Resource


class Dates:
    """The calendar of a world that began at *start* and whose time, told by *now_s*, runs *speed*
    times as fast.

    Dates are those of the machine, not of the world: clients compare them with their own clocks.
    """

    def __init__(self, start: datetime, *, speed: float, now_s: Callable[[], float]) -> None:
        self._start = start
        self._speed = speed
        self._now_s = now_s

    def at(self, t_s: float) -> datetime:
        """Return the date of *t_s* of the world."""
        return self._start + timedelta(seconds=t_s / self._speed)

    def now(self) -> datetime:
        """Return the date of its present."""
        return self.at(self._now_s())

    def text_at(self, t_s: float) -> str:
        """Return the date of *t_s* as objects carry it."""
        return date_text(self.at(t_s))

    def text(self, *, after_s: float = 0.0) -> str:
        """Return the present date, or one so many seconds of the machine later, as objects carry
        it.
        """
        return date_text(self.now() + timedelta(seconds=after_s))


def date_text(date: datetime) -> str:
    """Return *date* to the second, in UTC."""
    return date.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parsed_date(text: str) -> datetime:
    """Return the date that *text* says."""
    return datetime.fromisoformat(text)


FIRST_VERSION = 1000
"""Versions begin here, so that what is older than the store is seen to be compacted."""

HISTORY_MAX = 1024
"""Changes remembered per resource; watches from before them answer 410."""

HISTORY_MIN, HISTORY_S = 100, 300.0
"""So many are remembered whatever their age, more only if they are younger: as etcd is compacted
every five minutes. Each change holds two whole objects."""

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
        self.times_s: deque[float] = deque(maxlen=history_max)
        self.compacted = FIRST_VERSION


class Store:
    """Objects by resource, namespace and name. It keeps what it is given without a copy: a caller
    must not change it afterwards.

    *history_max* changes per resource are remembered, of old ones HISTORY_MIN; *now_s* tells the
    time. Listeners are called after each change, in its thread.
    """

    def __init__(
        self, *, history_max: int = HISTORY_MAX, now_s: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._now_s = now_s
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
        """Return what `items` returned when the store was at *version*. Raise ApiError 410
        if that is too long ago.
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
            shelf.times_s.clear()
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
        shelf.times_s.append(self._now_s())
        while len(shelf.log) > HISTORY_MIN and shelf.times_s[0] < shelf.times_s[-1] - HISTORY_S:
            shelf.compacted = shelf.log.popleft().version
            shelf.times_s.popleft()
        for listener in self.listeners:
            listener(change)


_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, so that no word comes out
_NAME_MAX, _SUFFIX = 63, 5
_SYSTEM = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "uid",
)


def suffix(text: str, *, length: int = 5) -> str:
    """Return letters and digits that follow from *text*, as generated names end."""
    number = int.from_bytes(sha256(text.encode()).digest()[:16], "big")
    letters = ""
    for _ in range(length):
        number, rest = divmod(number, len(_LETTERS))
        letters += _LETTERS[rest]
    return letters


def generated_name(prefix: str, text: str) -> str:
    """Return a name that begins with *prefix*, as far as a name of 63 characters has room for it,
    and ends with what follows from *text*.
    """
    return prefix[: _NAME_MAX - _SUFFIX] + suffix(text, length=_SUFFIX)


class Commits:
    """Writes to *store*. Identities follow from *seed* and their order.

    With dry=True nothing is stored, and the object is returned as it would have been.
    """

    def __init__(self, store: Store, *, dates: Dates, seed: str = "") -> None:
        self.store = store
        self.dates = dates
        self._seed = seed
        self._made = 0

    def now(self) -> str:
        """Return the date."""
        return self.dates.text()

    def create(self, resource: Resource, obj: Json, *, dry: bool = False) -> Json:
        """Store a new object, whose name is free."""
        self._made += 1
        identity = f"{self._seed}/{self._made}"
        metadata: Json = {
            key: value
            for key, value in obj["metadata"].items()
            if key not in (*_SYSTEM, "selfLink")
        }
        metadata["uid"] = str(uuid5(NAMESPACE_OID, identity))
        metadata["creationTimestamp"] = self.now()
        if resource.generations:
            metadata["generation"] = 1
        return self._put(resource, {**obj, "metadata": metadata}, dry=dry)

    def free_name(self, prefix: str) -> str:
        """Return a generated name that begins with *prefix*."""
        return generated_name(prefix, f"{self._seed}/{prefix}/{self._made + 1}")

    def change(self, resource: Resource, old: Json, new: Json, *, dry: bool = False) -> Json:
        """Store *new* in the place of *old*, or return *old* where nothing would change, or only
        when its owners wrote.
        """
        before = old["metadata"]
        metadata: Json = {
            key: value
            for key, value in new["metadata"].items()
            if key not in (*_SYSTEM, "selfLink")
        }
        metadata |= {key: before[key] for key in (*_SYSTEM, "resourceVersion") if key in before}
        new = {**new, "metadata": metadata}
        if _bare(new) == _bare(old) and _owners(new) == _owners(old):
            return old
        if resource.generations and _desires_differ(resource, old, new):
            metadata["generation"] = before.get("generation", 0) + 1
        if (
            "deletionTimestamp" in metadata
            and not metadata.get("finalizers")
            and resource not in (PODS, NAMESPACES)
        ):
            return new if dry else self.store.remove(resource, self._put(resource, new, dry=False))
        return self._put(resource, new, dry=dry)

    def status(
        self, resource: Resource, old: Json, status: Json, *, annotations: Json | None = None
    ) -> Json:
        """Store *old* with *status*, and with *annotations* of the controller's own; they are not
        part of the desired state.
        """
        metadata = old["metadata"]
        if annotations:
            metadata = {
                **metadata,
                "annotations": {**(metadata.get("annotations") or {}), **annotations},
            }
        new = {**old, "metadata": metadata, "status": status}
        return old if _bare(new) == _bare(old) else self._put(resource, new, dry=False)

    def mark_deleted(
        self, resource: Resource, obj: Json, *, grace_s: int | None = None, dry: bool = False
    ) -> Json:
        """Mark *obj* as being deleted; the controller that has to finish with it removes it."""
        if "deletionTimestamp" in obj["metadata"]:
            return obj
        # The date says when the grace period ends, not when deletion was asked for.
        metadata = {**obj["metadata"], "deletionTimestamp": self.dates.text(after_s=grace_s or 0)}
        if grace_s is not None:
            metadata["deletionGracePeriodSeconds"] = grace_s
        if resource.generations:
            metadata["generation"] = metadata.get("generation", 0) + 1
        return self._put(resource, {**obj, "metadata": metadata}, dry=dry)

    def remove(self, resource: Resource, obj: Json) -> Json:
        """Take *obj* out of the store."""
        return self.store.remove(resource, obj)

    def _put(self, resource: Resource, obj: Json, *, dry: bool) -> Json:
        return obj if dry else self.store.put(resource, obj)


def _owners(obj: Json) -> list[Json]:
    return [{**one, "time": None} for one in obj["metadata"].get("managedFields") or ()]


def _bare(obj: Json) -> Json:
    return {
        **obj,
        "metadata": {
            key: value for key, value in obj["metadata"].items() if key != "managedFields"
        },
    }


def _desires_differ(resource: Resource, old: Json, new: Json) -> bool:
    """Tell whether the desired state changed. A real API server counts the annotations of a
    Deployment as part of it.
    """

    def desired(obj: Json) -> Any:
        spec = obj.get("spec")
        return (spec, obj["metadata"].get("annotations") or {}) if resource is DEPLOYMENTS else spec

    return bool(desired(old) != desired(new))
