"""Which prompts of a trace go on from an earlier one: the turns of a conversation, each of whose
prompts begins with the prompt and the answer of the one before.

Names of blocks say so (twin.engine.prefix_cache). Where a trace hashes the blocks of prompts, those
of a turn name the answer before it; where it tells conversations alone, names are made for them
(`names_of`): numbers that follow each other, from the first block of a conversation on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.intp]
    Counts = NDArray[np.int32]

BLOCK = 16  # tokens, as engines cache them
BLOCKS_MAX = 2**32  # names for each conversation, more than any has
# Of so many prompts that follow another of their conversation more than this share are longer, or
# they are none: a half is by chance, where the column names users or runs.
FOLLOWING_MIN, GROWING_MIN = 100, 0.6
# A trace may call its conversations any of these, however it writes them; of several the first.
NAMES = ("conversationid", "conversation", "sessionid", "session")
# What stands where a row is in none.
NONE = frozenset({"", "-1", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none"})


class Numbers:
    """Numbers for the names of conversations, in the order in which they come."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def of(self, name: object) -> int:
        """Return the number of *name*, -1 if it means none."""
        text = str(name).strip()
        return -1 if text.lower() in NONE else self._known.setdefault(text, len(self._known))

    def of_all(self, names: Iterable[object]) -> NDArray[np.int64]:
        """Return the number of each of *names*."""
        return np.fromiter(map(self.of, names), dtype=np.int64)


def turns_before(sessions: NDArray[np.int64], parents: NDArray[np.int64] | None) -> Rows:
    """Return for each row, in order of time, the row whose conversation it goes on with, -1 if
    there is none.

    Rows of one of *sessions* (numbers >= 0; below there is none) follow each other. With *parents*
    each row is a session of its own, and its parent the one that it goes on with.
    """
    before = np.full(len(sessions), -1, dtype=np.intp)
    order = np.argsort(sessions, kind="stable")
    ranked = sessions[order]
    if parents is None:
        same = (ranked[1:] == ranked[:-1]) & (ranked[1:] >= 0)
        before[order[1:][same]] = order[:-1][same]
        return before
    # Of several rows of one name the first.
    places = np.minimum(np.searchsorted(ranked, parents), len(ranked) - 1)
    found = (ranked[places] == parents) & (parents >= 0)
    earlier = order[places] < np.arange(len(sessions))
    before[found & earlier] = order[places][found & earlier]
    return before


def prompts_grow(before: Rows, prompts: Counts) -> bool:
    """Tell whether prompts grow from one turn to the next as those of conversations do."""
    later = np.flatnonzero(before >= 0)
    longer = float((prompts[later] > prompts[before[later]]).mean())
    return len(later) < FOLLOWING_MIN or longer > GROWING_MIN


def conversations(
    before: Rows, prompts: Counts, outputs: Counts
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the conversation of each row, told by the row that begins it, and whether its answer
    is in the next turn. Of several rows that go on with one the first does.

    A prompt shorter than the one before begins anew. One that is not as long as prompt and answer
    before leaves the answer out, as thoughts are: only the prompt is its beginning.
    """
    begins: Rows = np.arange(len(before))
    wide = prompts.astype(np.int64)
    later = np.flatnonzero(before >= 0)
    later = later[wide[later] >= wide[before[later]]]
    later = later[np.unique(before[later], return_index=True)[1]]
    begins[later] = before[later]
    # Up to where each conversation began, twice as far each time.
    while (begins[begins] != begins).any():
        begins = begins[begins]
    goes_on = np.zeros(len(before), dtype=np.bool_)
    goes_on[before[later[wide[later] >= (wide + outputs)[before[later]]]]] = True
    return begins.astype(np.int64), goes_on


def names_of(conversation: int, prompt: int, output: int, *, goes_on: bool) -> range:
    """Return the names of the blocks of a turn of *conversation* that the next one *goes_on* with,
    or does not: those of the prompt, or those that the answer fills too, and one more, as requests
    tell it.
    """
    whole = (prompt + output) // BLOCK
    number = whole + 1 if goes_on and whole > prompt // BLOCK else prompt // BLOCK
    first = conversation * BLOCKS_MAX
    return range(first, first + number)


def answers_hashed(
    before: Rows,
    prompts: Counts,
    outputs: Counts,
    blocks: NDArray[np.int64],
    counts: Counts,
    *,
    block_tokens: int,
) -> tuple[Rows, Counts]:
    """Return the row whose blocks begin as those of each row and its answer do, and how many of
    them: the first that goes on with it, else itself.
    """
    source: Rows = np.arange(len(before))
    number = counts.copy()
    starts = np.cumsum(counts, dtype=np.int64) - counts
    later = np.flatnonzero(before >= 0)[::-1]
    first = before[later]
    whole = prompts[first] // block_tokens
    ends = prompts[first].astype(np.int64) + outputs[first]
    filled = ends // block_tokens + 1
    fits = (prompts[later] >= ends) & (filled > whole + 1) & (counts[later] >= filled)
    fits &= np.minimum(counts[first], counts[later]) >= whole
    later, first = later[fits], first[fits]
    whole, filled = whole[fits], filled[fits]
    # A name stands for all before it: if the last whole block is the same, the prompt is.
    last = np.maximum(whole - 1, 0)
    alike = (whole == 0) | (blocks[starts[later] + last] == blocks[starts[first] + last])
    # In reverse: of several the first stays.
    source[first[alike]] = later[alike]
    number[first[alike]] = filled[alike]
    return source, number
