"""What sizing hands to a solver and what that answers: candidates as columns, one per (server,
accelerator), and which of them each server gets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from loop.optimizer.catalog import ServerColumns
from loop.optimizer.model import Bools, Floats, Ints, Rows
from loop.optimizer.model.queueing import ReplicaColumns
from loop.replacing import replace
from twin.frozen import made_quickly

if TYPE_CHECKING:
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

SCORE_DIGITS = (
    6  # scores equal to a millionth of a cent per hour are a tie, whatever rounding made of them
)


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to serve one server: replicas of one accelerator.

    value is cost with the transition penalty [cents/h]; units_per_replica are GPUs of *type*.
    rate_max_rpm is what one replica sustains within its targets [requests/min]. Accelerator
    "" with 0 replicas is the answer to no load.
    """

    accelerator: str
    type: str
    replicas: int
    units_per_replica: int
    max_batch: int
    cost_cents_per_h: float
    value: float
    rate_max_rpm: float

    @property
    def units(self) -> int:
        """Return how many GPUs of the type all replicas hold."""
        return self.units_per_replica * self.replicas


@made_quickly
@dataclass(frozen=True, slots=True)
class Means:
    """Mean ITL and TTFT [ms], and busy share of the batch, of some replicas."""

    itl: Floats
    ttft: Floats
    rho: Floats

    def __call__(self, rows: Rows) -> Means:
        """Return those of the given rows."""
        return Means(self.itl[rows], self.ttft[rows], self.rho[rows])


Columns = TypeVar("Columns", ReplicaColumns, ServerColumns, "Means")

