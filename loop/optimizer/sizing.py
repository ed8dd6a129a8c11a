"""From objectives to replicas: sizes every (server, accelerator) pair at once. Chooses nothing; the
solvers do.

Formulas: queue analysis as in the Go optimizer. If optimizers differ, the rules of the settings
are asked; docs/optimizer.md lists how.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loop.optimizer.cache import SizingCache, row_keys
from loop.optimizer.catalog import Pairs, make_pairs
from loop.optimizer.means import means_at
from loop.optimizer.model import Bools, Floats, Ints, Rows
from loop.optimizer.model.queueing import (
    TOKEN_BUDGET,
    ReplicaColumns,
    host_as_reading,
    longer,
    make_model,
)
from loop.optimizer.model.rates import TOLERANCE, Limits, Targets, blocks
from loop.optimizer.table import (
    BAD_LOAD,
    GOOD,
    ITL_SHORT,
    NO_LATENCY_MODEL,
    NO_MEMORY,
    ONE_STATE,
    TARGET_SHORT,
    TOO_MANY,
    TTFT_SHORT,
    CandidateTable,
    Means,
    Sized,
    capacity_of,
    joined,
    make_table,
    spliced,
)
from loop.replacing import replace
from twin.frozen import made_quickly

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loop.optimizer.catalog import Catalog
    from loop.optimizer.rules import OptimizerSettings
    from loop.spec import ServerData, SystemData

MS_PER_MIN = 60_000.0
NO_LOAD = -1  # in place of what binds
NO_LIMITS = bytes(8 * len(Limits.__slots__))  # in place of a row of them that is not known
# Pools of so many replicas are looked at, with so many places a replica at least: with fewer the
# states of a pool lie too far apart.
POOLS = np.array([1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0])
POOL_BATCH = 4
# How far from what it was of replicas that were alike a highest rate may be, as pools are guessed.
NEAR = (0.97, 1.0, 1.03)
SHARE_LEAST = 0.8  # a server that meets its targets more seldom, even when idle, is not served
BATCH_LIMIT = (
    1 << 20
)  # no batch is looked at beyond this, whatever is asked: each of its states takes memory


@np.errstate(under="ignore")
def size_all(
    data: SystemData,
    settings: OptimizerSettings,
    *,
    servers: Sequence[ServerData],
    cache: SizingCache,
) -> CandidateTable:
    """Return the candidates of *servers* at the load of their current allocation, good ones and
    others.
    """
    settings = settings.rules.in_force(settings)
    catalog = cache.catalog(data)
    known = cache.table(catalog, settings, servers, data.classes)
    if known is not None:
        return replace(known, capacity=capacity_of(data, catalog))
    table = _spliced(data, catalog, settings, servers, cache)
    if table is None:
        table = _sized(data, catalog, settings, servers, cache)
    table = replace(table, capacity=capacity_of(data, catalog))
    cache.keep_table(catalog, settings, servers, data.classes, table)
    return table


def _spliced(
    data: SystemData,
    catalog: Catalog,
    settings: OptimizerSettings,
    servers: Sequence[ServerData],
    cache: SizingCache,
) -> CandidateTable | None:
    """Return the last table with those of *servers* sized that have changed, if these are few:
    nothing that is found of a row depends on those beside it.
    """
    known = cache.nearly(catalog, settings, servers, data.classes)
    if known is None:
        return None
    table, places = known
    part = _sized(data, catalog, settings, [servers[place] for place in places], cache)
    assert isinstance(table.means, _Means), "tables are remembered as they are made"
    assert isinstance(part.means, _Means), "it was made here"
    made, order = spliced(table, part, places)
    return replace(made, means=table.means.joined(part.means, order, columns=made.columns))


def _sized(
    data: SystemData,
    catalog: Catalog,
    settings: OptimizerSettings,
    servers: Sequence[ServerData],
    cache: SizingCache,
) -> CandidateTable:
    """Return the candidates of *servers*, without looking whether they are known."""
    pairs = make_pairs(data, catalog, settings.rules, servers=servers)
    work = _start(pairs, settings)
    _size_idle(work, settings)
    busy = np.flatnonzero(~work.idle & (work.verdict == GOOD))
    if len(busy):
        _size_busy(work, busy, settings, cache)
    columns = _replica_columns(work, settings)
    sized = Sized(
        accelerator=work.accelerator,
        columns=columns,
        wanted_batch=work.wanted_batch,
        replicas=work.replicas,
        means=_Means(
            idle=work.idle_means,
            loaded=~work.idle & ((work.verdict == GOOD) | (work.verdict == TOO_MANY)),
            columns=columns,
            rate=work.need / np.maximum(work.replicas, 1),
            cache=cache,
        ),
        rate_max=work.rate_max,
        limit=work.limit,
        binding=work.binding,
        verdict=work.verdict,
        best_itl=work.best_itl,
        best_ttft=work.best_ttft,
        percentile=work.percentile,
        need=work.need,
    )
    table = make_table(data, catalog, pairs, sized, servers=servers)
    return replace(table, score=_score(table, settings))


@made_quickly
@dataclass(frozen=True, slots=True)
class _Work:
    """The pairs with what is found out about them: its arrays are written to, column by column."""

    pairs: Pairs
    idle: Bools
    accelerator: Ints
    wanted_batch: Ints
    batch: Ints
    replicas: Ints
    verdict: Ints
    need: Floats
    idle_means: Means
    rate_max: Floats
    limit: Floats
    binding: Ints
    best_itl: Floats
    best_ttft: Floats
    percentile: Floats
    pool: Floats
    dispersion: Floats


def _start(pairs: Pairs, settings: OptimizerSettings) -> _Work:
    """Return the pairs with their batch, and a verdict on those that cannot be sized."""
    perf, asked = pairs.perf, pairs.asked
    rows = len(pairs.server)
    idle = (asked.rate_rpm == 0.0) | (asked.out_tokens == 0.0)
    verdict = np.zeros(rows, dtype=np.int64)
    derived = settings.rules.seen_batch(pairs)
    unbounded = np.where(
        asked.max_batch > 0.0,
        asked.max_batch,
        np.where(idle, perf.max_batch, np.maximum(derived, 1.0)),
    )
    wanted = np.minimum(unbounded, float(BATCH_LIMIT))
    batch, no_room = settings.rules.batch(wanted, pairs, settings)
    verdict[~idle & no_room] = NO_MEMORY
    verdict[~idle & (perf.alpha + perf.beta + perf.gamma <= 0.0)] = NO_LATENCY_MODEL
    verdict[(asked.rate_rpm < 0.0) | (asked.in_tokens < 0.0) | (asked.out_tokens < 0.0)] = BAD_LOAD
    return _Work(
        pairs=pairs,
        idle=idle,
        accelerator=pairs.accelerator.copy(),
        wanted_batch=wanted.astype(np.int64),
        batch=batch.astype(np.int64),
        replicas=asked.least.astype(np.int64),
        verdict=verdict,
        need=np.where(idle, 0.0, settings.rules.need(asked)),
        idle_means=Means(np.zeros(rows), np.zeros(rows), np.zeros(rows)),
        rate_max=np.zeros(rows),
        limit=np.zeros(rows),
        binding=np.full(rows, NO_LOAD),
        best_itl=np.zeros(rows),
        best_ttft=np.zeros(rows),
        percentile=asked.percentile.copy(),
        pool=np.ones(rows),
        dispersion=asked.dispersion.copy(),
    )


def _size_idle(work: _Work, settings: OptimizerSettings) -> None:
    """Size the pairs without load: the least replicas, or nothing at all (accelerator -1)."""
    idle = work.idle
    if not idle.any():
        return
    itl, ttft, rate_max = settings.rules.idle(work.pairs, work.batch.astype(np.float64))
    nothing = idle & (work.pairs.asked.least == 0.0)
    columns = (work.idle_means.itl, work.idle_means.ttft, work.rate_max)
    for column, found in zip(columns, (itl, ttft, rate_max), strict=True):
        column[idle] = np.where(nothing, 0.0, found)[idle]
    work.accelerator[nothing] = -1
    work.batch[nothing] = 0


def _size_busy(work: _Work, busy: Rows, settings: OptimizerSettings, cache: SizingCache) -> None:
    """Size the pairs with load: highest rate of a replica, and replicas."""
    rules = settings.rules
    _split_bursts(work, busy, settings, cache)
    columns = _replica_columns(work, settings).take(busy)
    targets = _targets(work, busy, columns, settings)
    shared = np.where(work.pairs.asked.pooled[busy] > 0.0, work.need[busy], 0.0)
    search = _Search(columns, targets, shared, cache, settings)
    limits = search.limits(work.percentile[busy])
    lower = _lower_percentiles(limits, work.percentile[busy], server=work.pairs.server[busy])
    if lower is not None:
        work.percentile[busy] = lower
        limits = search.limits(lower)
    _pool(work, busy, limits, search)
    rate = limits[:, 0].copy()
    work.best_itl[busy], work.best_ttft[busy] = limits[:, 1], limits[:, 2]
    work.limit[busy] = np.nan_to_num(rate)
    work.verdict[busy] = _verdicts(limits, targets, invalid=rules.invalid(columns))
    work.binding[busy] = limits[:, 3].astype(np.int64)
    good = work.verdict[busy] == GOOD
    if rules.counted_rate is not None:
        for rows in blocks(columns.max_batch):
            model = make_model(columns.take(rows), share=settings.utilisation_max)
            rate[rows] = rules.counted_rate(model, rate[rows])
    work.rate_max[busy] = np.where(good, rate, 0.0)
    work.replicas[busy] = _replicas(work, busy, settings)
    work.verdict[busy[good & (work.replicas[busy] > settings.replicas_cap)]] = TOO_MANY
    if settings.upper_bounds:
        _keep_within_most(work, busy)


def _keep_within_most(work: _Work, busy: Rows) -> None:
    """Give up the pairs that need more replicas than their server may have, if it has others that
    do not. If it has none, all stay: who asks cuts what it takes. So do those of a server for which
    the others turn out to have no room (front).
    """
    good = work.verdict[busy] == GOOD
    over = work.replicas[busy] > work.pairs.asked.most[busy]
    if not (good & over).any():
        return
    server = work.pairs.server[busy]
    serves = np.isin(server, server[good & ~over])
    work.verdict[busy[good & over & serves]] = TOO_MANY


def _split_bursts(work: _Work, busy: Rows, settings: OptimizerSettings, cache: SizingCache) -> None:
    """Let bursts be smaller where replicas do not share what comes: of them, each replica of n gets
    a part at random, whose dispersion is beyond 1 by an n-th only.

    n is as many as arrivals without bursts would need: the least that there are.
    """
    asked = work.pairs.asked
    rows = busy[(work.dispersion[busy] > 1.0) & (asked.pooled[busy] == 0.0)]
    if not len(rows):
        return
    bursts = work.dispersion[rows] - 1.0
    work.dispersion[rows] = 1.0
    columns = _replica_columns(work, settings).take(rows)
    targets = _targets(work, rows, columns, settings)
    search = _Search(columns, targets, np.zeros(len(rows)), cache, settings)
    rate = np.nan_to_num(search.limits(work.percentile[rows])[:, 0])
    needed = np.divide(work.need[rows], rate, out=np.ones(len(rows)), where=rate > 0.0)
    work.dispersion[rows] = 1.0 + bursts / np.maximum(np.ceil(needed), 1.0)


def _pool(work: _Work, busy: Rows, limits: Floats, search: _Search) -> None:
    """Raise *limits* where replicas share what comes: of many, fewer are full while others are not.

    How many share depends on how much each takes. So as many are counted on as each alone would
    need; where these are more than such a pool needs, as many as it needs, if so few suffice then.
    """
    need, percentile = search.shared, work.percentile[busy]
    pool = search.next_pool(limits[:, 0])
    rows = np.flatnonzero(pool > 1.0)
    if not len(rows):
        return
    pooled = search.take(rows, pool[rows])
    limits[rows] = pooled.limits(percentile[rows])
    fewer = pooled.next_pool(limits[rows, 0])
    some = np.flatnonzero(fewer > 1.0)
    if len(some):
        here, fewer = rows[some], fewer[some]
        lower = search.take(here, fewer).limits(percentile[here])
        better = np.maximum(np.ceil(need[here] / lower[:, 0]), fewer) < pool[here]
        limits[here[better]], pool[here[better]] = lower[better], fewer[better]
    work.pool[busy[rows]] = pool[rows]


def _pool_within(replicas: Floats) -> Floats:
    """Return the largest pool of so many replicas at most that is looked at."""
    pool: Floats = POOLS[np.searchsorted(POOLS, np.maximum(replicas, 1.0), side="right") - 1]
    return pool


@made_quickly
@dataclass(frozen=True, slots=True)
class _Means:
    """Mean latencies of rows: those of *idle* ones, and for *loaded* ones what the estimate expects
    at *rate*. They are found when they are asked for, as most rows nobody asks about.
    """

    idle: Means
    loaded: Bools
    columns: ReplicaColumns
    rate: Floats
    cache: SizingCache

    def __call__(self, rows: Rows) -> Means:
        """Return those of the given rows; 0 of those on which no rate meets the targets."""
        means, here = self.idle(rows), np.flatnonzero(self.loaded[rows])
        some = rows[here]
        found = means_at(self.columns.take(some), self.rate[some], self.cache)
        means.itl[here], means.ttft[here], means.rho[here] = found.itl, found.ttft, found.rho
        return means

    def joined(self, part: _Means, order: Rows, *, columns: ReplicaColumns) -> _Means:
        """Return the rows *order* of it and, behind them, *part*; these have *columns*."""
        return _Means(
            idle=joined(self.idle, part.idle, order),
            loaded=np.concatenate([self.loaded, part.loaded])[order],
            columns=columns,
            rate=np.concatenate([self.rate, part.rate])[order],
            cache=self.cache,
        )


def _replica_columns(work: _Work, settings: OptimizerSettings) -> ReplicaColumns:
    perf, asked = work.pairs.perf, work.pairs.asked
    gamma, reading, host = host_as_reading(perf.sequence, perf.gamma, perf.p)
    return ReplicaColumns(
        perf.alpha,
        perf.beta
        * longer(
            perf.attention,
            in_tokens=asked.in_tokens,
            cached=asked.cached,
            out_tokens=asked.out_tokens,
            token_cv=asked.token_cv,
        ),
        gamma,
        asked.in_tokens + reading,
        np.maximum(asked.out_tokens, 1.0),
        work.batch,
        settings.rules.queue(asked.max_queue),
        np.full(len(work.batch), float(TOKEN_BUDGET)),
        perf.overhead,
        perf.launch,
        perf.p,
        asked.cached + reading,
        asked.token_cv,
        perf.ahead,
        work.pool,
        work.dispersion,
        perf.experts,
        perf.unread,
        host,
    )


def _targets(
    work: _Work, busy: Rows, columns: ReplicaColumns, settings: OptimizerSettings
) -> Targets:
    goal = 1.0 - settings.headroom
    asked = work.pairs.asked
    loss = np.where(np.isfinite(columns.max_queue), settings.loss_max, 0.0)
    return Targets(
        asked.slo_itl[busy] * goal, asked.slo_ttft[busy] * goal, asked.slo_tps[busy], loss
    )


@made_quickly
@dataclass(frozen=True, slots=True)
class _Search:
    """What the highest rates of rows depend on, but for the percentile. shared: what a server needs
    whose replicas share what comes [requests/ms], 0 if they do not.
    """

    columns: ReplicaColumns
    targets: Targets
    shared: Floats
    cache: SizingCache
    settings: OptimizerSettings

    def take(self, rows: Rows, pool: Floats) -> _Search:
        """Return the given rows in pools of so many replicas."""
        columns = replace(self.columns.take(rows), pool=pool)
        return replace(
            self, columns=columns, targets=self.targets.take(rows), shared=self.shared[rows]
        )

    def next_pool(self, rate: Floats) -> Floats:
        """Return the pool that is looked at next of each row, by what a replica takes now: as many
        as are needed alone; or of a pool, as many as it needs, if so few suffice. 1: none.
        """
        own = self.columns.pool
        with np.errstate(divide="ignore", invalid="ignore"):
            needed = np.ceil(self.shared / rate)
        needed = np.where(np.isfinite(needed), needed, 0.0)
        alone = _pool_within(np.minimum(needed, self.columns.max_batch // POOL_BATCH))
        return np.where(own == 1.0, alone, np.where(needed < own, _pool_within(needed), 1.0))

    def limits(self, percentile: Floats) -> Floats:
        """Return the columns of Limits, a line per row, remembered or searched for."""
        limits, new = self._known(percentile)
        if new.any():
            limits[new] = self._find_with_pools(percentile, limits[:, 0], new)
        return limits

    def _known(self, percentile: Floats) -> tuple[Floats, Bools]:
        """Return the limits that are remembered, and of which rows none are."""
        known = self.cache.limits.get(self._keys(percentile))
        limits = np.frombuffer(bytearray(b"".join([entry or NO_LIMITS for entry in known])))
        new = np.array([entry is None for entry in known], dtype=np.bool_)
        return limits.reshape(-1, len(Limits.__slots__)), new

    def _find_with_pools(self, percentile: Floats, rate: Floats, new: Bools) -> Floats:
        """Return the limits of the *new* rows, and remember those of the pools that will be asked
        for next if rates are what they were of replicas that were alike: one search for all costs
        less than three. *rate*: of the other rows.
        """
        asked, rows, pool = self, np.arange(len(rate)), self.columns.pool
        guess = self._guess(percentile)
        parts = [(rows[new], pool[new], guess[new])]
        for _ in range(1 if (pool > 1.0).any() else 2):
            rate = np.where(new, guess, rate)
            likely = [asked.next_pool(rate * np.where(new, near, 1.0)) for near in NEAR]
            some = [(rows[one > 1.0], one[one > 1.0]) for one in likely]
            rows, pool = (np.concatenate(column) for column in zip(*some, strict=True))
            if not len(rows):
                break
            once = np.unique(rows * (POOLS[-1] + 1.0) + pool, return_index=True)[1]
            rows, pool = rows[once], pool[once]
            asked = self.take(rows, pool)
            limits, new = asked._known(percentile[rows])
            rate, guess = limits[:, 0], asked._guess(percentile[rows])
            parts.append((rows[new], pool[new], guess[new]))
        rows, pool, guess = (np.concatenate(some) for some in zip(*parts, strict=True))
        found = self.take(rows, pool)._find(percentile[rows], guess)
        return found[: len(parts[0][0])]

    def _find(self, percentile: Floats, guess: Floats) -> Floats:
        """Return the limits of all rows, looked for near the rates *guess* first."""
        found = self.settings.rules.highest_rates(
            self.columns,
            self.targets,
            percentile=percentile,
            utilisation_max=self.settings.utilisation_max,
            guess=guess,
        )
        near = found.rate / _rough_rate(self.columns, self.targets)
        self.cache.near.put(self._alike(percentile), near.tolist())
        limits = found.rows()
        self.cache.limits.put(self._keys(percentile), [row.tobytes() for row in limits])
        return limits

    def _guess(self, percentile: Floats) -> Floats:
        """Return about the highest rates by those of replicas that were alike; nan if there were
        none.
        """
        near = [one or np.nan for one in self.cache.near.get(self._alike(percentile))]
        return np.array(near, dtype=np.float64) * _rough_rate(self.columns, self.targets)

    def _alike(self, percentile: Floats) -> list[bytes]:
        """Return one key per row from what stays while tokens move."""
        columns, targets = self.columns, self.targets
        parts = [columns.alpha, columns.beta, columns.gamma, columns.overhead, columns.pool]
        parts += [columns.dispersion]
        parts += [targets.itl, targets.ttft, targets.tps, targets.loss, percentile]
        return row_keys(self.settings.rules.name, parts)

    def _keys(self, percentile: Floats) -> list[bytes]:
        """Return one key per row from all that its highest rate depends on."""
        targets, share = self.targets, np.full_like(percentile, self.settings.utilisation_max)
        parts = self.columns.parts
        parts += [targets.itl, targets.ttft, targets.tps, targets.loss, share, percentile]
        return row_keys(self.settings.rules.name, parts)


def _rough_rate(columns: ReplicaColumns, targets: Targets) -> Floats:
    """Return about what the largest batch serves that keeps to the target of ITL [requests/ms]: how
    far it is off changes little with tokens.
    """
    new = np.maximum(columns.in_tokens - columns.cached, 0.0)
    prefill = columns.beta * new + columns.gamma * columns.in_tokens
    context = columns.in_tokens + 0.5 * columns.out_tokens
    # A request adds a token to each iteration, and its prefill to one of them.
    each = columns.beta + columns.gamma * context + columns.host + prefill / columns.out_tokens
    each = np.maximum(each, 1e-9)
    itl = np.where(targets.itl > 0.0, targets.itl, np.inf)
    room = np.minimum(itl - columns.alpha, columns.max_batch * each)
    batch = np.maximum(room / each, 1.0)
    rate: Floats = batch / (columns.out_tokens * np.maximum(columns.alpha + batch * each, 1e-9))
    return rate


def _lower_percentiles(limits: Floats, percentile: Floats, *, server: Ints) -> Floats | None:
    """Return the percentiles to size for where the one that is asked for is out of reach; None if
    it is not.

    A server that no accelerator serves so well is sized for so much less than an empty replica
    attains that it does not take all GPUs: to leave it as it is, whatever its load, would be worse.
    """
    rate, best = limits[:, 0], limits[:, 4]
    served = np.zeros(int(server.max()) + 1, dtype=np.bool_)
    served[server[~np.isnan(rate)]] = True
    short = ~served[server] & (best >= SHARE_LEAST) & (best < percentile)
    return np.where(short, best * percentile**2, percentile) if short.any() else None


def _verdicts(limits: Floats, targets: Targets, *, invalid: Bools) -> Ints:
    """Return why the rows without a rate have none."""
    rate, best_itl, best_ttft, _, _ = limits.T
    itl = (targets.itl > 0.0) & (best_itl > targets.itl * (1.0 + TOLERANCE))
    ttft = (targets.ttft > 0.0) & (best_ttft > targets.ttft * (1.0 + TOLERANCE))
    verdict: Ints = np.select(
        [invalid, ~np.isnan(rate), itl, ttft],
        [ONE_STATE, GOOD, ITL_SHORT, TTFT_SHORT],
        TARGET_SHORT,
    )
    return verdict


def _replicas(work: _Work, busy: Rows, settings: OptimizerSettings) -> Ints:
    """Return how many replicas take the load."""
    asked, need = work.pairs.asked, work.need[busy]
    rate_max = np.where(work.rate_max[busy] > 0.0, work.rate_max[busy], np.inf)
    here = asked.accelerator[busy] == work.accelerator[busy]
    counted = settings.rules.count_replicas(
        share=need / rate_max,
        least=np.maximum(asked.least[busy], work.pool[busy]),
        now=np.where(here, asked.replicas[busy], 0.0),
        settings=settings,
    )
    return counted.astype(np.int64)


def _score(table: CandidateTable, settings: OptimizerSettings) -> Floats:
    """Return what a solver makes least: value or cost; with hysteresis, a move to another
    accelerator has to save more.
    """
    score = table.value if settings.objective == "value" else table.cost
    if settings.hysteresis == 0.0:
        return score
    asked = table.asked
    moved = (
        (asked.accelerator >= 0) & (asked.replicas > 0.0) & (asked.accelerator != table.accelerator)
    )
    return score + np.where(moved, settings.hysteresis * asked.cost, 0.0)
