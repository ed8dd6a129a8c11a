"""The steps of a replica over the arrays, one function for each of twin.engine.replica's.

There the reasons are told; what is said here is about the arrays. A constant is handed to a
function as np.int64: of plain ones the compiler would make one function for each.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any, TypeVar

import numba
import numpy as np

from twin.engine.compiled import columns as at
from twin.engine.compiled.columns import (
    ADMITTED,
    AHEAD,
    ALPHA_MS,
    ALPHA_S,
    ARRIVAL_S,
    ATTENTION,
    BETA_MS,
    BETA_S,
    BLOCK,
    BUDGET,
    C0_S,
    C1_S,
    CHUNK,
    CONTEXT,
    CONTEXT_SUM,
    DECODES,
    DRAINING,
    DURATION_S,
    E2E_AT,
    E2E_SUM_S,
    EXPERTS_IDLE,
    EXPERTS_MS,
    FINISHED_OUTPUT,
    FINISHES,
    FIRST_S,
    FIRST_TOKENS,
    FOLLOWER,
    FULL_PROMPT,
    GAMMA_MS,
    GAMMA_S,
    GENERATED,
    GENERATION_TOKENS,
    HEAP,
    ID,
    IS_PLAIN,
    ITERATION,
    ITL_AT,
    ITL_SUM_S,
    KV_BLOCKS,
    KV_TOKENS,
    LAST_S,
    LAUNCH_MS,
    LENGTH,
    LOG_ARRIVAL_S,
    LOG_END_S,
    LOG_ENGINE_S,
    LOG_FIRST_S,
    LOG_ID,
    LOG_OUTCOME,
    LOG_OUTPUT,
    LOG_PREEMPTIONS,
    LOG_PROMPT,
    LOG_REASON,
    LOG_SERVER,
    LOG_SLOT,
    MAX_BATCH,
    NEXT,
    NEXT_S,
    NEXT_TICKET,
    OFFSET,
    OUTPUT,
    OUTSTANDING,
    OVERHEAD_S,
    PARTIAL,
    PREEMPTIONS,
    PREFILL,
    PREFIX_BLOCK,
    PREFIX_HITS,
    PREFIX_QUERIES,
    PREFIX_SHARE,
    PREVIOUS,
    PROMPT,
    PROMPT_TOKENS,
    QUEUE_AT,
    QUEUE_MAX,
    REJECTIONS,
    REQUEST_PREEMPTIONS,
    RESIDUE_SUM,
    RUN_FIRST,
    RUN_LAST,
    RUNNING,
    SEEN_S,
    SEQUENCE_MS,
    SEQUENCE_S,
    SERVER,
    START_S,
    STEPS,
    SUBMITTED_S,
    SUCCESSES,
    TICKET,
    TTFT_AT,
    TTFT_SUM_S,
    UNBOUNDED,
    WAIT_FIRST,
    WAIT_LAST,
    WAITING,
    WEIGHTS_MS,
    Floats,
    Ints,
    P,
    State,
)
from twin.engine.latency import CHORD_MAX
from twin.engine.telemetry import ITL_BOUNDS_S, LATENCY_BOUNDS_S, TTFT_BOUNDS_S
from twin.request import REASONS, Outcome

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Have *function* compiled when compiled code first calls it.

    Neither fast maths nor another order of sums: the bits are to be those of Python.
    """
    # Without counts of references (nothing is allocated here): they cost half of the time.
    made: F = numba.njit(error_model="numpy", _nrt=False)(function)
    return made


def inlined(function: F) -> F:
    """Have *function* compiled as a part of what calls it: to hand on all arrays, some ninety
    values, takes as long as what it does.
    """
    made: F = numba.njit(error_model="numpy", _nrt=False, forceinline=True)(function)
    return made


_TTFT, _ITL, _LATENCY = map(np.array, (TTFT_BOUNDS_S, ITL_BOUNDS_S, LATENCY_BOUNDS_S))
_FINISHED: Any = np.int64(Outcome.FINISHED)
_REJECTED: Any = np.int64(Outcome.REJECTED)
_ZERO: Any = np.int64(0)
_ONE: Any = np.int64(1)
_QUEUE_FULL, _NEVER_FITS, _DRAINING = map(REASONS.index, ("queue_full", "never_fits", "draining"))
_INF = np.inf


