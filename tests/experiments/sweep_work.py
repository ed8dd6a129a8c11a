"""Ways for a run of a sweep to go, for spawned processes to import."""

from __future__ import annotations

from experiments.sweep import simulate_row
from experiments.sweep_rows import PlannedRun, Row


def fail_on_seed_two(planned: PlannedRun) -> Row:
    """Simulate, but stumble over one seed as a bug would."""
    if planned.config.seed == 2:
        raise ZeroDivisionError("a bug\nof two lines")
    return simulate_row(planned)


def refuse(planned: PlannedRun) -> Row:
    """Do no run at all: everything should be there already."""
    raise AssertionError(f"{planned.run_id} is run again")


class InterruptAfter:
    """Simulates so many runs; then the user presses Ctrl-C."""

    def __init__(self, runs: int) -> None:
        self._left = runs

    def __call__(self, planned: PlannedRun) -> Row:
        if self._left == 0:
            raise KeyboardInterrupt
        self._left -= 1
        return simulate_row(planned)
