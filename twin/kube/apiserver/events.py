"""Events: what happened to an object and why, counted when it happens again, the oldest
forgotten.
"""

from __future__ import annotations

from collections import OrderedDict

from twin.kube.apiserver.commits import Commits, suffix
from twin.kube.apiserver.objects import Json, copied, name_of, namespace_of
from twin.kube.apiserver.resources import EVENTS

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
