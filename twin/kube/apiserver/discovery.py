"""Discovery: which groups, versions and resources there are, plain and aggregated, and the version
of the server.
"""

from __future__ import annotations

from typing import Any

from twin.kube.apiserver.objects import Json
from twin.kube.apiserver.resources import RESOURCES, Resource, group_versions

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
