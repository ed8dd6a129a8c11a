"""The estimate of steady.py and within.py, compiled by Numba: row by row what these do column by
column, but for the states of the batch, whose sums numpy makes.

Needs the extra `fast`. The files beside are the reference, and the reasons are told there; both
find the same to 1e-9, as an exponential here and one there may differ in the last digit.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from loop.optimizer.model import Floats
from loop.optimizer.model.skewed import FARTHEST, SKEW_MAX, SKEW_MIN
from loop.optimizer.model.steady import (
    BEHIND_FEWER,
    BEND,
    BEND_FALLS,
    BUSY_MAX,
    COUNTED,
    FADES,
    FEW_MET,
    LIFE_UNEVEN,
    MET_FEWER,
    PACE,
    PACE_FALLS,
    SOON_FEWER,
    UNEVEN,
    Chain,
)
from loop.optimizer.model.tail import (
    ANSWER_NODES,
    ANSWER_WEIGHTS,
    EVEN_NODES,
    EVEN_WEIGHTS,
    LEFT_OF_CHUNK,
    OTHERS_MAX,
    PROMPT_WEIGHTS,
    Tail,
)
from twin.engine.compiled.machine_code import Addresses, Function, has_code, machine_code

# What the compiled code is made from.
_SOURCES = tuple(
    Path(__file__).with_name(f"{name}.py")
    for name in ("compiled", "skewed", "steady", "tail", "within")
)
_ESTIMATE = "estimate"
F = TypeVar("F", bound=Callable[..., object])

# What is known of a row: first one figure each, then one for each node of a quadrature.
(
    ALPHA, BETA, GAMMA, LAUNCH, POWER, IN_TOKENS, CV, MAX_BATCH, MAX_QUEUE, BUDGET, POOL,
    COMPUTED, COMPUTED_TOKENS, DECODES, DECODES_2, ALONE, CONTEXT, AHEAD, TOGETHER, FULL_TIME,
    DISPERSION, EXPERTS, UNREAD, HOST,
) = range(24)  # fmt: skip
PROMPTS, MET, COMING, LIVES = 24, 29, 49, 69
WIDTH, LINES = 73, 4
# What the middle leaves to the end.
(
    BATCH, SPREAD, EMPTY, FADE, NO_MORE, WAIT_RATE, OVERLOAD, BUSY, FIRST, SECOND, THIRD,
    DECODE, STEEP, BACKLOG, WIDER, FOLLOW, BEHIND, STAY_DISPERSION, MORE_WAIT,
    BEFORE,
) = range(20)  # fmt: skip
PREFILL, MIDDLE = 20, 25
Skew = tuple[float, float, float]  # mean, variance and third cumulant


_functions: list[Callable[..., object]] = []


def compiled(function: F) -> F:
    """Have *function* compiled, if the estimate is: no earlier process may have done that."""
    _functions.append(function)
    return function


def is_kept() -> bool:
    """Tell whether an earlier process compiled the estimate."""
    return has_code(_ESTIMATE, sources=_SOURCES)


def pack(tail: Tail) -> Floats:
    """Return what is known of each row of *tail* as a matrix of WIDTH columns."""
    columns, rows = tail.columns, len(tail)
    table = np.empty((rows, WIDTH))
    own = (columns.alpha, columns.beta, columns.gamma, columns.launch, columns.p)
    asked = (columns.in_tokens, columns.token_cv, columns.max_batch, columns.max_queue)
    bounds = (columns.token_budget, columns.pool, tail.computed, columns.computed)
    lives = (tail.decodes, tail.decodes_2, tail.alone, tail.context)
    others = (tail.ahead, tail.together, tail.full_time)
    kinds = (columns.dispersion, columns.experts, columns.unread, columns.host)
    for place, figures in enumerate(own + asked + bounds + lives + others + kinds):
        table[:, place] = figures
    table[:, PROMPTS:MET] = tail.prompts
    for first, sums in ((MET, tail.met), (COMING, tail.coming)):
        parts = (sums.decodes, sums.reads, sums.decodes_2, sums.both, sums.reads_2)
        for place, part in enumerate(parts):
            start = first + place * LINES
            table[:, start : start + LINES] = part
    table[:, LIVES:] = tail.answers
    return table


def estimated(
    tail: Tail, rate: Floats, *, prefill: Floats, lone: Floats, itl: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return at *rate* the shares of requests whose prefill and whose mean ITL are within
    these goals, in their shape (*lone* is the share of the first in an empty replica), and of those
    that are turned away.
    """
    table, grid = pack(tail), np.ascontiguousarray(tail.grid)
    rows, points = len(table), len(grid)
    rate = np.ascontiguousarray(rate)
    busy, stretch, waits = np.empty((rows, points)), np.empty((rows, points)), np.empty((rows, 3))
    _call(_BEGIN, (rows, points, 0), table, rate, grid, busy, stretch, waits)
    chain = Chain(tail, rate, stretch)
    middle = np.empty((rows, MIDDLE))
    _call(_GO_ON, (rows, points, 0), table, rate, grid, busy, waits, chain.moments(), middle)
    weight, last = chain.widened(middle[:, WIDER])
    goals = [np.ascontiguousarray(np.atleast_2d(one)) for one in (prefill, lone, itl)]
    first, later, blocked = np.empty_like(goals[0]), np.empty_like(goals[0]), np.empty(rows)
    found = (first, later, blocked)
    _call(_END, (rows, points, len(first)), table, rate, middle, weight, last, *goals, *found)
    first[:, middle[:, OVERLOAD] > 0.0] = 0.0
    return first.reshape(prefill.shape), later.reshape(itl.shape), blocked


