"""The load of one server: its offered load per interval, and the requests that arrive under it.
Knows no SimPy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from emulator.shapes import Curve, Segment, constant
from emulator.trace import Replay, held, scaled_tokens
from emulator.walk import NEGLIGIBLE, OfferedLoad, Walk, check_interval, step
from twin.arrivals import ArrivalStream, CountedStream, ReplayStream, token_counts
from twin.frozen import made_quickly
from twin.request import RequestBatch
from twin.traces.trace import Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tokens = NDArray[np.int64]

    from twin.spec import Named, TokenDistribution

Stream = ArrivalStream | CountedStream | ReplayStream

_WALK, ARRIVALS, TOKENS = range(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLoad:
    """All that fixes the load of one server; the same values give the same requests, on whatever
    serves them.

    *nominal* is the undisturbed load, of which *curve* moves the rate, in_curve and out_curve the
    tokens. *index* is the server's place in the system: it and *seed* choose the generators. With
    *replay*, arrivals and sizes come from a trace. If *counted*, each stretch of the curve has as
    many requests as it says, at random instants: a load that was counted has its chance in it
    already. With *users*, requests come from so many clients instead, who wait for each answer and
    then think for think_s on the mean; of the nominal load only the tokens count. Each of them has
    conversations of so many *turns*, whose prompts begin with all that was said before.
    """

    server: str
    index: int
    seed: int
    nominal: OfferedLoad
    curve: Curve = field(default_factory=constant)
    walk: Walk = field(default_factory=Walk)
    token_distribution: TokenDistribution = "lognormal"
    token_cv: float = 0.5
    arrivals: Named = "renewal"
    arrival_cv: float = 1.0
    replay: Replay | None = None
    users: int | None = None
    think_s: float = 0.0
    turns: int = 1
    in_curve: Curve = field(default_factory=constant)
    out_curve: Curve = field(default_factory=constant)
    counted: bool = False

    def generator(self, purpose: int) -> np.random.Generator:
        """Return the generator for one purpose, at its beginning: a stream of its own per server
        and purpose.
        """
        return np.random.default_rng(
            np.random.SeedSequence(entropy=self.seed, spawn_key=(self.index, purpose))
        )


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class LoadInterval:
    """The load over [t0_s, t1_s): the offered load held, and the rate [requests/s] piece by
    piece.
    """

    t0_s: float
    t1_s: float
    offered_load: OfferedLoad
    rates_rps: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch(RequestBatch):
    """The requests of one interval."""

    interval: LoadInterval


def intervals(
    load: ServerLoad, *, interval_s: float, until_s: float | None = None
) -> Iterator[LoadInterval]:
    """Yield the intervals of *load* from 0 on; without *until_s*, for ever. The last one is cut at
    *until_s*.

    The first interval is undisturbed: the emulator meets the load as it is, and moves it at the end
    of each interval. Within an interval the rate is the offered load's times nominal(t) /
    nominal(start), so that a burst shorter than an interval happens. If the nominal starts from
    nothing, there is no deviation to keep.
    """
    check_interval(interval_s)
    rng = load.generator(_WALK)
    nominal = _nominal(load, 0.0)
    current = nominal
    for number in count():
        t0_s, t1_s = number * interval_s, (number + 1) * interval_s
        if until_s is not None and t0_s >= until_s:
            return
        if number:
            before, nominal = nominal, _nominal(load, t0_s)
            current = step(load.walk, current, before, nominal, rng=rng)
        end_s = t1_s if until_s is None else min(t1_s, until_s)
        deviation = current.rate_rpm / nominal.rate_rpm if nominal.rate_rpm >= NEGLIGIBLE else 1.0
        scale = deviation * load.nominal.rate_rpm / 60.0
        rates = tuple(
            Segment(a, b, x * scale, y * scale) for a, b, x, y in load.curve.segments(t0_s, end_s)
        )
        yield LoadInterval(t0_s=t0_s, t1_s=end_s, offered_load=current, rates_rps=rates)


def batches(
    load: ServerLoad, *, interval_s: float, until_s: float | None = None
) -> Iterator[Batch]:
    """Yield the requests of *load*, interval by interval. The offered load of a trace is what the
    interval holds; that of users comes one by one, see emulator.to_sim.
    """
    if load.users is not None:
        nothing = np.empty(0, dtype=np.int64)
        for interval in intervals(load, interval_s=interval_s, until_s=until_s):
            yield Batch(
                interval=interval, times_s=np.empty(0), prompt_tokens=nothing, output_tokens=nothing
            )
        return
    rng_tokens = load.generator(TOKENS)
    rng_arrivals = load.generator(ARRIVALS)
    if load.replay is None:
        stream = (
            CountedStream(rng_arrivals)
            if load.counted
            else ArrivalStream(rng_arrivals, cv=load.arrival_cv, process=load.arrivals)
        )
        for interval in intervals(load, interval_s=interval_s, until_s=until_s):
            yield _drawn_batch(load, interval, stream, rng_tokens)
        return
    trace = load.replay.begun(rng_arrivals)
    # Of the trace from its first request on: the gap that another one begins after is no mean one.
    span_s = load.replay.trace.span_s
    replayed = ReplayStream(trace.times_s, span_s=span_s, repeat=load.replay.repeat)
    for interval in intervals(load, interval_s=interval_s, until_s=until_s):
        yield _replayed_batch(trace, interval, replayed, rng_tokens)


def _nominal(load: ServerLoad, t_s: float) -> OfferedLoad:
    nominal = load.nominal
    return OfferedLoad(
        rate_rpm=nominal.rate_rpm * load.curve.at(t_s),
        in_tokens=nominal.in_tokens * load.in_curve.at(t_s),
        out_tokens=nominal.out_tokens * load.out_curve.at(t_s),
    )


def _arrivals(stream: Stream, interval: LoadInterval) -> NDArray[np.float64]:
    parts = [
        stream.until(piece.t0_s, piece.t1_s, piece.start, piece.end) for piece in interval.rates_rps
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _drawn_batch(
    load: ServerLoad,
    interval: LoadInterval,
    stream: ArrivalStream | CountedStream,
    rng_tokens: np.random.Generator,
) -> Batch:
    times_s = _arrivals(stream, interval)
    in_tokens, out_tokens = (
        token_counts(
            rng_tokens,
            len(times_s),
            mean=mean,
            distribution=load.token_distribution,
            cv=load.token_cv,
        )
        for mean in (interval.offered_load.in_tokens, interval.offered_load.out_tokens)
    )
    return Batch(
        interval=interval, times_s=times_s, prompt_tokens=in_tokens, output_tokens=out_tokens
    )


def _replayed_batch(
    trace: Trace, interval: LoadInterval, stream: ReplayStream, rng_tokens: np.random.Generator
) -> Batch:
    plan, first = interval.offered_load, stream.drawn
    times_s = _arrivals(stream, interval)
    places = np.arange(first, first + len(times_s))
    chosen = places % len(trace.times_s)
    in_tokens = scaled_tokens(
        trace.prompt_tokens[chosen].astype(np.int64),
        plan.in_tokens / trace.in_tokens,
        rng=rng_tokens,
    )
    out_tokens = scaled_tokens(
        trace.output_tokens[chosen].astype(np.int64),
        plan.out_tokens / trace.out_tokens,
        rng=rng_tokens,
    )
    scale = plan.in_tokens / trace.in_tokens
    blocks, block_tokens = _blocks(trace, places, scale, (in_tokens, out_tokens))
    holds = held(times_s, interval.t1_s - interval.t0_s, (in_tokens, out_tokens), plan)
    interval = replace(interval, offered_load=holds)
    return Batch(
        interval=interval,
        times_s=times_s,
        prompt_tokens=in_tokens,
        output_tokens=out_tokens,
        blocks=blocks,
        block_tokens=block_tokens,
    )


def _blocks(
    trace: Trace, places: NDArray[np.int64], scale: float, sizes: tuple[Tokens, Tokens]
) -> tuple[list[Sequence[int]], int]:
    """Return the prompt blocks of the requests at *places*, whose prompts and answers have these
    *sizes*, and the tokens of a block.

    A prompt that is scaled has as many blocks of hashes, of another length. Conversations are cut
    into blocks as they are scaled; of an answer the next prompt has as much as prompts are scaled.
    """
    if trace.talks is None:
        return trace.blocks_of(places), max(round(trace.block_tokens * scale), 1)
    chosen = places % len(trace.times_s)
    prompts, outputs = sizes
    said = trace.prompt_tokens[chosen].astype(np.int64) + trace.output_tokens[chosen]
    answers = np.minimum(outputs, np.maximum(np.rint(said * scale).astype(np.int64) - prompts, 0))
    return trace.blocks_of(places, sizes=(prompts, answers)), trace.block_tokens
