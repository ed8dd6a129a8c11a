"""What sizing and solving found, by all that it depends on: a pure cache, so every answer is the
same with it and without.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np

from loop.optimizer.catalog import make_catalog
from loop.optimizer.solvers.shortages import Shortages
from loop.optimizer.table import Answer, narrowed
from loop.replacing import replace
from loop.spec import ServerData
from twin.frozen import made_quickly

if TYPE_CHECKING:
    from loop.optimizer.catalog import Catalog
    from loop.optimizer.model import Floats
    from loop.optimizer.model.within import Looked
    from loop.optimizer.solution import Assignment, Solution
    from loop.optimizer.solvers.several import SeveralAnswer
    from loop.optimizer.table import CandidateTable, Problem
    from loop.spec import Perf, ServiceClass, SystemData
    from twin.spec import Accelerator

Value = TypeVar("Value")
Classes: TypeAlias = "Mapping[str, ServiceClass]"

SOLUTIONS_MAX = 8  # a cycle asks a few times: with margins, without, with moves and without
# Tables with margins, of all classes and of some, and without; of many servers two at least.
TABLES_MAX, TABLES_MIN, TABLES_ROWS_MAX = 16, 2, 20_000
LOOKED_MAX = 100  # some 50 kB each
FIGURES_MAX = 5_000  # figures that depend on the rate, which seldom comes again


class Known(Generic[Value]):
    """Values by key, at most *limit* of them; the oldest half goes when it is full."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._found: dict[bytes, Value] = {}

    def __len__(self) -> int:
        return len(self._found)

    def get(self, keys: Sequence[bytes]) -> list[Value | None]:
        """Return what is known of each key."""
        return [self._found.get(key) for key in keys]

    def put(self, keys: Sequence[bytes], values: Sequence[Value]) -> None:
        """Remember values by key."""
        self._found.update(zip(keys, values, strict=True))
        if len(self._found) > self._limit:
            self._found = dict(list(self._found.items())[-self._limit // 2 :])


class SizingCache:
    """What was found before: highest rates and smallest batches, which do not depend on the rate
    that is asked for; latencies, means and at a percentile, which do, and where these were looked
    for; whole solutions; and what has too few GPUs.

    limits are rows of rates.Limits as the bytes of their floats: of hundreds of rows these make an
    array in a fifth of the time that tuples take.

    near: highest rates of replicas that were alike, as shares of a rough one: where to look first.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self.limits: Known[bytes] = Known(limit)
        self.near: Known[float] = Known(limit)
        self.batches: Known[int] = Known(limit)
        self.latencies: Known[tuple[float, float]] = Known(min(limit, FIGURES_MAX))
        self.means: Known[tuple[float, float, float]] = Known(min(limit, FIGURES_MAX))
        self.looked: Known[Looked] = Known(LOOKED_MAX)
        self.shortages = Shortages()
        self._inputs: list[_Input] = []
        self._catalog: _Listed | None = None
        self._tables: list[_Sized] = []
        self._assigned_by: tuple[Catalog, object, Classes] | None = None
        self._assigned: dict[_Asked, _Assigned] = {}

    def __len__(self) -> int:
        return len(self.limits)

    def solved(self, data: SystemData, settings: object) -> Solved | None:
        """Return what was found of the same input, if it is remembered."""
        found = (one for one in reversed(self._inputs) if one.is_of(data, settings))
        one = next(found, None)
        return None if one is None else one.solved

    def chosen_beside(
        self, data: SystemData, settings: object
    ) -> tuple[Chosen, Sequence[int]] | None:
        """Return what was chosen of the same input, of whose servers some could move that stay now,
        and the places of these; each server was given something.
        """
        for one in reversed(self._inputs):
            chosen = one.solved.chosen
            if chosen is None or chosen.wider or len(chosen.served) < len(data.servers):
                continue
            stayers = one.stayers(data, settings)
            if stayers is not None:
                return chosen, stayers
        return None

    def catalog(self, data: SystemData) -> Catalog:
        """Return the catalog of *data*, the last one if accelerators and models are the same."""
        if self._catalog is None or not self._catalog.is_of(data):
            self._catalog = _Listed(
                dict(data.accelerators), dict(data.perf), set(data.capacity), make_catalog(data)
            )
        return self._catalog.catalog

    def table(
        self, catalog: Catalog, settings: object, servers: Sequence[ServerData], classes: Classes
    ) -> CandidateTable | None:
        """Return the table of *servers*, if one is remembered of the same, of whom some could move
        that stay now.
        """
        for one in reversed(self._tables):
            if one.is_by(catalog, settings, classes):
                table = one.staying(servers)
                if table is not None:
                    return table
        return None

    def nearly(
        self, catalog: Catalog, settings: object, servers: Sequence[ServerData], classes: Classes
    ) -> tuple[CandidateTable, list[int]] | None:
        """Return a table of which no more than half of *servers* differ, and which those are."""
        found, most = None, len(servers) // 2
        for one in self._tables:
            if one.is_by(catalog, settings, classes) and len(one.servers) == len(servers):
                places = one.changed(servers, most=most)
                if places is not None:
                    found, most = (one.table, places), len(places) - 1
        return found

    def assigned(self, data: SystemData, settings: object, *, figures: bool) -> Assigned:
        """Return what servers of *data* were assigned last, with their *figures* or without."""
        catalog, by = self.catalog(data), self._assigned_by
        if by is None or not (by[0] is catalog and by[1:] == (settings, data.classes)):
            self._assigned_by, self._assigned = (catalog, settings, dict(data.classes)), {}
        # Each may be asked for as it may move and as it stays, with figures and without.
        if len(self._assigned) > 8 * len(data.servers):
            self._assigned.clear()
        return Assigned(data.servers, self._assigned, figures=figures)

    def keep_table(
        self,
        catalog: Catalog,
        settings: object,
        servers: Sequence[ServerData],
        classes: Classes,
        table: CandidateTable,
    ) -> None:
        """Remember the *table* of *servers*; of the oldest ones none is kept."""
        self._tables.append(_Sized(catalog, settings, tuple(servers), dict(classes), table))
        most = max(TABLES_MIN, min(TABLES_MAX, TABLES_ROWS_MAX // max(len(table.server), 1)))
        del self._tables[:-most]

    def keep(self, data: SystemData, settings: object, solved: Solved) -> None:
        """Remember what is *solved*; of the oldest inputs nothing is kept."""
        # Copies: what the caller does to its dictionaries afterwards is another input.
        copy = replace(
            data,
            accelerators=dict(data.accelerators),
            perf=dict(data.perf),
            classes=dict(data.classes),
            servers=dict(data.servers),
            capacity=dict(data.capacity),
        )
        self._inputs.append(_Input(copy, settings, solved))
        del self._inputs[:-SOLUTIONS_MAX]


_Asked = tuple[str, bool, bool]


class _Assigned(NamedTuple):
    """What a server was assigned, with so many replicas of an accelerator."""

    server: ServerData
    accelerator: int
    replicas: int
    found: Assignment


class Assigned:
    """What *servers* were assigned, by name: it depends on the server, and on what was chosen for
    it, and on no other server.
    """

    def __init__(
        self, servers: Mapping[str, ServerData], found: dict[_Asked, _Assigned], *, figures: bool
    ) -> None:
        self._servers, self._found, self._figures = servers, found, figures

    def get(self, name: str, accelerator: int, replicas: int) -> Assignment | None:
        """Return what *name* was assigned if it is as it was and the same is chosen for it."""
        server = self._servers[name]
        one = self._found.get((name, server.keep_accelerator, self._figures))
        if one is None or one.accelerator != accelerator or one.replicas != replicas:
            return None
        return one.found if one.server is server or one.server == server else None

    def put(self, name: str, accelerator: int, replicas: int, found: Assignment) -> None:
        """Remember what *name* is assigned."""
        server = self._servers[name]
        key = name, server.keep_accelerator, self._figures
        self._found[key] = _Assigned(server, accelerator, replicas, found)


class Chosen(NamedTuple):
    """What a solver chose, of what; wider: of a table in which what a server may take depended on
    the others.
    """

    table: CandidateTable
    problem: Problem
    answer: Answer | SeveralAnswer
    wider: bool = False

    @property
    def served(self) -> Collection[int]:
        """Return the places of the servers that are given something."""
        answer = self.answer
        return answer.choices if isinstance(answer, Answer) else answer.parts


@dataclass(slots=True)
class Solved:
    """What was chosen, until the solution has its figures, and the solution."""

    chosen: Chosen | None
    solution: Solution | None = None


@made_quickly
@dataclass(frozen=True, slots=True)
class _Input:
    """What was asked for, and what was found."""

    data: SystemData
    settings: object
    solved: Solved

    def is_of(self, data: SystemData, settings: object) -> bool:
        """Tell whether it is this input; the order of a solution is that of the servers."""
        return (
            # First what differs most often: nearly all inputs are told apart by one server.
            data.servers == self.data.servers
            and settings == self.settings
            and data == self.data
            and list(data.servers) == list(self.data.servers)
        )

    def stayers(self, data: SystemData, settings: object) -> list[int] | None:
        """Return the places of the servers of *data* that are to stay and could move here; None if
        anything else is another.
        """
        then = self.data
        if settings != self.settings or list(data.servers) != list(then.servers):
            return None
        stayers = _stayers(list(data.servers.values()), list(then.servers.values()))
        if stayers is None or replace(data, servers=then.servers) != then:
            return None
        return stayers


_but_staying = attrgetter(
    *(field.name for field in fields(ServerData) if field.name != "keep_accelerator")
)


@made_quickly
@dataclass(frozen=True, slots=True)
class _Sized:
    """A table, and of what."""

    catalog: Catalog
    settings: object
    servers: tuple[ServerData, ...]
    classes: Classes
    table: CandidateTable

    def is_by(self, catalog: Catalog, settings: object, classes: Classes) -> bool:
        """Tell whether it was sized by these."""
        return self.catalog is catalog and self.settings == settings and self.classes == classes

    def changed(self, servers: Sequence[ServerData], *, most: int) -> list[int] | None:
        """Return the places at which *servers*, as many, are others; None if more than *most* are:
        of a table of another cycle nearly all are.
        """
        places: list[int] = []
        for place, (one, other) in enumerate(zip(servers, self.servers, strict=True)):
            # First what differs most often.
            if one is not other and (one.current.load != other.current.load or one != other):
                places.append(place)
                if len(places) > most:
                    return None
        return places

    def staying(self, servers: Sequence[ServerData]) -> CandidateTable | None:
        """Return the table of *servers* if they are the same, but that some are to stay on the
        accelerator that they have, which can serve each; else None.
        """
        if len(servers) != len(self.servers):
            return None
        stayers = _stayers(servers, self.servers)
        return None if stayers is None else narrowed(self.table, stayers)


def _stayers(servers: Sequence[ServerData], before: Sequence[ServerData]) -> list[int] | None:
    """Return the places of *servers* that are to stay on the accelerator that they have, and could
    move *before*; None if any is another.
    """
    stayers = []
    for place, (one, other) in enumerate(zip(servers, before, strict=True)):
        if one is other or one == other:
            continue
        if not one.keep_accelerator or other.keep_accelerator:
            return None
        if _but_staying(one) != _but_staying(other):
            return None
        stayers.append(place)
    return stayers


@dataclass(frozen=True, slots=True)
class _Listed:
    """A catalog, and of what."""

    accelerators: dict[str, Accelerator]
    perf: dict[tuple[str, str], Perf]
    types: set[str]
    catalog: Catalog

    def is_of(self, data: SystemData) -> bool:
        """Tell whether it is the catalog of *data*."""
        return (
            data.accelerators == self.accelerators
            and data.perf == self.perf
            and data.capacity.keys() == self.types
        )


def row_keys(name: str, parts: Sequence[Floats]) -> list[bytes]:
    """Return one key per row of the columns *parts*, which are all that a value depends on."""
    table = np.ascontiguousarray(np.array(parts, dtype=np.float64).T)
    # The bytes of a row are its key: a tuple of floats would take a tenth of all sizing to hash.
    keys: list[bytes] = table.view(f"V{table.shape[1] * 8}").ravel().tolist()
    start = name.encode()
    return [start + key for key in keys] if start else keys