_BEGIN, _GO_ON, _END = range(3)


def _call(part: int, sizes: tuple[int, int, int], *arrays: Floats) -> None:
    """Have a *part* of the estimate compute, of arrays that stand in one piece."""
    code: Function = machine_code(_ESTIMATE, _entry, sources=_SOURCES)
    whole = np.array((part, *sizes), np.int64)
    floats = (ctypes.c_void_p * len(arrays))(*[one.ctypes.data for one in arrays])
    code(None, floats, whole.ctypes.data, None)


def _entry() -> Callable[..., int]:
    """Return what is compiled: it needs the compiler, which is not loaded for code that is kept."""
    import numba  # noqa: PLC0415, an extra

    made = {function.__name__: numba.njit(error_model="numpy")(function) for function in _functions}
    globals().update(made)
    begin, go_on, end, view = made["begin"], made["go_on"], made["end"], numba.carray

    def estimate(_ints: Addresses, a: Addresses, sizes: Addresses, _instants: Addresses) -> int:
        part, rows, points, lines = sizes[0], sizes[1], sizes[2], sizes[3]
        table, rates = view(a[0], (rows, WIDTH)), view(a[1], rows)
        if part == _BEGIN:
            by_point = view(a[3], (rows, points)), view(a[4], (rows, points))
            begin(table, rates, view(a[2], points), *by_point, view(a[5], (rows, 3)))
        elif part == _GO_ON:
            busy, waits = view(a[3], (rows, points)), view(a[4], (rows, 3))
            sums, middle = view(a[5], (5, rows)), view(a[6], (rows, MIDDLE))
            go_on(table, rates, view(a[2], points), busy, waits, sums, middle)
        else:
            chain = view(a[2], (rows, MIDDLE)), view(a[3], rows), view(a[4], rows)
            goals = view(a[5], (lines, rows)), view(a[6], (lines, rows)), view(a[7], (lines, rows))
            found = view(a[8], (lines, rows)), view(a[9], (lines, rows)), view(a[10], rows)
            end(table, rates, *chain, *goals, *found)
        return 0

    return estimate


@compiled
def _hi(a: float, b: float) -> float:
    """Return the larger one; none is a number if one is none."""
    return a if a >= b or math.isnan(a) else b


@compiled
def _lo(a: float, b: float) -> float:
    return a if a <= b or math.isnan(a) else b


@compiled
def _time(f: Floats, tokens: float, read: float, requests: float) -> float:
    compute, reading = f[BETA] * tokens, f[GAMMA] * read
    if f[EXPERTS] > 0.0:
        reading -= f[EXPERTS] * f[UNREAD] ** tokens
    p = f[POWER]
    if p == 1.0:
        added: float = f[ALPHA] + compute + reading
        return added
    memory = f[ALPHA] - f[LAUNCH] + reading
    larger = _hi(_hi(memory, compute), 1e-300)
    ratio = _lo(memory, compute) / larger
    found: float = f[LAUNCH] + larger * (1.0 + ratio**p) ** (1.0 / p) + f[HOST] * requests
    return found


@compiled
def _normal_share(x: float) -> float:
    x = _lo(_hi(x, -FARTHEST), FARTHEST)
    t = 1.0 / (1.0 + 0.231641888 * abs(x))
    series = t * (
        0.127414796 + t * (-0.142248368 + t * (0.710706871 + t * (-0.726576013 + t * 0.530702714)))
    )
    beyond = series * math.exp(-0.5 * x * x)
    return 1.0 - beyond if x > 0.0 else beyond


@compiled
def _of_moments(first: float, second: float, third: float) -> Skew:
    variance = _hi(second - first * first, 0.0)
    return first, variance, third - 3.0 * first * second + 2.0 * first**3


@compiled
def _moments(one: Skew) -> Skew:
    mean, variance, third = one
    return mean, variance + mean * mean, third + 3.0 * mean * variance + mean**3


@compiled
def _plus(one: Skew, other: Skew) -> Skew:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


