"""`replace` as that of dataclasses, several times as fast for frozen ones with slots: a cycle makes
thousands of values that differ from others in a field or two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

__all__ = ["replace"]

if TYPE_CHECKING:
    from dataclasses import replace
else:

    def replace(one, /, **changes):
        """Return *one* with *changes*; the fields are those of its class."""
        kind = type(one)
        parts = _PARTS.get(kind) or _parts(kind)
        if parts is None:
            return dataclasses.replace(one, **changes)
        values, setters, by_name = parts
        made = object.__new__(kind)
        for put, value in zip(setters, values(one), strict=True):
            put(made, value)
        try:
            for name, value in changes.items():
                by_name[name](made, value)
        except KeyError:
            # Whoever names no field of it is told so as by dataclasses.
            return dataclasses.replace(one, **changes)
        return made


_Put = Callable[[Any, Any], None]
_Parts = tuple[Callable[[Any], tuple[Any, ...]], list[_Put], Mapping[str, _Put]]
_PARTS: dict[type, _Parts] = {}


def _parts(kind: type) -> _Parts | None:
    """Return how the fields of *kind* are read and set, all at once and by name; None if it is to
    be made as dataclasses do: it checks itself, has fields that are not given, or has no slots.
    """
    own: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        own.update(vars(base))
    fields = dataclasses.fields(kind)
    places = [own.get(field.name) for field in fields]
    plain = all(
        field.init and type(place).__name__ == "member_descriptor"
        for field, place in zip(fields, places, strict=True)
    )
    if "__post_init__" in own or not plain or len(fields) < 2:
        return None
    setters = [place.__set__ for place in places if place is not None]
    names = [field.name for field in fields]
    parts = (attrgetter(*names), setters, dict(zip(names, setters, strict=True)))
    _PARTS[kind] = parts
    return parts
