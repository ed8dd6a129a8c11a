"""The rules of the Go optimizer of today, for answers equal to its own (--compat).

Mistakes are kept too: docs/optimizer.md lists them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from loop.optimizer.model import rates
from loop.optimizer.model.queueing import RATE_MAX_SHARE, analyze, make_model
from loop.optimizer.model.rates import (
    IMPOSSIBLE,
    INSIDE,
    LOWEST,
    STEPS_MAX,
    TOLERANCE,
    UNBOUND,
    Search,
    is_rising,
)
from loop.optimizer.rules.ours import OURS
from loop.optimizer.sizing import MS_PER_MIN
from loop.optimizer.table import Tuned
from loop.types import Load, Why

if TYPE_CHECKING:
    from loop.optimizer.cache import SizingCache
    from loop.optimizer.catalog import Pairs, PerfColumns, ServerColumns
    from loop.optimizer.model import Bools, Floats, Ints, Rows
    from loop.optimizer.model.queueing import Model, ReplicaColumns
    from loop.optimizer.model.rates import Limits, Targets
    from loop.optimizer.rules import OptimizerSettings
    from loop.optimizer.table import CandidateTable, Problem
    from loop.spec import ServerData, SystemData

CLOSE = 1e-8  # relative, in the figure: so near a root has to be for the bisection to be retraced


def in_force(settings: OptimizerSettings) -> OptimizerSettings:
    """Return *settings* without those that the Go optimizer does not know."""
    return replace(
        settings,
        headroom=0.0,
        utilisation_max=RATE_MAX_SHARE,
        loss_max=0.0,
        replicas_cap=sys.maxsize,
        near_peak=0.0,
        hysteresis=0.0,
        upper_bounds=False,
    )


def present_cost(data: SystemData, server: ServerData) -> float:  # noqa: ARG001 the rules' port
    """Return the cost of what *server* has as it is given, 0 if it is not [cents/h]."""
    return server.current.cost_cents_per_h or 0.0


def seen_batch(pairs: Pairs) -> Floats:
    """Return as many tokens as were seen together on an accelerator, in requests of this length."""
    return pairs.batch_by_tokens


def batch(wanted: Floats, pairs: Pairs, settings: OptimizerSettings) -> tuple[Floats, Bools]:  # noqa: ARG001 the rules' port
    """Return *wanted*: the KV cache and the cap are not known."""
    return wanted, np.zeros(len(wanted), dtype=np.bool_)


def queue(max_queue: Floats) -> Floats:
    """Return the bound of a replica's queue [requests] as it is given; at 0 nobody may wait."""
    return max_queue


def perf(given: PerfColumns) -> PerfColumns:
    """Return *given* as the Go optimizer reads it: a sum, and no time outside the engine."""
    none = np.zeros_like(given.alpha)
    return replace(
        given,
        fixed=given.alpha,
        launch=none,
        p=np.ones_like(given.alpha),
        experts=none,
        unread=none,
        attention=none,
        sequence=none,
        overhead=none,
        ahead=none,
    )


def asked(given: ServerColumns) -> ServerColumns:
    """Return all targets as they are given; of a prefix cache, of what a request is to have of the
    KV cache, of how tokens and arrivals vary, and of routers these rules know nothing.
    """
    none = np.zeros_like(given.cached)
    poisson = np.ones_like(given.dispersion)
    return replace(given, cached=none, held=none, token_cv=none, dispersion=poisson, pooled=none)


def need(asked: ServerColumns) -> Floats:
    """Return the rate that the replicas must take together [requests/ms]: that of a TPS target
    alone if there is one, whatever the load.
    """
    by_tps = asked.slo_tps / np.maximum(asked.out_tokens, 1.0) / 1000.0
    return np.where(asked.slo_tps > 0.0, by_tps, asked.rate_rpm / MS_PER_MIN)


def idle(pairs: Pairs, max_batch: Floats) -> tuple[Floats, Floats, Floats]:
    """Return ITL and TTFT [ms] and the highest rate [requests/ms] without load: made of the
    coefficients without regard to tokens.
    """
    perf = pairs.perf
    itl = perf.alpha + perf.beta
    ttft = itl + perf.gamma * max_batch
    span = ttft + perf.alpha + perf.beta * max_batch
    return itl, ttft, np.divide(max_batch, span, out=np.zeros_like(max_batch), where=span > 0.0)


def invalid(columns: ReplicaColumns) -> Bools:
    """Return where the model is refused: one place and no queue make one state."""
    one: Bools = columns.max_batch + columns.max_queue == 1.0
    return one


def counted_rate(model: Model, rate: Floats) -> Floats:
    """Return what is served of *rate*: by that replicas are counted, and so each is offered more
    than the rate that meets the targets.
    """
    return analyze(model, np.where(np.isnan(rate), model.rate_min, rate)).throughput