# -- the heap of finishes: (iteration of the last token, ticket) as one number, and the slot


@compiled
def _push(s: State, r: int, key: int, slot: int) -> None:
    keys, slots = s.keys[s.ints[r, HEAP] :], s.slots[s.ints[r, HEAP] :]
    i = s.ints[r, FINISHES]
    s.ints[r, FINISHES] = i + 1
    while i > 0:
        above = (i - 1) >> 1
        if keys[above] <= key:
            break
        keys[i], slots[i] = keys[above], slots[above]
        i = above
    keys[i], slots[i] = key, slot


@compiled
def _sink(s: State, r: int, i: int, size: int) -> None:
    keys, slots = s.keys[s.ints[r, HEAP] :], s.slots[s.ints[r, HEAP] :]
    key, slot = keys[i], slots[i]
    while True:
        below = 2 * i + 1
        if below >= size:
            break
        if below + 1 < size and keys[below + 1] < keys[below]:
            below += 1
        if keys[below] >= key:
            break
        keys[i], slots[i] = keys[below], slots[below]
        i = below
    keys[i], slots[i] = key, slot


@compiled
def _pop(s: State, r: int) -> int:
    keys, slots = s.keys[s.ints[r, HEAP] :], s.slots[s.ints[r, HEAP] :]
    slot = slots[0]
    size = s.ints[r, FINISHES] - 1
    s.ints[r, FINISHES] = size
    if size > 0:
        keys[0], slots[0] = keys[size], slots[size]
        _sink(s, r, _ZERO, size)
    return slot


# -- the batch, in order of admission, and the queue: lists through the neighbours


@compiled
def _append_running(s: State, r: int, slot: int) -> None:
    last = s.ints[r, RUN_LAST]
    s.requests[slot, PREVIOUS] = last
    s.requests[slot, NEXT] = -1
    if last < 0:
        s.ints[r, RUN_FIRST] = slot
    else:
        s.requests[last, NEXT] = slot
    s.ints[r, RUN_LAST] = slot
    s.ints[r, RUNNING] += 1


@compiled
def _remove_running(s: State, r: int, slot: int) -> None:
    before, after = s.requests[slot, PREVIOUS], s.requests[slot, NEXT]
    if before < 0:
        s.ints[r, RUN_FIRST] = after
    else:
        s.requests[before, NEXT] = after
    if after < 0:
        s.ints[r, RUN_LAST] = before
    else:
        s.requests[after, PREVIOUS] = before
    s.ints[r, RUNNING] -= 1


@compiled
def _append_waiting(s: State, r: int, slot: int) -> None:
    s.requests[slot, NEXT] = -1
    if s.ints[r, WAITING] == 0:
        s.ints[r, WAIT_FIRST] = slot
    else:
        s.requests[s.ints[r, WAIT_LAST], NEXT] = slot
    s.ints[r, WAIT_LAST] = slot
    s.ints[r, WAITING] += 1


@compiled
def _put_first_waiting(s: State, r: int, slot: int) -> None:
    if s.ints[r, WAITING] == 0:
        s.requests[slot, NEXT] = -1
        s.ints[r, WAIT_LAST] = slot
    else:
        s.requests[slot, NEXT] = s.ints[r, WAIT_FIRST]
    s.ints[r, WAIT_FIRST] = slot
    s.ints[r, WAITING] += 1


@compiled
def _pop_waiting(s: State, r: int) -> None:
    s.ints[r, WAIT_FIRST] = s.requests[s.ints[r, WAIT_FIRST], NEXT]
    s.ints[r, WAITING] -= 1


# -- the KV cache: twin.engine.kv_cache.BlockTable


@compiled
def _used(s: State, r: int, g: int, n: int, context_sum: int) -> int:
    size = s.ints[r, BLOCK]
    x = g % size
    found = (context_sum + s.ints[r, RESIDUE_SUM] - x * n) // size
    for i in range(x):
        found += s.counts[r, i]
    return found


