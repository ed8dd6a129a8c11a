"""Whether the estimate of tails is to be the compiled one: a run that is compiled says so, for all
that is sized in it. Nothing else depends on it, and both find the same to 1e-9.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_COMPILED = ContextVar("compiled", default=False)


def is_compiled() -> bool:
    """Tell whether it is."""
    return _COMPILED.get()


@contextmanager
def compiled_estimate(*, wanted: bool) -> Iterator[None]:
    """Have it compiled within, if *wanted*; that needs the extra `fast`."""
    token = _COMPILED.set(wanted)
    try:
        yield
    finally:
        _COMPILED.reset(token)
