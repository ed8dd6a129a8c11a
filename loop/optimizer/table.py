"""What sizing hands to a solver: one candidate per (server, accelerator), as columns; and the
settings of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from loop.optimizer.model.chain import Floats, Ints
from loop.optimizer.model.queueing import ReplicaColumns

SolverName = Literal["greedy", "exact"]
Objective = Literal["value", "cost"]

# Why a candidate cannot be taken (CandidateTable.verdict); 0 is a good one.
GOOD, NO_LAW, BAD_LOAD, NO_MEMORY, ONE_STATE, ITL_SHORT, TTFT_SHORT, TARGET_SHORT, TOO_MANY = range(
    9
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSettings:
    """How to size and to choose.

    compat: as the existing Go optimizer does, with its defects; everything below down to band is
    then off. headroom: targets used are (1 - headroom) of the SLO. utilisation_max: a replica takes
    at most this share of what a full batch serves. loss_max: with a bounded queue, the share of
    requests that may be turned away. max_batch_cap and replicas_cap: beyond these a candidate is
    cut or given up. near_peak: the batch chosen is the smallest whose highest rate is this share of
    the best (0: keep the largest). band: a change must save this share of the cost, and load may
    pass what the present replicas sustain by this share, before a server is changed. objective:
    value (cost with the transition penalty) or cost alone. gap: relative distance from the least
    total that is good enough for the exact solver; time_limit_s: when it gives the best found
    (None: see solvers.exact).
    """

    solver: SolverName = "exact"
    compat: bool = False
    headroom: float = 0.1
    utilisation_max: float = 0.95
    loss_max: float = 0.01
    max_batch_cap: int = 512
    replicas_cap: int = 1000
    near_peak: float = 0.98
    band: float = 0.2
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
        assert self.band >= 0.0, self.band
        assert self.gap >= 0.0, self.gap


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to serve one server: replicas of one accelerator.

    value is cost with the transition penalty [cents/h]; units_per_replica are GPUs of *type*.
    itl_ms, ttft_ms and rho (busy share of the batch) are what the estimate expects at the present
    load; rate_max_rpm is what one replica sustains within its targets [requests/min]. Accelerator
    "" with 0 replicas is the answer to no load.
    """

    accelerator: str
    type: str
    replicas: int
    units_per_replica: int
    max_batch: int
    cost_cents_per_h: float
    value: float
    itl_ms: float
    ttft_ms: float
    rho: float
    rate_max_rpm: float

    @property
    def units(self) -> int:
        """Return how many GPUs of the type all replicas hold."""
        return self.units_per_replica * self.replicas


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateTable:
    """All candidates of all servers: row k belongs to servers[server[k]], rows of a server are
    neighbours.

    Rows start[i]..start[i+1] are those of server i. accelerator indexes accelerators (-1: none),
    type indexes types, units are GPUs and unit_costs cents/h per replica, columns the parameters
    of one replica, wanted_batch its batch before memory and the cap cut it. score is what a solver
    makes least. A row whose verdict is not GOOD cannot be taken; best_itl and best_ttft [ms] then
    say what would be attainable. need is the rate of the whole server, rate_max that by which
    replicas are counted and limit the highest that meets the targets, both of one replica
    [requests/ms]; binding says what binds (index into rates.BINDING, -1 without load). said are the
    server's data (catalog.SAID). problem says why a server has no rows at all.
    """

    servers: tuple[str, ...]
    priority: Ints
    start: Ints
    accelerators: tuple[str, ...]
    types: tuple[str, ...]
    capacity: Ints
    problem: dict[str, str]
    server: Ints
    accelerator: Ints
    type: Ints
    units: Ints
    columns: ReplicaColumns
    wanted_batch: Ints
    replicas: Ints
    unit_costs: Floats
    cost: Floats
    value: Floats
    score: Floats
    itl: Floats
    ttft: Floats
    rho: Floats
    rate_max: Floats
    limit: Floats
    binding: Ints
    verdict: Ints
    best_itl: Floats
    best_ttft: Floats
    need: Floats
    said: dict[str, Floats]

    def unit_cost(self, row: int) -> float:
        """Return the cost of one replica of row *row* [cents/h]."""
        return float(self.unit_costs[row])

    def candidate(self, row: int) -> Candidate:
        """Return row *row* as a value of its own."""
        index = int(self.accelerator[row])
        return Candidate(
            accelerator=self.accelerators[index] if index >= 0 else "",
            type=self.types[int(self.type[row])] if index >= 0 else "",
            replicas=int(self.replicas[row]),
            units_per_replica=int(self.units[row]),
            max_batch=int(self.columns.max_batch[row]),
            cost_cents_per_h=float(self.cost[row]),
            value=float(self.value[row]),
            itl_ms=float(self.itl[row]),
            ttft_ms=float(self.ttft[row]),
            rho=float(self.rho[row]),
            rate_max_rpm=float(self.rate_max[row]) * 60_000.0,
        )
