"""What kubectl prints: tables, ages, and metadata alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.twin.kube.clients import Client, call, managed
from twin.kube.apiserver.printers import duration_text
from twin.kube.apiserver.resources import RESOURCES

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
INFER = "/api/v1/namespaces/infer"


def table(client: Client, path: str, **query: str) -> Any:
    """Return the table at *path*."""
    return client.twin.server.answer(call(path, accept=TABLE, **query)).body


def rows(client: Client, path: str) -> list[list[Any]]:
    """Return the cells of the table at *path* that kubectl prints without -o wide."""
    found = table(client, path)
    shown = [
        number
        for number, column in enumerate(found["columnDefinitions"])
        if column["priority"] == 0
    ]
    return [[row["cells"][number] for number in shown] for row in found["rows"]]


def titles(client: Client, path: str) -> list[str]:
    """Return the titles of the columns that kubectl prints without -o wide."""
    return [
        each["name"].upper()
        for each in table(client, path)["columnDefinitions"]
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
    client = Client()
    client.apply(managed(replicas=2))
    client.until(61.0)
    deployments = "/apis/apps/v1/namespaces/infer/deployments"
    assert titles(client, deployments) == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
    assert rows(client, deployments) == [["dep", "2/2", 2, 2, "61s"]]
    assert titles(client, f"{INFER}/pods") == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert [row[1:] for row in rows(client, f"{INFER}/pods")] == [
        ["1/1", "Running", "0", "61s"]
    ] * 2
    assert [row[1:] for row in rows(client, "/apis/apps/v1/namespaces/infer/replicasets")] == [
        [2, 2, 2, "61s"]
    ]
    wide = [
        each["name"]
        for each in table(client, deployments)["columnDefinitions"]
        if each["priority"] == 1
    ]
    assert wide == ["Containers", "Images", "Selector"]


def test_the_other_kinds_have_columns_of_their_own() -> None:
    """Every kind that is listed has at least a name and an age."""
    client = Client()
    client.apply(managed())
    client.until(3.0)
    client.ask(
        "POST", f"{INFER}/configmaps", {"metadata": {"name": "c"}, "data": {"a": "1", "b": "2"}}
    )
    client.ask("POST", f"{INFER}/secrets", {"metadata": {"name": "s"}, "data": {"a": "MQ=="}})
    service = {
        "metadata": {"name": "v"},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "x"}},
    }
    client.ask("POST", f"{INFER}/services", service)
    lease = {"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}}
    client.ask("POST", "/apis/coordination.k8s.io/v1/namespaces/infer/leases", lease)
    assert rows(client, f"{INFER}/configmaps") == [["c", 2, "0s"]]
    assert rows(client, f"{INFER}/secrets") == [["s", "Opaque", 1, "0s"]]
    assert rows(client, f"{INFER}/services") == [
        ["v", "ClusterIP", "<none>", "<none>", "80/TCP", "0s"]
    ]
    assert rows(client, "/apis/coordination.k8s.io/v1/namespaces/infer/leases") == [
        ["l", "me", "0s"]
    ]
    assert rows(client, "/api/v1/namespaces")[-1] == ["kube-system", "Active", "3s"]
    assert rows(client, f"{INFER}/serviceaccounts") == [["default", 0, "3s"]]
    assert rows(client, "/api/v1/nodes")[0][:3] == ["a-1", "Ready", "<none>"]
    assert titles(client, f"{INFER}/events") == ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert "deployment/dep" in [row[3] for row in rows(client, f"{INFER}/events")]
    for resource in RESOURCES:
        if "list" in resource.verbs:
            prefix = f"/apis/{resource.group}" if resource.group else "/api"
            found = table(client, f"{prefix}/{resource.version}/{resource.plural}")
            assert all(
                len(row["cells"]) == len(found["columnDefinitions"]) for row in found["rows"]
            ), resource.kind


def test_a_table_carries_as_much_of_its_objects_as_is_asked_for() -> None:
    """kubectl needs the metadata for labels, and whole objects to sort by a field."""
    client = Client()
    client.apply(managed())
    path = "/apis/apps/v1/namespaces/infer/deployments"
    (row,) = table(client, path)["rows"]
    assert (row["object"]["kind"], "spec" in row["object"]) == ("PartialObjectMetadata", False)
    assert table(client, path, includeObject="Object")["rows"][0]["object"]["kind"] == "Deployment"
    assert table(client, path, includeObject="None")["rows"][0]["object"] is None
    assert table(client, path)["metadata"]["resourceVersion"] == str(client.twin.store.version)
    assert table(client, f"{path}/dep")["rows"][0]["cells"][0] == "dep"


def test_metadata_alone_can_be_asked_for() -> None:
    """Garbage collectors do."""
    client = Client()
    client.apply(managed())
    path = "/apis/apps/v1/namespaces/infer/deployments"
    meta = client.twin.server.answer(
        call(path, accept="application/json;as=PartialObjectMetadataList;v=v1")
    ).body
    assert meta is not None
    assert (meta["kind"], set(meta["items"][0])) == (
        "PartialObjectMetadataList",
        {"kind", "apiVersion", "metadata"},
    )
