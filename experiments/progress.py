"""How far a run or a sweep is, and the time left: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.config import RunConfig
from experiments.run import RunResult
from experiments.run_files import run_to_directory
from loop.clocks import MonotonicClock

Tell = Callable[[str], None]


def run_with_progress(
    config: RunConfig, out: Path, *, console: Console
) -> tuple[RunResult, list[Path]]:
    """Do `run_to_directory` with a bar of the simulated time on *console*; without a terminal it is
    silent.
    """
    if not console.is_terminal:
        return run_to_directory(config, out)
    with _bar(console, TaskProgressColumn()) as bar:
        task = bar.add_task("simulating", total=1.0)
        return run_to_directory(
            config, out, progress=lambda share: bar.update(task, completed=share)
        )


@contextmanager
def sweep_progress(console: Console | None, *, total: int, reused: int) -> Iterator[Tell]:
    """Give what is to be told of each finished run, in a line."""
    if console is None:
        yield _silent
    elif console.is_terminal:
        with _bar(console, MofNCompleteColumn()) as bar:
            task = bar.add_task("", total=total, completed=reused)
            yield lambda line: bar.update(task, advance=1, description=line)
    else:
        lines = _Lines(console, total=total, done=reused)
        yield lines.tell


def _bar(console: Console, how_far: ProgressColumn) -> Progress:
    text = TextColumn("{task.description}", markup=False)
    return Progress(
        BarColumn(), how_far, TimeElapsedColumn(), TimeRemainingColumn(), text, console=console
    )


def _silent(_line: str) -> None:
    """Take the progress of a caller that wants none."""


class _Lines:
    """Prints a line for each finished run."""

    def __init__(self, console: Console, *, total: int, done: int) -> None:
        self._console, self._total, self._done, self._reused = console, total, done, done
        self._clock = MonotonicClock()
        if done:
            self._print(f"{done} of {total} runs are finished already")

    def tell(self, line: str) -> None:
        """Print how far it is, which run was the last, and how long the others will take at this
        pace.
        """
        self._done += 1
        left_s = self._clock.now_s() / (self._done - self._reused) * (self._total - self._done)
        eta = f", about {left_s:.0f} s left" if left_s else ""
        self._print(f"{self._done}/{self._total} {line}{eta}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
