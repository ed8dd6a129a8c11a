"""What the API refuses: one exception that carries a Status, and a function for each reason. Knows
no HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from twin.kube.apiserver.objects import Json
from twin.kube.apiserver.resources import Resource

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}
"""Reasons of a Status by code, for an error of which nothing else is known."""


class Cause(NamedTuple):
    """One thing that is wrong with an object: reason FieldValueInvalid, FieldValueRequired, … and
    where.
    """

    reason: str
    message: str
    field: str


class ApiError(Exception):
    """A request that fails: *code* is its HTTP status, *reason* the word that clients look at."""

    def __init__(
        self, code: int, reason: str, message: str, *, details: Json | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.details = details or {}

    def status(self) -> Json:
        """Return the Status object."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
            **({"details": self.details} if self.details else {}),
            "code": self.code,
        }


def _details(resource: Resource, name: str) -> Json:
    group = {"group": resource.group} if resource.group else {}
    return {"name": name, **group, "kind": resource.plural}


def not_found(resource: Resource, name: str) -> ApiError:
    """There is no such object."""
    message = f'{resource.qualified} "{name}" not found'
    return ApiError(404, "NotFound", message, details=_details(resource, name))


def no_such_path() -> ApiError:
    """There is no such resource, or no such path at all."""
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def already_exists(resource: Resource, name: str) -> ApiError:
    """The name is taken."""
    message = f'{resource.qualified} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, details=_details(resource, name))


def conflict(resource: Resource, name: str, why: str = "") -> ApiError:
    """The object has changed since the client read it, or is not the one that was meant."""
    why = why or (
        "the object has been modified; please apply your changes to the latest version and try "
        "again"
    )
    message = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}'
    return ApiError(409, "Conflict", message, details=_details(resource, name))


def apply_conflict(managers: Sequence[tuple[str, str]]) -> ApiError:
    """Fields of a server-side apply belong to others: pairs of (manager, field)."""
    lines = [f'conflict with "{manager}": {field}' for manager, field in managers]
    message = f"Apply failed with {len(lines)} conflict{'s' * (len(lines) > 1)}: {'; '.join(lines)}"
    causes = [
        {"reason": "FieldManagerConflict", "message": f'conflict with "{manager}"', "field": field}
        for manager, field in managers
    ]
    return ApiError(409, "Conflict", message, details={"causes": causes})


def invalid(resource: Resource, name: str, causes: Sequence[Cause]) -> ApiError:
    """The object breaks rules of its kind."""
    lines = [f"{cause.field}: {cause.message}" for cause in causes]
    text = lines[0] if len(lines) == 1 else f"[{', '.join(lines)}]"
    qualified = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    details = _details(resource, name) | {
        "kind": resource.kind,
        "causes": [cause._asdict() for cause in causes],
    }
    return ApiError(422, "Invalid", f'{qualified} "{name}" is invalid: {text}', details=details)


def unprocessable(message: str) -> ApiError:
    """The request is well formed but cannot be carried out on this object."""
    return ApiError(422, "Invalid", message)


def bad_request(message: str) -> ApiError:
    """The request makes no sense."""
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    """The token is unknown."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden(resource: Resource | None, name: str, why: str) -> ApiError:
    """The client is known, and may not do this."""
    if resource is None:
        return ApiError(403, "Forbidden", f"forbidden: {why}")
    shown = f' "{name}"' if name else ""
    message = f"{resource.qualified}{shown} is forbidden: {why}"
    return ApiError(403, "Forbidden", message, details=_details(resource, name))


def method_not_allowed() -> ApiError:
    """The resource exists, but not this verb."""
    message = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", message)


def not_acceptable(offered: str) -> ApiError:
    """None of the formats that the client can read is spoken here."""
    message = f"only the following media types are accepted: {offered}"
    return ApiError(406, "NotAcceptable", message)


def unsupported_media_type(sent: str, accepted: Sequence[str]) -> ApiError:
    """The body is in a format that this verb does not take."""
    message = (
        "the body of the request was in an unknown format - accepted media types include: "
        f"{', '.join(accepted)}"
    )
    return ApiError(415, "UnsupportedMediaType", f"{message} (got {sent or 'none'})")


def expired(message: str) -> ApiError:
    """The version asked for has been compacted away: list again."""
    return ApiError(410, "Expired", message)


def too_large(version: int, current: int) -> ApiError:
    """The version asked for is not there yet."""
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    message = f"Too large resource version: {version}, current: {current}"
    details = {"causes": [cause], "retryAfterSeconds": 1}
    return ApiError(504, "Timeout", message, details=details)
