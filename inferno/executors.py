"""From what a user asked for to what makes the runs of a sweep or a comparison."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from experiments.executor import Executor, LocalProcesses
from twin.spec import SpecError


def make_executor(
    *, jobs: int | None, scheduler: str | None, tell: Callable[[str], None] | None = None
) -> Executor:
    """Return the workers of the Dask scheduler at that address, None: *jobs* processes of this
    machine. *tell* gets a line about workers that are refused, lost or waited for.
    """
    if scheduler is None:
        return LocalProcesses(jobs=jobs)
    if jobs is not None:
        raise SpecError(f"jobs: expected none where Dask workers make the runs, found {jobs}")
    if find_spec("distributed") is None:
        raise SpecError(
            "executor: dask needs the extra of that name: pip install 'inferno-twin[dask]'"
        )
    from experiments.dask.workers import DaskWorkers

    return DaskWorkers(scheduler=scheduler, tell=tell or _keep_quiet)


def _keep_quiet(_line: str) -> None:
    """Take the lines of a caller that wants none."""
