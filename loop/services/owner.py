"""One thread that owns a world: what services ask of it is done there, one after the other, and the
rest waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from loop.errors import InboxFullError, StoppedError

Answer = TypeVar("Answer")
Act = Callable[[], Any]


class Owner:
    """Does what it is asked in its own thread, which does not keep a program alive, so no act can
    hold up its end.

    *advance* brings a simulated world to the present: before every act, and at least every
    *patience_s*.
    """

    def __init__(
        self,
        *,
        advance: Callable[[], object] | None = None,
        patience_s: float = 1.0,
        size_max: int = 16,
    ) -> None:
        self._advance = advance
        self._patience_s = patience_s if advance else None
        self._size_max = size_max
        self._waiting: deque[tuple[Act, Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._doing: Future[Any] | None = None
        self._stopped = False
        self._broken: Exception | None = None
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Tell whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Return how many acts wait."""
        return len(self._waiting)

    def start(self) -> None:
        """Start the thread, unless it was started already: several services may share one owner."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="owner", daemon=True)
                self._thread.start()

    def stop(self, *, timeout_s: float = 0.4) -> bool:
        """Refuse what waits still, give the act in progress a moment, and then who waits for it is
        told; it goes on.

        Tell whether the thread has ended.
        """
        with self._changed:
            self._stopped = True
            left, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        for _, future in left:
            if future.set_running_or_notify_cancel():
                self._settle(future, error=StoppedError("the service is stopping"))
        if self._thread is not None:
            self._thread.join(timeout_s)
        if self._doing is not None:
            self._settle(
                self._doing,
                error=StoppedError("the service is stopping, and the world has not answered"),
            )
        return not self.alive

    def ask(self, act: Callable[[], Answer]) -> Future[Answer]:
        """Let *act* be done; its answer, or what it raises, is that of the future.

        Raise InboxFullError or StoppedError.
        """
        future: Future[Answer] = Future()
        with self._changed:
            if self._stopped:
                raise StoppedError("the service is stopping")
            if len(self._waiting) >= self._size_max:
                raise InboxFullError(f"{self._size_max} requests wait already")
            self._waiting.append((act, future))
            self._changed.notify_all()
        return future

    async def answer(self, act: Callable[[], Answer], *, timeout_s: float) -> Answer:
        """Wait for the answer to *act*. Raise besides TimeoutError; an act that has not begun then
        is never done.
        """
        return await asyncio.wait_for(asyncio.wrap_future(self.ask(act)), timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopped, self._patience_s)
                if self._stopped:
                    return
                asked = self._waiting.popleft() if self._waiting else None
            self._do(*(asked or (None, Future())))

    def _do(self, act: Act | None, future: Future[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        self._doing = future
        try:
            self._pass_time()
            answer = act() if act is not None else None
        except Exception as error:
            # Where nobody asked, time itself went wrong: whoever asks next is told.
            self._settle(future, error=error)
        else:
            self._settle(future, answer=answer)
        self._doing = None

    def _settle(
        self, future: Future[Any], *, answer: object = None, error: Exception | None = None
    ) -> None:
        with self._changed:
            if future.done():
                return
            if error is None:
                future.set_result(answer)
            else:
                future.set_exception(error)

    def _pass_time(self) -> None:
        if self._broken is not None:
            raise self._broken
        if self._advance is None:
            return
        try:
            self._advance()
        except Exception as error:
            self._broken = error
            raise
