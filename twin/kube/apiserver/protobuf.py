"""Kubernetes' protobuf, read only, and only of the kinds that `kubectl create` sends in it. Pure.

The envelope is "k8s\\0" and a message with the kind and the bytes of the object; numbers of fields
are those of the .proto files of the API.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping

from twin.kube.apiserver.errors import bad_request
from twin.kube.apiserver.objects import Json

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"

Fields = Mapping[int, tuple[str, str]]
"""Name and type by number: text, bytes, int, bool, map (of texts), bytesmap, or a message; "*"
before it: repeated.
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
    "RoleRef": {1: ("apiGroup", "text"), 2: ("kind", "text"), 3: ("name", "text")},
    "Envelope": {1: ("typeMeta", "TypeMeta"), 2: ("raw", "bytes")},
    "TypeMeta": {1: ("apiVersion", "text"), 2: ("kind", "text")},
    "Pair": {1: ("key", "text"), 2: ("value", "text")},
    "BytesPair": {1: ("key", "text"), 2: ("value", "bytes")},
}


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
                f"the twin reads no {about['kind']} in protobuf: send it as JSON or YAML"
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
            continue
        key, kind = fields[number]
        if kind.startswith("*"):
            found.setdefault(key, []).append(_value(value, kind[1:]))
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
