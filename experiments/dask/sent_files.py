"""The files that runs read, as values that can be sent to another machine: data, truth, scenario,
traces, and the code of policies of one's own.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from experiments.config import RunConfig
from experiments.scenario import parse_yaml, scenario_path
from loop.policies.plugins import is_elsewhere
from twin.own_code import OURS, has_file, own_code
from twin.spec import SpecError

MODULES = "modules"  # what is put on the path of the worker


@dataclass(frozen=True, slots=True, kw_only=True)
class SentFiles:
    """Contents by the place that each file has under the directory into which all are put."""

    contents: Mapping[str, bytes]
    digest: str

    def write(self, directory: Path) -> None:
        """Write them under *directory*. Raise ValueError if they are not those that were sent."""
        if (found := _digest(self.contents)) != self.digest:
            raise ValueError(f"expected files of digest {self.digest}, found {found}")
        for place, content in self.contents.items():
            path = directory / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def files_of(configs: Iterable[RunConfig]) -> SentFiles:
    """Return the files that runs of *configs* read. Raise SpecError for one that cannot be read."""
    contents: dict[str, bytes] = {}
    for config in configs:
        for place, path in _named(config):
            if place not in contents:
                contents[place] = _read(path)
        scenario = _scenario_place(config)
        if scenario not in contents:
            contents |= _scenario_files(config, scenario)
    return SentFiles(contents=contents, digest=_digest(contents))


def placed(config: RunConfig, directory: Path) -> RunConfig:
    """Return *config* as it reads the files that were written to *directory*. Tables call its
    policy as before.
    """
    policy = config.policy
    if isinstance(policy, str) and (file := _policy_file(policy)) is not None:
        path = directory / _place("policy", file, Path(file).name)
        policy = f"{path}{policy[len(file) :]}"
    return replace(
        config,
        data=directory / _place("data", config.data),
        truth=config.truth and directory / _place("truth", config.truth, config.truth.name),
        scenario=str(directory / _scenario_place(config)),
        policy=policy,
        policy_label=config.policy_name,
    )


def _named(config: RunConfig) -> Iterator[tuple[str, Path]]:
    """Yield the files that *config* names but for its scenario, and the place of each."""
    for path in sorted(config.data.glob("*.json")):
        yield _place("data", config.data, path.name), path
    if config.truth is not None:
        yield _place("truth", config.truth, config.truth.name), config.truth
    policy = config.policy
    if isinstance(policy, str):
        if (file := _policy_file(policy)) is not None:
            yield _place("policy", file, Path(file).name), Path(file)
        elif is_elsewhere(policy):
            yield from _module_files(policy.partition(":")[0])
    else:
        yield from _module_files(type(policy).__module__)


def _policy_file(policy: str) -> str | None:
    file = policy.partition(":")[0]
    return file if file.endswith(".py") else None


def _module_files(name: str) -> Iterator[tuple[str, Path]]:
    """Yield the files of the module *name*, and of those that it imports, with all of the packages
    that these are in, unless it is installed: what a user wrote and imported from where the command
    was started.
    """
    module = sys.modules.get(name)
    if name.partition(".")[0] in (*OURS, "__main__") or not has_file(module):
        return
    path = Path(str(module.__file__))
    if any(path.is_relative_to(place) for place in sysconfig.get_paths().values()):
        return
    own = (name, *filter(None, own_code(module).files))
    for top in sorted({one.partition(".")[0] for one in own}):
        yield from _files_below(top)


def _files_below(top: str) -> Iterator[tuple[str, Path]]:
    spec = find_spec(top)
    if spec is None:
        return
    if spec.submodule_search_locations is None:
        path = Path(str(spec.origin))
        yield f"{MODULES}/{path.name}", path
    for folder in map(Path, spec.submodule_search_locations or ()):
        for one in sorted(folder.rglob("*.py")):
            yield f"{MODULES}/{top}/{one.relative_to(folder).as_posix()}", one


def _scenario_place(config: RunConfig) -> str:
    return _place("scenario", config.scenario, f"{Path(config.scenario).stem}.yaml")


def _scenario_files(config: RunConfig, place: str) -> dict[str, bytes]:
    """Return the scenario, and the files that its loads name, which then lie beside it."""
    path = scenario_path(config.scenario)
    document = parse_yaml(path.read_text(encoding="utf-8-sig"), source=str(path))
    found = {}
    for row in _of(document, "load") or ():
        for trace in filter(None, (_of(row, "trace"), _of(row, "rates"))):
            file = path.parent / _of(trace, "file")
            name = f"{_key(file)}-{file.name}"
            found[str(PurePosixPath(place).with_name(name))] = _read(file)
            trace.update({key: name for key in trace if str(key).lower() == "file"})
    return {**found, place: yaml.safe_dump(document).encode()}


def _of(row: Mapping[str, Any], name: str) -> Any:
    """Return what *row* has under *name*, in any case as where scenarios are read."""
    return next((value for key, value in row.items() if str(key).lower() == name), None)


def _place(kind: str, named: str | Path, name: str = "") -> str:
    return str(PurePosixPath(f"{kind}-{_key(named)}", name))


def _key(named: str | Path) -> str:
    return hashlib.sha256(str(named).encode()).hexdigest()[:12]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SpecError(f"{path}: expected a readable file, found {error.strerror}") from None


def _digest(contents: Mapping[str, bytes]) -> str:
    total = hashlib.sha256()
    for place, content in sorted(contents.items()):
        total.update(f"{place} {len(content)} ".encode() + content)
    return total.hexdigest()
