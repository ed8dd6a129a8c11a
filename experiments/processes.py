"""Independent tasks on several processes: outcomes as they come, errors as values, nothing left
running behind.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait as wait_for_sentinel
from typing import Generic, TypeVar

UNGUARDED = (
    'what runs on several processes has to stand below if __name__ == "__main__": each of them '
    "reads the script first, and came here"
)

Task = TypeVar("Task")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[Value]):
    """What became of the task at *index*: a value, or one line of error with its traceback."""

    index: int
    value: Value | None = None
    error: str = ""
    trace: str = ""


Outcomes = Generator[Outcome[Value], None, None]


def run_tasks(
    work: Callable[[Task], Value], tasks: Sequence[Task], *, jobs: int
) -> Outcomes[Value]:
    """Yield the outcome of *work* on each task as it is done, on *jobs* processes (1: in this one).

    *work* is a function of a module and the tasks can be pickled (processes are spawned). A task
    that raises, or kills its process, becomes an outcome with an error. Closing the iterator, or an
    interrupt, ends the processes at once.
    """
    if jobs == 1 or len(tasks) <= 1:
        return (attempt(work, index, task) for index, task in enumerate(tasks))
    return _on_processes(work, tasks, jobs=min(jobs, len(tasks)))


def attempt(work: Callable[[Task], Value], index: int, task: Task) -> Outcome[Value]:
    """Return what became of the task at *index*."""
    try:
        return Outcome(index=index, value=work(task))
    except Exception as error:
        # One run must not stop the others: its error is part of the result, and reported with its
        # traceback.
        line = " ".join(f"{type(error).__name__}: {error}".split())
        return Outcome(index=index, error=line, trace=traceback.format_exc())


def _on_processes(
    work: Callable[[Task], Value], tasks: Sequence[Task], *, jobs: int
) -> Outcomes[Value]:
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # One line, and no traceback of each process: it cannot go on, and its parent is told.
        raise SystemExit(UNGUARDED)
    queue = deque(enumerate(tasks))
    while queue:
        flying: dict[Future[Outcome[Value]], tuple[int, Task]] = {}
        suspects: list[tuple[int, Task]] = []
        with _processes(jobs) as pool:
            try:
                while queue or flying:
                    while queue and len(flying) < jobs:
                        index, task = queue.popleft()
                        with _interrupts_held():
                            future = pool.submit(attempt, work, index, task)
                        flying[future] = (index, task)
                    done, _ = wait(flying, return_when=FIRST_COMPLETED)
                    for future in done:
                        outcome = future.result()
                        del flying[future]
                        yield outcome
            except BrokenProcessPool:
                suspects = list(flying.values())
        # One of these killed its process and took the pool with it; alone, only the guilty one
        # fails.
        for index, task in suspects:
            yield _alone(work, index, task)


def _alone(work: Callable[[Task], Value], index: int, task: Task) -> Outcome[Value]:
    with _processes(1) as pool:
        try:
            with _interrupts_held():
                future = pool.submit(attempt, work, index, task)
            return future.result()
        except BrokenProcessPool:
            return Outcome(
                index=index, error="its process was killed (out of memory?), or has ended by itself"
            )


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Leave Ctrl-C to the parent: a process that is spawned inside never hears of it, not even
    while it imports, and shows no traceback. The parent hears of it afterwards.
    """
    # It would lift the block when it starts with the first process.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _processes(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of spawned processes; when the block is left before its work is done, end them
    without waiting.
    """
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_follow_parent
    )
    try:
        yield pool
    except BaseException:
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown(wait=True)


def _follow_parent() -> None:
    """End when the parent ends, however it ended: an orphan would simulate for nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a spawned process"

    def watch() -> None:
        wait_for_sentinel([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
