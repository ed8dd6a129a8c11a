"""Files of the user: manifests and tokens that the twin reads, the kubeconfig that it writes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from twin.datafile import Entry, unreadable
from twin.kube.apiserver import bounded_yaml
from twin.kube.apiserver.auth import ANYTHING, Identity, Rule
from twin.kube.apiserver.errors import ApiError
from twin.kube.apiserver.objects import Json
from twin.kube.apiserver.request import ManifestLoader, Target, WriteOptions
from twin.kube.apiserver.resources import NAMESPACES, Resource, of_kind
from twin.kube.apiserver.rest import Rest
from twin.spec import SpecError

NAME = "inferno-twin"
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
        (str(file), obj)
        for file in files
        for obj in _objects(file)
        if obj.get("kind") != "Kustomization"
    ]
    return tuple(sorted(found, key=lambda item: item[1].get("kind") != NAMESPACES.kind))


def create_objects(rest: Rest, manifests: Sequence[tuple[str, Json]]) -> None:
    """Create *manifests*. Raise SpecError, one line, for the first that is refused."""
    for source, obj in manifests:
        for key in ("apiVersion", "kind"):
            if not isinstance(obj.get(key), str):
                raise SpecError(f"{source}: {key}: expected a text, found {str(obj.get(key))[:60]}")
        resource = of_kind(obj["apiVersion"], obj["kind"])
        if resource is None:
            raise SpecError(
                f"{source}: the twin knows no {obj['kind'][:60]!r} of {obj['apiVersion'][:60]!r}"
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
        raise SpecError(f"{file}: expected YAML, found {unreadable(error)}") from None
    for document in documents:
        if document is None:
            continue
        if not isinstance(document, dict):
            raise SpecError(f"{file}: expected an object, found {str(document)[:60]!r}")
        yield from document["items"] if document.get("kind") == "List" else [document]


def read_token_file(path: Path) -> Mapping[str, Identity]:
    """Return the identity of each token, in the file's order. Raise SpecError, one line, where it
    makes no sense.
    """
    try:
        value = bounded_yaml.load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SpecError(f"{path}: expected YAML or JSON, found {unreadable(error)}") from None
    file = Entry(value, source=str(path))
    tokens = read_tokens(file)
    for line in file.warnings():
        # A rule that is not understood must not pass for one that is.
        raise SpecError(line)
    return tokens


def read_tokens(file: Entry) -> dict[str, Identity]:
    """Return the identities that a tokens file gives, by token. Raise SpecError where it makes no
    sense.
    """
    found: dict[str, Identity] = {}
    for row in file.children("tokens", label=("user",)):
        token = row.text("token")
        if token in found:
            raise row.fail(
                "token", expected="a token that no entry before it has", found="the same one"
            )
        rules = tuple(
            Rule(
                verbs=rule.words("verbs"),
                resources=rule.words("resources") or (ANYTHING,),
                namespaces=rule.words("namespaces"),
            )
            for rule in row.children("rules", required=False)
        )
        found[token] = Identity(user=row.text("user"), groups=row.words("groups"), rules=rules)
    return found


def kubeconfig_text(url: str, *, token: str, namespace: str = "default") -> str:
    """Return a kubeconfig for the twin at *url*. kubectl leaves out the token over plain HTTP;
    clients send it.
    """
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": {"server": url}}],
        "users": [{"name": NAME, "user": {"token": token}}],
        "contexts": [
            {"name": NAME, "context": {"cluster": NAME, "user": NAME, "namespace": namespace}}
        ],
        "current-context": NAME,
    }
    return yaml.safe_dump(config, sort_keys=False)


def write_kubeconfig(path: Path, url: str, *, token: str) -> None:
    """Write it to *path*, readable by its owner only.

    Raise SpecError where the kubeconfig of another cluster is there, or where nothing can be
    written.
    """
    try:
        if path.exists() and NAME not in path.read_text(encoding="utf-8"):
            raise SpecError(
                f"{path}: expected no file or one of the twin, found a kubeconfig of another "
                "cluster"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(kubeconfig_text(url, token=token))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{path}: expected a place to write a kubeconfig to, found {unreadable(error)}"
        ) from None