# Returns what the estimate expects of the given rows at the load that a replica then gets.
FindMeans = Callable[[Rows], Means]


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateTable:
    """All candidates of all servers: row k belongs to servers[server[k]], rows of a server are
    neighbours.

    Rows start[i]..start[i+1] are those of server i. accelerator indexes accelerators (-1: none),
    type indexes types, units are GPUs and unit_costs cents/h per replica, columns the parameters
    of one replica, wanted_batch its batch before memory and the cap cut it. score is what a solver
    makes least. A row whose verdict is not GOOD cannot be taken; best_itl and best_ttft [ms] then
    say what would be attainable. percentile is the share of requests for which the row is sized.
    need is the rate of the whole server, rate_max that by which
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
    means: FindMeans
    rate_max: Floats
    limit: Floats
    binding: Ints
    verdict: Ints
    best_itl: Floats
    best_ttft: Floats
    percentile: Floats
    need: Floats
    asked: ServerColumns

    def unit_cost(self, row: int) -> float:
        """Return the cost of one replica of row *row* [cents/h]."""
        return float(self.unit_costs[row])

    def candidate(self, row: int) -> Candidate:
        """Return row *row* as a value of its own."""
        return self.candidates(np.array([row]))[0]

    def candidates(self, rows: Rows) -> list[Candidate]:
        """Return each of *rows* as a value of its own."""
        counts = (self.accelerator, self.type, self.replicas, self.units, self.columns.max_batch)
        figures = (self.cost, self.value, self.rate_max * 60_000.0)
        found = zip(*(column[rows].tolist() for column in (*counts, *figures)), strict=True)
        return [
            Candidate(
                accelerator=self.accelerators[accelerator] if accelerator >= 0 else "",
                type=self.types[kind] if accelerator >= 0 else "",
                replicas=replicas,
                units_per_replica=units,
                max_batch=max_batch,
                cost_cents_per_h=cost,
                value=value,
                rate_max_rpm=rate_max_rpm,
            )
            for accelerator, kind, replicas, units, max_batch, cost, value, rate_max_rpm in found
        ]


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """What sizing finds out about pairs, a row each; the columns are those of CandidateTable."""

    accelerator: Ints
    columns: ReplicaColumns
    wanted_batch: Ints
    replicas: Ints
    means: FindMeans
    rate_max: Floats
    limit: Floats
    binding: Ints
    verdict: Ints
    best_itl: Floats
    best_ttft: Floats
    percentile: Floats
    need: Floats


@made_quickly
@dataclass(frozen=True, slots=True)
class Tuned:
    """The batch of each row, and what it then expects at the load of a replica.

    itl_tail and ttft_tail are the latencies at the percentile, nan if nobody asks for it and inf if
    they have no bound.
    """

    batch: Ints
    means: Means
    itl_tail: Floats
    ttft_tail: Floats


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
        capacity=capacity_of(data, catalog),
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
        means=sized.means,
        rate_max=sized.rate_max,
        limit=sized.limit,
        binding=sized.binding,
        verdict=sized.verdict,
        best_itl=sized.best_itl,
        best_ttft=sized.best_ttft,
        percentile=sized.percentile,
        need=sized.need,
        asked=pairs.asked,
    )


def capacity_of(data: SystemData, catalog: Catalog) -> Ints:
    """Return the GPUs of each type of *catalog*."""
    return np.array([data.capacity.get(name, 0) for name in catalog.types], dtype=np.int64)


def narrowed(table: CandidateTable, stayers: Sequence[int]) -> CandidateTable | None:
    """Return *table* with only that candidate of each of *stayers* that is where it is: rows are
    sized one by one. None if one of them cannot be taken: if nothing serves a server as well as
    asked, it is sized for less.
    """
    if not stayers:
        return table
    moves = np.ones(len(table.servers), dtype=np.bool_)
    moves[np.asarray(stayers, dtype=np.intp)] = False
    rows = np.flatnonzero(moves[table.server] | _at_home(table))
    server = table.server[rows]
    counts = np.bincount(server, minlength=len(table.servers))
    if (counts[~moves] != 1).any():
        return None
    means = table.means
    return replace(
        table,
        start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        columns=table.columns.take(rows),
        asked=table.asked.take(rows),
        means=lambda some: means(rows[some]),
        **{name: getattr(table, name)[rows] for name in _BY_ROW},
    )


def home_rows(table: CandidateTable, stayers: Sequence[int]) -> list[int] | None:
    """Return the rows that `narrowed` leaves of *stayers*, one each, or None as that does."""
    home = np.flatnonzero(_at_home(table))
    rows = dict(zip(table.server[home].tolist(), home.tolist(), strict=True))
    return None if any(place not in rows for place in stayers) else [rows[p] for p in stayers]


def _at_home(table: CandidateTable) -> Bools:
    """Tell which rows are of the accelerator that a server has, and serve it as well as asked."""
    found: Bools = (
        (table.accelerator == table.asked.accelerator)
        & (table.accelerator >= 0)
        & (table.verdict == GOOD)
        & (table.percentile == table.asked.percentile)
    )
    return found


def spliced(
    table: CandidateTable, part: CandidateTable, places: Sequence[int]
) -> tuple[CandidateTable, Rows]:
    """Return *table* with the servers at *places* in the place of which *part* has others, and
    where its rows come from: those of *table*, and behind them those of *part*. The means are left
    to the caller.
    """
    names, priority = list(table.servers), table.priority.copy()
    priority[np.asarray(places, dtype=np.intp)] = part.priority
    spans = list(zip(table.start[:-1].tolist(), table.start[1:].tolist(), strict=True))
    behind = len(table.server)
    for k, place in enumerate(places):
        names[place] = part.servers[k]
        spans[place] = behind + int(part.start[k]), behind + int(part.start[k + 1])
    order = np.concatenate([np.arange(begin, end) for begin, end in spans])
    counts = np.array([end - begin for begin, end in spans], dtype=np.int64)
    gone = {table.servers[place] for place in places}
    problem = {name: why for name, why in table.problem.items() if name not in gone}
    made = replace(
        table,
        servers=tuple(names),
        priority=priority,
        problem=problem | part.problem,
        columns=joined(table.columns, part.columns, order),
        asked=joined(table.asked, part.asked, order),
        **{
            name: np.concatenate([getattr(table, name), getattr(part, name)])[order]
            for name in _BY_ROW
        },
    )
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return replace(made, server=np.repeat(np.arange(len(names)), counts), start=start), order


def joined(columns: Columns, part: Columns, order: Rows) -> Columns:
    """Return the rows *order* of *columns* and, behind them, *part*."""
    return type(columns)(
        *(
            np.concatenate([getattr(columns, name), getattr(part, name)])[order]
            for name in type(columns).__slots__
        )
    )


# Columns of a table that are arrays with an entry for each row.
_BY_ROW = (
    *("server", "accelerator", "type", "units", "wanted_batch", "replicas", "unit_costs", "cost"),
    *("value", "score", "rate_max", "limit", "binding", "verdict", "best_itl", "best_ttft"),
    *("percentile", "need"),
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


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The options of each server, best first: rows of a CandidateTable, as plain lists for quick
    access by row.

    options[i] are rows of server i (none: it cannot be served). units is GPUs per replica, replicas
    how many an option takes: those of the table, or as many of them as its server may have.
    capacity is GPUs by type index, None if it is not limited. weight, if given, makes
    priority soft for the greedy solver: one queue for all, in which what a server would lose by
    waiting counts so much.
    """

    names: Sequence[str]
    priority: Sequence[int]
    options: Sequence[Sequence[int]]
    type: Sequence[int]
    units: Sequence[int]
    replicas: Sequence[int]
    score: Sequence[float]
    capacity: Sequence[int] | None
    weight: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """An option taken, with fewer replicas than it asks for if capacity ran out."""

    row: int
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Choices by server index. gap is how far the total score may be from the least one, relative;
    None: not known.
    """

    choices: Mapping[int, Choice]
    gap: float | None = None
    optimal: bool = False
    note: str = ""


# Returns what decides between candidates of a table, given by their rows, whose scores are equal:
# the lower comes first.
TieBreak = Callable[[CandidateTable, Rows], Floats]

# Returns the option of a server, by its index, of which it gets a part: a row, or None if there
# is no room; the capacity left is by type index.
PickPart = Callable[[Problem, Sequence[int], int], int | None]


def make_problem(
    table: CandidateTable,
    *,
    capacity: Sequence[int] | None,
    tie_break: TieBreak,
    first: int | None = None,
    bounded: bool = False,
) -> Problem:
    """Return the problem of *table*: good rows by score; of equal ones the lower *tie_break* first,
    then by name. It is asked about the *first* options of each server alone (None: about all).
    *bounded*: of no option are there more replicas than its server may have.
    """
    good = np.flatnonzero(table.verdict == GOOD)
    score = np.round(table.score, SCORE_DIGITS)
    ties = np.zeros(len(score))
    order = good[np.lexsort((table.accelerator[good], score[good], table.server[good]))]
    same = (np.diff(score[order]) == 0.0) & (np.diff(table.server[order]) == 0)
    if first is not None and same.any():
        same &= _among_first(first, table.server[order], same)
    if same.any():
        # Few: what decides between them is not asked of all.
        tied = order[np.concatenate([same, [False]]) | np.concatenate([[False], same])]
        ties[tied] = tie_break(table, tied)
        order = good[
            np.lexsort((table.accelerator[good], ties[good], score[good], table.server[good]))
        ]
    counts = np.bincount(table.server[good], minlength=len(table.servers))
    stops = np.cumsum(counts).tolist()
    rows = order.tolist()
    replicas = table.replicas
    if bounded:
        replicas = np.minimum(replicas, table.asked.most).astype(np.int64)
    return Problem(
        names=table.servers,
        priority=table.priority.tolist(),
        options=[
            rows[stop - count : stop] for stop, count in zip(stops, counts.tolist(), strict=True)
        ],
        type=table.type.tolist(),
        units=table.units.tolist(),
        replicas=replicas.tolist(),
        score=score.tolist(),
        capacity=None if capacity is None else list(capacity),
    )


def _among_first(first: int, server: Ints, same: Bools) -> Bools:
    """Tell of each option but the last whether it and those as good as it, which *same* tells of
    neighbours, begin among the *first* of its *server*.
    """
    place = np.arange(len(server))
    begins = place - np.searchsorted(server, server)
    anew = np.concatenate([[True], ~same])
    found: Bools = begins[np.maximum.accumulate(np.where(anew, place, 0))][:-1] < first
    return found
