"""How often Python looks for circles of objects that nobody holds any more."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def rarely_collected(*, last: bool = False) -> Iterator[None]:
    """Have garbage looked for more seldom: a run makes many objects and hardly a circle of them.
    For what comes to an end; what goes on for days keeps the usual thresholds. last: only the end
    of the program follows, so that nothing is looked through at the end of the block either.

    To look through a thousand servers for some took a fifth of the time of a run. What a command
    imports is some 300,000 objects, none of them garbage.
    """
    before = gc.get_threshold()
    gc.set_threshold(1_000_000, 20, 100)
    try:
        yield
    finally:
        # What is frozen and thawed counts as old. Whoever froze something wants it to stay frozen.
        if last and not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()
        gc.set_threshold(*before)
