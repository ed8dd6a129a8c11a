"""The share of requests within their targets, as an estimate: of TTFT and of the mean ITL.

TTFT is what is left of the iteration that a request falls into, a wait for a place in the batch,
and the own prefill beside those of others. Iterations prefill what came during the one before, so a
long one makes the next one long: X' = decode + the prefills of Poisson(rate · X).

A mean ITL is the sum over the iterations of a life: the decodes that are met, which leave one by
one, and the prefills and decodes of those who come, each of whom lengthens the life and so lets
more come. All of it has its moments in closed form; one prefill more or less, which decides on a
short answer, is told apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import numpy as np

from loop.optimizer.model import Floats, Rows
from loop.optimizer.model.skewed import Skewed, normal_quantile, normal_share
from loop.optimizer.model.steady import LIFE_UNEVEN, UNEVEN, State, steady_state
from loop.optimizer.model.tail import (
    ANSWER_NODES,
    ANSWER_WEIGHTS,
    EVEN_NODES,
    EVEN_WEIGHTS,
    LEFT_OF_CHUNK,
    LONE_NODES,
    OTHERS_MAX,
    PROMPT_WEIGHTS,
    Tail,
    as_column,
    mean_over,
    rounded,
)
from twin.frozen import made_quickly

# A run that is compiled says so, for all that is sized in it.
_COMPILED = ContextVar("compiled", default=False)

TIMES_MEAN = np.geomspace(0.4, 20.0, 24)  # in which latencies at a percentile are looked for


@made_quickly
@dataclass(frozen=True, slots=True)
class Shares:
    """The shares of requests within their TTFT, within their mean ITL and within both, and of those
    that are turned away.
    """

    ttft: Floats
    itl: Floats
    both: Floats
    lost: Floats


@made_quickly
@dataclass(frozen=True, slots=True)
class Goals:
    """Targets [ms] of each row: of the prefill, which is TTFT less the overhead, and of ITL; inf:
    none. first and later: the shares of requests within them in an empty replica. Several targets
    of each row are a matrix, a line each.
    """

    prefill: Floats
    itl: Floats
    first: Floats
    later: Floats

    @property
    def lone(self) -> Floats:
        """Return the share within both in an empty replica.

        A prompt that is too long for one target is the first to be too long for the other.
        """
        return np.minimum(self.first, self.later)

    def take(self, rows: Rows) -> Goals:
        """Return the given rows."""
        return Goals(self.prefill[rows], self.itl[rows], self.first[rows], self.later[rows])


@np.errstate(under="ignore")
def make_goals(tail: Tail, *, ttft: Floats, itl: Floats) -> Goals:
    """Return the targets *ttft* and *itl* [ms] (0: none), and who meets them when alone."""
    prefill = np.where(ttft > 0.0, ttft - tail.columns.overhead, np.inf)
    itl = np.where((itl > 0.0) & (tail.decodes > 0.0), itl, np.inf)
    with np.errstate(all="ignore"):
        first = np.where(np.isfinite(prefill), _lone_share(tail, prefill), 1.0)
        later = np.where(np.isfinite(itl), _lone_itl_share(tail, itl), 1.0)
    return Goals(prefill, itl, first, later)


@np.errstate(under="ignore")
def shares_within(tail: Tail, rate: Floats, goals: Goals) -> Shares:
    """Return the shares of requests within *goals* when they arrive at *rate* > 0.

    A request that is turned away is within nothing.
    """
    with np.errstate(all="ignore"):
        met = _met(tail, rate, goals)
        first = np.where(np.isfinite(goals.prefill), met.first, 1.0 - met.blocked)
        later = np.where(np.isfinite(goals.itl), met.later, 1.0)
        first, later = np.clip(first, 0.0, 1.0), np.clip(later, 0.0, 1.0)
        both = _both(first, later, goals)
    lost = np.where(np.isfinite(met.blocked), met.blocked, 1.0)
    return Shares(first, later, both, lost)


def is_compiled() -> bool:
    """Tell whether the estimate is to be the compiled one."""
    return _COMPILED.get()


@contextmanager
def compiled_estimate(*, wanted: bool) -> Iterator[None]:
    """Have the estimate compiled within, if *wanted*; that needs the extra `fast`. Both find
    the same to 1e-9.
    """
    token = _COMPILED.set(wanted)
    try:
        yield
    finally:
        _COMPILED.reset(token)


@made_quickly
@dataclass(frozen=True, slots=True)
class _Met:
    """The shares of requests within their prefill and their ITL, and of those turned away."""

    first: Floats
    later: Floats
    blocked: Floats


def _met(tail: Tail, rate: Floats, goals: Goals) -> _Met:
    """Return who meets *goals*, by the compiled estimate where that is wanted."""
    if is_compiled():
        from loop.optimizer.model.compiled import estimated  # noqa: PLC0415, an extra

        first, later, blocked = estimated(
            tail, rate, prefill=goals.prefill, lone=goals.first, itl=goals.itl
        )
        return _Met(first, later, blocked)
    state = steady_state(tail, rate)
    first = np.where(state.overload, 0.0, _ttft_share(tail, state, goals))
    return _Met(first, _itl_share(tail, state, goals.itl), state.blocked)


def _both(first: Floats, later: Floats, goals: Goals) -> Floats:
    """Return the share within both targets: in an empty replica the one includes the other, and
    beyond that, what delays a prefill is not what slows a life.
    """
    lone_first, lone_later = np.maximum(goals.first, first), np.maximum(goals.later, later)
    nested = np.minimum(lone_first, lone_later)
    both: Floats = nested * np.divide(
        first * later,
        lone_first * lone_later,
        out=np.zeros_like(first),
        where=lone_first * lone_later > 0.0,
    )
    return np.minimum(both, np.minimum(first, later))


def _lone_itl_share(tail: Tail, goal: Floats) -> Floats:
    """Return the share of requests whose mean ITL is at most *goal* in an empty replica."""
    columns, p = tail.columns, tail.columns.p
    room = np.maximum(goal - columns.launch - columns.host, 0.0) ** p - columns.beta**p
    weights = columns.alpha - columns.experts * columns.unread - columns.launch
    read = np.maximum(room, 0.0) ** (1.0 / p) - weights
    prompt = read / columns.gamma - 1.0 - tail.decodes / 2.0
    normal = (np.log(np.maximum(prompt, 1e-300)) - tail.prompt_mu) / tail.prompt_sigma
    # Without a time of reading, or with prompts all alike, either all are within or none.
    sure = np.where(read - columns.gamma * tail.context >= 0.0, 1.0, 0.0)
    return np.where(np.isfinite(normal), normal_share(np.nan_to_num(normal)), sure)


@made_quickly
@dataclass(frozen=True, slots=True)
class Looked:
    """Latencies [ms] about the means of each row, a line each, among which those at a percentile
    are looked for, and what else of that depends neither on the rate nor on the percentile.
    """

    tail: Tail
    itl: Floats
    ttft: Floats
    goals: Goals


def looked(tail: Tail, *, near: tuple[Floats, Floats]) -> Looked:
    """Return what is looked at *near* these means of ITL and TTFT [ms]."""
    with np.errstate(all="ignore"):
        itl, ttft = (TIMES_MEAN[:, None] * mean for mean in near)
        goals = make_goals(tail, ttft=ttft, itl=itl)
        return Looked(tail, itl, ttft, replace(goals, itl=itl))


@np.errstate(under="ignore")
def latencies_at(among: Looked, rate: Floats, percentile: Floats) -> tuple[Floats, Floats]:
    """Return ITL and TTFT at *percentile* when requests arrive at *rate*; inf if they have no
    bound.
    """
    with np.errstate(all="ignore"):
        met = _met(among.tail, rate, among.goals)
    later = np.where(among.tail.decodes > 0.0, met.later, 1.0)
    return (
        rounded(_crossing(among.itl, later, percentile)),
        rounded(_crossing(among.ttft, met.first, percentile)),
    )


def _crossing(times: Floats, shares: Floats, percentile: Floats) -> Floats:
    """Return where the shares, a line for each of TIMES_MEAN, pass *percentile*."""
    # A share that is no number is none.
    shares = np.fmin(np.fmax(shares, 1e-9), 1.0 - 1e-9)
    rows, passed = np.arange(len(percentile)), (shares < percentile).sum(axis=0)
    right = np.minimum(np.maximum(passed, 1), len(times) - 1)
    goal = normal_quantile(percentile)
    low, high = normal_quantile(shares[right - 1, rows]), normal_quantile(shares[right, rows])
    way = np.minimum(np.maximum((goal - low) / np.maximum(high - low, 1e-9), 0.0), 1.0)
    found = np.log(times[right - 1, rows]) * (1.0 - way) + np.log(times[right, rows]) * way
    return np.where(passed == len(times), np.inf, np.exp(found))


@np.errstate(under="ignore")
def lone_itl(tail: Tail, percentile: Floats) -> Floats:
    """Return the mean ITL of lone requests at *percentile*; it varies as their prompts do."""
    half = tail.decodes / 2.0
    prompts = normal_quantile(percentile) * tail.prompt_sigma + tail.prompt_mu
    one = np.ones(len(tail))
    found: Floats = tail.latencies.duration(one, 1.0 + np.exp(prompts) + half, one)
    return found


@np.errstate(under="ignore")
def lone_ttft(tail: Tail, percentile: Floats) -> Floats:
    """Return the TTFT of lone requests at *percentile*."""
    normal = normal_quantile(percentile)
    right = np.clip(np.searchsorted(LONE_NODES, normal), 1, len(LONE_NODES) - 1)
    rows = np.arange(len(tail))
    way = (normal - LONE_NODES[right - 1]) / (LONE_NODES[right] - LONE_NODES[right - 1])
    found: Floats = tail.lone[rows, right - 1] * (1.0 - way) + tail.lone[rows, right] * way
    return found + tail.columns.overhead


def _lone_share(tail: Tail, goal: Floats) -> Floats:
    """Return the share of requests whose prefill alone takes at most *goal*."""
    rows = np.arange(len(tail))
    passed = (tail.lone <= as_column(goal)).sum(axis=-1)
    right = np.clip(passed, 1, len(LONE_NODES) - 1)
    low, high = tail.lone[rows, right - 1], tail.lone[rows, right]
    # Prompts that are all equal have one time.
    way = np.where(
        high > low, (goal - low) / np.maximum(high - low, 1e-12), np.where(goal >= low, 9.0, -9.0)
    )
    step = LONE_NODES[1] - LONE_NODES[0]
    return np.where(passed == 0, 0.0, normal_share(LONE_NODES[right - 1] + step * way))


@dataclass(frozen=True, slots=True)
class _Iterations:
    """The iterations of the stationary chain, and raw moments of the one that an arrival falls
    into, which is a long one.
    """

    decode: Floats
    length: Skewed
    seen_1: Floats
    seen_2: Floats
    seen_3: Floats


def _of_bursts(state: State, extra: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the second to fourth moment of what arrivals add to an iteration, per arrival, if a
    geometric number comes at once, *extra* on the mean after each.
    """
    p1, p2, p3 = state.prefill_1, state.prefill_2, state.prefill_3
    p4 = mean_over(state.prefill**4, PROMPT_WEIGHTS)
    second = p2 + 2.0 * extra * p1**2
    third = p3 + 6.0 * extra * p1 * (p2 + extra * p1**2)
    fourth = (
        p4
        + 2.0 * extra * (4.0 * p1 * p3 + 3.0 * p2**2)
        + 12.0 * extra**2 * p1**2 * (3.0 * p2 + 2.0 * extra * p1**2)
    )
    return np.maximum(second, 0.0), np.maximum(third, 0.0), np.maximum(fourth, 0.0)


