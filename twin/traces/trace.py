"""A trace as arrays, and what the resolution of its clock makes of its instants."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from twin.spec import SpecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Spread = Literal["random", "even", "none"]

# A clock is coarse if at least this part of the requests share their instant with another one,
# and its ticks are at least so long: a burst at one instant of a fine clock is a burst.
SHARED_PART_MIN, TICK_S_MIN = 0.02, 0.05
# More than a server sees: the unit of the times is probably another one.
RATE_RPM_MAX = 20_000.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Requests in order of arrival: instants from 0 [s], token counts >= 1, and each one's model
    ("" if not given).

    dropped is how many rows were left out because nothing was generated (failed requests). tick_s
    is the resolution of a coarse clock over whose ticks the requests were spread; None for a fine
    one. Where the trace tells the blocks of prompts, request i has blocks[starts[i]:starts[i+1]],
    of block_tokens tokens each.
    """

    name: str
    times_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    models: tuple[str, ...] = ()
    dropped: int = 0
    tick_s: float | None = None
    blocks: NDArray[np.int64] | None = None
    starts: NDArray[np.int64] | None = None
    block_tokens: int = 512
    notes: tuple[str, ...] = ()

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
        """Return the trace that begins with request *first* and, after the last, goes on with those
        before it.
        """
        order = np.roll(np.arange(len(self.times_s)), -first)
        times_s = (self.times_s[order] - self.times_s[first]) % self.span_s
        models = tuple(self.models[i] for i in order) if self.models else ()
        blocks, starts = self.blocks, self.starts
        if blocks is not None and starts is not None:
            parts = [blocks[starts[i] : starts[i + 1]] for i in order]
            blocks = np.concatenate(parts)
            starts = np.concatenate(([0], np.cumsum([len(part) for part in parts])))
        return replace(
            self,
            times_s=times_s,
            prompt_tokens=self.prompt_tokens[order],
            output_tokens=self.output_tokens[order],
            models=models,
            blocks=blocks,
            starts=starts,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """Rows as read: times [s] from any zero, tokens >= 0, models (none, or one a row), and block
    hashes (none, or one list a row).
    """

    times_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    models: NDArray[np.object_] | None = None
    hashes: list[list[int]] | None = None


def make_trace(source: str, rows: Columns, *, spread: Spread) -> Trace:
    """Return the trace of *rows*: those that generated something, in order of time, from 0.

    Requests of one tick of a coarse clock came one after the other: they are spread over it, at
    random from the content of the trace (so the same for everybody) or evenly. Raise SpecError if
    fewer than two requests at different instants remain.
    """
    served = np.flatnonzero(rows.output_tokens > 0)
    order = served[np.argsort(rows.times_s[served], kind="stable")]
    times_s = rows.times_s[order]
    if len(order) < 2 or times_s[0] == times_s[-1]:
        raise SpecError(
            f"{source}: expected at least two requests at different instants, found "
            f"{len(order)} request(s)"
        )
    times_s = times_s - times_s[0]
    prompts = np.maximum(rows.prompt_tokens[order], 1)
    notes = []
    tick_s = _tick_s(times_s)
    if tick_s is not None:
        if spread == "none":
            what = "its requests of one tick arrive at the same instant"
        else:
            seed = zlib.crc32(prompts.tobytes() + rows.output_tokens[order].tobytes())
            times_s = _spread(times_s, tick_s, spread, np.random.default_rng(seed))
            what = f"the requests of one tick are spread over it ({spread})"
        notes.append(f"trace {source}: its clock has a resolution of {tick_s:g} s: {what}")
    models: tuple[str, ...] = ()
    if rows.models is not None and any(rows.models[order]):
        models = tuple(str(model) for model in rows.models[order])
    blocks, starts = _ragged(rows.hashes, order)
    trace = Trace(
        name=source,
        times_s=times_s,
        prompt_tokens=prompts,
        output_tokens=rows.output_tokens[order],
        models=models,
        dropped=len(rows.times_s) - len(order),
        tick_s=tick_s,
        blocks=blocks,
        starts=starts,
    )
    if trace.rate_rpm > RATE_RPM_MAX:
        notes.append(
            f"trace {source}: {trace.rate_rpm:,.0f} requests a minute over {trace.span_s:.3g} s: "
            "are its times in another unit? (unit: s, ms or us)"
        )
    return Trace(**{name: getattr(trace, name) for name in Trace.__slots__} | {"notes": (*notes,)})


def _tick_s(times_s: NDArray[np.float64]) -> float | None:
    """Return the tick of the clock that took *times_s* (sorted, from 0), if it is coarse: all of
    them are multiples of it, and many are equal.
    """
    whole_ms = np.rint(times_s * 1000.0)
    if np.abs(times_s * 1000.0 - whole_ms).max() > 1e-3:
        return None
    tick_s = float(np.gcd.reduce(whole_ms.astype(np.int64))) / 1000.0
    shared = np.count_nonzero(np.diff(times_s) == 0.0) / len(times_s)
    return tick_s if tick_s >= TICK_S_MIN and shared >= SHARED_PART_MIN else None


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


def _ragged(
    hashes: list[list[int]] | None, order: NDArray[np.intp]
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
    if hashes is None or not any(hashes):
        return None, None
    kept = [hashes[i] for i in order]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in kept])]).astype(np.int64)
    return np.array([block for row in kept for block in row], dtype=np.int64), starts
