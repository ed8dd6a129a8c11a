"""The exception tree of the loop.

    LoopError
    ├── BackendError      the world, or a service that decides, failed: the cycle is skipped and
    │   │                 recorded, the next starts clean
    │   ├── PausedError   the world is paused: nothing was asked of it, which is no failure
    │   └── RefusedError  single servers took no change, and all others theirs
    ├── InboxFullError    too many requests for a cycle wait already: the caller may try again later
    ├── StoppedError      the driver was stopped before it came to the request
    └── SpecError         bad input: ends a program at its start (exit 2); a running loop
                          keeps its last good data

SpecError itself is defined in twin.spec, the bottom of the import order, so it is a plain Exception
there: `except (LoopError, SpecError)` catches both. Errors of the programmer are asserts and are
not in the tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from twin.spec import SpecError

Phase = Literal["observe", "decide", "apply"]

__all__ = [
    "BackendError",
    "InboxFullError",
    "LoopError",
    "PausedError",
    "Phase",
    "RefusedError",
    "SpecError",
    "StoppedError",
]


class LoopError(Exception):
    """Anything the loop may raise on purpose."""


class BackendError(LoopError):
    """The world failed to answer or to change, or a service failed to decide; *phase* says
    which.
    """

    def __init__(self, message: str, *, phase: Phase) -> None:
        super().__init__(message)
        self.phase = phase


class PausedError(BackendError):
    """People have said that nothing may be asked of the world, and nothing was."""

    def __init__(self, message: str) -> None:
        super().__init__(message, phase="apply")


class RefusedError(BackendError):
    """The world took all changes but those of *servers*, each of which has a reason of its own."""

    def __init__(self, message: str, *, servers: Mapping[str, str]) -> None:
        super().__init__(message, phase="apply")
        self.servers = servers


class InboxFullError(LoopError):
    """Too many requests for a cycle wait already."""


class StoppedError(LoopError):
    """The driver has stopped, or stops, and runs no more cycles."""
