"""A replica at a rate: how many it serves at once, who waits, and what prefills cost.

1. Served in turns, the number in the batch does not depend on how answers are distributed: it is a
   birth-death chain. Prefills take a share of the time from all decodes, and arrivals that a long
   prefill holds up come together, which stretches the variance.
2. The wait for a place in the batch decays as in a queue with general service times.
3. Arrivals in bursts: as if a geometric number came together, as far as what is looked at lasts
   long enough to have them all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loop.optimizer.model import Bools, Floats, Ints
from loop.optimizer.model.tail import CHUNK, PROMPT_WEIGHTS, Singles, Tail, as_column, mean_over
from twin.frozen import made_quickly

NEXT_TO_NOTHING = -1e30  # ln of a weight
SPLIT_CELLS = 20_000  # states for which a few more calls of numpy pay
UNEVEN = 0.5  # variance of what a replica of a pool has, about its share
# How many come to a replica of a pool while a request lives varies less than in a Poisson process:
# who has fewest gets the next. So much is left of the variance where very many share what comes,
# measured on pools of 2 to 8 with 10 to 150 requests each (within 0.02; it does not depend on
# these). While an iteration lasts it is nearly all.
LIFE_UNEVEN = 0.37
# Of the arrivals that a burst brings soon after one of them, so many come within u mean gaps:
# 1 - exp(-(PACE · d^PACE_FALLS) · u^(BEND · d^BEND_FALLS)), d the dispersion; within 0.03 for
# gamma-distributed gaps of cv 1.2 to 5, from a hundredth of a gap to thirty. Counts over u gaps
# have as much of their dispersion as those of a third of u.
PACE, PACE_FALLS, BEND, BEND_FALLS, COUNTED = 2.2, -0.31, 0.62, -0.25, 1.0 / 3.0
# To the replica that was just given a request the next one comes later: so many fewer, of a replica
# of very many, come while it stays, and behind it and before it while an iteration lasts; and so
# many fewer than the mean it meets. Measured on pools of 2 to 16, within a tenth.
BEHIND_FEWER, SOON_FEWER, MET_FEWER = 0.46, 0.315, 1.0
FEW_MET, FADES = 2.5, 0.125  # where more than so few are in a batch, one more decides less
BUSY_MAX = 0.999  # prefills may take this share of the time, and a full batch be so busy


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A replica at a rate.

    batch and variance: of the requests in the batch; empty: probability of none. waits:
    probability that an arrival waits for a place, wait_rate the decay of that wait [1/ms]; blocked:
    that it finds the queue full. overload: no steady state. busy: share of the time that prefills
    take. prefill: time that a prompt adds to its iteration, by node; prefill_1 and so on the means
    of its powers; decode: time of an iteration without prefills. steep: how much more than the mean
    one more prompt in an iteration adds (roofline). backlog: mean wait behind the token budget.
    Of arrivals that are no Poisson process in a replica, as they come in bursts or as a router
    chooses where they go: follow: how many more than usual come behind a request while an iteration
    lasts, and before it; met: how many more than the mean it meets; behind: how many more come
    while it stays; dispersion: of all arrivals over a stay.
    """

    rate: Floats
    batch: Floats
    variance: Floats
    empty: Floats
    waits: Floats
    wait_rate: Floats
    blocked: Floats
    overload: Bools
    busy: Floats
    prefill: Floats
    prefill_1: Floats
    prefill_2: Floats
    prefill_3: Floats
    decode: Floats
    steep: Floats
    backlog: Floats
    follow: Floats
    met: Floats
    behind: Floats
    dispersion: Floats


@np.errstate(under="ignore")
def full_batch_rate(tail: Tail) -> Floats:
    """Return the rate that a full batch serves [requests/ms]."""
    batch = tail.columns.max_batch.astype(np.float64)
    prompts, _ = _at_full_batch(tail)
    rate: Floats = 1.0 / (
        mean_over(prompts, PROMPT_WEIGHTS) + (tail.decodes + 1.0) * tail.full_time / batch
    )
    return rate


