"""A trace as arrays, and what the resolution of its clock makes of its instants."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from twin.spec import SpecError
from twin.traces.doubts import FEW_REQUESTS, PART, doubts, went_back
from twin.traces.sessions import (
    BLOCK,
    answers_hashed,
    conversations,
    names_of,
    prompts_grow,
    turns_before,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tokens = NDArray[np.int64]

Spread = Literal["random", "even", "none"]

# A clock is coarse if at least this part of the requests share their instant with another one,
# and its ticks are at least so long: a burst at one instant of a fine clock is a burst.
SHARED_PART_MIN, TICK_S_MIN = 0.02, 0.05
# More than a server sees: the unit of the times is probably another one.
RATE_RPM_MAX = 20_000.0
# What traces have where nothing but the habit of a format tells their unit: a thousand times off is
# outside for whatever has more than one request a minute and less than a thousand.
USUAL_RPM = (1.0, 1_000.0)

# Nobody records for longer: one time is missing (0), or in another unit than the rest.
YEAR_S, YEARS_MAX = 365.25 * 86400.0, 20

# Tokens that blocks may have, and for how many prompts their number must be the one told.
BLOCK_SIZES = tuple(2**power for power in range(3, 13))
BLOCKS_AGREE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Requests in order of arrival: instants from 0 [s], token counts >= 1, and each one's model
    ("" if not given).

    dropped is how many rows were left out because nothing was generated (failed requests). tick_s
    is the resolution of a coarse clock over whose ticks the requests were spread; None for a fine
    one. Where the trace tells the blocks of prompts, request i has blocks[starts[i]:starts[i+1]],
    of block_tokens tokens each; where it tells conversations alone, it is of talks[i] (-1: of
    none), whose next turn begins with its answer if goes_on[i].
    """

    name: str
    times_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    models: tuple[str, ...] = ()
    dropped: int = 0
    tick_s: float | None = None
    blocks: NDArray[np.int64] | None = None
    starts: NDArray[np.int64] | None = None
    block_tokens: int = 512
    talks: NDArray[np.int64] | None = None
    goes_on: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()

    def blocks_of(
        self, places: NDArray[np.int64], *, sizes: tuple[Tokens, Tokens] | None = None
    ) -> list[Sequence[int]]:
        """Return the names of the blocks of the requests at *places*, which go on beyond the last
        one where the trace is repeated; of none if the trace tells none. *sizes* are the tokens of
        prompts and answers, if they are others than here.

        Who repeats a trace has the same hashes again, but other conversations.
        """
        passes, chosen = np.divmod(places, len(self.times_s))
        if self.blocks is not None and self.starts is not None:
            begins, ends = self.starts[chosen].tolist(), self.starts[chosen + 1].tolist()
            return [
                tuple(self.blocks[begin:end].tolist())
                for begin, end in zip(begins, ends, strict=True)
            ]
        if self.talks is not None and self.goes_on is not None:
            prompts, outputs = sizes or (self.prompt_tokens[chosen], self.output_tokens[chosen])
            talks = self.talks[chosen]
            columns = (talks + passes * len(self.times_s), prompts, outputs, self.goes_on[chosen])
            return [
                names_of(talk, prompt, output, goes_on=goes_on) if known else ()
                for known, talk, prompt, output, goes_on in zip(
                    (talks >= 0).tolist(), *(column.tolist() for column in columns), strict=True
                )
            ]
        return []

    @property
    def span_s(self) -> float:
        """Return the length of the trace when it is repeated: the last instant and one mean gap
        more.
        """
        return float(self.times_s[-1]) * len(self.times_s) / (len(self.times_s) - 1)

    @property
    def rate_rpm(self) -> float:
        """Return the mean rate [requests/min]."""
        return 60.0 * len(self.times_s) / self.span_s

    @property
    def in_tokens(self) -> float:
        """Return the mean prompt tokens of a request."""
        return float(self.prompt_tokens.mean())

    @property
    def out_tokens(self) -> float:
        """Return the mean output tokens of a request."""
        return float(self.output_tokens.mean())

    def from_request(self, first: int) -> Trace:
        """Return the trace that begins with request *first*, or the earliest one of the same
        instant, and, after the last, goes on with those before it: a round of it takes as long as
        one of this.
        """
        # Else those of its instant would come at the very end of the round.
        first = int(np.searchsorted(self.times_s, self.times_s[first]))
        order = np.roll(np.arange(len(self.times_s)), -first)
        times_s = self.times_s[order] - self.times_s[first]
        times_s[order < first] += self.span_s
        models = tuple(self.models[i] for i in order) if self.models else ()
        blocks, starts = self.blocks, self.starts
        talks = self.talks
        if talks is not None:
            # What comes after the last one is of the next time round.
            later = np.where((order < first) & (talks[order] >= 0), len(order), 0)
            talks = talks[order] + later
        if blocks is not None and starts is not None:
            blocks, counts = _gathered(blocks, np.diff(starts), order)
            starts = _starts(counts)
        return replace(
            self,
            times_s=times_s,
            prompt_tokens=self.prompt_tokens[order],
            output_tokens=self.output_tokens[order],
            models=models,
            blocks=blocks,
            starts=starts,
            talks=talks,
            goes_on=None if self.goes_on is None else self.goes_on[order],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """Rows as read: times [s] from any zero, tokens >= 0, models (none, or one a row), and the
    blocks of prompts (none, or so many a row as block_counts says). sessions number the
    conversation of each row (-1: none), parents the one that it goes on with, where each row has a
    number of its own. zoneless is how many of its dates tell no time zone, where others do.

    A trace of weeks has a hundred million rows: a row takes 16 bytes here.
    """

    times_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    models: NDArray[np.object_] | None = None
    blocks: NDArray[np.int64] | None = None
    block_counts: NDArray[np.int32] | None = None
    sessions: NDArray[np.int64] | None = None
    parents: NDArray[np.int64] | None = None
    zoneless: int = 0

    def chosen(self, order: NDArray[np.intp]) -> Columns:
        """Return the rows *order*."""
        blocks, counts = self.blocks, self.block_counts
        if blocks is not None and counts is not None:
            blocks, counts = _gathered(blocks, counts, order)
        return Columns(
            times_s=self.times_s[order],
            prompt_tokens=self.prompt_tokens[order],
            output_tokens=self.output_tokens[order],
            models=None if self.models is None else self.models[order],
            blocks=blocks,
            block_counts=counts,
            sessions=None if self.sessions is None else self.sessions[order],
            parents=None if self.parents is None else self.parents[order],
        )


def left_out_note(name: str, dropped: int, *, read: int) -> list[str]:
    """Return a line that of the rows *read* some were *dropped*, none if none were."""
    if not dropped:
        return []
    return [f"trace {name}: {dropped:,} of its {read:,} rows have no output (failed): left out"]


def make_trace(
    source: str,
    rows: Columns,
    *,
    spread: Spread,
    block_tokens: int = 512,
    guessed: str | None = None,
) -> Trace:
    """Return the trace of *rows*, those of the file *source* that generated something, in order of
    time, from 0. *rows* are used up. *guessed* is the unit that their times were in, where nothing
    but their format says so.

    Requests of one tick of a coarse clock came one after the other: they are spread over it, at
    random from the content of the trace (so the same for everybody) or evenly. Raise SpecError if
    fewer than two requests at different instants remain.
    """
    name = PurePath(source).name
    read = len(rows.times_s)
    is_served = rows.output_tokens > 0
    if not is_served.all():
        rows = rows.chosen(np.flatnonzero(is_served))
    notes = left_out_note(name, read - len(rows.times_s), read=read)
    if (rows.times_s[1:] < rows.times_s[:-1]).any():
        notes += went_back(name, rows.times_s)
        rows = rows.chosen(np.argsort(rows.times_s, kind="stable"))
    times_s, prompts, outputs = rows.times_s, rows.prompt_tokens, rows.output_tokens
    if len(times_s) < 2 or times_s[0] == times_s[-1]:
        raise SpecError(
            f"{source}: expected at least two requests at different instants, found "
            f"{len(times_s)} request(s)"
        )
    if times_s[-1] - times_s[0] > YEARS_MAX * YEAR_S:
        raise SpecError(
            f"{source}: expected times within {YEARS_MAX} years of each other, found "
            f"{times_s[0]:.6g} to {times_s[-1]:.6g} s: are all there, and in one unit?"
        )
    np.subtract(times_s, times_s[0], out=times_s)
    notes += doubts(name, times_s, prompts, outputs)
    np.maximum(prompts, 1, out=prompts)
    tick_s = _tick_s(times_s)
    if tick_s is not None:
        if spread == "none":
            what = "its requests of one tick arrive at the same instant"
        else:
            seed = _checksum(outputs, _checksum(prompts, 0))
            times_s = _spread(times_s, tick_s, spread, np.random.default_rng(seed))
            what = f"the requests of one tick are spread over it ({spread})"
        notes.append(f"trace {name}: its clock has a resolution of {tick_s:g} s: {what}")
    models: tuple[str, ...] = ()
    if rows.models is not None and any(rows.models):
        models = tuple(map(str, rows.models))
    trace = Trace(
        name=name,
        times_s=times_s,
        prompt_tokens=prompts,
        output_tokens=outputs,
        models=models,
        dropped=read - len(times_s),
        tick_s=tick_s,
    )
    notes += [told for told in [_unlikely(trace, guessed)] if told]
    before = None if rows.sessions is None else turns_before(rows.sessions, rows.parents)
    if before is not None and (before >= 0).any():
        # Hashes show by themselves who begins alike.
        known = rows.blocks is not None and len(rows.blocks) > 0
        grow = known or prompts_grow(before, rows.prompt_tokens)
        notes.append(_told_of(name, before, rows.prompt_tokens, grow=grow))
        before = before if grow else None
    blocks = _blocks(rows, before, usual=block_tokens)
    return replace(trace, notes=tuple(notes), **blocks)


def _unlikely(trace: Trace, guessed: str | None) -> str | None:
    """Return a note if the rate is one that makes another unit of its times likely."""
    few = len(trace.times_s) < FEW_REQUESTS
    lowest, highest = USUAL_RPM if guessed else (0.0, RATE_RPM_MAX)
    if trace.rate_rpm <= highest and (few or trace.rate_rpm >= lowest):
        return None
    rate = f"{trace.rate_rpm:,.0f}" if trace.rate_rpm > highest else f"{trace.rate_rpm:.2g}"
    span = trace.span_s
    length = f"{span:.3g} s" if span < 7200.0 else f"{span / 3600.0:,.0f} h"
    read = f", its times read as {guessed}" if guessed else ""
    return (
        f"trace {trace.name}: {rate} requests a minute over {length}{read}: are its times in "
        "another unit? (unit: s, ms, us or ns)"
    )


def _checksum(tokens: NDArray[np.int32], before: int) -> int:
    """Return the CRC of *tokens* as numbers of 64 bits, after what has the CRC *before*."""
    for first in range(0, len(tokens), PART):
        before = zlib.crc32(tokens[first : first + PART].astype(np.int64).tobytes(), before)
    return before


def _tick_s(times_s: NDArray[np.float64]) -> float | None:
    """Return the tick of the clock that took *times_s* (sorted, from 0), if it is coarse: all of
    them are multiples of it, and many are equal.
    """
    tick_ms, shared = 0, 0
    for first in range(0, len(times_s), PART):
        part_ms = times_s[first : first + PART + 1] * 1000.0
        whole_ms = np.rint(part_ms)
        if np.abs(part_ms - whole_ms).max() > 1e-3:
            return None
        tick_ms = int(np.gcd.reduce(whole_ms.astype(np.int64), initial=tick_ms))
        shared += int(np.count_nonzero(np.diff(part_ms) == 0.0))
    tick_s = tick_ms / 1000.0
    return tick_s if tick_s >= TICK_S_MIN and shared / len(times_s) >= SHARED_PART_MIN else None


def _spread(
    times_s: NDArray[np.float64], tick_s: float, spread: Spread, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the instants with those of each tick within it, still in order, from 0."""
    if spread == "random":
        moved = np.sort(times_s + tick_s * rng.random(len(times_s)))
    else:
        _, first, count = np.unique(times_s, return_index=True, return_counts=True)
        place = np.arange(len(times_s)) - np.repeat(first, count)
        moved = times_s + tick_s * (place + 0.5) / np.repeat(count, count)
    out: NDArray[np.float64] = moved - moved[0]
    return out


# -- the blocks of prompts


def _blocks(rows: Columns, before: NDArray[np.intp] | None, *, usual: int) -> dict[str, Any]:
    """Return what a trace says of the blocks of *rows*, those of answers included that a
    conversation goes on with; *usual* are the tokens of one that is hashed.
    """
    prompts, outputs = rows.prompt_tokens, rows.output_tokens
    blocks, counts = rows.blocks, rows.block_counts
    if blocks is not None and counts is not None and len(blocks):
        tokens = _block_tokens(prompts, counts, usual=usual)
        if before is not None:
            source, longer = answers_hashed(
                before, prompts, outputs, blocks, counts, block_tokens=tokens
            )
            blocks, counts = _taken(blocks, _starts(counts)[source], longer), longer
        return {"blocks": blocks, "starts": _starts(counts), "block_tokens": tokens}
    if before is None or rows.sessions is None or not (before >= 0).any():
        return {}
    talks, goes_on = conversations(before, prompts, outputs)
    talks[rows.sessions < 0] = -1  # who is in no conversation names nothing
    return {"talks": talks, "goes_on": goes_on, "block_tokens": BLOCK}


def _told_of(name: str, before: NDArray[np.intp], prompts: NDArray[np.int32], *, grow: bool) -> str:
    """Return a note of how many prompts are taken to go on from one before."""
    later = np.flatnonzero(before >= 0)
    told = f"trace {name}: of {len(later):,} prompts that follow another one of their conversation"
    if not grow:
        longer = int((prompts[later] > prompts[before[later]]).sum())
        return f"{told} only {longer:,} are longer, as by chance: they are taken to share nothing"
    grown = int((prompts[later] >= prompts[before[later]]).sum())
    told = f"{told} {grown:,} are as long or longer, and begin with it"
    return told if grown == len(later) else f"{told}; the others share nothing"


def _starts(counts: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return where the blocks of each row begin, and where those of the last end."""
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def _gathered(
    blocks: NDArray[np.int64], counts: NDArray[np.int32], order: NDArray[np.intp]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return blocks and counts of the rows *order*."""
    chosen = counts[order]
    return _taken(blocks, _starts(counts)[order], chosen), chosen


def _taken(
    blocks: NDArray[np.int64], begins: NDArray[np.int64], counts: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Return of *blocks* so many from each of *begins* on as *counts* says."""
    places = np.arange(int(counts.sum()))
    # From where the blocks of a row will stand to where they stand.
    places += np.repeat(begins - _starts(counts)[:-1], counts)
    return blocks[places]


def _block_tokens(prompts: NDArray[np.int32], counts: NDArray[np.int32], *, usual: int) -> int:
    """Return the tokens of a block: *usual*, unless so many blocks as the prompts have are of
    another power of two.
    """
    some = counts > 0
    prompts, counts = prompts[some], counts[some]

    def agrees(tokens: int) -> bool:
        return float(np.mean(-(-prompts // tokens) == counts)) >= BLOCKS_AGREE

    others = (size for size in BLOCK_SIZES if agrees(size))
    return usual if agrees(usual) else next(others, usual)
