"""From a name in a file or on the command line to the object that it means; the extension points
share it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

from twin.datafile import Entry
from twin.spec import Named, SpecError

T = TypeVar("T")


def resolve(given: str | T, *, kind: str, known: Mapping[str, T]) -> T:
    """Return what *given* means: an object as it is, and for a text one of *known*, an entry point
    of the group of *kind* (see `group_of`), or module:Name.

    Raise SpecError, one line, for a text that means nothing.
    """
    if not isinstance(given, str):
        return given
    if given in known:
        return known[given]
    points = installed(kind)
    module, colon, name = given.partition(":")
    try:
        if given in points:
            return cast("T", points[given].load())
        if colon:
            if (here := str(Path.cwd())) not in sys.path:
                # A command that is installed does not look where it was started, and one's own
                # module lies there. At the end, so that it shadows nothing.
                sys.path.append(here)
            return cast("T", _attribute(import_module(module), name))
    except (ImportError, AttributeError, ValueError) as error:
        raise SpecError(f"{kind}: cannot load {given[:60]!r}: {error}") from None
    except (Exception, SystemExit) as error:
        # Whatever the code of somebody else raises is said as one line, as bad input is.
        told = f"{type(error).__name__}: {error}"
        raise SpecError(f"{kind}: cannot load {given[:60]!r}: {told}") from None
    names = ", ".join((*known, *sorted(points.keys() - known.keys())))
    raise SpecError(f"{kind}: expected one of {names}, or module:Name, found {given[:60]!r}")


def module_named(given: str, *, kind: str) -> ModuleType:
    """Return the module in which `resolve` found *given*, a text: the object need not be of it."""
    points = installed(kind)
    return sys.modules[points[given].module if given in points else given.partition(":")[0]]


def name_of(given: object) -> str:
    """Return what an error line calls *given*: its text, or the name of an object."""
    return str(given if isinstance(given, str) else getattr(given, "__name__", given))[:60]


def installed(kind: str) -> dict[str, EntryPoint]:
    """Return the extensions of *kind* that packages of this environment bring, by name."""
    # Only asked for if a name is not one of ours: to read them costs some 10 ms.
    return {point.name: point for point in entry_points(group=group_of(kind))}


def group_of(kind: str) -> str:
    """Return the group of the entry points of *kind*: inferno.routers, inferno.trace_formats."""
    return f"inferno.{kind.replace(' ', '_')}{'es' if kind.endswith('s') else 's'}"


def is_elsewhere(given: str, kind: str) -> bool:
    """Tell whether *given* is not to be looked for among our own names: module:Name, or what a
    package brings.
    """
    return ":" in given or given in installed(kind)


def named_in(
    row: Entry,
    key: str,
    *,
    kind: str,
    known: Mapping[str, object],
    default: Named,
    fits: Callable[[object], bool] = callable,
) -> Named:
    """Return what *key* of a data file says: a name of *known*, or an installed extension or
    module:Name that *fits*.
    """
    if not row.has(key):
        return default
    given = row.text(key)
    if not is_elsewhere(given, kind):
        return row.choice(key, tuple(known), default=given)
    article = "an" if kind[0] in "aeiou" else "a"
    try:
        found: object = resolve(given, kind=kind, known=known)
    except SpecError as error:
        expected = f"{article} {kind} that can be loaded ({error})"
        raise row.fail(key, expected=expected, found=given) from None
    if not fits(found):
        expected = f"what makes {article} {kind}"
        raise row.fail(key, expected=expected, found=f"{given}, a {type(found).__name__}")
    return given


def _attribute(module: object, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name)
    return found