def _prefill(tail: Tail, batch: Floats, sharing: Floats) -> Floats:
    """Return the time that a prompt adds, by node, if so many share an iteration of *batch*
    decodes.
    """
    read = batch * tail.context
    tokens = as_column(sharing) * tail.prompts
    longer = tail.wide.duration(
        as_column(batch) + tokens * as_column(tail.computed),
        as_column(read) + tokens,
        as_column(batch + sharing),
    )
    return (longer - as_column(tail.latencies.duration(batch, read, batch))) / as_column(sharing)


def _room(tail: Tail, batch: Floats) -> Floats:
    """Return how many prompts the token budget of an iteration holds beside *batch* decodes."""
    columns = tail.columns
    room: Floats = np.maximum(columns.token_budget - batch, 1.0) / np.maximum(
        columns.computed, 1e-9
    )
    return room


def _at_full_batch(tail: Tail) -> tuple[Floats, Floats]:
    batch = tail.columns.max_batch.astype(np.float64)
    sharing = 1.0 + batch / (tail.decodes + 1.0)
    sharing = np.maximum(np.minimum(sharing, _room(tail, batch)), 1.0)
    return _prefill(tail, batch, sharing), sharing


def _stretch(tail: Tail, rate: Floats) -> tuple[Floats, Floats]:
    """Return by grid of batches the share of time that prefills take, and ln of how much longer
    than by decodes alone a request stays.
    """
    columns, grid = tail.columns, np.broadcast_to(tail.grid, (len(tail), len(tail.grid)))
    each, prompt, share = as_column(rate), as_column(columns.in_tokens), as_column(tail.computed)
    read = grid * as_column(tail.context)
    decode = tail.wide.duration(grid, read, grid)
    room = np.maximum((as_column(columns.token_budget) - grid) / np.maximum(prompt, 1.0), 1.0)
    prefill = tail.wide.duration(grid + prompt * share, read + prompt, grid + 1.0) - decode
    busy = np.minimum(each * prefill, BUSY_MAX)
    for _ in range(2 if columns.curved else 0):
        sharing = np.minimum(1.0 + np.minimum(each * decode / (1.0 - busy), grid + 1.0), room)
        more = tail.wide.duration(
            grid + sharing * prompt * share, read + sharing * prompt, grid + sharing
        )
        # Of a sum the share does not matter.
        prefill = np.where(tail.wide.p == 1.0, prefill, (more - decode) / sharing)
        busy = np.minimum(each * prefill, BUSY_MAX)
    iteration = decode / (1.0 - busy)
    seen = iteration + each * prefill**2 * (1.0 + as_column(columns.token_cv) ** 2) / (
        1.0 - busy**2
    )
    # Who comes during the own prefill is prefilled in the iterations after it.
    extra = busy * np.maximum(decode + prefill + busy * seen - iteration, 0.0) / (1.0 - busy)
    iterations = as_column(tail.decodes + 1.0)
    extra = extra * (1.0 - busy**iterations) / (iterations * iteration)
    return busy, np.where(iterations > 1.0, np.log1p(extra), 0.0) - np.log1p(-busy)


def _interpolated(tail: Tail, values: Floats, batch: Floats) -> Floats:
    """Return *values* by grid at *batch*."""
    grid, rows = tail.grid, np.arange(len(batch))
    if len(grid) == 1:
        return values[:, 0]
    right = np.clip(np.searchsorted(grid, batch), 1, len(grid) - 1)
    way = (batch - grid[right - 1]) / (grid[right] - grid[right - 1])
    found: Floats = values[rows, right - 1] * (1.0 - way) + values[rows, right] * way
    return found


