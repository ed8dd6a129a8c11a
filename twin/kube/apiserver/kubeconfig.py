"""The kubeconfig by which kubectl and clients find the twin."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from twin.spec import SpecError

NAME = "inferno-twin"


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
            f"{path}: expected a place to write a kubeconfig to, found {error}"
        ) from None
