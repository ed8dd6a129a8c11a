"""What a Dask worker does: it says which code it runs, keeps the files that were sent to it, and
makes rows of runs from them.
"""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from experiments.dask.sent_files import MODULES, SentFiles, placed
from experiments.processes import Outcome, attempt
from experiments.sweep_rows import PlannedRun, Row
from experiments.versions import code_digest, versions
from loop.policies import code_digest as policy_digest
from loop.policies import make_policy
from twin.spec import SpecError

if TYPE_CHECKING:
    from distributed import Worker

Kind = TypeVar("Kind", bound=PlannedRun)


def running_code() -> dict[str, str]:
    """Return what must be the same on two machines for the same numbers."""
    release = ".".join(platform.python_version_tuple()[:2])
    return {**versions(), "python": release, "code": code_digest()[:12]}


def receive(session: str, files: SentFiles, *, dask_worker: Worker) -> None:
    """Keep *files* for the tasks of *session* in the directory of this worker."""
    directory = _directory(dask_worker, session)
    if directory.is_dir():
        return
    with tempfile.TemporaryDirectory(dir=dask_worker.local_directory) as scratch:
        whole = Path(scratch, session)
        whole.mkdir()
        files.write(whole)
        # A task that finds the directory finds all of it.
        whole.rename(directory)
    # At the end, so that it shadows nothing.
    sys.path.append(str(directory / MODULES))
    for callback in _own_measuring(dask_worker):
        callback.stop()


def forget(session: str, *, dask_worker: Worker) -> None:
    """Remove what was kept for *session*, and the modules that were imported from there."""
    directory = _directory(dask_worker, session)
    path = str(directory / MODULES)
    sys.path[:] = [entry for entry in sys.path if entry != path]
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(f"{directory}/"):
            del sys.modules[name]
    shutil.rmtree(directory, ignore_errors=True)
    for callback in _own_measuring(dask_worker):
        callback.start()


def make_row(
    work: Callable[[Kind], Row], planned: Kind, *, index: int, session: str, policy_code: str
) -> Outcome[Row] | None:
    """Return what became of *planned*, whose policy has code of that digest ("": any); None if this
    worker has no files of *session*.
    """
    from distributed import get_worker

    directory = _directory(get_worker(), session)
    if not directory.is_dir():
        return None
    config = placed(planned.config, directory)

    def made(local: Kind) -> Row:
        policy = make_policy(config.policy, **dict(config.policy_options))
        if policy_code and policy_digest(policy, *config.own_policies) != policy_code:
            raise SpecError(
                f"policy {config.policy_name}: expected the code that it has where the runs were "
                "asked for, found other code on the worker"
            )
        # The row says what the user named, and not where it lies here.
        return work(local) | {"scenario": planned.config.scenario}

    return attempt(made, index, replace(planned, config=config))


def _own_measuring(worker: Worker) -> list[Any]:
    """Return what a worker does for its dashboard, 50 to 100 times a second: while it makes runs
    that is some 4 % of its processor.
    """
    found = worker.periodic_callbacks
    return [found[name] for name in ("tick", "profile") if name in found]


def _directory(worker: Worker, session: str) -> Path:
    return Path(worker.local_directory) / f"inferno-{session}"