@np.errstate(under="ignore")
def steady_state(tail: Tail, rate: Floats) -> State:
    """Return what is the case when requests arrive at *rate* > 0."""
    columns = tail.columns
    pool = columns.pool
    most = columns.max_batch.astype(np.float64)
    grid_busy, stretch = _stretch(tail, rate)
    chain = Chain(tail, rate, stretch)
    wait_rate, work, overload = _wait_rate(tail, rate)
    fade = np.exp(-wait_rate * work)
    queue = np.where(np.isinf(columns.max_queue), 1e9, columns.max_queue * pool)
    no_more = fade**queue
    none, one, two, first_state, last = chain.moments()
    last = last / pool
    behind = last * fade * (1.0 - no_more) / (1.0 - fade)
    total = none + behind
    empty = first_state / total
    batch = (one + most * behind) / total
    spread = np.maximum((two + most**2 * behind) / total - batch**2, 0.0)
    spread += UNEVEN * (1.0 - 1.0 / pool)
    decode = tail.latencies.duration(batch, batch * tail.context, batch)
    sharing = 1.0 + rate * decode / (1.0 - _interpolated(tail, grid_busy, batch))
    sharing = np.minimum(sharing, np.maximum(_room(tail, batch), 1.0))
    prefill = _prefill(tail, batch, sharing)
    first, second, third = (mean_over(prefill**k, PROMPT_WEIGHTS) for k in (1, 2, 3))
    overload |= rate * first >= BUSY_MAX
    busy = np.minimum(rate * first, BUSY_MAX)
    # Arrivals fall into long iterations.
    lasts = rate * (decode / (1.0 - busy) + rate * second / (1.0 - busy**2))
    dispersion = 1.0 + (columns.dispersion - 1.0) * _of_burst(
        COUNTED * pool * batch, columns.dispersion
    )
    # Arrivals that a prefill holds up are let in together.
    bunched = (dispersion + busy**2 * (second / first**2 - 1.0)) / (1.0 - busy) ** 2
    wider = 1.0 + tail.together * (bunched - 1.0)
    weight, last = chain.widened(wider)
    last = last / pool
    waiting = last * (1.0 - no_more) / (1.0 - fade)
    total = weight - last + waiting + last * no_more
    backlog, overflow = _backlog(tail, rate, batch, decode)
    extra, share = 0.5 * (columns.dispersion - 1.0), 1.0 - 1.0 / pool
    more = np.exp(np.minimum(extra * wait_rate * work, 50.0))
    waits = np.minimum(waiting / total * more, 1.0)
    own_burst = extra / pool * _of_burst(pool * batch, columns.dispersion)
    return State(
        rate=rate,
        batch=batch,
        variance=spread * wider,
        empty=empty,
        waits=waits,
        wait_rate=wait_rate * pool,
        blocked=last * no_more / total,
        overload=overload | overflow,
        busy=busy,
        prefill=prefill,
        prefill_1=first,
        prefill_2=second,
        prefill_3=third,
        decode=decode,
        steep=_steepness(tail, batch, decode, sharing),
        backlog=backlog,
        # Half of an iteration is behind a request, and half before it.
        follow=_in_replica(extra * _of_burst(pool * lasts, columns.dispersion), pool)
        - _fewer(
            0.5 * lasts,
            SOON_FEWER * share * np.minimum(FEW_MET / np.maximum(batch, 1e-9), 1.0) ** FADES,
        ),
        met=own_burst + MET_FEWER * share * np.expm1(-batch / MET_FEWER),
        behind=own_burst - _fewer(batch, BEHIND_FEWER * share),
        dispersion=dispersion,
    )


def _of_burst(gaps: Floats, dispersion: Floats) -> Floats:
    """Return which share of what a burst brings comes within so many mean *gaps*."""
    pace, bend = PACE * dispersion**PACE_FALLS, BEND * dispersion**BEND_FALLS
    share: Floats = -np.expm1(-pace * gaps**bend)
    return share


def _fewer(gaps: Floats, most: Floats) -> Floats:
    """Return how many fewer than usual, *most* in the end, come within so many mean *gaps* to a
    replica of a pool that was just given a request, and so has more than others.
    """
    fewer: Floats = -most * np.expm1(-gaps / np.maximum(most, 1e-9))
    return fewer