def _iterations(state: State, decode: Floats) -> _Iterations:
    rate, busy = state.rate, state.busy
    p2, p3, p4 = _of_bursts(state, state.follow)
    k1 = decode / (1.0 - busy)
    k2 = rate * p2 * k1 / (1.0 - busy**2)
    k3 = (3.0 * busy * rate * p2 * k2 + rate * p3 * k1) / (1.0 - busy**3)
    k4 = rate * p4 * k1 + (4.0 * busy * rate * p3 + 3.0 * (rate * p2) ** 2) * k2
    k4 = (k4 + 6.0 * busy**2 * rate * p2 * k3) / (1.0 - busy**4)
    return _Iterations(
        decode=decode,
        length=Skewed(k1, k2, k3),
        seen_1=(k2 + k1**2) / k1,
        seen_2=(k3 + 3.0 * k1 * k2 + k1**3) / k1,
        seen_3=(k4 + 4.0 * k3 * k1 + 3.0 * k2**2 + 6.0 * k2 * k1**2 + k1**4) / k1,
    )


def _ttft_share(tail: Tail, state: State, goals: Goals) -> Floats:
    """Return the share of requests whose prefill ends in time."""
    goal = np.minimum(goals.prefill, 1e15)
    single = tail.decodes == 0.0
    some = np.maximum(1.0 - state.empty, 1e-9)
    batch = state.batch / some
    variance = np.maximum((state.variance + state.batch**2) / some - batch**2, 0.0)
    batch, variance = np.where(single, 0.0, batch), np.where(single, 0.0, variance)
    met = _iterations(state, tail.latencies.duration(batch, batch * tail.context, batch))
    rest = _rest(tail, state, met)
    own, unhampered, alone = _own_prefill(tail, state, met, batch)
    own = own.plus(_slow_part(tail, state, batch, variance))
    running = _running_share(tail, state, met, (rest, own), goal)
    whole = rest.plus(own)
    columns = Skewed(as_column(whole.mean), as_column(whole.variance), as_column(whole.third))
    remaining = np.maximum(as_column(goal) - columns.quantile(ANSWER_NODES), 0.0)
    waiting = -mean_over(np.expm1(-as_column(state.wait_rate) * remaining), ANSWER_WEIGHTS)
    # The first of a burst alone finds nobody.
    idle = np.minimum(state.empty * (1.0 - state.busy) / (1.0 + state.follow), 1.0)
    if single.any():
        idle = np.where(single, _idle_share(tail, state), idle)
    empty = Skewed.stack([unhampered, alone]).within(goal[..., None, :])
    hampered = np.maximum(empty[..., 0, :] - empty[..., 1, :], 0.0)
    lone = np.maximum(goals.first - hampered, 0.0)
    served = (1.0 - state.waits - state.blocked) * running + state.waits * waiting
    share: Floats = served + idle * (lone - running)
    return share