@compiled
def _join(s: State, r: int, offset: int) -> None:
    residue = -offset % s.ints[r, BLOCK]
    s.counts[r, residue] += 1
    s.ints[r, RESIDUE_SUM] += residue


@compiled
def _leave(s: State, r: int, offset: int) -> None:
    residue = -offset % s.ints[r, BLOCK]
    s.counts[r, residue] -= 1
    s.ints[r, RESIDUE_SUM] -= residue


@compiled
def _demand(s: State, r: int) -> int:
    if s.ints[r, KV_BLOCKS] == UNBOUNDED:
        return 0
    return s.counts[r, s.ints[r, ITERATION] % s.ints[r, BLOCK]]


@compiled
def _iterations_left(s: State, r: int, g: int, n: int, context_sum: int) -> int:
    size = s.ints[r, BLOCK]
    free = s.ints[r, KV_BLOCKS] - _used(s, r, g, n, context_sum)
    rounds = free // n
    spare = free - rounds * n
    x = g % size
    k = size * rounds
    while True:
        spare -= s.counts[r, x]
        if spare < 0:
            return k
        k += 1
        x = x + 1 if x + 1 < size else 0


# -- telemetry: twin.engine.telemetry


@compiled
def _bucket(bounds: Floats, value: float) -> int:
    low, high = 0, len(bounds)
    while low < high:
        middle = (low + high) >> 1
        if bounds[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def add_progression(buckets: Ints, n: int, k: int, c0_s: float, c1_s: float) -> None:
    """Count as twin.engine.telemetry.add_progression does, into the ITL part of *buckets*."""
    bucket = _bucket(_ITL, c0_s)
    last = _bucket(_ITL, c0_s + c1_s * (k - 1))
    done = 0
    while bucket < last:
        upto = min(k, int((_ITL[bucket] - c0_s) / c1_s) + 1)
        buckets[ITL_AT + bucket] += n * (upto - done)
        done = upto
        bucket += 1
    buckets[ITL_AT + bucket] += n * (k - done)


@inlined
def decoded(s: State, r: int, n: int, k: int, c0_s: float, c1_s: float, duration: float) -> None:
    tokens = n * k
    s.ints[r, GENERATION_TOKENS] += tokens
    s.floats[r, ITL_SUM_S] += n * duration
    last = _bucket(_ITL, c0_s + c1_s * (k - 1))
    if k == 1 or last == 0 or c0_s > _ITL[last - 1]:
        s.buckets[r, ITL_AT + last] += tokens
    else:
        add_progression(s.buckets[r], n, k, c0_s, c1_s)


# -- latency: twin.engine.latency


@compiled
def duration_s(k: int, c0_s: float, c1_s: float) -> float:
    """Return T(k)."""
    return k * c0_s + c1_s * (k * (k - 1) // 2)


@compiled
def _iteration_ms(
    s: State, r: int, tokens: int, kv_tokens: int, sequences: int, pairs: float
) -> float:
    p = s.floats[r, P]
    compute = s.floats[r, BETA_MS] * (tokens + s.floats[r, ATTENTION] * pairs)
    saved = 0.0
    if s.floats[r, EXPERTS_MS]:
        saved = s.floats[r, EXPERTS_MS] * s.floats[r, EXPERTS_IDLE] ** float(tokens)
    host = s.floats[r, SEQUENCE_MS] * sequences
    if p == 1.0:
        read = s.floats[r, GAMMA_MS] * kv_tokens
        return s.floats[r, ALPHA_MS] - saved + compute + read + host
    read = s.floats[r, WEIGHTS_MS] - saved + s.floats[r, GAMMA_MS] * kv_tokens
    if read > compute:
        larger, smaller = read, compute
    else:
        larger, smaller = compute, read
    if larger == 0.0:
        return s.floats[r, LAUNCH_MS] + host
    overlapped = larger * (1.0 + (smaller / larger) ** p) ** (1.0 / p)
    return s.floats[r, LAUNCH_MS] + overlapped + host


@compiled
def iterations_before(s: State, r: int, now_s: float) -> int:
    """Return how many iterations of the segment in progress ended strictly before *now_s*."""
    if s.ints[r, LENGTH] <= 1:
        return 0
    start_s, c0_s, c1_s = s.floats[r, START_S], s.floats[r, C0_S], s.floats[r, C1_S]
    # Before the first boundary the root is the difference of nearly equal numbers, or 0 over 0.
    if start_s + c0_s >= now_s:
        return 0
    d = now_s - start_s
    a = 0.5 * c1_s
    b = c0_s - a
    k = int(2.0 * d / (b + sqrt(b * b + 4.0 * a * d)))
    while start_s + ((k + 1) * c0_s + c1_s * (k * (k + 1) // 2)) < now_s:
        k += 1
    while k > 0 and start_s + (k * c0_s + c1_s * (k * (k - 1) // 2)) >= now_s:
        k -= 1
    return k


# -- the replica


@compiled
def blocks_held(s: State, r: int, done: int) -> int:
    """Return the blocks held by the iteration in progress, *done* iterations into the segment."""
    ahead = done + 1
    n, size = s.ints[r, DECODES], s.ints[r, BLOCK]
    held = _used(s, r, s.ints[r, ITERATION] + ahead, n, s.ints[r, CONTEXT_SUM] + n * ahead)
    slot = s.ints[r, PREFILL]
    while slot >= 0:
        held += -(-(s.requests[slot, CONTEXT] + s.requests[slot, CHUNK]) // size)
        slot = s.requests[slot, NEXT]
    return held


@compiled
def _room(s: State, r: int, prompt: int, generated: int, now_s: float) -> bool:
    if s.ints[r, QUEUE_MAX] or s.ints[r, RUNNING] + s.ints[r, WAITING] >= s.ints[r, MAX_BATCH]:
        return False
    held = blocks_held(s, r, iterations_before(s, r, now_s))
    size = s.ints[r, BLOCK]
    if s.ints[r, PARTIAL] >= 0 and s.ints[r, PREFILL] < 0:
        held += -(-s.requests[s.ints[r, PARTIAL], CONTEXT] // size)
    coming = -(-(prompt + generated) // size)
    slot = s.ints[r, WAIT_FIRST]
    for _ in range(s.ints[r, WAITING]):
        coming += -(-(s.requests[slot, PROMPT] + s.requests[slot, GENERATED]) // size)
        slot = s.requests[slot, NEXT]
    return held + coming <= s.ints[r, KV_BLOCKS]


@compiled
def queued_prompt_tokens(s: State, r: int) -> int:
    """Return the prompt tokens of the requests that wait."""
    total = _ZERO
    slot = s.ints[r, WAIT_FIRST]
    for _ in range(s.ints[r, WAITING]):
        total += s.requests[slot, PROMPT]
        slot = s.requests[slot, NEXT]
    return total


@compiled
def truncate(s: State, r: int, now_s: float, ahead: int) -> None:
    """End the segment in progress at its first boundary at or after *now_s*, or so many iterations
    later.
    """
    k = iterations_before(s, r, now_s) + 1 + ahead
    if k < s.ints[r, LENGTH]:
        s.ints[r, LENGTH] = k
        s.floats[r, DURATION_S] = duration_s(k, s.floats[r, C0_S], s.floats[r, C1_S])
        s.floats[r, NEXT_S] = s.floats[r, START_S] + s.floats[r, DURATION_S]


@inlined
def take(s: State, r: int, slot: int, now_s: float) -> int:
    """Take the request of *slot* into the queue, or return the code of the reason why not."""
    ints, requests = s.ints, s.requests
    prompt, output = requests[slot, PROMPT], requests[slot, OUTPUT]
    reason = 0
    if ints[r, DRAINING]:
        reason = _DRAINING
    elif ints[r, WAITING] >= ints[r, QUEUE_MAX] and not _room(
        s, r, prompt, requests[slot, GENERATED], now_s
    ):
        reason = _QUEUE_FULL
    elif prompt + output - 1 > ints[r, KV_TOKENS]:
        reason = _NEVER_FITS
    if reason:
        ints[r, REJECTIONS] += 1
        return reason
    s.times[slot, SUBMITTED_S] = now_s
    if ints[r, LENGTH] > 1 and ints[r, WAITING] == 0 and ints[r, RUNNING] < ints[r, MAX_BATCH]:
        truncate(s, r, now_s, ints[r, AHEAD])
    _append_waiting(s, r, slot)
    ints[r, OUTSTANDING] += 1
    if s.floats[r, NEXT_S] == _INF:
        s.floats[r, NEXT_S] = now_s
    return 0


@inlined
def record(
    s: State, r: int, slot: int, end_s: float, engine_s: float, outcome: int, reason: int
) -> None:
    """Write the request of *slot* to the log, and let go of the slot."""
    log(s, r, slot, end_s, engine_s, outcome, reason)
    s.pool[s.sizes[0]] = slot
    s.sizes[0] += 1


@inlined
def log(
    s: State, r: int, slot: int, end_s: float, engine_s: float, outcome: int, reason: int
) -> None:
    """Write how the request of *slot* stands, which stays where it is."""
    row = s.sizes[1]
    s.sizes[1] = row + 1
    lines, times, requests = s.log, s.log_times, s.requests
    lines[row, LOG_SERVER] = s.ints[r, SERVER]
    lines[row, LOG_ID] = requests[slot, ID]
    lines[row, LOG_PROMPT] = requests[slot, PROMPT]
    lines[row, LOG_OUTPUT] = requests[slot, OUTPUT]
    lines[row, LOG_PREEMPTIONS] = requests[slot, REQUEST_PREEMPTIONS]
    lines[row, LOG_OUTCOME] = outcome
    lines[row, LOG_REASON] = reason
    lines[row, LOG_SLOT] = slot
    times[row, LOG_ARRIVAL_S] = s.times[slot, ARRIVAL_S]
    times[row, LOG_FIRST_S] = s.times[slot, FIRST_S]
    times[row, LOG_END_S] = end_s
    times[row, LOG_ENGINE_S] = engine_s


@compiled
def _follow(s: State, r: int, t: float) -> None:
    """Take the next request of a closed loop, as a client sends it who has just been answered."""
    slot = s.ints[r, FOLLOWER]
    s.ints[r, FOLLOWER] = s.requests[slot, NEXT]
    s.times[slot, ARRIVAL_S] = t
    reason = take(s, r, slot, t)
    if reason:
        record(s, r, slot, t, t, _REJECTED, reason)


@inlined
def _finish(s: State, r: int, slot: int, t: float) -> None:
    ints, floats = s.ints, s.floats
    seen_s = t + floats[r, OVERHEAD_S]
    ints[r, OUTSTANDING] -= 1
    ints[r, SUCCESSES] += 1
    e2e_s = seen_s - s.times[slot, SUBMITTED_S]
    floats[r, E2E_SUM_S] += e2e_s
    s.buckets[r, E2E_AT + _bucket(_LATENCY, e2e_s)] += 1
    ints[r, FINISHED_OUTPUT] += s.requests[slot, OUTPUT]
    record(s, r, slot, seen_s, t, _FINISHED, _ZERO)


@inlined
def _complete_prefills(s: State, r: int, t: float) -> None:
    ints, floats, requests, times = s.ints, s.floats, s.requests, s.times
    g = ints[r, ITERATION]
    ints[r, PARTIAL] = -1
    slot = ints[r, PREFILL]
    ints[r, PREFILL] = -1
    while slot >= 0:
        after = requests[slot, NEXT]
        context = requests[slot, CONTEXT] + requests[slot, CHUNK]
        requests[slot, CONTEXT] = context
        prompt = requests[slot, PROMPT]
        generated = requests[slot, GENERATED]
        if context < prompt + generated:
            ints[r, PARTIAL] = slot
            slot = after
            continue
        ints[r, GENERATION_TOKENS] += 1
        if generated:
            gap_s = t - times[slot, LAST_S]
            floats[r, ITL_SUM_S] += gap_s
            s.buckets[r, ITL_AT + _bucket(_ITL, gap_s)] += 1
        else:
            seen_s = t + floats[r, OVERHEAD_S]
            times[slot, FIRST_S] = seen_s
            ttft_s = seen_s - times[slot, SUBMITTED_S]
            ints[r, FIRST_TOKENS] += 1
            ints[r, PROMPT_TOKENS] += prompt
            floats[r, TTFT_SUM_S] += ttft_s
            s.buckets[r, TTFT_AT + _bucket(_TTFT, ttft_s)] += 1
        generated += 1
        requests[slot, GENERATED] = generated
        left = requests[slot, OUTPUT] - generated
        if left == 0:
            _remove_running(s, r, slot)
            _finish(s, r, slot, t)
        else:
            requests[slot, OFFSET] = context - g
            ints[r, DECODES] += 1
            ints[r, CONTEXT_SUM] += context
            _push(s, r, ((g + left) << 32) | requests[slot, TICKET], slot)
            _join(s, r, context - g)
        slot = after


@inlined
def _complete(s: State, r: int, t: float) -> None:
    ints, floats = s.ints, s.floats
    k = ints[r, LENGTH]
    c0_s, c1_s = floats[r, C0_S], floats[r, C1_S]
    if ints[r, AHEAD]:
        floats[r, SEEN_S] = floats[r, START_S] + duration_s(k - 1, c0_s, c1_s)
    g = ints[r, ITERATION] + k
    ints[r, ITERATION] = g
    n, successes = ints[r, DECODES], ints[r, SUCCESSES]
    if n:
        ints[r, CONTEXT_SUM] += n * k
        decoded(s, r, n, k, c0_s, c1_s, floats[r, DURATION_S])
        due = (g + 1) << 32
        while ints[r, FINISHES] > 0 and s.keys[ints[r, HEAP]] < due:
            slot = _pop(s, r)
            _remove_running(s, r, slot)
            ints[r, DECODES] -= 1
            ints[r, CONTEXT_SUM] -= s.requests[slot, PROMPT] + s.requests[slot, OUTPUT] - 1
            _leave(s, r, s.requests[slot, OFFSET])
            _finish(s, r, slot, t)
    if ints[r, PREFILL] >= 0:
        _complete_prefills(s, r, t)
    if ints[r, FOLLOWER] >= 0:
        ints[r, LENGTH] = 0
        for _ in range(ints[r, SUCCESSES] - successes):
            if ints[r, FOLLOWER] >= 0:
                _follow(s, r, t)


@inlined
def _begin_segment(s: State, r: int, t: float, k: int, n: int, context_sum: int) -> None:
    floats = s.floats
    if floats[r, IS_PLAIN]:
        c0_s = floats[r, ALPHA_S] + floats[r, BETA_S] * n + floats[r, GAMMA_S] * (context_sum + n)
        c0_s += floats[r, SEQUENCE_S] * n
        c1_s = floats[r, GAMMA_S] * n
    else:
        k = min(k, CHORD_MAX)
        first_ms = _iteration_ms(s, r, n, context_sum + n, n, 0.0)
        c0_s, c1_s = first_ms / 1000.0, 0.0
        if floats[r, P] == 1.0:
            c1_s = floats[r, GAMMA_MS] * n / 1000.0
        elif k > 1:
            last_ms = _iteration_ms(s, r, n, context_sum + k * n, n, 0.0)
            c1_s = (last_ms - first_ms) / (k - 1) / 1000.0
    s.ints[r, LENGTH] = k
    floats[r, START_S] = t
    floats[r, C0_S] = c0_s
    floats[r, C1_S] = c1_s
    floats[r, DURATION_S] = k * c0_s + c1_s * (k * (k - 1) // 2)
    floats[r, NEXT_S] = t + floats[r, DURATION_S]


@compiled
def _preempt(s: State, r: int, t: float, free: int, partial: int) -> None:
    ints, requests = s.ints, s.requests
    g, size = ints[r, ITERATION], ints[r, BLOCK]
    demand = _demand(s, r)
    while demand + partial > free:
        victim = ints[r, RUN_LAST]
        _remove_running(s, r, victim)
        if victim == ints[r, PARTIAL]:
            ints[r, PARTIAL] = -1
            partial = 0
            free += -(-requests[victim, CONTEXT] // size)
        else:
            context = requests[victim, OFFSET] + g
            _leave(s, r, requests[victim, OFFSET])
            free += -(-context // size)
            ints[r, DECODES] -= 1
            ints[r, CONTEXT_SUM] -= context
            requests[victim, GENERATED] = context - requests[victim, PROMPT] + 1
            s.times[victim, LAST_S] = t
            demand = _demand(s, r)
        requests[victim, CONTEXT] = 0
        requests[victim, REQUEST_PREEMPTIONS] += 1
        ints[r, PREEMPTIONS] += 1
        # What waits has no ticket: so the heap is known to hold it no more.
        requests[victim, TICKET] = -1
        _put_first_waiting(s, r, victim)
    keys, slots = s.keys[s.ints[r, HEAP] :], s.slots[s.ints[r, HEAP] :]
    kept = _ZERO
    for i in range(ints[r, FINISHES]):
        if requests[slots[i], TICKET] == keys[i] & 0xFFFFFFFF:
            keys[kept], slots[kept] = keys[i], slots[i]
            kept += 1
    ints[r, FINISHES] = kept
    for i in range(kept // 2 - 1, -1, -1):
        _sink(s, r, i, kept)


@compiled
def _free_after_decodes(s: State, r: int) -> int:
    n = s.ints[r, DECODES]
    used = _used(s, r, s.ints[r, ITERATION] + 1, n, s.ints[r, CONTEXT_SUM] + n)
    return (s.ints[r, KV_BLOCKS] - used) * s.ints[r, BLOCK]


@compiled
def cached_tokens(s: State, r: int, prompt: int, generated: int) -> int:
    """Return how many tokens of a prompt are found in the prefix cache."""
    size = s.ints[r, PREFIX_BLOCK]
    found = int(s.floats[r, PREFIX_SHARE] * prompt)
    return min(found, prompt + generated - 1) // size * size


@compiled
def _preempt_for_prefill(s: State, r: int, t: float, taken: int) -> None:
    ints, n, partial = s.ints, s.ints[r, DECODES], s.ints[r, PARTIAL]
    free = ints[r, KV_BLOCKS] - _used(s, r, ints[r, ITERATION], n, ints[r, CONTEXT_SUM])
    if partial >= 0:
        held = -(-s.requests[partial, CONTEXT] // ints[r, BLOCK])
        free -= held
        taken -= held
    _preempt(s, r, t, free, taken)
    _begin_segment(s, r, t, _ONE, ints[r, DECODES], ints[r, CONTEXT_SUM])


@inlined
def _begin_iteration(
    s: State, r: int, t: float, computed: int, read: int, sequences: int, pairs: float
) -> None:
    floats = s.floats
    s.ints[r, LENGTH] = 1
    floats[r, START_S] = t
    if floats[r, IS_PLAIN]:
        c0_s = floats[r, ALPHA_S] + floats[r, BETA_S] * computed + floats[r, GAMMA_S] * read
        c0_s += floats[r, BETA_S] * floats[r, ATTENTION] * pairs
        c0_s += floats[r, SEQUENCE_S] * sequences
    else:
        c0_s = _iteration_ms(s, r, computed, read, sequences, pairs) / 1000.0
    floats[r, C0_S] = c0_s
    floats[r, DURATION_S] = c0_s
    floats[r, C1_S] = 0.0
    floats[r, NEXT_S] = t + c0_s


@inlined
def _begin_prefill(s: State, r: int, t: float) -> bool:
    ints, floats, requests = s.ints, s.floats, s.requests
    n, size = ints[r, DECODES], ints[r, BLOCK]
    left = ints[r, BUDGET] - n
    computed, read = n, ints[r, CONTEXT_SUM] + n
    free = ints[r, KV_TOKENS] - read - n * (size - 1)
    exact, first = False, -1
    partial = ints[r, PARTIAL]
    taken = pairs_twice = 0
    if partial >= 0:
        need = requests[partial, PROMPT] + requests[partial, GENERATED]
        chunk = min(need - requests[partial, CONTEXT], left)
        after = requests[partial, CONTEXT] + chunk
        taken = -(-after // size)
        left -= chunk
        computed += chunk
        read += after
        pairs_twice = chunk * (2 * after - chunk)
        requests[partial, CHUNK] = chunk
        first = partial
    if free < taken * size:
        free, exact = _free_after_decodes(s, r), True
        if free < taken * size:
            _preempt_for_prefill(s, r, t, taken)
            return True
    share = floats[r, PREFIX_SHARE]
    while ints[r, WAITING] > 0 and left > 0 and ints[r, RUNNING] < ints[r, MAX_BATCH]:
        slot = ints[r, WAIT_FIRST]
        if s.times[slot, SUBMITTED_S] > floats[r, SEEN_S]:
            break
        prompt = requests[slot, PROMPT]
        need = prompt + requests[slot, GENERATED]
        cached = 0
        if share:
            cached = cached_tokens(s, r, prompt, requests[slot, GENERATED])
        chunk = need - cached if need - cached < left else left
        after = cached + chunk
        mine = -(-after // size)
        asked = -(-need // size) if ints[r, FULL_PROMPT] else mine
        if (asked + taken) * size > free:
            if not exact:
                free, exact = _free_after_decodes(s, r), True
            if (asked + taken) * size > free:
                break
        _pop_waiting(s, r)
        if not requests[slot, ADMITTED]:
            requests[slot, ADMITTED] = 1
            waited_s = t - s.times[slot, SUBMITTED_S]
            floats[r, at.QUEUE_SUM_S] += waited_s
            s.buckets[r, QUEUE_AT + _bucket(_LATENCY, waited_s)] += 1
            if share:
                ints[r, PREFIX_QUERIES] += prompt
                ints[r, PREFIX_HITS] += cached
        requests[slot, TICKET] = ints[r, NEXT_TICKET]
        ints[r, NEXT_TICKET] += 1
        _append_running(s, r, slot)
        requests[slot, CONTEXT] = cached
        requests[slot, CHUNK] = chunk
        if first < 0:
            first = slot
        taken += mine
        left -= chunk
        computed += chunk
        read += after
        pairs_twice += chunk * (cached + after)
    if first < 0:
        return False
    ints[r, PREFILL] = first
    _begin_iteration(s, r, t, computed, read, ints[r, RUNNING], 0.5 * pairs_twice)
    return True


@inlined
def _begin(s: State, r: int, t: float) -> None:
    ints, floats = s.ints, s.floats
    if ints[r, AHEAD] and ints[r, RUNNING] == 0:
        floats[r, SEEN_S] = _INF
    may_prefill = ints[r, PARTIAL] >= 0 or (
        ints[r, WAITING] > 0 and ints[r, RUNNING] < ints[r, MAX_BATCH]
    )
    if may_prefill and _begin_prefill(s, r, t):
        return
    n = ints[r, DECODES]
    if n == 0:
        ints[r, LENGTH] = 0
        floats[r, NEXT_S] = _INF
        return
    g, context_sum = ints[r, ITERATION], ints[r, CONTEXT_SUM]
    k = (s.keys[ints[r, HEAP]] >> 32) - g
    if may_prefill and s.times[ints[r, WAIT_FIRST], SUBMITTED_S] > floats[r, SEEN_S]:
        k = 1
    if context_sum + n * (k + ints[r, BLOCK] - 1) > ints[r, KV_TOKENS]:
        k = min(k, _iterations_left(s, r, g, n, context_sum))
        if k == 0:
            _preempt(s, r, t, ints[r, KV_BLOCKS] - _used(s, r, g, n, context_sum), _ZERO)
            k, n, context_sum = 1, ints[r, DECODES], ints[r, CONTEXT_SUM]
    _begin_segment(s, r, t, k, n, context_sum)


@compiled
def advance(s: State, r: int, until_s: float) -> None:
    """Process every boundary before *until_s*."""
    while s.floats[r, NEXT_S] < until_s:
        t = s.floats[r, NEXT_S]
        s.ints[r, STEPS] += 1
        if s.ints[r, LENGTH]:
            _complete(s, r, t)
        _begin(s, r, t)
