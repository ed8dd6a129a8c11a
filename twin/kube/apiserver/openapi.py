"""OpenAPI v3 documents, reduced: the schemas of the kinds, and the paths by which kubectl sees what
a server can do.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256

from twin.kube.apiserver.objects import Json
from twin.kube.apiserver.resources import Resource, group_versions
from twin.kube.apiserver.schema import documents

_WRITE_PARAMETERS = ("dryRun", "fieldManager", "fieldValidation", "pretty")
_PATCH_TYPES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
)


def _place(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


@cache
def index() -> Json:
    """Return the answer to /openapi/v3: where the documents are."""
    paths = {}
    for group, version in group_versions():
        place = _place(group, version)
        mark = sha256(str(document(place)).encode()).hexdigest()[:32].upper()
        paths[place] = {"serverRelativeURL": f"/openapi/v3/{place}?hash={mark}"}
    return {"paths": paths}


@cache
def document(place: str) -> Json | None:
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
