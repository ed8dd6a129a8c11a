"""Where the runs of a question are made: the port, and the processes of this machine behind it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from experiments.processes import Outcomes, run_tasks
from experiments.sweep_rows import PlannedRun, Row
from twin.spec import SpecError

Kind = TypeVar("Kind", bound=PlannedRun)


class Executor(Protocol):
    """Makes rows of runs, anywhere. The rows are the same wherever that is."""

    def outcomes(self, work: Callable[[Kind], Row], runs: Sequence[Kind]) -> Outcomes[Row]:
        """Yield what became of each of *runs* as it is done; *work*, a function of a module, makes
        its row. A run that fails is an outcome with an error. Closing the iterator gives up the
        others.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalProcesses:
    """*jobs* processes of this machine (None: one a core; 1: this process)."""

    jobs: int | None = None

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise SpecError(f"jobs: expected a whole number >= 1, found {self.jobs}")

    def outcomes(self, work: Callable[[Kind], Row], runs: Sequence[Kind]) -> Outcomes[Row]:
        """Run them, see `experiments.processes.run_tasks`."""
        return run_tasks(work, runs, jobs=self.jobs or _cores())


def _cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
