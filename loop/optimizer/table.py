"""What sizing hands to a solver: one candidate per (server, accelerator), as columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loop.optimizer.catalog import ServerColumns
from loop.optimizer.model.chain import Floats, Ints
from loop.optimizer.model.queueing import ReplicaColumns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loop.optimizer.catalog import Catalog, Pairs
    from loop.spec import ServerData, SystemData
    from loop.types import Why

# Why a candidate cannot be taken (CandidateTable.verdict); 0 is a good one.
GOOD = 0
NO_LATENCY_MODEL = 1  # all coefficients are zero
BAD_LOAD = 2
NO_MEMORY = 3  # one request does not fit the KV cache
ONE_STATE = 4  # these rules have no model of it
ITL_SHORT = 5
TTFT_SHORT = 6
TARGET_SHORT = 7  # none of its own, but no rate meets all
TOO_MANY = 8  # replicas


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
    [requests/ms]; binding says what binds (index into rates.BINDING, -1 without load). asked is
    what the data say of the server. problem says why a server has no rows at all.
    """

    servers: tuple[str, ...]
    priority: Ints
    start: Ints
    accelerators: tuple[str, ...]
    types: tuple[str, ...]
    capacity: Ints
    problem: dict[str, Why]
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
    asked: ServerColumns

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """What sizing finds out about pairs, a row each; the columns are those of CandidateTable."""

    accelerator: Ints
    columns: ReplicaColumns
    wanted_batch: Ints
    replicas: Ints
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


@dataclass(frozen=True, slots=True)
class Tuned:
    """The batch of each row, and latencies [ms] and busy share of it at the load of a replica."""

    batch: Ints
    itl: Floats
    ttft: Floats
    rho: Floats


def make_table(
    data: SystemData, catalog: Catalog, pairs: Pairs, sized: Sized, *, servers: Sequence[ServerData]
) -> CandidateTable:
    """Return *pairs* of *servers* as *sized*, with what they cost. The score is the value."""
    none = sized.accelerator < 0
    each: Floats = catalog.cost[pairs.accelerator] * pairs.perf.acc_count
    unit_costs = np.where(none, 0.0, each)
    cost: Floats = unit_costs * sized.replicas
    value = transition_value(
        pairs.asked, accelerator=sized.accelerator, replicas=sized.replicas, cost=cost
    )
    gpus = pairs.perf.acc_count.astype(np.int64) * catalog.multiplicity[pairs.accelerator]
    return CandidateTable(
        servers=tuple(server.name for server in servers),
        priority=np.array(
            [data.priority(server.service_class or "Free") for server in servers], dtype=np.int64
        ),
        start=pairs.start,
        accelerators=catalog.names,
        types=catalog.types,
        capacity=np.array([data.capacity.get(name, 0) for name in catalog.types], dtype=np.int64),
        problem=pairs.problem,
        server=pairs.server,
        accelerator=sized.accelerator,
        type=np.where(none, -1, catalog.type[pairs.accelerator]),
        units=np.where(none, 0, gpus),
        columns=sized.columns,
        wanted_batch=sized.wanted_batch,
        replicas=sized.replicas,
        unit_costs=unit_costs,
        cost=cost,
        value=value,
        score=value,
        itl=sized.itl,
        ttft=sized.ttft,
        rho=sized.rho,
        rate_max=sized.rate_max,
        limit=sized.limit,
        binding=sized.binding,
        verdict=sized.verdict,
        best_itl=sized.best_itl,
        best_ttft=sized.best_ttft,
        need=sized.need,
        asked=pairs.asked,
    )


def transition_value(
    now: ServerColumns, *, accelerator: Ints, replicas: Ints, cost: Floats
) -> Floats:
    """Return cost with the penalty of a transition from what there is *now*.

    Nothing changes: 0. The same accelerator: the difference of cost. Another: 0.1 of both costs on
    top.
    """
    same = now.accelerator == accelerator
    unchanged = same & (now.replicas == replicas)
    saving = cost - now.cost
    return np.where(unchanged, 0.0, np.where(same, saving, saving + 0.1 * (cost + now.cost)))
