"""The requests of a run, a block of servers at a time: in memory, or in a file that it filled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.columns import (
    BLOCK_ROWS,
    FINISHED,
    MINUTE_S,
    UNFINISHED,
    Column,
    Columns,
    in_order,
    rows_of,
)
from twin.request import ROW
from twin.spool import Spool

Ints = npt.NDArray[np.int64]

PART_ROWS = 50_000
"""Requests of a server with many that are looked at together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The requests of the servers from *first* to before *last*, server by server in order of
    arrival.

    They come in parts, as often as they are asked for: a *whole* block in one; else, those of one
    server, in several, of which each ends with a minute of the clock.
    """

    first: int
    last: int
    whole: bool
    parts: Callable[[], Iterator[Columns]]


class MemoryRequests(dict[str, Column]):
    """Requests as columns in memory."""

    directory: Path | None = None

    def __init__(self, columns: Columns, *, block_rows: int = BLOCK_ROWS) -> None:
        super().__init__(columns)
        self._block_rows = block_rows
        self._part_rows = min(block_rows, PART_ROWS)

    @property
    def rows(self) -> int:
        """Return how many there are."""
        return len(self["server"])

    def blocks(self, servers: int) -> Iterator[Block]:
        """Yield the blocks of so many servers, in their order."""
        columns, edges = in_order(self, servers)
        counts = np.diff(edges)
        for first, last in _spans(counts.tolist(), self._block_rows):
            own = rows_of(columns, edges[first], edges[last])
            total, arrival_s = edges[last] - edges[first], own["arrival_s"]
            large = last - first == 1 and total > self._block_rows
            whole = not large or bool((np.diff(arrival_s) < 0.0).any())
            parts = partial(self._parts, own, whole=whole)
            yield Block(first=first, last=last, whole=whole, parts=parts)

    def _parts(self, own: Columns, *, whole: bool) -> Iterator[Columns]:
        arrival_s = own["arrival_s"]
        total, begin = len(arrival_s), 0
        if whole:
            yield own
            return
        while begin < total:
            end = min(begin + self._part_rows, total)
            if end < total:
                end = max(_minute_before(arrival_s, end), begin)
                if end == begin:  # a minute longer than a block
                    end = int(np.searchsorted(arrival_s, _next_minute_s(arrival_s[begin])))
            yield rows_of(own, begin, end)
            begin = end


class SpooledRequests(Mapping[str, Column]):
    """Requests that a RequestLog handed to *spool*. *made*: of the unfinished ones of each server,
    their numbers in order, and the tokens made.
    """

    def __init__(
        self,
        spool: Spool,
        *,
        servers: int,
        made: Mapping[int, tuple[Ints, Ints]],
        directory: Path,
        block_rows: int = BLOCK_ROWS,
    ) -> None:
        self.directory: Path | None = directory
        self._spool = spool
        self._made = made
        self._block_rows = block_rows
        self._part_rows = min(block_rows, PART_ROWS)
        self._counts = [spool.count(server) for server in range(servers)]

    @property
    def rows(self) -> int:
        """Return how many there are."""
        return sum(self._counts)

    def __getitem__(self, name: str) -> Column:
        found = [part[name] for block in self.blocks(len(self._counts)) for part in block.parts()]
        return np.concatenate(found)

    def __iter__(self) -> Iterator[str]:
        return iter((*(ROW.names or ()), "generated"))

    def __len__(self) -> int:
        return len(ROW.names or ()) + 1

    def blocks(self, servers: int) -> Iterator[Block]:
        """Yield the blocks of so many servers, in their order."""
        assert servers == len(self._counts), f"expected {len(self._counts)} servers, got {servers}"
        for first, last in _spans(self._counts, self._block_rows):
            large = last - first == 1 and self._counts[first] > self._block_rows
            # A whole block is asked for a few times: it is read once.
            whole = cache(partial(self._of_all, first, last))
            parts = partial(self._of_one, first) if large else lambda whole=whole: iter([whole()])
            yield Block(first=first, last=last, whole=not large, parts=parts)

    def _of_all(self, first: int, last: int) -> Columns:
        found = [_sorted([*self._spool.parts(server)]) for server in range(first, last)]
        return self._columns(np.concatenate(found))

    def _of_one(self, server: int) -> Iterator[Columns]:
        """Yield the requests of a server as far as all before them are there, too: they stand in
        the order in which they ended.
        """
        held: list[npt.NDArray[Any]] = []
        number, rows, wanted = 0, 0, self._part_rows
        for part in self._spool.parts(server):
            held.append(part)
            rows += len(part)
            if rows < wanted:
                continue
            whole = _sorted(held)
            ready = int(np.argmin(np.append(whole["id"] == number + np.arange(rows), False)))
            if ready:
                ready = _minute_before(whole["arrival_s"][:ready], ready - 1)
            if ready:
                yield self._columns(whole[:ready])
                number += ready
            held, rows = [whole[ready:].copy()], rows - ready
            wanted = rows + self._part_rows
        if rows:
            yield self._columns(_sorted(held))

    def _columns(self, rows: npt.NDArray[Any]) -> Columns:
        columns = {name: np.ascontiguousarray(rows[name]) for name in ROW.names or ()}
        generated = np.where(columns["outcome"] == FINISHED, columns["output_tokens"], 0)
        (open_,) = np.nonzero(columns["outcome"] == UNFINISHED)
        for server in np.unique(columns["server"][open_]).tolist():
            numbers, tokens = self._made[server]
            here = open_[columns["server"][open_] == server]
            generated[here] = tokens[np.searchsorted(numbers, columns["id"][here])]
        return {**columns, "generated": generated}


Requests = MemoryRequests | SpooledRequests


def requests_of(columns: Columns | Requests) -> Requests:
    """Return *columns* as requests; those that are already stay."""
    if isinstance(columns, MemoryRequests | SpooledRequests):
        return columns
    return MemoryRequests(columns)


def _sorted(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    whole = np.concatenate(parts) if parts else np.empty(0, ROW)
    return whole.take(np.argsort(whole["id"]))


def _spans(counts: list[int], block_rows: int) -> Iterator[tuple[int, int]]:
    """Yield from which server to before which: together about so many rows, or one server."""
    first = rows = 0
    for last in range(1, len(counts) + 1):
        rows += counts[last - 1]
        if last == len(counts) or rows + counts[last] > block_rows:
            yield first, last
            first, rows = last, 0


def _minute_before(arrival_s: Column, place: int) -> int:
    """Return where the minute begins in which the request at *place* arrived."""
    begin_s = arrival_s[min(place, len(arrival_s) - 1)] // MINUTE_S * MINUTE_S
    return int(np.searchsorted(arrival_s, begin_s))


def _next_minute_s(arrival_s: float) -> float:
    return (arrival_s // MINUTE_S + 1.0) * MINUTE_S
