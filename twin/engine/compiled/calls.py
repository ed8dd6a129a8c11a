"""What Python calls of the compiled engine: one function, for each is compiled whole, by itself."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from twin.engine.compiled import columns as at
from twin.engine.compiled.columns import Floats, Ints, State
from twin.engine.compiled.machine_code import Addresses
from twin.engine.compiled.steps import (
    add_progression,
    advance,
    blocks_held,
    compiled,
    duration_s,
    iterations_before,
    log,
    queued_prompt_tokens,
    record,
    take,
)
from twin.request import Outcome

Scraped = tuple[Ints, Floats, Ints]
Requests = tuple[Floats, Ints, Ints]
Order = tuple[Ints, Floats]
"""Of the replicas of a server two trees of minima, of their requests in flight and of their next
boundaries: the root is entry 1, entry i stands over 2 i and 2 i + 1, the places follow from the
middle on.
"""
# Below so many replicas a look at all of them is as fast as an order that has to be kept; and for
# so few requests an order is not worth making.
ORDER_REPLICAS, ORDER_REQUESTS = 16, 4

_REJECTED: Any = np.int64(Outcome.REJECTED)
_UNFINISHED: Any = np.int64(Outcome.UNFINISHED)
_NO_REASON: Any = np.int64(0)
_ZERO: Any = np.int64(0)
_UNBOUNDED = at.UNBOUNDED


def run(ints: Addresses, floats: Addresses, sizes: Ints, instants: Floats) -> int:
    """Let things happen to one server after the other, as the visits say (the V_ columns: places in
    rows, requests and draws). What all of it is, columns.A_INTS and what follows there tell.

    Requests (instants, prompts, outputs) arrive. Or, with a SLOT >= 0, the request there is
    submitted to the first replica at NOW_S. Then those to be read go on to before UNTIL_S, and if
    WHAT says so (columns.READ, columns.LIST), each is read as right before AFTER_S. With instants
    of scrapes all that is done up to each of these, and sampled.

    What comes of it stands in the visit. Return, of the request in SLOT, the code of the
    reason why it was refused, or 0.
    """
    view = numba.carray
    replicas, servers = sizes[at.N_REPLICAS], sizes[at.N_SERVERS]
    slots, lines = sizes[at.N_SLOTS], sizes[at.N_LOG]
    s = State(
        ints=view(ints[at.A_INTS], (replicas, at.REPLICA_INTS)),
        floats=view(floats[at.F_FLOATS], (replicas, at.REPLICA_FLOATS)),
        buckets=view(ints[at.A_BUCKETS], (replicas, at.BUCKETS)),
        counts=view(ints[at.A_COUNTS], (replicas, sizes[at.N_RESIDUES])),
        keys=view(ints[at.A_KEYS], sizes[at.N_HEAP]),
        slots=view(ints[at.A_SLOTS], sizes[at.N_HEAP]),
        requests=view(ints[at.A_REQUESTS], (slots, at.REQUEST_INTS)),
        times=view(floats[at.F_TIMES], (slots, at.REQUEST_FLOATS)),
        pool=view(ints[at.A_POOL], slots),
        sizes=view(ints[at.A_SIZES], 2),
        log=view(ints[at.A_LOG], (lines, at.LOG_INTS)),
        log_times=view(floats[at.F_LOG_TIMES], (lines, at.LOG_FLOATS)),
    )
    last = (
        view(ints[at.A_LAST], (replicas, at.SCRAPED_INTS)),
        view(floats[at.F_LAST], (replicas, at.SCRAPED_FLOATS)),
        view(ints[at.A_LAST_BUCKETS], (replicas, at.BUCKETS)),
    )
    scratch = (
        view(ints[at.A_SCRATCH], at.SCRAPED_INTS),
        view(floats[at.F_SCRATCH], at.SCRAPED_FLOATS),
        view(ints[at.A_SCRATCH_BUCKETS], at.BUCKETS),
    )
    totals = view(ints[at.A_TOTALS], (servers, at.S_RUNNING + at.BUCKETS))
    totals_s = view(floats[at.F_TOTALS], (servers, at.S_KV_USAGE))
    order = (
        view(ints[at.A_LEAST], sizes[at.N_ORDER]),
        view(floats[at.F_DUE], sizes[at.N_ORDER]),
    )
    requests = (
        view(floats[at.F_ARRIVALS], sizes[at.N_REQUESTS]),
        view(ints[at.A_PROMPTS], sizes[at.N_REQUESTS]),
        view(ints[at.A_OUTPUTS], sizes[at.N_REQUESTS]),
    )
    visits = view(ints[at.A_VISITS], (sizes[at.N_VISITS], at.VISIT_INTS))
    rows = view(ints[at.A_ROWS], sizes[at.N_ROWS])
    draws = view(floats[at.F_DRAWS], sizes[at.N_DRAWS])
    scrapes = sizes[at.N_SCRAPES]
    scraped = (
        view(floats[at.F_SCRAPES], (2, scrapes)),
        view(ints[at.A_SAMPLES], (sizes[at.N_VISITS], scrapes, at.SAMPLE_INTS)),
        view(floats[at.F_SAMPLES], (sizes[at.N_VISITS], scrapes, at.S_KV_USAGE)),
        last,
        totals,
        totals_s,
    )
    one = (sizes[at.SLOT], instants[at.NOW_S])
    look = (sizes[at.WHAT], instants[at.AFTER_S], scratch)
    until_s = instants[at.UNTIL_S]
    return _go_round(s, visits, rows, requests, draws, order, one, look, scraped, until_s)


# One caller of all steps: each further one has them compiled once more.
@compiled
def _go_round(
    s: State,
    visits: Ints,
    rows: Ints,
    requests: Requests,
    draws: Floats,
    order: Order,
    one: tuple[int, float],
    look: tuple[int, float, Scraped],
    scraped: tuple[Floats, Any, Any, Scraped, Ints, Floats],
    until_s: float,
) -> int:
    """Visit one server after the other, and sample it at all instants of scrapes (the first row;
    the second is right after them), if there are any: what it holds stays in the caches.
    """
    slot, now_s = one
    what, after_s, scratch = look
    scrapes_s, sampled, sampled_s, last, totals, totals_s = scraped
    scrapes, counts = scrapes_s.shape[1], scratch[0]
    refused = 0
    for v in range(len(visits)):
        visit = visits[v]
        first, end, tokens = visit[at.V_BEGIN], visit[at.V_END], _ZERO
        server = visit[at.V_SERVER]
        read = rows[visit[at.V_READ] : visit[at.V_READ_END]]
        for k in range(max(scrapes, 1)):
            upto = end
            if scrapes:
                upto = _arrived(requests[0], visit[at.V_BEGIN], end, scrapes_s[0, k])
                until_s = after_s = scrapes_s[1, k]
            if upto > visit[at.V_BEGIN]:
                visit[at.V_END] = upto
                _serve(s, visit, rows, requests, draws, order)
                tokens += visit[at.V_TOKENS]
            if slot >= 0:
                r = read[0]
                if s.floats[r, at.NEXT_S] < now_s:
                    advance(s, r, now_s)
                refused = take(s, r, slot, now_s)
            running = waiting = 0
            for r in read:
                advance(s, r, until_s)
                if what == at.LIST:
                    _list(s, r, after_s)
                elif what:
                    _read(s, r, after_s, scratch)
                if scrapes:
                    _add_growth(r, last, scratch, totals[server], totals_s[server])
                    running += counts[at.S_RUNNING]
                    waiting += counts[at.S_WAITING]
            if scrapes:
                line = sampled[v, k]
                line[at.T_CAME], line[at.T_TOKENS] = upto - first, tokens
                line[at.T_RUNNING], line[at.T_WAITING] = running, waiting
                for i in range(at.T_CAME):
                    line[i] = totals[server, i]
                for i in range(at.S_KV_USAGE):
                    sampled_s[v, k, i] = totals_s[server, i]
        visit[at.V_TOKENS] = tokens
    return refused


@compiled
def _arrived(arrivals_s: Floats, begin: int, end: int, until_s: float) -> int:
    """Return the place after the last that has come by *until_s*, of those from *begin* to before
    *end*.
    """
    while begin < end and arrivals_s[begin] <= until_s:
        begin += 1
    return begin


@compiled
def _serve(
    s: State, visit: Ints, all_rows: Ints, batch: Requests, all_draws: Floats, order: Order
) -> None:
    floats, requests, times = s.floats, s.requests, s.times
    arrivals_s, prompts, outputs = batch
    rows = all_rows[visit[at.V_ROUTED] : visit[at.V_ROUTED_END]]
    draws = all_draws[visit[at.V_DRAWS] :]
    begin, end, number = visit[at.V_BEGIN], visit[at.V_END], visit[at.V_NUMBER]
    how, turn = visit[at.V_HOW], visit[at.V_TURN]
    count = len(rows)
    ordered = (
        how == at.LEAST_OUTSTANDING and count >= ORDER_REPLICAS and end - begin >= ORDER_REQUESTS
    )
    half = 1
    while ordered and half < count:
        half *= 2
    least, due = order[0][: 2 * half], order[1][: 2 * half]
    if ordered:
        _plant(s, rows, least, due)
    tokens = 0
    for i in range(begin, end):
        tokens += prompts[i]
        now_s = arrivals_s[i]
        place = 0
        if how == at.ROUND_ROBIN:
            if turn >= count:
                turn = 0
            place = turn
            turn += 1
        elif how == at.RANDOM:
            place = int(draws[i - begin] * count)
        elif ordered:
            start = turn if turn < count else 0
            _advance_due(s, rows, least, due, start, now_s)
            place = _first(least, start, least[1] + 1)
            if place < 0:
                place = _first(least, 0, least[1] + 1)
            turn = place + 1
        elif count > 1:
            place = _least(s, rows, turn if turn < count else 0, now_s)
            turn = place + 1
        r = rows[place]
        if floats[r, at.NEXT_S] < now_s:
            advance(s, r, now_s)
        s.sizes[0] -= 1
        slot = s.pool[s.sizes[0]]
        requests[slot, at.ID] = number + i - begin
        requests[slot, at.PROMPT] = prompts[i]
        requests[slot, at.OUTPUT] = outputs[i]
        requests[slot, at.REQUEST_PREEMPTIONS] = 0
        requests[slot, at.GENERATED] = 0
        requests[slot, at.CONTEXT] = 0
        requests[slot, at.ADMITTED] = 0
        requests[slot, at.TICKET] = -1
        times[slot, at.ARRIVAL_S] = now_s
        times[slot, at.FIRST_S] = np.nan
        times[slot, at.LAST_S] = np.nan
        reason = take(s, r, slot, now_s)
        if reason:
            record(s, r, slot, now_s, now_s, _REJECTED, reason)
        elif ordered:
            _put(least, place, s.ints[r, at.OUTSTANDING])
            _put(due, place, floats[r, at.NEXT_S])
    visit[at.V_TURN], visit[at.V_TOKENS] = turn, tokens
    # What comes later goes on here.
    visit[at.V_BEGIN] = end
    visit[at.V_NUMBER] += end - begin
    if how == at.RANDOM:
        visit[at.V_DRAWS] += end - begin


@compiled
def _least(s: State, rows: Ints, start: int, now_s: float) -> int:
    count = len(rows)
    fewest, place = at.UNBOUNDED, 0
    for step in range(count):
        here = start + step
        if here >= count:
            here -= count
        r = rows[here]
        if s.floats[r, at.NEXT_S] < now_s:
            advance(s, r, now_s)
        if s.ints[r, at.OUTSTANDING] < fewest:
            fewest = s.ints[r, at.OUTSTANDING]
            place = here
    return place


# -- an order of many replicas, in which a choice costs O(log R)


@compiled
def _plant(s: State, rows: Ints, least: Ints, due: Floats) -> None:
    half = len(least) >> 1
    for place in range(half):
        there = place < len(rows)
        least[half + place] = s.ints[rows[place], at.OUTSTANDING] if there else _UNBOUNDED
        due[half + place] = s.floats[rows[place], at.NEXT_S] if there else np.inf
    for i in range(half - 1, 0, -1):
        least[i] = min(least[2 * i], least[2 * i + 1])
        due[i] = min(due[2 * i], due[2 * i + 1])


@compiled
def _put(tree: Any, place: int, value: float) -> None:
    i = (len(tree) >> 1) + place
    tree[i] = value
    i >>= 1
    while i:
        left, right = tree[2 * i], tree[2 * i + 1]
        lower = left if left < right else right
        if tree[i] == lower:
            break
        tree[i] = lower
        i >>= 1


@compiled
def _first(tree: Any, start: int, bound: float) -> int:
    """Return the first place from *start* on whose entry is below *bound*, -1 if there is none."""
    half = len(tree) >> 1
    i = half + start
    while not tree[i] < bound:
        # Up to what stands right of all that was looked at.
        while i & 1:
            if i == 1:
                return -1
            i >>= 1
        i += 1
    while i < half:
        i *= 2
        if not tree[i] < bound:
            i += 1
    return i - half


@compiled
def _advance_due(s: State, rows: Ints, least: Ints, due: Floats, start: int, now_s: float) -> None:
    """Advance the replicas on which something ended, in the order in which a look at all of them
    would: it is that of the records.
    """
    place = start
    while due[1] < now_s:
        place = _first(due, place, now_s)
        if place < 0:
            place = 0
            continue
        r = rows[place]
        advance(s, r, now_s)
        _put(least, place, s.ints[r, at.OUTSTANDING])
        _put(due, place, s.floats[r, at.NEXT_S])


@compiled
def _read(s: State, r: int, after_s: float, out: Scraped) -> None:
    ints, floats = s.ints, s.floats
    out_ints, out_floats, out_buckets = out
    done = iterations_before(s, r, after_s)
    generation, itl_sum_s = ints[r, at.GENERATION_TOKENS], floats[r, at.ITL_SUM_S]
    for i in range(len(out_buckets)):
        out_buckets[i] = s.buckets[r, i]
    if done:
        c0_s, c1_s, n = floats[r, at.C0_S], floats[r, at.C1_S], ints[r, at.DECODES]
        generation += n * done
        itl_sum_s += n * duration_s(done, c0_s, c1_s)
        add_progression(out_buckets, n, done, c0_s, c1_s)
    usage = 0.0
    if ints[r, at.LENGTH] and ints[r, at.KV_BLOCKS] != _UNBOUNDED:
        usage = blocks_held(s, r, done) / ints[r, at.KV_BLOCKS]
    out_ints[at.S_SUCCESSES] = ints[r, at.SUCCESSES]
    out_ints[at.S_FINISHED_TOKENS] = ints[r, at.FINISHED_OUTPUT]
    out_ints[at.S_PROMPT] = ints[r, at.PROMPT_TOKENS]
    out_ints[at.S_GENERATION] = generation
    out_ints[at.S_TTFT] = ints[r, at.FIRST_TOKENS]
    out_ints[at.S_ITL] = generation - ints[r, at.FIRST_TOKENS]
    out_ints[at.S_PREEMPTIONS] = ints[r, at.PREEMPTIONS]
    out_ints[at.S_PREFIX_QUERIES] = ints[r, at.PREFIX_QUERIES]
    out_ints[at.S_PREFIX_HITS] = ints[r, at.PREFIX_HITS]
    out_ints[at.S_QUEUED_PROMPT] = queued_prompt_tokens(s, r)
    out_ints[at.S_RUNNING] = ints[r, at.RUNNING]
    out_ints[at.S_WAITING] = ints[r, at.WAITING]
    out_floats[at.S_TTFT_SUM] = floats[r, at.TTFT_SUM_S]
    out_floats[at.S_ITL_SUM] = itl_sum_s
    out_floats[at.S_KV_USAGE] = usage


@compiled
def _list(s: State, r: int, after_s: float) -> None:
    """Write what is in flight to the log, and to the requests how many tokens they have made."""
    ints, requests = s.ints, s.requests
    g = ints[r, at.ITERATION] + iterations_before(s, r, after_s)
    decodes = True
    slot = ints[r, at.RUN_FIRST]
    for _ in range(ints[r, at.RUNNING]):
        # Those that are prefilled stand behind all others.
        decodes = decodes and slot != ints[r, at.PREFILL]
        if decodes:
            context = requests[slot, at.OFFSET] + g
            requests[slot, at.GENERATED] = context - requests[slot, at.PROMPT] + 1
        log(s, r, slot, np.nan, np.nan, _UNFINISHED, _NO_REASON)
        slot = requests[slot, at.NEXT]
    slot = ints[r, at.WAIT_FIRST]
    for _ in range(ints[r, at.WAITING]):
        log(s, r, slot, np.nan, np.nan, _UNFINISHED, _NO_REASON)
        slot = requests[slot, at.NEXT]


@compiled
def _add_growth(r: int, last: Scraped, scratch: Scraped, total: Ints, total_s: Floats) -> None:
    """Keep in *last* what replica *r* showed, and add its growth to *total* (counters, then
    buckets) and *total_s*.
    """
    ints, floats, buckets = scratch
    last_ints, last_floats, last_buckets = last
    for i in range(at.S_RUNNING):
        total[i] += ints[i] - last_ints[r, i]
    for i in range(len(buckets)):
        total[at.S_RUNNING + i] += buckets[i] - last_buckets[r, i]
        last_buckets[r, i] = buckets[i]
    for i in range(at.S_KV_USAGE):
        total_s[i] += floats[i] - last_floats[r, i]
    for i in range(at.SCRAPED_INTS):
        last_ints[r, i] = ints[i]
    for i in range(at.SCRAPED_FLOATS):
        last_floats[r, i] = floats[i]