@compiled
def _shape(one: Skew) -> Skew:
    deviation = math.sqrt(_hi(one[1], 1e-18))
    skew = _lo(_hi(one[2] / deviation**3, SKEW_MIN), SKEW_MAX)
    bend = 2.0 * math.sinh(math.asinh(0.5 * skew) / 3.0)
    return deviation, bend, math.sqrt(math.log1p(bend * bend))


@compiled
def _within(one: Skew, shape: Skew, bound: float) -> float:
    deviation, bend, sigma = shape
    stretched = 1.0 + (bound - one[0]) / deviation * bend
    if not stretched > 0.0:
        return 0.0
    return _normal_share(math.log(_hi(stretched, 1e-300)) / sigma + 0.5 * sigma)


@compiled
def _room(f: Floats, batch: float) -> float:
    return _hi(f[BUDGET] - batch, 1.0) / _hi(f[COMPUTED_TOKENS], 1e-9)


@compiled
def _prefill(f: Floats, batch: float, sharing: float, k: int) -> float:
    read = batch * f[CONTEXT]
    tokens = sharing * f[PROMPTS + k]
    longer = _time(f, batch + tokens * f[COMPUTED], read + tokens, batch + sharing)
    return (longer - _time(f, batch, read, batch)) / sharing


@compiled
def begin(
    table: Floats, rates: Floats, grid: Floats, busy: Floats, stretch: Floats, waits: Floats
) -> None:
    """Find by batch of the grid how *busy* prefills keep a row and by how much they *stretch* a
    stay, and how the wait for a place decays, the work of a request, and 1 where it is too much.
    """
    for i in range(len(table)):
        f, rate = table[i], rates[i]
        iterations = f[DECODES] + 1.0
        for g in range(len(grid)):
            busy[i, g], stretch[i, g] = _stretch(f, rate, grid[g], iterations)
        waits[i, 0], waits[i, 1], waits[i, 2] = _wait_rate(f, rate)


@compiled
def _stretch(f: Floats, rate: float, batch: float, iterations: float) -> tuple[float, float]:
    read, prompt, share = batch * f[CONTEXT], f[IN_TOKENS], f[COMPUTED]
    decode = _time(f, batch, read, batch)
    room = _hi((f[BUDGET] - batch) / _hi(prompt, 1.0), 1.0)
    prefill = _time(f, batch + prompt * share, read + prompt, batch + 1.0) - decode
    busy = _lo(rate * prefill, BUSY_MAX)
    if f[POWER] != 1.0:
        for _ in range(2):
            sharing = _lo(1.0 + _lo(rate * decode / (1.0 - busy), batch + 1.0), room)
            tokens, reads = batch + sharing * prompt * share, read + sharing * prompt
            more = _time(f, tokens, reads, batch + sharing)
            prefill = (more - decode) / sharing
            busy = _lo(rate * prefill, BUSY_MAX)
    iteration = decode / (1.0 - busy)
    seen = iteration + rate * prefill * prefill * (1.0 + f[CV] * f[CV]) / (1.0 - busy * busy)
    extra = busy * _hi(decode + prefill + busy * seen - iteration, 0.0) / (1.0 - busy)
    extra = extra * (1.0 - busy**iterations) / (iterations * iteration)
    longer = math.log1p(extra) if iterations > 1.0 else 0.0
    return busy, longer - math.log1p(-busy)


@compiled
def _wait_rate(f: Floats, rate: float) -> Skew:
    most, iterations = f[MAX_BATCH], f[DECODES] + 1.0
    sharing = _hi(_lo(1.0 + most / iterations, _room(f, most)), 1.0)
    first = second = 0.0
    for k in range(len(PROMPT_WEIGHTS)):
        one = _prefill(f, most, sharing, k)
        first += one * PROMPT_WEIGHTS[k]
        second += one * one * PROMPT_WEIGHTS[k]
    step = f[FULL_TIME] / most
    work = first + iterations * step
    square = second + 2.0 * first * iterations * step
    square += step * step * (f[DECODES_2] + 2.0 * f[DECODES] + 1.0)
    used = rate * work
    overload = 1.0 if used >= 1.0 - 0.5 * (1.0 - BUSY_MAX) else 0.0
    left = _hi(1.0 - used, 0.5 * (1.0 - BUSY_MAX))
    varied = square / (work * work) - 1.0
    many = (most - 1.0) * (math.sqrt(4.0 + 5.0 * most) - 2.0)
    fixed = _lo(left * many / (16.0 * most * _hi(used, 1e-9)), 1.0)
    share = (1.0 + varied) / 2.0 + _hi((1.0 - varied) / 2.0, 0.0) * fixed
    share += (f[DISPERSION] - 1.0) / 2.0
    return left / work / share, work, overload


@compiled
def go_on(
    table: Floats,
    rates: Floats,
    grid: Floats,
    busy_at: Floats,
    waits: Floats,
    moments: Floats,
    middle: Floats,
) -> None:
    """Find what follows from the moments of the batch, by row."""
    for i in range(len(table)):
        _middle(table[i], rates[i], grid, busy_at[i], waits[i], moments[:, i], middle[i])


