"""Columnar records of a run: what the columns of requests and pods are, and how they are selected.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[Any]
Columns = Mapping[str, Column]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

FINISHED, REJECTED, FAILED, UNFINISHED = 0, 1, 2, 3

BLOCK_ROWS = 200_000
"""Requests that are looked at together: a handful of figures of each is in memory at a time."""

WARM_UP_S = 600.0
WARM_UP_SHARE = 0.2
MINUTE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The part of a run that is scored: [start_s, end_s). The run itself ends at end_s."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """Return how long the window is [s]."""
        return self.end_s - self.start_s

    @property
    def hours(self) -> float:
        """Return how long the window is [h]."""
        return self.length_s / 3600.0


def scored_window(duration_s: float, *, warm_up_s: float | None = None) -> Window:
    """Leave out the warm-up: *warm_up_s* if it is given and the run is longer, else ten minutes, or
    a fifth of a run too short for that.
    """
    if warm_up_s is not None and warm_up_s < duration_s:
        return Window(start_s=warm_up_s, end_s=duration_s)
    return Window(start_s=min(WARM_UP_S, WARM_UP_SHARE * duration_s), end_s=duration_s)


def are_lost(outcome: Column) -> Bools:
    """Return which of these outcomes are requests that got no answer."""
    lost: Bools = (outcome == REJECTED) | (outcome == FAILED)
    return lost


def select(columns: Columns, mask: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Return the rows of *columns* that *mask* (booleans or indices) picks."""
    return {name: column[mask] for name, column in columns.items()}


def arrived_within(requests: Columns, window: Window) -> Bools:
    """Return which requests arrived in the scored window."""
    arrival_s = requests["arrival_s"]
    inside: Bools = (arrival_s >= window.start_s) & (arrival_s < window.end_s)
    return inside


def by_server(columns: Columns, servers: int) -> list[Columns]:
    """Return the rows of each of so many servers, in their order; views where *columns* are in the
    order of the servers already.
    """
    columns, edges = in_order(columns, servers)
    return [rows_of(columns, begin, end) for begin, end in pairwise(edges)]


def in_order(columns: Columns, servers: int) -> tuple[Columns, list[int]]:
    """Return *columns* in the order of the servers, and where the rows of each begin and end."""
    server = columns["server"]
    if (np.diff(server) < 0).any():
        columns = select(columns, np.argsort(server, kind="stable"))
    return columns, np.searchsorted(columns["server"], np.arange(servers + 1)).tolist()


def rows_of(columns: Columns, begin: int, end: int) -> dict[str, Column]:
    """Return the rows from *begin* to before *end*: views."""
    return {name: column[begin:end] for name, column in columns.items()}
