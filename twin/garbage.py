"""How often Python looks for circles of objects that nobody holds any more."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def rarely_collected() -> Iterator[None]:
    """Have garbage looked for more seldom: a run makes many objects and hardly a circle of them.
    For what comes to an end; what goes on for days keeps the usual thresholds.

    To look through a thousand servers for some took a fifth of the time of a run.
    """
    before = gc.get_threshold()
    gc.set_threshold(200_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
