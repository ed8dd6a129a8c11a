"""From a name in a file or on the command line to the object that it means; the extension points
share it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar, cast

from twin.spec import SpecError

T = TypeVar("T")


def resolve(given: str | T, *, kind: str, known: Mapping[str, T]) -> T:
    """Return what *given* means: an object as it is, and for a text one of *known*, an entry point
    of the group inferno.<kind>s, or module:Name.

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
    names = ", ".join((*known, *sorted(points.keys() - known.keys())))
    raise SpecError(f"{kind}: expected one of {names}, or module:Name, found {given[:60]!r}")


def installed(kind: str) -> dict[str, EntryPoint]:
    """Return the extensions of *kind* that packages of this environment bring, by name."""
    # Only asked for if a name is not one of ours: to read them costs some 10 ms.
    return {point.name: point for point in entry_points(group=f"inferno.{kind}s")}


def _attribute(module: object, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name)
    return found
