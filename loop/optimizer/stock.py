"""Rows that were made before, to be used again beside others: what is found of a row does not
depend on those beside it. A pure cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np

from loop.optimizer.model import SHARED, Rows

# Of a group so many figures at most, in rows as wide as it is; at 256 states some 4 kB a row. A row
# has about as much besides as WIDTH_MIN states have.
CELLS_MAX, WIDTH_MIN, GROUPS_MAX = 1 << 17, 64, 4


class Made(Protocol):
    """A dataclass of arrays, a row each."""

    def take(self, rows: Rows) -> Self:
        """Return the given rows."""
        ...


Kind = TypeVar("Kind", bound=Made)


class Stock(Generic[Kind]):
    """Rows by their keys, in groups of rows that can stand beside each other: those of one *width*
    and *kind*. Of a group that has too many all are forgotten, and of too many groups the one to
    which nothing was added for the longest time.
    """

    def __init__(self) -> None:
        self._groups: dict[tuple[int, str], tuple[dict[bytes, int], Kind]] = {}

    def rows(
        self,
        keys: Sequence[bytes],
        make: Callable[[Rows], Kind],
        *,
        width: int,
        kind: str = "",
    ) -> Kind:
        """Return the row of each of *keys*; *make* is asked for those that are not known."""
        most, group = CELLS_MAX // max(width, WIDTH_MIN), (width, kind)
        if len(keys) > most:
            return make(np.arange(len(keys)))
        places, made = self._groups.get(group, ({}, None))
        new = _unknown(keys, places)
        if len(places) + len(new) > most:
            places, made = {}, None
            new = _unknown(keys, places)
        if new:
            part = make(np.array(list(new.values()), dtype=np.intp))
            made = part if made is None else _joined(made, part)
            places.update(zip(new, range(len(places), len(places) + len(new)), strict=True))
            self._groups.pop(group, None)
            self._groups[group] = places, made
            if len(self._groups) > GROUPS_MAX:
                del self._groups[next(iter(self._groups))]
        assert made is not None, "there are keys"
        return made.take(np.array([places[key] for key in keys], dtype=np.intp))


def _unknown(keys: Sequence[bytes], known: dict[bytes, int]) -> dict[bytes, int]:
    """Return where those of *keys* stand that are not *known*; equal ones stand for each other."""
    return {key: k for k, key in enumerate(keys) if key not in known}


def _joined(one: Any, behind: Any) -> Any:
    """Return the rows of *one* and behind them those of the other; a flag tells whether any of them
    has something.
    """
    if isinstance(one, np.ndarray):
        return np.concatenate([one, behind])
    if is_dataclass(one):
        kind: Any = type(one)
        both = {
            each.name: (getattr(one, each.name), getattr(behind, each.name)) for each in fields(one)
        }
        return kind(
            **{
                name: first if name in SHARED else _joined(first, then)
                for name, (first, then) in both.items()
            }
        )
    return one or behind