def _rest(tail: Tail, state: State, met: _Iterations) -> Skewed:
    """Return the time beside the own prefill: what is left of the iteration that is met, the
    decodes of the own one, and the prefills of all who came in the one that is met.
    """
    rate, busy = state.rate, state.busy
    part, part_2 = 0.5 + busy, busy**2 + busy + 1.0 / 3.0
    part_3 = 0.25 + busy + 1.5 * busy**2 + busy**3
    seen = Skewed.of_moments(part * met.seen_1, part_2 * met.seen_2, part_3 * met.seen_3)
    varies = np.maximum(met.seen_2 - met.seen_1**2, 0.0)
    second, third, _ = _of_bursts(state, state.follow)
    # Those of the own burst, before and behind it.
    own, p1, p2 = state.follow, state.prefill_1, state.prefill_2
    beside = 2.0 * own * (p2 + own * p1**2)
    lean = 2.0 * own * (state.prefill_3 + own * p1 * (3.0 * p2 + 2.0 * own * p1**2))
    prefills = Skewed(
        met.decode + 2.0 * own * p1,
        np.maximum(rate * second * met.seen_1 + beside, 0.0),
        np.maximum(rate * third * met.seen_1 + 3.0 * rate * second * part * varies + lean, 0.0),
    )
    # With a plan ahead there is an iteration between.
    between = Skewed(
        tail.ahead * met.length.mean,
        tail.ahead * met.length.variance * (1.0 + 2.0 * busy),
        tail.ahead * met.length.third,
    )
    return seen.plus(prefills).plus(between)