@compiled
def _middle(
    f: Floats, rate: float, grid: Floats, busy_at: Floats, wait: Floats, sums: Floats, m: Floats
) -> None:
    most, pool = f[MAX_BATCH], f[POOL]
    fade = math.exp(-wait[0] * wait[1])
    no_more = fade ** (1e9 if math.isinf(f[MAX_QUEUE]) else f[MAX_QUEUE] * pool)
    behind = sums[4] / pool * fade * (1.0 - no_more) / (1.0 - fade)
    total = sums[0] + behind
    batch = (sums[1] + most * behind) / total
    spread = _hi((sums[2] + most * most * behind) / total - batch * batch, 0.0)
    spread += UNEVEN * (1.0 - 1.0 / pool)
    decode = _time(f, batch, batch * f[CONTEXT], batch)
    at = busy_at[0]
    if len(grid) > 1:
        right = min(max(np.searchsorted(grid, batch), 1), len(grid) - 1)
        way = (batch - grid[right - 1]) / (grid[right] - grid[right - 1])
        at = busy_at[right - 1] * (1.0 - way) + busy_at[right] * way
    sharing = _lo(1.0 + rate * decode / (1.0 - at), _hi(_room(f, batch), 1.0))
    first = second = third = 0.0
    for k in range(len(PROMPT_WEIGHTS)):
        one = _prefill(f, batch, sharing, k)
        m[PREFILL + k] = one
        first += one * PROMPT_WEIGHTS[k]
        second += one * one * PROMPT_WEIGHTS[k]
        third += one**3 * PROMPT_WEIGHTS[k]
    busy = _lo(rate * first, BUSY_MAX)
    lasts = rate * (decode / (1.0 - busy) + rate * second / (1.0 - busy * busy))
    dispersion = 1.0 + (f[DISPERSION] - 1.0) * _of_burst(COUNTED * pool * batch, f[DISPERSION])
    bunched = (dispersion + busy * busy * (second / (first * first) - 1.0)) / (1.0 - busy) ** 2
    extra, share = 0.5 * (f[DISPERSION] - 1.0), 1.0 - 1.0 / pool
    soon = SOON_FEWER * share * _lo(FEW_MET / _hi(batch, 1e-9), 1.0) ** FADES
    own_burst = extra / pool * _of_burst(pool * batch, f[DISPERSION])
    m[FOLLOW] = _in_replica(extra * _of_burst(pool * lasts, f[DISPERSION]), pool) - _fewer(
        0.5 * lasts, soon
    )
    m[BEFORE] = _hi(own_burst + MET_FEWER * share * math.expm1(-batch / MET_FEWER), -batch)
    m[BEHIND] = own_burst - _fewer(batch, BEHIND_FEWER * share)
    m[STAY_DISPERSION] = dispersion
    m[MORE_WAIT] = math.exp(_lo(extra * wait[0] * wait[1], 50.0))
    backlog, overflow = _backlog(f, rate, batch, decode)
    lost = wait[2] > 0.0 or rate * first >= BUSY_MAX or overflow
    m[BATCH], m[SPREAD], m[EMPTY], m[FADE], m[NO_MORE] = (
        batch,
        spread,
        sums[3] / total,
        fade,
        no_more,
    )
    m[WAIT_RATE], m[OVERLOAD], m[BUSY] = wait[0], 1.0 if lost else 0.0, busy
    m[FIRST], m[SECOND], m[THIRD], m[DECODE] = first, second, third, decode
    m[STEEP], m[BACKLOG] = _steepness(f, batch, decode, sharing), backlog
    m[WIDER] = 1.0 + f[TOGETHER] * (bunched - 1.0)


@compiled
def _of_burst(gaps: float, dispersion: float) -> float:
    pace, bend = PACE * dispersion**PACE_FALLS, BEND * dispersion**BEND_FALLS
    return -math.expm1(-pace * gaps**bend)


@compiled
def _fewer(gaps: float, most: float) -> float:
    return -most * math.expm1(-gaps / _hi(most, 1e-9))


@compiled
def _in_replica(follow: float, pool: float) -> float:
    kept: float = (follow / (1.0 + follow)) ** pool
    return kept / (1.0 - kept)


@compiled
def _backlog(f: Floats, rate: float, batch: float, decode: float) -> tuple[float, bool]:
    room = _hi(_room(f, batch), 1e-3)
    each = 0.0
    for k in range(len(PROMPT_WEIGHTS)):
        each += _prefill(f, batch, room, k) * PROMPT_WEIGHTS[k]
    each = decode / room + each
    used = rate * each
    varied = f[DISPERSION] + f[CV] * f[CV]
    wait = 0.5 * _lo(used, 1.0) ** 2 * rate * each * each * varied / 2.0
    return wait / _hi(1.0 - used, 1.0 - BUSY_MAX), used >= BUSY_MAX