def count_replicas(
    *,
    share: Floats,
    least: Floats,
    now: Floats,  # noqa: ARG001 the rules' port
    settings: OptimizerSettings,  # noqa: ARG001 the rules' port
) -> Floats:
    """Return the replicas that take the load, without regard to those that there are."""
    return np.maximum(np.ceil(share), least)


def mirrored_ends(low: Floats, high: Floats) -> tuple[Ints, Bools]:
    """Return where each root lies, and whether the ratio rises.

    If the ratio falls, the tests are mirrored, and a target that is always met is called
    infeasible.
    """
    rising = is_rising(low, high)
    met = np.abs(high - 1.0) <= TOLERANCE
    beyond = (low + high == 0.0) | met | np.where(rising, high < 1.0, high > 1.0)
    before = np.where(rising, low > 1.0, low < 1.0)
    lowest = np.abs(low - 1.0) <= TOLERANCE
    verdict = np.where(
        lowest, LOWEST, np.where(beyond, UNBOUND, np.where(before, IMPOSSIBLE, INSIDE))
    )
    return verdict, rising


def step_of_bisection(
    pressure: Callable[[Floats], Floats], model: Model, root: Floats, over: Floats
) -> Floats:
    """Return where a bisection that stops within TOLERANCE of the target would stop: the first of
    its steps whose figure is so near, far from *root* if the figure hardly depends on the rate.

    *over* is ln(ratio) at *root*; with the slope there it tells which rates are within the
    tolerance, so that the steps need no figures of their own.
    """
    near = root * (1.0 + 1e-3)
    slope = np.maximum((np.log(pressure(near)) - over) / (near - root), 1e-300)
    root, reach = root - over / slope, TOLERANCE / slope
    low, high = model.rate_min.copy(), model.rate_max.copy()
    middle = 0.5 * (low + high)
    for _ in range(STEPS_MAX):
        on = np.abs(middle - root) > reach
        if not on.any():
            break
        low, high = (
            np.where(on & (middle < root), middle, low),
            np.where(on & (middle >= root), middle, high),
        )
        middle = np.where(on, 0.5 * (low + high), middle)
    return middle


STEPWISE = Search(name="stepwise", ends=mirrored_ends, close=CLOSE, settle=step_of_bisection)


def first_with_room(problem: Problem, left: Sequence[int], i: int) -> int | None:
    """Return the best option of server *i* that has room for a replica."""
    return next(
        (row for row in problem.options[i] if left[problem.type[row]] >= problem.units[row]), None
    )


def part_values(table: CandidateTable, rows: Rows, replicas: Ints) -> Floats:
    """Return the value of each row with so many replicas: that of the whole, scaled."""
    whole = np.maximum(table.replicas[rows], 1)
    scaled: Floats = table.value[rows] * np.where(replicas > 0, replicas / whole, 1.0)
    return scaled


def tune(
    table: CandidateTable,
    rows: Rows,
    replicas: Ints,  # noqa: ARG001 the rules' port
    settings: OptimizerSettings,  # noqa: ARG001 the rules' port
    *,
    cache: SizingCache,  # noqa: ARG001 the rules' port
) -> Tuned:
    """Return batch and latencies as sized, also where there are fewer replicas than asked for."""
    none = np.full(len(rows), np.nan)
    return Tuned(table.columns.max_batch[rows], table.means(rows), none, none)


def highest_rates(
    columns: ReplicaColumns,
    targets: Targets,
    *,
    percentile: Floats,  # noqa: ARG001 the rules' port
    utilisation_max: float,
    guess: Floats,  # noqa: ARG001 the rules' port
) -> Limits:
    """Return the highest rates at which the means meet the latencies."""
    limits = rates.no_limits(len(columns))
    for rows in rates.blocks(columns.max_batch):
        model = make_model(columns.take(rows), share=utilisation_max)
        limits.set(rows, rates.highest_rates(model, targets.take(rows), search=STEPWISE))
    return limits


GO_TODAY = replace(
    OURS,
    name="go-today",
    in_force=in_force,
    absent_load=Load(rate_rpm=0.0, in_tokens=0.0, out_tokens=0.0),
    present_cost=present_cost,
    seen_batch=seen_batch,
    batch=batch,
    queue=queue,
    perf=perf,
    asked=asked,
    need=need,
    idle=idle,
    invalid=invalid,
    highest_rates=highest_rates,
    counted_rate=counted_rate,
    count_replicas=count_replicas,
    pick_part=first_with_room,
    idle_dropped=Why(
        kind="no-load",
        text="no load and no least number of replicas: dropped where capacity is limited",
    ),
    part_values=part_values,
    tune=tune,
)