def _slow_part(tail: Tail, state: State, batch: Floats, variance: Floats) -> Skewed:
    """Return what the batch, which changes slowly, adds to the variance of TTFT."""
    low = np.maximum(batch - np.maximum(0.2 * batch, 0.5), 0.0)
    high = batch + np.maximum(0.2 * batch, 0.5)
    rise = tail.latencies.duration(high, high * tail.context, high) - tail.latencies.duration(
        low, low * tail.context, low
    )
    gain = rise / (high - low) * (1.0 + (0.5 + state.busy) / (1.0 - state.busy))
    spread = gain**2 * variance
    lean = 1.4 * spread**1.5 * np.sqrt(variance) / np.maximum(batch, 1e-9)
    return Skewed(np.zeros_like(spread), spread, lean)


def _own_prefill(
    tail: Tail, state: State, met: _Iterations, batch: Floats
) -> tuple[Skewed, Skewed, Skewed]:
    """Return what the own prompt adds, and the prefill of a request that finds nobody: without and
    with those who come beside its last chunk.
    """
    columns, rate = tail.columns, as_column(state.rate)
    computed = tail.prompts * as_column(tail.computed)
    room = np.maximum(columns.token_budget - batch, 1.0)
    more = np.maximum(np.floor((computed - 1.0) / as_column(room)), 0.0)
    exposed = LEFT_OF_CHUNK * more * as_column(tail.latencies.duration(room, room, 1.0))

    def beside(alone: Floats) -> Skewed:
        """Return *alone* with the prefills of those who come while it is exposed."""
        longer = alone + rate * as_column(state.prefill_1) * exposed
        second = rate * as_column(state.prefill_2) * exposed
        third = rate * as_column(state.prefill_3) * exposed
        return Skewed.of_moments(
            mean_over(longer, PROMPT_WEIGHTS),
            mean_over(longer**2 + second, PROMPT_WEIGHTS),
            mean_over(longer**3 + 3.0 * longer * second + third, PROMPT_WEIGHTS),
        )

    lone = tail.wide.duration(computed, tail.prompts, 1.0)
    lone += more * as_column(columns.alpha + columns.host)
    powers = (mean_over(lone**k, PROMPT_WEIGHTS) for k in (1, 2, 3))
    own = beside(state.prefill + more * as_column(met.length.mean))
    return own, Skewed.of_moments(*powers), beside(lone)


