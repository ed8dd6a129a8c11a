"""The batch worth allowing, the smallest with near-peak throughput under the targets, and what is
then expected. Pure.

A larger batch than that serves hardly more, and lets a burst slow everybody down; a smaller one
makes requests wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loop.optimizer.cache import SizingCache, row_keys
from loop.optimizer.means import means_at
from loop.optimizer.model import Bools, Floats, Ints
from loop.optimizer.model.queueing import ReplicaColumns
from loop.optimizer.model.rates import tail_blocks
from loop.optimizer.model.steady import full_batch_rate
from loop.optimizer.model.tail import make_tail
from loop.optimizer.model.within import latencies_at, looked, make_goals, shares_within
from loop.optimizer.table import Means, Tuned
from loop.replacing import replace

if TYPE_CHECKING:
    from loop.optimizer.cache import SizingCache
    from loop.optimizer.model import Rows
    from loop.optimizer.model.within import Looked
    from loop.optimizer.rules import OptimizerSettings
    from loop.optimizer.table import CandidateTable

ROUGH = 32  # a batch is as good as one that is larger by so small a part
TRIED = 8  # batches tried at once
ROUNDS_MAX = 8
KEEP = 1.5  # the present batch stays while it is at most so many times the smallest


def tune(
    table: CandidateTable,
    rows: Rows,
    replicas: Ints,
    settings: OptimizerSettings,
    *,
    cache: SizingCache,
) -> Tuned:
    """Return the batch for *replicas* of each row; a batch that the server's data fix, or without
    load, stays.
    """
    columns = table.columns.take(rows)
    batch = columns.max_batch.copy()
    each = table.need[rows] / np.maximum(replicas, 1)
    free = (
        (table.limit[rows] > 0.0)
        & (table.asked.max_batch[rows] == 0.0)
        & (each <= table.rate_max[rows])
    )
    free &= settings.near_peak > 0.0
    here = np.flatnonzero(free)
    if len(here):
        least = _remembered_least(
            table,
            rows[here],
            np.maximum(each, settings.near_peak * table.rate_max[rows])[here],
            settings,
            cache,
        )
        now = table.asked.batch_now[rows[here]].astype(np.int64)
        same = table.asked.accelerator[rows[here]] == table.accelerator[rows[here]]
        keep = (
            same
            & (now >= least)
            & (now <= np.minimum(batch[here], KEEP * least))
            & (settings.hysteresis > 0.0)
        )
        batch[here] = np.where(keep, now, least)
    itl, ttft, rho = np.zeros((3, len(rows)))
    itl_tail, ttft_tail = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    idle, loaded = (np.flatnonzero((table.limit[rows] > 0.0) == some) for some in (False, True))
    means = table.means(rows[idle])
    itl[idle], ttft[idle], rho[idle] = means.itl, means.ttft, means.rho
    columns = replace(columns, max_batch=batch)
    found = means_at(columns.take(loaded), each[loaded], cache)
    itl[loaded], ttft[loaded], rho[loaded] = found.itl, found.ttft, found.rho
    itl_tail[loaded], ttft_tail[loaded] = _at_percentile(
        columns.take(loaded),
        each[loaded],
        table.percentile[rows[loaded]],
        near=(itl[loaded], ttft[loaded]),
        cache=cache,
    )
    return Tuned(batch, Means(itl, ttft, rho), itl_tail, ttft_tail)


def _at_percentile(
    columns: ReplicaColumns,
    rate: Floats,
    percentile: Floats,
    *,
    near: tuple[Floats, Floats],
    cache: SizingCache,
) -> tuple[Floats, Floats]:
    """Return ITL and TTFT at *percentile* of each row, remembered or searched for *near* these."""
    # Where to look need not be known well; and then it is the same for all rows of nearly so much.
    itl, ttft = (np.exp2(np.round(2.0 * np.log2(np.clip(mean, 1e-9, 1e9))) / 2.0) for mean in near)
    keys = row_keys("", [*columns.parts, rate, percentile, itl, ttft])
    known = cache.latencies.get(keys)
    found = np.array([one or (0.0, 0.0) for one in known]).reshape(-1, 2)
    new = np.array([k for k, one in enumerate(known) if one is None], dtype=np.intp)
    for part in tail_blocks(columns.max_batch[new]):
        rows = new[part]
        among = _looked(columns.take(rows), (itl[rows], ttft[rows]), cache)
        found[rows] = np.stack(latencies_at(among, rate[rows], percentile[rows]), axis=1)
    cache.latencies.put([keys[k] for k in new], [(a, b) for a, b in found[new].tolist()])
    return found[:, 0], found[:, 1]


def _looked(columns: ReplicaColumns, near: tuple[Floats, Floats], cache: SizingCache) -> Looked:
    """Return what is looked at *near* these means; of a row alone it is remembered, for mostly a
    rate is all that has changed then.
    """
    if len(columns) > 1:
        return looked(make_tail(columns), near=near)
    keys = row_keys("", [*columns.parts, *near])
    (known,) = cache.looked.get(keys)
    found = known or looked(make_tail(columns), near=near)
    if known is None:
        cache.looked.put(keys, [found])
    return found


def _remembered_least(
    table: CandidateTable,
    rows: Rows,
    rate: Floats,
    settings: OptimizerSettings,
    cache: SizingCache,
) -> Ints:
    """Return the smallest batch of each row, remembered or searched for."""
    asked, columns = table.asked.take(rows), table.columns.take(rows)
    goal = np.full(len(rows), 1.0 - settings.headroom)
    bounds = (settings.utilisation_max, settings.loss_max)
    parts = [*columns.parts, rate, goal, asked.slo_ttft, asked.slo_itl, table.percentile[rows]]
    keys = row_keys("", parts + [np.full(len(rows), bound) for bound in bounds])
    known = cache.batches.get(keys)
    found = np.array([one or 0 for one in known], dtype=np.int64)
    new = np.flatnonzero(found == 0)
    if len(new):
        found[new] = _least(table, rows[new], rate[new], settings)
        cache.batches.put([keys[k] for k in new], found[new].tolist())
    return found


def _least(table: CandidateTable, rows: Rows, rate: Floats, settings: OptimizerSettings) -> Ints:
    """Return the smallest batch with which each row still serves *rate* within its targets, to one
    part in ROUGH; the largest where not even that does.
    """
    high = table.columns.max_batch[rows].copy()
    low = np.zeros_like(high)
    for _ in range(ROUNDS_MAX):
        open_ = np.flatnonzero(high - low > np.maximum(high // ROUGH, 1))
        if not len(open_):
            break
        way = np.arange(1, TRIED + 1) / (TRIED + 1.0)
        tried = low[open_, None] + np.ceil((high - low)[open_, None] * way).astype(np.int64)
        tried = np.minimum(tried, high[open_, None])
        fits = _fits(table, np.repeat(rows[open_], TRIED), tried.ravel(), rate[open_], settings)
        fits = fits.reshape(tried.shape)
        # What lies below the first that fits does not.
        first = np.where(fits.any(axis=1), fits.argmax(axis=1), TRIED)
        ends = np.concatenate([low[open_, None], tried, high[open_, None]], axis=1)
        here = np.arange(len(open_))
        low[open_], high[open_] = ends[here, first], ends[here, first + 1]
    return high


def _fits(
    table: CandidateTable, rows: Rows, batch: Ints, rate: Floats, settings: OptimizerSettings
) -> Bools:
    """Tell which rows serve the rate within their targets, and with a batch to spare."""
    columns = replace(table.columns.take(rows), max_batch=batch)
    rate, fits = np.repeat(rate, len(rows) // len(rate)), np.zeros(len(rows), dtype=np.bool_)
    goal = 1.0 - settings.headroom
    for part in tail_blocks(batch):
        tail, asked = make_tail(columns.take(part)), table.asked.take(rows[part])
        goals = make_goals(tail, ttft=asked.slo_ttft * goal, itl=asked.slo_itl * goal)
        found = shares_within(tail, rate[part], goals)
        wanted = np.where(
            (asked.slo_ttft > 0.0) | (asked.slo_itl > 0.0), table.percentile[rows[part]], 0.0
        )
        used = rate[part] / full_batch_rate(tail)
        fits[part] = (found.both >= wanted) & (used <= settings.utilisation_max * (1.0 + 1e-9))
        fits[part] &= (found.lost <= settings.loss_max) | np.isinf(columns.max_queue[part])
    return fits
