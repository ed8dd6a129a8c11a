"""Questions: runs, sweeps and comparisons on the twin, and their figures."""

from experiments.config import RunConfig
from experiments.grid import SweepConfig
from experiments.run import RunResult, run
from experiments.run_files import write_run
from experiments.sweep import sweep

__all__ = ["RunConfig", "RunResult", "SweepConfig", "run", "sweep", "write_run"]
