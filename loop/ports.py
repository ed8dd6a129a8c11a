"""What the loop asks of the outside: Backend, Clock, Inbox, Data; and what it asks of a Policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from loop.data import Data

if TYPE_CHECKING:
    from loop.spec import SystemData
    from loop.types import Change, CycleRecord, Decision, Mode, Snapshot, Trigger

__all__ = ["Backend", "Clock", "Cycles", "Data", "Inbox", "Policy", "Request"]


class Backend(Protocol):
    """A world: the twin, a Kubernetes cluster, or a recording."""

    @property
    def name(self) -> str:
        """Return the word by which records and the command name this world."""
        ...

    def observe(self) -> Snapshot:
        """Look, and change nothing. Raise BackendError when the world does not answer."""
        ...

    def apply(self, changes: Sequence[Change]) -> None:
        """Ask the world to become *changes*; return before it obeys. Raise BackendError when it
        refuses.
        """
        ...


class Clock(Protocol):
    """Monotonic seconds: for the timing of phases, and for a live driver to know when a period is
    due.
    """

    def now_s(self) -> float:
        """Return seconds since an arbitrary start; never decreases."""
        ...


class Request(Protocol):
    """Somebody who waits for a cycle."""

    @property
    def mode(self) -> Mode:
        """Return what was asked for: to act, or to explain only."""
        ...

    def begin(self) -> bool:
        """Tell that its cycle begins. False: nobody waits any more."""
        ...

    def answer(self, record: CycleRecord) -> None:
        """Hand over the record of its cycle."""
        ...


class Inbox(Protocol):
    """Requests for a cycle that arrive while a live driver waits for its next period."""

    def wait(self, timeout_s: float) -> Sequence[Request]:
        """Wait for requests for at most *timeout_s*; take all there are, none when the time ran out
        or it closed.
        """
        ...

    @property
    def closed(self) -> bool:
        """Tell whether the driver is to stop."""
        ...

    def close(self) -> None:
        """Wake the driver for its end; refuse those who still wait."""
        ...


class Policy(Protocol):
    """What decides. State is explicit, so that replay and what-if can copy it."""

    @property
    def name(self) -> str:
        """Return the word after --policy."""
        ...

    @property
    def tick_s(self) -> float:
        """Return the period the policy was made for [s]; used when no period is given."""
        ...

    def start(self) -> Any:
        """Return the state before the first decision."""
        ...

    def decide(self, snapshot: Snapshot, data: SystemData, state: Any) -> tuple[Decision, Any]:
        """Return the decision and the next state. Arithmetic only: no clock, no chance, no I/O."""
        ...


class Cycles(Protocol):
    """What a driver runs: a Controller, or one that acts only while it leads."""

    def cycle(
        self, now_s: float, *, trigger: Trigger = "period", mode: Mode | None = None
    ) -> CycleRecord:
        """Run one cycle and return its record."""
        ...

    def failure(
        self,
        now_s: float,
        *,
        error: Exception,
        trigger: Trigger = "period",
        mode: Mode | None = None,
    ) -> CycleRecord:
        """Return the record of a cycle that an error of the programmer has ended."""
        ...