@compiled
def _steepness(f: Floats, batch: float, decode: float, sharing: float) -> float:
    if f[POWER] == 1.0:
        return 1.0
    whole = _with_prompts(f, batch, sharing)
    mean = _hi((whole - decode) / sharing, 1e-9)
    steep = (whole - _with_prompts(f, batch, _hi(sharing - 1.0, 0.0))) / mean
    return _lo(_hi(steep, 1.0), 3.0)


@compiled
def _with_prompts(f: Floats, batch: float, prompts: float) -> float:
    tokens = prompts * f[IN_TOKENS]
    return _time(f, batch + tokens * f[COMPUTED], batch * f[CONTEXT] + tokens, batch + prompts)


@compiled
def end(
    table: Floats,
    rates: Floats,
    middle: Floats,
    weight: Floats,
    last: Floats,
    prefills: Floats,
    lone: Floats,
    itls: Floats,
    ttft: Floats,
    itl: Floats,
    blocked: Floats,
) -> None:
    """Find by line of the goals and by row the shares within TTFT and ITL; and by row that of those
    who are turned away.
    """
    for i in range(len(table)):
        f, m = table[i], middle[i]
        own = last[i] / f[POOL]
        waiting = own * (1.0 - m[NO_MORE]) / (1.0 - m[FADE])
        total = weight[i] - own + waiting + own * m[NO_MORE]
        blocked[i] = own * m[NO_MORE] / total
        variance = m[SPREAD] * m[WIDER]
        waits = _lo(waiting / total * m[MORE_WAIT], 1.0)
        served = (waits, blocked[i], m[WAIT_RATE] * f[POOL])
        _ttft_shares(f, m, rates[i], variance, served, prefills[:, i], lone[:, i], ttft[:, i])
        _itl_shares(f, m, rates[i], variance, itls[:, i], itl[:, i])


@compiled
def _ttft_shares(
    f: Floats,
    m: Floats,
    rate: float,
    variance: float,
    served: Skew,
    goals: Floats,
    lone: Floats,
    found: Floats,
) -> None:
    waits, blocked, wait_rate = served
    single, busy, ahead = f[DECODES] == 0.0, m[BUSY], f[AHEAD]
    some = _hi(1.0 - m[EMPTY], 1e-9)
    batch = m[BATCH] / some
    varies = _hi((variance + m[BATCH] * m[BATCH]) / some - batch * batch, 0.0)
    if single:
        batch = varies = 0.0
    decode = _time(f, batch, batch * f[CONTEXT], batch)
    rest, k1, k2 = _rest(f, m, rate, decode)
    own, unhampered, alone = _own_prefill(f, m, rate, batch, k1)
    own = _plus(own, _slow_part(f, busy, batch, varies))
    whole = _plus(rest, own)
    deviation, bend, sigma = _shape(whole)
    idle = _lo(m[EMPTY] * (1.0 - busy) / (1.0 + m[FOLLOW]), 1.0)
    if single:
        idle = _idle_share(f, m, rate)
    # Of those who find others running and a place: some meet no other prefill.
    over, spread = _hi(k1 - decode, 1e-12), _hi(k2, 1e-12)
    bursts = 1.0 + _hi(m[FOLLOW], 0.0)
    each = rate / bursts
    nobody = math.exp(-each * decode - over * over / spread * math.log1p(each * spread / over))
    free = nobody * decode / k1 * math.exp(-each * decode * (1.0 + ahead))
    free = free / (bursts * bursts) * math.exp(-2.0 * _lo(m[FOLLOW], 0.0))
    free = _lo(free, 1.0 - 1e-6)
    first, second, third = _moments(rest)
    mean, even = (1.5 + ahead) * decode, decode * decode / 12.0
    met = _of_moments(
        (first - free * mean) / (1.0 - free),
        (second - free * (even + mean * mean)) / (1.0 - free),
        (third - free * (mean**3 + 3.0 * mean * even)) / (1.0 - free),
    )
    backlog = m[BACKLOG] / (1.0 - free)
    late = (met[0] + backlog, met[1] + backlog * backlog, _hi(met[2], 0.0) + 2.0 * backlog**3)
    late = _plus(late, own)
    shape_own, shape_late = _shape(own), _shape(late)
    shape_unhampered, shape_alone = _shape(unhampered), _shape(alone)
    for line in range(len(goals)):
        goal = _lo(goals[line], 1e15)
        clear = 0.0
        for k in range(len(EVEN_NODES)):
            bound = goal - decode * (1.0 + EVEN_NODES[k] + ahead)
            clear += EVEN_WEIGHTS[k] * _within(own, shape_own, bound)
        running = free * clear + (1.0 - free) * _within(late, shape_late, goal)
        waiting = 0.0
        for k in range(len(ANSWER_NODES)):
            reached = whole[0] + deviation * (
                math.expm1(sigma * ANSWER_NODES[k] - 0.5 * sigma * sigma) / bend
            )
            remaining = _hi(goal - reached, 0.0)
            waiting -= math.expm1(-wait_rate * remaining) * ANSWER_WEIGHTS[k]
        hampered = _within(unhampered, shape_unhampered, goal) - _within(alone, shape_alone, goal)
        empty = _hi(lone[line] - _hi(hampered, 0.0), 0.0)
        share = (1.0 - waits - blocked) * running + waits * waiting
        found[line] = share + idle * (empty - running)