def _running_share(
    tail: Tail, state: State, met: _Iterations, parts: tuple[Skewed, Skewed], goal: Floats
) -> Floats:
    """Return the share within *goal* of requests that find others running and a place beside them;
    *parts*: the rest and the own prefill.

    Told apart: those who meet no other prefill. Their share is known, and of all moments theirs are
    taken off.
    """
    rate, decode, ahead = state.rate, met.decode, tail.ahead
    rest, own = parts
    over = np.maximum(met.length.mean - decode, 1e-12)
    spread = np.maximum(met.length.variance, 1e-12)
    # E[exp(-rate · X)] of an iteration, whose length above the decodes is taken for gamma.
    bursts = 1.0 + np.maximum(state.follow, 0.0)
    each = rate / bursts
    nobody = np.exp(-each * decode - over**2 / spread * np.log1p(each * spread / over))
    free = nobody * decode / met.length.mean * np.exp(-each * decode * (1.0 + ahead))
    free = free / bursts**2 * np.exp(-2.0 * np.minimum(state.follow, 0.0))
    free = np.minimum(free, 1.0 - 1e-6)
    nodes = EVEN_NODES[:, None]
    each = own.within(goal[..., None, :] - decode * (1.0 + nodes + ahead))
    clear = sum(weight * each[..., k, :] for k, weight in enumerate(EVEN_WEIGHTS))
    first, second, third = rest.moments()
    mean, variance = (1.5 + ahead) * decode, decode**2 / 12.0
    others = Skewed.of_moments(
        (first - free * mean) / (1.0 - free),
        (second - free * (variance + mean**2)) / (1.0 - free),
        (third - free * (mean**3 + 3.0 * mean * variance)) / (1.0 - free),
    )
    others = Skewed(others.mean, others.variance, np.maximum(others.third, 0.0))
    backlog = state.backlog / (1.0 - free)
    held = Skewed(backlog, backlog**2, 2.0 * backlog**3)
    share: Floats = free * clear + (1.0 - free) * others.plus(held).plus(own).within(goal)
    return share


