"""Watches, in any form, from any version on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.twin.kube.clients import Client, call, managed
from twin.kube.apiserver.errors import ApiError
from twin.kube.apiserver.listwatch import BACKLOG_MAX
from twin.kube.apiserver.resources import CONFIG_MAPS
from twin.kube.apiserver.rest import EVENTS_MAX

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
INFER = "/api/v1/namespaces/infer"


def watched(
    client: Client,
    path: str,
    *,
    count: int,
    then: Any = None,
    accept: str = "application/json",
    **query: str,
) -> Any:
    """Return the first *count* events of a watch; *then* happens when it has begun."""

    async def read() -> list[Any]:
        reply = client.twin.server.answer(call(path, accept=accept, watch="true", **query))
        assert reply.stream is not None
        found: list[Any] = []
        if then is not None:
            asyncio.get_running_loop().call_later(0.01, then)
        async for event in reply.stream:
            found.append(event)
            if len(found) == count:
                break
        return found

    return asyncio.run(read())


def test_a_watch_hears_of_changes_while_it_waits() -> None:
    """No poll in between."""
    client = Client()
    events = watched(
        client,
        f"{INFER}/pods",
        count=2,
        then=lambda: (client.apply(managed(replicas=2)), client.until(0.5)),
    )
    assert [event["type"] for event in events] == ["ADDED", "ADDED"]


def test_a_watch_of_tables_has_its_columns_once() -> None:
    """kubectl get -w prints a heading, then rows."""
    client = Client()
    client.apply(managed(replicas=2))
    client.until(0.5)
    events = watched(client, f"{INFER}/pods", count=2, accept=TABLE)
    assert [event["object"]["kind"] for event in events] == ["Table", "Table"]
    assert [bool(event["object"]["columnDefinitions"]) for event in events] == [True, False]
    assert [len(event["object"]["rows"]) for event in events] == [1, 1]


def test_initial_events_end_with_a_bookmark() -> None:
    """Newer clients list by a watch."""
    client = Client()
    client.apply(managed())
    query = {
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }
    events = watched(client, "/apis/apps/v1/deployments", count=2, **query)
    assert [event["type"] for event in events] == ["ADDED", "BOOKMARK"]
    mark = events[1]["object"]["metadata"]
    assert mark["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert mark["resourceVersion"] == str(client.twin.store.version)


@pytest.mark.slow
def test_a_watch_that_allows_bookmarks_ends_with_one() -> None:
    """So that the next one begins there and not at the last change."""
    client = Client()
    query = {
        "resourceVersion": str(client.twin.store.version),
        "timeoutSeconds": "1",
        "allowWatchBookmarks": "true",
    }
    events = watched(client, f"{INFER}/pods", count=99, **query)
    assert [event["type"] for event in events] == ["BOOKMARK"]


@pytest.mark.costly
def test_a_client_that_reads_too_slowly_has_to_list_again() -> None:
    """Otherwise it would fill the memory of the server."""
    client = Client()

    def flood() -> None:
        body = {"metadata": {"generateName": "c-", "namespace": "infer"}}
        for number in range(BACKLOG_MAX + 1):
            metadata = body["metadata"] | {"name": f"c-{number}"}
            client.twin.store.put(
                CONFIG_MAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
            )

    query = {"resourceVersion": str(client.twin.store.version)}
    events = watched(client, f"{INFER}/configmaps", count=1, then=flood, **query)
    assert (events[0]["type"], events[0]["object"]["code"]) == ("ERROR", 410)


def test_a_watch_with_a_bad_query_is_refused_before_it_begins() -> None:
    """A stream that says nothing would look like a quiet cluster."""
    client = Client()

    async def ask(**query: str) -> int:
        with pytest.raises(ApiError) as error:
            client.twin.server.answer(call(f"{INFER}/pods", watch="true", **query))
        return error.value.code

    for query in ({"labelSelector": "a b"}, {"resourceVersion": "new"}, {"timeoutSeconds": "soon"}):
        assert asyncio.run(ask(**query)) == 400


@pytest.mark.slow
def test_events_of_clients_are_forgotten_like_those_of_the_twin() -> None:
    """A loop tells each change by one, for months; a real server keeps them for an hour."""
    client = Client()
    about = {"apiVersion": "v1", "kind": "Pod", "namespace": "infer", "name": "p"}
    for number in range(EVENTS_MAX + 2):
        metadata = {"name": f"e{number}", "namespace": "infer"}
        body = {"metadata": metadata, "involvedObject": about, "reason": "Told", "type": "Normal"}
        client.ask("POST", f"{INFER}/events", {"apiVersion": "v1", "kind": "Event", **body})
    names = {one["metadata"]["name"] for one in client.ask("GET", f"{INFER}/events")["items"]}
    assert len(names) == EVENTS_MAX
    assert names.isdisjoint({"e0", "e1"})
