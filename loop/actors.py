"""What owns a world: one thread with a bounded inbox, which alone touches that world."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from loop.errors import InboxFullError, StoppedError

if TYPE_CHECKING:
    from loop.ports import Asked, Backend, Clock, Inbox
    from loop.types import Change, Snapshot

FAILURES_READY_MAX = 2  # failed steps in a row that a ready actor may have

Answer = TypeVar("Answer")
Kind = TypeVar("Kind", bound="Asked")


class Actor(ABC, Generic[Kind]):
    """Owns a world: one thread does what comes into its inbox, and lets time pass in between.

    Nobody else touches that world, so it needs no lock. No step can end the thread: an exception
    makes a failed step, those who wait for it are told, and the next step is tried. The thread does
    not keep a program alive, so no step can hold up its end.
    """

    def __init__(self, inbox: Inbox[Kind], *, name: str) -> None:
        self.failures = 0  # failed steps in a row
        self._inbox = inbox
        self._name = name
        self._doing: Sequence[Kind] = ()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Tell whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def healthy(self) -> bool:
        """Tell whether one of the last three steps went through, or there were not yet three."""
        return self.failures <= FAILURES_READY_MAX

    def start(self) -> None:
        """Run in a thread, unless it was started already: several services may share one actor."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self.run, name=self._name, daemon=True)
                self._thread.start()

    def stop(self, *, timeout_s: float = 0.4) -> bool:
        """Refuse what waits, give the step in progress *timeout_s*, and then tell those who wait
        for it; it goes on. Tell whether the thread has ended.

        The default leaves room for the rest of a service to end within a second.
        """
        self._inbox.close()
        if self._thread is not None:
            self._thread.join(timeout_s)
        for asked in self._doing:
            asked.refuse(
                StoppedError("the service is stopping, and the world has not answered yet")
            )
        return not self.alive

    def run(self) -> None:
        """Do steps in the caller's thread until the inbox is closed."""
        while not self._inbox.closed:
            taken = self._inbox.wait(self._timeout_s())
            if self._inbox.closed and not taken:
                return
            self._doing = [asked for asked in taken if asked.begin()]
            try:
                self._step(self._doing)
            except Exception as error:
                self.failures += 1
                for asked in self._doing:
                    asked.refuse(error)
            self._doing = ()

    @abstractmethod
    def _timeout_s(self) -> float | None:
        """Return how long the inbox may wait [s]; None: until somebody asks."""

    @abstractmethod
    def _step(self, asked: Sequence[Kind]) -> None:
        """Do what *asked* wants, nothing if it is empty, and answer. Count or clear `failures`."""


class Waiter(Generic[Answer]):
    """Somebody who waits; the answer is the result of `future`, which may be cancelled."""

    def __init__(self) -> None:
        self.future: Future[Answer] = Future()

    def begin(self) -> bool:
        """Tell that it is done now. False: nobody waits any more."""
        return self.future.set_running_or_notify_cancel()

    def answer(self, answer: Answer) -> None:
        """Hand over the answer; too late if it was refused meanwhile."""
        with suppress(InvalidStateError):
            self.future.set_result(answer)

    def refuse(self, error: Exception) -> None:
        """Tell why there is no answer, unless there is one."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)


Left = TypeVar("Left", bound=Waiter[Any])


class Mailbox(Generic[Left]):
    """Where other threads ask, and the thread of an actor waits: at most *size_max* requests at a
    time, of which it takes *taken_max* at once.
    """

    def __init__(self, *, size_max: int, taken_max: int | None = None) -> None:
        self._size_max = size_max
        self._taken_max = taken_max
        self._waiting: deque[Left] = deque()
        self._closed = False
        self._changed = threading.Condition()

    @property
    def closed(self) -> bool:
        """Tell whether the actor is to stop."""
        return self._closed

    def __len__(self) -> int:
        """Return how many requests wait."""
        with self._changed:
            return len(self._waiting)

    def put(self, request: Left) -> None:
        """Let *request* wait; its answer may be StoppedError. Raise InboxFullError or
        StoppedError.
        """
        with self._changed:
            if self._closed:
                raise StoppedError("the service is stopping")
            # Who has gone away meanwhile must not keep others out.
            self._waiting = deque(one for one in self._waiting if not one.future.cancelled())
            if len(self._waiting) >= self._size_max:
                raise InboxFullError(f"{self._size_max} requests wait already")
            self._waiting.append(request)
            self._changed.notify_all()

    def wait(self, timeout_s: float | None) -> Sequence[Left]:
        """Wait for requests for at most *timeout_s*; take those that are next."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, timeout_s)
            count_taken = min(len(self._waiting), self._taken_max or len(self._waiting))
            return [self._waiting.popleft() for _ in range(count_taken)]

    def close(self) -> None:
        """Wake the actor for its end, and tell those who wait that nothing will be done."""
        with self._changed:
            self._closed = True
            left, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        for request in left:
            if request.begin():
                request.refuse(StoppedError("the service is stopping"))


class Act(Waiter[Any]):
    """Something that its owner is asked to do."""

    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__()
        self._act = act

    def do(self) -> None:
        """Do it; what it raises is for who asked."""
        try:
            self.answer(self._act())
        except Exception as error:
            self.refuse(error)


class Owner(Actor["Act"]):
    """Does what it is asked, one act after the other.

    *advance* brings a simulated world to the present: before every act, and at least every
    *wait_s_max*. What goes wrong with time itself is told to whoever asks next.
    """

    def __init__(
        self,
        *,
        advance: Callable[[], object] | None = None,
        wait_s_max: float = 1.0,
        size_max: int = 16,
        clock: Clock | None = None,
    ) -> None:
        # One at a time: what is taken from the inbox no longer counts as waiting.
        self._acts = Mailbox[Act](size_max=size_max, taken_max=1)
        super().__init__(self._acts, name="owner")
        self._advance = advance
        self._wait_s_max = wait_s_max if advance else None
        self._clock = clock
        self._begun_s: float | None = None

    @property
    def waiting(self) -> int:
        """Return how many acts wait."""
        return len(self._acts)

    @property
    def busy_s(self) -> float:
        """Return for how long it has been doing what it does now; 0 if that is nothing, or it has
        no clock.
        """
        clock, begun_s = self._clock, self._begun_s
        return 0.0 if clock is None or begun_s is None else clock.now_s() - begun_s

    def ask(self, act: Callable[[], Answer]) -> Future[Answer]:
        """Let *act* be done; its answer, or what it raises, is that of the future.

        Raise InboxFullError or StoppedError. An act that is cancelled before it begins is never
        done.
        """
        asked = Act(act)
        self._acts.put(asked)
        return asked.future

    def _timeout_s(self) -> float | None:
        return self._wait_s_max

    def _step(self, asked: Sequence[Act]) -> None:
        if self._advance is not None:
            self._advance()
        self.failures = 0
        for act in asked:
            self._begun_s = self._clock.now_s() if self._clock else None
            act.do()
            self._begun_s = None


class WatchedBackend:
    """A backend that tells whether a write is in flight, for whoever is to end the program."""

    def __init__(self, backend: Backend) -> None:
        self.writing = False
        self._backend = backend

    @property
    def name(self) -> str:
        """Return the word for this world."""
        return self._backend.name

    def observe(self) -> Snapshot:
        """Look, and change nothing."""
        return self._backend.observe()

    def apply(self, changes: Sequence[Change]) -> None:
        """Ask the world to become *changes*."""
        self.writing = True
        try:
            self._backend.apply(changes)
        finally:
            self.writing = False
