"""Controllers of every cluster: recorder of events, garbage collector, end of namespaces."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from twin.kube.apiserver.objects import Json, copied, name_of, namespace_of, owned_by
from twin.kube.apiserver.resources import (
    EVENTS,
    LEASES,
    NAMESPACES,
    PODS,
    RESOURCES,
    SERVICE_ACCOUNTS,
    Resource,
)
from twin.kube.apiserver.storage import Change, Commits, suffix

EVENTS_MAX = 1000


class EventLog:
    """Writes events with *commits*; keeps at most *size_max* of them."""

    def __init__(self, commits: Commits, *, size_max: int = EVENTS_MAX) -> None:
        self._commits = commits
        self._size_max = size_max
        self._names: OrderedDict[tuple[str, str, str], tuple[str, str]] = OrderedDict()

    def add(
        self, obj: Json, reason: str, message: str, *, source: str, warning: bool = False
    ) -> None:
        """Record that *reason* befell *obj*."""
        uid = obj["metadata"].get("uid", "")
        key = (uid, reason, message)
        known = self._names.get(key)
        store, date = self._commits.store, self._commits.now()
        event = store.get(EVENTS, *known) if known else None
        if event is not None:
            self._names.move_to_end(key)
            again = copied(event) | {"count": event["count"] + 1, "lastTimestamp": date}
            self._commits.change(EVENTS, event, again)
            return
        namespace = namespace_of(obj) or "default"
        name = f"{name_of(obj)}.{suffix(f'{key}{date}', length=12)}"
        self._names[key] = (namespace, name)
        if store.get(EVENTS, namespace, name) is None:
            event = _event(
                obj, reason=reason, message=message, source=source, date=date, warning=warning
            )
            self._commits.create(
                EVENTS, event | {"metadata": {"name": name, "namespace": namespace}}
            )
        self._forget()

    def _forget(self) -> None:
        while len(self._names) > self._size_max:
            _, place = self._names.popitem(last=False)
            old = self._commits.store.get(EVENTS, *place)
            if old is not None:
                self._commits.remove(EVENTS, old)


def _event(obj: Json, *, reason: str, message: str, source: str, date: str, warning: bool) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "involvedObject": {
            "apiVersion": obj["apiVersion"],
            "kind": obj["kind"],
            "name": name_of(obj),
            **({"namespace": namespace_of(obj)} if namespace_of(obj) else {}),
            "uid": obj["metadata"].get("uid", ""),
            "resourceVersion": obj["metadata"].get("resourceVersion", ""),
        },
        "reason": reason,
        "message": message,
        "type": "Warning" if warning else "Normal",
        "source": {"component": source},
        "reportingComponent": source,
        "reportingInstance": "",
        "firstTimestamp": date,
        "lastTimestamp": date,
        "count": 1,
    }


_CHILDLESS = (PODS, EVENTS, LEASES)
_OWNED = tuple(resource for resource in RESOURCES if resource.namespaced)


class Garbage:
    """Deletes with *commits* what has lost its owner or its namespace. Pods are marked, and go
    by and by.
    """

    def __init__(self, commits: Commits) -> None:
        self._commits = commits
        self._orphaned: list[Json] = []
        self._dying: dict[str, Json] = {}
        self._born: list[str] = []
        commits.store.listeners.append(self._note)

    def collect(self) -> None:
        """Delete what is due."""
        while self._orphaned:
            owner = self._orphaned.pop()
            self._delete_all(namespace_of(owner), partial(_is_owned, owner))
        for name in tuple(self._dying):
            if not self._delete_all(name, _is_there):
                space = self._commits.store.get(NAMESPACES, "", name)
                if space is not None:
                    self._commits.remove(NAMESPACES, space)
                del self._dying[name]
        while self._born:
            self._furnish(self._born.pop())

    def _note(self, change: Change) -> None:
        if change.type == "DELETED" and change.resource not in _CHILDLESS:
            self._orphaned.append(change.new)
        if (
            change.resource is NAMESPACES
            and change.type == "MODIFIED"
            and "deletionTimestamp" in change.new["metadata"]
        ):
            self._dying[name_of(change.new)] = change.new
        if change.resource is NAMESPACES and change.type == "ADDED":
            self._born.append(name_of(change.new))

    def _delete_all(self, namespace: str, meant: Callable[[Json], bool]) -> int:
        """Delete the objects of *namespace* that are *meant*; return how many are still there."""
        left = 0
        for resource in _OWNED if namespace else ():
            for obj in self._commits.store.items(resource, namespace):
                if meant(obj):
                    left += self._delete(resource, obj)
        return left

    def _delete(self, resource: Resource, obj: Json) -> int:
        if resource is PODS:
            self._commits.mark_deleted(resource, obj, grace_s=30)
            return 1
        if obj["metadata"].get("finalizers"):
            self._commits.mark_deleted(resource, obj)
            return 1
        self._commits.remove(resource, obj)
        return 0

    def _furnish(self, namespace: str) -> None:
        """Put into a new namespace what every one has."""
        if self._commits.store.get(NAMESPACES, "", namespace) is None:
            return
        if self._commits.store.get(SERVICE_ACCOUNTS, namespace, "default") is None:
            metadata = {"name": "default", "namespace": namespace}
            account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
            self._commits.create(SERVICE_ACCOUNTS, account)


def _is_owned(owner: Json, obj: Json) -> bool:
    return owned_by(obj, owner)


def _is_there(_obj: Json) -> bool:
    return True
