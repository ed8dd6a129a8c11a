"""The schemas of the kinds: what fields there are, of which types, and which lists are merged by
key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from twin.kube.apiserver.objects import Json
from twin.kube.apiserver.resources import Resource

_REF = "#/components/schemas/"
_NUMBER = (int, float)


@cache
def documents() -> Mapping[str, Any]:
    """Return the package's schemas: {"kinds": {group version: {kind: definition}}, "definitions":
    {name: schema}}.
    """
    data: Mapping[str, Any] = json.loads(
        files(__name__.rpartition(".")[0]).joinpath("schemas.json").read_text(encoding="utf-8")
    )
    return data


def schema_of(api_version: str, kind: str) -> Json | None:
    """Return the schema of a kind, None where it has none."""
    name = documents()["kinds"].get(api_version, {}).get(kind)
    return documents()["definitions"][name] if name else None


def resource_schema(resource: Resource) -> Json | None:
    """Return the schema of what *resource* holds, None for custom kinds."""
    return None if resource.schemaless else schema_of(resource.api_version, resource.kind)


def resolved(schema: Json | None) -> Json:
    """Return the definition that *schema* refers to, or itself; an empty schema allows anything."""
    if schema is None:
        return {}
    ref = schema.get("$ref")
    if ref is None:
        return schema
    definition: Json = documents()["definitions"][ref.removeprefix(_REF)]
    return definition


def child(schema: Json | None, key: str) -> Json:
    """Return the schema of the value at *key* of an object, references not yet followed."""
    schema = resolved(schema)
    found = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
    return found if isinstance(found, dict) else {}


def items(schema: Json | None) -> Json:
    """Return the schema of the items of a list."""
    found: Json = resolved(schema).get("items", {})
    return found


def map_keys(schema: Json | None) -> tuple[str, ...]:
    """Return the fields that tell the items of a list apart; none where the list is replaced as a
    whole.
    """
    return tuple(resolved(schema).get("x-kubernetes-list-map-keys", ()))


class Findings:
    """What a check found: unknown fields, and values of a wrong type, each with its path."""

    def __init__(self) -> None:
        self.unknown: list[str] = []
        self.mistyped: list[str] = []


def checked(value: Any, schema: Json | None, findings: Findings, path: str = "") -> Any:
    """Return *value* without unknown fields and nulls, and quantities as strings; *findings* says
    what it had.
    """
    schema = resolved(schema)
    if not schema or value is None:
        return value
    if "oneOf" in schema:
        return _quantity(value, findings, path)
    kind = schema.get("type")
    if kind == "object":
        return _checked_object(value, schema, findings, path)
    if kind == "array":
        if not isinstance(value, list):
            return _mistyped(value, "array", findings, path)
        inner = items(schema)
        return [
            _mistyped(item, "a value", findings, f"{path}[{number}]")
            if item is None
            else checked(item, inner, findings, f"{path}[{number}]")
            for number, item in enumerate(value)
        ]
    good = {
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, _NUMBER) and not isinstance(value, bool),
    }
    return value if good[str(kind)] else _mistyped(value, str(kind), findings, path)


def _checked_object(value: Any, schema: Json, findings: Findings, path: str) -> Any:
    if not isinstance(value, dict):
        return _mistyped(value, "object", findings, path)
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    if not known and others is None:
        return value
    result = {}
    for key, inner in value.items():
        place = f"{path}.{key}" if path else key
        field = known.get(key, others)
        if field is None:
            findings.unknown.append(place)
        elif inner is not None:
            result[key] = checked(inner, field, findings, place)
        elif not known:
            # A map has no optional values: {"a": null} is an empty string there, as in the real
            # one.
            result[key] = ""
    return result


def _quantity(value: Any, findings: Findings, path: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, (str, *_NUMBER)):
        return _mistyped(value, "string or number", findings, path)
    return (
        value
        if isinstance(value, str)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _mistyped(value: Any, expected: str, findings: Findings, path: str) -> Any:
    findings.mistyped.append(
        f"{path or 'object'}: expected {expected}, found {json.dumps(value)[:60]}"
    )
    return value