def _idle_share(tail: Tail, state: State) -> Floats:
    """Return the share of time without any request, if all ask for one token."""
    # An iteration without tokens would read no experts.
    nothing = tail.columns.alpha - tail.columns.experts
    first, rate = nothing + state.prefill_1, state.rate
    length = first
    for _ in range(8):
        nobody = np.exp(-rate * length)
        length = (nothing + state.prefill_1 * nobody) / (1.0 - 0.999 * state.busy)
    share: Floats = nobody / (nobody + rate * length)
    return share


@dataclass(frozen=True, slots=True)
class _Line:
    """The time of an iteration as a straight line about the mean batch: fixed + token · tokens +
    read · KV tokens.
    """

    fixed: Floats
    token: Floats
    read: Floats


def _line(tail: Tail, state: State) -> _Line:
    context = tail.context
    middle, half = np.maximum(state.batch, 0.5), np.maximum(0.25 * state.batch, 0.5)
    low, high = np.maximum(state.batch - 0.5 * half, 0.0), state.batch + 1.5 * half
    bottom = tail.latencies.duration(low, low * context, low)
    rise = (tail.latencies.duration(high, high * context, high) - bottom) / (high - low)
    by_tokens = tail.latencies.duration(high, low * context, high) - bottom
    by_reads = tail.latencies.duration(low, high * context, low) - bottom
    part = by_tokens / np.maximum(by_tokens + by_reads, 1e-12)
    fixed = tail.latencies.duration(middle, middle * context, middle) - rise * middle
    return _Line(fixed, rise * part, rise * (1.0 - part) / context)


@dataclass(frozen=True, slots=True)
class _Life:
    """The iterations of a life, by node of the length of the answer.

    base: without anybody who comes; own: of its variance, what is not alike in all replicas of a
    pool. each: raw moments of what one who comes adds. seeds: time in which those come who are
    nobody's consequence, seeds_varies its variance; others: how many more come of one who comes.
    """

    base: Skewed
    own: Floats
    each: tuple[Floats, Floats, Floats]
    seeds: Floats
    seeds_varies: Floats
    others: Floats


def _life(tail: Tail, state: State) -> _Life:
    columns, lives, busy = tail.columns, tail.answers, as_column(state.busy)
    line = _line(tail, state)
    token, read = as_column(line.token), as_column(line.read)
    deviation = columns.token_cv * columns.in_tokens
    prompt_variance, batch = as_column(deviation**2), as_column(state.batch)
    met_1, met_2 = tail.met.times(token, read, prompt_variance)
    new_1, new_2 = tail.coming.times(token, read, prompt_variance)
    alone = as_column(line.fixed) + token + read * (as_column(columns.in_tokens) + lives / 2.0)
    base = _base(tail, state, alone * lives, read * lives, (met_1, met_2))
    own = UNEVEN * met_1**2 + batch * np.maximum(met_2 - met_1**2, 0.0)
    own = own * (1.0 - 1.0 / as_column(columns.pool))
    first, second, third = (as_column(one) for one in (state.prefill_1, *_steep_moments(state)))
    # Long prompts prefill longer, and are read longer.
    along = mean_over(state.prefill * tail.prompts, PROMPT_WEIGHTS)
    along = along - state.prefill_1 * mean_over(tail.prompts, PROMPT_WEIGHTS)
    new_3 = new_2**2 / np.maximum(new_1, 1e-12)
    each = (
        first + new_1,
        second + 2.0 * first * new_1 + new_2 + 2.0 * as_column(along) * read * tail.coming.decodes,
        third + 3.0 * second * new_1 + 3.0 * first * new_2 + new_3,
    )
    decode = as_column(line.fixed) + (token + read * as_column(tail.context)) * batch
    seeds, varies, prefilled = _seeds(tail, state, decode, base.mean)
    others = np.clip(prefilled, 0.0, busy) + as_column(state.rate) * new_1
    return _Life(base, own, each, seeds, varies, np.minimum(others, OTHERS_MAX))