@compiled
def _rest(f: Floats, m: Floats, rate: float, decode: float) -> tuple[Skew, float, float]:
    """Return what is beside the own prefill, and the mean length of iterations and its variance."""
    busy, ahead = m[BUSY], f[AHEAD]
    x1, x2, x3, x4, own = m[FIRST], m[SECOND], m[THIRD], 0.0, m[FOLLOW]
    for k in range(len(PROMPT_WEIGHTS)):
        x4 += m[PREFILL + k] ** 4 * PROMPT_WEIGHTS[k]
    p2 = _hi(x2 + 2.0 * own * x1 * x1, 0.0)
    p3 = _hi(x3 + 6.0 * own * x1 * (x2 + own * x1 * x1), 0.0)
    p4 = x4 + 2.0 * own * (4.0 * x1 * x3 + 3.0 * x2 * x2)
    p4 = _hi(p4 + 12.0 * own * own * x1 * x1 * (3.0 * x2 + 2.0 * own * x1 * x1), 0.0)
    k1 = decode / (1.0 - busy)
    k2 = rate * p2 * k1 / (1.0 - busy * busy)
    k3 = (3.0 * busy * rate * p2 * k2 + rate * p3 * k1) / (1.0 - busy**3)
    k4 = rate * p4 * k1 + (4.0 * busy * rate * p3 + 3.0 * (rate * p2) ** 2) * k2
    k4 = (k4 + 6.0 * busy * busy * rate * p2 * k3) / (1.0 - busy**4)
    seen_1 = (k2 + k1 * k1) / k1
    seen_2 = (k3 + 3.0 * k1 * k2 + k1**3) / k1
    seen_3 = (k4 + 4.0 * k3 * k1 + 3.0 * k2 * k2 + 6.0 * k2 * k1 * k1 + k1**4) / k1
    # What is beside the own prefill.
    part, part_2 = 0.5 + busy, busy * busy + busy + 1.0 / 3.0
    part_3 = 0.25 + busy + 1.5 * busy * busy + busy**3
    rest = _of_moments(part * seen_1, part_2 * seen_2, part_3 * seen_3)
    spread = _hi(seen_2 - seen_1 * seen_1, 0.0)
    others = (
        decode + 2.0 * own * x1,
        _hi(rate * p2 * seen_1 + 2.0 * own * (x2 + own * x1 * x1), 0.0),
        _hi(
            rate * p3 * seen_1
            + 3.0 * rate * p2 * part * spread
            + 2.0 * own * (x3 + own * x1 * (3.0 * x2 + 2.0 * own * x1 * x1)),
            0.0,
        ),
    )
    rest = _plus(_plus(rest, others), (ahead * k1, ahead * k2 * (1.0 + 2.0 * busy), ahead * k3))
    return rest, k1, k2


@compiled
def _own_prefill(
    f: Floats, m: Floats, rate: float, batch: float, mean: float
) -> tuple[Skew, Skew, Skew]:
    room = _hi(f[BUDGET] - batch, 1.0)
    chunk = _time(f, room, room, 1.0)
    o1 = o2 = o3 = u1 = u2 = u3 = a1 = a2 = a3 = 0.0
    for k in range(len(PROMPT_WEIGHTS)):
        prompt, weight = f[PROMPTS + k], PROMPT_WEIGHTS[k]
        computed = prompt * f[COMPUTED]
        more = _hi(np.floor((computed - 1.0) / room), 0.0)
        exposed = LEFT_OF_CHUNK * more * chunk
        came_1, came_2, came_3 = (
            rate * m[FIRST] * exposed,
            rate * m[SECOND] * exposed,
            rate * m[THIRD] * exposed,
        )
        alone = _time(f, computed, prompt, 1.0) + more * (f[ALPHA] + f[HOST])
        longer = m[PREFILL + k] + more * mean + came_1
        o1 += longer * weight
        o2 += (longer * longer + came_2) * weight
        o3 += (longer**3 + 3.0 * longer * came_2 + came_3) * weight
        u1 += alone * weight
        u2 += alone * alone * weight
        u3 += alone**3 * weight
        longer = alone + came_1
        a1 += longer * weight
        a2 += (longer * longer + came_2) * weight
        a3 += (longer**3 + 3.0 * longer * came_2 + came_3) * weight
    return _of_moments(o1, o2, o3), _of_moments(u1, u2, u3), _of_moments(a1, a2, a3)


