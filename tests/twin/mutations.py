"""JSON documents with something wrong in them, as files come that were cut, merged or edited."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any

Path = tuple[Any, ...]

WRONG = (
    *(None, float("nan"), float("inf"), -1, 0, 0.5, 1e300, 10**30, True),
    *("x", "", "12", [], {}, [None], [[]], {"a": 1}),
)
LOOKED_AT = 4  # of a list, whose other entries are like these


def paths(document: Any, path: Path = ()) -> Iterator[Path]:
    """Yield where all values of *document* stand."""
    yield path
    if isinstance(document, dict):
        for key, value in document.items():
            yield from paths(value, (*path, key))
    elif isinstance(document, list):
        for place, value in enumerate(document[:LOOKED_AT]):
            yield from paths(value, (*path, place))


def mutated(document: Any, rng: Random) -> Any:
    """Return a copy of *document* of which one to three values are others, or gone."""
    found = deepcopy(document)
    for _ in range(rng.randint(1, 3)):
        path = rng.choice([path for path in paths(found) if path])
        inner = found
        for key in path[:-1]:
            inner = inner[key]
        if rng.random() < 0.3:
            del inner[path[-1]]
        else:
            # A copy: what is put into it next would stand in WRONG, and in itself.
            inner[path[-1]] = deepcopy(rng.choice(WRONG))
        if not found:
            return found
    return found
