"""What clients send, as values: JSON, and the YAML of manifests, in which dates stay text."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import yaml

from twin.kube.apiserver.errors import bad_request, unsupported_media_type
from twin.kube.apiserver.protobuf import MEDIA_TYPE, parsed_protobuf

YAML_TYPES = ("application/yaml", "application/apply-patch+yaml", "text/yaml")


class ManifestLoader(yaml.SafeLoader):
    """YAML as Kubernetes reads it."""


ManifestLoader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parsed_json(body: bytes) -> Any:
    """Return what *body* says. Raise ApiError 400 where it is no JSON."""
    return _parsed(lambda text: json.loads(text, parse_constant=_no_constant), body)


def parsed_yaml(body: bytes) -> Any:
    """Return what *body* says, in YAML or JSON. Raise ApiError 400 where it is neither."""
    return _parsed(lambda text: yaml.load(text, Loader=ManifestLoader), body)  # noqa: S506 a safe loader's child


def parsed(body: bytes, media_type: str) -> Any:
    """Return what *body* says in the format of *media_type*, None where it is empty.

    Raise ApiError 400 where it cannot be read, 415 where nobody here knows the format.
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
