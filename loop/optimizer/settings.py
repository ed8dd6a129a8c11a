"""How the optimizer is asked to size and to choose: its settings. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from loop.optimizer.rules import Rules
from loop.optimizer.rules.ours import OURS

SolverName = Literal["greedy", "exact"]
Objective = Literal["value", "cost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSettings:
    """How to size and to choose.

    rules: ours, or those of another optimizer (rules/), which may put some of the settings below
    out of force. headroom: targets used are (1 - headroom) of the SLO. utilisation_max: a replica
    takes at most this share of what a full batch serves. loss_max: with a bounded queue, the share
    of requests that may be turned away. max_batch_cap and replicas_cap: beyond these a candidate is
    cut or given up. near_peak: the batch chosen is the smallest whose highest rate is this share of
    the best (0: keep the largest). hysteresis: a change must save this share of the cost, and load
    may pass what the present replicas sustain by this share, before a server is changed. objective:
    value (cost with the transition penalty) or cost alone. gap: relative distance from the least
    total that is good enough for the exact solver; time_limit_s: when it gives the best found
    (None: see solvers.exact).
    """

    solver: SolverName = "exact"
    rules: Rules = OURS
    headroom: float = 0.1
    utilisation_max: float = 0.95
    loss_max: float = 0.01
    max_batch_cap: int = 512
    replicas_cap: int = 1000
    near_peak: float = 0.98
    hysteresis: float = 0.2
    objective: Objective = "value"
    time_limit_s: float | None = None
    gap: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges: a wrong setting is the programmer's (the command checks what a user
        typed).
        """
        assert self.solver in {"greedy", "exact"}, self.solver
        assert self.objective in {"value", "cost"}, self.objective
        assert 0.0 <= self.headroom < 1.0, self.headroom
        assert 0.0 < self.utilisation_max < 1.0, self.utilisation_max
        assert self.hysteresis >= 0.0, self.hysteresis
        assert self.gap >= 0.0, self.gap
