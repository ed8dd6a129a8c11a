"""Questions: runs, sweeps and comparisons on the twin, and their figures."""

from experiments.config import RunConfig
from experiments.grid import SweepConfig
from experiments.run import RunResult, run
from experiments.sweep import sweep

__all__ = ["RunConfig", "RunResult", "SweepConfig", "run", "sweep", "write_run"]


def __getattr__(name: str) -> object:
    """Import write_run when it is asked for: tables and figures take longer than all the rest."""
    if name == "write_run":
        from experiments.run_files import write_run

        return write_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
