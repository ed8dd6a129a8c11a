"""Lists: selected, paged, at one version of the store."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence

from twin.kube.apiserver.errors import ApiError, bad_request, expired
from twin.kube.apiserver.objects import Json, name_of, namespace_of
from twin.kube.apiserver.resources import Resource
from twin.kube.apiserver.selectors import matcher
from twin.kube.apiserver.store import Store
from twin.kube.apiserver.targets import whole


def list_objects(
    store: Store, resource: Resource, namespace: str, query: Mapping[str, str]
) -> Json:
    """Return the list that *query* asks for. Raise ApiError 400 for a bad query, 410 where its
    version is gone.

    A page goes on at the version of the first one, so that changes between pages neither hide nor
    double an object.
    """
    matches = matcher(
        resource, labels=query.get("labelSelector", ""), fields=query.get("fieldSelector", "")
    )
    version, after = store.version, None
    if query.get("continue"):
        version, after = _place(query["continue"])
        found = _expiring(store, resource, version, namespace)
    elif query.get("resourceVersionMatch") == "Exact" and (
        exact := whole(query, "resourceVersion")
    ):
        version = exact
        found = _expiring(store, resource, version, namespace)
    else:
        found = store.items(resource, namespace)
    chosen = [obj for obj in found if (after is None or _key(obj) > after) and matches(obj)]
    limit = whole(query, "limit") or len(chosen)
    page, rest = chosen[:limit], len(chosen) - limit
    metadata: Json = {"resourceVersion": str(version)}
    if rest > 0:
        metadata["continue"] = _token(version, page)
        metadata["remainingItemCount"] = rest
    return {
        "kind": f"{resource.kind}List",
        "apiVersion": resource.api_version,
        "metadata": metadata,
        "items": page,
    }


def _key(obj: Json) -> tuple[str, str]:
    return namespace_of(obj), name_of(obj)


def _token(version: int, page: Sequence[Json]) -> str:
    return base64.urlsafe_b64encode(json.dumps([version, *_key(page[-1])]).encode()).decode()


def _place(token: str) -> tuple[int, tuple[str, str]]:
    try:
        version, namespace, name = json.loads(base64.urlsafe_b64decode(token))
        return int(version), (str(namespace), str(name))
    except (ValueError, TypeError, binascii.Error):
        raise bad_request("continue key is not valid: it must come from the list before") from None


def _expiring(store: Store, resource: Resource, version: int, namespace: str) -> list[Json]:
    try:
        return store.items_at(resource, version, namespace)
    except ApiError as error:
        raise expired(
            "The provided continue parameter is too old to display a consistent list result."
        ) from error