def _steep_moments(state: State) -> tuple[Floats, Floats]:
    """Return the second and third moment of what a prompt adds to an iteration that has others."""
    return state.prefill_2 * state.steep**2, state.prefill_3 * state.steep**3


def _base(
    tail: Tail, state: State, own: Floats, own_read: Floats, met: tuple[Floats, Floats]
) -> Skewed:
    """Return the own decodes, and those of the batch that is met."""
    columns, batch, varies = tail.columns, as_column(state.batch), as_column(state.variance)
    each, square = met
    spread = np.maximum(square - each**2, 0.0)
    cv = columns.token_cv
    deviation = as_column(cv * columns.in_tokens)
    lean = as_column(3.0 * cv + cv**3) * deviation**3
    # Of the own burst, those who came before.
    before = as_column(np.maximum(state.met, -state.batch))
    # The number in the batch leans like a negative binomial one.
    number = varies * np.maximum(2.0 * varies / np.maximum(batch, 1e-12) - 1.0, 0.2)
    return Skewed(
        own + (batch + before) * each,
        batch * spread
        + (varies + np.maximum(before * (1.0 + before), 0.0)) * each**2
        + (own_read * deviation) ** 2,
        batch * spread**1.5 + number * each**3 + 3.0 * varies * each * spread + own_read**3 * lean,
    )


