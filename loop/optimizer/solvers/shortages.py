"""Which systems are known to have too few GPUs for all: what was shown of one holds for every other
that needs no less and has no more. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from loop.optimizer.solvers import Floats
    from loop.optimizer.table import Problem

SHOWN_MAX = 32  # a cycle looks at fewer


@dataclass(frozen=True, slots=True)
class Needs:
    """The fewest GPUs of each type that serve each server without any others: inf where that many
    are not there, 0 everywhere for a server that has no option, or none that fits, or one without
    GPUs. capacity is by type. unfit: a server has options, and none of them fits.
    """

    least: Floats
    capacity: Floats
    unfit: bool

    @classmethod
    def of(cls, problem: Problem) -> Needs:
        """Return the needs of a *problem* of limited capacity."""
        assert problem.capacity is not None, "nothing is short of what is not limited"
        least = np.full((len(problem.names), len(problem.capacity)), np.inf)
        for i, rows in enumerate(problem.options):
            for row in rows:
                kind, gpus = problem.type[row], problem.units[row] * problem.replicas[row]
                if not gpus:
                    least[i] = 0.0
                elif gpus <= problem.capacity[kind]:
                    least[i, kind] = min(least[i, kind], gpus)
        none = np.isinf(least).all(axis=1)
        least[none] = 0.0
        unfit = any(rows and none[i] for i, rows in enumerate(problem.options))
        return cls(least, np.array(problem.capacity, dtype=np.float64), unfit)

    def sole_short(self) -> bool:
        """Tell whether the servers that one type only can serve need more of it than there is."""
        sole = self.least[np.isfinite(self.least).sum(axis=1) == 1]
        needed = np.where(np.isfinite(sole), sole, 0.0).sum(axis=0)
        return bool((needed > self.capacity).any())


class Shortages:
    """Needs of which HiGHS has shown that they cannot all be met: the latest."""

    def __init__(self) -> None:
        self._shown: list[Needs] = []

    def shown(self, needs: Needs) -> bool:
        """Tell whether it is known that *needs* cannot all be met."""
        return needs.sole_short() or any(
            one.least.shape == needs.least.shape
            and bool((one.least <= needs.least).all() and (one.capacity >= needs.capacity).all())
            for one in reversed(self._shown)
        )

    def add(self, needs: Needs) -> None:
        """Remember that *needs* cannot all be met."""
        self._shown.append(needs)
        del self._shown[:-SHOWN_MAX]
