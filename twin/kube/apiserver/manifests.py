"""Manifests of a directory, created in the twin before anybody asks for them, as `kubectl apply -f`
would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from twin.kube.apiserver.bodies import ManifestLoader
from twin.kube.apiserver.errors import ApiError
from twin.kube.apiserver.objects import Json
from twin.kube.apiserver.resources import NAMESPACES, Resource, of_kind
from twin.kube.apiserver.rest import Rest
from twin.kube.apiserver.targets import Target, WriteOptions
from twin.spec import SpecError

MANAGER = "inferno-twin"


def read_manifests(path: Path) -> tuple[tuple[str, Json], ...]:
    """Return the objects of the YAML files in *path* (or of the file *path*), each with the name of
    its file.

    Namespaces come first, then files in order of their names; kustomizations are left out. Raise
    SpecError, one line, for what is no manifest.
    """
    if not path.exists():
        raise SpecError(f"{path}: expected a directory of manifests or a manifest, found nothing")
    files = (
        [path]
        if path.is_file()
        else sorted(each for each in path.iterdir() if each.suffix in (".yaml", ".yml"))
    )
    found = [
        (file.name, obj)
        for file in files
        for obj in _objects(file)
        if obj.get("kind") != "Kustomization"
    ]
    return tuple(sorted(found, key=lambda item: item[1].get("kind") != NAMESPACES.kind))


def create_objects(rest: Rest, manifests: Sequence[tuple[str, Json]]) -> None:
    """Create *manifests*. Raise SpecError, one line, for the first that is refused."""
    for source, obj in manifests:
        resource = of_kind(str(obj.get("apiVersion", "")), str(obj.get("kind", "")))
        if resource is None:
            raise SpecError(
                f"{source}: the twin knows no {obj.get('kind')!r} of {obj.get('apiVersion')!r}"
            )
        try:
            rest.create(
                _target(resource, obj), obj, WriteOptions(manager=MANAGER, validation="Strict")
            )
        except ApiError as error:
            raise SpecError(f"{source}: {error}") from error


def _target(resource: Resource, obj: Json) -> Target:
    metadata: Any = obj.get("metadata") or {}
    return Target(
        resource=resource,
        namespace=metadata.get("namespace", "default") if resource.namespaced else "",
    )


def _objects(file: Path) -> Iterator[Json]:
    try:
        documents = list(yaml.load_all(file.read_text(encoding="utf-8"), Loader=ManifestLoader))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SpecError(
            f"{file.name}: expected YAML, found {' '.join(str(error).split())}"
        ) from None
    for document in documents:
        if document is None:
            continue
        if not isinstance(document, dict):
            raise SpecError(f"{file.name}: expected an object, found {str(document)[:60]!r}")
        yield from document["items"] if document.get("kind") == "List" else [document]