def _in_replica(follow: Floats, pool: Floats) -> Floats:
    """Return how many of those that *follow* on the mean come to the same replica of a pool: every
    pool-th of a geometric number.
    """
    kept = (follow / (1.0 + follow)) ** pool
    return kept / (1.0 - kept)


class Chain:
    """ln(weight) of the states of the batch at a rate, row by row; rows of few states in a row are
    worked on without the states that they do not have.
    """

    def __init__(self, tail: Tail, rate: Floats, stretch: Floats) -> None:
        self._tail = tail
        self._parts = _by_width(tail.columns.max_batch, tail.log_weights.shape[1])
        rates, each = np.log(rate).astype(np.float32), stretch.astype(np.float32)
        self._logs = [
            self._weighed(part, rates[part.rows], each[part.rows]) for part in self._parts
        ]

    def _weighed(self, part: _Part, rate: Singles, stretch: Singles) -> Singles:
        tail, width = self._tail, part.width
        logs: Singles = rate[:, None] * tail.states[:width]
        logs += tail.log_weights[part.rows, :width]
        for each, basis in zip(stretch.T, tail.basis.T, strict=True):
            # Below its first point of the grid a figure adds nothing.
            start = int(np.argmax(basis != 0.0)) if basis.any() else width
            logs[:, start:] += each[:, None] * basis[start:width]
        logs -= logs.max(axis=1)[:, None]
        _pool(logs, tail.columns.pool[part.rows])
        return logs

    def moments(self) -> Floats:
        """Return the sums over the states of weight, state · weight and state² · weight, and the
        weights of the first and of the last state, a line each.
        """
        found = np.empty((5, len(self._tail)))
        for part, logs in zip(self._parts, self._logs, strict=True):
            weights, states = np.exp(logs), self._tail.states[: part.width]
            by_state = weights * states
            found[0, part.rows] = _in_chunks(weights)
            found[1, part.rows] = _in_chunks(by_state)
            found[2, part.rows] = _in_chunks(by_state * states)
            found[3, part.rows] = weights[:, 0]
            found[4, part.rows] = self._last(part, weights)
        return found

    def widened(self, wider: Floats) -> tuple[Floats, Floats]:
        """Return the sum of the weights, and that of the last state, if the variance is *wider* so
        many times. The chain is not to be asked for anything after that.
        """
        found = np.empty((2, len(self._tail)))
        for part, logs in zip(self._parts, self._logs, strict=True):
            np.divide(logs, as_column(wider[part.rows].astype(np.float32)), out=logs)
            weights = np.exp(logs, out=logs)
            found[0, part.rows] = _in_chunks(weights)
            found[1, part.rows] = self._last(part, weights)
        return found[0], found[1]

    def _last(self, part: _Part, weights: Singles) -> Singles:
        last: Singles = weights[np.arange(len(weights)), self._tail.columns.max_batch[part.rows]]
        return last


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows beside each other, of fewer states than *width*."""

    rows: slice
    width: int


def _by_width(max_batch: Ints, width: int) -> list[_Part]:
    """Return the rows in parts of similar width where that spares many states; all of them have
    *width* at most.
    """
    parts, start, count = [], 0, len(max_batch)
    if count * width < SPLIT_CELLS:
        return [_Part(slice(0, count), width)]
    for narrow in (width // 8, width // 3):
        own = (narrow // CHUNK + 1) * CHUNK
        beyond = max_batch[start:] >= own
        stop = start + (int(np.argmax(beyond)) if beyond.any() else count - start)
        if (stop - start) * (width - own) >= SPLIT_CELLS:
            parts.append(_Part(slice(start, stop), own))
            start = stop
    return [*parts, _Part(slice(start, count), width)] if start < count else parts


def _pool(logs: Singles, pool: Floats) -> None:
    """Turn the chains of replicas into those of pools, at every pool-th of their states.

    A pool of n with n · N requests is in balance as a replica with N is, so its weights are the
    n-th powers; but the sum of ln(arrivals / ends) over its finer steps has a smaller last half
    step (Euler-Maclaurin).
    """
    many = np.flatnonzero(pool > 1.0)
    if not len(many):
        return
    each, some = pool[many, None].astype(np.float32), logs[many]
    # States behind the last one weigh nothing: their ln is -inf.
    steps = np.diff(np.maximum(some, np.float32(NEXT_TO_NOTHING)), axis=1)
    some[:, 1:] -= (each - 1.0) / (2.0 * each) * steps
    some *= each
    some -= some.max(axis=1)[:, None]
    logs[many] = some


def _in_chunks(values: Singles) -> Floats:
    """Return the sum over the states, chunk by chunk: states of no weight behind the last chunk of
    a row change no bit of it.
    """
    parts = values.reshape(len(values), -1, CHUNK).sum(axis=2)
    found: Floats = np.add.accumulate(parts, axis=1)[:, -1].astype(np.float64)
    return found


def _wait_rate(tail: Tail, rate: Floats) -> tuple[Floats, Floats, Bools]:
    """Return how the wait for a place decays, the mean work of a request for a full batch, and
    where it is more than that serves.

    Mean waits in queues with many servers and general service times: between those of exponential
    and of fixed ones (Cosmetatos), by the variation of the work.
    """
    most = tail.columns.max_batch.astype(np.float64)
    prefill, _ = _at_full_batch(tail)
    first, second = (mean_over(prefill**k, PROMPT_WEIGHTS) for k in (1, 2))
    step = tail.full_time / most
    iterations = tail.decodes + 1.0
    work = first + iterations * step
    # E[(decodes + 1)²]: there is one iteration more than decodes.
    square = second + 2.0 * first * iterations * step
    square += step**2 * (tail.decodes_2 + 2.0 * tail.decodes + 1.0)
    used = rate * work
    overload = used >= 1.0 - 0.5 * (1.0 - BUSY_MAX)
    left = np.maximum(1.0 - used, 0.5 * (1.0 - BUSY_MAX))
    varied = square / work**2 - 1.0
    many = (most - 1.0) * (np.sqrt(4.0 + 5.0 * most) - 2.0)
    fixed = np.minimum(left * many / (16.0 * most * np.maximum(used, 1e-9)), 1.0)
    share = (1.0 + varied) / 2.0 + np.maximum((1.0 - varied) / 2.0, 0.0) * fixed
    share = share + (tail.columns.dispersion - 1.0) / 2.0
    return left / work / share, work, overload


def _backlog(tail: Tail, rate: Floats, batch: Floats, decode: Floats) -> tuple[Floats, Bools]:
    """Return the mean wait behind prompts beyond the token budget, and where they never end."""
    room = np.maximum(_room(tail, batch), 1e-3)
    each = decode / room + mean_over(_prefill(tail, batch, room), PROMPT_WEIGHTS)
    used = rate * each
    wait = (
        0.5
        * np.minimum(used, 1.0) ** 2
        * rate
        * each**2
        * (tail.columns.dispersion + tail.columns.token_cv**2)
        / 2.0
    )
    return wait / np.maximum(1.0 - used, 1.0 - BUSY_MAX), used >= BUSY_MAX


def _steepness(tail: Tail, batch: Floats, decode: Floats, sharing: Floats) -> Floats:
    columns = tail.columns
    if not columns.curved:
        return np.ones_like(batch)
    read, prompt = batch * tail.context, columns.in_tokens

    def with_prompts(prompts: Floats) -> Floats:
        return tail.latencies.duration(
            batch + prompts * prompt * tail.computed, read + prompts * prompt, batch + prompts
        )

    whole = with_prompts(sharing)
    mean = np.maximum((whole - decode) / sharing, 1e-9)
    steep = np.clip((whole - with_prompts(np.maximum(sharing - 1.0, 0.0))) / mean, 1.0, 3.0)
    return np.where(columns.p == 1.0, 1.0, steep)
