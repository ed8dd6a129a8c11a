"""The batch worth allowing: the smallest max batch with near-peak throughput under the targets.
Pure.

A larger batch than that serves hardly more, and lets a burst slow everybody down; a smaller one
makes requests wait.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from loop.optimizer.model.chain import Floats, Ints, geometric_tail
from loop.optimizer.model.queueing import (
    Metrics,
    Model,
    ReplicaColumns,
    analyze,
    make_model,
    prefill_time,
    prefill_work,
    work_per_iteration,
)
from loop.optimizer.model.rates import blocks
from loop.optimizer.table import Tuned

if TYPE_CHECKING:
    from loop.optimizer.model.chain import Rows
    from loop.optimizer.rules import OptimizerSettings
    from loop.optimizer.table import CandidateTable

# mean waits are held so far below what the target leaves that 95 % of exponential waits fit
WAIT_MARGIN = 3.0
KEEP = 1.5  # the present batch stays while it is at most so many times the smallest


def tune(table: CandidateTable, rows: Rows, replicas: Ints, settings: OptimizerSettings) -> Tuned:
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
        least = _least(
            table,
            rows[here],
            np.maximum(each, settings.near_peak * table.rate_max[rows])[here],
            settings,
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
    itl, ttft, rho = table.itl[rows].copy(), table.ttft[rows].copy(), table.rho[rows].copy()
    changed = np.flatnonzero((batch != columns.max_batch) | (replicas != table.replicas[rows]))
    changed = changed[table.limit[rows[changed]] > 0.0]
    for part in blocks(batch[changed]):
        some = changed[part]
        found = _analyze(columns.take(some), batch[some], each[some])
        itl[some], ttft[some], rho[some] = found.itl, found.ttft, found.rho
    return Tuned(batch, itl, ttft, rho)


def _analyze(columns: ReplicaColumns, batch: Ints, rate: Floats) -> Metrics:
    return analyze(make_model(replace(columns, max_batch=batch)), rate)


def _least(table: CandidateTable, rows: Rows, rate: Floats, settings: OptimizerSettings) -> Ints:
    """Return the smallest batch with which each row still serves *rate* within its targets."""
    least = np.zeros(len(rows), dtype=np.int64)
    for part in blocks(table.columns.max_batch[rows]):
        here = rows[part]
        columns = table.columns.take(here)
        model = make_model(columns, share=settings.utilisation_max)
        itl, ttft, loss, used = figures_by_batch(model, rate[part])
        goal = 1.0 - settings.headroom
        fits = used <= settings.utilisation_max * (1.0 + 1e-9)
        for figure, slo in ((itl, table.asked.slo_itl), (ttft, table.asked.slo_ttft)):
            target = np.where(slo[here] > 0.0, slo[here] * goal, np.inf)
            fits &= figure <= target[:, None]
        fits &= (loss <= settings.loss_max) | np.isinf(columns.max_queue)[:, None]
        fits &= np.arange(1, fits.shape[1] + 1)[None, :] <= columns.max_batch[:, None]
        # If not even the largest fits (a wait within the target on the mean only), it stays.
        least[part] = np.where(fits.any(axis=1), fits.argmax(axis=1) + 1, columns.max_batch)
    return least


def figures_by_batch(model: Model, rate: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return ITL, TTFT with WAIT_MARGIN times the wait, loss, and use of the full batch, for every
    max batch 1..N.

    A chain with a smaller max batch has the same weights up to there, so running sums over the
    states give them all.
    """
    columns, chain = model.columns, model.chain
    logs = np.log(rate)[:, None] * chain.states - chain.log_services
    weights = np.exp(logs - logs.max(axis=1)[:, None])
    batch, last = chain.states[None, 1:], weights[:, 1:]
    below, in_batch = (np.cumsum(sums, axis=1)[:, 1:] for sums in (weights, weights * chain.states))
    # Cells beyond a row's own batch are 0 / 0, and those in overload come out as anything: neither
    # fits.
    with np.errstate(all="ignore"):
        used = rate[:, None] / np.exp(np.diff(chain.log_services, axis=1))
        tail, waits, loss = _tails(model, used)
        tail *= last
        total = below + tail
        loss = loss * last / total
        served = rate[:, None] * (1.0 - loss)
        in_service = (in_batch + batch * tail) / total
        wait = waits * last / (total * served)
        prefill = _prefill(model, in_service)
        itl = (in_service / served - prefill) / columns.out_tokens[:, None]
    ttft = columns.overhead[:, None] + WAIT_MARGIN * wait + prefill + itl
    return itl, ttft, loss, used


def _tails(model: Model, used: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the sums over the waiting states of the weight (that of the full batch is 1) and of
    place times weight, and the weight of the last state.
    """
    if model.chain.kind == "unbounded":
        tail = used / (1.0 - used)
        return tail, tail / (1.0 - used), np.zeros((1, 1))
    queue = np.broadcast_to(model.columns.max_queue[:, None], used.shape)
    # Overload has no tail that could be summed; such cells are refused by their use in any case.
    log_ratio = np.minimum(np.log(used), -1e-12)
    return geometric_tail(log_ratio, queue, rising=np.zeros(used.shape, dtype=np.bool_))


def _prefill(model: Model, in_service: Floats) -> Floats:
    """Return the time of a prefill while so many are in service on the mean, a column per max
    batch.
    """
    alpha = model.columns.alpha[:, None]
    columns = model.columns.as_column()
    if model.chunks is None:
        plain = (
            np.maximum(0.0, alpha + (in_service - 1.0) * model.delta[:, None])
            + model.prefill[:, None]
        )
        chunks = np.ones_like(alpha)
        return _of_the_family(columns, plain, in_service, chunks)
    nearest = np.nan_to_num(np.clip(in_service + 0.5, 1.0, in_service.shape[1])).astype(np.int64)
    chunks = np.take_along_axis(model.chunks, np.maximum(nearest, 1) - 1, axis=1)
    delta = work_per_iteration(columns, chunks)
    plain = chunks * np.maximum(0.0, alpha + (in_service - 1.0) * delta) + prefill_work(
        columns, chunks
    )
    return _of_the_family(columns, plain, in_service, chunks)


def _of_the_family(
    columns: ReplicaColumns, plain: Floats, in_service: Floats, chunks: Floats
) -> Floats:
    """Return *plain*, the prefill by the sum, and that of the roofline in rows that are such."""
    if not columns.curved:
        return plain
    return np.where(columns.p == 1.0, plain, prefill_time(columns, in_service, chunks))
