"""What the loop asks of the outside: Backend, Clock, Inbox, Data; and what it asks of a Policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from loop.data import Data

if TYPE_CHECKING:
    from datetime import datetime

    from loop.spec import SystemData
    from loop.types import Change, CycleRecord, Decision, Mode, Snapshot, Trigger

__all__ = ["Asked", "Backend", "Clock", "Cycles", "Data", "Epoch", "Inbox", "Policy", "Request"]

Kind_co = TypeVar("Kind_co", bound="Asked", covariant=True)


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
        """Ask the world to become *changes*; return before it has. Raise BackendError when it
        refuses.
        """
        ...


class Thread(Protocol):
    """Something that runs beside the loop."""

    @property
    def alive(self) -> bool:
        """Tell whether it runs."""
        ...


class Clock(Protocol):
    """Monotonic seconds: for the timing of phases, and for a live driver to know when a period is
    due.
    """

    def now_s(self) -> float:
        """Return seconds since an arbitrary start; never decreases."""
        ...


class Epoch(Protocol):
    """The date of second 0 of a clock."""

    @property
    def date(self) -> datetime:
        """Return it as of the latest comparison."""
        ...

    def compare(self) -> str:
        """Compare the clock with that of the machine, once a cycle, and count from there; return a
        line if they have come apart.
        """
        ...


class Asked(Protocol):
    """Something that was asked of an actor, for somebody who waits."""

    def begin(self) -> bool:
        """Tell that it is done now. False: nobody waits any more."""
        ...

    def refuse(self, error: Exception) -> None:
        """Tell why there is no answer, unless there is one."""
        ...


class Request(Asked, Protocol):
    """A cycle that was asked for."""

    @property
    def mode(self) -> Mode:
        """Return what was asked for: to act, or to explain only."""
        ...

    def answer(self, record: CycleRecord) -> None:
        """Hand over the record of its cycle."""
        ...


class Inbox(Protocol[Kind_co]):
    """Requests that arrive while an actor waits, for its next period or for them."""

    def wait(self, timeout_s: float | None) -> Sequence[Kind_co]:
        """Wait for requests for at most *timeout_s*; take those that are next, none if the time ran
        out or it closed.
        """
        ...

    @property
    def closed(self) -> bool:
        """Tell whether the actor is to stop."""
        ...

    def close(self) -> None:
        """Wake the actor for its end; refuse those who still wait."""
        ...


class Policy(Protocol):
    """What decides. State is explicit, so that replay and what-if can copy it.

    It may have samples_s: the longest interval [s] at which its pods have to be sampled; and
    load_window_s: over how long [s] the load has to be measured. The twin then does so; of a
    cluster the interval is the cluster's, and the window that of --window.
    """

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
        """Return the decision and the next state, and change neither later. Arithmetic only: no
        clock, no chance, no I/O.
        """
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
