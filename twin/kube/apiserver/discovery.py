"""Discovery and OpenAPI: which groups, versions and resources there are, and their schemas."""

from __future__ import annotations

import json
from functools import cache
from hashlib import sha256
from typing import Any

from twin.kube.apiserver.objects import Json
from twin.kube.apiserver.resources import RESOURCES, Resource, group_versions
from twin.kube.apiserver.schema import documents

AGGREGATED = "APIGroupDiscoveryList"
AGGREGATED_TYPE = f"application/json;g=apidiscovery.k8s.io;v=v2;as={AGGREGATED}"
MINOR = "32"


def server_version() -> Json:
    """Return the answer to /version: of the Kubernetes that this API keeps to, marked as the
    twin's.
    """
    return {
        "major": "1",
        "minor": MINOR,
        "gitVersion": f"v1.{MINOR}.0+inferno.twin",
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "2026-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "",
    }


def core_versions() -> Json:
    """Return the answer to a plain /api."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def groups() -> Json:
    """Return the answer to a plain /apis."""
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [group(name) for name in _group_names()],
    }


def group(name: str) -> Json:
    """Return one group, with its versions."""
    versions = [
        {"groupVersion": f"{name}/{version}", "version": version}
        for group_, version in group_versions()
        if group_ == name
    ]
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": name,
        "versions": versions,
        "preferredVersion": versions[0],
    }


def has_group(name: str) -> bool:
    """Tell whether there is a group of that name."""
    return name in _group_names()


def resource_list(group_name: str, version: str) -> Json | None:
    """Return the resources of a group's version, None where there is no such version."""
    members = group_versions().get((group_name, version))
    if members is None:
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": members[0].api_version,
        "resources": [entry for resource in members for entry in _entries(resource)],
    }


def aggregated(*, core: bool) -> Json:
    """Return the aggregated answer to /api (*core*) or /apis."""
    names = [""] if core else _group_names()
    return {
        "kind": AGGREGATED,
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": [_aggregated_group(name) for name in names],
    }


def _group_names() -> list[str]:
    return list(dict.fromkeys(resource.group for resource in RESOURCES if resource.group))


def _entries(resource: Resource) -> list[dict[str, Any]]:
    singular = resource.singular or resource.kind.lower()
    names: Json = {"shortNames": list(resource.short)} if resource.short else {}
    categories: Json = {"categories": list(resource.categories)} if resource.categories else {}
    whole = {
        "name": resource.plural,
        "singularName": singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
        **names,
        **categories,
    }
    return [whole, *(_subresource(resource, name) for name in resource.subresources)]


_KINDS = {
    "scale": ("autoscaling", "v1", "Scale", ("get", "patch", "update")),
    "status": ("", "", "", ("get", "patch", "update")),
    "log": ("", "", "", ("get",)),
    "proxy": ("", "v1", "PodProxyOptions", ("get",)),
    "eviction": ("policy", "v1", "Eviction", ("create",)),
    "token": ("authentication.k8s.io", "v1", "TokenRequest", ("create",)),
}


def _subresource(resource: Resource, name: str) -> Json:
    group_, version, kind, verbs = _KINDS[name]
    entry: Json = {
        "name": f"{resource.plural}/{name}",
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": kind or resource.kind,
        "verbs": list(verbs),
    }
    return entry | {"group": group_, "version": version} if group_ else entry


def _aggregated_group(name: str) -> Json:
    versions = [
        {
            "version": version,
            "resources": [_aggregated_resource(resource) for resource in members],
            "freshness": "Current",
        }
        for (group_, version), members in group_versions().items()
        if group_ == name
    ]
    return {"metadata": {"name": name} if name else {}, "versions": versions}


def _aggregated_resource(resource: Resource) -> Json:
    whole, *parts = _entries(resource)
    found: Json = {
        "resource": resource.plural,
        "responseKind": {
            "group": resource.group,
            "version": resource.version,
            "kind": resource.kind,
        },
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": whole["singularName"],
        "verbs": whole["verbs"],
        **{key: whole[key] for key in ("shortNames", "categories") if key in whole},
    }
    if parts:
        found["subresources"] = [
            {
                "subresource": part["name"].partition("/")[2],
                "responseKind": {
                    "group": part.get("group", resource.group),
                    "version": part.get("version", resource.version),
                    "kind": part["kind"],
                },
                "verbs": part["verbs"],
            }
            for part in parts
        ]
    return found


_WRITE_PARAMETERS = ("dryRun", "fieldManager", "fieldValidation", "pretty")
_PATCH_TYPES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
)


