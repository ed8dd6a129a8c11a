"""List and watch: objects selected and paged at one version, and the stream of changes after it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager

from twin.kube.apiserver.errors import ApiError, bad_request, expired, too_large, unprocessable
from twin.kube.apiserver.labels import Matches, matcher
from twin.kube.apiserver.objects import Json, name_of, namespace_of
from twin.kube.apiserver.request import truth, whole
from twin.kube.apiserver.resources import Resource
from twin.kube.apiserver.storage import Change, Store

EXACT, NOT_OLDER = "Exact", "NotOlderThan"  # how the version of an answer is to match


def list_objects(
    store: Store, resource: Resource, namespace: str, query: Mapping[str, str]
) -> Json:
    """Return the list that *query* asks for. Raise ApiError 400 for a bad query, 410 where its
    version is gone.

    A page goes on at the version of the first one, so that changes between pages neither hide nor
    double an object.
    """
    _check_options(query, version=store.version)
    matches = matcher(
        resource, labels=query.get("labelSelector", ""), fields=query.get("fieldSelector", "")
    )
    version, after = store.version, None
    if query.get("continue"):
        version, after = _place(query["continue"])
        found = _expiring(store, resource, version, namespace)
    elif query.get("resourceVersionMatch") == EXACT and (exact := whole(query, "resourceVersion")):
        version = exact
        found = _expiring(store, resource, version, namespace)
    else:
        found = store.items(resource, namespace)
    chosen = [obj for obj in found if (after is None or _key(obj) > after) and matches(obj)]
    limit = whole(query, "limit") or len(chosen)
    page, rest = chosen[:limit], len(chosen) - limit
    metadata: Json = {"resourceVersion": str(version)}
    if rest > 0:
        metadata["continue"] = _token(version, page)
        metadata["remainingItemCount"] = rest
    return {
        "kind": f"{resource.kind}List",
        "apiVersion": resource.api_version,
        "metadata": metadata,
        "items": page,
    }


def _check_options(query: Mapping[str, str], *, version: int, watch: bool = False) -> None:
    """Raise ApiError 422 for options that do not go together, 400 for a version that is none, and
    504 for one that is not there yet.
    """
    told, match = query.get("resourceVersion", ""), query.get("resourceVersionMatch", "")
    initial = watch and bool(query.get("sendInitialEvents"))
    problem = ""
    if match and watch and not initial:
        problem = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
    elif initial and match != NOT_OLDER:
        problem = f"sendInitialEvents requires setting resourceVersionMatch to {NOT_OLDER}"
    elif match and not told and not initial:
        problem = "resourceVersionMatch is forbidden unless resourceVersion is provided"
    elif match == EXACT and told == "0":
        problem = f'resourceVersionMatch "{EXACT}" is forbidden for resourceVersion "0"'
    elif match and query.get("continue"):
        problem = "resourceVersionMatch is forbidden when continue is provided"
    if problem:
        raise unprocessable(
            f'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: {problem}'
        )
    if match not in ("", EXACT, NOT_OLDER):
        raise unprocessable(
            'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Unsupported value: '
            f'"{match}": supported values: "{EXACT}", "{NOT_OLDER}", ""'
        )
    if not watch and (whole(query, "resourceVersion") or 0) > version:
        raise too_large(int(told), version)


def _key(obj: Json) -> tuple[str, str]:
    return namespace_of(obj), name_of(obj)


def _token(version: int, page: Sequence[Json]) -> str:
    return base64.urlsafe_b64encode(json.dumps([version, *_key(page[-1])]).encode()).decode()


def _place(token: str) -> tuple[int, tuple[str, str]]:
    try:
        version, namespace, name = json.loads(base64.urlsafe_b64decode(token))
        return int(version), (str(namespace), str(name))
    except (ValueError, TypeError, RecursionError, binascii.Error):
        raise bad_request("continue key is not valid: it must come from the list before") from None


def _expiring(store: Store, resource: Resource, version: int, namespace: str) -> list[Json]:
    try:
        return store.items_at(resource, version, namespace)
    except ApiError as error:
        raise expired(
            "The provided continue parameter is too old to display a consistent list result."
        ) from error


BOOKMARK_S = 10.0
"""How often a watch that allows bookmarks gets one, with the version that it has reached."""

TIMEOUT_S = 1800.0
"""How long a watch lasts that gives no timeoutSeconds."""

BACKLOG_MAX = 10_000
"""Events that may wait for a slow client; beyond them it gets 410 and has to list again."""


class Watcher:
    """One client's watch of one resource: gather collects what the store reports, events gives it
    on.

    Made before the first event is read, so nothing between is lost. Raise ApiError 400 for a bad
    query.
    """

    def __init__(
        self, store: Store, resource: Resource, namespace: str, query: Mapping[str, str]
    ) -> None:
        _check_options(query, version=store.version, watch=True)
        self._store = store
        self._resource = resource
        self._namespace = namespace
        self._matches = matcher(
            resource, labels=query.get("labelSelector", ""), fields=query.get("fieldSelector", "")
        )
        self._bookmarks = truth(query.get("allowWatchBookmarks", ""))
        self._initial = truth(query.get("sendInitialEvents", ""))
        self._timeout_s = float(whole(query, "timeoutSeconds") or TIMEOUT_S)
        version = query.get("resourceVersion", "")
        if version and not version.isdecimal():
            raise bad_request(f"resourceVersion: expected a number, found {version!r}")
        self._from = int(version or 0)
        self._waiting: deque[Json] = deque()
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def close(self) -> None:
        """End the watch. May be called by any thread."""
        self._closed = True
        self._loop.call_soon_threadsafe(self._news.set)

    async def events(self) -> AsyncIterator[Json]:
        """Yield {"type", "object"} until the time is over, or an ERROR ends the watch."""
        end_s = self._loop.time() + self._timeout_s
        with self._listening():
            try:
                self._begin()
            except ApiError as error:
                # As the real one does: the watch itself is answered, its first event says why it
                # ends.
                yield {"type": "ERROR", "object": error.status()}
                return
            while not self._closed:
                while self._waiting:
                    yield self._waiting.popleft()
                left_s = end_s - self._loop.time()
                if left_s <= 0:
                    if self._bookmarks:
                        yield self._bookmark()
                    return
                if (
                    not await self._anything(min(left_s, BOOKMARK_S))
                    and self._bookmarks
                    and left_s > BOOKMARK_S
                ):
                    yield self._bookmark()

    async def _anything(self, timeout_s: float) -> bool:
        if not self._closed:
            self._news.clear()
        try:
            await asyncio.wait_for(self._news.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    @contextmanager
    def _listening(self) -> Iterator[None]:
        self._store.listeners.append(self._gather)
        try:
            yield
        finally:
            self._store.listeners.remove(self._gather)

    def _begin(self) -> None:
        if self._from == 0 or self._initial:
            for obj in self._store.items(self._resource, self._namespace):
                if self._matches(obj):
                    self._waiting.append({"type": "ADDED", "object": obj})
            if self._initial:
                self._waiting.append(self._bookmark(initial_end=True))
            return
        for change in self._store.since(self._resource, self._from):
            self._gather(change)

    def _gather(self, change: Change) -> None:
        event = self._event(change)
        if event is None:
            return
        if len(self._waiting) >= BACKLOG_MAX:
            self._waiting.clear()
            error = ApiError(410, "Expired", "the client reads its watch too slowly")
            self._waiting.append({"type": "ERROR", "object": error.status()})
        else:
            self._waiting.append(event)
        self._news.set()

    def _event(self, change: Change) -> Json | None:
        if change.resource is not self._resource or (
            self._namespace and namespace_of(change.new) != self._namespace
        ):
            return None
        return event_of(change, self._matches)

    def _bookmark(self, *, initial_end: bool = False) -> Json:
        metadata: Json = {"resourceVersion": str(self._store.version), "creationTimestamp": None}
        if initial_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        resource = self._resource
        obj = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
        return {"type": "BOOKMARK", "object": obj}


def event_of(change: Change, matches: Matches) -> Json | None:
    """Return the event of *change* in a watch with a selector: a change out of the selection is
    an end, one into it a beginning; None where the object is outside before and after."""
    before = change.old is not None and matches(change.old)
    after = change.type != "DELETED" and matches(change.new)
    if not before and not after:
        return None
    if before and after:
        return {"type": "MODIFIED", "object": change.new}
    if after:
        return {"type": "ADDED", "object": change.new}
    assert change.old is not None
    # The client sees the object as it knew it, at the version of the change.
    metadata = {**change.old["metadata"], "resourceVersion": str(change.version)}
    return {"type": "DELETED", "object": {**change.old, "metadata": metadata}}
