"""The command, the only place that wires worlds, loads, loops and experiments; and, for notebooks,
`inferno.simulate`, `inferno.sweep` and `inferno.compare`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.config import SAMPLE_DATA
    from inferno.api import Comparison, Simulation, Sweep, compare, simulate, sweep

__all__ = ["SAMPLE_DATA", "Comparison", "Simulation", "Sweep", "compare", "simulate", "sweep"]


def __getattr__(name: str) -> object:
    """Import what a notebook asks for; the command needs none of it to start."""
    if name == "SAMPLE_DATA":
        from experiments.config import SAMPLE_DATA

        return SAMPLE_DATA
    if name in __all__:
        from inferno import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
