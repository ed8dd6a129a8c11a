"""What a client sends, as values: the path and the query, and a body in JSON, YAML or protobuf.

The protobuf of Kubernetes is read only, and only of the kinds that `kubectl create` sends in it.
Its envelope is "k8s\\0" and a message with the kind and the bytes of the object; numbers of fields
are those of the .proto files of the API.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import yaml

from twin.kube.apiserver.admission import check_validation
from twin.kube.apiserver.bounded_yaml import BoundedLoader
from twin.kube.apiserver.errors import (
    ApiError,
    bad_request,
    method_not_allowed,
    no_such_path,
    unsupported_media_type,
)
from twin.kube.apiserver.objects import Json
from twin.kube.apiserver.resources import Resource, find

_VERBS = {
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
    verb = _VERBS.get("GET" if method == "HEAD" else method, "")
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


MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"

Fields = Mapping[int, tuple[str, str]]
"""Name and type by number: text, bytes, int, bool, map (of texts), bytesmap, quantities, either (a
number or a text), or a message; "*" before it: repeated; "?" behind it: none if zero.
"""

_RULES: Fields = {1: ("metadata", "ObjectMeta"), 2: ("rules", "*PolicyRule")}
_BINDING: Fields = {
    1: ("metadata", "ObjectMeta"),
    2: ("subjects", "*Subject"),
    3: ("roleRef", "RoleRef"),
}

_MESSAGES: Mapping[str, Fields] = {
    "ObjectMeta": {
        1: ("name", "text"),
        2: ("generateName", "text"),
        3: ("namespace", "text"),
        11: ("labels", "map"),
        12: ("annotations", "map"),
        14: ("finalizers", "*text"),
    },
    "Namespace": {1: ("metadata", "ObjectMeta")},
    "ConfigMap": {
        1: ("metadata", "ObjectMeta"),
        2: ("data", "map"),
        3: ("binaryData", "bytesmap"),
        4: ("immutable", "bool"),
    },
    "Secret": {
        1: ("metadata", "ObjectMeta"),
        2: ("data", "bytesmap"),
        3: ("type", "text"),
        4: ("stringData", "map"),
        5: ("immutable", "bool"),
    },
    "ServiceAccount": {1: ("metadata", "ObjectMeta"), 4: ("automountServiceAccountToken", "bool")},
    "TokenRequest": {1: ("metadata", "ObjectMeta"), 2: ("spec", "TokenRequestSpec")},
    "TokenRequestSpec": {1: ("audiences", "*text"), 4: ("expirationSeconds", "int")},
    "SelfSubjectAccessReview": {1: ("metadata", "ObjectMeta"), 2: ("spec", "AccessReviewSpec")},
    "AccessReviewSpec": {1: ("resourceAttributes", "ResourceAttributes")},
    "ResourceAttributes": {
        1: ("namespace", "text"),
        2: ("verb", "text"),
        3: ("group", "text"),
        4: ("version", "text"),
        5: ("resource", "text"),
        6: ("subresource", "text"),
        7: ("name", "text"),
    },
    "Role": _RULES,
    "ClusterRole": _RULES,
    "RoleBinding": _BINDING,
    "ClusterRoleBinding": _BINDING,
    "PolicyRule": {
        1: ("verbs", "*text"),
        2: ("apiGroups", "*text"),
        3: ("resources", "*text"),
        4: ("resourceNames", "*text"),
    },
    "Subject": {
        1: ("kind", "text"),
        2: ("apiGroup", "text"),
        3: ("name", "text"),
        4: ("namespace", "text"),
    },
    "Deployment": {1: ("metadata", "ObjectMeta"), 2: ("spec", "DeploymentSpec")},
    "DeploymentSpec": {
        1: ("replicas", "int"),
        2: ("selector", "Selector"),
        3: ("template", "PodTemplate"),
        4: ("strategy", "Strategy"),
        5: ("minReadySeconds", "int?"),
        6: ("revisionHistoryLimit", "int"),
        7: ("paused", "bool?"),
        9: ("progressDeadlineSeconds", "int"),
    },
    "Strategy": {1: ("type", "text"), 2: ("rollingUpdate", "RollingUpdate")},
    "RollingUpdate": {1: ("maxUnavailable", "either"), 2: ("maxSurge", "either")},
    "Either": {1: ("isText", "bool"), 2: ("number", "int"), 3: ("text", "text")},
    "Service": {1: ("metadata", "ObjectMeta"), 2: ("spec", "ServiceSpec")},
    "ServiceSpec": {
        1: ("ports", "*ServicePort"),
        2: ("selector", "map"),
        3: ("clusterIP", "text"),
        4: ("type", "text"),
    },
    "ServicePort": {
        1: ("name", "text"),
        2: ("protocol", "text"),
        3: ("port", "int"),
        4: ("targetPort", "either"),
    },
    "PodDisruptionBudget": {1: ("metadata", "ObjectMeta"), 2: ("spec", "BudgetSpec")},
    "BudgetSpec": {
        1: ("minAvailable", "either"),
        2: ("selector", "Selector"),
        3: ("maxUnavailable", "either"),
    },
    "Selector": {1: ("matchLabels", "map"), 2: ("matchExpressions", "*Requirement")},
    "Requirement": {1: ("key", "text"), 2: ("operator", "text"), 3: ("values", "*text")},
    "PodTemplate": {1: ("metadata", "ObjectMeta"), 2: ("spec", "PodSpec")},
    "Pod": {1: ("metadata", "ObjectMeta"), 2: ("spec", "PodSpec")},
    "PodSpec": {
        2: ("containers", "*Container"),
        3: ("restartPolicy", "text"),
        4: ("terminationGracePeriodSeconds", "int"),
        6: ("dnsPolicy", "text"),
        7: ("nodeSelector", "map"),
        8: ("serviceAccountName", "text"),
        10: ("nodeName", "text"),
    },
    "Container": {
        1: ("name", "text"),
        2: ("image", "text"),
        3: ("command", "*text"),
        4: ("args", "*text"),
        5: ("workingDir", "text"),
        6: ("ports", "*ContainerPort"),
        7: ("env", "*Variable"),
        8: ("resources", "Resources"),
        14: ("imagePullPolicy", "text"),
    },
    "ContainerPort": {
        1: ("name", "text"),
        2: ("hostPort", "int?"),
        3: ("containerPort", "int"),
        4: ("protocol", "text"),
    },
    "Variable": {1: ("name", "text"), 2: ("value", "text")},
    "Resources": {1: ("limits", "quantities"), 2: ("requests", "quantities")},
    "Quantity": {1: ("string", "text")},
    "QuantityPair": {1: ("key", "text"), 2: ("value", "Quantity")},
    "HorizontalPodAutoscaler": {1: ("metadata", "ObjectMeta"), 2: ("spec", "AutoscalerSpec")},
    "AutoscalerSpec": {
        1: ("scaleTargetRef", "ScaleTargetRef"),
        2: ("minReplicas", "int"),
        3: ("maxReplicas", "int"),
        4: ("targetCPUUtilizationPercentage", "int"),
    },
    "ScaleTargetRef": {1: ("kind", "text"), 2: ("name", "text"), 3: ("apiVersion", "text")},
    "RoleRef": {1: ("apiGroup", "text"), 2: ("kind", "text"), 3: ("name", "text")},
    "Envelope": {1: ("typeMeta", "TypeMeta"), 2: ("raw", "bytes")},
    "TypeMeta": {1: ("apiVersion", "text"), 2: ("kind", "text")},
    "Pair": {1: ("key", "text"), 2: ("value", "text")},
    "BytesPair": {1: ("key", "text"), 2: ("value", "bytes")},
}


# What would be lost of these without a word is refused; a status counts for nothing anyway.
_WHOLE = (
    *("Deployment", "DeploymentSpec", "Strategy", "Selector", "PodTemplate", "Pod", "PodSpec"),
    *("Container", "ContainerPort", "Variable", "Resources"),
)
_STATUS = {"Deployment": 3, "Pod": 3}


def parsed_protobuf(body: bytes) -> Json:
    """Return the object that *body* holds. Raise ApiError 400 where it is none, or of a kind not
    read here.
    """
    try:
        if not body.startswith(_MAGIC):
            raise ValueError("it does not begin as one")
        envelope = _message(body[len(_MAGIC) :], "Envelope")
        about = envelope["typeMeta"]
        if about["kind"] not in _MESSAGES:
            raise bad_request(
                f"this server reads no {about['kind']} in protobuf: send it as JSON or YAML"
            )
        return {**about, **_message(base64.b64decode(envelope.get("raw", "")), about["kind"])}
    except (ValueError, KeyError, IndexError) as error:
        raise bad_request(
            f"the object provided is unrecognized: no protobuf of Kubernetes: {error}"
        ) from None


def _message(data: bytes, name: str) -> Json:
    fields = _MESSAGES[name]
    found: Json = {}
    for number, value in _fields(data):
        if number not in fields:
            if value and name in _WHOLE and number != _STATUS.get(name):
                raise ValueError(f"field {number} of {name} is not read here: send it as JSON")
            continue
        key, kind = fields[number]
        if kind.endswith("?") and not value:
            continue
        kind = kind.removesuffix("?")
        if kind.startswith("*"):
            found.setdefault(key, []).append(_value(value, kind[1:]))
        elif kind == "either":
            told = _message(_bytes(value), "Either")
            found[key] = told.get("text", "") if told.get("isText") else told.get("number", 0)
        elif kind == "quantities":
            amount = _message(_bytes(value), "QuantityPair")
            found.setdefault(key, {})[amount["key"]] = amount["value"].get("string", "0")
        elif kind in ("map", "bytesmap"):
            pair = _message(_bytes(value), "Pair" if kind == "map" else "BytesPair")
            found.setdefault(key, {})[pair.get("key", "")] = pair.get("value", "")
        else:
            found[key] = _value(value, kind)
    # An empty text is as good as none, and stands for none in protobuf.
    return {key: value for key, value in found.items() if value != "" or key in ("key", "value")}


def _value(value: int | bytes, kind: str) -> object:
    if kind == "int":
        return value
    if kind == "bool":
        return bool(value)
    data = _bytes(value)
    if kind == "text":
        return data.decode()
    return base64.b64encode(data).decode() if kind == "bytes" else _message(data, kind)


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where bytes are expected")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and raw value of each field."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, place = _varint(data, place)
            yield number, value
            continue
        if wire == 2:
            size, place = _varint(data, place)
        else:
            size = {1: 8, 5: 4}[wire]
        if place + size > len(data):
            raise ValueError("it ends early")
        yield number, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


YAML_TYPES = ("application/yaml", "application/apply-patch+yaml", "text/yaml")


class ManifestLoader(BoundedLoader):
    """YAML as Kubernetes reads it."""


ManifestLoader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for letter, resolvers in BoundedLoader.yaml_implicit_resolvers.items()
}


def parsed_json(body: bytes) -> Any:
    """Return what *body* says. Raise ApiError 400 where it is no JSON."""
    found = _parsed(lambda text: json.loads(text, parse_constant=_no_constant), body)
    return _written(found) if b"\\ud" in body.lower() else found


def _written(value: Any) -> Any:
    """Return *value* with each half of a pair of surrogates replaced, as Go reads it: a client in
    another language could not write such a text down.
    """
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def parsed_yaml(body: bytes) -> Any:
    """Return what *body* says, in YAML or JSON. Raise ApiError 400 where it is neither."""
    with suppress(ApiError):  # kubectl writes JSON, which is read in no time
        return parsed_json(body)
    return _parsed(lambda text: yaml.load(text, Loader=ManifestLoader), body)  # noqa: S506 a safe loader's child


def parsed(body: bytes, media_type: str) -> Any:
    """Return what *body* says in the format of *media_type*, None where it is empty.

    Raise ApiError 400 where it cannot be read, 415 if the format is unknown.
    """
    if not body.strip():
        return None
    if media_type == MEDIA_TYPE:
        return parsed_protobuf(body)
    if media_type not in ("", "application/json", *YAML_TYPES):
        raise unsupported_media_type(media_type, ("application/json", YAML_TYPES[0]))
    return parsed_yaml(body) if media_type in YAML_TYPES else parsed_json(body)


def _parsed(parse: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        return parse(body)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise bad_request(f"the object provided is unrecognized: {str(error)[:200]}") from None


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")