def _seeds(tail: Tail, state: State, decode: Floats, base: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the time in which those come whose prefills the life meets and who are nobody's
    consequence, its variance, and how many more come of each during a prefill.

    The first iteration prefills those who came during the own prefill, the last one's arrivals come
    too late; with a plan ahead all are one iteration later.
    """
    lives, rate, busy = tail.answers, as_column(state.rate), as_column(state.busy)
    second = as_column(_steep_moments(state)[0])
    mean = decode / (1.0 - busy)
    seen = mean + rate * second / (1.0 - busy**2)
    # In the iteration of the own prefill, those of the others.
    beside = np.maximum(busy * seen + as_column(2.0 * state.follow * state.prefill_1), 0.0)
    own = decode + as_column(state.prefill_1) + beside
    varies = second - as_column(state.prefill_1) ** 2 + rate * second * seen
    ahead = as_column(tail.ahead) > 0.0
    later = np.minimum(lives - 1.0, 1.0)
    seeds = np.where(
        ahead,
        mean + own * later + base * np.maximum(lives - 2.0, 0.0) / lives,
        own + base * (lives - 1.0) / lives,
    )
    generations = np.where(ahead, lives / 2.0, lives)
    excess = (own - mean) * (1.0 - busy**generations) / (1.0 - busy)
    total = lives * mean + excess * np.where(ahead, later, 1.0)
    beyond = (base - lives * decode) * (lives - 1.0) / lives
    return seeds, varies, 1.0 - (seeds - beyond) / total


def _itl_share(tail: Tail, state: State, goal: Floats) -> Floats:
    """Return the share of requests whose mean ITL is at most *goal*."""
    life, rate, lives = _life(tail, state), as_column(state.rate), tail.answers
    first, second, third = life.each
    bound, base, seeds = lives * as_column(goal), life.base, life.seeds
    whole = _whole(life, state, as_column(tail.columns.pool))
    # Nobody or one comes: the probabilities of a cluster of Poisson offspring (Borel-Tanner), and
    # of bursts of a geometric number, to one of which the request belongs.
    more, fewer = as_column(np.maximum(state.behind, 0.0)), as_column(state.behind)
    number = rate * seeds / (1.0 + more)
    number = np.maximum(number + np.minimum(fewer, 0.0), 0.0)
    none = np.exp(-number) / (1.0 + more)
    one = (number + more) * np.exp(-number - life.others) / (1.0 + more) ** 2
    single = base.plus(Skewed.of_moments(first, second, third))
    rest = np.maximum(1.0 - none - one, 1e-12)
    parts = zip(whole.moments(), base.moments(), single.moments(), strict=True)
    beyond = Skewed.of_moments(*((a - none * b - one * c) / rest for a, b, c in parts))
    mean = np.maximum(beyond.mean, base.mean + 1.8 * first)
    variance = np.maximum(beyond.variance + beyond.mean**2 - mean**2, base.variance)
    many = Skewed(mean, variance, np.maximum(beyond.third, 0.1 * variance**1.5))
    cases = Skewed.stack([base, single, many, _slowest(tail, state)])
    shares = np.moveaxis(cases.within(bound[..., None, :, :]), -3, 0)
    share = none * shares[0] + one * shares[1] + np.minimum(rest, 1.0) * shares[2]
    share = mean_over(_the_faster(share, shares[3]), ANSWER_WEIGHTS)
    within: Floats = tail.alone + (1.0 - tail.alone) * share
    return within


def _the_faster(share: Floats, other: Floats) -> Floats:
    """Return the share of lives that are within a bound by the faster of two paces: between that of
    paces that go together, and that of independent ones.
    """
    apart = 1.0 - (1.0 - share) * (1.0 - other)
    found: Floats = 0.5 * (np.maximum(share, other) + apart)
    return found


def _whole(life: _Life, state: State, pool: Floats) -> Skewed:
    """Return a life with all who come during it.

    Each who comes lengthens it and so lets more come. In a pool only what all replicas have alike
    does: who is slower than the others is sent fewer.
    """
    base, seeds, left, alike = life.base, life.seeds, 1.0 - life.others, 1.0 / pool
    rate, burst = as_column(state.rate), 0.5 * (as_column(state.dispersion) - 1.0)
    first, second, third = life.each
    third = third + 6.0 * burst * first * (second + burst * first**2)
    # Those of the own burst come as if there were more time for them.
    seeds = np.maximum(seeds + as_column(state.behind) / rate, 0.0)
    uneven = LIFE_UNEVEN + (1.0 - LIFE_UNEVEN) * alike
    own = np.maximum((1.0 - alike) * second - (1.0 - uneven) * first**2, 0.0)
    second = second + 2.0 * burst * first**2
    all_ = alike * second
    more = base.third / left**3
    more += 3.0 * (base.variance + life.seeds_varies) * rate * second / left**4
    more += seeds * (rate * third / left**4 + 3.0 * (rate * second) ** 2 / left**5)
    return Skewed(
        base.mean + rate * first * seeds / left,
        (base.variance - life.own) / left**2
        + life.own
        + (rate * first / left) ** 2 * life.seeds_varies
        + rate * seeds * (all_ / left**3 + own),
        alike**2 * more + (1.0 - alike**2) * (base.third + rate * seeds * third),
    )


def _slowest(tail: Tail, state: State) -> Skewed:
    """Return the life beside a full batch that others refill: none is slower than that."""
    most = tail.columns.max_batch / (tail.decodes + 1.0)
    number = as_column(most) * tail.answers
    second, third = _steep_moments(state)
    return Skewed(
        as_column(tail.full_time) * tail.answers + number * as_column(state.prefill_1),
        number * as_column(second),
        number * as_column(third),
    )
