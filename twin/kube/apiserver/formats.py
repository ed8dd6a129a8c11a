"""What a client wants to read: objects, a Table, metadata only, or aggregated discovery, by its
Accept header.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from twin.kube.apiserver.errors import not_acceptable
from twin.kube.apiserver.objects import Json
from twin.kube.apiserver.resources import Resource
from twin.kube.apiserver.tables import table

_JSON = ("application/json", "application/*", "*/*")
_FORMS = ("Table", "PartialObjectMetadata", "PartialObjectMetadataList", "APIGroupDiscoveryList")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One form of an answer: kind is empty for the object as it is."""

    kind: str = ""
    version: str = ""


def forms(accept: str, *, offered: Sequence[str] = _FORMS) -> Form:
    """Return the first form that *accept* names and that is *offered*. Raise ApiError 406 where
    there is none.
    """
    for part in (accept or "*/*").split(","):
        media_type, *rest = (word.strip() for word in part.split(";"))
        parameters = dict(word.partition("=")[::2] for word in rest)
        if media_type not in _JSON:
            continue
        kind = parameters.get("as", "")
        if not kind:
            return Form()
        if kind in offered:
            return Form(kind=kind, version=parameters.get("v", ""))
    raise not_acceptable("application/json")


def shaped(
    body: Json,
    form: Form,
    resource: Resource,
    *,
    now: datetime,
    query: Mapping[str, str],
    header: bool = True,
) -> Json:
    """Return *body*, an object or a list of *resource*, in *form*; anything else (a Status, a
    Scale) as it is.
    """
    listed = body.get("kind") == f"{resource.kind}List"
    if not form.kind or not (listed or body.get("kind") == resource.kind):
        return body
    if form.kind == "Table":
        rows = body["items"] if listed else [body]
        include = query.get("includeObject", "Metadata")
        result = table(resource, rows, now=now, include=include, header=header)
        result["metadata"] = (
            body["metadata"] if listed else {"resourceVersion": body["metadata"]["resourceVersion"]}
        )
        return result
    if listed:
        items = [_metadata_only(item) for item in body["items"]]
        meta = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
        return {**meta, "metadata": body["metadata"], "items": items}
    return _metadata_only(body)


def _metadata_only(obj: Json) -> Json:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": obj["metadata"],
    }
