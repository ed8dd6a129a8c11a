"""How to size and to choose: the settings, and in them the rules in which optimizers differ: ours,
the Go optimizer of today and that of mid 2025 are one frozen value each. The steps that they share
are elsewhere, and ask the rules for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from loop.optimizer.cache import SizingCache
    from loop.optimizer.catalog import Pairs, PerfColumns, ServerColumns
    from loop.optimizer.model import Bools, Floats, Ints, Rows
    from loop.optimizer.model.queueing import Model, ReplicaColumns
    from loop.optimizer.model.rates import Limits, Targets
    from loop.optimizer.solvers.deadline import TimeLimit
    from loop.optimizer.table import CandidateTable, PickPart, Problem, TieBreak, Tuned
    from loop.spec import OptimizerData, ServerData, SystemData
    from loop.types import Load, Why

SolverName = Literal["greedy", "exact"]
Objective = Literal["value", "cost"]


class Size(Protocol):
    """Sizes every (server, accelerator) pair."""

    def __call__(
        self,
        data: SystemData,
        settings: OptimizerSettings,
        *,
        servers: Sequence[ServerData],
        cache: SizingCache,
    ) -> CandidateTable:
        """Return the candidates of *servers*, good ones and others."""
        ...


class Tune(Protocol):
    """Chooses the batch of the candidates taken."""

    def __call__(
        self,
        table: CandidateTable,
        rows: Rows,
        replicas: Ints,
        settings: OptimizerSettings,
        *,
        cache: SizingCache,
    ) -> Tuned:
        """Return batch and latencies of each row with so many replicas."""
        ...


class HighestRates(Protocol):
    """Searches for the highest rate of a replica within its targets."""

    def __call__(
        self,
        columns: ReplicaColumns,
        targets: Targets,
        *,
        percentile: Floats,
        utilisation_max: float,
        guess: Floats,
    ) -> Limits:
        """Return the highest rate of each row; *percentile* is the share of requests that shall
        meet the latencies, *guess* where a search may look first (nan: nobody knows).
        """
        ...


class CountReplicas(Protocol):
    """Counts the replicas that a load needs."""

    def __call__(
        self,
        *,
        share: Floats,
        least: Floats,
        now: Floats,
        settings: OptimizerSettings,
    ) -> Floats:
        """Return the replicas for a load of *share* times what one takes within its targets.

        *least* is the least number by the data, *now* that of the present replicas on the same
        accelerator.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """All in which optimizers differ, in the order in which an optimization asks.

    in_force: the settings as these rules heed them. flags: the same of the flags in the data.
    size: the whole of sizing; the steps from absent_load to tie_break are of the size that ours
    and the Go optimizer of today share. absent_load: what a server is sized for of which no load is
    known (None: it is not sized). seen_batch: of requests of the length asked for, by what was seen
    of an accelerator. counted_rate: the rate by which replicas are counted (None: the
    highest that meets the targets). idle_dropped: why a server without load and without a least
    number of replicas is left out if capacity is limited (None: it gets its zero replicas).
    """

    name: str
    in_force: Callable[[OptimizerSettings], OptimizerSettings]
    flags: Callable[[OptimizerData], OptimizerData]
    size: Size
    # Steps of sizing.
    absent_load: Load | None
    present_cost: Callable[[SystemData, ServerData], float]
    seen_batch: Callable[[Pairs], Floats]
    batch: Callable[[Floats, Pairs, OptimizerSettings], tuple[Floats, Bools]]
    queue: Callable[[Floats], Floats]
    perf: Callable[[PerfColumns], PerfColumns]
    asked: Callable[[ServerColumns], ServerColumns]
    need: Callable[[ServerColumns], Floats]
    idle: Callable[[Pairs, Floats], tuple[Floats, Floats, Floats]]
    invalid: Callable[[ReplicaColumns], Bools]
    highest_rates: HighestRates
    counted_rate: Callable[[Model, Floats], Floats] | None
    count_replicas: CountReplicas
    # Choosing.
    tie_break: TieBreak
    weight: Callable[[Sequence[int]], Sequence[float] | None]
    pick_part: PickPart
    # Explaining.
    idle_dropped: Why | None
    part_values: Callable[[CandidateTable, Rows, Ints], Floats]
    tune: Tune
    why_unserved: Callable[[CandidateTable, Problem, int, Sequence[int], OptimizerSettings], Why]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSettings:
    """How to size and to choose.

    rules: ours, or those of another optimizer, which may put some of the settings below out of
    force. headroom: targets used are (1 - headroom) of the SLO, beyond the margin that lies in its
    percentile. utilisation_max: a replica takes at most this share of what a full batch serves.
    loss_max: with a bounded queue, the share of requests that may be turned away. max_batch_cap and
    replicas_cap: beyond these a candidate is cut or given up. near_peak: the batch chosen is the
    smallest whose highest rate is this share of the best (0: keep the largest). hysteresis: a move
    must save this share of the cost, and a replica is given back when the load with this share more
    would not need it. objective: value (cost with the transition penalty) or cost alone.
    upper_bounds: look for what serves a server with as many replicas as it may have; bounded: where
    nothing does, count no more GPUs for it than of so many replicas (a policy has to know what a
    load needs, and the loop cuts what it decides). gap: relative
    distance from the least total that is good enough for the exact solver; time_limit: when it
    gives the best found (None: see solvers.exact). figures: whether the batch to allow, the
    latencies to expect and the words are asked for; who weighs one solution against another needs
    none. whole: what is found is not asked for unless every server that can be served is; if some
    must go without, the answer need not say who has what.
    """

    rules: Rules
    solver: SolverName = "exact"
    headroom: float = 0.0
    utilisation_max: float = 0.98
    loss_max: float = 0.01
    max_batch_cap: int = 512
    replicas_cap: int = 1000
    near_peak: float = 1.0
    hysteresis: float = 0.035
    objective: Objective = "value"
    time_limit: TimeLimit | None = None
    upper_bounds: bool = True
    bounded: bool = False
    gap: float = 0.0
    figures: bool = True
    whole: bool = False

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
