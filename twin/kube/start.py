"""From files and figures to a twin that is ready to be served: for the command, and for whoever
embeds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import yaml

from twin.datafile import Entry
from twin.kube.apiserver.authority import ADMIN, ANONYMOUS, Identity, read_tokens
from twin.kube.apiserver.faults import read_faults
from twin.kube.apiserver.manifests import read_manifests
from twin.kube.twincluster import TOKEN, TwinCluster
from twin.spec import ClusterSpec, SpecError


def start_twin(
    spec: ClusterSpec,
    *,
    clock: Callable[[], float],
    start: datetime,
    address: str,
    speed: float = 1.0,
    seed: int = 1,
    manifests: Path | None = None,
    faults: Path | None = None,
    tokens: Path | None = None,
) -> TwinCluster:
    """Return a twin of *spec* with the objects of *manifests*; see TwinCluster. Serve it with
    create_twin_app.

    Without a *tokens* file whoever sends no token, or TOKEN, is an administrator; with one, who
    sends none may do nothing. Raise SpecError, one line, for a file that makes no sense.
    """
    if not speed > 0.0:
        raise SpecError(f"speed: expected a number > 0, found {speed:g}")
    twin = TwinCluster(
        spec,
        clock=clock,
        start=start,
        speed=speed,
        seed=seed,
        tokens=read_token_file(tokens) if tokens else {TOKEN: ADMIN},
        anonymous=ANONYMOUS if tokens else ADMIN,
        faults=read_faults(faults) if faults else (),
        address=address,
    )
    if manifests is not None:
        twin.load(read_manifests(manifests))
    return twin


def read_token_file(path: Path) -> Mapping[str, Identity]:
    """Return who may do what, by token, in the file's order. Raise SpecError, one line, where it
    makes no sense.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SpecError(
            f"{path.name}: expected YAML or JSON, found {' '.join(str(error).split())}"
        ) from None
    file = Entry(value, source=path.name)
    tokens = read_tokens(file)
    for line in file.warnings():
        # A rule that is not understood must not pass for one that is.
        raise SpecError(line)
    return tokens