def _place(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


@cache
def openapi_index() -> Json:
    """Return the answer to /openapi/v3: where the documents are."""
    paths = {}
    for group, version in group_versions():
        place = _place(group, version)
        mark = sha256(str(openapi_document(place)).encode()).hexdigest()[:32].upper()
        paths[place] = {"serverRelativeURL": f"/openapi/v3/{place}?hash={mark}"}
    return {"paths": paths}


OPENAPI_V2_PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"


@cache
def openapi_v2() -> Json:
    """Return the answer to /openapi/v2 in JSON: which kinds there are, but not their fields.

    kubectl reads it before it takes a List; the fields of the items are checked by the server.
    """
    kinds = {
        f"{resource.group or 'core'}.{resource.version}.{resource.kind}": {
            "type": "object",
            "x-kubernetes-group-version-kind": [_kind(resource)],
        }
        for resource in RESOURCES
    }
    info = {"title": "Inferno Twin", "version": "v1"}
    return {"swagger": "2.0", "info": info, "paths": {}, "definitions": kinds}


@cache
def openapi_v2_protobuf() -> bytes:
    """Return `openapi_v2` as a Document of gnostic's openapiv2.proto, all that kubectl accepts."""
    document = openapi_v2()
    info = _text(1, document["info"]["title"]) + _text(2, document["info"]["version"])
    definitions = b"".join(
        _bytes(1, _text(1, name) + _bytes(2, _v2_schema(schema)))
        for name, schema in document["definitions"].items()
    )
    return _text(1, document["swagger"]) + _bytes(2, info) + _bytes(9, definitions)


def _v2_schema(schema: Json) -> bytes:
    key = "x-kubernetes-group-version-kind"
    # Any.yaml: JSON is YAML too.
    extension = _text(1, key) + _bytes(2, _text(2, json.dumps(schema[key])))
    return _bytes(22, _text(1, schema["type"])) + _bytes(31, extension)


def _text(number: int, text: str) -> bytes:
    return _bytes(number, text.encode())


def _bytes(number: int, data: bytes) -> bytes:
    """Return *data* as the field *number* of a protobuf message."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


@cache
def openapi_document(place: str) -> Json | None:
    """Return the document of a group's version, which lies at *place* (apis/apps/v1), None where
    there is none.
    """
    for (group, version), members in group_versions().items():
        if _place(group, version) == place:
            return _document(place, members)
    return None


def _document(place: str, members: list[Resource]) -> Json:
    schemas = dict(documents()["definitions"])
    for resource in members:
        name = documents()["kinds"].get(resource.api_version, {}).get(resource.kind)
        if name:
            schemas[name] = {**schemas[name], "x-kubernetes-group-version-kind": [_kind(resource)]}
    return {
        "openapi": "3.0.0",
        "info": {"title": "Inferno Twin", "version": "v1"},
        "paths": {
            path: item for resource in members for path, item in _paths(place, resource).items()
        },
        "components": {"schemas": _reached(schemas, members)},
    }


def _paths(place: str, resource: Resource) -> Json:
    space = "namespaces/{namespace}/" if resource.namespaced else ""
    collection = f"/{place}/{space}{resource.plural}"
    written = {"x-kubernetes-group-version-kind": _kind(resource), "responses": {}}
    parameters = [
        {"name": name, "in": "query", "schema": {"type": "string"}} for name in _WRITE_PARAMETERS
    ]
    types = [
        *_PATCH_TYPES,
        *(() if resource.schemaless else ("application/strategic-merge-patch+json",)),
    ]
    patch = {
        "x-kubernetes-action": "patch",
        **written,
        "parameters": parameters,
        "requestBody": {"content": {kind: {"schema": {"type": "object"}} for kind in types}},
    }
    found: Json = {
        collection: {"post": {"x-kubernetes-action": "post", **written, "parameters": parameters}}
    }
    if "patch" in resource.verbs:
        found[f"{collection}/{{name}}"] = {
            "patch": patch,
            "put": {"x-kubernetes-action": "put", **written, "parameters": parameters},
        }
    return found


def _kind(resource: Resource) -> Json:
    return {"group": resource.group, "version": resource.version, "kind": resource.kind}


def _reached(schemas: Json, members: list[Resource]) -> Json:
    """Return of *schemas* what the kinds of *members* are made of."""
    names = [
        documents()["kinds"].get(resource.api_version, {}).get(resource.kind)
        for resource in members
    ]
    found: Json = {}
    waiting = ["V1DeleteOptions", *filter(None, names)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = schemas[name]
            waiting += _references(schemas[name])
    return dict(sorted(found.items()))


def _references(schema: object) -> list[str]:
    if isinstance(schema, dict):
        named = [schema["$ref"].rpartition("/")[2]] if isinstance(schema.get("$ref"), str) else []
        return [*named, *(name for inner in schema.values() for name in _references(inner))]
    return []
