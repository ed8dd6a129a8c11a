"""What a solver is asked and what it answers: options of servers, capacity by type, and which
option each server gets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loop.optimizer.table import GOOD

if TYPE_CHECKING:
    from loop.optimizer.model.chain import Floats
    from loop.optimizer.table import CandidateTable

SCORE_DIGITS = (
    6  # scores equal to a millionth of a cent per hour are a tie, whatever rounding made of them
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The options of each server, best first: rows of a CandidateTable, as plain lists for quick
    access by row.

    options[i] are rows of server i (none: it cannot be served). units is GPUs per replica.
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


# Returns the option of a server, by its index, of which it gets a part: a row, or None if there
# is no room; the capacity left is by type index.
PickPart = Callable[[Problem, Sequence[int], int], int | None]


def make_problem(
    table: CandidateTable, *, capacity: Sequence[int] | None, tie_break: Floats | None = None
) -> Problem:
    """Return the problem of *table*: good rows by score; of equal ones the lower *tie_break* first
    (None: ITL), then by name.
    """
    ties = table.itl if tie_break is None else tie_break
    good = np.flatnonzero(table.verdict == GOOD)
    score = np.round(table.score, SCORE_DIGITS)
    order = good[np.lexsort((table.accelerator[good], ties[good], score[good], table.server[good]))]
    counts = np.bincount(table.server[good], minlength=len(table.servers))
    stops = np.cumsum(counts).tolist()
    rows = order.tolist()
    return Problem(
        names=table.servers,
        priority=table.priority.tolist(),
        options=[
            rows[stop - count : stop] for stop, count in zip(stops, counts.tolist(), strict=True)
        ],
        type=table.type.tolist(),
        units=table.units.tolist(),
        replicas=table.replicas.tolist(),
        score=score.tolist(),
        capacity=None if capacity is None else list(capacity),
    )
