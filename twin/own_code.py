"""The code that an extension is made of: its module, and those of the same author that it imports.
It is read and not run.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path
from types import ModuleType
from typing import TypeGuard
from zipfile import ZipFile, is_zipfile

OURS = ("twin", "loop", "emulator", "experiments", "inferno")
_STANDARD = Path(sysconfig.get_paths()["stdlib"])


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCode:
    """What a module is made of: *files* by module ("" is the one that was asked for), and the names
    of all else that these import, of whose versions others keep track.
    """

    files: Mapping[str, bytes]
    others: frozenset[str]

    @property
    def digest(self) -> str:
        """Return a hash of the files."""
        total = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            total.update(f"{name} {len(content)} ".encode() + content)
        return total.hexdigest()


def module_of(made: object) -> ModuleType | None:
    """Return the module that *made*, a class, a function, an object of a class or a partial of any,
    is of; None if there is none.
    """
    while isinstance(made, partial):
        made = made.func
    return sys.modules.get(made.__module__)


def has_file(module: ModuleType | None) -> TypeGuard[ModuleType]:
    """Tell whether *module* can be read: what was typed into a notebook has no file."""
    named: str | None = getattr(module, "__file__", None)
    return named is not None and _is_there(Path(named))


def own_code(module: ModuleType) -> OwnCode:
    """Return the code of *module*, which `has_file`, and of whatever it imports, in functions too,
    that is of the same package or installed by nobody.
    """
    assert module.__file__ is not None
    top = module.__name__.partition(".")[0]
    content = _read(Path(module.__file__))
    files, others = {"": content}, set[str]()
    todo = [*_imported(content, package=module.__package__ or "", name=module.__name__)]
    seen = {module.__name__, *todo}
    while todo:
        name = todo.pop()
        spec = _spec(name) if _may_be_own(name, top=top) else None
        if spec is None or not _is_own(spec, name, top=top):
            others.add(name)
            continue
        if spec.origin is None:
            continue  # a folder
        files[name] = _read(Path(spec.origin))
        package = name if spec.submodule_search_locations is not None else spec.parent
        later = {*_imported(files[name], package=package or "", name=name)} - seen
        seen |= later
        todo += later
    return OwnCode(files=files, others=frozenset(others))


# Each run of a sweep asks again, and to parse takes nine tenths of the time.
@lru_cache(maxsize=4096)
def _imported(content: bytes, *, package: str, name: str) -> tuple[str, ...]:
    """Return what *content*, the module *name*, imports: modules, the packages that they are in,
    and names that may be modules.
    """
    return tuple(dict.fromkeys(_names_in(content, package=package, name=name)))


def _names_in(content: bytes, *, package: str, name: str) -> Iterator[str]:
    found = [name.rpartition(".")[0]] if "." in name else []
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # A compiled one, or one that Python itself cannot read.
        tree = ast.Module(body=[], type_ignores=[])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            try:
                base = resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:
                continue  # above the package: it cannot be imported, either
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    for one in dict.fromkeys(found):
        parts = one.split(".")
        yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _may_be_own(name: str, *, top: str) -> bool:
    first = name.partition(".")[0]
    return first == top or first not in (*OURS, *sys.stdlib_module_names)


def _spec(name: str) -> ModuleSpec | None:
    """Return where the module *name* is, None if it is none. Nothing is imported for that."""
    parent = name.rpartition(".")[0]
    if not parent:
        try:
            return find_spec(name)
        except ValueError:
            return None  # a script has no place of its own
    above = _spec(parent)
    if above is None or above.submodule_search_locations is None:
        return None
    return PathFinder.find_spec(name, list(above.submodule_search_locations))


def _is_own(spec: ModuleSpec, name: str, *, top: str) -> bool:
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    paths = [Path(place) for place in places]
    if not all(map(_is_there, paths)):
        return False  # built in, or frozen
    return name.partition(".")[0] == top or not any(map(_is_installed, paths))


def _is_there(path: Path) -> bool:
    return path.exists() or _archive(path) is not None


def _read(path: Path) -> bytes:
    archive = None if path.exists() else _archive(path)
    if archive is None:
        return path.read_bytes()
    with ZipFile(archive) as files:
        return files.read(path.relative_to(archive).as_posix())


def _archive(path: Path) -> Path | None:
    """Return the archive that *path* leads into, None if there is none."""
    return next((one for one in path.parents if is_zipfile(one)), None)


def _is_installed(path: Path) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(path.parts) or path.is_relative_to(
        _STANDARD
    )
