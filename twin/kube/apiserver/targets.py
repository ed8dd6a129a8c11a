"""What a request is about: its path and query as a resource, a name, a verb and options. Pure;
knows no store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from twin.kube.apiserver.admission import check_validation
from twin.kube.apiserver.errors import bad_request, method_not_allowed, no_such_path
from twin.kube.apiserver.resources import Resource, find

PATCH_VERBS = {
    "GET": "get",
    "POST": "create",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a path leads: name is empty for a collection, rest is what follows a subresource
    (proxy/…).
    """

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    rest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """How a write is to be done: see fieldValidation, dryRun, fieldManager and force of the API
    reference.

    manager is named by the client (named), or else what it calls itself.
    """

    validation: str = "Warn"
    dry: bool = False
    manager: str = "unknown"
    named: bool = False
    force: bool = False


def target_of(path: str) -> Target:
    """Return what *path* (/api/v1/… or /apis/<group>/<version>/…) is about. Raise ApiError 404 for
    an unknown one.
    """
    parts = path.strip("/").split("/")
    if parts[0] == "api":
        group, version, parts = "", parts[1] if len(parts) > 1 else "", parts[2:]
    else:
        group, version, parts = (parts[1], parts[2], parts[3:]) if len(parts) > 2 else ("", "", [])
    namespace = ""
    if len(parts) > 2 and parts[0] == "namespaces" and parts[2] not in ("status", "finalize"):
        namespace, parts = parts[1], parts[2:]
    resource = find(group, version, parts[0]) if parts else None
    if resource is None or (namespace and not resource.namespaced):
        raise no_such_path()
    name, subresource = (*parts[1:3], "", "")[:2]
    if name and resource.namespaced and not namespace:
        raise no_such_path()
    if subresource and subresource not in resource.subresources:
        raise no_such_path()
    return Target(
        resource=resource,
        namespace=namespace,
        name=name,
        subresource=subresource,
        rest="/".join(parts[3:]),
    )


def verb_of(method: str, target: Target, query: Mapping[str, str]) -> str:
    """Return the verb as rules of access name it. Raise ApiError 405 where *target* does not know
    it.
    """
    verb = PATCH_VERBS.get("GET" if method == "HEAD" else method, "")
    if not target.name:
        verb = {
            "get": "watch" if truth(query.get("watch", "")) else "list",
            "delete": "deletecollection",
        }.get(verb, verb)
        if verb in ("update", "patch"):
            raise method_not_allowed()
    elif verb == "get" and truth(query.get("watch", "")):
        verb = "watch"
    known = target.resource.verbs
    if verb not in known or (
        verb == "create" and target.name and target.subresource in ("", "scale", "status", "log")
    ):
        raise method_not_allowed()
    if target.subresource in ("scale", "status") and verb not in ("get", "update", "patch"):
        raise method_not_allowed()
    return verb


def write_options(query: Mapping[str, str], *, agent: str) -> WriteOptions:
    """Read the options of a write. Raise ApiError 400 for one that makes no sense."""
    dry = query.get("dryRun", "")
    if dry not in ("", "All"):
        raise bad_request(f"dryRun: expected All, found {dry!r}")
    return WriteOptions(
        validation=check_validation(query.get("fieldValidation", "")),
        dry=dry == "All",
        manager=query.get("fieldManager", "") or agent.partition("/")[0] or "unknown",
        named=bool(query.get("fieldManager")),
        force=truth(query.get("force", "")),
    )


def truth(text: str) -> bool:
    """Tell whether a parameter of a query says yes."""
    return text.lower() in ("1", "t", "true")


def whole(query: Mapping[str, str], field: str) -> int | None:
    """Return the number >= 0 that *query* gives for *field*, None where it gives none. Raise
    ApiError 400 else.
    """
    text = query.get(field, "")
    if not text:
        return None
    if not text.isdecimal():
        raise bad_request(f"{field}: expected a number >= 0, found {text!r}")
    return int(text)
