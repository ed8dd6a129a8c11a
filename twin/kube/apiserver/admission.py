"""From what a client sends to an object of its kind: checked, without unknown fields, with
defaults, by its rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twin.kube.apiserver.defaults import fill_defaults
from twin.kube.apiserver.errors import ApiError, bad_request, invalid, unprocessable
from twin.kube.apiserver.objects import Json, copied
from twin.kube.apiserver.resources import Resource
from twin.kube.apiserver.schema import Findings, checked, resource_schema
from twin.kube.apiserver.validation import problems

VALIDATIONS = ("Ignore", "Warn", "Strict")


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """An object that may be stored, and a line for each field of it that nobody knows."""

    obj: Json
    warnings: tuple[str, ...]


def typed(
    resource: Resource, body: Any, *, validation: str, mistyped_is_invalid: bool = False
) -> Admitted:
    """Return *body* as an object of *resource*, with apiVersion and kind, without fields that its
    kind does not have.

    Raise ApiError 400 where it is of another kind, where a value is of a wrong type (422 with
    *mistyped_is_invalid*), or, when *validation* is Strict, where a field is unknown.
    """
    if not isinstance(body, dict):
        raise bad_request(
            f"expected an object of kind {resource.kind}, found {type(body).__name__}"
        )
    for field, expected in (("apiVersion", resource.api_version), ("kind", resource.kind)):
        found = body.get(field) or expected
        if found != expected:
            raise bad_request(
                f"{field} in the data ({found}) does not match the expected one ({expected}) of "
                f"{resource.qualified}"
            )
    findings = Findings()
    obj = checked(
        {**body, "apiVersion": resource.api_version, "kind": resource.kind},
        _schema(resource),
        findings,
    )
    if findings.mistyped:
        text = (
            f'{resource.kind} in version "{resource.version}" cannot be handled as a '
            f"{resource.kind}"
        )
        problem = f"{text}: {'; '.join(findings.mistyped)}"
        raise unprocessable(problem) if mistyped_is_invalid else bad_request(problem)
    unknown = tuple(f'unknown field "{path}"' for path in findings.unknown)
    if unknown and validation == "Strict":
        message = (
            f'{resource.kind} in version "{resource.version}" cannot be handled as a '
            f"{resource.kind}"
        )
        raise bad_request(f"{message}: strict decoding error: {', '.join(unknown)}")
    if not isinstance(obj.setdefault("metadata", {}), dict):
        raise bad_request("metadata: expected an object")
    return Admitted(obj=obj, warnings=unknown if validation == "Warn" else ())


def lawful(resource: Resource, obj: Json, *, old: Json | None) -> Json:
    """Return a copy of *obj* with its defaults. Raise ApiError 422 where it breaks a rule of its
    kind.
    """
    obj = fill_defaults(resource, copied(obj))
    causes = problems(resource, obj, old)
    if causes:
        raise invalid(resource, obj["metadata"].get("name", ""), causes)
    return obj


def check_validation(word: str) -> str:
    """Return *word*, or Warn where there is none. Raise ApiError 400 for one that is not known."""
    if word and word not in VALIDATIONS:
        raise ApiError(
            400,
            "BadRequest",
            f"fieldValidation: expected one of {', '.join(VALIDATIONS)}, found {word!r}",
        )
    return word or "Warn"


def _schema(resource: Resource) -> Json:
    """Return the schema of *resource*; of custom kinds only the metadata is known."""
    known = resource_schema(resource)
    if known is not None:
        return known
    metadata = {"$ref": "#/components/schemas/V1ObjectMeta"}
    return {"type": "object", "properties": {"metadata": metadata}, "additionalProperties": {}}