@compiled
def _slow_part(f: Floats, busy: float, batch: float, variance: float) -> Skew:
    step = _hi(0.2 * batch, 0.5)
    low, high = _hi(batch - step, 0.0), batch + step
    rise = _time(f, high, high * f[CONTEXT], high) - _time(f, low, low * f[CONTEXT], low)
    gain = rise / (high - low) * (1.0 + (0.5 + busy) / (1.0 - busy))
    spread = gain * gain * variance
    return 0.0, spread, 1.4 * spread**1.5 * math.sqrt(variance) / _hi(batch, 1e-9)


@compiled
def _idle_share(f: Floats, m: Floats, rate: float) -> float:
    nothing = f[ALPHA] - f[EXPERTS]
    length = nothing + m[FIRST]
    nobody = 0.0
    for _ in range(8):
        nobody = math.exp(-rate * length)
        length = (nothing + m[FIRST] * nobody) / (1.0 - 0.999 * m[BUSY])
    share: float = nobody / (nobody + rate * length)
    return share


@compiled
def _line(f: Floats, batch: float) -> Skew:
    context = f[CONTEXT]
    middle, half = _hi(batch, 0.5), _hi(0.25 * batch, 0.5)
    low, high = _hi(batch - 0.5 * half, 0.0), batch + 1.5 * half
    bottom = _time(f, low, low * context, low)
    rise = (_time(f, high, high * context, high) - bottom) / (high - low)
    by_tokens = _time(f, high, low * context, high) - bottom
    by_reads = _time(f, low, high * context, low) - bottom
    part = by_tokens / _hi(by_tokens + by_reads, 1e-12)
    fixed = _time(f, middle, middle * context, middle) - rise * middle
    return fixed, rise * part, rise * (1.0 - part) / context


@compiled
def _times(f: Floats, at: int, token: float, read: float, varies: float) -> tuple[float, float]:
    decodes, reads, decodes_2 = f[at], f[at + LINES], f[at + 2 * LINES]
    both, reads_2 = f[at + 3 * LINES], f[at + 4 * LINES]
    square = token * token * decodes_2 + 2.0 * token * read * both
    square += read * read * (reads_2 + decodes_2 * varies)
    return token * decodes + read * reads, square


@compiled
def _itl_shares(
    f: Floats, m: Floats, rate: float, variance: float, goals: Floats, found: Floats
) -> None:
    fixed, token, read = _line(f, m[BATCH])
    deviation = f[CV] * f[IN_TOKENS]
    batch, busy, context = m[BATCH], m[BUSY], f[CONTEXT]
    prompts, lean = deviation * deviation, (3.0 * f[CV] + f[CV] ** 3) * deviation**3
    number = variance * _hi(2.0 * variance / _hi(batch, 1e-12) - 1.0, 0.2)
    first, before, extra = m[FIRST], m[BEFORE], m[BEHIND]
    burst = 0.5 * (m[STAY_DISPERSION] - 1.0)
    second, third = m[SECOND] * m[STEEP] ** 2, m[THIRD] * m[STEEP] ** 3
    along = mean = 0.0
    for k in range(len(PROMPT_WEIGHTS)):
        along += m[PREFILL + k] * f[PROMPTS + k] * PROMPT_WEIGHTS[k]
        mean += f[PROMPTS + k] * PROMPT_WEIGHTS[k]
    along -= first * mean
    decode = fixed + (token + read * context) * batch
    most = f[MAX_BATCH] / (f[DECODES] + 1.0)
    found[:] = 0.0
    for k in range(len(ANSWER_WEIGHTS)):
        life = f[LIVES + k]
        met_1, met_2 = _times(f, MET + k, token, read, prompts)
        spread = _hi(met_2 - met_1 * met_1, 0.0)
        new_1, new_2 = _times(f, COMING + k, token, read, prompts)
        alone = fixed + token + read * (f[IN_TOKENS] + life / 2.0)
        mine, own_read = alone * life, read * life
        base = (
            mine + (batch + before) * met_1,
            batch * spread
            + (variance + _hi(before * (1.0 + before), 0.0)) * met_1 * met_1
            + (own_read * deviation) ** 2,
            batch * spread**1.5
            + number * met_1**3
            + 3.0 * variance * met_1 * spread
            + own_read**3 * lean,
        )
        each_1 = first + new_1
        each_2 = second + 2.0 * first * new_1 + new_2 + 2.0 * along * read * f[COMING + k]
        each_3 = third + 3.0 * second * new_1 + 3.0 * first * new_2
        each_3 += new_2 * new_2 / _hi(new_1, 1e-12)
        seeds, varies, prefilled = _seeds(
            life, rate, busy, (first, second, m[FOLLOW]), (decode, base[0]), f[AHEAD]
        )
        more = _lo(_lo(_hi(prefilled, 0.0), busy) + rate * new_1, OTHERS_MAX)
        each = (each_1, each_2, each_3)
        own = (UNEVEN * met_1 * met_1 + batch * spread) * (1.0 - 1.0 / f[POOL])
        time = (_hi(seeds + extra / rate, 0.0), varies, 1.0 - more)
        whole = _whole(base, own, each, rate, time, (1.0 / f[POOL], burst))
        single = _plus(base, _of_moments(each_1, each_2, each_3))
        own_burst = _hi(extra, 0.0)
        count = _hi(rate * seeds / (1.0 + own_burst) + _lo(extra, 0.0), 0.0)
        none, one, rest, many = _many(count, own_burst, more, whole, base, single, 1.8 * each_1)
        number_full = most * life
        slowest = (
            f[FULL_TIME] * life + number_full * first,
            number_full * second,
            number_full * third,
        )
        shape_base, shape_single = _shape(base), _shape(single)
        shape_many, shape_slowest = _shape(many), _shape(slowest)
        for line in range(len(goals)):
            bound = life * goals[line]
            share = none * _within(base, shape_base, bound)
            share += one * _within(single, shape_single, bound)
            share += _lo(rest, 1.0) * _within(many, shape_many, bound)
            other = _within(slowest, shape_slowest, bound)
            share = 0.5 * (_hi(share, other) + 1.0 - (1.0 - share) * (1.0 - other))
            found[line] += share * ANSWER_WEIGHTS[k]
    for line in range(len(goals)):
        found[line] = f[ALONE] + (1.0 - f[ALONE]) * found[line]


