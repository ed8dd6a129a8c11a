"""What the server shows: tables, ages, discovery, OpenAPI documents, and watches in any form."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.twin.kube.desks import Desk, managed
from twin.kube.apiserver import discovery, openapi
from twin.kube.apiserver.dates import duration_text
from twin.kube.apiserver.errors import ApiError
from twin.kube.apiserver.resources import CONFIG_MAPS, RESOURCES, group_versions
from twin.kube.apiserver.server import Call
from twin.kube.apiserver.watching import BACKLOG_MAX

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
INFER = "/api/v1/namespaces/infer"


def call(path: str, *, accept: str = "application/json", **query: str) -> Call:
    """Return a GET."""
    return Call(method="GET", path=path, query=query, headers={"accept": accept}, body=b"")


def table(desk: Desk, path: str, **query: str) -> Any:
    """Return the table at *path*."""
    return desk.twin.server.answer(call(path, accept=TABLE, **query)).body


def rows(desk: Desk, path: str) -> list[list[Any]]:
    """Return the cells of the table at *path* that kubectl prints without -o wide."""
    found = table(desk, path)
    shown = [
        number
        for number, column in enumerate(found["columnDefinitions"])
        if column["priority"] == 0
    ]
    return [[row["cells"][number] for number in shown] for row in found["rows"]]


def titles(desk: Desk, path: str) -> list[str]:
    """Return the titles of the columns that kubectl prints without -o wide."""
    return [
        each["name"].upper()
        for each in table(desk, path)["columnDefinitions"]
        if each["priority"] == 0
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (150, "2m30s"),
        (600, "10m"),
        (10_799, "179m"),
        (10_800, "3h"),
        (18_300, "5h5m"),
        (30_000, "8h"),
        (172_800, "2d"),
        (180_000, "2d2h"),
        (700_000, "8d"),
        (64_000_000, "2y10d"),
    ],
)
def test_ages_read_as_kubectl_writes_them(seconds: int, text: str) -> None:
    """Two units where the smaller one says something."""
    assert duration_text(timedelta(seconds=seconds)) == text


def test_deployments_and_pods_are_shown_in_the_columns_that_people_know() -> None:
    """READY, UP-TO-DATE, AVAILABLE, AGE; READY, STATUS, RESTARTS, AGE."""
    desk = Desk()
    desk.apply(managed(replicas=2))
    desk.until(61.0)
    deployments = "/apis/apps/v1/namespaces/infer/deployments"
    assert titles(desk, deployments) == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
    assert rows(desk, deployments) == [["dep", "2/2", 2, 2, "61s"]]
    assert titles(desk, f"{INFER}/pods") == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert [row[1:] for row in rows(desk, f"{INFER}/pods")] == [["1/1", "Running", "0", "61s"]] * 2
    assert [row[1:] for row in rows(desk, "/apis/apps/v1/namespaces/infer/replicasets")] == [
        [2, 2, 2, "61s"]
    ]
    wide = [
        each["name"]
        for each in table(desk, deployments)["columnDefinitions"]
        if each["priority"] == 1
    ]
    assert wide == ["Containers", "Images", "Selector"]


def test_the_other_kinds_have_columns_of_their_own() -> None:
    """Every kind that is listed has at least a name and an age."""
    desk = Desk()
    desk.apply(managed())
    desk.until(3.0)
    desk.ask(
        "POST", f"{INFER}/configmaps", {"metadata": {"name": "c"}, "data": {"a": "1", "b": "2"}}
    )
    desk.ask("POST", f"{INFER}/secrets", {"metadata": {"name": "s"}, "data": {"a": "MQ=="}})
    service = {
        "metadata": {"name": "v"},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "x"}},
    }
    desk.ask("POST", f"{INFER}/services", service)
    lease = {"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}}
    desk.ask("POST", "/apis/coordination.k8s.io/v1/namespaces/infer/leases", lease)
    assert rows(desk, f"{INFER}/configmaps") == [["c", 2, "0s"]]
    assert rows(desk, f"{INFER}/secrets") == [["s", "Opaque", 1, "0s"]]
    assert rows(desk, f"{INFER}/services") == [
        ["v", "ClusterIP", "<none>", "<none>", "80/TCP", "0s"]
    ]
    assert rows(desk, "/apis/coordination.k8s.io/v1/namespaces/infer/leases") == [["l", "me", "0s"]]
    assert rows(desk, "/api/v1/namespaces")[-1] == ["kube-system", "Active", "3s"]
    assert rows(desk, f"{INFER}/serviceaccounts") == [["default", 0, "3s"]]
    assert rows(desk, "/api/v1/nodes")[0][:3] == ["a-1", "Ready", "<none>"]
    assert titles(desk, f"{INFER}/events") == ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert "deployment/dep" in [row[3] for row in rows(desk, f"{INFER}/events")]
    for resource in RESOURCES:
        if "list" in resource.verbs:
            prefix = f"/apis/{resource.group}" if resource.group else "/api"
            found = table(desk, f"{prefix}/{resource.version}/{resource.plural}")
            assert all(
                len(row["cells"]) == len(found["columnDefinitions"]) for row in found["rows"]
            ), resource.kind


def test_a_table_carries_as_much_of_its_objects_as_is_asked_for() -> None:
    """kubectl needs the metadata for labels, and whole objects to sort by a field."""
    desk = Desk()
    desk.apply(managed())
    path = "/apis/apps/v1/namespaces/infer/deployments"
    (row,) = table(desk, path)["rows"]
    assert (row["object"]["kind"], "spec" in row["object"]) == ("PartialObjectMetadata", False)
    assert table(desk, path, includeObject="Object")["rows"][0]["object"]["kind"] == "Deployment"
    assert table(desk, path, includeObject="None")["rows"][0]["object"] is None
    assert table(desk, path)["metadata"]["resourceVersion"] == str(desk.twin.store.version)
    assert table(desk, f"{path}/dep")["rows"][0]["cells"][0] == "dep"


def test_metadata_alone_can_be_asked_for() -> None:
    """Garbage collectors do."""
    desk = Desk()
    desk.apply(managed())
    path = "/apis/apps/v1/namespaces/infer/deployments"
    meta = desk.twin.server.answer(
        call(path, accept="application/json;as=PartialObjectMetadataList;v=v1")
    ).body
    assert meta is not None
    assert (meta["kind"], set(meta["items"][0])) == (
        "PartialObjectMetadataList",
        {"kind", "apiVersion", "metadata"},
    )


# -- discovery


def test_plain_and_aggregated_discovery_say_the_same() -> None:
    """kubectl takes the aggregated one, older clients the plain ones."""
    desk = Desk()
    aggregated = f"application/json;g=apidiscovery.k8s.io;v=v2;as={discovery.AGGREGATED}"
    plain, whole = set[tuple[str, str]](), set[tuple[str, str]]()
    groups = [each["name"] for each in desk.ask("GET", "/apis")["groups"]]
    places = ["/api/v1", *(f"/apis/{name}/v1" for name in groups)]
    for place in places:
        found = desk.ask("GET", place)
        plain |= {(found["groupVersion"], each["name"]) for each in found["resources"]}
    for path in ("/api", "/apis"):
        reply = desk.twin.server.answer(call(path, accept=aggregated))
        assert reply.body is not None
        assert "APIGroupDiscoveryList" in reply.media_type
        for group in reply.body["items"]:
            name = group["metadata"].get("name", "")
            for each in group["versions"][0]["resources"]:
                place = f"{name}/v1" if name else "v1"
                whole.add((place, each["resource"]))
                whole |= {
                    (place, f"{each['resource']}/{sub['subresource']}")
                    for sub in each.get("subresources", ())
                }
    assert plain == whole
    assert desk.ask("GET", "/api")["versions"] == ["v1"]
    assert desk.ask("GET", "/apis/apps")["preferredVersion"]["groupVersion"] == "apps/v1"
    assert desk.ask("GET", "/version")["minor"] == discovery.MINOR


@pytest.mark.parametrize(
    "path", ["/apis/nobody", "/apis/apps/v9", "/api/v9", "/openapi/v3/apis/apps/v9", "/nowhere"]
)
def test_what_is_not_there_is_not_discovered(path: str) -> None:
    """404."""
    assert Desk().refusal("GET", path) == (404, "NotFound")


def test_health_needs_no_token_and_says_ok() -> None:
    """Probes have none."""
    desk = Desk()
    assert [desk.reply("GET", path).text for path in ("/healthz", "/readyz", "/livez/ping")] == [
        "ok"
    ] * 3


def test_openapi_documents_hold_together() -> None:
    """Every reference leads somewhere, every kind is there, and patches tell that fields can be
    validated.
    """
    places = openapi.index()["paths"]
    assert set(places) == {
        f"apis/{group}/{v}" if group else f"api/{v}" for group, v in group_versions()
    }
    kinds = set[tuple[str, str, str]]()
    for place in places:
        document = openapi.document(place)
        assert document is not None
        schemas = document["components"]["schemas"]
        text = json.dumps(document)
        assert {name.split('"')[0] for name in text.split("#/components/schemas/")[1:]} <= set(
            schemas
        )
        for item in document["paths"].values():
            for operation in item.values():
                kind = operation["x-kubernetes-group-version-kind"]
                kinds.add((kind["group"], kind["version"], kind["kind"]))
                assert "fieldValidation" in [each["name"] for each in operation["parameters"]]
    assert kinds == {(each.group, each.version, each.kind) for each in RESOURCES}


def test_the_schemas_are_those_of_the_clients_models(repository: Path) -> None:
    """They are generated; the script says how."""
    pinned = (repository / "constraints.txt").read_text(encoding="utf-8")
    if f"kubernetes=={version('kubernetes')}" not in pinned:
        pytest.skip("another version of the client is installed than the pinned one")
    path = repository / "scripts" / "api_schemas.py"
    spec = importlib.util.spec_from_file_location("api_schemas", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.TARGET.read_text(encoding="utf-8") == script.text(), (
        "run scripts/api_schemas.py again"
    )


# -- watches


def watched(
    desk: Desk,
    path: str,
    *,
    count: int,
    then: Any = None,
    accept: str = "application/json",
    **query: str,
) -> Any:
    """Return the first *count* events of a watch; *then* happens when it has begun."""

    async def read() -> list[Any]:
        reply = desk.twin.server.answer(call(path, accept=accept, watch="true", **query))
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
    desk = Desk()
    events = watched(
        desk,
        f"{INFER}/pods",
        count=2,
        then=lambda: (desk.apply(managed(replicas=2)), desk.until(0.5)),
    )
    assert [event["type"] for event in events] == ["ADDED", "ADDED"]


def test_a_watch_of_tables_has_its_columns_once() -> None:
    """kubectl get -w prints a heading, then rows."""
    desk = Desk()
    desk.apply(managed(replicas=2))
    desk.until(0.5)
    events = watched(desk, f"{INFER}/pods", count=2, accept=TABLE)
    assert [event["object"]["kind"] for event in events] == ["Table", "Table"]
    assert [bool(event["object"]["columnDefinitions"]) for event in events] == [True, False]
    assert [len(event["object"]["rows"]) for event in events] == [1, 1]


def test_initial_events_end_with_a_bookmark() -> None:
    """Newer clients list by a watch."""
    desk = Desk()
    desk.apply(managed())
    query = {
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }
    events = watched(desk, "/apis/apps/v1/deployments", count=2, **query)
    assert [event["type"] for event in events] == ["ADDED", "BOOKMARK"]
    mark = events[1]["object"]["metadata"]
    assert mark["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert mark["resourceVersion"] == str(desk.twin.store.version)


def test_a_watch_that_allows_bookmarks_ends_with_one() -> None:
    """So that the next one begins there and not at the last change."""
    desk = Desk()
    query = {
        "resourceVersion": str(desk.twin.store.version),
        "timeoutSeconds": "1",
        "allowWatchBookmarks": "true",
    }
    events = watched(desk, f"{INFER}/pods", count=99, **query)
    assert [event["type"] for event in events] == ["BOOKMARK"]


def test_a_client_that_reads_too_slowly_has_to_list_again() -> None:
    """Otherwise it would fill the memory of the server."""
    desk = Desk()

    def flood() -> None:
        body = {"metadata": {"generateName": "c-", "namespace": "infer"}}
        for number in range(BACKLOG_MAX + 1):
            metadata = body["metadata"] | {"name": f"c-{number}"}
            desk.twin.store.put(
                CONFIG_MAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
            )

    query = {"resourceVersion": str(desk.twin.store.version)}
    events = watched(desk, f"{INFER}/configmaps", count=1, then=flood, **query)
    assert (events[0]["type"], events[0]["object"]["code"]) == ("ERROR", 410)


def test_a_watch_with_a_bad_query_is_refused_before_it_begins() -> None:
    """A stream that says nothing would look like a quiet cluster."""
    desk = Desk()

    async def ask(**query: str) -> int:
        with pytest.raises(ApiError) as error:
            desk.twin.server.answer(call(f"{INFER}/pods", watch="true", **query))
        return error.value.code

    for query in ({"labelSelector": "a b"}, {"resourceVersion": "new"}, {"timeoutSeconds": "soon"}):
        assert asyncio.run(ask(**query)) == 400
