"""What a server says about itself: discovery, health, and OpenAPI documents."""

from __future__ import annotations

import importlib.util
import json
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.twin.kube.clients import Client, call
from twin.kube.apiserver import discovery
from twin.kube.apiserver.resources import RESOURCES, group_versions

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
INFER = "/api/v1/namespaces/infer"


def test_plain_and_aggregated_discovery_say_the_same() -> None:
    """kubectl takes the aggregated one, older clients the plain ones."""
    client = Client()
    aggregated = f"application/json;g=apidiscovery.k8s.io;v=v2;as={discovery.AGGREGATED}"
    plain, whole = set[tuple[str, str]](), set[tuple[str, str]]()
    groups = client.ask("GET", "/apis")["groups"]
    versions = [told["groupVersion"] for one in groups for told in one["versions"]]
    places = ["/api/v1", *(f"/apis/{place}" for place in versions)]
    for place in places:
        found = client.ask("GET", place)
        plain |= {(found["groupVersion"], each["name"]) for each in found["resources"]}
    for path in ("/api", "/apis"):
        reply = client.twin.server.answer(call(path, accept=aggregated))
        assert reply.body is not None
        assert "APIGroupDiscoveryList" in reply.media_type
        for group in reply.body["items"]:
            name = group["metadata"].get("name", "")
            for told in group["versions"]:
                place = f"{name}/{told['version']}" if name else told["version"]
                for each in told["resources"]:
                    whole.add((place, each["resource"]))
                    whole |= {
                        (place, f"{each['resource']}/{sub['subresource']}")
                        for sub in each.get("subresources", ())
                    }
    assert plain == whole
    assert client.ask("GET", "/api")["versions"] == ["v1"]
    preferred = {one["name"]: one["preferredVersion"]["groupVersion"] for one in groups}
    assert preferred["autoscaling"] == "autoscaling/v2"
    assert client.ask("GET", "/apis/apps")["preferredVersion"]["groupVersion"] == "apps/v1"
    assert client.ask("GET", "/version")["minor"] == discovery.MINOR


@pytest.mark.parametrize(
    "path", ["/apis/nobody", "/apis/apps/v9", "/api/v9", "/openapi/v3/apis/apps/v9", "/nowhere"]
)
def test_what_is_not_there_is_not_discovered(path: str) -> None:
    """404."""
    assert Client().refusal("GET", path) == (404, "NotFound")


def test_health_needs_no_token_and_says_ok() -> None:
    """Probes have none."""
    client = Client()
    assert [client.reply("GET", path).text for path in ("/healthz", "/readyz", "/livez/ping")] == [
        "ok"
    ] * 3


def test_openapi_documents_hold_together() -> None:
    """Every reference leads somewhere, every kind is there, and patches tell that fields can be
    validated.
    """
    places = discovery.openapi_index()["paths"]
    assert set(places) == {
        f"apis/{group}/{v}" if group else f"api/{v}" for group, v in group_versions()
    }
    kinds = set[tuple[str, str, str]]()
    for place in places:
        document = discovery.openapi_document(place)
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


def test_the_old_openapi_document_knows_every_kind() -> None:
    """kubectl reads it in protobuf before it takes a List; other clients take it as JSON."""
    client = Client()
    definitions = client.ask("GET", "/openapi/v2")["definitions"]
    kinds = [each["x-kubernetes-group-version-kind"][0] for each in definitions.values()]
    assert kinds == [
        {"group": each.group, "version": each.version, "kind": each.kind} for each in RESOURCES
    ]
    accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    reply = client.twin.server.answer(call("/openapi/v2", accept=accept))
    assert reply.media_type == discovery.OPENAPI_V2_PROTOBUF
    assert reply.data is not None
    assert all(name.encode() in reply.data for name in definitions)