@compiled
def _whole(
    base: Skew, own: float, each: Skew, rate: float, seeds: Skew, shared: tuple[float, float]
) -> Skew:
    """Return a life with all who come during it: in time, its variance, and of which a part is
    *left* that is nobody's consequence.
    """
    time, varies, left = seeds
    alike, burst = shared
    first, second, third = each
    third += 6.0 * burst * first * (second + burst * first * first)
    uneven = LIFE_UNEVEN + (1.0 - LIFE_UNEVEN) * alike
    mine = _hi((1.0 - alike) * second - (1.0 - uneven) * first * first, 0.0)
    second += 2.0 * burst * first * first
    more = base[2] / left**3 + 3.0 * (base[1] + varies) * rate * second / left**4
    more += time * (rate * third / left**4 + 3.0 * (rate * second) ** 2 / left**5)
    return (
        base[0] + rate * first * time / left,
        (base[1] - own) / (left * left)
        + own
        + (rate * first / left) ** 2 * varies
        + rate * time * (alike * second / left**3 + mine),
        alike * alike * more + (1.0 - alike * alike) * (base[2] + rate * time * third),
    )


@compiled
def _many(
    count: float, burst: float, more: float, whole: Skew, base: Skew, single: Skew, least: float
) -> tuple[float, float, float, Skew]:
    """Return how often nobody, one and several come during a life, and a life with several."""
    none = math.exp(-count) / (1.0 + burst)
    one = (count + burst) * math.exp(-count - more) / (1.0 + burst) ** 2
    rest = _hi(1.0 - none - one, 1e-12)
    a, b, c = _moments(whole), _moments(base), _moments(single)
    beyond = _of_moments(
        (a[0] - none * b[0] - one * c[0]) / rest,
        (a[1] - none * b[1] - one * c[1]) / rest,
        (a[2] - none * b[2] - one * c[2]) / rest,
    )
    middle = _hi(beyond[0], base[0] + least)
    wide = _hi(beyond[1] + beyond[0] * beyond[0] - middle * middle, base[1])
    return none, one, rest, (middle, wide, _hi(beyond[2], 0.1 * wide**1.5))


@compiled
def _seeds(
    life: float,
    rate: float,
    busy: float,
    prefills: Skew,
    whole_of: tuple[float, float],
    ahead: float,
) -> Skew:
    first, second, follow = prefills
    decode, base = whole_of
    mean = decode / (1.0 - busy)
    seen = mean + rate * second / (1.0 - busy * busy)
    own = decode + first + _hi(busy * seen + 2.0 * follow * first, 0.0)
    varies = second - first * first + rate * second * seen
    later = _lo(life - 1.0, 1.0)
    if ahead > 0.0:
        seeds = mean + own * later + base * _hi(life - 2.0, 0.0) / life
        generations = life / 2.0
    else:
        seeds = own + base * (life - 1.0) / life
        generations = life
    excess = (own - mean) * (1.0 - busy**generations) / (1.0 - busy)
    total = life * mean + excess * (later if ahead > 0.0 else 1.0)
    beyond = (base - life * decode) * (life - 1.0) / life
    return seeds, varies, 1.0 - (seeds - beyond) / total
